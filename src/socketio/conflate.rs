//! Fewer messages for who wants fewer: at most so many a second, or only the newest while behind.
//!
//! What is left out shows as a jump in `offset`; that is no gap.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::session::Session;
use crate::{
    message::Gap,
    rooms::{
        Subscriber,
        delivery::{Batch, Delivery},
    },
};

/// At most one message a tick: the first at once, then the newest at each tick.
pub struct MaxRate {
    me: Weak<Self>,
    inner: Arc<dyn Subscriber>,
    tick: Duration,
    state: Mutex<Held>,
}

/// Only the newest message waits while the viewer is behind.
pub struct Latest {
    me: Weak<Self>,
    inner: Arc<dyn Subscriber>,
    session: Arc<Session>,
    state: Mutex<Held>,
}

/// The newest message, and whether a task will send it.
#[derive(Default)]
struct Held {
    newest: Option<Delivery>,
    awaited: bool,
}

impl MaxRate {
    /// One message in `tick`.
    pub fn new(inner: Arc<dyn Subscriber>, tick: Duration) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), inner, tick, state: Mutex::default() })
    }

    /// Ends with the first tick that finds nothing, or when the membership is gone.
    async fn run(me: Weak<Self>, tick: Duration) {
        loop {
            sleep(tick).await;
            let Some(me) = me.upgrade() else { return };
            let mut held = lock(&me.state);
            match held.newest.take() {
                Some(newest) => drop(me.inner.deliver(&newest.into())),
                None => return held.awaited = false,
            }
        }
    }
}

impl Subscriber for MaxRate {
    fn deliver(&self, batch: &Batch) -> usize {
        let Some(newest) = batch.last() else { return 0 };
        let mut held = lock(&self.state);
        if held.awaited {
            held.newest = Some(newest.clone());
            return 0;
        }
        held.awaited = true;
        tokio::spawn(Self::run(self.me.clone(), self.tick));
        self.inner.deliver(&newest.clone().into())
    }

    fn gap(&self, room: &str, gap: &Gap) {
        self.inner.gap(room, gap);
    }

    fn hello(&self) {
        self.inner.hello();
    }
}

impl Latest {
    /// For a viewer over this session.
    pub fn new(inner: Arc<dyn Subscriber>, session: Arc<Session>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), inner, session, state: Mutex::default() })
    }

    async fn run(me: Weak<Self>, session: Arc<Session>) {
        // A viewer that is behind for longer is ended; then this delivers to nobody.
        let _ = timeout(session.slow_after() * 2, session.caught_up()).await;
        let Some(me) = me.upgrade() else { return };
        let mut held = lock(&me.state);
        held.awaited = false;
        if let Some(newest) = held.newest.take() {
            me.inner.deliver(&newest.into());
        }
    }
}

impl Subscriber for Latest {
    fn deliver(&self, batch: &Batch) -> usize {
        let mut held = lock(&self.state);
        if !held.awaited {
            if !self.session.lags() {
                return self.inner.deliver(batch);
            }
            held.awaited = true;
            tokio::spawn(Self::run(self.me.clone(), self.session.clone()));
        }
        held.newest = batch.last().cloned();
        0
    }

    fn gap(&self, room: &str, gap: &Gap) {
        self.inner.gap(room, gap);
    }

    fn hello(&self) {
        self.inner.hello();
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
