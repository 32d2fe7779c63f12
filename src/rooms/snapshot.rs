//! History across restarts: the history of all rooms is written while the server runs and at the
//! end of a drain, and read at the start, so that clients do not begin with an empty page.
//!
//! The server does not claim continuity across the restart: the messages keep their positions, a new
//! epoch begins behind them, and a client that joins with `since` gets what is kept after its position
//! and learns that messages may be missing.
//!
//! The newest record is the state of the last run. Each run first writes a record that says only
//! that it has started. So a history is restored at most once, and never after a later run that
//! ended before it could write its own.

use std::{
    fmt::Display,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use humantime::format_rfc3339_seconds;
use parking_lot::{Mutex, MutexGuard};
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
/// The largest ratio of a record's size to the history's limit: payloads are written as base64 and
/// offsets as text.
const WRITTEN: u64 = 4;
/// Interval of writes if messages have arrived; a crash loses at most the history of this time.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// The last time that can be formatted, in ms since the Unix epoch (the end of the year 9999): a
/// damaged record may hold any number.
const LAST_TIME: u64 = 253_402_300_799_999;
/// Stores the history of all rooms in a folder.
///
/// [`Snapshot::open`] prepares the folder, [`Snapshot::restore`] gives the rooms the history of the
/// last run, and [`Snapshot::run`] is the task that writes until the server stops.
pub struct Snapshot {
    store: StoreCalls,
    instance: String,
    report: Arc<Report>,
    metrics: Arc<Metrics>,
    /// The count of received messages when the history was last written; `None` if it must be
    /// written even if no message arrives.
    written_at: Option<u64>,
}

/// The result of the latest write, for `/status`.
pub struct Report {
    folder: PathBuf,
    inner: Mutex<ReportState>,
}

#[derive(Default)]
struct ReportState {
    written: Option<SystemTime>,
    error: Option<String>,
}

/// A [`Report`] at one moment, as `/status` shows it.
#[derive(Serialize)]
pub struct StateReport {
    /// The folder of the records.
    folder: PathBuf,
    /// When a record was last written, as RFC 3339; `null` before the first.
    written: Option<String>,
    /// Why the latest write failed; `null` if it succeeded.
    error: Option<String>,
}

impl Report {
    /// Whether the latest write succeeded, and the report.
    pub fn look(&self) -> (bool, StateReport) {
        let inner = self.lock();
        let report = StateReport {
            folder: self.folder.clone(),
            written: inner.written.map(|at| format_rfc3339_seconds(at).to_string()),
            error: inner.error.clone(),
        };
        (inner.error.is_none(), report)
    }

    fn lock(&self) -> MutexGuard<'_, ReportState> {
        self.inner.lock()
    }
}

impl Snapshot {
    /// Opens a folder for a history of at most `bytes` bytes, and creates the folder if it does not
    /// exist.
    ///
    /// # Errors
    /// If the folder cannot be created. A file system that is read-only, full or does not answer is
    /// no error here: later writes fail and report it.
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
            // Other failures are reported when the folder is used.
            _ => Ok(snapshot),
        }
    }

    /// The report of this snapshot's writes; it is updated while the task runs.
    pub fn report(&self) -> Arc<Report> {
        self.report.clone()
    }

    /// Restores the history that the last run wrote into the rooms, and logs the result.
    pub async fn restore(&mut self, rooms: &Rooms) {
        let instance = self.instance.clone();
        let head = Head::new(instance, now(), true, rooms.sequence());
        let past = match self.store.call(move |store| begin(store, &head)).await {
            Ok(past) => {
                self.done(true);
                past
            }
            Err(error) => {
                self.failed(&error, "the history of the last run is not restored");
                return;
            }
        };
        let Some((head, past)) = past else { return };
        let count: usize = past.iter().map(|(_, messages)| messages.len()).sum();
        rooms.restore(head.epochs(), head.latest, past);
        rooms.expire(now()).await;
        if count > 0 {
            info!(messages = count, "restored {count} messages of the history");
            self.written_at = None;
        }
    }

    /// Writes the history every 30 s if messages have arrived, until `stop` is cancelled, and then
    /// once more.
    ///
    /// # Cancel safety
    /// If the future is dropped, the last write is missing; the records on disk stay valid.
    pub async fn run(mut self, rooms: Arc<Rooms>, stop: CancellationToken) {
        let mut ticks = interval_at(Instant::now() + WRITE_EVERY, WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopping = stop.run_until_cancelled(ticks.tick()).await.is_none();
            self.store.returned().await;
            let messages = self.metrics.messages.get();
            // Write at the stop even if the count is unchanged: messages that were counted before
            // the latest write may have been added to their rooms after it.
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
        let head = Head::new(self.instance.clone(), now(), false, rooms.sequence());
        let write = move |store: &Store| {
            store.write_with(HISTORY, |out| record::write(out, &head, rooms.kept()))
        };
        match self.store.call(write).await {
            Ok(()) => {
                self.done(false);
                self.written_at = Some(messages);
            }
            Err(error) => self.failed(&error, "a restart would lose the history"),
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

/// Whether the failure may pass without a change of settings.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull)
}

/// Reads the history of the last run, and records that this run has started.
fn begin(store: &Store, head: &Head) -> anyhow::Result<Option<(Head, Vec<Past>)>> {
    let past = left_behind(store)?;
    let nothing = std::iter::empty::<(String, _)>();
    let begun = store.write_with(HISTORY, |out| record::write(out, head, nothing));
    if begun.is_err() {
        // Without the record of this run's start, the next run would restore the same history
        // again.
        let _ = store.clear(HISTORY);
    }
    begun.map(|()| past)
}

/// Reads the newest complete record. A truncated one was being written when its run ended: the
/// record before it is of the same run, or that run had not written that it started.
fn left_behind(store: &Store) -> anyhow::Result<Option<(Head, Vec<Past>)>> {
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
                return Ok(None);
            }
        };
        match record::parse(&content) {
            Ok((Head { start: true, instance, time, .. }, _)) => {
                info!(
                    instance,
                    "no history is restored: the previous run, which started {}, wrote none",
                    format(time)
                );
                return Ok(None);
            }
            Ok((head, past)) => {
                let instance = &head.instance;
                let time = format(head.time);
                info!(instance, record = %path.display(), "the history is from {time}");
                return Ok(Some((head, past)));
            }
            Err(problem) => {
                tell(&path, format_args!("{problem}; no history is restored"));
                return Ok(None);
            }
        }
    }
    Ok(None)
}

fn tell(path: &Path, problem: impl Display) {
    warn!("STATE_DIR: {}: {problem}", path.display());
}

fn format(time: u64) -> impl Display {
    format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(time.min(LAST_TIME)))
}

#[cfg(test)]
mod tests;
