//! History over a restart: what all rooms keep is written while the server runs and at the end of a
//! drain, and read at the start, so that nobody looks at an empty page.
//!
//! Nothing is claimed across the restart: the messages keep their old positions, the rooms begin a
//! new epoch, and who asks with `since` hears that the recovery failed.
//!
//! The newest record is what the last run left behind. Each run begins with a record that says only
//! that it has started: what an earlier run wrote is used once, and never again after a later run
//! that had no time to write anything.

use std::{
    fmt::Display,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use humantime::format_rfc3339_seconds;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock::now,
    file_calls::StoreCalls,
    metrics::Metrics,
    rooms::Rooms,
    store::{Content, Store},
};

mod record;

use record::{Head, Past};

/// The kind of record in the store.
const HISTORY: &str = "history";
/// What is written may be so many times as large as what was kept: base64, and offsets as text.
const WRITTEN: u64 = 4;
/// How often the history is written if something has changed: what a crash may cost.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// The last millisecond since the Unix epoch that can be shown: a record may hold any number.
const LAST_TIME: u64 = 253_402_300_799_999;
/// Where the history outlives the process.
pub struct Snapshot {
    store: StoreCalls,
    instance: String,
    report: Arc<Report>,
    metrics: Arc<Metrics>,
    /// How many messages there were when the history was last written; `None` if it has to be
    /// written even without a new one.
    written_at: Option<u64>,
}

/// How writing goes, for `/status`.
pub struct Report {
    folder: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    written: Option<SystemTime>,
    error: Option<String>,
}

/// A look at it.
#[derive(Serialize)]
pub struct StateReport {
    /// The folder that is written to.
    folder: PathBuf,
    /// When a record was last written.
    written: Option<String>,
    /// Why none was written the last time; `null` if nothing went wrong.
    error: Option<String>,
}

