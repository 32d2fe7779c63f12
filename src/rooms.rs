//! The rooms: the members, the position and the history of each.
//!
//! Roomcast keeps its own index of rooms instead of using the Socket.IO engine's: a message for a
//! room that does not exist costs one look-up, and a member is one connect instance rather than a
//! session id, which may be reused.
//!
//! Each room has one lock over its members, history and position. A join sends its acknowledgement
//! and its replay and inserts the member while it holds the lock; the fan-out appends to the
//! history and takes the list of members while it holds the lock. A client that joins therefore
//! receives the history first and then every later message: none is missing, duplicated or out of
//! order.
//!
//! Lock order: the index before a room, never the other way round. A join and the fan-out release
//! the index as soon as the room is locked.

use std::{
    mem::size_of,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use hashlink::LinkedHashMap;
use indexmap::IndexMap;
use serde::Serialize;

use crate::{
    clock,
    message::{Gap, Message},
    metrics::Metrics,
};

pub mod delivery;
pub mod fanout;
pub mod history;
pub mod snapshot;

use delivery::{Batch, Delivery};
use history::{Bounds, History, HistoryEntry, Position, Replay, ReplayRequest};

/// The longest name of a room, in bytes: enough for any path of topics, and small enough to bound
/// the memory of the index.
const MAX_NAME: usize = 256;
/// The most rooms that [`Rooms::channels`] returns.
const MAX_CHANNELS: usize = 1000;
/// The most characters of a latest payload in a [`Channel`].
const MAX_LAST: usize = 200;
/// Time constant of the moving average of a room's rate: long enough for a device that publishes
/// every few seconds.
const RATE_OVER: Duration = Duration::from_secs(10);

/// A receiver of a room's messages, on behalf of one member. The methods must not block: some are
/// called while the room is locked.
pub trait Subscriber: Send + Sync {
    /// Accepts messages of the room, in order, without waiting; returns how many it accepted.
    fn deliver(&self, batch: &Batch) -> usize;

    /// Reports that messages of the room may be missing.
    fn gap(&self, room: &str, gap: &Gap);

    /// Reports that another client has joined the room.
    fn hello(&self);
}

/// A membership: one connect instance in one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member(u64);

/// A snapshot of a room's members. It is shared; the room copies the map only if a member joins or
/// leaves while a snapshot is in use.
pub type Members = Arc<IndexMap<Member, Arc<dyn Subscriber>>>;

/// Bounds of the history.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bounds of each room's history.
    pub room: Bounds,
    /// Bytes of all rooms' histories together, including names and bookkeeping.
    pub bytes: usize,
}

/// The acknowledgement of a join, as the client receives it.
#[derive(Serialize)]
pub struct JoinReply<'a> {
    /// The room's name.
    pub room: &'a str,
    /// The room's current position.
    #[serde(flatten)]
    pub position: &'a Position,
    /// Whether the replay contains every message after the requested position; `None` if the client
    /// requested no position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// How many messages of the history follow.
    pub replayed: usize,
}

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

/// A room. It is created when the first client joins or, if history is kept, when the first message
/// arrives. It is removed once it has neither members nor history.
struct Room {
    members: Members,
    position: Position,
    history: History,
    /// When the latest message arrived, in ms since the Unix epoch; 0 before the first.
    published: u64,
    /// Messages per second, as a moving average.
    rate: f64,
}

/// The rooms by name, the least recently published one first.
type Index = LinkedHashMap<Arc<str>, Arc<Mutex<Room>>>;

/// All rooms that have members or a history.
///
/// One instance lives as long as the server and is shared by all connections and lanes. Joins and
/// leaves come from connections, messages and gaps from the lanes; see the module's documentation
/// for what each does under which lock.
pub struct Rooms {
    index: Mutex<Index>,
    limits: Limits,
    /// Bytes of all histories, including the rooms' names and index entries.
    kept: AtomicUsize,
    next_member: AtomicU64,
    metrics: Arc<Metrics>,
    /// Returns the time in ms since the Unix epoch; tests replace it.
    clock: fn() -> u64,
}

impl Rooms {
    /// Creates an empty index. Sizes and counts are reported to `metrics`.
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        let (index, kept, next_member) = Default::default();
        Self { index, limits, kept, next_member, metrics, clock: clock::now }
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

