//! Expiry of sockets' tokens: one list of alarms for all sockets, ordered by time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{select, sync::Notify, task::yield_now, time::sleep};

use crate::clock::now;

/// Longest sleep. Tokens expire by the system clock, which may be changed meanwhile, so the time is
/// read again at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Has a token that expires.
pub trait Expires: Send + Sync {
    /// An alarm is due.
    fn check_token_expiry(&self);
}

/// Time in ms since the Unix epoch, and a unique number.
type Key = (u64, u64);

/// All alarms that are set, and the task that calls their viewers ([`run`](Self::run)).
#[derive(Default)]
pub struct Expiry {
    alarms: Mutex<BTreeMap<Key, Weak<dyn Expires>>>,
    next: AtomicU64,
    changed: Notify,
}

/// An alarm that is set. Dropping it cancels it.
pub struct Alarm {
    expiry: Arc<Expiry>,
    key: Key,
}

impl Expiry {
    /// Sets an alarm: calls the viewer's `check_token_expiry` at `time`, in ms since the Unix
    /// epoch.
    pub fn at(self: &Arc<Self>, time: u64, viewer: Weak<dyn Expires>) -> Alarm {
        let key = (time, self.next.fetch_add(1, Relaxed));
        let mut alarms = self.lock();
        alarms.insert(key, viewer);
        if alarms.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.changed.notify_one();
        }
        Alarm { expiry: self.clone(), key }
    }

    /// Calls viewers when their alarms are due. Never returns.
    ///
    /// # Cancel safety
    /// Cancel safe: alarms that are not due stay set.
    pub async fn run(self: Arc<Self>) -> ! {
        loop {
            let next = self.lock().first_key_value().map(|(key, _)| key.0);
            let wait = next.map(|time| Duration::from_millis(time.saturating_sub(now())));
            match wait {
                Some(Duration::ZERO) => {
                    let due = self.lock().pop_first();
                    if let Some(viewer) = due.and_then(|(_, viewer)| viewer.upgrade()) {
                        viewer.check_token_expiry();
                    }
                    // Many tokens often expire at the same time; let other tasks run in between.
                    yield_now().await;
                }
                wait => select! {
                    () = sleep(wait.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY))) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Weak<dyn Expires>>> {
        self.alarms.lock()
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.expiry.lock().remove(&self.key);
    }
}
