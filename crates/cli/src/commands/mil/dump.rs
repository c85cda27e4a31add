//! `rustane mil dump`: the text of the training programs, for any model.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ane_bridge::Chip;
use anyhow::Context;
use backend_ane::Port;
use backend_ane::kernels::Kernel;
use mil::Program;

use super::plan::{PlanArgs, Planned};
use super::program::{ALL, TEXT, unknown};
use crate::device::{bytes, chip};
use crate::failure::Failure;
use crate::table::Table;

/// Flags of `rustane mil dump`.
#[derive(clap::Args)]
pub struct Args {
    /// A training program, or `all` [default: list them]
    kernel: Option<String>,
    /// Folder for `<kernel>/model.mil` and `<kernel>/weights/weight.bin`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Chip that the programs are cut for
    #[arg(long, default_value = "M4 Max", value_parser = chip)]
    chip: &'static Chip,
    #[command(flatten)]
    plan: PlanArgs,
}

/// Prints or writes.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let planned = args.plan.plan(args.chip)?;
    let kernels = match args.kernel.as_deref() {
        None => {
            list(&planned, args.chip);
            return Ok(ExitCode::SUCCESS);
        }
        Some(ALL) => planned.plan.kernels(),
        Some(name) => vec![Kernel::by_name(name).ok_or_else(|| unknown(name))?],
    };
    if let Some(dir) = &args.out {
        for kernel in kernels {
            let program = planned.program(kernel);
            let folder = dir.join(kernel.name());
            let size = write(&folder, &program)?;
            println!("wrote {} with {} of constants", folder.join(TEXT).display(), bytes(size));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let [kernel] = kernels[..] else {
        let text = format!("`{ALL}` are {} programs; name a folder for them with --out", kernels.len());
        return Err(Failure::Usage(text).into());
    };
    let program = planned.program(kernel);
    println!("{program}");
    let constants: usize = files(&program).map(|(_, file)| file.len()).sum();
    if constants > 0 {
        eprintln!(
            "note: this is the text alone; --out DIR writes it with its {} of constants",
            bytes(constants as u64)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn list(planned: &Planned, chip: &Chip) {
    let mut table = Table::new(["program", "in the plan", "inputs", "outputs"]);
    let kernels = planned.plan.kernels();
    for &kernel in Kernel::ALL {
        let packing = kernel.packing(&planned.plan.dims(&planned.dims, kernel), &planned.plan.choices);
        let ports = |ports: &[Port]| {
            ports
                .iter()
                .map(|p| format!("{} [1, {}, 1, {}]", p.name, p.channels, p.width))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let used = if kernels.contains(&kernel) { "yes" } else { "no" };
        table.row([kernel.name(), used, &ports(&packing.inputs), &ports(&packing.outputs)]);
    }
    println!("{}\ncut for {}\n\n{table}", planned.describe(), chip.name);
}

/// The weight files of a program that hold anything.
fn files(program: &Program) -> impl Iterator<Item = (&str, &[u8])> {
    // A header alone is 64 bytes.
    program.weights.iter().flat_map(|w| w.files()).filter(|(_, file)| file.len() > 64)
}

/// Writes a program and its constants; returns the bytes of the constants.
fn write(folder: &Path, program: &Program) -> anyhow::Result<u64> {
    let mut size = 0;
    let constants = files(program).map(|(path, file)| (path.trim_start_matches("@model_path/"), file));
    let text = program.to_string() + "\n";
    for (path, content) in constants.chain([(TEXT, text.as_bytes())]) {
        let file = folder.join(path);
        if file.exists() {
            let text = format!("{} is there already; name another folder", file.display());
            return Err(Failure::Usage(text).into());
        }
        let context = || format!("cannot write {}", file.display());
        std::fs::create_dir_all(file.parent().unwrap_or(folder)).with_context(context)?;
        std::fs::write(&file, content).with_context(context)?;
        size += if path == TEXT { 0 } else { content.len() as u64 };
    }
    Ok(size)
}
