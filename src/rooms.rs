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
    broker::{Gap, Message},
    delivery::Delivery,
    glob,
    history::{Bounds, History, Position, Replay, Wish},
    metrics::Metrics,
};

/// Bytes of a room's name: long enough for any path of topics, short enough to count on.
const MAX_NAME: usize = 256;
/// Rooms that one look at the channels tells about.
const MAX_CHANNELS: usize = 1000;
/// Characters of a latest payload in it.
const MAX_LAST: usize = 200;
/// What a rate is averaged over: long enough for a device that speaks every few seconds.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Where a member of a room takes its messages.
pub trait Outlet: Send + Sync {
    /// Takes messages of its room, in order, without waiting; returns how many it took.
    fn deliver(&self, batch: &[Delivery]) -> usize;

    /// Hears that messages of its room may be missing.
    fn gap(&self, room: &str, gap: &Gap);

    /// Hears that somebody else has joined the room.
    fn hello(&self);
}

/// A membership: one connect instance in one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member(u64);

/// A room's members as they were at one moment, shared rather than copied.
pub type Members = Arc<IndexMap<Member, Arc<dyn Outlet>>>;

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of each room.
    pub room: Bounds,
    /// Bytes of all rooms together, names and bookkeeping included.
    pub bytes: usize,
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
}

impl Rooms {
    /// None yet.
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        let (index, kept, next_member) = Default::default();
        Self { index, limits, kept, next_member, metrics }
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

    /// Enters a room. `welcome` runs under the room's lock and gets what it asked for of the past:
    /// what it sends comes before the room's next message and after none.
    pub fn join(
        &self,
        name: &str,
        outlet: Arc<dyn Outlet>,
        wish: &Wish,
        welcome: impl FnOnce(&Position, Replay),
    ) -> Member {
        let member = Member(self.next_member.fetch_add(1, Relaxed));
        self.enter(name, member, outlet, wish, welcome);
        self.metrics.members.inc();
        member
    }

    /// Joins a room again that one is in: other options, the same membership.
    pub fn rejoin(
        &self,
        name: &str,
        member: Member,
        outlet: Arc<dyn Outlet>,
        wish: &Wish,
        welcome: impl FnOnce(&Position, Replay),
    ) {
        self.enter(name, member, outlet, wish, welcome);
    }

