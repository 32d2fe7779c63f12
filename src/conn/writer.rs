//! The one way out of a session: a queue of whole WebSocket frames, and the socket behind it.
//!
//! A push writes straight to the kernel if nothing waits, once and at most 64 KiB; what is left
//! waits in the queue, which the task that owns the connection writes on when the socket is
//! writable. The order of the frames is the order of the pushes.
//!
//! Two locks keep pushes from waiting for each other. The queue's lock is held for a few
//! instructions, never during a system call. The socket's lock is held while it is read or written;
//! a push only tries it, and queues its frames if another task has it. Whoever holds the socket's
//! lock may take the queue's, not the other way round.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::Instant};

use super::{
    backlog::{Backlog, Peer, Quota},
    socket::Socket,
};
use crate::metrics::Close;

mod queue;

pub use queue::PORTION;
use queue::{MAX_WRITE, Queue, QueueState};

/// Bytes that may wait for one client that is behind: a fiftieth of the smallest container that the
/// demo was deployed in (0.2 GB). A number of messages alone would be no bound.
const MAX_WAITING: usize = 4 << 20;
/// Batches of frames that may wait for one client; each is a message, or some of one room.
const MAX_BATCHES: usize = 4096;
/// System calls in one turn of the connection's task.
const MAX_ROUNDS: usize = 16;

/// Whether `more` bytes may wait for a client that is behind, besides the `waiting` ones. A single
/// message may be larger than the limit.
pub fn within_limit(waiting: usize, more: usize) -> bool {
    waiting == 0 || waiting + more <= MAX_WAITING
}

/// The outbound queue of one session, and its socket once it has one.
///
/// Without a socket, frames wait until a poll takes them ([`take`](Self::take)). The task that owns
/// the connection [attaches](Self::attach) the socket and then calls [`poll_flush`](Self::poll_flush)
/// whenever it is woken.
pub struct Writer {
    queue: Mutex<Queue>,
    socket: Mutex<Option<Socket>>,
    /// The task that owns the connection.
    task: AtomicWaker,
    /// Frames wait for a poll, or nothing waits any more.
    changed: Notify,
    owner: Weak<dyn Peer>,
    backlog: Arc<Backlog>,
    /// Counts what waits. Most clients never need one.
    quota: OnceLock<Quota>,
}

impl Writer {
    /// An empty queue without a socket. What waits counts in `backlog`, which may end `owner`.
    pub fn new(owner: Weak<dyn Peer>, backlog: Arc<Backlog>) -> Self {
        let (queue, socket, task, changed, quota) = Default::default();
        Self { queue, socket, task, changed, owner, backlog, quota }
    }

    /// Writes whole frames, or lets them wait. Returns `false` if they are not accepted any more,
    /// because the client is being disconnected.
    ///
    /// # Errors
    /// Why the client has to be disconnected.
    pub fn push(&self, frames: &Bytes) -> Result<bool, Close> {
        let queue = self.queue.lock();
        if queue.state == QueueState::Attached && queue.waiting.is_empty() {
            // Not under the queue's lock: another push would wait for the system call.
            if let Some(socket) = self.socket.try_lock() {
                drop(queue);
                return self.write_through(socket, frames);
            }
        }
        self.enqueue(queue, frames.clone(), within_limit)
    }

