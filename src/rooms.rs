//! Who is in which room, at which position the room is, and what it remembers.
//!
//! The index is ours, not the engine's: a message for a room that is not there costs one look-up,
//! and a member is one connect instance, not a session id, which can be used again.
//!
//! A room has one lock over members, history and position. A join sends its acknowledgement and
//! its replay and enters under it; the fan-out appends and takes the members under it. So who
//! joins gets the past, then the present: no hole, no double, no reordering. The index is locked
//! before a room, never the other way round, and is let go once the room is locked.

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

/// Bytes of a room's name: long enough for any path of topics, short enough to count on.
const MAX_NAME: usize = 256;
/// Rooms that one look at the channels tells about.
const MAX_CHANNELS: usize = 1000;
/// Characters of a latest payload in it.
const MAX_LAST: usize = 200;
/// What a rate is averaged over: long enough for a device that speaks every few seconds.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Where a member of a room takes its messages.
pub trait Subscriber: Send + Sync {
    /// Takes messages of its room, in order, without waiting; returns how many it took.
    fn deliver(&self, batch: &Batch) -> usize;

    /// Hears that messages of its room may be missing.
    fn gap(&self, room: &str, gap: &Gap);

    /// Hears that somebody else has joined the room.
    fn hello(&self);
}

/// A membership: one connect instance in one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member(u64);

/// A room's members as they were at one moment, shared rather than copied.
pub type Members = Arc<IndexMap<Member, Arc<dyn Subscriber>>>;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of each room.
    pub room: Bounds,
    /// Bytes of all rooms together, names and bookkeeping included.
    pub bytes: usize,
}

/// What somebody who joins is told first.
#[derive(Serialize)]
pub struct JoinReply<'a> {
    /// The room's name.
    pub room: &'a str,
    /// Where the room is.
    #[serde(flatten)]
    pub position: &'a Position,
    /// Whether all that came after the position that was asked for is replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// How many messages of the past come now.
    pub replayed: usize,
}

/// What is told about a room that was published lately.
#[derive(Clone, Debug, Serialize)]
pub struct Channel {
    /// The room, named like the channel.
    pub room: Arc<str>,
    /// Messages a second, averaged over about ten seconds.
    pub rate: f64,
    /// When the latest message arrived, in ms since the Unix epoch.
    pub at: u64,
    /// The latest payload's first characters; `None` if it is not text, or not kept.
    pub last: Option<String>,
    /// The latest payload's bytes; `None` if it is not kept.
    pub size: Option<usize>,
}

struct Room {
    members: Members,
    position: Position,
    history: History,
    /// When the latest message arrived, in ms since the Unix epoch.
    published: u64,
    /// How often, in messages a second, as a moving average.
    rate: f64,
}

/// The least recently published one first.
type Index = LinkedHashMap<Arc<str>, Arc<Mutex<Room>>>;

/// All rooms that have members or a past.
pub struct Rooms {
    index: Mutex<Index>,
    limits: Limits,
    /// What all histories cost, with their rooms' names and entries.
    kept: AtomicUsize,
    next_member: AtomicU64,
    metrics: Arc<Metrics>,
    /// In ms since the Unix epoch.
    clock: fn() -> u64,
}

impl Rooms {
    /// None yet.
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        let (index, kept, next_member) = Default::default();
        Self { index, limits, kept, next_member, metrics, clock: clock::now }
    }

    /// Whether a room may be called so; otherwise what is wrong with the name.
    pub fn check_name(name: &str) -> Result<(), String> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(format!("a room's name has 1 to {MAX_NAME} bytes, not {}", name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err("a room's name has no control characters".to_owned());
        }
        Ok(())
    }

    /// Enters a room, or enters it `again` with another outlet. `welcome` runs under the room's
    /// lock and gets what was wished for of the past: what it sends comes before the room's next
    /// message and after none.
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

    /// Leaves a room; one without members and without a past is forgotten.
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

    /// Everybody in a room now.
    pub fn members(&self, name: &str) -> Members {
        let index = lock(&self.index);
        index.get(name).map(|room| lock(room).members.clone()).unwrap_or_default()
    }

    /// Gives messages of one channel their places, keeps them, and says who is there to get them;
    /// `None` if nobody is.
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

    /// The rooms of these that were published lately, the latest first, and whether there are more
    /// of them than are told.
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

    /// Forgets what is too old everywhere.
    pub fn expire(&self, now: u64) {
        let oldest = now.saturating_sub(self.limits.room.age);
        self.evict(|_, room| room.published < oldest);
    }

    /// All that is kept, the least recently published room first. Each room is locked when its turn
    /// comes: messages go on meanwhile.
    pub fn kept(&self) -> impl Iterator<Item = (Arc<str>, Vec<HistoryEntry>)> + use<> {
        let index = lock(&self.index);
        let rooms: Vec<_> = index.iter().map(|(name, room)| (name.clone(), room.clone())).collect();
        drop(index);
        let rooms = rooms.into_iter().map(|(name, room)| (name, lock(&room).history.all()));
        rooms.filter(|(_, kept)| !kept.is_empty())
    }

    /// Remembers what an earlier process kept of a room. What comes next is a new run.
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

    /// Messages may be missing, in any room that it concerns: what comes next is a new run, and
    /// members are told.
    pub fn gap(&self, gap: &Gap, concerns: impl Fn(&str) -> bool) {
        let rooms: Vec<_> = {
            let index = lock(&self.index);
            let concerned = index.iter().filter(|(name, _)| concerns(name));
            concerned.map(|(name, room)| (name.clone(), room.clone())).collect()
        };
        rooms.iter().for_each(|(name, room)| lock(room).interrupt(name, gap));
    }

    /// The same for one room; one that is not there has nothing that could be missing.
    pub fn gap_in(&self, name: &str, gap: &Gap) {
        let room = lock(&self.index).get(name).cloned();
        if let Some(room) = room {
            lock(&room).interrupt(name, gap);
        }
    }

    /// Forgets what is more than all rooms may keep together.
    fn fit(&self) {
        if self.kept.load(Relaxed) > self.limits.bytes {
            self.evict(|rooms, _| rooms.kept.load(Relaxed) > rooms.limits.bytes);
        }
    }

    /// Forgets the pasts of the least recently published rooms, as long as `too_much` says so.
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
                // It has nothing left to give: out of the way of those that have.
                index.to_back(&name);
            }
        }
    }

    /// The room of this name, a new one if there is none, with its shared name.
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

    /// Changes a room's history, and counts what that costs or frees.
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
    /// Begins a new run. Called under the room's lock: who joins meanwhile comes after the gap and
    /// must not hear of it.
    fn interrupt(&mut self, name: &str, gap: &Gap) {
        self.position = Position::fresh();
        self.members.values().for_each(|member| member.gap(name, gap));
    }

    /// Counts a message into the rate.
    fn measure(&mut self, at: u64) {
        self.rate = self.rate_at(at) + 1.0 / RATE_OVER.as_secs_f64();
        self.published = at;
    }

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

/// What a room costs besides its messages: its name and its entry.
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
