//! The address of a Redis: `host:port`, `redis://`, `rediss://` or `unix:`.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{Credential, REDIS_PORT, split_host_port};

/// The setting that addresses come from unless stated otherwise.
pub const REDISHOST: &str = "REDISHOST";

/// A Redis: how to reach it, and how to log in.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisAddress {
    /// The setting that names it, for error messages.
    pub setting: &'static str,
    /// How to reach it.
    pub transport: Transport,
    /// Read at each connect. `None` = Redis' `default` user.
    pub username: Option<Credential>,
    /// Read at each connect. `None` = no AUTH is sent.
    pub password: Option<Credential>,
    /// Files for TLS, read at each connect.
    pub tls_files: RedisTlsFiles,
}

/// PEM files for `rediss://`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedisTlsFiles {
    /// The only roots to trust; `None` = Mozilla's and those of `SSL_CERT_FILE`.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain and its key, for a Redis that asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How to reach a Redis.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// TCP, plain or with TLS.
    Tcp {
        /// Name or address.
        host: String,
        /// TCP port.
        port: u16,
        /// `rediss://`.
        tls: bool,
    },
    /// A socket in the file system.
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

    /// Whether it is reached by TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tcp { tls: true, .. })
    }
}

/// Without credentials: this is what logs and `/status` show.
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

    /// Errors never repeat the text: it may hold a password, also where none belongs.
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
            "is no address; write host:port, redis://…, rediss://… or unix:/path, and a password \
             into REDIS_PASSWORD"
        })?;
        if host.is_empty() {
            return Err("names no host; write e.g. localhost:6379".to_owned());
        }
        Ok(Self::tcp(&host, port.unwrap_or(REDIS_PORT)))
    }
}

fn from_url(text: &str) -> Result<RedisAddress, String> {
    let url = url::Url::parse(text).map_err(|error| format!("is no valid URL: {error}"))?;
    let tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        other => return Err(format!("`{other}://` is unknown; write redis:// or rediss://")),
    };
    if !matches!(url.path(), "" | "/" | "/0") {
        return Err("names a database, but Pub/Sub ignores databases; leave it out".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(
            "has a ? or # part; a password with such characters belongs into REDIS_PASSWORD"
                .to_owned(),
        );
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("names no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port().unwrap_or(REDIS_PORT);
    let credential = |text| decoded(text).map(|text| Credential::literal(REDISHOST, text));
    Ok(RedisAddress {
        username: credential(url.username()),
        password: credential(url.password().unwrap_or_default()),
        ..RedisAddress::anonymous(Transport::Tcp { host, port, tls })
    })
}

/// Not as in forms: a + stays a plus, which Azure's keys need.
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
        fn what_is_shown_is_read_again(
            host in "[a-z][a-z0-9.]{0,20}|::1|10\\.0\\.0\\.1",
            port: u16,
            tls: bool,
        ) {
            let transport = Transport::Tcp { host, port, tls };
            let address = RedisAddress::anonymous(transport);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn credentials_of_a_url_are_read_and_never_shown(
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
        fn any_text_is_read_or_explained_and_never_repeated(
            scheme in "|redis://|rediss://|unix:|://",
            text in ".{12,60}",
        ) {
            if let Err(problem) = format!("{scheme}{text}").parse::<RedisAddress>() {
                prop_assert!(!problem.contains(&text), "{}", problem);
            }
        }
    }
}
