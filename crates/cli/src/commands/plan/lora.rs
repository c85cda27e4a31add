//! Fine-tuning by low-rank adapters: an estimate, since nothing here trains them yet.

use std::process::ExitCode;

use bench::plan::{Course, largest};
use engine::RunConfig;
use serde_json::json;

use super::target::Target;
use super::train::MOST_SEQUENCES;
use super::{Args, limit, show};
use crate::commands::bench::peak_memory;
use crate::device::bytes;
use crate::failure::Failure;

const ESTIMATE: &str = "an estimate: rustane does not train LoRA yet, so there is no command to run";

/// Plans, prints, and says by the exit code whether it would fit.
pub fn run(args: &Args, target: &Target) -> anyhow::Result<ExitCode> {
    let (device, config) = (&args.device, &target.config);
    if device.planned_chip()?.is_some() {
        let text = "--lora counts what the CPU would hold: leave --chip out, and use --device cpu";
        return Err(Failure::Usage(text.into()).into());
    }
    let rank = args.rank.get();
    let widest = config.model.dim.min(config.model.hidden);
    if rank > widest {
        let text =
            format!("--rank {rank} is above the {widest} of the narrowest matrices; wanted 1 to {widest}");
        return Err(Failure::Usage(text).into());
    }
    let program = peak_memory::resident().unwrap_or(0);
    let of = |config: &RunConfig| -> anyhow::Result<Course> {
        let mut steps = device.lora_footprint(config, rank)?;
        steps.add("the program", program);
        let mut loading = backend::Footprint::default();
        loading.add("weights", steps.of("weights"));
        loading.add("weights as read from the file", 4 * config.model.param_count());
        loading.add("the program", program);
        Ok(Course::steady("steps", steps).after("loading", loading))
    };
    let (course, limit) = (of(config)?, limit(args));
    let most = |limit: u64| {
        largest(MOST_SEQUENCES, |batch| {
            let mut config = config.clone();
            config.train.batch = batch;
            anyhow::Ok(of(&config)?.bytes() <= limit)
        })
    };
    let sequences = limit.map(most).transpose()?.flatten();
    // Seven matrices a block, each with `rank` rows of its inputs and of its outputs.
    let m = &config.model;
    let (q, kv) = (m.q_dim(), m.kv_dim());
    let sides = 2 * (m.dim + q) + 2 * (m.dim + kv) + 3 * (m.dim + m.hidden);
    let trained = (rank * m.layers * sides) as u64;
    if args.json {
        let mut object = show::course_json(&course, limit);
        let extra = json!({
            "what": "lora", "estimate": true, "model": target.name, "config": m, "params": m.param_count(),
            "rank": rank, "trained_params": trained, "seq": config.train.seq, "batch": config.train.batch,
            "device": device.label(), "most_sequences": sequences, "command": null,
        });
        show::merge(&mut object, extra);
        println!("{object}");
    } else {
        println!(
            "{}: {:.1}M parameters as they are, {:.2}M in adapters of rank {rank}, {} × {} tokens, {}\n{ESTIMATE}\n\n{}\n{}",
            target.name,
            m.param_count() as f64 / 1e6,
            trained as f64 / 1e6,
            config.train.batch,
            config.train.seq,
            device.label(),
            show::course_text(&course),
            show::verdict(course.bytes(), limit)
        );
        let whole = super::train::course(device, None, config, program)?;
        println!("  training all weights takes {} at the peak", bytes(whole.bytes()));
        if limit.is_some() {
            let said = sequences.map_or("none".into(), |n| n.to_string());
            println!("  most sequences of {} tokens: {said}", config.train.seq);
        }
    }
    let fits = limit.is_none_or(|limit| course.bytes() <= limit);
    Ok(if fits { ExitCode::SUCCESS } else { ExitCode::from(4) })
}
