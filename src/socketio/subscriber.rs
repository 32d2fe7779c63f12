//! A socket as a member of a room.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::{frames, source::SourceOutlet};
use crate::{
    engine::session::Session,
    message::Gap,
    metrics::Close,
    outages::catch_up,
    rooms::{
        Subscriber,
        delivery::{Batch, Delivery},
        history::HistoryEntry,
    },
};

/// One membership of one socket.
pub struct SocketSubscriber {
    session: Arc<Session>,
    meta: Option<Arc<SourceOutlet>>,
    /// Held while messages are pushed: after [`close`](Self::close), none comes.
    open: Mutex<bool>,
}

impl SocketSubscriber {
    /// With `meta`, messages come with their metadata, and gaps are emitted.
    pub fn new(session: Arc<Session>, meta: Option<Arc<SourceOutlet>>) -> Self {
        Self { session, meta, open: Mutex::new(true) }
    }

    /// Accepts nothing more, including messages on their way.
    pub fn close(&self) {
        *self.open.lock() = false;
    }

    /// Sends a part of a room's history, oldest first: after all that the socket has been sent, and
    /// before the room's next message. Called under the room's lock.
    pub fn replay(&self, room: &Arc<str>, messages: Vec<HistoryEntry>) {
        if messages.is_empty() {
            return;
        }
        let again = |kept| Delivery::new(room.clone(), kept);
        let past: Vec<Delivery> = messages.into_iter().map(again).collect();
        let frames = frames::encode(&past, self.meta.is_some(), self.session.format());
        if let Err(reason) = self.session.push_replay(frames) {
            self.session.end(reason);
        }
    }

    /// Messages of a replay are missing. A client without `meta` cannot be told, so it is
    /// disconnected, and comes back.
    pub fn gap_in_replay(&self, room: &str, gap: &Gap) {
        match &self.meta {
            Some(_) => self.gap(room, gap),
            None => self.session.end(Close::QueueFull),
        }
    }
}

impl Subscriber for SocketSubscriber {
    fn deliver(&self, batch: &Batch) -> usize {
        let open = self.open.lock();
        if !*open {
            return 0;
        }
        let frames = frames::encoded(batch, self.meta.is_some(), self.session.format());
        match self.session.push(&frames) {
            Ok(true) => batch.len(),
            Ok(false) => 0,
            Err(reason) => {
                self.session.end(reason);
                0
            }
        }
    }

    fn gap(&self, room: &str, gap: &Gap) {
        #[derive(Serialize)]
        struct RoomGap<'a> {
            room: &'a str,
            #[serde(flatten)]
            gap: &'a Gap,
        }
        let open = self.open.lock();
        if let Some(source) = self.meta.as_ref().filter(|_| *open) {
            // That the source is back is emitted before the gap of its outage.
            catch_up(&**source);
            self.session.emit("gap", Some(&RoomGap { room, gap }));
        }
    }

    fn hello(&self) {
        // No arguments, as in the demo.
        self.session.emit("hello", None::<&()>);
    }
}
