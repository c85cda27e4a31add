//! The time of MIL programs on the virtual ANE, beside the time of their matrix products alone.
//!
//! A first run of each program writes down its products; the device's threads then repeat them on f32
//! operands, in turn with runs of the program and handed out in the same groups. What a run takes beyond that is the overhead: conversions from
//! and to fp16, transposes, softmax, elementwise operations.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ane_bridge::{
    CompileError, Device, Executable, Port, Region, Request, RunError, Settings, Surface, SurfaceError,
    VirtualAne,
};
use mil::eval::{Host, Mat};
use mil::{Program, verify};
use serde::Serialize;

use crate::statistics::median;

/// The result for one program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelTime {
    /// Its name.
    pub kernel: String,
    /// Median run, milliseconds.
    pub ms: f64,
    /// Median time of its products alone, milliseconds.
    pub products_ms: f64,
    /// `ms / products_ms − 1`, percent.
    pub overhead_percent: f64,
    /// The fastest run, milliseconds: closer to a machine without other work.
    pub best_ms: f64,
    /// The fastest products, milliseconds.
    pub best_products_ms: f64,
    /// The overhead of these two, percent.
    pub best_overhead_percent: f64,
    /// Floating-point operations of the products.
    pub gflop: f64,
    /// Time of one dispatch that the clock predicts for the chip, milliseconds.
    pub predicted_ms: f64,
    /// Every run, in order.
    pub runs_ms: Vec<f64>,
    /// Every run of the products alone.
    pub products_runs_ms: Vec<f64>,
}

/// The result for a set of programs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelsReport {
    /// What ran them.
    pub device: String,
    /// Making, verifying and compiling all of them, milliseconds.
    pub compile_ms: f64,
    /// Measured runs of each.
    pub runs: usize,
    /// Program by program.
    pub kernels: Vec<KernelTime>,
}

