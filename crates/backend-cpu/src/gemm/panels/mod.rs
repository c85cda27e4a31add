//! Our own kernel on packed operands: f32 with AVX-512, bf16 with AVX-512 BF16 or without.
//!
//! `a` is cut into panels of [`MR`] rows, stored `[steps][MR]`; `b` into panels of [`NR`] columns, stored
//! `[steps][columns]`, columns padded with zeros to whole vectors of [`V`]. A step is one number of the depth in f32;
//! in bf16 it is two that follow each other, a *pair*, in the same 32 bits. The kernel keeps an `MR × NR` tile of `c`
//! in 24 registers, and per step loads 3 vectors of `b` and broadcasts 8 numbers of `a` for 24 multiply-adds. Packing
//! absorbs transposes. Structure: Goto & van de Geijn 2008, doi:10.1145/1356052.1356053.
//!
//! The operand with fewer rows or columns is packed once for all threads. The other one is cut into
//! tasks, each of which packs its part into the second-level cache of its own core and multiplies
//! it at once: a large weight matrix is read from memory once and never written back packed.
//!
//! Each number of `c` is a sum over the depth in order, in blocks that the shape alone decides. Driver, layouts and the
//! order of all sums in bf16 are the same with the instructions and without them.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512_f32;
mod plain_bf16;
#[cfg(test)]
mod tests;
mod unit;

use super::{Into, Left, Mat, Packed, Right, Shared, Target, Tasks, blocks};
use crate::{Buffer, CpuError, Isa};
pub(super) use unit::Unit;

/// Rows of a panel of `a`.
const MR: usize = 8;
/// Numbers of 32 bits of a vector.
pub(super) const V: usize = 16;
/// Columns of a panel of `b`.
pub(super) const NR: usize = 3 * V;
/// Most steps of a block: a panel of `b` of this depth is 74 KB, one of `a` 12 KB.
const STEPS: usize = 384;
/// Numbers of the operand that all threads read: 4 MiB.
const SHARED: usize = 1 << 20;
/// Most rows, or columns, of that operand at once.
const SHARED_ROWS: usize = 43 * NR;
/// Rows of it that pass by while a task's panels stay in the second-level cache beside them: 393 KB.
const PASS_ROWS: usize = 256;
/// Multiply-adds that make a task worth handing out.
const WORK: usize = 4 << 20;
/// Most rows of `a`, and most panels of `b`, that a task packs for itself.
const TASK_ROWS: usize = 128;
const TASK_PANELS: usize = 4;
/// Tasks per thread where that leaves a task no more than that; no sum depends on it.
const TASKS_PER_THREAD: usize = 4;
/// Rows whose squares are summed by themselves.
const SQUARE_ROWS: usize = 2 * MR;
/// Rows, and columns, of a task that packs for all threads.
const PACK_ROWS: usize = 8 * V;
const PACK_COLS: usize = 4 * NR;
/// Vectors between the prefetch of a number that is packed and its use: matrices come from the last cache
/// or from memory, in strides that the processor does not foresee.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4;

// Blocks of depth, rows and columns end at borders of what is packed together, and fit the memory.
const _: () = assert!(STEPS.is_multiple_of(2 * V) && SHARED / SHARED_ROWS >= STEPS);
const _: () = assert!(SHARED_ROWS.is_multiple_of(NR) && SHARED_ROWS.is_multiple_of(MR));
const _: () = assert!(PACK_ROWS.is_multiple_of(2 * MR) && PACK_COLS.is_multiple_of(NR));
const _: () = assert!(PASS_ROWS.is_multiple_of(MR) && TASK_ROWS.is_multiple_of(SQUARE_ROWS));

/// Columns of a block of `pairs` pairs of columns after [`Unit::turn`].
fn turned_width(pairs: usize) -> usize {
    (2 * pairs).next_multiple_of(V)
}

/// Places for the sums of squares of a product: one for some rows, or a panel of columns.
pub(super) fn squares(m: usize, n: usize) -> usize {
    m.div_ceil(SQUARE_ROWS).max(n.div_ceil(NR))
}

/// Memory for the operand that all threads read.
pub(super) struct Packs {
    isa: Isa,
    shared: Buffer<u32>,
}

/// Numbers that a task packs for itself.
pub(super) const SCRATCH: usize =
    if TASK_ROWS > TASK_PANELS * NR { TASK_ROWS } else { TASK_PANELS * NR } * STEPS;

impl Packs {
    pub(super) fn new(isa: Isa) -> Result<Self, CpuError> {
        Ok(Self { isa, shared: Buffer::zeros("packed operands", SHARED)? })
    }

