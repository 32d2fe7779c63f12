//! The recent messages of a room, bounded in count and age, and their replay.

use std::{collections::VecDeque, mem::size_of, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::memory::allocated;

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
    /// Bytes of an epoch's name.
    pub const EPOCH_LENGTH: usize = 12;

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
    /// Bytes of the payload, which is shared by all that send it.
    fn payload_bytes(&self) -> usize {
        if self.payload.is_empty() { 0 } else { allocated(self.payload.len()) + SHARED }
    }
}

/// Bytes of what the handles of one payload share.
const SHARED: usize = 32;

/// The most messages of one replay: half of a client's queue, so that new messages fit as well.
const MAX_REPLAY: usize = 2048;
/// The most bytes of one replay; a single message may be larger.
const MAX_REPLAY_BYTES: usize = 4 << 20;

/// Bounds of one room's history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryBounds {
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
    /// If the recovery fails and `last` is not given, replay only what is known to come after
    /// `since`, and not all that is kept: the client keeps what it has.
    pub appends: bool,
}

/// The answer to a [`ReplayRequest`].
#[derive(Debug, PartialEq)]
pub struct Replay {
    /// The number of the first message of the replay; see [`History::piece`].
    pub from: u64,
    /// How many messages there are from this one on.
    pub count: usize,
    /// Whether they are all messages after the requested position; `None` if none was requested.
    pub recovered: Option<bool>,
    /// When the message at the requested position arrived, in ms since the Unix epoch, if it is kept
    /// and the recovery failed.
    pub known: Option<u64>,
}

/// The recent messages of one room, oldest first. Each has a number: how many had been appended to
/// this history before it.
#[derive(Debug, Default)]
pub struct History {
    kept: VecDeque<Kept>,
    /// The number of the oldest message.
    first: u64,
    /// Bytes of the payloads.
    payloads: usize,
    /// Bytes of all payloads ever appended.
    total: u64,
}

#[derive(Debug)]
struct Kept {
    entry: HistoryEntry,
    /// Bytes of all payloads appended before this one.
    before: u64,
}

impl History {
    /// Appends a message and removes those that exceed the bounds at its time of arrival.
    pub fn push(&mut self, entry: HistoryEntry, bounds: HistoryBounds) {
        if bounds.count == 0 {
            return;
        }
        let (now, bytes) = (entry.at, entry.payload_bytes());
        // Room for one more alone: most rooms of a large number have few messages.
        if self.kept.is_empty() {
            self.kept.reserve_exact(1);
        }
        self.kept.push_back(Kept { entry, before: self.total });
        self.payloads += bytes;
        self.total += bytes as u64;
        while self.kept.len() > bounds.count {
            self.pop();
        }
        self.expire(now, bounds);
    }

    /// Removes the messages that are too old at `now`, in ms since the Unix epoch.
    pub fn expire(&mut self, now: u64, bounds: HistoryBounds) {
        while self.kept.front().is_some_and(|kept| kept.entry.at + bounds.age < now) {
            self.pop();
        }
        if self.kept.len() < self.kept.capacity() / 4 {
            self.kept.shrink_to(2 * self.kept.len());
        }
    }

