//! How long clients may be slow or silent.

use std::time::Duration;

use super::{
    Settings,
    parse::{Check, duration},
};

/// Default of SLOW_AFTER.
pub const SLOW_AFTER: &str = "10s";
/// Default of PING_INTERVAL, as of Socket.IO's Node server.
pub const PING_INTERVAL: &str = "25s";
/// Default of PING_TIMEOUT, as of Socket.IO's Node server.
pub const PING_TIMEOUT: &str = "20s";

/// Below the default of PING_TIMEOUT, so that a slow client is disconnected as slow before the
/// timeout would count it as dead.
const SLOW_AFTER_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(19));
/// Heartbeats more often than each second would cost more than the rest of an idle connection. With
/// longer ones than five minutes, vanished clients would stay for too long.
const PING_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Time limits of clients.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A client that reads none of its pending bytes for this long is disconnected.
    pub slow_after: Duration,
    /// How often the server sends a heartbeat to each socket.
    pub ping_interval: Duration,
    /// How long a client may take to answer a heartbeat.
    pub ping_timeout: Duration,
}

/// Validates the time limits; `None` if one of them is invalid, which `check` notes.
pub fn timing(check: &mut Check, settings: &Settings) -> Option<Timing> {
    let slow_after = check.value("SLOW_AFTER", &settings.slow_after, SLOW_AFTER, |text| {
        duration(text, SLOW_AFTER_RANGE)
    });
    let mut ping = |name, text: &str, default| {
        check.value(name, text, default, |text| duration(text, PING_RANGE))
    };
    let ping_interval = ping("PING_INTERVAL", &settings.ping_interval, PING_INTERVAL);
    let ping_timeout = ping("PING_TIMEOUT", &settings.ping_timeout, PING_TIMEOUT);
    Some(Timing {
        slow_after: slow_after?,
        ping_interval: ping_interval?,
        ping_timeout: ping_timeout?,
    })
}
