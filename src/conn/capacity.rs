//! How many connections the process may hold: what is asked for, as far as its open files go, else
//! what its memory is enough for.

use crate::memory;

/// More viewers than this want several instances.
const MAX_CONNECTIONS: usize = 20_000;
/// Open files that are not viewers: listeners, Redis, a socket a time for what is being refused.
const SPARE_FILES: usize = 512;
/// What a connection may take of half a container's memory: 18 to 35 kB idle were measured, and TLS
/// and what it is sent come on top.
const CONNECTION_BYTES: usize = 64 << 10;

/// Connections, and the limit that they are fitted to.
pub struct Capacity {
    asked: Option<usize>,
    possible: usize,
    /// Files that the process may have open.
    pub files: usize,
    /// Connections that are held.
    pub connections: usize,
}

impl Capacity {
    /// Raises the process' soft limit of open files as far as it goes.
    pub fn new(asked: Option<usize>) -> Self {
        let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024) as usize;
        let possible = files.saturating_sub(SPARE_FILES).max(1);
        let fitting = memory::limit().map(|limit| (limit / 2 / CONNECTION_BYTES).max(1));
        let unasked = || MAX_CONNECTIONS.min(fitting.unwrap_or(MAX_CONNECTIONS));
        let connections = asked.unwrap_or_else(unasked).min(possible);
        Self { asked, possible, files, connections }
    }

    /// What to do if more is asked for than is possible.
    pub fn shortage(&self) -> Option<String> {
        let Self { possible, files, .. } = self;
        let asked = self.asked.filter(|asked| asked > possible)?;
        Some(format!(
            "{asked} are asked for, but the open-file limit of {files} allows {possible}; raise it (ulimit -n)"
        ))
    }
}
