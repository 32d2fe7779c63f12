//! Compares the rooms with a model: a list that does everything in the slow and obvious way.

use std::{cell::Cell, cmp::Reverse, num::NonZero};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{history::ReplayRequest, test_client::TestClient, *};
use crate::position::Position;

const NAMES: [&str; 4] = ["a", "room", "device:01", "a longer name than the others have"];
const LANES: usize = 2;
/// The latest message of a room is kept for this many times the age of others.
const LAST_AGE: u64 = 3;
/// Epochs before the current one whose positions are known.
const PAST: usize = 8;
/// Sizes of payloads in bytes; the largest alone exceeds the smallest bounds.
const SIZES: [usize; 4] = [0, 10, 100, 1500];

thread_local! {
    /// The clock of a test's rooms, in ms.
    static NOW: Cell<u64> = const { Cell::new(1) };
}

#[derive(Clone, Debug)]
enum Step {
    Publish {
        room: usize,
        sizes: Vec<usize>,
    },
    Wait {
        ms: u64,
    },
    Enter {
        room: usize,
    },
    /// The member that joined first leaves.
    Leave,
    /// Joins a room and leaves it, with `last` or with a position seen earlier, and compares the
    /// replay.
    Look {
        room: usize,
        last: Option<usize>,
        since: Option<prop::sample::Index>,
    },
    /// A message of this room is dropped.
    Drop {
        room: usize,
    },
    Gap,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let room = || 0..NAMES.len();
    let sizes = prop::collection::vec(prop::sample::select(&SIZES[..]), 1..4);
    prop_oneof![
        8 => (room(), sizes).prop_map(|(room, sizes)| Step::Publish { room, sizes }),
        3 => (0..40u64).prop_map(|ms| Step::Wait { ms }),
        2 => room().prop_map(|room| Step::Enter { room }),
        2 => Just(Step::Leave),
        6 => (room(), prop::option::of(0..8usize), any::<Option<prop::sample::Index>>())
            .prop_map(|(room, last, since)| Step::Look { room, last, since }),
        1 => room().prop_map(|room| Step::Drop { room }),
        1 => Just(Step::Gap),
        1 => Just(Step::Sweep),
    ]
}

/// A room of the model.
struct Naive {
    name: &'static str,
    lane: usize,
    latest: u64,
    floor: u64,
    /// When the latest message arrived, in ms; 0 before the first.
    published: u64,
    members: usize,
    kept: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    number: u64,
    prev: u64,
    at: u64,
    size: usize,
}

/// The model's rooms, the least recently published one first.
struct List {
    rooms: Vec<Naive>,
    count: usize,
    age: u64,
    /// The number of the source's latest message.
    latest: u64,
    /// How many epochs have ended.
    epochs: usize,
    /// For each lane, the floor of the rooms that are not in the list.
    floors: [u64; LANES],
}

impl List {
    /// The index of a room; the room is created if it does not exist.
    fn open(&mut self, name: &'static str, lane: usize) -> usize {
        if let Some(place) = self.rooms.iter().position(|room| room.name == name) {
            return place;
        }
        let floor = self.floors[lane];
        let (published, members, kept, latest) = Default::default();
        self.rooms.push(Naive { name, lane, latest, floor, published, members, kept });
        self.rooms.len() - 1
    }

    fn publish(&mut self, name: &'static str, lane: usize, sizes: &[usize], now: u64) {
        let first = self.latest + 1;
        self.latest += sizes.len() as u64;
        if self.count == 0 && !self.rooms.iter().any(|room| room.name == name) {
            self.floors[lane] = self.latest;
            return;
        }
        let place = self.open(name, lane);
        let mut room = self.rooms.remove(place);
        for (number, &size) in (first..).zip(sizes) {
            let prev = room.latest.max(room.floor);
            (room.latest, room.published) = (number, now);
            room.kept.push(Entry { number, prev, at: now, size });
        }
        self.rooms.push(room);
        let last = self.rooms.len() - 1;
        self.forget_old(last, now);
        let excess = self.rooms[last].kept.len().saturating_sub(self.count);
        self.forget_first(last, excess);
    }

