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

use tokio::sync::{Notify, mpsc::UnboundedSender};
use tracing::info;

use crate::{
    conn::{
        backlog::{Backlog, Peer, Quota},
        stream::{Control, log_end, within_limit},
    },
    metrics::{Close, Metrics, Transport},
};

/// All sessions that began with polling, by sid.
pub struct Sessions {
    by_sid: Mutex<HashMap<Box<str>, Weak<Session>>>,
    /// A polling session lives on for a while without any connection, so it needs a bound of its
    /// own: as many as there may be connections.
    max_polling: usize,
    slow_after: Duration,
    backlog: Arc<Backlog>,
    /// Takes the sids of polling sessions that have been ended; no more than there are sessions.
    ended: UnboundedSender<Box<str>>,
    metrics: Arc<Metrics>,
}

/// One session.
pub struct Session {
    sessions: Arc<Sessions>,
    sid: OnceLock<Box<str>>,
    /// The client can read no binary answers to its polls. It said so at the handshake, and still
    /// means it when a WebSocket has taken over: the last poll's answer is on its way then.
    base64_only: bool,
    carrier: Mutex<Carrier>,
    /// Why its last socket left the namespace, as far as that was not the server's doing.
    left: Mutex<Option<Close>>,
    /// What waits for the next poll; what waits for a WebSocket is its stream's.
    quota: Quota,
    /// A poll has begun, or a WebSocket has taken over.
    resumed: Notify,
}

enum Carrier {
    WebSocket(Arc<Control>),
    Polling(Polling),
}

#[derive(Default)]
struct Polling {
    /// Polls that wait for an answer: 0 or 1 with an honest client.
    open: usize,
    /// Since when something may wait that no poll has come for.
    since: Option<Instant>,
    ended: Option<Close>,
}

impl Sessions {
    /// None yet.
    pub fn new(
        max_polling: usize,
        slow_after: Duration,
        backlog: Arc<Backlog>,
        ended: UnboundedSender<Box<str>>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let by_sid = Mutex::default();
        Arc::new(Self { by_sid, max_polling, slow_after, backlog, ended, metrics })
    }

    /// A session whose handshake comes by WebSocket, over this stream.
    pub fn open_websocket(self: &Arc<Self>, stream: Arc<Control>) -> Arc<Session> {
        self.open(Carrier::WebSocket(stream), false)
    }

    /// A session whose handshake comes by polling; `base64_only` if the client asked for that.
    /// `None` if there are too many.
    pub fn open_polling(self: &Arc<Self>, base64_only: bool) -> Option<Arc<Session>> {
        let polling = self.metrics.sessions(Transport::Polling).get() as usize;
        let carrier = Carrier::Polling(Polling::default());
        (polling < self.max_polling).then(|| {
            let session = self.open(carrier, base64_only);
            self.backlog.enter(&session);
            session
        })
    }

