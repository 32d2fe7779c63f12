//! A prefix of all paths, for proxies that pass it on.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, Uri, header, uri::PathAndQuery},
    response::{IntoResponse, Response},
};
use tower::{ServiceExt, service_fn};

/// Serves routes under a prefix, such as `/rt`, as well as without it. The prefix alone is redirected
/// to the one with a slash behind it, since the links of the page are relative.
pub fn under(prefix: Option<Arc<str>>, routes: Router) -> Router {
    let Some(prefix) = prefix else { return routes };
    Router::new().fallback_service(service_fn(move |mut request: Request| {
        let (prefix, routes) = (prefix.clone(), routes.clone());
        async move {
            match without(request.uri(), &prefix) {
                Some(Stripped::Path(uri)) => *request.uri_mut() = uri,
                Some(Stripped::Nothing(page)) => return Ok(redirect(page)),
                None => {}
            }
            routes.oneshot(request).await
        }
    }))
}

/// A URI under a prefix.
enum Stripped {
    /// What is behind the prefix.
    Path(Uri),
    /// There is nothing, not even a slash: the path and query that should be asked for.
    Nothing(String),
}

/// `None` if the path is not under the prefix.
fn without(uri: &Uri, prefix: &str) -> Option<Stripped> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = whole.strip_prefix(prefix)?;
    if rest.starts_with('/') {
        return Some(Stripped::Path(rest.parse().ok()?));
    }
    let is_page = rest.is_empty() || rest.starts_with('?');
    is_page.then(|| Stripped::Nothing(format!("{prefix}/{rest}")))
}

fn redirect(to: String) -> Response {
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, to)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_taken_off_and_other_paths_stay() {
        for (uri, expected) in [
            ("/rt/", Some("/")),
            ("/rt/socket.io/?EIO=4", Some("/socket.io/?EIO=4")),
            ("http://a.example/rt/events/x", Some("/events/x")),
            ("/rt//evil.example/", Some("//evil.example/")),
            ("/rt", Some("to /rt/")),
            ("/rt?token=x", Some("to /rt/?token=x")),
            ("/rtx/", None),
            ("/", None),
            ("/a/rt/", None),
        ] {
            let stripped = without(&uri.parse().expect("a URI"), "/rt").map(|rest| match rest {
                Stripped::Path(uri) => uri.to_string(),
                Stripped::Nothing(page) => format!("to {page}"),
            });
            assert_eq!(stripped.as_deref(), expected, "{uri}");
        }
    }
}
