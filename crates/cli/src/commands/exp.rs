//! `rustane exp`: experiments with equal budgets, one ledger, and the odds that a change helped.

mod guide;
mod picture;
mod run;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bench::exp::{Budget, Experiment, Ledger, Standing};

use super::train::parse_budget;
use crate::failure::Failure;

/// Name of the ledger in the folder of experiments.
const LEDGER: &str = "ledger.jsonl";

/// Flags of `rustane exp`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Train once per seed, record what came of it, and compare it with the best so far
    Run(Box<run::Args>),
    /// List all experiments of a budget
    Log {
        #[command(flatten)]
        at: At,
        /// One JSON object per experiment
        #[arg(long)]
        json: bool,
    },
    /// Show the best experiment and its settings
    Best {
        #[command(flatten)]
        at: At,
        /// One JSON object
        #[arg(long)]
        json: bool,
        /// Its settings, to start from with --config
        #[arg(long, conflicts_with = "json")]
        toml: bool,
    },
    /// Draw all experiments of a budget, and who led, into an SVG picture
    Plot {
        #[command(flatten)]
        at: At,
        /// The picture
        #[arg(long, short, default_value = "experiments.svg", value_name = "FILE")]
        output: PathBuf,
    },
    /// Compare two experiments seed by seed
    Compare {
        /// The one before
        a: String,
        /// The one after
        b: String,
        #[command(flatten)]
        at: At,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print instructions for an agent that edits a settings file and keeps what helps
    Guide {
        /// Time of one run
        #[arg(long, value_parser = parse_budget, value_name = "TIME")]
        budget: Option<u64>,
        /// Tokens of one run, instead
        #[arg(long, value_name = "N", conflicts_with = "budget")]
        tokens: Option<u64>,
    },
}

/// Which experiments.
#[derive(Debug, clap::Args)]
struct At {
    /// Folder of the experiments
    #[arg(long, default_value = "experiments", value_name = "DIR")]
    dir: PathBuf,
    /// Those with this time [default: the length of the newest]
    #[arg(long, value_parser = parse_budget, value_name = "TIME")]
    budget: Option<u64>,
    /// Those with so many tokens
    #[arg(long, value_name = "N", conflicts_with = "budget")]
    tokens: Option<u64>,
    /// Those with so many updates
    #[arg(long, value_name = "N", conflicts_with_all = ["budget", "tokens"])]
    steps: Option<u64>,
}

impl At {
    fn budget(&self) -> Option<Budget> {
        let tokens = self.tokens.map(Budget::Tokens);
        tokens.or(self.budget.map(Budget::Seconds)).or(self.steps.map(Budget::Steps))
    }

    fn ledger(&self) -> anyhow::Result<Ledger> {
        let ledger = open(&self.dir)?;
        if ledger.records().is_empty() {
            let path = self.dir.join(LEDGER);
            let text = format!("{} holds no experiment; `rustane exp run` makes one", path.display());
            return Err(Failure::Usage(text).into());
        }
        Ok(ledger)
    }

    /// The experiments, and who led; fails where none finished.
    fn standing<'a>(&self, ledger: &'a Ledger) -> anyhow::Result<Standing<'a>> {
        Standing::of(ledger.records(), self.budget()).ok_or_else(|| {
            let budget = self.budget().map_or("the newest budget".into(), |b| b.to_string());
            Failure::Usage(format!("no experiment of {budget} reached its end; `rustane exp log` shows why"))
                .into()
        })
    }
}

/// Opens the ledger of a folder; a damaged one has the exit code of bad data.
fn open(dir: &Path) -> anyhow::Result<Ledger> {
    open_at(&dir.join(LEDGER))
}

/// Opens a ledger; a damaged one has the exit code of bad data.
pub fn open_at(path: &Path) -> anyhow::Result<Ledger> {
    Ledger::open(path).map_err(|error| match error {
        bench::exp::LedgerError::Io { .. } => error.into(),
        damaged => Failure::Data { code: "E3101", text: damaged.to_string() }.into(),
    })
}

fn find<'a, 'b>(standing: &'b Standing<'a>, id: &str) -> anyhow::Result<&'b Experiment<'a>> {
    standing.find(id).ok_or_else(|| {
        let text =
            format!("there is no experiment `{id}` of {}; `rustane exp log` lists them", standing.budget);
        Failure::Usage(text).into()
    })
}

/// Runs the action.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Run(args) => return run::run(&args),
        Action::Log { at, json } => {
            let ledger = at.ledger()?;
            show::log(&ledger, &at, json)?;
        }
        Action::Best { at, json, toml } => {
            let ledger = at.ledger()?;
            show::best(&at.standing(&ledger)?, json, toml)?;
        }
        Action::Plot { at, output } => {
            let ledger = at.ledger()?;
            let picture = picture::picture(&at.standing(&ledger)?)?;
            std::fs::write(&output, picture).with_context(|| format!("cannot write {}", output.display()))?;
            println!("wrote {}", output.display());
        }
        Action::Compare { a, b, at, json } => {
            let ledger = at.ledger()?;
            let standing = at.standing(&ledger)?;
            show::compare(find(&standing, &a)?, find(&standing, &b)?, json)?;
        }
        Action::Guide { budget, tokens } => {
            let budget =
                tokens.map(Budget::Tokens).unwrap_or(Budget::Seconds(budget.unwrap_or(run::BUDGET_S)));
            print!("{}", guide::text(budget));
        }
    }
    Ok(ExitCode::SUCCESS)
}
