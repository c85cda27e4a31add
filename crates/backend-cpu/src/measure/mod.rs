//! The time of every kernel at the shapes of a model, beside what it computes and what it has to move.
//!
//! Operations count what the result needs: half of the scores of causal attention, and not the scores that its
//! way back computes again. Bytes count each operand once, as if caches held everything in between, and what
//! is added to as read and written.

mod between;
mod products;
mod vectors;

use std::time::Instant;

use model::ModelConfig;

use crate::memory::CpuResult;
use crate::{Exec, Isa, Plan, Precision};

/// Which of a machine's peaks a kernel computes against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Multiply-adds of vectors of f32.
    F32,
    /// Products of f32 in three parts of bf16 each, on tiles.
    Parts,
    /// Products of bf16 pairs, added up in f32.
    Bf16,
    /// Products of bytes, added up in 32 bits.
    Int8,
}

/// What one call of a kernel comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// What it computes with.
    pub numbers: Numbers,
    /// Operations, two for a multiply-add.
    pub flops: f64,
    /// Bytes that it reads.
    pub read: f64,
    /// Bytes that it writes.
    pub written: f64,
}

/// A kernel and its times.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// What it is, such as `gemm/down/forward/bf16`.
    pub name: String,
    /// Of one call.
    pub work: Work,
    /// Of every call, in order, after one that is not counted.
    pub seconds: Vec<f64>,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Vector instructions.
    pub isa: Isa,
    /// Threads.
    pub threads: usize,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Measured calls of each kernel.
    pub runs: usize,
}

/// Measures the kernels of a model of which `wanted` takes the name, and gives each to `each`: products in f32
/// and, with the instructions, in bf16; attention, what lies between the products and the update; products of
/// one token with weights in few bits.
///
/// # Errors
/// No memory, or no thread.
pub fn kernels(
    config: &ModelConfig,
    settings: Settings,
    wanted: &dyn Fn(&str) -> bool,
    each: &mut dyn FnMut(Kernel),
) -> CpuResult<()> {
    let mut run = Run { config, settings, wanted, each };
    let precisions = [Precision::F32, Precision::Bf16];
    for precision in precisions.into_iter().filter(|p| p.in_hardware(settings.isa)) {
        let plan = Plan { isa: settings.isa, ..Plan::new(1).with_threads(settings.threads) };
        let mut exec = Exec::new(&plan.with_precision(precision))?;
        products::run(&mut run, &mut exec)?;
        between::attention(&mut run, &mut exec)?;
        if precision == Precision::F32 {
            between::run(&mut run, &exec)?;
            vectors::run(&mut run, &mut exec)?;
        }
    }
    Ok(())
}

/// One measurement of all kernels.
struct Run<'a> {
    config: &'a ModelConfig,
    settings: Settings,
    wanted: &'a dyn Fn(&str) -> bool,
    each: &'a mut dyn FnMut(Kernel),
}

impl Run<'_> {
    fn wants(&self, name: &str) -> bool {
        (self.wanted)(name)
    }

    /// Tokens of a step.
    fn tokens(&self) -> usize {
        self.settings.seq * self.settings.batch
    }

    /// Times a kernel that is wanted.
    fn time(&mut self, name: &str, work: Work, mut call: impl FnMut()) {
        if !self.wants(name) {
            return;
        }
        call();
        let time = |_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        };
        let seconds = (0..self.settings.runs).map(time).collect();
        (self.each)(Kernel { name: name.to_owned(), work, seconds });
    }
}

/// What small products in a precision compute with.
fn numbers(precision: Precision) -> Numbers {
    match precision {
        Precision::F32 => Numbers::F32,
        Precision::Bf16 => Numbers::Bf16,
    }
}

/// What large ones do.
fn numbers_of_large(precision: Precision, isa: Isa) -> Numbers {
    if precision == Precision::F32 && isa.tiles() { Numbers::Parts } else { numbers(precision) }
}

/// Bytes of so many numbers in f32.
fn bytes(numbers: usize) -> f64 {
    (size_of::<f32>() * numbers) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> ModelConfig {
        ModelConfig {
            dim: 64,
            hidden: 96,
            layers: 1,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 100,
            max_seq: 32,
            ..ModelConfig::default()
        }
    }

    #[test]
    fn every_kernel_is_measured_at_every_level() {
        for &isa in Isa::available() {
            let settings = Settings { isa, threads: 2, seq: 32, batch: 1, runs: 2 };
            let mut found = Vec::new();
            kernels(&tiny(), settings, &|_| true, &mut |kernel| found.push(kernel)).unwrap();
            for kernel in &found {
                let Work { flops, read, written, .. } = kernel.work;
                assert!(flops > 0.0 && read > 0.0 && written > 0.0, "{isa:?} {kernel:?}");
                assert_eq!(kernel.seconds.len(), 2, "{isa:?} {kernel:?}");
            }
            let mut names: Vec<_> = found.iter().map(|kernel| kernel.name.as_str()).collect();
            let products = 5 * 3;
            let bf16 = if Precision::Bf16.in_hardware(isa) { products + 5 * 2 + 2 } else { 0 };
            assert_eq!(names.len(), products + 2 + bf16 + 9 + 4, "{isa:?} {names:?}");
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), found.len(), "each name once");
        }
    }

    #[test]
    fn the_work_of_a_product_is_that_of_its_shape() {
        let settings = Settings { isa: Isa::detect(), threads: 1, seq: 32, batch: 2, runs: 1 };
        let mut found = Vec::new();
        kernels(&tiny(), settings, &|name| name == "gemm/down/dw/f32", &mut |k| found.push(k)).unwrap();
        let [kernel] = &found[..] else { panic!("{found:?}") };
        let parts = Isa::detect().name() == "amx";
        assert_eq!(kernel.work.numbers, if parts { Numbers::Parts } else { Numbers::F32 });
        assert_eq!(kernel.work.flops, (2 * 64 * 64 * 96) as f64);
        assert_eq!(kernel.work.read, (4 * (64 * 64 + 64 * 96)) as f64);
        assert_eq!(kernel.work.written, (4 * 64 * 96) as f64);
    }
}