    /// Adds `subscriber` to a room; with `again`, replaces the subscriber of that member.
    ///
    /// `welcome` is called while the room is locked, with the acknowledgement and the requested
    /// part of the history: the subscriber receives no message of the room before `welcome`
    /// returns, and every message after it.
    pub fn join(
        &self,
        name: &str,
        again: Option<Member>,
        subscriber: Arc<dyn Subscriber>,
        wish: &ReplayRequest,
        welcome: impl FnOnce(&JoinReply<'_>, Vec<HistoryEntry>),
    ) -> Member {
        let member = again.unwrap_or_else(|| {
            self.metrics.members.inc();
            Member(self.next_member.fetch_add(1, Relaxed))
        });
        let mut index = lock(&self.index);
        let (_, shared) = self.open(&mut index, name);
        let mut room = lock(&shared);
        drop(index);
        self.change(&mut room, |room| room.history.expire((self.clock)(), self.limits.room));
        let Replay { messages, recovered } = room.history.replay(wish, &room.position);
        self.metrics.joins(recovered).inc();
        let (position, replayed) = (&room.position, messages.len());
        welcome(&JoinReply { room: name, position, recovered, replayed }, messages);
        Arc::make_mut(&mut room.members).insert(member, subscriber);
        member
    }

    /// Removes a member from a room, and the room if it has no members and no history left.
    pub fn leave(&self, name: &str, member: Member) {
        let mut index = lock(&self.index);
        let Some(shared) = index.get(name).cloned() else { return };
        let mut room = lock(&shared);
        if Arc::make_mut(&mut room.members).swap_remove(&member).is_some() {
            self.metrics.members.dec();
            if room.members.is_empty() && room.history.is_empty() {
                self.forget(&mut index, name);
            }
        }
    }

    /// The room's current members; none if the room does not exist.
    pub fn members(&self, name: &str) -> Members {
        let index = lock(&self.index);
        index.get(name).map(|room| lock(room).members.clone()).unwrap_or_default()
    }

    /// Assigns offsets to messages of one channel and appends them to the room's history. Returns
    /// the members that must receive them; `None` if the room has no members.
    pub fn place(&self, name: &str, messages: Vec<Message>) -> Option<(Members, Vec<Delivery>)> {
        let mut index = lock(&self.index);
        if self.limits.room.count == 0 && !index.contains_key(name) {
            return None;
        }
        let (name, shared) = self.open(&mut index, name);
        let mut room = lock(&shared);
        index.to_back(&name);
        drop(index);
        let members = room.members.clone();
        let mut deliveries = Vec::new();
        self.change(&mut room, |room| {
            for message in messages {
                room.position.offset += 1;
                room.measure(message.at);
                let position = room.position.clone();
                let payload = message.payload.clone();
                room.history
                    .push(HistoryEntry { position, at: message.at, payload }, self.limits.room);
                if !members.is_empty() {
                    let Position { epoch, offset } = room.position.clone();
                    deliveries.push(Delivery::new(name.clone(), epoch, offset, message));
                }
            }
        });
        drop(room);
        self.fit();
        (!members.is_empty()).then_some((members, deliveries))
    }

    /// The rooms that have had a message and whose name passes `asked`, the most recently published
    /// one first. The flag says that there are more than the limit of 1,000.
    pub fn channels(&self, asked: impl Fn(&str) -> bool, now: u64) -> (Vec<Channel>, bool) {
        let index = lock(&self.index);
        let mut channels = Vec::new();
        for (name, room) in index.iter().rev() {
            let room = lock(room);
            if room.published == 0 || !asked(name) {
                continue;
            }
            if channels.len() == MAX_CHANNELS {
                return (channels, true);
            }
            channels.push(room.channel(name, now));
        }
        (channels, false)
    }

    /// Removes the history of each room whose latest message is older than the history's bound.
    pub fn expire(&self, now: u64) {
        let oldest = now.saturating_sub(self.limits.room.age);
        self.evict(|_, room| room.published < oldest);
    }

    /// The history of each room that has one, the least recently published room first. Each room is
    /// locked only while its own history is copied, so that the fan-out continues meanwhile.
    pub fn kept(&self) -> impl Iterator<Item = (Arc<str>, Vec<HistoryEntry>)> + use<> {
        let index = lock(&self.index);
        let rooms: Vec<_> = index.iter().map(|(name, room)| (name.clone(), room.clone())).collect();
        drop(index);
        let rooms = rooms.into_iter().map(|(name, room)| (name, lock(&room).history.all()));
        rooms.filter(|(_, kept)| !kept.is_empty())
    }

    /// Appends the history that an earlier process wrote of a room. The room keeps its own epoch,
    /// so new messages belong to another epoch than the restored ones.
    pub fn restore(&self, name: &str, kept: Vec<HistoryEntry>) {
        let mut index = lock(&self.index);
        let (name, shared) = self.open(&mut index, name);
        index.to_back(&name);
        let mut room = lock(&shared);
        self.change(&mut room, |room| {
            for kept in kept {
                room.published = kept.at;
                room.history.push(kept, self.limits.room);
            }
        });
        drop((room, index));
        self.fit();
    }

    /// Records that messages may be missing in every room whose name passes `concerns`: each of
    /// these rooms starts a new epoch, and its members receive the gap.
    pub fn gap(&self, gap: &Gap, concerns: impl Fn(&str) -> bool) {
        let rooms: Vec<_> = {
            let index = lock(&self.index);
            let concerned = index.iter().filter(|(name, _)| concerns(name));
            concerned.map(|(name, room)| (name.clone(), room.clone())).collect()
        };
        rooms.iter().for_each(|(name, room)| lock(room).interrupt(name, gap));
    }

    /// Records that messages may be missing in one room. A room that does not exist has no members
    /// and no history that could be incomplete.
    pub fn gap_in(&self, name: &str, gap: &Gap) {
        let room = lock(&self.index).get(name).cloned();
        if let Some(room) = room {
            lock(&room).interrupt(name, gap);
        }
    }

    /// Evicts histories until all of them together are within the limit.
    fn fit(&self) {
        if self.kept.load(Relaxed) > self.limits.bytes {
            self.evict(|rooms, _| rooms.kept.load(Relaxed) > rooms.limits.bytes);
        }
    }

    /// Removes the histories of the least recently published rooms, as long as `too_much` returns
    /// true for the next one.
    fn evict(&self, too_much: impl Fn(&Self, &Room) -> bool) {
        let mut index = lock(&self.index);
        for _ in 0..index.len() {
            let Some((name, shared)) =
                index.front().map(|(name, room)| (name.clone(), room.clone()))
            else {
                return;
            };
            let mut room = lock(&shared);
            if !too_much(self, &room) {
                return;
            }
            self.change(&mut room, |room| room.history = History::default());
            if room.members.is_empty() {
                self.forget(&mut index, &name);
            } else {
                // Its history is empty now: move it behind the rooms that have one.
                index.to_back(&name);
            }
        }
    }

    /// Returns the room of this name and its shared name; creates the room if it does not exist.
    fn open(&self, index: &mut Index, name: &str) -> (Arc<str>, Arc<Mutex<Room>>) {
        if let Some((name, room)) = index.get_key_value(name) {
            return (name.clone(), room.clone());
        }
        let (name, room): (Arc<str>, _) = (name.into(), Arc::new(Mutex::new(Room::new())));
        index.insert(name.clone(), room.clone());
        self.kept.fetch_add(entry_size(&name), Relaxed);
        self.metrics.rooms.inc();
        (name, room)
    }

    fn forget(&self, index: &mut Index, name: &str) {
        index.remove(name);
        self.kept.fetch_sub(entry_size(name), Relaxed);
        self.metrics.rooms.dec();
        self.metrics.history_bytes.set(self.kept.load(Relaxed) as i64);
    }

    /// Runs `change` on a room and adjusts the count of kept bytes by what its history grew or
    /// shrank.
    fn change<T>(&self, room: &mut Room, change: impl FnOnce(&mut Room) -> T) -> T {
        let before = room.history.size();
        let value = change(room);
        let after = room.history.size();
        if after >= before {
            self.kept.fetch_add(after - before, Relaxed);
        } else {
            self.kept.fetch_sub(before - after, Relaxed);
        }
        self.metrics.history_bytes.set(self.kept.load(Relaxed) as i64);
        value
    }
}

impl Room {
    /// Starts a new epoch and sends the gap to the members. The caller holds the room's lock, so a
    /// client that joins concurrently enters after the gap and does not receive it.
    fn interrupt(&mut self, name: &str, gap: &Gap) {
        self.position = Position::fresh();
        self.members.values().for_each(|member| member.gap(name, gap));
    }

