//! Products with weights in few bits, `y = x·wᵀ`, at the speed at which memory gives the weights.
//!
//! A matrix `[rows, columns]` lies in *panels* of [`LANES`] rows, so that the lanes of a vector are outputs
//! and nothing is ever added up across lanes. A panel is a sequence of *units*:
//!
//! ```text
//! Q8_0  64 columns   16 scales f16 of the first 32 columns, 16 of the others;
//!                    16 vectors of 16 × 4 bytes: of each row the columns 4v … 4v+3, as q + 128
//! Q4_0  64 columns   scales likewise;
//!                    8 vectors of 16 × 4 bytes: of each row the columns 8v … 8v+3 in the low halves
//!                    of the bytes, 8v+4 … 8v+7 in the high ones, as q + 8
//! bf16  2 columns    one vector of 16 pairs
//! ```
//!
//! Columns and rows beyond the matrix are zeros. For Q8_0 and Q4_0 the inputs are rounded to 8 bits in
//! blocks of 32 ([`Inputs`]); a block gives
//!
//! ```text
//! y += d_w · d_x · Σ (q_w + z)·q_x − z·Σ q_x        z = 128 or 8
//! ```
//!
//! in exact integers, and blocks are added in f32 in order: the result depends neither on the number of
//! threads nor on how many rows go together. For bf16 weights the inputs stay f32. The many rows of a
//! prompt go through tiles of bf16 where the machine has them (`amx`). The idea of eight-bit
//! inputs against blocks of weights is that of ggml (<https://github.com/ggml-org/ggml>).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod inputs;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(test)]
mod tests;

use model::quant::Format;

pub use inputs::Inputs;
use inputs::Row;

use crate::apart::Apart;
use crate::isa::Level;
use crate::memory::CpuResult;
use crate::{Buffer, Isa, Pool, RowsMut};

/// Rows of a panel.
pub const LANES: usize = 16;

/// Columns that share a scale.
const BLOCK: usize = Format::BLOCK;

/// Bytes of a vector: four of each lane.
const VECTOR: usize = 4 * LANES;

/// Bytes between what is read and what is fetched from memory for later. It comes into the second-level cache: the
/// buffers of the first hold 16 lines, too few to hide memory behind.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8192;

/// Bytes of a product that are worth waking threads for.
const WORTH: usize = 64 << 10;

/// Outputs of a panel.
pub type Lanes = [f32; LANES];

/// How weights lie in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pairs of bf16.
    Bf16,
    /// Eight bits and a scale.
    Q8,
    /// Four bits and a scale.
    Q4,
}

impl Kind {
    /// Of a format; `None` for f16, which no kernel here reads.
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::F16 => None,
            Format::Bf16 => Some(Kind::Bf16),
            Format::Q8_0 => Some(Kind::Q8),
            Format::Q4_0 => Some(Kind::Q4),
        }
    }

    fn format(self) -> Format {
        match self {
            Kind::Bf16 => Format::Bf16,
            Kind::Q8 => Format::Q8_0,
            Kind::Q4 => Format::Q4_0,
        }
    }

    /// Columns of a unit.
    fn unit_columns(self) -> usize {
        match self {
            Kind::Bf16 => 2,
            Kind::Q8 | Kind::Q4 => 2 * BLOCK,
        }
    }

    /// Bytes of a unit.
    fn unit_bytes(self) -> usize {
        match self {
            Kind::Bf16 => VECTOR,
            Kind::Q8 => 17 * VECTOR,
            Kind::Q4 => 9 * VECTOR,
        }
    }

    /// What is added to a weight so that it is not negative.
    fn zero(self) -> i32 {
        match self {
            Kind::Bf16 => 0,
            Kind::Q8 => 128,
            Kind::Q4 => 8,
        }
    }
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// AVX-512 with VNNI: made only where it was detected.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// NEON with dot products: made only where they were detected.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Plain Rust.
    Portable,
}