impl Report {
    /// Whether the last record could be written, and when that was.
    pub fn look(&self) -> (bool, StateReport) {
        let inner = self.lock();
        let report = StateReport {
            folder: self.folder.clone(),
            written: inner.written.map(|at| format_rfc3339_seconds(at).to_string()),
            error: inner.error.clone(),
        };
        (inner.error.is_none(), report)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Snapshot {
    /// In a folder, which is made; of a history of at most so many bytes. A folder that cannot be
    /// made because of a setting is an error; one that does not answer or is read-only is only told.
    pub async fn open(
        folder: PathBuf,
        bytes: usize,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let store =
            Store::new(folder.clone()).with_records_of((bytes as u64).saturating_mul(WRITTEN));
        let report = Arc::new(Report { folder: folder.clone(), inner: Mutex::default() });
        let instance = format!("{:016x}", rand::random::<u64>());
        let store = StoreCalls::new(store);
        let snapshot = Self { store, instance, report, metrics, written_at: Some(0) };
        match snapshot.store.call(|store| Ok(store.make())).await {
            Ok(Err(error)) if !is_passing(error.kind()) => {
                Err(error).with_context(|| format!("cannot make {}", folder.display()))
            }
            // What else is wrong is told when the folder is used.
            _ => Ok(snapshot),
        }
    }

    /// How writing goes.
    pub fn report(&self) -> Arc<Report> {
        self.report.clone()
    }

    /// Gives the rooms what the last run has written, and says in the log what came of it.
    pub async fn restore(&mut self, rooms: &Rooms) {
        let instance = self.instance.clone();
        let past = match self.store.call(|store| begin(store, instance)).await {
            Ok(past) => {
                self.done(true);
                past
            }
            Err(error) => {
                self.failed(&error, "the history of the last run is not restored");
                return;
            }
        };
        let count: usize = past.iter().map(|(_, messages)| messages.len()).sum();
        past.into_iter().for_each(|(room, kept)| rooms.restore(&room, kept));
        rooms.expire(now());
        if count > 0 {
            info!(messages = count, "{count} messages of the history restored");
            self.written_at = None;
        }
    }

    /// Writes what the rooms keep, every 30 s if messages have come, until `stop`, and then once
    /// more.
    pub async fn run(mut self, rooms: Arc<Rooms>, stop: CancellationToken) {
        let mut ticks = interval_at(Instant::now() + WRITE_EVERY, WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopping = stop.run_until_cancelled(ticks.tick()).await.is_none();
            self.store.returned().await;
            let messages = self.metrics.messages.get();
            // The last record also holds messages that were counted before an earlier one, and
            // placed after it.
            if self.written_at != Some(messages) || stopping && messages > 0 {
                self.write(&rooms).await;
            }
            if stopping {
                return;
            }
        }
    }

    async fn write(&mut self, rooms: &Arc<Rooms>) {
        let messages = self.metrics.messages.get();
        let rooms = rooms.clone();
        let head = Head::new(self.instance.clone(), now(), false);
        let write = move |store: &Store| {
            store.write_with(HISTORY, |out| record::write(out, &head, rooms.kept()))
        };
        match self.store.call(write).await {
            Ok(()) => {
                self.done(false);
                self.written_at = Some(messages);
            }
            Err(error) => self.failed(&error, "the history would not outlive a restart"),
        }
    }

    fn done(&self, first: bool) {
        self.metrics.state_ok.set(1);
        self.metrics.state_writes("done").inc();
        let mut inner = self.report.lock();
        inner.written = Some(SystemTime::now());
        if inner.error.take().is_some() && !first {
            info!("STATE_DIR: the history can be written again");
        }
    }

    fn failed(&self, error: &anyhow::Error, effect: &str) {
        self.metrics.state_ok.set(0);
        self.metrics.state_writes("failed").inc();
        let error = format!("{error:#}");
        let mut inner = self.report.lock();
        if inner.error.as_ref() != Some(&error) {
            warn!("STATE_DIR: {error}: {effect}");
            inner.error = Some(error);
        }
    }
}

/// A folder that cannot be written to now may be later.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull)
}

/// Reads what the last run has left behind, and takes its place as the last run.
fn begin(store: &Store, instance: String) -> anyhow::Result<Vec<Past>> {
    let past = left_behind(store)?;
    let head = Head::new(instance, now(), true);
    let nothing = std::iter::empty::<(String, _)>();
    let begun = store.write_with(HISTORY, |out| record::write(out, &head, nothing));
    if begun.is_err() {
        // It must not be there when the next run looks: this one would not have been.
        let _ = store.clear(HISTORY);
    }
    begun.map(|()| past)
}

/// What the newest record says. One that was not finished was being written when its run ended: the
/// one before it is of the same run, or that run had not begun.
fn left_behind(store: &Store) -> anyhow::Result<Vec<Past>> {
    for path in store.records(HISTORY)? {
        let content = match store.load(&path) {
            Ok(Content::Gone) => continue,
            Ok(Content::Truncated) => {
                tell(&path, "it is truncated; the record before it is used, if there is one");
                continue;
            }
            Ok(Content::Whole(content)) => content,
            Err(error) => {
                tell(&path, format_args!("it cannot be read ({error}); no history is restored"));
                return Ok(Vec::new());
            }
        };
        match record::parse(&content) {
            Ok((Head { start: true, instance, time, .. }, _)) => {
                info!(
                    instance,
                    "no history is restored: the run before this one, which began {}, has written none",
                    format(time)
                );
                return Ok(Vec::new());
            }
            Ok((Head { instance, time, .. }, past)) => {
                info!(instance, record = %path.display(), "the history is of {}", format(time));
                return Ok(past);
            }
            Err(problem) => {
                tell(&path, format_args!("{problem}; no history is restored"));
                return Ok(Vec::new());
            }
        }
    }
    Ok(Vec::new())
}

fn tell(path: &Path, problem: impl Display) {
    warn!("STATE_DIR: {}: {problem}", path.display());
}

fn format(time: u64) -> impl Display {
    format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(time.min(LAST_TIME)))
}

#[cfg(test)]
mod tests;
