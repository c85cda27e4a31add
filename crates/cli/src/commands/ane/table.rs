//! What the model takes over from reports of Macs: `table.rs` of `ane_bridge::measured`, and the results of
//! elementary functions beside it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use ane_bridge::{Chip, measured};
use anyhow::Context;

use super::report::{Outcome, Report};

/// Operations of one operand, whose results the evaluator takes from a table.
const OPERATIONS: [&str; 3] = ["exp", "sigmoid", "tanh"];

/// Hexadecimal digits of a table in a report: 65,536 fp16 numbers.
const DIGITS: usize = 4 * 65_536;

/// What is written.
pub struct Table<'a> {
    /// By chip; of several reports of one chip, that of the newest macOS.
    chips: BTreeMap<&'static str, Taken<'a>>,
}

struct Taken<'a> {
    os: &'a str,
    answers: BTreeMap<u8, &'a str>,
    /// Little-endian fp16 in the order of the inputs' bits, by operation.
    results: BTreeMap<&'a str, Vec<u8>>,
}

impl<'a> Table<'a> {
    /// What reports have that the model takes. Chips that it does not know are left out.
    ///
    /// # Errors
    /// A damaged table of results.
    pub fn new(reports: &'a [Report]) -> anyhow::Result<Self> {
        let mut newest: BTreeMap<&'static str, &Report> = BTreeMap::new();
        for report in reports {
            let Some(chip) = Chip::find(&report.chip) else { continue };
            let kept = newest.entry(chip.name).or_insert(report);
            if version(report) > version(kept) {
                *kept = report;
            }
        }
        let mut chips = BTreeMap::new();
        for report in reports {
            // Those that are not kept are examined too: nobody merges a damaged report unnoticed.
            let taken = Taken::new(report)?;
            if let Some((chip, _)) = newest.iter().find(|(_, kept)| std::ptr::eq(**kept, report)) {
                chips.insert(*chip, taken);
            }
        }
        chips.retain(|_, taken| !taken.answers.is_empty());
        Ok(Self { chips })
    }

    /// Whether the answer to a question comes from this report.
    pub fn has(&self, report: &Report, question: u8) -> bool {
        let taken = Chip::find(&report.chip).and_then(|chip| self.chips.get(chip.name));
        taken.is_some_and(|taken| Some(taken.os) == os(report) && taken.answers.contains_key(&question))
    }

    /// Writes the files and removes results that no report has any more; gives what was written.
    ///
    /// # Errors
    /// A folder that is not there, and what the system says.
    pub fn write(&self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let name = folder.display();
        let listed = std::fs::read_dir(folder).with_context(|| {
            format!("cannot read {name}; run the merge in the repository, or name its folder with --measured")
        })?;
        let mut written = Vec::new();
        for (chip, taken) in &self.chips {
            for (operation, results) in &taken.results {
                let path = folder.join(file(operation, chip));
                std::fs::write(&path, results).with_context(|| format!("cannot write {}", path.display()))?;
                written.push(path);
            }
        }
        for entry in listed {
            let path = entry.with_context(|| format!("cannot read {name}"))?.path();
            if path.extension().is_some_and(|extension| extension == "f16") && !written.contains(&path) {
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let path = folder.join("table.rs");
        std::fs::write(&path, self.source()).with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path);
        Ok(written)
    }

    /// The table as Rust, as rustfmt leaves it.
    fn source(&self) -> String {
        let mut text = String::from(
            "//! Written by `rustane ane lab merge` from reports of Macs; not changed by hand.\n\n",
        );
        if self.chips.values().any(|taken| !taken.results.is_empty()) {
            text += "use mil::eval::Table;\n\n";
        }
        text += "use super::Measured;\n";
        if self.chips.is_empty() {
            return text + "\npub const MEASURED: &[Measured] = &[];\n";
        }
        text += "\n#[rustfmt::skip]\npub const MEASURED: &[Measured] = &[\n";
        for (chip, taken) in &self.chips {
            let _ = writeln!(text, "    Measured {{\n        chip: {chip:?},\n        os: {:?},", taken.os);
            text += "        answers: &[\n";
            for (question, verdict) in &taken.answers {
                let _ = writeln!(text, "            ({question}, {verdict:?}),");
            }
            text += "        ],\n        tables: &[\n";
            for operation in taken.results.keys() {
                let bytes = format!("include_bytes!({:?})", file(operation, chip));
                let _ = writeln!(text, "            Table {{ op: {operation:?}, results: {bytes} }},");
            }
            text += "        ],\n    },\n";
        }
        text + "];\n"
    }
}

impl<'a> Taken<'a> {
    fn new(report: &'a Report) -> anyhow::Result<Self> {
        let mut taken =
            Self { os: os(report).unwrap_or_default(), answers: BTreeMap::new(), results: BTreeMap::new() };
        for outcome in &report.outcomes {
            let results = results(outcome)?;
            let known = results.keys().all(|operation| OPERATIONS.contains(operation));
            let verdict = outcome.verdict.as_deref();
            if let Some(verdict) =
                verdict.filter(|verdict| measured::takes(outcome.question, verdict) && known)
            {
                taken.answers.insert(outcome.question, verdict);
                taken.results.extend(results);
            }
        }
        Ok(taken)
    }
}

/// The tables of an outcome, from digits to bytes.
fn results(outcome: &Outcome) -> anyhow::Result<BTreeMap<&str, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for (operation, hex) in &outcome.tables {
        let named = operation.bytes().all(|b| b.is_ascii_lowercase());
        let digits = hex.len() == DIGITS && hex.bytes().all(|b| b.is_ascii_hexdigit());
        anyhow::ensure!(
            named && digits,
            "the table of `{operation}` has {} characters, wanted {DIGITS} hexadecimal digits",
            hex.len()
        );
        let number = |at: usize| u16::from_str_radix(&hex[at..at + 4], 16).unwrap_or_default().to_le_bytes();
        found.insert(operation.as_str(), (0..DIGITS).step_by(4).flat_map(number).collect());
    }
    Ok(found)
}

