//! `rustane tune`: times the kernels on this GPU and keeps the choice.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use metal_decode::measure::{self, Effort};
use metal_decode::{Api, Tuning};
use model::quant::Format;

use crate::commands::bench::decode::shape;
use crate::device::Device;
use crate::{gpu, paths};

/// Flags of `rustane tune`.
#[derive(clap::Args)]
pub struct Args {
    /// Which GPU: metal, vulkan, or auto
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: Device,
    /// Shapes to time: llama-1b, llama-8b, a preset
    #[arg(long, default_value = "llama-1b", value_name = "SHAPE")]
    shape: String,
    /// Format to time; repeatable [default: all]
    #[arg(long, value_name = "FORMAT", value_parser = gpu::format)]
    format: Vec<Format>,
}

/// Times.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = gpu::open(gpu::api(args.device).unwrap_or(Api::Any))?;
    let c = shape(&args.shape)?;
    let formats = if args.format.is_empty() { Format::ALL.to_vec() } else { args.format };
    let shapes = measure::shapes(&c);
    println!("{}, {}", device.label(), device.driver());
    let file = gpu::tuning_file(&device);
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let mut all: Tuning = serde_json::from_str(&text).unwrap_or_default();
    let begin = Instant::now();
    let folder = file.parent().map_or_else(paths::cache, std::path::Path::to_owned);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for format in formats {
        let tell = |e: &metal_decode::Entry, t: measure::Timed| {
            println!(
                "{:>5} {:>6} × {:<6}  {} rows, {:>3} threads, split {}, {}  {:>8.1} µs  {:>7.1} GB/s",
                e.format,
                e.k,
                e.m,
                e.tiling.rows,
                e.tiling.threads,
                e.tiling.split,
                if e.tiling.dots > 0 { "integers" } else { "floats  " },
                t.seconds * 1e6,
                t.gb_per_s()
            );
        };
        let timed =
            measure::tune(&device, format, &shapes, Effort::new(&device), tell).map_err(gpu::failure)?;
        let new = |e: &metal_decode::Entry| {
            !timed.entries.iter().any(|t| (&t.format, t.k, t.m) == (&e.format, e.k, e.m))
        };
        all.entries.retain(new);
        all.entries.extend(timed.entries);
        // After each format, so that who stops it keeps what was timed.
        std::fs::write(&file, serde_json::to_string_pretty(&all)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!("kept in {}, after {:.0} s", file.display(), begin.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}
