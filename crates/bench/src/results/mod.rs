//! Results on disk: one schema for everything that was measured, ours and others'.
//!
//! The fields are described in `docs/benchmarks.md`. A field that is not known is `null`, and `not_known` says why.

mod page;
mod plots;
mod read;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use page::{Page, page};
pub use read::{MAX_FILE, ResultsError, parse, read};

use crate::statistics::median;

/// Name and version of the schema.
pub const SCHEMA: &str = "rustane-results/1";

/// A file of results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was measured, in a line.
    pub title: String,
    /// Who measured.
    pub origin: Origin,
    /// Where published figures are from; `None` for our own.
    pub source: Option<String>,
    /// Day, `YYYY-MM-DD`.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// What was built how.
    pub software: Software,
    /// Command lines, without names of folders.
    pub commands: Vec<String>,
    /// How it was measured, beyond the commands.
    pub protocol: Option<String>,
    /// The machine's state when the measurement began and ended.
    pub state: State,
    /// What was measured.
    pub cases: Vec<Case>,
    /// Courses over steps or time.
    #[serde(default)]
    pub curves: Vec<Curves>,
    /// Field, such as `software.commit`, and why it is `null`.
    pub not_known: BTreeMap<String, String>,
    /// Whatever else the program told.
    #[serde(default)]
    pub details: Value,
}

/// Who measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// We did, or who sends the file.
    Measured,
    /// Quoted from others.
    Published,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Processor or chip.
    pub chip: Option<String>,
    /// The GPU, where one was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Processors that could be used.
    pub cores: Option<u32>,
    /// Memory that could be used.
    pub memory_bytes: Option<u64>,
    /// System and version.
    pub os: Option<String>,
}

/// What was built how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    /// Version of rustane.
    pub version: Option<String>,
    /// Commit it was built from; ends in `-dirty` when files differed from it.
    pub commit: Option<String>,
    /// Cargo's profile: `release` or `dev`.
    pub profile: Option<String>,
}

/// The machine's state at both ends of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// When it began.
    pub before: Conditions,
    /// When it ended.
    pub after: Conditions,
}

/// What a machine tells of itself at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// `mains` or `battery`.
    pub power_source: Option<String>,
    /// Temperature, or the speed limit that heat imposes.
    pub thermal: Option<String>,
    /// Processes that wanted a processor, mean of the last minute.
    pub load: Option<f64>,
}

/// One quantity of one piece of work. Equal `name` and `quantity` in two files mean the same work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The work, such as `step/110m/seq256/batch1/f32`.
    pub name: String,
    /// What did it, such as `rustane` or `PyTorch 2.13 eager`.
    pub engine: String,
    /// Where it ran.
    pub device: String,
    /// What was measured, such as `training step`.
    pub quantity: String,
    /// Its unit.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// The samples, in the order in which they were taken.
    pub values: Vec<f64>,
    /// What they come to.
    pub summary: Summary,
    /// Dispatches by device, as its ledger counted them.
    pub dispatches: Option<BTreeMap<String, u64>>,
    /// Most memory of the process.
    pub memory_peak_bytes: Option<u64>,
    /// What others published of the same work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// What else the program told.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// Which way a number is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// As times are.
    Lower,
    /// As rates are.
    Higher,
}

/// A figure of others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// In the unit of the case.
    pub value: f64,
    /// Who says so, and where.
    pub source: String,
}

/// What samples come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// How many there are.
    pub repeats: usize,
    /// The middle one; the mean of the two middle ones of an even number.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// `(max − min) / median`; `None` for one sample, and for a median of 0.
    pub spread: Option<f64>,
    /// Median of the last quarter over that of the first: drift within the process. `None` under eight samples.
    pub decay: Option<f64>,
}

impl Summary {
    /// Of samples in their order; `None` without any, or when one is not finite.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|v| !v.is_finite()) {
            return None;
        }
        let (n, middle) = (values.len(), median(values));
        let (min, max) =
            values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        let (first, last) = (median(&values[..n / 4]), median(&values[n - n / 4..]));
        Some(Self {
            repeats: n,
            median: middle,
            min,
            max,
            spread: (n > 1 && middle != 0.0).then(|| (max - min) / middle.abs()),
            decay: (n >= 8 && first != 0.0).then(|| last / first),
        })
    }
}

