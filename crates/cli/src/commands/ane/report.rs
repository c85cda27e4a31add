//! The report of a lab, as a file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use ane_bridge::Chip;
use ane_bridge::apple;
use ane_bridge::lab::{Answer, Question};
use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Version of the file.
const VERSION: u32 = 1;

/// What a machine answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub lab: u32,
    /// The device's label.
    pub device: String,
    /// Whether silicon was asked.
    pub hardware: bool,
    /// The chip.
    pub chip: String,
    /// Version and build of macOS, where that ran.
    pub os: Option<String>,
    /// Version of rustane.
    pub rustane: String,
    /// One per question that was put.
    pub outcomes: Vec<Outcome>,
}

/// What became of a question.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Its number.
    pub question: u8,
    /// The answer in a phrase; none when it failed.
    pub verdict: Option<String>,
    /// What the model assumes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub assumed: String,
    /// What was measured.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// How long it took.
    #[serde(default)]
    pub seconds: f64,
    /// Results of operations for all fp16 inputs, four hexadecimal digits each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, String>,
}

impl Outcome {
    /// An answer.
    pub fn answered(question: &Question, chip: &Chip, answer: Answer, time: Duration) -> Self {
        let hex = |table: Vec<u16>| table.iter().map(|bits| format!("{bits:04x}")).collect::<String>();
        Self {
            question: question.number,
            verdict: Some(answer.verdict),
            assumed: question.assumed(chip).into(),
            detail: answer.detail,
            failed: None,
            seconds: time.as_secs_f64(),
            tables: answer.tables.into_iter().map(|(name, table)| (name.to_owned(), hex(table))).collect(),
        }
    }

    /// No answer.
    pub fn failed(question: u8, why: String) -> Self {
        Self {
            question,
            verdict: None,
            assumed: String::new(),
            detail: String::new(),
            failed: Some(why),
            seconds: 0.0,
            tables: BTreeMap::new(),
        }
    }

    /// True for the answer that the model assumes.
    pub fn as_assumed(&self) -> bool {
        self.verdict.as_ref() == Some(&self.assumed)
    }
}

/// Version and build of macOS.
fn os() -> Option<String> {
    let machine = apple::machine()?;
    Some(format!("{} ({})", machine.os_version, machine.os_build))
}

impl Report {
    /// A report of this machine without outcomes.
    pub fn new(device: String, chip: &Chip, hardware: bool) -> Self {
        Self {
            lab: VERSION,
            device,
            hardware,
            chip: chip.name.into(),
            os: hardware.then(os).flatten(),
            rustane: env!("CARGO_PKG_VERSION").into(),
            outcomes: Vec::new(),
        }
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write the report {}", path.display()))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the report {name}"))?;
        let report: Self = serde_json::from_str(&text)
            .with_context(|| format!("{name} is no report of `rustane ane lab`"))?;
        anyhow::ensure!(
            report.lab == VERSION,
            "{name} is a report of version {}, wanted {VERSION}; make it anew with this rustane",
            report.lab
        );
        anyhow::ensure!(!report.chip.trim().is_empty(), "{name} does not name a chip; make it anew");
        let mut seen = BTreeSet::new();
        for Outcome { question: number, verdict, failed, .. } in &report.outcomes {
            anyhow::ensure!(
                Question::find(*number).is_some(),
                "{name} answers question {number}, and there are only 1 to 24; make it anew with this rustane"
            );
            anyhow::ensure!(
                seen.insert(number),
                "{name} answers question {number} twice; it was edited or damaged"
            );
            anyhow::ensure!(
                verdict.is_some() != failed.is_some(),
                "{name} has for question {number} neither an answer nor a reason, or both; it was edited or damaged"
            );
        }
        Ok(report)
    }
}
