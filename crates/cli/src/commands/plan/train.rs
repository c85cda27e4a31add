//! Training: memory over the run, what fits, how long a step is.

use std::process::ExitCode;

use ane_bridge::{Chip, predict};
use backend_cpu::{CpuInfer, Isa, Plan, probe};
use bench::plan::{Course, Kernel, Machine, largest, step_time};
use engine::RunConfig;
use engine::config::{OptimizerState, Precision, WeightFormat};
use serde::Serialize;

use super::target::Target;
use super::{Args, limit, show};
use crate::commands::bench::{peak, peak_memory};
use crate::commands::doctor::machine;
use crate::device::{DeviceArgs, WhichChip};
use crate::failure::Failure;

/// Longest batch that is looked for.
pub const MOST_SEQUENCES: usize = 1 << 16;

/// A plan of training.
pub struct Planned<'a> {
    pub target: &'a Target,
    /// What it is for, such as `cpu, 2 threads`.
    pub device: String,
    /// This machine, where it was asked for.
    pub machine: Option<Here>,
    pub course: Course,
    pub limit: Option<u64>,
    pub time: Time,
    pub options: Vec<Choice>,
    /// Most sequences at this length; `None` when not even one fits, or no limit is known.
    pub batch: Option<usize>,
    /// Longest sequence at this batch, up to the positions of the model.
    pub seq: Option<usize>,
    /// What to type.
    pub command: Option<String>,
}

/// A predicted step.
#[derive(Clone, Debug, Serialize)]
pub struct Time {
    pub ms_per_step: f64,
    pub tok_per_s: f64,
    /// Joules per token, from and to; none where no power is known.
    pub joules_per_token: Option<[f64; 2]>,
    /// What the prediction rests on.
    pub basis: String,
}

/// The machine that plans.
#[derive(Clone, Debug, Serialize)]
pub struct Here {
    pub chip: String,
    pub cores: Option<usize>,
    pub memory_bytes: Option<u64>,
    pub memory_gb_per_s: f64,
    /// Whether that was measured now, or stated by the maker.
    pub bandwidth: &'static str,
}

impl Here {
    fn new(chip: Option<&Chip>, device: &DeviceArgs) -> anyhow::Result<Self> {
        let (memory_gb_per_s, bandwidth) = match chip {
            Some(chip) => (chip.memory_gb_s, "stated by Apple"),
            None => {
                let measured = probe::memory_bandwidth(device.threads()).map_err(backend::Error::from)?;
                (measured, "measured now")
            }
        };
        Ok(Self {
            chip: machine::processor(),
            cores: machine::processors(),
            memory_bytes: machine::memory().map(|m| m.total).or_else(machine::apple_memory),
            memory_gb_per_s,
            bandwidth,
        })
    }
}

/// The same run with something changed.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The flags, or `as asked`.
    pub flags: &'static str,
    /// Bytes at the peak.
    pub bytes: u64,
    /// Most sequences at this length.
    pub batch: Option<usize>,
}

