//! Turns flags and environment variables ([`Settings`]) into a validated [`Config`].
//!
//! All invalid settings are collected and reported together in [`BadSettings`], not one per start.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    thread,
    time::Duration,
};

use ipnet::IpNet;

mod access;
mod credential;
mod dns;
mod files;
mod https;
mod limits;
mod names;
mod origins;
mod parse;
mod redis;
mod redis_address;
mod settings;
mod spelling;
mod timing;
mod tokens;

pub use access::AccessKeys;
pub use credential::Credential;
pub use dns::{CloudflareAccess, Dns, DnsProvider};
pub use https::{Acme, Authority, CertificateFiles, CertificateSource, Challenge, Https};
pub use limits::Limits;
pub use names::secrets;
pub use origins::{AllowedOrigin, Origin};
pub use redis_address::{RedisAddress, RedisTlsFiles, Transport};
pub use settings::{DnsSettings, Settings};
pub use spelling::{Misspelt, misspelt};
pub use timing::Timing;
pub use tokens::{KeyKind, PublicKey, TokenKey, Tokens};

use https::Hosts;
use parse::{Check, boolean, duration, given, path_prefix, patterns, size, split_host_port};

const HTTP_ADDR: &str = ":8080";
/// Default of HTTP_ADDR if RTHOST is set: HTTP-01 challenges, and browsers that are given a host
/// name without a scheme, connect to port 80.
const PUBLIC_HTTP_ADDR: &str = ":80";
const ADMIN_ADDR: &str = "127.0.0.1:8081";
const REDIS_CHANNELS: &str = "*";
const HISTORY: &str = "10000";
const HISTORY_TTL: &str = "10m";
const LAST_TTL: &str = "24h";
const HELLO: &str = "false";
const MAX_PAYLOAD: &str = "256KiB";
const GRACE: &str = "10s";
const LOG_FORMAT: &str = "text";
const LOG_LEVEL: &str = "info";

/// Redis' default port; the embedded broker listens on it too unless another port is set.
pub const REDIS_PORT: u16 = 6379;
/// `HISTORY_TTL` and `HISTORY_BYTES` bound the history as well; more messages of one room than these
/// would only take the memory of others.
const HISTORY_MAX: usize = 10_000;
/// The upper bound allows clients to look back over a day.
const HISTORY_TTL_RANGE: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));
/// The upper bound allows devices that speak once a day or less.
const LAST_TTL_RANGE: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(7 * 24 * 60 * 60));
/// Lanes beyond the number of cores gain nothing, and the queue's bounds are divided evenly among
/// the lanes.
const LANES_MAX: NonZero<usize> = NonZero::new(64).unwrap();
/// In bytes. Smaller than the queue between Redis and the rooms (25 MiB), so that a single message
/// cannot fill the queue.
const MAX_PAYLOAD_MAX: usize = 16 << 20;
/// Container platforms kill a stopping process after a few minutes at most.
const GRACE_MAX: Duration = Duration::from_secs(600);

/// The validated configuration of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address for plain HTTP: it serves the page and the sockets, or redirects to HTTPS if
    /// [`https`](Self::https) is set.
    pub http_addr: ListenAddr,
    /// Listener, port and certificate of HTTPS; `None` = HTTPS is off.
    pub https: Option<Https>,
    /// Address for health and metrics; `None` = they are not served.
    pub admin_addr: Option<ListenAddr>,
    /// Public host names, from `RTHOST`. If there are any, the first is not a wildcard.
    pub hosts: Vec<String>,
    /// Host names that requests may use besides [`hosts`](Self::hosts), from `HOSTS`; `*` = any.
    pub allowed_hosts: Vec<String>,
    /// The Redis or the embedded broker that messages are received from.
    pub source: Source,
    /// The Redis that messages and probes are published to; `None` = the source itself.
    pub publish_host: Option<RedisAddress>,
    /// Channel patterns to subscribe to, as Redis globs: at least one, without duplicates.
    pub channels: Vec<String>,
    /// Maximum number of messages kept in each room's history; 0 keeps none.
    pub history: usize,
    /// Maximum age of a message in a history.
    pub history_ttl: Duration,
    /// Maximum age of the latest message of a room, if it is longer than `history_ttl`.
    pub last_ttl: Duration,
    /// Maximum size of all histories together, in bytes; `None` = depends on the available memory.
    pub history_bytes: Option<usize>,
    /// Folder in which the history is saved, so that it outlives the process.
    pub state_dir: Option<PathBuf>,
    /// Number of tasks among which the fan-out is divided, by room.
    pub lanes: NonZero<usize>,
    /// Folder to serve instead of the built-in page.
    pub assets: Option<PathBuf>,
    /// Prefix of all paths, such as `/rt`; they are served without it as well.
    pub path_prefix: Option<Arc<str>>,
    /// Whether a join emits `hello` to the other sockets in the room.
    pub hello: bool,
    /// How long clients may be slow or silent.
    pub timing: Timing,
    /// How JWTs are verified; `None` = clients may watch without a token.
    pub tokens: Option<Tokens>,
    /// Bearer tokens that may publish on every channel.
    pub publish_tokens: Vec<Secret>,
    /// Maximum size of a payload in bytes.
    pub max_payload: usize,
    /// Origins whose pages may connect, besides the server's own origin.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Origins of pages that may show the built-in page in a frame, besides its own.
    pub frame_ancestors: Vec<AllowedOrigin>,
    /// Proxies whose `X-Forwarded-For` and `X-Forwarded-Host` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Limits on connections, sockets and memory.
    pub limits: Limits,
    /// Time over which the closing of connections is spread when the server drains.
    pub grace: Duration,
    /// Format of the log.
    pub log_format: LogFormat,
    /// The least severe level that is logged.
    pub log_level: tracing::Level,
}

