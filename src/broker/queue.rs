//! The queue between a source and the rooms: bounded in messages and bytes; full = drop and count.
//!
//! The source must always read (what it does not read piles up without bounds in redis-rs, or
//! makes Redis end our subscription), so the queue never makes it wait.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::Notify;

use super::{Event, Gap, GapReason, Message};
use crate::metrics::{Drop as Dropped, Metrics};

/// Messages that may wait: a burst of a second from a Redis that publishes 100,000 a second.
pub const MAX_MESSAGES: usize = 100_000;
/// Bytes that may wait: an eighth of the smallest container that the demo was deployed in (0.2 GB).
pub const MAX_BYTES: usize = 25 << 20;
/// Events handed over at once; enough to go out together, few enough to let others run between.
const BATCH: usize = 256;

/// A queue of at most this many messages and bytes.
pub fn queue(max_messages: usize, max_bytes: usize, metrics: Arc<Metrics>) -> (Sender, Receiver) {
    let shared = Arc::new(Shared {
        waiting: Mutex::default(),
        changed: Notify::new(),
        max_messages,
        max_bytes,
        metrics,
    });
    (Sender(shared.clone()), Receiver(shared))
}

/// The source's end; dropping it ends the queue once it is empty.
pub struct Sender(Arc<Shared>);

/// The fan-out's end.
pub struct Receiver(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Notify,
    max_messages: usize,
    max_bytes: usize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    messages: usize,
    bytes: usize,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn measure(&self, waiting: &Waiting) {
        self.metrics.queue_messages.set(waiting.messages as i64);
        self.metrics.queue_bytes.set(waiting.bytes as i64);
    }
}

impl Sender {
    /// Queues a message, or drops and counts it where there is no room.
    pub fn message(&self, message: Message) {
        let shared = &self.0;
        shared.metrics.messages.inc();
        let mut waiting = shared.lock();
        let full = waiting.messages >= shared.max_messages
            || waiting.bytes + message.size() > shared.max_bytes;
        if full {
            shared.metrics.dropped(Dropped::QueueFull).inc();
            waiting.missing(message.at);
        } else {
            waiting.messages += 1;
            waiting.bytes += message.size();
            waiting.events.push_back(Event::Message(message));
        }
        shared.measure(&waiting);
        drop(waiting);
        shared.changed.notify_one();
    }

    /// Queues that messages may be missing. Never dropped: there is one a reconnect, and reconnects
    /// are paced.
    pub fn gap(&self, gap: Gap) {
        self.0.lock().events.push_back(Event::Gap(gap));
        self.0.changed.notify_one();
    }
}

impl Waiting {
    /// One gap an episode, at the place where the messages are missing.
    fn missing(&mut self, at: u64) {
        match self.events.back_mut() {
            Some(Event::Gap(gap)) if gap.reason == GapReason::QueueFull => gap.to = at,
            last => {
                let from = match last {
                    Some(Event::Message(message)) => message.at,
                    Some(Event::Gap(gap)) => gap.to,
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
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Receiver {
    /// Waits for events and moves the next ones into `batch`; `false` when the queue has ended.
    pub async fn next(&mut self, batch: &mut Vec<Event>) -> bool {
        loop {
            {
                let waiting = &mut *self.0.lock();
                let count = waiting.events.len().min(BATCH);
                for event in waiting.events.drain(..count) {
                    if let Event::Message(message) = &event {
                        waiting.messages -= 1;
                        waiting.bytes -= message.size();
                    }
                    batch.push(event);
                }
                self.0.measure(waiting);
                if count > 0 {
                    return true;
                }
                if waiting.closed {
                    return false;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(payload: &'static str) -> Message {
        Message::now(Bytes::from_static(b"c"), Bytes::from_static(payload.as_bytes()))
    }

    async fn drain(receiver: &mut Receiver) -> Vec<String> {
        let mut batch = Vec::new();
        receiver.next(&mut batch).await;
        let name = |event: &Event| match event {
            Event::Message(message) => String::from_utf8_lossy(&message.payload).into_owned(),
            Event::Gap(gap) => format!("{:?}", gap.reason),
        };
        batch.iter().map(name).collect()
    }

    #[tokio::test]
    async fn bounds_messages_and_marks_where_some_are_missing() {
        let metrics = Arc::new(Metrics::default());
        let (sender, mut receiver) = queue(2, 1000, metrics.clone());
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
        let (sender, mut receiver) = queue(100, 8, Arc::default());
        // Channel and payload count: 4 + 4 bytes fit, one more byte does not.
        for payload in ["abc", "abc", "", "x"] {
            sender.message(message(payload));
        }
        assert_eq!(drain(&mut receiver).await, ["abc", "abc", "QueueFull"]);
    }

    #[tokio::test]
    async fn ends_when_the_sender_is_gone_and_all_was_taken() {
        let (sender, mut receiver) = queue(10, 100, Arc::default());
        sender.message(message("last"));
        drop(sender);
        assert_eq!(drain(&mut receiver).await, ["last"]);
        assert!(!receiver.next(&mut Vec::new()).await);
    }
}
