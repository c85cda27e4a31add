//! `rustane bench compare`: two files of results.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::Verdict;
use bench::results::{Results, ResultsError};

use crate::failure::Failure;
use crate::table::Table;

/// Flags of `rustane bench compare`.
#[derive(clap::Args)]
pub struct Args {
    /// Results of before
    a: PathBuf,
    /// Results of after
    b: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Reads results; a file that is none has the exit code of bad data.
pub fn read(path: &Path) -> anyhow::Result<Results> {
    bench::results::read(path).map_err(|error| match error {
        ResultsError::Io { .. } => error.into(),
        bad => Failure::Data { code: "E3100", text: bad.to_string() }.into(),
    })
}

/// Compares.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let comparison = bench::compare(&a, &b);
    if comparison.rows.is_empty() {
        let text = format!(
            "{} and {} have no work in common: the first has {}, the second {}",
            args.a.display(),
            args.b.display(),
            list(&comparison.only_a),
            list(&comparison.only_b)
        );
        return Err(Failure::Data { code: "E3100", text }.into());
    }
    if args.json {
        let rows: Vec<_> = comparison
            .rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "name": row.name, "quantity": row.quantity, "unit": row.unit, "a": row.a.0, "b": row.b.0,
                    "repeats_a": row.a.1, "repeats_b": row.b.1, "ratio": row.ratio,
                    "low": row.interval.map(|i| i.low), "high": row.interval.map(|i| i.high),
                    "verdict": verdict(row.verdict),
                })
            })
            .collect();
        let object = serde_json::json!({
            "rows": rows, "only_a": comparison.only_a, "only_b": comparison.only_b, "warnings": comparison.warnings,
        });
        println!("{object}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("a: {} ({})\nb: {} ({})", a.title, a.date, b.title, b.date);
    let mut table = Table::new(["work", "quantity", "a", "b", "unit", "b/a", "95 % interval", "b is"]);
    for row in &comparison.rows {
        table.row([
            row.name.clone(),
            row.quantity.clone(),
            format!("{:.4}", row.a.0),
            format!("{:.4}", row.b.0),
            row.unit.clone(),
            format!("{:.3}", row.ratio),
            row.interval.map_or("-".into(), |i| format!("{:.3} to {:.3}", i.low, i.high)),
            verdict(row.verdict).into(),
        ]);
    }
    print!("{table}");
    for (name, only) in [("a", &comparison.only_a), ("b", &comparison.only_b)] {
        if !only.is_empty() {
            println!("only in {name}: {}", only.join("; "));
        }
    }
    comparison.warnings.iter().for_each(|warning| println!("note: {warning}"));
    Ok(ExitCode::SUCCESS)
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::WithinNoise => "within noise",
        Verdict::OneSample => "not known: one sample",
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "nothing".into(),
        [first] => format!("`{first}`"),
        [first, rest @ ..] => format!("`{first}` and {} more", rest.len()),
    }
}
