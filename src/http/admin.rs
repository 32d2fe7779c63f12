//! Health and metrics: what operators and platforms ask.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use serde::Serialize;

use super::hosts::{self, Hosts};
use crate::{
    health::{Health, SourceReport, SourceState},
    ingest::{LaneReport, Progress},
    metrics::Metrics,
    rooms::snapshot::{Report, StateReport},
    tls::certificates::{CertificateReport, Certificates},
};

/// Prometheus' name for what [`Metrics::text`] writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is told about.
pub struct Admin {
    /// Source and drain.
    pub health: Arc<Health>,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// The queues between source and rooms.
    pub queue: Progress,
    /// What HTTPS is served with; `None` = plain HTTP.
    pub certificates: Option<Arc<Certificates>>,
    /// How writing to `STATE_DIR` goes; `None` = it is not set.
    pub state: Option<Arc<Report>>,
}

/// Routes of the admin listener.
pub fn routes(admin: Arc<Admin>, hosts: Option<Hosts>) -> Router {
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .with_state(admin);
    hosts::guard(routes, hosts)
}

/// The process runs, and so do its core tasks.
pub async fn livez(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match admin.health.failure() {
        None => (StatusCode::OK, "live\n".to_owned()),
        Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
    }
}

/// Traffic may come.
pub async fn readyz(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    if admin.health.ready() {
        (StatusCode::OK, "ready\n")
    } else if admin.health.draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not subscribed yet\n")
    }
}

/// The whole truth.
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

/// The lanes, and their sum. The bounds are each lane's own: one can be full while the sum is small.
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
    let Admin { health, metrics, queue, certificates, state } = &*admin;
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
        connections: metrics.connections.get(),
        sockets: metrics.sockets.get(),
        rooms: metrics.rooms.get(),
    };
    let code = if status.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(status))
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPENMETRICS)], admin.metrics.text())
}
