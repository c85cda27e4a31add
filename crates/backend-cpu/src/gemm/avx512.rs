//! Our own kernel on packed operands.
//!
//! `a` is cut into panels of [`MR`] rows, stored `[k][MR]`; `b` into panels of up to [`NR`] columns,
//! stored `[k][columns]`, columns padded with zeros to whole vectors. The kernel keeps an `MR × NR`
//! tile of `c` in 24 registers, and per step of `k` loads 3 vectors of `b` and broadcasts 8 numbers
//! of `a` for 24 fused multiply-adds. Packing absorbs transposes. Structure: Goto & van de Geijn
//! 2008, doi:10.1145/1356052.1356053.
//!
//! The operand with fewer rows or columns is packed once for all threads. The other one is cut into
//! tasks, each of which packs its part into the second-level cache of its own core and multiplies
//! it at once: a large weight matrix is read from memory once and never written back packed.
//!
//! Each number of `c` is a sum over `k` in order, in blocks of at most [`KC`], whatever its place
//! in a tile.

use std::arch::x86_64::*;

use super::squares::Squares;
use super::{Into, Left, Mat, Target, Tasks, blocks};
use crate::cells::CELL;
use crate::{Buffer, CpuError, Isa};

/// Rows of a panel of `a`.
const MR: usize = 8;
/// Numbers of a vector.
const V: usize = 16;
/// Columns of a panel of `b`.
const NR: usize = 3 * V;
/// Deepest block: a panel of `b` of this depth is 147 KB.
const KC: usize = 768;
/// Most rows of `a`, or columns of `b`, that are packed for all threads at once: 14 MB at full depth.
const SHARED: usize = 96 * NR;
/// Most columns of `b` of one task, and most rows of `a`: 590 KB and 393 KB at full depth.
const TASK_COLS: usize = 4 * NR;
const TASK_ROWS: usize = 128;
/// Tasks that a product is cut into where that leaves whole panels, so that many cores get some.
const TASKS: usize = 16;
/// Rows of `a` of one task of packing, and rows that go by while a part of `b` stays in the cache.
const PACK_ROWS: usize = 64;
const PASS_ROWS: usize = 256;

/// Memory for the operand that all threads read.
pub(super) struct Packs {
    isa: Isa,
    shared: Buffer,
}

/// Numbers that a task packs for itself.
pub(super) const SCRATCH: usize = TASK_COLS * KC;

/// Most tasks of a product, for their sums of squares.
pub(super) fn squares(m: usize, n: usize) -> usize {
    m.div_ceil(2 * MR).max(n.div_ceil(NR))
}

impl Packs {
    pub(super) fn new(isa: Isa) -> Result<Self, CpuError> {
        let len = if isa.avx512() { SHARED * KC } else { 0 };
        Ok(Self { isa, shared: Buffer::zeros("packed operands", len)? })
    }

    /// Bytes of the shared operand that a product writes.
    pub(super) fn shared_bytes(m: usize, n: usize, k: usize) -> usize {
        4 * m.min(n).next_multiple_of(V).min(SHARED) * k.min(KC)
    }

