//! Engine.IO 3 and 4, and below events Socket.IO: handshakes, transports, upgrades, heartbeats and
//! packets.
//!
//! A [`Session`] is one client, over polls or over one WebSocket. It has one outbound queue of whole
//! frames, [`crate::conn::writer::Writer`], from which polls are answered too; an upgrade changes
//! where the queue leads. Events go to the [`Client`] that the [`Application`] made for the session.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use http::request::Parts;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    conn::{backlog::Backlog, rate::Rate},
    metrics::Metrics,
};

mod errors;
mod eviction;
pub mod frame;
mod handshake;
pub mod packet;
mod payload;
mod polled;
mod polling;
mod query;
pub mod rate_limit;
mod routes;
pub mod session;
mod sweep;
mod websocket;

pub use packet::Sid;
use polled::Polled;
use session::{ClientEvent, Session};

/// Parts of the registry. Each has its own lock.
const SHARDS: usize = 16;

/// What a session's events are for. It makes a [`Client`] for each session.
pub trait Application: Send + Sync {
    /// Opens a session, whose handshake is `request`.
    fn open(&self, session: &Arc<Session>, request: &Parts) -> Arc<dyn Client>;
}

/// One session, as the application sees it. The calls for one session come one after the other.
/// They must not block.
pub trait Client: Send + Sync {
    /// The client asks to enter the main namespace; `auth` is its payload as JSON text.
    ///
    /// # Errors
    /// Why it may not, in words for its developer.
    fn connect(&self, auth: Option<&str>) -> Result<(), String>;

    /// The answer to the CONNECT is on its way.
    fn connected(&self);

    /// The client sent an event.
    fn event(&self, event: ClientEvent);

    /// The client has left the namespace, or the session has ended.
    fn disconnected(&self);
}

/// Time limits and sizes.
#[derive(Clone, Copy, Debug)]
pub struct EngineSettings {
    /// Interval of the heartbeat's PING.
    pub ping_interval: Duration,
    /// How long after a PING the client may be silent.
    pub ping_timeout: Duration,
    /// How long a client may be outside the namespace.
    pub connect_timeout: Duration,
    /// How long frames may wait without progress.
    pub slow_after: Duration,
    /// The most bytes of one packet from a client.
    pub max_packet: usize,
    /// The most bytes of a POST.
    pub max_body: usize,
    /// The most polling sessions.
    pub max_polling: usize,
    /// The most polling sessions of one address; `None` = no limit.
    pub max_polling_per_address: Option<usize>,
    /// Packets of one session.
    pub rate: Rate,
}

/// All sessions, and what they share.
pub struct Engine {
    settings: EngineSettings,
    application: Box<dyn Application>,
    backlog: Arc<Backlog>,
    metrics: Arc<Metrics>,
    shards: [Mutex<HashMap<Sid, Arc<Session>>>; SHARDS],
    hasher: RandomState,
    polled: Arc<Polled>,
    start: Instant,
}

impl Engine {
    /// An engine without sessions. What waits for clients counts in `backlog`.
    pub fn new(
        settings: EngineSettings,
        application: impl Application + 'static,
        backlog: Arc<Backlog>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (shards, hasher) = Default::default();
        let (application, start) = (Box::new(application), Instant::now());
        let polled = Polled::new(settings.max_polling, settings.max_polling_per_address);
        Arc::new(Self { settings, application, backlog, metrics, shards, hasher, polled, start })
    }

    /// Milliseconds since the engine was made. Never 0, which stands for "not set".
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn shard(&self, sid: &Sid) -> &Mutex<HashMap<Sid, Arc<Session>>> {
        let hash = self.hasher.hash_one(sid);
        &self.shards[(hash % SHARDS as u64) as usize]
    }

    fn find(&self, sid: &str) -> Option<Arc<Session>> {
        let sid = sid.parse().ok()?;
        self.shard(&sid).lock().get(&sid).cloned()
    }

    fn enter(&self, session: &Arc<Session>) {
        self.shard(&session.sid()).lock().insert(session.sid(), session.clone());
    }

    fn remove(&self, sid: Sid) {
        let removed = self.shard(&sid).lock().remove(&sid);
        drop(removed);
    }
}
