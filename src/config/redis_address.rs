//! The address of a Redis: `host:port`, `redis://`, `rediss://` or `unix:`.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{Credential, REDIS_PORT, split_host_port};

/// The setting that most addresses come from: the default of [`RedisAddress::setting`].
pub const REDISHOST: &str = "REDISHOST";

/// How to connect to a Redis and how to log in.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisAddress {
    /// The setting that names this Redis, for error messages.
    pub setting: &'static str,
    /// How to connect.
    pub transport: Transport,
    /// User name for AUTH, read at each connect. `None` = Redis' `default` user.
    pub username: Option<Credential>,
    /// Password for AUTH, read at each connect. `None` = no AUTH is sent.
    pub password: Option<Credential>,
    /// Files for TLS, read at each connect.
    pub tls_files: RedisTlsFiles,
}

/// PEM files for TLS (`rediss://`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedisTlsFiles {
    /// The only roots to trust; `None` = Mozilla's and those of `SSL_CERT_FILE`.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain and its private key, for a Redis that asks for a certificate.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How to connect to a Redis.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// TCP, plain or with TLS.
    Tcp {
        /// Host name or IP address; IPv6 without brackets.
        host: String,
        /// TCP port.
        port: u16,
        /// Whether TLS is used (`rediss://`).
        tls: bool,
    },
    /// The path of a Unix domain socket.
    Unix(PathBuf),
}

impl Default for RedisAddress {
    fn default() -> Self {
        Self::tcp("localhost", REDIS_PORT)
    }
}

impl RedisAddress {
    /// A plain TCP address without credentials.
    pub fn tcp(host: &str, port: u16) -> Self {
        Self::anonymous(Transport::Tcp { host: host.to_owned(), port, tls: false })
    }

    fn anonymous(transport: Transport) -> Self {
        let (username, password, tls_files) = Default::default();
        Self { setting: REDISHOST, transport, username, password, tls_files }
    }

    /// Whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tcp { tls: true, .. })
    }
}

/// Shows the address without credentials, as in logs and `/status`.
impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Tcp { host, port, tls } => {
                let scheme = if *tls { "rediss://" } else { "" };
                if host.contains(':') {
                    write!(f, "{scheme}[{host}]:{port}")
                } else {
                    write!(f, "{scheme}{host}:{port}")
                }
            }
            Transport::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for RedisAddress {
    type Err = String;

    /// Errors never repeat the text, since it may hold a password, even in a wrong place.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            if path.as_os_str().is_empty() {
                return Err("names no socket; write unix:/path/to/redis.sock".to_owned());
            }
            return Ok(Self::anonymous(Transport::Unix(path)));
        }
        if text.contains("://") {
            return from_url(text);
        }
        let (host, port) = split_host_port(text).map_err(|_| {
            "is not an address; write host:port, redis://…, rediss://… or unix:/path, and set a \
             password as REDIS_PASSWORD"
        })?;
        if host.is_empty() {
            return Err("names no host; write e.g. localhost:6379".to_owned());
        }
        Ok(Self::tcp(&host, port.unwrap_or(REDIS_PORT)))
    }
}

fn from_url(text: &str) -> Result<RedisAddress, String> {
    let url = url::Url::parse(text).map_err(|error| format!("is not a valid URL: {error}"))?;
    let tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        other => return Err(format!("`{other}://` is unknown; write redis:// or rediss://")),
    };
    if !matches!(url.path(), "" | "/" | "/0") {
        return Err("names a database, but Pub/Sub ignores databases; remove it".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(
            "has a ? or # part; set a password with such characters as REDIS_PASSWORD".to_owned()
        );
    }
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or("names no host; write e.g. redis://localhost:6379")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port().unwrap_or(REDIS_PORT);
    let credential = |text| decoded(text).map(|text| Credential::literal(REDISHOST, text));
    Ok(RedisAddress {
        username: credential(url.username()),
        password: credential(url.password().unwrap_or_default()),
        ..RedisAddress::anonymous(Transport::Tcp { host, port, tls })
    })
}

/// Percent-decodes a part of a URL. Unlike in forms, `+` is not a space: Azure's keys contain it.
fn decoded(part: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8_lossy();
    (!text.is_empty()).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Secret;

    proptest! {
        #[test]
        fn a_displayed_address_parses_to_the_same_address(
            host in "[a-z][a-z0-9.]{0,20}|::1|10\\.0\\.0\\.1",
            port: u16,
            tls: bool,
        ) {
            let transport = Transport::Tcp { host, port, tls };
            let address = RedisAddress::anonymous(transport);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn credentials_in_a_url_are_parsed_and_never_displayed(
            user in "[a-z]{1,9}",
            password in "[!-~]{12,40}",
        ) {
            use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
            let encoded = utf8_percent_encode(&password, NON_ALPHANUMERIC);
            let url = format!("rediss://{user}:{encoded}@cache:6380");
            let address: RedisAddress = url.parse().map_err(TestCaseError::fail)?;
            let read = |credential: &Option<Credential>| {
                credential.as_ref().and_then(|credential| credential.read().ok())
            };
            prop_assert_eq!(read(&address.username), Some(Secret::from(user)));
            prop_assert_eq!(read(&address.password), Some(Secret::from(password.clone())));
            let shown = format!("{address} {:?}", address.password);
            prop_assert!(!shown.contains(&password));
        }

        #[test]
        fn errors_never_repeat_the_text_that_does_not_parse(
            scheme in "|redis://|rediss://|unix:|://",
            text in ".{12,60}",
        ) {
            if let Err(problem) = format!("{scheme}{text}").parse::<RedisAddress>() {
                prop_assert!(!problem.contains(&text), "{}", problem);
            }
        }
    }
}
