//! Calls to files that may lie on a share whose server is gone: on a thread that may wait, with a
//! time limit, and one at a time.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::store::Store;

/// After which time a file or a folder counts as one that does not answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The calls to one place.
///
/// A call that does not come back holds a thread for as long. There are only so many, and names are
/// looked up by them too: so nothing more is asked of a place until its last call has come back.
#[derive(Clone, Default)]
pub struct FileCalls {
    late: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl FileCalls {
    /// Makes a call. If there is no answer in time, the error says so, and the call goes on.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let no_answer = || anyhow!("no answer within {} s", TIMEOUT.as_secs());
        if self.late().as_ref().is_some_and(|late| !late.is_finished()) {
            return Err(no_answer());
        }
        let (answer, answered) = oneshot::channel();
        let calling = spawn_blocking(move || drop(answer.send(call())));
        match timeout(TIMEOUT, answered).await {
            Ok(answer) => answer.context("the call has panicked")?,
            Err(_) => {
                *self.late() = Some(calling);
                Err(no_answer())
            }
        }
    }

    /// Reads a file.
    pub async fn read(&self, file: &Path) -> anyhow::Result<Vec<u8>> {
        let file = file.to_owned();
        self.call(move || Ok(std::fs::read(file)?)).await
    }

    /// Waits until the last call has come back.
    pub async fn returned(&self) {
        let late = self.late().take();
        if let Some(late) = late {
            let _ = late.await;
        }
    }

    fn late(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store for tasks that must not wait for it for ever.
#[derive(Clone)]
pub struct StoreCalls {
    store: Store,
    calls: FileCalls,
}

impl StoreCalls {
    /// The calls to a store.
    pub fn new(store: Store) -> Self {
        Self { store, calls: FileCalls::default() }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// Makes a call to the store; an error for want of an answer names the folder.
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let store = self.store.clone();
        // What the store says about itself names its files already.
        let answer = self.calls.call(move || Ok(call(&store))).await;
        answer.with_context(|| format!("{}", self.folder().display()))?
    }

    /// Waits until the last call has come back.
    pub async fn returned(&self) {
        self.calls.returned().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_place_that_does_not_answer_is_asked_nothing_more() {
        let (release, released) = mpsc::channel::<()>();
        let calls = FileCalls::default();
        let stuck = tokio::spawn({
            let calls = calls.clone();
            async move { calls.call(move || Ok(released.recv()?)).await }
        });
        // Time stands still while a thread is at work, unless it is moved.
        tokio::task::yield_now().await;
        tokio::time::advance(TIMEOUT).await;
        let error = stuck.await.expect("no panic").expect_err("no answer").to_string();
        assert_eq!(error, "no answer within 10 s");
        let next = calls.call(|| -> anyhow::Result<()> { panic!("asked") }).await;
        assert_eq!(next.expect_err("no answer").to_string(), error);
        release.send(()).expect("it waits");
        calls.returned().await;
        assert_eq!(calls.call(|| Ok(7)).await.expect("an answer"), 7);
    }
}
