//! The viewers of all threads: starts the threads, follows their progress, collects their counts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::sleep;

use super::{plan::Plan, report::Bar, tally::Tally, worker::WorkerThread};

/// How often progress is checked.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After this long without a delivery, missing messages count as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// After this long without a viewer joining, the benchmark fails. Longer than [`PATIENCE`], because
/// a server may be busy with many handshakes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(20);
/// Upper limit of any wait, even if there is progress.
const AFTERMATH: Duration = Duration::from_secs(120);
/// Open files reserved for other uses than viewers.
const SPARE_FILES: usize = 64;
/// Highest latency that the histogram records, in µs; higher ones count as this.
const LONGEST: u64 = 600_000_000;

/// The benchmark's progress, shared by all threads.
pub struct Progress {
    /// The start of the benchmark; all times are relative to it.
    pub clock: Instant,
    /// Asks the threads to stop.
    pub stop: AtomicBool,
    /// Viewers that have joined.
    pub joined: AtomicU64,
    /// Messages that brisk viewers received for the first time.
    pub delivered: AtomicU64,
    /// Brisk viewers whose connection the server closed.
    pub closed: AtomicU64,
    /// The first error of a thread.
    failed: Mutex<Option<anyhow::Error>>,
}

impl Progress {
    /// Starts the clock.
    pub fn new() -> Self {
        let (stop, joined, delivered, closed, failed) = Default::default();
        Self { clock: Instant::now(), stop, joined, delivered, closed, failed }
    }

    /// Takes the first error of a thread, if any.
    pub fn failure(&self) -> Option<anyhow::Error> {
        self.lock().take()
    }

    /// Records an error, unless there is one already, and stops all threads.
    pub fn fail(&self, error: anyhow::Error) {
        self.lock().get_or_insert(error);
        self.stop.store(true, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Option<anyhow::Error>> {
        self.failed.lock()
    }
}

/// The counts of one thread, or of all threads together.
pub struct Outcome {
    /// What the brisk viewers received.
    pub brisk: Tally,
    /// What the slow and stalled viewers received.
    pub hindered: Tally,
    /// Latency of the deliveries to brisk viewers, in µs.
    pub latency: Histogram<u64>,
    /// When a brisk viewer last received a message, as a time since the start of the benchmark.
    pub latest: Duration,
}

impl Outcome {
    /// All counts 0; latencies are recorded with three significant digits.
    ///
    /// # Errors
    /// If the histogram cannot be created.
    pub fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).context("cannot record latency")?;
        let (brisk, hindered, latest) = Default::default();
        Ok(Self { brisk, hindered, latency, latest })
    }

    /// Adds the counts of another thread.
    ///
    /// # Errors
    /// If the histograms cannot be added.
    pub fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.brisk.add(other.brisk);
        self.hindered.add(other.hindered);
        self.latest = self.latest.max(other.latest);
        self.latency.add(&other.latency).context("cannot add the threads' latencies")
    }
}

/// The viewers of all threads.
///
/// [`gather`](Self::gather) starts the threads and waits until all viewers have joined. They run
/// until [`leave`](Self::leave) collects their counts; dropping the fleet only asks them to stop.
pub struct Fleet {
    /// The progress that all threads report.
    pub progress: Arc<Progress>,
    plan: Arc<Plan>,
    threads: Vec<JoinHandle<Outcome>>,
}

impl Fleet {
    /// Connects all viewers; returns them and how long that took.
    ///
    /// # Errors
    /// If the open-file limit is too low, a viewer cannot join, or not all viewers join in time.
    pub async fn gather(plan: &Arc<Plan>, bar: &Bar) -> anyhow::Result<(Self, Duration)> {
        raise_file_limit(plan.viewers)?;
        let progress = Arc::new(Progress::new());
        let crowds = (0..plan.threads).map(|thread| {
            let crowd = WorkerThread::new(plan.clone(), progress.clone(), thread)?;
            thread::Builder::new().spawn(|| crowd.run()).context("cannot start a thread")
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
            "{count} of {all} viewers have joined, and no more for {} s: see the server's log, or lower --viewers",
            CONNECT_PATIENCE.as_secs()
        );
        let took = viewers.progress.clock.elapsed();
        Ok((viewers, took))
    }

    /// Waits for outstanding deliveries, until all have arrived, none arrives any more, or all
    /// brisk viewers are cut off.
    pub async fn settle(&self, expected: u64, bar: &Bar) -> anyhow::Result<()> {
        let delivered = || self.progress.delivered.load(Relaxed);
        let brisk = self.plan.viewers - self.plan.stalled - self.plan.slow;
        self.until(PATIENCE, delivered, |delivered| {
            bar.delivered(&self.progress, expected);
            delivered >= expected || self.progress.closed.load(Relaxed) >= brisk as u64
        })
        .await
    }

    /// Waits until `enough` returns true, `count` has not changed for as long as `patience`, or
    /// [`AFTERMATH`] has passed.
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

    /// # Errors
    /// If a thread has failed.
    pub fn check(&self) -> anyhow::Result<()> {
        self.progress.failure().map_or(Ok(()), Err)
    }

    /// Stops all threads, waits for them and returns the sum of their counts.
    ///
    /// # Errors
    /// If a thread has failed or panicked.
    pub fn leave(mut self) -> anyhow::Result<Outcome> {
        self.progress.stop.store(true, Relaxed);
        let mut all = Outcome::new()?;
        for thread in self.threads.drain(..) {
            all.add(&thread.join().map_err(|_| anyhow!("a worker thread panicked"))?)?;
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
