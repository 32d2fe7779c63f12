//! Records when the subscription last received something, and which probes came back.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// The time of the latest arrival on the subscription, and its probes. It is updated for each
/// message, so it uses atomics instead of a lock.
pub struct Pulse {
    begun: Instant,
    /// The time of the latest arrival, in ms since `begun`.
    last: AtomicU64,
    /// Probes that check the subscription.
    pub probes: Echoes,
    /// Probes published at the server to which the host name leads.
    pub looks: Echoes,
}

/// Probes of one kind, numbered from 1. At most one is under way at a time.
pub struct Echoes {
    /// The prefix of the payload.
    kind: &'static str,
    /// The number of the latest probe.
    sent: AtomicU64,
    /// The number of the latest probe that came back.
    heard: watch::Sender<u64>,
}

impl Pulse {
    /// A pulse whose latest arrival is now.
    pub fn new() -> Self {
        let (probes, looks) = (Echoes::new("probe "), Echoes::new("look "));
        Self { begun: Instant::now(), last: AtomicU64::new(0), probes, looks }
    }

    /// Records that something arrived.
    pub fn beat(&self) {
        self.last.store(self.begun.elapsed().as_millis() as u64, Relaxed);
    }

    /// The time of the latest arrival.
    pub fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Relaxed))
    }

    /// Records a probe that came back, by its payload. Other payloads are ignored.
    pub fn heard(&self, payload: &[u8]) {
        self.probes.heard(payload);
        self.looks.heard(payload);
    }
}

impl Echoes {
    fn new(kind: &'static str) -> Self {
        Self { kind, sent: AtomicU64::new(0), heard: watch::channel(0).0 }
    }

    /// The next probe: its number and its payload.
    pub fn next(&self) -> (u64, String) {
        let number = self.sent.fetch_add(1, Relaxed) + 1;
        (number, format!("{}{number}", self.kind))
    }

    /// Waits until this probe, or a later one, has come back.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn back(&self, number: u64) {
        // The sender lives as long as `self`.
        let _ = self.heard.subscribe().wait_for(|heard| *heard >= number).await;
    }

    /// Records a payload from the probes' channel. Others may publish there too, so numbers that
    /// were not sent are ignored.
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
    fn only_probes_that_were_sent_count_and_only_for_their_own_kind() {
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
