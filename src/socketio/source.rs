//! A socket that is told about outages of the source: the event `source`, once a socket.

use std::sync::Arc;

use socketioxide::extract::SocketRef;

use super::{session::Session, subscriber::queued};
use crate::{
    health::SourceSignal,
    outages::{Listener, Told},
};

/// A socket that has joined a room with `meta`.
pub struct SourceOutlet {
    socket: SocketRef,
    session: Arc<Session>,
    told: Told,
}

impl SourceOutlet {
    /// A socket that was told nothing yet.
    pub fn new(socket: SocketRef, session: Arc<Session>, told: Told) -> Arc<Self> {
        Arc::new(Self { socket, session, told })
    }
}

impl Listener for SourceOutlet {
    fn told(&self) -> &Told {
        &self.told
    }

    fn tell(&self, signal: SourceSignal) {
        // Perhaps under a room's lock, so the viewer stays in it until the stream's end is noticed.
        if let Err(reason) = queued(self.socket.emit("source", &signal)) {
            self.session.end(reason);
        }
    }
}
