//! Core tasks: the server cannot do its job without any of them, so one that ends unasked ends it.

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

/// Spawns core tasks, and tells when one of them has failed.
#[derive(Clone)]
pub struct CoreTasks {
    health: Arc<Health>,
    failure: Arc<OnceLock<String>>,
    failed: CancellationToken,
}

impl CoreTasks {
    /// A failed task makes `/livez` fail through `health`.
    pub fn new(health: Arc<Health>) -> Self {
        Self { health, failure: Arc::default(), failed: CancellationToken::new() }
    }

    /// Runs a task that has to go on until `stop` is cancelled. It must not panic after that either.
    pub fn spawn(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let (tasks, stop) = (self.clone(), stop.clone());
        tokio::spawn(async move {
            let task = with_fault(name, task);
            // What the task has left half done does not matter for long: the process ends.
            match AssertUnwindSafe(task).catch_unwind().await {
                // One that has failed may end others.
                Ok(()) if stop.is_cancelled() || tasks.failed.is_cancelled() => {}
                Ok(()) => tasks.fail(name, "has ended"),
                Err(_) => tasks.fail(name, "has panicked"),
            }
        })
    }

    /// The same for a task that never ends by itself.
    pub fn spawn_endless<T>(
        &self,
        name: &'static str,
        stop: &CancellationToken,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<()> {
        let ends = stop.clone();
        self.spawn(name, stop, async move { drop(ends.run_until_cancelled(task).await) })
    }

    /// Waits until a task has failed.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// The first failure, if there was one.
    pub fn result(&self) -> anyhow::Result<()> {
        self.failure.get().map_or(Ok(()), |failure| Err(anyhow!("{failure}")))
    }

    fn fail(&self, name: &'static str, what: &str) {
        let failure = format!("the core task `{name}` {what}");
        error!(task = name, "{failure}: the process ends, so that it can be started again");
        self.health.fail(&failure);
        let _ = self.failure.set(failure);
        self.failed.cancel();
    }
}

/// A fault for tests: `ROOMCAST_PANIC_IN=task:file` makes a task panic once there is such a file.
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
