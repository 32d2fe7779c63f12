//! The memory limit of the container.

/// Files with the limit of cgroups versions 2 and 1, at their paths inside a container.
const FILES: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Returns the limit in bytes; `None` if there is none or it cannot be read. Version 1 expresses no
/// limit as a number larger than any machine's memory.
pub fn limit() -> Option<usize> {
    let read = |file| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    FILES.into_iter().find_map(read)
}