    /// Lets what is pushed wait as long as the guard lives: many answers are then written at once. The
    /// caller flushes afterwards.
    pub fn hold(&self) -> impl Sized + '_ {
        self.socket.lock()
    }

    /// Sends a heartbeat. If it has to wait for a poll, it does not count as a message that the client
    /// is too slow for: the heartbeat has a time limit of its own.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn push_heartbeat(&self, frame: &Bytes) -> Result<bool, Close> {
        let stalled = self.queue.lock().stalled;
        let pushed = self.push(frame);
        let mut queue = self.queue.lock();
        if queue.state == QueueState::Detached && queue.waiting.len() <= 1 {
            queue.stalled = stalled;
        }
        pushed
    }

    /// Lets frames wait behind all others, by a rule of the caller's instead of the usual one: it
    /// gets the bytes that wait and the bytes that are added.
    ///
    /// # Errors
    /// Why the client has to be disconnected.
    pub fn push_if(
        &self,
        frames: Bytes,
        fits: impl FnOnce(usize, usize) -> bool,
    ) -> Result<bool, Close> {
        self.enqueue(self.queue.lock(), frames, fits)
    }

    /// Adds the last frames. Later ones are not accepted.
    pub fn close(&self, last: Bytes) {
        let mut queue = self.queue.lock();
        if !matches!(queue.state, QueueState::Closing | QueueState::Closed) {
            // If this exceeds the total, the next push makes room.
            let _is_too_much = self.quota().add(last.len());
            queue.waiting.push_back(last);
            queue.state = QueueState::Closing;
            // A client that does not read its end is as slow as any other.
            queue.stalled.get_or_insert_with(Instant::now);
        }
        drop(queue);
        self.wake();
    }

    /// Accepts nothing more and forgets what waits. With `last`, these frames are written if the
    /// kernel takes them at once and no other frame has been written in part.
    pub fn abort(&self, last: Option<&Bytes>) {
        let mut queue = self.queue.lock();
        let may_write = !queue.is_cut && queue.state != QueueState::Closed;
        queue.state = QueueState::Closed;
        queue.waiting = VecDeque::new();
        queue.stalled = None;
        drop(queue);
        if let Some(quota) = self.quota.get() {
            quota.clear();
        }
        if let Some(last) = last.filter(|_| may_write)
            && let Some(mut socket) = self.socket.try_lock()
            && let Some(socket) = &mut *socket
        {
            // The connection is closed next in any case.
            socket.try_write(&[IoSlice::new(last)]).ok();
        }
        self.wake();
    }

    /// Puts a socket behind the queue: what waits is written to it, and no poll gets it any more.
    pub fn attach(&self, socket: Socket) {
        let mut place = self.socket.lock();
        let mut queue = self.queue.lock();
        if matches!(queue.state, QueueState::Detached | QueueState::Polled) {
            queue.state = QueueState::Attached;
        }
        queue.has_socket = true;
        *place = Some(socket);
        drop((place, queue));
        self.changed.notify_waiters();
    }

    /// Takes the socket out.
    pub fn detach(&self) -> Option<Socket> {
        self.socket.lock().take()
    }

    /// Says whether a poll waits for frames.
    pub fn set_polled(&self, is_polled: bool) {
        let mut queue = self.queue.lock();
        queue.state = match queue.state {
            QueueState::Detached | QueueState::Polled if is_polled => QueueState::Polled,
            QueueState::Detached | QueueState::Polled => {
                queue.stalled = (!queue.waiting.is_empty()).then(Instant::now);
                QueueState::Detached
            }
            state => state,
        };
        if is_polled {
            queue.stalled = None;
            drop(queue);
            self.changed.notify_waiters();
        }
    }

    /// Takes batches of frames for a poll, as long as they have `max` bytes together; at least one,
    /// if one waits, and none once there is a socket, to which they go. The last frames of all come
    /// alone: a client that reads the end of its session does not hand on what came with it. They count
    /// as waiting until [`taken`](Self::taken) is called.
    pub fn take(&self, max: usize) -> Vec<Bytes> {
        let mut queue = self.queue.lock();
        let taken = queue.take(max);
        let is_drained = queue.waiting.is_empty();
        drop(queue);
        if is_drained && !taken.is_empty() {
            self.changed.notify_waiters();
        }
        taken
    }

    /// Subtracts bytes that do not wait in this queue any more.
    pub fn taken(&self, bytes: usize) {
        if let Some(quota) = self.quota.get() {
            quota.take(bytes);
        }
    }

    /// Whether no frame waits, and the kernel has taken all bytes.
    pub fn is_drained(&self) -> bool {
        let queue = self.queue.lock();
        queue.waiting.is_empty() && queue.stalled.is_none()
    }

    /// Whether no frame waits.
    pub fn is_empty(&self) -> bool {
        self.queue.lock().waiting.is_empty()
    }

    /// Whether [`close`](Self::close) or [`abort`](Self::abort) was called.
    pub fn is_closed(&self) -> bool {
        matches!(self.queue.lock().state, QueueState::Closing | QueueState::Closed)
    }

    /// Whether what is pushed now would wait.
    pub fn lags(&self) -> bool {
        self.queue.lock().lags()
    }

    /// Whether frames have waited without progress for longer than `slow_after`.
    pub fn is_stalled(&self, now: Instant, slow_after: Duration) -> bool {
        let queue = self.queue.lock();
        let since = queue.stalled.filter(|_| !queue.waiting.is_empty());
        since.is_some_and(|since| now.saturating_duration_since(since) > slow_after)
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.quota.get().map_or(0, Quota::waiting)
    }

    /// Is notified when frames wait for a poll, and when none waits any more.
    pub fn changed(&self) -> &Notify {
        &self.changed
    }

    /// The task that owns the connection is woken when it has something to do.
    pub fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Wakes the task that owns the connection, and a poll that waits.
    pub fn wake(&self) {
        self.task.wake();
        self.changed.notify_waiters();
    }

    /// Bytes that TLS holds of a record that is not complete.
    pub fn unfinished(&self) -> usize {
        self.socket.lock().as_ref().map_or(0, Socket::unfinished)
    }

    /// Reads from the socket; 0 bytes are the end of the stream.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut *self.socket.lock() {
            Some(socket) => socket.poll_read(cx, buf),
            None => Poll::Pending,
        }
    }

    /// Writes what waits. Ready when nothing does; the task is woken when more can be written.
    ///
    /// # Errors
    /// If the connection is broken.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut place = self.socket.lock();
        let Some(socket) = &mut *place else { return Poll::Pending };
        for _ in 0..MAX_ROUNDS {
            let (parts, count) = self.queue.lock().next();
            let written = if count == 0 {
                socket.try_flush().map(|()| 0)
            } else {
                let slices = parts.each_ref().map(|part| IoSlice::new(part));
                socket.try_write(&slices[..count])
            };
            match written {
                Ok(0) if self.settle() => return Poll::Ready(Ok(())),
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.queue.lock().block();
                    ready!(socket.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // Others have their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn write_through(
        &self,
        mut place: MutexGuard<'_, Option<Socket>>,
        frames: &Bytes,
    ) -> Result<bool, Close> {
        let Some(socket) = &mut *place else {
            drop(place);
            return self.enqueue(self.queue.lock(), frames.clone(), within_limit);
        };
        let part = &frames[..frames.len().min(MAX_WRITE)];
        let (written, is_blocked) = match socket.try_write(&[IoSlice::new(part)]) {
            Ok(written) => (written, written < part.len() || socket.try_flush().is_err()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, true),
            // The task that owns the connection meets the same error when it writes, and ends it.
            Err(_) => (0, false),
        };
        if written == frames.len() && !is_blocked {
            // Whoever has queued frames meanwhile has woken the task.
            return Ok(true);
        }
        let rest = frames.slice(written..);
        let mut queue = self.queue.lock();
        if queue.state == QueueState::Closed {
            return Ok(false);
        }
        let is_too_much = !rest.is_empty() && self.quota().add(rest.len());
        if !rest.is_empty() {
            queue.is_cut = written > 0;
            // Whatever was queued meanwhile comes after these frames.
            queue.waiting.push_front(rest);
        }
        if is_blocked {
            queue.stalled.get_or_insert_with(Instant::now);
        }
        drop(queue);
        drop(place);
        self.task.wake();
        if is_too_much {
            self.backlog.evict_largest();
        }
        Ok(true)
    }

    fn enqueue(
        &self,
        mut queue: MutexGuard<'_, Queue>,
        frames: Bytes,
        fits: impl FnOnce(usize, usize) -> bool,
    ) -> Result<bool, Close> {
        if matches!(queue.state, QueueState::Closing | QueueState::Closed) {
            return Ok(false);
        }
        let is_behind = queue.lags() || !queue.waiting.is_empty();
        let is_far_behind =
            is_behind && queue.state != QueueState::Polled && !fits(self.waiting(), frames.len());
        if is_far_behind || queue.waiting.len() >= MAX_BATCHES {
            return Err(Close::QueueFull);
        }
        let is_too_much = self.quota().add(frames.len());
        queue.waiting.push_back(frames);
        if queue.state == QueueState::Detached {
            queue.stalled.get_or_insert_with(Instant::now);
        }
        let state = queue.state;
        drop(queue);
        match state {
            QueueState::Polled => self.changed.notify_waiters(),
            QueueState::Attached => self.task.wake(),
            // Nothing can be done before the socket is writable, or the next poll comes.
            _ => {}
        }
        if is_too_much {
            self.backlog.evict_largest();
        }
        Ok(true)
    }

    /// The queue was found empty and the socket flushed; returns `false` if more has come since.
    fn settle(&self) -> bool {
        let mut queue = self.queue.lock();
        if !queue.waiting.is_empty() {
            return false;
        }
        if queue.state == QueueState::Blocked {
            queue.state = QueueState::Attached;
        }
        queue.stalled = None;
        queue.taken = 0;
        // A client that was behind once must not take more memory for ever.
        queue.waiting = VecDeque::new();
        drop(queue);
        self.changed.notify_waiters();
        true
    }

    fn advance(&self, written: usize) {
        self.queue.lock().advance(written);
        self.taken(written);
    }

    fn quota(&self) -> &Quota {
        self.quota.get_or_init(|| self.backlog.quota(self.owner.clone()))
    }
}

#[cfg(test)]
mod tests;