/// Courses in one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curves {
    /// What they show.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: String,
    /// Beside the vertical axis.
    pub y_label: String,
    /// The courses.
    pub series: Vec<Series>,
}

/// One course.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

impl Case {
    /// A case of ours.
    ///
    /// # Panics
    /// Without samples, or when one is not finite: callers measured them.
    pub fn new(
        name: impl Into<String>,
        device: impl Into<String>,
        what: Quantity<'_>,
        values: Vec<f64>,
    ) -> Self {
        let summary = Summary::of(&values).expect("finite samples");
        Self {
            name: name.into(),
            engine: "rustane".into(),
            device: device.into(),
            quantity: what.name.into(),
            unit: what.unit.into(),
            better: what.better,
            values,
            summary,
            dispatches: None,
            memory_peak_bytes: None,
            published: None,
            details: Value::Null,
        }
    }
}

/// What a case measures.
#[derive(Clone, Copy, Debug)]
pub struct Quantity<'a> {
    /// Such as `training step`.
    pub name: &'a str,
    /// Such as `ms`.
    pub unit: &'a str,
    /// Which way is better.
    pub better: Better,
}

impl<'a> Quantity<'a> {
    /// A time in milliseconds.
    pub const fn ms(name: &'a str) -> Self {
        Self { name, unit: "ms", better: Better::Lower }
    }

    /// A loss in nats per token.
    pub const fn loss(name: &'a str) -> Self {
        Self { name, unit: "nats per token", better: Better::Lower }
    }

    /// Bytes of memory.
    pub const fn bytes(name: &'a str) -> Self {
        Self { name, unit: "bytes", better: Better::Lower }
    }

    /// Tokens per second.
    pub const fn tok_per_s(name: &'a str) -> Self {
        Self { name, unit: "tok/s", better: Better::Higher }
    }
}

impl Results {
    /// Words for `null` fields that have none yet.
    pub fn explain(&mut self, word: &str) {
        for field in self.nulls() {
            self.not_known.entry(field.to_owned()).or_insert_with(|| word.to_owned());
        }
    }

    /// Fields that are `null` and need a word in [`Results::not_known`].
    pub fn nulls(&self) -> Vec<&'static str> {
        let (m, s, [before, after]) =
            (&self.machine, &self.software, [&self.state.before, &self.state.after]);
        let conditions = |c: &Conditions| [c.power_source.is_none(), c.thermal.is_none(), c.load.is_none()];
        let ([p0, t0, l0], [p1, t1, l1]) = (conditions(before), conditions(after));
        let fields = [
            ("machine.chip", m.chip.is_none()),
            ("machine.cores", m.cores.is_none()),
            ("machine.memory_bytes", m.memory_bytes.is_none()),
            ("machine.os", m.os.is_none()),
            ("software.version", s.version.is_none()),
            ("software.commit", s.commit.is_none()),
            ("software.profile", s.profile.is_none()),
            ("state.before.power_source", p0),
            ("state.before.thermal", t0),
            ("state.before.load", l0),
            ("state.after.power_source", p1),
            ("state.after.thermal", t1),
            ("state.after.load", l1),
            ("cases.dispatches", self.cases.iter().any(|c| c.dispatches.is_none())),
            ("cases.memory_peak_bytes", self.cases.iter().any(|c| c.memory_peak_bytes.is_none())),
        ];
        fields.into_iter().filter(|(_, null)| *null).map(|(field, _)| field).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_tells_spread_and_drift() {
        let summary = Summary::of(&[10.0, 12.0, 11.0]).unwrap();
        assert_eq!((summary.repeats, summary.median, summary.min, summary.max), (3, 11.0, 10.0, 12.0));
        assert!((summary.spread.unwrap() - 2.0 / 11.0).abs() < 1e-12);
        assert_eq!(summary.decay, None, "three samples show no drift");
        let slower: Vec<f64> = (0..16).map(|i| if i < 8 { 100.0 } else { 150.0 }).collect();
        assert_eq!(Summary::of(&slower).unwrap().decay, Some(1.5));
        assert_eq!((Summary::of(&[]), Summary::of(&[1.0, f64::NAN])), (None, None));
        assert_eq!(Summary::of(&[5.0]).unwrap().spread, None);
    }
}
