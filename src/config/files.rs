//! Reads the files that settings name, with a time limit: a file may be on a network share whose
//! server does not answer.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Time limit for one file. The calls block: settings are read before anything else runs, or on a
/// thread that may block.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a file as text, without the byte order mark that some editors begin it with.
///
/// # Errors
/// The text names the file and the reason, such as no answer within the time limit.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let name = file.display();
    match within_limit(file, fs::read_to_string) {
        Some(Ok(text)) => Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned()),
        Some(Err(error)) => Err(format!("cannot read `{name}`: {error}")),
        None => Err(format!("cannot read `{name}`: no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// Whether the path is a file; `false` if there is no answer within the time limit.
pub(super) fn is_file(file: &Path) -> bool {
    within_limit(file, |file| file.is_file()).unwrap_or(false)
}

/// Runs `call` on a thread of its own; `None` if it takes longer than the time limit. A thread that
/// hangs in a system call cannot be cancelled, so it is left running.
fn within_limit<T: Send + 'static>(
    file: &Path,
    call: impl FnOnce(PathBuf) -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    let file = file.to_owned();
    thread::spawn(move || answer.send(call(file)));
    answered.recv_timeout(TIMEOUT).ok()
}
