//! One room: its members and its history, under one lock.

use std::{
    mem::size_of,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use super::{
    MAX_COPIED, MAX_COPIED_BYTES,
    history::{History, HistoryEntry},
    members::{MemberSnapshot, Members},
};
use crate::{
    memory::allocated,
    message::{Gap, GapReason},
    position::Known,
};

/// Time constant of the moving average of a room's rate: long enough for a device that publishes
/// every few seconds.
const RATE_OVER: Duration = Duration::from_secs(10);
/// The most characters of a latest payload in a [`Channel`].
const MAX_LAST: usize = 200;
/// Bytes of a room in the index: its slot, which is 24 bytes, and its share of the table of names,
/// with the free memory that both have for growth.
const INDEX_BYTES: usize = 56;

/// A summary of a room to which messages were published recently.
#[derive(Clone, Debug, Serialize)]
pub struct Channel {
    /// The room's name, which is the channel's name.
    pub room: Arc<str>,
    /// Messages a second, averaged over about ten seconds.
    pub rate: f64,
    /// When the latest message arrived, in ms since the Unix epoch.
    pub at: u64,
    /// The first characters of the latest payload; `None` if it is not UTF-8 or no longer kept.
    pub last: Option<String>,
    /// The size of the latest payload in bytes; `None` if it is no longer kept.
    pub size: Option<usize>,
}

/// A room.
///
/// It is created when the first client joins or, if history is kept, when the first message arrives.
/// Once it has neither members nor history, it is marked as gone under its lock, and then removed from
/// the index. A room that turns out to be gone once it is locked has to be looked up again.
pub struct Room {
    pub name: Arc<str>,
    /// The hash of the name, by which the index finds the room.
    pub hash: u64,
    /// The room's slot in the index.
    pub slot: u32,
    is_gone: AtomicBool,
    /// When the latest message arrived, in ms since the Unix epoch; 0 before the first.
    published: AtomicU64,
    /// When the index put the room to the end of its list, in ns since the index was made: rooms are
    /// ordered by it.
    listed: AtomicU64,
    state: Mutex<RoomState>,
}

/// What the lock of a room guards.
pub struct RoomState {
    pub members: Members,
    pub history: History,
    /// Messages per second, as a moving average.
    rate: f32,
    /// The latest gap, and its number.
    gap: Option<Box<(Gap, u64)>>,
}

impl RoomState {
    /// Records that messages may be missing up to this number. Returns the members that must receive
    /// the gap; none if all have joined after it.
    pub fn interrupt(&mut self, gap: &Gap, number: u64) -> MemberSnapshot {
        if self.history.floor() >= number {
            return MemberSnapshot::default();
        }
        self.history.raise_floor(number);
        self.gap = Some(Box::new((*gap, number)));
        self.members.snapshot()
    }

    /// The latest gap and its number, if that is after this one.
    pub fn gap_after(&self, number: u64) -> Option<(Gap, u64)> {
        self.gap.as_deref().filter(|(_, at)| *at > number).copied()
    }

    /// What may be missing to a client that has the messages up to a known position, and gets those
    /// from time `next` on.
    pub fn missing_since(&self, since: Known, next: u64) -> Gap {
        let from = self.history.time_of(since.number).unwrap_or(since.began);
        // The floor is where the latest gap was, or where the history was forgotten.
        let floor = self.history.floor();
        let gap = self.gap_after(floor.saturating_sub(1)).filter(|_| since.number < floor);
        let (to, reason) =
            gap.map_or((next, GapReason::Forgotten), |(gap, _)| (gap.to, gap.reason));
        Gap { from: from.min(to), to, reason }
    }
}

impl Room {
    /// A room without members. `floor` is the number up to which messages of it may be missing.
    pub fn new(name: &str, hash: u64, slot: u32, floor: u64) -> Self {
        let state = RoomState {
            members: Members::default(),
            history: History::new(floor),
            rate: 0.0,
            gap: None,
        };
        let (is_gone, published, listed) = Default::default();
        Self { name: name.into(), hash, slot, is_gone, published, listed, state: Mutex::new(state) }
    }

    /// Locks the room.
    pub fn lock(&self) -> Hold<'_> {
        Hold {
            state: self.state.lock(),
            #[cfg(test)]
            entries: 0,
        }
    }

    /// Whether the room has been removed. Certain only while the room is locked.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Acquire)
    }

    /// Marks the room as removed. The caller holds its lock.
    pub fn set_gone(&self) {
        self.is_gone.store(true, Release);
    }

    /// When the latest message arrived, in ms since the Unix epoch; 0 before the first.
    pub fn published(&self) -> u64 {
        self.published.load(Relaxed)
    }

    pub fn set_published(&self, at: u64) {
        self.published.store(at, Relaxed);
    }

    /// When the room was put to the end of the index's list.
    pub fn listed(&self) -> u64 {
        self.listed.load(Relaxed)
    }

    pub fn set_listed(&self, now: u64) {
        self.listed.store(now, Relaxed);
    }

    /// Adds a message that arrived at `at` (ms since the Unix epoch) to the rate.
    pub fn measure(&self, state: &mut RoomState, at: u64) {
        state.rate = self.rate_at(state, at) + 1.0 / RATE_OVER.as_secs_f32();
        self.set_published(at);
    }

    /// The rate at `now`: the average decays exponentially since the latest message.
    fn rate_at(&self, state: &RoomState, now: u64) -> f32 {
        let silence = now.saturating_sub(self.published()) as f32 / 1000.0;
        state.rate * (-silence / RATE_OVER.as_secs_f32()).exp()
    }

    /// A copy of the whole history, oldest first; the payloads are shared. The room is locked only
    /// while a part is copied.
    pub fn whole_history(&self) -> Vec<HistoryEntry> {
        let (mut kept, mut next) = (Vec::new(), 0);
        loop {
            let mut hold = self.lock();
            next = hold.history.first().max(next);
            let piece = hold.history.piece(next, MAX_COPIED, MAX_COPIED_BYTES);
            hold.copied(piece.len());
            drop(hold);
            if piece.is_empty() {
                return kept;
            }
            next += piece.len() as u64;
            kept.extend(piece);
        }
    }

    /// A summary at `now`, in ms since the Unix epoch.
    pub fn channel(&self, now: u64) -> Channel {
        let state = self.lock();
        let payload = state.history.latest().map(|kept| kept.payload.clone());
        let rate = f64::from(self.rate_at(&state, now));
        drop(state);
        let text = payload.as_deref().and_then(|payload| std::str::from_utf8(payload).ok());
        Channel {
            room: self.name.clone(),
            rate: (rate * 100.0).round() / 100.0,
            at: self.published(),
            last: text.map(|text| text.chars().take(MAX_LAST).collect()),
            size: payload.as_ref().map(Bytes::len),
        }
    }

    /// Bytes that the room's history takes, with the room itself; 0 if there is no history.
    pub fn history_bytes(&self, state: &RoomState) -> usize {
        if state.history.is_empty() { 0 } else { bytes(&self.name) + state.history.size() }
    }
}

