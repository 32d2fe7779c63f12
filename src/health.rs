//! What `/readyz` and `/status` tell: whether the source is there, and whether we are draining.

use std::{sync::Mutex, time::Instant};

use serde::Serialize;
use tokio::sync::watch;

use crate::broker::now;

/// The state of the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceState {
    /// Not subscribed yet since the start.
    Connecting,
    /// Messages arrive.
    Subscribed,
    /// The subscription was lost and is being made again.
    Down,
}

/// Whether messages arrive, and since when: what viewers are told by the event `source`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceSignal {
    /// The subscription stands.
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

    /// Whether the subscription stands: the value now, and a wake at each change. The value changes
    /// before [`Self::subscribed`] and [`Self::failed`] return.
    pub fn watch_source(&self) -> watch::Receiver<SourceSignal> {
        self.source.subscribe()
    }

    /// The subscription stands.
    pub fn subscribed(&self) {
        self.change(|inner| {
            if inner.subscribed_once {
                inner.report.reconnects += 1;
            }
            inner.subscribed_once = true;
            inner.enter(SourceState::Subscribed);
            inner.report.error = None;
            self.signal(true);
        });
    }

    /// The subscription does not stand, for this reason; `true` if that is news.
    pub fn failed(&self, error: &str) -> bool {
        self.change(|inner| {
            if inner.report.state == SourceState::Subscribed {
                inner.enter(SourceState::Down);
                self.signal(false);
            }
            let news = inner.report.error.as_deref() != Some(error);
            inner.report.error = Some(error.to_owned());
            news
        })
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

    /// Under the lock of the state, so that both change in the same order.
    fn signal(&self, up: bool) {
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

impl Inner {
    fn enter(&mut self, state: SourceState) {
        self.report.state = state;
        self.since = Instant::now();
    }
}
