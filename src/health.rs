//! What `/readyz` and `/status` tell: whether the source is there, and whether we are draining.

use std::{mem, net::SocketAddr, sync::Mutex, time::Instant};

use serde::Serialize;
use tokio::sync::watch;

use crate::clock::now;

/// The state of the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Not subscribed yet since the start.
    Connecting,
    /// Messages arrive.
    Subscribed,
    /// The subscription stands, but messages may be missing: `error` says why.
    Stale,
    /// The subscription was lost and is being made again.
    Down,
}

/// Whether messages arrive, and since when: what viewers are told by the event `source`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceSignal {
    /// The subscription stands, and all messages arrive.
    pub up: bool,
    /// Since when it does, or does not, in ms since the Unix epoch by the server's clock.
    pub since: u64,
}

/// A look at the source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    /// The state now.
    pub state: SourceState,
    /// Where the source is, without credentials.
    pub address: String,
    /// The patterns subscribed to.
    pub channels: Vec<String>,
    /// For how many seconds the state has lasted.
    pub seconds: u64,
    /// Subscriptions after the first.
    pub reconnects: u64,
    /// What went wrong last; `null` while subscribed.
    pub error: Option<String>,
    /// What is worth knowing though nothing is wrong.
    pub note: Option<String>,
    /// `master`, `replica` or `unknown`, when it was asked last.
    pub role: &'static str,
    /// Of a replica: its master's `host:port`.
    pub master: Option<String>,
    /// The server that was subscribed last.
    #[serde(flatten)]
    pub server: SourceServer,
}

/// A server that was subscribed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceServer {
    /// Which of the name's addresses it has; `null` for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Redis' name for the process; `null` if it is not told.
    pub run_id: Option<String>,
    /// Its version; `null` if it is not told.
    pub version: Option<String>,
    /// It has all messages: it is no replica without its master.
    #[serde(skip)]
    pub is_complete: bool,
}

/// Shared by those who know (the source, the drain) and those who are asked (the admin listener).
pub struct Health {
    inner: Mutex<Inner>,
    source: watch::Sender<SourceSignal>,
}

struct Inner {
    report: SourceReport,
    since: Instant,
    subscribed_once: bool,
    draining: bool,
    failure: Option<String>,
}

impl Health {
    /// Of a source that is yet to be reached.
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
        let inner = Inner {
            report,
            since: Instant::now(),
            subscribed_once: false,
            draining: false,
            failure: None,
        };
        let source = watch::Sender::new(SourceSignal { up: false, since: now() });
        Self { inner: Mutex::new(inner), source }
    }

    /// Whether all messages arrive: the value now, and a wake at each change. The value changes
    /// before the call that changes it, such as [`Self::subscribed`], returns.
    pub fn watch_source(&self) -> watch::Receiver<SourceSignal> {
        self.source.subscribe()
    }

    /// The subscription stands at this server.
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

    /// The subscription stands, but messages may be missing for this reason; `true` if that is news.
    pub fn stale(&self, error: &str) -> bool {
        self.change(|inner| {
            if inner.report.state == SourceState::Subscribed {
                self.enter(inner, SourceState::Stale);
            }
            inner.report.error(error)
        })
    }

    /// Messages are complete again; `true` if that is news.
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

    /// The subscription does not stand, for this reason; `true` if that is news.
    pub fn failed(&self, error: &str) -> bool {
        self.change(|inner| {
            if matches!(inner.report.state, SourceState::Subscribed | SourceState::Stale) {
                self.enter(inner, SourceState::Down);
            }
            inner.report.error(error)
        })
    }

    /// The watched server's place among masters and replicas.
    pub fn role(&self, role: &'static str, master: Option<String>) {
        self.change(|inner| (inner.report.role, inner.report.master) = (role, master));
    }

    /// What is worth knowing, if anything; returned if that is news.
    pub fn note(&self, note: Option<String>) -> Option<String> {
        self.change(|inner| {
            let before = mem::replace(&mut inner.report.note, note.clone());
            note.filter(|note| before.as_ref() != Some(note))
        })
    }

    /// Whether the subscription has stood since the start.
    pub fn has_subscribed(&self) -> bool {
        self.change(|inner| inner.subscribed_once)
    }

    /// The server is stopping.
    pub fn drain(&self) {
        self.change(|inner| inner.draining = true);
    }

    /// Whether the server is stopping.
    pub fn draining(&self) -> bool {
        self.change(|inner| inner.draining)
    }

    /// A core task has failed: the process is about to end. The first failure counts.
    pub fn fail(&self, failure: &str) {
        self.change(|inner| inner.failure.get_or_insert(failure.to_owned()).len());
    }

    /// What has failed, if anything has.
    pub fn failure(&self) -> Option<String> {
        self.change(|inner| inner.failure.clone())
    }

    /// Whether traffic may be sent here: subscribed once since the start and not draining. A later
    /// outage of Redis does not count, or a platform would cut off every viewer because of it.
    pub fn ready(&self) -> bool {
        self.change(|inner| inner.subscribed_once && !inner.draining && inner.failure.is_none())
    }

    /// Subscriptions after the first.
    pub fn reconnects(&self) -> u64 {
        self.change(|inner| inner.report.reconnects)
    }

    /// A look at the source now.
    pub fn source(&self) -> SourceReport {
        self.change(|inner| {
            let seconds = inner.since.elapsed().as_secs();
            SourceReport { seconds, ..inner.report.clone() }
        })
    }

    /// The state and the signal change under one lock, so in the same order.
    fn enter(&self, inner: &mut Inner, state: SourceState) {
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

    fn change<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        f(&mut inner)
    }
}

impl SourceReport {
    /// `true` if the error is another one.
    fn error(&mut self, error: &str) -> bool {
        let is_news = self.error.as_deref() != Some(error);
        self.error = Some(error.to_owned());
        is_news
    }
}
