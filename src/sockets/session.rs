//! Engine.IO sessions as we see them: which stream or which polls carry one, and how to end it.
//!
//! The engine offers no way to a session's connection, so we keep our own: a session is opened
//! when its handshake passes, and travels inside the request's extensions, which the engine keeps
//! as long as the session. An upgrade is a request with the session's `sid`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tracing::info;

use crate::{
    metrics::{Close, Metrics, Transport},
    stream::Control,
};

/// All sessions that began with polling, by sid.
pub struct Sessions {
    by_sid: Mutex<HashMap<Box<str>, Weak<Session>>>,
    slow_after: Duration,
    metrics: Arc<Metrics>,
}

/// One session.
pub struct Session {
    sessions: Arc<Sessions>,
    sid: OnceLock<Box<str>>,
    carrier: Mutex<Carrier>,
    /// A poll has begun, or a WebSocket has taken over.
    resumed: Notify,
}

enum Carrier {
    WebSocket(Arc<Control>),
    Polling(Polling),
}

struct Polling {
    /// Polls that wait for an answer: 0 or 1 with an honest client.
    open: usize,
    /// Since when something may wait that no poll has come for.
    since: Option<Instant>,
    ended: bool,
}

impl Sessions {
    /// None yet.
    pub fn new(slow_after: Duration, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { by_sid: Mutex::default(), slow_after, metrics })
    }

    /// A session whose handshake comes by WebSocket, over this stream.
    pub fn open_websocket(self: &Arc<Self>, stream: Arc<Control>) -> Arc<Session> {
        self.open(Carrier::WebSocket(stream))
    }

    /// A session whose handshake comes by polling.
    pub fn open_polling(self: &Arc<Self>) -> Arc<Session> {
        self.open(Carrier::Polling(Polling { open: 0, since: None, ended: false }))
    }

    fn open(self: &Arc<Self>, carrier: Carrier) -> Arc<Session> {
        self.metrics.sessions(carrier.transport()).inc();
        let (sid, carrier) = (OnceLock::new(), Mutex::new(carrier));
        Arc::new(Session { sessions: self.clone(), sid, carrier, resumed: Notify::new() })
    }

    /// The session of this name, if it is alive.
    pub fn find(&self, sid: &str) -> Option<Arc<Session>> {
        lock(&self.by_sid).get(sid).and_then(Weak::upgrade)
    }
}

impl Session {
    /// The engine has named the session: it can be found from now on.
    pub fn named(self: &Arc<Self>, sid: &str) {
        if self.sid.set(sid.into()).is_ok() {
            lock(&self.sessions.by_sid).insert(sid.into(), Arc::downgrade(self));
        }
    }

    /// A WebSocket takes over.
    pub fn upgrade(&self, stream: Arc<Control>) {
        self.count(-1);
        *lock(&self.carrier) = Carrier::WebSocket(stream);
        self.count(1);
        self.resumed.notify_waiters();
    }

    /// A poll begins; it ends when the guard is dropped.
    pub fn poll(self: &Arc<Self>) -> Poll {
        if let Carrier::Polling(polling) = &mut *lock(&self.carrier) {
            polling.open += 1;
            polling.since = None;
            self.resumed.notify_waiters();
        }
        Poll(self.clone())
    }

    /// Whether nobody has come for what waits for longer than `SLOW_AFTER`. To be asked whenever
    /// something was queued while polling.
    pub fn is_behind(&self) -> bool {
        match &mut *lock(&self.carrier) {
            Carrier::Polling(Polling { open: 0, since, .. }) => {
                since.get_or_insert_with(Instant::now).elapsed() > self.sessions.slow_after
            }
            _ => false,
        }
    }

    /// After how long behind a viewer is ended.
    pub fn slow_after(&self) -> Duration {
        self.sessions.slow_after
    }

    /// Whether what is sent now would wait: the stream is behind, or no poll is there.
    pub fn lags(&self) -> bool {
        match &*lock(&self.carrier) {
            Carrier::WebSocket(stream) => stream.lags(),
            Carrier::Polling(polling) => polling.open == 0,
        }
    }

    /// Waits until nothing that is sent would wait.
    pub async fn caught_up(&self) {
        loop {
            let resumed = self.resumed.notified();
            let stream = match &*lock(&self.carrier) {
                Carrier::WebSocket(stream) => Some(stream.clone()),
                Carrier::Polling(polling) if polling.open > 0 => return,
                Carrier::Polling(_) => None,
            };
            match stream {
                Some(stream) => return stream.caught_up().await,
                None => resumed.await,
            }
        }
    }

    /// Ends the session: its stream at once, its polls by refusing the next one. Counted and
    /// logged once. The client takes it for a lost connection and comes back with a new session.
    pub fn end(&self, reason: Close) {
        match &mut *lock(&self.carrier) {
            Carrier::WebSocket(stream) => stream.end(reason),
            Carrier::Polling(polling) if !polling.ended => {
                polling.ended = true;
                self.sessions.metrics.closed(reason).inc();
                let sid = self.sid.get().map(|sid| &**sid).unwrap_or_default();
                info!(sid, reason = reason.as_str(), "ended a polling session");
            }
            Carrier::Polling(_) => {}
        }
    }

    /// Whether polls are to be refused.
    pub fn is_ended(&self) -> bool {
        matches!(&*lock(&self.carrier), Carrier::Polling(Polling { ended: true, .. }))
    }

    fn count(&self, change: i64) {
        let transport = lock(&self.carrier).transport();
        self.sessions.metrics.sessions(transport).inc_by(change);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.count(-1);
        if let Some(sid) = self.sid.get() {
            lock(&self.sessions.by_sid).remove(sid);
        }
    }
}

impl Carrier {
    fn transport(&self) -> Transport {
        match self {
            Self::WebSocket(_) => Transport::WebSocket,
            Self::Polling(_) => Transport::Polling,
        }
    }
}

/// A poll under way.
pub struct Poll(Arc<Session>);

impl Drop for Poll {
    fn drop(&mut self) {
        if let Carrier::Polling(polling) = &mut *lock(&self.0.carrier) {
            polling.open = polling.open.saturating_sub(1);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