/// Why programs were not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum KernelsError {
    #[error("`{kernel}` breaks rules of {chip}: {faults}")]
    Rules { kernel: String, chip: &'static str, faults: String },
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Surface(#[from] SurfaceError),
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Measures programs `(name, how to make it)`, each with `runs` runs after one that counts products.
///
/// # Errors
/// [`KernelsError`] when a program breaks a rule of the chip or the device refuses it.
pub fn mil_kernels(
    programs: &[(&str, &dyn Fn() -> Program)],
    settings: Settings,
    runs: usize,
) -> Result<KernelsReport, KernelsError> {
    let products = Arc::new(Recorder::new(settings.host.clone()));
    let chip = settings.chip;
    let device = VirtualAne::new(Settings { host: products.clone(), ..settings });
    let target = chip.target();
    let start = Instant::now();
    let mut executables = Vec::with_capacity(programs.len());
    for (name, program) in programs {
        let verified = verify(program(), &target).map_err(|faults| KernelsError::Rules {
            kernel: (*name).to_string(),
            chip: chip.name,
            faults: faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        })?;
        executables.push(device.compile(name, &verified)?);
    }
    let compile_ms = start.elapsed().as_secs_f64() * 1e3;
    let kernels =
        executables.iter().map(|e| kernel(e, &device, &products, runs)).collect::<Result<_, _>>()?;
    Ok(KernelsReport { device: device.label(), compile_ms, runs, kernels })
}

fn kernel<E: Executable>(
    executable: &E,
    device: &VirtualAne,
    products: &Recorder,
    runs: usize,
) -> Result<KernelTime, KernelsError> {
    let inputs = surfaces(device, executable.inputs(), 1)?;
    let outputs = surfaces(device, executable.outputs(), 100)?;
    let request = executable
        .bind(&named(executable.inputs(), &inputs), &named(executable.outputs(), &outputs))
        .map_err(RunError::from)?;
    let alone = Replay::new(products.record(|| request.run())?);
    let (mut ms, mut products_ms) = (Vec::with_capacity(runs), Vec::with_capacity(runs));
    for _ in 0..runs {
        let start = Instant::now();
        request.run()?;
        ms.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        rayon::scope(|_| alone.run(&*products.inner));
        products_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let best = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    let (best_ms, best_products_ms) = (best(&ms), best(&products_ms));
    let (runs_ms, products_runs_ms) = (ms, products_ms);
    let (ms, products_ms) = (median(&runs_ms), median(&products_runs_ms));
    let overhead = |run: f64, products: f64| (run / products - 1.0) * 100.0;
    Ok(KernelTime {
        kernel: executable.name().to_string(),
        ms,
        products_ms,
        overhead_percent: overhead(ms, products_ms),
        best_ms,
        best_products_ms,
        best_overhead_percent: overhead(best_ms, best_products_ms),
        gflop: alone.groups.iter().flatten().map(|p| 2e-9 * (p.m * p.k * p.n) as f64).sum(),
        predicted_ms: executable.predicted_s() * 1e3,
        runs_ms,
        products_runs_ms,
    })
}

/// Surfaces with numbers between −½ and ½.
fn surfaces(device: &VirtualAne, ports: &[Port], seed: u64) -> Result<Vec<Surface>, KernelsError> {
    let mut out = Vec::with_capacity(ports.len());
    for (port, seed) in ports.iter().zip(seed..) {
        let surface = device.surface(port.layout)?;
        let values = noise(port.layout.rows() * port.layout.width, seed);
        surface.write()?.write(&Region::new(0..port.layout.rows(), 0..port.layout.width), &values)?;
        out.push(surface);
    }
    Ok(out)
}

fn named<'a>(ports: &'a [Port], surfaces: &'a [Surface]) -> Vec<(&'a str, &'a Surface)> {
    ports.iter().map(|p| p.name.as_str()).zip(surfaces).collect()
}

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        // Knuth's multiplier; the high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// Extents and order of the operands of one product.
#[derive(Clone, Copy)]
struct Product {
    m: usize,
    k: usize,
    n: usize,
    a_by_columns: bool,
    b_by_columns: bool,
}

/// Passes products on, and writes them down while asked to, by the group that was handed out at once.
struct Recorder {
    inner: Arc<dyn Host>,
    on: AtomicBool,
    groups: Mutex<Vec<Vec<Product>>>,
}

impl Recorder {
    fn new(inner: Arc<dyn Host>) -> Self {
        Self { inner, on: AtomicBool::new(false), groups: Mutex::default() }
    }

    fn record<E>(&self, run: impl FnOnce() -> Result<(), E>) -> Result<Vec<Vec<Product>>, E> {
        self.on.store(true, Ordering::SeqCst);
        let result = run();
        self.on.store(false, Ordering::SeqCst);
        let mut groups = std::mem::take(&mut *self.groups());
        groups.retain(|group| !group.is_empty());
        result.map(|()| groups)
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Vec<Product>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Recorder {
    fn matmul(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]) {
        if self.on.load(Ordering::SeqCst) {
            let by_columns = |m: Mat<'_>| m.col_step != 1 && m.row_step == 1;
            let product = Product {
                m: a.rows,
                k: a.cols,
                n: b.cols,
                a_by_columns: by_columns(a),
                b_by_columns: by_columns(b),
            };
            let mut groups = self.groups();
            match groups.last_mut() {
                Some(group) => group.push(product),
                None => groups.push(vec![product]),
            }
        }
        self.inner.matmul(a, b, c);
    }

    fn spread(&self, work: &(dyn Fn() + Sync)) {
        if self.on.load(Ordering::SeqCst) {
            self.groups().push(Vec::new());
        }
        self.inner.spread(work);
    }
}

/// Products on operands of their own, group by group on the threads.
struct Replay {
    groups: Vec<Vec<Product>>,
    a: Vec<f32>,
    b: Vec<f32>,
    /// Room for results, one per thread at most.
    results: Mutex<Vec<Vec<f32>>>,
}

impl Replay {
    fn new(groups: Vec<Vec<Product>>) -> Self {
        let largest = |f: fn(&Product) -> usize| groups.iter().flatten().map(f).max().unwrap_or(0);
        let (a, b) = (noise(largest(|p| p.m * p.k), 1), noise(largest(|p| p.k * p.n), 2));
        Self { groups, a, b, results: Mutex::default() }
    }

    fn run(&self, host: &dyn Host) {
        let mat = |data, rows, cols, by_columns| match by_columns {
            true => Mat::columns(data, rows, cols),
            false => Mat::rows(data, rows, cols),
        };
        let results = || self.results.lock().unwrap_or_else(PoisonError::into_inner);
        for group in &self.groups {
            let next = AtomicUsize::new(0);
            host.spread(&|| {
                let mut c = results().pop().unwrap_or_default();
                while let Some(p) = group.get(next.fetch_add(1, Ordering::Relaxed)) {
                    c.resize(c.len().max(p.m * p.n), 0.0);
                    let a = mat(&self.a, p.m, p.k, p.a_by_columns);
                    let b = mat(&self.b, p.k, p.n, p.b_by_columns);
                    host.matmul(a, b, black_box(&mut c));
                }
                results().push(c);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use mil::{Builder, DType};

    use super::*;

    fn product() -> Program {
        let mut b = Builder::new("main");
        let x = b.input("i00_x", DType::Fp16, [1, 4, 64, 32]);
        let y = b.input("i01_y", DType::Fp16, [1, 4, 32, 64]);
        let z = b.matmul(x, y);
        b.output("o00_z", z);
        Program::new(vec![b.finish().expect("shapes fit")])
    }

    #[test]
    fn finds_the_products_of_a_program() {
        let settings = Settings { count_flushed: false, ..Settings::default() };
        let report = mil_kernels(&[("batch", &product)], settings, 3).unwrap();
        let kernel = &report.kernels[0];
        assert!((kernel.gflop - 2e-9 * (4 * 64 * 32 * 64) as f64).abs() < 1e-12);
        assert!(kernel.best_ms <= kernel.ms && kernel.best_products_ms <= kernel.products_ms);
        assert!(kernel.predicted_ms > 0.0 && report.compile_ms > 0.0);
    }

    #[test]
    fn a_broken_rule_is_named() {
        let wide = || {
            let mut b = Builder::new("main");
            let x = b.input("i00_x", DType::Fp16, [1, 1, 1, 1 << 20]);
            let y = b.add(x, x);
            b.output("o00_y", y);
            Program::new(vec![b.finish().expect("shapes fit")])
        };
        let error = mil_kernels(&[("wide", &wide)], Settings::default(), 1).unwrap_err();
        assert!(matches!(&error, KernelsError::Rules { kernel, .. } if kernel == "wide"), "{error}");
    }
}