/// Plans, prints, and says by the exit code whether it fits.
pub fn run(args: &Args, target: &Target) -> anyhow::Result<ExitCode> {
    let planned = plan(args, target)?;
    if args.json {
        println!("{}", show::training_json(&planned));
    } else {
        print!("{}", show::training_text(&planned));
    }
    let fits = planned.limit.is_none_or(|limit| planned.course.bytes() <= limit);
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

/// Memory over a run of `rustane train`, beside `program` bytes that the process has anyway. With a chip, that
/// of its Neural Engine.
pub fn course(
    device: &DeviceArgs,
    chip: Option<&Chip>,
    config: &RunConfig,
    program: u64,
) -> anyhow::Result<Course> {
    let held = match chip {
        Some(chip) => device.ane_footprint(config, chip)?,
        None => device.footprint(config)?,
    };
    let model = &config.model;
    let course = Course::training(&held, model, program);
    if config.train.sample_tokens == 0 {
        return Ok(course);
    }
    // The writer's prompt is read in passes of at most 512 tokens.
    let plan = Plan::new(model.max_seq.min(512)).with_threads(device.threads());
    let writer = CpuInfer::footprint(model, plan, config.train.sample_tokens.min(model.max_seq), 1)?;
    Ok(course.with_samples(model, &writer))
}

/// Fails where a run of `rustane train` takes more than is free.
pub fn preflight(device: &DeviceArgs, config: &RunConfig) -> anyhow::Result<()> {
    let course = course(device, None, config, 0)?;
    let (needed, phase) = (course.bytes(), course.peak().name);
    match crate::device::available_memory() {
        Some(free) if needed > free => {
            let advice = match phase {
                "samples" => "try --set train.sample_tokens=0, ",
                _ => "try ",
            };
            Err(Failure::DoesNotFit(format!(
                "training needs {} ({phase}), {} are free: {advice}--update-in-backward, --recompute, --optimizer-state q8, a smaller --batch \
                 or --seq, or a smaller preset; `rustane plan` shows what takes how much",
                crate::device::bytes(needed),
                crate::device::bytes(free)
            ))
            .into())
        }
        _ => Ok(()),
    }
}

fn plan<'a>(args: &Args, target: &'a Target) -> anyhow::Result<Planned<'a>> {
    let (device, config) = (&args.device, &target.config);
    let chip = device.planned_chip()?;
    let program = peak_memory::resident().unwrap_or(0);
    let bytes_of = |config: &RunConfig| anyhow::Ok(course(device, chip, config, program)?.bytes());
    let limit = limit(args);
    let most_sequences = |config: &RunConfig| -> anyhow::Result<Option<usize>> {
        let Some(limit) = limit else { return Ok(None) };
        largest(MOST_SEQUENCES, |batch| {
            let mut config = config.clone();
            config.train.batch = batch;
            Ok(bytes_of(&config)? <= limit)
        })
    };
    let longest = |limit: u64| {
        // Sequences are tried in steps of 32 tokens.
        let steps = largest((config.model.max_seq / 32).max(1), |n| -> anyhow::Result<bool> {
            let mut config = config.clone();
            config.train.seq = (32 * n).min(config.model.max_seq);
            Ok(bytes_of(&config)? <= limit)
        })?;
        anyhow::Ok(steps.map(|n| (32 * n).min(config.model.max_seq)))
    };
    let mut options = Vec::new();
    for (flags, change) in changes(chip.is_some()) {
        let mut changed = config.clone();
        change(&mut changed);
        if flags != "as asked" && changed == *config {
            continue;
        }
        options.push(Choice { flags, bytes: bytes_of(&changed)?, batch: most_sequences(&changed)? });
    }
    Ok(Planned {
        target,
        device: match chip {
            Some(chip) if !device.is_virtual_ane()? => format!("ANE of an {}", chip.name),
            _ => device.label(),
        },
        machine: match device.chip {
            Some(WhichChip::This) => Some(Here::new(chip, device)?),
            _ => None,
        },
        course: course(device, chip, config, program)?,
        limit,
        time: match chip {
            Some(chip) => on_chip(chip, config),
            None => on_cpu(device, config)?,
        },
        batch: options.first().and_then(|o| o.batch),
        options,
        seq: limit.map(longest).transpose()?.flatten(),
        command: target.source.as_ref().map(|source| command(args, source)),
    })
}

type Change = fn(&mut RunConfig);

