//! Matrix products in f32, and in [`bf16`].
//!
//! ```text
//! c[i,j]  = α · Σ_p a[i,p]·b[p,j]        or +=
//! ```
//!
//! A transposed operand is a [`Mat`] with its strides exchanged; one [in cells](crate::cells) is for tiles in f32.
//! With AVX-512 our own kernel runs on packed `panels`, with AMX on `tiles`, on macOS Accelerate; elsewhere the `gemm`
//! crate runs on fixed tiles, and a few rows against a transposed matrix are dot products. Which of them runs, and
//! where it cuts sums, depends on the shapes, the order of the operands and the [`Isa`] alone, so the bits do not depend on
//! the number of threads.

mod accelerate;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
pub(crate) mod bf16;
mod dots;
mod left;
mod mat;
mod panels;
mod portable;
mod squares;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod transpose;

pub use bf16::{Packed, Right};
pub use left::Left;
use mat::Target;
pub use mat::{Mat, MatMut};
use panels::Unit;
use squares::Squares;
#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::PRODUCTS_OF_PARTS;

#[cfg(target_arch = "x86_64")]
use crate::isa::Level;
use crate::pool::Beside;
use crate::stretches::Share;
use crate::{CpuError, Isa, Pool, Precision};

/// What happens to the numbers that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// They are overwritten.
    Set,
    /// They are overwritten by numbers that nobody reads soon: past the caches where that is faster.
    Stream,
    /// The product is added to them.
    Add,
}

/// Most rows of `a` for which dot products beat packing `b`.
const FEW_ROWS: usize = 6;

/// Products smaller than this (multiply-adds) are not worth waking threads for.
const SERIAL: usize = 1 << 17;

/// Hands out the tasks of a product.
#[derive(Clone, Copy)]
struct Tasks<'a> {
    pool: &'a Pool,
    /// What threads do beside those that multiply.
    beside: &'a Beside<'a>,
    /// To this thread alone.
    serial: bool,
}

impl<'a> Tasks<'a> {
    /// Of a product of this many multiply-adds.
    fn new(pool: &'a Pool, beside: &'a Beside<'a>, work: usize) -> Self {
        Self { pool, beside, serial: work < SERIAL }
    }

    /// How many threads may get some.
    fn threads(self) -> usize {
        if self.serial { 1 } else { self.pool.threads() }
    }

    /// See [`Pool::run_with_scratch`].
    fn run(self, tasks: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        self.run_threads(tasks, |tasks, scratch| tasks.for_each(|task| f(task, scratch)));
    }

    /// See [`Pool::run_threads`].
    fn run_threads(self, tasks: usize, f: impl Fn(&mut dyn Share, &mut [f32]) + Sync) {
        if self.serial {
            self.pool.run_threads(1, |_, scratch| f(&mut (0..tasks), scratch));
        } else {
            self.pool.run_threads(tasks, f);
        }
    }

    /// [`Tasks::run`], for the tasks that multiply.
    fn multiply(self, tasks: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
        self.multiply_threads(tasks, |tasks, scratch| tasks.for_each(|task| f(task, scratch)));
    }

    /// [`Tasks::run_threads`], for the tasks that multiply.
    fn multiply_threads(self, tasks: usize, f: impl Fn(&mut dyn Share, &mut [f32]) + Sync) {
        // Where some threads get no task, all are done with theirs at once: what is beside comes after.
        if self.serial || tasks < self.pool.threads() {
            self.run_threads(tasks, f);
        } else {
            self.pool.run_threads_beside(self.beside, tasks, f);
        }
    }
}

/// Cuts `total` into pieces `(start, len)` of nearly equal length: at most `most`, multiples of
/// `unit` but for the last.
fn blocks(total: usize, most: usize, unit: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = total.div_ceil(most);
    let len = total.div_ceil(count).next_multiple_of(unit);
    (0..total).step_by(len).map(move |start| (start, len.min(total - start)))
}

