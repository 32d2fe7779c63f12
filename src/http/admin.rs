//! Routes of the admin listener, for operators and platforms: health, status and metrics.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;

use super::{
    headers,
    hosts::{self, Hosts},
};
use crate::{
    health::{Health, SourceReport, SourceState},
    ingest::{LaneReport, Progress},
    metrics::Metrics,
    rooms::{
        HistoryReport, Rooms,
        snapshot::{Report, StateReport},
    },
    tls::certificates::{CertificateReport, Certificates},
};

/// Content type of the OpenMetrics text that [`Metrics::text`] writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// State of the admin routes: everything that they report on.
pub struct Admin {
    /// State of the source, of the core tasks and of the drain.
    pub health: Arc<Health>,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Fill levels of the lanes between source and rooms.
    pub queue: Progress,
    /// The certificate that HTTPS is served with; `None` = plain HTTP.
    pub certificates: Option<Arc<Certificates>>,
    /// Result of the last write to `STATE_DIR`; `None` = the setting is unset.
    pub state: Option<Arc<Report>>,
    /// The rooms, for how far back their history reaches.
    pub rooms: Arc<Rooms>,
}

/// Routes of the admin listener.
pub fn routes(admin: Arc<Admin>, hosts: Option<Hosts>) -> Router {
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(admin);
    hosts::guard(headers::without_caching(routes), hosts)
}

/// `/livez`: 200 while all core tasks run, 503 with the failure after one of them has failed.
pub async fn livez(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match admin.health.failure() {
        None => (StatusCode::OK, "live\n".to_owned()),
        Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
    }
}

/// `/readyz`: 200 if the server can take traffic, 503 with the reason if not; see
/// [`Health::ready`].
pub async fn readyz(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    if admin.health.ready() {
        (StatusCode::OK, "ready\n")
    } else if admin.health.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not subscribed to Redis yet\n")
    }
}

/// The JSON of `/status`. `ok` is the conjunction of `live` and of the `ok` of every part.
#[derive(Serialize)]
struct Status {
    ok: bool,
    version: &'static str,
    live: bool,
    ready: bool,
    draining: bool,
    redis: Part<SourceReport>,
    queue: Part<Queue>,
    certificate: Option<Part<CertificateReport>>,
    state: Option<Part<StateReport>>,
    history: HistoryReport,
    connections: i64,
    sockets: i64,
    rooms: i64,
}

#[derive(Serialize)]
struct Part<T> {
    ok: bool,
    #[serde(flatten)]
    report: T,
}

/// The lanes and their totals. The bounds hold for each lane: one lane can be full while the totals
/// are far below the sums of the bounds.
#[derive(Serialize)]
struct Queue {
    messages: usize,
    messages_max: usize,
    bytes: usize,
    bytes_max: usize,
    dropped: u64,
    lanes: Vec<LaneReport>,
}

impl Queue {
    fn look(lanes: Vec<LaneReport>) -> Part<Self> {
        let sum = |of: fn(&LaneReport) -> usize| lanes.iter().map(of).sum();
        let queue = Self {
            messages: sum(|lane| lane.messages),
            messages_max: sum(|lane| lane.messages_max),
            bytes: sum(|lane| lane.bytes),
            bytes_max: sum(|lane| lane.bytes_max),
            dropped: lanes.iter().map(|lane| lane.dropped).sum(),
            lanes,
        };
        Part { ok: queue.lanes.iter().all(|lane| lane.ok), report: queue }
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let Admin { health, metrics, queue, certificates, state, rooms } = &*admin;
    let source = health.source();
    let redis = Part { ok: source.state == SourceState::Subscribed, report: source };
    let queue = Queue::look(queue.lanes());
    let certificate = certificates.as_ref().map(|certificates| {
        let (ok, report) = certificates.report();
        Part { ok, report }
    });
    let state = state.as_ref().map(|state| {
        let (ok, report) = state.look();
        Part { ok, report }
    });
    let live = health.failure().is_none();
    let status = Status {
        ok: live
            && redis.ok
            && queue.ok
            && certificate.as_ref().is_none_or(|certificate| certificate.ok)
            && state.as_ref().is_none_or(|state| state.ok),
        version: env!("CARGO_PKG_VERSION"),
        live,
        ready: health.ready(),
        draining: health.draining(),
        redis,
        queue,
        certificate,
        state,
        history: rooms.history_report(),
        connections: metrics.connections.get(),
        sockets: metrics.sockets.get(),
        rooms: metrics.rooms.get(),
    };
    let code = if status.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(status))
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    // Sets the metric of the history's window.
    admin.rooms.history_report();
    ([(CONTENT_TYPE, OPENMETRICS)], admin.metrics.text())
}
