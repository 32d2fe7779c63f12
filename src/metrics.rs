//! Counters, gauges and a histogram, and their OpenMetrics text for Prometheus. Depends on no other
//! module.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

mod labels;
mod register;

pub use labels::{Close, DropReason, Handshake, Transport};
use labels::{GAPS, RECOVERED, REFUSALS, ROLES};
use register::{By, Register};

/// Upper bounds of the delay's buckets, in seconds: from the delay of a batch on an idle machine to
/// that of an overloaded server.
const DELAYS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// All metrics of one server. They are not global, so that tests in one process do not share them.
pub struct Metrics {
    register: Register,
    /// Open TCP connections on the public listener.
    pub connections: Gauge,
    /// Connections answered 503 because `MAX_CONNECTIONS` were open.
    pub refused: Counter,
    /// 1 if viewers need a token.
    pub tokens_required: Gauge,
    /// Sockets and renewals refused because their token was missing, wrong or expired.
    pub tokens_refused: Counter,
    /// Requests answered 403 because of the origin of the page that sent them.
    pub origins_refused: Counter,
    sessions: By<Gauge>,
    /// Sockets connected to the namespace.
    pub sockets: Gauge,
    /// Rooms with members or a history.
    pub rooms: Gauge,
    /// Bytes of the histories of all rooms.
    pub history_bytes: Gauge,
    /// The age of the oldest message of the history, in seconds.
    pub history_window: Gauge,
    /// Bytes queued for clients that are behind.
    pub backlog_bytes: Gauge,
    /// Bytes of requests and messages that have arrived in part.
    pub inbound_bytes: Gauge,
    /// Members of all rooms; a socket counts once per room.
    pub members: Gauge,
    joins: By<Counter>,
    /// Messages received from the source.
    pub messages: Counter,
    /// Messages from `POST /publish` that Redis has accepted.
    pub published: Counter,
    /// Messages handed to sockets.
    pub deliveries: Counter,
    /// Seconds from the arrival of a batch's first message until the whole batch was handed to the
    /// members; see `fanout`.
    pub delay: Histogram,
    drops: By<Counter>,
    gaps: By<Counter>,
    gap_seconds: By<Counter<f64, AtomicU64>>,
    refusals: By<Counter>,
    closes: By<Counter>,
    /// 1 while the server is subscribed and all messages arrive.
    pub source_up: Gauge,
    source_role: By<Gauge>,
    /// Subscriptions after the first.
    pub reconnects: Counter,
    /// Round trip of the last probe of the source, in seconds.
    pub round_trip: Gauge<f64, AtomicU64>,
    handshakes: By<Counter>,
    certificate_expiry: By<Gauge>,
    certificate_next_attempt: By<Gauge>,
    certificate_attempts: By<Counter>,
    /// 0 while nothing can be written to `STATE_DIR`.
    pub state_ok: Gauge,
    state_writes: By<Counter>,
    /// Tasks of connections that have panicked.
    pub panics: Counter,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// Messages queued between source and rooms.
    pub queue_messages: Gauge,
    /// Bytes of these messages: channels and payloads.
    pub queue_bytes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut new = Register::new();
        let metrics = Self {
            connections: new.one("connections", "Open public TCP connections"),
            refused: new.one(
                "connections_refused",
                "Connections answered 503 because MAX_CONNECTIONS were open",
            ),
            tokens_required: new.one("tokens_required", "1 if viewers need a token"),
            tokens_refused: new
                .one("tokens_refused", "Sockets and renewals refused because of their token"),
            origins_refused: new
                .one("origins_refused", "Requests answered 403 because of their page's origin"),
            sessions: new.by(
                "sessions",
                "Engine.IO sessions by transport",
                "transport",
                Transport::NAMES,
            ),
            sockets: new.one("sockets", "Sockets in the namespace"),
            rooms: new.one("rooms", "Rooms with members or a history"),
            history_bytes: new.one("history_bytes", "Bytes of all histories"),
            history_window: new.one(
                "history_window_seconds",
                "Age of the oldest message of the history, without those that are only kept as the \
                 latest one of their room",
            ),
            backlog_bytes: new.one("backlog_bytes", "Bytes queued for clients"),
            inbound_bytes: new
                .one("inbound_bytes", "Bytes of requests and messages that are not complete"),
            members: new.one("members", "Memberships over all rooms"),
            joins: new.by(
                "joins",
                "Joins, by whether all messages after the requested position were replayed",
                "recovered",
                RECOVERED,
            ),
            messages: new.one("messages", "Messages from the source"),
            published: new.one("published", "Messages published over HTTP"),
            deliveries: new.one("deliveries", "Messages handed to sockets"),
            delay: new.seconds(
                "delivery_delay",
                "From the arrival of a batch's first message until all members were handed the batch",
                Histogram::new(DELAYS),
            ),
            drops: new.by(
                "drops",
                "Messages dropped, by reason",
                "reason",
                DropReason::NAMES,
            ),
            gaps: new.by("gaps", "Gaps in the messages, by reason", "reason", GAPS),
            gap_seconds: new.seconds_by("gap", "Time that gaps span, by reason", "reason", GAPS),
            refusals: new.by(
                "refusals",
                "Requests and events refused, by reason",
                "reason",
                REFUSALS,
            ),
            closes: new.by(
                "closes",
                "Ends of sessions and event streams, and of other connections that the server ended",
                "reason",
                Close::NAMES,
            ),
            source_up: new.one("source_up", "1 while subscribed"),
            source_role: new.by("source_role", "1 for the role of the subscribed Redis", "role", ROLES),
            reconnects: new.one("source_reconnects", "Subscriptions after the first"),
            round_trip: new
                .one("source_round_trip_seconds", "Round trip of the last probe"),
            handshakes: new.by(
                "tls_handshakes",
                "TLS handshakes, by result",
                "result",
                Handshake::NAMES,
            ),
            certificate_expiry: new.seconds_by(
                "certificate_not_after",
                "When the certificate in use expires, since the Unix epoch; absent without one",
                "source",
                &[],
            ),
            certificate_next_attempt: new.seconds_by(
                "certificate_next_attempt",
                "When a certificate will be ordered next, since the Unix epoch",
                "source",
                &[],
            ),
            certificate_attempts: new.by(
                "certificate_attempts",
                "Orders of a certificate, by result",
                "result",
                &[],
            ),
            state_ok: new.one("state_ok", "0 while nothing can be written to STATE_DIR"),
            state_writes: new.by(
                "state_writes",
                "Records written to STATE_DIR, by result",
                "result",
                &["done", "failed"],
            ),
            panics: new.one("panics", "Connections that ended because their task panicked"),
            accept_errors: new.one(
                "accept_errors",
                "Connections that could not be accepted, usually for lack of open files",
            ),
            queue_messages: new.one("queue_messages", "Messages between source and rooms"),
            queue_bytes: new.one("queue_bytes", "Bytes of these messages"),
            register: new,
        };
        metrics.source_role("unknown");
        metrics.state_ok.set(1);
        metrics
    }
}

