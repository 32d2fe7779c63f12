//! The queues between a source and the rooms, one a lane: bounded in messages and bytes; full =
//! drop and count.
//!
//! The source must always read (what it does not read piles up without bounds in redis-rs, or
//! makes Redis end our subscription), so a queue never makes it wait. A channel is always in the
//! same lane, which keeps its order; a lane that is full costs the others nothing.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    num::NonZero,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::Serialize;
use tokio::{sync::Notify, time::Instant};
use tracing::info;

use crate::message::{Event, Gap, GapReason, Message};
use crate::{
    log_limit::LogLimit,
    metrics::{DropReason, Metrics},
};

/// Messages that may wait in all lanes: a burst of a second from a Redis that publishes 100,000 a second.
pub const MAX_MESSAGES: usize = 100_000;
/// Bytes that may wait in all lanes: an eighth of the smallest container that the demo was deployed in (0.2 GB).
pub const MAX_BYTES: usize = 25 << 20;
/// Events handed over at once; enough to go out together, few enough to let others run between.
const BATCH: usize = 256;
/// For how long a lane counts as dropping after it has dropped a message: longer than a usual
/// interval between two looks at `/status`.
const DROPPING: Duration = Duration::from_secs(30);

static FULL: LogLimit = LogLimit::new(1);
static TOO_LARGE: LogLimit = LogLimit::new(1);

/// How much the queues take together.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages that may wait.
    pub messages: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Bytes of one payload.
    pub payload: usize,
}

impl Bounds {
    /// Those of a server whose payloads have a certain size at most.
    pub fn new(payload: usize) -> Self {
        Self { messages: MAX_MESSAGES, bytes: MAX_BYTES, payload }
    }
}

/// Queues for so many lanes, which share these bounds evenly.
pub fn queue(
    lanes: NonZero<usize>,
    bounds: Bounds,
    metrics: Arc<Metrics>,
) -> (Sender, Vec<Receiver>) {
    let lanes = Lanes { count: lanes, hasher: RandomState::new() };
    let (messages, bytes) = (bounds.messages / lanes.count, bounds.bytes / lanes.count);
    let idle = Arc::new(Notify::new());
    let lane = || {
        Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Notify::new(),
            idle: idle.clone(),
            bounds: Bounds { messages, bytes, ..bounds },
            metrics: metrics.clone(),
        })
    };
    let queues: Vec<_> = (0..lanes.count.get()).map(|_| lane()).collect();
    let receiver = |(lane, shared): (usize, &Arc<Shared>)| Receiver {
        shared: shared.clone(),
        lane,
        lanes: lanes.clone(),
    };
    let receivers = queues.iter().enumerate().map(receiver).collect();
    (Sender { queues, lanes }, receivers)
}

/// Which channel is in which lane.
#[derive(Clone)]
struct Lanes {
    count: NonZero<usize>,
    hasher: RandomState,
}

impl Lanes {
    fn of(&self, channel: &[u8]) -> usize {
        // The remainder of a u64 fits where its divisor came from.
        (self.hasher.hash_one(channel) % self.count.get() as u64) as usize
    }
}

/// The source's end; dropping it ends the queues once they are empty.
pub struct Sender {
    queues: Vec<Arc<Shared>>,
    lanes: Lanes,
}

/// Tells how full the lanes are, and whether they have handed on all that the source gave them.
#[derive(Clone)]
pub struct Progress {
    queues: Vec<Arc<Shared>>,
}

/// The fan-out's end of one lane.
pub struct Receiver {
    shared: Arc<Shared>,
    lane: usize,
    lanes: Lanes,
}

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Notify,
    /// One for all lanes: this one has handed on all that it was given.
    idle: Arc<Notify>,
    bounds: Bounds,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    /// With the time of their arrival.
    events: VecDeque<(Instant, Event)>,
    messages: usize,
    bytes: usize,
    /// Events were taken and are being handed on.
    in_hand: bool,
    /// Messages dropped since the start, and when the last one was.
    dropped: u64,
    last_drop: Option<Instant>,
    closed: bool,
}

/// A look at one lane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LaneReport {
    /// It is not full, and has dropped no message lately.
    pub ok: bool,
    /// Messages that wait.
    pub messages: usize,
    /// How many may wait.
    pub messages_max: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How many may wait.
    pub bytes_max: usize,
    /// Messages dropped since the start because it was full.
    pub dropped: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn report(&self) -> LaneReport {
        let Bounds { messages: messages_max, bytes: bytes_max, .. } = self.bounds;
        let Waiting { messages, bytes, dropped, last_drop, .. } = *self.lock();
        let is_full = messages >= messages_max || bytes >= bytes_max;
        let drops = last_drop.is_some_and(|at| at.elapsed() < DROPPING);
        LaneReport { ok: !is_full && !drops, messages, messages_max, bytes, bytes_max, dropped }
    }
}

