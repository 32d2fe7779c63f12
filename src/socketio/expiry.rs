//! When sockets' tokens end: one list for all of them, in the order of time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{select, sync::Notify, task::yield_now, time::sleep};

use super::viewer::Viewer;
use crate::clock::now;

/// Tokens end by the clock on the wall, which may be set meanwhile: it is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// By time, in ms since the Unix epoch, and by a number of its own.
type Key = (u64, u64);

/// All alarms that are set.
#[derive(Default)]
pub struct Expiry {
    alarms: Mutex<BTreeMap<Key, Weak<Viewer>>>,
    next: AtomicU64,
    changed: Notify,
}

/// An alarm that is set. Dropping it takes it back.
pub struct Alarm {
    expiry: Arc<Expiry>,
    key: Key,
}

impl Expiry {
    /// Calls a viewer at a time, in ms since the Unix epoch.
    pub fn at(self: &Arc<Self>, time: u64, viewer: Weak<Viewer>) -> Alarm {
        let key = (time, self.next.fetch_add(1, Relaxed));
        let mut alarms = self.lock();
        alarms.insert(key, viewer);
        if alarms.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.changed.notify_one();
        }
        Alarm { expiry: self.clone(), key }
    }

    /// Calls viewers when it is time, for ever.
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
                    // Tokens of one kind often end together.
                    yield_now().await;
                }
                wait => select! {
                    () = sleep(wait.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY))) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Weak<Viewer>>> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.expiry.lock().remove(&self.key);
    }
}
