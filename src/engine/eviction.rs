//! Polled sessions that make room for a new one, when there are as many as there may be.

use std::{collections::HashMap, net::IpAddr, sync::Arc, sync::atomic::Ordering::Relaxed};

use super::{Engine, errors::RequestError, polled::PolledPlace, session::Session};
use crate::metrics::Close;

/// Divisor: when there is no room, up to one in this many sessions goes, so that the search for
/// them, which looks at all sessions, costs each new one little.
const SHARE: usize = 64;
/// How long after a search that found nothing no other one is made, in ms.
const PAUSE: u64 = 100;

impl Engine {
    /// Takes a place for a polled session of a client at `address`. If there is none, others make
    /// room: those that have never been in the namespace, the oldest first, or else the oldest ones
    /// of the address that has the most, if it has more than this one.
    ///
    /// # Errors
    /// If the address has as many sessions as it may, or if there is no room.
    pub(super) fn place(&self, address: IpAddr) -> Result<PolledPlace, RequestError> {
        if let Some(place) = self.polled.take(address)? {
            return Ok(place);
        }
        if self.now() >= self.polled.next_search.load(Relaxed) {
            let victims = self.victims(address);
            if victims.is_empty() {
                self.polled.next_search.store(self.now() + PAUSE, Relaxed);
            }
            for session in victims {
                session.end(Close::Sessions);
                session.leave_polls();
            }
        }
        self.polled.take(address)?.ok_or(RequestError::TooManySessions)
    }

    /// The sessions that make room for one of `address`.
    fn victims(&self, address: IpAddr) -> Vec<Arc<Session>> {
        let most = (self.polled.max / SHARE).max(1);
        let mut polled: Vec<(IpAddr, Arc<Session>)> = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            polled.extend(shard.values().filter_map(|session| {
                session.polled_from().map(|address| (address, session.clone()))
            }));
        }
        polled.sort_by_key(|(_, session)| session.opened());
        let outside = polled.iter().filter(|(_, session)| !session.has_entered());
        let outside: Vec<_> = outside.take(most).map(|(_, session)| session.clone()).collect();
        if !outside.is_empty() {
            return outside;
        }
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        polled.iter().for_each(|(address, _)| *counts.entry(*address).or_default() += 1);
        let Some((largest, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else {
            return Vec::new();
        };
        // Both addresses have as many when the newcomer has taken its place.
        let own = self.polled.addresses.count(address);
        let surplus = count.saturating_sub(own + 1).min(most);
        let of_largest = polled.into_iter().filter(|(address, _)| *address == largest);
        of_largest.take(surplus).map(|(_, session)| session).collect()
    }
}
