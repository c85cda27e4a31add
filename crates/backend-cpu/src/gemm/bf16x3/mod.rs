//! Products in f32 on tiles that multiply bf16.
//!
//! A number of 24 bits is the exact sum of three of 8: `x = hi + mid + lo`. Of the nine products of
//! parts six are added up in f32; `mid·lo`, `lo·mid` and `lo·lo`, left out, are at most 2⁻²⁴ of the
//! product together, which is what rounding it once costs. Source: Henry, Tang & Heinecke 2019,
//! arXiv:1904.06376.
//!
//! Both operands are cut into *bands* of 32 rows (of `a`) or columns (of `b`), and each band into
//! *steps* of 32 numbers of depth: two tiles of each part, 6 KB. Numbers `p` and `16 + p` of a step
//! make a pair, so that pairs come from whole vectors without moving anything sideways.
//!
//! The operand with fewer rows or columns is packed once for all threads, the other one by the tasks,
//! each its own part. A tile of rows (the left side of the instruction) comes easily from memory in
//! which the depth is contiguous, a tile of columns (its right side) from the other kind. So `a` may be on
//! the right, whereupon the result comes out turned: see [`Sides`].
//!
//! Each number of `c` is a sum over `k` in order, in blocks of at most [`KC`]. Parts of numbers, and
//! products of parts, below the smallest normal number count as zero, so that all 24 bits count from
//! 2⁻¹⁰⁹ on. What has an infinite number in its row or column becomes NaN; what overflows becomes
//! infinite.

mod pack;
mod tiles;

use super::{Into, Mat, Shared, Target, Task, blocks};
use crate::isa::Level;
use crate::memory::HUGE_FROM;
use crate::{Buffer, CpuError, Isa};

/// Numbers of a vector, rows of a tile, pairs of a step.
const V: usize = 16;
/// Rows, or columns, of a band.
const BAND: usize = 2 * V;
/// Depth of a step.
const STEP: usize = 2 * V;
/// Pairs of a tile.
const TILE: usize = V * V;
/// Pairs of a step of a band: hi, mid and lo, two tiles each.
const PARTS: usize = 6 * TILE;
/// Products in bf16 that make one in f32.
pub(crate) const PRODUCTS_OF_PARTS: usize = 6;
/// Deepest block.
const KC: usize = 1024;
/// Most rows, or columns, of the operand that all threads read at once: 12 MB at full depth.
const SHARED: usize = 2048;
/// Most rows, or columns, of one task: 1.2 MB at full depth.
const TASK: usize = 6 * BAND;
/// Tasks per thread that a product is cut into where that leaves a band; no sum depends on it.
const TASKS: usize = 4;
/// Rows, or columns, of a task that packs for all threads.
const PACK: usize = 2 * BAND;
/// Fewest rows, and columns, of a product that is worth a tile.
pub(super) const LEAST: usize = V;

/// Numbers that a task packs for itself, and its sums: 1.2 MB, and more so that they lie in huge pages,
/// which is worth a twentieth.
pub(super) const SCRATCH: usize = {
    let used = TASK * KC / 2 * 3 + TASK * BAND;
    let least = HUGE_FROM / 4;
    if used > least { used } else { least }
};

/// Places for the sums of squares of a product: one for each band of what tasks share out, so that the
/// width of tasks does not matter.
pub(super) fn squares(m: usize, n: usize) -> usize {
    m.max(n).div_ceil(BAND)
}

/// Memory for the operand that all threads read.
pub(super) struct Packs {
    isa: Isa,
    threads: usize,
    shared: Buffer<u32>,
}

/// Where an operand stands in the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Tiles of rows.
    Left,
    /// Tiles of columns.
    Right,
}

impl Side {
    /// What costs nothing to pack; rows are the numbers side by side, columns the depth.
    fn of(x: Mat<'_>) -> Self {
        if x.col_stride == 1 { Side::Left } else { Side::Right }
    }

    fn other(self) -> Self {
        if self == Side::Left { Side::Right } else { Side::Left }
    }
}

