//! Compares the rooms with a model: a list that does everything in the slow and obvious way.

use std::{cell::Cell, cmp::Reverse, collections::HashMap, num::NonZero};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{history::ReplayRequest, join::Joined, *};

const NAMES: [&str; 4] = ["a", "room", "device:01", "a longer name than the others have"];
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
        1 => Just(Step::Gap),
        1 => Just(Step::Sweep),
    ]
}

/// A room of the model. Its epochs are numbers.
struct Naive {
    name: &'static str,
    epoch: u32,
    offset: u64,
    /// When the latest message arrived, in ms; 0 before the first.
    published: u64,
    members: usize,
    /// (epoch, offset, at, size)
    kept: Vec<(u32, u64, u64, usize)>,
}

/// The model's rooms, the least recently published one first.
struct List {
    rooms: Vec<Naive>,
    count: usize,
    age: u64,
    epochs: u32,
}

impl List {
    fn epoch(&mut self) -> u32 {
        self.epochs += 1;
        self.epochs
    }

    /// The index of a room; the room is created if it does not exist.
    fn open(&mut self, name: &'static str) -> usize {
        if let Some(place) = self.rooms.iter().position(|room| room.name == name) {
            return place;
        }
        let epoch = self.epoch();
        let kept = Vec::new();
        self.rooms.push(Naive { name, epoch, offset: 0, published: 0, members: 0, kept });
        self.rooms.len() - 1
    }

    fn publish(&mut self, name: &'static str, sizes: &[usize], now: u64) {
        if self.count == 0 && !self.rooms.iter().any(|room| room.name == name) {
            return;
        }
        let place = self.open(name);
        let mut room = self.rooms.remove(place);
        for &size in sizes {
            room.offset += 1;
            room.published = now;
            room.kept.push((room.epoch, room.offset, now, size));
        }
        self.rooms.push(room);
        self.forget_old(self.rooms.len() - 1, now);
        let excess = self.rooms[self.rooms.len() - 1].kept.len().saturating_sub(self.count);
        self.rooms.last_mut().expect("a room").kept.drain(..excess);
    }

    /// How many rooms have a history.
    fn histories(&self) -> usize {
        self.rooms.iter().filter(|room| !room.kept.is_empty()).count()
    }

    fn forget_old(&mut self, place: usize, now: u64) {
        let age = self.age;
        self.rooms[place].kept.retain(|(_, _, at, _)| at + age >= now);
    }

    /// Forgets the history of the least recently published room that has one.
    fn evict_first(&mut self) {
        let Some(place) = self.rooms.iter().position(|room| !room.kept.is_empty()) else { return };
        self.rooms[place].kept.clear();
        if self.rooms[place].members == 0 {
            self.rooms.remove(place);
        }
    }

    fn leave(&mut self, name: &str) {
        let place = self.rooms.iter().position(|room| room.name == name).expect("a room");
        self.rooms[place].members -= 1;
        if self.rooms[place].members == 0 && self.rooms[place].kept.is_empty() {
            self.rooms.remove(place);
        }
    }

    fn sweep(&mut self, now: u64) {
        let is_old = |room: &&Naive| !room.kept.is_empty() && room.published + self.age < now;
        for _ in 0..self.rooms.iter().filter(is_old).count() {
            self.evict_first();
        }
    }

    fn gap(&mut self) {
        for place in 0..self.rooms.len() {
            let epoch = self.epoch();
            let room = &mut self.rooms[place];
            (room.epoch, room.offset) = (epoch, 0);
        }
    }
}

/// The result of a join: epoch, offset and size of the messages, whether they are a recovery, and
/// the room's position.
type Sight = (Vec<(u32, u64, usize)>, Option<bool>, (u32, u64));

