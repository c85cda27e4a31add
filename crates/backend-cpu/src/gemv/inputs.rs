//! Inputs of a product: rounded to 8 bits in blocks, or f32.

use super::{BLOCK, Kind};
use crate::isa::simd;
use crate::kernels::vector::{LANES, joined, total};
use crate::memory::CpuResult;
use crate::{Buffer, Isa, Pool, Rows, RowsMut};

/// Rows of inputs, filled up with zeros to whole units.
///
/// ```text
/// d = max|x| / 127        q = round(x / d)        offset = −z · Σ q
/// ```
#[derive(Default)]
pub struct Inputs {
    kind: Option<Kind>,
    columns: usize,
    padded: usize,
    quants: Buffer<i8>,
    scales: Buffer<f32>,
    offsets: Buffer<i32>,
    values: Buffer<f32>,
    /// Rounded to bf16, tile by tile, [`super::amx`]; empty without tiles.
    #[cfg(target_arch = "x86_64")]
    halves: Buffer<u16>,
    /// Whether those are the rows now.
    #[cfg(target_arch = "x86_64")]
    many: bool,
}

/// Rows from which on tiles pay.
pub(super) const MANY: usize = 24;

#[cfg(target_arch = "x86_64")]
use super::amx::{TILE_COLUMNS, TILE_ROWS};

/// Columns of inputs for tiles.
#[cfg(target_arch = "x86_64")]
pub(super) fn padded(columns: usize) -> usize {
    columns.next_multiple_of(2 * BLOCK)
}

/// One row.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub quants: &'a [i8],
    /// Of each block.
    pub scales: &'a [f32],
    /// Of each block.
    pub offsets: &'a [i32],
    /// The inputs as they are, for bf16 weights only.
    pub values: &'a [f32],
}

impl Inputs {
    /// Room for `rows` rows of at most `columns` columns.
    pub fn new(isa: Isa, kind: Kind, rows: usize, columns: usize) -> CpuResult<Self> {
        let padded = columns.next_multiple_of(kind.unit_columns());
        let what = "rounded activations";
        let mut inputs = Self { kind: Some(kind), ..Self::default() };
        match kind {
            Kind::Bf16 => inputs.values = Buffer::zeros_2d(what, rows, padded)?,
            Kind::Q8 | Kind::Q4 => {
                inputs.quants = Buffer::zeros_2d(what, rows, padded)?;
                inputs.scales = Buffer::zeros_2d(what, rows, padded / BLOCK)?;
                inputs.offsets = Buffer::zeros_2d(what, rows, padded / BLOCK)?;
            }
        }
        #[cfg(target_arch = "x86_64")]
        if super::on_tiles(isa, rows) {
            let rows = rows.next_multiple_of(super::amx::ROWS);
            inputs.halves = Buffer::zeros_2d(what, rows, self::padded(columns))?;
        }
        let _ = isa;
        Ok(inputs)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind.expect("made for a kind")
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Takes rows of `columns` numbers, in place of those before.
    pub fn set(&mut self, isa: Isa, pool: &Pool, x: &[f32], columns: usize) {
        /// Rows of a task.
        const ROWS: usize = 16;
        let (kind, n) = (self.kind(), x.len() / columns);
        let padded = columns.next_multiple_of(kind.unit_columns());
        (self.columns, self.padded) = (columns, padded);
        #[cfg(target_arch = "x86_64")]
        {
            self.many = n >= MANY && !self.halves.is_empty();
            if self.many {
                let padded = self::padded(columns);
                let rows = n.next_multiple_of(TILE_ROWS);
                let halves = RowsMut::new(&mut self.halves[..rows * padded], TILE_ROWS * padded);
                let x = Rows::new(x, TILE_ROWS * columns);
                return pool.each((x, halves), |_, (x, tiles)| {
                    for (row, x) in x.chunks_exact(columns).enumerate() {
                        round_halves(isa, x, row, tiles);
                    }
                });
            }
        }
        let x = Rows::new(x, ROWS * columns);
        match kind {
            Kind::Bf16 => {
                let values = RowsMut::new(&mut self.values[..n * padded], ROWS * padded);
                pool.each((x, values), |_, (x, values)| {
                    for (x, values) in x.chunks_exact(columns).zip(values.chunks_exact_mut(padded)) {
                        values[..columns].copy_from_slice(x);
                        values[columns..].fill(0.0);
                    }
                });
            }
            Kind::Q8 | Kind::Q4 => {
                let blocks = padded / BLOCK;
                let quants = RowsMut::new(&mut self.quants[..n * padded], ROWS * padded);
                let scales = RowsMut::new(&mut self.scales[..n * blocks], ROWS * blocks);
                let offsets = RowsMut::new(&mut self.offsets[..n * blocks], ROWS * blocks);
                pool.each((x, quants, scales, offsets), |_, (x, quants, scales, offsets)| {
                    let rows = quants.chunks_exact_mut(padded).zip(scales.chunks_exact_mut(blocks));
                    let rows = rows.zip(offsets.chunks_exact_mut(blocks));
                    for (x, ((quants, scales), offsets)) in x.chunks_exact(columns).zip(rows) {
                        round(isa, kind.zero(), x, quants, scales, offsets);
                    }
                });
            }
        }
    }

    /// All rows for tiles, when they were rounded for them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn halves(&self, n: usize) -> Option<&[u16]> {
        let rows = n.next_multiple_of(super::amx::ROWS);
        self.many.then(|| &self.halves[..rows * self::padded(self.columns)])
    }