/// Bytes of a room without history and members: the room, its name, its slot.
pub fn bytes(name: &str) -> usize {
    /// The two counters of an `Arc`.
    const COUNTS: usize = 2 * size_of::<usize>();
    allocated(COUNTS + size_of::<Room>()) + allocated(COUNTS + name.len()) + INDEX_BYTES
}

/// A room that is locked. The lanes and all joins of the room wait for it, so the work done meanwhile
/// is bounded.
pub struct Hold<'a> {
    state: MutexGuard<'a, RoomState>,
    /// Entries of the history that were copied.
    #[cfg(test)]
    entries: usize,
}

impl Hold<'_> {
    /// Notes that entries of the history are copied while the room is locked.
    pub fn copied(&mut self, entries: usize) {
        #[cfg(test)]
        {
            self.entries += entries;
            assert!(self.entries <= MAX_COPIED, "too many entries are copied in one hold");
        }
        let _ = entries;
    }
}

impl Deref for Hold<'_> {
    type Target = RoomState;

    fn deref(&self) -> &RoomState {
        &self.state
    }
}

impl DerefMut for Hold<'_> {
    fn deref_mut(&mut self) -> &mut RoomState {
        &mut self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `SECURITY.md` and the documentation of limits say.
    #[test]
    fn an_empty_room_of_one_member_takes_at_most_500_bytes() {
        const SUBSCRIBER: usize = 48;
        const VIEWERS_ENTRY: usize = 80;
        let name = "plant/hall-01/line-3/machine-07/temp";
        assert!(bytes(name) + SUBSCRIBER + VIEWERS_ENTRY <= 500, "{}", bytes(name));
    }
}
