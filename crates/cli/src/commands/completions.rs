//! `rustane completions`: scripts for shells.

use std::process::ExitCode;

use clap_complete::Shell;

/// Flags of `rustane completions`.
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: Args, mut command: clap::Command) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut command, "rustane", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
