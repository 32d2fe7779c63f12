//! Too few open files: how that is told, and what is kept for a listener that has to answer then.

use std::{
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::warn;

use crate::{log_limit::LogLimit, metrics::Counter};

/// Files that are kept open for nothing. One is enough for a connection; other parts of the process
/// may be faster to take it.
const SPARE: usize = 4;
/// What is kept open.
const NOTHING: &str = "/dev/null";
/// `EMFILE` and `ENFILE`: the process, or the machine, has no file left.
#[cfg(unix)]
const TOO_MANY_FILES: [i32; 2] = [24, 23];
#[cfg(not(unix))]
const TOO_MANY_FILES: [i32; 0] = [];

static ERRORS: LogLimit = LogLimit::new(1);

/// Counts and tells that a connection could not be accepted: the listener tries ten times a second.
pub fn failed(error: &io::Error, errors: &Counter) {
    errors.inc();
    let advice = if is_too_many_files(error) {
        "; raise the limit of open files (ulimit -n), or lower MAX_CONNECTIONS"
    } else {
        ""
    };
    let text = format!("cannot accept connections: {error}{advice}");
    ERRORS.count(1, move |times| warn!(times, "{text}"));
}

fn is_too_many_files(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

/// Open files that one listener gives up when it could not accept otherwise.
#[derive(Clone, Default)]
pub struct Reserve(Arc<Mutex<Vec<File>>>);

impl Reserve {
    /// Opens them, as far as there are files left.
    pub fn refill(&self) {
        let mut spare = self.lock();
        while spare.len() < SPARE
            && let Ok(file) = File::open(NOTHING)
        {
            spare.push(file);
        }
    }

    /// Gives one up, if `error` says that there are too many files; whether it did.
    pub fn release(&self, error: &io::Error) -> bool {
        is_too_many_files(error) && self.lock().pop().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
