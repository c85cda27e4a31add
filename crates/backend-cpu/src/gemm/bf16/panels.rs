//! The driver of products of panels.

use super::{MR, NR, Packed, Right, Unit, V};
use crate::gemm::{Into, Left, Mat, Shared, Target, Tasks, blocks};
use crate::{Buffer, CpuError, Isa};

/// Deepest block: a panel of `b` of this depth is 74 KB.
const KC: usize = 768;
/// Pairs of the operand that all threads read: 16 MiB.
const SHARED: usize = 4 << 20;
/// Most rows, or columns, of that operand at once.
const SHARED_ROWS: usize = 2048;
/// Multiply-adds that make a task worth handing out.
const WORK: usize = 4 << 20;
/// Most rows of `a`, and most panels of `b`, that a task packs for itself.
const TASK_ROWS: usize = 256;
const TASK_PANELS: usize = 4;

/// Rows, and columns, of a task that packs for all threads.
const PACK_ROWS: usize = 8 * V;
const PACK_COLS: usize = 4 * NR;

/// Columns of a block of `pairs` pairs of columns after [`Unit::turn`].
pub(super) fn turned_width(pairs: usize) -> usize {
    (2 * pairs).next_multiple_of(V)
}

/// Most tasks of a product, for their sums of squares.
pub(in crate::gemm) fn squares(m: usize, n: usize) -> usize {
    m.div_ceil(2 * MR).max(n.div_ceil(NR))
}

/// Memory for the operand that all threads read.
pub(in crate::gemm) struct Packs {
    isa: Isa,
    unit: Unit,
    shared: Buffer<u32>,
}

/// Numbers that a task packs for itself.
pub(in crate::gemm) const SCRATCH: usize =
    if TASK_ROWS > TASK_PANELS * NR { TASK_ROWS } else { TASK_PANELS * NR } * KC / 2;

impl Packs {
    pub(in crate::gemm) fn new(isa: Isa) -> Result<Self, CpuError> {
        Ok(Self { isa, unit: Unit::new(isa), shared: Buffer::zeros("packed operands", SHARED)? })
    }

