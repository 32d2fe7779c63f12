//! Publishes numbered messages, at a rate or as fast as possible, for a time or a count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use roomcast::redis::Publisher;
use tokio::time::sleep;

use super::{plan::Plan, posts::Posts, stamp::Stamp};

/// Maximum number of messages published at the same time.
const BATCH: u64 = 512;
/// Pause when no message is due; the resolution of tokio's timers.
const TICK: Duration = Duration::from_millis(1);

/// A message to publish.
pub struct Message {
    /// The room's number.
    pub room: u32,
    /// The room's name.
    pub channel: String,
    /// The payload, which starts with a [`Stamp`].
    pub payload: Vec<u8>,
}

/// Where messages are published.
pub enum Door {
    /// Redis, by PUBLISH.
    Redis(Publisher),
    /// A server, by POST.
    Http(Posts),
}

impl Door {
    async fn publish(&mut self, messages: &[Message]) -> anyhow::Result<()> {
        match self {
            Self::Redis(publisher) => {
                let all = messages.iter().map(|message| (&*message.channel, &*message.payload));
                publisher.publish_all(all).await
            }
            Self::Http(posts) => posts.publish(messages).await,
        }
    }
}

/// When to stop publishing.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// After this many messages.
    Count(u64),
    /// After this time.
    After(Duration),
}

/// What has been published.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    /// Number of messages, in all rooms together.
    pub count: u64,
    /// When publishing started, as a time since the start of the benchmark.
    pub from: Duration,
    /// How long publishing took.
    pub took: Duration,
}

/// What to publish, where, and at which rate.
pub struct Publishing {
    /// Where to publish.
    pub door: Door,
    /// Messages per second in all rooms together; `None` = as many as possible.
    pub rate: Option<f64>,
    /// When to stop.
    pub end: End,
    /// The rooms, and the size of a message.
    pub plan: Arc<Plan>,
    /// The start of the benchmark.
    pub clock: Instant,
    /// Counter of published messages, which the progress bar shows.
    pub published: Arc<AtomicU64>,
}

impl Publishing {
    /// Publishes to the rooms in turn until [`End`], each room's messages numbered from 0. Returns
    /// how long that took.
    ///
    /// # Errors
    /// If a message cannot be published.
    pub async fn run(mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let mut sent = 0;
        let mut batch = Vec::new();
        loop {
            let elapsed = begun.elapsed();
            // The first message is due at once, so at a rate the last one is due before the end.
            let due = |at: Duration| match self.rate {
                Some(rate) => (at.as_secs_f64() * rate).floor() as u64 + 1,
                None => u64::MAX,
            };
            let (allowed, over) = match self.end {
                End::Count(count) => (due(elapsed).min(count), sent == count),
                End::After(time) => {
                    let all = self.rate.map_or(u64::MAX, |rate| (time.as_secs_f64() * rate) as u64);
                    (due(elapsed).min(all), sent == all || elapsed >= time)
                }
            };
            if over {
                return Ok(elapsed);
            }
            let more = allowed.saturating_sub(sent).min(BATCH);
            if more == 0 {
                sleep(TICK).await;
                continue;
            }
            let at = self.clock.elapsed().as_micros() as u64;
            batch.clear();
            batch.extend((sent..sent + more).map(|message| self.message(message, at)));
            self.door.publish(&batch).await?;
            sent += more;
            self.published.store(sent, Relaxed);
        }
    }

    fn message(&self, message: u64, at: u64) -> Message {
        let rooms = self.plan.rooms as u64;
        let (room, number) = ((message % rooms) as u32, (message / rooms) as u32);
        let stamp = Stamp { run: self.plan.run, room, number, at };
        let payload = stamp.payload(self.plan.size);
        Message { room, channel: self.plan.room_name(room), payload }
    }
}
