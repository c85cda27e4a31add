//! `rustane mil run`: one dispatch on the virtual Neural Engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use ane_bridge::{Chip, Device, Executable, Port, Settings, Surface, VirtualAne};
use mil::eval::Arithmetic;
use mil::{Function, TensorType};

use super::plan::demand;
use super::program::{ProgramArgs, plural};
use super::tensors::{Given, Output, Summary, given, random, region, save};
use crate::device::chip;
use crate::failure::{self, Failure};
use crate::settings;
use crate::table::Table;

/// Flags of `rustane mil run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    program: ProgramArgs,
    /// Chip that the virtual Neural Engine stands for
    #[arg(long, default_value = "M4 Max", value_parser = chip)]
    chip: &'static Chip,
    /// Products on the hardware's grid, or through f32 sums: exact or fast
    #[arg(long, default_value = "fast", value_parser = arithmetic, value_name = "HOW")]
    arithmetic: Arithmetic,
    /// Numbers of an input, from a safetensors file; repeatable [default: random]
    #[arg(long, value_parser = given, value_name = "NAME=FILE")]
    input: Vec<Given>,
    /// Decides random inputs
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Random inputs lie between this and its negative
    #[arg(long, default_value_t = 1.0, value_parser = size, value_name = "X")]
    size: f32,
    /// Write the outputs to a safetensors file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn arithmetic(text: &str) -> Result<Arithmetic, String> {
    match text {
        "exact" => Ok(Arithmetic::Exact),
        "fast" => Ok(Arithmetic::Fast),
        _ => Err("wanted exact or fast".into()),
    }
}

fn size(text: &str) -> Result<f32, String> {
    let held = text.parse().ok().filter(|x: &f32| x.is_finite() && *x >= 0.0);
    held.ok_or_else(|| "wanted a number of at least 0".into())
}

/// Runs once.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(out) = &args.out {
        failure::absent("out", out)?;
    }
    let loaded = args.program.load(args.chip)?;
    let verified = loaded.verified(args.chip)?;
    let what = format!("the tensors of {}", loaded.name);
    let work = verified.functions.iter().map(|f| mil::cost(f).working_set_bytes).max().unwrap_or(0);
    demand(work, &what, "use a smaller program")?;
    let device = VirtualAne::new(Settings { arithmetic: args.arithmetic, ..Settings::of(args.chip) });
    let executable = device.compile(&loaded.name, &verified)?;
    // A device compiles programs of one function only.
    let function = &verified.functions[0];
    known(&args.input, executable.inputs())?;

    let surfaces = |ports: &[Port]| -> anyhow::Result<Vec<Surface>> {
        ports.iter().map(|port| Ok(device.surface(port.layout)?)).collect()
    };
    let (inputs, outputs) = (surfaces(executable.inputs())?, surfaces(executable.outputs())?);
    for (i, (port, surface)) in executable.inputs().iter().zip(&inputs).enumerate() {
        let values = match args.input.iter().find(|given| given.name == port.name) {
            Some(given) => given.read(port, ty(function, port))?,
            None => random(args.seed, i as u64, args.size, port),
        };
        surface.write()?.write(&region(port), &values)?;
    }
    executable.run(&named(executable.inputs(), &inputs), &named(executable.outputs(), &outputs))?;

    let mut results = Vec::new();
    for (port, surface) in executable.outputs().iter().zip(&outputs) {
        let mut values = vec![0.0; region(port).elements()];
        surface.read()?.read(&region(port), &mut values)?;
        results.push(Output { port: port.clone(), ty: ty(function, port).clone(), values });
    }
    report(args, &device, &results);
    if let Some(file) = &args.out {
        let metadata = [
            ("program", loaded.name),
            ("device", device.label()),
            ("arithmetic", how(args.arithmetic).into()),
            ("seed", args.seed.to_string()),
        ];
        let metadata: BTreeMap<_, _> = metadata.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        save(file, &metadata, &results)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn how(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::Exact => "exact",
        Arithmetic::Fast => "fast",
    }
}

fn ty<'a>(function: &'a Function, port: &Port) -> &'a TensorType {
    let id = function.find(&port.name).expect("ports are values of the program");
    &function.value(id).ty
}

fn named<'a>(ports: &'a [Port], surfaces: &'a [Surface]) -> Vec<(&'a str, &'a Surface)> {
    ports.iter().map(|p| p.name.as_str()).zip(surfaces).collect()
}

/// Every given tensor belongs to one input.
fn known(given: &[Given], ports: &[Port]) -> Result<(), Failure> {
    for (i, one) in given.iter().enumerate() {
        let names = || ports.iter().map(|p| p.name.as_str());
        if !names().any(|name| name == one.name) {
            let hint = settings::nearest(&one.name, names());
            let hint = hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
            let all: Vec<_> = names().collect();
            return Err(Failure::Usage(format!(
                "--input: there is no input `{}`, the program has {}{hint}",
                one.name,
                all.join(", ")
            )));
        }
        if given[..i].iter().any(|other| other.name == one.name) {
            return Err(Failure::Usage(format!("--input {} is given twice; give it once", one.name)));
        }
    }
    Ok(())
}

fn report(args: &Args, device: &VirtualAne, outputs: &[Output]) {
    let mut table = Table::new(["output", "type", "min", "max", "mean", "rms", "not finite", "checksum"]);
    for output in outputs {
        let summary = Summary::of(&output.values);
        let number = |x: f64| format!("{x:.6}");
        let end = |end: Option<f32>| end.map_or("-".into(), |x| number(x.into()));
        table.row([
            output.port.name.clone(),
            output.ty.to_string(),
            end(summary.range.map(|r| r.0)),
            end(summary.range.map(|r| r.1)),
            number(summary.mean),
            number(summary.rms),
            summary.not_finite.to_string(),
            summary.checksum,
        ]);
    }
    let total = device.ledger().total();
    let stats = total.stats;
    println!("{}, {} arithmetic\n\n{table}", device.label(), how(args.arithmetic));
    let share = 100.0 * stats.flushed as f64 / stats.products.max(1) as f64;
    println!(
        "{} products, {} below the grid ({share:.2} %{}), {} overflow{}, {} subnormal{}",
        stats.products,
        stats.flushed,
        match args.arithmetic {
            Arithmetic::Exact => "",
            Arithmetic::Fast => ", kept by the fast arithmetic",
        },
        stats.overflows,
        plural(stats.overflows as usize),
        stats.subnormals,
        plural(stats.subnormals as usize),
    );
    println!(
        "{:.3} ms here; a {} would take about {:.3} ms",
        total.real.as_secs_f64() * 1e3,
        device.chip().name,
        total.predicted_s * 1e3
    );
}
