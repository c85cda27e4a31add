//! Writing: weights, keys and values, by context and sequences.

use std::process::ExitCode;

use backend::Footprint;
use backend_cpu::{CpuInfer, Plan};
use bench::plan::{Course, largest};
use metal_decode::{Memory, Settings};
use model::ModelConfig;
use serde_json::json;

use super::target::Target;
use super::{Args, limit, show};
use crate::commands::bench::peak_memory;
use crate::device::{DeviceArgs, bytes};
use crate::failure::Failure;
use crate::format::Held;
use crate::gpu;

/// Plans, prints, and says by the exit code whether it fits.
pub fn run(args: &Args, target: &Target) -> anyhow::Result<ExitCode> {
    let model = &target.config.model;
    let context = args.context.unwrap_or(model.max_seq);
    if !(1..=model.max_seq).contains(&context) || args.sequences == 0 {
        let text = format!(
            "--context {context} with --sequences {}: wanted 1 to the {} positions of the model, and 1 or more",
            args.sequences, model.max_seq
        );
        return Err(Failure::Usage(text).into());
    }
    let of = |context, sequences| course(args, target, context, sequences);
    let (course, limit) = (of(context, args.sequences)?, limit(args));
    let most = |limit: u64| largest(1 << 16, |n| Ok::<_, anyhow::Error>(of(context, n)?.bytes() <= limit));
    let sequences = limit.map(most).transpose()?.flatten();
    let longest = |limit: u64| {
        largest(model.max_seq, |n| Ok::<_, anyhow::Error>(of(n, args.sequences)?.bytes() <= limit))
    };
    let positions = limit.map(longest).transpose()?.flatten();
    let label = label(args)?;
    let command = target.dir.as_ref().map(|dir| {
        let format = args.format.map_or(String::new(), |f| format!(" --format {f}"));
        format!("rustane generate {dir}{format}{}", args.device.flags())
    });
    if args.json {
        let mut object = show::course_json(&course, limit);
        let extra = json!({
            "what": "serving", "model": target.name, "config": model, "params": model.param_count(),
            "device": label, "context": context, "sequences": args.sequences, "most_sequences": sequences,
            "longest_context": positions, "command": command,
        });
        show::merge(&mut object, extra);
        println!("{object}");
    } else {
        println!(
            "{}: {:.1}M parameters, {} × {context} positions, {label}\n\n{}\n{}",
            target.name,
            model.param_count() as f64 / 1e6,
            args.sequences,
            show::course_text(&course),
            show::verdict(course.bytes(), limit)
        );
        let steady = |n| anyhow::Ok(of(context, n)?.phases().last().map_or(0, |phase| phase.total()));
        println!("  a sequence more takes {}", bytes(steady(2)?.saturating_sub(steady(1)?)));
        let said = |n: Option<usize>| n.map_or("none".into(), |n| n.to_string());
        if limit.is_some() {
            println!("  most sequences of {context} positions: {}", said(sequences));
            println!("  most positions of {} sequences: {}", args.sequences, said(positions));
        }
        if let Some(command) = command {
            println!("\nrun:  {command}");
        }
    }
    let fits = limit.is_none_or(|limit| course.bytes() <= limit);
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

fn label(args: &Args) -> anyhow::Result<String> {
    let format = args.format;
    Ok(match gpu::api(args.device.device) {
        Some(api) => format!("{api:?}, {}", Held::on_gpu(format)?),
        None if args.device.is_cpu()? => format!("{}, {}", args.device.label(), format.unwrap_or(Held::F32)),
        None => args.device.label(),
    })
}

fn course(args: &Args, target: &Target, context: usize, sequences: usize) -> anyhow::Result<Course> {
    let model = &target.config.model;
    if gpu::api(args.device.device).is_some() {
        let format = Held::on_gpu(args.format)?;
        let settings = Settings { sequences, context, ..Settings::new(format) };
        let memory = Memory::plan(model, &settings);
        let mut f = Footprint::default();
        f.add("weights", memory.weights);
        f.add("keys and values", memory.cache);
        f.add("activations", memory.activations);
        return Ok(Course::steady("on the GPU", f));
    }
    if let (false, Some(format)) = (args.device.is_cpu()?, args.format) {
        let text = format!("--format {format} is of the CPU and of GPUs: --device cpu, metal or vulkan");
        return Err(Failure::Usage(text).into());
    }
    let program = peak_memory::resident().unwrap_or(0);
    on_cpu(model, &args.device, args.format, (context, sequences), program)
}

/// Writing on the CPU: the weights as they are read stand beside those of the writer for a moment.
pub fn on_cpu(
    model: &ModelConfig,
    device: &DeviceArgs,
    format: Option<Held>,
    (context, sequences): (usize, usize),
    program: u64,
) -> anyhow::Result<Course> {
    let plan = Plan::new(model.max_seq.min(512)).with_threads(device.threads());
    let plan = plan.with_format(Held::on_cpu(format)?);
    let mut serving = CpuInfer::footprint(model, plan, context, sequences)?;
    serving.add("the program", program);
    let mut loading = Footprint::default();
    for what in ["weights", "weights in few bits"] {
        loading.add(what, serving.of(what));
    }
    loading.add("weights as read from the file", 4 * model.param_count());
    loading.add("the program", program);
    Ok(Course::steady("serving", serving).after("loading", loading))
}
