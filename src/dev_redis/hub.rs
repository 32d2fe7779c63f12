//! The hub: the connected clients, their subscriptions, and the delivery of messages to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::Mutex;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::outbox::{Budget, Outbox};
use super::wire::{self, Reply, RespVersion};
use crate::glob;

/// The most channels and patterns of one client. Each message is matched with every pattern.
pub(super) const MAX_SUBSCRIPTIONS: usize = 4096;

/// The most bytes of a channel's name or a pattern: matching one with the other takes up to the
/// product of their lengths in steps.
pub(super) const MAX_NAME: usize = 1 << 10;

/// The hub that all connections share. It has one lock, as Redis has one thread: all subscribers
/// receive messages in the same order. No code that holds the lock waits for a client.
pub(super) type SharedHub = Arc<Mutex<Hub>>;

/// Whether a subscription is to a channel or to a pattern.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Channel,
    Pattern,
}

/// One connected client.
pub(super) struct Client {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) name: Bytes,
    pub(super) channels: BTreeSet<Bytes>,
    pub(super) patterns: BTreeSet<Bytes>,
    pub(super) outbox: Arc<Outbox>,
}

impl Client {
    /// How many channels and patterns it is subscribed to.
    pub(super) fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn names(&mut self, kind: Kind) -> &mut BTreeSet<Bytes> {
        match kind {
            Kind::Channel => &mut self.channels,
            Kind::Pattern => &mut self.patterns,
        }
    }
}

/// Subscribers by client id, which is the order in which they connected.
type Subscribers = BTreeMap<u64, Arc<Outbox>>;

/// All clients and subscriptions. Each subscription belongs to a client in `clients`.
#[derive(Default)]
pub(super) struct Hub {
    clients: BTreeMap<u64, Client>,
    channels: HashMap<Bytes, Subscribers>,
    patterns: HashMap<Bytes, Subscribers>,
    last_id: u64,
    budget: Budget,
    /// Identifies this broker, as Redis' `run_id` identifies a process.
    pub(super) run_id: RunId,
}

/// 40 random hexadecimal digits.
pub(super) struct RunId(u128);

impl Default for RunId {
    fn default() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:040x}", self.0)
    }
}

impl Hub {
    /// The shared count of bytes in all outboxes, for a new outbox.
    pub(super) fn budget(&self) -> Budget {
        Arc::clone(&self.budget)
    }

    /// Adds a client and returns its id.
    pub(super) fn admit(
        &mut self,
        outbox: Arc<Outbox>,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> u64 {
        self.last_id += 1;
        let (name, channels, patterns) = Default::default();
        let client = Client { peer, local, name, channels, patterns, outbox };
        self.clients.insert(self.last_id, client);
        self.last_id
    }

    /// Removes a client and its subscriptions, if it has not been removed yet.
    pub(super) fn forget(&mut self, id: u64) {
        self.unsubscribe_all(id);
        self.clients.remove(&id);
    }

    /// Ends a client's connection and removes the client at once, because its task may take a
    /// moment to notice.
    pub(super) fn kill(&mut self, id: u64) {
        if let Some(client) = self.clients.get(&id) {
            client.outbox.end();
        }
        self.forget(id);
    }

    /// The client with this id.
    pub(super) fn client(&mut self, id: u64) -> Option<&mut Client> {
        self.clients.get_mut(&id)
    }

    /// All clients, the oldest first.
    pub(super) fn clients(&self) -> impl Iterator<Item = (u64, &Client)> {
        self.clients.iter().map(|(id, client)| (*id, client))
    }

    /// Adds a subscription and returns how many the client has; `None` if it would have too many.
    pub(super) fn subscribe(&mut self, id: u64, kind: Kind, name: &Bytes) -> Option<usize> {
        let client = self.clients.get_mut(&id)?;
        if !client.names(kind).contains(name) {
            if client.subscriptions() >= MAX_SUBSCRIPTIONS {
                return None;
            }
            // A copy, because the original keeps the whole read buffer alive.
            let name = Bytes::copy_from_slice(name);
            let outbox = Arc::clone(&client.outbox);
            client.names(kind).insert(name.clone());
            let index = match kind {
                Kind::Channel => &mut self.channels,
                Kind::Pattern => &mut self.patterns,
            };
            index.entry(name).or_default().insert(id, outbox);
        }
        self.clients.get(&id).map(Client::subscriptions)
    }

    /// Removes a subscription if it exists, and returns how many the client has left.
    pub(super) fn unsubscribe(&mut self, id: u64, kind: Kind, name: &Bytes) -> usize {
        let Some(client) = self.clients.get_mut(&id) else {
            return 0;
        };
        if client.names(kind).remove(name) {
            let index = match kind {
                Kind::Channel => &mut self.channels,
                Kind::Pattern => &mut self.patterns,
            };
            if let Some(subscribers) = index.get_mut(name) {
                subscribers.remove(&id);
                if subscribers.is_empty() {
                    index.remove(name);
                }
            }
        }
        client.subscriptions()
    }

    /// Removes all subscriptions of a client.
    pub(super) fn unsubscribe_all(&mut self, id: u64) {
        for kind in [Kind::Channel, Kind::Pattern] {
            for name in self.names(id, kind) {
                self.unsubscribe(id, kind, &name);
            }
        }
    }

    /// The channels or patterns of a client.
    pub(super) fn names(&mut self, id: u64, kind: Kind) -> BTreeSet<Bytes> {
        self.clients.get_mut(&id).map(|client| client.names(kind).clone()).unwrap_or_default()
    }

    /// Queues a message for all subscribers. Returns the number of matching subscriptions, as Redis
    /// does: a client counts once for each of its matching channels and patterns.
    pub(super) fn publish(&mut self, channel: &Bytes, payload: &Bytes) -> usize {
        let message = || [wire::bulk(channel.clone()), wire::bulk(payload.clone())];
        let mut receivers = 0;
        let mut behind = Vec::new();
        if let Some(subscribers) = self.channels.get(channel) {
            receivers += subscribers.len();
            deliver(&wire::push("message", message()), subscribers, &mut behind);
        }
        for (pattern, subscribers) in &self.patterns {
            if glob::matches(pattern, channel) {
                receivers += subscribers.len();
                let message = std::iter::once(wire::bulk(pattern.clone())).chain(message());
                deliver(&wire::push("pmessage", message), subscribers, &mut behind);
            }
        }
        for id in behind {
            self.forget(id);
        }
        receivers
    }

    /// The channels that have subscribers.
    pub(super) fn channels(&self) -> impl Iterator<Item = &Bytes> {
        self.channels.keys()
    }

    /// How many clients are subscribed to a channel by its name.
    pub(super) fn subscribers(&self, channel: &Bytes) -> usize {
        self.channels.get(channel).map_or(0, BTreeMap::len)
    }

    /// How many different patterns have subscribers.
    pub(super) fn patterns(&self) -> usize {
        self.patterns.len()
    }
}

/// Queues a message for subscribers. It is encoded at most once per protocol version, and the bytes
/// are shared. Adds the clients whose outbox was full to `behind`.
fn deliver(message: &Reply, subscribers: &Subscribers, behind: &mut Vec<u64>) {
    let (mut resp2, mut resp3) = (None, None);
    for (id, outbox) in subscribers {
        let version = outbox.version();
        let encoded = match version {
            RespVersion::RESP2 => &mut resp2,
            RespVersion::RESP3 => &mut resp3,
        };
        let bytes = encoded.get_or_insert_with(|| wire::encode(message, &version));
        if !outbox.push(bytes.clone()) {
            behind.push(*id);
        }
    }
}