    /// Removes the oldest message.
    fn pop(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.first += 1;
            self.payloads -= kept.entry.payload_bytes();
        }
    }

    /// Removes all messages, and returns them so that they are dropped outside of locks.
    pub fn clear(&mut self) -> impl Sized + use<> {
        self.first = self.end();
        self.payloads = 0;
        std::mem::take(&mut self.kept)
    }

    /// The latest message.
    pub fn latest(&self) -> Option<&HistoryEntry> {
        self.kept.back().map(|kept| &kept.entry)
    }

    /// The oldest message.
    pub fn oldest(&self) -> Option<&HistoryEntry> {
        self.kept.front().map(|kept| &kept.entry)
    }

    /// The number of the oldest message.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next message.
    pub fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Copies of the messages from number `from` on, oldest first: at most `count`, and no further
    /// one once their payloads have `bytes` bytes. The payloads are shared.
    pub fn piece(&self, from: u64, count: usize, bytes: usize) -> Vec<HistoryEntry> {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let mut rest = self.kept.range(skipped.min(self.kept.len())..).peekable();
        let end = rest.peek().map_or(0, |first| first.before) + bytes as u64;
        rest.take(count)
            .take_while(|kept| kept.before < end)
            .map(|kept| kept.entry.clone())
            .collect()
    }

    /// Bytes that the history takes.
    pub fn size(&self) -> usize {
        allocated(self.kept.capacity() * size_of::<Kept>()) + self.payloads
    }

    /// Whether the history has no entries.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Selects the messages for a request. `now` is the room's current position.
    pub fn replay(&self, wish: &ReplayRequest, now: &Position) -> Replay {
        let recovered = wish.since.as_ref().map(|since| self.reaches_back_to(since, now));
        let own = wish.since.as_ref().filter(|_| recovered == Some(false));
        let own = own.and_then(|since| self.find(since));
        let known = own.and_then(|own| self.kept.get(own)).map(|kept| kept.entry.at);
        let count = match (&wish.since, recovered) {
            (Some(since), Some(true)) => self.last((now.offset - since.offset) as usize),
            // The recovery failed: replay the latest messages, so that the client can show
            // something.
            (Some(_), _) if wish.appends && wish.last.is_none() => {
                self.last(own.map_or(0, |own| self.kept.len() - own - 1))
            }
            (Some(_), _) => self.last(wish.last.unwrap_or(usize::MAX)),
            (None, _) => self.last(wish.last.unwrap_or(0)),
        };
        Replay { from: self.end() - count as u64, count, recovered, known }
    }

    /// Where the message at a position is; looks at each of them.
    fn find(&self, position: &Position) -> Option<usize> {
        let is_it = |kept: &Kept| {
            kept.entry.position.offset == position.offset && kept.entry.position == *position
        };
        self.kept.iter().rposition(is_it)
    }

    /// How many of the latest `count` messages there are within the bounds of one replay.
    fn last(&self, count: usize) -> usize {
        let count = count.min(MAX_REPLAY).min(self.kept.len());
        let latest = self.kept.len() - count;
        // Found by halving: the oldest message from which on the payloads fit. The latest one always
        // does.
        let fits = |kept: &Kept| self.total - kept.before <= MAX_REPLAY_BYTES as u64;
        let too_many = self.kept.partition_point(|kept| !fits(kept));
        let from = latest.max(too_many).min(self.kept.len().saturating_sub(1));
        if count == 0 { 0 } else { self.kept.len() - from }
    }

    /// Whether all messages after `since` up to `now` are kept and fit into one replay.
    fn reaches_back_to(&self, since: &Position, now: &Position) -> bool {
        if since.epoch != now.epoch || since.offset > now.offset {
            return false;
        }
        // Offsets have no holes within an epoch, so checking the oldest message of the replay is
        // enough.
        let Ok(missed) = usize::try_from(now.offset - since.offset) else { return false };
        let count = self.last(missed);
        let oldest = self.kept.get(self.kept.len() - count).map(|kept| &kept.entry.position);
        count == missed
            && (missed == 0
                || oldest.is_some_and(|oldest| {
                    oldest.epoch == now.epoch && oldest.offset == since.offset + 1
                }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: HistoryBounds = HistoryBounds { count: 10_000, age: u64::MAX / 2 };

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
        let since = Some(Position { offset, ..position.clone() });
        ReplayRequest { since, ..ReplayRequest::default() }
    }

    #[test]
    fn a_replay_is_bounded_in_messages_and_does_not_claim_recovery_if_it_omits_some() {
        let most = MAX_REPLAY as u64;
        let (history, now) = history(most + 10, 1);
        let replay = history.replay(&since(&now, 10), &now);
        assert_eq!((replay.count, replay.recovered), (MAX_REPLAY, Some(true)));
        assert_eq!(history.piece(replay.from, 1, 1)[0].position.offset, 11);
        let replay = history.replay(&since(&now, 9), &now);
        assert_eq!((replay.count, replay.recovered), (MAX_REPLAY, Some(false)));
    }

    #[test]
    fn a_replay_is_bounded_in_bytes_except_for_a_single_message() {
        // Three of them with what they share are just below the bound.
        let (many, now) = history(9, MAX_REPLAY_BYTES / 4);
        let replay = many.replay(&since(&now, 6), &now);
        assert_eq!((replay.count, replay.recovered), (3, Some(true)));
        let replay = many.replay(&since(&now, 0), &now);
        assert_eq!((replay.count, replay.recovered), (3, Some(false)));
        let (one, now) = history(1, 2 * MAX_REPLAY_BYTES);
        assert_eq!(one.replay(&since(&now, 0), &now).count, 1);
    }

    #[test]
    fn expired_messages_no_longer_count_in_the_size() {
        let (mut history, _) = history(5, 100);
        assert!(history.size() > 500);
        history.expire(u64::MAX, BOUNDS);
        assert_eq!((history.size(), history.is_empty()), (0, true));
    }
}
