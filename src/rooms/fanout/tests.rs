//! Order and completeness per room, for any number of lanes and while members join and leave.

use std::num::NonZero;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::{runtime::Builder, task::JoinSet};

use super::*;
use crate::{
    ingest::{self, Sender},
    lanes::Lanes,
    message::{Gap, GapReason},
    position::{Position, Sequence},
    rooms::{
        HistoryLimits, Joined, Subscriber,
        cursor::Piece,
        history::{HistoryBounds, HistoryEntry, ReplayRequest},
    },
};

const ROOMS: usize = 8;
const MAX_PAYLOAD: usize = 10;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        room: usize,
        count: usize,
    },
    Enter {
        room: usize,
        last: usize,
    },
    /// One of the viewers that have not left yet reads a piece of its replay.
    Read(prop::sample::Index),
    /// One of them leaves and comes back.
    Return(prop::sample::Index),
    /// One of them leaves.
    Leave(prop::sample::Index),
    /// Lets the lanes run for a moment.
    Pause,
    Gap,
    /// A message is published that is too large.
    Drop {
        room: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..ROOMS, 1..300usize).prop_map(|(room, count)| Step::Publish { room, count }),
        3 => (0..ROOMS, prop_oneof![Just(0), 0..600usize])
            .prop_map(|(room, last)| Step::Enter { room, last }),
        6 => any::<prop::sample::Index>().prop_map(Step::Read),
        2 => any::<prop::sample::Index>().prop_map(Step::Return),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        4 => Just(Step::Pause),
        1 => Just(Step::Gap),
        1 => (0..ROOMS).prop_map(|room| Step::Drop { room }),
    ]
}

/// A member of a room that records what it is sent.
struct Viewer {
    room: usize,
    /// `None` if it has left.
    joined: Option<Joined>,
    /// How many messages had been published in the room when the viewer joined.
    since: usize,
    /// How many had been published when it left; `None` if it has not left.
    until: Option<usize>,
    heard: Arc<Heard>,
    subscriber: Arc<HeardSubscriber>,
}

#[derive(Default)]
struct Heard(Mutex<Vec<Sound>>);

/// One membership of a viewer. It may be closed while messages are on their way.
#[derive(Default)]
struct HeardSubscriber {
    heard: Arc<Heard>,
    is_closed: Mutex<bool>,
}

#[derive(Debug)]
enum Sound {
    /// The position, whether it was recovered, and how many messages are replayed.
    JoinReply(Position, Option<bool>, usize),
    /// Its position, the offset of the one before, and the message's number in its room.
    Message(Position, u64, usize),
    /// A gap.
    Gap(GapReason),
    /// A gap in a replay, which may be several in one, and how many messages do not come.
    GapInReplay(u64),
}

impl HeardSubscriber {
    fn hear(&self, sounds: impl Iterator<Item = Sound>) {
        let is_closed = self.is_closed.lock();
        if !*is_closed {
            self.heard.0.lock().extend(sounds);
        }
    }
}

impl Subscriber for HeardSubscriber {
    fn deliver(&self, batch: &Batch) -> usize {
        self.hear(batch.iter().map(sound));
        batch.len()
    }

    fn gap(&self, _: &str, gap: &Gap) {
        self.hear(std::iter::once(Sound::Gap(gap.reason)));
    }

    fn hello(&self) {}
}

fn sound(delivery: &Delivery) -> Sound {
    let (epoch, offset) = (delivery.place.epoch.clone(), delivery.place.offset);
    let number = std::str::from_utf8(&delivery.payload).expect("UTF-8");
    let number = number.parse().expect("a number");
    Sound::Message(Position { epoch, offset }, delivery.place.prev, number)
}

impl Viewer {
    fn new(room: usize, since: usize) -> Self {
        let (joined, until, heard, subscriber) = Default::default();
        Self { room, joined, since, until, heard, subscriber }
    }

    fn join(&mut self, rooms: &Rooms, request: &ReplayRequest) {
        let (heard, is_closed) = (self.heard.clone(), Mutex::default());
        self.subscriber = Arc::new(HeardSubscriber { heard: heard.clone(), is_closed });
        let subscriber = self.subscriber.clone();
        let joined = rooms.join(&name(self.room), None, subscriber, request, |reply, _| {
            let position = reply.position.clone();
            heard.0.lock().push(Sound::JoinReply(position, reply.recovered, reply.replayed));
        });
        self.joined = Some(joined);
    }

