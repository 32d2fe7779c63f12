//! The values of the metrics' labels; logs use the same names.

/// An enum whose variants have names.
macro_rules! label {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The names of all variants, in their order.
            pub const NAMES: &[&'static str] = &[$($value),*];

            /// The name in logs and metrics.
            pub fn as_str(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

label! {
    /// Why a message that arrived was not handed on.
    DropReason {
        /// Our queue between Redis and the rooms was full.
        QueueFull = "queue_full",
        /// Its channel can be no room's name, so no client can have joined it.
        BadChannel = "bad_channel",
        /// Its payload was larger than `MAX_PAYLOAD`.
        TooLarge = "too_large",
    }
}

label! {
    /// Why a session, a stream of events or another connection ended. A session ends for one reason;
    /// the ends of other connections count where the server cut them.
    Close {
        /// Its peer took no more for longer than `SLOW_AFTER`.
        Slow = "slow",
        /// So many messages waited for it that its queue was full.
        QueueFull = "queue_full",
        /// Too much waited for all viewers together, and for this one the most.
        Backlog = "backlog",
        /// It went on sending events at an excessive rate.
        TooFast = "too_fast",
        /// It was still open when the grace was over.
        Drain = "drain",
        /// Its token had expired.
        Expired = "expired",
        /// The server stops; the connection was closed in order.
        Stop = "stop",
        /// The client left: it said so, or closed its connection in order.
        Client = "client",
        /// The client did not answer the heartbeat in time.
        PingTimeout = "ping_timeout",
        /// The connection broke.
        TransportError = "transport_error",
        /// The client sent something that is no packet, or two polls at once.
        BadPacket = "bad_packet",
        /// It ended before it had entered the namespace, or its handshake was refused.
        NotConnected = "not_connected",
    }
}

label! {
    /// How a session's bytes travel.
    Transport {
        /// HTTP long-polling.
        Polling = "polling",
        /// A WebSocket, direct or after an upgrade.
        WebSocket = "websocket",
    }
}

label! {
    /// How a TLS handshake went.
    Handshake {
        /// Both sides agreed.
        Done = "done",
        /// One of them refused, or went away.
        Failed = "failed",
        /// It took longer than it may.
        Late = "late",
    }
}

/// Why requests and events are refused: the codes that clients see in answers to their events, and
/// what HTTP has a status for.
pub const REFUSALS: &[&str] = &[
    "address",
    "bad_request",
    "bad_room",
    "bad_token",
    "body_time",
    "forbidden",
    "head_time",
    "head_too_large",
    "host",
    "sessions",
    "too_early",
    "too_fast",
    "too_large",
    "too_many_rooms",
    "unsupported",
];

/// Why messages may be missing.
pub const GAPS: &[&str] = &["source_lost", "queue_full", "too_large"];

/// What the watched Redis is.
pub const ROLES: &[&str] = &["master", "replica", "unknown"];

/// Whether a join has all that came after the position it asked for; `none`: it asked for none.
pub const RECOVERED: &[&str] = &["true", "false", "none"];
