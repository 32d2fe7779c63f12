//! Counters, gauges and a histogram, and Prometheus' text of them. Knows nobody of the house.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

mod labels;
mod register;

pub use labels::{Close, DropReason, Handshake, Transport};
use labels::{GAPS, RECOVERED, REFUSALS, ROLES};
use register::{By, Register};

/// Upper bounds of the delay's buckets, in seconds: from what a batch takes on an idle machine to
/// what only a server that cannot keep up needs.
const DELAYS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// All of the server's metrics; every instance has its own, so that tests do not share them.
pub struct Metrics {
    register: Register,
    /// Open TCP connections on the public listener.
    pub connections: Gauge,
    /// Connections answered 503 because `MAX_CONNECTIONS` were open.
    pub refused: Counter,
    /// 1 if nobody watches without a token.
    pub tokens_required: Gauge,
    /// Sockets and renewals refused because their token was missing, wrong or expired.
    pub tokens_refused: Counter,
    /// Requests answered 403 because of the page that they came from.
    pub origins_refused: Counter,
    sessions: By<Gauge>,
    /// Sockets connected to the namespace.
    pub sockets: Gauge,
    /// Rooms with members or a past.
    pub rooms: Gauge,
    /// Bytes that their pasts take.
    pub history_bytes: Gauge,
    /// Bytes that wait for viewers.
    pub backlog_bytes: Gauge,
    /// Memberships, over all rooms.
    pub members: Gauge,
    joins: By<Counter>,
    /// Messages that came from the source.
    pub messages: Counter,
    /// Messages that Redis has taken from `POST /publish`.
    pub published: Counter,
    /// Messages handed to sockets.
    pub deliveries: Counter,
    /// Seconds from a batch's first arrival until all of it was handed out; see `fanout`.
    pub delay: Histogram,
    drops: By<Counter>,
    gaps: By<Counter>,
    gap_seconds: By<Counter<f64, AtomicU64>>,
    refusals: By<Counter>,
    closes: By<Counter>,
    /// 1 while the subscription stands.
    pub source_up: Gauge,
    source_role: By<Gauge>,
    /// Subscriptions after the first.
    pub reconnects: Counter,
    /// Seconds that the last probe of the source took.
    pub round_trip: Gauge<f64, AtomicU64>,
    handshakes: By<Counter>,
    certificate_expiry: By<Gauge>,
    certificate_next_attempt: By<Gauge>,
    certificate_attempts: By<Counter>,
    /// 0 while nothing can be written to `STATE_DIR`.
    pub state_ok: Gauge,
    state_writes: By<Counter>,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// Messages that wait between source and rooms.
    pub queue_messages: Gauge,
    /// Their bytes: channels and payloads.
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
            tokens_required: new.one("tokens_required", "1 if nobody watches without a token"),
            tokens_refused: new
                .one("tokens_refused", "Sockets and renewals refused because of their token"),
            origins_refused: new
                .one("origins_refused", "Requests of pages that ALLOWED_ORIGINS does not name"),
            sessions: new.by(
                "sessions",
                "Engine.IO sessions by transport",
                "transport",
                Transport::NAMES,
            ),
            sockets: new.one("sockets", "Sockets in the namespace"),
            rooms: new.one("rooms", "Rooms with members or a history"),
            history_bytes: new.one("history_bytes", "Bytes of all histories"),
            backlog_bytes: new.one("backlog_bytes", "Bytes that wait for viewers"),
            members: new.one("members", "Memberships over all rooms"),
            joins: new.by(
                "joins",
                "Joins, by whether all was replayed since the position that was asked for",
                "recovered",
                RECOVERED,
            ),
            messages: new.one("messages", "Messages from the source"),
            published: new.one("published", "Messages published over HTTP"),
            deliveries: new.one("deliveries", "Messages handed to sockets"),
            delay: new.seconds(
                "delivery_delay",
                "From a batch's first arrival from Redis until all of it was handed to its members",
                Histogram::new(DELAYS),
            ),
            drops: new.by(
                "drops",
                "Messages not handed on, by reason",
                "reason",
                DropReason::NAMES,
            ),
            gaps: new.by("gaps", "Gaps in the messages, by reason", "reason", GAPS),
            gap_seconds: new.seconds_by("gap", "The time they span, by reason", "reason", GAPS),
            refusals: new.by(
                "refusals",
                "Requests and events not answered, by reason",
                "reason",
                REFUSALS,
            ),
            closes: new.by(
                "closes",
                "Ends of sessions and event streams, and of other connections that the server cut",
                "reason",
                Close::NAMES,
            ),
            source_up: new.one("source_up", "1 while subscribed"),
            source_role: new.by("source_role", "1 for what the watched Redis is", "role", ROLES),
            reconnects: new.one("source_reconnects", "Subscriptions made again"),
            round_trip: new
                .one("source_round_trip_seconds", "What the last probe of the source took"),
            handshakes: new.by(
                "tls_handshakes",
                "TLS handshakes, by how they went",
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
                "Orders of a certificate, by how they went",
                "result",
                &[],
            ),
            state_ok: new.one("state_ok", "0 while nothing can be written to STATE_DIR"),
            state_writes: new.by(
                "state_writes",
                "Records written to STATE_DIR, by how that went",
                "result",
                &["done", "failed"],
            ),
            accept_errors: new.one(
                "accept_errors",
                "Times that a connection could not be accepted, for want of open files above all",
            ),
            queue_messages: new.one("queue_messages", "Messages between source and rooms"),
            queue_bytes: new.one("queue_bytes", "Their bytes"),
            register: new,
        };
        metrics.source_role("unknown");
        metrics.state_ok.set(1);
        metrics
    }
}

