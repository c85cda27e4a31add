//! `rustane sweep`: every combination of a grid, by a pool of child processes.
//!
//! ```toml
//! preset = "tiny"
//! tokens = 200000                    # or seconds = 60, or steps = 500: the same for all
//! seeds = [1, 2]
//! [set]                              # the same for all
//! "data.story_bytes" = 4000000
//! [grid]                             # every combination
//! "optimizer.lr" = [1e-3, 3e-3]
//! "optimizer.kind" = ["adamw", "muon"]
//! width = [                          # settings that go together
//!   { "model.dim" = 128, "model.heads" = 4, "model.kv_heads" = 4 },
//!   { "model.dim" = 192, "model.heads" = 6, "model.kv_heads" = 3 },
//! ]
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bench::exp::{Budget, Ledger, Outcome, Record};
use serde::Deserialize;

use super::exp::open_at;
use crate::child::{self, Ended, Plan, Running};
use crate::device::DeviceArgs;
use crate::failure::Failure;
use crate::progress::say;
use crate::stop::Stop;
use crate::table::Table;

/// Longest grid that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most runs of one grid.
const MAX_RUNS: usize = 10_000;

/// Flags of `rustane sweep`.
#[derive(clap::Args)]
pub struct Args {
    /// The grid, TOML (docs/experiments.md)
    grid: PathBuf,
    /// Runs at the same time, which share the threads
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Folder of the sweep; runs that are in it already are not made again [default: sweeps/<name of the grid>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Make runs again that failed
    #[arg(long)]
    retry: bool,
    /// Keep the weights of every run
    #[arg(long)]
    keep_models: bool,
    /// Print the runs, and end
    #[arg(long)]
    dry_run: bool,
    /// One JSON object per run, sorted, instead of the table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grid {
    #[serde(default = "tiny")]
    preset: String,
    tokens: Option<u64>,
    seconds: Option<u64>,
    steps: Option<u64>,
    #[serde(default = "one")]
    seeds: Vec<u64>,
    #[serde(default)]
    set: BTreeMap<String, toml::Value>,
    grid: toml::map::Map<String, toml::Value>,
}

fn tiny() -> String {
    "tiny".into()
}

fn one() -> Vec<u64> {
    vec![1]
}

/// A run of the grid.
struct Job {
    /// What tells it apart from the others.
    label: String,
    plan: Plan,
}

impl Grid {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if bytes > MAX_FILE {
            let text = format!("{}: {bytes} bytes, wanted at most {MAX_FILE}", path.display());
            return Err(Failure::Usage(text).into());
        }
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let usage = |e: toml::de::Error| {
            let line =
                e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Failure::Usage(format!("{}:{line}: {}", path.display(), e.message().trim().replace('\n', "; ")))
        };
        Ok(toml::from_str(&text).map_err(usage)?)
    }

    fn budget(&self) -> Result<Budget, Failure> {
        match (self.tokens, self.seconds, self.steps) {
            (Some(n), None, None) if n > 0 => Ok(Budget::Tokens(n)),
            (None, Some(n), None) if n > 0 => Ok(Budget::Seconds(n)),
            (None, None, Some(n)) if n > 0 => Ok(Budget::Steps(n)),
            _ => Err(Failure::Usage(
                "a grid has one of `tokens`, `seconds` and `steps`, above 0: the length of every run".into(),
            )),
        }
    }

    /// Every combination: words for it, and its assignments.
    fn combinations(&self) -> Result<Vec<(String, Vec<String>)>, Failure> {
        let mut all = vec![(String::new(), Vec::new())];
        for (axis, values) in &self.grid {
            let wanted = || Failure::Usage(format!("grid.{axis}: wanted a list with at least one value"));
            let values = values.as_array().filter(|v| !v.is_empty()).ok_or_else(wanted)?;
            let short = axis.rsplit('.').next().unwrap_or(axis);
            let mut next = Vec::new();
            for (words, set) in &all {
                for (i, value) in values.iter().enumerate() {
                    let (name, more) = match value {
                        toml::Value::Table(together) => {
                            let set = together.iter().map(|(key, value)| format!("{key}={value}")).collect();
                            (format!("{short} {}", i + 1), set)
                        }
                        value => (format!("{short}={}", plain(value)), vec![format!("{axis}={value}")]),
                    };
                    let comma = if words.is_empty() { "" } else { ", " };
                    next.push((format!("{words}{comma}{name}"), [&set[..], &more[..]].concat()));
                }
                if next.len() * self.seeds.len().max(1) > MAX_RUNS {
                    return Err(Failure::Usage(format!("the grid has more than {MAX_RUNS} runs")));
                }
            }
            all = next;
        }
        Ok(all)
    }