    pub(super) fn row(&self, row: usize) -> Row<'_> {
        fn part<T>(all: &[T], row: usize, len: usize) -> &[T] {
            if all.is_empty() { &[] } else { &all[row * len..][..len] }
        }
        Row {
            quants: part(&self.quants, row, self.padded),
            scales: part(&self.scales, row, self.padded / BLOCK),
            offsets: part(&self.offsets, row, self.padded / BLOCK),
            values: part(&self.values, row, self.padded),
        }
    }
}

#[cfg(target_arch = "x86_64")]
simd! {
    /// To the nearest bf16, to the even one of two, into a row of tiles; NaN stays NaN.
    fn round_halves(x: &[f32], row: usize, tiles: &mut [u16]) {
        for (step, tile) in tiles.chunks_exact_mut(TILE_ROWS * TILE_COLUMNS).enumerate() {
            let to: &mut [u16; TILE_COLUMNS] =
                tile[row * TILE_COLUMNS..].first_chunk_mut().expect("a row of a tile");
            let from = x.len().min(step * TILE_COLUMNS);
            let x = &x[from..x.len().min(from + TILE_COLUMNS)];
            match x.as_array::<TILE_COLUMNS>() {
                Some(x) => (0..TILE_COLUMNS).for_each(|i| to[i] = half(x[i])),
                None => (0..TILE_COLUMNS).for_each(|i| to[i] = x.get(i).map_or(0, |&x| half(x))),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn half(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
    (if x.is_nan() { bits | 0x40_0000 } else { rounded } >> 16) as u16
}

simd! {
    fn round(zero: i32, x: &[f32], quants: &mut [i8], scales: &mut [f32], offsets: &mut [i32]) {
        let (quants, _) = quants.as_chunks_mut::<BLOCK>();
        for (block, ((quants, scale), offset)) in quants.iter_mut().zip(scales).zip(offsets).enumerate() {
            let from = x.len().min(block * BLOCK);
            let x = &x[from..x.len().min(from + BLOCK)];
            match x.as_array::<BLOCK>() {
                Some(x) => (*scale, *offset) = round_block(zero, x, quants),
                None => {
                    let mut padded = [0.0; BLOCK];
                    padded[..x.len()].copy_from_slice(x);
                    (*scale, *offset) = round_block(zero, &padded, quants);
                }
            }
        }
    }
}

/// Scale and offset of a block.
#[inline(always)]
fn round_block(zero: i32, x: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, i32) {
    /// 1.5·2²³: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.as_chunks::<LANES>().0;
    let (mut most, mut wrong) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x {
        for l in 0..LANES {
            let size = x[l].abs();
            most[l] = if size > most[l] { size } else { most[l] };
            // Zero, unless the number is not finite.
            wrong[l] += x[l] * 0.0;
        }
    }
    let most = joined(most, |a, b| if b > a { b } else { a });
    let wrong = total(wrong);
    let inverse = if most > 0.0 { 127.0 / most } else { 0.0 };
    let mut sums = [0i32; LANES];
    for (x, quants) in x.iter().zip(quants.as_chunks_mut::<LANES>().0) {
        for l in 0..LANES {
            let bits = (x[l] * inverse + ROUND).to_bits() as i32;
            quants[l] = bits as i8;
            sums[l] = sums[l].wrapping_add(bits.wrapping_sub(ROUND.to_bits() as i32));
        }
    }
    // What is not finite stays so through the scale; whatever integers it gave do not matter.
    let sum = joined(sums, i32::wrapping_add);
    (most / 127.0 + wrong, sum.wrapping_mul(-zero))
}