/// The Redis or the embedded broker that messages are received from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The Redis at this address (localhost:6379, with the configured credentials) if one answers
    /// there, else the embedded broker.
    Detect(RedisAddress),
    /// The development broker in this process, on this loopback port (0 = any free one).
    Embedded(u16),
    /// This Redis, whether it answers or not.
    Redis(RedisAddress),
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LogFormat {
    /// One line of text per event, for people.
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenAddr {
    /// Host name or IP address without brackets; `None` = all interfaces.
    pub host: Option<String>,
    /// 0 = any free port.
    pub port: u16,
}

impl ListenAddr {
    /// Whether only this machine can reach the address.
    pub fn is_loopback(&self) -> bool {
        self.host.as_deref().is_some_and(|host| {
            let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
            host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
        })
    }
}

impl From<SocketAddr> for ListenAddr {
    fn from(addr: SocketAddr) -> Self {
        let (ip, port) = (addr.ip(), addr.port());
        Self { host: (!ip.is_unspecified()).then(|| ip.to_string()), port }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_deref() {
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{}:{}", host.unwrap_or_default(), self.port),
        }
    }
}

impl FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = split_host_port(text).map_err(|problem| {
            format!("{problem}; write host:port, or :port for all interfaces, e.g. {HTTP_ADDR}")
        })?;
        let port = port.ok_or_else(|| {
            format!("`{text}` has no port; write host:port, or :port for all interfaces, e.g. {HTTP_ADDR}")
        })?;
        Ok(Self { host: (!host.is_empty()).then_some(host), port })
    }
}

/// A secret text. Its `Debug` output does not contain it, so it cannot get into a log by mistake.
#[derive(Clone, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for code that sends it or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// All invalid settings, each with what to do about it.
#[derive(Debug, PartialEq)]
pub struct BadSettings(Vec<Problem>);

/// An invalid setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The name of the setting's environment variable.
    pub setting: String,
    /// What is wrong with the value, and what to do. It never contains a secret.
    pub problem: String,
}

impl BadSettings {
    /// The problems, in the order in which they were found.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} setting{} wrong:", if count == 1 { " is" } else { "s are" })?;
        let mut problems = self.0.iter();
        problems.try_for_each(|Problem { setting, problem }| write!(f, "\n  {setting}: {problem}"))
    }
}

impl std::error::Error for BadSettings {}

impl Config {
    /// Validates the settings of this process.
    ///
    /// # Errors
    /// Names all invalid settings. A variable that looks like a misspelt setting counts as one of
    /// them if the server would be open without that setting.
    pub fn read(settings: Settings, misspelt: &[Misspelt]) -> Result<Self, BadSettings> {
        let open: Vec<_> =
            misspelt.iter().filter(|name| name.leaves_open).map(Problem::from).collect();
        match Self::try_from(settings) {
            Ok(config) if open.is_empty() => Ok(config),
            Ok(_) => Err(BadSettings(open)),
            Err(BadSettings(wrong)) => Err(BadSettings([wrong, open].concat())),
        }
    }
}

impl TryFrom<Settings> for Config {
    type Error = BadSettings;

