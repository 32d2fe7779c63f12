//! The inbound budget: bytes that clients have sent of things that are not complete, such as request
//! heads, bodies, WebSocket messages and TLS records.
//!
//! Bytes count when they have arrived; what a client only announces costs nothing. The total is
//! bounded. When it exceeds the bound, connections are ended: first those of clients that have not
//! been authenticated, and among them the largest one of the address that holds the most bytes.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use crate::{memory, metrics::Gauge};

/// Default bound of the total, if there is enough memory: 64 of the largest POST bodies.
const TOTAL: usize = 64 << 20;
/// Divisor: the total may take at most one in this many bytes of the container's memory.
const SHARE: usize = 8;
/// Bytes of each connection that do not count: HTTP's first read buffer, which is renewed while it
/// still holds an ordinary request head. The memory that each connection is reckoned with (see
/// [`super::capacity`]) covers them.
const FREE: usize = 16 << 10;
/// Eviction continues until the total is at most this many eighths of the bound, so that the next
/// one, which looks at all connections, is some way off.
const LEFT: usize = 7;

/// The unfinished bytes of all connections, and their bound.
pub struct InboundBudget {
    total: AtomicUsize,
    max: usize,
    /// Shows the total.
    gauge: Gauge,
}

impl InboundBudget {
    /// A budget of `max` bytes; `gauge` shows how many are used.
    pub fn new(max: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { total: AtomicUsize::new(0), max, gauge })
    }

    /// The bound for this machine: 64 MiB, or an eighth of the container's memory if that is less.
    pub fn bound() -> usize {
        memory::limit().map_or(TOTAL, |limit| TOTAL.min(limit / SHARE))
    }

    /// The counted bytes of all connections.
    pub fn total(&self) -> usize {
        self.total.load(Acquire)
    }

    /// Whether eviction may stop.
    fn has_room(&self) -> bool {
        self.total() <= self.max / 8 * LEFT
    }
}

/// The unfinished bytes of one connection.
pub struct Unfinished {
    budget: Arc<InboundBudget>,
    bytes: AtomicUsize,
    is_authenticated: AtomicBool,
}

impl Unfinished {
    /// Nothing yet.
    pub fn new(budget: Arc<InboundBudget>) -> Self {
        let (bytes, is_authenticated) = Default::default();
        Self { budget, bytes, is_authenticated }
    }

    /// The unfinished bytes now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Acquire)
    }

    /// Replaces the number of unfinished bytes. If it returns `true`, the total exceeds its bound,
    /// and the caller must call [`evict`].
    #[must_use]
    pub fn set(&self, bytes: usize) -> bool {
        let before = counted(self.bytes.swap(bytes, AcqRel));
        let now = counted(bytes);
        if now > before {
            self.budget.gauge.inc_by((now - before) as i64);
            let total = self.budget.total.fetch_add(now - before, AcqRel);
            return total + now - before > self.budget.max;
        }
        if now < before {
            self.budget.gauge.dec_by((before - now) as i64);
            self.budget.total.fetch_sub(before - now, AcqRel);
        }
        false
    }

    /// Whether the client has shown what allows it to send: a token, or a place in the namespace.
    pub fn set_authenticated(&self, is_authenticated: bool) {
        self.is_authenticated.store(is_authenticated, Release);
    }

    pub(super) fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Acquire)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // The total gets smaller, so there is nothing to evict.
        let _ = self.set(0);
    }
}

fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(FREE)
}

/// A connection with unfinished bytes.
pub trait Holder {
    /// The client's address; all clients of an IPv6 network of 64 bits count as one.
    fn address(&self) -> IpAddr;
    /// Its unfinished bytes.
    fn unfinished(&self) -> &Unfinished;
    /// Ends the connection and sets its unfinished bytes to 0.
    fn evict(&self);
}