    fn forget_first(&mut self, place: usize, count: usize) {
        let room = &mut self.rooms[place];
        for entry in room.kept.drain(..count) {
            room.floor = room.floor.max(entry.number);
        }
    }

    fn remove(&mut self, place: usize) {
        let Naive { lane, latest, floor, .. } = self.rooms.remove(place);
        self.floors[lane] = self.floors[lane].max(latest).max(floor);
    }

    fn forget_old(&mut self, place: usize, now: u64) {
        let kept = &self.rooms[place].kept;
        let Some(latest) = kept.last() else { return };
        let is_old = |entry: &&Entry| entry.at + self.age < now;
        let count = kept[..kept.len() - 1].iter().take_while(is_old).count();
        let is_latest_old = latest.at + LAST_AGE * self.age < now;
        self.forget_first(place, if is_latest_old { kept.len() } else { count });
    }

    /// Forgets the first messages of a room, and the room if it has nothing left.
    fn evict(&mut self, place: usize, count: usize) {
        self.forget_first(place, count);
        if self.rooms[place].members == 0 && self.rooms[place].kept.is_empty() {
            self.remove(place);
        }
    }

    fn leave(&mut self, name: &str) {
        let place = self.rooms.iter().position(|room| room.name == name).expect("a room");
        self.rooms[place].members -= 1;
        if self.rooms[place].members == 0 && self.rooms[place].kept.is_empty() {
            self.remove(place);
        }
    }

    fn gap(&mut self) {
        self.latest += 1;
        self.epochs += 1;
        self.rooms.iter_mut().for_each(|room| room.floor = self.latest);
        self.floors = [self.latest; LANES];
    }

    fn drop_one(&mut self, name: &str, lane: usize) {
        self.latest += 1;
        match self.rooms.iter_mut().find(|room| room.name == name) {
            Some(room) => room.floor = self.latest,
            None => self.floors[lane] = self.latest,
        }
    }
}

/// A position that a join told, with its number and how many epochs had ended before.
#[derive(Clone, Debug)]
struct Told {
    position: Position,
    number: u64,
    epochs: usize,
}

struct Pair {
    rooms: Rooms,
    metrics: Arc<Metrics>,
    list: List,
    bytes: usize,
    members: Vec<(&'static str, Member)>,
    /// Positions returned by earlier joins, of any room.
    seen: Vec<Told>,
}

struct Deaf;

impl Subscriber for Deaf {
    fn deliver(&self, batch: &Batch) -> usize {
        batch.len()
    }

    fn gap(&self, _: &str, _: &Gap) {}

