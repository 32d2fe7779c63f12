//! A session's time limits and its heartbeat. The sweep looks at them; no session has a timer.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::Session;
use crate::{
    engine::{frame, packet::Protocol},
    metrics::Close,
};

/// How long a frame or a message may be incomplete, in ms: as long as the body of a POST.
pub const UNFINISHED: u64 = 30_000;

/// Times in ms since the engine was made; 0 = not set.
#[derive(Default)]
pub struct Clock {
    /// The handshake.
    pub opened: AtomicU64,
    /// The client's last byte.
    pub seen: AtomicU64,
    /// When the next PING is due.
    pub next_ping: AtomicU64,
    /// The PING that the client has not answered.
    pub pinged: AtomicU64,
    /// The client has to be in the namespace at this time.
    pub connect_by: AtomicU64,
    /// Since when a frame or a message is incomplete.
    pub unfinished: AtomicU64,
}

impl Session {
    /// Bytes have come from the client.
    pub(in crate::engine) fn seen(&self) {
        self.clock.seen.store(self.engine.now(), Release);
    }

    /// The most bytes of one packet from this client.
    pub(in crate::engine) fn max_packet(&self) -> usize {
        self.engine.settings.max_packet
    }

    /// Whether a frame or a message of the client is incomplete. It may be for 30 s.
    pub(in crate::engine) fn set_unfinished(&self, is_unfinished: bool) {
        let is_unfinished = is_unfinished || self.inbound.lock().has_partial();
        let since = self.clock.unfinished.load(Acquire);
        match (is_unfinished, since) {
            (true, 0) => self.clock.unfinished.store(self.engine.now(), Release),
            (false, 1..) => self.clock.unfinished.store(0, Release),
            _ => {}
        }
    }

    /// When the session was opened.
    pub(in crate::engine) fn opened(&self) -> u64 {
        self.clock.opened.load(Relaxed)
    }

    pub(super) fn after(&self, time: Duration) -> u64 {
        self.engine.now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    /// The client has to be in the namespace within its time limit.
    pub(super) fn set_connect_timeout(&self) {
        self.clock.connect_by.store(self.after(self.engine.settings.connect_timeout), Release);
    }

    /// What is due at `now`: time limits and the heartbeat.
    pub(in crate::engine) fn tick(&self, now: u64) {
        let settings = &self.engine.settings;
        if self.ended().is_some() {
            return;
        }
        if self.writer.is_stalled(Instant::now(), settings.slow_after) {
            return self.end(Close::Slow);
        }
        let connect_by = self.clock.connect_by.load(Acquire);
        if connect_by != 0 && now > connect_by {
            return self.end(Close::NotConnected);
        }
        let unfinished = self.clock.unfinished.load(Acquire);
        if unfinished != 0 && now.saturating_sub(unfinished) > UNFINISHED {
            return self.end(Close::BadPacket);
        }
        match self.format.protocol {
            Protocol::V3 => self.check_pings(now),
            Protocol::V4 => self.ping(now),
        }
    }

    /// In version 3 the client sends the heartbeat's PING.
    fn check_pings(&self, now: u64) {
        let settings = &self.engine.settings;
        let patience = (settings.ping_interval + settings.ping_timeout).as_millis();
        if u128::from(now.saturating_sub(self.clock.seen.load(Acquire))) > patience {
            self.end(Close::PingTimeout);
        }
    }

    /// In version 4 the server does. Any byte of the client counts as an answer.
    fn ping(&self, now: u64) {
        let settings = &self.engine.settings;
        let pinged = self.clock.pinged.load(Acquire);
        let is_answered = self.clock.seen.load(Acquire) >= pinged;
        let silent = u128::from(now.saturating_sub(pinged));
        if pinged != 0 && !is_answered && silent > settings.ping_timeout.as_millis() {
            return self.end(Close::PingTimeout);
        }
        if (pinged == 0 || is_answered) && now >= self.clock.next_ping.load(Relaxed) {
            self.clock.pinged.store(now, Release);
            self.clock.next_ping.store(self.after(settings.ping_interval), Relaxed);
            if let Err(reason) = self.writer.push_heartbeat(&frame::text(&[b"2"])) {
                self.end(reason);
            }
        }
    }
}
