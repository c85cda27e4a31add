//! Whether the Neural Engine of this machine works as rustane expects: examined once per build of
//! macOS, before the first use.
//!
//! ```text
//! framework   it loads
//! calls       every row of the table, as known
//! device      it opens, and its chip is known
//! program     one is compiled, loaded, run and gives what mil::eval gives, bit for bit
//! memory      Metal takes a surface's as it lies
//! ```
//!
//! The program multiplies small integers, so every arithmetic there is gives the same bits: a
//! difference is a fault of binding, layout or call, not of rounding.

use std::fmt;

use mil::eval::{Arithmetic, Plan, Slice, SliceMut};
use mil::{Builder, DType, Program, verify};

use super::{AppleAne, OpenError, Route, Settings};
use crate::device::{Device, Executable, Request};
use crate::surface::{Region, SurfaceError};

/// What the examination found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What was examined, in order; it ends where nothing further can be.
    pub findings: Vec<Finding>,
    /// By which way evaluations work; `None` when the Neural Engine is not to be used.
    pub route: Option<Route>,
}

/// One thing that was examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is, in a word.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

impl Probe {
    /// One sentence about the outcome.
    pub fn sentence(&self) -> String {
        match (self.route, self.findings.iter().rev().find(|finding| !finding.ok)) {
            (Some(Route::Direct), _) => "the Neural Engine works, without the daemon".into(),
            (Some(Route::Daemon), _) => "the Neural Engine works, through the daemon".into(),
            (None, Some(finding)) => format!("the Neural Engine is not used: {}", finding.found),
            (None, None) => "the Neural Engine is not used".into(),
        }
    }
}

/// Why the program of the examination gave nothing, or something else.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Compile(#[from] crate::CompileError),
    #[error(transparent)]
    Bind(#[from] crate::BindError),
    #[error(transparent)]
    Run(#[from] crate::RunError),
    #[error(transparent)]
    Surface(#[from] SurfaceError),
    #[error(
        "{wrong} of {all} results differ from the evaluator's; the first is {found}, not {wanted}, at row {row}"
    )]
    Differs { wrong: usize, all: usize, row: usize, found: f32, wanted: f32 },
}

/// Examines the Neural Engine. Takes two compiles of the process's budget.
pub fn probe(settings: &Settings) -> Probe {
    let mut probe = Probe { findings: Vec::new(), route: None };
    if !examine_framework(settings, &mut probe.findings) {
        return probe;
    }
    for (route, name) in [(Route::Direct, "direct path"), (Route::Daemon, "daemon")] {
        let settings = Settings { route, ..settings.clone() };
        let result = AppleAne::open(settings).map_err(Fault::from).and_then(|device| run(&device));
        let ok = result.is_ok();
        let found = result.unwrap_or_else(|fault| chain(&fault));
        probe.findings.push(Finding { name, ok, found });
        if ok {
            probe.route = probe.route.or(Some(route));
        }
    }
    if let Some(route) = probe.route {
        probe.findings.extend(examine_metal(&Settings { route, ..settings.clone() }));
    }
    probe
}

#[cfg(not(any(target_os = "macos", feature = "gnustep")))]
fn examine_metal(_: &Settings) -> Option<Finding> {
    None
}

/// Whether the GPU has a surface's memory as its own; `None` where there is no GPU.
#[cfg(any(target_os = "macos", feature = "gnustep"))]
fn examine_metal(settings: &Settings) -> Option<Finding> {
    use super::Gpu;
    use crate::surface::{Access, Layout};

    let gpu = Gpu::system()?;
    let share = || -> Result<usize, String> {
        let device = AppleAne::open(settings.clone()).map_err(|e| chain(&e))?;
        let surface = device.surface(Layout::fp16(EXTENTS[0], EXTENTS[1])).map_err(|e| chain(&e))?;
        Ok(gpu.share(&surface, Access::Read).map_err(|e| chain(&e))?.bytes())
    };
    let result = share();
    let ok = result.is_ok();
    let found = result.map_or_else(
        |error| error,
        |bytes| format!("a surface of {bytes} bytes is a Metal buffer too, without a copy"),
    );
    Some(Finding { name: "shared memory", ok, found })
}

#[cfg(not(any(target_os = "macos", feature = "gnustep")))]
fn examine_framework(_: &Settings, findings: &mut Vec<Finding>) -> bool {
    findings.push(Finding { name: "framework", ok: false, found: OpenError::NotApple.to_string() });
    false
}

