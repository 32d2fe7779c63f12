//! Core tasks: the server needs all of them, so it shuts down if one ends before it was stopped.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
};

use anyhow::anyhow;
use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::health::Health;

/// Spawns core tasks and reports the first failure.
///
/// A task fails if it panics, or if it ends before its `stop` is cancelled. The first failure is
/// logged, kept for [`Self::result`], makes `/livez` fail and wakes [`Self::failed`]. The other
/// tasks go on; the server drains and stops them.
#[derive(Clone)]
pub struct CoreTasks {
    health: Arc<Health>,
    failure: Arc<OnceLock<String>>,
    failed: CancellationToken,
}

impl CoreTasks {
    /// Reports failures to `health`, which makes `/livez` fail.
    pub fn new(health: Arc<Health>) -> Self {
        Self { health, failure: Arc::default(), failed: CancellationToken::new() }
    }

    /// Spawns a task that must not end before `stop` is cancelled. A panic is a failure at any time.
    pub fn spawn(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (tasks, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            let task = with_fault(name, task);
            // State that the panic has left inconsistent matters only briefly: the process ends.
            match AssertUnwindSafe(task).catch_unwind().await {
                // A failed task may make others end, which is no failure of theirs.
                Ok(()) if stop.is_cancelled() || tasks.failed.is_cancelled() => {}
                Ok(()) => tasks.fail(name, "has ended"),
                Err(_) => tasks.fail(name, "has panicked"),
            }
        })
    }

    /// Spawns a task that never ends by itself: it is dropped when `stop` is cancelled.
    pub fn spawn_endless<T>(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<()> {
        let ends = stop.clone();
        self.spawn(name, stop, async move { drop(ends.run_until_cancelled(task).await) })
    }

    /// Waits until a task has failed. Cancel safe.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Returns the first failure as an error, if there was one.
    pub fn result(&self) -> anyhow::Result<()> {
        self.failure.get().map_or(Ok(()), |failure| Err(anyhow!("{failure}")))
    }

    fn fail(&self, name: &'static str, what: &str) {
        let failure = format!("the core task `{name}` {what}");
        error!(task = name, "{failure}: the process shuts down, so that it can be restarted");
        self.health.fail(&failure);
        let _ = self.failure.set(failure);
        self.failed.cancel();
    }
}

/// Fault injection for tests: with `ROOMCAST_PANIC_IN=task:file`, the task panics once that file
/// exists.
#[cfg(debug_assertions)]
async fn with_fault(name: &str, task: impl Future<Output = ()>) {
    let fault = std::env::var("ROOMCAST_PANIC_IN").unwrap_or_default();
    let Some(file) = fault.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')) else {
        return task.await;
    };
    let fault = async {
        while !tokio::fs::try_exists(file).await.unwrap_or_default() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("a fault for a test");
    };
    tokio::select! {
        () = task => {}
        () = fault => {}
    }
}

#[cfg(not(debug_assertions))]
async fn with_fault(_: &str, task: impl Future<Output = ()>) {
    task.await;
}