    fn leave(&mut self, rooms: &Rooms) {
        let joined = self.joined.take().expect("it has not left");
        *self.subscriber.is_closed.lock() = true;
        rooms.leave(&name(self.room), joined.member);
    }

    /// Comes back with the position of the latest message, or of the answer if that came without a replay.
    fn come_back(&mut self, rooms: &Rooms) {
        self.leave(rooms);
        let since = self.heard.0.lock().iter().rev().find_map(|sound| match sound {
            Sound::Message(position, ..) | Sound::JoinReply(position, _, 0) => {
                Some(position.clone())
            }
            _ => None,
        });
        let last = since.is_none().then_some(600);
        self.join(rooms, &ReplayRequest { since, last, appends: false });
    }

    /// Reads a piece of the replay; `false` if there is none.
    fn read(&mut self) -> bool {
        let Some(Joined { replay: Some(cursor), member, room }) = &mut self.joined else {
            return false;
        };
        let piece = cursor.next(member);
        match piece {
            Piece::Messages(messages) => {
                let messages = messages.into_iter();
                let sounds = messages.map(|kept| sound(&Delivery::new(room.clone(), kept)));
                self.heard.0.lock().extend(sounds);
            }
            Piece::Newest(message) => cursor.deliver(message),
            Piece::Gap(gap) => {
                let omitted = gap.omitted.map_or(0, NonZero::get);
                self.heard.0.lock().push(Sound::GapInReplay(omitted));
            }
            Piece::Live => {
                self.joined.iter_mut().for_each(|joined| joined.replay = None);
            }
        }
        true
    }
}

/// One of the viewers that have not left.
fn pick<'a>(viewers: &'a mut [Viewer], which: &prop::sample::Index) -> Option<&'a mut Viewer> {
    let count = viewers.iter().filter(|viewer| viewer.until.is_none()).count();
    let mut staying = viewers.iter_mut().filter(|viewer| viewer.until.is_none());
    if count == 0 { None } else { staying.nth(which.index(count)) }
}

fn name(room: usize) -> String {
    format!("room{room}")
}

/// What has been published in a room.
#[derive(Clone, Copy, Default)]
struct Published {
    count: usize,
    /// The number of the latest message that was not dropped.
    latest: usize,
}

fn publish(source: &Sender, room: usize, published: &mut Published, width: usize) {
    published.count += 1;
    let payload = format!("{:0width$}", published.count);
    if payload.len() <= MAX_PAYLOAD {
        published.latest = published.count;
    }
    source.message(Message::now(name(room).into(), payload.into()));
}

/// Runs the steps with this number of lanes. Returns the viewers and how many messages were
/// published in each room.
async fn play(lanes: usize, steps: Vec<Step>) -> (Vec<Viewer>, Vec<Published>) {
    let metrics = Arc::new(Metrics::default());
    let limits = HistoryLimits {
        room: HistoryBounds { count: 300, age: u64::MAX / 2, last_age: u64::MAX / 2 },
        bytes: 1 << 20,
    };
    let lanes = Lanes::new(NonZero::new(lanes).expect("not 0"));
    let bounds = ingest::QueueBounds { messages: 1_000_000, bytes: 1 << 30, payload: MAX_PAYLOAD };
    let (source, receivers) = ingest::queue(lanes.clone(), Arc::default(), bounds, metrics.clone());
    let rooms = Arc::new(Rooms::new(limits, lanes, source.progress(), metrics.clone()));
    let mut running = JoinSet::new();
    for receiver in receivers {
        running.spawn(run(receiver, rooms.clone(), metrics.clone()));
    }
    let mut published = vec![Published::default(); ROOMS];
    let mut viewers: Vec<Viewer> = Vec::new();
    for step in steps {
        match step {
            Step::Publish { room, count } => {
                (0..count).for_each(|_| publish(&source, room, &mut published[room], 1));
            }
            Step::Drop { room } => publish(&source, room, &mut published[room], MAX_PAYLOAD + 1),
            Step::Enter { room, last } => {
                let mut viewer = Viewer::new(room, published[room].count);
                let last = (last > 0).then_some(last);
                viewer.join(&rooms, &ReplayRequest { last, ..ReplayRequest::default() });
                viewers.push(viewer);
            }
            Step::Read(which) => drop(pick(&mut viewers, &which).map(Viewer::read)),
            Step::Return(which) => {
                pick(&mut viewers, &which).into_iter().for_each(|viewer| viewer.come_back(&rooms));
            }
            Step::Leave(which) => {
                if let Some(viewer) = pick(&mut viewers, &which) {
                    viewer.leave(&rooms);
                    viewer.until = Some(published[viewer.room].count);
                }
            }
            Step::Pause => yield_now().await,
            Step::Gap => {
                source.gap(Gap { from: 0, to: 0, reason: GapReason::SourceLost });
            }
        }
    }
    drop(source);
    while let Some(ended) = running.join_next().await {
        ended.expect("no panic");
    }
    viewers.iter_mut().for_each(|viewer| while viewer.read() {});
    (viewers, published)
}

