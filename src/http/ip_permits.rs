//! Clients behind a trusted proxy: their addresses, and the limit of connections per address.
//!
//! A proxy shares its connections among clients, so their number says nothing about one client.
//! Instead, each request under way and each WebSocket holds a permit of the client's address.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Extension, Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use http_body_util::BodyExt;

use super::{forwarded, headers::NO_STORE};
use crate::{
    conn::{accept::TOO_MANY_OF_ADDRESS, addresses::Addresses, connection::Connection},
    metrics::Metrics,
};

/// Makes requests through trusted proxies take a permit of the client's address, or answers 429 if
/// the client has `MAX_CONNECTIONS_PER_ADDRESS` already.
///
/// The permit is released when the response body is dropped, or when the connection ends after an
/// upgrade to WebSocket.
pub fn with_ip_permits(routes: Router, addresses: Arc<Addresses>, metrics: Arc<Metrics>) -> Router {
    routes.layer(from_fn_with_state((addresses, metrics), permit))
}

async fn permit(
    State((addresses, metrics)): State<(Arc<Addresses>, Arc<Metrics>)>,
    Extension(stream): Extension<Arc<Connection>>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = stream.peer().ip();
    if !addresses.is_proxy(peer) {
        return next.run(request).await;
    }
    let client = forwarded::client(addresses.proxies(), peer, request.headers());
    stream.set_forwarded(client);
    if !addresses.is_limited() {
        return next.run(request).await;
    }
    let Ok(permit) = addresses.enter(client) else {
        metrics.refusals("address").inc();
        return ([(header::CACHE_CONTROL, NO_STORE)], TOO_MANY_OF_ADDRESS).into_response();
    };
    let permit = Arc::new(permit);
    request.extensions_mut().insert(permit.clone());
    let response = next.run(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // After the upgrade the connection belongs to this client alone.
        stream.hold(Some(permit));
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _taken = &permit;
            frame
        }))
    })
}
