//! Counters and gauges, and Prometheus' text of them. Knows nobody of the house.

pub use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::text::encode,
    metrics::{family::Family, info::Info},
    registry::{Registry, Unit},
};

/// Why requests and events are refused: the codes that clients see in answers to their events, and
/// what HTTP has a status for.
const REFUSALS: [&str; 14] = [
    "address",
    "bad_request",
    "bad_room",
    "bad_token",
    "body_time",
    "forbidden",
    "head_time",
    "head_too_large",
    "sessions",
    "too_early",
    "too_fast",
    "too_large",
    "too_many_rooms",
    "unsupported",
];

type Label = [(&'static str, &'static str); 1];

/// Why a message that arrived was not handed on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Drop {
    /// Our queue between Redis and the rooms was full.
    QueueFull,
    /// Its channel can be no room's name, so nobody can have joined it.
    BadChannel,
    /// Its payload was larger than `MAX_PAYLOAD`.
    TooLarge,
}

/// Why the server ended a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Close {
    /// Its peer took no more for longer than `SLOW_AFTER`.
    Slow,
    /// So many messages waited for it that its queue was full.
    QueueFull,
    /// Too much waited for all viewers together, and for this one the most.
    Backlog,
    /// It went on sending events at an absurd rate.
    TooFast,
    /// It was still open when the grace was over.
    Drain,
    /// Its token had expired, and it took no more.
    Expired,
}

impl Close {
    /// The reason as logs and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::QueueFull => "queue_full",
            Self::Backlog => "backlog",
            Self::TooFast => "too_fast",
            Self::Drain => "drain",
            Self::Expired => "expired",
        }
    }
}

/// How a session's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// A WebSocket, direct or after an upgrade.
    WebSocket,
}

/// How a TLS handshake went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Handshake {
    /// Both sides agreed.
    Done,
    /// One of them refused, or went away.
    Failed,
    /// It took longer than it may.
    Late,
}

