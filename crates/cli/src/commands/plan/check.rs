//! Thirty configurations, each in a process of its own: predicted and measured memory.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use bench::plan::cases;
use bench::results::{Case, Quantity};
use serde_json::{Value, json};

use super::Args;
use crate::commands::bench::output::OutputArgs;
use crate::device::bytes;
use crate::failure::Failure;
use crate::table::Table;

/// How far a prediction may be off.
const TOLERANCE: f64 = 0.05;

const PROTOCOL: &str = "two training steps of random tokens, each configuration in a process of its own that predicts \
    before it takes the memory; most resident memory (VmHWM) from there on";

/// Runs the first `count`, prints them as they come, then the errors in all. The exit code is 1 where one is off by
/// more than the tolerance.
pub fn run(args: &Args, count: usize) -> anyhow::Result<ExitCode> {
    let cases = cases();
    if !(1..=cases.len()).contains(&count) {
        let text = format!("--check {count}: there are {} configurations; give 1 to {0}", cases.len());
        return Err(Failure::Usage(text).into());
    }
    args.device.check()?;
    let folder = std::env::temp_dir().join(format!("rustane-plan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
    let rows = measure_all(args, &cases[..count], &folder);
    let _ = std::fs::remove_dir_all(&folder);
    let rows = rows?;
    let errors = || rows.iter().map(|row| error(row).abs());
    let (worst, within) = (errors().fold(0.0, f64::max), errors().filter(|e| *e <= TOLERANCE).count());
    if !args.json {
        let mut table = Table::new(["configuration", "predicted", "measured", "error"]);
        for row in &rows {
            let predicted = row.details["predicted_bytes"].as_u64().map_or("-".into(), bytes);
            let name = row.name.trim_start_matches("plan/");
            let error = format!("{:.2} %", 100.0 * error(row));
            table.row([name, &predicted, &bytes(row.values[0] as u64), &error]);
        }
        println!("{table}\n{within} of {count} within 5 %, the worst {:.1} %", 100.0 * worst);
    }
    Ok(if within == count { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure_all(args: &Args, cases: &[bench::plan::Case], folder: &Path) -> anyhow::Result<Vec<Case>> {
    let output = OutputArgs { json: args.json, out: args.out.clone() };
    let mut measurement =
        output.begin("memory at the peak of training, predicted and measured", &args.device)?;
    measurement.protocol(PROTOCOL);
    let mut rows: Vec<Case> = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let file = folder.join(format!("{n}.toml"));
        std::fs::write(&file, case.config.to_table().to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        let row = measured(args, &file, &case.name).with_context(|| case.name.clone())?;
        if !args.json {
            eprintln!("{:>3} of {}: {:>6.2} %  {}", n + 1, cases.len(), 100.0 * error(&row), case.name);
        }
        rows.push(row.clone());
        let worst = rows.iter().map(|row| error(row).abs()).fold(0.0, f64::max);
        let within = rows.iter().filter(|row| error(row).abs() <= TOLERANCE).count();
        measurement.details(json!({ "worst_error": worst, "within_5_percent": within }));
        measurement.add([row])?;
    }
    measurement.finish()?;
    Ok(rows)
}

/// Predicted over measured, less one.
fn error(row: &Case) -> f64 {
    row.details["error"].as_f64().unwrap_or(f64::NAN)
}

/// What a process of its own predicts of itself, and then measures.
fn measured(args: &Args, file: &Path, name: &str) -> anyhow::Result<Case> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.arg("plan").arg(file).args(["--measure", "--json"]);
    command.args(args.device.flags().split_whitespace());
    let out = command.output().context("cannot start a process")?;
    if !out.status.success() {
        anyhow::bail!("the process failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let row: Value = serde_json::from_slice(&out.stdout).context("the process printed no JSON")?;
    let measured = row["measured_bytes"].as_u64().context("the process told no memory")?;
    let what = Quantity::bytes("memory at the peak of training");
    let mut case = Case::new(format!("plan/{name}"), args.device.label(), what, vec![measured as f64]);
    case.memory_peak_bytes = Some(measured);
    case.details = json!({
        "predicted_bytes": row["peak_bytes"], "error": row["error"], "peak_phase": row["peak_phase"],
        "phases": row["phases"],
    });
    Ok(case)
}
