//! The WebSocket handshake (RFC 6455, section 4.2).

use axum::{body::Body, response::Response};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode, Version,
    header::{
        CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
        SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    request::Parts,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::errors::RequestError;

/// What the server appends to the client's key (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;

/// The answer to a handshake. Of the offered sub-protocols it takes the first: browsers fail a
/// connection whose offer is not answered.
///
/// # Errors
/// If the request is no WebSocket handshake of version 13.
pub fn answer(request: &Parts) -> Result<Response, RequestError> {
    let headers = &request.headers;
    if request.version != Version::HTTP_11 {
        return Err(RequestError::BadRequest("a WebSocket handshake needs HTTP/1.1"));
    }
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(RequestError::BadRequest("transport=websocket needs a WebSocket handshake"));
    }
    if !has_token(headers, &CONNECTION, "upgrade") {
        return Err(RequestError::BadRequest(
            "a WebSocket handshake needs the header Connection: Upgrade",
        ));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(RequestError::WebSocketVersion);
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys.next().filter(|key| is_key(key) && keys.next().is_none());
    let key =
        key.ok_or(RequestError::BadRequest("Sec-WebSocket-Key must be 16 bytes in base64"))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept(key.as_bytes())) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = first_protocol(headers) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn is_key(key: &HeaderValue) -> bool {
    BASE64_STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == KEY_BYTES)
}

fn accept(key: &[u8]) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat());
    BASE64_STANDARD.encode(hash)
}

fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let first = offered.split(',').next().map(str::trim).filter(|first| !first.is_empty())?;
    HeaderValue::from_str(first).ok()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn request(change: impl FnOnce(&mut Parts)) -> Parts {
        let request = Request::get("/socket.io/")
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "keep-alive, Upgrade")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, KEY);
        let (mut parts, ()) = request.body(()).expect("a request").into_parts();
        change(&mut parts);
        parts
    }

    #[test]
    fn the_key_is_answered_as_in_the_specification() {
        let response = answer(&request(|_| {})).expect("accepted");
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn the_first_offered_sub_protocol_is_taken() {
        let offer = HeaderValue::from_static("rt.v1, rt.v2");
        let parts = request(|parts| drop(parts.headers.insert(SEC_WEBSOCKET_PROTOCOL, offer)));
        let response = answer(&parts).expect("accepted");
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "rt.v1");
    }

    #[test]
    fn other_handshakes_are_refused() {
        type Change = fn(&mut Parts);
        let table: [(Change, u16); 9] = [
            (|parts| parts.version = Version::HTTP_10, 400),
            (|parts| drop(parts.headers.remove(UPGRADE)), 400),
            (|parts| drop(parts.headers.remove(CONNECTION)), 400),
            (|parts| drop(parts.headers.remove(SEC_WEBSOCKET_KEY)), 400),
            (|parts| drop(parts.headers.remove(SEC_WEBSOCKET_VERSION)), 426),
            (|parts| put(parts, SEC_WEBSOCKET_VERSION, "8"), 426),
            (|parts| put(parts, SEC_WEBSOCKET_KEY, "abc"), 400),
            (|parts| put(parts, SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZTE="), 400),
            (|parts| put(parts, UPGRADE, "h2c"), 400),
        ];
        for (number, (change, status)) in table.into_iter().enumerate() {
            let problem = answer(&request(change)).expect_err("refused");
            let response = axum::response::IntoResponse::into_response(problem);
            assert_eq!(response.status(), status, "case {number}");
        }
    }

    fn put(parts: &mut Parts, name: HeaderName, value: &'static str) {
        parts.headers.insert(name, HeaderValue::from_static(value));
    }
}
