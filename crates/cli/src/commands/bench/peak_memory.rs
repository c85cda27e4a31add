//! The most memory that this process had, as Linux counts it.

/// Starts counting anew; without effect where the system does not offer it.
pub fn reset() {
    // 5 resets the peak of the resident set, see proc_pid_clear_refs(5).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Bytes resident at the peak since [`reset`], where the system tells.
pub fn read() -> Option<u64> {
    field("VmHWM:")
}

/// Bytes resident now, where the system tells.
pub fn resident() -> Option<u64> {
    field("VmRSS:")
}

fn field(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