    /// Adds a message that arrived at `at` (ms since the Unix epoch) to the rate.
    fn measure(&mut self, at: u64) {
        self.rate = self.rate_at(at) + 1.0 / RATE_OVER.as_secs_f64();
        self.published = at;
    }

    /// The rate at `now`: the average decays exponentially since the latest message.
    fn rate_at(&self, now: u64) -> f64 {
        let silence = now.saturating_sub(self.published) as f64 / 1000.0;
        self.rate * (-silence / RATE_OVER.as_secs_f64()).exp()
    }

    fn channel(&self, name: &Arc<str>, now: u64) -> Channel {
        let payload = self.history.latest().map(|kept| &kept.payload);
        let text = payload.and_then(|payload| std::str::from_utf8(payload).ok());
        Channel {
            room: name.clone(),
            rate: (self.rate_at(now) * 100.0).round() / 100.0,
            at: self.published,
            last: text.map(|text| text.chars().take(MAX_LAST).collect()),
            size: payload.map(Bytes::len),
        }
    }

    fn new() -> Self {
        Self {
            members: Members::default(),
            position: Position::fresh(),
            history: History::default(),
            published: 0,
            rate: 0.0,
        }
    }
}

/// Bytes of a room besides its history: twice the length of its name, and its index entry.
fn entry_size(name: &str) -> usize {
    2 * name.len() + size_of::<Room>() + size_of::<(Arc<str>, Arc<Mutex<Room>>)>()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
