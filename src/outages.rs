//! Notifies clients that the source went down and that it came back, once each.
//!
//! Each listener stores under a lock of its own which signal it was sent last, and [`catch_up`]
//! sends what is missing. It is called from three places: by the task [`Outages::run`] for all
//! listeners, after the answer to a join, and before a gap is sent. So every client receives source
//! down, source up and gap in this order, whichever call comes first: the source is up before the
//! gap of its outage is queued, and an outage that is over is not reported any more.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, timeout},
};
use tracing::info;

use crate::health::SourceSignal;

/// How long an outage lasts before clients are notified. A failover or a restart is shorter, and
/// the gap after it is enough to report it.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// Listeners that are notified before the task yields to other tasks.
const TURN: usize = 256;

/// Watches the source for outages and notifies listeners of those that last.
///
/// One task runs [`Self::run`] for as long as the server does. A listener gets its [`Told`] when it
/// is created, is registered by [`enter`] after its first answer, and is removed when its `Told` is
/// dropped. The list holds weak references, so it does not keep a client alive.
pub struct Outages {
    source: watch::Receiver<SourceSignal>,
    /// When the last outage of which clients are notified began, in ms since the Unix epoch; 0 = no
    /// such outage yet.
    announced: AtomicU64,
    /// Number of listeners that were notified of it.
    told: AtomicU64,
    /// Listeners by id. Ids grow, so that the task can walk over the list in batches.
    listeners: Mutex<BTreeMap<u64, Weak<dyn Listener>>>,
    next_id: AtomicU64,
}

/// A client that is notified: a socket, or an event stream.
pub trait Listener: Send + Sync {
    /// Returns the record of what it was sent.
    fn told(&self) -> &Told;

    /// Queues a signal without blocking. Called under the lock of its [`Told`].
    fn tell(&self, signal: SourceSignal);
}

/// Record of what one listener was sent. Dropping it removes the listener from the list.
pub struct Told {
    id: u64,
    /// When the outage began that the listener knows of, in ms since the Unix epoch; `None` if it
    /// was sent no outage, or its end too.
    away: Mutex<Option<u64>>,
    outages: Arc<Outages>,
}

impl Outages {
    /// Watches the source that sends `source`.
    pub fn new(source: watch::Receiver<SourceSignal>) -> Arc<Self> {
        let (announced, told, listeners, next_id) = Default::default();
        Arc::new(Self { source, announced, told, listeners, next_id })
    }

    /// Creates the record of a new listener, which was sent nothing yet.
    pub fn told(self: &Arc<Self>) -> Told {
        let id = self.next_id.fetch_add(1, Relaxed);
        Told { id, away: Mutex::default(), outages: self.clone() }
    }

    /// Notifies all listeners of outages that last for [`TOLD_AFTER`] and of their ends, and logs
    /// them. Ends only if the source does.
    pub async fn run(self: Arc<Self>) {
        let mut source = self.source.clone();
        let mut is_start = !self.source.borrow().up;
        while let Some(down) = signal(&mut source, |now| !now.up).await {
            let begun = Instant::now();
            let mut later = source.clone();
            let over = signal(&mut later, |now| now.up || now.since != down.since);
            tokio::pin!(over);
            let is_short = timeout(TOLD_AFTER, over.as_mut()).await.is_ok();
            let mut told = 0;
            if !is_short {
                self.told.store(0, Relaxed);
                self.announced.store(down.since, Release);
                self.walk().await;
                over.await;
                told = self.told.load(Relaxed);
                self.walk().await;
            }
            // Before the first subscription there was no outage, unless it took long.
            if !(is_start && is_short) {
                let ms = begun.elapsed().as_millis() as u64;
                info!(ms, viewers_told = told, "the outage of Redis is over");
            }
            is_start = false;
        }
    }

    /// Calls [`catch_up`] for all listeners, in batches. Listeners that enter meanwhile call it
    /// themselves.
    async fn walk(&self) {
        let mut next = 0;
        loop {
            let turn = self.turn(next);
            let Some((last, _)) = turn.last() else { return };
            next = last + 1;
            // Not under the lock of the list, which joins need.
            turn.iter().flat_map(|(_, listener)| listener).for_each(|it| catch_up(&**it));
            yield_now().await;
        }
    }

    /// Returns the next batch of listeners, from this id on.
    fn turn(&self, first: u64) -> Vec<(u64, Option<Arc<dyn Listener>>)> {
        let listeners = self.listeners.lock();
        let next = listeners.range(first..).take(TURN);
        next.map(|(id, listener)| (*id, listener.upgrade())).collect()
    }
}

/// Registers a listener for signals. If an outage has been announced, it is notified at once.
pub fn enter<L: Listener + 'static>(listener: &Arc<L>) {
    let Told { id, outages, .. } = listener.told();
    let known: Weak<L> = Arc::downgrade(listener);
    outages.listeners.lock().insert(*id, known);
    catch_up(&**listener);
}

/// Sends a listener the signals that it has not received yet: the end of the outage that it knows
/// of, and the current outage if that was announced.
pub fn catch_up(listener: &dyn Listener) {
    let Told { away, outages, .. } = listener.told();
    let mut away = away.lock();
    // Read under the listener's lock, so that a signal is never older than the one sent before.
    let now = *outages.source.borrow();
    if away.take_if(|since| now.up || *since != now.since).is_some() {
        // If the source is down again already, it was up until the new outage began.
        listener.tell(SourceSignal { up: true, ..now });
    }
    if !now.up && away.is_none() && outages.announced.load(Acquire) == now.since {
        listener.tell(now);
        *away = Some(now.since);
        outages.told.fetch_add(1, Relaxed);
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.outages.listeners.lock().remove(&self.id);
    }
}

/// Waits for a signal for which `is_it` is true; `None` if the sender was dropped.
async fn signal(
    source: &mut watch::Receiver<SourceSignal>,
    is_it: impl FnMut(&SourceSignal) -> bool,
) -> Option<SourceSignal> {
    source.wait_for(is_it).await.ok().map(|signal| *signal)
}

#[cfg(test)]
mod tests;