/// Who stands where.
#[derive(Clone, Copy, Debug)]
struct Sides {
    /// The operand of the tasks.
    own: Side,
    /// Whether tiles of the result are turned.
    turned: bool,
}

impl Sides {
    /// The cheaper of two ways: turning an operand is three exchanges per pair of tiles of it, turning
    /// the result one per tile.
    fn new(own: Mat<'_>, shared: Mat<'_>, own_is_a: bool) -> Self {
        let way = |side: Side| {
            let turned = own_is_a != (side == Side::Left);
            let turn = |x: Mat<'_>, side| if Side::of(x) == side { 0 } else { 3 * x.rows * x.cols };
            let result = if turned { 2 * own.rows * shared.rows } else { 0 };
            (turn(own, side) + turn(shared, side.other()) + result, Self { own: side, turned })
        };
        let (left, right) = (way(Side::Left), way(Side::Right));
        if left.0 < right.0 { left.1 } else { right.1 }
    }
}

impl Packs {
    pub(super) fn new(isa: Isa, threads: usize) -> Result<Self, CpuError> {
        let len = if isa.level() == Level::Amx { SHARED * KC / 2 * 3 } else { 0 };
        Ok(Self { isa, threads, shared: Buffer::zeros("packed operands", len)? })
    }

    /// Bytes of the shared operand that a product writes.
    pub(super) fn shared_bytes(m: usize, n: usize, k: usize) -> usize {
        6 * m.min(n).next_multiple_of(BAND).min(SHARED) * k.next_multiple_of(STEP).min(KC)
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`. `run` gives each task [`SCRATCH`] numbers.
    pub(super) fn matmul(
        &mut self,
        run: impl Fn(usize, &Task<'_>),
        alpha: f32,
        a: Mat<'_>,
        b: Mat<'_>,
        into: Into,
        c: Target,
    ) {
        assert!(self.isa.level() == Level::Amx);
        // What more products are added to comes back soon.
        let into = if into == Into::Stream && a.cols > KC { Into::Set } else { into };
        let packed = Shared(self.shared.as_mut_ptr());
        let own_is_a = a.rows > b.cols;
        let (own, shared) = if own_is_a { (a, b.t()) } else { (b.t(), a) };
        let sides = Sides::new(own, shared, own_is_a);
        let width = (own.rows / (TASKS * self.threads)).next_multiple_of(BAND).clamp(BAND, TASK);
        for (s0, extent) in blocks(shared.rows, SHARED, PACK) {
            for (p0, depth) in blocks(own.cols, KC, STEP) {
                let into = if p0 == 0 { into } else { Into::Add };
                let pairs = depth.div_ceil(STEP) * PARTS / BAND;
                run(extent.div_ceil(PACK), &|task, _| {
                    let start = task * PACK;
                    let part = shared.part(s0 + start, PACK.min(extent - start), p0, depth);
                    // SAFETY: the instructions are there (asserted above); tasks write different
                    // bands, at most SHARED rows and KC deep in all.
                    unsafe { pack::pack(part, sides.own.other(), packed.at(start * pairs)) };
                });
                run(own.rows.div_ceil(width), &|task, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let (sums, scratch) = scratch.split_at_mut(TASK * BAND);
                    let start = task * width;
                    let part = own.part(start, width.min(own.rows - start), p0, depth);
                    let corner = if own_is_a { (start, s0) } else { (s0, start) };
                    let task = tiles::Product {
                        sides,
                        own: (scratch.as_mut_ptr().cast(), part.rows),
                        shared: (packed.at(0), extent),
                        own_is_a,
                        steps: depth.div_ceil(STEP),
                        sums: sums.as_mut_ptr(),
                    };
                    // SAFETY: the instructions are there; the bands fit the scratch; the shared ones
                    // were packed above; this task alone writes this part of `c`.
                    unsafe {
                        pack::pack(part, sides.own, scratch.as_mut_ptr().cast());
                        let c = c.of_task(start / BAND, p0 + depth == own.cols);
                        task.run(alpha, into, c.at(corner.0, corner.1));
                    }
                });
            }
        }
    }
}