/// Checks that numbers increase by one and epochs stay the same, unless a gap or the answer to a join
/// says that messages may be missing or they were before the client joined; that each message follows
/// the position that the viewer has; that a replay has the messages that were announced; and that a
/// viewer that has not left received the last message.
fn check(viewer: &Viewer, latest: usize) -> Result<(), TestCaseError> {
    let heard = viewer.heard.0.lock();
    let (mut position, mut number): (Option<Position>, Option<usize>) = (None, None);
    let (mut gap, mut may_jump, mut may_repeat) = (false, false, false);
    // Of the replay: its end, how many messages come, and whether they have holes that are not told.
    let (mut end, mut left, mut has_holes) = (None, 0, false);
    // The message is the first one behind the replay.
    let mut is_first = false;
    for sound in heard.iter() {
        match sound {
            Sound::JoinReply(at, recovered, replayed) => {
                (end, left, has_holes) = (Some(at), *replayed, *recovered != Some(true));
                gap |= *recovered == Some(false);
                may_jump |= gap;
                may_repeat = gap && position.as_ref().is_none_or(|old| old.epoch != at.epoch);
                position = end.take_if(|_| left == 0).cloned().or(position);
            }
            Sound::Gap(reason) => {
                gap = true;
                may_jump |= *reason != GapReason::SourceLost;
            }
            Sound::GapInReplay(omitted) => {
                left -= *omitted as usize;
                position = end.take_if(|_| left == 0).cloned().or(position);
                (gap, may_jump) = (true, true);
            }
            Sound::Message(at, prev, this) => {
                // What was missing before the join is not told.
                let in_replay = has_holes && (left > 0 || is_first);
                is_first = left > 0;
                prop_assert!(*prev < at.offset);
                match position.as_ref().filter(|_| !(may_jump || has_holes && left > 0)) {
                    Some(old) if at.epoch == old.epoch => {
                        prop_assert!(at.offset > old.offset && *prev <= old.offset && !gap);
                    }
                    Some(_) => prop_assert!(gap),
                    None => {}
                }
                let next = number.map_or(*this, |number| number + 1);
                let is_next = *this == next || (may_jump || in_replay) && *this > next;
                prop_assert!(may_repeat || is_next, "{this} after {number:?}");
                (position, number) = (Some(at.clone()), Some(*this));
                (gap, may_jump, may_repeat) = (false, false, false);
                left = left.saturating_sub(1);
                position = end.take_if(|_| left == 0).cloned().or(position);
            }
        }
    }
    match viewer.until {
        None if number.is_none() => prop_assert!(latest <= viewer.since),
        None => prop_assert_eq!((number, left), (Some(latest), 0)),
        // It may have left before the lane delivered the messages published last.
        Some(until) => prop_assert!(number.is_none_or(|number| number <= until)),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_room_is_in_order_and_complete(
        lanes in 1..6usize,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");
        let (viewers, published) = runtime.block_on(play(lanes, steps));
        for viewer in &viewers {
            check(viewer, published[viewer.room].latest)?;
        }
    }
}

#[test]
fn large_messages_are_split_into_batches_without_losing_any() {
    let sizes = [10, PART - 11, 1, 5, 3 * PART, 7, 7, PART - 1, 1, 1];
    let epoch = Sequence::default().epoch(0);
    let deliveries: Vec<Delivery> = (1u64..)
        .zip(sizes)
        .map(|(offset, size)| {
            let (epoch, payload) = (epoch.clone(), vec![b'x'; size].into());
            let entry = HistoryEntry { number: offset, prev: offset - 1, epoch, at: 1, payload };
            Delivery::new("room".into(), entry)
        })
        .collect();
    let parts = parts(deliveries);
    let counts: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(counts, [3, 2, 3, 2]);
    let all = parts.iter().flat_map(|part| part.iter());
    let offsets: Vec<u64> = all.map(|delivery| delivery.place.offset).collect();
    assert_eq!(offsets, (1..=10).collect::<Vec<u64>>());
}
