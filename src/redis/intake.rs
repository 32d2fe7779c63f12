//! What arrives on the subscription: messages go to the queue, probes to the pulse.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};
use tokio::time::Instant;

use super::pulse::Pulse;
use crate::{
    channel::RESERVED,
    glob,
    ingest::Sender,
    message::{Gap, GapReason, Message},
};

/// Called once when Redis confirms the subscription; returns since when messages may be missing.
type Confirm = Box<dyn FnOnce() -> Instant + Send>;

/// Takes what arrives on the subscription, in the order in which Redis sent it. Nothing here waits:
/// redis-rs calls it while it reads.
pub struct Intake {
    patterns: Vec<String>,
    /// The channel of this process' probes.
    pub probe_channel: String,
    queue: Sender,
    /// Signs of life.
    pub pulse: Pulse,
    confirm: Mutex<Option<Confirm>>,
}

impl Intake {
    /// An intake for these patterns.
    pub fn new(patterns: Vec<String>, probe_channel: String, queue: Sender) -> Arc<Self> {
        let (pulse, confirm) = (Pulse::new(), Mutex::default());
        Arc::new(Self { patterns, probe_channel, queue, pulse, confirm })
    }

    /// The patterns to subscribe to.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Says what is to happen when Redis confirms the subscription that is asked for next.
    pub fn expect(&self, confirm: impl FnOnce() -> Instant + Send + 'static) {
        *self.confirm.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(confirm));
    }

    /// Redis has confirmed the subscription. The gap is queued here, before the first message:
    /// all patterns of one PSUBSCRIBE begin at the same moment.
    pub fn confirmed(&self) {
        let confirm = self.confirm.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(confirm) = confirm {
            self.lost(confirm());
        }
    }

    /// Messages of any channel may be missing since then.
    pub fn lost(&self, since: Instant) {
        self.queue.gap(Gap::until_now(since, GapReason::SourceLost));
    }

    /// Takes what RESP3 sends unasked.
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

    /// Takes a message. Redis sends it once for each pattern that matches; the first one counts.
    pub fn message(&self, pattern: &[u8], channel: Bytes, payload: Bytes) {
        if channel == self.probe_channel.as_bytes() {
            self.pulse.heard(&payload);
            return;
        }
        if channel.starts_with(RESERVED.as_bytes()) {
            return;
        }
        let mut earlier = self.patterns.iter().take_while(|known| known.as_bytes() != pattern);
        if !earlier.any(|known| glob::matches(known.as_bytes(), &channel)) {
            self.queue.message(Message::now(channel, payload));
        }
    }
}

/// The bytes of a string, without a copy.
fn bytes(value: Value) -> Bytes {
    match value {
        Value::BulkString(bytes) => bytes.into(),
        Value::SimpleString(text) => text.into(),
        _ => Bytes::new(),
    }
}
