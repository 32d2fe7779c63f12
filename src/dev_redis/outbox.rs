//! A client's queue of replies and messages: bounded, filled without waiting, and emptied by the
//! client's writer.

use std::collections::VecDeque;

use parking_lot::{Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::wire::RespVersion;

/// The most bytes queued for one client: Redis' hard limit for subscribers.
const MAX_BYTES: usize = 32 << 20;

/// The most messages queued for one client. Each queued `Bytes` takes 32 bytes in addition to its
/// content, so [`MAX_BYTES`] alone would not bound the memory of very small messages.
const MAX_MESSAGES: usize = 1 << 18;

/// Bytes queued for all clients together that a development machine can spare. Above this limit, a
/// client whose backlog exceeds [`SHARE`] is disconnected when the next message is queued for it.
const MAX_BYTES_IN_ALL: usize = 256 << 20;
/// The backlog, in bytes, that a client may always have.
const SHARE: usize = 256 << 10;

/// The next request of a client is read only once its backlog is within these limits: a client that
/// sends requests without reading the replies is slowed down. A subscriber that does not read its
/// messages is disconnected instead.
const ROOM_BYTES: usize = 1 << 20;
const ROOM_MESSAGES: usize = 1 << 16;

/// Bytes that the writer takes from the queue at a time, and the size of its write buffer.
const BATCH_BYTES: usize = 32 << 10;

/// The count of bytes in all outboxes together.
pub(super) type Budget = Arc<AtomicUsize>;

/// One client's queue of encoded replies and messages.
///
/// The client's task reads requests and runs [`Outbox::write_to`]; any task that publishes pushes
/// messages. After [`Outbox::finish`], the writer sends the rest and ends. An overflow or
/// [`Outbox::end`] drops the queue and ends the connection at once.
///
/// It has no `Debug`, as no type that holds payloads has.
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
    drained: Notify,
    ended: CancellationToken,
    in_all: Budget,
    resp3: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Bytes>,
    /// Bytes of `waiting` and of the batch that is being written.
    bytes: usize,
    finished: bool,
}

impl Outbox {
    /// An empty outbox. An overflow cancels `ended`.
    pub(super) fn new(ended: CancellationToken, in_all: Budget) -> Self {
        let (queue, resp3) = (Mutex::default(), AtomicBool::new(false));
        Self { queue, filled: Notify::new(), drained: Notify::new(), ended, in_all, resp3 }
    }

    /// The protocol version of the client.
    pub(super) fn version(&self) -> RespVersion {
        if self.resp3.load(Relaxed) { RespVersion::RESP3 } else { RespVersion::RESP2 }
    }

    /// Changes the protocol version for replies and messages that are encoded from now on.
    pub(super) fn set_version(&self, version: &RespVersion) {
        self.resp3.store(*version == RespVersion::RESP3, Relaxed);
    }

    /// Queues bytes. Returns false if the outbox is finished, or if they do not fit: then the
    /// client's connection ends.
    pub(super) fn push(&self, bytes: Bytes) -> bool {
        let mut queue = self.lock();
        if queue.finished {
            return false;
        }
        let size = bytes.len();
        let in_all = self.in_all.load(Relaxed) + size;
        let fits = queue.bytes + size <= MAX_BYTES
            && queue.waiting.len() < MAX_MESSAGES
            && (in_all <= MAX_BYTES_IN_ALL || queue.bytes <= SHARE);
        if !fits {
            drop(queue);
            tracing::debug!("disconnected a client of the embedded broker: its outbox is full");
            self.end();
            return false;
        }
        self.in_all.fetch_add(size, Relaxed);
        queue.bytes += size;
        queue.waiting.push_back(bytes);
        // The writer goes on until the queue is empty, so only the first message must wake it.
        let first = queue.waiting.len() == 1;
        drop(queue);
        if first {
            self.filled.notify_one();
        }
        true
    }

    /// Accepts no more bytes; the writer ends the connection when the queue is sent.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.filled.notify_one();
    }

    /// Drops the queue and ends the connection at once.
    pub(super) fn end(&self) {
        let mut queue = self.lock();
        queue.finished = true;
        let dropped = std::mem::take(&mut queue.waiting);
        let size = dropped.iter().map(Bytes::len).sum::<usize>();
        queue.bytes -= size;
        drop(queue);
        self.in_all.fetch_sub(size, Relaxed);
        self.ended.cancel();
    }

    /// Waits until the client has read enough of its backlog for its next request.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.drained.notified().await;
        }
    }

    fn has_room(&self) -> bool {
        let queue = self.lock();
        queue.bytes <= ROOM_BYTES && queue.waiting.len() <= ROOM_MESSAGES
    }

    /// Writes the queue to `stream` in batches, until the outbox is finished and empty.
    ///
    /// # Errors
    /// If the stream fails.
    pub(super) async fn write_to(&self, stream: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut stream = BufWriter::with_capacity(BATCH_BYTES, stream);
        let mut batch = Vec::new();
        loop {
            let finished = self.take(&mut batch);
            if batch.is_empty() {
                stream.flush().await?;
                if finished {
                    return stream.shutdown().await;
                }
                self.filled.notified().await;
                continue;
            }
            let size = batch.iter().map(Bytes::len).sum();
            for bytes in batch.drain(..) {
                stream.write_all(&bytes).await?;
            }
            self.settle(size);
        }
    }

    /// Moves up to a batch from the queue; returns whether the outbox is finished.
    fn take(&self, batch: &mut Vec<Bytes>) -> bool {
        let mut queue = self.lock();
        let mut size = 0;
        while size < BATCH_BYTES
            && let Some(bytes) = queue.waiting.pop_front()
        {
            size += bytes.len();
            batch.push(bytes);
        }
        queue.finished
    }

    /// Subtracts written bytes from the counts.
    fn settle(&self, size: usize) {
        self.lock().bytes -= size;
        self.in_all.fetch_sub(size, Relaxed);
        self.drained.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let queue = self.queue.get_mut();
        self.in_all.fetch_sub(queue.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(budget: &Budget) -> Outbox {
        Outbox::new(CancellationToken::new(), Arc::clone(budget))
    }

    #[test]
    fn too_many_messages_end_the_connection_and_free_the_budget() {
        let budget = Budget::default();
        let outbox = outbox(&budget);
        for _ in 0..MAX_MESSAGES {
            assert!(outbox.push(Bytes::from_static(b"x")));
        }
        assert_eq!(budget.load(Relaxed), MAX_MESSAGES);
        assert!(!outbox.push(Bytes::from_static(b"x")));
        assert!(outbox.ended.is_cancelled());
        assert_eq!(budget.load(Relaxed), 0);
    }

    #[test]
    fn above_the_common_limit_only_clients_with_a_large_backlog_are_disconnected() {
        let budget = Budget::default();
        let large = Bytes::from(vec![0; MAX_BYTES]);
        let slow: Vec<Outbox> = (0..8).map(|_| outbox(&budget)).collect();
        assert!(slow.iter().all(|outbox| outbox.push(large.clone())));
        let quick = outbox(&budget);
        assert!(quick.push(large.slice(..SHARE)) && quick.push(large.slice(..SHARE)));
        assert!(!quick.push(large.slice(..1)));
        drop((slow, quick));
        assert_eq!(budget.load(Relaxed), 0);
    }
}