    fn jobs(&self, out: &Path) -> anyhow::Result<Vec<Job>> {
        let budget = self.budget()?;
        if self.seeds.is_empty() {
            return Err(Failure::Usage("`seeds` is empty, wanted at least one".into()).into());
        }
        let common: Vec<String> = self.set.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut jobs = Vec::new();
        for (label, set) in self.combinations()? {
            for &seed in &self.seeds {
                let set = [&common[..], &set[..]].concat();
                // Equal settings have the same name in any order of the grid, so that a grid may grow.
                let mut sorted = set.clone();
                sorted.sort();
                let key = format!("{} {budget:?} {sorted:?}", self.preset);
                let name = format!("{}-seed{seed}", &blake3::hash(key.as_bytes()).to_hex()[..12]);
                let plan = Plan {
                    preset: self.preset.clone(),
                    config: None,
                    set,
                    seed,
                    budget,
                    dir: out.join(name),
                };
                jobs.push(Job { label: label.clone(), plan });
            }
        }
        Ok(jobs)
    }
}

/// A value without the quotes of a word.
fn plain(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn name(plan: &Plan) -> String {
    plan.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes the runs that are missing, and shows all.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let grid = Grid::read(&args.grid)?;
    let stem = args.grid.file_stem().unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| Path::new("sweeps").join(stem));
    args.device.check()?;
    let jobs = grid.jobs(&out)?;
    if args.dry_run {
        jobs.iter().for_each(|job| println!("{}  seed {}  {}", name(&job.plan), job.plan.seed, job.label));
        return Ok(ExitCode::SUCCESS);
    }
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let lock =
        File::create(out.join("lock")).with_context(|| format!("cannot write in {}", out.display()))?;
    if lock.try_lock().is_err() {
        anyhow::bail!("another sweep runs in {}; wait for it, or give another --out", out.display());
    }
    let mut ledger = open_at(&out.join("sweep.jsonl"))?;
    let done = |ledger: &Ledger, plan: &Plan| {
        let found = newest(ledger, plan);
        found.is_some_and(|r| !args.retry || matches!(r.outcome, Outcome::Done { .. }))
    };
    let missing: Vec<&Job> = jobs.iter().filter(|job| !done(&ledger, &job.plan)).collect();
    say(&format!(
        "{} runs of {}, {} are there already",
        jobs.len(),
        grid.budget()?,
        jobs.len() - missing.len()
    ));
    let stop = Stop::listen().context("cannot listen for signals")?;
    let stopped = pool(args, missing, &mut ledger, &stop)?;
    show(args, &jobs, &ledger)?;
    if stopped {
        say("stopped; the same command continues");
        return Ok(stop.exit_code());
    }
    let failed = jobs.iter().filter_map(|job| newest(&ledger, &job.plan));
    let failed = failed.filter(|r| matches!(r.outcome, Outcome::Failed { .. })).count();
    Ok(if failed == jobs.len() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn newest<'a>(ledger: &'a Ledger, plan: &Plan) -> Option<&'a Record> {
    let name = name(plan);
    ledger.records().iter().rev().find(|r| r.id == name)
}

