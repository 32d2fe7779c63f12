//! What a client is told when its session ends.

use bytes::Bytes;

use crate::{engine::frame, metrics::Close};

/// The close frame for an end that the server decides.
pub fn close_frame(reason: Close) -> Bytes {
    frame::close(close_code(reason), close_text(reason))
}

/// The WebSocket close code for an end that the server decides.
pub fn close_code(reason: Close) -> u16 {
    match reason {
        Close::Stop | Close::Drain => frame::GOING_AWAY,
        Close::TooFast | Close::NotConnected => frame::POLICY,
        Close::Slow | Close::QueueFull | Close::Backlog | Close::Inbound | Close::Sessions => {
            frame::TRY_AGAIN_LATER
        }
        Close::BadPacket => frame::PROTOCOL_ERROR,
        Close::Expired | Close::Client | Close::PingTimeout | Close::TransportError => {
            frame::NORMAL
        }
    }
}

/// The reason in the close frame, for the client's developer.
fn close_text(reason: Close) -> &'static str {
    match reason {
        Close::Stop | Close::Drain => "the server is stopping",
        Close::TooFast => "too many packets a second",
        Close::NotConnected => "no CONNECT in time",
        Close::Slow => "the client read too slowly",
        Close::QueueFull => "too much was waiting for the client",
        Close::Backlog => "too much was waiting for all clients",
        Close::Inbound => "too many bytes of incomplete messages from all clients",
        Close::Sessions => "too many polling sessions",
        Close::BadPacket => "an invalid packet",
        Close::Expired => "the token has expired",
        Close::PingTimeout => "no answer to the heartbeat",
        Close::Client | Close::TransportError => "",
    }
}

/// Whether the end is worth a line in the log.
pub fn is_server_decision(reason: Close) -> bool {
    !matches!(reason, Close::Client | Close::TransportError | Close::Stop | Close::NotConnected)
}
