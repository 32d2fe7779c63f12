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
        HistoryLimits, JoinReply, Joining, Member, Subscriber,
        history::{HistoryBounds, HistoryEntry, ReplayRequest},
    },
};

const ROOMS: usize = 8;

#[derive(Clone, Debug)]
enum Step {
    Publish {
        room: usize,
        count: usize,
    },
    Enter {
        room: usize,
    },
    /// One of the viewers that have not left yet leaves.
    Leave(prop::sample::Index),
    /// Lets the lanes run for a moment.
    Pause,
    Gap,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..ROOMS, 1..300usize).prop_map(|(room, count)| Step::Publish { room, count }),
        3 => (0..ROOMS).prop_map(|room| Step::Enter { room }),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        4 => Just(Step::Pause),
        1 => Just(Step::Gap),
    ]
}

/// A member of a room that records the position at its join, then the position and number of each
/// message.
struct Viewer {
    room: usize,
    /// `None` if it has left.
    member: Option<Member>,
    /// How many messages had been published in the room when the viewer joined.
    since: usize,
    /// How many had been published when it left; `None` if it has not left.
    until: Option<usize>,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard(Mutex<Vec<Sound>>);

#[derive(Debug)]
enum Sound {
    JoinReply(Position),
    /// Its position, the offset of the one before, and the message's number in its room.
    Message(Position, u64, usize),
    Gap,
}

impl Subscriber for Heard {
    fn deliver(&self, batch: &Batch) -> usize {
        let sound = |delivery: &Delivery| {
            let (epoch, offset) = (delivery.place.epoch.clone(), delivery.place.offset);
            let number = std::str::from_utf8(&delivery.payload).expect("UTF-8");
            let number = number.parse().expect("a number");
            Sound::Message(Position { epoch, offset }, delivery.place.prev, number)
        };
        self.0.lock().extend(batch.iter().map(sound));
        batch.len()
    }

    fn gap(&self, _: &str, _: &Gap) {
        self.0.lock().push(Sound::Gap);
    }

    fn hello(&self) {}
}

/// A viewer that is joining.
struct Entering(Arc<Heard>);

impl Joining for Entering {
    fn welcome(&mut self, answer: &JoinReply<'_>) {
        let position = Sound::JoinReply(answer.position.clone());
        self.0.0.lock().push(position);
    }

    fn missing(&mut self, _: &Gap) {}

    fn replay(&mut self, _: Vec<HistoryEntry>) {}

    fn gap(&mut self, _: &Gap) {}
}

fn enter(rooms: &Rooms, room: usize, since: usize) -> Viewer {
    let heard = Arc::new(Heard::default());
    let wish = ReplayRequest::default();
    let mut joining = Entering(heard.clone());
    let (_, member) = rooms.join(&name(room), None, heard.clone(), &wish, &mut joining);
    Viewer { room, member: Some(member), since, until: None, heard }
}

fn name(room: usize) -> String {
    format!("room{room}")
}

fn publish(source: &Sender, room: usize, count: usize, published: &mut [usize]) {
    for _ in 0..count {
        published[room] += 1;
        let payload = published[room].to_string();
        source.message(Message::now(name(room).into(), payload.into()));
    }
}

/// Runs the steps with this number of lanes. Returns the viewers and how many messages were
/// published in each room.
async fn play(lanes: usize, steps: Vec<Step>) -> (Vec<Viewer>, Vec<usize>) {
    let metrics = Arc::new(Metrics::default());
    let limits = HistoryLimits {
        room: HistoryBounds { count: 10, age: u64::MAX / 2, last_age: u64::MAX / 2 },
        bytes: 1 << 20,
    };
    let lanes = Lanes::new(NonZero::new(lanes).expect("not 0"));
    let bounds = ingest::QueueBounds { messages: 1_000_000, bytes: 1 << 30, payload: 1 << 20 };
    let (source, receivers) = ingest::queue(lanes.clone(), Arc::default(), bounds, metrics.clone());
    let rooms = Arc::new(Rooms::new(limits, lanes, source.progress(), metrics.clone()));
    let mut running = JoinSet::new();
    for receiver in receivers {
        running.spawn(run(receiver, rooms.clone(), metrics.clone()));
    }
    let mut published = vec![0; ROOMS];
    let mut viewers: Vec<Viewer> = Vec::new();
    for step in steps {
        match step {
            Step::Publish { room, count } => publish(&source, room, count, &mut published),
            Step::Enter { room } => viewers.push(enter(&rooms, room, published[room])),
            Step::Leave(which) => {
                let count = viewers.iter().filter(|viewer| viewer.until.is_none()).count();
                if count > 0 {
                    let mut staying = viewers.iter_mut().filter(|viewer| viewer.until.is_none());
                    let viewer = staying.nth(which.index(count)).expect("an index below the count");
                    let member = viewer.member.take().expect("it has not left");
                    rooms.leave(&name(viewer.room), member);
                    viewer.until = Some(published[viewer.room]);
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
    (viewers, published)
}

/// Checks that numbers increase by one, that each message follows the position that the viewer has, that
/// an epoch changes at a gap and nowhere else, and that a viewer that has not left received the last
/// message.
fn check(viewer: &Viewer, published: usize) -> Result<(), TestCaseError> {
    let heard = viewer.heard.0.lock();
    let (mut position, mut number, mut gap): (Option<Position>, _, _) = (None, None, false);
    for sound in heard.iter() {
        match sound {
            Sound::JoinReply(at) => {
                prop_assert!(position.is_none());
                position = Some(at.clone());
            }
            Sound::Gap => gap = true,
            Sound::Message(at, prev, this) => {
                let before = position.as_ref().expect("the reply comes first");
                prop_assert!(prev < &at.offset);
                if at.epoch == before.epoch {
                    prop_assert!(!gap && at.offset > before.offset && *prev <= before.offset);
                } else {
                    prop_assert!(gap);
                    prop_assert_eq!(*prev, 0);
                }
                prop_assert!(number.is_none_or(|number| *this == number + 1));
                (position, number, gap) = (Some(at.clone()), Some(*this), false);
            }
        }
    }
    match viewer.until {
        None if number.is_none() => prop_assert_eq!(published, viewer.since),
        None => prop_assert_eq!(number, Some(published)),
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
        let runtime = Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
        let (viewers, published) = runtime.block_on(play(lanes, steps));
        for viewer in &viewers {
            check(viewer, published[viewer.room])?;
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
