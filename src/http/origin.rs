//! Origin check: which web pages may connect. These are pages of this server and pages of the
//! origins in `ALLOWED_ORIGINS`. Clients that are not pages send no `Origin` and always pass.
//!
//! Browsers do not apply the same-origin policy to WebSockets; they only send the page's origin in
//! the header `Origin`. So the server checks that header, for all transports alike, and sends CORS
//! headers to the pages that pass.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};
use tracing::warn;

use super::{forwarded, hosts::covers};
use crate::{
    config::{AllowedOrigin, Config, Origin},
    conn::connection::Connection,
    log_limit::LogLimit,
    metrics::Counter,
};

/// How long a browser may cache the answer to a preflight; the longest that Chromium accepts.
const PREFLIGHT_AGE: Duration = Duration::from_secs(2 * 60 * 60);
/// The port of an `https` origin that names none.
const HTTPS_PORT: u16 = 443;
/// Refused origins that are remembered, so that each is logged once. Bounded, because a client can
/// send any number of origins.
const MAX_TOLD: usize = 100;
/// Log lines a minute about refused origins that are not remembered.
const LINES: u32 = 10;
/// Bytes of an origin; a DNS name has at most 253. A longer value is refused unparsed.
const MAX_ORIGIN: usize = 300;

static REFUSED: LogLimit = LogLimit::new(LINES);

/// Decides whether a request's origin may connect.
pub struct Gate {
    allowed: Vec<AllowedOrigin>,
    hosts: Vec<String>,
    /// The port at which `hosts` are served over HTTPS.
    public_port: u16,
    trusted: Vec<IpNet>,
    /// This server serves HTTPS itself, so without a proxy its pages are never `http`.
    https: bool,
    refused: Counter,
    told: Arc<Told>,
}

/// Lets through requests that the gate allows, with CORS headers, and answers 403 to all others.
pub fn guard(routes: Router, gate: Gate) -> Router {
    // The gate has run before this layer, so the headers can mirror the request. They cannot be
    // `*`: Socket.IO clients 1.x and 2.x poll with credentials, and browsers refuse `*` then.
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
    Extension(stream): Extension<Arc<Connection>>,
    request: Request,
    next: Next,
) -> Response {
    match gate.check(stream.peer().ip(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(stranger) => gate.refuse(stranger),
    }
}

impl Gate {
    /// Reads the settings; `refused` counts the requests that are not let through.
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

    /// # Errors
    ///
    /// Returns the first origin that may not connect. Several origins must all be allowed.
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

    /// Whether the page is of the host that the request is for, or of a host in `RTHOST`. A proxy
    /// may have terminated TLS, so a page over `http` is only refused if this server serves HTTPS
    /// itself and the peer is no trusted proxy.
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
                "`{origin}` is not an origin that can be allowed: sandboxed frames and local files have none. Serve the page over HTTP.\n"
            ),
            Some(parsed) => {
                let text = format!(
                    "Pages of {origin} may not connect here: add the origin to ALLOWED_ORIGINS.\n"
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
        // The answer depends on the origin, so caches must not reuse it for another one.
        (StatusCode::FORBIDDEN, [(header::VARY, "origin")], text).into_response()
    }

    /// Returns the setting with this origin added, ready to be pasted.
    fn line(&self, origin: &Origin) -> String {
        let known = self.allowed.iter().map(|allowed| format!("{allowed},"));
        format!("ALLOWED_ORIGINS={}{origin}", known.collect::<String>())
    }
}

/// The last [`MAX_TOLD`] origins that were logged; adding one more forgets the oldest.
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
        self.0.lock()
    }
}

#[cfg(test)]
mod tests;