impl Metrics {
    /// Engine.IO sessions on a transport.
    pub fn sessions(&self, transport: Transport) -> Gauge {
        self.sessions.get(transport.as_str())
    }

    /// Joins that asked for what came after a position, and got all of it or not; `None`: that did
    /// not ask.
    pub fn joins(&self, recovered: Option<bool>) -> Counter {
        self.joins.get(match recovered {
            Some(true) => "true",
            Some(false) => "false",
            None => "none",
        })
    }

    /// Messages dropped for a reason.
    pub fn dropped(&self, reason: DropReason) -> Counter {
        self.drops.get(reason.as_str())
    }

    /// Gaps for a reason.
    pub fn gaps(&self, reason: &'static str) -> Counter {
        self.gaps.get(reason)
    }

    /// Seconds that they span.
    pub fn gap_seconds(&self, reason: &'static str) -> Counter<f64, AtomicU64> {
        self.gap_seconds.get(reason)
    }

    /// Requests and events that were refused for a reason: one of `REFUSALS`.
    pub fn refusals(&self, reason: &'static str) -> Counter {
        self.refusals.get(reason)
    }

    /// Ends for a reason.
    pub fn closed(&self, reason: Close) -> Counter {
        self.closes.get(reason.as_str())
    }

    /// What the watched Redis is: `master`, `replica` or `unknown`.
    pub fn source_role(&self, role: &'static str) {
        for known in ROLES {
            self.source_role.get(known).set((*known == role).into());
        }
    }

    /// TLS handshakes that went a certain way.
    pub fn handshakes(&self, result: Handshake) -> Counter {
        self.handshakes.get(result.as_str())
    }

    /// When the certificate in use expires, in seconds since the Unix epoch, by where it is from.
    pub fn certificate_expires(&self, source: &'static str, at: u64) {
        self.certificate_expiry.get(source).set(at as i64);
    }

    /// When a certificate will be ordered next, in seconds since the Unix epoch.
    pub fn certificate_next_attempt(&self, source: &'static str, at: u64) {
        self.certificate_next_attempt.get(source).set(at as i64);
    }

    /// Orders of a certificate that went a certain way: done, or what went wrong.
    pub fn certificate_attempts(&self, result: &'static str) -> Counter {
        self.certificate_attempts.get(result)
    }

    /// Records of the history that went a certain way: done or failed.
    pub fn state_writes(&self, result: &'static str) -> Counter {
        self.state_writes.get(result)
    }

    /// All of them in the OpenMetrics text format.
    pub fn text(&self) -> String {
        self.register.text()
    }
}
