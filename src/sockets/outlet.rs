//! A socket as a member of a room: messages on their way into the engine's queue.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use socketioxide::{SendError, SocketError, TransportType, extract::SocketRef};
use tracing::error;

use super::viewer::Viewer;
use crate::{broker::Gap, delivery::Delivery, history::Kept, metrics::Close, rooms::Outlet};

/// One membership of one socket.
pub struct SocketOutlet {
    socket: SocketRef,
    viewer: Arc<Viewer>,
    meta: bool,
}

impl SocketOutlet {
    /// `meta`: whether messages come with their place.
    pub fn new(socket: SocketRef, viewer: Arc<Viewer>, meta: bool) -> Self {
        Self { socket, viewer, meta }
    }

    /// Sends what is kept of a room's past, oldest first. Under the room's lock.
    pub fn replay(&self, room: &Arc<str>, messages: Vec<Kept>) {
        for kept in messages {
            if self.emit(&Delivery::again(room.clone(), kept)).is_err() {
                // The client does not even take its past: its stream ends, and with that the rest.
                return self.viewer.session().end(Close::QueueFull);
            }
        }
    }

    fn emit(&self, delivery: &Delivery) -> Result<(), SendError> {
        match (delivery.text(), self.meta) {
            (Some(text), false) => self.socket.emit("message", text),
            (Some(text), true) => self.socket.emit("message", &(text, delivery.meta())),
            (None, false) => self.socket.emit("message", &Binary(&delivery.payload)),
            (None, true) => {
                self.socket.emit("message", &(Binary(&delivery.payload), delivery.meta()))
            }
        }
    }
}

impl Outlet for SocketOutlet {
    fn deliver(&self, batch: &[Delivery]) -> usize {
        for (taken, delivery) in batch.iter().enumerate() {
            if self.viewer.is_gone() {
                return taken;
            }
            match self.emit(delivery) {
                Ok(()) => {}
                Err(SendError::Socket(SocketError::InternalChannelFull)) => {
                    self.viewer.end(Close::QueueFull);
                    return taken;
                }
                // Its end is on the way to us.
                Err(SendError::Socket(_)) => return taken,
                Err(SendError::Serialize(error)) => error!("cannot encode a message: {error}"),
            }
        }
        // A WebSocket's stream has a clock of its own.
        let polling = self.socket.transport_type() == TransportType::Polling;
        if polling && self.viewer.session().is_behind() {
            self.viewer.end(Close::Slow);
        }
        batch.len()
    }

    fn gap(&self, room: &str, gap: &Gap) {
        #[derive(Serialize)]
        struct Told<'a> {
            room: &'a str,
            #[serde(flatten)]
            gap: &'a Gap,
        }
        if self.meta {
            // A queue that is full is found by the next message.
            let _ = self.socket.emit("gap", &Told { room, gap });
        }
    }

    fn hello(&self) {
        // No arguments, as in the demo.
        let _ = self.socket.emit("hello", &[(); 0]);
    }
}

/// Bytes that become a binary attachment.
struct Binary<'a>(&'a Bytes);

impl Serialize for Binary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