#[cfg(any(target_os = "macos", feature = "gnustep"))]
fn examine_framework(settings: &Settings, findings: &mut Vec<Finding>) -> bool {
    use super::table::{Need, ROWS};
    use super::{framework, system};

    let loaded = framework::load_library(&settings.framework);
    let (ok, found) = match &loaded {
        Ok(()) => {
            let told = |text: Option<String>| text.unwrap_or_else(|| "not told".into());
            let (version, build) = (told(system::version()), told(system::build()));
            (true, format!("{} of macOS {version} ({build})", settings.framework.display()))
        }
        Err(error) => (false, error.to_string()),
    };
    findings.push(Finding { name: "framework", ok, found });
    if !ok {
        return false;
    }
    let wrong = framework::mismatches();
    let all = ROWS.len();
    let ok = !wrong.iter().any(|(row, _)| row.need == Need::Always);
    let mut found = format!("{} of {all} are as known", all - wrong.len());
    for (row, mismatch) in &wrong {
        let needed = match row.need {
            Need::Always => "",
            Need::Direct => " (only for the direct path)",
            Need::Statistics => " (only for statistics)",
            Need::Extra => " (done without)",
            Need::Lab => " (only for the lab)",
        };
        found += &format!("; {mismatch}{needed}");
    }
    findings.push(Finding { name: "calls", ok, found });
    ok
}

/// Rows, inner extent and columns of the product; none is that of another.
const EXTENTS: [usize; 3] = [32, 64, 96];

/// `y = x · w` and `2y`, of two inputs.
fn program() -> Program {
    let [rows, inner, columns] = EXTENTS;
    let mut b = Builder::new("main");
    let x = b.input("i00_x", DType::Fp16, [1, 1, rows, inner]);
    let w = b.input("i01_w", DType::Fp16, [1, 1, inner, columns]);
    let y = b.matmul(x, w);
    let twice = b.add(y, y);
    b.output("o00_y", y);
    b.output("o01_twice", twice);
    Program::new(vec![b.finish().expect("the program of the examination is well formed")])
}

/// Integers from -2 to 2 that repeat in no extent.
fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + i / 11 + seed) % 5) as f32 - 2.0).collect()
}

/// Runs the program on a device and compares its results with the evaluator's.
fn run(device: &AppleAne) -> Result<String, Fault> {
    let [rows, inner, columns] = EXTENTS;
    let verified = verify(program(), &device.chip().target())
        .expect("the program of the examination keeps the rules of every chip");
    let executable = device.compile("probe", &verified)?;
    let (x, w) = (values(rows * inner, 0), values(inner * columns, 3));
    let surface = |port: &crate::Port| device.surface(port.layout);
    let inputs = executable.inputs().iter().map(surface).collect::<Result<Vec<_>, _>>()?;
    let outputs = executable.outputs().iter().map(surface).collect::<Result<Vec<_>, _>>()?;
    inputs[0].write()?.write(&Region::new(0..rows, 0..inner), &x)?;
    inputs[1].write()?.write(&Region::new(0..inner, 0..columns), &w)?;
    let request = executable.bind(
        &[("i00_x", &inputs[0]), ("i01_w", &inputs[1])],
        &[("o00_y", &outputs[0]), ("o01_twice", &outputs[1])],
    )?;
    request.run()?;

    let wanted = evaluated(&verified, [&x, &w]);
    let mut found = vec![0f32; rows * columns];
    for (surface, wanted) in outputs.iter().zip(&wanted) {
        surface.read()?.read(&Region::new(0..rows, 0..columns), &mut found)?;
        let differ = |(found, wanted): (&f32, &f32)| found.to_bits() != wanted.to_bits();
        let wrong = found.iter().zip(wanted).filter(|pair| differ(*pair)).count();
        if let Some(at) = found.iter().zip(wanted).position(differ) {
            let (all, row) = (found.len(), at / columns);
            return Err(Fault::Differs { wrong, all, row, found: found[at], wanted: wanted[at] });
        }
    }
    Ok(format!(
        "{}: a program was compiled and run, and {} results are exact",
        device.label(),
        2 * found.len()
    ))
}

/// The program's outputs by the evaluator.
fn evaluated(program: &mil::Verified, inputs: [&[f32]; 2]) -> [Vec<f32>; 2] {
    let settings = mil::eval::Settings { arithmetic: Arithmetic::Exact, ..mil::eval::Settings::default() };
    let mut plan = Plan::new(program, settings).expect("the evaluator has every operation of the program");
    let to_half = |values: &[f32]| values.iter().map(|&v| half::f16::from_f32(v)).collect::<Vec<_>>();
    let inputs = inputs.map(to_half);
    let len = EXTENTS[0] * EXTENTS[2];
    let mut outputs = [vec![half::f16::ZERO; len], vec![half::f16::ZERO; len]];
    let [first, second] = &mut outputs;
    plan.run(
        &[Slice::F16(&inputs[0]), Slice::F16(&inputs[1])],
        &mut [SliceMut::F16(first), SliceMut::F16(second)],
    )
    .expect("the buffers have the program's extents");
    outputs.map(|values| values.iter().map(|v| v.to_f32()).collect())
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { name, ok, found } in &self.findings {
            writeln!(f, "{} {name}: {found}", if *ok { "ok  " } else { "FAIL" })?;
        }
        f.write_str(&self.sentence())
    }
}
