//! File system calls with a time limit, for files that may be on a network share whose server does
//! not respond. Calls run on blocking threads; a call that hangs keeps later ones from starting.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};

use crate::store::Store;

/// Time limit of a call. After it, the file or folder is reported as not answering.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Calls to the files of one location; clones share its state.
///
/// A call that hangs occupies a thread of tokio's blocking pool until it returns. The pool is
/// limited and also resolves host names, so a hanging share must not use it up. When a call exceeds
/// its time limit, it goes on in the background, and every later call to the location fails at once
/// until it has returned.
#[derive(Clone, Default)]
pub struct FileCalls {
    late: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl FileCalls {
    /// Runs `call` on a blocking thread.
    ///
    /// # Errors
    ///
    /// The error of `call`; or `no answer within 10 s` if the call exceeds the limit or an earlier
    /// one has not returned yet.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, `call` still runs to its end and its result is lost. A call
    /// abandoned in this way does not keep later ones from starting.
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

    /// Reads a whole file, within the time limit of [`call`](Self::call).
    pub async fn read(&self, file: &Path) -> anyhow::Result<Vec<u8>> {
        let file = file.to_owned();
        self.call(move || Ok(std::fs::read(file)?)).await
    }

    /// Waits, without a time limit, until the call that exceeded its limit has returned. Returns at
    /// once if there is none.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped, the hanging call is forgotten, and later calls
    /// start although it still occupies a thread.
    pub async fn returned(&self) {
        let late = self.late().take();
        if let Some(late) = late {
            let _ = late.await;
        }
    }

    fn late(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.late.lock()
    }
}

/// A [`Store`] for async tasks: its calls run on blocking threads and have a time limit.
#[derive(Clone)]
pub struct StoreCalls {
    store: Store,
    calls: FileCalls,
}

impl StoreCalls {
    /// Wraps a store. Clones share the state of its calls; a second wrapper has its own.
    pub fn new(store: Store) -> Self {
        Self { store, calls: FileCalls::default() }
    }

    /// The path of the store's folder.
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// Runs `call` on a blocking thread.
    ///
    /// # Errors
    ///
    /// As for [`FileCalls::call`]. If the store does not answer in time, the error names the
    /// folder.
    ///
    /// # Cancel safety
    ///
    /// As for [`FileCalls::call`].
    pub async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let store = self.store.clone();
        // Add the folder only to a missing answer: the store's own errors name their files.
        let answer = self.calls.call(move || Ok(call(&store))).await;
        answer.with_context(|| format!("{}", self.folder().display()))?
    }

    /// As [`FileCalls::returned`], and not cancel safe either.
    pub async fn returned(&self) {
        self.calls.returned().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_fail_at_once_while_an_earlier_one_hangs() {
        let (release, released) = mpsc::channel::<()>();
        let calls = FileCalls::default();
        let stuck = tokio::spawn({
            let calls = calls.clone();
            async move { calls.call(move || Ok(released.recv()?)).await }
        });
        // The paused clock does not advance by itself while a blocking thread is running.
        tokio::task::yield_now().await;
        tokio::time::advance(TIMEOUT).await;
        let error = stuck.await.expect("no panic").expect_err("no answer").to_string();
        assert_eq!(error, "no answer within 10 s");
        let next = calls.call(|| -> anyhow::Result<()> { panic!("asked") }).await;
        assert_eq!(next.expect_err("no answer").to_string(), error);
        release.send(()).expect("the call is waiting");
        calls.returned().await;
        assert_eq!(calls.call(|| Ok(7)).await.expect("an answer"), 7);
    }
}
