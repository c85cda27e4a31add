//! `rustane runs`: what became of training runs.

mod compare;
mod curves;
mod run;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use self::curves::{X, Y};
use self::run::RUNS;
pub use self::run::Run;
use crate::failure::Failure;
use crate::table::Table;

/// Flags of `rustane runs`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the runs of a folder
    Ls {
        /// The folder
        #[arg(default_value = RUNS)]
        dir: PathBuf,
    },
    /// Show one run: settings, data, curve, checkpoints, last sample
    Show {
        /// A run directory, or its name under runs/
        run: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show where settings and results of runs differ
    Compare {
        /// Run directories, or their names under runs/
        #[arg(required = true, num_args = 2..)]
        runs: Vec<PathBuf>,
    },
    /// Draw curves of runs into one SVG picture
    Plot {
        /// Run directories, or their names under runs/
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// The picture
        #[arg(long, short, default_value = "loss.svg", value_name = "FILE")]
        output: PathBuf,
        /// What goes to the right
        #[arg(long, value_enum, default_value = "step")]
        x: X,
        /// What goes up
        #[arg(long, value_enum, default_value = "loss")]
        y: Y,
        /// Logarithmic scale for what goes up
        #[arg(long)]
        log: bool,
        /// Steps over which noisy curves are averaged; 1: not at all [default: 1 in 30 of the run]
        #[arg(long, value_name = "STEPS")]
        smooth: Option<usize>,
    },
}

/// Runs the action.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls { dir } => ls(&dir)?,
        Action::Show { run, json } => show::show(&Run::find(&run)?, json),
        Action::Compare { runs } => compare::compare(&find_all(&runs)?)?,
        Action::Plot { runs, output, x, y, log, smooth } => {
            let runs = find_all(&runs)?;
            let picture = curves::picture(&runs, x, y, log, smooth)?;
            std::fs::write(&output, picture).with_context(|| format!("cannot write {}", output.display()))?;
            println!("wrote {}", output.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens runs, each under a name of its own: that of the directory, or the whole path where two are
/// named alike.
fn find_all(given: &[PathBuf]) -> anyhow::Result<Vec<Run>> {
    let mut runs = given.iter().map(|path| Run::find(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in &mut runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = run.dir.display().to_string();
        }
    }
    Ok(runs)
}

fn ls(dir: &Path) -> anyhow::Result<()> {
    if !dir.is_dir() && dir != Path::new(RUNS) {
        return Err(
            Failure::Usage(format!("{} is no folder; wanted one with runs in it", dir.display())).into()
        );
    }
    let names = if dir.is_dir() {
        run::names(dir).with_context(|| format!("cannot read {}", dir.display()))?
    } else {
        Vec::new()
    };
    if names.is_empty() {
        println!("no runs in {}; `rustane train` makes one", dir.display());
        return Ok(());
    }
    let mut table = Table::new(["run", "model", "steps", "loss", "val_bpb", "tok/s", "state", "age"]);
    let mut broken = String::new();
    for name in names {
        match Run::open(&dir.join(&name)) {
            Ok(run) => table.row(row(&run)),
            // One broken run does not hide the others.
            Err(error) => {
                broken += &format!("{name} cannot be read: {error:#}\n");
                table.row([name.as_str(), "-", "-", "-", "-", "-", "broken", "-"]);
            }
        }
    }
    print!("{table}{broken}");
    Ok(())
}

fn row(run: &Run) -> [String; 8] {
    let total = run.total().map_or("?".into(), |total| total.to_string());
    [
        run.name.clone(),
        run.config.as_ref().map_or("-".into(), |config| count(config.model.param_count())),
        format!("{}/{total}", run.step()),
        number(run.metrics.steps.last().map(|s| s.ema), 4),
        number(run.metrics.best_bpb(), 4),
        number(run.metrics.median_tok_per_s(), 0),
        run.activity.name().into(),
        ago(run.age),
    ]
}

/// A number that may be absent.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

/// A count with three digits and a letter: 2.96M.
fn count(n: u64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2}B", n / 1e9),
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e4 => format!("{:.1}k", n / 1e3),
        n => format!("{n}"),
    }
}

/// A time that is past, roughly.
fn ago(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}
