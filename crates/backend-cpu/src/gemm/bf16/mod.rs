//! Matrix products in bf16: operands rounded to 8 bits of precision, products added up in f32.
//!
//! Two numbers that follow each other in the depth of the product lie together in 32 bits, a
//! *pair*. `a` is cut into panels of [`MR`] rows, stored `[pairs][MR]`; `b` into panels of [`NR`]
//! columns, stored `[pairs][columns]`, columns padded with zeros to whole vectors of [`V`].
//!
//! A weight matrix is packed once per update ([`Packed`]) as the right operand of `x·wᵀ`. The way
//! back wants `dy·w`, in which other numbers are neighbours: each task turns the blocks that it
//! needs on their way into the second-level cache, which costs a hundredth of the product, where a
//! second copy would cost 2 bytes per weight.
//!
//! The driver, the layouts and the order of all sums are the same with the instructions and
//! without them.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod emulated;

use super::{Into, Mat, Shared, Target, Task, blocks};
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;
use crate::{Buffer, CpuError, Isa};

/// Rows of a panel of `a`.
const MR: usize = 8;
/// Pairs of a vector.
const V: usize = 16;
/// Columns of a panel of `b`.
pub(crate) const NR: usize = 3 * V;
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
fn turned_width(pairs: usize) -> usize {
    (2 * pairs).next_multiple_of(V)
}

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Tiles, and AVX-512 BF16 for packing: made only where both were detected.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 BF16: made only where it was detected.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Plain Rust.
    Emulated,
}

impl Unit {
    fn new(isa: Isa) -> Self {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Amx => Unit::Amx,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if avx512::detected() => Unit::Avx512,
            _ => Unit::Emulated,
        }
    }

    /// Rows of a panel of `a`.
    fn rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => super::amx::ROWS,
            _ => MR,
        }
    }

    /// Pairs of a row of `a` that is this deep, with those that only fill up.
    fn pairs(self, depth: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => depth.div_ceil(2).next_multiple_of(V),
            _ => depth.div_ceil(2),
        }
    }

    /// Fewest rows of `a` of one task.
    fn task_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => 4 * super::amx::ROWS,
            _ => 2 * MR,
        }
    }

    /// Fewest panels of `b` of one task.
    fn task_panels(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => 2,
            _ => 1,
        }
    }

    /// Whether [`Unit::panels`] adds up the squares of what it writes.
    fn adds_squares(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Unit::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Packs rows into panels, one after the other.
    ///
    /// # Safety
    ///
    /// `to` is writable for `a.rows` rounded up to [`Unit::rows`], times [`Unit::pairs`] of `a.cols`.
    unsafe fn pack_rows(self, a: Mat<'_>, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Amx => amx::pack_rows(a, to),
                #[cfg(target_arch = "x86_64")]
                Unit::Avx512 => avx512::pack_rows(a, to),
                Unit::Emulated => emulated::pack_rows(a, to),
            }
        }
    }

    /// Packs columns into panels, one after the other.
    ///
    /// # Safety
    ///
    /// `to` is writable for the pairs of `b.rows`, times `b.cols` rounded up to [`V`].
    unsafe fn pack_columns(self, b: Mat<'_>, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Amx | Unit::Avx512 => avx512::pack_columns(b, to),
                Unit::Emulated => emulated::pack_columns(b, to),
            }
        }
    }

    /// Turns `pairs` vectors of 16 rows, each a pair of neighbouring columns, into 8 vectors of
    /// columns, each a pair of neighbouring rows.
    ///
    /// # Safety
    ///
    /// `from` holds the vectors, `stride` numbers apart; `to` is writable for 8 times
    /// [`turned_width`] numbers. `next` may be anywhere: where the vectors of a later call are.
    unsafe fn turn(self, from: *const u32, stride: usize, pairs: usize, next: *const u32, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Amx | Unit::Avx512 => avx512::turn(from, stride, pairs, next, to),
                Unit::Emulated => {
                    let _ = next;
                    emulated::turn(from, stride, pairs, to);
                }
            }
        }
    }

    /// The product of packed operands, `pairs` deep. `a` and `b` come with the numbers from one
    /// row, or column, of a panel border to the next: `a.1` times [`Unit::rows`] from panel to panel.
    ///
    /// # Safety
    ///
    /// `a` and `b` hold panels of this shape; `c` is writable for `rows` rows of `cols` numbers
    /// and nobody else uses it.
    #[allow(clippy::too_many_arguments)]
    unsafe fn panels(
        self,
        rows: usize,
        cols: usize,
        pairs: usize,
        a: (*const u32, usize),
        b: (*const u32, usize),
        c: Target,
        alpha: f32,
        into: Into,
    ) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Amx => amx::panels(rows, cols, pairs, a, b, c, alpha, into),
                #[cfg(target_arch = "x86_64")]
                Unit::Avx512 => avx512::panels(rows, cols, pairs, a, b, c, alpha, into),
                Unit::Emulated => emulated::panels(rows, cols, pairs, a, b, c, alpha, into),
            }
        }
    }
}

