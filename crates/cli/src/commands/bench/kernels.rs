//! `rustane bench kernels`: every kernel of the CPU beside what this machine can do.

use std::process::ExitCode;

use anyhow::Context;
use backend_cpu::measure::{self, Kernel, Numbers};
use backend_cpu::{Isa, probe};
use bench::results::{Case, Quantity};
use bench::statistics::median;
use engine::RunConfig;
use serde_json::json;

use super::mil_kernels;
use super::output::OutputArgs;
use crate::commands::presets;
use crate::device::{Device, DeviceArgs};
use crate::failure::Failure;

/// Flags of `rustane bench kernels`.
#[derive(clap::Args)]
pub struct Args {
    /// Shape of the model; `rustane presets ls` lists them
    #[arg(long, default_value = "48m")]
    pub preset: String,
    /// Tokens of one sequence
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub seq: usize,
    /// Sequences of one step
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Measured runs of each kernel
    #[arg(long, default_value_t = 15, value_name = "N")]
    pub runs: usize,
    /// Only kernels of the CPU whose name has this in it, such as gemm/down or bf16; repeatable
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Vector instructions of the CPU: baseline, avx2, avx512 or amx [default: the widest it has]
    #[arg(long, value_name = "LEVEL")]
    instructions: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Measures.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if matches!(args.device.device, Device::Metal | Device::Vulkan) {
        let text = "`bench kernels` measures the kernels of the CPU (--device cpu) and the MIL programs \
                    (--device ane); those of a GPU are timed by `bench decode --kernels`";
        return Err(Failure::Usage(text.into()).into());
    }
    args.device.check()?;
    if args.runs == 0 || args.seq == 0 || args.batch == 0 {
        return Err(Failure::Usage("--runs, --seq and --batch are at least 1".into()).into());
    }
    let mut config: RunConfig = toml::from_str(presets::find(&args.preset)?.text)?;
    config.train.seq = args.seq;
    config.train.batch = args.batch;
    config.model.max_seq = config.model.max_seq.max(args.seq);
    config.validate().map_err(|e| Failure::Usage(e.to_string()))?;
    if !matches!(args.device.device, Device::Ane | Device::VirtualAne) {
        return on_cpu(args, &config);
    }
    if !args.only.is_empty() || args.instructions.is_some() || args.batch != 1 {
        let text = "--only, --instructions and --batch are of --device cpu; leave them out";
        return Err(Failure::Usage(text.into()).into());
    }
    mil_kernels::run(args, &config)
}

/// What a machine can do, measured now.
struct Peaks {
    f32: f64,
    parts: f64,
    bf16: Option<f64>,
    int8: Option<f64>,
    read: f64,
    update: f64,
}

impl Peaks {
    fn measure(isa: Isa, threads: usize) -> anyhow::Result<Self> {
        Ok(Self {
            f32: probe::peak_multiply_adds(isa, threads)?,
            parts: probe::peak_gflops_of(isa, threads)?,
            bf16: probe::peak_bf16_gflops_of(isa, threads)?,
            int8: probe::peak_int8_gops_of(isa, threads)?,
            read: probe::memory_bandwidth(threads)?,
            update: probe::update_bandwidth(threads)?,
        })
    }

    /// The better of two measurements: another program may have run during one.
    fn or(self, other: Self) -> Self {
        Self {
            f32: self.f32.max(other.f32),
            parts: self.parts.max(other.parts),
            bf16: self.bf16.zip(other.bf16).map(|(a, b)| a.max(b)),
            int8: self.int8.zip(other.int8).map(|(a, b)| a.max(b)),
            read: self.read.max(other.read),
            update: self.update.max(other.update),
        }
    }
}

/// A kernel beside the peaks.
struct Rated {
    ms: f64,
    gflop_per_s: f64,
    gb_per_s: f64,
    /// Of the arithmetic of its numbers; `None` where that peak is not known.
    arithmetic: Option<f64>,
    /// Of memory.
    memory: f64,
}

impl Rated {
    fn new(kernel: &Kernel, peaks: &Peaks) -> Self {
        let (work, seconds) = (&kernel.work, median(&kernel.seconds));
        let gflop_per_s = work.flops / seconds / 1e9;
        let gb_per_s = (work.read + work.written) / seconds / 1e9;
        let peak = match work.numbers {
            Numbers::F32 => Some(peaks.f32),
            Numbers::Parts => Some(peaks.parts),
            Numbers::Bf16 => peaks.bf16,
            Numbers::Int8 => peaks.int8,
        };
        // Who writes a fifth of what it moves is judged by the speed of reading and writing.
        let memory = if work.written > 0.2 * work.read { peaks.update } else { peaks.read };
        Self {
            ms: seconds * 1e3,
            gflop_per_s,
            gb_per_s,
            arithmetic: peak.map(|peak| gflop_per_s / peak),
            memory: gb_per_s / memory,
        }
    }