impl Metrics {
    /// Returns the gauge of open Engine.IO sessions on a transport.
    pub fn sessions(&self, transport: Transport) -> Gauge {
        self.sessions.get(transport.as_str())
    }

    /// Returns the counter of joins that asked for all messages after a position, by whether all of
    /// them were replayed; `None` = joins that did not ask.
    pub fn joins(&self, recovered: Option<bool>) -> Counter {
        self.joins.get(match recovered {
            Some(true) => "true",
            Some(false) => "false",
            None => "none",
        })
    }

    /// Returns the counter of messages dropped for a reason.
    pub fn dropped(&self, reason: DropReason) -> Counter {
        self.drops.get(reason.as_str())
    }

    /// Returns the counter of gaps for a reason, one of `GAPS`.
    pub fn gaps(&self, reason: &'static str) -> Counter {
        self.gaps.get(reason)
    }

    /// Returns the counter of the seconds that gaps for a reason span.
    pub fn gap_seconds(&self, reason: &'static str) -> Counter<f64, AtomicU64> {
        self.gap_seconds.get(reason)
    }

    /// Returns the counter of requests and events refused for a reason, one of `REFUSALS`.
    pub fn refusals(&self, reason: &'static str) -> Counter {
        self.refusals.get(reason)
    }

    /// Returns the counter of ends for a reason.
    pub fn closed(&self, reason: Close) -> Counter {
        self.closes.get(reason.as_str())
    }

    /// Sets the role of the subscribed Redis: `master`, `replica` or `unknown`.
    pub fn source_role(&self, role: &'static str) {
        for known in ROLES {
            self.source_role.get(known).set((*known == role).into());
        }
    }

    /// Returns the counter of TLS handshakes with a result.
    pub fn handshakes(&self, result: Handshake) -> Counter {
        self.handshakes.get(result.as_str())
    }

    /// Sets when the certificate in use expires, in seconds since the Unix epoch; `source` is
    /// `files` or `acme`.
    pub fn certificate_expires(&self, source: &'static str, at: u64) {
        self.certificate_expiry.get(source).set(at as i64);
    }

    /// Sets when a certificate will be ordered next, in seconds since the Unix epoch.
    pub fn certificate_next_attempt(&self, source: &'static str, at: u64) {
        self.certificate_next_attempt.get(source).set(at as i64);
    }

    /// Returns the counter of certificate orders with a result: `done`, or the kind of failure.
    pub fn certificate_attempts(&self, result: &'static str) -> Counter {
        self.certificate_attempts.get(result)
    }

    /// Returns the counter of records written to `STATE_DIR` with a result: `done` or `failed`.
    pub fn state_writes(&self, result: &'static str) -> Counter {
        self.state_writes.get(result)
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        self.register.text()
    }
}