/// Ends connections until the total is at most 7/8 of its bound.
pub fn evict<T: Holder>(budget: &InboundBudget, holders: impl Iterator<Item = T>) {
    let mut classes: [HashMap<IpAddr, Vec<T>>; 2] = Default::default();
    for holder in holders.filter(|holder| counted(holder.unfinished().bytes()) > 0) {
        let class = usize::from(holder.unfinished().is_authenticated());
        classes[class].entry(holder.address()).or_default().push(holder);
    }
    for class in classes {
        // The address with the most bytes is on top.
        let mut addresses: BinaryHeap<_> = class
            .into_values()
            .map(|mut holders| {
                holders.sort_by_cached_key(|holder| Reverse(holder.unfinished().bytes()));
                Address::new(holders.into_iter())
            })
            .collect();
        while let Some(mut address) = addresses.pop() {
            if budget.has_room() {
                return;
            }
            if let Some(largest) = address.holders.next() {
                address.bytes = address.bytes.saturating_sub(largest.unfinished().bytes());
                largest.evict();
                addresses.push(address);
            }
        }
    }
}

/// The connections of one address, the largest first.
struct Address<T> {
    bytes: usize,
    holders: std::vec::IntoIter<T>,
}

impl<T: Holder> Address<T> {
    fn new(holders: std::vec::IntoIter<T>) -> Self {
        let bytes = holders.as_slice().iter().map(|holder| holder.unfinished().bytes()).sum();
        Self { bytes, holders }
    }
}

impl<T> Ord for Address<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bytes.cmp(&other.bytes)
    }
}

impl<T> PartialOrd for Address<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Address<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Eq for Address<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client {
        name: &'static str,
        address: IpAddr,
        unfinished: Unfinished,
        is_ended: AtomicBool,
    }

    impl Holder for &Client {
        fn address(&self) -> IpAddr {
            self.address
        }

        fn unfinished(&self) -> &Unfinished {
            &self.unfinished
        }

        fn evict(&self) {
            self.is_ended.store(true, Release);
            assert!(!self.unfinished.set(0));
        }
    }

    /// Peers that hold this many bytes above the free ones.
    fn peers(
        budget: &Arc<InboundBudget>,
        table: &[(&'static str, u8, usize, bool)],
    ) -> (Vec<Client>, bool) {
        let mut is_exceeded = false;
        let peer = |&(name, address, bytes, is_authenticated): &(_, _, _, _)| {
            let unfinished = Unfinished::new(budget.clone());
            unfinished.set_authenticated(is_authenticated);
            is_exceeded |= unfinished.set(FREE + bytes);
            let address = [10, 0, 0, address].into();
            Client { name, address, unfinished, is_ended: AtomicBool::new(false) }
        };
        (table.iter().map(peer).collect(), is_exceeded)
    }

    fn ended(peers: &[Client]) -> Vec<&'static str> {
        let ended = peers.iter().filter(|peer| peer.is_ended.load(Acquire));
        ended.map(|peer| peer.name).collect()
    }

    #[test]
    fn the_address_that_holds_most_loses_its_largest_piece() {
        let budget = InboundBudget::new(10_000, Gauge::default());
        let (peers, is_exceeded) = peers(
            &budget,
            &[
                ("the largest of all", 1, 3000, false),
                ("one of many", 2, 1900, false),
                ("another of many", 2, 2000, false),
                ("a third of many", 2, 1800, false),
                ("authenticated", 3, 1400, true),
            ],
        );
        assert!(is_exceeded);
        evict(&budget, peers.iter());
        assert_eq!(ended(&peers), ["another of many"]);
        assert_eq!(budget.total(), 8100);
    }

    #[test]
    fn authenticated_clients_lose_only_what_is_left_to_lose() {
        let budget = InboundBudget::new(8000, Gauge::default());
        let (peers, _) = peers(
            &budget,
            &[
                ("a", 1, 5000, true),
                ("b", 2, 1500, false),
                ("c", 3, 4000, true),
                ("d", 4, 0, false),
            ],
        );
        evict(&budget, peers.iter());
        assert_eq!(ended(&peers), ["a", "b"]);
        assert_eq!(budget.total(), 4000);
    }

    #[test]
    fn ordinary_heads_do_not_count_and_the_dropped_do_not_either() {
        let budget = InboundBudget::new(100, Gauge::default());
        let unfinished = Unfinished::new(budget.clone());
        assert!(!unfinished.set(FREE));
        assert_eq!(budget.total(), 0);
        assert!(unfinished.set(FREE + 101));
        assert!(!unfinished.set(FREE + 50));
        assert_eq!(budget.total(), 50);
        drop(unfinished);
        assert_eq!(budget.total(), 0);
    }
}
