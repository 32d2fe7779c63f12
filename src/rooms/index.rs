//! The index: finds rooms by name, and knows the order in which rooms with a history were last
//! published.
//!
//! It is divided by lane, and each lane's part again, so that locks are held for a short time. No
//! other lock is taken while one of the index is held.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Instant,
};

use hashbrown::HashTable;
use parking_lot::Mutex;

use super::{
    room::Room,
    steps::{Step, StepBounds, Steps},
};
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
    parts: Box<[IndexPart]>,
    /// For each lane, the floor of its rooms that are not in the index: the highest number of their
    /// messages, or of a gap in them.
    floors: Box<[AtomicU64]>,
    start: Instant,
}

struct IndexPart {
    slots: Mutex<Slots>,
    /// When the first room of the list was put there; `MAX` = the list is empty.
    oldest: AtomicU64,
    /// When the oldest step ended, in ms since the Unix epoch; `MAX` = there is none.
    oldest_step: AtomicU64,
    /// The number up to which messages are kept only if they are the latest of their room.
    forgotten: AtomicU64,
}

struct Slots {
    /// Slots by the hash of their room's name.
    names: HashTable<u32>,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    steps: Steps,
    /// The ends of a list of the rooms that have a history, the least recently published one first.
    first: u32,
    last: u32,
}

struct Slot {
    room: Arc<Room>,
    previous: u32,
    next: u32,
    /// The step in which the room had its latest message.
    step: u32,
}

/// A step that is being forgotten: its rooms have to be told.
pub struct Forgotten {
    part: usize,
    step: Step,
}

impl Forgotten {
    /// The number up to which messages are forgotten.
    pub fn number(&self) -> u64 {
        self.step.latest
    }

    /// Bytes that the step took.
    pub fn size(&self) -> usize {
        self.step.size()
    }
}

impl Index {
    /// An index without rooms.
    pub fn new(lanes: Lanes) -> Self {
        let part = |_| IndexPart {
            slots: Mutex::new(Slots::new()),
            oldest: AtomicU64::new(u64::MAX),
            oldest_step: AtomicU64::new(u64::MAX),
            forgotten: AtomicU64::new(0),
        };
        let parts = (0..lanes.count().get() * PARTS).map(part).collect();
        let floors = (0..lanes.count().get()).map(|_| AtomicU64::new(0)).collect();
        Self { lanes, parts, floors, start: Instant::now() }
    }

    /// The room of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Room>> {
        let hash = self.lanes.hash(name.as_bytes());
        let slots = self.part(hash).slots.lock();
        slots.find(hash, name).map(|(_, room)| room.clone())
    }

    /// The room of this name, and whether it was created. A room that has been removed is replaced.
    pub fn open(&self, name: &str) -> (Arc<Room>, bool) {
        let hash = self.lanes.hash(name.as_bytes());
        let part = self.part(hash);
        let mut slots = part.slots.lock();
        match slots.find(hash, name).map(|(slot, room)| (slot, room.clone())) {
            Some((_, room)) if !room.is_gone() => return (room, false),
            Some((slot, _)) => slots.remove(slot, hash),
            None => {}
        }
        let floor = self.floors[self.lanes.of(hash)].load(Acquire);
        (slots.insert(hash, name, floor), true)
    }

    /// Messages up to this number may be missing in rooms of a lane that are not in the index.
    pub fn raise_floor(&self, lane: usize, number: u64) {
        self.floors[lane].fetch_max(number, AcqRel);
    }

    /// The number of lanes.
    pub fn lanes(&self) -> usize {
        self.floors.len()
    }

    /// The lane of a name.
    pub fn lane(&self, name: &str) -> usize {
        self.lanes.of(self.lanes.hash(name.as_bytes()))
    }

    /// The time in ns since the index was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Puts a room to the end of the list of those with a history, and its new messages into the current
    /// step: the number and the time of arrival of the latest one, and the bytes of all. Returns how
    /// many bytes the steps have grown.
    pub fn published(
        &self,
        room: &Arc<Room>,
        bounds: StepBounds,
        messages: (u64, u64, usize),
    ) -> usize {
        let mut grown = 0;
        self.with(room, |slots, slot| {
            slots.unlink(slot);
            slots.link(slot, self.now());
            let Slots { slots, steps, .. } = slots;
            if let Some(Some(entry)) = slots.get_mut(slot as usize) {
                grown = steps.add(bounds, slot, &mut entry.step, messages);
            }
        });
        grown
    }

    /// The number up to which messages of a room are kept only if they are its latest one.
    pub fn forgotten(&self, room: &Room) -> u64 {
        self.part(room.hash).forgotten.load(Acquire)
    }

    /// Takes the oldest step, if it ended before `time`, in ms since the Unix epoch.
    pub fn take_step(&self, time: u64) -> Option<Forgotten> {
        let oldest = |(_, part): &(usize, &IndexPart)| part.oldest_step.load(Relaxed);
        let (number, part) = self.parts.iter().enumerate().min_by_key(oldest)?;
        let mut slots = part.slots.lock();
        let is_old = slots.steps.oldest().is_some_and(|ended| ended < time);
        let step = if is_old { slots.steps.take() } else { None };
        part.set_oldest(&slots);
        let step = step?;
        part.forgotten.fetch_max(step.latest, AcqRel);
        Some(Forgotten { part: number, step })
    }

    /// When the first message arrived that is still kept although it may not be the latest one of its
    /// room, in ms since the Unix epoch.
    pub fn oldest_message(&self) -> Option<u64> {
        self.parts.iter().filter_map(|part| part.slots.lock().steps.oldest_message()).min()
    }

    /// The rooms of a step, in pieces of which each is collected in one hold of a lock. A slot may have
    /// another room by now, to which the same applies.
    pub fn rooms_of(&self, step: &Forgotten) -> impl Iterator<Item = Vec<Arc<Room>>> {
        let part = &self.parts[step.part];
        step.step.rooms.chunks(PIECE).map(|piece| {
            let slots = part.slots.lock();
            piece.iter().filter_map(|slot| slots.room(*slot)).collect()
        })
    }

    /// Removes a room.
    pub fn remove(&self, room: &Arc<Room>) {
        self.with(room, |slots, slot| slots.remove(slot, room.hash));
    }

    /// Takes the least recently published room out of the list, if it was published before `time`,
    /// in ms since the Unix epoch. It stays in the index.
    pub fn take_older_than(&self, time: u64) -> Option<Arc<Room>> {
        let oldest = |part: &&IndexPart| part.oldest.load(Relaxed);
        let part = self.parts.iter().min_by_key(oldest)?;
        let mut slots = part.slots.lock();
        let first = slots.first;
        let room = slots.room(first).filter(|room| room.published() < time)?;
        slots.unlink(first);
        part.set_oldest(&slots);
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
                let slots = part.slots.lock();
                let slots = slots.slots.get(from..)?.iter().take(PIECE);
                let rooms: Vec<_> = slots.map(|slot| slot.as_ref()).collect();
                (!rooms.is_empty())
                    .then(|| rooms.into_iter().flatten().map(|slot| slot.room.clone()).collect())
            })
        })
    }

    /// Bytes of all steps.
    #[cfg(test)]
    pub fn step_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.slots.lock().steps.size()).sum()
    }

    /// Runs `change` on the room's slot, if the room is in the index.
    fn with(&self, room: &Arc<Room>, change: impl FnOnce(&mut Slots, u32)) {
        let part = self.part(room.hash);
        let mut slots = part.slots.lock();
        let is_there = slots.room(room.slot).is_some_and(|there| Arc::ptr_eq(&there, room));
        if is_there {
            change(&mut slots, room.slot);
            part.set_oldest(&slots);
        }
    }

    fn part(&self, hash: u64) -> &IndexPart {
        let part = (hash >> 32) as usize % PARTS;
        &self.parts[self.lanes.of(hash) * PARTS + part]
    }
}

