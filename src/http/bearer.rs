//! Bearer tokens in HTTP requests: reading them, and the answers 401 and 403.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use crate::{
    auth::{Auth, BadToken, Grant, WATCHING},
    clock::now,
    rooms::Rooms,
};

/// Query parameter that carries the token of clients that cannot set headers, such as EventSource.
const NAME: &str = "token";

/// Returns the token of the header `Authorization: Bearer …`. The scheme is case-insensitive.
pub fn header(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns the token of a request, from the header or else from the query. An empty token is
/// `None`.
pub fn of<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let in_query = || pairs(uri).find_map(|pair| pair.strip_prefix(NAME)?.strip_prefix('='));
    header(headers).or_else(in_query).filter(|token| !token.is_empty())
}

fn pairs(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty())
}

/// Answers 401 with the reason and what to do.
pub fn unauthorised(problem: &BadToken) -> Response {
    let challenge = match problem {
        BadToken::Missing => "Bearer",
        _ => "Bearer error=\"invalid_token\"",
    };
    let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))];
    (StatusCode::UNAUTHORIZED, challenge, format!("{problem}\n")).into_response()
}

/// Why a request may not watch a room.
pub enum Refused {
    /// The answer is 401.
    BadToken(BadToken),
    /// The answer is 400, with what is wrong with the room's name.
    BadRoom(String),
    /// The answer is 403: the token does not allow the room.
    Forbidden(String),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::BadToken(problem) => unauthorised(&problem),
            Self::BadRoom(problem) => {
                (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response()
            }
            Self::Forbidden(room) => forbidden("rooms", &room),
        }
    }
}

/// What the token of a request that watches a room allows.
///
/// # Errors
/// If the request has no valid token, or the room's name is bad or not allowed.
pub fn watcher(auth: &Auth, headers: &HeaderMap, uri: &Uri, room: &str) -> Result<Grant, Refused> {
    let grant = auth.viewer(of(headers, uri), now()).map_err(|problem| {
        problem.log(WATCHING);
        Refused::BadToken(problem)
    })?;
    Rooms::check_name(room).map_err(Refused::BadRoom)?;
    if grant.may_join(room) { Ok(grant) } else { Err(Refused::Forbidden(room.to_owned())) }
}

/// Answers 403: the token is valid, but its claim `claim` does not list the room or channel `name`.
pub fn forbidden(claim: &str, name: &str) -> Response {
    let text = format!("the token's claim `{claim}` does not list `{name}`\n");
    (StatusCode::FORBIDDEN, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_read_from_the_header_or_the_address() {
        let table = [
            ("/socket.io/?EIO=3&token=a.b.c&transport=polling", Some("a.b.c")),
            ("/socket.io/?token=a.b.c", Some("a.b.c")),
            ("/events/x?last=1&token=a&token=b", Some("a")),
            ("/events/x?token=&last=1", None),
            ("/events/x?token", None),
            ("/events/x?tokens=a", None),
            ("/events/token=a", None),
        ];
        for (uri, token) in table {
            let uri: Uri = uri.parse().expect("a valid URI");
            assert_eq!(of(&HeaderMap::new(), &uri), token, "{uri}");
        }
        let authorization = |value: &str| {
            HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("a valid value"))])
        };
        let uri: Uri = "/?token=query".parse().expect("a valid URI");
        assert_eq!(of(&authorization("Bearer header"), &uri), Some("header"));
        assert_eq!(of(&authorization("bearer  header "), &uri), Some("header"));
        assert_eq!(of(&authorization("Basic header"), &uri), Some("query"));
        assert_eq!(of(&authorization("Bearer"), &uri), Some("query"));
    }
}
