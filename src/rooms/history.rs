//! The recent messages of a room: bounded in count and age; what is kept can be replayed.

use std::{collections::VecDeque, mem::size_of, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How far a room has come: what was published later has a higher offset or another epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// An opaque random name for an unbroken run of offsets.
    pub epoch: Arc<str>,
    /// The offset of the latest message; 0 before the first.
    pub offset: u64,
}

impl Position {
    /// The start of a run that nothing came before.
    pub fn fresh() -> Self {
        Self { epoch: format!("{:012x}", rand::random::<u64>() >> 16).into(), offset: 0 }
    }
}

/// A message that is kept.
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
    /// What it costs to keep: the payload and what holds it.
    pub fn size(&self) -> usize {
        self.payload.len() + size_of::<Self>()
    }
}

/// Messages of one replay: half of what fits into a client's queue, so that the present does too.
const MAX_REPLAY: usize = 2048;
/// Bytes of one replay; a single message may be larger.
const MAX_REPLAY_BYTES: usize = 4 << 20;

/// How much of a room's past is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages; 0 keeps none.
    pub count: usize,
    /// Age in ms.
    pub age: u64,
}

/// What somebody who joins wants to see first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayRequest {
    /// At most so many of the latest messages.
    pub last: Option<usize>,
    /// What came after this position.
    pub since: Option<Position>,
}

/// What can be given to a [`ReplayRequest`].
#[derive(Debug, PartialEq)]
pub struct Replay {
    /// The messages, oldest first.
    pub messages: Vec<HistoryEntry>,
    /// Whether they are all that came after the position that was asked for; `None` if none was.
    pub recovered: Option<bool>,
}

/// The recent messages of one room, oldest first.
#[derive(Debug, Default)]
pub struct History {
    kept: VecDeque<HistoryEntry>,
    size: usize,
}

impl History {
    /// Keeps a message, and forgets what is too much or too old by now.
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

    /// Forgets what is too old.
    pub fn expire(&mut self, now: u64, bounds: Bounds) {
        while self.kept.front().is_some_and(|kept| kept.at + bounds.age < now) {
            self.pop();
        }
    }

    /// Forgets the oldest message.
    pub fn pop(&mut self) -> Option<HistoryEntry> {
        let kept = self.kept.pop_front()?;
        self.size -= kept.size();
        Some(kept)
    }

    /// The latest message.
    pub fn latest(&self) -> Option<&HistoryEntry> {
        self.kept.back()
    }

    /// All that is kept, oldest first.
    pub fn all(&self) -> Vec<HistoryEntry> {
        self.kept.iter().cloned().collect()
    }

    /// What it costs to keep it all.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The messages that a wish can be given, as long as the room is at `now`.
    pub fn replay(&self, wish: &ReplayRequest, now: &Position) -> Replay {
        let recovered = wish.since.as_ref().map(|since| self.reaches_back_to(since, now));
        let messages: Vec<HistoryEntry> = match (&wish.since, recovered) {
            (Some(since), Some(true)) => self.last((now.offset - since.offset) as usize),
            // What was asked for is gone: the latest there is, so that nobody looks at nothing.
            (Some(_), _) => self.last(wish.last.unwrap_or(usize::MAX)),
            (None, _) => self.last(wish.last.unwrap_or(0)),
        };
        Replay { messages, recovered }
    }

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

    /// Whether everything between the two positions is kept.
    fn reaches_back_to(&self, since: &Position, now: &Position) -> bool {
        if since.epoch != now.epoch
            || since.offset > now.offset
            || now.offset - since.offset > MAX_REPLAY as u64
        {
            return false;
        }
        // Offsets have no holes within an epoch, so the oldest of a replay tells for all.
        let missed = (now.offset - since.offset) as usize;
        let Some(oldest) = self.last(missed).into_iter().next() else { return missed == 0 };
        oldest.position.epoch == now.epoch && oldest.position.offset == since.offset + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { count: 10_000, age: u64::MAX / 2 };

    /// A history of so many messages of a size, and where it has come to.
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
    fn a_replay_is_bounded_in_messages_and_never_claims_what_it_left_out() {
        let most = MAX_REPLAY as u64;
        let (history, now) = history(most + 10, 1);
        let replay = history.replay(&since(&now, 10), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (MAX_REPLAY, Some(true)));
        assert_eq!(replay.messages[0].position.offset, 11);
        let replay = history.replay(&since(&now, 9), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (MAX_REPLAY, Some(false)));
    }

    #[test]
    fn a_replay_is_bounded_in_bytes_but_for_a_single_message() {
        let (many, now) = history(9, MAX_REPLAY_BYTES / 4);
        let replay = many.replay(&since(&now, 6), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (3, Some(true)));
        let replay = many.replay(&since(&now, 0), &now);
        assert_eq!((replay.messages.len(), replay.recovered), (3, Some(false)));
        let (one, now) = history(1, 2 * MAX_REPLAY_BYTES);
        assert_eq!(one.replay(&since(&now, 0), &now).messages.len(), 1);
    }

    #[test]
    fn what_is_forgotten_costs_nothing() {
        let (mut history, _) = history(5, 100);
        assert!(history.size() > 500);
        history.expire(u64::MAX, BOUNDS);
        assert_eq!((history.size(), history.is_empty()), (0, true));
    }
}
