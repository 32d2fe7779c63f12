//! The state behind `/livez`, `/readyz` and `/status`: the source, the core tasks and the drain.

use std::{mem, net::SocketAddr, time::Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::now;

/// The state of the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// The server has not subscribed yet since its start.
    Connecting,
    /// The server is subscribed, and all messages arrive.
    Subscribed,
    /// The server is subscribed, but messages may be missing; `error` says why.
    Stale,
    /// The subscription was lost, and the server is trying to subscribe again.
    Down,
}

/// Whether all messages arrive, and since when. Clients receive it as the event `source`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceSignal {
    /// The server is subscribed, and all messages arrive.
    pub up: bool,
    /// When `up` changed last, in ms since the Unix epoch by the server's clock.
    pub since: u64,
}

/// The state of the source at one moment, as `/status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    /// State of the subscription.
    pub state: SourceState,
    /// Address of the source, without credentials.
    pub address: String,
    /// Patterns of channels that are subscribed to.
    pub channels: Vec<String>,
    /// Seconds since the state was entered.
    pub seconds: u64,
    /// Number of subscriptions after the first.
    pub reconnects: u64,
    /// The last error; `null` while subscribed.
    pub error: Option<String>,
    /// A remark that is no error, such as an address that leads to several servers of one
    /// replication; `null` if there is none.
    pub note: Option<String>,
    /// Role of the server at the last probe: `master`, `replica` or `unknown`.
    pub role: &'static str,
    /// For a replica, its master's `host:port`.
    pub master: Option<String>,
    /// The Redis server of the latest subscription.
    #[serde(flatten)]
    pub server: SourceServer,
}

/// A Redis server that the subscription was made on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceServer {
    /// Its address, one of those that the host name resolves to; `null` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Redis' `run_id` of the process; `null` if unknown.
    pub run_id: Option<String>,
    /// Redis' version; `null` if unknown.
    pub version: Option<String>,
    /// Whether it gets all messages: it is not a replica that has lost its master.
    #[serde(skip)]
    pub is_complete: bool,
}

/// Health of the server, shared by the tasks that report it (source, drain, core tasks) and the
/// routes that answer with it.
///
/// Created before any task starts. The source moves between the states of [`SourceState`]; draining
/// and failure are final. All methods take one short lock and never wait.
pub struct Health {
    inner: Mutex<HealthState>,
    source: watch::Sender<SourceSignal>,
}

struct HealthState {
    report: SourceReport,
    since: Instant,
    subscribed_once: bool,
    draining: bool,
    failure: Option<String>,
}

impl Health {
    /// Starts in the state `connecting`.
    pub fn new(address: String, channels: Vec<String>) -> Self {
        let report = SourceReport {
            state: SourceState::Connecting,
            address,
            channels,
            seconds: 0,
            reconnects: 0,
            error: None,
            note: None,
            role: "unknown",
            master: None,
            server: SourceServer::default(),
        };
        let inner = HealthState {
            report,
            since: Instant::now(),
            subscribed_once: false,
            draining: false,
            failure: None,
        };
        let source = watch::Sender::new(SourceSignal { up: false, since: now() });
        Self { inner: Mutex::new(inner), source }
    }

    /// Returns a receiver of whether all messages arrive: it has the current value and is woken at
    /// each change. A call that changes the value, such as [`Self::subscribed`], does so before it
    /// returns.
    pub fn watch_source(&self) -> watch::Receiver<SourceSignal> {
        self.source.subscribe()
    }

    /// Reports a new subscription, on this Redis server.
    pub fn subscribed(&self, server: SourceServer) {
        self.change(|inner| {
            if inner.subscribed_once {
                inner.report.reconnects += 1;
            }
            inner.subscribed_once = true;
            let is_complete = server.is_complete;
            inner.report.server = server;
            let state = if is_complete { SourceState::Subscribed } else { SourceState::Stale };
            self.enter(inner, state);
            inner.report.error = None;
        });
    }

