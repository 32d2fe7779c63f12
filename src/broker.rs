//! The seam to where messages come from: what a source says, and the bounded queue it says it in.

use std::time::SystemTime;

use bytes::Bytes;

pub mod embedded;
mod queue;
pub mod redis;

pub use queue::{MAX_BYTES, MAX_MESSAGES, Receiver, Sender, queue};

/// What somebody published.
#[derive(Clone, Debug)]
pub struct Message {
    /// The Redis channel, any bytes.
    pub channel: Bytes,
    /// The publisher's opaque bytes.
    pub payload: Bytes,
    /// When it arrived here, in ms since the Unix epoch by the server's clock.
    pub at: u64,
}

impl Message {
    /// A message that arrives now.
    pub fn now(channel: Bytes, payload: Bytes) -> Self {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { channel, payload, at: at.as_millis() as u64 }
    }

    fn size(&self) -> usize {
        self.channel.len() + self.payload.len()
    }
}

/// What a source says, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody published.
    Message(Message),
    /// Messages were dropped here because the queue was full.
    Dropped,
    /// The source is lost: messages may be missed from now on.
    Down,
    /// The source is there (again).
    Up,
}