impl Unit {
    fn new(isa: Isa) -> Self {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx if avx512::detected() => Unit::Avx512,
            #[cfg(target_arch = "x86_64")]
            Level::Amx | Level::Avx512 | Level::Avx2 if avx2::detected() => Unit::Avx2,
            #[cfg(target_arch = "aarch64")]
            Level::Baseline if neon::detected() => Unit::Neon,
            _ => Unit::Portable,
        }
    }
}

/// A weight matrix in panels.
pub struct Panels {
    kind: Kind,
    rows: usize,
    columns: usize,
    data: Buffer<u8>,
}

impl Panels {
    /// Memory for `rows` rows of `columns` weights, not packed yet.
    pub fn reserve(kind: Kind, rows: usize, columns: usize) -> CpuResult<Self> {
        let panel = columns.div_ceil(kind.unit_columns()) * kind.unit_bytes();
        let data = Buffer::zeros_2d("weights in few bits", rows.div_ceil(LANES), panel)?;
        Ok(Self { kind, rows, columns, data })
    }

    /// Packs the weights that `fill` writes row by row, so that no matrix has to be there as a whole.
    ///
    /// They are finite and in the range of the format: `model::quant::Format::check`.
    pub fn pack(&mut self, pool: &Pool, fill: impl Fn(usize, &mut [f32]) + Sync) {
        let (format, panel) = (self.kind.format(), self.panel_bytes());
        let Self { kind, rows, columns, data } = self;
        let (kind, rows, columns) = (*kind, *rows, *columns);
        pool.each(RowsMut::new(data, panel), |index, panel| {
            let (mut bytes, mut values) = (vec![0; format.row_bytes(columns)], vec![0.0; columns]);
            for lane in 0..LANES {
                let row = index * LANES + lane;
                if row < rows {
                    fill(row, &mut values);
                } else {
                    // Becomes bytes that mean zero in every format.
                    values.fill(0.0);
                }
                format.quantize_row(&values, &mut bytes);
                write_lane(kind, &bytes, lane, panel);
            }
        });
    }

    /// Takes the weights of a matrix of the same kind and shape.
    pub fn copy(&mut self, from: &Self) {
        assert_eq!((self.kind, self.rows, self.columns), (from.kind, from.rows, from.columns));
        self.data.copy_from_slice(&from.data);
    }

