//! The values of the metrics' labels. Log lines use the same names.

/// Defines an enum whose variants have names.
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
            /// The names of all variants, in the order of the variants.
            pub const NAMES: &[&'static str] = &[$($value),*];

            /// Returns the name in logs and metrics.
            pub fn as_str(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

label! {
    /// Why a received message was dropped.
    DropReason {
        /// The queue between Redis and the rooms was full.
        QueueFull = "queue_full",
        /// Its channel is no valid room name, so no client can have joined it.
        BadChannel = "bad_channel",
        /// Its payload was larger than `MAX_PAYLOAD`.
        TooLarge = "too_large",
    }
}

label! {
    /// Why a session, an event stream or another connection ended. A session ends for one reason;
    /// the ends of other connections count only if the server has ended them.
    Close {
        /// The client accepted no more data for longer than `SLOW_AFTER`.
        Slow = "slow",
        /// The queue of messages for the client was full.
        QueueFull = "queue_full",
        /// The backlogs of all clients exceeded their limit, and this client's was the largest.
        Backlog = "backlog",
        /// Clients had sent too many bytes of requests and messages that were not complete, and this
        /// client's were the largest.
        Inbound = "inbound",
        /// The client went on sending events at an excessive rate.
        TooFast = "too_fast",
        /// The connection was still open when the grace was over.
        Drain = "drain",
        /// The client's token had expired.
        Expired = "expired",
        /// The server is stopping and has closed the connection in order.
        Stop = "stop",
        /// The client left: it sent a close packet, or closed its connection in order.
        Client = "client",
        /// The client did not answer the heartbeat in time.
        PingTimeout = "ping_timeout",
        /// The connection broke.
        TransportError = "transport_error",
        /// The client sent an invalid packet, or two polls at once.
        BadPacket = "bad_packet",
        /// The server held as many polling sessions as it may, and this one made room for another.
        Sessions = "sessions",
        /// The session ended before it had entered the namespace, or its handshake was refused.
        NotConnected = "not_connected",
    }
}

label! {
    /// Transport of an Engine.IO session.
    Transport {
        /// HTTP long-polling.
        Polling = "polling",
        /// A WebSocket, direct or after an upgrade.
        WebSocket = "websocket",
    }
}

label! {
    /// Result of a TLS handshake.
    Handshake {
        /// It succeeded.
        Done = "done",
        /// One side refused it or closed the connection.
        Failed = "failed",
        /// It exceeded its time limit.
        Late = "late",
    }
}

/// Reasons for which requests and events are refused: the error codes in answers to events, and the
/// reasons of HTTP errors.
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
    "too_fast",
    "too_large",
    "too_many_rooms",
    "unsupported",
];

/// Reasons of gaps: why messages may be missing.
pub const GAPS: &[&str] = &["source_lost", "queue_full", "too_large"];

/// Roles of the subscribed Redis.
pub const ROLES: &[&str] = &["master", "replica", "unknown"];

/// Whether a join got all messages after the requested position; `none` = it requested none.
pub const RECOVERED: &[&str] = &["true", "false", "none"];
