//! The recent messages of a room, bounded in count and age, and their replay.

use std::{collections::VecDeque, mem::size_of, sync::Arc};

use bytes::Bytes;

use crate::{
    memory::allocated,
    position::{Epoch, Position},
};

/// A message in a room's history.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryEntry {
    /// Its number among all messages of the source.
    pub number: u64,
    /// The number of the room's message before, or the room's floor at that time.
    pub prev: u64,
    /// The epoch of the number.
    pub epoch: Arc<Epoch>,
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

/// Bounds of one room's history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryBounds {
    /// The most messages; 0 disables the history.
    pub count: usize,
    /// The highest age in ms.
    pub age: u64,
    /// The highest age of the latest message, in ms.
    pub last_age: u64,
}

/// The part of a room's history that a client requests when it joins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplayRequest {
    /// The number of latest messages to replay. With `since`, it applies only if that position is
    /// unknown.
    pub last: Option<usize>,
    /// The last position that the client knows: all messages after it are requested.
    pub since: Option<Position>,
    /// If the position is unknown and `last` is not given, replay nothing: the client keeps what it
    /// has.
    pub appends: bool,
}

/// The messages that a [`ReplayRequest`] selects: the latest ones.
#[derive(Debug, PartialEq)]
pub struct Selection {
    /// How many they are.
    pub count: usize,
    /// Whether they are all messages after the requested position; `None` if none was requested.
    pub recovered: Option<bool>,
}

/// The recent messages of one room, oldest first. Each has an index: how many had been appended to
/// this history before it.
#[derive(Debug)]
pub struct History {
    kept: VecDeque<HistoryEntry>,
    /// The index of the oldest message.
    first: u64,
    /// Bytes of the payloads.
    payloads: usize,
    /// The number of the latest message; 0 before the first.
    latest_number: u64,
    /// The number up to which messages may be missing in what is kept.
    floor: u64,
}

impl History {
    /// A history without messages, of a room with this floor.
    pub fn new(floor: u64) -> Self {
        let kept = VecDeque::new();
        Self { kept, first: 0, payloads: 0, latest_number: 0, floor }
    }

    /// Appends a message and removes those that exceed the bounds at its time of arrival.
    /// Those up to number `forgotten` have only been kept as the latest message.
    pub fn push(&mut self, entry: HistoryEntry, bounds: HistoryBounds, forgotten: u64) {
        self.latest_number = entry.number;
        if bounds.count == 0 {
            return self.raise_floor(entry.number);
        }
        let (now, bytes) = (entry.at, entry.payload_bytes());
        // Room for one more alone: most rooms of a large number have few messages.
        if self.kept.is_empty() {
            self.kept.reserve_exact(1);
        }
        self.kept.push_back(entry);
        self.payloads += bytes;
        let is_forgotten = |kept: &HistoryEntry| kept.number <= forgotten;
        while self.kept.len() > bounds.count
            || self.kept.len() > 1 && self.kept.front().is_some_and(is_forgotten)
        {
            self.pop();
        }
        self.expire(now, bounds);
    }

    /// Removes the messages that are too old at `now`, in ms since the Unix epoch.
    pub fn expire(&mut self, now: u64, bounds: HistoryBounds) {
        let is_old = |at: u64, age: u64| at.saturating_add(age) < now;
        while self.kept.len() > 1
            && self.kept.front().is_some_and(|kept| is_old(kept.at, bounds.age))
        {
            self.pop();
        }
        if self.latest().is_some_and(|latest| is_old(latest.at, bounds.last_age)) {
            self.clear();
        }
        self.shrink();
    }

    /// Removes at most `count` messages up to a number, but not the latest one. Returns them, so that
    /// they are dropped outside of locks.
    pub fn forget(&mut self, number: u64, count: usize) -> impl ExactSizeIterator + use<> {
        let most = self.after(number).min(self.kept.len().saturating_sub(1)).min(count);
        let forgotten: Vec<_> = (0..most).map_while(|_| self.pop()).collect();
        self.shrink();
        forgotten.into_iter()
    }

    fn shrink(&mut self) {
        if self.kept.len() < self.kept.capacity() / 4 {
            self.kept.shrink_to(2 * self.kept.len());
        }
    }

    /// Removes the oldest message.
    fn pop(&mut self) -> Option<HistoryEntry> {
        let entry = self.kept.pop_front()?;
        self.first += 1;
        self.payloads -= entry.payload_bytes();
        self.raise_floor(entry.number);
        Some(entry)
    }

    /// Removes all messages, and returns them so that they are dropped outside of locks.
    pub fn clear(&mut self) -> impl Sized + use<> {
        self.first = self.end();
        self.payloads = 0;
        self.raise_floor(self.latest_number);
        std::mem::take(&mut self.kept)
    }

    /// The latest message.
    pub fn latest(&self) -> Option<&HistoryEntry> {
        self.kept.back()
    }

    /// The number up to which messages may be missing in what is kept.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Messages up to this number may be missing.
    pub fn raise_floor(&mut self, number: u64) {
        self.floor = self.floor.max(number);
    }