    fn try_from(settings: Settings) -> Result<Self, BadSettings> {
        let mut check = Check(Vec::new());
        let hosts = given(settings.rthost.clone())
            .map_or(Some(Hosts::default()), |text| check.take("RTHOST", https::hosts(&text)));
        let is_public = hosts.as_ref().is_none_or(|hosts| !hosts.names.is_empty());
        let default = if is_public { PUBLIC_HTTP_ADDR } else { HTTP_ADDR };
        let http_addr = check.value("HTTP_ADDR", &settings.http_addr, default, str::parse);
        let hosts = hosts.unwrap_or_default();
        let https = https::https(&mut check, &settings, &hosts);
        let allowed_hosts = given(settings.hosts.clone())
            .map_or(Some(Vec::new()), |text| check.take("HOSTS", access::hosts(&text)));
        let limits = limits::limits(&mut check, &settings);
        let timing = timing::timing(&mut check, &settings);
        let AccessKeys { tokens, publish_tokens } = AccessKeys::checked(&mut check, &settings);
        let admin_addr = check.value("ADMIN_ADDR", &settings.admin_addr, ADMIN_ADDR, |text| {
            if text == "off" { Ok(None) } else { text.parse().map(Some) }
        });
        let redis = redis::redis(&mut check, &settings, is_public);
        let channels =
            check.value("REDIS_CHANNELS", &settings.redis_channels, REDIS_CHANNELS, patterns);
        let history = check.value("HISTORY", &settings.history, HISTORY, |text| {
            let count = text.parse().ok().filter(|&count| count <= HISTORY_MAX);
            count.ok_or_else(|| format!("`{text}` is not a whole number from 0 to {HISTORY_MAX}"))
        });
        let history_ttl = check.value("HISTORY_TTL", &settings.history_ttl, HISTORY_TTL, |text| {
            duration(text, HISTORY_TTL_RANGE)
        });
        let last_ttl = check
            .value("LAST_TTL", &settings.last_ttl, LAST_TTL, |text| duration(text, LAST_TTL_RANGE));
        let history_bytes =
            given(settings.history_bytes).and_then(|text| check.take("HISTORY_BYTES", size(&text)));
        let lanes = given(settings.lanes).map_or(Some(cores()), |text| {
            let lanes = text.parse().ok().filter(|&lanes| lanes <= LANES_MAX);
            let problem = || format!("`{text}` is not a whole number from 1 to {LANES_MAX}");
            check.take("LANES", lanes.ok_or_else(problem))
        });
        let state_dir = given(settings.state_dir).map(PathBuf::from);
        let assets = given(settings.assets).map(PathBuf::from);
        if let Some(dir) = assets.as_deref().filter(|dir| !files::is_file(&dir.join("index.html")))
        {
            check.problem(
                "ASSETS",
                format!(
                    "`{}` has no index.html to serve; name a folder that has one",
                    dir.display()
                ),
            );
        }
        let prefix = given(settings.path_prefix)
            .map_or(Some(None), |text| check.take("PATH_PREFIX", path_prefix(&text)));
        let hello = check.value("HELLO", &settings.hello, HELLO, boolean);
        let max_payload = check.value("MAX_PAYLOAD", &settings.max_payload, MAX_PAYLOAD, |text| {
            let fits = |&size: &usize| size <= MAX_PAYLOAD_MAX;
            let size = Some(size(text)?).filter(fits);
            size.ok_or_else(|| format!("`{text}` is too large; write a size up to 16MiB"))
        });
        let allowed_origins = given(settings.allowed_origins).map_or(Some(Vec::new()), |text| {
            check.take("ALLOWED_ORIGINS", origins::origins(&text))
        });
        let frame_ancestors = given(settings.frame_ancestors).map_or(Some(Vec::new()), |text| {
            check.take("FRAME_ANCESTORS", origins::origins(&text))
        });
        let trusted_proxies = given(settings.trusted_proxies).map_or(Some(Vec::new()), |text| {
            check.take("TRUSTED_PROXIES", access::networks(&text))
        });
        let grace = check.value("GRACE", &settings.grace, GRACE, |text| {
            duration(text, (Duration::ZERO, GRACE_MAX))
        });
        let log_format =
            check.value("LOG_FORMAT", &settings.log_format, LOG_FORMAT, |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err(format!("`{text}` is not a log format; write text or json")),
            });
        let log_level = check.value("LOG_LEVEL", &settings.log_level, LOG_LEVEL, |text| {
            text.parse().map_err(|_| {
                format!("`{text}` is not a log level; write error, warn, info, debug or trace")
            })
        });

        let config = (|| {
            let redis = redis?;
            Some(Self {
                http_addr: http_addr?,
                https,
                admin_addr: admin_addr?,
                hosts: hosts.names,
                allowed_hosts: allowed_hosts?,
                source: redis.source,
                publish_host: redis.publish_host,
                channels: channels?,
                history: history?,
                history_ttl: history_ttl?,
                last_ttl: last_ttl?,
                history_bytes,
                state_dir,
                lanes: lanes?,
                assets,
                path_prefix: prefix?,
                hello: hello?,
                timing: timing?,
                tokens,
                publish_tokens,
                max_payload: max_payload?,
                allowed_origins: allowed_origins?,
                frame_ancestors: frame_ancestors?,
                trusted_proxies: trusted_proxies?,
                limits: limits?,
                grace: grace?,
                log_format: log_format?,
                log_level: log_level?,
            })
        })();
        match config {
            Some(config) if check.0.is_empty() => Ok(config),
            _ => Err(BadSettings(check.0)),
        }
    }
}

/// Default of LANES: the cores that this process may use, which a container may limit.
fn cores() -> NonZero<usize> {
    thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN).min(LANES_MAX)
}

#[cfg(test)]
mod tests;
