//! Seats for who comes through a trusted proxy: what a client has under way, and its WebSockets.
//!
//! A proxy's connections are not the clients', so their number says nothing about any of them.

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
    conn::{accept::TOO_MANY_OF_ADDRESS, addresses::Addresses, stream::Control},
    metrics::Metrics,
};

/// Routes at which each client takes its seats.
pub fn with_ip_permits(routes: Router, addresses: Arc<Addresses>, metrics: Arc<Metrics>) -> Router {
    routes.layer(from_fn_with_state((addresses, metrics), permit))
}

async fn permit(
    State((addresses, metrics)): State<(Arc<Addresses>, Arc<Metrics>)>,
    Extension(stream): Extension<Arc<Control>>,
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
        // From now on the connection is this client's alone.
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
