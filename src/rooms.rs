//! Who is in which room, and at which position the room is.
//!
//! The index is ours, not the engine's: a message for a room without members costs one look-up,
//! and a member is one connect instance, not a session id, which can be used again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use indexmap::IndexMap;
use serde::Serialize;

use crate::{broker::Message, delivery::Delivery, metrics::Metrics};

/// Bytes of a room's name: long enough for any path of topics, short enough to count on.
const MAX_NAME: usize = 256;

/// Where a member of a room takes its messages.
pub trait Outlet: Send + Sync {
    /// Takes messages of its room, in order, without waiting; returns how many it took.
    fn deliver(&self, batch: &[Delivery]) -> usize;

    /// Hears that somebody else has joined the room.
    fn hello(&self);
}

/// A membership: one connect instance in one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Member(u64);

/// A room's members as they were at one moment, shared rather than copied.
pub type Members = Arc<IndexMap<Member, Arc<dyn Outlet>>>;

/// How far a room has come: what was published later has a higher offset or another epoch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Position {
    /// An opaque random name for an unbroken run of offsets.
    pub epoch: Arc<str>,
    /// The offset of the latest message; 0 before the first.
    pub offset: u64,
}

impl Position {
    fn new() -> Self {
        Self { epoch: format!("{:012x}", rand::random::<u64>() >> 16).into(), offset: 0 }
    }
}

struct Room {
    members: Members,
    position: Position,
    /// Messages may have been missed since the last one: the next one starts a new epoch.
    broken: bool,
}

