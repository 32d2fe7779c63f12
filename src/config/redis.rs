//! The settings of Redis: the server to subscribe to, the one to publish to, and the credentials.

use std::path::PathBuf;

use super::{
    REDIS_PORT, RedisAddress, RedisTlsFiles, Settings, Source, credential, given, parse::Check,
};

const PUBLISH_HOST: &str = "REDIS_PUBLISH_HOST";

/// The validated settings of Redis.
pub struct Redis {
    /// The Redis or the embedded broker to subscribe to.
    pub source: Source,
    /// The Redis to publish to, if it is another one.
    pub publish_host: Option<RedisAddress>,
}

/// Validates the settings of Redis; `None` if one of them is invalid, which `check` notes. If the
/// server is `public` (`RTHOST` is set), the embedded broker is not chosen by default.
pub fn redis(check: &mut Check, settings: &Settings, public: bool) -> Option<Redis> {
    let username = credential::literal(
        check,
        "REDIS_USERNAME",
        settings.redis_username.clone(),
        settings.redis_username_file.clone(),
    );
    let password = credential::literal(
        check,
        "REDIS_PASSWORD",
        settings.redis_password.clone(),
        settings.redis_password_file.clone(),
    );
    let tls_files = tls_files(check, settings);
    let redishost = given(settings.redishost.clone());
    // REDIS_PUBLISH_HOST names a second Redis, so the default is never the development broker.
    let only_redis = public || given(settings.redis_publish_host.clone()).is_some();
    let source = check.take("REDISHOST", source(redishost.as_deref(), only_redis));
    let publish_host = match given(settings.redis_publish_host.clone()) {
        Some(text) => Some(check.take(PUBLISH_HOST, text.parse::<RedisAddress>())?),
        None => None,
    };
    let is_embedded = matches!(source, Some(Source::Embedded(_)));
    if publish_host.is_some() && is_embedded {
        let problem = "cannot be used with the embedded broker; unset it".to_owned();
        check.problem(PUBLISH_HOST, problem);
    }
    let tls = |address: &RedisAddress| address.is_tls();
    let uses_tls = source.as_ref().and_then(Source::address).is_some_and(tls)
        || publish_host.as_ref().is_some_and(tls);
    if tls_files != RedisTlsFiles::default() && !uses_tls {
        let problem = "has no effect without TLS; write REDISHOST=rediss://host:port".to_owned();
        check.problem(if tls_files.ca.is_some() { "REDIS_CA" } else { "REDIS_CERT" }, problem);
    }
    let source = source?.map(|address| RedisAddress {
        username: username.clone().or(address.username),
        password: password.clone().or(address.password),
        tls_files: tls_files.clone(),
        ..address
    });
    let publish_host = publish_host.map(|address| RedisAddress {
        setting: PUBLISH_HOST,
        // The credentials in its own URL take precedence: it may have another user.
        username: address.username.or(username),
        password: address.password.or(password),
        tls_files,
        transport: address.transport,
    });
    Some(Redis { source, publish_host })
}

fn tls_files(check: &mut Check, settings: &Settings) -> RedisTlsFiles {
    let file = |text: &Option<String>| given(text.clone()).map(PathBuf::from);
    let client = match (file(&settings.redis_cert), file(&settings.redis_key)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            check.problem("REDIS_KEY", "is unset, but REDIS_CERT is set; set both".to_owned());
            None
        }
        (None, Some(_)) => {
            check.problem("REDIS_CERT", "is unset, but REDIS_KEY is set; set both".to_owned());
            None
        }
    };
    RedisTlsFiles { ca: file(&settings.redis_ca), client }
}

fn source(redishost: Option<&str>, only_redis: bool) -> Result<Source, String> {
    match redishost {
        None if only_redis => Ok(Source::Redis(RedisAddress::default())),
        None => Ok(Source::Detect(RedisAddress::default())),
        Some("embedded") => Ok(Source::Embedded(REDIS_PORT)),
        Some(text) => match text.strip_prefix("embedded:") {
            Some(port) => port.parse().map(Source::Embedded).map_err(|_| {
                format!("`{port}` is not a port; write embedded or embedded:{REDIS_PORT}")
            }),
            None => text.parse().map(Source::Redis),
        },
    }
}

impl Source {
    /// The address of the Redis; `None` for the embedded broker.
    fn address(&self) -> Option<&RedisAddress> {
        match self {
            Self::Detect(address) | Self::Redis(address) => Some(address),
            Self::Embedded(_) => None,
        }
    }

    fn map(self, change: impl FnOnce(RedisAddress) -> RedisAddress) -> Self {
        match self {
            Self::Detect(address) => Self::Detect(change(address)),
            Self::Redis(address) => Self::Redis(change(address)),
            embedded @ Self::Embedded(_) => embedded,
        }
    }
}
