//! The one clock of all sessions: time limits and heartbeats.

use std::{sync::Arc, time::Duration};

use tokio::{task::yield_now, time::interval};

use super::Engine;

/// How often each session is looked at, unless a time limit is shorter.
const EVERY: Duration = Duration::from_secs(1);
/// Looks within the shortest time limit, so that it is exceeded by a fraction only.
const LOOKS: u32 = 8;
/// The shortest interval between two looks.
const LEAST: Duration = Duration::from_millis(10);

impl Engine {
    /// Looks at all sessions, again and again: ends those whose time limits are over, and sends PINGs
    /// that are due. Never returns.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn sweep(self: Arc<Self>) -> ! {
        let settings = &self.settings;
        let limits = [
            settings.slow_after,
            settings.connect_timeout,
            settings.ping_interval,
            settings.ping_timeout,
        ];
        let shortest = limits.into_iter().min().unwrap_or(EVERY);
        let mut looks = interval((shortest / LOOKS).clamp(LEAST, EVERY));
        loop {
            looks.tick().await;
            for shard in &self.shards {
                // A session that ends takes the shard's lock, so it must be free by then.
                let sessions: Vec<_> = shard.lock().values().cloned().collect();
                let now = self.now();
                sessions.iter().for_each(|session| session.tick(now));
                drop(sessions);
                yield_now().await;
            }
        }
    }
}
