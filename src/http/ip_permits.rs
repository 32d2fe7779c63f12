//! The limit of connections per address for clients behind a trusted proxy.
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
use http::StatusCode;
use http_body_util::BodyExt;

use super::forwarded;
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
    request: Request,
    next: Next,
) -> Response {
    let peer = stream.peer().ip();
    if !addresses.is_proxy(peer) {
        return next.run(request).await;
    }
    let client = forwarded::client(addresses.proxies(), peer, request.headers());
    let Ok(permit) = addresses.enter(client) else {
        metrics.refusals("address").inc();
        return TOO_MANY_OF_ADDRESS.into_response();
    };
    let response = next.run(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // After the upgrade the connection belongs to this client alone.
        stream.hold(permit);
        return response;
    }
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _taken = &permit;
            frame
        }))
    })
}
