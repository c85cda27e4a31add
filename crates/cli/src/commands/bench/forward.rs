//! `rustane bench forward`: the published forward passes.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use backend_cpu::measure::Numbers;
use backend_cpu::probe;
use bench::results::{Case, Published, Quantity};
use bench::{ForwardProgress, ForwardReport, ForwardSettings};
use model::quant::Format;
use serde_json::{Value, json};

use super::output::{Measurement, OutputArgs};
use super::shapes::{Extents, Shape, memory_line, rule};
use super::{peak_memory, published};
use crate::device::{DeviceArgs, bytes};
use crate::failure::Failure;
use crate::format::{Held, held};

/// Flags of `rustane bench forward`.
#[derive(clap::Args)]
pub struct Args {
    /// Models: 5b, 7b, 10b, 13b, 15b, 20b, 25b, 30b, or any preset [default: 7b]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    config: Vec<String>,
    /// 5b to 20b
    #[arg(long)]
    ladder: bool,
    /// 25b and 30b
    #[arg(long)]
    ceiling: bool,
    /// A shape of your own: DIM,HIDDEN,LAYERS,SEQ
    #[arg(long, value_name = "SHAPE")]
    shape: Option<Extents>,
    /// Layers that run, instead of all
    #[arg(long, value_name = "N")]
    layers: Option<std::num::NonZeroUsize>,
    /// How the weights of the layer in memory are held: f32, or on the CPU bf16, int8 (q8_0) or int4 (q4_0), which
    /// its kernels for that format multiply
    #[arg(long, default_value = "f32", value_name = "FORMAT", value_parser = weights)]
    weights: Held,
    /// Passes before the timed ones
    #[arg(long, default_value_t = 1, value_name = "N")]
    warmup: usize,
    /// Timed passes
    #[arg(long, default_value_t = 3, value_name = "N")]
    timed: usize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Runs every model asked for, one after the other.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.timed == 0 {
        return Err(Failure::Usage("--timed is 0, wanted at least 1".into()).into());
    }
    let mut names: Vec<&str> = args.config.iter().map(String::as_str).collect();
    if args.ladder {
        names.extend(["5b", "7b", "10b", "13b", "15b", "20b"]);
    }
    if args.ceiling {
        names.extend(["25b", "30b"]);
    }
    if names.is_empty() && args.shape.is_none() {
        names.push("7b");
    }
    let preset = |name: &&str| -> anyhow::Result<Shape> {
        let name = name.to_lowercase();
        // The ladder's 5B is the sweep's baseline of that size.
        let shape = Shape::preset(if name == "5b" { "5b-a" } else { &name })?;
        Ok(Shape { name, ..shape })
    };
    let shapes: Vec<Shape> =
        names.iter().map(preset).chain(args.shape.map(Shape::custom)).collect::<Result<_, _>>()?;
    args.device.check()?;
    let format = Held::on_cpu(Some(args.weights))?;
    let peak = probe::peak_of_weights(format, args.device.threads()).map_err(backend::Error::from)?;
    let mut measurement = args.output.begin("the published forward passes, rebuilt", &args.device)?;
    measurement.protocol(published::PROTOCOL);
    shapes.iter().try_for_each(|shape| one(args, shape, peak, &mut measurement))?;
    measurement.finish()?;
    if !args.output.json && shapes.iter().any(|shape| published::forward(&shape.name).is_some()) {
        println!("Published figures: {}; its memory is an estimate.", published::SOURCE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The format of that name.
fn weights(name: &str) -> Result<Held, String> {
    match name.to_ascii_lowercase().as_str() {
        "int8" => Ok(Held::As(Format::Q8_0)),
        "int4" => Ok(Held::As(Format::Q4_0)),
        "f16" => Err("the CPU does not hold weights as f16; wanted f32, bf16, int8 or int4".into()),
        other => held(other).map_err(|_| "wanted f32, bf16, int8 or int4".into()),
    }
}

fn one(
    args: &Args,
    shape: &Shape,
    peak: (Numbers, f64),
    measurement: &mut Measurement<'_>,
) -> anyhow::Result<()> {
    let all = shape.config.model.layers;
    let layers = args.layers.map_or(all, |n| n.get().min(all));
    let whole = shape.slice(layers).model;
    let config = shape.slice(1);
    let theirs = if layers == all { published::forward(&shape.name) } else { None };
    peak_memory::reset();
    let begin = Instant::now();
    let format = Held::on_cpu(Some(args.weights))?;
    let mut engine = args.device.one_block(&config, format)?;
    let settings = ForwardSettings { seq: config.train.seq, warmup: args.warmup, timed: args.timed };
    if !args.output.json {
        let gb = theirs.map_or(String::new(), |(gb, _)| format!(" — published estimate {gb} GB"));
        println!(
            "{0}\n{1}{gb}\n{2}, one layer in memory at a time, weights as {3}\n{0}",
            rule(),
            shape.headline(layers),
            args.device.label(),
            args.weights
        );
        print!(
            "[1/3] Reserving memory for one layer... {:.1}s\n[2/3] Drawing the embedding... ",
            begin.elapsed().as_secs_f64()
        );
        let _ = std::io::stdout().flush();
    }
    let report = bench::forward(&mut *engine.device, &whole, &settings, &mut |progress| {
        if args.output.json || progress != ForwardProgress::Ready {
            return;
        }
        let (seconds, warmup, timed) = (begin.elapsed().as_secs_f64(), args.warmup, args.timed);
        print!("{seconds:.1}s\n[3/3] Forward pass ({warmup} warmup + {timed} timed)... ");
        let _ = std::io::stdout().flush();
    })?;
    let measured = peak_memory::read();
    if !report.loss.is_finite() {
        anyhow::bail!("{}: the loss is {}", shape.name, report.loss);
    }
    let mut cases = cases(args, shape, &report, peak)?;
    for case in &mut cases {
        case.dispatches = (engine.counts)();
        case.memory_peak_bytes = measured;
    }
    cases[0].details["memory_predicted_bytes"] = json!(engine.memory);
    measurement.add(cases)?;
    if args.output.json {
        return Ok(());
    }
    print!("{:.0}ms (loss={:.4})", report.ms_forward, report.loss);
    let ms = published::times(&format!("fwd-{}", shape.name))
        .filter(|_| theirs.is_some())
        .map(|row| row.forward_ms);
    let loss = theirs.and_then(|(_, loss)| loss).map_or(String::new(), |loss| format!(", loss={loss}"));
    match ms {
        Some(ms) => println!(" (published, M4 Max: {ms:.0}ms{loss})"),
        None => println!(),
    }
    let rounded = match args.weights {
        Held::F32 => String::new(),
        format => format!(" and rounded to {format}"),
    };
    println!("      and {:.0}ms in which the weights of each layer were drawn{rounded}", report.ms_weights);
    let whole_bytes = bytes(4 * report.params);
    println!("      {}; the weights alone are {whole_bytes} in f32", memory_line(measured, engine.memory));
    println!(
        "      {:.1} tok/s, {:.1} GFLOP/s = {:.0} % of the {:.0} GFLOP/s peak of {} measured now",
        report.tok_per_s,
        report.gflop_per_s,
        100.0 * report.gflop_per_s / peak.1,
        peak.1,
        word(peak.0)
    );
    if let Some(line) = (engine.ledger)() {
        println!("      {line}");
    }
    Ok(())
}

/// What products compute with.
fn word(numbers: Numbers) -> &'static str {
    match numbers {
        Numbers::F32 | Numbers::Parts => "f32",
        Numbers::Bf16 => "bf16",
        Numbers::Int8 => "int8",
    }
}

/// The pass and its loss. Figures of others stand beside the whole model only.
fn cases(
    args: &Args,
    shape: &Shape,
    report: &ForwardReport,
    (numbers, peak): (Numbers, f64),
) -> anyhow::Result<Vec<Case>> {
    let all = shape.config.model.layers;
    let theirs = published::forward(&shape.name).filter(|_| report.layers == all);
    let figure =
        |value: Option<f64>| value.map(|value| Published { value, source: published::SOURCE.into() });
    let ms = published::times(&format!("fwd-{}", shape.name)).map(|row| row.forward_ms);
    let mut name = format!("forward/{}", shape.name);
    if report.layers < all {
        name += &format!("/layers{}", report.layers);
    }
    if args.weights != Held::F32 {
        name += &format!("/{}", args.weights);
    }
    let device = args.device.label();
    let mut time = Case::new(&*name, &*device, Quantity::ms("forward pass"), report.ms.clone());
    time.published = figure(ms.filter(|_| theirs.is_some()));
    let mut loss = Case::new(&*name, &*device, Quantity::loss("loss"), vec![report.loss.into()]);
    loss.published = figure(theirs.and_then(|(_, loss)| loss));
    let mut details = serde_json::to_value(report)?;
    let extra = json!({
        "protocol": "published", "config": shape.name, "model": shape.config.model, "layers_of_model": all,
        "warmup": args.warmup, "weights": args.weights.to_string(), "peak_gflop_per_s": peak,
        "peak_of": word(numbers), "peak_share": report.gflop_per_s / peak, "published_estimated_gb": theirs.map(|(gb, _)| gb),
    });
    if let (Some(details), Value::Object(extra)) = (details.as_object_mut(), extra) {
        details.extend(extra);
    }
    time.details = details;
    Ok(vec![time, loss])
}
