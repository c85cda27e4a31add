//! `rustane ane lab merge`: what Macs answered, as a table in the page of rules and as files of numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ane_bridge::lab::{QUESTIONS, Question};
use anyhow::Context;

use super::report::Report;
use crate::failure::Failure;

/// Flags of `rustane ane lab merge`.
#[derive(clap::Args)]
pub struct Args {
    /// Reports that `rustane ane lab` wrote on Macs; give all of them, the table is made anew
    #[arg(required = true, value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// The page to change
    #[arg(long, default_value = "docs/ane-rules.md", value_name = "FILE")]
    rules: PathBuf,
    /// Folder for tables of operations whose results are not the evaluator's
    #[arg(long, value_name = "DIR")]
    tables: Option<PathBuf>,
}

const BEGIN: &str = "<!-- answers: written by `rustane ane lab merge` -->";
const END: &str = "<!-- end of answers -->";

/// Merges.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut reports = Vec::new();
    for path in &args.reports {
        let report = Report::read(path)?;
        if !report.hardware {
            return Err(Failure::Usage(format!(
                "{} is of the {}, which answers what the model assumes; only reports of hardware count",
                path.display(),
                report.device
            ))
            .into());
        }
        reports.push(report);
    }
    let name = args.rules.display();
    let page = std::fs::read_to_string(&args.rules).with_context(|| format!("cannot read {name}"))?;
    let page = with_section(&page, &section(&reports))
        .with_context(|| format!("{name} lacks the lines `{BEGIN}` and `{END}`, between which answers go"))?;
    std::fs::write(&args.rules, page).with_context(|| format!("cannot write {name}"))?;
    println!("{name}: answers of {} reports", reports.len());
    if let Some(folder) = &args.tables {
        for path in write_tables(&reports, folder)? {
            println!("{}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The page with another text between the two lines.
fn with_section(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{section}\n{END}{after}"))
}

/// Who gave an answer.
fn machine(report: &Report) -> String {
    match &report.os {
        Some(os) => format!("{}, macOS {os}", report.chip),
        None => report.chip.clone(),
    }
}

fn section(reports: &[Report]) -> String {
    let mut text = String::from("| question | rules | assumed | answered |\n|---|---|---|---|\n");
    for question in QUESTIONS {
        text += &row(question, reports);
    }
    text
}

fn row(question: &Question, reports: &[Report]) -> String {
    let mut assumed: Vec<String> = Vec::new();
    let mut verdicts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for report in reports {
        for outcome in report.outcomes.iter().filter(|outcome| outcome.question == question.number) {
            let verdict = outcome.verdict.clone().unwrap_or_else(|| "no answer".into());
            verdicts.entry(verdict).or_default().push(machine(report));
            if !outcome.assumed.is_empty() && !assumed.contains(&outcome.assumed) {
                assumed.push(outcome.assumed.clone());
            }
        }
    }
    let plain = |text: String| text.replace('|', "\\|").replace('\n', " ");
    let answered: Vec<String> = verdicts
        .into_iter()
        .map(|(verdict, mut machines)| {
            machines.sort();
            machines.dedup();
            let refuted = verdict != "no answer" && !assumed.contains(&verdict);
            let strong = if refuted { "**" } else { "" };
            format!("{strong}{verdict}{strong} ({})", machines.join("; "))
        })
        .collect();
    let rules: Vec<String> = question.rules.iter().map(|rule| format!("`{rule}`")).collect();
    let answered = if answered.is_empty() { "not yet".into() } else { answered.join("; ") };
    format!(
        "| {}. {} | {} | {} | {} |\n",
        question.number,
        question.asks,
        rules.join(", "),
        plain(assumed.join(" or ")),
        plain(answered)
    )
}

/// One file per chip and operation: 65,536 fp16 results, little-endian, in the order of the inputs' bits.
fn write_tables(reports: &[Report], folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    const DIGITS: usize = 4 * 65_536;
    let mut written = Vec::new();
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for report in reports {
        let chip = report.chip.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        for (operation, hex) in report.outcomes.iter().flat_map(|outcome| &outcome.tables) {
            let known = operation.bytes().all(|b| b.is_ascii_lowercase());
            let digits = hex.len() == DIGITS && hex.bytes().all(|b| b.is_ascii_hexdigit());
            anyhow::ensure!(
                known && digits,
                "the table of `{operation}` has {} characters, wanted {DIGITS} hexadecimal digits",
                hex.len()
            );
            let bytes: Vec<u8> = (0..DIGITS)
                .step_by(4)
                .flat_map(|at| u16::from_str_radix(&hex[at..at + 4], 16).unwrap_or_default().to_le_bytes())
                .collect();
            let path = folder.join(format!("{operation}-{chip}.f16"));
            std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            written.push(path);
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(chip: &str, outcomes: &str) -> Report {
        let text = format!(
            r#"{{"lab": 1, "device": "ANE ({chip})", "hardware": true, "chip": "{chip}", "os": "26.3 (25D125)",
                "rustane": "0.1.0", "outcomes": {outcomes}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn answers_are_grouped_and_refutations_stand_out() {
        let one = r#"[{"question": 1, "verdict": "grid", "assumed": "grid"},
                      {"question": 8, "verdict": "packed", "assumed": "64 bytes"}]"#;
        let other = r#"[{"question": 1, "verdict": "grid", "assumed": "grid"},
                        {"question": 8, "verdict": null, "failed": "no answer within 120 s"}]"#;
        let text = section(&[report("M4 Max", one), report("M5", other)]);
        let line =
            |number: &str| text.lines().find(|line| line.starts_with(&format!("| {number}. "))).unwrap();
        assert!(
            line("1").ends_with("| grid | grid (M4 Max, macOS 26.3 (25D125); M5, macOS 26.3 (25D125)) |")
        );
        assert!(
            line("8").ends_with(
                "| `pitch`, `surface` | 64 bytes | no answer (M5, macOS 26.3 (25D125)); \
                 **packed** (M4 Max, macOS 26.3 (25D125)) |"
            ),
            "{}",
            line("8")
        );
        assert!(line("24").ends_with("| not yet |"));
    }

    #[test]
    fn only_the_section_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = with_section(&page, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(with_section(&once, "new\n").unwrap(), once);
        assert_eq!(with_section("no place", "new"), None);
    }

    #[test]
    fn tables_become_files_and_wrong_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let table = "3c00".repeat(65_536);
        let good = format!(r#"[{{"question": 6, "verdict": "tables", "tables": {{"exp": "{table}"}}}}]"#);
        let written = write_tables(&[report("M4 Max", &good)], dir.path()).unwrap();
        assert_eq!(written, [dir.path().join("exp-m4-max.f16")]);
        let bytes = std::fs::read(&written[0]).unwrap();
        assert_eq!((bytes.len(), &bytes[..2]), (131_072, &[0x00, 0x3c][..]));
        for tables in [r#"{"exp": "3c00"}"#, r#"{"../exp": "3c00"}"#] {
            let bad = format!(r#"[{{"question": 6, "verdict": "tables", "tables": {tables}}}]"#);
            let error = write_tables(&[report("M4 Max", &bad)], dir.path()).unwrap_err().to_string();
            assert!(error.contains("wanted 262144 hexadecimal digits"), "{error}");
        }
    }
}
