//! The byte stream under HTTP and WebSocket: since when its peer is behind, and how to end it.
//!
//! The engine cannot end a connection whose peer has stopped reading: its writer waits inside a
//! flush for ever. Ending the stream underneath frees it.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::{
    sync::Notify,
    task::unconstrained,
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    conn::{
        addresses::IpPermit,
        backlog::{Backlog, Peer, Quota},
    },
    log_limit::LogLimit,
    metrics::{Close, Gauge, Metrics},
};

mod poll;
mod wire;

pub use poll::Stream;
use wire::Wire;
pub use wire::{FENCE, Io};

/// Bytes that may wait for one client that is behind: a fiftieth of the smallest container that the
/// demo was deployed in (0.2 GB). A number of messages alone would be no bound.
const MAX_WAITING: usize = 4 << 20;

/// Batches of frames that may wait for one client; each is a message, or some of one room.
const MAX_BATCHES: usize = 4096;

/// Whether more may wait for a peer that is behind. A single message may be larger.
pub fn within_limit(waiting: usize, more: usize) -> bool {
    waiting == 0 || waiting + more <= MAX_WAITING
}

/// Lines a minute about ends for one reason: enough to see whether they are of one peer.
const LINES: u32 = 5;

/// For each reason, so that many ends of one kind hide none of another.
static ENDS: [LogLimit; Close::NAMES.len()] = [const { LogLimit::new(LINES) }; Close::NAMES.len()];

