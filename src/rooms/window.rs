//! How far back the history reaches, for `/status` and the metrics.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use humantime::format_duration;
use serde::Serialize;

use super::Rooms;

/// The history at one moment, as `/status` shows it.
#[derive(Serialize)]
pub struct HistoryReport {
    /// Bytes that are kept.
    bytes: usize,
    /// The most bytes that are kept (`HISTORY_BYTES`).
    bytes_max: usize,
    /// The age of the oldest message in seconds, but for those that are kept as the latest one of their
    /// room.
    window_seconds: u64,
    /// What to do if the bytes do not suffice for `HISTORY_TTL`; `null` if they do.
    limited: Option<String>,
}

impl Rooms {
    /// How far back the history reaches. Also updates the metric.
    pub fn history_report(&self) -> HistoryReport {
        let now = (self.clock)();
        let oldest = self.index.oldest_message().unwrap_or(now);
        let window_seconds = now.saturating_sub(oldest) / 1000;
        self.metrics.history_window.set(window_seconds.cast_signed());
        let age = self.limits.room.age;
        let evicted = self.evicted.load(Relaxed);
        let limited = (evicted > 0 && now.saturating_sub(evicted) < age).then(|| {
            format!(
                "the history of the last {} does not fit into HISTORY_BYTES: it reaches back {}; \
                 raise HISTORY_BYTES or lower HISTORY_TTL",
                format_duration(Duration::from_millis(age)),
                format_duration(Duration::from_secs(window_seconds)),
            )
        });
        let bytes = self.kept.load(Relaxed);
        HistoryReport { bytes, bytes_max: self.limits.bytes, window_seconds, limited }
    }
}
