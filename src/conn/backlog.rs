//! The backlog: outbound bytes that are pending, counted per viewer and in total. The total is
//! bounded.
//!
//! A byte counts from the moment it has to wait until the kernel has taken it. A viewer
//! that keeps up has no pending bytes most of the time, so the total is what slow viewers cost.
//! When the total exceeds its bound, the viewers with the largest backlog are disconnected before
//! anything more is queued. So the bound holds to the byte, and viewers that keep up are not
//! affected.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    memory,
    metrics::{Close, Gauge},
};

/// Default bound of the total in bytes, if there is enough memory: 64 viewers that are as far
/// behind as one may be. With ordinary viewers, thousands have to be slow at once to reach it.
const TOTAL: usize = 256 << 20;
/// Divisor: by default, the total may take at most one in this many bytes of the container's
/// memory.
const SHARE: usize = 4;
/// Eviction continues until the total is at most this many eighths of the bound. The margin keeps
/// the next eviction, which sorts all viewers, some way off.
const LEFT: usize = 7;

/// The bound of the total in bytes: `asked`, or a default that depends on the container's memory.
pub fn most(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| memory::limit().map_or(TOTAL, |limit| TOTAL.min(limit / SHARE)))
}

/// The pending bytes of all peers, and their bound.
///
/// A peer takes a [`Quota`] when something has to wait for it for the first time. Dropping the quota
/// removes the peer.
pub struct Backlog {
    /// The sum of all quotas' bytes.
    total: AtomicUsize,
    /// Shows the total.
    gauge: Gauge,
    max: usize,
    peers: Mutex<HashMap<u64, Weak<dyn Peer>>>,
    next_id: AtomicU64,
}

/// A receiver with pending bytes: a connection or a session.
pub trait Peer: Send + Sync {
    /// The number of its pending bytes.
    fn waiting(&self) -> usize;

    /// Disconnects it and clears its quota.
    fn end(&self, reason: Close);
}

/// The pending bytes of one peer. They are part of the total until they are taken or cleared, or
/// the quota is dropped.
pub struct Quota {
    id: u64,
    bytes: AtomicUsize,
    backlog: Arc<Backlog>,
}

impl Backlog {
    /// Bounds the total to `max` bytes; `gauge` shows the current number.
    pub fn new(max: usize, gauge: Gauge) -> Arc<Self> {
        let (total, peers, next_id) = Default::default();
        Arc::new(Self { total, gauge, max, peers, next_id })
    }

    /// Registers a peer for eviction. Returns its quota, which is empty.
    pub fn quota(self: &Arc<Self>, peer: Weak<dyn Peer>) -> Quota {
        let id = self.next_id.fetch_add(1, Relaxed);
        self.lock().insert(id, peer);
        Quota { id, bytes: AtomicUsize::new(0), backlog: self.clone() }
    }

    /// Disconnects the peers with the largest backlog, until the total is at most 7/8 of its bound.
    pub fn evict_largest(&self) {
        // Collected first: dropping the last handle of a peer under the lock would deadlock, as its
        // quota takes the lock to remove itself.
        let mut peers: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        peers.sort_by_cached_key(|peer| std::cmp::Reverse(peer.waiting()));
        let enough = self.max / 8 * LEFT;
        for peer in peers {
            if self.total() <= enough {
                return;
            }
            peer.end(Close::Backlog);
        }
    }

    fn total(&self) -> usize {
        self.total.load(Acquire)
    }

    /// Adds to the total; returns the new one.
    fn add(&self, bytes: usize) -> usize {
        self.gauge.inc_by(bytes as i64);
        self.total.fetch_add(bytes, AcqRel) + bytes
    }

    fn subtract(&self, bytes: usize) {
        self.gauge.dec_by(bytes as i64);
        self.total.fetch_sub(bytes, AcqRel);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<dyn Peer>>> {
        self.peers.lock()
    }
}

impl Quota {
    /// The number of pending bytes.
    pub fn waiting(&self) -> usize {
        self.bytes.load(Acquire)
    }

