//! The server's wall clock.

use std::time::SystemTime;

/// The current time in ms since the Unix epoch. It can be set back; measure durations with
/// `Instant`.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}
