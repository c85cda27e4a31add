//! A program by the name of a kernel, or from a file with its weights.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use ane_bridge::Chip;
use anyhow::Context;
use backend_ane::kernels::Kernel;
use mil::program::{Arg, Data};
use mil::verify::{Diagnostic, Severity};
use mil::{Program, Verified, Weights, verify};

use super::plan::{PlanArgs, demand};
use crate::failure::Failure;
use crate::settings;

/// Longest text that is read, in bytes.
const MAX_TEXT: u64 = 256 << 20;
/// The text in a folder that `rustane mil dump --out` wrote.
pub const TEXT: &str = "model.mil";
/// What a BLOBFILE's path begins with: the folder of the text.
const FOLDER: &str = "@model_path/";
/// Every kernel of a plan.
pub const ALL: &str = "all";

/// Flags of every command that reads a program.
#[derive(clap::Args)]
pub struct ProgramArgs {
    /// A file, a folder of `rustane mil dump --out`, or a training program by name
    #[arg(value_name = "FILE|KERNEL")]
    program: String,
    /// Take the text alone; its constants are not checked
    #[arg(long)]
    no_weights: bool,
    /// Rows of inputs and outputs will lie at multiples of 64 bytes, however wide they are
    #[arg(long)]
    padded_rows: bool,
    #[command(flatten)]
    plan: PlanArgs,
}

/// A program before its check.
pub struct Loaded {
    /// Name of the kernel, or path of the text.
    pub name: String,
    /// Its text and constants.
    pub program: Program,
    /// Files that its constants need and that are not there.
    missing: Vec<PathBuf>,
    padded_rows: bool,
}

impl ProgramArgs {
    /// The program; kernels are cut for `chip`.
    pub fn load(&self, chip: &Chip) -> anyhow::Result<Loaded> {
        match Kernel::by_name(&self.program) {
            Some(kernel) => {
                let program = self.plan.plan(chip)?.program(kernel);
                Ok(self.loaded(kernel.name().to_owned(), program, Vec::new()))
            }
            None => self.read(Path::new(&self.program)),
        }
    }

    /// The program, or every kernel of the plan for `all`.
    pub fn load_all(&self, chip: &Chip) -> anyhow::Result<Vec<Loaded>> {
        if self.program != ALL {
            return Ok(vec![self.load(chip)?]);
        }
        let planned = self.plan.plan(chip)?;
        let kernels = planned.plan.kernels().into_iter();
        Ok(kernels.map(|k| self.loaded(k.name().to_owned(), planned.program(k), Vec::new())).collect())
    }

    fn loaded(&self, name: String, mut program: Program, missing: Vec<PathBuf>) -> Loaded {
        if self.no_weights {
            program.weights = None;
        }
        Loaded { name, program, missing, padded_rows: self.padded_rows }
    }

    fn read(&self, given: &Path) -> anyhow::Result<Loaded> {
        let named = given.extension().is_some() || given.components().count() > 1;
        if !named && !given.exists() {
            return Err(unknown(&self.program).into());
        }
        let path = if given.is_dir() { given.join(TEXT) } else { given.to_owned() };
        let name = path.display().to_string();
        let context = || format!("cannot read {name}");
        let size = std::fs::metadata(&path).with_context(context)?.len();
        let bad = |text: String| Failure::Data { code: "E3090", text: format!("{name}:{text}") };
        if size > MAX_TEXT {
            return Err(bad(format!(" {size} bytes, wanted a text of at most {MAX_TEXT}")).into());
        }
        let text = String::from_utf8(std::fs::read(&path).with_context(context)?).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            bad(format!(" byte {at} is no UTF-8; a program is text that begins with `program(1.3)`"))
        })?;
        let program = mil::parse(&text).map_err(|e| bad(e.to_string()))?;
        if self.no_weights {
            return Ok(self.loaded(name, program, Vec::new()));
        }
        let (weights, missing) = weights(&path, &program)?;
        Ok(self.loaded(name, program.with_weights(weights), missing))
    }
}

/// The weight files beside a text, and those that are not there.
fn weights(text: &Path, program: &Program) -> anyhow::Result<(Weights, Vec<PathBuf>)> {
    let (mut weights, mut missing) = (Weights::new(), Vec::new());
    for path in blobs(program) {
        let below = Path::new(path.strip_prefix(FOLDER).unwrap_or(path));
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            let text = format!(
                "{}: BLOBFILE `{path}` leads out of the folder of the text; wanted {FOLDER}weights/weight.bin \
                 or the like",
                text.display()
            );
            return Err(Failure::Data { code: "E3090", text }.into());
        }
        let file = text.parent().unwrap_or(Path::new("")).join(below);
        match std::fs::metadata(&file) {
            Ok(found) => demand(found.len(), &file.display().to_string(), "use --no-weights")?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                missing.push(file);
                continue;
            }
            Err(_) => {}
        }
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        weights.insert(path, bytes);
    }
    Ok((weights, missing))
}

/// Every path that the constants of a program name.
fn blobs(program: &Program) -> BTreeSet<&str> {
    let ops = program.functions.iter().flat_map(|f| f.ops());
    let literals = ops.flat_map(|op| {
        let written = op.args.iter().filter_map(|(_, arg)| match arg {
            Arg::Literal(literal) => Some(literal),
            _ => None,
        });
        op.attrs.iter().map(|(_, literal)| literal).chain(written)
    });
    let paths = literals.filter_map(|literal| match &literal.data {
        Data::Blob { path, .. } => Some(path.as_str()),
        _ => None,
    });
    paths.collect()
}

/// There is neither a kernel nor a file of that name.
pub fn unknown(name: &str) -> Failure {
    let names = Kernel::ALL.iter().map(|k| k.name()).chain([ALL]);
    let hint = settings::nearest(name, names).map_or(";".into(), |n| format!("; did you mean `{n}`?"));
    Failure::Usage(format!(
        "there is no program and no file `{name}`{hint} `rustane mil dump` lists all programs"
    ))
}

impl Loaded {
    /// The witness that a chip takes the program, with every broken rule otherwise.
    pub fn verify(&self, chip: &Chip) -> Result<Verified, Vec<Diagnostic>> {
        let target = mil::Target { padded_rows: self.padded_rows, ..chip.target() };
        verify(self.program.clone(), &target)
    }

    /// The same as an error that names every broken rule.
    pub fn verified(&self, chip: &Chip) -> Result<Verified, Failure> {
        self.verify(chip).map_err(|found| self.broken(chip, &found))
    }

    /// The diagnostics as one error.
    pub fn broken(&self, chip: &Chip, found: &[Diagnostic]) -> Failure {
        let errors = found.iter().filter(|d| d.severity == Severity::Error).count();
        let mut text = format!("{}: {errors} error{} for {}", self.name, plural(errors), chip.name);
        for diagnostic in found {
            text += &format!("\n{}", self.line(diagnostic));
        }
        for file in &self.missing {
            text += &format!(
                "\nnote: {} is not there; `rustane mil dump --out` writes a program with its constants, \
                 --no-weights takes the text alone",
                file.display()
            );
        }
        Failure::Data { code: "E3091", text }
    }

    /// A diagnostic behind the name of its program.
    pub fn line(&self, diagnostic: &Diagnostic) -> String {
        let gap = if diagnostic.pos.line > 0 { "" } else { " " };
        format!("{}:{gap}{diagnostic}", self.name)
    }
}

/// The ending of a word for so many things.
pub fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}
