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
};

use tokio::sync::Notify;

use super::{Event, Gap, GapReason, Message};
use crate::metrics::{Drop as Dropped, Metrics};

/// Messages that may wait in all lanes: a burst of a second from a Redis that publishes 100,000 a second.
pub const MAX_MESSAGES: usize = 100_000;
/// Bytes that may wait in all lanes: an eighth of the smallest container that the demo was deployed in (0.2 GB).
pub const MAX_BYTES: usize = 25 << 20;
/// Events handed over at once; enough to go out together, few enough to let others run between.
const BATCH: usize = 256;

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

/// Tells whether the lanes have handed on all that the source gave them.
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
    events: VecDeque<Event>,
    messages: usize,
    bytes: usize,
    /// Events were taken and are being handed on.
    in_hand: bool,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
        shared.metrics.messages.inc();
        let at = message.at;
        let event = if message.payload.len() > shared.bounds.payload {
            shared.metrics.dropped(Dropped::TooLarge).inc();
            let gap = Gap { from: at, to: at, reason: GapReason::TooLarge };
            Event::ChannelGap { channel: message.channel, gap }
        } else {
            Event::Message(message)
        };
        let size = event.size().unwrap_or_default();
        let mut waiting = shared.lock();
        // A single message may be larger than its lane's part of the bytes.
        let full = waiting.messages >= shared.bounds.messages
            || waiting.bytes > 0 && waiting.bytes + size > shared.bounds.bytes;
        if full {
            shared.metrics.dropped(Dropped::QueueFull).inc();
            waiting.missing(at);
        } else {
            waiting.messages += 1;
            waiting.bytes += size;
            shared.metrics.queue_messages.inc();
            shared.metrics.queue_bytes.inc_by(size as i64);
            waiting.events.push_back(event);
        }
        drop(waiting);
        shared.changed.notify_one();
    }

    /// Queues that messages of any channel may be missing. Never dropped: there is one a reconnect,
    /// and reconnects are paced.
    pub fn gap(&self, gap: Gap) {
        for shared in &self.queues {
            shared.lock().events.push_back(Event::Gap(gap));
            shared.changed.notify_one();
        }
    }
}

impl Progress {
    /// Waits for a moment in which no message waits and none is being handed on.
    pub async fn idle(&self) {
        // All lanes share one signal.
        let Some(first) = self.queues.first() else { return };
        loop {
            let mut idle = pin!(first.idle.notified());
            idle.as_mut().enable();
            if self.queues.iter().all(|shared| shared.lock().is_idle()) {
                return;
            }
            idle.await;
        }
    }
}

impl Waiting {
    fn is_idle(&self) -> bool {
        self.events.is_empty() && !self.in_hand
    }

    /// One gap an episode, at the place where the messages are missing.
    fn missing(&mut self, at: u64) {
        match self.events.back_mut() {
            Some(Event::Gap(gap)) if gap.reason == GapReason::QueueFull => gap.to = at,
            last => {
                let from = match last {
                    Some(Event::Message(message)) => message.at,
                    Some(Event::Gap(gap) | Event::ChannelGap { gap, .. }) => gap.to,
                    None => at,
                };
                let gap = Gap { from, to: at, reason: GapReason::QueueFull };
                self.events.push_back(Event::Gap(gap));
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

    /// Waits for events and moves the next ones into `batch`; `false` when the queue has ended.
    pub async fn next(&mut self, batch: &mut Vec<Event>) -> bool {
        let Shared { changed, idle, metrics, .. } = &*self.shared;
        loop {
            {
                let waiting = &mut *self.shared.lock();
                let (messages, bytes) = (waiting.messages, waiting.bytes);
                let count = waiting.events.len().min(BATCH);
                for event in waiting.events.drain(..count) {
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
                    return true;
                }
                idle.notify_waiters();
                if waiting.closed {
                    return false;
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
        assert_eq!(metrics.dropped(Dropped::QueueFull).get(), 2);
        assert_eq!(metrics.queue_messages.get(), 0);
        assert_eq!(metrics.queue_bytes.get(), 0);
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
        assert_eq!(metrics.dropped(Dropped::TooLarge).get(), 1);
        assert_eq!(metrics.queue_messages.get(), 0);
        assert_eq!(metrics.queue_bytes.get(), 0);
    }

    #[tokio::test]
    async fn ends_when_the_sender_is_gone_and_all_was_taken() {
        let (sender, mut receiver) = lane(10, 100, &Arc::default());
        sender.message(message("last"));
        drop(sender);
        assert_eq!(drain(&mut receiver).await, ["last"]);
        assert!(!receiver.next(&mut Vec::new()).await);
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
        assert_eq!(metrics.dropped(Dropped::QueueFull).get(), 1);
        assert_eq!((metrics.queue_messages.get(), metrics.queue_bytes.get()), (0, 0));
    }
}
