//! The byte stream under HTTP and WebSocket: since when its peer is behind, and how to end it.
//!
//! The engine cannot end a connection whose peer has stopped reading: its writer waits inside a
//! flush for ever. Ending the stream underneath frees it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy, sink},
    runtime::Handle,
    sync::Notify,
    time::{Sleep, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    addresses::Seat,
    backlog::{Backlog, Peer, Share},
    metrics::{Close, Gauge, Metrics},
};

/// For a peer to take our last bytes and to end its side.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that may wait for one client that is behind: a fiftieth of the smallest container that the
/// demo was deployed in (0.2 GB). A number of messages alone would be no bound.
const MAX_WAITING: usize = 4 << 20;

/// Whether more may wait for a peer that is behind. A single message may be larger.
pub fn fits(waiting: usize, more: usize) -> bool {
    waiting == 0 || waiting + more <= MAX_WAITING
}

/// All streams of a listener, so that they can be counted and ended.
pub struct Streams {
    live: Mutex<HashMap<u64, Weak<Control>>>,
    next_id: AtomicU64,
    changed: Notify,
    open: Gauge,
    backlog: Arc<Backlog>,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// None yet; `open` counts those that are, what waits for them counts in `backlog`.
    pub fn new(open: Gauge, backlog: Arc<Backlog>, metrics: Arc<Metrics>) -> Arc<Self> {
        let (live, next_id, changed) = Default::default();
        Arc::new(Self { live, next_id, changed, open, backlog, metrics })
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
            share: streams.backlog.share(),
            seat: Mutex::default(),
            streams: streams.clone(),
            upgraded: AtomicBool::new(false),
            lags: AtomicBool::new(false),
            caught_up: Notify::new(),
            finishing: CancellationToken::new(),
            ended: OnceLock::new(),
            broken: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
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
        self.0.share.clear();
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
    share: Share,
    seat: Mutex<Option<Seat>>,
    /// HTTP is over, the bytes are WebSocket frames.
    upgraded: AtomicBool,
    /// The kernel has not taken all that there is to send.
    lags: AtomicBool,
    caught_up: Notify,
    finishing: CancellationToken,
    ended: OnceLock<Close>,
    /// A write has failed.
    broken: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Control {
    /// The other end of the connection: a viewer, or the proxy before it.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// HTTP has handed the stream over to a WebSocket.
    pub fn set_upgraded(&self) {
        self.upgraded.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// Keeps the seat of the connection's address, until the stream is gone.
    pub fn hold(&self, seat: Option<Seat>) {
        *self.seat.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = seat;
    }

    /// Asks for an end after all that waits has been sent. HTTP sees [`Self::finishing`]; a
    /// WebSocket reads an error, on which the engine sends what waits and closes. (Were it to read
    /// the end of the stream, tungstenite would send nothing more.)
    pub fn finish(&self) {
        self.finishing.cancel();
        self.reader.wake();
    }

    /// Is cancelled when the stream shall end as soon as it can.
    pub fn finishing(&self) -> &CancellationToken {
        &self.finishing
    }

    /// Ends the stream now, counts it and logs it, once.
    pub fn end(&self, reason: Close) {
        if self.ended.set(reason).is_ok() {
            self.streams.metrics.closed(reason).inc();
            if reason != Close::Drain {
                info!(peer = %self.peer, reason = reason.as_str(), "ended a connection");
            }
            self.reader.wake();
            self.writer.wake();
            self.share.clear();
        }
    }

    /// To be told before bytes are handed to whoever writes them. An error says why they are not
    /// to be: the stream has ended, or is to be ended.
    pub fn queue(&self, bytes: usize) -> Result<(), Close> {
        if self.reserve(bytes, fits)? {
            self.share.relieve();
        }
        self.ended().map_or(Ok(()), Err)
    }

    /// As [`Self::queue`], by a rule of the caller's, who also makes room for all where `true` says
    /// so. The rule gets what waits and what is added, and holds while the peer is behind.
    pub fn reserve(
        &self,
        bytes: usize,
        fits: impl Fn(usize, usize) -> bool,
    ) -> Result<bool, Close> {
        if let Some(reason) = self.ended() {
            return Err(reason);
        }
        if self.lags() && !fits(self.share.waiting(), bytes) {
            return Err(Close::QueueFull);
        }
        Ok(self.share.add(bytes))
    }

    /// Why it was ended, if it was.
    pub fn ended(&self) -> Option<Close> {
        self.ended.get().copied()
    }

    /// Whether nothing more gets through.
    fn is_over(&self) -> bool {
        self.ended.get().is_some() || self.broken.load(Ordering::Acquire)
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

    fn reads_the_end(&self) -> bool {
        self.upgraded.load(Ordering::Acquire) && self.finishing.is_cancelled()
    }
}

impl Peer for Control {
    fn share(&self) -> &Share {
        &self.share
    }

    fn end(&self, reason: Close) {
        Self::end(self, reason);
    }
}

/// A byte stream with a stall clock.
///
/// The clock starts when the kernel takes no more of what there is to send, and stops when all of
/// it has been taken (a flush succeeds): then nothing that the peer has not taken is older than
/// the kernel's own buffers, which `TCP_NOTSENT_LOWAT` keeps short. When it reaches `slow_after`,
/// the stream ends.
pub struct Stream<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> {
    /// `None` only while it is dropped: then it may have to linger.
    open: Option<(T, Entry)>,
    control: Arc<Control>,
    slow_after: Duration,
    behind: Option<Pin<Box<Sleep>>>,
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream<T> {
    /// The bytes of a registered connection.
    pub fn new(io: T, entry: Entry, slow_after: Duration) -> Self {
        let control = entry.control().clone();
        Self { open: Some((io, entry)), control, slow_after, behind: None }
    }

    /// What others may ask of this stream.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The bytes, as long as they get through.
    fn io(&mut self) -> Option<Pin<&mut T>> {
        let (io, _) = self.open.as_mut().filter(|_| !self.control.is_over())?;
        Some(Pin::new(io))
    }

    /// What becomes of a write of bytes: those that were taken wait no more.
    fn sent(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<usize>>,
        all: usize,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = poll {
            self.control.share.take(bytes);
        }
        self.written(cx, poll, all)
    }

    /// What becomes of a write. One that is refused starts or asks the clock.
    ///
    /// A write that fails is told to the reader alone, and counts as done: it is the reader that
    /// the engine ends sessions by. A session whose very first write fails would stay for ever.
    fn written<V>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<V>>,
        done: V,
    ) -> Poll<io::Result<V>> {
        match poll {
            Poll::Ready(Ok(value)) => Poll::Ready(Ok(value)),
            Poll::Ready(Err(_)) => {
                self.control.broken.store(true, Ordering::Release);
                self.control.reader.wake();
                Poll::Ready(Ok(done))
            }
            Poll::Pending => {
                self.control.set_lags(true);
                let after = self.slow_after;
                let clock = self.behind.get_or_insert_with(|| Box::pin(sleep(after)));
                ready!(clock.as_mut().poll(cx));
                self.control.end(Close::Slow);
                Poll::Ready(Ok(done))
            }
        }
    }
}

/// A stream that was asked to finish lingers: the peer may still be sending, and bytes that arrive
/// at a closed socket make the kernel reset it, which takes back what was sent last.
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Drop for Stream<T> {
    fn drop(&mut self) {
        let finished = self.control.finishing.is_cancelled() && !self.control.is_over();
        if let (Some((mut io, entry)), Ok(runtime)) = (self.open.take(), Handle::try_current())
            && finished
        {
            runtime.spawn(async move {
                let last_bytes = async {
                    io.shutdown().await?;
                    copy(&mut io, &mut sink()).await
                };
                let _ = timeout(LINGER, last_bytes).await;
                drop(entry);
            });
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "ended by the server")
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncRead for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.control.reader.register(cx.waker());
        let Some(io) = self.io() else { return Poll::Ready(Err(ended())) };
        // What the peer has sent is read first: it may be an answer to what we sent.
        match io.poll_read(cx, buf) {
            Poll::Pending if self.control.reads_the_end() => Poll::Ready(Err(ended())),
            poll => poll,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> AsyncWrite for Stream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.control.writer.register(cx.waker());
        let Some(io) = self.io() else { return Poll::Ready(Ok(buf.len())) };
        let poll = io.poll_write(cx, buf);
        self.sent(cx, poll, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.control.writer.register(cx.waker());
        let all = bufs.iter().map(|buf| buf.len()).sum();
        let Some(io) = self.io() else { return Poll::Ready(Ok(all)) };
        let poll = io.poll_write_vectored(cx, bufs);
        self.sent(cx, poll, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.open.as_ref().is_some_and(|(io, _)| io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.writer.register(cx.waker());
        let Some(io) = self.io() else { return Poll::Ready(Ok(())) };
        let poll = io.poll_flush(cx);
        ready!(self.written(cx, poll, ()))?;
        self.behind = None;
        self.control.set_lags(false);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = self.io() else { return Poll::Ready(Ok(())) };
        io.poll_shutdown(cx)
    }
}
