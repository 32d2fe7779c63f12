//! Positions: where a message stands among all that the source has delivered.
//!
//! Inside the server, each message has a number: how many the source had delivered with it, all rooms
//! together. Clients get a position instead: the name of an epoch, and the count since it began. A
//! break in the source's stream takes a number of its own and begins a new epoch.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::clock::now;

/// Earlier epochs whose positions are known: enough for a source that comes and goes for a while.
const PAST: usize = 8;

/// A position among all messages of the source. A later message has a higher offset or another epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The random name of an epoch.
    pub epoch: Arc<str>,
    /// Messages since the epoch began, of all rooms together.
    pub offset: u64,
}

/// A part of the source's stream without a break.
#[derive(Debug, PartialEq)]
pub struct Epoch {
    /// A random name.
    pub name: Arc<str>,
    /// The number at offset 0: that of the break before.
    pub base: u64,
    /// When it began, in ms since the Unix epoch.
    pub began: u64,
}

/// A position as a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// The number.
    pub number: u64,
    /// When its epoch began, in ms since the Unix epoch.
    pub began: u64,
}

/// The count of the source's messages, and the epochs in which it was counted.
#[derive(Debug)]
pub struct Sequence {
    latest: AtomicU64,
    /// The oldest one first; there is always one.
    epochs: RwLock<VecDeque<Arc<Epoch>>>,
}

impl Position {
    /// A position of no epoch: for a client that names one that cannot be read.
    pub fn unknown() -> Self {
        Self { epoch: "".into(), offset: 0 }
    }
}

impl Epoch {
    /// Bytes of a name.
    pub const NAME_LENGTH: usize = 12;

    fn new(base: u64) -> Arc<Self> {
        let name = format!("{:012x}", rand::random::<u64>() >> 16).into();
        Arc::new(Self { name, base, began: now() })
    }

    /// The offset of a number: 0 if it is of an earlier epoch.
    pub fn offset(&self, number: u64) -> u64 {
        number.saturating_sub(self.base)
    }
}

impl Default for Sequence {
    fn default() -> Self {
        let epochs = RwLock::new([Epoch::new(0)].into());
        Self { latest: AtomicU64::new(0), epochs }
    }
}

impl Sequence {
    /// The number of the latest message or break; 0 before the first.
    pub fn latest(&self) -> u64 {
        self.latest.load(Acquire)
    }

    /// Counts a message and returns its number.
    pub fn count(&self) -> u64 {
        self.latest.fetch_add(1, AcqRel) + 1
    }

    /// Counts a break, with which a new epoch begins, and returns its number.
    pub fn begin_epoch(&self) -> u64 {
        self.begin_after(&mut self.epochs.write())
    }

    /// Continues the count of an earlier process behind `latest`, with a break. Returns its number.
    pub fn resume(&self, past: impl IntoIterator<Item = Arc<Epoch>>, latest: u64) -> u64 {
        let mut epochs = self.epochs.write();
        *epochs = past.into_iter().collect();
        self.latest.store(latest, Release);
        self.begin_after(&mut epochs)
    }

    fn begin_after(&self, epochs: &mut VecDeque<Arc<Epoch>>) -> u64 {
        let number = self.count();
        epochs.push_back(Epoch::new(number));
        while epochs.len() > PAST + 1 {
            epochs.pop_front();
        }
        number
    }

    /// The known epochs, the oldest one first.
    pub fn epochs(&self) -> Vec<Arc<Epoch>> {
        self.epochs.read().iter().cloned().collect()
    }

    /// The epoch of a number; the oldest known one if that is forgotten.
    pub fn epoch(&self, number: u64) -> Arc<Epoch> {
        let epochs = self.epochs.read();
        let mut earlier = epochs.iter().rev().filter(|epoch| epoch.base <= number);
        earlier.next().unwrap_or(&epochs[0]).clone()
    }

    /// The position of a number.
    pub fn position(&self, number: u64) -> Position {
        let epoch = self.epoch(number);
        Position { epoch: epoch.name.clone(), offset: epoch.offset(number) }
    }

    /// The number of a position; `None` if its epoch is not known, or had no such offset.
    pub fn number(&self, position: &Position) -> Option<Known> {
        let epochs = self.epochs.read();
        let place = epochs.iter().position(|epoch| epoch.name == position.epoch)?;
        let Epoch { base, began, .. } = *epochs[place];
        let number = base.checked_add(position.offset)?;
        let end = epochs.get(place + 1).map_or(u64::MAX, |next| next.base);
        (number < end && number <= self.latest()).then_some(Known { number, began })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_since_the_break_and_stay_known() {
        let sequence = Sequence::default();
        let numbers: Vec<_> = (0..3).map(|_| sequence.count()).collect();
        let first = sequence.position(3);
        assert_eq!((numbers, first.offset), (vec![1, 2, 3], 3));
        assert_eq!(sequence.begin_epoch(), 4);
        let second = sequence.position(sequence.count());
        assert_eq!(second.offset, 1);
        assert_ne!(second.epoch, first.epoch);
        let number = |position: &Position| sequence.number(position).map(|known| known.number);
        assert_eq!((number(&first), number(&second)), (Some(3), Some(5)));
        assert_eq!(sequence.position(3), first, "of the earlier epoch");
    }

    #[test]
    fn a_position_that_no_message_has_is_unknown() {
        let sequence = Sequence::default();
        sequence.count();
        let at = |offset| Position { offset, ..sequence.position(1) };
        let beyond_the_latest = at(2);
        assert_eq!(sequence.number(&beyond_the_latest), None);
        sequence.begin_epoch();
        sequence.count();
        let earlier = sequence.position(1);
        let beyond_the_break = Position { offset: 2, ..earlier };
        assert_eq!(sequence.number(&beyond_the_break), None);
        assert_eq!(sequence.number(&Position::unknown()), None);
        let overflowing = Position { offset: u64::MAX, ..sequence.position(3) };
        assert_eq!(sequence.number(&overflowing), None);
    }

    #[test]
    fn the_epochs_of_an_earlier_process_are_known_up_to_where_it_was_recorded() {
        let before = Sequence::default();
        let positions: Vec<_> = (0..3).map(|_| before.position(before.count())).collect();
        let after = Sequence::default();
        assert_eq!(after.resume(before.epochs(), 2), 3);
        let numbers: Vec<_> =
            positions.iter().map(|at| after.number(at).map(|known| known.number)).collect();
        assert_eq!(numbers, [Some(1), Some(2), None]);
    }

    #[test]
    fn a_few_epochs_are_known() {
        let sequence = Sequence::default();
        let first = sequence.position(0);
        for _ in 0..PAST {
            sequence.begin_epoch();
        }
        assert!(sequence.number(&first).is_some());
        sequence.begin_epoch();
        assert_eq!(sequence.number(&first), None);
    }
}