    /// Reports that messages may be missing although there is a subscription. Returns whether the
    /// error differs from the previous one.
    pub fn stale(&self, error: &str) -> bool {
        self.change(|inner| {
            if inner.report.state == SourceState::Subscribed {
                self.enter(inner, SourceState::Stale);
            }
            inner.report.error(error)
        })
    }

    /// Reports that all messages arrive again. Returns whether the state was `stale`.
    pub fn restored(&self) -> bool {
        self.change(|inner| {
            let is_news = inner.report.state == SourceState::Stale;
            if is_news {
                self.enter(inner, SourceState::Subscribed);
                inner.report.error = None;
            }
            is_news
        })
    }

    /// Reports that there is no subscription. Returns whether the error differs from the previous
    /// one.
    pub fn failed(&self, error: &str) -> bool {
        self.change(|inner| {
            if matches!(inner.report.state, SourceState::Subscribed | SourceState::Stale) {
                self.enter(inner, SourceState::Down);
            }
            inner.report.error(error)
        })
    }

    /// Reports the role of the subscribed server.
    pub fn role(&self, role: &'static str, master: Option<String>) {
        self.change(|inner| (inner.report.role, inner.report.master) = (role, master));
    }

    /// Sets or clears the remark. Returns it if it differs from the previous one.
    pub fn note(&self, note: Option<String>) -> Option<String> {
        self.change(|inner| {
            let before = mem::replace(&mut inner.report.note, note.clone());
            note.filter(|note| before.as_ref() != Some(note))
        })
    }

    /// Whether there was a subscription since the start.
    pub fn has_subscribed(&self) -> bool {
        self.change(|inner| inner.subscribed_once)
    }

    /// Marks the server as draining, so that it is not ready any more.
    pub fn drain(&self) {
        self.change(|inner| inner.draining = true);
    }

    /// Whether the server is draining.
    pub fn draining(&self) -> bool {
        self.change(|inner| inner.draining)
    }

    /// Reports that a core task has failed and the process will end. The first failure is kept.
    pub fn fail(&self, failure: &str) {
        self.change(|inner| inner.failure.get_or_insert(failure.to_owned()).len());
    }

    /// Returns the failure of a core task, if there was one.
    pub fn failure(&self) -> Option<String> {
        self.change(|inner| inner.failure.clone())
    }

    /// Whether the server can take traffic: it has subscribed once since its start, is not
    /// draining, and no core task has failed. A later outage of Redis does not count: otherwise a
    /// platform would disconnect all clients because of it.
    pub fn ready(&self) -> bool {
        self.change(|inner| inner.subscribed_once && !inner.draining && inner.failure.is_none())
    }

    /// Returns the number of subscriptions after the first.
    pub fn reconnects(&self) -> u64 {
        self.change(|inner| inner.report.reconnects)
    }

    /// Returns the state of the source now.
    pub fn source(&self) -> SourceReport {
        self.change(|inner| {
            let seconds = inner.since.elapsed().as_secs();
            SourceReport { seconds, ..inner.report.clone() }
        })
    }

    /// Changes the state and sends the signal. The caller holds the lock, so both change in the
    /// same order.
    fn enter(&self, inner: &mut HealthState, state: SourceState) {
        inner.report.state = state;
        inner.since = Instant::now();
        let up = state == SourceState::Subscribed;
        self.source.send_if_modified(|signal| {
            let changed = signal.up != up;
            if changed {
                *signal = SourceSignal { up, since: now() };
            }
            changed
        });
    }

    fn change<T>(&self, f: impl FnOnce(&mut HealthState) -> T) -> T {
        let mut inner = self.inner.lock();
        f(&mut inner)
    }
}

impl SourceReport {
    /// Sets the error; returns whether it differs from the previous one.
    fn error(&mut self, error: &str) -> bool {
        let is_news = self.error.as_deref() != Some(error);
        self.error = Some(error.to_owned());
        is_news
    }
}