/// Logs that the server has ended something; `write` gets how many such lines were left out before
/// it, and the reason's name.
pub fn log_end(reason: Close, write: impl FnOnce(Option<u64>, &'static str) + Send + 'static) {
    // At the end of a drain all of them are ended: one line there tells.
    if reason != Close::Drain {
        ENDS[reason as usize].line(move |left_out| write(left_out, reason.as_str()));
    }
}

/// All streams of a listener, so that they can be counted and ended.
pub struct Streams {
    live: Mutex<HashMap<u64, Weak<Control>>>,
    next_id: AtomicU64,
    changed: Notify,
    open: Gauge,
    backlog: Arc<Backlog>,
    metrics: Arc<Metrics>,
    /// Whether streams that are to finish have to wait.
    hold: OnceLock<Hold>,
}

/// Says whether messages are being handed on.
type Hold = Box<dyn Fn() -> bool + Send + Sync>;

impl Streams {
    /// None yet; `open` counts those that are, what waits for them counts in `backlog`.
    pub fn new(open: Gauge, backlog: Arc<Backlog>, metrics: Arc<Metrics>) -> Arc<Self> {
        let (live, next_id, changed, hold) = Default::default();
        Arc::new(Self { live, next_id, changed, open, backlog, metrics, hold })
    }

    /// From now on, no stream finishes while `busy` says so, unless it is to hurry: a message that
    /// is being handed on may not have come to it yet.
    pub fn hold_while(&self, busy: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.hold.set(Box::new(busy));
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All that are open.
    pub fn all(&self) -> Vec<Arc<Control>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Waits until none is open.
    pub async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Control>>> {
        self.live.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A connection's place among the streams, from the moment it is accepted: handshakes count too.
pub struct Entry(Arc<Control>);

impl Entry {
    /// Registers a connection.
    pub fn new(peer: SocketAddr, streams: &Arc<Streams>) -> Self {
        let id = streams.next_id.fetch_add(1, Ordering::Relaxed);
        let control = Arc::new(Control {
            id,
            peer,
            quota: streams.backlog.quota(),
            permit: Mutex::default(),
            streams: streams.clone(),
            upgraded: AtomicBool::new(false),
            lags: AtomicBool::new(false),
            caught_up: Notify::new(),
            finishing: CancellationToken::new(),
            ended: OnceLock::new(),
            broken: AtomicBool::new(false),
            tasks: Arc::default(),
            line: Mutex::default(),
            framed: AtomicBool::new(false),
            between_polls: AtomicBool::new(false),
            hurries: AtomicBool::new(false),
            finishes: AtomicBool::new(false),
            changed: Notify::new(),
        });
        streams.lock().insert(id, Arc::downgrade(&control));
        streams.open.inc();
        streams.backlog.enter(&control);
        Self(control)
    }

    /// What others may ask of the connection.
    pub fn control(&self) -> &Arc<Control> {
        &self.0
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Not when the control is dropped: a session may keep that for longer.
        let streams = &self.0.streams;
        streams.lock().remove(&self.0.id);
        streams.open.dec();
        self.0.quota.clear();
        self.0.hold(None);
        self.0.set_lags(false);
        streams.changed.notify_waiters();
    }
}

/// What others may ask of a stream. It does not keep the stream open.
pub struct Control {
    id: u64,
    peer: SocketAddr,
    streams: Arc<Streams>,
    quota: Quota,
    permit: Mutex<Option<IpPermit>>,
    /// HTTP is over, the bytes are WebSocket frames.
    upgraded: AtomicBool,
    /// The kernel has not taken all that there is to send.
    lags: AtomicBool,
    caught_up: Notify,
    finishing: CancellationToken,
    ended: OnceLock<Close>,
    /// A write has failed.
    broken: AtomicBool,
    tasks: Arc<Tasks>,
    /// As long as the stream is there.
    line: Mutex<Option<Line>>,
    /// The engine writes frames.
    framed: AtomicBool,
    /// A poll has been answered, and the client has not sent the next one yet.
    between_polls: AtomicBool,
    /// It finishes also while messages are being handed on.
    hurries: AtomicBool,
    /// Its end has begun.
    finishes: AtomicBool,
    /// A poll has begun, or it was asked to finish.
    changed: Notify,
}

/// The bytes, and how long their peer may be behind.
struct Line {
    wire: Wire,
    /// How many the engine has been given.
    fences: u64,
    waker: Waker,
    slow_after: Duration,
    /// The stall clock, and in which of the wire's rounds it started: when the kernel took no more
    /// of what there was to send. It stops when all of that has been taken: then nothing that the
    /// peer has not taken is older than the kernel's own buffers, which `TCP_NOTSENT_LOWAT` keeps
    /// short. When it has run for `slow_after`, the stream ends.
    behind: Option<(Pin<Box<Sleep>>, u64)>,
}

/// Something that writes.
trait Write<V>: FnOnce(&mut Wire, &mut Context<'_>) -> Poll<io::Result<V>> {}
impl<V, F: FnOnce(&mut Wire, &mut Context<'_>) -> Poll<io::Result<V>>> Write<V> for F {}

/// Who reads and who writes: bytes that can go on may be either's, or nobody's but ours, which who
/// reads then writes.
#[derive(Default)]
struct Tasks {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Wake for Tasks {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.reader.wake();
        self.writer.wake();
    }
}

impl Control {
    /// The other end of the connection: a viewer, or the proxy before it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The answer to an upgrade comes next, the last of HTTP.
    pub fn set_upgrading(&self) {
        if let Some(line) = &mut *self.line() {
            line.wire.upgrading();
        }
    }

    /// HTTP has handed the stream over to a WebSocket.
    pub fn set_upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
        self.tasks.reader.wake();
    }

    /// A poll has come over this connection.
    pub fn poll_begins(&self) {
        self.between_polls.store(false, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// It is answered.
    pub fn poll_ends(&self) {
        self.between_polls.store(true, Ordering::Release);
    }

    /// Waits for the next poll, if the client is between two of them.
    pub async fn next_poll(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.between_polls.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }

    /// Keeps the seat of the connection's address, until the stream is gone.
    pub fn hold(&self, permit: Option<IpPermit>) {
        *self.permit.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = permit;
    }

    /// Asks for an end after all that waits has been sent. HTTP sees [`Self::finishing`]; a
    /// WebSocket reads an error, on which the engine sends what waits and closes. (Were it to read
    /// the end of the stream, tungstenite would send nothing more.) A stream that is held has to be
    /// asked again.
    pub fn finish(&self) {
        self.finishing.cancel();
        self.tasks.reader.wake();
        self.changed.notify_waiters();
    }

    /// The same, also while messages are being handed on.
    pub fn finish_at_once(&self) {
        self.hurries.store(true, Ordering::Release);
        self.finish();
    }

    /// Waits until the stream is to finish, and nothing holds it.
    pub async fn finishes(&self) {
        self.finishing.cancelled().await;
        loop {
            let changed = self.changed.notified();
            if self.may_finish() {
                return;
            }
            changed.await;
        }
    }

    fn may_finish(&self) -> bool {
        let is_held = || self.streams.hold.get().is_some_and(|busy| busy());
        let may_finish =
            self.finishing.is_cancelled() && (self.hurries.load(Ordering::Acquire) || !is_held());
        if may_finish {
            self.finishes.store(true, Ordering::Release);
        }
        may_finish
    }

    /// Whether it was asked to finish, and is held.
    pub fn is_held(&self) -> bool {
        !self.finishes.load(Ordering::Acquire) && self.streams.lock().contains_key(&self.id)
    }

    /// Is cancelled when the stream shall end as soon as it can.
    pub fn finishing(&self) -> &CancellationToken {
        &self.finishing
    }

    /// Ends the stream now, counts it and logs it, once.
    pub fn end(&self, reason: Close) {
        if self.ended.set(reason).is_ok() {
            self.streams.metrics.closed(reason).inc();
            let peer = self.peer;
            log_end(reason, move |left_out, reason| {
                info!(left_out, %peer, reason, "ended a connection");
            });
            self.tasks.wake_by_ref();
            self.quota.clear();
        }
    }

    /// To be told before bytes are handed to whoever writes them. An error says why they are not
    /// to be: the stream has ended, or is to be ended.
    pub fn queue(&self, bytes: usize) -> Result<(), Close> {
        if self.reserve(bytes, within_limit)? {
            self.quota.evict_largest();
        }
        self.ended().map_or(Ok(()), Err)
    }

    /// As [`Self::queue`], by a rule of the caller's, who also makes room for all where `true` says
    /// so. The rule gets what waits and what is added, and holds while the peer is behind.
    pub fn reserve(
        &self,
        bytes: usize,
        within_limit: impl Fn(usize, usize) -> bool,
    ) -> Result<bool, Close> {
        if let Some(reason) = self.ended() {
            return Err(reason);
        }
        if self.lags() && !within_limit(self.quota.waiting(), bytes) {
            return Err(Close::QueueFull);
        }
        Ok(self.quota.add(bytes))
    }

    /// Whether frames can be pushed.
    pub fn is_framed(&self) -> bool {
        self.framed.load(Ordering::Acquire)
    }

    /// Gives the engine a fence, by `emit`: frames that are pushed from now on come after all that
    /// it was given before. With `first`, only if there has been none.
    pub fn fence<E>(&self, first: bool, emit: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut line = self.line();
        if let Some(line) = line.as_mut().filter(|line| !first || line.fences == 0) {
            emit()?;
            line.fences += 1;
        }
        Ok(())
    }

    /// Writes WebSocket frames between those of the engine, or lets them wait. The answer is that
    /// of [`Self::reserve`].
    pub fn push(&self, frames: &Bytes) -> Result<bool, Close> {
        if let Some(reason) = self.ended() {
            return Err(reason);
        }
        let mut line = self.line();
        // If there is none, its end is on the way to who pushes.
        let Some(line) = line.as_mut().filter(|_| !self.is_over()) else { return Ok(false) };
        let (mut rest, after) = (frames.clone(), line.fences);
        let _ = self.write_on(line, (), |wire, cx| {
            // Who pushes serves many: tokio's budget for a task would run out at each 128th of them,
            // and tell that as if the kernel took no more.
            pin!(unconstrained(poll_fn(|cx| wire.try_write(cx, &mut rest, after)))).poll(cx)
        });
        if rest.is_empty() || self.is_over() {
            return Ok(false);
        }
        let is_far_behind = self.lags() && !within_limit(self.quota.waiting(), rest.len());
        if is_far_behind || line.wire.waiting() == MAX_BATCHES {
            // At once: half of the first frame may have been written.
            self.end(Close::QueueFull);
            return Err(Close::QueueFull);
        }
        let bytes = rest.len();
        line.wire.add(rest, after);
        Ok(self.quota.add(bytes))
    }

    /// Why it was ended, if it was.
    pub fn ended(&self) -> Option<Close> {
        self.ended.get().copied()
    }

    /// Whether a write has failed.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Whether nothing more gets through.
    fn is_over(&self) -> bool {
        self.ended.get().is_some() || self.is_broken()
    }

    /// Whether the peer is behind at the moment.
    pub fn lags(&self) -> bool {
        self.lags.load(Ordering::Acquire)
    }

    /// Waits until the peer is not behind, or gone.
    pub async fn caught_up(&self) {
        loop {
            let caught_up = self.caught_up.notified();
            if !self.lags() {
                return;
            }
            caught_up.await;
        }
    }

    fn set_lags(&self, lags: bool) {
        if self.lags.swap(lags, Ordering::AcqRel) && !lags {
            self.caught_up.notify_waiters();
        }
    }

    fn line(&self) -> MutexGuard<'_, Option<Line>> {
        self.line.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Writes, as long as bytes get through; `done` is what all of it would be.
    fn write<V>(&self, done: V, write: impl Write<V>) -> Poll<io::Result<V>> {
        match self.line().as_mut().filter(|_| !self.is_over()) {
            Some(line) => self.write_on(line, done, write),
            None => Poll::Ready(Ok(done)),
        }
    }

    /// Writes what waits, as far as that is possible; with nothing left, the peer is not behind.
    fn write_waiting(&self, line: &mut Line) {
        let waits = self.lags() || line.wire.waiting() > 0;
        if waits
            && !self.is_over()
            && self.write_on(line, (), Wire::poll_waiting).is_ready()
            && line.wire.is_flushed()
        {
            line.behind = None;
            self.set_lags(false);
        }
    }

    fn write_on<V>(&self, line: &mut Line, done: V, write: impl Write<V>) -> Poll<io::Result<V>> {
        let poll = write(&mut line.wire, &mut Context::from_waker(&line.waker));
        self.quota.take(line.wire.taken());
        self.written(line, poll, done)
    }

    /// What becomes of a write. One that is refused starts or asks the clock.
    ///
    /// A write that fails is told to the reader alone, and counts as done: it is the reader that
    /// the engine ends sessions by. A session whose very first write fails would stay for ever.
    fn written<V>(
        &self,
        line: &mut Line,
        poll: Poll<io::Result<V>>,
        done: V,
    ) -> Poll<io::Result<V>> {
        match poll {
            Poll::Ready(Ok(value)) => Poll::Ready(Ok(value)),
            Poll::Ready(Err(_)) => {
                self.broken.store(true, Ordering::Release);
                self.tasks.reader.wake();
                Poll::Ready(Ok(done))
            }
            Poll::Pending => {
                self.set_lags(true);
                let (after, round) = (line.slow_after, line.wire.rounds());
                let (clock, since) =
                    line.behind.get_or_insert_with(|| (Box::pin(sleep(after)), round));
                if *since != round {
                    clock.as_mut().reset(Instant::now() + after);
                    *since = round;
                }
                ready!(clock.as_mut().poll(&mut Context::from_waker(&line.waker)));
                self.end(Close::Slow);
                Poll::Ready(Ok(done))
            }
        }
    }

    fn reads_the_end(&self) -> bool {
        self.upgraded.load(Ordering::Acquire) && self.may_finish()
    }
}

impl Peer for Control {
    fn quota(&self) -> &Quota {
        &self.quota
    }

    fn end(&self, reason: Close) {
        Self::end(self, reason);
    }
}

#[cfg(test)]
mod tests;
