//! Files that settings name, asked with a time limit: they may lie on a share whose server is gone.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// For one file to be read. Settings are read before anything else runs, or on a thread that may
/// wait.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The text of a file, or why it cannot be had.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let name = file.display();
    match within_limit(file, fs::read_to_string) {
        Some(text) => text.map_err(|error| format!("cannot read `{name}`: {error}")),
        None => Err(format!("cannot read `{name}`: no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// Whether there is such a file. One that does not answer in time is none.
pub(super) fn is_file(file: &Path) -> bool {
    within_limit(file, |file| file.is_file()).unwrap_or(false)
}

/// A thread that waits for a share cannot be ended: it is left behind.
fn within_limit<T: Send + 'static>(
    file: &Path,
    call: impl FnOnce(PathBuf) -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    let file = file.to_owned();
    thread::spawn(move || answer.send(call(file)));
    answered.recv_timeout(TIMEOUT).ok()
}
