//! `--profile FILE`: a trace of a run's calls or a picture of one step, and where a step's time goes.

use std::path::Path;

use anyhow::Context;
use backend_cpu::probe;
use bench::plan::Machine;
use bench::profile::Profile;
use engine::config::Precision;

use super::bench::peak;
use crate::table::Table;

/// What this machine does at best, for the bounds.
pub fn machine(precision: Precision, threads: usize) -> anyhow::Result<Machine> {
    Ok(Machine {
        gflop_per_s: peak(precision, threads)?,
        gb_per_s: probe::memory_bandwidth(threads).map_err(backend::Error::from)?,
    })
}

/// Writes the trace, and returns the lines to print.
pub fn write(file: &Path, profile: &Profile<'_>, machine: &Machine) -> anyhow::Result<String> {
    let svg = file.extension().is_some_and(|extension| extension == "svg");
    let content = if svg { profile.picture(machine) } else { Some(profile.trace().to_string()) };
    let Some(content) = content else {
        return Ok(format!("profile: no whole step was recorded, so {} was not drawn", file.display()));
    };
    std::fs::write(file, content).with_context(|| format!("cannot write {}", file.display()))?;
    let lines = profile.lines(machine);
    if lines.is_empty() {
        return Ok(format!("profile: {}; no whole step was recorded", file.display()));
    }
    let all: f64 = lines.iter().map(|line| line.ms).sum();
    let mut table = Table::new(["  call", "per step", "ms", "share", "bound ms", "of bound", "bound by"]);
    for line in &lines {
        table.row([
            format!("  {}", line.phase.name()),
            format!("{:.0}", line.calls),
            format!("{:.2}", line.ms),
            format!("{:.1} %", 100.0 * line.ms / all),
            format!("{:.2}", line.bound_ms),
            format!("{:.0} %", 100.0 * line.bound_ms / line.ms),
            if line.products { "products" } else { "memory" }.to_owned(),
        ]);
    }
    let bound: f64 = lines.iter().map(|line| line.bound_ms).sum();
    Ok(format!(
        "where a step goes on {}, mean of {} recorded:\n{table}  in all {all:.1} ms, at least {bound:.1} ms by {:.0} GFLOP/s and \
         {:.0} GB/s of this machine's processor, measured now\n{}: {}, {} calls{}",
        profile.device,
        profile.steps(),
        machine.gflop_per_s,
        machine.gb_per_s,
        if svg { "picture of the last step" } else { "trace" },
        file.display(),
        profile.spans.len(),
        if svg { " recorded" } else { "; open it at https://ui.perfetto.dev" }
    ))
}
