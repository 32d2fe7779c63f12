//! The limit of open files: log lines when it is reached, and spare descriptors for a listener that
//! has to accept connections even then.

use std::{fs::File, io, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use tracing::warn;

use crate::{log_limit::LogLimit, metrics::Counter};

/// Number of spare descriptors. A connection needs one, but another part of the process may take a
/// freed descriptor first.
const SPARE: usize = 4;
/// The file behind the spare descriptors.
const NOTHING: &str = "/dev/null";
/// `EMFILE` and `ENFILE`: the process, or the machine, has no file descriptor left.
#[cfg(unix)]
const TOO_MANY_FILES: [i32; 2] = [24, 23];
#[cfg(not(unix))]
const TOO_MANY_FILES: [i32; 0] = [];

static ERRORS: LogLimit = LogLimit::new(1);

/// Counts a failed `accept` and logs it. The listener retries ten times a second, so the log line
/// is limited to one a minute.
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

/// Spare file descriptors of one listener.
///
/// When `accept` fails because no descriptor is left, the listener closes one of them
/// ([`release`](Self::release)) and accepts again; it reopens them
/// ([`refill`](Self::refill)) as soon as descriptors are free.
#[derive(Clone, Default)]
pub struct Reserve(Arc<Mutex<Vec<File>>>);

impl Reserve {
    /// Opens missing spares, as far as there are descriptors left.
    pub fn refill(&self) {
        let mut spare = self.lock();
        while spare.len() < SPARE
            && let Ok(file) = File::open(NOTHING)
        {
            spare.push(file);
        }
    }

    /// Closes one spare, if `error` says that there are too many open files. Returns whether it
    /// did.
    pub fn release(&self, error: &io::Error) -> bool {
        is_too_many_files(error) && self.lock().pop().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<File>> {
        self.0.lock()
    }
}
