//! Answers to requests that are refused: Engine.IO's error codes, as JSON.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_VERSION},
};
use serde_json::json;

/// A refused request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RequestError {
    /// The query names no transport that is served.
    UnknownTransport,
    /// The query names a session that has ended, or never was. Clients open a new one.
    UnknownSession,
    /// The method cannot do this.
    BadMethod,
    /// The request is not as it must be, with what is wrong.
    BadRequest(&'static str),
    /// The query names another version than 3 or 4.
    UnsupportedVersion,
    /// A poll by JSONP.
    Jsonp,
    /// A WebSocket handshake of another version than 13.
    WebSocketVersion,
    /// The body, or a packet in it, is too large.
    TooLarge(&'static str),
    /// The body did not come in time.
    TooLate,
    /// The server holds as many polling sessions as it may.
    TooManySessions,
    /// The client's address holds as many polling sessions as it may.
    TooManySessionsOfAddress,
    /// The server is stopping.
    Stopping,
}

impl RequestError {
    fn status(self) -> StatusCode {
        match self {
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooLate => StatusCode::REQUEST_TIMEOUT,
            Self::TooManySessions | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManySessionsOfAddress => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Engine.IO's code.
    fn code(self) -> u8 {
        match self {
            Self::UnknownTransport => 0,
            Self::UnknownSession => 1,
            Self::BadMethod => 2,
            Self::TooManySessions | Self::TooManySessionsOfAddress | Self::Stopping => 4,
            Self::UnsupportedVersion => 5,
            _ => 3,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::UnknownTransport => "Transport unknown: use polling or websocket",
            Self::UnknownSession => "Session ID unknown",
            Self::BadMethod => "Bad handshake method: open a session with GET",
            Self::UnsupportedVersion => "Unsupported protocol version: use EIO=3 or EIO=4",
            Self::Jsonp => {
                "JSONP is not served: use a client that polls by XMLHttpRequest or fetch"
            }
            Self::WebSocketVersion => "WebSocket version 13 is needed",
            Self::BadRequest(message) | Self::TooLarge(message) => message,
            Self::TooLate => "The body of the request did not come in time",
            Self::TooManySessions => {
                "The server holds as many polling sessions as it may (MAX_CONNECTIONS)"
            }
            Self::TooManySessionsOfAddress => {
                "Your address has as many polling sessions as it may (MAX_CONNECTIONS_PER_ADDRESS)"
            }
            Self::Stopping => "The server is stopping",
        }
    }

    /// The name under which the metric `refusals` counts it; `None` for ordinary mistakes.
    pub fn refusal(self) -> Option<&'static str> {
        match self {
            Self::TooLarge(_) => Some("too_large"),
            Self::TooLate => Some("body_time"),
            Self::TooManySessions => Some("sessions"),
            Self::TooManySessionsOfAddress => Some("address"),
            Self::UnknownTransport | Self::UnsupportedVersion | Self::Jsonp => Some("unsupported"),
            _ => None,
        }
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code(), "message": self.message() });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::WebSocketVersion => {
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Self::Stopping => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}