    fn open(self: &Arc<Self>, carrier: Carrier, base64_only: bool) -> Arc<Session> {
        self.metrics.sessions(carrier.transport()).inc();
        let (sid, left, resumed) = Default::default();
        let (sessions, carrier, quota) = (self.clone(), carrier.into(), self.backlog.quota());
        Arc::new(Session { sessions, sid, base64_only, carrier, left, quota, resumed })
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

    /// A WebSocket takes over, unless the session has been ended meanwhile.
    pub fn upgrade(&self, stream: Arc<Control>) {
        let mut carrier = lock(&self.carrier);
        match &*carrier {
            Carrier::Polling(Polling { ended: Some(reason), .. }) => stream.end(*reason),
            Carrier::Polling(_) => {
                // Both are counted already.
                let _ = stream.quota().add(self.quota.clear());
                self.count(&carrier, -1);
                *carrier = Carrier::WebSocket(stream);
                self.count(&carrier, 1);
                self.resumed.notify_waiters();
            }
            Carrier::WebSocket(_) => {}
        }
    }

    /// Whether the client can read no binary answers to its polls.
    pub fn is_base64_only(&self) -> bool {
        self.base64_only
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

    /// To be told before packets of these sizes are queued. An error says why they are not to be:
    /// the session has ended, or is to be ended.
    pub fn queue(&self, packets: impl Iterator<Item = usize>) -> Result<(), Close> {
        self.admit(packets, within_limit)
    }

    /// As [`Self::queue`], for a replay: as much as may be in one comes beside what may wait.
    pub fn queue_replay(&self, packets: impl Iterator<Item = usize>) -> Result<(), Close> {
        self.admit(packets, |waiting, _| within_limit(waiting, 0))
    }

    fn admit(
        &self,
        packets: impl Iterator<Item = usize>,
        within_limit: impl Fn(usize, usize) -> bool,
    ) -> Result<(), Close> {
        let is_too_much = match &mut *lock(&self.carrier) {
            Carrier::WebSocket(stream) => {
                stream.reserve(packets.map(framed).sum(), within_limit)?
            }
            Carrier::Polling(polling) => {
                let bytes = packets.sum();
                polling.check(self.sessions.slow_after)?;
                if polling.open == 0 && !within_limit(self.quota.waiting(), bytes) {
                    return Err(Close::QueueFull);
                }
                self.quota.add(bytes)
            }
        };
        // Not under the lock: it may be this session that has to go.
        if is_too_much {
            self.quota.evict_largest();
            return self.ended().map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// The stream that frames can be pushed to, if the session is carried by one.
    pub fn framed(&self) -> Option<Arc<Control>> {
        match &*lock(&self.carrier) {
            Carrier::WebSocket(stream) if stream.is_framed() => Some(stream.clone()),
            _ => None,
        }
    }

    /// A poll's answer has taken so many bytes.
    pub fn taken(&self, bytes: usize) {
        match &*lock(&self.carrier) {
            Carrier::WebSocket(stream) => stream.quota().take(bytes),
            Carrier::Polling(_) => self.quota.take(bytes),
        }
    }

    /// After how long behind a viewer is ended.
    pub fn slow_after(&self) -> Duration {
        self.sessions.slow_after
    }

    /// Whether what is sent now would wait: the stream is behind, or no poll is there.
    pub fn lags(&self) -> bool {
        lock(&self.carrier).lags()
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

    /// Ends the session: its stream at once, its polls by refusing the next one; the engine is told
    /// to forget it. Counted and logged once. The client takes it for a lost connection and comes
    /// back with a new session.
    pub fn end(&self, reason: Close) {
        match &mut *lock(&self.carrier) {
            Carrier::WebSocket(stream) => stream.end(reason),
            Carrier::Polling(polling) if polling.ended.is_none() => {
                polling.ended = Some(reason);
                self.sessions.metrics.closed(reason).inc();
                self.quota.clear();
                let sid = self.sid.get().cloned().unwrap_or_default();
                let ended = sid.clone();
                log_end(reason, move |left_out, reason| {
                    info!(left_out, sid = ended, reason, "ended a polling session");
                });
                // Nobody listens any more when the server is over.
                let _ = self.sessions.ended.send(sid);
            }
            Carrier::Polling(_) => {}
        }
    }

    /// A socket has left the namespace. If the session ends now, this is why.
    pub fn leave(&self, reason: Close) {
        *lock(&self.left) = Some(reason);
    }

    /// Why it was ended, if it was.
    pub fn ended(&self) -> Option<Close> {
        match &*lock(&self.carrier) {
            Carrier::WebSocket(stream) => stream.ended(),
            Carrier::Polling(polling) => polling.ended,
        }
    }

    fn count(&self, carrier: &Carrier, change: i64) {
        self.sessions.metrics.sessions(carrier.transport()).inc_by(change);
    }
}

impl Peer for Session {
    fn quota(&self) -> &Quota {
        &self.quota
    }

    fn end(&self, reason: Close) {
        Self::end(self, reason);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.count(&lock(&self.carrier), -1);
        // Otherwise it has been counted.
        if self.ended().is_none() {
            let is_stopping = lock(&self.carrier).is_finishing();
            let left = *lock(&self.left);
            let reason =
                if is_stopping { Close::Stop } else { left.unwrap_or(Close::NotConnected) };
            self.sessions.metrics.closed(reason).inc();
        }
        if let Some(sid) = self.sid.get() {
            lock(&self.sessions.by_sid).remove(sid);
        }
    }
}

impl Polling {
    /// Whether the session goes on: it has not been ended, and polls have come.
    fn check(&mut self, slow_after: Duration) -> Result<(), Close> {
        if let Some(reason) = self.ended {
            return Err(reason);
        }
        let late = |since: &mut Instant| since.elapsed() > slow_after;
        if self.open == 0 && late(self.since.get_or_insert_with(Instant::now)) {
            return Err(Close::Slow);
        }
        Ok(())
    }
}

impl Carrier {
    fn lags(&self) -> bool {
        match self {
            Self::WebSocket(stream) => stream.lags(),
            Self::Polling(polling) => polling.open == 0,
        }
    }

    fn is_finishing(&self) -> bool {
        match self {
            Self::WebSocket(stream) => stream.finishing().is_cancelled(),
            Self::Polling(_) => false,
        }
    }

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

/// A packet's bytes as a WebSocket's frame.
fn framed(packet: usize) -> usize {
    packet
        + match packet {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
