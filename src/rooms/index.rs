//! The index: finds rooms by name, and knows the order in which rooms with a history were last
//! published.
//!
//! It is divided by lane, and each lane's part again, so that locks are held for a short time. No
//! other lock is taken while one of the index is held.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use hashbrown::HashTable;
use parking_lot::Mutex;

use super::room::Room;
use crate::lanes::Lanes;

/// Parts of each lane's index. A table that grows is copied under its lock, so it should be small.
const PARTS: usize = 16;
/// Rooms that are looked at in one hold of a lock.
pub const PIECE: usize = 256;

/// No room.
const NONE: u32 = u32::MAX;
/// The room is not in the list of those that have a history.
const OUT: u32 = u32::MAX - 1;

/// All rooms by name.
pub struct Index {
    lanes: Lanes,
    parts: Box<[Part]>,
    start: Instant,
}

struct Part {
    places: Mutex<Places>,
    /// When the first room of the list was put there; `MAX` = the list is empty.
    oldest: AtomicU64,
}

struct Places {
    /// Places by the hash of their room's name.
    names: HashTable<u32>,
    places: Vec<Option<Place>>,
    free: Vec<u32>,
    /// The ends of a list of the rooms that have a history, the least recently published one first.
    first: u32,
    last: u32,
}

struct Place {
    room: Arc<Room>,
    previous: u32,
    next: u32,
}

impl Index {
    /// An index without rooms.
    pub fn new(lanes: Lanes) -> Self {
        let part = |_| Part { places: Mutex::new(Places::new()), oldest: AtomicU64::new(u64::MAX) };
        let parts = (0..lanes.count().get() * PARTS).map(part).collect();
        Self { lanes, parts, start: Instant::now() }
    }

    /// The room of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Room>> {
        let hash = self.lanes.hash(name.as_bytes());
        let places = self.part(hash).places.lock();
        places.find(hash, name).map(|(_, room)| room.clone())
    }

    /// The room of this name, and whether it was created. A room that has been removed is replaced.
    pub fn open(&self, name: &str) -> (Arc<Room>, bool) {
        let hash = self.lanes.hash(name.as_bytes());
        let part = self.part(hash);
        let mut places = part.places.lock();
        match places.find(hash, name).map(|(place, room)| (place, room.clone())) {
            Some((_, room)) if !room.is_gone() => return (room, false),
            Some((place, _)) => places.remove(place, hash),
            None => {}
        }
        (places.insert(hash, name), true)
    }

    /// The time in ns since the index was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Puts a room to the end of the list of those with a history.
    pub fn published(&self, room: &Arc<Room>) {
        self.with(room, |places, place| {
            places.unlink(place);
            places.link(place, self.now());
        });
    }

    /// Removes a room.
    pub fn remove(&self, room: &Arc<Room>) {
        self.with(room, |places, place| places.remove(place, room.hash));
    }

    /// Takes the least recently published room out of the list, if it was published before `time`,
    /// in ms since the Unix epoch. It stays in the index.
    pub fn take_older_than(&self, time: u64) -> Option<Arc<Room>> {
        let oldest = |part: &&Part| part.oldest.load(Relaxed);
        let part = self.parts.iter().min_by_key(oldest)?;
        let mut places = part.places.lock();
        let first = places.first;
        let room = places.room(first).filter(|room| room.published() < time)?;
        places.unlink(first);
        part.set_oldest(&places);
        Some(room)
    }

    /// All rooms, or those of one lane, in pieces of which each is collected in one hold of a lock.
    pub fn pieces(&self, lane: Option<usize>) -> impl Iterator<Item = Vec<Arc<Room>>> + '_ {
        let parts = match lane {
            None => &self.parts[..],
            Some(lane) => &self.parts[lane * PARTS..(lane + 1) * PARTS],
        };
        parts.iter().flat_map(|part| {
            (0..).step_by(PIECE).map_while(move |from| {
                let places = part.places.lock();
                let places = places.places.get(from..)?.iter().take(PIECE);
                let rooms: Vec<_> = places.map(|place| place.as_ref()).collect();
                (!rooms.is_empty())
                    .then(|| rooms.into_iter().flatten().map(|place| place.room.clone()).collect())
            })
        })
    }

    /// Runs `change` on the room's place, if the room is in the index.
    fn with(&self, room: &Arc<Room>, change: impl FnOnce(&mut Places, u32)) {
        let part = self.part(room.hash);
        let mut places = part.places.lock();
        let is_there = places.room(room.place).is_some_and(|there| Arc::ptr_eq(&there, room));
        if is_there {
            change(&mut places, room.place);
            part.set_oldest(&places);
        }
    }

    fn part(&self, hash: u64) -> &Part {
        let part = (hash >> 32) as usize % PARTS;
        &self.parts[self.lanes.of(hash) * PARTS + part]
    }
}

impl Part {
    fn set_oldest(&self, places: &Places) {
        let oldest = places.get(places.first).map_or(u64::MAX, |place| place.room.listed());
        self.oldest.store(oldest, Relaxed);
    }
}

impl Places {
    fn new() -> Self {
        let (names, places, free) = Default::default();
        Self { names, places, free, first: NONE, last: NONE }
    }

