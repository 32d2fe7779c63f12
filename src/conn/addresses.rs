//! What each client address holds: its connections or sessions, and its rate.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire},
    },
};

use ipnet::IpNet;
use parking_lot::Mutex;

use super::rate::{Allowance, Rate};

/// Mask of the /64 prefix that a provider assigns to one customer. The customer chooses the other
/// bits freely, so a /64 network counts as one address.
const IPV6_NETWORK: u128 = !0 << 64;
/// Entries that the table may have before it is searched for those of clients that have gone.
const SEARCH_ABOVE: usize = 1024;

/// The number of connections or sessions that each address holds, and their bound.
pub struct Addresses {
    /// Maximum for one address.
    max: Option<usize>,
    /// The rate of one connection; all connections of an address share `max` times as much.
    rate: Option<Rate>,
    /// Networks of trusted proxies. Their connections carry requests of many clients, so each
    /// request counts for its client's address instead.
    proxies: Vec<IpNet>,
    held: Mutex<Table>,
}

struct Table {
    entries: HashMap<IpAddr, Arc<AddressUse>>,
    search_above: usize,
}

/// What one address holds.
struct AddressUse {
    count: AtomicUsize,
    /// `None` if the address is not limited.
    allowance: Option<Allowance>,
}

/// Counts one connection or session of an address until it is dropped.
pub struct IpPermit {
    addresses: Arc<Addresses>,
    address: IpAddr,
    held: Arc<AddressUse>,
}

/// The address that counts as one client: an IPv4 address or an IPv6 network of 64 bits.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & IPV6_NETWORK).into(),
        address => address,
    }
}

impl Addresses {
    /// Limits each address to `max` connections, except those of `proxies`. With a limit, all
    /// connections of an address together may send `max` times `rate`, also those that replace each
    /// other.
    pub fn new(max: Option<usize>, rate: Option<Rate>, proxies: Vec<IpNet>) -> Arc<Self> {
        let held = Table { entries: HashMap::new(), search_above: SEARCH_ABOVE };
        Arc::new(Self { max, rate, proxies, held: Mutex::new(held) })
    }

    /// Takes a permit for a connection from `peer`; `None` if it needs none, because there is no
    /// limit or `peer` is a proxy.
    ///
    /// # Errors
    /// If the address has reached its limit.
    pub fn connection(self: &Arc<Self>, peer: IpAddr) -> Result<Option<IpPermit>, ()> {
        if self.max.is_none() || self.is_proxy(peer) {
            Ok(None)
        } else {
            self.enter(peer).map(Some)
        }
    }

    /// Takes a permit for `address`, also if it is a proxy's. For requests that arrive through a
    /// proxy, `address` is the client's.
    ///
    /// # Errors
    /// If the address has reached its limit.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<IpPermit, ()> {
        let address = network_of(address);
        let mut table = self.held.lock();
        table.forget_the_gone();
        let held = match table.entries.entry(address) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Arc::new(AddressUse {
                count: AtomicUsize::new(0),
                allowance: self
                    .max
                    .zip(self.rate)
                    .map(|(max, rate)| Allowance::new(rate.times(max))),
            })),
        };
        if self.max.is_some_and(|max| held.count.load(Acquire) >= max) {
            return Err(());
        }
        held.count.fetch_add(1, AcqRel);
        Ok(IpPermit { addresses: self.clone(), address, held: held.clone() })
    }

    /// How many permits an address holds.
    pub fn count(&self, address: IpAddr) -> usize {
        let table = self.held.lock();
        table.entries.get(&network_of(address)).map_or(0, |held| held.count.load(Acquire))
    }

    /// Whether this address is a proxy's.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.proxies.iter().any(|network| network.contains(&peer))
    }

    /// Whether there is a limit per address.
    pub fn is_limited(&self) -> bool {
        self.max.is_some()
    }

    /// The networks of trusted proxies.
    pub fn proxies(&self) -> &[IpNet] {
        &self.proxies
    }
}

impl Table {
    /// Removes addresses that hold nothing and whose rate has recovered. They are searched for when
    /// the table has doubled, so that each entry costs O(1).
    fn forget_the_gone(&mut self) {
        if self.entries.len() >= self.search_above {
            self.entries.retain(|_, held| !held.is_gone());
            self.search_above = SEARCH_ABOVE.max(2 * self.entries.len());
        }
    }
}

impl AddressUse {
    /// Whether nothing is held, and forgetting the address would give it nothing.
    fn is_gone(&self) -> bool {
        self.count.load(Acquire) == 0 && self.allowance.as_ref().is_none_or(Allowance::is_full)
    }
}

impl IpPermit {
    /// The address that holds the permit.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// What the address may still send; `None` if it is not limited.
    pub fn allowance(&self) -> Option<&Allowance> {
        self.held.allowance.as_ref()
    }
}

impl Drop for IpPermit {
    fn drop(&mut self) {
        // Under the lock, so that nobody else takes a permit of an entry that is removed.
        let mut table = self.addresses.held.lock();
        self.held.count.fetch_sub(1, AcqRel);
        if self.held.is_gone() {
            table.entries.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, advance};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_gets_its_permits_back_when_they_are_dropped() {
        let addresses = Addresses::new(Some(2), None, Vec::new());
        let permits = [(); 2].map(|()| addresses.connection(address("10.0.0.1")));
        assert!(addresses.connection(address("::ffff:10.0.0.1")).is_err());
        assert!(addresses.connection(address("10.0.0.2")).is_ok());
        assert_eq!(addresses.count(address("10.0.0.1")), 2);
        drop(permits);
        assert!(addresses.held.lock().entries.is_empty());
        assert!(addresses.connection(address("10.0.0.1")).is_ok());
    }

    #[test]
    fn an_ipv6_network_of_64_bits_counts_as_one_address() {
        let addresses = Addresses::new(Some(1), None, Vec::new());
        let _permit = addresses.connection(address("2001:db8::1")).expect("the first");
        assert!(addresses.connection(address("2001:db8::2")).is_err());
        assert!(addresses.connection(address("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn a_proxy_is_not_limited() {
        let addresses = Addresses::new(Some(1), None, vec![address("10.0.0.1").into()]);
        let permits = [(); 3].map(|()| addresses.connection(address("10.0.0.1")));
        assert!(permits.iter().all(|permit| matches!(permit, Ok(None))));
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_replace_each_other_share_their_rate() {
        let rate = Rate { per_second: 10, burst: 10 };
        let addresses = Addresses::new(Some(2), Some(rate), Vec::new());
        let sent = |packets: usize| {
            let permit = addresses.enter(address("10.0.0.1")).expect("a permit");
            let allowance = permit.allowance().expect("a limit");
            (0..packets).filter(|_| allowance.packet()).count()
        };
        assert_eq!([sent(15), sent(15), sent(15)], [15, 5, 0]);
        advance(Duration::from_secs(1)).await;
        assert_eq!(sent(50), 20);
        advance(Duration::from_secs(1)).await;
        drop(addresses.enter(address("10.0.0.1")));
        assert!(addresses.held.lock().entries.is_empty());
    }
}