impl Sender {
    /// How far the lanes are with what they were given.
    pub fn progress(&self) -> Progress {
        Progress { queues: self.queues.clone() }
    }

    /// Queues a message, or drops and counts it where it is too large or its lane has no room.
    pub fn message(&self, message: Message) {
        let shared = &self.queues[self.lanes.of(&message.channel)];
        let Shared { bounds, metrics, .. } = &**shared;
        metrics.messages.inc();
        let at = message.at;
        let event = if message.payload.len() > bounds.payload {
            metrics.dropped(DropReason::TooLarge).inc();
            let most = bounds.payload;
            TOO_LARGE.count(1, move |messages| {
                info!(messages, "dropped what is larger than MAX_PAYLOAD, {most} bytes");
            });
            let gap = Gap { from: at, to: at, reason: GapReason::TooLarge };
            count_gap(metrics, &gap);
            Event::ChannelGap { channel: message.channel, gap }
        } else {
            Event::Message(message)
        };
        let size = event.size().unwrap_or_default();
        let mut waiting = shared.lock();
        // A single message may be larger than its lane's part of the bytes.
        let full = waiting.messages >= bounds.messages
            || waiting.bytes > 0 && waiting.bytes + size > bounds.bytes;
        if full {
            waiting.drop_one(at, metrics);
        } else {
            waiting.messages += 1;
            waiting.bytes += size;
            metrics.queue_messages.inc();
            metrics.queue_bytes.inc_by(size as i64);
            waiting.push(event);
        }
        drop(waiting);
        if full {
            FULL.count(1, |messages| {
                info!(
                    messages,
                    "dropped what came faster than it could be handed on: see `queue` in /status"
                );
            });
        }
        shared.changed.notify_one();
    }

    /// Queues that messages of any channel may be missing. Never dropped: there is one a reconnect,
    /// and reconnects are paced.
    pub fn gap(&self, gap: Gap) {
        if let Some(shared) = self.queues.first() {
            count_gap(&shared.metrics, &gap);
        }
        for shared in &self.queues {
            shared.lock().push(Event::Gap(gap));
            shared.changed.notify_one();
        }
    }
}

impl Progress {
    /// Whether no message waits and none is being handed on.
    pub fn is_idle(&self) -> bool {
        self.queues.iter().all(|shared| shared.lock().is_idle())
    }

    /// How full the lanes are.
    pub fn lanes(&self) -> Vec<LaneReport> {
        self.queues.iter().map(|lane| lane.report()).collect()
    }

    /// Waits for a moment in which no message waits and none is being handed on.
    pub async fn idle(&self) {
        // All lanes share one signal.
        let Some(first) = self.queues.first() else { return };
        loop {
            let mut idle = pin!(first.idle.notified());
            idle.as_mut().enable();
            if self.is_idle() {
                return;
            }
            idle.await;
        }
    }
}

/// Once a gap, however many lanes or rooms it is told in.
fn count_gap(metrics: &Metrics, gap: &Gap) {
    let reason = gap.reason.as_str();
    metrics.gaps(reason).inc();
    metrics.gap_seconds(reason).inc_by(gap.seconds());
}

impl Waiting {
    fn push(&mut self, event: Event) {
        self.events.push_back((Instant::now(), event));
    }

    fn is_idle(&self) -> bool {
        self.events.is_empty() && !self.in_hand
    }

