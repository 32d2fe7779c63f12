//! Host check: which host names a listener answers under.
//!
//! The owner of `evil.example` can make that name resolve to 127.0.0.1 (DNS rebinding). For the
//! browser, this server is then the page's own origin, so neither the same-origin policy nor
//! [`super::origin`] helps; but the Host header of the request still names `evil.example`.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::Authority},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use tracing::warn;

use super::forwarded;
use crate::{
    config::Config, conn::connection::Connection, log_limit::LogLimit, metrics::Metrics,
    tls::certificates::Certificates,
};

/// Entry of `HOSTS` that allows every name.
const ANY: &str = "*";
/// Characters of a name that logs and answers show; a DNS name has at most 253.
const MAX_SHOWN: usize = 260;

/// Log lines a minute: a peer can cause as many refusals as it likes.
const LINES: u32 = 10;

static REFUSED: LogLimit = LogLimit::new(LINES);

/// The host names that a listener answers under, besides IP addresses and `localhost`.
pub struct Hosts {
    /// Lower-case names; `*` in `*.example.com` stands for exactly one label.
    names: Vec<String>,
    /// The names of the certificate are allowed too: DNS rebinding does not work with them, because
    /// the TLS handshake fails for any other name.
    certificates: Option<Arc<Certificates>>,
    trusted: Vec<IpNet>,
    metrics: Arc<Metrics>,
}

/// Whether a listener checks host names. It does on loopback and with the embedded broker: such a
/// server is for this machine, and only a browser can bring requests from elsewhere. Others do if
/// `HOSTS` is set. `*` in `HOSTS` disables the check.
pub fn are_checked(config: &Config, loopback: bool, embedded: bool) -> bool {
    let allowed = &config.allowed_hosts;
    (loopback || embedded || !allowed.is_empty()) && !allowed.iter().any(|host| host == ANY)
}

/// Lets through requests whose host is an address or a known name, and answers 421 to all others.
/// `None` = no check.
pub fn guard(routes: Router, hosts: Option<Hosts>) -> Router {
    match hosts {
        Some(hosts) => routes.layer(from_fn_with_state(Arc::new(hosts), pass)),
        None => routes,
    }
}

async fn pass(
    State(hosts): State<Arc<Hosts>>,
    Extension(stream): Extension<Arc<Connection>>,
    request: Request,
    next: Next,
) -> Response {
    match hosts.foreign(stream.peer().ip(), request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(name) => hosts.refuse(&name),
    }
}

impl Hosts {
    /// Collects the names of `RTHOST`, of `HOSTS` and of the certificate.
    pub fn new(
        config: &Config,
        certificates: Option<Arc<Certificates>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let names = [config.hosts.as_slice(), &config.allowed_hosts].concat();
        Self { names, certificates, trusted: config.trusted_proxies.clone(), metrics }
    }

    /// Returns the first unknown name in a request. A request without any name passes: browsers
    /// always send one.
    fn foreign(&self, peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        let forwarded = forwarded::forwarded_host(&self.trusted, peer, headers);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let asked = headers.get_all(header::HOST).iter().map(text);
        let asked = asked.chain(uri.authority().map(Authority::to_string));
        // Behind a proxy, Host may be the upstream's name. A name without a dot cannot belong to a
        // page, because public DNS has none. Any other name is checked although the request has an
        // X-Forwarded-Host, because a page can send that header itself.
        let asked = asked.filter(|host| forwarded.is_none() || host.contains('.'));
        asked.chain(forwarded.map(str::to_owned)).find(|host| !host.is_empty() && !self.knows(host))
    }

    fn knows(&self, host: &str) -> bool {
        let Some(name) = name(host) else { return false };
        is_own(&name)
            || self.names.iter().any(|ours| covers(ours, &name))
            || self.certificates.as_ref().is_some_and(|certificates| certificates.covers(&name))
    }

    fn refuse(&self, host: &str) -> Response {
        self.metrics.refusals("host").inc();
        let shown = name(host).unwrap_or_else(|| host.to_owned());
        let shown: String = shown.chars().take(MAX_SHOWN).collect();
        let text = format!(
            "This server does not answer under the name {shown:?}: only under IP addresses, localhost and the names in HOSTS. If the name is right, add it to HOSTS.\n"
        );
        REFUSED.line(move |left_out| {
            warn!(
                left_out,
                "refused a request for the host {shown:?}; to answer under it, add it to HOSTS"
            );
        });
        (StatusCode::MISDIRECTED_REQUEST, text).into_response()
    }
}

/// Returns the host in lower case, without port and trailing dot; `None` if it is not a valid host.
fn name(host: &str) -> Option<String> {
    let host = host.parse::<Authority>().ok().filter(|host| !host.as_str().contains('@'))?;
    let name = host.host().to_ascii_lowercase();
    Some(name.strip_suffix('.').unwrap_or(&name).to_owned())
}

/// Whether DNS cannot make the name another machine's: it is an IP address, or a name that always
/// means the local machine (RFC 6761).
fn is_own(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// Whether an entry of RTHOST or HOSTS matches this host; a wildcard stands for one label, as in
/// certificates.
pub fn covers(ours: &str, host: &str) -> bool {
    match ours.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, parent)| parent == domain),
        None => ours == host,
    }
}