/// Memory that tasks write in different places, and then all read.
#[derive(Clone, Copy)]
struct Shared(*mut u32);

// SAFETY: a pointer; whoever uses it says why nobody else writes there.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// From number `index` on.
    fn at(self, index: usize) -> *mut u32 {
        self.0.wrapping_add(index)
    }
}

/// What runs a product, unless it has few rows, or is for Accelerate.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Tiles(Precision),
    Panels(Unit),
    Library,
}

impl Kernel {
    /// For `[m, n]` numbers in this precision, where some operand lies in cells or none does.
    fn of(isa: Isa, precision: Precision, m: usize, n: usize, in_cells: bool) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa.tiles() && (precision == Precision::Bf16 || tiles::worth(m, n, in_cells)) {
            return Kernel::Tiles(precision);
        }
        let _ = (m, n, in_cells);
        match precision {
            Precision::Bf16 => Kernel::Panels(Unit::bf16(isa)),
            Precision::F32 => Unit::f32(isa).map_or(Kernel::Library, Kernel::Panels),
        }
    }
}

/// Parts of a number on tiles.
#[cfg(target_arch = "x86_64")]
fn parts(precision: Precision) -> usize {
    if precision == Precision::Bf16 { 1 } else { 3 }
}

/// Matrix products with their packing memory.
pub(crate) struct Gemm {
    isa: Isa,
    /// Where some products run on panels.
    panels: Option<panels::Packs>,
    #[cfg(target_arch = "x86_64")]
    tiles: tiles::Packs,
    precision: Precision,
    /// Sums of squares of the tasks of a product.
    squares: Vec<f64>,
}

impl Gemm {
    /// For these instructions, on the threads of `pool`.
    pub fn new(isa: Isa, precision: Precision, pool: &mut Pool) -> Result<Self, CpuError> {
        let panels = Unit::f32(isa).is_some() || (precision == Precision::Bf16 && !isa.tiles());
        let scratch = if panels { panels::SCRATCH } else { 0 };
        #[cfg(target_arch = "x86_64")]
        let scratch = if isa.tiles() { scratch.max(tiles::SCRATCH) } else { scratch };
        // At once: had a smaller one been freed, glibc would keep later pieces of its size for itself.
        pool.reserve_scratch(scratch)?;
        Ok(Self {
            isa,
            panels: panels.then(|| panels::Packs::new(isa)).transpose()?,
            #[cfg(target_arch = "x86_64")]
            tiles: tiles::Packs::new(isa, pool.threads())?,
            precision,
            squares: Vec::new(),
        })
    }

    /// Bytes that a product of `(rows, columns, depth)` writes to the operand that all threads read: the
    /// rest of that memory is never touched.
    pub fn shared_bytes(&self, (m, n, k): (usize, usize, usize)) -> usize {
        match (Kernel::of(self.isa, self.precision, m, n, false), &self.panels) {
            #[cfg(target_arch = "x86_64")]
            (Kernel::Tiles(precision), _) => tiles::Packs::shared_bytes(parts(precision), m, n, k),
            (Kernel::Panels(unit), Some(panels)) => panels.shared_bytes(unit, m, n, k),
            _ => 0,
        }
    }

