//! Signs of life of a subscription, and how to ask for one.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::{sync::Notify, time::Instant};
use tracing::info;

use super::Publisher;
use crate::{broker::now, config::RedisAddress, glob};

/// Channels below this are probes, ours and other instances'; no instance shows or keeps them.
pub const PROBES: &str = "roomcast:probe:";

/// Signs of life of a subscription.
pub struct Pulse {
    /// When the last one came.
    last: Mutex<Instant>,
    /// Until when nothing is missing, in ms since the Unix epoch.
    proven: AtomicU64,
    /// A probe of ours came back.
    pub echo: Notify,
}

impl Pulse {
    /// As if the last sign of life came now.
    pub fn new() -> Self {
        let (last, proven) = (Mutex::new(Instant::now()), AtomicU64::new(now()));
        Self { last, proven, echo: Notify::new() }
    }

    /// Something came that proves that nothing published until `proven` is missing.
    pub fn beat(&self, proven: u64) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.proven.store(proven, Relaxed);
    }

    /// When the last sign of life came.
    pub fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when nothing is missing, in ms since the Unix epoch.
    pub fn proven(&self) -> u64 {
        self.proven.load(Relaxed)
    }
}

/// Publishes to ourselves.
pub struct Probe {
    /// A channel of our own.
    pub channel: String,
    /// Our patterns cover the channel, and nothing speaks against publishing so far.
    pub possible: bool,
    publisher: Option<Publisher>,
}

impl Probe {
    /// A probe that comes back through these patterns, if they cover it.
    pub fn new(patterns: &[String]) -> Self {
        let channel = new_channel();
        let possible = covers(patterns, &channel);
        if !possible {
            info!("REDIS_CHANNELS does not cover {PROBES}*: probing by PING");
        }
        Self { possible, channel, publisher: None }
    }

    /// Publishes a probe.
    pub async fn publish(&mut self, address: &RedisAddress) -> Result<(), RedisError> {
        let mut publisher = match self.publisher.take() {
            Some(publisher) => publisher,
            None => Publisher::open(address).await?,
        };
        publisher.send(&self.channel, &[]).await?;
        // Kept only as long as it works.
        self.publisher = Some(publisher);
        Ok(())
    }
}

/// A channel for probes of one's own.
pub fn new_channel() -> String {
    format!("{PROBES}{:012x}", rand::random::<u64>() >> 16)
}

/// Whether a probe would come back through these patterns.
pub fn covers(patterns: &[String], channel: &str) -> bool {
    patterns.iter().any(|pattern| glob::matches(pattern.as_bytes(), channel.as_bytes()))
}

/// Whether the user may not do this.
pub fn is_denied(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}
