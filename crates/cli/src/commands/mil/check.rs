//! `rustane mil check`: whether a chip takes a program.

use std::process::ExitCode;

use ane_bridge::Chip;

use super::program::{ProgramArgs, plural};
use crate::device::chip;

/// Flags of `rustane mil check`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    program: ProgramArgs,
    /// Chip whose rules apply
    #[arg(long, default_value = "M4 Max", value_parser = chip)]
    chip: &'static Chip,
}

/// Checks; fails with every broken rule.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    for loaded in args.program.load_all(args.chip)? {
        let verified = loaded.verified(args.chip)?;
        let warnings = verified.warnings();
        warnings.iter().for_each(|warning| println!("{}", loaded.line(warning)));
        let count = warnings.len();
        println!("{}: ok for {}, {count} warning{}", loaded.name, args.chip.name, plural(count));
        for function in &verified.functions {
            for (side, ids) in [("in", function.params()), ("out", function.outputs())] {
                for &id in ids {
                    let value = function.value(id);
                    println!("  {:<4} {} {}", side, value.name, value.ty);
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
