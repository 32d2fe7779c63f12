//! The lanes: channels are divided among them by a hash. Each lane has a queue and rooms of its own,
//! which keeps the order of a channel's messages.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZero,
};

/// Assigns channels to lanes by a hash with a random key.
#[derive(Clone)]
pub struct Lanes {
    count: NonZero<usize>,
    hasher: RandomState,
}

impl Lanes {
    /// This many lanes, with a new key.
    pub fn new(count: NonZero<usize>) -> Self {
        Self { count, hasher: RandomState::new() }
    }

    /// The number of lanes.
    pub fn count(&self) -> NonZero<usize> {
        self.count
    }

    /// The hash of a channel or of the room with its name.
    pub fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// The lane of a hash.
    pub fn of(&self, hash: u64) -> usize {
        // The divisor is a usize, so the remainder fits into one.
        (hash % self.count.get() as u64) as usize
    }
}
