//! Redirects from HTTP to HTTPS, and HSTS, the header that makes browsers use HTTPS directly.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::tls::certificates::Certificates;

/// 30 days, renewed by every visit: long enough to protect users, short enough for an operator who
/// wants to go back to HTTP.
const STRICT: HeaderValue = HeaderValue::from_static("max-age=2592000");
/// The default port, which an `https` address need not name.
const HTTPS_PORT: u16 = 443;

/// Target of the redirects from HTTP to HTTPS.
#[derive(Clone)]
pub struct Redirect {
    /// Knows the host: from `RTHOST`, or else from the certificate.
    pub certificates: Arc<Certificates>,
    /// The public port of HTTPS, as clients reach it.
    pub port: u16,
}

impl Redirect {
    /// Returns the public origin, as in `https://rt.example.com`; `None` while no host is known.
    pub fn origin(&self) -> Option<String> {
        let host = self.certificates.host()?;
        // A certificate without names can have an IPv6 address.
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Some(match self.port {
            HTTPS_PORT => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        })
    }

    /// Redirects to the same path at the known host, and not at the Host header's: a client can put
    /// any name there. The status is 308, with which clients keep method and body. While no host is
    /// known, the answer is 404.
    pub fn answer(&self, request: &Request) -> Response {
        let Some(origin) = self.origin() else {
            let text =
                "This server answers over HTTPS only. To redirect there, it needs RTHOST set.\n";
            return (StatusCode::NOT_FOUND, text).into_response();
        };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path } else { "/" };
        let to = [(header::LOCATION, format!("{origin}{path}"))];
        (StatusCode::PERMANENT_REDIRECT, to).into_response()
    }
}

/// Adds Strict-Transport-Security to all answers while the certificate is one that browsers trust.
/// With HSTS and an untrusted certificate, browsers would not let users past their warning.
pub fn with_hsts(routes: Router, certificates: Arc<Certificates>) -> Router {
    let value = move |_: &Response| certificates.is_trusted().then_some(STRICT);
    routes.layer(SetResponseHeaderLayer::if_not_present(header::STRICT_TRANSPORT_SECURITY, value))
}
