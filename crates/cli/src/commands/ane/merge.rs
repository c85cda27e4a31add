//! `rustane ane lab merge`: what Macs answered, as a table in the page of rules, behind the evidence of
//! each rule, in the table from which virtual devices are made, and as a list of what it refutes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use ane_bridge::Chip;
use ane_bridge::lab::{QUESTIONS, Question};
use anyhow::Context;

use super::report::{Outcome, Report};
use super::table::Table;
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
    /// The folder of what the model takes over from Macs
    #[arg(long, default_value = "crates/ane-bridge/src/measured", value_name = "DIR")]
    measured: PathBuf,
}

/// The lines between which something of the page is ours.
struct Section {
    begin: &'static str,
    end: &'static str,
}

const ANSWERS: Section =
    Section { begin: "<!-- answers: written by `rustane ane lab merge` -->", end: "<!-- end of answers -->" };
const RULES: Section = Section {
    begin: "<!-- rules: what Macs answered is added to the evidence by `rustane ane lab merge` -->",
    end: "<!-- end of rules -->",
};

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
    let page = RULES.replace(&page, |table| evidence(table, &reports))?;
    let page = ANSWERS.replace(&page, |_| section(&reports))?;
    // Made before anything is written, so that a damaged table changes nothing.
    let table = Table::new(&reports)?;
    for path in table.write(&args.measured)? {
        println!("{}", path.display());
    }
    std::fs::write(&args.rules, page).with_context(|| format!("cannot write {name}"))?;
    println!("{name}: answers of {} reports", reports.len());
    print!("{}", refuted(&reports, &table));
    Ok(ExitCode::SUCCESS)
}

impl Section {
    /// The page with another text between the lines.
    fn replace(&self, page: &str, text: impl FnOnce(&str) -> String) -> anyhow::Result<String> {
        let Self { begin, end } = self;
        let parts = page.split_once(begin).and_then(|(before, rest)| Some((before, rest.split_once(end)?)));
        let (before, (old, after)) = parts.with_context(|| {
            format!("the page lacks the lines `{begin}` and `{end}`, between which the merge writes")
        })?;
        Ok(format!("{before}{begin}\n\n{}\n{end}{after}", text(old.trim_matches('\n'))))
    }
}

/// What the model assumes now for the chip of a report; for a chip that it does not know, what the report
/// says that it assumed.
fn assumed<'a>(question: &Question, report: &Report, outcome: &'a Outcome) -> &'a str {
    Chip::find(&report.chip).map_or(outcome.assumed.as_str(), |chip| question.assumed(chip))
}

/// Answers to a question, each with whether it is the assumed one.
fn answers<'a>(
    question: &'a Question,
    reports: &'a [Report],
) -> impl Iterator<Item = (&'a Report, &'a Outcome, &'a str, bool)> {
    reports.iter().flat_map(move |report| {
        let of = report.outcomes.iter().filter(|outcome| outcome.question == question.number);
        of.filter_map(move |outcome| {
            let verdict = outcome.verdict.as_deref()?;
            Some((report, outcome, verdict, verdict == assumed(question, report, outcome)))
        })
    })
}

/// The table of rules with what Macs answered behind each evidence, after a semicolon.
fn evidence(table: &str, reports: &[Report]) -> String {
    let line = |line: &str| {
        let Some(rule) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else {
            return line.to_owned();
        };
        let mut cells: Vec<String> = line.split(" | ").map(str::to_owned).collect();
        if let Some(cell) = cells.get_mut(3) {
            let own = cell.split("; ").next().unwrap_or_default().to_owned();
            *cell = [vec![own], answered(rule, reports)].concat().join("; ");
        }
        cells.join(" | ")
    };
    table.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

/// What Macs answered to the questions about a rule.
fn answered(rule: &str, reports: &[Report]) -> Vec<String> {
    let mut found = Vec::new();
    for question in QUESTIONS.iter().filter(|question| question.rules.contains(&rule)) {
        for (as_assumed, says) in [(true, "as assumed"), (false, "**not as assumed**")] {
            let of = answers(question, reports).filter(|(.., same)| *same == as_assumed);
            let machines: BTreeSet<String> = of.map(|(report, ..)| machine(report)).collect();
            if !machines.is_empty() {
                let machines = machines.into_iter().collect::<Vec<_>>().join(", ");
                found.push(plain(&format!("question {} {says}: {machines}", question.number)));
            }
        }
    }
    found
}

/// The answers that our model does not give: those that it has taken over, and where the others are
/// changed by hand.
fn refuted(reports: &[Report], table: &Table) -> String {
    let mut text = String::new();
    for question in QUESTIONS {
        let of: Vec<_> = answers(question, reports).filter(|(.., same)| !same).collect();
        if of.is_empty() {
            continue;
        }
        text += &format!("refuted: {}. {}\n", question.number, question.asks);
        let mut by_hand = false;
        for (report, outcome, verdict, _) in of {
            let assumed = assumed(question, report, outcome);
            text += &format!("  {}: {verdict}; the model has {assumed}", machine(report));
            let taken = table.has(report, question.number);
            text += if taken { ", until rustane is built again\n" } else { "\n" };
            by_hand |= !taken;
        }
        if by_hand {
            for (file, word) in question.model {
                text += &format!("  change {file}, `{word}`\n");
            }
            text += &format!("  then crates/ane-bridge/src/lab/mod.rs, question {}\n", question.number);
        }
    }
    if text.is_empty() { "every answer is the one that the model assumes\n".into() } else { text }
}

/// Text that breaks no table.
fn plain(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
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
    let mut assumptions: Vec<&str> = Vec::new();
    // By verdict: whether it is refuted, and whose it is.
    let mut verdicts: BTreeMap<&str, (bool, Vec<String>)> = BTreeMap::new();
    for report in reports {
        for outcome in report.outcomes.iter().filter(|outcome| outcome.question == question.number) {
            let assumed = assumed(question, report, outcome);
            let verdict = outcome.verdict.as_deref();
            let (refuted, machines) = verdicts.entry(verdict.unwrap_or("no answer")).or_default();
            *refuted |= verdict.is_some_and(|verdict| verdict != assumed);
            machines.push(machine(report));
            if !assumed.is_empty() && !assumptions.contains(&assumed) {
                assumptions.push(assumed);
            }
        }
    }
    let answered: Vec<String> = verdicts
        .into_iter()
        .map(|(verdict, (refuted, mut machines))| {
            machines.sort();
            machines.dedup();
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
        plain(&assumptions.join(" or ")),
        plain(&answered)
    )
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
        let Section { begin, end } = ANSWERS;
        let page = format!("before\n{begin}\nold\n{end}\nafter\n");
        let new = |_: &str| "new\n".to_owned();
        let once = ANSWERS.replace(&page, new).unwrap();
        assert_eq!(once, format!("before\n{begin}\n\nnew\n\n{end}\nafter\n"));
        assert_eq!(ANSWERS.replace(&once, new).unwrap(), once);
        let error = ANSWERS.replace("no place", new).unwrap_err().to_string();
        assert!(error.contains(begin) && error.contains(end), "{error}");
    }
}
