//! How much memory there is, whether a run fits into it, and how to say it.

use backend::Footprint;

use crate::failure::Failure;

/// Fails where training takes more than there is.
pub(super) fn demand(needed: &Footprint) -> Result<(), Failure> {
    match available_memory() {
        Some(free) if needed.total() > free => Err(Failure::DoesNotFit(format!(
            "training needs {}, {} are free: try --update-in-backward, --recompute, --optimizer-state q8, a smaller --batch or --seq, or a \
             smaller preset; `rustane plan` shows what takes how much",
            bytes(needed.total()),
            bytes(free)
        ))),
        _ => Ok(()),
    }
}

/// Bytes that can be used without swapping, where the system tells.
pub fn available_memory() -> Option<u64> {
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let machine = number(line)? * 1024;
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit = read("memory.max").and_then(|t| number(&t));
    let used = read("memory.current").and_then(|t| number(&t)).unwrap_or(0);
    Some(limit.map_or(machine, |limit| machine.min(limit.saturating_sub(used))))
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n} bytes"),
    }
}
