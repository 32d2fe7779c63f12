//! Bytes that wait for viewers: counted for each of them and for all together, which is bounded.
//!
//! Bytes count from before they are handed to the engine until the kernel has taken them. A viewer
//! that keeps up owes nothing most of the time, so the sum is what the slow ones cost. When it
//! passes its bound, whoever most waits for goes first, before anything more is queued: the bound
//! holds to the byte, and who keeps up notices nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
};

use crate::{
    memory,
    metrics::{Close, Gauge},
};

/// What may wait for all together, if there is enough memory: 64 that are as far behind as one may
/// be, which takes thousands of ordinary ones that are slow at once.
const TOTAL: usize = 256 << 20;
/// The part of a container's memory that it may take, one in so many.
const SHARE: usize = 4;
/// What is left of the bound when somebody had to go, in eighths: the next look at everybody is
/// some way off.
const LEFT: usize = 7;

/// How much may wait for all together, unless something else is asked for.
pub fn most(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| memory::limit().map_or(TOTAL, |limit| TOTAL.min(limit / SHARE)))
}

/// All that waits.
pub struct Backlog {
    /// The sum of all shares; the gauge of the metrics itself, so that it is counted once.
    total: Gauge,
    max: usize,
    peers: Mutex<HashMap<u64, Weak<dyn Peer>>>,
    next_id: AtomicU64,
}

/// Somebody that bytes wait for.
pub trait Peer: Send + Sync {
    /// What waits for it.
    fn quota(&self) -> &Quota;

    /// Ends it, and gives up its share.
    fn end(&self, reason: Close);
}

/// What waits for one peer.
pub struct Quota {
    id: u64,
    bytes: AtomicUsize,
    backlog: Arc<Backlog>,
}

impl Backlog {
    /// Nothing waits yet; `total` shows how much does.
    pub fn new(max: usize, total: Gauge) -> Arc<Self> {
        let (peers, next_id) = Default::default();
        Arc::new(Self { total, max, peers, next_id })
    }

    /// A share for somebody new.
    pub fn quota(self: &Arc<Self>) -> Quota {
        let id = self.next_id.fetch_add(1, Relaxed);
        Quota { id, bytes: AtomicUsize::new(0), backlog: self.clone() }
    }

    /// From now on this peer may be the one that has to go.
    pub fn enter<P: Peer + 'static>(&self, peer: &Arc<P>) {
        let known: Weak<P> = Arc::downgrade(peer);
        self.lock().insert(peer.quota().id, known);
    }

    /// Ends those that most waits for, until there is room again.
    pub fn evict_largest(&self) {
        // Collected first: the last handle of a peer must not be dropped under the lock.
        let mut peers: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        peers.sort_by_cached_key(|peer| std::cmp::Reverse(peer.quota().waiting()));
        let enough = self.max / 8 * LEFT;
        for peer in peers {
            if self.total() <= enough {
                return;
            }
            peer.end(Close::Backlog);
        }
    }

    fn total(&self) -> usize {
        usize::try_from(self.total.get()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<dyn Peer>>> {
        self.peers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Quota {
    /// How many bytes wait.
    pub fn waiting(&self) -> usize {
        self.bytes.load(Acquire)
    }

    /// To be told before bytes are queued. `true`: it is too much for all together, and
    /// [`Backlog::evict_largest`] has to come first.
    #[must_use]
    pub fn add(&self, bytes: usize) -> bool {
        self.bytes.fetch_add(bytes, AcqRel);
        let before = self.backlog.total.inc_by(bytes as i64);
        before + bytes as i64 > self.backlog.max as i64
    }

    /// So many bytes have been taken. More than were counted may be: heads and heartbeats are not.
    pub fn take(&self, bytes: usize) {
        if self.waiting() == 0 {
            return;
        }
        let rest = |waiting: usize| Some(waiting.saturating_sub(bytes));
        let before = self.bytes.fetch_update(AcqRel, Acquire, rest).unwrap_or_default();
        self.backlog.total.dec_by(before.min(bytes) as i64);
    }

    /// Nothing waits any more; returns what did.
    pub fn clear(&self) -> usize {
        let bytes = self.bytes.swap(0, AcqRel);
        self.backlog.total.dec_by(bytes as i64);
        bytes
    }

    /// Makes room, if [`Self::add`] said so.
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
        fn quota(&self) -> &Quota {
            &self.quota
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
            let viewer = Arc::new(Viewer { quota: backlog.quota(), ended: OnceLock::new() });
            backlog.enter(&viewer);
            viewer
        });
        (total.clone(), backlog.clone(), viewers.collect())
    }

    #[test]
    fn the_bound_holds_to_the_byte_and_the_furthest_behind_goes_first() {
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
    fn who_adds_too_much_may_be_the_one_that_goes() {
        let (total, backlog, viewers) = backlog(1000, 2);
        assert!(!viewers[0].quota.add(10));
        assert!(viewers[1].quota.add(1001));
        backlog.evict_largest();
        assert_eq!((total.get(), viewers[1].ended.get()), (10, Some(&Close::Backlog)));
    }

    #[test]
    fn what_is_taken_or_gone_counts_no_more() {
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