fn file(operation: &str, chip: &str) -> String {
    let chip = chip.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("{operation}-{chip}.f16")
}

fn os(report: &Report) -> Option<&str> {
    report.os.as_deref()
}

/// The numbers of a macOS version, "26.3 (25D125)": 26 and 3; nothing for a report without.
fn version(report: &Report) -> Vec<u32> {
    let text = os(report).and_then(|os| os.split_whitespace().next()).unwrap_or_default();
    text.split('.').filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(chip: &str, os: &str, outcomes: &str) -> Report {
        let text = format!(
            r#"{{"lab": 1, "device": "ANE ({chip})", "hardware": true, "chip": "{chip}", "os": "{os}",
                "rustane": "0.1.0", "outcomes": {outcomes}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn no_report_gives_the_table_that_is_there() {
        let reports = [report("M99", "26.3 (25D125)", r#"[{"question": 24, "verdict": "127"}]"#)];
        let text = Table::new(&reports).unwrap().source();
        assert_eq!(text, include_str!("../../../../ane-bridge/src/measured/table.rs"));
    }

    #[test]
    fn answers_become_the_source_that_the_bridge_compiles() {
        let old =
            r#"[{"question": 13, "verdict": "119, repeats count"}, {"question": 24, "verdict": "110"}]"#;
        let new = r#"[{"question": 1, "verdict": "grid"}, {"question": 8, "verdict": "packed"},
                      {"question": 13, "verdict": "200 or more"}, {"question": 19, "verdict": "clamped"},
                      {"question": 24, "verdict": "127"}]"#;
        let reports = [
            report("M4 Max", "26.10 (26A1)", new),
            report("m4 max", "26.3 (25D125)", old),
            report("M1", "15.4 (24E1)", r#"[{"question": 24, "verdict": "113"}]"#),
        ];
        let table = Table::new(&reports).unwrap();
        // The same text is compiled and its numbers are tested there.
        assert_eq!(table.source(), include_str!("../../../../ane-bridge/tests/measured/table.rs"));
        assert!(table.has(&reports[0], 24) && !table.has(&reports[1], 24) && !table.has(&reports[0], 8));
    }

    #[test]
    fn results_become_files_old_ones_go_and_damaged_ones_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tanh-m1.f16"), "old").unwrap();
        let tables = |name: &str, digits: &str| {
            format!(r#"[{{"question": 6, "verdict": "tables", "tables": {{"{name}": "{digits}"}}}}]"#)
        };
        let good = "3c00".repeat(65_536);
        let reports = [report("M4 Max", "26.3", &tables("exp", &good))];
        let written = Table::new(&reports).unwrap().write(dir.path()).unwrap();
        assert_eq!(written, [dir.path().join("exp-m4-max.f16"), dir.path().join("table.rs")]);
        let bytes = std::fs::read(&written[0]).unwrap();
        assert_eq!((bytes.len(), &bytes[..2]), (131_072, &[0x00, 0x3c][..]));
        let source = std::fs::read_to_string(&written[1]).unwrap();
        assert!(
            source.contains(r#"Table { op: "exp", results: include_bytes!("exp-m4-max.f16") },"#),
            "{source}"
        );
        assert!(!dir.path().join("tanh-m1.f16").exists());
        // No kernel of ours takes softmax from a table: the answer is left to a person.
        let other = [report("M4 Max", "26.3", &tables("softmax", &good))];
        assert!(Table::new(&other).unwrap().chips.is_empty());
        for (name, digits) in [("exp", "3c00"), ("../exp", good.as_str())] {
            let bad = [report("M4 Max", "26.3", &tables(name, digits))];
            let error = Table::new(&bad).err().unwrap().to_string();
            assert!(error.contains("wanted 262144 hexadecimal digits"), "{error}");
        }
        let error = Table::new(&reports).unwrap().write(&dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("name its folder with --measured"), "{error}");
    }
}
