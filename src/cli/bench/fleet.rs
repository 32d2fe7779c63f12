//! All threads' viewers together: they come, they watch, they leave, and what they have counted.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::{plan::Plan, report::Bar, tally::Tally, worker::WorkerThread};

/// How often progress is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Without progress for so long, nothing more is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same while viewers connect: servers can be busy with that.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// For messages that still come after the last one was published, even if slowly.
const AFTERMATH: Duration = Duration::from_secs(120);
/// Open files that are no viewers.
const SPARE_FILES: usize = 64;
/// Latencies up to so many µs are told apart.
const LONGEST: u64 = 600_000_000;

/// What all threads see.
pub struct Progress {
    /// The run's clock.
    pub clock: Instant,
    /// The viewers shall leave.
    pub stop: AtomicBool,
    /// Viewers that have joined.
    pub joined: AtomicU64,
    /// Messages that came for the first time to those who read all.
    pub delivered: AtomicU64,
    /// Of those who read all, how many were cut off.
    pub closed: AtomicU64,
    /// Why the benchmark cannot go on.
    failed: Mutex<Option<anyhow::Error>>,
}

impl Progress {
    /// Nothing yet.
    pub fn new() -> Self {
        let (stop, joined, delivered, closed, failed) = Default::default();
        Self { clock: Instant::now(), stop, joined, delivered, closed, failed }
    }

    /// Why the benchmark cannot go on, if it cannot.
    pub fn failure(&self) -> Option<anyhow::Error> {
        self.lock().take()
    }

    /// The benchmark cannot go on.
    pub fn fail(&self, error: anyhow::Error) {
        self.lock().get_or_insert(error);
        self.stop.store(true, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Option<anyhow::Error>> {
        self.failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a thread has counted.
pub struct Outcome {
    /// What came to those who read all.
    pub brisk: Tally,
    /// What came to the slow and the stalled.
    pub hindered: Tally,
    /// In µs, of those who read all.
    pub latency: Histogram<u64>,
    /// When the latest message came to one of these, by the run's clock.
    pub latest: Duration,
}

impl Outcome {
    /// Nothing yet.
    pub fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).context("a histogram")?;
        let (brisk, hindered, latest) = Default::default();
        Ok(Self { brisk, hindered, latency, latest })
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.brisk.add(other.brisk);
        self.hindered.add(other.hindered);
        self.latest = self.latest.max(other.latest);
        self.latency.add(&other.latency).context("histograms")
    }
}

/// All threads' viewers.
pub struct Fleet {
    /// What all threads see.
    pub progress: Arc<Progress>,
    plan: Arc<Plan>,
    threads: Vec<JoinHandle<Outcome>>,
}

impl Fleet {
    /// Connects all, and says how long that took.
    pub async fn gather(plan: &Arc<Plan>, bar: &Bar) -> anyhow::Result<(Self, Duration)> {
        raise_file_limit(plan.viewers)?;
        let progress = Arc::new(Progress::new());
        let crowds = (0..plan.threads).map(|thread| {
            let crowd = WorkerThread::new(plan.clone(), progress.clone(), thread)?;
            thread::Builder::new().spawn(|| crowd.run()).context("no thread for the viewers")
        });
        let threads = crowds.collect::<anyhow::Result<_>>()?;
        let viewers = Self { progress, plan: plan.clone(), threads };
        let all = plan.viewers as u64;
        let joined = || viewers.progress.joined.load(Relaxed);
        viewers
            .until(CONNECT_PATIENCE, joined, |joined| {
                bar.joined(joined);
                joined == all
            })
            .await?;
        let count = joined();
        ensure!(
            count == all,
            "{count} of {all} viewers have joined, and no more for {} s: see the server's log, or ask for fewer",
            CONNECT_PATIENCE.as_secs()
        );
        let took = viewers.progress.clock.elapsed();
        Ok((viewers, took))
    }

    /// Waits for what is still to come, as long as something comes.
    pub async fn settle(&self, expected: u64, bar: &Bar) -> anyhow::Result<()> {
        let delivered = || self.progress.delivered.load(Relaxed);
        let brisk = self.plan.viewers - self.plan.stalled - self.plan.slow;
        self.until(PATIENCE, delivered, |delivered| {
            bar.delivered(&self.progress, expected);
            delivered >= expected || self.progress.closed.load(Relaxed) >= brisk as u64
        })
        .await
    }

    /// Waits until `enough`, or until a count has not changed for as long as `patience`.
    async fn until(
        &self,
        patience: Duration,
        count: impl Fn() -> u64,
        enough: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        let (mut last, mut changed) = (count(), begun);
        loop {
            self.check()?;
            let now = count();
            if now != last {
                (last, changed) = (now, Instant::now());
            }
            if enough(now) || changed.elapsed() > patience || begun.elapsed() > AFTERMATH {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether all is well with the threads.
    pub fn check(&self) -> anyhow::Result<()> {
        self.progress.failure().map_or(Ok(()), Err)
    }

    /// All leave; what they have counted.
    pub fn leave(mut self) -> anyhow::Result<Outcome> {
        self.progress.stop.store(true, Relaxed);
        let mut all = Outcome::new()?;
        for thread in self.threads.drain(..) {
            all.add(&thread.join().map_err(|_| anyhow!("a thread of viewers panicked"))?)?;
        }
        self.check()?;
        Ok(all)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.progress.stop.store(true, Relaxed);
    }
}

fn raise_file_limit(viewers: usize) -> anyhow::Result<()> {
    let wanted = (viewers + SPARE_FILES) as u64;
    let files = rlimit::increase_nofile_limit(wanted).unwrap_or(1024);
    let possible = files.saturating_sub(SPARE_FILES as u64);
    ensure!(
        files >= wanted,
        "the open-file limit of {files} allows {possible} viewers, not {viewers}: raise it \
         (ulimit -n), or ask for fewer --viewers"
    );
    Ok(())
}
