//! The queues between the source and the rooms, one per lane. Each is bounded in messages and
//! bytes; a full queue drops messages and counts them.
//!
//! The source must always read its connection: otherwise messages pile up without bounds in
//! redis-rs, or Redis ends the subscription. So a queue never makes the source wait. A channel is
//! always in the same lane, which keeps its order; a full lane does not affect the others.
//!
//! Each message gets its number under the lock of its lane's queue, whether it is queued or dropped.
//! The watermark of a lane is the number before that of its first event that is queued or being
//! delivered, or the latest number if there is no such event: all messages of the lane up to it have
//! been placed in their rooms.

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};
use tracing::info;

use crate::message::{Dropped, Event, Gap, GapReason, MAX_NAME, Message};
use crate::{
    lanes::Lanes,
    log_limit::LogLimit,
    metrics::{DropReason, Metrics},
    position::Sequence,
};

/// The most messages queued in all lanes: a burst of one second at 100,000 messages per second.
pub const MAX_MESSAGES: usize = 100_000;
/// The most bytes queued in all lanes: an eighth of the smallest container in which the demo was
/// deployed (0.2 GB).
pub const MAX_BYTES: usize = 25 << 20;
/// The most events that a receiver takes at once: enough for efficient batches, few enough that
/// other tasks run in between.
const BATCH: usize = 256;
/// How long a lane is reported as not ok after it has dropped a message: longer than the usual
/// interval between two requests to `/status`.
const DROPPING: Duration = Duration::from_secs(30);
/// The most channels that a lane's queue remembers because their messages were dropped. If there are
/// more, messages of any channel may be missing.
const MAX_DROPPED_CHANNELS: usize = 1000;

static FULL: LogLimit = LogLimit::new(1);
static TOO_LARGE: LogLimit = LogLimit::new(1);

/// Bounds of the queues.
#[derive(Clone, Copy, Debug)]
pub struct QueueBounds {
    /// The most queued messages, of all lanes together.
    pub messages: usize,
    /// The most bytes of their channels and payloads, of all lanes together.
    pub bytes: usize,
    /// The most bytes of one payload; a larger one is dropped.
    pub payload: usize,
}

impl QueueBounds {
    /// The server's default bounds for payloads of at most `payload` bytes.
    pub fn new(payload: usize) -> Self {
        Self { messages: MAX_MESSAGES, bytes: MAX_BYTES, payload }
    }
}

/// Creates the queues for `lanes` lanes, which share the bounds evenly. Returns the source's end
/// and one receiver per lane. Messages are counted in `sequence`.
pub fn queue(
    lanes: Lanes,
    sequence: Arc<Sequence>,
    bounds: QueueBounds,
    metrics: Arc<Metrics>,
) -> (Sender, Vec<Receiver>) {
    let (messages, bytes) = (bounds.messages / lanes.count(), bounds.bytes / lanes.count());
    let idle = Arc::new(Notify::new());
    let lane = || {
        Arc::new(LaneQueue {
            waiting: Mutex::default(),
            changed: Notify::new(),
            idle: idle.clone(),
            bounds: QueueBounds { messages, bytes, ..bounds },
            metrics: metrics.clone(),
        })
    };
    let queues: Vec<_> = (0..lanes.count().get()).map(|_| lane()).collect();
    let receiver =
        |(lane, shared): (usize, &Arc<LaneQueue>)| Receiver { shared: shared.clone(), lane };
    let receivers = queues.iter().enumerate().map(receiver).collect();
    (Sender { queues, lanes, sequence }, receivers)
}

/// The source's end of the queues. Dropping it ends each queue once its receiver has taken all
/// events.
pub struct Sender {
    queues: Vec<Arc<LaneQueue>>,
    lanes: Lanes,
    sequence: Arc<Sequence>,
}

/// Shows how full the lanes are, and what the fan-out has delivered.
#[derive(Clone)]
pub struct Progress {
    queues: Vec<Arc<LaneQueue>>,
    sequence: Arc<Sequence>,
}

/// The fan-out's end of one lane. Each lane has one task that calls [`Receiver::next`] until the
/// queue ends.
pub struct Receiver {
    shared: Arc<LaneQueue>,
    lane: usize,
}