    /// Adds bytes that are about to be queued. If it returns `true`, the total exceeds its bound,
    /// and the caller must call [`Self::evict_largest`] before it queues them.
    #[must_use]
    pub fn add(&self, bytes: usize) -> bool {
        self.bytes.fetch_add(bytes, AcqRel);
        self.backlog.add(bytes) > self.backlog.max
    }

    /// Subtracts bytes that the kernel has taken. They may be more than were added, because HTTP
    /// heads and heartbeats are not counted.
    pub fn take(&self, bytes: usize) {
        if self.waiting() == 0 {
            return;
        }
        let rest = |waiting: usize| Some(waiting.saturating_sub(bytes));
        let before = self.bytes.fetch_update(AcqRel, Acquire, rest).unwrap_or_default();
        self.backlog.subtract(before.min(bytes));
    }

    /// Resets the number of pending bytes to 0; returns the previous number.
    pub fn clear(&self) -> usize {
        let bytes = self.bytes.swap(0, AcqRel);
        self.backlog.subtract(bytes);
        bytes
    }

    /// Disconnects the peers with the largest backlog, if [`Self::add`] returned `true`.
    pub fn evict_largest(&self) {
        self.backlog.evict_largest();
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.clear();
        self.backlog.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    struct Viewer {
        quota: Quota,
        ended: OnceLock<Close>,
    }

    impl Peer for Viewer {
        fn waiting(&self) -> usize {
            self.quota.waiting()
        }

        fn end(&self, reason: Close) {
            let _ = self.ended.set(reason);
            self.quota.clear();
        }
    }

    fn backlog(max: usize, viewers: usize) -> (Gauge, Arc<Backlog>, Vec<Arc<Viewer>>) {
        let total = Gauge::default();
        let backlog = Backlog::new(max, total.clone());
        let viewers = (0..viewers).map(|_| {
            Arc::new_cyclic(|me: &Weak<Viewer>| {
                let quota = backlog.quota(me.clone());
                Viewer { quota, ended: OnceLock::new() }
            })
        });
        (total.clone(), backlog.clone(), viewers.collect())
    }

    #[test]
    fn the_bound_holds_to_the_byte_and_the_largest_backlog_is_evicted_first() {
        let (total, backlog, viewers) = backlog(1000, 3);
        assert!(!viewers[0].quota.add(300));
        assert!(!viewers[1].quota.add(500));
        assert!(!viewers[2].quota.add(200));
        assert_eq!(total.get(), 1000);
        assert!(viewers[0].quota.add(1));
        backlog.evict_largest();
        assert_eq!(total.get(), 501);
        let ended: Vec<_> = viewers.iter().map(|viewer| viewer.ended.get().copied()).collect();
        assert_eq!(ended, [None, Some(Close::Backlog), None]);
    }

    #[test]
    fn the_peer_that_exceeds_the_bound_may_be_evicted_itself() {
        let (total, backlog, viewers) = backlog(1000, 2);
        assert!(!viewers[0].quota.add(10));
        assert!(viewers[1].quota.add(1001));
        backlog.evict_largest();
        assert_eq!((total.get(), viewers[1].ended.get()), (10, Some(&Close::Backlog)));
    }

    #[test]
    fn taken_bytes_and_dropped_quotas_leave_the_total() {
        let (total, backlog, mut viewers) = backlog(1000, 2);
        assert!(!viewers[0].quota.add(100) && !viewers[1].quota.add(100));
        viewers[0].quota.take(60);
        assert_eq!((viewers[0].quota.waiting(), total.get()), (40, 140));
        viewers[0].quota.take(60);
        assert_eq!((viewers[0].quota.waiting(), total.get()), (0, 100));
        viewers.clear();
        assert_eq!(total.get(), 0);
        assert!(backlog.lock().is_empty());
    }
}
