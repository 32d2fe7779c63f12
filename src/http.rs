//! HTTP routes: the page, the sockets, event streams and publishing on the public listener, health
//! and metrics on the admin listener.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
    routing::{any, get},
};

use crate::{
    auth::Auth, config::Config, engine::Engine, outages::Outages, rooms::Rooms,
    socketio::HandshakeToken,
};

pub mod admin;
mod assets;
mod bearer;
mod events;
pub mod forwarded;
mod headers;
mod history;
pub mod hosts;
mod ip_permits;
mod origin;
mod prefix;
mod publish;
mod query;
mod secure;

use admin::Admin;
use events::Following;
use history::Reading;
use hosts::Hosts;
pub use ip_permits::with_ip_permits;
use origin::Gate;
pub use publish::Publishing;
pub use secure::{Redirect, with_hsts};

/// State of the routes of the public listener.
pub struct AppState {
    /// Answers the requests of Engine.IO: handshakes, polls, upgrades.
    pub engine: Arc<Engine>,
    /// The rooms that event streams join.
    pub rooms: Arc<Rooms>,
    /// Tells event streams when the source goes down and comes back.
    pub outages: Arc<Outages>,
    /// Checks the tokens of viewers.
    pub auth: Arc<Auth>,
    /// Checks the tokens of publishers and publishes on Redis.
    pub publishing: Publishing,
    /// Health and metrics; `/livez` and `/readyz` are on this listener too.
    pub admin: Arc<Admin>,
}

/// Routes of the public listener: page, client, sockets, `/events`, `/history`, `/publish` and `/livez`, and
/// `/readyz` if there is no admin listener.
///
/// `/livez` and `/readyz` are exempt from the origin check. With `hosts`, requests for unknown host
/// names are refused on all routes.
pub fn public(config: &Config, rear: AppState, hosts: Option<Hosts>) -> Router {
    let AppState { engine, rooms, outages, auth, publishing, admin } = rear;
    let sockets = any(socket);
    let reading = Reading { rooms: rooms.clone(), auth: auth.clone() };
    let following = Following { rooms, auth, outages, metrics: admin.metrics.clone() };
    let gate = Gate::new(config, admin.metrics.origins_refused.clone());
    let guarded = Router::new()
        .route("/socket.io/", sockets.clone())
        .route("/socket.io", sockets)
        .with_state(engine)
        .route("/events/{*room}", get(events::follow).with_state(following))
        .route("/history/{*room}", get(history::read).with_state(reading))
        .merge(publish::routes(publishing));
    let guarded = headers::without_caching(guarded)
        .merge(assets::client())
        .fallback_service(assets::page(config.assets.as_deref(), &config.frame_ancestors));
    let routes = origin::guard(guarded, gate).merge(liveness_routes(config, admin));
    let routes = prefix::under(config.path_prefix.clone(), routes);
    headers::with_security_headers(hosts::guard(routes, hosts))
}

/// Hands a request to the engine, with the token that it carries.
async fn socket(State(engine): State<Arc<Engine>>, mut request: Request) -> Response {
    if let Some(token) = bearer::of(request.headers(), request.uri()) {
        let token = HandshakeToken(token.to_owned());
        request.extensions_mut().insert(token);
    }
    engine.answer(request).await
}

/// Routes of the plain HTTP listener when HTTPS is on: `/livez`, answers to HTTP-01 challenges, and
/// redirects to HTTPS for everything else.
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
    // Without an admin listener, platforms still need a readiness probe.
    match config.admin_addr {
        None => {
            headers::without_caching(routes.route("/readyz", get(admin::readyz).with_state(admin)))
        }
        Some(_) => headers::without_caching(routes),
    }
}
