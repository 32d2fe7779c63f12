//! The registry of a listener's connections: each can be counted, asked to finish, and ended.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, info};

use super::{
    addresses::{IpPermit, network_of},
    backlog::{Backlog, Peer, Quota},
    inbound::{self, Holder, InboundBudget, Unfinished},
    rate::{Allowance, Rate},
    socket::Socket,
};
use crate::{
    log_limit::LogLimit,
    metrics::{Close, Gauge, Metrics},
};

/// Lines a minute in the log about ends for one reason: enough to see whether one peer causes them.
const LINES: u32 = 5;

/// One limit per reason, so that many ends of one kind hide none of another.
static ENDS: [LogLimit; Close::NAMES.len()] = [const { LogLimit::new(LINES) }; Close::NAMES.len()];

/// Logs that the server has ended something. `write` gets the number of such lines that were left
/// out before it, and the reason's name.
pub fn log_end(reason: Close, write: impl FnOnce(Option<u64>, &'static str) + Send + 'static) {
    // At the end of a drain all connections are ended; the drain logs one line for all of them.
    if reason != Close::Drain {
        ENDS[reason as usize].line(move |left_out| write(left_out, reason.as_str()));
    }
}

/// All open connections of a listener.
pub struct Connections {
    live: Mutex<HashMap<u64, Weak<Connection>>>,
    next_id: AtomicU64,
    changed: Notify,
    open: Gauge,
    backlog: Arc<Backlog>,
    inbound: Arc<InboundBudget>,
    /// What one connection may send; `None` = no limit.
    rate: Option<Rate>,
    metrics: Arc<Metrics>,
    busy: OnceLock<Busy>,
}

/// A session may send a tenth of what its connection may, which a proxy may use for several.
const SESSIONS: usize = 10;

/// Whether messages are being delivered at the moment.
type Busy = Box<dyn Fn() -> bool + Send + Sync>;

impl Connections {
    /// An empty registry. `open` shows the number of connections; what waits for them counts in
    /// `backlog`, and what they have sent in part in `inbound`. Each connection may send ten times
    /// the `rate` of a session.
    pub fn new(
        open: Gauge,
        backlog: Arc<Backlog>,
        inbound: Arc<InboundBudget>,
        rate: Option<Rate>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (live, next_id, changed, busy) = Default::default();
        let rate = rate.map(|rate| rate.times(SESSIONS));
        Arc::new(Self { live, next_id, changed, open, backlog, inbound, rate, metrics, busy })
    }

    /// From now on, a connection that was asked to finish does so at a moment when `busy` is false,
    /// unless it is asked to finish at once: a message that is being delivered may not have reached
    /// it yet.
    pub fn hold_while(&self, busy: impl Fn() -> bool + Send + Sync + 'static) {
        // Only the drain calls this, once.
        self.busy.set(Box::new(busy)).ok();
    }

    /// The number of open connections.
    pub fn count(&self) -> usize {
        self.live.lock().len()
    }

    /// All open connections.
    pub fn all(&self) -> Vec<Arc<Connection>> {
        self.live.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Waits until no connection is open.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Registration of a connection, from the moment it is accepted until its socket is closed.
///
/// The task that owns the socket owns the guard. Dropping it removes the connection from the
/// registry and releases what it holds; others may keep the [`Connection`] for longer.
pub struct ConnectionGuard(Arc<Connection>);

impl ConnectionGuard {
    /// Registers a connection from `peer`.
    pub fn new(peer: SocketAddr, connections: &Arc<Connections>) -> Self {
        let id = connections.next_id.fetch_add(1, Relaxed);
        let connection = Arc::new(Connection {
            id,
            peer,
            connections: connections.clone(),
            client: Mutex::new(peer.ip()),
            is_shared: AtomicBool::new(false),
            permit: Mutex::default(),
            quota: OnceLock::new(),
            unfinished: Unfinished::new(connections.inbound.clone()),
            last_read: AtomicUsize::new(0),
            allowance: connections.rate.map(Allowance::new),
            upgrade: Mutex::default(),
            ended: OnceLock::new(),
            is_broken: AtomicBool::new(false),
            lags: AtomicBool::new(false),
            is_between_polls: AtomicBool::new(false),
            is_asked: AtomicBool::new(false),
            is_asked_at_once: AtomicBool::new(false),
            finishes: AtomicBool::new(false),
            owner: AtomicWaker::new(),
            changed: Notify::new(),
        });
        connections.live.lock().insert(id, Arc::downgrade(&connection));
        connections.open.inc();
        Self(connection)
    }

    /// What others may ask of the connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.0
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let connections = &self.0.connections;
        if std::thread::panicking() {
            connections.metrics.panics.inc();
            let peer = self.0.peer;
            error!(%peer, "a connection's task has panicked; the connection is ended");
        }
        connections.live.lock().remove(&self.0.id);
        connections.open.dec();
        if let Some(quota) = self.0.quota.get() {
            quota.clear();
        }
        self.0.set_unfinished(0);
        self.0.hold(None);
        // Dropped outside the lock: the closure may end a session.
        let upgrade = self.0.upgrade.lock().take();
        drop(upgrade);
        self.0.set_lags(false);
        connections.changed.notify_waiters();
    }
}

/// A socket that HTTP has handed over after a 101 answer.
pub struct Upgraded {
    /// The socket.
    pub socket: Socket,
    /// Bytes that arrived behind the request.
    pub rest: Bytes,
    /// The connection's registration.
    pub guard: ConnectionGuard,
}

type Upgrade = Box<dyn FnOnce(Upgraded) + Send>;

/// A connection as others see it. It does not keep the socket open.
///
/// Its life: accepted, perhaps a TLS handshake, HTTP, and perhaps an upgrade, after which the engine
/// owns the socket. It ends when its owner drops the socket. Others can ask it to finish in order
/// ([`finish`](Self::finish)) or end it at once ([`end`](Self::end)); both wake the owner, which acts.
pub struct Connection {
    id: u64,
    peer: SocketAddr,
    connections: Arc<Connections>,
    /// The client's address: the peer's or, behind a trusted proxy, that of the latest request.
    client: Mutex<IpAddr>,
    /// The peer is a trusted proxy, which sends requests of many clients.
    is_shared: AtomicBool,
    permit: Mutex<Option<Arc<IpPermit>>>,
    /// Bytes of answers that the kernel has not taken, while the connection speaks HTTP.
    quota: OnceLock<Quota>,
    /// Bytes of requests or messages that are not complete.
    unfinished: Unfinished,
    /// Bytes of the latest read.
    last_read: AtomicUsize,
    allowance: Option<Allowance>,
    upgrade: Mutex<Option<Upgrade>>,
    ended: OnceLock<Close>,
    /// A write has failed.
    is_broken: AtomicBool,
    /// The kernel does not take what there is to send.
    lags: AtomicBool,
    /// A poll has been answered and the client has not sent the next one yet.
    is_between_polls: AtomicBool,
    is_asked: AtomicBool,
    is_asked_at_once: AtomicBool,
    /// The connection was asked to finish, and has begun to.
    finishes: AtomicBool,
    /// The task that owns the socket.
    owner: AtomicWaker,
    /// A poll has begun, the connection was asked to finish, or it caught up.
    changed: Notify,
}

impl Connection {
    /// The other end: a client, or the proxy in front of it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The client's address: the peer's or, behind a trusted proxy, that of the latest request.
    pub fn client(&self) -> IpAddr {
        *self.client.lock()
    }

    /// A trusted proxy has sent a request of this client.
    pub fn set_forwarded(&self, client: IpAddr) {
        self.is_shared.store(true, Release);
        *self.client.lock() = client;
    }

    /// What the connection may still send; `None` if it is not limited.
    pub(super) fn allowance(&self) -> Option<&Allowance> {
        self.allowance.as_ref().filter(|_| !self.is_shared.load(Acquire))
    }

    /// Sets how many bytes have arrived of a request, a message or a TLS record that is not complete.
    /// If all connections hold too many, some are ended, perhaps this one.
    pub fn set_unfinished(&self, bytes: usize) {
        // A connection that has ended holds nothing more.
        let bytes = if self.ended().is_some() { 0 } else { bytes };
        if self.unfinished.set(bytes) {
            let connections = &self.connections;
            inbound::evict(&connections.inbound, connections.all().into_iter());
        }
    }

    /// Counts bytes that have arrived of a request. `spare` is what is held besides those that were
    /// read, `spare_before` what it was at the call before.
    pub(super) fn read(&self, bytes: usize, spare: usize, spare_before: usize) {
        if bytes > 0 {
            self.last_read.store(bytes, Release);
        }
        let unfinished = self.unfinished.bytes() + bytes + spare;
        self.set_unfinished(unfinished.saturating_sub(spare_before));
    }

    /// A request or a handshake is complete, and its bytes are no longer held. The next request may
    /// have begun in the same read.
    pub(super) fn request_ends(&self) {
        self.set_unfinished(self.unfinished.bytes().min(self.last_read.load(Acquire)));
        self.set_authenticated(false);
    }

    /// Whether the client has shown what allows it to send: a token, or a place in the namespace.
    pub fn set_authenticated(&self, is_authenticated: bool) {
        self.unfinished.set_authenticated(is_authenticated);
    }

    /// Registers what happens with the socket once HTTP has sent a 101 answer. If that does not come
    /// about, the closure is dropped.
    pub fn on_upgrade(&self, upgrade: impl FnOnce(Upgraded) + Send + 'static) {
        *self.upgrade.lock() = Some(Box::new(upgrade));
    }

    /// Takes the closure of [`on_upgrade`](Self::on_upgrade).
    pub(super) fn take_upgrade(&self) -> Option<Upgrade> {
        self.upgrade.lock().take()
    }

    /// The task that owns the socket is to be woken when the connection ends or finishes.
    pub fn register_owner(&self, waker: &std::task::Waker) {
        self.owner.register(waker);
    }

    /// A poll has come over this connection.
    pub fn poll_begins(&self) {
        self.is_between_polls.store(false, Release);
        self.changed.notify_waiters();
    }

    /// The poll is answered.
    pub fn poll_ends(&self) {
        self.is_between_polls.store(true, Release);
    }

    /// Waits for the next poll, if the client is between two of them.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn next_poll(&self) {
        self.until(|| !self.is_between_polls.load(Acquire)).await;
    }

    /// Keeps the permit of the client's address until the connection is gone.
    pub fn hold(&self, permit: Option<Arc<IpPermit>>) {
        let before = std::mem::replace(&mut *self.permit.lock(), permit);
        drop(before);
    }

    /// The permit of the client's address; `None` if it needs none.
    pub(super) fn permit(&self) -> Option<Arc<IpPermit>> {
        self.permit.lock().clone()
    }

    /// Asks the connection to finish in order, after what waits has been sent. A connection that is
    /// held (see [`Connections::hold_while`]) has to be asked again.
    pub fn finish(&self) {
        self.is_asked.store(true, Release);
        self.changed.notify_waiters();
        self.owner.wake();
    }

    /// The same, also while messages are being delivered.
    pub fn finish_at_once(&self) {
        self.is_asked_at_once.store(true, Release);
        self.finish();
    }

    /// Whether the connection was asked to finish.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Acquire)
    }

    /// Waits until the connection is asked to finish.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn asked(&self) {
        self.until(|| self.is_asked()).await;
    }

    /// Waits until the connection is asked to finish and nothing holds it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn finishes(&self) {
        self.until(|| self.may_finish()).await;
    }

    /// Whether the connection was asked to finish and nothing holds it.
    pub fn may_finish(&self) -> bool {
        let is_held = || self.connections.busy.get().is_some_and(|busy| busy());
        let may_finish = self.is_asked() && (self.is_asked_at_once.load(Acquire) || !is_held());
        if may_finish {
            self.finishes.store(true, Release);
        }
        may_finish
    }

    /// Whether the connection is open and has not begun to finish.
    pub fn is_held(&self) -> bool {
        !self.finishes.load(Acquire) && self.connections.live.lock().contains_key(&self.id)
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition() {
                return;
            }
            changed.await;
        }
    }

    /// Ends the connection now; counts and logs it, once.
    pub fn end(&self, reason: Close) {
        if self.ended.set(reason).is_ok() {
            self.connections.metrics.closed(reason).inc();
            let peer = self.peer;
            log_end(reason, move |left_out, reason| {
                info!(left_out, %peer, reason, "ended a connection");
            });
            if let Some(quota) = self.quota.get() {
                quota.clear();
            }
            self.set_unfinished(0);
            self.owner.wake();
            self.changed.notify_waiters();
        }
    }

    /// Why the server ended the connection, if it did.
    pub fn ended(&self) -> Option<Close> {
        self.ended.get().copied()
    }

    /// Whether a write has failed.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Acquire)
    }

    pub(super) fn set_broken(&self) {
        self.is_broken.store(true, Release);
    }

    /// Whether the kernel does not take what HTTP has to send.
    pub fn lags(&self) -> bool {
        self.lags.load(Acquire)
    }

    pub(super) fn set_lags(&self, lags: bool) {
        if self.lags.swap(lags, AcqRel) && !lags {
            self.changed.notify_waiters();
        }
    }

    /// Counts bytes before they are handed to HTTP.
    ///
    /// # Errors
    /// Why they must not be: the connection has ended, or has to be ended.
    pub fn queue(self: &Arc<Self>, bytes: usize) -> Result<(), Close> {
        if let Some(reason) = self.ended() {
            return Err(reason);
        }
        if self.lags() && !super::writer::within_limit(self.quota().waiting(), bytes) {
            return Err(Close::QueueFull);
        }
        self.queue_piece(bytes);
        self.ended().map_or(Ok(()), Err)
    }

    /// Counts bytes of a replay, which come beside what may wait.
    pub fn queue_piece(self: &Arc<Self>, bytes: usize) {
        let quota = self.quota();
        if quota.add(bytes) {
            quota.evict_largest();
        }
    }

    /// Subtracts bytes that the kernel has taken.
    pub(super) fn taken(&self, bytes: usize) {
        if let Some(quota) = self.quota.get() {
            quota.take(bytes);
        }
    }

    fn quota(self: &Arc<Self>) -> &Quota {
        self.quota.get_or_init(|| {
            let me: Weak<Self> = Arc::downgrade(self);
            self.connections.backlog.quota(me)
        })
    }
}

