//! Thirty configurations, each in a process of its own: predicted and measured memory.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;
use bench::plan::cases;
use serde_json::{Value, json};

use super::Args;
use crate::device::bytes;
use crate::failure::Failure;
use crate::table::Table;

/// Runs the first `count`, prints them as they come, then the errors in all.
pub fn run(args: &Args, count: usize) -> anyhow::Result<ExitCode> {
    let cases = cases();
    if !(1..=cases.len()).contains(&count) {
        let text = format!("--check {count}: there are {} configurations; give 1 to {0}", cases.len());
        return Err(Failure::Usage(text).into());
    }
    args.device.check()?;
    let folder = std::env::temp_dir().join(format!("rustane-plan-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
    let result = (|| {
        let mut rows = Vec::new();
        for (n, case) in cases.iter().take(count).enumerate() {
            let file = folder.join(format!("{n}.toml"));
            std::fs::write(&file, case.config.to_table().to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
            let mut row = measured(args, &file).with_context(|| case.name.clone())?;
            row["name"] = json!(case.name);
            if !args.json {
                eprintln!("{:>3} of {count}: {:>6.2} %  {}", n + 1, 100.0 * error(&row), case.name);
            }
            rows.push(row);
        }
        anyhow::Ok(rows)
    })();
    let _ = std::fs::remove_dir_all(&folder);
    let rows = result?;
    let worst = rows.iter().map(|row| error(row).abs()).fold(0.0, f64::max);
    let within = rows.iter().filter(|row| error(row).abs() <= 0.05).count();
    if args.json {
        let device = args.device.label();
        let object = json!({
            "what": "memory at the peak of two training steps, predicted and measured (VmHWM)", "device": device,
            "rustane": env!("CARGO_PKG_VERSION"), "cases": rows, "worst_error": worst, "within_5_percent": within,
        });
        println!("{object}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(["configuration", "predicted", "measured", "error"]);
    for row in &rows {
        let size = |key: &str| row[key].as_u64().map_or("-".into(), bytes);
        let name = row["name"].as_str().unwrap_or_default();
        table.row([
            name,
            &size("predicted_bytes"),
            &size("measured_bytes"),
            &format!("{:.2} %", 100.0 * error(row)),
        ]);
    }
    println!("{table}\n{within} of {count} within 5 %, the worst {:.1} %", 100.0 * worst);
    Ok(ExitCode::SUCCESS)
}

fn error(row: &Value) -> f64 {
    row["error"].as_f64().unwrap_or(f64::NAN)
}

/// What a process of its own predicts of itself, and then measures.
fn measured(args: &Args, file: &Path) -> anyhow::Result<Value> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = Command::new(program);
    command.arg("plan").arg(file).args(["--measure", "--json"]);
    command.args(args.device.flags().split_whitespace());
    let out = command.output().context("cannot start a process")?;
    if !out.status.success() {
        anyhow::bail!("the process failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let row: Value = serde_json::from_slice(&out.stdout).context("the process printed no JSON")?;
    Ok(json!({
        "predicted_bytes": row["peak_bytes"], "measured_bytes": row["measured_bytes"], "error": row["error"],
        "peak_phase": row["peak_phase"], "phases": row["phases"],
    }))
}