    fn get(&self, place: u32) -> Option<&Place> {
        self.places.get(place as usize)?.as_ref()
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut Place> {
        self.places.get_mut(place as usize)?.as_mut()
    }

    fn room(&self, place: u32) -> Option<Arc<Room>> {
        Some(self.get(place)?.room.clone())
    }

    fn find(&self, hash: u64, name: &str) -> Option<(u32, &Arc<Room>)> {
        let is_it = |place: &u32| self.get(*place).is_some_and(|place| &*place.room.name == name);
        let place = *self.names.find(hash, is_it)?;
        Some((place, &self.get(place)?.room))
    }

    fn insert(&mut self, hash: u64, name: &str) -> Arc<Room> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            // Memory ends before the numbers do.
            u32::try_from(self.places.len() - 1).unwrap_or(OUT)
        });
        let room = Arc::new(Room::new(name, hash, place));
        self.places[place as usize] = Some(Place { room: room.clone(), previous: OUT, next: OUT });
        let places = &self.places;
        let hash_of = |place: &u32| {
            places.get(*place as usize).and_then(Option::as_ref).map_or(0, |place| place.room.hash)
        };
        self.names.insert_unique(hash, place, hash_of);
        room
    }

    fn remove(&mut self, place: u32, hash: u64) {
        self.unlink(place);
        if let Ok(entry) = self.names.find_entry(hash, |there| *there == place) {
            entry.remove();
        }
        self.places[place as usize] = None;
        self.free.push(place);
    }

    /// Appends a place to the list.
    fn link(&mut self, place: u32, now: u64) {
        let last = std::mem::replace(&mut self.last, place);
        if let Some(last) = self.get_mut(last) {
            last.next = place;
        } else {
            self.first = place;
        }
        if let Some(place) = self.get_mut(place) {
            place.room.set_listed(now);
            (place.previous, place.next) = (last, NONE);
        }
    }

    /// Takes a place out of the list, if it is in it.
    fn unlink(&mut self, place: u32) {
        let Some(links) = self.get_mut(place).filter(|place| place.next != OUT) else { return };
        let (previous, next) = (links.previous, links.next);
        (links.previous, links.next) = (OUT, OUT);
        match self.get_mut(previous) {
            Some(previous) => previous.next = next,
            None => self.first = next,
        }
        match self.get_mut(next) {
            Some(next) => next.previous = previous,
            None => self.last = previous,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use proptest::prelude::*;

    use super::*;

    fn index() -> Index {
        Index::new(Lanes::new(NonZero::new(3).expect("not 0")))
    }

    fn names(index: &Index) -> Vec<String> {
        let rooms = index.pieces(None).flatten();
        let mut names: Vec<_> = rooms.map(|room| room.name.to_string()).collect();
        names.sort();
        names
    }

    proptest! {
        /// A list of names in the order of publication does the same.
        #[test]
        fn rooms_are_found_and_taken_oldest_first(
            steps in prop::collection::vec((0..4u8, 0..20u8), 0..300),
        ) {
            let index = index();
            let mut list: Vec<String> = Vec::new();
            let mut published: Vec<(u64, String)> = Vec::new();
            for (time, (step, number)) in (1u64..).zip(steps) {
                let name = format!("room{number}");
                match step {
                    0 => {
                        let (_, is_new) = index.open(&name);
                        prop_assert_eq!(is_new, !list.contains(&name));
                        if is_new {
                            list.push(name);
                        }
                    }
                    1 => if let Some(room) = index.get(&name) {
                        room.set_published(time);
                        index.published(&room);
                        published.retain(|(_, other)| *other != name);
                        published.push((time, name));
                    },
                    2 => if let Some(room) = index.get(&name) {
                        index.remove(&room);
                        index.remove(&room);
                        list.retain(|other| *other != name);
                        published.retain(|(_, other)| *other != name);
                    },
                    _ => {
                        let taken = index.take_older_than(time).map(|room| room.name.to_string());
                        let expected = (!published.is_empty()).then(|| published.remove(0).1);
                        prop_assert_eq!(taken, expected);
                    }
                }
                let mut expected = list.clone();
                expected.sort();
                prop_assert_eq!(names(&index), expected);
            }
            prop_assert!(index.take_older_than(1).is_none(), "nothing is older");
        }
    }

    #[test]
    fn pieces_have_all_rooms_once_and_each_lane_its_own() {
        let index = index();
        for number in 0..20_000 {
            index.open(&format!("room{number}"));
        }
        assert!(index.pieces(None).all(|piece| piece.len() <= PIECE));
        let mut all = names(&index);
        all.dedup();
        assert_eq!(all.len(), 20_000);
        let lanes: usize = (0..3).map(|lane| index.pieces(Some(lane)).flatten().count()).sum();
        assert_eq!(lanes, 20_000);
        let own = index.pieces(Some(1)).flatten();
        assert!(own.into_iter().all(|room| index.lanes.of(room.hash) == 1));
    }

    #[test]
    fn a_room_that_is_gone_is_replaced() {
        let index = index();
        let (room, _) = index.open("room");
        room.set_gone();
        let (new, is_new) = index.open("room");
        assert!(is_new && !Arc::ptr_eq(&room, &new));
        index.remove(&room);
        assert!(index.get("room").is_some_and(|there| Arc::ptr_eq(&there, &new)));
    }
}
