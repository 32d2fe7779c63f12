//! Publishes numbered messages, at a rate or flat out, for a time or a count.

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

/// Messages that are under way at the same time at most.
const BATCH: u64 = 512;
/// Timers are no finer than this.
const TICK: Duration = Duration::from_millis(1);

/// A message to publish.
pub struct Message {
    /// The room's number.
    pub room: u32,
    /// The room's name.
    pub channel: String,
    /// Stamped.
    pub payload: Vec<u8>,
}

/// Who takes what is published.
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

/// When there is enough.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// So many messages.
    Count(u64),
    /// After so long.
    After(Duration),
}

/// What has been published.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    /// Messages, in all rooms together.
    pub count: u64,
    /// When the first one was, by the run's clock.
    pub from: Duration,
    /// How long it took.
    pub took: Duration,
}

/// What is to be published.
pub struct Publishing {
    /// Where.
    pub door: Door,
    /// Messages a second in all rooms together; `None` = flat out.
    pub rate: Option<f64>,
    /// Until when.
    pub end: End,
    /// In which rooms, and how much of it.
    pub plan: Arc<Plan>,
    /// The run's clock.
    pub clock: Instant,
    /// How many messages have been published.
    pub published: Arc<AtomicU64>,
}

impl Publishing {
    /// Publishes to the rooms in turn, each room's messages numbered from 0, to the end. Returns
    /// how long that took.
    pub async fn run(mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let mut sent = 0;
        let mut batch = Vec::new();
        loop {
            let elapsed = begun.elapsed();
            // The first at once, the others when they are due: a rate's last one just before the end.
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