    fn hello(&self) {}
}

impl Pair {
    fn new(count: usize, age: u64, bytes: usize) -> Self {
        let metrics = Arc::new(Metrics::default());
        let room = HistoryBounds { count, age, last_age: LAST_AGE * age };
        let limits = HistoryLimits { room, bytes };
        let lanes = Lanes::new(NonZero::new(LANES).expect("not 0"));
        let rooms = Rooms::without_queue(limits, lanes, metrics.clone());
        let rooms = Rooms { clock: || NOW.get(), ..rooms };
        let (latest, epochs, floors) = Default::default();
        let list = List { rooms: Vec::new(), count, age, latest, epochs, floors };
        let (members, seen) = Default::default();
        Self { rooms, metrics, list, bytes, members, seen }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let now = NOW.get();
        match step {
            Step::Wait { ms } => NOW.set(now + ms),
            Step::Publish { room, sizes } => {
                let messages = sizes.iter().map(|&size| Message {
                    channel: NAMES[room].into(),
                    payload: vec![b'x'; size].into(),
                    at: now,
                    number: self.rooms.sequence().count(),
                });
                let messages: Vec<_> = messages.collect();
                let epoch = self.rooms.epoch(messages[0].number);
                self.rooms.place(NAMES[room], &epoch, messages);
                self.list.publish(NAMES[room], self.lane(room), &sizes, now);
                self.follow_eviction()?;
                let kept = self.rooms.kept.load(Acquire);
                let is_empty = self.list.rooms.iter().all(|room| room.kept.is_empty());
                prop_assert!(kept <= self.bytes || is_empty, "{kept} bytes are too many");
            }
            Step::Enter { room } => {
                let request = ReplayRequest::default();
                let (member, _) =
                    TestClient::join(&self.rooms, NAMES[room], Arc::new(Deaf), &request);
                self.members.push((NAMES[room], member));
                let place = self.list.open(NAMES[room], self.lane(room));
                self.list.rooms[place].members += 1;
                self.list.forget_old(place, now);
            }
            Step::Leave if self.members.is_empty() => {}
            Step::Leave => {
                let (name, member) = self.members.remove(0);
                self.rooms.leave(name, member);
                self.list.leave(name);
            }
            Step::Look { room, last, since } => {
                let since = since.filter(|_| !self.seen.is_empty());
                let since = since.map(|index| index.get(&self.seen).clone());
                self.look(room, last, since)?;
            }
            Step::Drop { room } => {
                let gap = Gap { from: now, to: now, reason: GapReason::QueueFull };
                let number = self.rooms.sequence().count();
                self.rooms.interrupt_one(NAMES[room], &gap, number);
                self.list.drop_one(NAMES[room], self.lane(room));
            }
            Step::Gap => {
                let gap = Gap { from: now, to: now, reason: GapReason::SourceLost };
                let number = self.rooms.sequence().begin_epoch();
                (0..LANES).for_each(|lane| self.rooms.interrupt(lane, &gap, number).for_each(drop));
                self.list.gap();
            }
            Step::Sweep => {
                while self.rooms.expire_next(now) {}
                self.follow_eviction()?;
                // Steps end late, but a second after a message's time nothing is left of it.
                let is_old =
                    |entry: &Entry, age: u64| entry.at + age + SHORTEST_STEP.max(age / STEPS) < now;
                for room in &self.list.rooms {
                    let Some((latest, others)) = room.kept.split_last() else { continue };
                    prop_assert!(!is_old(latest, LAST_AGE * self.list.age), "{latest:?}");
                    prop_assert!(!others.iter().any(|other| is_old(other, self.list.age)));
                }
            }
        }
        self.compare()
    }

    fn lane(&self, room: usize) -> usize {
        self.rooms.index.lane(NAMES[room])
    }

    /// Evicts in the model what the rooms have evicted: how much that is depends on the allocator and on
    /// the steps. In each room it is the oldest messages, and the latest one of a room only if no room
    /// has another one.
    fn follow_eviction(&mut self) -> Result<(), TestCaseError> {
        let mut is_latest_gone = false;
        for place in (0..self.list.rooms.len()).rev() {
            let Naive { name, kept, .. } = &self.list.rooms[place];
            let real = self.rooms.index.get(name);
            let left = real.map_or(0, |room| {
                let hold = room.lock();
                (hold.history.end() - hold.history.first()) as usize
            });
            prop_assert!(left <= kept.len(), "{name}");
            let latest = kept.last();
            let is_old = |entry: &Entry| entry.at + LAST_AGE * self.list.age < NOW.get();
            is_latest_gone |= left == 0 && latest.is_some_and(|latest| !is_old(latest));
            self.list.evict(place, kept.len() - left);
        }
        let mut rooms = self.list.rooms.iter();
        prop_assert!(!is_latest_gone || rooms.all(|room| room.kept.len() <= 1));
        Ok(())
    }

    /// What is counted is what the rooms have now.
    fn compare_bytes(&self) -> Result<(), TestCaseError> {
        let rooms = self.rooms.index.pieces(None).flatten();
        let bytes: usize = rooms.map(|room| room.history_bytes(&room.lock())).sum();
        let bytes = bytes + self.rooms.index.step_bytes();
        prop_assert_eq!(self.rooms.kept.load(Acquire), bytes);
        prop_assert_eq!(self.metrics.history_bytes.get(), bytes as i64);
        Ok(())
    }

