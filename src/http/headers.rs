//! Security headers of every answer: browsers must not guess content types, and must not send the
//! address of a page as the referrer.
//!
//! No answer names the server or its version: neither hyper nor this crate adds a `Server` header.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    response::Response,
};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::conn::accept::KEEP_ALIVE;

/// The value of `Cache-Control` for what must not be kept.
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Adds `X-Content-Type-Options: nosniff` and `Referrer-Policy: no-referrer` to all answers, says how
/// long a connection may be idle, and keeps errors out of caches.
pub fn with_security_headers(routes: Router) -> Router {
    let uncached = |response: &Response| {
        let is_error = response.status().is_client_error() || response.status().is_server_error();
        is_error.then_some(NO_STORE)
    };
    routes
        .layer(SetResponseHeaderLayer::if_not_present(header::CACHE_CONTROL, uncached))
        .layer(header(HeaderName::from_static("keep-alive"), HeaderValue::from_static(KEEP_ALIVE)))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")))
        .layer(header(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")))
}

/// Adds `Cache-Control: no-store` to the answers of routes whose content changes with every request.
pub fn without_caching(routes: Router) -> Router {
    routes.layer(header(header::CACHE_CONTROL, NO_STORE))
}

/// Adds a header to answers that do not have it yet.
pub fn header(name: HeaderName, value: HeaderValue) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, value)
}