    /// Inputs of the product.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that a product reads.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    fn panel_bytes(&self) -> usize {
        self.columns.div_ceil(self.kind.unit_columns()) * self.kind.unit_bytes()
    }

    /// Reads one row back.
    pub fn row(&self, row: usize, values: &mut [f32]) {
        let bytes = self.panel_bytes();
        let panel = &self.data[row / LANES * bytes..][..bytes];
        portable::read_lane(self.kind, panel, row % LANES, &mut values[..self.columns]);
    }

    /// The products of `n` inputs with all rows, `P` panels at a time.
    ///
    /// `y` is `[n, outputs]`; `finish` gets the first output's column, the place for some outputs of a row and
    /// what the `P` panels, or rows of panels, give there.
    pub fn product<const P: usize>(
        &self,
        isa: Isa,
        pool: &Pool,
        x: &Inputs,
        n: usize,
        y: &mut [f32],
        finish: impl Fn(usize, &mut [f32], [&[f32]; P]) + Sync,
    ) {
        let (unit, bytes) = (Unit::new(isa), self.panel_bytes());
        #[cfg(target_arch = "x86_64")]
        if let Some(halves) = x.halves(n) {
            return self.many(pool, halves, n, y, finish);
        }
        let (groups, width) = (self.rows.div_ceil(LANES * P), y.len() / n);
        assert!(width <= groups * LANES && self.columns == x.columns() && self.kind == x.kind());
        let y = Apart::new(y);
        let one = |group: usize| {
            let panel = |p| &self.data[(group * P + p) * bytes..][..bytes];
            let column = width.min(group * LANES);
            let len = LANES.min(width - column);
            let mut first = 0;
            while first < n {
                // SAFETY: this task alone has this group, and each row of it comes once.
                let out = |row| unsafe { y.part((first + row) * width + column, len) };
                let many = n - first;
                first += if many >= 8 {
                    rows::<8, P>(unit, self.kind, panel, x, first, out, |y, v| finish(column, y, v))
                } else if many >= 4 {
                    rows::<4, P>(unit, self.kind, panel, x, first, out, |y, v| finish(column, y, v))
                } else if many >= 2 {
                    rows::<2, P>(unit, self.kind, panel, x, first, out, |y, v| finish(column, y, v))
                } else {
                    rows::<1, P>(unit, self.kind, panel, x, first, out, |y, v| finish(column, y, v))
                };
            }
        };
        if groups * P * bytes * n < WORTH {
            (0..groups).for_each(one);
        } else {
            pool.run(groups, one);
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Panels {
    /// [`Panels::product`] on tiles.
    fn many<const P: usize>(
        &self,
        pool: &Pool,
        x: &[u16],
        n: usize,
        y: &mut [f32],
        finish: impl Fn(usize, &mut [f32], [&[f32]; P]) + Sync,
    ) {
        let (bytes, width, padded) = (self.panel_bytes(), y.len() / n, inputs::padded(self.columns));
        let panels = self.rows.div_ceil(LANES * P) * P;
        let y = Apart::new(y);
        // Several tasks for each thread, so that all end together.
        let per_task = panels.div_ceil(4 * pool.threads()).next_multiple_of(2).min(amx::PANELS);
        pool.run_with_scratch(panels.div_ceil(per_task), |task, scratch| {
            let first = task * per_task;
            let count = per_task.min(panels - first);
            let panel = |p: usize| &self.data[(first + p) * bytes..][..bytes];
            // SAFETY: inputs were rounded for tiles because they are there; panels are whole units.
            unsafe { amx::products(self.kind, count, panel, x, padded, scratch) };
            let column = width.min(first / P * LANES);
            let mut sums = [[0.0; amx::PANELS * LANES]; P];
            for row in 0..n {
                for (p, sums) in sums.iter_mut().enumerate() {
                    for (group, sums) in sums.as_chunks_mut::<LANES>().0[..count / P].iter_mut().enumerate() {
                        *sums = *amx::lanes(scratch, n, group * P + p, row);
                    }
                }
                // SAFETY: this task alone has these panels.
                let y = unsafe { y.part(row * width + column, (count / P * LANES).min(width - column)) };
                finish(column, y, sums.each_ref().map(|sums| &sums[..]));
            }
        });
    }
}

/// Whether products of so many rows go through tiles.
pub fn on_tiles(isa: Isa, rows: usize) -> bool {
    rows >= inputs::MANY && isa.tiles()
}

/// Numbers of scratch that each thread needs for products of up to `rows` inputs.
pub fn scratch(isa: Isa, rows: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles() {
        return amx::scratch(rows);
    }
    let _ = (isa, rows);
    0
}

/// `steps` rounds of products of bytes without memory, for the peak: the operations of all of them; `None`
/// without instructions that take four bytes at once.
pub fn spin(isa: Isa, steps: usize) -> Option<usize> {
    match Unit::new(isa) {
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 => {
            // SAFETY: this unit is there.
            unsafe { crate::spin::bytes(steps) };
            Some(2 * steps * crate::spin::BYTES)
        }
        _ => {
            let _ = steps;
            None
        }
    }
}

/// The products of `M` inputs from `first` on with `P` panels. Returns `M`.
#[inline(always)]
fn rows<'a, 'y, const M: usize, const P: usize>(
    unit: Unit,
    kind: Kind,
    panel: impl Fn(usize) -> &'a [u8],
    x: &Inputs,
    first: usize,
    out: impl Fn(usize) -> &'y mut [f32],
    finish: impl Fn(&mut [f32], [&[f32]; P]),
) -> usize {
    let x: [Row<'_>; M] = std::array::from_fn(|row| x.row(first + row));
    let mut sums = [[[0.0; LANES]; M]; P];
    for (p, sums) in sums.iter_mut().enumerate() {
        dots(unit, kind, panel(p), &x, sums);
    }
    (0..M).for_each(|row| finish(out(row), std::array::from_fn(|p| &sums[p][row][..])));
    M
}

/// One panel with `M` inputs.
#[inline(always)]
fn dots<const M: usize>(unit: Unit, kind: Kind, panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
    let units = panel.len() / kind.unit_bytes();
    for x in x {
        assert!(match kind {
            Kind::Bf16 => x.values.len() >= 2 * units,
            Kind::Q8 | Kind::Q4 =>
                x.quants.len() >= units * 2 * BLOCK
                    && x.scales.len() >= 2 * units
                    && x.offsets.len() >= 2 * units,
        });
    }
    match unit {
        // SAFETY: this unit is there; the panel is whole units and the inputs are as long (asserted).
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 => unsafe {
            match kind {
                Kind::Bf16 => avx512::bf16(panel, x, y),
                Kind::Q8 => avx512::q8(panel, x, y),
                Kind::Q4 => avx512::q4(panel, x, y),
            }
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx2 => unsafe {
            match kind {
                Kind::Bf16 => avx2::bf16(panel, x, y),
                Kind::Q8 => avx2::q8(panel, x, y),
                Kind::Q4 => avx2::q4(panel, x, y),
            }
        },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Unit::Neon => unsafe {
            match kind {
                Kind::Bf16 => portable::bf16(panel, x, y),
                Kind::Q8 => neon::q8(panel, x, y),
                Kind::Q4 => neon::q4(panel, x, y),
            }
        },
        Unit::Portable => match kind {
            Kind::Bf16 => portable::bf16(panel, x, y),
            Kind::Q8 | Kind::Q4 => portable::quants(kind, panel, x, y),
        },
    }
}

/// Writes a row of GGUF blocks, or of bf16, into its lane of a panel.
fn write_lane(kind: Kind, row: &[u8], lane: usize, panel: &mut [u8]) {
    match kind {
        Kind::Bf16 => {
            for (pair, unit) in row.chunks(4).zip(panel.chunks_exact_mut(kind.unit_bytes())) {
                unit[4 * lane..][..pair.len()].copy_from_slice(pair);
            }
        }
        Kind::Q8 | Kind::Q4 => {
            let block = kind.format().block_bytes();
            let vectors = (kind.unit_bytes() / VECTOR - 1) / 2;
            let zeros = match kind {
                Kind::Q4 => [0x88; 4],
                _ => [0x80; 4],
            };
            for (blocks, unit) in row.chunks(2 * block).zip(panel.chunks_exact_mut(kind.unit_bytes())) {
                let (scales, quants) = unit.split_at_mut(VECTOR);
                for half in 0..2 {
                    let block = blocks.get(half * block..(half + 1) * block);
                    for v in 0..vectors {
                        let at = (half * vectors + v) * VECTOR + 4 * lane;
                        quants[at..at + 4].copy_from_slice(&block.map_or(zeros, |b| four(kind, &b[2..], v)));
                    }
                    if let Some(block) = block {
                        scales[half * VECTOR / 2 + 2 * lane..][..2].copy_from_slice(&block[..2]);
                    }
                }
            }
        }
    }
}

/// The four bytes of a lane in vector `v`, of the integers of a GGUF block.
fn four(kind: Kind, quants: &[u8], v: usize) -> [u8; 4] {
    match kind {
        Kind::Q4 => std::array::from_fn(|i| {
            let half =
                |column: usize| if column < 16 { quants[column] & 15 } else { quants[column - 16] >> 4 };
            half(8 * v + i) | half(8 * v + 4 + i) << 4
        }),
        _ => std::array::from_fn(|i| quants[4 * v + i] ^ 0x80),
    }
}
