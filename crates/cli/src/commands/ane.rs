//! `rustane ane`: the Neural Engine itself.

mod lab;
mod merge;
mod report;
mod table;

use std::process::ExitCode;

use clap::Subcommand;

/// Flags of `rustane ane`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Ask this machine's Neural Engine what only hardware can tell; takes a few minutes
    Lab(Box<lab::Args>),
}

/// Runs a command on the Neural Engine.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Lab(args) => lab::run(*args),
    }
}
