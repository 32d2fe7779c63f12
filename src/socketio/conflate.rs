//! Conflation: subscribers that skip messages on the client's request. The option `maxRate` limits
//! the rate, `latest` keeps only the newest message while the client is behind.
//!
//! Skipped messages show as a jump in `offset`; no gap is emitted for them.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use crate::{
    engine::session::Session,
    message::Gap,
    rooms::{
        Subscriber,
        delivery::{Batch, Delivery},
    },
};

/// Delivers at most one message per tick: the first at once, then the newest at each tick.
///
/// The first message spawns a task that delivers the newest held message at each tick. It ends at
/// the first tick without a message; the next message spawns another one.
pub struct MaxRate {
    me: Weak<Self>,
    inner: Arc<dyn Subscriber>,
    tick: Duration,
    state: Mutex<Held>,
}

/// Delivers everything while the viewer keeps up. While it is behind, keeps only the newest
/// message.
///
/// The first message that finds the viewer behind spawns a task. It waits until the viewer has
/// caught up, then delivers the newest message.
pub struct Latest {
    me: Weak<Self>,
    inner: Arc<dyn Subscriber>,
    session: Arc<Session>,
    state: Mutex<Held>,
}

/// The newest message, and whether a task is going to deliver it.
#[derive(Default)]
struct Held {
    newest: Option<Delivery>,
    awaited: bool,
}

impl MaxRate {
    /// Limits `inner` to one message per `tick`.
    pub fn new(inner: Arc<dyn Subscriber>, tick: Duration) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), inner, tick, state: Mutex::default() })
    }

    /// Delivers the newest message at each tick. Returns at the first tick without one, or when the
    /// membership has ended.
    async fn run(me: Weak<Self>, tick: Duration) {
        loop {
            sleep(tick).await;
            let Some(me) = me.upgrade() else { return };
            let mut held = me.state.lock();
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
        let mut held = self.state.lock();
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

    fn is_conflated(&self) -> bool {
        true
    }
}

impl Latest {
    /// Conflates messages to `inner`, which belongs to a viewer on this session.
    pub fn new(inner: Arc<dyn Subscriber>, session: Arc<Session>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), inner, session, state: Mutex::default() })
    }

    async fn run(me: Weak<Self>, session: Arc<Session>) {
        // A viewer that is behind for longer is disconnected; then this delivery has no effect.
        let _ = timeout(session.slow_after() * 2, session.caught_up()).await;
        let Some(me) = me.upgrade() else { return };
        let mut held = me.state.lock();
        held.awaited = false;
        if let Some(newest) = held.newest.take() {
            me.inner.deliver(&newest.into());
        }
    }
}

impl Subscriber for Latest {
    fn deliver(&self, batch: &Batch) -> usize {
        let mut held = self.state.lock();
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

    fn is_conflated(&self) -> bool {
        true
    }
}