    /// Bytes of the shared operand that a product writes. Those of packed weights share the left one.
    pub(in crate::gemm) fn shared_bytes(&self, m: usize, n: usize, k: usize) -> usize {
        let rows = m.min(n.next_multiple_of(V)).min(SHARED_ROWS);
        4 * (rows * k.div_ceil(2)).min(self.shared.len())
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`. Threads have [`SCRATCH`] numbers each.
    pub(in crate::gemm) fn matmul(
        &mut self,
        tasks: Tasks<'_>,
        alpha: f32,
        a: Left<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        // What more products are added to comes back soon.
        let (m, k) = a.mat().shape();
        let a = a.packed_by(PACK_ROWS, tasks);
        let into = if into == Into::Stream && k > KC { Into::Set } else { into };
        match b {
            Right::Plain(b) if m > b.cols => self.by_rows(tasks, alpha, a, b, into, c),
            _ => self.by_columns(tasks, alpha, a, b, into, c),
        }
    }

    /// All threads read `a`; each task has some columns.
    fn by_columns(
        &mut self,
        tasks: Tasks<'_>,
        alpha: f32,
        left: Left<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        let (isa, unit, shared) = (self.isa, self.unit, Shared(self.shared.as_mut_ptr()));
        let a = left.mat();
        let (m, k, n) = (a.rows, a.cols, b.shape().1);
        for (i0, rows) in blocks(m, SHARED_ROWS, MR) {
            let most = 2 * SHARED / rows.next_multiple_of(MR);
            for (p0, depth) in blocks(k, most / KC * KC, KC) {
                let into = if p0 == 0 { into } else { Into::Add };
                let (a, pairs) = (a.part(i0, rows, p0, depth), depth.div_ceil(2));
                tasks.run(rows.div_ceil(PACK_ROWS), |task, _| {
                    let row = task * PACK_ROWS;
                    let part = a.part(row, PACK_ROWS.min(rows - row), 0, depth);
                    // SAFETY: tasks make different rows, and write different panels, of SHARED numbers in all.
                    unsafe {
                        if p0 == 0 {
                            left.make(i0 + row, part.rows);
                        }
                        unit.pack_rows(part, shared.at(row * pairs));
                    }
                });
                let width = NR * (WORK / (rows * depth * NR)).clamp(1, TASK_PANELS);
                tasks.run(n.div_ceil(width), |task, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let own = scratch.as_mut_ptr().cast::<u32>();
                    let first = task * width;
                    let count = width.min(n - first);
                    for (q0, depth) in blocks(depth, KC, 2 * V) {
                        let (into, last) = (if q0 == 0 { into } else { Into::Add }, p0 + q0 + depth == k);
                        let deep = depth.div_ceil(2);
                        let a = (shared.at(q0 / 2 * MR).cast_const(), pairs);
                        if let Right::Plain(b) = b {
                            // SAFETY: the panels fit the scratch.
                            unsafe { unit.pack_columns(b.part(p0 + q0, depth, first, count), own) };
                        }
                        for col in (0..count).step_by(NR) {
                            let cols = NR.min(count - col);
                            // SAFETY: the panels fit the scratch, which has room for whole vectors;
                            // `a` was packed above; this task alone writes these columns of `c`.
                            unsafe {
                                let b = match b {
                                    Right::Plain(_) => (own.add(col * deep).cast_const(), deep),
                                    Right::PackedT(w) => {
                                        (w.panel(p0 + q0, first + col, cols), w.cols.div_ceil(2))
                                    }
                                    Right::Packed(w) => {
                                        turned(unit, w, p0 + q0, depth, first + col, cols, own);
                                        (own.cast_const(), depth.next_multiple_of(V) / 2)
                                    }
                                };
                                let c = c.at(i0, first + col).of_task(task, last);
                                unit.panels(rows, cols, deep, a, b, c, alpha, into);
                                c.add_squares(isa, rows, cols);
                            }
                        }
                    }
                });
            }
        }
    }

    /// All threads read `b`; each task has some rows.
    fn by_rows(&mut self, tasks: Tasks<'_>, alpha: f32, left: Left<'_>, b: Mat<'_>, into: Into, c: Target) {
        let (isa, unit, shared) = (self.isa, self.unit, Shared(self.shared.as_mut_ptr()));
        let a = left.mat();
        let (m, k, n) = (a.rows, a.cols, b.cols);
        for (j0, cols) in blocks(n, SHARED_ROWS, NR) {
            let most = 2 * SHARED / cols.next_multiple_of(V);
            for (p0, depth) in blocks(k, most / KC * KC, KC) {
                let into = if p0 == 0 { into } else { Into::Add };
                let pairs = depth.div_ceil(2);
                let b = b.part(p0, depth, j0, cols);
                tasks.run(cols.div_ceil(PACK_COLS), |task, _| {
                    let col = task * PACK_COLS;
                    let part = b.part(0, depth, col, PACK_COLS.min(cols - col));
                    // SAFETY: tasks write different panels, of SHARED numbers in all.
                    unsafe { unit.pack_columns(part, shared.at(col * pairs)) };
                });
                let height = (WORK / (cols * depth)).next_multiple_of(2 * MR).clamp(2 * MR, TASK_ROWS);
                tasks.run(m.div_ceil(height), |task, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let own = scratch.as_mut_ptr().cast::<u32>();
                    let row = task * height;
                    let rows = height.min(m - row);
                    if p0 == 0 && j0 == 0 {
                        // SAFETY: this task alone has these rows, and packs them below.
                        unsafe { left.make(row, rows) };
                    }
                    for (q0, depth) in blocks(depth, KC, 2 * V) {
                        let (into, last) = (if q0 == 0 { into } else { Into::Add }, p0 + q0 + depth == k);
                        let deep = depth.div_ceil(2);
                        // SAFETY: the rows fit the scratch; `b` was packed above; this task alone
                        // writes these rows of `c`. Only the last panel of `b` may be narrower.
                        unsafe {
                            unit.pack_rows(a.part(row, rows, p0 + q0, depth), own);
                            let a = (own.cast_const(), depth.div_ceil(2));
                            for (col, count) in [(0, cols / NR * NR), (cols / NR * NR, cols % NR)] {
                                let skip = q0 / 2 * count.next_multiple_of(V).min(NR);
                                let b = (shared.at(col * pairs + skip).cast_const(), pairs);
                                if count > 0 {
                                    let c = c.at(row, j0 + col).of_task(task, last);
                                    unit.panels(rows, count, deep, a, b, c, alpha, into);
                                    c.add_squares(isa, rows, count);
                                }
                            }
                        }
                    }
                });
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
