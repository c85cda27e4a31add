//! `rustane mil`: the Neural Engine's programs, ours and others', on any machine.

mod check;
mod cost;
mod dump;
mod plan;
mod program;
mod run;
mod tensors;

use std::process::ExitCode;

/// Flags of `rustane mil`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print the text of a training program for any model, or write it with its constants
    Dump(dump::Args),
    /// Check a program against the rules of a chip; every broken rule is reported
    Check(check::Args),
    /// Run a program on the virtual Neural Engine
    Run(run::Args),
    /// Count the work of a program, and predict its time on Apple's chips
    Cost(cost::Args),
}

/// Runs the action.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Dump(args) => dump::run(&args),
        Action::Check(args) => check::run(&args),
        Action::Run(args) => run::run(&args),
        Action::Cost(args) => cost::run(&args),
    }
}
