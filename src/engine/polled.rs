//! The bound of polled sessions: how many there are in all and of each address.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::AcqRel, Ordering::Acquire},
    },
};

use super::errors::RequestError;
use crate::conn::addresses::{Addresses, IpPermit};

/// The polled sessions.
pub struct Polled {
    /// The most sessions.
    pub max: usize,
    /// How many each address has.
    pub addresses: Arc<Addresses>,
    count: AtomicUsize,
    /// Before this time, in ms since the engine was made, no other session is asked to make room.
    pub next_search: AtomicU64,
}

/// A place among the polled sessions, until the session ends or is carried by a WebSocket.
pub struct PolledPlace {
    polled: Arc<Polled>,
    permit: IpPermit,
}

impl Polled {
    /// At most `max` sessions in all, and `per_address` of one address.
    pub fn new(max: usize, per_address: Option<usize>) -> Arc<Self> {
        let addresses = Addresses::new(per_address, None, Vec::new());
        let (count, next_search) = Default::default();
        Arc::new(Self { max, addresses, count, next_search })
    }

    /// Takes a place for a client at `address`; `None` if all are taken.
    ///
    /// # Errors
    /// If the address has as many as it may.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Result<Option<PolledPlace>, RequestError> {
        let permit =
            self.addresses.enter(address).map_err(|()| RequestError::TooManySessionsOfAddress)?;
        let has_room = |count| (count < self.max).then_some(count + 1);
        let is_taken = self.count.fetch_update(AcqRel, Acquire, has_room).is_ok();
        Ok(is_taken.then(|| PolledPlace { polled: self.clone(), permit }))
    }
}

impl PolledPlace {
    /// The client's address.
    pub fn address(&self) -> IpAddr {
        self.permit.address()
    }
}

impl Drop for PolledPlace {
    fn drop(&mut self) {
        self.polled.count.fetch_sub(1, AcqRel);
    }
}