    /// The number of the latest message, or the floor: no message of the room between it and the next
    /// one is missing.
    pub fn end_number(&self) -> u64 {
        self.latest_number.max(self.floor)
    }

    /// When the latest message up to a number arrived, in ms since the Unix epoch, if it is kept.
    pub fn time_of(&self, number: u64) -> Option<u64> {
        let after = self.after(number);
        Some(self.kept.get(after.checked_sub(1)?)?.at)
    }

    /// How many of the messages are not after this number.
    fn after(&self, number: u64) -> usize {
        self.kept.partition_point(|kept| kept.number <= number)
    }

    /// The oldest message.
    pub fn oldest(&self) -> Option<&HistoryEntry> {
        self.kept.front()
    }

    /// The index of the oldest message.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The index of the next message.
    pub fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    /// Copies of the messages from index `from` on, oldest first: at most `count`, and no further
    /// one once their payloads have `bytes` bytes. The payloads are shared.
    pub fn piece(&self, from: u64, count: usize, bytes: usize) -> Vec<HistoryEntry> {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let mut left = bytes;
        let is_within = |kept: &&HistoryEntry| {
            let is_within = left > 0;
            left = left.saturating_sub(kept.payload_bytes());
            is_within
        };
        let rest = self.kept.range(skipped.min(self.kept.len())..);
        rest.take(count).take_while(is_within).cloned().collect()
    }

    /// Bytes that the history takes.
    pub fn size(&self) -> usize {
        allocated(self.kept.capacity() * size_of::<HistoryEntry>()) + self.payloads
    }

    /// Whether the history has no entries.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Selects the messages for a request. `since` is the number of the requested position, if one is
    /// requested and known.
    pub fn select(&self, request: &ReplayRequest, since: Option<u64>) -> Selection {
        let (wanted, recovered) = match (&request.since, since) {
            (None, _) => (request.last.unwrap_or(0), None),
            (Some(_), None) => {
                let otherwise = if request.appends { 0 } else { usize::MAX };
                (request.last.unwrap_or(otherwise), Some(false))
            }
            (Some(_), Some(since)) => {
                (self.kept.len() - self.after(since), Some(since >= self.floor))
            }
        };
        Selection { count: wanted.min(self.kept.len()), recovered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Sequence;

    const BOUNDS: HistoryBounds =
        HistoryBounds { count: 10_000, age: u64::MAX, last_age: u64::MAX };

    /// A history of `count` messages, numbered from 1, with payloads of `size` bytes.
    fn history(count: u64, size: usize) -> History {
        let (mut history, epoch) = (History::new(0), Sequence::default().epoch(0));
        let payload = Bytes::from(vec![b'x'; size]);
        for number in 1..=count {
            let (epoch, payload) = (epoch.clone(), payload.clone());
            let entry = HistoryEntry { number, prev: number - 1, epoch, at: number, payload };
            history.push(entry, BOUNDS, 0);
        }
        history
    }

    /// How many messages are replayed to a client that has those up to `number`, and whether these
    /// are all.
    fn since(history: &History, number: u64) -> (usize, Option<bool>) {
        let request =
            ReplayRequest { since: Some(Position::unknown()), ..ReplayRequest::default() };
        let Selection { count, recovered } = history.select(&request, Some(number));
        (count, recovered)
    }

    #[test]
    fn all_that_is_kept_after_a_position_below_the_floor_is_replayed() {
        let mut history = history(5, 1);
        history.raise_floor(3);
        assert_eq!(since(&history, 1), (4, Some(false)));
        assert_eq!(since(&history, 3), (2, Some(true)));
        assert_eq!(history.time_of(3), Some(3));
        history.expire(4, HistoryBounds { age: 0, ..BOUNDS });
        assert_eq!((history.floor(), history.end_number()), (3, 5));
        assert_eq!(history.time_of(3), None);
    }

    #[test]
    fn expired_messages_raise_the_floor_and_no_longer_count_in_the_size() {
        let mut history = history(5, 100);
        assert!(history.size() > 500);
        history.expire(u64::MAX, HistoryBounds { age: 0, ..BOUNDS });
        assert_eq!((since(&history, 3), since(&history, 4)), ((1, Some(false)), (1, Some(true))));
        history.expire(u64::MAX, HistoryBounds { age: 0, last_age: 0, ..BOUNDS });
        assert_eq!((history.size(), history.is_empty()), (0, true));
        assert_eq!((since(&history, 4), since(&history, 5)), ((0, Some(false)), (0, Some(true))));
    }

    #[test]
    fn the_latest_message_is_forgotten_when_another_one_has_come() {
        let mut history = history(5, 1);
        assert_eq!(history.forget(3, 2).len(), 2);
        assert_eq!(history.forget(9, 9).len(), 2, "not the latest one");
        let latest = history.latest().expect("a message").clone();
        assert_eq!((latest.number, history.floor()), (5, 4));
        history.push(HistoryEntry { number: 6, prev: 5, ..latest }, BOUNDS, 5);
        assert_eq!((since(&history, 5), since(&history, 4)), ((1, Some(true)), (1, Some(false))));
    }
}
