//! The limit of connections per client address.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard},
};

use ipnet::IpNet;

/// Mask of the /64 prefix that a provider assigns to one customer. The customer chooses the other
/// bits freely, so a /64 network counts as one address.
const IPV6_NETWORK: u128 = !0 << 64;

/// The number of connections that each address holds.
pub struct Addresses {
    /// Maximum for one address; `None` = unlimited.
    max: Option<usize>,
    /// Networks of trusted proxies. Their connections carry requests of many clients, so each
    /// request counts for its client's address instead.
    proxies: Vec<IpNet>,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// Counts one connection of an address until it is dropped.
pub struct IpPermit {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    /// Limits each address to `max` connections, except those of `proxies`.
    pub fn new(max: Option<usize>, proxies: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { max, proxies, held: Mutex::default() })
    }

    /// Takes a permit for a connection from `peer`; `None` if it needs none, because there is no
    /// limit or `peer` is a proxy.
    ///
    /// # Errors
    /// If the address has reached its limit.
    pub fn connection(self: &Arc<Self>, peer: IpAddr) -> Result<Option<IpPermit>, ()> {
        if self.is_proxy(peer) { Ok(None) } else { self.enter(peer) }
    }

    /// Takes a permit for `address`, also if it is a proxy's. For requests that arrive through a
    /// proxy, `address` is the client's.
    ///
    /// # Errors
    /// If the address has reached its limit.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Option<IpPermit>, ()> {
        let Some(max) = self.max else { return Ok(None) };
        let address = match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & IPV6_NETWORK).into(),
            address => address,
        };
        let mut held = self.lock();
        let count = held.entry(address).or_default();
        if *count >= max {
            return Err(());
        }
        *count += 1;
        Ok(Some(IpPermit { addresses: self.clone(), address }))
    }

    /// Whether there is a limit and this address is a proxy's.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.max.is_some() && self.proxies.iter().any(|network| network.contains(&peer))
    }

    /// The networks of the proxies whose forwarded client address is trusted.
    pub fn proxies(&self) -> &[IpNet] {
        &self.proxies
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for IpPermit {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.addresses.lock().entry(self.address) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_gets_its_permits_back_when_they_are_dropped() {
        let addresses = Addresses::new(Some(2), Vec::new());
        let seats = [(); 2].map(|()| addresses.connection(address("10.0.0.1")));
        assert!(addresses.connection(address("::ffff:10.0.0.1")).is_err());
        assert!(addresses.connection(address("10.0.0.2")).is_ok());
        drop(seats);
        assert!(addresses.lock().is_empty());
        assert!(addresses.connection(address("10.0.0.1")).is_ok());
    }

    #[test]
    fn an_ipv6_network_of_64_bits_counts_as_one_address() {
        let addresses = Addresses::new(Some(1), Vec::new());
        let _seat = addresses.connection(address("2001:db8::1")).expect("the first");
        assert!(addresses.connection(address("2001:db8::2")).is_err());
        assert!(addresses.connection(address("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn a_proxy_is_not_limited() {
        let addresses = Addresses::new(Some(1), vec![address("10.0.0.1").into()]);
        let seats = [(); 3].map(|()| addresses.connection(address("10.0.0.1")));
        assert!(seats.iter().all(|permit| matches!(permit, Ok(None))));
    }
}