    /// Threads have [`SCRATCH`] numbers each.
    pub(super) fn matmul(
        &mut self,
        tasks: Tasks<'_>,
        alpha: f32,
        left: Left<'_>,
        b: Mat<'_>,
        into: Into,
        c: Target,
    ) {
        let isa = self.isa;
        assert!(isa.avx512());
        let (data, squares) = (self.shared.as_mut_ptr(), Squares::NONE);
        let shared = Target { data, row_stride: 0, row_hop: 0, col_hop: CELL, squares };
        let left = left.packed_by(PACK_ROWS, tasks);
        let a = left.mat();
        let (m, n) = (a.rows, b.cols);
        for (p0, depth) in blocks(a.cols, KC, 1) {
            let (into, last) = (if p0 == 0 { into } else { Into::Add }, p0 + depth == a.cols);
            if n >= m {
                let b = b.part(p0, depth, 0, n);
                let width = TASK_COLS.min((n / TASKS).next_multiple_of(NR).max(NR));
                for (i0, rows) in blocks(m, SHARED, PACK_ROWS) {
                    let a = a.part(i0, rows, p0, depth);
                    tasks.run(rows.div_ceil(PACK_ROWS), |task, _| {
                        let row = task * PACK_ROWS;
                        let part = a.part(row, PACK_ROWS.min(rows - row), 0, depth);
                        // SAFETY: the instructions are there (asserted above); tasks make different rows, and
                        // write different panels, at most SHARED rows and KC deep in all.
                        unsafe {
                            if p0 == 0 {
                                left.make(i0 + row, part.rows);
                            }
                            pack_rows(part, shared.at(0, row * depth).data);
                        }
                    });
                    tasks.run(n.div_ceil(width), |task, scratch| {
                        let col = task * width;
                        let cols = width.min(n - col);
                        assert!(scratch.len() >= SCRATCH);
                        let own = scratch.as_mut_ptr();
                        // SAFETY: the instructions are there; `own` holds `width · depth` numbers;
                        // the rows were packed above; this task alone writes these columns of `c`.
                        unsafe {
                            for j in (0..cols).step_by(NR) {
                                let part = b.part(0, depth, col + j, NR.min(cols - j));
                                pack_columns(part, own.add(j * depth));
                            }
                            for i in (0..rows).step_by(PASS_ROWS) {
                                let count = PASS_ROWS.min(rows - i);
                                let a = shared.at(0, i * depth).data;
                                let c = c.at(i0 + i, col).of_task(task, last);
                                panels(count, cols, depth, a, own, c, alpha, into);
                                c.add_squares(isa, count, cols);
                            }
                        }
                    });
                }
            } else {
                let a = a.part(0, m, p0, depth);
                let height = TASK_ROWS.min((m / TASKS).next_multiple_of(2 * MR).max(2 * MR));
                for (j0, cols) in blocks(n, SHARED, NR) {
                    let b = b.part(p0, depth, j0, cols);
                    tasks.run(cols.div_ceil(NR), |task, _| {
                        let col = task * NR;
                        let part = b.part(0, depth, col, NR.min(cols - col));
                        // SAFETY: as for the rows above.
                        unsafe { pack_columns(part, shared.at(0, col * depth).data) };
                    });
                    tasks.run(m.div_ceil(height), |task, scratch| {
                        let row = task * height;
                        let rows = height.min(m - row);
                        assert!(scratch.len() >= SCRATCH);
                        let own = scratch.as_mut_ptr();
                        // SAFETY: as for the columns above; TASK_ROWS is below TASK_COLS.
                        unsafe {
                            if p0 == 0 && j0 == 0 {
                                left.make(row, rows);
                            }
                            pack_rows(a.part(row, rows, 0, depth), own);
                            let c = c.at(row, j0).of_task(task, last);
                            panels(rows, cols, depth, own, shared.at(0, 0).data, c, alpha, into);
                            c.add_squares(isa, rows, cols);
                        }
                    });
                }
            }
        }
    }
}

/// One small product on this thread.
///
/// # Safety
///
/// `c` is writable for `a.rows` rows of `b.cols` numbers and nobody else uses it.
pub(super) unsafe fn small(
    isa: Isa,
    alpha: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    into: Into,
    c: Target,
    scratch: &mut [f32],
) {
    assert!(isa.avx512());
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let (pack_a, pack_b) = scratch.split_at_mut(m.next_multiple_of(MR) * k);
    assert!(pack_b.len() >= n.next_multiple_of(V) * k, "scratch for a small product");
    // SAFETY: the instructions are there, the packed operands fit, and `c` is the caller's.
    unsafe {
        pack_rows(a, pack_a.as_mut_ptr());
        for j in (0..n).step_by(NR) {
            pack_columns(b.part(0, k, j, NR.min(n - j)), pack_b[j * k..].as_mut_ptr());
        }
        panels(m, n, k, pack_a.as_ptr(), pack_b.as_ptr(), c, alpha, into);
    }
}