    /// [`Gemm::product`], with the sum of the squares of what `c` is then, where the kernel takes it on its way.
    pub fn product_and_squares(
        &mut self,
        pool: &Pool,
        alpha: f32,
        a: Left<'_>,
        b: Right<'_>,
        into: Into,
        mut c: MatMut<'_>,
    ) -> Option<f64> {
        let (m, n) = (c.rows, c.cols);
        let places = match Kernel::of(self.isa, self.precision, m, n, in_cells(&a, &b, &c)) {
            #[cfg(target_arch = "x86_64")]
            Kernel::Tiles(_) => tiles::squares(m, n),
            Kernel::Panels(_) => panels::squares(m, n),
            Kernel::Library => portable::squares(m, n),
        };
        self.squares.clear();
        self.squares.resize(places, 0.0);
        c.squares = Squares::new(&mut self.squares);
        self.product(pool, &Beside::nothing(), alpha, a, b, into, c);
        squares::total(&self.squares, m * n)
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`, in the precision that [`Gemm::new`] was given.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit each other, or `b` is packed and the precision f32.
    #[allow(clippy::too_many_arguments)]
    pub fn product(
        &mut self,
        pool: &Pool,
        beside: &Beside<'_>,
        alpha: f32,
        a: Left<'_>,
        b: Right<'_>,
        into: Into,
        c: MatMut<'_>,
    ) {
        if self.precision == Precision::F32 {
            let Right::Plain(b) = b else { panic!("packed weights are of bf16") };
            return self.matmul(pool, beside, alpha, a, b, into, c);
        }
        assert!(!in_cells(&a, &b, &c), "matrices in cells are of f32");
        let shape = [a.mat().shape(), b.shape()];
        let kernel = Kernel::of(self.isa, Precision::Bf16, c.rows, c.cols, false);
        let tasks = (pool, beside);
        self.run(tasks, shape, into, c, |gemm, tasks, c| gemm.multiply(kernel, tasks, alpha, a, b, into, c));
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`, on the threads of `pool`, the one that [`Gemm::new`]
    /// was given.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit each other.
    #[allow(clippy::too_many_arguments)]
    pub fn matmul(
        &mut self,
        pool: &Pool,
        beside: &Beside<'_>,
        alpha: f32,
        a: Left<'_>,
        b: Mat<'_>,
        into: Into,
        c: MatMut<'_>,
    ) {
        let shape = [a.mat().shape(), b.shape()];
        let in_cells = in_cells(&a, &Right::Plain(b), &c);
        let kernel = Kernel::of(self.isa, Precision::F32, c.rows, c.cols, in_cells);
        self.run((pool, beside), shape, into, c, |gemm, tasks, c| {
            #[cfg(target_arch = "x86_64")]
            if matches!(kernel, Kernel::Tiles(_)) {
                return gemm.multiply(kernel, tasks, alpha, a, Right::Plain(b), into, c);
            }
            assert!(!in_cells, "matrices in cells are for tiles, which these instructions do not have");
            if a.mat().rows <= FEW_ROWS && a.mat().col_stride == 1 && b.row_stride == 1 {
                return dots::matmul(gemm.isa, tasks, alpha, a.whole(tasks), b, into, c);
            }
            // SAFETY: `c` is the whole of a mutable matrix of this shape.
            if accelerate::HERE && unsafe { accelerate::matmul(alpha, a.whole(tasks), b, into, c) } {
                return;
            }
            gemm.multiply(kernel, tasks, alpha, a, Right::Plain(b), into, c);
        });
    }

    /// On this kernel, shapes checked.
    #[allow(clippy::too_many_arguments)]
    fn multiply(
        &mut self,
        kernel: Kernel,
        tasks: Tasks<'_>,
        alpha: f32,
        a: Left<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        match (kernel, b) {
            #[cfg(target_arch = "x86_64")]
            (Kernel::Tiles(Precision::Bf16), b) => self.tiles.matmul::<1>(tasks, alpha, a, b, into, c),
            #[cfg(target_arch = "x86_64")]
            (Kernel::Tiles(Precision::F32), b) => self.tiles.matmul::<3>(tasks, alpha, a, b, into, c),
            (Kernel::Panels(unit), b) => {
                let panels = self.panels.as_mut().expect("made where products run on panels");
                panels.matmul(unit, tasks, alpha, a, b, into, c);
            }
            (Kernel::Library, Right::Plain(b)) => {
                portable::matmul(self.isa, tasks, alpha, a.whole(tasks), b, into, c);
            }
            (Kernel::Library, _) => unreachable!("packed weights are of bf16, which the library has not"),
        }
    }

    /// Checks the shapes of `a` and `b`, sees to products of nothing, and lets `f` run the others.
    fn run(
        &mut self,
        (pool, beside): (&Pool, &Beside<'_>),
        [(m, k), (depth, n)]: [(usize, usize); 2],
        into: Into,
        mut c: MatMut<'_>,
        f: impl FnOnce(&mut Self, Tasks<'_>, Target),
    ) {
        assert_eq!(k, depth, "inner extents");
        assert_eq!((m, n), (c.rows, c.cols), "outer extents");
        if m == 0 || n == 0 {
            return;
        }
        if k == 0 {
            return c.clear(into);
        }
        f(self, Tasks::new(pool, beside, m * n * k), c.target());
    }
}

/// Whether one of these lies in cells.
fn in_cells(a: &Left<'_>, b: &Right<'_>, c: &MatMut<'_>) -> bool {
    a.mat().in_cells() || b.in_cells() || c.in_cells()
}

/// What multiplies the matrices of training, in a word or two for reports.
pub(crate) fn kernel(isa: Isa, precision: Precision) -> &'static str {
    match (precision, isa.level()) {
        #[cfg(target_arch = "x86_64")]
        (Precision::Bf16, Level::Amx) => "AMX tiles",
        #[cfg(target_arch = "x86_64")]
        (Precision::Bf16, Level::Avx512) if bf16::in_hardware(isa) => "AVX-512 BF16",
        (Precision::Bf16, _) => "plain Rust",
        (Precision::F32, _) if accelerate::HERE => "Accelerate",
        #[cfg(target_arch = "x86_64")]
        (Precision::F32, Level::Amx) => "AMX tiles, each number in three bf16 parts",
        #[cfg(target_arch = "x86_64")]
        (Precision::F32, Level::Avx512) => "AVX-512",
        (Precision::F32, _) => "the gemm library",
    }
}

/// Scratch that [`small`] needs for `a` `[m, k]` and `b` `[k, n]`, in numbers.
pub(crate) fn small_scratch(m: usize, n: usize, k: usize) -> usize {
    let panels = (m.next_multiple_of(16) + n.next_multiple_of(16)) * k.next_multiple_of(32);
    #[cfg(target_arch = "x86_64")]
    let panels = panels.max(tiles::small_scratch(m, n, k));
    panels
}

/// A small product on this thread: `a` and `b` of at most a few hundred rows and columns.
/// `scratch` holds at least [`small_scratch`] numbers.
#[allow(clippy::too_many_arguments)]
pub(crate) fn small(
    isa: Isa,
    precision: Precision,
    alpha: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    into: Into,
    mut c: MatMut<'_>,
    scratch: &mut [f32],
) {
    assert_eq!(a.cols, b.rows, "inner extents");
    assert_eq!((a.rows, b.cols), (c.rows, c.cols), "outer extents");
    assert!(!a.in_cells() && !b.in_cells() && !c.in_cells(), "matrices in cells are not small");
    if c.rows == 0 || c.cols == 0 || a.cols == 0 {
        return;
    }
    let c = c.target();
    let unit = match precision {
        // SAFETY: `c` is the whole of a mutable matrix of this shape.
        #[cfg(target_arch = "x86_64")]
        Precision::Bf16 if isa.tiles() => return unsafe { tiles::small(alpha, a, b, into, c, scratch) },
        Precision::Bf16 => Some(Unit::bf16(isa)),
        // SAFETY: as above.
        Precision::F32 if unsafe { accelerate::matmul(alpha, a, b, into, c) } => return,
        Precision::F32 => Unit::f32(isa),
    };
    match unit {
        // SAFETY: as above.
        Some(unit) => unsafe { panels::small(unit, alpha, a, b, into, c, scratch) },
        // SAFETY: as above.
        None => unsafe { portable::tile(alpha, a, b, into, c) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::{assert_close, values};
    use crate::{Exec, Plan};

    fn exec(isa: Isa, threads: usize) -> Exec {
        Exec::new(&Plan { isa, ..Plan::new(1).with_threads(threads) }).unwrap()
    }

    fn plain(alpha: f32, a: Mat<'_>, b: Mat<'_>) -> Vec<f64> {
        let mut c = Vec::new();
        for i in 0..a.rows {
            for j in 0..b.cols {
                let term = |p: usize| f64::from(a.at(i, p)) * f64::from(b.at(p, j));
                c.push(f64::from(alpha) * (0..a.cols).map(term).sum::<f64>());
            }
        }
        c
    }

    fn shapes() -> Vec<(usize, usize, usize)> {
        vec![
            (1, 1, 1),
            (1, 50, 33),
            (2, 100, 70),
            (5, 17, 3),
            (7, 49, 20),
            (8, 48, 16),
            (9, 47, 17),
            (30, 37, 111),
            (64, 64, 64),
            (33, 200, 65),
            (129, 97, 31),
            (16, 16, 800),
            (3, 5, 2000),
            (300, 130, 40),
        ]
    }

    #[test]
    fn every_layout_and_shape_gives_the_product() {
        for &isa in Isa::available() {
            let mut exec = exec(isa, 2);
            for (m, n, k) in shapes() {
                let (a, b, old) = (values(m * k, 1), values(k * n, 2), values(m * (n + 3), 3));
                let tolerance = 1e-6 * (k as f64).sqrt().max(2.0) * 4.0;
                for layout in 0..4 {
                    let a = if layout & 1 == 0 { Mat::new(&a, m, k) } else { Mat::new(&a, k, m).t() };
                    let b = if layout & 2 == 0 { Mat::new(&b, k, n) } else { Mat::new(&b, n, k).t() };
                    for (alpha, into) in [(1.0, Into::Set), (-0.5, Into::Add)] {
                        let product = plain(alpha, a, b);
                        let mut c = old.clone();
                        exec.matmul(alpha, a, b, into, MatMut::strided(&mut c, m, n, n + 3));
                        let mut d = old.clone();
                        let mut scratch = vec![f32::NAN; small_scratch(m, n, k)];
                        small(
                            isa,
                            Precision::F32,
                            alpha,
                            a,
                            b,
                            into,
                            MatMut::strided(&mut d, m, n, n + 3),
                            &mut scratch,
                        );
                        let mut wanted: Vec<f64> = old.iter().map(|&v| f64::from(v)).collect();
                        for i in 0..m {
                            for j in 0..n {
                                let w = &mut wanted[i * (n + 3) + j];
                                *w = product[i * n + j] + if into == Into::Add { *w } else { 0.0 };
                            }
                        }
                        assert_close(&c, &wanted, tolerance);
                        assert_close(&d, &wanted, tolerance);
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_of_a_large_product_fit_together() {
        // More columns, rows and depth than one block of the packed kernel.
        for (m, n, k) in [
            (4700, 4800, 2),
            (4800, 4700, 2),
            (20, 4700, 30),
            (24, 50, 1700),
            (1370, 1380, 400),
            (1380, 1370, 400),
        ] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (a, b) = (Mat::new(&a, k, m).t(), Mat::new(&b, k, n));
            let wanted = plain(1.0, a, b);
            for &isa in Isa::available() {
                let mut c = vec![f32::NAN; m * n];
                exec(isa, 2).matmul(1.0, a, b, Into::Set, MatMut::new(&mut c, m, n));
                assert_close(&c, &wanted, 1e-4);
            }
        }
    }

    #[test]
    fn three_parts_are_as_exact_as_multiply_adds() {
        let [.., vectors, tiles] = Isa::available() else { return };
        if tiles.name() != "amx" {
            return;
        }
        for (m, n, k) in [(64, 80, 768), (40, 33, 4000), (50, 50, 33)] {
            // Numbers of magnitudes from 2⁻²⁰ to 2²⁰, and of either sign.
            let spread = |x: Vec<f32>| -> Vec<f32> {
                x.iter().enumerate().map(|(i, x)| x * 2f32.powi(i as i32 * 7 % 41 - 20)).collect()
            };
            for spread in [&spread as &dyn Fn(Vec<f32>) -> Vec<f32>, &|x| x] {
                let (a, b) = (spread(values(m * k, 1)), spread(values(k * n, 2)));
                let size = |x: &[f32]| -> Vec<f32> { x.iter().map(|x| x.abs()).collect() };
                let (sa, sb) = (size(&a), size(&b));
                let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
                let wanted = plain(1.0, a, b);
                let sizes = plain(1.0, Mat::new(&sa, m, k), Mat::new(&sb, k, n));
                // Largest error of a number, in units of the sum of the magnitudes of its terms.
                let error = |isa| {
                    let mut c = vec![f32::NAN; m * n];
                    exec(isa, 2).matmul(1.0, a, b, Into::Set, MatMut::new(&mut c, m, n));
                    let errors =
                        c.iter().zip(&wanted).zip(&sizes).map(|((&c, w), s)| (f64::from(c) - w).abs() / s);
                    errors.fold(0.0, f64::max)
                };
                let (plain, split) = (error(*vectors), error(*tiles));
                println!("{m}×{n}×{k}: {plain:e} with multiply-adds, {split:e} with tiles");
                assert!(split < 5e-7 && split < 2.0 * plain, "{m}×{n}×{k}: {split:e}, {plain:e}");
            }
        }
    }

    #[test]
    fn the_largest_numbers_and_the_smallest_keep_their_meaning() {
        for &isa in Isa::available() {
            for x in [f32::MAX, -3.396e38, 1e30, 1e-30, 2e-33, -7e-40] {
                let (a, b) = (vec![x; 20 * 40], values(40 * 20, 1));
                let b: Vec<_> = b.iter().map(|b| b / 64.0).collect();
                let mut c = vec![f32::NAN; 400];
                let (a, b) = (Mat::new(&a, 20, 40), Mat::new(&b, 40, 20));
                exec(isa, 1).matmul(1.0, a, b, Into::Set, MatMut::new(&mut c, 20, 20));
                for (c, w) in c.iter().zip(plain(1.0, a, b)) {
                    let error = (f64::from(*c) - w).abs();
                    // Tiles take parts, and products of them, below the smallest normal number for zero.
                    let lost = 40.0 * f64::from(f32::MIN_POSITIVE);
                    assert!(
                        error < 4e-7 * f64::from(x.abs()) + lost,
                        "{}: {x:e}: {c:e} instead of {w:e}",
                        isa.name()
                    );
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_threads() {
        for &isa in Isa::available() {
            for (m, n, k) in [(4, 300, 900), (130, 600, 900), (700, 60, 50)] {
                let (a, b) = (values(m * k, 1), values(k * n, 2));
                let run = |threads| {
                    let mut c = vec![0.0; m * n];
                    let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
                    exec(isa, threads).matmul(1.0, a, b, Into::Set, MatMut::new(&mut c, m, n));
                    c
                };
                let one = run(1);
                assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one), "{isa:?} {m} {n} {k}");
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_stay_so() {
        for &isa in Isa::available() {
            let mut a = vec![1.0; 20 * 20];
            a[3 * 20 + 5] = f32::NAN;
            let mut c = vec![0.0; 20 * 20];
            let m = Mat::new(&a, 20, 20);
            exec(isa, 1).matmul(1.0, m, m.t(), Into::Set, MatMut::new(&mut c, 20, 20));
            assert!(c[3 * 20].is_nan() && c[4].is_finite());
        }
    }
}
