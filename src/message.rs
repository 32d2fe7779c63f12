//! The data that flows from the source to the rooms: messages and gaps.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::clock::now;

/// The longest name of a room, in bytes: enough for any path of topics, and small enough to bound the
/// memory of indexes. Messages of longer channels are dropped.
pub const MAX_NAME: usize = 256;

/// A message published on a Redis channel.
#[derive(Clone, Debug)]
pub struct Message {
    /// The Redis channel, any bytes.
    pub channel: Bytes,
    /// The publisher's opaque bytes.
    pub payload: Bytes,
    /// When the server received it, in ms since the Unix epoch by the server's clock.
    pub at: u64,
    /// Its number among all messages of the source; 0 until it is queued.
    pub number: u64,
}

impl Message {
    /// A message that arrives now.
    pub fn now(channel: Bytes, payload: Bytes) -> Self {
        Self { channel, payload, at: now(), number: 0 }
    }
}

/// An event of the source. The order of events is the order in which they happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message arrived.
    Message(Message),
    /// Messages of any channel may be missing between the events before and after this one.
    Gap {
        /// The time and the reason.
        gap: Gap,
        /// The number of the break.
        number: u64,
    },
    /// Messages of one channel are missing between the events before and after this one.
    ChannelGap {
        /// The Redis channel, any bytes.
        channel: Bytes,
        /// The time and the reason.
        gap: Gap,
        /// The number of the missing message.
        number: u64,
    },
    /// Messages were dropped between the events before and after this one.
    Dropped(Box<Dropped>),
}

/// Consecutive messages that were dropped.
#[derive(Clone, Debug)]
pub struct Dropped {
    /// The time and the reason.
    pub gap: Gap,
    /// The number of the first one.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
    /// The channels, each with the number of its last one; `None` if there are too many to tell, so
    /// that messages of any channel may be missing.
    pub channels: Option<HashMap<Bytes, u64>>,
}

impl Event {
    /// The number of the message or break; the first one, if there are several.
    pub fn number(&self) -> u64 {
        match self {
            Self::Message(message) => message.number,
            Self::Gap { number, .. } | Self::ChannelGap { number, .. } => *number,
            Self::Dropped(dropped) => dropped.first,
        }
    }

    /// Bytes that the event counts in a queue: those of its channel and payload; `None` for gaps of
    /// several channels, which do not count.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Message(message) => Some(message.channel.len() + message.payload.len()),
            Self::ChannelGap { channel, .. } => Some(channel.len()),
            Self::Gap { .. } | Self::Dropped(_) => None,
        }
    }
}

/// A period in which messages may be missing. It is reported when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gap {
    /// The start: no earlier message is missing. In ms since the Unix epoch.
    pub from: u64,
    /// The end: no later message is missing. In ms since the Unix epoch.
    pub to: u64,
    /// Why messages may be missing.
    pub reason: GapReason,
}

impl Gap {
    /// The length in seconds.
    pub fn seconds(&self) -> f64 {
        self.to.saturating_sub(self.from) as f64 / 1000.0
    }

    /// A gap that ends now. The monotonic clock measures its length, so `to` is never before
    /// `from`, even if the server's clock is set back meanwhile.
    pub fn until_now(from: Instant, reason: GapReason) -> Self {
        let to = now();
        Self { from: to.saturating_sub(from.elapsed().as_millis() as u64), to, reason }
    }
}

/// Why messages may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The subscription was lost, or not established yet.
    SourceLost,
    /// Messages arrived faster than they could be delivered.
    QueueFull,
    /// A message was larger than `MAX_PAYLOAD`.
    TooLarge,
    /// The client named a position that this server does not know.
    UnknownPosition,
    /// The history was forgotten while it was replayed.
    Forgotten,
}

impl GapReason {
    /// The reason as clients and metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceLost => "source_lost",
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::UnknownPosition => "unknown_position",
            Self::Forgotten => "forgotten",
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
