//! The frames that wait for one client.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use tokio::time::Instant;

/// Progress unit in bytes: the stall timer restarts each time this many have been written.
pub const PORTION: usize = 128 << 10;
/// The most bytes written at once, so that a client that takes everything does not delay others.
pub const MAX_WRITE: usize = 64 << 10;
/// The most batches written by one system call.
const MAX_SLICES: usize = 32;

/// Frames that wait, and what may be done with them.
#[derive(Default)]
pub struct Queue {
    /// Whole frames, in the order of the pushes; of the first batch, a part may have been written.
    pub waiting: VecDeque<Bytes>,
    /// Where the frames go.
    pub state: QueueState,
    /// Since when the kernel has taken less than a portion, while something waits.
    pub stalled: Option<Instant>,
    /// Bytes taken since then.
    pub taken: usize,
    /// The first batch has been written in part.
    pub is_cut: bool,
    /// There is a socket, also if the state is `Closing` or `Closed`.
    pub has_socket: bool,
}

/// Where frames go.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum QueueState {
    /// There is no socket, and no poll waits for frames.
    #[default]
    Detached,
    /// There is no socket, and a poll waits for frames.
    Polled,
    /// The socket takes bytes.
    Attached,
    /// The socket takes no more for now. The task waits until it does.
    Blocked,
    /// The last frame is in the queue. No more are accepted.
    Closing,
    /// Nothing is accepted, and nothing written.
    Closed,
}

impl Queue {
    /// Takes batches for a poll; see [`Writer::take`](super::Writer::take).
    pub fn take(&mut self, max: usize) -> Vec<Bytes> {
        if self.has_socket {
            // The connection's task may be writing them at this moment.
            return Vec::new();
        }
        let mut bytes = 0;
        let count = self.waiting.iter().take_while(|frames| {
            bytes += frames.len();
            bytes <= max
        });
        let is_closing = self.state == QueueState::Closing && self.waiting.len() > 1;
        let most = self.waiting.len() - usize::from(is_closing);
        let count = count.count().max(1).min(most);
        let taken = self.waiting.drain(..count).collect();
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        taken
    }

    /// Whether what is pushed now would wait.
    pub fn lags(&self) -> bool {
        match self.state {
            QueueState::Attached => self.stalled.is_some(),
            QueueState::Polled => false,
            QueueState::Detached
            | QueueState::Blocked
            | QueueState::Closing
            | QueueState::Closed => true,
        }
    }

    /// The socket takes no more.
    pub fn block(&mut self) {
        if self.state == QueueState::Attached {
            self.state = QueueState::Blocked;
        }
        self.stalled.get_or_insert_with(Instant::now);
    }

    /// The next batches to write, and how many they are.
    pub fn next(&self) -> ([Bytes; MAX_SLICES], usize) {
        let mut parts = [const { Bytes::new() }; MAX_SLICES];
        let mut left = MAX_WRITE;
        let mut count = 0;
        for (part, frames) in parts.iter_mut().zip(&self.waiting) {
            if left == 0 {
                break;
            }
            *part = frames.slice(..frames.len().min(left));
            left -= part.len();
            count += 1;
        }
        (parts, count)
    }

    /// Removes bytes that have been written.
    pub fn advance(&mut self, mut written: usize) {
        self.taken += written;
        if self.taken >= PORTION {
            self.taken = 0;
            self.stalled = self.stalled.map(|_| Instant::now());
        }
        while let Some(first) = self.waiting.front_mut() {
            if written < first.len() {
                self.is_cut |= written > 0;
                first.advance(written);
                return;
            }
            written -= first.len();
            self.waiting.pop_front();
            self.is_cut = false;
        }
    }
}
