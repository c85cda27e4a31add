//! `rustane mil cost`: work of a program, and its time on Apple's chips by the analytic clock.

use std::process::ExitCode;

use ane_bridge::chip::Evidence;
use ane_bridge::{Chip, clock};
use mil::Function;
use mil::verify::Diagnostic;

use super::program::{ALL, Loaded, ProgramArgs};
use crate::device;
use crate::table::Table;

/// Flags of `rustane mil cost`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    program: ProgramArgs,
    /// A chip, or `all`; repeatable
    #[arg(long, default_value = ALL, value_parser = chips)]
    chip: Vec<Chips>,
}

#[derive(Clone, Copy)]
enum Chips {
    All,
    One(&'static Chip),
}

fn chips(text: &str) -> Result<Chips, String> {
    match text {
        ALL => Ok(Chips::All),
        name => device::chip(name).map(Chips::One),
    }
}

/// Counts and predicts.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let named = |chip: &&Chip| {
        args.chip.iter().any(|c| match c {
            Chips::All => true,
            Chips::One(one) => one == chip,
        })
    };
    let chips: Vec<&'static Chip> = Chip::ALL.iter().filter(named).collect();
    // One cut for all: that of the chip which takes least.
    let strictest = chips.iter().min_by_key(|chip| chip.limits().spatial).copied().unwrap_or(Chip::M4_MAX);
    let programs = args.program.load_all(strictest)?;
    let mut work =
        Table::new(["program", "MFLOP", "of products", "MB in", "MB out", "MB constant", "ops", "depth"]);
    let mut times = vec![Vec::new(); chips.len()];
    let mut refusals = Vec::new();
    let mut names = Vec::new();
    for loaded in &programs {
        let mut functions: Option<Vec<Function>> = None;
        let mut refused: Vec<(&Chip, Vec<Diagnostic>)> = Vec::new();
        let mut taken = Vec::new();
        for chip in &chips {
            match loaded.verify(chip) {
                Ok(verified) => {
                    taken.push(true);
                    functions.get_or_insert_with(|| verified.into_program().functions);
                }
                Err(found) => {
                    taken.push(false);
                    refused.push((chip, found));
                }
            }
        }
        let Some(functions) = functions else {
            let (chip, found) = &refused[0];
            return Err(loaded.broken(chip, found).into());
        };
        refusals.extend(refusal(loaded, &refused));
        for function in &functions {
            let name = match functions.len() {
                1 => loaded.name.clone(),
                _ => format!("{}/{}", loaded.name, function.name),
            };
            work.row(counts(&name, function));
            names.push(name);
            for ((chip, times), taken) in chips.iter().zip(&mut times).zip(&taken) {
                let us = clock::program_s(chip, function) * 1e6;
                times.push(if *taken { format!("{us:.0}") } else { "-".into() });
            }
        }
    }
    print!("{work}\npredicted µs of one dispatch\n\n");
    let heading = ["chip".to_owned()].into_iter().chain(names).chain(["speeds".to_owned()]);
    let mut table = Table::new(heading);
    for (chip, times) in chips.iter().zip(times) {
        let speeds = match chip.evidence {
            Evidence::Fitted => "fitted to published runs",
            Evidence::Measured => "partly measured",
            Evidence::Scaled => "scaled from a relative",
        };
        table.row([chip.name.to_owned()].into_iter().chain(times).chain([speeds.to_owned()]));
    }
    print!("{table}");
    refusals.iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::SUCCESS)
}

fn counts(name: &str, function: &Function) -> [String; 8] {
    let cost = mil::cost(function);
    let mega = |n: u64| format!("{:.3}", n as f64 / 1e6);
    [
        name.to_owned(),
        mega(cost.flops),
        mega(cost.mac_flops),
        mega(cost.input_bytes),
        mega(cost.output_bytes),
        mega(cost.weight_bytes),
        cost.ops.to_string(),
        cost.depth.to_string(),
    ]
}

/// Who does not take a program, with the first broken rule.
fn refusal(loaded: &Loaded, refused: &[(&Chip, Vec<Diagnostic>)]) -> Option<String> {
    let (_, found) = refused.first()?;
    let first = found.iter().find(|d| d.severity == mil::verify::Severity::Error)?;
    let names: Vec<_> = refused.iter().map(|(chip, _)| chip.name).collect();
    Some(format!("- not on {}: {}", names.join(", "), loaded.line(first)))
}
