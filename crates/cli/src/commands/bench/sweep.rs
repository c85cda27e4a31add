//! `rustane bench sweep`: the published training sweep.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use bench::results::{Case, Published, Quantity};
use bench::{SweepProgress, SweepReport, SweepSettings};
use engine::config::{OptimizerState, Precision, WeightFormat};
use model::{ModelConfig, Params};
use serde_json::{Value, json};

use super::output::{Measurement, OutputArgs};
use super::shapes::{Extents, Layers, Shape, memory_line, rule};
use super::{peak_memory, published};
use crate::device::DeviceArgs;
use crate::failure::Failure;

/// Flags of `rustane bench sweep`.
#[derive(clap::Args)]
pub struct Args {
    /// Rules of the run: weights, tokens, optimizer
    #[arg(long, value_enum, default_value_t = Protocol::Published)]
    protocol: Protocol,
    /// Configurations such as 600m-A; any preset [default: 600m-a]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    config: Vec<String>,
    /// All five variants of a scale
    #[arg(long, value_enum, value_name = "SCALE", value_delimiter = ',')]
    scale: Vec<Scale>,
    /// All 25 configurations
    #[arg(long)]
    all: bool,
    /// Configurations to leave out
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    skip: Vec<String>,
    /// A shape of your own: DIM,HIDDEN,LAYERS,SEQ
    #[arg(long, value_name = "SHAPE")]
    shape: Option<Extents>,
    /// Layers that run, of a model that does not fit: a number, or `fit` for as many as memory takes
    #[arg(long, value_name = "N")]
    layers: Option<Layers>,
    /// Updates between the two losses
    #[arg(long, default_value_t = 10, value_name = "N")]
    steps: usize,
    /// Steps after them that are timed; with 0, the updates are
    #[arg(long, default_value_t = 5, value_name = "N")]
    timed: usize,
    /// Recompute activations in the backward pass
    #[arg(long)]
    recompute: bool,
    /// The least memory: products, weights and moments in few bits, updates in the backward pass,
    /// recomputation
    #[arg(long)]
    thrifty: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    /// Numbers of the products.
    fn precision(&self) -> Precision {
        if self.thrifty { Precision::Bf16 } else { Precision::F32 }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Protocol {
    /// That of ncdrone/rustane, from its generator of weights to its learning rates
    Published,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Scale {
    #[value(name = "600m")]
    M600,
    #[value(name = "1b")]
    B1,
    #[value(name = "1.5b")]
    B15,
    #[value(name = "3b")]
    B3,
    #[value(name = "5b")]
    B5,
}

impl Scale {
    const ALL: [Self; 5] = [Self::M600, Self::B1, Self::B15, Self::B3, Self::B5];

    fn names(self) -> impl Iterator<Item = String> {
        let scale = match self {
            Self::M600 => "600m",
            Self::B1 => "1b",
            Self::B15 => "1.5b",
            Self::B3 => "3b",
            Self::B5 => "5b",
        };
        ["a", "b", "c", "d", "e"].into_iter().map(move |variant| format!("{scale}-{variant}"))
    }
}

/// Runs every configuration asked for, one after the other.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Protocol::Published = args.protocol;
    if args.steps + args.timed == 0 {
        return Err(
            Failure::Usage("--steps and --timed are both 0, wanted at least 1 of either".into()).into()
        );
    }
    let shapes = shapes(args)?;
    args.device.check()?;
    let peak = super::peak(args.precision(), args.device.threads())?;
    let mut measurement = args.output.begin("the published training sweep, rebuilt", &args.device)?;
    measurement.protocol(published::PROTOCOL);
    let (mut compared, mut failed) = (false, Vec::new());
    for (number, shape) in shapes.iter().enumerate() {
        if args.output.json && shapes.len() > 1 {
            eprintln!("{} of {}: {}", number + 1, shapes.len(), shape.name);
        }
        match one(args, shape, peak, &mut measurement) {
            Ok(beside_published) => compared |= beside_published,
            // One of several leaves the others to run.
            Err(error) if shapes.len() > 1 => {
                let slice = if does_not_fit(&error) { "; --layers fit runs a slice of it" } else { "" };
                eprintln!("{}: {error:#}{slice}", shape.name);
                failed.push(error);
            }
            Err(error) => return Err(error),
        }
    }
    if failed.len() < shapes.len() {
        measurement.finish()?;
    }
    if compared && !args.output.json {
        println!("{}\nPublished figures: {}.", published::WHY, published::SOURCE);
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let unfit = failed.iter().filter(|error| does_not_fit(error)).count();
    let (ran, all) = (shapes.len() - failed.len(), shapes.len());
    eprintln!(
        "{ran} of {all} configurations ran; {unfit} do not fit into memory, {} failed",
        failed.len() - unfit
    );
    Ok(match (unfit, ran) {
        (unfit, 0) if unfit == all => ExitCode::from(4),
        (unfit, _) if unfit == failed.len() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn does_not_fit(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Failure>(), Some(Failure::DoesNotFit(_)))
}

fn shapes(args: &Args) -> anyhow::Result<Vec<Shape>> {
    let mut names = args.config.clone();
    let scales = if args.all { &Scale::ALL[..] } else { &args.scale };
    names.extend(scales.iter().flat_map(|scale| scale.names()));
    if names.is_empty() && args.shape.is_none() {
        names.push("600m-a".into());
    }
    for skipped in &args.skip {
        let before = names.len();
        names.retain(|name| !name.eq_ignore_ascii_case(skipped));
        if names.len() == before {
            let text = format!("--skip {skipped}: it is not among {}", names.join(", "));
            return Err(Failure::Usage(text).into());
        }
    }
    let custom = args.shape.map(Shape::custom);
    if names.is_empty() && custom.is_none() {
        return Err(Failure::Usage("--skip leaves no configuration; name fewer".into()).into());
    }
    names.iter().map(|name| Shape::preset(name)).chain(custom).collect()
}

/// Runs one configuration; whether there were published losses beside its own.
fn one(args: &Args, shape: &Shape, peak: f64, measurement: &mut Measurement<'_>) -> anyhow::Result<bool> {
    let whole = shape.config.model.layers;
    let layers = match args.layers {
        None => whole,
        Some(Layers::Count(n)) => n.min(whole),
        Some(Layers::Fit) => shape.fit(&args.device)?,
    };
    let mut config = shape.slice(layers);
    config.train.recompute = args.recompute;
    if args.thrifty {
        config.train.recompute = true;
        config.train.update_in_backward = true;
        config.train.precision = Precision::Bf16;
        config.train.weights = WeightFormat::Bf16;
        config.optimizer.state = OptimizerState::Q8;
    }
    let beside = if layers == whole && args.steps == 10 { published::losses(&shape.name) } else { None };
    let times = if layers == whole { published::times(&shape.name) } else { None };
    peak_memory::reset();
    let begin = Instant::now();
    let trainer = args.device.trainer(&config)?;
    let counts = trainer.later_counts();
    let (ledger, predicted) = (trainer.later_ledger(), trainer.memory().map(|n| n + largest(&config.model)));
    let settings = SweepSettings {
        seq: config.train.seq,
        steps: args.steps,
        timed: args.timed,
        threads: args.device.threads(),
    };
    if !args.output.json {
        println!(
            "{0}\n{1}\n{2}, published protocol\n{0}",
            rule(),
            shape.headline(layers),
            args.device.label()
        );
        print!("[1/4] Drawing weights... ");
        let _ = std::io::stdout().flush();
    }
    let mut before = 0.0;
    let report = bench::sweep(trainer.backend, &settings, &mut |progress| {
        if args.output.json {
            return;
        }
        match progress {
            SweepProgress::Ready => {
                print!("{:.1}s\n[2/4] Forward pass... ", begin.elapsed().as_secs_f64());
            }
            SweepProgress::Before(loss) => {
                before = loss;
                let theirs = beside.map_or(String::new(), |(loss, _)| format!(" (published: {loss})"));
                print!("loss={loss:.4}{theirs}\n[3/4] Training {} steps... ", args.steps);
            }
            SweepProgress::Step(_) => {}
            SweepProgress::After(loss) => {
                let theirs = beside.map_or(String::new(), |(before, after)| {
                    format!(" (published: {before} → {after}, delta={:+.4})", after - before)
                });
                let timed = if args.timed == 0 { "these".into() } else { args.timed.to_string() };
                print!(
                    "{before:.4} → {loss:.4} (delta={:+.4}){theirs}\n[4/4] Timing {timed} steps... ",
                    loss - before
                );
            }
        }
        let _ = std::io::stdout().flush();
    })?;
    let measured = peak_memory::read();
    if !(report.loss_before.is_finite() && report.loss_after.is_finite()) {
        anyhow::bail!("{}: the loss is {} after {}", shape.name, report.loss_after, report.loss_before);
    }
    let mut cases = cases(args, shape, layers, &report, peak)?;
    for case in &mut cases {
        case.dispatches = counts();
        case.memory_peak_bytes = measured;
    }
    cases[0].details["memory_predicted_bytes"] = json!(predicted);
    measurement.add(cases)?;
    if !args.output.json {
        print!(
            "{:.0}ms/step (fwd={:.0} head={:.0} bwd={:.0} upd={:.0}) = {:.1} tok/s",
            report.ms_per_step,
            report.ms_forward,
            report.ms_head,
            report.ms_backward,
            report.ms_update,
            report.tok_per_s
        );
        match times.and_then(|row| row.step) {
            Some([.., step]) => {
                println!(" (published, M4 Max: {step:.0}ms, {:.0} tok/s)", report.seq as f64 / step * 1e3)
            }
            None => println!(),
        }
        let gb = published::training_gb(&shape.name).filter(|_| layers == whole);
        let gb = gb.map_or(String::new(), |gb| format!(" (published estimate: {gb:.0} GB)"));
        println!("      {}{gb}", memory_line(measured, predicted));
        println!(
            "      {:.1} GFLOP/s = {:.0} % of the {peak:.0} GFLOP/s peak of {} measured now",
            report.gflop_per_s,
            100.0 * report.gflop_per_s / peak,
            if args.thrifty { "bf16" } else { "f32" }
        );
        if let Some(line) = ledger() {
            println!("      {line}");
        }
    }
    Ok(beside.is_some())
}

/// Bytes of the largest tensor, which is drawn beside the backend.
fn largest(model: &ModelConfig) -> u64 {
    Params::new(model).iter().map(|p| 4 * p.len() as u64).max().unwrap_or(0)
}

/// The step and both losses. Figures of others stand beside the whole model only.
fn cases(
    args: &Args,
    shape: &Shape,
    layers: usize,
    report: &SweepReport,
    peak: f64,
) -> anyhow::Result<Vec<Case>> {
    let whole = layers == shape.config.model.layers;
    let device = args.device.label();
    let mut name = format!("sweep/{}", shape.name);
    if !whole {
        name += &format!("/layers{layers}");
    }
    if args.thrifty {
        name += "/thrifty";
    }
    let theirs = |value: Option<f64>| {
        value.filter(|_| whole).map(|value| Published { value, source: published::SOURCE.into() })
    };
    let losses = published::losses(&shape.name);
    let step = published::times(&shape.name).and_then(|row| row.step).map(|[.., step]| step);
    let after = format!("loss after {} steps", args.steps);
    let one = |what: &str, value: f32, published: Option<f64>| {
        let mut case = Case::new(&*name, &*device, Quantity::loss(what), vec![value.into()]);
        case.published = theirs(published);
        case
    };
    let before = one("loss before", report.loss_before, losses.map(|l| l.0));
    let after = one(&after, report.loss_after, losses.map(|l| l.1).filter(|_| args.steps == 10));
    let mut time = Case::new(&*name, &*device, Quantity::ms("training step"), report.ms.clone());
    time.published = theirs(step);
    let mut details = serde_json::to_value(report)?;
    let extra = json!({
        "protocol": "published", "config": shape.name, "model": shape.config.model, "layers": layers,
        "layers_of_model": shape.config.model.layers, "steps": args.steps, "thrifty": args.thrifty,
        "peak_gflop_per_s": peak, "peak_share": report.gflop_per_s / peak,
        "published_estimated_gb": published::training_gb(&shape.name), "published_difference": published::WHY,
    });
    if let (Some(details), Value::Object(extra)) = (details.as_object_mut(), extra) {
        details.extend(extra);
    }
    time.details = details;
    Ok(vec![time, before, after])
}