    /// Bytes of the shared operand that a product writes. Those of packed weights share the left one.
    pub(super) fn shared_bytes(&self, unit: Unit, m: usize, n: usize, k: usize) -> usize {
        let rows = m.min(n.next_multiple_of(V)).min(SHARED_ROWS);
        4 * (rows * unit.steps(k)).min(self.shared.len())
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`. Threads have [`SCRATCH`] numbers each.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn matmul(
        &mut self,
        unit: Unit,
        tasks: Tasks<'_>,
        alpha: f32,
        a: Left<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        let a = a.packed_by(PACK_ROWS, tasks);
        match b {
            Right::Plain(b) if a.mat().rows > b.cols => self.by_rows(unit, tasks, alpha, a, b, into, c),
            _ => self.by_columns(unit, tasks, alpha, a, b, into, c),
        }
    }

    /// All threads read `a`; each task has some columns.
    #[allow(clippy::too_many_arguments)]
    fn by_columns(
        &mut self,
        unit: Unit,
        tasks: Tasks<'_>,
        alpha: f32,
        left: Left<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        let (isa, shared) = (self.isa, Shared(self.shared.as_mut_ptr()));
        let a = left.mat();
        let (m, k, n) = (a.rows, a.cols, b.shape().1);
        let together = unit.together();
        for (i0, rows) in blocks(m, SHARED_ROWS, MR) {
            let most = SHARED / rows.next_multiple_of(MR) / STEPS * STEPS * together;
            for (p0, depth) in blocks(k, most, STEPS * together) {
                let into = if p0 == 0 { into } else { Into::Add };
                let (a, steps) = (a.part(i0, rows, p0, depth), unit.steps(depth));
                tasks.run(rows.div_ceil(PACK_ROWS), |task, _| {
                    let row = task * PACK_ROWS;
                    let part = a.part(row, PACK_ROWS.min(rows - row), 0, depth);
                    // SAFETY: tasks make different rows, and write different panels, of SHARED numbers in all.
                    unsafe {
                        if p0 == 0 {
                            left.make(i0 + row, part.rows);
                        }
                        unit.pack_rows(part, shared.at(row * steps));
                    }
                });
                let worth = WORK / (rows * depth * NR);
                let width =
                    NR * (n / NR / (TASKS_PER_THREAD * tasks.threads())).max(worth).clamp(1, TASK_PANELS);
                tasks.multiply(n.div_ceil(width), |task, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let own = scratch.as_mut_ptr().cast::<u32>();
                    let first = task * width;
                    let count = width.min(n - first);
                    for (q0, depth) in blocks(depth, STEPS * together, 2 * V) {
                        let (into, last) = (if q0 == 0 { into } else { Into::Add }, p0 + q0 + depth == k);
                        let deep = unit.steps(depth);
                        let a = |row| (shared.at(q0 / together * MR + row * steps).cast_const(), steps);
                        // SAFETY: the panels fit the scratch, which has room for whole vectors.
                        unsafe { pack_own(unit, b, p0 + q0, depth, first, count, own) };
                        for row in (0..rows).step_by(PASS_ROWS) {
                            let rows = PASS_ROWS.min(rows - row);
                            for col in (0..count).step_by(NR) {
                                let cols = NR.min(count - col);
                                let b = match b {
                                    Right::Plain(_) => (own.wrapping_add(col * deep).cast_const(), deep),
                                    Right::PackedT(w) => {
                                        (w.panel(p0 + q0, first + col, cols), w.cols.div_ceil(2))
                                    }
                                    Right::Packed(_) => {
                                        let deep = depth.next_multiple_of(V) / 2;
                                        (own.wrapping_add(col * deep).cast_const(), deep)
                                    }
                                };
                                // SAFETY: both operands were packed above; this task alone writes these columns
                                // of `c`. The sum of squares of a panel is the same in whatever task.
                                unsafe {
                                    let c = c.at(i0 + row, first + col).of_task((first + col) / NR, last);
                                    unit.panels(rows, cols, deep, a(row), b, c, alpha, into);
                                    c.add_squares(isa, rows, cols);
                                }
                            }
                        }
                    }
                });
            }
        }
    }

    /// All threads read `b`; each task has some rows.
    #[allow(clippy::too_many_arguments)]
    fn by_rows(
        &mut self,
        unit: Unit,
        tasks: Tasks<'_>,
        alpha: f32,
        left: Left<'_>,
        b: Mat<'_>,
        into: Into,
        c: Target,
    ) {
        let (isa, shared) = (self.isa, Shared(self.shared.as_mut_ptr()));
        let a = left.mat();
        let (m, k, n) = (a.rows, a.cols, b.cols);
        let together = unit.together();
        for (j0, cols) in blocks(n, SHARED_ROWS, NR) {
            let most = SHARED / cols.next_multiple_of(V) / STEPS * STEPS * together;
            for (p0, depth) in blocks(k, most, STEPS * together) {
                let into = if p0 == 0 { into } else { Into::Add };
                let steps = unit.steps(depth);
                let b = b.part(p0, depth, j0, cols);
                tasks.run(cols.div_ceil(PACK_COLS), |task, _| {
                    let col = task * PACK_COLS;
                    let part = b.part(0, depth, col, PACK_COLS.min(cols - col));
                    // SAFETY: tasks write different panels, of SHARED numbers in all.
                    unsafe { unit.pack_columns(part, shared.at(col * steps)) };
                });
                let worth = WORK / (cols * depth);
                let height = worth.max(m / (TASKS_PER_THREAD * tasks.threads()));
                let height = height.next_multiple_of(SQUARE_ROWS).clamp(SQUARE_ROWS, TASK_ROWS);
                tasks.multiply(m.div_ceil(height), |task, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let own = scratch.as_mut_ptr().cast::<u32>();
                    let row = task * height;
                    let rows = height.min(m - row);
                    if p0 == 0 && j0 == 0 {
                        // SAFETY: this task alone has these rows, and packs them below.
                        unsafe { left.make(row, rows) };
                    }
                    for (q0, depth) in blocks(depth, STEPS * together, 2 * V) {
                        let (into, last) = (if q0 == 0 { into } else { Into::Add }, p0 + q0 + depth == k);
                        let deep = unit.steps(depth);
                        // SAFETY: the rows fit the scratch; `b` was packed above; this task alone
                        // writes these rows of `c`. Only the last panel of `b` may be narrower.
                        unsafe {
                            unit.pack_rows(a.part(row, rows, p0 + q0, depth), own);
                            let a = (own.cast_const(), deep);
                            for (col, count) in [(0, cols / NR * NR), (cols / NR * NR, cols % NR)] {
                                let skip = q0 / together * count.next_multiple_of(V).min(NR);
                                let b = (shared.at(col * steps + skip).cast_const(), steps);
                                if count > 0 {
                                    unit.panels(rows, count, deep, a, b, c.at(row, j0 + col), alpha, into);
                                }
                            }
                            for i in (0..rows).step_by(SQUARE_ROWS) {
                                let c = c.at(row + i, j0).of_task((row + i) / SQUARE_ROWS, last);
                                c.add_squares(isa, SQUARE_ROWS.min(rows - i), cols);
                            }
                        }
                    }
                });
            }
        }
    }
}

/// Packs rows `p0..p0 + depth`, columns `col..col + cols`, into panels, unless they are panels already.
///
/// # Safety
///
/// `own` is writable for the steps of `depth` rounded up to [`V`], times `cols` rounded up to [`V`].
unsafe fn pack_own(
    unit: Unit,
    b: Right<'_>,
    p0: usize,
    depth: usize,
    col: usize,
    cols: usize,
    own: *mut u32,
) {
    match b {
        // SAFETY: the caller's promise.
        Right::Plain(b) => unsafe { unit.pack_columns(b.part(p0, depth, col, cols), own) },
        Right::PackedT(_) => {}
        Right::Packed(w) => {
            for j in (0..cols).step_by(NR) {
                let own = own.wrapping_add(j * depth.next_multiple_of(V) / 2);
                // SAFETY: the caller's promise.
                unsafe { turned(unit, w, p0, depth, col + j, NR.min(cols - j), own) };
            }
        }
    }
}

impl Packed<'_> {
    /// Where the panel of rows `row..row + rows` is, from column `col` on.
    fn panel(&self, col: usize, row: usize, rows: usize) -> *const u32 {
        let start = row * self.cols.div_ceil(2) + col / 2 * rows.next_multiple_of(V);
        self.data[start..].as_ptr()
    }
}

/// Turns rows `p0..p0 + depth`, columns `col..col + cols`, into a panel.
///
/// # Safety
///
/// `own` is writable for `depth` rounded up to [`V`], halved, times `cols` rounded up to [`V`].
unsafe fn turned(unit: Unit, w: Packed<'_>, p0: usize, depth: usize, col: usize, cols: usize, own: *mut u32) {
    let (deep, pairs) = (w.cols.div_ceil(2), cols.div_ceil(2));
    let width = turned_width(pairs);
    for row in (p0..p0 + depth).step_by(V) {
        let first = row / NR * NR;
        let stride = NR.min(w.rows - first).next_multiple_of(V);
        let start = first * deep + col / 2 * stride + (row - first);
        assert!(start + (pairs - 1) * stride + V <= w.data.len());
        // SAFETY: the vectors are inside the packed matrix (asserted), and the result inside what
        // the caller promised.
        unsafe {
            let from = w.data[start..].as_ptr();
            unit.turn(from, stride, pairs, from.wrapping_add(NR * deep), own.add((row - p0) / 2 * width));
        }
    }
}

/// One small product on this thread. `scratch` has room for both operands, packed.
///
/// # Safety
///
/// `c` is writable for `a.rows` rows of `b.cols` numbers and nobody else uses it.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn small(
    unit: Unit,
    alpha: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    into: Into,
    c: Target,
    scratch: &mut [f32],
) {
    let (rows, cols, steps) = (a.rows, b.cols, unit.steps(a.cols));
    let room = rows.next_multiple_of(MR) * steps;
    assert!(scratch.len() >= room + cols.next_multiple_of(V) * steps, "scratch for a small product");
    let pack_a = scratch.as_mut_ptr().cast::<u32>();
    let pack_b = pack_a.wrapping_add(room);
    // SAFETY: the packed operands fit (asserted), and `c` is the caller's. Panels of `b` follow each
    // other: only the last one may be narrower.
    unsafe {
        unit.pack_rows(a, pack_a);
        unit.pack_columns(b, pack_b);
        unit.panels(rows, cols, steps, (pack_a, steps), (pack_b, steps), c, alpha, into);
    }
}
