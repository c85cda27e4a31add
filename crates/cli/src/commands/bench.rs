//! `rustane bench`: how fast this machine is.

mod chips;
pub mod compare;
pub mod decode;
mod forward;
mod kernels;
mod mil_kernels;
pub mod output;
pub mod peak_memory;
mod published;
mod shapes;
mod step;
mod submit;
mod sweep;

use std::process::ExitCode;

use backend_cpu::probe;
use clap::Subcommand;
use engine::config::Precision;

/// Flags of `rustane bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Whole training steps with AdamW on random tokens
    Step(step::Args),
    /// Writing token by token, with weights that mean nothing
    Decode(decode::Args),
    /// The published training sweep: loss before and after ten steps, time of a step
    Sweep(sweep::Args),
    /// The published forward passes, 5B to 30B parameters, one block in memory at a time
    Forward(forward::Args),
    /// Predicted times of Apple's chips beside the published ones
    Chips(chips::Args),
    /// Every kernel of the CPU beside this machine's peaks, or the MIL programs of a model with --device ane
    Kernels(kernels::Args),
    /// Ratios of two files of results, with intervals
    Compare(compare::Args),
    /// Show a file of results, ask, and send it, or make a branch for a pull request
    Submit(submit::Args),
}

/// Measures.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.what {
        What::Step(args) => step::run(&args),
        What::Decode(args) => decode::run(&args),
        What::Sweep(args) => sweep::run(&args),
        What::Forward(args) => forward::run(&args),
        What::Chips(args) => chips::run(&args),
        What::Kernels(args) => kernels::run(&args),
        What::Compare(args) => compare::run(&args),
        What::Submit(args) => submit::run(&args),
    }
}

/// Most GFLOP/s of matrix products in a precision, measured now. Without instructions for bf16, the
/// yardstick is f32.
pub fn peak(precision: Precision, threads: usize) -> Result<f64, backend::Error> {
    if precision == Precision::Bf16
        && let Some(peak) = probe::peak_bf16_gflops(threads)?
    {
        return Ok(peak);
    }
    Ok(probe::peak_gflops(threads)?)
}