/// Keeps `--jobs` children at work until no run is left, or the user asks to stop.
fn pool(args: &Args, missing: Vec<&Job>, ledger: &mut Ledger, stop: &Stop) -> anyhow::Result<bool> {
    let threads = (args.device.threads() / usize::from(args.jobs)).max(1);
    let mut waiting = missing.into_iter();
    let mut running: Vec<(&Job, Running)> = Vec::new();
    let mut told = false;
    loop {
        while !stop.asked() && running.len() < usize::from(args.jobs) {
            let Some(job) = waiting.next() else { break };
            match job.plan.settings() {
                Ok(_) => running.push((job, job.plan.start(&args.device, threads)?)),
                // Settings that cannot be are an outcome of the grid, as a run that diverges is.
                Err(error) => {
                    let outcome = Outcome::Failed { code: Some(2), error: format!("{error:#}") };
                    keep(args, job, outcome, BTreeMap::new(), ledger)?;
                }
            }
        }
        if running.is_empty() {
            return Ok(stop.asked());
        }
        if stop.asked() && !std::mem::replace(&mut told, true) {
            running.iter().for_each(|(_, child)| child.ask_to_stop());
        }
        let mut i = 0;
        while i < running.len() {
            match running[i].1.poll()? {
                None => i += 1,
                Some(ended) => {
                    let (job, _) = running.swap_remove(i);
                    if let Ended::Outcome(outcome) = ended {
                        keep(args, job, outcome, job.plan.settings()?, ledger)?;
                    }
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn keep(
    args: &Args,
    job: &Job,
    outcome: Outcome,
    settings: BTreeMap<String, serde_json::Value>,
    ledger: &mut Ledger,
) -> anyhow::Result<()> {
    match &outcome {
        Outcome::Done { val_bpb, .. } => {
            say(&format!("{} seed {}: val_bpb {val_bpb:.4}", job.label, job.plan.seed))
        }
        Outcome::Failed { error, .. } => {
            say(&format!("{} seed {} failed: {error}", job.label, job.plan.seed))
        }
    }
    let finished = matches!(outcome, Outcome::Done { .. });
    let record = child::record(&job.plan, &name(&job.plan), &job.label, settings, &args.device, outcome);
    ledger.append(record)?;
    if finished && !args.keep_models {
        child::remove_checkpoints(&job.plan.dir)?;
    }
    Ok(())
}

/// All runs, the lowest loss first; failed ones last, with their error.
fn show(args: &Args, jobs: &[Job], ledger: &Ledger) -> anyhow::Result<()> {
    let mut rows: Vec<(&Job, &Record)> =
        jobs.iter().filter_map(|job| Some((job, newest(ledger, &job.plan)?))).collect();
    let loss = |r: &Record| match r.outcome {
        Outcome::Done { val_loss, .. } => val_loss,
        Outcome::Failed { .. } => f64::INFINITY,
    };
    rows.sort_by(|a, b| loss(a.1).total_cmp(&loss(b.1)));
    if args.json {
        rows.iter().try_for_each(|(_, r)| serde_json::to_string(r).map(|line| println!("{line}")))?;
        return Ok(());
    }
    let mut table = Table::new(["val_loss", "val_bpb", "params", "steps", "seconds", "seed", "settings"]);
    for (job, record) in rows {
        let seed = job.plan.seed.to_string();
        match &record.outcome {
            Outcome::Done { val_bpb, val_loss, steps, seconds, params, .. } => table.row([
                format!("{val_loss:.4}"),
                format!("{val_bpb:.4}"),
                format!("{:.2}M", *params as f64 / 1e6),
                steps.to_string(),
                format!("{seconds:.1}"),
                seed,
                job.label.clone(),
            ]),
            Outcome::Failed { error, .. } => {
                let dash = || "-".to_owned();
                table.row([dash(), dash(), dash(), dash(), dash(), seed, format!("{}: {error}", job.label)]);
            }
        }
    }
    print!("{table}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(text: &str) -> anyhow::Result<Vec<Job>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("g.toml");
        std::fs::write(&path, text).unwrap();
        Grid::read(&path)?.jobs(Path::new("out"))
    }

    #[test]
    fn a_grid_is_every_combination_and_keeps_its_names_when_it_grows() {
        let grid = "steps = 5\nseeds = [1, 2]\n[set]\n\"train.batch\" = 2\n[grid]\n\"optimizer.lr\" = [1e-3, 2e-3]\n\
                    w = [{\"model.dim\" = 64, \"model.heads\" = 2}, {\"model.dim\" = 96, \"model.heads\" = 3}]\n";
        let all = jobs(grid).unwrap();
        assert_eq!(all.len(), 8);
        assert_eq!(all[0].label, "lr=0.001, w 1");
        assert_eq!(all[7].plan.set, ["train.batch=2", "optimizer.lr=0.002", "model.dim=96", "model.heads=3"]);
        let more = jobs(&grid.replace("[1e-3, 2e-3]", "[5e-4, 2e-3, 1e-3]")).unwrap();
        let names = |jobs: &[Job]| jobs.iter().map(|job| name(&job.plan)).collect::<Vec<_>>();
        assert!(names(&all).iter().all(|one| names(&more).contains(one)));
        let longer = jobs(&grid.replace("steps = 5", "steps = 6")).unwrap();
        assert!(names(&all).iter().all(|one| !names(&longer).contains(one)));
    }

    #[test]
    fn a_bad_grid_says_what_is_wrong() {
        for (text, wanted) in [
            ("[grid]\na = [1]\n", "one of `tokens`, `seconds` and `steps`"),
            ("steps = 1\ntokens = 1\n[grid]\na = [1]\n", "one of `tokens`, `seconds` and `steps`"),
            ("steps = 0\n[grid]\na = [1]\n", "above 0"),
            ("steps = 1\n", "missing field `grid`"),
            ("steps = 1\nsteep = 2\n[grid]\n", "g.toml:2: unknown field `steep`"),
            ("steps = 1\n[grid]\na = 1\n", "grid.a: wanted a list"),
            ("steps = 1\n[grid]\na = []\n", "grid.a: wanted a list"),
            ("steps = 1\nseeds = []\n[grid]\na = [1]\n", "`seeds` is empty"),
            ("steps = \"x\"\n[grid]\n", "g.toml:1: invalid type"),
        ] {
            let error = jobs(text).err().map_or(String::new(), |e| format!("{e:#}"));
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }
}
