//! Signs of life of a subscription: when something arrived last, and which probes came back.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// Signs of life of a subscription. Written for each message, so it takes no lock.
pub struct Pulse {
    begun: Instant,
    /// When something arrived last, in ms since `begun`.
    last: AtomicU64,
    /// Probes that are published where the subscription is.
    pub probes: Echoes,
    /// Probes that are published where the name leads.
    pub looks: Echoes,
}

/// Probes of one kind, numbered from 1. One is under way at a time.
pub struct Echoes {
    /// What the payload begins with.
    kind: &'static str,
    /// The number of the latest.
    sent: AtomicU64,
    /// The number of the latest that came back.
    heard: watch::Sender<u64>,
}

impl Pulse {
    /// A pulse whose last sign of life is now.
    pub fn new() -> Self {
        let (probes, looks) = (Echoes::new("probe "), Echoes::new("look "));
        Self { begun: Instant::now(), last: AtomicU64::new(0), probes, looks }
    }

    /// Something arrived.
    pub fn beat(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Relaxed);
    }

    /// When something arrived last.
    pub fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Relaxed))
    }

    /// A probe came back.
    pub fn heard(&self, payload: &[u8]) {
        self.probes.heard(payload);
        self.looks.heard(payload);
    }
}

impl Echoes {
    fn new(kind: &'static str) -> Self {
        Self { kind, sent: AtomicU64::new(0), heard: watch::channel(0).0 }
    }

    /// The next probe: its number, and what to publish.
    pub fn next(&self) -> (u64, String) {
        let number = self.sent.fetch_add(1, Relaxed) + 1;
        (number, format!("{}{number}", self.kind))
    }

    /// Waits until this probe has come back.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn back(&self, number: u64) {
        // The sender lives as long as `self`.
        let _ = self.heard.subscribe().wait_for(|heard| *heard >= number).await;
    }

    /// Takes what came on the channel of probes. Anyone may publish there, so numbers that were not
    /// sent do not count.
    fn heard(&self, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok();
        let number = number.and_then(|text| text.strip_prefix(self.kind)?.parse::<u64>().ok());
        if let Some(number) = number.filter(|number| *number <= self.sent.load(Relaxed)) {
            self.heard.send_if_modified(|heard| {
                let is_newer = number > *heard;
                *heard = number.max(*heard);
                is_newer
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn only_a_probe_that_was_sent_comes_back_and_only_as_its_own_kind() {
        let pulse = Pulse::new();
        let (number, probe) = pulse.probes.next();
        let is_back = || pulse.probes.back(number).now_or_never().is_some();
        let (_, look) = pulse.looks.next();
        for payload in ["", "probe ", "probe 2", "1", &look] {
            pulse.heard(payload.as_bytes());
        }
        assert!(!is_back());
        pulse.heard(probe.as_bytes());
        assert!(is_back());
    }
}
