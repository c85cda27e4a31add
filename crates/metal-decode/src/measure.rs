//! Times kernels on a device: its ceiling, matrix products, attention. `rustane tune` and `bench decode`
//! are made of these.
//!
//! Products are timed in a chain, one waiting for the other as in decoding, over enough copies of the
//! matrix that no cache holds them.

use std::time::{Duration, Instant};

use model::ModelConfig;
use model::quant::Format;

use crate::gpu::{Gpu, Step};
use crate::kernels::gemv::{Gemv, Tiling};
use crate::kernels::rope_append::Heads;
use crate::kernels::{Epilogue, attention, stream};
use crate::matrix::{Matrix, Numbers, Part, blocks, fill};
use crate::tuning::{Entry, Tuning};
use crate::{GpuResult, layout};

/// How much is timed.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Bytes that the copies of a matrix may take.
    pub budget: u64,
    /// Passes, of which the median counts.
    pub passes: usize,
}

impl Effort {
    /// Enough to be out of every cache; little on a software driver, where only the way matters.
    pub fn new(gpu: &Gpu) -> Self {
        if gpu.is_software() {
            Self { budget: 8 << 20, passes: 3 }
        } else {
            Self { budget: 1 << 30, passes: 7 }
        }
    }
}

/// A timed product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// Seconds.
    pub seconds: f64,
    /// Bytes that it reads of weights, or of keys and values.
    pub bytes: u64,
}

impl Timed {
    /// 10⁹ bytes per second.
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e9
    }
}

/// Work before a time is taken, in milliseconds: an H200 that compiled a kernel in between was still four times
/// slower after 25.
const WARM_MS: u64 = 150;

/// The middle of some passes, after enough of them that the device is at the clock of work: one that has
/// idled, as it does while a kernel is compiled, runs several times slower at first.
pub(crate) fn median(gpu: &Gpu, steps: &[&Step], rows: usize, passes: usize) -> GpuResult<f64> {
    warm(gpu, steps, rows, Duration::from_millis(WARM_MS))?;
    let mut times =
        (0..passes).map(|_| gpu.time(steps.iter().copied(), rows)).collect::<GpuResult<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Runs steps for so long, on a device that is no program.
pub(crate) fn warm(gpu: &Gpu, steps: &[&Step], rows: usize, time: Duration) -> GpuResult<()> {
    let begin = Instant::now();
    gpu.time(steps.iter().copied(), rows)?;
    while !gpu.is_software() && begin.elapsed() < time {
        for _ in 0..4 {
            gpu.submit(steps.iter().copied(), rows, &[], None);
        }
        gpu.wait();
    }
    Ok(())
}

/// What plain reading reaches: the best of several grids.
///
/// # Errors
/// When memory is short.
pub fn ceiling(gpu: &Gpu, effort: Effort) -> GpuResult<f64> {
    let bytes = (effort.budget / 2).min(gpu.max_binding()).min(1 << 29);
    let words = gpu.buffer("a stream", bytes)?;
    fill(gpu, &words, bytes as usize / 4, u32::MAX, 0)?;
    let out = gpu.buffer("a stream", 16)?;
    let kernel = gpu.compile(stream::READ, &[("N", (bytes / 16) as f64)])?;
    let mut best = 0f64;
    for groups in [264, 528, 1056, 2112, 4224, 8448] {
        let steps: Vec<_> = (0..4).map(|_| gpu.step(&kernel, &[&words, &out], [groups, 1, 1])).collect();
        let steps: Vec<_> = steps.iter().collect();
        warm(gpu, &steps, 1, Duration::from_millis(300))?;
        let seconds = median(gpu, &steps, 1, effort.passes)? / 4.0;
        best = best.max(bytes as f64 / seconds / 1e9);
    }
    Ok(best)
}

/// A product `[m, k]` of noise, in several copies.
pub struct Product {
    copies: Vec<Matrix>,
    x: crate::gpu::Buffer,
    y: crate::gpu::Buffer,
    gain: crate::gpu::Buffer,
    k: usize,
    m: usize,
    format: Format,
}

impl Product {
    /// Of a shape.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(gpu: &Gpu, format: Format, k: usize, m: usize, effort: Effort) -> GpuResult<Self> {
        let bytes = crate::matrix::bytes(format, m, k);
        let n = (effort.budget / bytes).clamp(1, 24);
        let matrix = |_| Matrix::load(gpu, "a product", format, (m, k), &Numbers::Noise, u64::MAX);
        let copies = (0..n).map(matrix).collect::<GpuResult<_>>()?;
        let row = layout::activation_row(k, gpu.lanes() as usize);
        let ones = vec![1.0f32; row];
        let (x, gain) = (gpu.buffer_of("a product", &ones)?, gpu.buffer_of("a product", &ones)?);
        let y = gpu.buffer("a product", (layout::activation_row(m, gpu.lanes() as usize) * 4) as u64)?;
        Ok(Self { copies, x, y, gain, k, m, format })
    }

    /// Its time with a tiling, per product.
    ///
    /// # Errors
    /// When the kernel does not compile.
    pub fn time(&self, gpu: &Gpu, tiling: Tiling, norm: bool, passes: usize) -> GpuResult<Timed> {
        let steps = self.steps(gpu, tiling, norm)?;
        let seconds = median(gpu, &steps.iter().collect::<Vec<_>>(), 1, passes)?;
        Ok(self.timed(seconds))
    }

    fn timed(&self, seconds: f64) -> Timed {
        Timed { seconds: seconds / self.copies.len() as f64, bytes: self.copies[0].bytes() }
    }

    fn gemv(&self, tiling: Tiling, norm: bool) -> Gemv {
        Gemv { format: self.format, tiling, columns: 1, norm, epilogue: Epilogue::Store }
    }

    /// The kernels of a tiling, one for each part; the parts of every copy are alike.
    fn kernels(&self, gpu: &Gpu, tiling: Tiling, norm: bool) -> Vec<Text> {
        let text = self.gemv(tiling, norm).text(gpu.lanes());
        let row = layout::activation_row(self.k, gpu.lanes() as usize);
        let of = |part: &Part| {
            let mut constants = vec![
                ("NB", blocks(self.k) as f64),
                ("M", part.rows as f64),
                ("ROW0", part.first as f64),
                ("XS", (row / 4) as f64),
                ("YS", self.m as f64),
            ];
            if norm {
                constants.extend([("KF", self.k as f64), ("EPS", 1e-5)]);
            }
            (text.clone(), constants)
        };
        self.copies[0].parts.iter().map(of).collect()
    }

    /// One product after the other, over all copies.
    fn steps(&self, gpu: &Gpu, tiling: Tiling, norm: bool) -> GpuResult<Vec<Step>> {
        let kernels = self.kernels(gpu, tiling, norm);
        let compile = |(text, constants): &Text| gpu.compile(text, constants);
        let kernels = kernels.iter().map(compile).collect::<GpuResult<Vec<_>>>()?;
        let gemv = self.gemv(tiling, norm);
        let mut steps = Vec::new();
        for matrix in &self.copies {
            for (part, kernel) in matrix.parts.iter().zip(&kernels) {
                let mut buffers = vec![&part.words, &part.scales, &self.x, &self.y];
                buffers.extend(norm.then_some(&self.gain));
                steps.push(gpu.step(kernel, &buffers, gemv.grid(part.rows, gpu.lanes())));
            }
        }
        Ok(steps)
    }
}

