//! The bound of memberships: joined rooms take memory, also without a message.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire},
};

use crate::memory;

/// Rooms of each client that do not count: the memory that each connection is reckoned with covers
/// them. So clients that join many rooms do not keep others from joining a few.
pub const FREE: usize = 8;
/// Bytes to reckon with for a membership in a room without a history and with the longest name.
const EACH: usize = 1 << 10;
/// Default bytes of all memberships that count, if there is enough memory.
const BYTES: usize = 64 << 20;
/// Divisor: memberships may take at most one in this many bytes of the container's memory.
const SHARE: usize = 8;

/// How many memberships there may be beyond the free ones, and how many there are.
pub struct Memberships {
    count: AtomicUsize,
    max: usize,
}

/// A membership that counts, until it is dropped.
pub struct Reservation(Arc<Memberships>);

impl Memberships {
    /// The bound for this machine: 65,536, or fewer in a container with less than 512 MiB.
    pub fn new() -> Arc<Self> {
        let bytes = memory::limit().map_or(BYTES, |limit| BYTES.min(limit / SHARE));
        Self::with_max(bytes / EACH)
    }

    fn with_max(max: usize) -> Arc<Self> {
        Arc::new(Self { count: AtomicUsize::new(0), max })
    }

    /// Reserves a membership; `None` if there are as many as there may be.
    pub fn reserve(self: &Arc<Self>) -> Option<Reservation> {
        let has_room = |count| (count < self.max).then_some(count + 1);
        let is_reserved = self.count.fetch_update(AcqRel, Acquire, has_room).is_ok();
        is_reserved.then(|| Reservation(self.clone()))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_bounded_and_come_back() {
        let memberships = Memberships::with_max(2);
        let reserved = [memberships.reserve(), memberships.reserve()];
        assert!(reserved.iter().all(Option::is_some) && memberships.reserve().is_none());
        drop(reserved);
        assert!(memberships.reserve().is_some());
    }
}
