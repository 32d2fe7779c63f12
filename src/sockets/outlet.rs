//! A socket as a member of a room: messages on their way into the engine's queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use socketioxide::{SendError, SocketError, extract::SocketRef};
use tracing::error;

use super::viewer::Viewer;
use crate::{broker::Gap, delivery::Delivery, history::Kept, metrics::Close, rooms::Outlet};

/// One membership of one socket.
pub struct SocketOutlet {
    socket: SocketRef,
    viewer: Arc<Viewer>,
    meta: bool,
    /// Held while messages go out: who closes it knows that none comes after.
    open: Mutex<bool>,
}

impl SocketOutlet {
    /// `meta`: whether messages come with their place.
    pub fn new(socket: SocketRef, viewer: Arc<Viewer>, meta: bool) -> Self {
        Self { socket, viewer, meta, open: Mutex::new(true) }
    }

    /// Takes nothing more, also of what is on its way.
    pub fn close(&self) {
        *lock(&self.open) = false;
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
        let open = lock(&self.open);
        if !*open {
            return 0;
        }
        let (mut taken, mut bytes, mut end) = (0, 0, None);
        for delivery in batch {
            match self.emit(delivery) {
                Ok(()) => (taken, bytes) = (taken + 1, bytes + delivery.payload.len()),
                Err(SendError::Socket(SocketError::InternalChannelFull)) => {
                    end = Some(Close::QueueFull);
                    break;
                }
                // Its end is on the way to us.
                Err(SendError::Socket(_)) => break,
                Err(SendError::Serialize(error)) => error!("cannot encode a message: {error}"),
            }
        }
        drop(open);
        if let Some(reason) = end.or_else(|| self.viewer.session().queued(bytes)) {
            self.viewer.end(reason);
        }
        taken
    }

    fn gap(&self, room: &str, gap: &Gap) {
        #[derive(Serialize)]
        struct Told<'a> {
            room: &'a str,
            #[serde(flatten)]
            gap: &'a Gap,
        }
        if self.meta && *lock(&self.open) {
            // A queue that is full is found by the next message.
            let _ = self.socket.emit("gap", &Told { room, gap });
        }
    }

    fn hello(&self) {
        // No arguments, as in the demo.
        let _ = self.socket.emit("hello", &[(); 0]);
    }
}

fn lock(open: &Mutex<bool>) -> MutexGuard<'_, bool> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that become a binary attachment.
struct Binary<'a>(&'a Bytes);

impl Serialize for Binary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
