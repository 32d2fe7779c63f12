//! Outages of the source are emitted to sockets as the event `source`, once per socket.

use std::sync::Arc;

use socketioxide::extract::SocketRef;

use super::{session::Session, subscriber::queued};
use crate::{
    health::SourceSignal,
    outages::{Listener, Told},
};

/// A socket that has joined at least one room with `meta`, and so receives the event `source`. All
/// its rooms share one outlet.
pub struct SourceOutlet {
    socket: SocketRef,
    session: Arc<Session>,
    told: Told,
}

impl SourceOutlet {
    /// An outlet for `socket`; `told` remembers the last signal that was emitted.
    pub fn new(socket: SocketRef, session: Arc<Session>, told: Told) -> Arc<Self> {
        Arc::new(Self { socket, session, told })
    }
}

impl Listener for SourceOutlet {
    fn told(&self) -> &Told {
        &self.told
    }

    fn tell(&self, signal: SourceSignal) {
        // The caller may hold a room's lock, so this ends only the session. The viewer leaves its
        // rooms when the engine notices that the stream has ended.
        if let Err(reason) = queued(self.socket.emit("source", &signal)) {
            self.session.end(reason);
        }
    }
}
