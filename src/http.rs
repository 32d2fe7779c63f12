//! The routes: the page and the sockets for everybody, health and metrics for operators.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::StatusCode,
    routing::{any, get},
};

use crate::{auth::Auth, config::Config, outages::Outages, rooms::Rooms};

pub mod admin;
mod assets;
mod bearer;
mod engine_io3;
mod events;
pub mod forwarded;
mod headers;
pub mod hosts;
mod inbound;
mod ip_permits;
mod origin;
pub mod polling;
mod publish;
mod secure;

use admin::Admin;
use events::Following;
use hosts::Hosts;
pub use ip_permits::with_ip_permits;
use origin::Gate;
use polling::Engine;
pub use publish::Publishing;
pub use secure::{Redirect, with_hsts};

/// What the routes lead to.
pub struct AppState {
    /// The sockets.
    pub engine: Engine,
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// Whether the source is there.
    pub outages: Arc<Outages>,
    /// Who may watch them.
    pub auth: Arc<Auth>,
    /// Who may publish, and the way to Redis.
    pub publishing: Publishing,
    /// Health and metrics.
    pub admin: Arc<Admin>,
}

/// Routes of the listener that viewers use.
pub fn public(config: &Config, rear: AppState, hosts: Option<Hosts>) -> Router {
    let AppState { engine, rooms, outages, auth, publishing, admin } = rear;
    let sockets =
        any(async |State(engine): State<Engine>, request: Request| engine.answer(request).await);
    let following = Following { rooms, auth, outages, metrics: admin.metrics.clone() };
    let gate = Gate::new(config, admin.metrics.origins_refused.clone());
    let guarded = Router::new()
        .route("/socket.io/", sockets.clone())
        .route("/socket.io", sockets)
        .with_state(engine)
        .route("/events/{*room}", get(events::follow).with_state(following))
        .merge(publish::routes(publishing))
        .merge(assets::client())
        .fallback_service(assets::page(config.assets.as_deref()));
    let routes = origin::guard(guarded, gate).merge(liveness_routes(config, admin));
    headers::with_security_headers(hosts::guard(routes, hosts))
}

/// Routes of the plain listener beside HTTPS: whether the process lives, what a CA asks, and the
/// way to HTTPS.
pub fn redirect_routes(
    config: &Config,
    admin: Arc<Admin>,
    redirect: Redirect,
    hosts: Option<Hosts>,
) -> Router {
    let certificates = redirect.certificates.clone();
    let challenge = async move |Path(token): Path<String>| {
        certificates.http_01(&token).ok_or(StatusCode::NOT_FOUND)
    };
    let routes =
        liveness_routes(config, admin).route("/.well-known/acme-challenge/{token}", get(challenge));
    let routes = routes.fallback(move |request: Request| async move { redirect.answer(&request) });
    headers::with_security_headers(hosts::guard(routes, hosts))
}

fn liveness_routes(config: &Config, admin: Arc<Admin>) -> Router {
    let routes = Router::new().route("/livez", get(admin::livez).with_state(admin.clone()));
    // Whoever switches the admin listener off may still have to ask whether we are ready.
    match config.admin_addr {
        None => routes.route("/readyz", get(admin::readyz).with_state(admin)),
        Some(_) => routes,
    }
}
