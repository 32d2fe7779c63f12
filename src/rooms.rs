//! The rooms: the members and the history of each.
//!
//! Roomcast keeps its own index of rooms instead of using the Socket.IO engine's: a message for a
//! room that does not exist costs one look-up, and a member is one connect instance rather than a
//! session id, which may be reused.
//!
//! Each room has one lock over its members and history. The fan-out appends to the history
//! and takes a snapshot of the members while it holds the lock. A client that joins becomes a live
//! member under the same lock, once it has been sent the answer and all of the history that it asked
//! for, which a [cursor](cursor) reads piece by piece. It therefore receives the history first and then
//! every later message: none is missing, duplicated or out of order.
//!
//! Locks: those of the index and that of a room are never held together. While one is held, nothing is
//! encoded but the answer to a join, and at most 256 rooms or entries are looked at.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
    },
    thread::available_parallelism,
};

use tokio::sync::Semaphore;

use crate::{
    clock,
    ingest::Progress,
    lanes::Lanes,
    message::{Gap, GapReason, MAX_NAME, Message},
    metrics::Metrics,
    position::{Epoch, Sequence},
};

pub mod cursor;
pub mod delivery;
mod eviction;
pub mod fanout;
pub mod history;
mod index;
mod join;
mod listing;
pub mod members;
pub mod memberships;
pub mod past;
mod room;
pub mod snapshot;
mod steps;
mod window;

use delivery::{Batch, Delivery};
use history::{HistoryBounds, HistoryEntry};
use index::Index;
pub use join::{JoinReply, Joined};
use listing::Listing;
pub use members::{Member, MemberSnapshot};
pub use room::Channel;
use room::{Hold, Room, RoomState};
use steps::StepBounds;
pub use window::HistoryReport;

/// The most entries of a history that are copied in one hold of a room's lock.
const MAX_COPIED: usize = 256;
/// The most bytes that are encoded in one hold: the answer to a join without a replay. It has to be on
/// its way before the next message, and without a history nothing else could tell what came between.
/// The caller may add a KiB, such as the patterns of the channels that the client may publish on.
#[cfg(test)]
const MAX_ENCODED: usize = 1 << 10;
/// The shortest time of a step in which messages are forgotten, in ms.
const SHORTEST_STEP: u64 = 1000;
/// The history is forgotten in about this many steps, by its time as well as by its bytes.
const STEPS: u64 = 64;
/// Bytes of payloads after which no further entry is copied in the same hold.
const MAX_COPIED_BYTES: usize = 64 << 10;

/// A receiver of a room's messages, on behalf of one member. The methods must not block.
pub trait Subscriber: Send + Sync {
    /// Accepts messages of the room, in order, without waiting; returns how many it accepted.
    fn deliver(&self, batch: &Batch) -> usize;

    /// Reports that messages of the room may be missing. May be called while the room is locked.
    fn gap(&self, room: &str, gap: &Gap);

    /// Reports that another client has joined the room.
    fn hello(&self);

    /// Whether the newest message suffices if several wait.
    fn is_conflated(&self) -> bool {
        false
    }
}

/// Bounds of the history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Bounds of each room's history.
    pub room: HistoryBounds,
    /// Bytes of all rooms' histories together, including names and bookkeeping.
    pub bytes: usize,
}

/// All rooms that have members or a history.
///
/// One instance lives as long as the server and is shared by all connections and lanes. Joins and
/// leaves come from connections, messages and gaps from the lanes; see the module's documentation
/// for what each does under which lock.
pub struct Rooms {
    index: Index,
    /// Up to where the lanes have placed the source's messages.
    progress: Progress,
    limits: HistoryLimits,
    /// Bytes of all histories, including the rooms' names, index entries and steps.
    kept: AtomicUsize,
    /// When messages were last evicted because the bytes were used up, in ms since the Unix epoch; 0 =
    /// never.
    evicted: AtomicU64,
    listing: Listing,
    /// How many pieces of replays may be read at the same time.
    replay_turns: Semaphore,
    metrics: Arc<Metrics>,
    /// Returns the time in ms since the Unix epoch; tests replace it.
    clock: fn() -> u64,
}

impl Rooms {
    /// Creates an empty index of rooms whose messages come through these lanes. Sizes and counts are
    /// reported to `metrics`.
    pub fn new(
        limits: HistoryLimits,
        lanes: Lanes,
        progress: Progress,
        metrics: Arc<Metrics>,
    ) -> Self {
        // The other cores stay free for the fan-out.
        let cores = available_parallelism().map_or(1, NonZero::get);
        let replay_turns = Semaphore::new(cores.div_ceil(2));
        let (index, listing, kept) = (Index::new(lanes), Listing::new(), AtomicUsize::new(0));
        let (evicted, clock) = (AtomicU64::new(0), clock::now);
        Self { index, progress, limits, kept, evicted, listing, replay_turns, metrics, clock }
    }