    /// One gap an episode, at the place where the messages are missing.
    fn drop_one(&mut self, at: u64, metrics: &Metrics) {
        metrics.dropped(DropReason::QueueFull).inc();
        self.dropped += 1;
        self.last_drop = Some(Instant::now());
        let reason = GapReason::QueueFull;
        match self.events.back_mut() {
            Some((_, Event::Gap(gap))) if gap.reason == reason => {
                // The server's clock may have been set back.
                let to = at.max(gap.to);
                let more = Gap { from: gap.to, to, reason };
                metrics.gap_seconds(reason.as_str()).inc_by(more.seconds());
                gap.to = to;
            }
            last => {
                let from = match last {
                    Some((_, Event::Message(message))) => message.at,
                    Some((_, Event::Gap(gap) | Event::ChannelGap { gap, .. })) => gap.to,
                    None => at,
                };
                let gap = Gap { from: from.min(at), to: at, reason };
                count_gap(metrics, &gap);
                self.push(Event::Gap(gap));
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        for shared in &self.queues {
            shared.lock().closed = true;
            shared.changed.notify_one();
        }
    }
}

impl Receiver {
    /// Whether messages of this channel come this way.
    pub fn carries(&self, channel: &[u8]) -> bool {
        self.lanes.of(channel) == self.lane
    }

    /// Waits for events and moves the next ones into `batch`; returns when the first of them arrived,
    /// or `None` when the queue has ended. Cancel safe.
    pub async fn next(&mut self, batch: &mut Vec<Event>) -> Option<Instant> {
        let Shared { changed, idle, metrics, .. } = &*self.shared;
        loop {
            {
                let waiting = &mut *self.shared.lock();
                let (messages, bytes) = (waiting.messages, waiting.bytes);
                let first = waiting.events.front().map(|(arrived, _)| *arrived);
                let count = waiting.events.len().min(BATCH);
                for (_, event) in waiting.events.drain(..count) {
                    if let Some(size) = event.size() {
                        waiting.messages -= 1;
                        waiting.bytes -= size;
                    }
                    batch.push(event);
                }
                metrics.queue_messages.dec_by((messages - waiting.messages) as i64);
                metrics.queue_bytes.dec_by((bytes - waiting.bytes) as i64);
                waiting.in_hand = count > 0;
                if count > 0 {
                    return first;
                }
                idle.notify_waiters();
                if waiting.closed {
                    return None;
                }
            }
            changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;

    /// One lane with these bounds.
    fn lane(messages: usize, bytes: usize, metrics: &Arc<Metrics>) -> (Sender, Receiver) {
        let bounds = Bounds { messages, bytes, payload: 4 };
        let (sender, receivers) = queue(NonZero::<usize>::MIN, bounds, metrics.clone());
        (sender, receivers.into_iter().next().expect("a lane"))
    }

    fn message(payload: &'static str) -> Message {
        Message::now(Bytes::from_static(b"c"), Bytes::from_static(payload.as_bytes()))
    }

    async fn drain(receiver: &mut Receiver) -> Vec<String> {
        let mut batch = Vec::new();
        receiver.next(&mut batch).await;
        let name = |event: &Event| match event {
            Event::Message(message) => String::from_utf8_lossy(&message.payload).into_owned(),
            Event::Gap(gap) | Event::ChannelGap { gap, .. } => format!("{:?}", gap.reason),
        };
        batch.iter().map(name).collect()
    }

    #[tokio::test]
    async fn bounds_messages_and_marks_where_some_are_missing() {
        let metrics = Arc::new(Metrics::default());
        let (sender, mut receiver) = lane(2, 1000, &metrics);
        for payload in ["1", "2", "3", "4"] {
            sender.message(message(payload));
        }
        sender.gap(Gap { from: 0, to: 1, reason: GapReason::SourceLost });
        assert_eq!(drain(&mut receiver).await, ["1", "2", "QueueFull", "SourceLost"]);
        sender.message(message("5"));
        assert_eq!(drain(&mut receiver).await, ["5"]);
        assert_eq!(metrics.dropped(DropReason::QueueFull).get(), 2);
        assert_eq!(metrics.queue_messages.get(), 0);
        assert_eq!(metrics.queue_bytes.get(), 0);
        assert_eq!([metrics.gaps("queue_full").get(), metrics.gaps("source_lost").get()], [1, 1]);
        assert_eq!(metrics.gap_seconds("source_lost").get(), 0.001);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_drops_or_is_full_is_not_ok_until_it_has_been_fine_for_a_while() {
        let metrics = Arc::new(Metrics::default());
        let lanes = NonZero::new(2).expect("not 0");
        let bounds = Bounds { messages: 4, bytes: 1000, payload: 4 };
        let (sender, mut receivers) = queue(lanes, bounds, metrics.clone());
        let fill = sender.progress();
        let ok = |fill: &Progress| fill.lanes().iter().map(|lane| lane.ok).collect::<Vec<_>>();
        let channels: Vec<_> = (0..100).map(|name| Bytes::from(format!("c{name}"))).collect();
        let of = |lane: usize| channels.iter().find(|channel| receivers[lane].carries(channel));
        let channel = of(1).expect("in a hundred").clone();
        sender.message(Message::now(channel.clone(), "1".into()));
        assert_eq!(ok(&fill), [true, true]);
        sender.message(Message::now(channel.clone(), "2".into()));
        assert_eq!(ok(&fill), [true, false], "full");
        drain(&mut receivers[1]).await;
        assert_eq!(ok(&fill), [true, true]);
        for payload in ["1", "2", "3"] {
            sender.message(Message::now(channel.clone(), payload.into()));
        }
        drain(&mut receivers[1]).await;
        assert_eq!(ok(&fill), [true, false], "it has dropped a message");
        let LaneReport { messages, messages_max, bytes, dropped, .. } = fill.lanes()[1];
        assert_eq!((messages, messages_max, bytes, dropped), (0, 2, 0, 1));
        tokio::time::advance(DROPPING).await;
        assert_eq!(ok(&fill), [true, true]);
    }

    #[tokio::test]
    async fn bounds_bytes_exactly() {
        let (sender, mut receiver) = lane(100, 8, &Arc::default());
        // Channel and payload count: 4 + 4 bytes fit, one more byte does not.
        for payload in ["abc", "abc", "", "x"] {
            sender.message(message(payload));
        }
        assert_eq!(drain(&mut receiver).await, ["abc", "abc", "QueueFull"]);
    }

    #[tokio::test]
    async fn a_payload_that_is_too_large_leaves_a_gap_in_its_channel() {
        let metrics = Arc::new(Metrics::default());
        let (sender, mut receiver) = lane(10, 100, &metrics);
        for payload in ["1234", "12345", "1"] {
            sender.message(message(payload));
        }
        assert_eq!(metrics.queue_bytes.get(), 5 + 1 + 2);
        assert_eq!(drain(&mut receiver).await, ["1234", "TooLarge", "1"]);
        assert_eq!(metrics.dropped(DropReason::TooLarge).get(), 1);
        assert_eq!(metrics.queue_messages.get(), 0);
        assert_eq!(metrics.queue_bytes.get(), 0);
    }

    #[tokio::test]
    async fn ends_when_the_sender_is_gone_and_all_was_taken() {
        let (sender, mut receiver) = lane(10, 100, &Arc::default());
        sender.message(message("last"));
        drop(sender);
        assert_eq!(drain(&mut receiver).await, ["last"]);
        assert_eq!(receiver.next(&mut Vec::new()).await, None);
    }

    #[tokio::test]
    async fn is_idle_once_what_was_taken_has_been_handed_on() {
        let lanes = NonZero::new(2).expect("not 0");
        let bounds = Bounds { messages: 10, bytes: 100, payload: 4 };
        let (sender, mut receivers) = queue(lanes, bounds, Arc::default());
        let progress = sender.progress();
        let is_idle = || progress.idle().now_or_never().is_some();
        assert!(is_idle());
        sender.message(message("1"));
        assert!(!is_idle(), "it waits");
        let carries = |receiver: &&mut Receiver| receiver.carries(b"c");
        let lane = receivers.iter_mut().find(carries).expect("its lane");
        assert_eq!(drain(lane).await, ["1"]);
        assert!(!is_idle(), "it is being handed on");
        let idle = progress.idle();
        assert!(lane.next(&mut Vec::new()).now_or_never().is_none());
        idle.await;
    }

    #[tokio::test]
    async fn a_full_lane_drops_its_own_messages_alone() {
        let metrics = Arc::new(Metrics::default());
        let lanes = NonZero::new(2).expect("not 0");
        let (sender, mut receivers) =
            queue(lanes, Bounds { messages: 4, bytes: 1000, payload: 4 }, metrics.clone());
        let channels: Vec<_> = (0..100).map(|name| Bytes::from(format!("c{name}"))).collect();
        let of = |lane: usize| channels.iter().find(|channel| receivers[lane].carries(channel));
        let (full, other) = (of(0).expect("in a").clone(), of(1).expect("hundred").clone());
        for payload in ["1", "2", "3"] {
            sender.message(Message::now(full.clone(), payload.into()));
        }
        sender.message(Message::now(other, "4".into()));
        sender.gap(Gap { from: 0, to: 1, reason: GapReason::SourceLost });
        assert_eq!(drain(&mut receivers[0]).await, ["1", "2", "QueueFull", "SourceLost"]);
        assert_eq!(drain(&mut receivers[1]).await, ["4", "SourceLost"]);
        assert_eq!(metrics.dropped(DropReason::QueueFull).get(), 1);
        assert_eq!((metrics.queue_messages.get(), metrics.queue_bytes.get()), (0, 0));
    }
}
