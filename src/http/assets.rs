//! Static files: the page, built in or from the folder `ASSETS`, and the built-in Socket.IO client.

use std::{
    io, iter,
    path::{Component, Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use memory_serve::CacheControl;
use percent_encoding::percent_decode_str;
use tokio::{fs::canonicalize, sync::Semaphore, time::timeout};
use tower::ServiceExt;
use tower_http::services::ServeDir;

use super::headers;
use crate::config::AllowedOrigin;

/// The built-in page loads nothing from other origins and has no inline code, so the policy allows
/// neither.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors";

/// How long a file of `ASSETS` may take to open: the folder may be on a share whose server is down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Files of `ASSETS` that are looked up at the same time. tokio has 512 threads for such calls, and
/// other parts of the server need some of them.
const CALLS: usize = 64;

/// Paths at which Socket.IO's Node server serves its client, and the built-in file for each path.
const CLIENT: [(&str, &str); 3] = [
    ("/socket.io/socket.io.js", "/vendor/socket.io.min.js"),
    ("/socket.io/socket.io.min.js", "/vendor/socket.io.min.js"),
    ("/socket.io/socket.io.esm.min.js", "/vendor/socket.io.esm.min.js"),
];

/// Routes of the files in the binary. There is one such router per process, because memory-serve
/// keeps its unpacked copies for ever.
///
/// File names do not change between versions, so browsers revalidate their copies on each use; with
/// the ETag, the answer is a short 304.
static BUILT_IN: LazyLock<Router> = LazyLock::new(|| {
    memory_serve::load!()
        .index_file(Some("/index.html"))
        .html_cache_control(CacheControl::NoCache)
        .cache_control(CacheControl::NoCache)
        .into_router()
});

/// Routes of the page at `/`. A custom folder is served without a Content-Security-Policy, because
/// the server does not know what its page loads. Pages of `frame_ancestors` may show the built-in page
/// in a frame.
pub fn page(folder: Option<&Path>, frame_ancestors: &[AllowedOrigin]) -> Router {
    match folder {
        Some(folder) => {
            let state = Arc::new(Folder { path: folder.to_owned(), calls: Semaphore::new(CALLS) });
            let serve = Router::new().fallback_service(ServeDir::new(folder));
            serve.layer(from_fn_with_state(state, in_time))
        }
        None => {
            let policy = [CONTENT_SECURITY_POLICY, &ancestors(frame_ancestors)].join(" ");
            // Origins are ASCII without control characters, so the strict policy is never needed.
            let policy = HeaderValue::from_str(&policy)
                .unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
            BUILT_IN.clone().layer(headers::header(header::CONTENT_SECURITY_POLICY, policy))
        }
    }
}

fn ancestors(origins: &[AllowedOrigin]) -> String {
    if origins.is_empty() {
        return "'none'".to_owned();
    }
    let origins = origins.iter().map(AllowedOrigin::to_string);
    iter::once("'self'".to_owned()).chain(origins).collect::<Vec<_>>().join(" ")
}

/// A folder that is served.
struct Folder {
    path: PathBuf,
    /// Permits for calls to the file system.
    calls: Semaphore,
}

/// Answers 503 if the folder does not answer in time. A call that hangs cannot be ended: it keeps
/// its permit, so that a dead share takes no more than [`CALLS`] threads.
async fn in_time(State(folder): State<Arc<Folder>>, request: Request, next: Next) -> Response {
    let served = async {
        let serve = async move {
            let _permit = folder.calls.acquire().await;
            keep_inside(&folder.path, request, next).await
        };
        tokio::spawn(serve).await
    };
    match timeout(ANSWER_TIMEOUT, served).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(_) => {
            let text = "The folder of the page (ASSETS) does not answer; try again later.\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// Answers 404 if the path names a hidden file or leads out of the folder.
async fn keep_inside(folder: &Path, request: Request, next: Next) -> Response {
    match visible(folder, request.uri().path()) {
        Some(file) if is_inside(folder, &file).await.unwrap_or(false) => next.run(request).await,
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Returns the file that a path names, decoded as `ServeDir` decodes it; `None` if a component
/// begins with a dot.
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

/// Whether a file, or a subfolder's `index.html`, is inside the folder once symbolic links are
/// resolved. Links that stay inside are allowed: Kubernetes mounts a ConfigMap as such links.
async fn is_inside(folder: &Path, file: &Path) -> io::Result<bool> {
    let (folder, file) = (canonicalize(folder).await?, canonicalize(file).await?);
    let page = canonicalize(file.join("index.html")).await;
    Ok(file.starts_with(&folder) && page.map_or(true, |page| page.starts_with(&folder)))
}

/// Routes of the Socket.IO client, for pages that other servers or custom folders serve.
pub fn client() -> Router {
    CLIENT.into_iter().fold(Router::new(), |routes, (path, file)| {
        let serve = async move |mut request: Request| {
            *request.uri_mut() = Uri::from_static(file);
            BUILT_IN.clone().oneshot(request).await
        };
        routes.route(path, get(serve))
    })
}
