//! The page and the Socket.IO client: from the binary, or the page from a folder.

use std::{path::Path, sync::LazyLock};

use axum::{
    Router,
    extract::Request,
    http::{Uri, header},
    routing::get,
};
use memory_serve::CacheControl;
use tower::ServiceExt;
use tower_http::services::ServeDir;

use super::headers;

/// The page needs nothing from elsewhere and no inline code, so nothing else may run in it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// Where Node's server has the client, and where we do.
const CLIENT: [(&str, &str); 3] = [
    ("/socket.io/socket.io.js", "/vendor/socket.io.min.js"),
    ("/socket.io/socket.io.min.js", "/vendor/socket.io.min.js"),
    ("/socket.io/socket.io.esm.min.js", "/vendor/socket.io.esm.min.js"),
];

/// The files in the binary. Once a process: the library keeps its unpacked copies for ever.
///
/// They keep their names from one version to the next, so each use asks whether its copy is still
/// right; the ETag makes that a short answer.
static BUILT_IN: LazyLock<Router> = LazyLock::new(|| {
    memory_serve::load!()
        .index_file(Some("/index.html"))
        .html_cache_control(CacheControl::NoCache)
        .cache_control(CacheControl::NoCache)
        .into_router()
});

/// The page at `/`. A folder of somebody else's gets no policy: we do not know what it needs.
pub fn page(folder: Option<&Path>) -> Router {
    match folder {
        Some(folder) => Router::new().fallback_service(ServeDir::new(folder)),
        None => BUILT_IN
            .clone()
            .layer(headers::header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)),
    }
}

/// The client for pages of other servers and of other folders.
pub fn client() -> Router {
    CLIENT.into_iter().fold(Router::new(), |routes, (path, file)| {
        let serve = async move |mut request: Request| {
            *request.uri_mut() = Uri::from_static(file);
            BUILT_IN.clone().oneshot(request).await
        };
        routes.route(path, get(serve))
    })
}