impl IndexPart {
    fn set_oldest(&self, slots: &Slots) {
        let oldest = slots.get(slots.first).map_or(u64::MAX, |slot| slot.room.listed());
        self.oldest.store(oldest, Relaxed);
        self.oldest_step.store(slots.steps.oldest().unwrap_or(u64::MAX), Relaxed);
    }
}

impl Slots {
    fn new() -> Self {
        let (names, slots, free, steps) = Default::default();
        Self { names, slots, free, steps, first: NONE, last: NONE }
    }

    fn get(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    fn room(&self, slot: u32) -> Option<Arc<Room>> {
        Some(self.get(slot)?.room.clone())
    }

    fn find(&self, hash: u64, name: &str) -> Option<(u32, &Arc<Room>)> {
        let is_it = |slot: &u32| self.get(*slot).is_some_and(|slot| &*slot.room.name == name);
        let slot = *self.names.find(hash, is_it)?;
        Some((slot, &self.get(slot)?.room))
    }

    fn insert(&mut self, hash: u64, name: &str, floor: u64) -> Arc<Room> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            // Memory ends before the numbers do.
            u32::try_from(self.slots.len() - 1).unwrap_or(OUT)
        });
        let room = Arc::new(Room::new(name, hash, slot, floor));
        self.slots[slot as usize] =
            Some(Slot { room: room.clone(), previous: OUT, next: OUT, step: 0 });
        let slots = &self.slots;
        let hash_of = |slot: &u32| {
            slots.get(*slot as usize).and_then(Option::as_ref).map_or(0, |slot| slot.room.hash)
        };
        self.names.insert_unique(hash, slot, hash_of);
        room
    }

    fn remove(&mut self, slot: u32, hash: u64) {
        self.unlink(slot);
        if let Ok(entry) = self.names.find_entry(hash, |there| *there == slot) {
            entry.remove();
        }
        self.slots[slot as usize] = None;
        self.free.push(slot);
    }

    /// Appends a slot to the list.
    fn link(&mut self, slot: u32, now: u64) {
        let last = std::mem::replace(&mut self.last, slot);
        if let Some(last) = self.get_mut(last) {
            last.next = slot;
        } else {
            self.first = slot;
        }
        if let Some(slot) = self.get_mut(slot) {
            slot.room.set_listed(now);
            (slot.previous, slot.next) = (last, NONE);
        }
    }

    /// Takes a slot out of the list, if it is in it.
    fn unlink(&mut self, slot: u32) {
        let Some(links) = self.get_mut(slot).filter(|slot| slot.next != OUT) else { return };
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
                        index.published(&room, StepBounds { time: 1, bytes: 1 }, (time, time, 1));
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
