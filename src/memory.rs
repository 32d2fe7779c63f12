//! How much memory the container gives us.

/// Where cgroups of version 2 and 1 tell it, as a container sees them.
const FILES: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The limit in bytes; `None` if there is none, or nobody tells. Version 1 writes “none” as a
/// number larger than any machine.
pub fn limit() -> Option<usize> {
    let read = |file| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    FILES.into_iter().find_map(read)
}
