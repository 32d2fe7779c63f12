//! The recent messages of a room, bounded in count and age, and their replay.

use std::{collections::VecDeque, mem::size_of, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A position in the sequence of a room's messages. A message published later has a higher offset
/// or another epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// An opaque random name of a sequence of offsets without holes.
    pub epoch: Arc<str>,
    /// The offset of the latest message; 0 before the first.
    pub offset: u64,
}

impl Position {
    /// The start of a new epoch with a random name, before its first message.
    pub fn fresh() -> Self {
        Self { epoch: format!("{:012x}", rand::random::<u64>() >> 16).into(), offset: 0 }
    }

    /// A position of no epoch: for a client that names one that cannot be read.
    pub fn unknown() -> Self {
        Self { epoch: "".into(), offset: 0 }
    }
}

/// A message in a room's history.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// Its epoch and offset.
    pub position: Position,
    /// When it arrived, in ms since the Unix epoch.
    pub at: u64,
    /// The publisher's bytes.
    pub payload: Bytes,
}

impl HistoryEntry {
    /// Bytes that the entry uses: the payload and the entry itself.
    pub fn size(&self) -> usize {
        self.payload.len() + size_of::<Self>()
    }
}

/// The most messages of one replay: half of a client's queue, so that new messages fit as well.
const MAX_REPLAY: usize = 2048;
/// The most bytes of one replay; a single message may be larger.
const MAX_REPLAY_BYTES: usize = 4 << 20;

/// Bounds of one room's history.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most messages; 0 disables the history.
    pub count: usize,
    /// The highest age in ms.
    pub age: u64,
}

/// The part of a room's history that a client requests when it joins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayRequest {
    /// The number of latest messages to replay. With `since`, it applies only if the recovery
    /// fails.
    pub last: Option<usize>,
    /// The last position that the client knows: all messages after it are requested.
    pub since: Option<Position>,
}

/// The answer to a [`ReplayRequest`].
#[derive(Debug, PartialEq)]
pub struct Replay {
    /// The messages, oldest first.
    pub messages: Vec<HistoryEntry>,
    /// Whether they are all messages after the requested position; `None` if none was requested.
    pub recovered: Option<bool>,
}

/// The recent messages of one room, oldest first.
#[derive(Debug, Default)]
pub struct History {
    kept: VecDeque<HistoryEntry>,
    size: usize,
}

impl History {
    /// Appends a message and removes those that exceed the bounds at its time of arrival.
    pub fn push(&mut self, kept: HistoryEntry, bounds: Bounds) {
        if bounds.count == 0 {
            return;
        }
        let now = kept.at;
        self.size += kept.size();
        self.kept.push_back(kept);
        while self.kept.len() > bounds.count {
            self.pop();
        }
        self.expire(now, bounds);
    }

    /// Removes the messages that are too old at `now`, in ms since the Unix epoch.
    pub fn expire(&mut self, now: u64, bounds: Bounds) {
        while self.kept.front().is_some_and(|kept| kept.at + bounds.age < now) {
            self.pop();
        }
    }

    /// Removes the oldest message.
    pub fn pop(&mut self) -> Option<HistoryEntry> {
        let kept = self.kept.pop_front()?;
        self.size -= kept.size();
        Some(kept)
    }

    /// The latest message.
    pub fn latest(&self) -> Option<&HistoryEntry> {
        self.kept.back()
    }

    /// A copy of all entries, oldest first; the payloads are shared.
    pub fn all(&self) -> Vec<HistoryEntry> {
        self.kept.iter().cloned().collect()
    }

    /// Bytes of all entries.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether the history has no entries.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Selects the messages for a request. `now` is the room's current position.
    pub fn replay(&self, wish: &ReplayRequest, now: &Position) -> Replay {
        let recovered = wish.since.as_ref().map(|since| self.reaches_back_to(since, now));
        let messages: Vec<HistoryEntry> = match (&wish.since, recovered) {
            (Some(since), Some(true)) => self.last((now.offset - since.offset) as usize),
            // The recovery failed: replay the latest messages, so that the client can show
            // something.
            (Some(_), _) => self.last(wish.last.unwrap_or(usize::MAX)),
            (None, _) => self.last(wish.last.unwrap_or(0)),
        };
        Replay { messages, recovered }
    }

    /// The latest `count` messages, or fewer if they exceed the bounds of one replay.
    fn last(&self, count: usize) -> Vec<HistoryEntry> {
        let mut bytes = 0;
        let fits = |kept: &&HistoryEntry| {
            let first = bytes == 0;
            bytes += kept.size();
            first || bytes <= MAX_REPLAY_BYTES
        };
        let mut latest: Vec<HistoryEntry> =
            self.kept.iter().rev().take(count.min(MAX_REPLAY)).take_while(fits).cloned().collect();
        latest.reverse();
        latest
    }

    /// Whether all messages after `since` up to `now` are kept and fit into one replay.
    fn reaches_back_to(&self, since: &Position, now: &Position) -> bool {
        if since.epoch != now.epoch
            || since.offset > now.offset
            || now.offset - since.offset > MAX_REPLAY as u64
        {
            return false;
        }
        // Offsets have no holes within an epoch, so checking the oldest message of the replay is
        // enough.
        let missed = (now.offset - since.offset) as usize;
        let Some(oldest) = self.last(missed).into_iter().next() else { return missed == 0 };
        oldest.position.epoch == now.epoch && oldest.position.offset == since.offset + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { count: 10_000, age: u64::MAX / 2 };

    /// A history of `count` messages with payloads of `size` bytes, and its position.
    fn history(count: u64, size: usize) -> (History, Position) {
        let (mut history, mut position) = (History::default(), Position::fresh());
        let payload = Bytes::from(vec![b'x'; size]);
        for _ in 0..count {
            position.offset += 1;
            let (position, payload) = (position.clone(), payload.clone());
            history.push(HistoryEntry { position, at: 1, payload }, BOUNDS);
        }
        (history, position)
    }

    fn since(position: &Position, offset: u64) -> ReplayRequest {
        ReplayRequest { last: None, since: Some(Position { offset, ..position.clone() }) }
    }

    #[test]
    fn a_replay_is_bounded_in_messages_and_does_not_claim_recovery_if_it_omits_some() {
        let most = MAX_REPLAY as u64;
        let (history, now) = history(most + 10, 1);
        let replay = history.replay(&since(&now, 10), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (MAX_REPLAY, Some(true)));
        assert_eq!(replay.messages[0].position.offset, 11);
        let replay = history.replay(&since(&now, 9), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (MAX_REPLAY, Some(false)));
    }

    #[test]
    fn a_replay_is_bounded_in_bytes_except_for_a_single_message() {
        let (many, now) = history(9, MAX_REPLAY_BYTES / 4);
        let replay = many.replay(&since(&now, 6), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (3, Some(true)));
        let replay = many.replay(&since(&now, 0), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (3, Some(false)));
        let (one, now) = history(1, 2 * MAX_REPLAY_BYTES);
        assert_eq!(one.replay(&since(&now, 0), &now).messages.len(), 1);
    }

    #[test]
    fn expired_messages_no_longer_count_in_the_size() {
        let (mut history, _) = history(5, 100);
        assert!(history.size() > 500);
        history.expire(u64::MAX, BOUNDS);
        assert_eq!((history.size(), history.is_empty()), (0, true));
    }
}