    /// Compares the metrics, the rooms and the times of their latest messages.
    fn compare(&self) -> Result<(), TestCaseError> {
        self.compare_bytes()?;
        prop_assert_eq!(self.metrics.rooms.get(), self.list.rooms.len() as i64);
        prop_assert_eq!(self.metrics.members.get(), self.members.len() as i64);
        let (channels, _) = self.rooms.list(|_| true, Instant::now());
        let told: Vec<_> = channels.iter().map(|channel| (&*channel.room, channel.at)).collect();
        let published = self.list.rooms.iter().filter(|room| room.published > 0);
        let mut expected: Vec<_> = published.map(|room| (room.name, room.published)).collect();
        expected.reverse();
        expected.sort_by_key(|(_, at)| Reverse(*at));
        prop_assert_eq!(told, expected);
        Ok(())
    }

    fn look(
        &mut self,
        room: usize,
        last: Option<usize>,
        since: Option<Told>,
    ) -> Result<(), TestCaseError> {
        let name = NAMES[room];
        let request = ReplayRequest {
            last,
            since: since.clone().map(|since| since.position),
            ..ReplayRequest::default()
        };
        let (member, told) = TestClient::join(&self.rooms, name, Arc::new(Deaf), &request);
        prop_assert_eq!(told.replayed, told.messages.len());
        let messages = told.messages.into_iter().map(|kept| {
            let HistoryEntry { number, prev, at, payload, .. } = kept;
            Entry { number, prev, at, size: payload.len() }
        });
        let messages: Vec<_> = messages.collect();

        let place = self.list.open(name, self.lane(room));
        self.list.forget_old(place, NOW.get());
        let model = &self.list.rooms[place];
        let latest = |count: usize| model.kept.len().saturating_sub(count);
        let is_known = |since: &&Told| self.list.epochs - since.epochs <= PAST;
        let (from, recovered) = match (&since, since.as_ref().filter(is_known)) {
            (None, _) => (latest(last.unwrap_or(0)), None),
            (Some(_), None) => (latest(last.unwrap_or(usize::MAX)), Some(false)),
            (_, Some(since)) => {
                let from = model.kept.iter().take_while(|entry| entry.number <= since.number);
                (from.count(), Some(since.number >= model.floor))
            }
        };
        prop_assert_eq!((&messages[..], told.recovered), (&model.kept[from..], recovered));
        prop_assert_eq!(told.missing.is_some(), recovered == Some(false));
        if recovered == Some(true) {
            let since = since.expect("a position").number;
            let first = messages.first().map_or(since, |first| first.prev);
            prop_assert!(first <= since, "no message is missing before the first one");
        }
        let mut prevs = messages.windows(2);
        prop_assert!(prevs.all(|pair| pair[1].prev >= pair[0].number));
        let position = told.position.expect("`welcome` is called");
        prop_assert_eq!(&position, &self.rooms.sequence().position(self.list.latest));

        let (number, epochs) = (self.list.latest, self.list.epochs);
        self.seen.push(Told { position, number, epochs });
        self.list.rooms[place].members += 1;
        self.list.leave(name);
        self.rooms.leave(name, member);
        Ok(())
    }
}

proptest! {
    #[test]
    fn rooms_behave_as_the_model_does(
        count in prop_oneof![Just(0usize), 1..6usize, Just(1000usize)],
        age in prop_oneof![1..60u64, Just(1_000_000u64)],
        bytes in prop_oneof![0..3000usize, Just(1usize << 20)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        NOW.set(1_000_000);
        let mut pair = Pair::new(count, age, bytes);
        for step in steps {
            pair.step(step)?;
        }
        while let Some((name, member)) = pair.members.pop() {
            pair.rooms.leave(name, member);
        }
        while pair.rooms.expire_next(NOW.get() + 4_000_000) {}
        prop_assert_eq!((pair.metrics.rooms.get(), pair.metrics.history_bytes.get()), (0, 0));
    }
}
