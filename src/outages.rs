//! Tells viewers that the source went away, and that it came back: each of them once.
//!
//! A listener remembers under a small lock of its own what it was told, and [`catch_up`] brings that
//! up to the present. The teller calls it for all listeners, a join calls it after its answer, and a
//! gap before it is told. So each of them hears source down, source up, gap in this order, whichever
//! call comes first: the source is up before the gap of its outage is queued, and an outage that is
//! over is not told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, timeout},
};
use tracing::info;

use crate::health::SourceSignal;

/// How long an outage lasts before viewers are told: a failover or a restart is shorter, and the
/// gap tells about it.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// Viewers told before other tasks may run.
const TURN: usize = 256;

/// The outages of the source, and the listeners that are told about them.
pub struct Outages {
    source: watch::Receiver<SourceSignal>,
    /// Since when the source is away, of the last outage that viewers are told about; 0 = none yet.
    announced: AtomicU64,
    /// How many were told about it.
    told: AtomicU64,
    /// In the order in which they came, so that the teller can walk over them in turns.
    listeners: Mutex<BTreeMap<u64, Weak<dyn Listener>>>,
    next_id: AtomicU64,
}

/// A viewer that is told: a socket, or a stream of events.
pub trait Listener: Send + Sync {
    /// What it was told.
    fn told(&self) -> &Told;

    /// Tells it, without waiting. Called under its lock of [`Told`].
    fn tell(&self, signal: SourceSignal);
}

/// What one listener was told.
pub struct Told {
    id: u64,
    /// Since when the source is away, if the viewer was told so, and not yet that it is back.
    away: Mutex<Option<u64>>,
    outages: Arc<Outages>,
}

impl Outages {
    /// Those of the source behind `source`.
    pub fn new(source: watch::Receiver<SourceSignal>) -> Arc<Self> {
        let (announced, told, listeners, next_id) = Default::default();
        Arc::new(Self { source, announced, told, listeners, next_id })
    }

    /// For a new listener, which was told nothing.
    pub fn told(self: &Arc<Self>) -> Told {
        let id = self.next_id.fetch_add(1, Relaxed);
        Told { id, away: Mutex::default(), outages: self.clone() }
    }

    /// Tells all viewers about outages that last, and logs them, for ever.
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
            // The first subscription ends no outage, unless it took long.
            if !(is_start && is_short) {
                let ms = begun.elapsed().as_millis() as u64;
                info!(ms, viewers_told = told, "the outage of Redis is over");
            }
            is_start = false;
        }
    }

    /// Brings all listeners up to the present, in turns. New ones do that themselves.
    async fn walk(&self) {
        let mut next = 0;
        loop {
            let turn = self.turn(next);
            let Some((last, _)) = turn.last() else { return };
            next = last + 1;
            // Not under the lock of the list: joins need it.
            turn.iter().flat_map(|(_, listener)| listener).for_each(|it| catch_up(&**it));
            yield_now().await;
        }
    }

    /// The next listeners, from an id on.
    fn turn(&self, first: u64) -> Vec<(u64, Option<Arc<dyn Listener>>)> {
        let listeners = lock(&self.listeners);
        let next = listeners.range(first..).take(TURN);
        next.map(|(id, listener)| (*id, listener.upgrade())).collect()
    }
}

/// From now on this listener is told; if an outage has been announced, at once.
pub fn enter<L: Listener + 'static>(listener: &Arc<L>) {
    let Told { id, outages, .. } = listener.told();
    let known: Weak<L> = Arc::downgrade(listener);
    lock(&outages.listeners).insert(*id, known);
    catch_up(&**listener);
}

/// Tells a listener what it does not know yet.
pub fn catch_up(listener: &dyn Listener) {
    let Told { away, outages, .. } = listener.told();
    let mut away = lock(away);
    // Under the listener's lock: what is told is never older than what it was told before.
    let now = *outages.source.borrow();
    if away.take_if(|since| now.up || *since != now.since).is_some() {
        // If the source is away again already, it was up until then.
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
        lock(&self.outages.listeners).remove(&self.id);
    }
}

/// Waits for a signal like this; `None` if the source has ended.
async fn signal(
    source: &mut watch::Receiver<SourceSignal>,
    is_it: impl FnMut(&SourceSignal) -> bool,
) -> Option<SourceSignal> {
    source.wait_for(is_it).await.ok().map(|signal| *signal)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
