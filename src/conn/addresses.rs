//! How many connections each address holds, where that is limited.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard},
};

use ipnet::IpNet;

/// The part of an IPv6 address that one customer of a provider is given; the rest is his to choose.
const IPV6_NETWORK: u128 = !0 << 64;

/// All addresses that hold connections.
pub struct Addresses {
    /// Of one address; `None` = any number.
    max: Option<usize>,
    /// Connections of these are others', who are told apart request by request.
    proxies: Vec<IpNet>,
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection of an address, as long as it is kept.
pub struct IpPermit {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Addresses {
    /// None yet; `max` for each, except for `proxies`.
    pub fn new(max: Option<usize>, proxies: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { max, proxies, held: Mutex::default() })
    }

    /// A seat for a connection, where one has to be had; an error if its address has all it may.
    pub fn connection(self: &Arc<Self>, peer: IpAddr) -> Result<Option<IpPermit>, ()> {
        if self.is_proxy(peer) { Ok(None) } else { self.enter(peer) }
    }

    /// As [`Self::connection`], for what a client has asked for through a proxy.
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

    /// Whether addresses are limited, and this one is a proxy's.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.max.is_some() && self.proxies.iter().any(|network| network.contains(&peer))
    }

    /// Whose word about the client counts.
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
    fn an_address_has_so_many_seats_and_gets_them_back() {
        let addresses = Addresses::new(Some(2), Vec::new());
        let seats = [(); 2].map(|()| addresses.connection(address("10.0.0.1")));
        assert!(addresses.connection(address("::ffff:10.0.0.1")).is_err());
        assert!(addresses.connection(address("10.0.0.2")).is_ok());
        drop(seats);
        assert!(addresses.lock().is_empty());
        assert!(addresses.connection(address("10.0.0.1")).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let addresses = Addresses::new(Some(1), Vec::new());
        let _seat = addresses.connection(address("2001:db8::1")).expect("the first");
        assert!(addresses.connection(address("2001:db8::2")).is_err());
        assert!(addresses.connection(address("2001:db8:0:1::1")).is_ok());
    }

    #[test]
    fn a_proxy_holds_any_number_for_others() {
        let addresses = Addresses::new(Some(1), vec![address("10.0.0.1").into()]);
        let seats = [(); 3].map(|()| addresses.connection(address("10.0.0.1")));
        assert!(seats.iter().all(|permit| matches!(permit, Ok(None))));
    }
}