/// A kernel's text and constants.
type Text = (String, Vec<(&'static str, f64)>);

/// A product of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub m: usize,
    /// Whether its inputs are normalised on the way.
    pub norm: bool,
}

/// The products of one token.
pub fn shapes(c: &ModelConfig) -> [Shape; 5] {
    [
        Shape { k: c.dim, m: c.q_dim() + 2 * c.kv_dim(), norm: true },
        Shape { k: c.q_dim(), m: c.dim, norm: false },
        Shape { k: c.dim, m: 2 * c.hidden, norm: true },
        Shape { k: c.hidden, m: c.dim, norm: false },
        Shape { k: c.dim, m: c.vocab, norm: true },
    ]
}

/// The tilings that are worth trying: what won for some shape of some format, and its neighbours.
pub fn candidates(gpu: &Gpu, format: Format) -> Vec<Tiling> {
    let mut all = Vec::new();
    for rows in [1, 2, 4] {
        for threads in [64, 128, 256] {
            for split in [1, 2, 4, 8] {
                let tiling = Tiling { rows, threads, split, dots: 0 };
                if tiling.fits(gpu.lanes(), gpu.max_threads(), Epilogue::Store) && rows * split <= 16 {
                    all.push(tiling);
                }
            }
        }
        if layout::scaled(format) && gpu.multiplies_bytes() {
            // Few workgroups, which make the bytes of the vector, of many threads.
            for (threads, split) in [(256, 1), (256, 2), (512, 1), (512, 2)] {
                let tiling = Tiling { rows, threads: threads.min(gpu.max_threads()), split, dots: 264 };
                if !all.contains(&tiling) && tiling.fits(gpu.lanes(), gpu.max_threads(), Epilogue::Store) {
                    all.push(tiling);
                }
            }
        }
    }
    // A program is as fast with any of them.
    all.truncate(if gpu.is_software() { 4 } else { usize::MAX });
    all
}

/// Tilings that are timed again, with care.
const FINALISTS: usize = 4;

/// The fastest tiling of each shape, as entries of a table, with their times.
///
/// All candidates of a shape are compiled first, on all processors, and timed in one go while the device is at
/// its clock of work; the best of them again.
///
/// # Errors
/// When memory is short.
pub fn tune(
    gpu: &Gpu,
    format: Format,
    shapes: &[Shape],
    effort: Effort,
    mut tell: impl FnMut(&Entry, Timed),
) -> GpuResult<Tuning> {
    let mut tuning = Tuning::default();
    for &Shape { k, m, norm } in shapes {
        let product = Product::new(gpu, format, k, m, effort)?;
        let tilings = candidates(gpu, format);
        let kernels: Vec<_> = tilings.iter().flat_map(|t| product.kernels(gpu, *t, norm)).collect();
        gpu.compile_all(&kernels)?;
        let mut timed = Vec::new();
        for tiling in tilings {
            let steps = product.steps(gpu, tiling, norm)?;
            if timed.is_empty() {
                warm(gpu, &steps.iter().collect::<Vec<_>>(), 1, Duration::from_millis(WARM_MS))?;
            }
            let once = || gpu.time(&steps, 1);
            let seconds = once()?.min(once()?);
            timed.push((seconds, tiling, steps));
        }
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        timed.truncate(FINALISTS);
        let mut best: Option<(Tiling, Timed)> = None;
        for (_, tiling, steps) in &timed {
            let seconds = median(gpu, &steps.iter().collect::<Vec<_>>(), 1, effort.passes)?;
            if best.is_none_or(|(_, b)| product.timed(seconds).seconds < b.seconds) {
                best = Some((*tiling, product.timed(seconds)));
            }
        }
        let Some((tiling, timed)) = best else { continue };
        let entry = Entry { format: format.name().into(), k, m, tiling };
        tell(&entry, timed);
        tuning.entries.push(entry);
    }
    Ok(tuning)
}

/// Attention of one token over `len` positions of `layers` layers; per layer.
///
/// # Errors
/// When memory is short.
pub fn attention(gpu: &Gpu, heads: Heads, len: usize, splits: u32, effort: Effort) -> GpuResult<Timed> {
    let (lanes, chunks) = (gpu.lanes(), heads.chunks());
    let layers = if gpu.is_software() { 1 } else { 8 };
    let bytes = u64::from(heads.kv_heads * heads.capacity * chunks) * 16;
    let rows = gpu.buffer_of("attention", &[[0u32, len as u32 - 1, 0, 1]])?;
    let width = (heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    let qkv = gpu.buffer("attention", u64::from(width) * 4)?;
    fill(gpu, &qkv, width as usize, 0x807f_ffff, 0x3f00_0000)?;
    let out_row = layout::activation_row((heads.heads * heads.head_dim) as usize, lanes as usize);
    let partial = heads.heads * splits * attention::partial(heads);
    let (partial, out) =
        (gpu.buffer("attention", u64::from(partial) * 4)?, gpu.buffer("attention", out_row as u64 * 4)?);
    let constants = [("OS", out_row as f64)];
    let first = gpu.compile(&attention::text(heads, lanes, splits, None), &constants)?;
    let join = gpu.compile(&attention::combine(heads, lanes, splits.max(2)), &constants)?;
    let groups = heads.heads / attention::group(heads);
    let mut steps = Vec::new();
    for _ in 0..layers {
        let cache = || -> GpuResult<_> {
            let buffer = gpu.buffer("attention", bytes)?;
            fill(gpu, &buffer, bytes as usize / 4, 0x83ff_83ff, 0x3400_3400)?;
            Ok(buffer)
        };
        let (keys, values) = (cache()?, cache()?);
        let to = if splits == 1 { &out } else { &partial };
        steps.push(gpu.step(&first, &[&rows, &qkv, &keys, &values, to], [groups, splits, 1]));
        if splits > 1 {
            steps.push(gpu.step(&join, &[&partial, &out], [heads.heads, 1, 1]));
        }
    }
    let seconds = median(gpu, &steps.iter().collect::<Vec<_>>(), 1, effort.passes)? / f64::from(layers);
    let read = 2 * heads.kv_heads as u64 * len as u64 * u64::from(heads.head_dim) * 2;
    Ok(Timed { seconds, bytes: read })
}
