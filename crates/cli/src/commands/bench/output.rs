//! What every benchmark writes: results in the one schema, with what is known of the machine.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bench::results::{Case, Conditions, Machine, Origin, Results, SCHEMA, Software, State};
use serde_json::Value;

use crate::commands::doctor::{condition, machine};
use crate::device::DeviceArgs;
use crate::failure;

/// Flags of every benchmark.
#[derive(Clone, Debug, clap::Args)]
pub struct OutputArgs {
    /// One JSON object in the schema of results/ (docs/benchmarks.md) instead of text
    #[arg(long)]
    pub json: bool,
    /// Write that object to a file too, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A measurement that has begun.
pub struct Measurement<'a> {
    args: &'a OutputArgs,
    results: Results,
}

impl OutputArgs {
    /// Begins a measurement: from here on the machine's state counts as that before it.
    pub fn begin<'a>(&'a self, title: &str, device: &DeviceArgs) -> anyhow::Result<Measurement<'a>> {
        if let Some(file) = &self.out {
            failure::absent("out", file)?;
        }
        Ok(Measurement { args: self, results: header(title, device.threads()) })
    }
}

impl Measurement<'_> {
    /// Adds cases. The file is written after each call, so that a long measurement that is stopped leaves what it had.
    pub fn add(&mut self, cases: impl IntoIterator<Item = Case>) -> anyhow::Result<()> {
        self.results.cases.extend(cases);
        self.results.state.after = conditions();
        self.results.not_known.clear();
        explain(&mut self.results);
        match &self.args.out {
            Some(file) => write(file, &self.results),
            None => Ok(()),
        }
    }

    /// How the measurement was done.
    pub fn protocol(&mut self, text: &str) {
        self.results.protocol = Some(text.to_owned());
    }

    /// Whatever else was told of all cases together.
    pub fn details(&mut self, details: Value) {
        self.results.details = details;
    }

    /// Prints the object where it was asked for.
    pub fn finish(self) -> anyhow::Result<()> {
        if self.args.json {
            writeln!(std::io::stdout(), "{}", serde_json::to_string(&self.results)?)?;
        }
        Ok(())
    }
}

/// Writes a file that is whole at every moment.
fn write(file: &Path, results: &Results) -> anyhow::Result<()> {
    let context = || format!("cannot write {}", file.display());
    let mut name = std::ffi::OsString::from(".tmp-");
    name.push(file.file_name().unwrap_or_default());
    let temporary = file.with_file_name(name);
    let text = serde_json::to_string_pretty(results)? + "\n";
    std::fs::write(&temporary, text).with_context(context)?;
    std::fs::rename(&temporary, file).with_context(context)
}

fn header(title: &str, threads: usize) -> Results {
    let memory = machine::memory().map(|m| m.total);
    let limit = machine::Cgroup::read().memory;
    let memory = match (memory, limit) {
        (Some(all), Some(limit)) => Some(all.min(limit)),
        (all, limit) => all.or(limit),
    };
    Results {
        schema: SCHEMA.into(),
        title: title.into(),
        origin: Origin::Measured,
        source: None,
        date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        machine: Machine {
            chip: machine::chip(),
            gpu: None,
            cores: u32::try_from(threads).ok(),
            memory_bytes: memory.or_else(machine::apple_memory),
            os: Some(machine::system()),
        },
        software: Software {
            version: Some(env!("CARGO_PKG_VERSION").into()),
            commit: option_env!("RUSTANE_COMMIT").map(str::to_owned),
            profile: Some(env!("RUSTANE_PROFILE").into()),
        },
        commands: vec![command(std::env::args())],
        protocol: None,
        state: State { before: conditions(), after: Conditions::default() },
        cases: Vec::new(),
        curves: Vec::new(),
        not_known: Default::default(),
        details: Value::Null,
    }
}

/// The command line without what says where things lie: the program's own path, where output went, and folders.
fn command(args: impl Iterator<Item = String>) -> String {
    let mut words = vec!["rustane".to_owned()];
    let mut args = args.skip(1);
    while let Some(word) = args.next() {
        if word == "--out" {
            args.next();
        } else if word != "--json" && !word.starts_with("--out=") {
            words.push(without_folders(&word));
        }
    }
    words.join(" ")
}

fn without_folders(word: &str) -> String {
    let (flag, value) = match word.split_once('=') {
        Some((flag, value)) => (format!("{flag}="), value),
        None => (String::new(), word),
    };
    let last = value.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(value);
    flag + last
}

/// What the machine tells of itself now.
fn conditions() -> Conditions {
    Conditions {
        power_source: condition::power_source().map(str::to_owned),
        thermal: condition::heat(),
        load: machine::load(),
    }
}

/// Words for everything that is not known.
fn explain(results: &mut Results) {
    for (field, word) in [
        ("software.commit", "a dev build does not record it, nor one outside of a git repository"),
        ("machine.chip", "the system does not tell"),
        ("machine.memory_bytes", "the system does not tell"),
        (
            "cases.dispatches",
            "the CPU backend is called directly; only Neural Engines and GPUs keep a ledger",
        ),
        ("cases.memory_peak_bytes", "not measured by this benchmark, or not told by this system"),
    ] {
        if results.nulls().contains(&field) {
            results.not_known.insert(field.into(), word.into());
        }
    }
    results.explain("not measured: the system does not tell");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_command_names_no_folder() {
        let line = "/home/me/bin/rustane bench step --out /tmp/x.json --json --preset tiny --model /home/me/m.gguf --x=/a/b";
        let got = command(line.split(' ').map(str::to_owned));
        assert_eq!(got, "rustane bench step --preset tiny --model m.gguf --x=b");
        assert_eq!(command(["x", "--out=/a"].map(String::from).into_iter()), "rustane");
    }
}
