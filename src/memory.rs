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

/// Bytes that the allocator takes for an allocation of `bytes` bytes: jemalloc's size classes, which
/// are four for each doubling above 128 bytes, and multiples of 16 below.
pub fn allocated(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        1..=8 => 8,
        9..=128 => bytes.next_multiple_of(16),
        _ => {
            let step = (bytes - 1).ilog2().saturating_sub(2);
            bytes.next_multiple_of(1 << step)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::allocated;

    #[test]
    fn allocations_are_rounded_up_to_size_classes() {
        let table = [
            (0, 0),
            (1, 8),
            (9, 16),
            (100, 112),
            (128, 128),
            (129, 160),
            (160, 160),
            (257, 320),
            (1024, 1024),
            (1025, 1280),
            (10_000, 10_240),
            (10_241, 12_288),
        ];
        for (bytes, expected) in table {
            assert_eq!(allocated(bytes), expected, "{bytes}");
        }
    }
}
