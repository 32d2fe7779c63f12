//! Sorts what arrives on the subscription: messages go to the queue, probes to the [`Pulse`].

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use tokio::time::Instant;

use super::pulse::Pulse;
use crate::{
    channel::RESERVED,
    glob::Pattern,
    ingest::Sender,
    message::{Gap, GapReason, Message},
};

/// Called once when Redis confirms the subscription; returns the time since which messages may be
/// missing.
type Confirm = Box<dyn FnOnce() -> Instant + Send>;

/// Receives messages and confirmations of the subscription, in the order in which Redis sent them.
/// One intake serves all sessions in turn. Its methods must not block: redis-rs calls them while it
/// reads.
pub struct Intake {
    patterns: Vec<String>,
    compiled: Vec<Pattern>,
    /// The channel of this process' probes.
    pub probe_channel: String,
    queue: Sender,
    /// The time of the latest arrival, and the probes that came back.
    pub pulse: Pulse,
    confirm: Mutex<Option<Confirm>>,
}

impl Intake {
    /// An intake that queues the messages of these patterns.
    pub fn new(patterns: Vec<String>, probe_channel: String, queue: Sender) -> Arc<Self> {
        let (pulse, confirm) = (Pulse::new(), Mutex::default());
        let compiled = patterns.iter().map(|pattern| Pattern::new(pattern.as_bytes())).collect();
        Arc::new(Self { patterns, compiled, probe_channel, queue, pulse, confirm })
    }

    /// The patterns to subscribe to.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Sets the function to call when Redis confirms the next subscription.
    pub fn expect(&self, confirm: impl FnOnce() -> Instant + Send + 'static) {
        *self.confirm.lock() = Some(Box::new(confirm));
    }

    /// Handles the confirmation of the subscription: queues the gap before the first message. One
    /// confirmation is enough, because all patterns of one PSUBSCRIBE start at the same moment.
    pub fn confirmed(&self) {
        let confirm = self.confirm.lock().take();
        if let Some(confirm) = confirm {
            self.lost(confirm());
        }
    }

    /// Queues a gap from `since` until now for all channels.
    pub fn lost(&self, since: Instant) {
        self.queue.gap(Gap::until_now(since, GapReason::SourceLost));
    }

    /// Handles a push frame of RESP3.
    pub fn push(&self, info: PushInfo) {
        self.pulse.beat();
        match info.kind {
            PushKind::PMessage => {
                let mut parts = info.data.into_iter().map(bytes);
                if let (Some(pattern), Some(channel), Some(payload)) =
                    (parts.next(), parts.next(), parts.next())
                {
                    self.message(&pattern, channel, payload);
                }
            }
            PushKind::PSubscribe => self.confirmed(),
            _ => {}
        }
    }

    /// Queues a message, or notes a probe. Redis sends a message once for each matching pattern;
    /// only the copy of the first matching pattern is queued.
    pub fn message(&self, pattern: &[u8], channel: Bytes, payload: Bytes) {
        if channel == self.probe_channel.as_bytes() {
            self.pulse.heard(&payload);
            return;
        }
        if channel.starts_with(RESERVED.as_bytes()) {
            return;
        }
        let earlier = self.patterns.iter().take_while(|known| known.as_bytes() != pattern).count();
        if !self.compiled.iter().take(earlier).any(|known| known.matches(&channel)) {
            self.queue.message(Message::now(channel, payload));
        }
    }
}

/// The bytes of a string, without a copy; empty for other values.
fn bytes(value: Value) -> Bytes {
    match value {
        Value::BulkString(bytes) => bytes.into(),
        Value::SimpleString(text) => text.into(),
        _ => Bytes::new(),
    }
}
