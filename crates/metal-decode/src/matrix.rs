//! Weight matrices on the device, cut by rows where one binding would be too large.

use model::quant::{Format, Quantized};

use crate::gpu::{Buffer, Gpu};
use crate::kernels::stream;
use crate::{GpuError, GpuResult, layout};

/// A matrix `[rows, columns]` in the device's layout.
pub struct Matrix {
    /// How its numbers are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Its rows, in order.
    pub parts: Vec<Part>,
}

/// Some rows of a matrix.
pub struct Part {
    /// 16-byte words, see [`layout`].
    pub words: Buffer,
    /// Scales of the blocks, in pairs of f16; a few unused bytes where the format has none.
    pub scales: Buffer,
    /// Its first row.
    pub first: usize,
    /// Rows.
    pub rows: usize,
}

/// Where the numbers of a matrix come from.
pub enum Numbers<'a> {
    /// Row by row.
    Rows(&'a dyn Fn(usize) -> &'a [f32]),
    /// Numbers that mean nothing, of a size that keeps activations finite: for benchmarks of shapes.
    Noise,
}

/// Bytes of a matrix on the device.
pub fn bytes(format: Format, rows: usize, columns: usize) -> u64 {
    let blocks = columns.div_ceil(layout::BLOCK) as u64;
    let scales = if layout::scaled(format) { 2 } else { 0 };
    rows as u64 * blocks * (16 * layout::words(format) as u64 + scales)
}

/// Blocks of a row.
pub fn blocks(columns: usize) -> usize {
    columns.div_ceil(layout::BLOCK)
}

impl Matrix {
    /// Loads a matrix; `most` bytes at most in one binding, and no more than the device takes.
    ///
    /// # Errors
    /// When memory is short, or a number does not fit the format.
    pub fn load(
        gpu: &Gpu,
        name: &str,
        format: Format,
        (rows, columns): (usize, usize),
        numbers: &Numbers<'_>,
        most: u64,
    ) -> GpuResult<Self> {
        let row_words = blocks(columns) * layout::words(format) * 4;
        let per_part = (most.min(gpu.max_binding()) / (4 * row_words as u64)) as usize;
        // An even number, so that pairs of rows stay together and scales stay in whole words.
        let per_part = (per_part / 2 * 2).min(rows.next_multiple_of(2));
        if per_part == 0 {
            let error = format!("a row of `{name}` has {row_words} words, more than one binding holds");
            return Err(GpuError::Shape(error));
        }
        let mut parts = Vec::new();
        for first in (0..rows).step_by(per_part) {
            let part = Self::part(gpu, name, format, first, per_part.min(rows - first), columns, numbers)?;
            parts.push(part);
        }
        Ok(Self { format, rows, columns, parts })
    }

    fn part(
        gpu: &Gpu,
        name: &str,
        format: Format,
        first: usize,
        rows: usize,
        columns: usize,
        numbers: &Numbers<'_>,
    ) -> GpuResult<Part> {
        let blocks = blocks(columns);
        let (row_words, row_scales) = (blocks * layout::words(format) * 4, blocks);
        let scale_bytes = if layout::scaled(format) { (rows * row_scales * 2) as u64 } else { 16 };
        let words = gpu.buffer(name, (rows * row_words * 4) as u64)?;
        let scales = gpu.buffer(name, scale_bytes)?;
        let Numbers::Rows(row) = numbers else {
            // Halves of either sign around 1/16, or any integers with scales around 1/500.
            let (and, or) = match format {
                Format::F16 => (0x83ff_83ff, 0x2c00_2c00),
                Format::Bf16 => (0x807f_807f, 0x3d80_3d80),
                Format::Q8_0 | Format::Q4_0 => (u32::MAX, 0),
            };
            fill(gpu, &words, rows * row_words, and, or)?;
            if layout::scaled(format) {
                fill(gpu, &scales, rows * row_scales / 2, 0x03ff_03ff, 0x1400_1400)?;
            }
            return Ok(Part { words, scales, first, rows });
        };
        let at_once = ((16 << 20) / (4 * row_words)).max(2) / 2 * 2;
        for start in (0..rows).step_by(at_once) {
            let n = at_once.min(rows - start);
            let mut some_words = vec![0u32; n * row_words];
            let mut some_scales = vec![0u16; n * row_scales];
            let each = some_words.chunks_exact_mut(row_words).zip(some_scales.chunks_exact_mut(row_scales));
            for (i, (words, scales)) in each.enumerate() {
                let values = row(first + start + i);
                let row = Quantized::new(format, columns, values)
                    .map_err(|source| GpuError::Weight { name: name.to_owned(), source })?;
                layout::repack_row(format, columns, gpu.lanes() as usize, row.bytes(), words, scales);
            }
            gpu.write(&words, (start * row_words * 4) as u64, &some_words);
            if layout::scaled(format) {
                gpu.write(&scales, (start * row_scales * 2) as u64, &some_scales);
            }
        }
        // Staging memory is given back before more is taken.
        gpu.flush();
        Ok(Part { words, scales, first, rows })
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        bytes(self.format, self.rows, self.columns)
    }
}

/// Fills words with a masked hash.
pub fn fill(gpu: &Gpu, buffer: &Buffer, words: usize, and: u32, or: u32) -> GpuResult<()> {
    let constants = [("N", words as f64), ("AND", f64::from(and)), ("OR", f64::from(or))];
    let kernel = gpu.compile(stream::FILL, &constants)?;
    let groups = (words as u32).div_ceil(stream::THREADS).clamp(1, 8192);
    gpu.submit([&gpu.step(&kernel, &[buffer], [groups, 1, 1])], 0, &[], None);
    gpu.wait();
    Ok(())
}