struct Pair {
    rooms: Rooms,
    metrics: Arc<Metrics>,
    list: List,
    bytes: usize,
    members: Vec<(&'static str, Member)>,
    /// The model's epochs, by the rooms' names of them.
    epochs: HashMap<Arc<str>, u32>,
    /// Positions returned by earlier joins: the room, the position, and the model's epoch.
    seen: Vec<(&'static str, Position, u32)>,
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
        let limits = HistoryLimits { room: HistoryBounds { count, age }, bytes };
        let lanes = Lanes::new(NonZero::new(2).expect("not 0"));
        let rooms = Rooms { clock: || NOW.get(), ..Rooms::new(limits, lanes, metrics.clone()) };
        let list = List { rooms: Vec::new(), count, age, epochs: 0 };
        let (members, epochs, seen) = Default::default();
        Self { rooms, metrics, list, bytes, members, epochs, seen }
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
                });
                self.rooms.place(NAMES[room], messages.collect());
                self.list.publish(NAMES[room], &sizes, now);
                self.evict()?;
            }
            Step::Enter { room } => {
                let wish = ReplayRequest::default();
                let mut told = Joined::default();
                let (_, member) =
                    self.rooms.join(NAMES[room], None, Arc::new(Deaf), &wish, &mut told);
                self.members.push((NAMES[room], member));
                let place = self.list.open(NAMES[room]);
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
                self.look(NAMES[room], last, since)?;
            }
            Step::Gap => {
                let gap = Gap { from: now, to: now, reason: GapReason::SourceLost };
                (0..2).for_each(|lane| self.rooms.interrupt(lane, &gap).for_each(drop));
                self.list.gap();
            }
            Step::Sweep => {
                self.rooms.expire(now);
                self.list.sweep(now);
            }
        }
        self.compare()
    }

    /// Evicts in the model as many histories as the rooms have evicted: how many these are depends on
    /// the allocator, which ones does not.
    fn evict(&mut self) -> Result<(), TestCaseError> {
        let rooms = self.rooms.index.pieces(None).flatten();
        let histories = rooms.filter(|room| !room.lock().history.is_empty()).count();
        let before = self.list.histories();
        prop_assert!(histories <= before);
        (histories..before).for_each(|_| self.list.evict_first());
        let kept = self.rooms.kept.load(Acquire);
        prop_assert!(kept <= self.bytes || histories == 0, "{kept} bytes are too many");
        Ok(())
    }

    /// What is counted is what the rooms have now.
    fn compare_bytes(&self) -> Result<(), TestCaseError> {
        let rooms = self.rooms.index.pieces(None).flatten();
        let bytes: usize = rooms.map(|room| room.history_bytes(&room.lock())).sum();
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
        name: &'static str,
        last: Option<usize>,
        since: Option<(&'static str, Position, u32)>,
    ) -> Result<(), TestCaseError> {
        let since_position = since.clone().map(|(_, position, _)| position);
        let wish = ReplayRequest { last, since: since_position, ..ReplayRequest::default() };
        let mut told = Joined::default();
        let (_, member) = self.rooms.join(name, None, Arc::new(Deaf), &wish, &mut told);
        prop_assert_eq!(told.replayed, told.messages.len());
        let messages = told.messages.into_iter();
        let messages: Vec<_> = messages
            .map(|HistoryEntry { position, payload, .. }| {
                (position.epoch, position.offset, payload.len())
            })
            .collect();
        let at = told.position.expect("`welcome` is called");
        let (recovered, at) = (told.recovered, (at.epoch, at.offset));

        let place = self.list.open(name);
        self.list.forget_old(place, NOW.get());
        let room = &self.list.rooms[place];
        let latest = |count: usize| room.kept.len().saturating_sub(count);
        let (from, expected) = match &since {
            None => (latest(last.unwrap_or(0)), None),
            Some((_, position, epoch)) => {
                let missed = room
                    .kept
                    .iter()
                    .position(|&(of, offset, ..)| (of, offset) == (*epoch, position.offset + 1));
                // Epochs are not shared between rooms, so a position is valid in one room only.
                match missed {
                    _ if *epoch != room.epoch => (latest(last.unwrap_or(usize::MAX)), Some(false)),
                    Some(place) => (place, Some(true)),
                    None if position.offset == room.offset => (room.kept.len(), Some(true)),
                    None => (latest(last.unwrap_or(usize::MAX)), Some(false)),
                }
            }
        };
        let expected: Sight = (
            room.kept[from..]
                .iter()
                .map(|&(epoch, offset, _, size)| (epoch, offset, size))
                .collect(),
            expected,
            (room.epoch, room.offset),
        );
        self.epochs.entry(at.0.clone()).or_insert(expected.2.0);
        let position = Position { epoch: at.0.clone(), offset: at.1 };
        let number = |epoch: &Arc<str>| self.epochs.get(epoch).copied().unwrap_or(u32::MAX);
        let messages: Vec<_> = messages
            .iter()
            .zip(&expected.0)
            // An epoch that ended before any join saw it has no number yet: take the model's.
            .map(|((epoch, offset, size), (known, ..))| match number(epoch) {
                u32::MAX => (*known, *offset, *size),
                number => (number, *offset, *size),
            })
            .chain(
                messages.iter().skip(expected.0.len()).map(|(_, offset, size)| (0, *offset, *size)),
            )
            .collect();
        prop_assert_eq!((messages, recovered, (number(&at.0), at.1)), expected);

        self.seen.push((name, position, self.epochs[&at.0]));
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
        pair.rooms.expire(NOW.get() + 2_000_000);
        prop_assert_eq!((pair.metrics.rooms.get(), pair.metrics.history_bytes.get()), (0, 0));
    }
}