struct LaneQueue {
    waiting: Mutex<QueuedEvents>,
    changed: Notify,
    /// Shared by all lanes: notified when one of them is empty and its last batch is delivered.
    idle: Arc<Notify>,
    bounds: QueueBounds,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct QueuedEvents {
    /// Each with its time of arrival.
    events: VecDeque<(Instant, Event)>,
    messages: usize,
    bytes: usize,
    /// The number of the first event that the receiver has taken, until it asks for the next ones.
    in_hand: Option<u64>,
    /// Channels in all queued [`Event::Dropped`] together.
    dropped_channels: usize,
    /// Messages dropped since the start; `last_drop` is the time of the latest.
    dropped: u64,
    last_drop: Option<Instant>,
    closed: bool,
}

/// The state of one lane at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LaneReport {
    /// The lane is not full, and has dropped no message within the last 30 s.
    pub ok: bool,
    /// Queued messages.
    pub messages: usize,
    /// The most queued messages.
    pub messages_max: usize,
    /// Bytes of the queued messages.
    pub bytes: usize,
    /// The most queued bytes.
    pub bytes_max: usize,
    /// Messages dropped since the start because the lane was full.
    pub dropped: u64,
}

impl LaneQueue {
    fn lock(&self) -> MutexGuard<'_, QueuedEvents> {
        self.waiting.lock()
    }

    fn report(&self) -> LaneReport {
        let QueueBounds { messages: messages_max, bytes: bytes_max, .. } = self.bounds;
        let QueuedEvents { messages, bytes, dropped, last_drop, .. } = *self.lock();
        let is_full = messages >= messages_max || bytes >= bytes_max;
        let drops = last_drop.is_some_and(|at| at.elapsed() < DROPPING);
        LaneReport { ok: !is_full && !drops, messages, messages_max, bytes, bytes_max, dropped }
    }
}

impl Sender {
    /// A handle that observes the lanes' progress; it stays valid after the sender is dropped.
    pub fn progress(&self) -> Progress {
        Progress { queues: self.queues.clone(), sequence: self.sequence.clone() }
    }

    /// Counts a message that no room can show.
    pub fn skip(&self) {
        self.sequence.count();
    }

    /// Queues a message. A message that is too large, or for which its lane is full, is dropped and
    /// leaves a gap in its channel.
    pub fn message(&self, mut message: Message) {
        let shared = &self.queues[self.lanes.of(self.lanes.hash(&message.channel))];
        let LaneQueue { bounds, metrics, .. } = &**shared;
        metrics.messages.inc();
        let at = message.at;
        let is_too_large = message.payload.len() > bounds.payload;
        if is_too_large {
            metrics.dropped(DropReason::TooLarge).inc();
            let most = bounds.payload;
            TOO_LARGE.count(1, move |messages| {
                info!(messages, "dropped messages larger than MAX_PAYLOAD, {most} bytes");
            });
            count_gap(metrics, &Gap { from: at, to: at, reason: GapReason::TooLarge });
        }
        let mut waiting = shared.lock();
        message.number = self.sequence.count();
        let event = if is_too_large { too_large(message) } else { Event::Message(message) };
        let size = event.size().unwrap_or_default();
        // A single message may exceed its lane's share of the bytes.
        let full = waiting.messages >= bounds.messages
            || waiting.bytes > 0 && waiting.bytes + size > bounds.bytes;
        if full {
            waiting.drop_one(event, at, metrics);
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
                    "dropped messages that arrived too fast to be delivered: see `queue` in /status"
                );
            });
        }
        shared.changed.notify_one();
    }

    /// Queues a gap in every lane, with which a new epoch begins: messages of any channel may be
    /// missing. Gaps are never dropped: each reconnect causes one, and reconnects back off.
    pub fn gap(&self, gap: Gap) {
        if let Some(shared) = self.queues.first() {
            count_gap(&shared.metrics, &gap);
        }
        // All lanes are locked together: none has a message before the break with a later number.
        let mut lanes: Vec<_> = self.queues.iter().map(|shared| shared.lock()).collect();
        let number = self.sequence.begin_epoch();
        lanes.iter_mut().for_each(|waiting| waiting.push(Event::Gap { gap, number }));
        drop(lanes);
        self.queues.iter().for_each(|shared| shared.changed.notify_one());
    }
}

fn too_large(message: Message) -> Event {
    let Message { channel, at, number, .. } = message;
    let gap = Gap { from: at, to: at, reason: GapReason::TooLarge };
    Event::ChannelGap { channel, gap, number }
}

