//! Which pages may connect: our own, those that `ALLOWED_ORIGINS` names, and whoever is no page.
//!
//! Browsers hold WebSockets to no policy of their own, and say in the header `Origin` whose page
//! asks. So this is checked here for all transports alike; the CORS headers follow.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tracing::warn;

use super::{forwarded, hosts::covers};
use crate::{
    config::{AllowedOrigin, Config, Origin},
    conn::stream::Control,
    log_limit::LogLimit,
    metrics::Counter,
};

/// For how long a browser may remember that it may ask; Chromium's longest.
const PREFLIGHT_AGE: Duration = Duration::from_secs(2 * 60 * 60);
/// What an address without a port means.
const HTTPS_PORT: u16 = 443;
/// Refused origins that are remembered, so that each is logged once; strangers choose what they send.
const MAX_TOLD: usize = 100;
/// Lines a minute about others.
const LINES: u32 = 10;
/// Bytes of an origin: a name in DNS has 253. A longer one is none.
const MAX_ORIGIN: usize = 300;

static REFUSED: LogLimit = LogLimit::new(LINES);

/// Who decides.
pub struct Gate {
    allowed: Vec<AllowedOrigin>,
    hosts: Vec<String>,
    /// At which those are served.
    public_port: u16,
    trusted: Vec<IpNet>,
    /// Pages come over HTTPS from us, not from a proxy.
    https: bool,
    refused: Counter,
    told: Arc<Told>,
}

/// Lets through what comes from no page, from ours, or from one that is allowed, and says so to
/// browsers.
pub fn guard(routes: Router, gate: Gate) -> Router {
    // Whoever gets this far may: so it is enough to repeat what was asked. Clients 1.x and 2.x poll
    // with credentials, for which browsers take no `*`.
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::mirror_request())
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .allow_credentials(true)
        .max_age(PREFLIGHT_AGE);
    routes.layer(cors).layer(from_fn_with_state(Arc::new(gate), pass))
}

async fn pass(
    State(gate): State<Arc<Gate>>,
    Extension(stream): Extension<Arc<Control>>,
    request: Request,
    next: Next,
) -> Response {
    match gate.check(stream.peer().ip(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(stranger) => gate.refuse(stranger),
    }
}

impl Gate {
    /// As the settings say; `refused` counts whom it does not let through.
    pub fn new(config: &Config, refused: Counter) -> Self {
        Self {
            allowed: config.allowed_origins.clone(),
            hosts: config.hosts.clone(),
            public_port: config
                .https
                .as_ref()
                .and_then(|https| https.public_port)
                .unwrap_or(HTTPS_PORT),
            trusted: config.trusted_proxies.clone(),
            https: config.https.is_some(),
            refused,
            told: Arc::default(),
        }
    }

    /// The origin that may not connect, if one may not.
    fn check<'a>(&self, peer: IpAddr, headers: &'a HeaderMap) -> Result<(), &'a HeaderValue> {
        let may = |value: &HeaderValue| {
            let text = value.to_str().ok().filter(|text| text.len() <= MAX_ORIGIN)?;
            let origin = Origin::parse(text)?;
            let allowed = self.allowed.iter().any(|allowed| allowed.allows(&origin));
            (allowed || self.is_ours(&origin, peer, headers)).then_some(())
        };
        headers
            .get_all(header::ORIGIN)
            .iter()
            .find(|value| may(value).is_none())
            .map_or(Ok(()), Err)
    }

    /// Whether the page is from the host that it asks, or from one of ours. A proxy may have taken
    /// the TLS off, so the scheme says nothing behind one.
    fn is_ours(&self, origin: &Origin, peer: IpAddr, headers: &HeaderMap) -> bool {
        let Origin { scheme, host, port } = origin;
        let public = scheme == "https" && port.unwrap_or(HTTPS_PORT) == self.public_port;
        if public && self.hosts.iter().any(|ours| covers(ours, host)) {
            return true;
        }
        if self.https && scheme != "https" && !forwarded::is_trusted(&self.trusted, peer) {
            return false;
        }
        let asked = forwarded::host(&self.trusted, peer, headers);
        let asked = asked.and_then(|asked| asked.parse::<Authority>().ok());
        asked.is_some_and(|asked| {
            let usual = match scheme.as_str() {
                "http" => Some(80),
                "https" => Some(HTTPS_PORT),
                _ => return false,
            };
            asked.host().eq_ignore_ascii_case(host) && asked.port_u16().or(usual) == port.or(usual)
        })
    }

    fn refuse(&self, origin: &HeaderValue) -> Response {
        self.refused.inc();
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let origin = origin.chars().take(MAX_ORIGIN).collect::<String>();
        let text = match Origin::parse(&origin) {
            None => format!(
                "`{origin}` is no origin that could be allowed: sandboxed frames and files have none. Serve the page by HTTP.\n"
            ),
            Some(parsed) => {
                let text = format!(
                    "Pages of {origin} may not connect here: ALLOWED_ORIGINS does not name it.\n"
                );
                if !self.told.holds(&origin) {
                    let (line, told) = (self.line(&parsed), self.told.clone());
                    REFUSED.line(move |left_out| {
                        warn!(left_out, "refused a page of {origin}; to allow it: {line}");
                        told.add(origin);
                    });
                }
                text
            }
        };
        // What one origin is answered is nothing for the next one.
        (StatusCode::FORBIDDEN, [(header::VARY, "origin")], text).into_response()
    }

    /// The setting with one more origin, to be pasted.
    fn line(&self, origin: &Origin) -> String {
        let known = self.allowed.iter().map(|allowed| format!("{allowed},"));
        format!("ALLOWED_ORIGINS={}{origin}", known.collect::<String>())
    }
}

/// The origins that were logged last; the oldest makes room for a new one.
#[derive(Default)]
struct Told(Mutex<VecDeque<String>>);

impl Told {
    fn holds(&self, origin: &str) -> bool {
        self.lock().iter().any(|told| told == origin)
    }

    fn add(&self, origin: String) {
        let mut told = self.lock();
        if told.len() == MAX_TOLD {
            told.pop_front();
        }
        told.push_back(origin);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests;