    /// Checks a room's name.
    ///
    /// # Errors
    /// Says what is wrong with the name: it is empty, too long or contains control characters.
    pub fn check_name(name: &str) -> Result<(), String> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(format!(
                "a room's name must have 1 to {MAX_NAME} bytes, not {}",
                name.len()
            ));
        }
        if name.chars().any(char::is_control) {
            return Err("a room's name must not contain control characters".to_owned());
        }
        Ok(())
    }

    /// Rooms whose messages do not come through lanes.
    #[cfg(test)]
    pub fn without_queue(limits: HistoryLimits, lanes: Lanes, metrics: Arc<Metrics>) -> Self {
        use crate::ingest::{QueueBounds, queue};
        let (sender, _) =
            queue(lanes.clone(), Arc::default(), QueueBounds::new(1), metrics.clone());
        Self::new(limits, lanes, sender.progress(), metrics)
    }

    /// The epoch of a message's number.
    pub fn epoch(&self, number: u64) -> Arc<Epoch> {
        self.progress.sequence().epoch(number)
    }

    /// The count of the source's messages.
    pub fn sequence(&self) -> &Sequence {
        self.progress.sequence()
    }

    /// Removes a member from a room, and the room if it has no members and no history left.
    pub fn leave(&self, name: &str, member: Member) {
        // A room with a member is in the index.
        let Some(room) = self.index.get(name) else { return };
        let mut hold = room.lock();
        let subscriber = hold.members.remove(member);
        self.metrics.members.dec();
        self.remove_if_empty(&room, hold);
        drop(subscriber);
    }

    /// The room's current members; none if the room does not exist.
    pub fn members(&self, name: &str) -> MemberSnapshot {
        self.index.get(name).map(|room| room.lock().members.snapshot()).unwrap_or_default()
    }

    /// Appends messages of one channel, all of one epoch, to the room's history. Returns the members
    /// that must receive them; `None` if the room has no members.
    pub fn place(
        &self,
        name: &str,
        epoch: &Arc<Epoch>,
        messages: Vec<Message>,
    ) -> Option<(MemberSnapshot, Vec<Delivery>)> {
        let keeps = self.limits.room.count > 0;
        let latest = messages.last()?.number;
        if !keeps && self.get_or_raise_floor(name, latest).is_none() {
            return None;
        }
        let placed = self.with_room(name, |room, mut hold| {
            let members = hold.members.snapshot();
            let mut deliveries = Vec::new();
            let forgotten = self.index.forgotten(room);
            let (mut bytes, mut arrived) = (0, 0);
            self.change(room, &mut hold, |state| {
                for Message { at, payload, number, .. } in messages {
                    room.measure(state, at);
                    (bytes, arrived) = (bytes + payload.len(), at);
                    let (prev, epoch) = (state.history.end_number(), epoch.clone());
                    let entry = HistoryEntry { number, prev, epoch, at, payload };
                    if !members.is_empty() {
                        deliveries.push(Delivery::new(room.name.clone(), entry.clone()));
                    }
                    state.history.push(entry, self.limits.room, forgotten);
                }
            });
            if keeps {
                drop(hold);
                self.published(room, (latest, arrived, bytes));
            } else {
                room.set_listed(self.index.now());
                // It may have been created here, for members that have left meanwhile.
                self.remove_if_empty(room, hold);
            }
            (!members.is_empty()).then_some((members, deliveries))
        });
        self.fit();
        placed
    }

    /// The history of each room that has one, the least recently published room first. Each room is
    /// locked only while 256 entries are copied, so that the fan-out continues meanwhile.
    pub fn kept(&self) -> impl Iterator<Item = (Arc<str>, Vec<HistoryEntry>)> + use<> {
        let mut rooms: Vec<_> = self.index.pieces(None).flatten().collect();
        rooms.sort_by_key(|room| room.published());
        let rooms = rooms.into_iter().map(|room| (room.name.clone(), room.whole_history()));
        rooms.filter(|(_, kept)| !kept.is_empty())
    }

    /// Appends the histories that an earlier process wrote, which had counted up to `latest`. Messages
    /// are missing between them and the first new one.
    pub fn restore(
        &self,
        epochs: impl IntoIterator<Item = Arc<Epoch>>,
        latest: u64,
        past: impl IntoIterator<Item = (String, Vec<HistoryEntry>)>,
    ) {
        let number = self.progress.sequence().resume(epochs, latest);
        (0..self.index.lanes()).for_each(|lane| self.index.raise_floor(lane, number));
        past.into_iter().for_each(|(name, kept)| self.restore_one(&name, kept, number));
    }

    fn restore_one(&self, name: &str, kept: Vec<HistoryEntry>, floor: u64) {
        self.with_room(name, |room, mut hold| {
            let (mut bytes, mut arrived) = (0, 0);
            self.change(room, &mut hold, |state| {
                for kept in kept {
                    room.set_published(kept.at);
                    (bytes, arrived) = (bytes + kept.payload.len(), kept.at);
                    state.history.push(kept, self.limits.room, 0);
                }
                state.history.raise_floor(floor);
            });
            if hold.history.is_empty() {
                self.remove_if_empty(room, hold);
            } else {
                drop(hold);
                self.published(room, (floor, arrived, bytes));
            }
        });
        self.fit();
    }

    /// Notes that a room has new messages: the number and the time of arrival of the latest one, and
    /// the bytes of all.
    fn published(&self, room: &Arc<Room>, messages: (u64, u64, usize)) {
        let HistoryLimits { room: HistoryBounds { age, .. }, bytes } = self.limits;
        let bounds =
            StepBounds { time: SHORTEST_STEP.max(age / STEPS), bytes: bytes / STEPS as usize };
        self.kept.fetch_add(self.index.published(room, bounds, messages), AcqRel);
        self.metrics.history_bytes.set(self.kept.load(Acquire) as i64);
    }

    /// Records that messages up to a number may be missing in every room of a lane. Returns the
    /// members that must receive the gap, room by room. A client that joins later enters after the
    /// gap.
    pub fn interrupt(
        &self,
        lane: usize,
        gap: &Gap,
        number: u64,
    ) -> impl Iterator<Item = (Arc<str>, MemberSnapshot)> + '_ {
        let gap = *gap;
        self.index.raise_floor(lane, number);
        let rooms = self.index.pieces(Some(lane)).flatten();
        rooms.map(move |room| (room.name.clone(), room.lock().interrupt(&gap, number)))
    }

    /// The same in one room.
    pub fn interrupt_one(&self, name: &str, gap: &Gap, number: u64) -> MemberSnapshot {
        while let Some(room) = self.get_or_raise_floor(name, number) {
            let mut hold = room.lock();
            if !room.is_gone() {
                return hold.interrupt(gap, number);
            }
            // The room that replaces it has to have the gap.
            drop(hold);
            self.index.remove(&room);
        }
        MemberSnapshot::default()
    }

    /// The room of this name. If there is none, raises the floor that it will have to a number.
    fn get_or_raise_floor(&self, name: &str, number: u64) -> Option<Arc<Room>> {
        self.index.get(name).or_else(|| {
            self.index.raise_floor(self.index.lane(name), number);
            // A client may have joined before the floor was raised.
            self.index.get(name)
        })
    }

    /// Runs `run` on the room of this name, which is locked. Creates the room if it does not exist;
    /// `run` sees to it that a room without members and history is removed.
    fn with_room<T>(&self, name: &str, run: impl FnOnce(&Arc<Room>, Hold<'_>) -> T) -> T {
        loop {
            let (room, is_new) = self.index.open(name);
            if is_new {
                self.metrics.rooms.inc();
            }
            let hold = room.lock();
            if !room.is_gone() {
                return run(&room, hold);
            }
        }
    }

    fn remove_if_empty(&self, room: &Arc<Room>, hold: Hold<'_>) {
        if !room.is_gone() && hold.members.is_empty() && hold.history.is_empty() {
            // The room that replaces it has to know.
            self.index.raise_floor(self.index.lane(&room.name), hold.history.end_number());
            room.set_gone();
            drop(hold);
            self.index.remove(room);
            self.metrics.rooms.dec();
        }
    }

    /// Runs `change` on a room and adjusts the count of kept bytes by what its history grew or
    /// shrank.
    fn change<T>(
        &self,
        room: &Room,
        state: &mut RoomState,
        change: impl FnOnce(&mut RoomState) -> T,
    ) -> T {
        let before = room.history_bytes(state);
        let value = change(state);
        let after = room.history_bytes(state);
        if after >= before {
            self.kept.fetch_add(after - before, AcqRel);
        } else {
            self.kept.fetch_sub(before - after, AcqRel);
        }
        self.metrics.history_bytes.set(self.kept.load(Acquire) as i64);
        value
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod test_client;
#[cfg(test)]
mod tests;
