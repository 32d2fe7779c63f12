//! What browsers are told with every answer: to guess no type, and to name our pages to nobody.
//!
//! No answer says which server or version wrote it: hyper adds nothing of that kind, nor do we.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
};
use tower_http::set_header::SetResponseHeaderLayer;

/// Routes whose answers say so.
pub fn with_security_headers(routes: Router) -> Router {
    routes
        .layer(header(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(header::REFERRER_POLICY, "no-referrer"))
}

/// Adds a header where none of this name is.
pub fn header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}
