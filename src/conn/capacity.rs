//! The maximum number of connections: the configured number or, without one, what the memory
//! allows; in both cases at most what the limit of open files allows.

use crate::memory;

/// Default maximum. More viewers than this should be spread over several instances.
const MAX_CONNECTIONS: usize = 20_000;
/// Open files reserved for other uses than viewers: listeners, Redis, connections that are being
/// refused.
const SPARE_FILES: usize = 512;
/// Bytes of memory to reckon with per connection; connections get half of the container's memory.
/// An idle one takes 2.5 kB, over TLS 10 kB (benches/README.md); a request adds HTTP's read buffer, up
/// to 32 KiB. Pending messages have a bound of their own.
const CONNECTION_BYTES: usize = 64 << 10;

/// The maximum number of connections, and the limit of open files that it was derived from.
pub struct Capacity {
    asked: Option<usize>,
    possible: usize,
    /// The process's limit of open files.
    pub files: usize,
    /// The maximum number of connections.
    pub connections: usize,
}

impl Capacity {
    /// Raises the process's soft limit of open files as far as it goes, and fits the number of
    /// connections to it. `asked` is the configured number.
    pub fn new(asked: Option<usize>) -> Self {
        let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024) as usize;
        let possible = files.saturating_sub(SPARE_FILES).max(1);
        let fitting = memory::limit().map(|limit| (limit / 2 / CONNECTION_BYTES).max(1));
        let unasked = || MAX_CONNECTIONS.min(fitting.unwrap_or(MAX_CONNECTIONS));
        let connections = asked.unwrap_or_else(unasked).min(possible);
        Self { asked, possible, files, connections }
    }

    /// What to do, as a text, if more connections are configured than open files allow.
    pub fn shortage(&self) -> Option<String> {
        let Self { possible, files, .. } = self;
        let asked = self.asked.filter(|asked| asked > possible)?;
        Some(format!(
            "{asked} are configured, but the open-file limit of {files} allows {possible}; raise it (ulimit -n)"
        ))
    }
}