/// Whether products in bf16 have instructions of their own at this level.
pub fn in_hardware(isa: Isa) -> bool {
    Unit::new(isa) != Unit::Emulated
}

/// `steps` rounds of products without memory, for the peak: the floating-point operations of all of
/// them, none without the instructions.
pub(crate) fn spin(isa: Isa, steps: usize) -> usize {
    match Unit::new(isa) {
        #[cfg(target_arch = "x86_64")]
        Unit::Amx => {
            // SAFETY: this unit is there.
            unsafe { amx::spin(steps) };
            2 * steps * amx::SPIN
        }
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 => {
            // SAFETY: this unit is there.
            std::hint::black_box(unsafe { avx512::dot_products(steps, 0x3F80_3F80) });
            2 * steps * avx512::SPIN
        }
        Unit::Emulated => {
            let _ = steps;
            0
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
    let unit = Unit::new(isa);
    let (rows, cols, pairs) = (a.rows, b.cols, a.cols.div_ceil(2));
    let stride = unit.pairs(a.cols);
    let room = rows.next_multiple_of(unit.rows()) * stride;
    assert!(scratch.len() >= room + cols.next_multiple_of(V) * pairs, "scratch for a small product");
    let pack_a = scratch.as_mut_ptr().cast::<u32>();
    let pack_b = pack_a.wrapping_add(room);
    // SAFETY: the packed operands fit (asserted), and `c` is the caller's. Panels of `b` follow each
    // other: only the last one may be narrower.
    unsafe {
        unit.pack_rows(a, pack_a);
        unit.pack_columns(b, pack_b);
        unit.panels(rows, cols, pairs, (pack_a, stride), (pack_b, pairs), c, alpha, into);
    }
}

/// A weight matrix `[rows, cols]` in the layout of the kernel: panels of [`NR`] rows.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    data: &'a [u32],
    rows: usize,
    cols: usize,
}

impl<'a> Packed<'a> {
    /// A matrix that [`pack`] wrote.
    pub fn new(data: &'a [u32], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= packed_len(rows, cols), "a packed matrix ends beyond its numbers");
        Self { data, rows, cols }
    }
}

/// Numbers of a packed matrix.
pub fn packed_len(rows: usize, cols: usize) -> usize {
    rows.next_multiple_of(V) * cols.div_ceil(2)
}

/// Packs a panel of at most [`NR`] rows of weights.
pub fn pack(isa: Isa, w: Mat<'_>, to: &mut [u32]) {
    assert!(w.rows <= NR && to.len() >= packed_len(w.rows, w.cols), "room for a panel");
    // SAFETY: the room was checked.
    unsafe { Unit::new(isa).pack_columns(w.t(), to.as_mut_ptr()) };
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// Rounded and packed on the way.
    Plain(Mat<'a>),
    /// The transposed of packed weights.
    PackedT(Packed<'a>),
    /// Packed weights.
    Packed(Packed<'a>),
}

impl Right<'_> {
    /// Rows and columns.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            Right::Plain(b) => (b.rows, b.cols),
            Right::PackedT(w) => (w.cols, w.rows),
            Right::Packed(w) => (w.rows, w.cols),
        }
    }
}

/// Memory for the operand that all threads read.
pub(super) struct Packs {
    unit: Unit,
    shared: Buffer<u32>,
}

/// Numbers that a task packs for itself.
pub(super) const SCRATCH: usize =
    if TASK_ROWS > TASK_PANELS * NR { TASK_ROWS } else { TASK_PANELS * NR } * KC / 2;

impl Packs {
    pub(super) fn new(isa: Isa) -> Result<Self, CpuError> {
        Ok(Self { unit: Unit::new(isa), shared: Buffer::zeros("packed operands", SHARED)? })
    }

    /// Bytes of the shared operand that a product writes. Those of packed weights share the left one.
    pub(super) fn shared_bytes(&self, m: usize, n: usize, k: usize) -> usize {
        let rows = m.min(n.next_multiple_of(V)).min(SHARED_ROWS);
        4 * (rows * k.div_ceil(2)).min(self.shared.len())
    }

    /// Most tasks of a product, for their sums of squares; none where the kernel adds none.
    pub(super) fn squares(&self, m: usize, n: usize) -> usize {
        let tasks = m.div_ceil(self.unit.task_rows()).max(n.div_ceil(NR * self.unit.task_panels()));
        if self.unit.adds_squares() { tasks } else { 0 }
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`. `run` gives each task [`SCRATCH`] numbers.
    pub(super) fn matmul(
        &mut self,
        run: impl Fn(usize, &Task<'_>),
        alpha: f32,
        a: Mat<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        // What more products are added to comes back soon.
        let into = if into == Into::Stream && a.cols > KC { Into::Set } else { into };
        match b {
            Right::Plain(b) if a.rows > b.cols => self.by_rows(run, alpha, a, b, into, c),
            _ => self.by_columns(run, alpha, a, b, into, c),
        }
    }

    /// All threads read `a`; each task has some columns.
    fn by_columns(
        &mut self,
        run: impl Fn(usize, &Task<'_>),
        alpha: f32,
        a: Mat<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        let (unit, shared) = (self.unit, Shared(self.shared.as_mut_ptr()));
        let (m, k, n) = (a.rows, a.cols, b.shape().1);
        let mr = unit.rows();
        for (i0, rows) in blocks(m, SHARED_ROWS, mr) {
            let most = 2 * SHARED / rows.next_multiple_of(mr);
            for (p0, depth) in blocks(k, most / KC * KC, KC) {
                let into = if p0 == 0 { into } else { Into::Add };
                let (a, pairs) = (a.part(i0, rows, p0, depth), unit.pairs(depth));
                run(rows.div_ceil(PACK_ROWS), &|task, _| {
                    let row = task * PACK_ROWS;
                    let part = a.part(row, PACK_ROWS.min(rows - row), 0, depth);
                    // SAFETY: tasks write different panels, of SHARED numbers in all.
                    unsafe { unit.pack_rows(part, shared.at(row * pairs)) };
                });
                let width = NR * (WORK / (rows * depth * NR)).clamp(unit.task_panels(), TASK_PANELS);
                run(n.div_ceil(width), &|task, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let own = scratch.as_mut_ptr().cast::<u32>();
                    let first = task * width;
                    let count = width.min(n - first);
                    for (q0, depth) in blocks(depth, KC, 2 * V) {
                        let into = if q0 == 0 { into } else { Into::Add };
                        let (deep, c) = (depth.div_ceil(2), c.of_task(task, p0 + q0 + depth == k));
                        let a = (shared.at(q0 / 2 * mr).cast_const(), pairs);
                        if let Right::Plain(b) = b {
                            // SAFETY: the panels fit the scratch.
                            unsafe { unit.pack_columns(b.part(p0 + q0, depth, first, count), own) };
                        }
                        let mut col = 0;
                        while col < count {
                            // Whole panels at once, and then the one that is not.
                            let whole = ((count - col) / NR).min(unit.task_panels()) * NR;
                            let cols = if whole == 0 { count - col } else { whole };
                            // SAFETY: the panels fit the scratch, which has room for whole vectors;
                            // `a` was packed above; this task alone writes these columns of `c`.
                            unsafe {
                                let b = match b {
                                    Right::Plain(_) => (own.add(col * deep).cast_const(), deep),
                                    Right::PackedT(w) => {
                                        (w.panel(p0 + q0, first + col, cols.min(NR)), w.cols.div_ceil(2))
                                    }
                                    Right::Packed(w) => {
                                        let stride = depth.next_multiple_of(V) / 2;
                                        for j in (0..cols).step_by(NR) {
                                            let to = own.add(j * stride);
                                            let cols = NR.min(cols - j);
                                            turned(unit, w, p0 + q0, depth, first + col + j, cols, to);
                                        }
                                        (own.cast_const(), stride)
                                    }
                                };
                                let c = c.at(i0, first + col);
                                unit.panels(rows, cols, deep, a, b, c, alpha, into);
                            }
                            col += cols;
                        }
                    }
                });
            }
        }
    }

    /// All threads read `b`; each task has some rows.
    fn by_rows(
        &mut self,
        run: impl Fn(usize, &Task<'_>),
        alpha: f32,
        a: Mat<'_>,
        b: Mat<'_>,
        into: Into,
        c: Target,
    ) {
        let (unit, shared) = (self.unit, Shared(self.shared.as_mut_ptr()));
        let (m, k, n) = (a.rows, a.cols, b.cols);
        for (j0, cols) in blocks(n, SHARED_ROWS, NR) {
            let most = 2 * SHARED / cols.next_multiple_of(V);
            for (p0, depth) in blocks(k, most / KC * KC, KC) {
                let into = if p0 == 0 { into } else { Into::Add };
                let pairs = depth.div_ceil(2);
                let b = b.part(p0, depth, j0, cols);
                run(cols.div_ceil(PACK_COLS), &|task, _| {
                    let col = task * PACK_COLS;
                    let part = b.part(0, depth, col, PACK_COLS.min(cols - col));
                    // SAFETY: tasks write different panels, of SHARED numbers in all.
                    unsafe { unit.pack_columns(part, shared.at(col * pairs)) };
                });
                let height =
                    (WORK / (cols * depth)).next_multiple_of(2 * MR).clamp(unit.task_rows(), TASK_ROWS);
                run(m.div_ceil(height), &|task, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let own = scratch.as_mut_ptr().cast::<u32>();
                    let row = task * height;
                    let rows = height.min(m - row);
                    for (q0, depth) in blocks(depth, KC, 2 * V) {
                        let into = if q0 == 0 { into } else { Into::Add };
                        let (deep, c) = (depth.div_ceil(2), c.of_task(task, p0 + q0 + depth == k));
                        // SAFETY: the rows fit the scratch; `b` was packed above; this task alone
                        // writes these rows of `c`. Only the last panel of `b` may be narrower.
                        unsafe {
                            unit.pack_rows(a.part(row, rows, p0 + q0, depth), own);
                            let a = (own.cast_const(), unit.pairs(depth));
                            for (col, count) in [(0, cols / NR * NR), (cols / NR * NR, cols % NR)] {
                                let skip = q0 / 2 * count.next_multiple_of(V).min(NR);
                                let b = (shared.at(col * pairs + skip).cast_const(), pairs);
                                if count > 0 {
                                    let c = c.at(row, j0 + col);
                                    unit.panels(rows, count, deep, a, b, c, alpha, into);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::{small, small_scratch};
    use crate::kernels::check::{assert_close, values};
    use crate::{Exec, MatMut, Plan, Precision};

    fn exec(isa: Isa, threads: usize) -> Exec {
        let plan = Plan { isa, ..Plan::new(1).with_threads(threads) };
        Exec::new(&plan.with_precision(Precision::Bf16)).unwrap()
    }

    /// Levels with the instructions, where there are any, and one without.
    fn levels() -> Vec<Isa> {
        let mut levels: Vec<_> = Isa::available().iter().copied().filter(|&isa| in_hardware(isa)).collect();
        levels.push(Isa::available()[0]);
        levels
    }

    fn rounded(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| half::bf16::from_f32(x).to_f64()).collect()
    }

    /// `Σ a·b` of rounded operands, `[m, k]` and `[k, n]`.
    fn plain(a: &[f64], b: &[f64], (m, n, k): (usize, usize, usize)) -> Vec<f64> {
        let dot = |i, j| (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
        (0..m * n).map(|ij| dot(ij / n, ij % n)).collect()
    }

    /// The transposed of a `[cols, rows]` matrix: `[rows, cols]`.
    fn turned(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..rows * cols).map(|i| x[i % cols * rows + i / cols]).collect()
    }

    fn packed(isa: Isa, w: &[f32], rows: usize, cols: usize) -> Vec<u32> {
        let mut to = vec![u32::MAX; packed_len(rows, cols)];
        for row in (0..rows).step_by(NR) {
            let count = NR.min(rows - row);
            pack(isa, Mat::new(&w[row * cols..], count, cols), &mut to[row * cols.div_ceil(2)..]);
        }
        to
    }

    const SHAPES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (1, 50, 33),
        (7, 49, 20),
        (8, 48, 16),
        (9, 47, 17),
        (30, 37, 111),
        (33, 200, 65),
        (129, 97, 31),
        (16, 16, 800),
        (3, 5, 2000),
        (20, 130, 1600),
        (300, 40, 70),
    ];

    #[test]
    fn every_layout_and_shape_gives_the_product_of_rounded_operands() {
        for isa in levels() {
            let mut exec = exec(isa, 2);
            for shape in SHAPES {
                let (m, n, k) = shape;
                let (a, b, old) = (values(m * k, 1), values(k * n, 2), values(m * (n + 3), 3));
                let product = plain(&rounded(&a), &rounded(&b), shape);
                let (at, bt) = (turned(&a, k, m), turned(&b, n, k));
                let (w, wt) = (packed(isa, &b, k, n), packed(isa, &bt, n, k));
                let rights = [
                    Right::Plain(Mat::new(&b, k, n)),
                    Right::Plain(Mat::new(&bt, n, k).t()),
                    Right::Packed(Packed::new(&w, k, n)),
                    Right::PackedT(Packed::new(&wt, n, k)),
                ];
                for (which, right) in rights.into_iter().enumerate() {
                    for a in [Mat::new(&a, m, k), Mat::new(&at, k, m).t()] {
                        for into in [Into::Set, Into::Add] {
                            let mut c = old.clone();
                            exec.product(1.0, a, right, into, MatMut::strided(&mut c, m, n, n + 3));
                            let mut wanted: Vec<f64> = old.iter().map(|&v| f64::from(v)).collect();
                            for ij in 0..m * n {
                                let w = &mut wanted[ij / n * (n + 3) + ij % n];
                                *w = product[ij] + if into == Into::Add { *w } else { 0.0 };
                            }
                            let tolerance = 1e-6 * (k as f64).sqrt().max(2.0) * 4.0;
                            println!("{isa:?} {shape:?} operand {which} {into:?}");
                            assert_close(&c, &wanted, tolerance);
                            let Right::Plain(b) = right else { continue };
                            let mut d = old.clone();
                            let mut scratch = vec![f32::NAN; small_scratch(m, n, k)];
                            let to = MatMut::strided(&mut d, m, n, n + 3);
                            small(isa, Precision::Bf16, 1.0, a, b, into, to, &mut scratch);
                            assert_close(&d, &wanted, tolerance);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_a_large_product_fit_together() {
        // More rows, columns and depth than all threads read at once.
        for (m, n, k) in [(2100, 20, 30), (20, 2100, 30), (2100, 2110, 3), (2050, 10, 4000), (9, 60, 8000)] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let wanted = plain(&rounded(&a), &rounded(&b), (m, n, k));
            let isa = Isa::detect();
            let bt = turned(&b, n, k);
            let wt = packed(isa, &bt, n, k);
            for right in [Right::Plain(Mat::new(&b, k, n)), Right::PackedT(Packed::new(&wt, n, k))] {
                let mut c = vec![f32::NAN; m * n];
                exec(isa, 2).product(1.0, Mat::new(&a, m, k), right, Into::Set, MatMut::new(&mut c, m, n));
                assert_close(&c, &wanted, 1e-3);
            }
        }
    }

    #[test]
    fn the_instructions_pack_as_plain_rust_does() {
        for isa in levels() {
            packs_as_plain_rust_does(Unit::new(isa));
        }
    }

    fn packs_as_plain_rust_does(unit: Unit) {
        for (rows, cols) in [(1, 1), (5, 31), (16, 32), (17, 33), (40, 70), (48, 129)] {
            let x = values(rows * cols, 1);
            for a in [Mat::new(&x, rows, cols), Mat::new(&x, cols, rows).t()] {
                let room = rows.next_multiple_of(V) * cols.div_ceil(2).next_multiple_of(V);
                let (mut one, mut two) = (vec![0u32; room], vec![0u32; room]);
                // SAFETY: there is room for rows and pairs rounded up.
                unsafe {
                    unit.pack_rows(a, one.as_mut_ptr());
                    emulated::pack_rows(a, two.as_mut_ptr());
                }
                // The same pairs, wherever this unit keeps them.
                let pairs = unit.pairs(cols);
                let place = |i: usize, p: usize| match unit.rows() {
                    MR => i / MR * MR * pairs + p * MR + i % MR,
                    rows => i / rows * rows * pairs + p / V * V * rows + i % rows * V + p % V,
                };
                for i in 0..rows {
                    for p in 0..cols.div_ceil(2) {
                        let wanted = two[i / MR * MR * cols.div_ceil(2) + p * MR + i % MR];
                        assert_eq!(one[place(i, p)], wanted, "{unit:?}: {i}, {p} of {rows} × {cols}");
                    }
                }
                (one, two) = (vec![0; room], vec![0; room]);
                // SAFETY: as above.
                unsafe {
                    unit.pack_columns(a.t(), one.as_mut_ptr());
                    emulated::pack_columns(a.t(), two.as_mut_ptr());
                }
                assert_eq!(one, two, "columns of {rows} × {cols}");
            }
        }
        let from: Vec<u32> = (0..24 * 48).map(|i| i * 0x1_0003).collect();
        for pairs in 1..=24 {
            let room = 8 * turned_width(pairs);
            let (mut one, mut two) = (vec![0u32; room], vec![0u32; room]);
            // SAFETY: vectors and room are there.
            unsafe {
                unit.turn(from.as_ptr(), 48, pairs, from.as_ptr(), one.as_mut_ptr());
                emulated::turn(from.as_ptr(), 48, pairs, two.as_mut_ptr());
            }
            assert_eq!(one, two, "{pairs} pairs");
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_threads() {
        for isa in levels() {
            for (m, n, k) in [(4, 300, 900), (130, 600, 900), (700, 60, 50)] {
                let (a, b) = (values(m * k, 1), values(k * n, 2));
                let run = |threads| {
                    let mut c = vec![0.0; m * n];
                    let b = Right::Plain(Mat::new(&b, n, k).t());
                    exec(isa, threads).product(
                        1.0,
                        Mat::new(&a, m, k),
                        b,
                        Into::Set,
                        MatMut::new(&mut c, m, n),
                    );
                    c
                };
                let one = run(1);
                assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one), "{isa:?} {m} {n} {k}");
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_stay_so() {
        for isa in levels() {
            let mut a = vec![1.0; 20 * 20];
            (a[3 * 20 + 5], a[7 * 20 + 1]) = (f32::NAN, f32::INFINITY);
            let mut c = vec![0.0; 20 * 20];
            let m = Mat::new(&a, 20, 20);
            exec(isa, 1).product(1.0, m, Right::Plain(m.t()), Into::Set, MatMut::new(&mut c, 20, 20));
            assert!(c[3 * 20].is_nan() && !c[7 * 20].is_finite() && c[4].is_finite());
        }
    }
}
