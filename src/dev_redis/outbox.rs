//! What one client has yet to be sent: filled without waiting, bounded, drained by its writer.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::wire::RespVersion;

/// Bytes that may wait for one client: Redis' own hard limit for subscribers.
const MAX_BYTES: usize = 32 << 20;

/// Messages that may wait for one client. A handle takes 32 bytes beside the message, so that very
/// small messages would otherwise need more memory than the bytes above say.
const MAX_MESSAGES: usize = 1 << 18;

/// Bytes that may wait for all clients together, as a development machine has them to spare.
/// Beyond, whoever holds more than the share below is let go, however much of its own limit is
/// left.
const MAX_BYTES_IN_ALL: usize = 256 << 20;
const SHARE: usize = 256 << 10;

/// A client's next request waits while more than this waits for the client: one that asks without
/// reading is slowed down, where one that is sent messages without reading is let go.
const ROOM_BYTES: usize = 1 << 20;
const ROOM_MESSAGES: usize = 1 << 16;

/// What the writer takes from the queue at a time, and collects for one write.
const BATCH_BYTES: usize = 32 << 10;

/// How many bytes wait in all outboxes together.
pub(super) type Budget = Arc<AtomicUsize>;

/// One client's queue of encoded replies and messages. Without `Debug`, as all that holds payloads.
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
    /// Of those that wait and those the writer is busy with.
    bytes: usize,
    finished: bool,
}

impl Outbox {
    /// An empty one, whose overflow cancels `ended`.
    pub(super) fn new(ended: CancellationToken, in_all: Budget) -> Self {
        let (queue, resp3) = (Mutex::default(), AtomicBool::new(false));
        Self { queue, filled: Notify::new(), drained: Notify::new(), ended, in_all, resp3 }
    }

    /// The protocol version that the client takes.
    pub(super) fn version(&self) -> RespVersion {
        if self.resp3.load(Relaxed) { RespVersion::RESP3 } else { RespVersion::RESP2 }
    }

    /// Changes the version of what is encoded from now on.
    pub(super) fn set_version(&self, version: &RespVersion) {
        self.resp3.store(*version == RespVersion::RESP3, Relaxed);
    }

    /// Queues bytes; false when the client is too far behind for them, whose connection then ends.
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
            tracing::debug!("a client of the embedded broker is too far behind");
            self.end();
            return false;
        }
        self.in_all.fetch_add(size, Relaxed);
        queue.bytes += size;
        queue.waiting.push_back(bytes);
        // The writer looks again until it finds nothing: only the first message has to wake it.
        let first = queue.waiting.len() == 1;
        drop(queue);
        if first {
            self.filled.notify_one();
        }
        true
    }

    /// Takes no more, and ends the connection when all is sent.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.filled.notify_one();
    }

    /// Ends the connection now.
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

    /// Waits until the client has read enough for its next request.
    pub(super) async fn room(&self) {
        while !self.has_room() {
            self.drained.notified().await;
        }
    }

    fn has_room(&self) -> bool {
        let queue = self.lock();
        queue.bytes <= ROOM_BYTES && queue.waiting.len() <= ROOM_MESSAGES
    }

    /// Writes all that comes, many at a time, until finished.
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

    /// Moves what makes a batch out of the queue; whether no more will come.
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

    /// Counts bytes as sent.
    fn settle(&self, size: usize) {
        self.lock().bytes -= size;
        self.in_all.fetch_sub(size, Relaxed);
        self.drained.notify_one();
    }

    /// No code under this lock can panic half-way, so that a poisoned queue is still a good one.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
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
    fn the_budget_of_all_spares_those_who_hold_little() {
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