/// The product of packed operands: `a` from a panel border on, `b` from a panel border on.
///
/// # Safety
///
/// AVX-512 F is there; `a` and `b` hold the packed panels of this shape; `c` is writable for
/// `rows` rows of `cols` numbers and nobody else uses it.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f")]
unsafe fn panels(
    rows: usize,
    cols: usize,
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: Target,
    alpha: f32,
    into: Into,
) {
    for j in (0..cols).step_by(NR) {
        let width = NR.min(cols - j);
        let mask = u16::MAX >> (width.next_multiple_of(V) - width);
        for i in (0..rows).step_by(MR) {
            // SAFETY: inside the packed operands and `c`, as the caller promised.
            unsafe {
                let (a, b, c) = (a.add(i * depth), b.add(j * depth), c.at(i, j));
                let tile = match width.div_ceil(V) {
                    1 => tile_rows::<1>,
                    2 => tile_rows::<2>,
                    _ => tile_rows::<3>,
                };
                tile(MR.min(rows - i), depth, a, b, c, mask, alpha, into);
            }
        }
    }
}

/// [`tile`] for a number of rows known at run time.
///
/// # Safety
///
/// As for [`tile`].
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f")]
unsafe fn tile_rows<const VECTORS: usize>(
    rows: usize,
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: Target,
    mask: u16,
    alpha: f32,
    into: Into,
) {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        match rows {
            1 => tile::<1, VECTORS>(depth, a, b, c, mask, alpha, into),
            2 => tile::<2, VECTORS>(depth, a, b, c, mask, alpha, into),
            3 => tile::<3, VECTORS>(depth, a, b, c, mask, alpha, into),
            4 => tile::<4, VECTORS>(depth, a, b, c, mask, alpha, into),
            5 => tile::<5, VECTORS>(depth, a, b, c, mask, alpha, into),
            6 => tile::<6, VECTORS>(depth, a, b, c, mask, alpha, into),
            7 => tile::<7, VECTORS>(depth, a, b, c, mask, alpha, into),
            _ => tile::<8, VECTORS>(depth, a, b, c, mask, alpha, into),
        }
    }
}

/// `ROWS` rows and `VECTORS` vectors of `c`; `mask` says which numbers of the last vector count.
///
/// # Safety
///
/// AVX-512 F is there; `a` holds `depth · MR` numbers, `b` `depth · VECTORS · V`; `c` is writable
/// for `ROWS` rows of the columns that count, and nobody else uses them.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    mut a: *const f32,
    mut b: *const f32,
    c: Target,
    mask: u16,
    alpha: f32,
    into: Into,
) {
    // SAFETY: every access is inside what the caller promised; prefetches may be anywhere.
    unsafe {
        for i in 0..ROWS {
            let row = c.data.wrapping_add(i * c.row_stride);
            for v in 0..VECTORS {
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(v * V).cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for _ in 0..depth {
            let mut columns = [_mm512_setzero_ps(); VECTORS];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_ps(b.add(v * V));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(i));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(x, column, *sum);
                }
            }
            a = a.add(MR);
            b = b.add(VECTORS * V);
        }
        let alpha = _mm512_set1_ps(alpha);
        for (i, sums) in sums.into_iter().enumerate() {
            let row = c.data.add(i * c.row_stride);
            for (v, sum) in sums.into_iter().enumerate() {
                let mask = if v + 1 == VECTORS { mask } else { u16::MAX };
                let at = row.add(v * V);
                let value = match into {
                    Into::Set | Into::Stream => _mm512_mul_ps(alpha, sum),
                    Into::Add => _mm512_fmadd_ps(alpha, sum, _mm512_maskz_loadu_ps(mask, at)),
                };
                _mm512_mask_storeu_ps(at, mask, value);
            }
        }
    }
}

