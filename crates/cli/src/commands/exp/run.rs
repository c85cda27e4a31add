//! `rustane exp run`: one experiment.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bench::exp::{Budget, Outcome, Paired, Standing};
use serde_json::json;

use super::{find, open};
use crate::child::{self, Ended, Plan};
use crate::commands::train::parse_budget;
use crate::device::DeviceArgs;
use crate::failure::Failure;
use crate::progress::say;
use crate::stop::Stop;

/// Seconds of a run when nothing else is said.
pub const BUDGET_S: u64 = 300;
/// Probability from which on a change is kept.
const SURE: f64 = 0.95;

/// Flags of `rustane exp run`.
#[derive(clap::Args)]
pub struct Args {
    /// What is tried, in a few words
    #[arg(long, value_name = "TEXT")]
    desc: String,
    /// Built-in settings to start from; `rustane presets ls` lists them
    #[arg(long, default_value = "tiny")]
    preset: String,
    /// File with settings (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as optimizer.lr=3e-3; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Time of each run, such as 90s or 5m [default: 5m]
    #[arg(long, value_parser = parse_budget, value_name = "TIME")]
    budget: Option<u64>,
    /// Tokens of each run, instead: results do not depend on the machine then
    #[arg(long, value_name = "N", conflicts_with = "budget")]
    tokens: Option<u64>,
    /// Updates of each run, instead
    #[arg(long, value_name = "N", conflicts_with_all = ["budget", "tokens"])]
    steps: Option<u64>,
    /// One run per seed; the odds of a comparison need two or more
    #[arg(long, default_value = "1", value_delimiter = ',', value_name = "N,…")]
    seeds: Vec<u64>,
    /// Folder of the experiments
    #[arg(long, default_value = "experiments", value_name = "DIR")]
    dir: PathBuf,
    /// Keep the weights of every run
    #[arg(long)]
    keep_models: bool,
    /// One JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    fn length(&self) -> Budget {
        let steps = self.steps.map(Budget::Steps);
        let tokens = self.tokens.map(Budget::Tokens);
        tokens.or(steps).unwrap_or(Budget::Seconds(self.budget.unwrap_or(BUDGET_S)))
    }
}

/// Trains, records and compares.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut seeds = args.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    if args.desc.trim().is_empty() {
        return Err(Failure::Usage("--desc is empty; say in a few words what is tried".into()).into());
    }
    args.device.check()?;
    std::fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    // Two at once would take each other's time, and the same name.
    let lock = args.dir.join("lock");
    let file = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    if file.try_lock().is_err() {
        anyhow::bail!(
            "another experiment runs in {}; wait for it, or give another --dir",
            args.dir.display()
        );
    }
    let mut ledger = open(&args.dir)?;
    let (id, budget) = (ledger.next_id(), args.length());
    let plan = |seed: u64| Plan {
        preset: args.preset.clone(),
        config: args.config.clone(),
        set: args.set.clone(),
        seed,
        budget,
        dir: args.dir.join("runs").join(format!("{id}-seed{seed}")),
    };
    // Settings that cannot be are refused before anything runs.
    let settings = plan(0).settings()?;
    let leader = Standing::of(ledger.records(), Some(budget)).and_then(|s| s.best().map(|e| e.id.to_owned()));
    let stop = Stop::listen().context("cannot listen for signals")?;
    for &seed in &seeds {
        let plan = plan(seed);
        if plan.dir.exists() {
            // Left by an experiment that was stopped and never recorded.
            std::fs::remove_dir_all(&plan.dir)
                .with_context(|| format!("cannot remove {}", plan.dir.display()))?;
        }
        let mut running = plan.start(&args.device, args.device.threads())?;
        let outcome = match running.wait(&stop)? {
            Ended::Outcome(outcome) => outcome,
            Ended::Stopped => {
                say(&format!("stopped; seed {seed} of experiment {id} is not recorded"));
                return Ok(stop.exit_code());
            }
        };
        match &outcome {
            Outcome::Done { val_bpb, seconds, .. } => {
                say(&format!("{id} seed {seed}: val_bpb {val_bpb:.4} after {seconds:.0} s of training"));
                if !args.keep_models {
                    child::remove_checkpoints(&plan.dir)?;
                }
            }
            Outcome::Failed { error, .. } => say(&format!("{id} seed {seed} failed: {error}")),
        }
        ledger.append(child::record(&plan, &id, &args.desc, settings.clone(), &args.device, outcome))?;
    }
    summary(args, &ledger, &id, leader.as_deref())
}

/// What the experiment came to, beside the best one before it.
fn summary(
    args: &Args,
    ledger: &bench::exp::Ledger,
    id: &str,
    leader: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let failed = || {
        println!("experiment: {id}\nverdict: failed");
        Ok(ExitCode::FAILURE)
    };
    let Some(standing) = Standing::of(ledger.records(), Some(args.length())) else { return failed() };
    let experiment = find(&standing, id)?;
    let bpb: Vec<f64> = experiment.bpb().into_values().collect();
    if bpb.is_empty() {
        return failed();
    }
    let mean = bench::statistics::mean(&bpb);
    let before = leader.filter(|leader| *leader != id).and_then(|leader| standing.find(leader));
    let paired = before.and_then(|before| Paired::of(before, experiment));
    let verdict = verdict(before.is_some(), paired.as_ref());
    if args.json {
        let object = json!({
            "experiment": id, "desc": args.desc, "val_bpb": mean, "val_bpb_by_seed": experiment.bpb(),
            "best_before": before.map(|e| e.id), "difference": paired.as_ref().map(|p| p.mean),
            "paired_seeds": paired.as_ref().map(|p| &p.seeds),
            "p_better": paired.as_ref().and_then(|p| p.p_better), "verdict": verdict,
        });
        println!("{object}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("experiment: {id}\nval_bpb: {mean:.6}\nseeds: {}", bpb.len());
    if let (Some(before), Some(paired)) = (before, &paired) {
        println!("best_before: {}\ndifference: {:+.6}", before.id, paired.mean);
        let odds = paired.p_better.map_or("not known from one seed".into(), |p| format!("{p:.3}"));
        println!("paired_seeds: {}\np_better: {odds}", paired.seeds.len());
    }
    println!("verdict: {verdict}");
    Ok(ExitCode::SUCCESS)
}

fn verdict(has_before: bool, paired: Option<&Paired>) -> &'static str {
    match paired {
        None if !has_before => "baseline",
        None => "not comparable: no seed in common with the best",
        Some(Paired { mean, .. }) if *mean >= 0.0 => "discard",
        Some(Paired { p_better: Some(p), .. }) if *p >= SURE => "keep",
        Some(Paired { p_better: Some(_), .. }) => "unsure: better on average, not on enough seeds",
        Some(Paired { p_better: None, .. }) => "unsure: better on one seed; run more",
    }
}