impl Progress {
    /// The count of the source's messages.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// All messages of a lane up to this number have been placed in their rooms.
    pub fn watermark(&self, lane: usize) -> u64 {
        let waiting = self.queues[lane].lock();
        let first = waiting.in_hand.or_else(|| Some(waiting.events.front()?.1.number()));
        first.map_or_else(|| self.sequence.latest(), |number| number - 1)
    }

    /// Whether all lanes are empty and their last batches are delivered.
    pub fn is_idle(&self) -> bool {
        self.queues.iter().all(|shared| shared.lock().is_idle())
    }

    /// The state of each lane.
    pub fn lanes(&self) -> Vec<LaneReport> {
        self.queues.iter().map(|lane| lane.report()).collect()
    }

    /// Waits until all lanes are empty and their last batches are delivered.
    ///
    /// # Cancel safety
    /// Cancel safe.
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

/// Counts a gap once, however many lanes or rooms it affects.
fn count_gap(metrics: &Metrics, gap: &Gap) {
    let reason = gap.reason.as_str();
    metrics.gaps(reason).inc();
    metrics.gap_seconds(reason).inc_by(gap.seconds());
}

impl QueuedEvents {
    fn push(&mut self, event: Event) {
        self.events.push_back((Instant::now(), event));
    }

    fn is_idle(&self) -> bool {
        self.events.is_empty() && self.in_hand.is_none()
    }

    /// Records a dropped message. Consecutive drops extend one gap, which is queued at the position
    /// of the missing messages.
    fn drop_one(&mut self, dropped: Event, at: u64, metrics: &Metrics) {
        metrics.dropped(DropReason::QueueFull).inc();
        self.dropped += 1;
        self.last_drop = Some(Instant::now());
        let reason = GapReason::QueueFull;
        let number = dropped.number();
        let channel = match dropped {
            Event::Message(message) => message.channel,
            Event::ChannelGap { channel, .. } => channel,
            Event::Gap { .. } | Event::Dropped(_) => return,
        };
        if let Some((_, Event::Dropped(dropped))) = self.events.back_mut() {
            // The server's clock may have been set back: a gap never ends before its start.
            let to = at.max(dropped.gap.to);
            let more = Gap { from: dropped.gap.to, to, reason };
            metrics.gap_seconds(reason.as_str()).inc_by(more.seconds());
            dropped.gap.to = to;
            return dropped.add(channel, number, &mut self.dropped_channels);
        }
        let from = match self.events.back() {
            Some((_, Event::Message(message))) => message.at,
            Some((_, Event::Gap { gap, .. } | Event::ChannelGap { gap, .. })) => gap.to,
            Some((_, Event::Dropped(_))) | None => at,
        };
        let gap = Gap { from: from.min(at), to: at, reason };
        count_gap(metrics, &gap);
        let channels = Some(HashMap::new());
        let mut dropped = Dropped { gap, first: number, last: number, channels };
        dropped.add(channel, number, &mut self.dropped_channels);
        self.push(Event::Dropped(Box::new(dropped)));
    }
}

impl Dropped {
    /// Adds a message. `queued` is how many channels the queue remembers.
    fn add(&mut self, channel: Bytes, number: u64, queued: &mut usize) {
        self.last = number;
        // No room has a longer name.
        let channels = self.channels.as_mut().filter(|_| channel.len() <= MAX_NAME);
        if let Some(channels) = channels {
            *queued += usize::from(channels.insert(channel, number).is_none());
            if *queued > MAX_DROPPED_CHANNELS {
                *queued -= channels.len();
                self.channels = None;
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
    /// The number of this lane.
    pub fn lane(&self) -> usize {
        self.lane
    }

    /// Waits for events and moves the next ones into `batch`. Returns the time at which the first
    /// of them arrived, or `None` when the queue has ended. A call also says that the events of the
    /// previous one are delivered.
    ///
    /// # Cancel safety
    /// Cancel safe: events leave the queue only when the future is ready.
    pub async fn next(&mut self, batch: &mut Vec<Event>) -> Option<Instant> {
        let LaneQueue { changed, idle, metrics, .. } = &*self.shared;
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
                    if let Event::Dropped(dropped) = &event {
                        waiting.dropped_channels -=
                            dropped.channels.as_ref().map_or(0, HashMap::len);
                    }
                    batch.push(event);
                }
                metrics.queue_messages.dec_by((messages - waiting.messages) as i64);
                metrics.queue_bytes.dec_by((bytes - waiting.bytes) as i64);
                waiting.in_hand = batch.first().map(Event::number);
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
mod tests;
