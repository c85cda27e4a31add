//! `rustane runs show`: everything about one run.

use std::time::Duration;

use engine::RunConfig;
use serde_json::{Value, json};

use super::run::{Run, Step};
use super::{ago, count, number};
use crate::device::bytes;
use crate::progress::duration;
use crate::table::Table;

/// Rows of the curve that are printed.
const ROWS: usize = 8;

/// Prints the run.
pub fn show(run: &Run, as_json: bool) {
    if as_json {
        println!("{}", serde_json::to_string_pretty(&object(run)).expect("a JSON value is JSON"));
    } else {
        print(run);
    }
}

fn print(run: &Run) {
    let total = run.total().map_or("?".into(), |total| total.to_string());
    println!("run        {}, {}, last written {} ago", run.dir.display(), run.activity.name(), ago(run.age));
    println!("steps      {} of {total}", run.step());
    if let Some(last) = run.metrics.steps.last() {
        let time = duration(Duration::from_secs_f64(last.seconds.clamp(0.0, 1e12)));
        let speed = number(run.metrics.median_tok_per_s(), 0);
        println!("tokens     {} in {time}, {speed} tok/s (median)", last.tokens);
        println!("loss       {:.4}, {:.4} on average of late", last.loss, last.ema);
    }
    if let Some(bpb) = run.metrics.best_bpb() {
        println!("val_bpb    {bpb:.4} at best");
    }
    if run.metrics.mishaps > 0 {
        println!("mishaps    {} batches left out or returns to a checkpoint", run.metrics.mishaps);
    }
    if let Some(config) = &run.config {
        let model = &config.model;
        println!(
            "model      {} parameters, {} layers of {} channels, vocabulary {}",
            count(model.param_count()),
            model.layers,
            model.dim,
            model.vocab
        );
        let paths: Vec<String> = config.data.path.iter().map(|p| p.display().to_string()).collect();
        let from = if paths.is_empty() { "the built-in stories".into() } else { paths.join(", ") };
        let counts = run.state.as_ref().map_or(String::new(), |state| {
            let data = &state.data;
            format!(": {} tokens to train on, {} to validate on", data.train_tokens, data.val_tokens)
        });
        println!("data       {from}{counts}");
    }
    if !run.metrics.steps.is_empty() {
        println!("\n{}", curve(run).to_string().trim_end());
    }
    if !run.checkpoints.is_empty() {
        let mut table = Table::new(["checkpoint", "size"]);
        for checkpoint in &run.checkpoints {
            table.row([checkpoint.dir.display().to_string(), bytes(checkpoint.bytes)]);
        }
        println!("\n{}", table.to_string().trim_end());
    }
    if let Some((step, text)) = &run.metrics.sample {
        println!("\nsample of step {step}\n    {}", text.replace('\n', "\n    "));
    }
    if let Some(config) = &run.config {
        let settings = toml::to_string(config).expect("settings are TOML");
        println!("\nsettings\n{}", settings.trim_end());
    }
}

/// A few steps from the first to the last, evenly spaced.
fn curve(run: &Run) -> Table {
    let steps = &run.metrics.steps;
    let mut table = Table::new(["step", "tokens", "loss", "average", "val_bpb", "lr"]);
    let last = steps.len() - 1;
    let mut shown: Vec<usize> = (0..ROWS).map(|row| row * last / (ROWS - 1)).collect();
    shown.dedup();
    for &Step { step, tokens, loss, ema, lr, .. } in shown.into_iter().map(|i| &steps[i]) {
        table.row([
            step.to_string(),
            count(tokens),
            format!("{loss:.4}"),
            format!("{ema:.4}"),
            number(run.metrics.eval_at(step).map(|e| e.val_bpb), 4),
            format!("{lr:.2e}"),
        ]);
    }
    table
}

fn object(run: &Run) -> Value {
    let last = run.metrics.steps.last();
    json!({
        "name": run.name,
        "dir": run.dir,
        "state": run.activity,
        "step": run.step(),
        "total": run.total(),
        "tokens": last.map(|s| s.tokens),
        "seconds": last.map(|s| s.seconds),
        "loss": last.map(|s| s.loss),
        "ema": last.map(|s| s.ema),
        "best_bpb": run.metrics.best_bpb(),
        "tok_per_s": run.metrics.median_tok_per_s(),
        "mishaps": run.metrics.mishaps,
        "params": run.config.as_ref().map(|config| config.model.param_count()),
        "data": run.state.as_ref().map(|state| &state.data),
        "evals": run.metrics.evals,
        "checkpoints": run.checkpoints,
        "sample": run.metrics.sample.as_ref().map(|(step, text)| json!({"step": step, "text": text})),
        "settings": run.config.as_ref().map(settings),
    })
}

/// Through text: there, numbers of single precision are short.
fn settings(config: &RunConfig) -> Value {
    let text = serde_json::to_string(config).expect("settings are JSON");
    serde_json::from_str(&text).expect("what was written can be read")
}
