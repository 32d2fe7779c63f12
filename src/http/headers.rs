//! Security headers of every answer: browsers must not guess content types, and must not send the
//! address of a page as the referrer.
//!
//! No answer names the server or its version: neither hyper nor this crate adds a `Server` header.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::conn::accept::KEEP_ALIVE;

/// Adds `X-Content-Type-Options: nosniff` and `Referrer-Policy: no-referrer` to all answers, and says
/// how long a connection may be idle.
pub fn with_security_headers(routes: Router) -> Router {
    routes
        .layer(header(HeaderName::from_static("keep-alive"), KEEP_ALIVE))
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::REFERRER_POLICY, "no-referrer"))
}

/// Adds `Cache-Control: no-store` to the answers of routes whose content changes with every request.
pub fn without_caching(routes: Router) -> Router {
    routes.layer(header(header::CACHE_CONTROL, "no-store"))
}

/// Adds a header to answers that do not have it yet.
pub fn header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}
