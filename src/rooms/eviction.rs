//! Forgetting: messages that are too old, and the oldest ones where all are too many bytes.

use std::sync::{
    Arc,
    atomic::Ordering::{AcqRel, Acquire, Relaxed},
};

use tokio::task::yield_now;

use super::{
    MAX_COPIED, Rooms,
    history::HistoryBounds,
    index::Forgotten,
    room::{Hold, Room, RoomState},
};

impl Rooms {
    /// Removes the messages that are older than the history's bounds. Other tasks run between two
    /// steps.
    ///
    /// # Cancel safety
    /// Cancel safe: what is left is removed by the next call.
    pub async fn expire(&self, now: u64) {
        while self.expire_next(now) {
            yield_now().await;
        }
        self.listing.expire();
    }

    /// Removes the messages of one step, or of one room, that are too old; `false` if there are none.
    pub(super) fn expire_next(&self, now: u64) -> bool {
        let HistoryBounds { age, last_age, .. } = self.limits.room;
        if let Some(step) = self.index.take_step(now.saturating_sub(age)) {
            self.forget_step(&step);
            return true;
        }
        let room = self.index.take_older_than(now.saturating_sub(last_age));
        room.iter().for_each(|room| self.forget_history(room));
        room.is_some()
    }

    /// Evicts messages, the oldest ones of all rooms first and the latest one of each room last, until
    /// all histories together are within the limit. Each turn takes a step or a room out of the index,
    /// so it ends when none is left.
    pub(super) fn fit(&self) {
        while self.kept.load(Acquire) > self.limits.bytes {
            self.evicted.store((self.clock)(), Relaxed);
            if let Some(step) = self.index.take_step(u64::MAX) {
                self.forget_step(&step);
            } else if let Some(room) = self.index.take_older_than(u64::MAX) {
                self.forget_history(&room);
            } else {
                return;
            }
        }
    }

    /// Removes the messages of a step, but for the latest one of each room. Each room is locked only
    /// while 256 messages are removed.
    fn forget_step(&self, step: &Forgotten) {
        for room in self.index.rooms_of(step).flatten() {
            loop {
                let mut hold = room.lock();
                let forget =
                    |state: &mut RoomState| state.history.forget(step.number(), MAX_COPIED);
                let forgotten = self.change(&room, &mut hold, forget);
                drop(hold);
                if forgotten.len() < MAX_COPIED {
                    break;
                }
            }
        }
        self.kept.fetch_sub(step.size(), AcqRel);
        self.metrics.history_bytes.set(self.kept.load(Acquire) as i64);
    }

    /// Removes the messages of a room that are too old.
    pub(super) fn expire_history(&self, room: &Room, hold: &mut Hold<'_>) {
        self.change(room, hold, |state| state.history.expire((self.clock)(), self.limits.room));
    }

    fn forget_history(&self, room: &Arc<Room>) {
        let mut hold = room.lock();
        let history = self.change(room, &mut hold, |state| state.history.clear());
        self.remove_if_empty(room, hold);
        // Many payloads may be freed, so not while the room is locked.
        drop(history);
    }
}