/// All rooms that have members.
pub struct Rooms {
    /// Locked before a room's own lock, never the other way round.
    index: Mutex<HashMap<Arc<str>, Arc<Mutex<Room>>>>,
    next_member: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Rooms {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { index: Mutex::default(), next_member: AtomicU64::new(1), metrics }
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

    /// Enters a room. `welcome` runs under the room's lock, so that what it sends comes before
    /// the room's first message and after none.
    pub fn join(
        &self,
        name: &str,
        outlet: Arc<dyn Outlet>,
        welcome: impl FnOnce(&Position),
    ) -> Member {
        let member = Member(self.next_member.fetch_add(1, Ordering::Relaxed));
        let mut index = lock(&self.index);
        let room = index.entry(name.into()).or_insert_with(|| {
            self.metrics.rooms.inc();
            let (members, position) = (Members::default(), Position::new());
            Arc::new(Mutex::new(Room { members, position, broken: false }))
        });
        let mut room = lock(room);
        welcome(&room.position);
        Arc::make_mut(&mut room.members).insert(member, outlet);
        self.metrics.members.inc();
        member
    }

    /// Leaves a room; the last one out closes it.
    pub fn leave(&self, name: &str, member: Member) {
        let mut index = lock(&self.index);
        let Some(shared) = index.get(name) else { return };
        let mut room = lock(shared);
        if Arc::make_mut(&mut room.members).swap_remove(&member).is_none() {
            return;
        }
        self.metrics.members.dec();
        let empty = room.members.is_empty();
        drop(room);
        if empty {
            index.remove(name);
            self.metrics.rooms.dec();
        }
    }

    /// Joins a room again that one is in: other options, the same membership.
    pub fn rejoin(
        &self,
        name: &str,
        member: Member,
        outlet: Arc<dyn Outlet>,
        welcome: impl FnOnce(&Position),
    ) {
        if let Some(room) = lock(&self.index).get(name) {
            let mut room = lock(room);
            welcome(&room.position);
            Arc::make_mut(&mut room.members).insert(member, outlet);
        }
    }

    /// Everybody in a room now.
    pub fn members(&self, name: &str) -> Members {
        let index = lock(&self.index);
        index.get(name).map(|room| lock(room).members.clone()).unwrap_or_default()
    }

    /// Gives messages of one channel their places, and says who is there to get them; `None` if
    /// nobody is.
    pub fn place(&self, name: &str, messages: Vec<Message>) -> Option<(Members, Vec<Delivery>)> {
        let (key, room) = {
            let index = lock(&self.index);
            let (key, room) = index.get_key_value(name)?;
            (key.clone(), room.clone())
        };
        let (members, from) = {
            let mut room = lock(&room);
            if room.broken {
                (room.position, room.broken) = (Position::new(), false);
            }
            let from = room.position.clone();
            room.position.offset += messages.len() as u64;
            (room.members.clone(), from)
        };
        let deliveries = messages.into_iter().zip(from.offset + 1..).map(|(message, offset)| {
            Delivery::new(key.clone(), from.epoch.clone(), offset, message)
        });
        Some((members, deliveries.collect()))
    }

    /// Messages may be missing from here on, in any room.
    pub fn break_all(&self) {
        let rooms: Vec<_> = lock(&self.index).values().cloned().collect();
        rooms.iter().for_each(|room| lock(room).broken = true);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<(u64, String)>>);

    impl Outlet for Seen {
        fn deliver(&self, batch: &[Delivery]) -> usize {
            let seen = batch.iter().map(|delivery| {
                let payload = String::from_utf8_lossy(&delivery.payload).into_owned();
                (delivery.place.offset, payload)
            });
            lock(&self.0).extend(seen);
            batch.len()
        }

        fn hello(&self) {}
    }

    fn message(payload: &str) -> Message {
        Message::now(Bytes::from_static(b"room"), Bytes::copy_from_slice(payload.as_bytes()))
    }

    fn publish(rooms: &Rooms, payload: &str) {
        if let Some((members, deliveries)) = rooms.place("room", vec![message(payload)]) {
            for member in members.values() {
                member.deliver(&deliveries);
            }
        }
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
        let metrics = Arc::new(Metrics::default());
        let rooms = Rooms::new(metrics.clone());
        let (first, second) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
        publish(&rooms, "nobody is here");
        let member = rooms.join("room", first.clone(), |position| assert_eq!(position.offset, 0));
        publish(&rooms, "a");
        let other = rooms.join("room", second.clone(), |position| assert_eq!(position.offset, 1));
        publish(&rooms, "b");
        rooms.leave("room", member);
        publish(&rooms, "c");
        assert_eq!(*lock(&first.0), [(1, "a".to_owned()), (2, "b".to_owned())]);
        assert_eq!(*lock(&second.0), [(2, "b".to_owned()), (3, "c".to_owned())]);
        assert_eq!((metrics.rooms.get(), metrics.members.get()), (1, 1));
        rooms.leave("room", other);
        rooms.leave("room", other);
        assert_eq!((metrics.rooms.get(), metrics.members.get()), (0, 0));
    }

    #[test]
    fn a_break_starts_a_new_epoch_at_the_next_message() {
        let rooms = Rooms::new(Arc::default());
        let mut before = None;
        let member = rooms.join("room", Arc::new(Seen::default()), |position| {
            before = Some(position.clone());
        });
        publish(&rooms, "a");
        rooms.break_all();
        publish(&rooms, "b");
        publish(&rooms, "c");
        rooms.rejoin("room", member, Arc::new(Seen::default()), |position| {
            assert_eq!(position.offset, 2);
            assert_ne!(Some(&position.epoch), before.as_ref().map(|before| &before.epoch));
        });
    }

    #[test]
    fn leaving_while_messages_go_out_disturbs_nobody() {
        let rooms = Rooms::new(Arc::default());
        let seen = Arc::new(Seen::default());
        let gone = rooms.join("room", Arc::new(Seen::default()), |_| ());
        rooms.join("room", seen.clone(), |_| ());
        let (members, deliveries) = rooms.place("room", vec![message("a")]).expect("members");
        rooms.leave("room", gone);
        assert_eq!(members.values().map(|member| member.deliver(&deliveries)).sum::<usize>(), 2);
        assert_eq!(lock(&seen.0).len(), 1);
    }
}
