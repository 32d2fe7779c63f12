//! The routes: the page and the sockets for everybody, health and metrics for operators.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    routing::{any, get},
};

use crate::{config::Config, rooms::Rooms};

pub mod admin;
mod assets;
mod engine_io3;
mod events;
pub mod polling;

use admin::Admin;
use polling::Engine;

/// Routes of the public listener.
pub fn public(config: &Config, engine: Engine, rooms: Arc<Rooms>, admin: Arc<Admin>) -> Router {
    let sockets =
        any(async |State(engine): State<Engine>, request: Request| engine.answer(request).await);
    let mut routes = Router::new()
        .route("/socket.io/", sockets.clone())
        .route("/socket.io", sockets)
        .with_state(engine)
        .route("/events/{*room}", get(events::follow).with_state(rooms))
        .route("/livez", get(admin::livez))
        .merge(assets::client());
    // Whoever switches the admin listener off may still have to ask whether we are ready.
    if config.admin_addr.is_none() {
        routes = routes.route("/readyz", get(admin::readyz).with_state(admin));
    }
    routes.fallback_service(assets::page(config.assets.as_deref()))
}
