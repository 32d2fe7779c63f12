//! A summary of what clients may do and where the server can be reached, for the banner, the log
//! and `doctor`.

use std::fmt;

use roomcast::config::{Config, ListenAddr};

/// What clients of a server need for watching and publishing, and where the server can be reached.
pub struct Access {
    /// What a client needs to watch: `everyone` or a JWT.
    pub watch: &'static str,
    /// What a client needs to publish over HTTP, or `off`.
    pub publish: &'static str,
    /// The listening address, and whether other machines can reach it.
    pub at: String,
    /// The host names that requests may use.
    pub hosts: String,
}

impl Access {
    /// The summary of a server that listens at `at`. `checks_hosts` says whether requests may use
    /// known host names only.
    pub fn new(config: &Config, at: &ListenAddr, checks_hosts: bool) -> Self {
        let watch = if config.tokens.is_some() { "JWT required" } else { "everyone" };
        let publish = match (config.publish_tokens.is_empty(), &config.tokens) {
            (true, None) => "off",
            (false, None) => "PUBLISH_TOKEN",
            (true, Some(_)) => "JWT",
            (false, Some(_)) => "PUBLISH_TOKEN or JWT",
        };
        Self { watch, publish, at: reach(at), hosts: hosts(config, checks_hosts) }
    }
}

fn reach(at: &ListenAddr) -> String {
    if at.is_loopback() {
        return format!("{at}, from this machine only");
    }
    match at.host.as_deref() {
        None | Some("0.0.0.0" | "::") => format!("port {} of all interfaces", at.port),
        Some(_) => at.to_string(),
    }
}

fn hosts(config: &Config, checked: bool) -> String {
    if !checked {
        return "any host name".to_owned();
    }
    let names = config.hosts.iter().chain(&config.allowed_hosts).map(String::as_str);
    let names: Vec<_> = ["localhost"].into_iter().chain(names).collect();
    format!("{} and addresses", names.join(", "))
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { watch, publish, at, hosts } = self;
        write!(f, "watch: {watch}; publish over HTTP: {publish}; at {at}; under {hosts}")
    }
}
