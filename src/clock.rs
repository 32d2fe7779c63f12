//! The server's clock.

use std::time::SystemTime;

/// The server's clock, in ms since the Unix epoch.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as u64
}
