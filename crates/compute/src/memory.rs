//! What memory the machine has left.

/// Bytes that can be allocated without swapping: the kernel's estimate, under the control group's limit. `None` where
/// the system does not say.
pub fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    })?;
    Some(machine.min(group_limit().unwrap_or(u64::MAX)))
}

/// What the control group leaves, version 2 then 1.
fn group_limit() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let pairs = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ];
    pairs.iter().find_map(|(limit, usage)| Some(number(limit)?.saturating_sub(number(usage)?)))
}

/// Most memory this process has held at once, in bytes; `None` where the system does not say.
pub fn peak_resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Gives back to the system what was freed. An allocator keeps it for later: what the preparation of data took would stay
/// beside what a run then allocates. Elsewhere than with glibc nothing is done.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer, and looks at the allocator's own free memory under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