    fn enter(
        &self,
        name: &str,
        member: Member,
        outlet: Arc<dyn Outlet>,
        wish: &Wish,
        welcome: impl FnOnce(&Position, Replay),
    ) {
        let mut index = lock(&self.index);
        let (_, shared) = self.open(&mut index, name);
        let mut room = lock(&shared);
        drop(index);
        self.change(&mut room, |room| room.history.expire(crate::broker::now(), self.limits.room));
        welcome(&room.position, room.history.replay(wish, &room.position));
        Arc::make_mut(&mut room.members).insert(member, outlet);
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
                room.history.push(room.position.clone(), &message, self.limits.room);
                if !members.is_empty() {
                    let Position { epoch, offset } = room.position.clone();
                    deliveries.push(Delivery::new(name.clone(), epoch, offset, message));
                }
            }
        });
        drop(room);
        if self.kept.load(Relaxed) > self.limits.bytes {
            self.evict(|rooms, _| rooms.kept.load(Relaxed) > rooms.limits.bytes);
        }
        (!members.is_empty()).then_some((members, deliveries))
    }

    /// The rooms of this pattern that were published lately, the latest first, and whether there
    /// are more of them than are told.
    pub fn channels(&self, pattern: &str, now: u64) -> (Vec<Channel>, bool) {
        let index = lock(&self.index);
        let mut channels = Vec::new();
        for (name, room) in index.iter().rev() {
            let room = lock(room);
            if room.published == 0 || !glob::matches(pattern.as_bytes(), name.as_bytes()) {
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

    /// Messages may be missing, in any room: what comes next is a new run, and members are told.
    pub fn gap(&self, gap: &Gap) {
        let rooms: Vec<_> = {
            let index = lock(&self.index);
            index.iter().map(|(name, room)| (name.clone(), room.clone())).collect()
        };
        for (name, room) in rooms {
            let mut room = lock(&room);
            room.position = Position::fresh();
            let members = room.members.clone();
            // Under the lock: who joins meanwhile comes after the gap and must not hear of it.
            members.values().for_each(|member| member.gap(&name, gap));
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
mod tests {
    use super::*;
    use crate::history::Kept;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Outlet for Seen {
        fn deliver(&self, batch: &[Delivery]) -> usize {
            let seen = batch.iter().map(|delivery| {
                let payload = String::from_utf8_lossy(&delivery.payload);
                format!("{} {payload}", delivery.place.offset)
            });
            lock(&self.0).extend(seen);
            batch.len()
        }

        fn gap(&self, _: &str, gap: &Gap) {
            lock(&self.0).push(format!("gap {:?}", gap.reason));
        }

        fn hello(&self) {}
    }

    const HOUR: u64 = 3_600_000;

    fn rooms(count: usize, bytes: usize) -> (Rooms, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let limits = Limits { room: Bounds { count, age: HOUR }, bytes };
        (Rooms::new(limits, metrics.clone()), metrics)
    }

    fn message(payload: &str) -> Message {
        Message::now(Bytes::from_static(b"room"), Bytes::copy_from_slice(payload.as_bytes()))
    }

    fn publish_to(rooms: &Rooms, name: &str, payload: &str) {
        if let Some((members, deliveries)) = rooms.place(name, vec![message(payload)]) {
            for member in members.values() {
                member.deliver(&deliveries);
            }
        }
    }

    fn publish(rooms: &Rooms, payload: &str) {
        publish_to(rooms, "room", payload);
    }

    fn join(rooms: &Rooms, seen: &Arc<Seen>) -> (Member, Position) {
        let mut at = None;
        let member = rooms.join("room", seen.clone(), &Wish::default(), |position, _| {
            at = Some(position.clone());
        });
        (member, at.expect("welcomed"))
    }

    /// What somebody who joins now gets to see first.
    fn replay(rooms: &Rooms, name: &str, wish: Wish) -> (Vec<String>, Option<bool>) {
        let mut got = None;
        let member = rooms.join(name, Arc::new(Seen::default()), &wish, |_, replay| {
            got = Some(replay);
        });
        rooms.leave(name, member);
        let replay = got.expect("welcomed");
        let text = |kept: &Kept| String::from_utf8_lossy(&kept.payload).into_owned();
        (replay.messages.iter().map(text).collect(), replay.recovered)
    }

    fn last(count: usize) -> Wish {
        Wish { last: Some(count), since: None }
    }

    fn since(position: &Position) -> Wish {
        Wish { last: None, since: Some(position.clone()) }
    }

    #[test]
    fn names() {
        for good in ["d", "device:01", "päth/ü", &"x".repeat(256)] {
            assert_eq!(Rooms::check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(257), &"ü".repeat(129)] {
            assert!(Rooms::check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_member_gets_what_comes_between_join_and_leave() {
        let (rooms, metrics) = rooms(0, 0);
        let (first, second) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
        publish(&rooms, "nobody is here");
        let (member, position) = join(&rooms, &first);
        assert_eq!(position.offset, 0);
        publish(&rooms, "a");
        let (other, position) = join(&rooms, &second);
        assert_eq!(position.offset, 1);
        publish(&rooms, "b");
        rooms.leave("room", member);
        publish(&rooms, "c");
        assert_eq!(*lock(&first.0), ["1 a", "2 b"]);
        assert_eq!(*lock(&second.0), ["2 b", "3 c"]);
        assert_eq!((metrics.rooms.get(), metrics.members.get()), (1, 1));
        rooms.leave("room", other);
        rooms.leave("room", other);
        assert_eq!((metrics.rooms.get(), metrics.members.get()), (0, 0));
        assert_eq!(metrics.history_bytes.get(), 0);
    }

    #[test]
    fn the_past_is_replayed_as_asked_for() {
        let (rooms, _) = rooms(3, 1 << 20);
        let (_, start) = join(&rooms, &Arc::new(Seen::default()));
        for payload in ["a", "b", "c"] {
            publish(&rooms, payload);
        }
        assert_eq!(replay(&rooms, "room", last(2)), (vec!["b".into(), "c".into()], None));
        assert_eq!(replay(&rooms, "room", since(&start)).1, Some(true));
        publish(&rooms, "d");
        let seen = Position { offset: 2, ..start.clone() };
        assert_eq!(
            replay(&rooms, "room", since(&seen)),
            (vec!["c".into(), "d".into()], Some(true))
        );
        let all = vec!["b".to_owned(), "c".into(), "d".into()];
        assert_eq!(
            replay(&rooms, "room", since(&start)),
            (all.clone(), Some(false)),
            "1 is forgotten"
        );
        let ahead = Position { offset: 9, ..start.clone() };
        assert_eq!(replay(&rooms, "room", since(&ahead)), (all, Some(false)), "not from here");
        let now = Position { offset: 4, ..start };
        assert_eq!(replay(&rooms, "room", since(&now)), (vec![], Some(true)));
    }

    #[test]
    fn a_gap_is_told_and_starts_a_new_epoch() {
        let (rooms, _) = rooms(10, 1 << 20);
        let seen = Arc::new(Seen::default());
        let (_, before) = join(&rooms, &seen);
        publish(&rooms, "a");
        rooms.gap(&Gap { from: 1, to: 2, reason: crate::broker::GapReason::SourceLost });
        publish(&rooms, "b");
        assert_eq!(*lock(&seen.0), ["1 a", "gap SourceLost", "1 b"]);
        assert_eq!(
            replay(&rooms, "room", since(&before)),
            (vec!["a".into(), "b".into()], Some(false))
        );
        assert_ne!(join(&rooms, &seen).1.epoch, before.epoch);
    }

    #[test]
    fn the_least_recently_published_room_is_forgotten_first() {
        let payload = "x".repeat(1000);
        let (rooms, metrics) = rooms(100, 6500);
        let watching = Arc::new(Seen::default());
        rooms.join("watched", watching.clone(), &Wish::default(), |_, _| ());
        for name in ["watched", "a", "b", "a"] {
            publish_to(&rooms, name, &payload);
        }
        for _ in 0..3 {
            publish_to(&rooms, "c", &payload);
        }
        assert!(metrics.history_bytes.get() <= 6500, "{}", metrics.history_bytes.get());
        assert_eq!(
            replay(&rooms, "watched", last(9)).0.len(),
            0,
            "first to go, but the room stays"
        );
        assert_eq!(replay(&rooms, "b", last(9)).0.len(), 0, "next to go");
        assert_eq!(replay(&rooms, "a", last(9)).0.len(), 2);
        assert_eq!(replay(&rooms, "c", last(9)).0.len(), 3);
        publish_to(&rooms, "watched", "still here");
        assert_eq!(lock(&watching.0).last().map(String::as_str), Some("2 still here"));
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let (rooms, metrics) = rooms(100, 1 << 20);
        publish(&rooms, "a");
        rooms.expire(crate::broker::now());
        assert_eq!(metrics.rooms.get(), 1);
        rooms.expire(crate::broker::now() + HOUR + 1000);
        assert_eq!((metrics.rooms.get(), metrics.history_bytes.get()), (0, 0));
    }

    #[test]
    fn leaving_while_messages_go_out_disturbs_nobody() {
        let (rooms, _) = rooms(0, 0);
        let seen = Arc::new(Seen::default());
        let (gone, _) = join(&rooms, &Arc::new(Seen::default()));
        join(&rooms, &seen);
        let (members, deliveries) = rooms.place("room", vec![message("a")]).expect("members");
        rooms.leave("room", gone);
        assert_eq!(members.values().map(|member| member.deliver(&deliveries)).sum::<usize>(), 2);
        assert_eq!(lock(&seen.0).len(), 1);
    }

    #[test]
    fn channels_are_told_with_their_latest_message() {
        let (rooms, _) = rooms(10, 1 << 20);
        for (name, payload) in [("device01", "a"), ("device02", "bb"), ("other", "c")] {
            publish_to(&rooms, name, payload);
        }
        let (channels, more) = rooms.channels("device*", crate::broker::now());
        let told: Vec<_> = channels.iter().map(|channel| (&*channel.room, channel.size)).collect();
        assert_eq!((told, more), (vec![("device02", Some(2)), ("device01", Some(1))], false));
        assert_eq!(channels[0].last.as_deref(), Some("bb"));
        assert!(channels[0].rate > 0.0 && channels[0].at > 0);
    }
}
