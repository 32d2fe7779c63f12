//! The nouns of the data flow: messages, gaps, and what a source says in the order it happened.

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::clock::now;

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
        Self { channel, payload, at: now() }
    }
}

/// What a source says, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody published.
    Message(Message),
    /// Messages may be missing between what came before and what comes next.
    Gap(Gap),
    /// Messages of one channel are missing there.
    ChannelGap {
        /// The Redis channel, any bytes.
        channel: Bytes,
        /// When, and why.
        gap: Gap,
    },
}

impl Event {
    /// Bytes of what somebody published; `None` if it is our own word.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Message(message) => Some(message.channel.len() + message.payload.len()),
            Self::ChannelGap { channel, .. } => Some(channel.len()),
            Self::Gap(_) => None,
        }
    }
}

/// A time of which we cannot say that we have every message. It is told when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    /// Until then nothing is missing, in ms since the Unix epoch.
    pub from: u64,
    /// Since then nothing is missing, in ms since the Unix epoch.
    pub to: u64,
    /// Why.
    pub reason: GapReason,
}

impl Gap {
    /// How long it lasted.
    pub fn seconds(&self) -> f64 {
        self.to.saturating_sub(self.from) as f64 / 1000.0
    }

    /// A gap that ends now. Its length is measured by the monotonic clock: `to` is never before
    /// `from`, also if the server's clock is set back meanwhile.
    pub fn until_now(from: Instant, reason: GapReason) -> Self {
        let to = now();
        Self { from: to.saturating_sub(from.elapsed().as_millis() as u64), to, reason }
    }
}

/// Why messages may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The subscription was lost, or not there yet.
    SourceLost,
    /// More came than we could hand on.
    QueueFull,
    /// A message was larger than `MAX_PAYLOAD`.
    TooLarge,
}

impl GapReason {
    /// The reason as viewers and metrics get it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceLost => "source_lost",
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gap_is_as_long_as_the_monotonic_clock_says() {
        let from = Instant::now();
        tokio::time::advance(Duration::from_secs(3)).await;
        let gap = Gap::until_now(from, GapReason::SourceLost);
        assert_eq!(gap.to - gap.from, 3000);
    }
}
