//! Two steps of a plan on random tokens: the memory at the peak beside the prediction.

use std::process::ExitCode;

use backend::{Slot, Tokens, Train, forward_backward};
use bench::plan::Course;
use model::{Params, TokenId, Weights};
use serde_json::json;

use super::target::Target;
use super::{Args, show};
use crate::commands::bench::peak_memory;
use crate::device::bytes;
use crate::failure::Failure;

/// Predicts, runs, compares.
pub fn run(args: &Args, target: &Target) -> anyhow::Result<ExitCode> {
    let config = &target.config;
    args.device.check()?;
    let Some(program) = peak_memory::resident() else {
        let text = "this system does not tell a process its memory at the peak; --measure works on Linux";
        return Err(Failure::NoDevice(text.into()).into());
    };
    let course = Course::training(&args.device.footprint(config)?, &config.model, program);
    peak_memory::reset();
    let mut backend = args.device.trainer(config)?.backend;
    let weights = Weights::init(&config.model, config.train.seed);
    for p in &Params::new(&config.model) {
        backend.write(p.id, Slot::Weight, weights.get(p.id))?;
    }
    drop(weights);
    let tokens = config.train.seq * config.train.batch;
    // A multiplicative sequence through the vocabulary: tokens that differ.
    let token = |i: usize| TokenId(((i as u64 * 2_654_435_761) >> 7) as u32 % config.model.vocab as u32);
    let ids: Vec<TokenId> = (0..tokens).map(token).collect();
    let targets: Vec<TokenId> = (1..=tokens).map(token).collect();
    let mut losses = Vec::new();
    for step in 0..2 {
        let update = engine::optim::update(&config.optimizer, step, 100, 1);
        backend.announce(&update, 0.0)?;
        let batch = Tokens { ids: &ids, seq: config.train.seq };
        losses.push(forward_backward(&mut backend, batch, &targets)?);
        backend.update(&update)?;
    }
    let measured = peak_memory::read().unwrap_or(0);
    let error = course.bytes() as f64 / measured as f64 - 1.0;
    if args.json {
        let mut object = show::course_json(&course, None);
        let extra = json!({
            "what": "measured", "model": target.name, "device": args.device.label(), "measured_bytes": measured,
            "error": error, "losses": losses,
        });
        show::merge(&mut object, extra);
        println!("{object}");
    } else {
        println!("{}", show::course_text(&course));
        println!(
            "predicted {} at the peak ({}), measured {}: {:+.1} %",
            bytes(course.bytes()),
            course.peak().name,
            bytes(measured),
            100.0 * error
        );
    }
    Ok(ExitCode::SUCCESS)
}
