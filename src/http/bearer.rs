//! Bearer tokens in HTTP requests: reading them, and the answers 401 and 403.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, uri::PathAndQuery},
    response::{IntoResponse, Response},
};

use crate::auth::BadToken;

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

/// Returns path and query without the token, so that the address can be stored without a secret.
pub fn without(uri: &Uri) -> Option<Uri> {
    let rest: Vec<_> = pairs(uri).filter(|pair| !is_token(pair)).collect();
    let path = uri.path();
    let text = if rest.is_empty() { path.to_owned() } else { format!("{path}?{}", rest.join("&")) };
    PathAndQuery::try_from(text).ok().map(Uri::from)
}

fn pairs(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty())
}

fn is_token(pair: &str) -> bool {
    pair.split('=').next() == Some(NAME)
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

/// Answers 403: the token is valid, but its claim `claim` does not list the room or channel `name`.
pub fn forbidden(claim: &str, name: &str) -> Response {
    let text = format!("the token's claim `{claim}` does not list `{name}`\n");
    (StatusCode::FORBIDDEN, text).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_token_is_read_from_and_removed_from_an_address() {
        let table = [
            (
                "/socket.io/?EIO=3&token=a.b.c&transport=polling",
                Some("a.b.c"),
                "/socket.io/?EIO=3&transport=polling",
            ),
            ("/socket.io/?token=a.b.c", Some("a.b.c"), "/socket.io/"),
            ("/events/x?last=1&token=a&token=b", Some("a"), "/events/x?last=1"),
            ("/events/x?token=&last=1", None, "/events/x?last=1"),
            ("/events/x?token", None, "/events/x"),
            ("/events/x?tokens=a", None, "/events/x?tokens=a"),
            ("/events/token=a", None, "/events/token=a"),
        ];
        for (uri, token, rest) in table {
            let uri: Uri = uri.parse().expect("a valid URI");
            assert_eq!(of(&HeaderMap::new(), &uri), token, "{uri}");
            assert_eq!(without(&uri), rest.parse().ok(), "{uri}");
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

    proptest! {
        #[test]
        fn no_token_remains_in_an_address(query in "[a-z0-9&=.%-]{0,60}") {
            let uri: Uri = format!("/socket.io/?token=secret&{query}&token=secret").parse().expect("a valid URI");
            let rest = without(&uri).expect("a valid URI");
            let headers = HeaderMap::new();
            prop_assert_eq!(of(&headers, &rest), None);
            prop_assert_eq!(rest.path(), "/socket.io/");
            let kept = query.split('&').filter(|pair| !pair.is_empty() && !is_token(pair));
            prop_assert_eq!(rest.query().unwrap_or_default(), kept.collect::<Vec<_>>().join("&"));
        }
    }
}
