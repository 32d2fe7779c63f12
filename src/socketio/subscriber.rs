//! A socket as a member of a room.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::{frames, source::SourceOutlet};
use crate::{
    engine::session::Session,
    message::{Gap, GapReason},
    metrics::Close,
    outages::catch_up,
    rooms::{
        Subscriber,
        cursor::ReplayGap,
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

    /// Sends a piece of a room's history, oldest first.
    pub fn replay(&self, room: &Arc<str>, messages: Vec<HistoryEntry>) {
        let again = |kept| Delivery::new(room.clone(), kept);
        let past: Vec<Delivery> = messages.into_iter().map(again).collect();
        let frames = frames::encode(&past, self.meta.is_some(), self.session.format());
        if let Err(reason) = self.session.push_piece(frames) {
            self.session.end(reason);
        }
    }

    /// Messages are missing in a replay. If they were in the history when the client joined, a client
    /// without `meta` is disconnected, since it receives no gaps; it connects again.
    pub fn gap_in_replay(&self, room: &str, gap: &ReplayGap) {
        if self.meta.is_none() && gap.gap.reason == GapReason::Forgotten {
            self.session.end(Close::QueueFull);
        }
        self.emit_gap(room, gap);
    }

    /// Emits a gap, to clients with `meta`.
    fn emit_gap(&self, room: &str, gap: &ReplayGap) {
        #[derive(Serialize)]
        struct RoomGap<'a> {
            room: &'a str,
            #[serde(flatten)]
            gap: &'a ReplayGap,
        }
        let open = self.open.lock();
        if let Some(source) = self.meta.as_ref().filter(|_| *open) {
            // That the source is back is emitted before the gap of its outage.
            catch_up(&**source);
            self.session.emit("gap", Some(&RoomGap { room, gap }));
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
        self.emit_gap(room, &(*gap).into());
    }

    fn hello(&self) {
        // No arguments, as in the demo.
        self.session.emit("hello", None::<&()>);
    }
}