    /// What holds it up: the larger share, if it is one that leaves little to gain.
    fn limit(&self) -> &'static str {
        let arithmetic = self.arithmetic.unwrap_or(0.0);
        match self.memory {
            memory if memory > 1.1 && arithmetic < 0.6 => "caches: its operands stay in them",
            memory if memory.max(arithmetic) < 0.4 => "neither: packing, waiting, being short",
            memory if memory > arithmetic => "memory",
            _ => "arithmetic",
        }
    }
}

fn on_cpu(args: &Args, config: &RunConfig) -> anyhow::Result<ExitCode> {
    let isa = match &args.instructions {
        None => Isa::detect(),
        Some(name) => find(name)?,
    };
    let threads = args.device.threads();
    let wanted =
        |name: &str| args.only.is_empty() || args.only.iter().any(|part| name.contains(part.as_str()));
    let settings = measure::Settings { isa, threads, seq: args.seq, batch: args.batch, runs: args.runs };
    let mut measurement =
        args.output.begin("the kernels of the CPU at the shapes of a model", &args.device)?;
    measurement.protocol(
        "each kernel so often in a row, after one run that is not counted; the peaks before and after, the better counts",
    );
    let mut kernels = Vec::new();
    let before = Peaks::measure(isa, threads)?;
    measure::kernels(&config.model, settings, &wanted, &mut |kernel| kernels.push(kernel))
        .context("cannot measure the kernels")?;
    if kernels.is_empty() {
        let text = format!(
            "no kernel has {} in its name; names are like gemm/down/forward/bf16, attention/backward/f32, adamw/q8, gemv/q4_0",
            args.only.join(" or ")
        );
        return Err(Failure::Usage(text).into());
    }
    let peaks = before.or(Peaks::measure(isa, threads)?);
    measurement.details(json!({
        "preset": args.preset, "seq": args.seq, "batch": args.batch, "instructions": isa.name(),
        "peaks": {
            "f32_gflop_per_s": peaks.f32, "f32_products_gflop_per_s": peaks.parts, "bf16_gflop_per_s": peaks.bf16, "int8_gop_per_s": peaks.int8,
            "read_gb_per_s": peaks.read, "read_and_write_gb_per_s": peaks.update,
        },
    }));
    let rated: Vec<_> = kernels.iter().map(|kernel| (kernel, Rated::new(kernel, &peaks))).collect();
    measurement.add(rated.iter().map(|(kernel, rated)| case(args, isa, kernel, rated)))?;
    if args.output.json {
        measurement.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let of = |peak: Option<f64>, unit| peak.map_or("not there".into(), |peak| format!("{peak:.0} {unit}"));
    println!(
        "{}: {} × {} tokens, {}, {}",
        args.preset,
        args.batch,
        args.seq,
        args.device.label(),
        isa.name()
    );
    println!(
        "  peaks now: f32 {:.0} GFLOP/s, its products {:.0} GFLOP/s, bf16 {}, int8 {}, reading {:.1} GB/s, reading and writing {:.1} GB/s",
        peaks.f32,
        peaks.parts,
        of(peaks.bf16, "GFLOP/s"),
        of(peaks.int8, "Gop/s"),
        peaks.read,
        peaks.update
    );
    println!("  kernel                             ms    GFLOP/s   of peak     GB/s  of memory  limited by");
    for (kernel, r) in &rated {
        let share = r.arithmetic.map_or("—".into(), |share| format!("{:.0} %", 100.0 * share));
        println!(
            "  {:<28} {:>9.3}  {:>9.1}  {share:>8}  {:>7.1}  {:>7.0} %  {}",
            kernel.name,
            r.ms,
            r.gflop_per_s,
            r.gb_per_s,
            100.0 * r.memory,
            r.limit()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn case(args: &Args, isa: Isa, kernel: &Kernel, rated: &Rated) -> Case {
    let name = format!("kernels/{}/seq{}/batch{}/{}", args.preset, args.seq, args.batch, kernel.name);
    let device = format!("{}, {}", args.device.label(), isa.name());
    let ms = kernel.seconds.iter().map(|seconds| seconds * 1e3).collect();
    let mut case = Case::new(name, device, Quantity::ms("kernel run"), ms);
    case.details = json!({
        "gflop": kernel.work.flops / 1e9, "mb_read": kernel.work.read / 1e6, "mb_written": kernel.work.written / 1e6,
        "gflop_per_s": rated.gflop_per_s, "gb_per_s": rated.gb_per_s,
        "arithmetic_share": rated.arithmetic, "memory_share": rated.memory, "limited_by": rated.limit(),
    });
    case
}

/// A level of this machine by name.
fn find(name: &str) -> Result<Isa, Failure> {
    let here = || Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
    let found = Isa::available().iter().copied().find(|isa| isa.name() == name);
    found.ok_or_else(|| {
        Failure::Usage(format!("--instructions {name}: this processor has {}; give one of them", here()))
    })
}
