//! The page and the Socket.IO client: from the binary, or the page from a folder.

use std::{
    io,
    path::{Component, Path, PathBuf},
    sync::{Arc, LazyLock},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use memory_serve::CacheControl;
use percent_encoding::percent_decode_str;
use tokio::fs::canonicalize;
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
        Some(folder) => Router::new()
            .fallback_service(ServeDir::new(folder))
            .layer(from_fn_with_state(Arc::from(folder), keep_inside)),
        None => BUILT_IN
            .clone()
            .layer(headers::header(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY)),
    }
}

/// Answers 404 where a path names a hidden file or leads out of the folder.
async fn keep_inside(State(folder): State<Arc<Path>>, request: Request, next: Next) -> Response {
    match visible(&folder, request.uri().path()) {
        Some(file) if is_inside(&folder, &file).await.unwrap_or(false) => next.run(request).await,
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The file that a path names, decoded as `ServeDir` decodes it; `None` where a part of it begins
/// with a dot.
fn visible(folder: &Path, path: &str) -> Option<PathBuf> {
    let path = percent_decode_str(path.trim_start_matches('/')).decode_utf8().ok()?;
    let mut parts = Path::new(&*path).components();
    parts.try_fold(folder.to_owned(), |file, part| match part {
        Component::Normal(name) if !name.as_encoded_bytes().starts_with(b".") => {
            Some(file.join(name))
        }
        _ => None,
    })
}

/// Whether a file, or the page of a folder, is in the folder itself: symbolic links may lead out of
/// it, and may as well stay in it, as those do that Kubernetes makes of a ConfigMap.
async fn is_inside(folder: &Path, file: &Path) -> io::Result<bool> {
    let (folder, file) = (canonicalize(folder).await?, canonicalize(file).await?);
    let page = canonicalize(file.join("index.html")).await;
    Ok(file.starts_with(&folder) && page.map_or(true, |page| page.starts_with(&folder)))
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