/// All of the server's metrics; every instance has its own, so that tests do not share them.
pub struct Metrics {
    registry: Registry,
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
    sessions: Family<Label, Gauge>,
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
    /// Messages that came from the source.
    pub messages: Counter,
    /// Messages that Redis has taken from `POST /publish`.
    pub published: Counter,
    /// Messages handed to sockets.
    pub deliveries: Counter,
    drops: Family<Label, Counter>,
    refusals: Family<Label, Counter>,
    closes: Family<Label, Counter>,
    /// 1 while the subscription stands.
    pub source_up: Gauge,
    /// Subscriptions after the first.
    pub reconnects: Counter,
    /// Seconds that the last probe of the source took.
    pub round_trip: Gauge<f64, AtomicU64>,
    handshakes: Family<Label, Counter>,
    certificate_expiry: Family<Label, Gauge>,
    certificate_next_attempt: Family<Label, Gauge>,
    certificate_attempts: Family<Label, Counter>,
    /// 0 while nothing can be written to `STATE_DIR`.
    pub state_ok: Gauge,
    state_writes: Family<Label, Counter>,
    /// Connections that could not be accepted.
    pub accept_errors: Counter,
    /// Messages that wait between source and rooms.
    pub queue_messages: Gauge,
    /// Their bytes: channels and payloads.
    pub queue_bytes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("roomcast");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version that runs", Info::new(version));
        let mut metrics = Self {
            registry,
            connections: Gauge::default(),
            refused: Counter::default(),
            tokens_required: Gauge::default(),
            tokens_refused: Counter::default(),
            origins_refused: Counter::default(),
            sessions: Family::default(),
            sockets: Gauge::default(),
            rooms: Gauge::default(),
            history_bytes: Gauge::default(),
            backlog_bytes: Gauge::default(),
            members: Gauge::default(),
            messages: Counter::default(),
            published: Counter::default(),
            deliveries: Counter::default(),
            drops: Family::default(),
            refusals: Family::default(),
            closes: Family::default(),
            source_up: Gauge::default(),
            reconnects: Counter::default(),
            round_trip: Gauge::default(),
            handshakes: Family::default(),
            certificate_expiry: Family::default(),
            certificate_next_attempt: Family::default(),
            certificate_attempts: Family::default(),
            state_ok: Gauge::default(),
            state_writes: Family::default(),
            accept_errors: Counter::default(),
            queue_messages: Gauge::default(),
            queue_bytes: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("connections", "Open public TCP connections", self.connections.clone());
        registry.register(
            "connections_refused",
            "Connections answered 503 because MAX_CONNECTIONS were open",
            self.refused.clone(),
        );
        registry.register(
            "tokens_required",
            "1 if nobody watches without a token",
            self.tokens_required.clone(),
        );
        registry.register(
            "tokens_refused",
            "Sockets and renewals refused because of their token",
            self.tokens_refused.clone(),
        );
        registry.register(
            "origins_refused",
            "Requests of pages that ALLOWED_ORIGINS does not name",
            self.origins_refused.clone(),
        );
        registry.register("sessions", "Engine.IO sessions by transport", self.sessions.clone());
        registry.register("sockets", "Sockets in the namespace", self.sockets.clone());
        registry.register("rooms", "Rooms with members or a history", self.rooms.clone());
        registry.register("history_bytes", "Bytes of all histories", self.history_bytes.clone());
        registry.register(
            "backlog_bytes",
            "Bytes that wait for viewers",
            self.backlog_bytes.clone(),
        );
        registry.register("members", "Memberships over all rooms", self.members.clone());
        registry.register("messages", "Messages from the source", self.messages.clone());
        registry.register("published", "Messages published over HTTP", self.published.clone());
        registry.register("deliveries", "Messages handed to sockets", self.deliveries.clone());
        registry.register("drops", "Messages not handed on, by reason", self.drops.clone());
        registry.register(
            "refusals",
            "Requests and events not answered, by reason",
            self.refusals.clone(),
        );
        registry.register(
            "closes",
            "Connections cut by the server, by reason",
            self.closes.clone(),
        );
        registry.register("source_up", "1 while subscribed", self.source_up.clone());
        registry.register("source_reconnects", "Subscriptions made again", self.reconnects.clone());
        registry.register(
            "source_round_trip_seconds",
            "What the last probe of the source took",
            self.round_trip.clone(),
        );
        registry.register(
            "queue_messages",
            "Messages between source and rooms",
            self.queue_messages.clone(),
        );
        registry.register("queue_bytes", "Their bytes", self.queue_bytes.clone());
        registry.register(
            "tls_handshakes",
            "TLS handshakes, by how they went",
            self.handshakes.clone(),
        );
        registry.register_with_unit(
            "certificate_not_after",
            "When the certificate in use expires, since the Unix epoch; absent without one",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        registry.register_with_unit(
            "certificate_next_attempt",
            "When a certificate will be ordered next, since the Unix epoch",
            Unit::Seconds,
            self.certificate_next_attempt.clone(),
        );
        registry.register(
            "certificate_attempts",
            "Orders of a certificate, by how they went",
            self.certificate_attempts.clone(),
        );
        registry.register(
            "state_ok",
            "0 while nothing can be written to STATE_DIR",
            self.state_ok.clone(),
        );
        registry.register(
            "state_writes",
            "Records written to STATE_DIR, by how that went",
            self.state_writes.clone(),
        );
        registry.register(
            "accept_errors",
            "Times that a connection could not be accepted, for want of open files above all",
            self.accept_errors.clone(),
        );
        self.state_ok.set(1);
        // A series that is there from the start can be alerted on before its first event.
        for transport in [Transport::Polling, Transport::WebSocket] {
            self.sessions(transport);
        }
        for reason in [Drop::QueueFull, Drop::BadChannel, Drop::TooLarge] {
            self.dropped(reason);
        }
        for reason in REFUSALS {
            self.refusals(reason);
        }
        for result in ["done", "failed"] {
            self.state_writes(result);
        }
        for result in [Handshake::Done, Handshake::Failed, Handshake::Late] {
            self.handshakes(result);
        }
        for reason in [
            Close::Slow,
            Close::QueueFull,
            Close::Backlog,
            Close::TooFast,
            Close::Drain,
            Close::Expired,
        ] {
            self.closed(reason);
        }
    }

    /// Engine.IO sessions on a transport.
    pub fn sessions(&self, transport: Transport) -> Gauge {
        let name = match transport {
            Transport::Polling => "polling",
            Transport::WebSocket => "websocket",
        };
        self.sessions.get_or_create_owned(&[("transport", name)])
    }

    /// Messages dropped for a reason.
    pub fn dropped(&self, reason: Drop) -> Counter {
        let name = match reason {
            Drop::QueueFull => "queue_full",
            Drop::BadChannel => "bad_channel",
            Drop::TooLarge => "too_large",
        };
        self.drops.get_or_create_owned(&[("reason", name)])
    }

    /// Requests and events that were refused for a reason: one of `REFUSALS`.
    pub fn refusals(&self, reason: &'static str) -> Counter {
        self.refusals.get_or_create_owned(&[("reason", reason)])
    }

    /// Connections ended for a reason.
    pub fn closed(&self, reason: Close) -> Counter {
        self.closes.get_or_create_owned(&[("reason", reason.as_str())])
    }

    /// TLS handshakes that went a certain way.
    pub fn handshakes(&self, result: Handshake) -> Counter {
        let name = match result {
            Handshake::Done => "done",
            Handshake::Failed => "failed",
            Handshake::Late => "late",
        };
        self.handshakes.get_or_create_owned(&[("result", name)])
    }

    /// When the certificate in use expires, in seconds since the Unix epoch, by where it is from.
    pub fn certificate_expires(&self, source: &'static str, at: u64) {
        self.certificate_expiry.get_or_create_owned(&[("source", source)]).set(at as i64);
    }

    /// When a certificate will be ordered next, in seconds since the Unix epoch.
    pub fn certificate_next_attempt(&self, source: &'static str, at: u64) {
        self.certificate_next_attempt.get_or_create_owned(&[("source", source)]).set(at as i64);
    }

    /// Orders of a certificate that went a certain way: done, or what went wrong.
    pub fn certificate_attempts(&self, result: &'static str) -> Counter {
        self.certificate_attempts.get_or_create_owned(&[("result", result)])
    }

    /// Records of the history that went a certain way: done or failed.
    pub fn state_writes(&self, result: &'static str) -> Counter {
        self.state_writes.get_or_create_owned(&[("result", result)])
    }

    /// All of them in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