impl Peer for Connection {
    fn waiting(&self) -> usize {
        self.quota.get().map_or(0, Quota::waiting)
    }

    fn end(&self, reason: Close) {
        Self::end(self, reason);
    }
}

impl Holder for Arc<Connection> {
    fn address(&self) -> IpAddr {
        network_of(self.client())
    }

    fn unfinished(&self) -> &Unfinished {
        &self.unfinished
    }

    fn evict(&self) {
        self.end(Close::Inbound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_its_connection_alone_and_is_counted() {
        let metrics = Arc::new(Metrics::default());
        let (open, backlog) = (Gauge::default(), Backlog::new(1 << 20, Gauge::default()));
        let inbound = InboundBudget::new(1 << 20, Gauge::default());
        let connections = Connections::new(open.clone(), backlog, inbound, None, metrics.clone());
        let peer = ([127, 0, 0, 1], 1).into();
        let other = ConnectionGuard::new(peer, &connections);
        let guard = ConnectionGuard::new(peer, &connections);
        let task = tokio::spawn(async move {
            let _guard = guard;
            panic!("a fault for a test");
        });
        assert!(task.await.expect_err("it panics").is_panic());
        assert_eq!((metrics.panics.get(), open.get(), connections.count()), (1, 1, 1));
        drop(other);
        assert_eq!((metrics.panics.get(), open.get()), (1, 0));
    }
}
