//! What this machine can do: the yardsticks beside which speeds are reported.

use std::hint::black_box;
use std::time::{Duration, Instant};

use model::quant::Format;

use crate::gemm::bf16;
use crate::gemv;
use crate::isa::simd;
use crate::kernels::vector::{LANES, fma};
use crate::measure::Numbers;
use crate::{Buffer, CpuError, Isa, Pool, Rows, RowsMut};

/// Independent sums of the loop: 24 vectors where they have four numbers, with room in the 32 registers of NEON.
const CHAINS: usize = 6;

simd! {
    /// `steps` times `CHAINS · LANES` multiply-adds that wait for nothing but themselves.
    fn multiply_adds(steps: usize, x: f32) -> f32 {
        let mut sums = [[x; LANES]; CHAINS];
        for _ in 0..steps {
            for sum in &mut sums {
                for s in sum {
                    *s = fma::<FMA>(*s, 0.999, x);
                }
            }
        }
        sums.iter().flatten().sum()
    }
}

/// Most products of matrices in f32 that `threads` threads do together, in GFLOP/s (2 per multiply-add): the
/// best of many short runs of a loop without memory, each thread on its own. Where tiles multiply f32 in
/// three parts, that is a sixth of their peak in bf16.
pub fn peak_gflops(threads: usize) -> Result<f64, CpuError> {
    peak_gflops_of(Isa::detect(), threads)
}

/// [`peak_gflops`] of these instructions.
pub fn peak_gflops_of(isa: Isa, threads: usize) -> Result<f64, CpuError> {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles()
        && let Some(peak) = peak_bf16_gflops_of(isa, threads)?
    {
        return Ok(peak / crate::gemm::PRODUCTS_OF_PARTS as f64);
    }
    peak_multiply_adds(isa, threads)
}

/// Most multiply-adds of vectors of f32, in GFLOP/s, likewise.
pub fn peak_multiply_adds(isa: Isa, threads: usize) -> Result<f64, CpuError> {
    const STEPS: usize = 10_000;
    #[cfg(target_arch = "x86_64")]
    {
        use crate::spin;
        if isa.avx512() {
            // SAFETY: the instructions are there.
            return peak(threads, 2 * STEPS * spin::AVX512, || unsafe { spin::avx512(STEPS) });
        }
        if isa.level() == crate::isa::Level::Avx2 {
            // SAFETY: as above.
            return peak(threads, 2 * STEPS * spin::AVX2, || unsafe { spin::avx2(STEPS) });
        }
    }
    let run = || {
        black_box(multiply_adds(isa, black_box(STEPS), black_box(1e-3)));
    };
    peak(threads, 2 * STEPS * CHAINS * LANES, run)
}

/// Most multiply-adds of bf16 pairs that `threads` threads do together, in GFLOP/s, likewise; `None`
/// without instructions for them.
pub fn peak_bf16_gflops(threads: usize) -> Result<Option<f64>, CpuError> {
    peak_bf16_gflops_of(Isa::detect(), threads)
}

/// [`peak_bf16_gflops`] of these instructions.
pub fn peak_bf16_gflops_of(isa: Isa, threads: usize) -> Result<Option<f64>, CpuError> {
    const STEPS: usize = 10_000;
    if !crate::Precision::Bf16.in_hardware(isa) {
        return Ok(None);
    }
    let run = || {
        black_box(bf16::spin(isa, black_box(STEPS)));
    };
    peak(threads, bf16::spin(isa, STEPS), run).map(Some)
}

/// Most products of bytes, added up in 32 bits, that `threads` threads do together, in Gop/s (2 per product),
/// likewise; `None` where no instruction does four of them.
pub fn peak_int8_gops_of(isa: Isa, threads: usize) -> Result<Option<f64>, CpuError> {
    const STEPS: usize = 10_000;
    if gemv::spin(isa, 1).is_none() {
        return Ok(None);
    }
    let run = || {
        black_box(gemv::spin(isa, black_box(STEPS)));
    };
    peak(threads, gemv::spin(isa, STEPS).unwrap_or(0), run).map(Some)
}

/// What products of many tokens with weights held in a format compute with, and the peak of that, in GFLOP/s;
/// without a format in f32.
pub fn peak_of_weights(held: Option<Format>, threads: usize) -> Result<(Numbers, f64), CpuError> {
    let isa = Isa::detect();
    match held {
        None => {}
        Some(_) if gemv::on_tiles(isa, usize::MAX) => {
            if let Some(peak) = peak_bf16_gflops_of(isa, threads)? {
                return Ok((Numbers::Bf16, peak));
            }
        }
        // Their inputs stay f32.
        Some(Format::Bf16 | Format::F16) => return Ok((Numbers::F32, peak_multiply_adds(isa, threads)?)),
        Some(Format::Q8_0 | Format::Q4_0) => {
            if let Some(peak) = peak_int8_gops_of(isa, threads)? {
                return Ok((Numbers::Int8, peak));
            }
        }
    }
    Ok((Numbers::F32, peak_gflops_of(isa, threads)?))
}

/// GFLOP/s of a loop on every thread.
fn peak(threads: usize, flops: usize, run: impl Fn() + Sync) -> Result<f64, CpuError> {
    // So many that no thread does the work of another that wakes late.
    const TASKS: usize = 64;
    let pool = Pool::new(threads)?;
    let tasks = TASKS * pool.threads();
    let best = best_of(20, || pool.run(tasks, |_| run()));
    Ok((flops * tasks) as f64 / best.as_secs_f64() / 1e9)
}

/// Memory that `threads` threads read together, in GB/s (10⁹ bytes): the best of several passes
/// over far more than the caches hold.
pub fn memory_bandwidth(threads: usize) -> Result<f64, CpuError> {
    Ok(Reading::new(threads)?.gb_per_s())
}

/// What [`memory_bandwidth`] reads, to be read again and again.
pub struct Reading {
    pool: Pool,
    memory: Buffer,
}

impl Reading {
    /// On so many threads.
    pub fn new(threads: usize) -> Result<Self, CpuError> {
        const BYTES: usize = 512 << 20;
        let mut memory = Buffer::zeros("the bandwidth probe", BYTES / 4)?;
        // Written once, else all pages are the one page of zeros.
        memory.fill(1.0);
        Ok(Self { pool: Pool::new(threads)?, memory })
    }

    /// The best of several passes at this moment.
    pub fn gb_per_s(&self) -> f64 {
        let isa = Isa::detect();
        let run = || {
            self.pool.each(Rows::new(&self.memory, 1 << 18), |_, part| {
                black_box(crate::kernels::vector::dot(isa, part, part));
            });
        };
        self.memory.bytes() as f64 / best_of(5, run).as_secs_f64() / 1e9
    }
}

/// Memory that `threads` threads read and write back changed, in GB/s of both together: the best of several
/// passes over far more than the caches hold.
pub fn update_bandwidth(threads: usize) -> Result<f64, CpuError> {
    const BYTES: usize = 256 << 20;
    let pool = Pool::new(threads)?;
    let isa = Isa::detect();
    let mut memory = Buffer::zeros("the bandwidth probe", BYTES / 4)?;
    memory.fill(1.0);
    let run = || {
        pool.each(RowsMut::new(&mut memory, 1 << 18), |_, part| {
            crate::kernels::vector::scale(isa, 0.999, part);
        });
    };
    Ok(2.0 * BYTES as f64 / best_of(5, run).as_secs_f64() / 1e9)
}

fn best_of(runs: usize, mut run: impl FnMut()) -> Duration {
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..runs).map(|_| time()).min().unwrap_or(Duration::MAX)
}