/// Packs rows into panels `[depth][MR]`, one after the other.
///
/// # Safety
///
/// AVX-512 F is there; `to` is writable for `a.rows` rounded up to [`MR`], times `a.cols`.
#[target_feature(enable = "avx512f")]
unsafe fn pack_rows(a: Mat<'_>, to: *mut f32) {
    let (rows, depth) = (a.rows, a.cols);
    // SAFETY: reads are inside the matrix by the loop bounds; writes as the caller promised.
    unsafe {
        if a.row_stride == 1 {
            // Step by step of `k`, so that whole lines are read.
            for p in 0..depth {
                let from = a.as_ptr().add(p * a.col_stride);
                for i in (0..rows).step_by(MR) {
                    let mask = u8::MAX >> (MR - MR.min(rows - i));
                    let x = _mm512_maskz_loadu_ps(mask.into(), from.add(i));
                    _mm256_storeu_ps(to.add(i * depth + p * MR), _mm512_castps512_ps256(x));
                }
            }
            return;
        }
        for i in (0..rows).step_by(2 * MR) {
            let count = (2 * MR).min(rows - i);
            let mut p = 0;
            if a.col_stride == 1 {
                while p + V <= depth {
                    let from = a.as_ptr().add(i * a.row_stride + p);
                    let columns = transpose(from, a.row_stride, count);
                    for (q, x) in columns.iter().enumerate() {
                        let at = to.add(i * depth + (p + q) * MR);
                        _mm256_storeu_si256(at.cast(), _mm512_castsi512_si256(*x));
                        if count > MR {
                            _mm256_storeu_si256(
                                at.add(MR * depth).cast(),
                                _mm512_extracti64x4_epi64::<1>(*x),
                            );
                        }
                    }
                    p += V;
                }
            }
            for p in p..depth {
                for r in 0..count.next_multiple_of(MR) {
                    let at = to.add((i + r / MR * MR) * depth + p * MR + r % MR);
                    *at = if r < count {
                        *a.as_ptr().add((i + r) * a.row_stride + p * a.col_stride)
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

/// Packs at most [`NR`] columns into one panel `[depth][columns rounded up to V]`.
///
/// # Safety
///
/// AVX-512 F is there; `to` is writable for that many numbers.
#[target_feature(enable = "avx512f")]
unsafe fn pack_columns(b: Mat<'_>, to: *mut f32) {
    let (depth, cols) = (b.rows, b.cols);
    let width = cols.next_multiple_of(V);
    // SAFETY: reads are inside the matrix by the loop bounds and masks; writes as promised.
    unsafe {
        if b.col_stride == 1 {
            for p in 0..depth {
                let from = b.as_ptr().add(p * b.row_stride);
                for j in (0..cols).step_by(V) {
                    let mask = u16::MAX >> (V - V.min(cols - j));
                    _mm512_storeu_ps(to.add(p * width + j), _mm512_maskz_loadu_ps(mask, from.add(j)));
                }
            }
            return;
        }
        for j in (0..cols).step_by(V) {
            let count = V.min(cols - j);
            let mut p = 0;
            if b.row_stride == 1 {
                while p + V <= depth {
                    let from = b.as_ptr().add(j * b.col_stride + p);
                    let columns = transpose(from, b.col_stride, count);
                    for (q, x) in columns.iter().enumerate() {
                        _mm512_storeu_si512(to.add((p + q) * width + j).cast(), *x);
                    }
                    p += V;
                }
            }
            for p in p..depth {
                for c in 0..V {
                    *to.add(p * width + j + c) = if c < count {
                        *b.as_ptr().add(p * b.row_stride + (j + c) * b.col_stride)
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

/// `V` columns of `V` numbers from `count` rows; missing rows count as zeros. The vectors are integers as they are
/// turned, because mapping the array to floats was a call for each, in the release build too.
///
/// # Safety
///
/// AVX-512 F is there; `from` is readable for `count` rows of `V` numbers, `stride` apart.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose(from: *const f32, stride: usize, count: usize) -> [__m512i; V] {
    let mut r = [_mm512_setzero_si512(); V];
    for (i, r) in r.iter_mut().enumerate() {
        if i < count {
            // SAFETY: row `i` of those that are there.
            *r = unsafe { _mm512_loadu_si512(from.add(i * stride).cast()) };
        }
    }
    super::transpose::transpose(r)
}
