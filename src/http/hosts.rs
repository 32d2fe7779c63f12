//! Which host names a listener answers under.
//!
//! A page of `evil.example` may have its name lead to 127.0.0.1 (DNS rebinding). To a browser, our
//! answers are then that page's own, so neither its same-origin policy nor [`super::origin`] helps;
//! but the request still names `evil.example`.

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
    config::Config, conn::stream::Control, log_limit::LogLimit, metrics::Metrics,
    tls::certificates::Certificates,
};

/// Stands for every name.
const ANY: &str = "*";
/// Characters of a name that are shown: a name in DNS has 253.
const MAX_SHOWN: usize = 260;

/// Log lines a minute: a peer chooses what it sends.
const LINES: u32 = 10;

static REFUSED: LogLimit = LogLimit::new(LINES);

/// The names that a listener answers under, besides addresses and `localhost`.
pub struct Hosts {
    /// In small letters; `*.example.com` stands for one label.
    names: Vec<String>,
    /// Those of the certificate too: a page of another name gets no connection by TLS.
    certificates: Option<Arc<Certificates>>,
    trusted: Vec<IpNet>,
    metrics: Arc<Metrics>,
}

/// Whether a listener answers under known names alone. On loopback and with the embedded broker it
/// does: such a server is for this machine, and only a browser can bring requests from elsewhere.
/// Other listeners do so where `HOSTS` is set.
pub fn are_checked(config: &Config, loopback: bool, embedded: bool) -> bool {
    let allowed = &config.allowed_hosts;
    (loopback || embedded || !allowed.is_empty()) && !allowed.iter().any(|host| host == ANY)
}

/// Lets through what names an address or a known host, and refuses the rest with words.
pub fn guard(routes: Router, hosts: Option<Hosts>) -> Router {
    match hosts {
        Some(hosts) => routes.layer(from_fn_with_state(Arc::new(hosts), pass)),
        None => routes,
    }
}

async fn pass(
    State(hosts): State<Arc<Hosts>>,
    Extension(stream): Extension<Arc<Control>>,
    request: Request,
    next: Next,
) -> Response {
    match hosts.foreign(stream.peer().ip(), request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(name) => hosts.refuse(&name),
    }
}

impl Hosts {
    /// As the settings say, and the certificate.
    pub fn new(
        config: &Config,
        certificates: Option<Arc<Certificates>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let names = [config.hosts.as_slice(), &config.allowed_hosts].concat();
        Self { names, certificates, trusted: config.trusted_proxies.clone(), metrics }
    }

    /// The first name in a request that is none of ours. Without any name, no browser has sent it.
    fn foreign(&self, peer: IpAddr, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        let forwarded = forwarded::forwarded_host(&self.trusted, peer, headers);
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let asked = headers.get_all(header::HOST).iter().map(text);
        let asked = asked.chain(uri.authority().map(Authority::to_string));
        // A proxy may ask for its upstream's name. One without a dot is no page's: no public DNS
        // has it. Any other one counts, as a page can send X-Forwarded-Host too.
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
            "This server does not answer under the name {shown:?}, but under addresses, localhost and the names in HOSTS. Add it there if it is yours.\n"
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

/// The host in small letters, without its port and without the dot at its end.
fn name(host: &str) -> Option<String> {
    let host = host.parse::<Authority>().ok().filter(|host| !host.as_str().contains('@'))?;
    let name = host.host().to_ascii_lowercase();
    Some(name.strip_suffix('.').unwrap_or(&name).to_owned())
}

/// Whether no name server can make it another machine's: an address, or a name of this machine
/// (RFC 6761).
fn is_own(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

/// Whether a host of RTHOST or HOSTS is this one; a wildcard stands for one label, as in
/// certificates.
pub fn covers(ours: &str, host: &str) -> bool {
    match ours.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, parent)| parent == domain),
        None => ours == host,
    }
}
