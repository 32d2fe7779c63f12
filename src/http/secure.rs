//! The way to HTTPS, and the header that makes browsers take it by themselves.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::tls::certificates::Certificates;

/// A month, renewed by every visit: long enough to protect, short enough to get rid of.
const STRICT: HeaderValue = HeaderValue::from_static("max-age=2592000");
/// Needs no mention in an address.
const HTTPS_PORT: u16 = 443;

/// Where plain requests are sent.
#[derive(Clone)]
pub struct Redirect {
    /// Knows the host.
    pub certificates: Arc<Certificates>,
    /// The port of HTTPS as seen from outside.
    pub port: u16,
}

impl Redirect {
    /// The beginning of the addresses under which all is served; `None` while nobody knows a host.
    pub fn origin(&self) -> Option<String> {
        let host = self.certificates.host()?;
        // An IPv6 address of a certificate without names.
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Some(match self.port {
            HTTPS_PORT => format!("https://{host}"),
            port => format!("https://{host}:{port}"),
        })
    }

    /// The same path at the configured host. The Host header is the peer's to choose, so nobody is
    /// sent there. 308: method and body stay what they are.
    pub fn answer(&self, request: &Request) -> Response {
        let Some(origin) = self.origin() else {
            let text =
                "This is served over HTTPS alone, and RTHOST does not say under which name.\n";
            return (StatusCode::NOT_FOUND, text).into_response();
        };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path } else { "/" };
        let to = [(header::LOCATION, format!("{origin}{path}"))];
        (StatusCode::PERMANENT_REDIRECT, to).into_response()
    }
}

/// Tells browsers to use HTTPS alone, as long as they trust the certificate: told with one that
/// they do not trust, they would refuse to let anybody past the warning.
pub fn with_hsts(routes: Router, certificates: Arc<Certificates>) -> Router {
    let value = move |_: &Response| certificates.is_trusted().then_some(STRICT);
    routes.layer(SetResponseHeaderLayer::if_not_present(header::STRICT_TRANSPORT_SECURITY, value))
}
