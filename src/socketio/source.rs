//! Outages of the source are emitted to sockets as the event `source`, once per socket.

use std::sync::Arc;

use crate::{
    engine::session::Session,
    health::SourceSignal,
    outages::{Listener, Told},
};

/// A socket that has joined at least one room with `meta`, and so receives the event `source`. All
/// its rooms share one outlet.
pub struct SourceOutlet {
    session: Arc<Session>,
    told: Told,
}

impl SourceOutlet {
    /// An outlet for a socket; `told` remembers the last signal that was emitted.
    pub fn new(session: Arc<Session>, told: Told) -> Arc<Self> {
        Arc::new(Self { session, told })
    }
}

impl Listener for SourceOutlet {
    fn told(&self) -> &Told {
        &self.told
    }

    fn tell(&self, signal: SourceSignal) {
        self.session.emit("source", Some(&signal));
    }
}
