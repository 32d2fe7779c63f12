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

/// The channel on which Sentinels announce themselves at the Redis that they watch. It is no room.
const SENTINELS: &[u8] = b"__sentinel__:hello";

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
        if is_own(&channel, &payload) {
            return;
        }
        let earlier = self.patterns.iter().take_while(|known| known.as_bytes() != pattern).count();
        if self.compiled.iter().take(earlier).any(|known| known.matches(&channel)) {
            return;
        }
        if channel == SENTINELS {
            return self.queue.skip();
        }
        self.queue.message(Message::now(channel, payload));
    }
}

/// Whether a message is one of this server or of another instance: on a reserved channel, or about a
/// key with a reserved name. Such messages are not counted: there may be more of them at one instance
/// than at another.
fn is_own(channel: &[u8], payload: &[u8]) -> bool {
    let reserved = RESERVED.as_bytes();
    let of_database = |prefix: &[u8]| {
        let rest = channel.strip_prefix(prefix)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest[digits..].strip_prefix(b"__:")
    };
    channel.starts_with(reserved)
        || of_database(b"__keyspace@").is_some_and(|key| key.starts_with(reserved))
        || of_database(b"__keyevent@").is_some() && payload.starts_with(reserved)
}

/// The bytes of a string, without a copy; empty for other values.
fn bytes(value: Value) -> Bytes {
    match value {
        Value::BulkString(bytes) => bytes.into(),
        Value::SimpleString(text) => text.into(),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_servers_own_are_told_from_others() {
        let table = [
            ("roomcast:probe:1", "x", true),
            ("roomcast", "roomcast:x", false),
            ("__keyspace@0__:roomcast:{a}:h:1", "rpush", true),
            ("__keyspace@15__:roomcast:x", "del", true),
            ("__keyspace@0__:device01", "set", false),
            ("__keyspace@x__:roomcast:x", "set", false),
            ("__keyevent@0__:expired", "roomcast:{a}:h:1", true),
            ("__keyevent@0__:expired", "device01", false),
        ];
        for (channel, payload, expected) in table {
            assert_eq!(is_own(channel.as_bytes(), payload.as_bytes()), expected, "{channel}");
        }
    }
}