/// What else could be asked for; formats of moments are the CPU's.
fn changes(ane: bool) -> Vec<(&'static str, Change)> {
    let mut changes: Vec<(&'static str, Change)> = vec![("as asked", |_| ())];
    if !ane {
        changes.extend([
            ("--recompute", (|c| c.train.recompute = true) as Change),
            ("--optimizer-state bf16", |c| c.optimizer.state = OptimizerState::Bf16),
            ("--optimizer-state q8", |c| c.optimizer.state = OptimizerState::Q8),
            ("--recompute --optimizer-state q8", |c| {
                (c.train.recompute, c.optimizer.state) = (true, OptimizerState::Q8);
            }),
            ("--update-in-backward", |c| (c.train.update_in_backward, c.train.accum) = (true, 1)),
            ("all of these, --precision bf16 --weights bf16", thrifty),
        ]);
    }
    changes.push(("--set train.sample_tokens=0", |c| c.train.sample_tokens = 0));
    changes
}

/// The least memory that training on the CPU can take.
pub fn thrifty(config: &mut RunConfig) {
    let train = &mut config.train;
    (train.recompute, train.update_in_backward, train.accum) = (true, true, 1);
    (train.precision, train.weights) = (Precision::Bf16, WeightFormat::Bf16);
    config.optimizer.state = OptimizerState::Q8;
}

fn on_cpu(device: &DeviceArgs, config: &RunConfig) -> anyhow::Result<Time> {
    let threads = device.threads();
    let kernel = match (Isa::detect().name(), config.train.precision) {
        ("amx", Precision::Bf16) => Kernel::Tiles,
        ("amx", _) => Kernel::TilesInParts,
        _ => Kernel::Vectors,
    };
    let machine = Machine {
        gflop_per_s: peak(config.train.precision, threads)?,
        gb_per_s: probe::memory_bandwidth(threads).map_err(backend::Error::from)?,
    };
    let moments = match config.optimizer.state {
        OptimizerState::F32 => 8.0,
        OptimizerState::Bf16 => 4.0,
        OptimizerState::Q8 => 2.0,
    };
    let shape = (config.train.seq, config.train.batch);
    let step = step_time(&config.model, shape, config.train.recompute, moments, kernel, &machine);
    Ok(Time {
        ms_per_step: step.ms(),
        tok_per_s: step.tok_per_s(),
        joules_per_token: None,
        basis: format!(
            "{:.0} GFLOP/s and {:.0} GB/s measured now, shares of them as of a 110M step on a quiet machine",
            machine.gflop_per_s, machine.gb_per_s
        ),
    })
}

/// Watts that ncdrone/rustane's README claims for training on an M4 Max.
const M4_MAX_WATTS: [f64; 2] = [3.0, 5.0];

fn on_chip(chip: &Chip, config: &RunConfig) -> Time {
    let (m, sequences) = (&config.model, config.train.batch as f64);
    let model = predict::Model {
        dim: m.dim,
        hidden: m.hidden,
        heads: m.heads,
        kv_heads: m.kv_heads,
        head_dim: m.head_dim,
        layers: m.layers,
        vocab: m.vocab,
        seq: config.train.seq,
    };
    let step = predict::step_ms(chip, &model);
    let ms = sequences * (step.forward_ms + step.backward_ms) + step.norm_ms + step.update_ms;
    let tok_per_s = sequences * config.train.seq as f64 / ms * 1e3;
    let watts = (chip == Chip::M4_MAX).then_some(M4_MAX_WATTS);
    Time {
        ms_per_step: ms,
        tok_per_s,
        joules_per_token: watts.map(|watts| watts.map(|w| w / tok_per_s)),
        basis: format!(
            "the chip model, {}; the original engine's schedule; no chip of Apple's was measured by us",
            bench::chips::evidence(chip)
        ),
    }
}

/// A value as the flags have it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| Some(v.as_str()?.to_owned())).unwrap_or_default()
}

/// The command that runs what was planned.
fn command(args: &Args, source: &str) -> String {
    let mut command = format!("rustane train {source}");
    let mut flag = |text: String| command += &format!(" {text}");
    if let Some(seq) = args.seq {
        flag(format!("--seq {seq}"));
    }
    if let Some(batch) = args.batch {
        flag(format!("--batch {batch}"));
    }
    if args.recompute {
        flag("--recompute".into());
    }
    if args.update_in_backward {
        flag("--update-in-backward".into());
    }
    if let Some(weights) = &args.weights {
        flag(format!("--weights {}", word(weights)));
    }
    if let Some(precision) = &args.precision {
        flag(format!("--precision {}", word(precision)));
    }
    if let Some(state) = &args.optimizer_state {
        flag(format!("--optimizer-state {}", word(state)));
    }
    if let Some(kind) = &args.optimizer {
        flag(format!("--optimizer {}", word(kind)));
    }
    for assignment in &args.set {
        flag(format!("--set '{assignment}'"));
    }
    command + &args.device.flags()
}
