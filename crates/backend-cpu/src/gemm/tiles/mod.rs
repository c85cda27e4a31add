//! Products on tiles that multiply bf16: in bf16, and in f32 as three numbers of bf16 each.
//!
//! A number of 24 bits is the exact sum of three of 8: `x = hi + mid + lo`. Of the nine products of
//! parts six are added up in f32; `mid·lo`, `lo·mid` and `lo·lo`, left out, are at most 2⁻²² of the
//! product together and of either sign, so that sums are as exact as with multiply-adds. Source: Henry,
//! Tang & Heinecke 2019, arXiv:1904.06376. Products in bf16 have one part, the number rounded. Most of what is here takes the
//! number of parts, one or three, as `P`.
//!
//! Both operands are cut into *bands* of 32 rows (of `a`) or columns (of `b`), and each band into
//! *steps* of 32 numbers of depth: two tiles of each part, 2 KB a part. So whatever a tile needs lies in
//! one piece, which caches bring ahead by themselves.
//!
//! The operand with fewer rows or columns is packed once for all threads, the other one by the tasks,
//! each its own part, and weights once per update ([`Packed`]). A tile of rows (the left side of the instruction)
//! comes easily from memory in which the depth is contiguous, a tile of columns (its right side) from the
//! other kind. So `a` may be on the right, whereupon the result comes out turned: see [`turns_result`].
//!
//! Weights in f32 may lie [in cells](crate::cells), whose sides are those of a tile. The way from a number to its
//! neighbours is the same within a cell as in a matrix of rows, so that only who goes from one tile to the next needs
//! to know.
//!
//! Each number of `c` is a sum over `k` in order, in blocks that the shape alone decides. Parts of
//! numbers, and products of parts, below the smallest normal number count as zero, so that all 24 bits of f32
//! count from 2⁻¹⁰⁹ on. What has an infinite number in its row or column becomes NaN in f32; what overflows
//! becomes infinite.

mod ahead;
mod operand;
mod pack;
mod product;
mod turn;

use super::bf16::Right;
use super::{Into, Left, Mat, Shared, Target, Tasks, blocks};
use crate::cells::CELL;
use crate::memory::HUGE_FROM;
use crate::{Buffer, CpuError, Isa};
use operand::Operand;
use product::{Meanwhile, Product, SUMS};
pub(super) use product::{SPIN, spin};

/// Numbers of a vector, rows of a tile, pairs of a step.
const V: usize = 16;
/// Rows, or columns, of a band.
pub(super) const BAND: usize = 2 * V;
/// Depth of a step.
const STEP: usize = 2 * V;
/// Parts of a matrix in cells, and the lines that are packed of it, are whole ones.
const _: () = assert!(V == CELL);
/// Pairs of a tile.
const TILE: usize = V * V;
/// Pairs of a part of a step of a band: two tiles.
const PART: usize = 2 * TILE;
/// Products in bf16 that make one in f32.
pub(crate) const PRODUCTS_OF_PARTS: usize = 6;
/// Most pairs of the operand that all threads read at once: 12 MB.
const SHARED: usize = 3 << 20;
/// Numbers of a result that is written past the caches: whoever reads it next finds no more of it in them than
/// writing it costs.
const PASSING: usize = 1 << 19;
/// Tasks per thread that a product is cut into where that leaves a band; no sum depends on it.
const TASKS: usize = 4;
/// Rows, or columns, of a task that packs for all threads.
const PACK: usize = 2 * BAND;

/// Whether a product in f32 is worth tiles: from one tile on, and whatever only they read.
pub(super) fn worth(m: usize, n: usize, in_cells: bool) -> bool {
    in_cells || m.min(n) >= V
}

/// How far products are cut, for caches of the second level of two megabytes.
struct Limits {
    /// Deepest block.
    depth: usize,
    /// Most bytes of the operand that all threads read at once.
    shared: usize,
    /// Most bytes of it that stay in the cache beside the part of a task and that of the next.
    stays: usize,
    /// Most bytes of the part of a task then, and most bands in any case.
    own: usize,
    bands: usize,
}

impl Limits {
    /// Three parts are split anew for each block of the shared operand, so that it is as large as may be, and
    /// passes by wide parts of tasks where it does not stay. Where it does, both parts that a thread holds then
    /// and it are to be 1.5 MB.
    const fn of(parts: usize) -> Self {
        if parts == 1 {
            Self { depth: 1536, shared: 1 << 20, stays: 1 << 20, own: 256 << 10, bands: 8 }
        } else {
            Self { depth: 768, shared: 12 << 20, stays: 5 << 18, own: 160 << 10, bands: 6 }
        }
    }

    /// Rows, or columns, of the shared operand at a depth.
    const fn shared_extent(&self, parts: usize, depth: usize) -> usize {
        let extent = self.shared / (2 * parts * depth) / PACK * PACK;
        if extent > PACK { extent } else { PACK }
    }

    /// Bands of a task at a depth, beside so many rows or columns of the shared operand.
    const fn own_bands(&self, parts: usize, depth: usize, shared: usize) -> usize {
        let bands = self.own / (2 * parts * depth * BAND);
        if bands >= self.bands || 2 * parts * depth * shared > self.stays {
            self.bands
        } else if bands == 0 {
            1
        } else {
            bands
        }
    }

    /// Most pairs that a task packs.
    const fn own_pairs(&self, parts: usize) -> usize {
        self.bands * BAND * self.depth / 2 * parts
    }
}

/// Numbers that a thread packs for the task at hand and, in three parts, for the next one, and sums: 1.8 MB, and
/// more so that they lie in huge pages, which is worth a twentieth.
pub(super) const SCRATCH: usize = {
    let (one, three) = (Limits::of(1).own_pairs(1), 2 * Limits::of(3).own_pairs(3));
    let used = SUMS + if one > three { one } else { three };
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
    fn other(self) -> Self {
        if self == Side::Left { Side::Right } else { Side::Left }
    }
}

/// Whether tiles of the result come out turned, the rows of `a` on the right: the cheaper way. Turning an
/// operand is an exchange per part of it, turning the result one per tile.
fn turns_result<const P: usize>(a: &Operand<'_>, b: &Operand<'_>) -> bool {
    let turn = |x: &Operand<'_>, side| x.exchanges(P, side);
    let straight = turn(a, Side::Left) + turn(b, Side::Right);
    turn(a, Side::Right) + turn(b, Side::Left) + 2 * a.extent() * b.extent() <= straight
}

/// Bands of a task: as many as keep all threads busy to the end, of those that leave several tasks to each.
fn width(bands: usize, most: usize, threads: usize) -> usize {
    let most = (bands / (TASKS * threads)).clamp(1, most);
    let longest = |width: usize| bands.div_ceil(width).div_ceil(threads) * width;
    (most.div_ceil(2)..=most).rev().min_by_key(|&width| longest(width)).unwrap_or(most)
}

impl Packs {
    pub(super) fn new(isa: Isa, threads: usize) -> Result<Self, CpuError> {
        let len = if isa.tiles() { SHARED } else { 0 };
        Ok(Self { isa, threads, shared: Buffer::zeros("packed operands", len)? })
    }

    /// Bytes of the shared operand that a product of so many parts writes.
    pub(super) fn shared_bytes(parts: usize, m: usize, n: usize, k: usize) -> usize {
        let limits = Limits::of(parts);
        let depth = k.next_multiple_of(STEP).min(limits.depth);
        2 * parts * m.min(n).next_multiple_of(BAND).min(limits.shared_extent(parts, depth)) * depth
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`, with numbers in `P` parts. Threads have [`SCRATCH`] numbers each.
    pub(super) fn matmul<const P: usize>(
        &mut self,
        tasks: Tasks<'_>,
        alpha: f32,
        left: Left<'_>,
        b: Right<'_>,
        into: Into,
        c: Target,
    ) {
        assert!(self.isa.tiles());
        let left = left.packed_by(PACK, tasks);
        let (limits, a) = (Limits::of(P), left.mat());
        // What more products are added to comes back soon; what no cache keeps need not pass through them.
        let into = match into {
            Into::Stream if a.cols > limits.depth => Into::Set,
            Into::Set if a.rows * b.shape().1 >= PASSING && a.cols <= limits.depth => Into::Stream,
            into => into,
        };
        let (packed, k) = (Shared(self.shared.as_mut_ptr()), a.cols);
        let (a, b) = (Operand::Plain(a), Operand::right(b));
        let turned = turns_result::<P>(&a, &b);
        let own_is_a = a.extent() > b.extent();
        let (own, shared) = if own_is_a { (a, b) } else { (b, a) };
        let side = if own_is_a != turned { Side::Left } else { Side::Right };
        let most = own.depth().next_multiple_of(STEP).min(limits.depth);
        let at_once = limits.shared_extent(P, most);
        let bands = limits.own_bands(P, most, shared.extent().min(at_once));
        let width = BAND * width(own.extent().div_ceil(BAND), bands, self.threads);
        for (s0, extent) in blocks(shared.extent(), at_once, PACK) {
            for (p0, depth) in blocks(own.depth(), limits.depth, STEP) {
                let into = if p0 == 0 { into } else { Into::Add };
                let shared = shared.part(s0, extent, p0, depth);
                if !shared.is_packed() {
                    tasks.run(extent.div_ceil(PACK), |task, _| {
                        let start = task * PACK;
                        let part = shared.part(start, PACK.min(extent - start), 0, depth);
                        let to = packed.at(start / BAND * depth.div_ceil(STEP) * P * PART);
                        // SAFETY: the instructions are there (asserted above); tasks make different rows, and
                        // write different bands, at most SHARED pairs in all.
                        unsafe {
                            if !own_is_a && p0 == 0 {
                                left.make(s0 + start, part.extent());
                            }
                            part.pack::<P>(side.other(), to);
                        }
                    });
                }
                let of_task = |task: usize| {
                    let start = task * width;
                    let extent = width.min(own.extent() - start);
                    if own_is_a && s0 == 0 && p0 == 0 {
                        // SAFETY: who has a task asks for its part once, and alone has its rows.
                        unsafe { left.make(start, extent) };
                    }
                    own.part(start, extent, p0, depth)
                };
                tasks.multiply_threads(own.extent().div_ceil(width), |tasks, scratch| {
                    assert!(scratch.len() >= SCRATCH);
                    let (sums, scratch) = scratch.split_at_mut(SUMS);
                    let place = scratch.as_mut_ptr().cast::<u32>();
                    let other = place.wrapping_add(if P == 1 { 0 } else { limits.own_pairs(P) });
                    let mut places = [place, other];
                    // SAFETY: the instructions are there; the bands of a task fit half of the scratch.
                    let pack = |part: Operand<'_>, to| unsafe { part.bands::<P>(side, to) };
                    let mut now = tasks.next().map(|task| (task, pack(of_task(task), place)));
                    while let Some((task, own)) = now {
                        // The last of a thread's tasks is left to whoever is free first.
                        let more = tasks.own() > 1;
                        let next = more.then(|| tasks.next()).flatten().map(|task| (task, of_task(task)));
                        let corner = if own_is_a { (task * width, s0) } else { (s0, task * width) };
                        let shared = shared.packed::<P>(packed.at(0));
                        let (rows, cols) = if own_is_a { (own, shared) } else { (shared, own) };
                        let (steps, sums) = (depth.div_ceil(STEP), sums.as_mut_ptr());
                        let product = Product::<P> { rows, cols, own_is_rows: own_is_a, turned, steps, sums };
                        let meanwhile = match next {
                            None => Meanwhile::nothing(),
                            Some((_, part)) if P == 1 => Meanwhile::fetch(&part, product.steps()),
                            Some((_, part)) => Meanwhile::pack(part, side, places[1], product.steps()),
                        };
                        let c = c.of_task(task * width / BAND, p0 + depth == k);
                        // SAFETY: the instructions are there; own bands are packed, and so were the shared ones
                        // above; the next ones have a place of their own; this task alone writes this part of `c`.
                        unsafe { product.run(alpha, into, c.at(corner.0, corner.1), meanwhile) };
                        places.reverse();
                        now = match next {
                            Some((task, part)) if P > 1 => Some((task, part.packed::<P>(places[0]))),
                            Some((task, part)) => Some((task, pack(part, place))),
                            None => tasks.next().map(|task| (task, pack(of_task(task), places[0]))),
                        };
                    }
                });
            }
        }
    }
}

/// Scratch that [`small`] needs for `a` `[m, k]` and `b` `[k, n]`, in numbers.
pub(super) fn small_scratch(m: usize, n: usize, k: usize) -> usize {
    SUMS.min(BAND * n.next_multiple_of(BAND))
        + (m.next_multiple_of(BAND) + n.next_multiple_of(BAND)) * k.next_multiple_of(STEP) / 2
}

/// One small product in bf16 on this thread.
///
/// # Safety
///
/// The instructions of AMX's level are there; `c` is writable for `a.rows` rows of `b.cols` numbers and
/// nobody else uses it.
pub(super) unsafe fn small(alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: Target, scratch: &mut [f32]) {
    assert!(scratch.len() >= small_scratch(a.rows, b.cols, a.cols), "scratch for a small product");
    let (sums, scratch) = scratch.split_at_mut(SUMS.min(BAND * b.cols.next_multiple_of(BAND)));
    let steps = a.cols.div_ceil(STEP);
    let left = scratch.as_mut_ptr().cast::<u32>();
    let right = left.wrapping_add(a.rows.div_ceil(BAND) * steps * PART);
    // SAFETY: the packed operands and the sums fit (asserted), and `c` is the caller's.
    unsafe {
        let rows = Operand::Plain(a).bands::<1>(Side::Left, left);
        let cols = Operand::Plain(b.t()).bands::<1>(Side::Right, right);
        let sums = sums.as_mut_ptr();
        let product = Product::<1> { rows, cols, own_is_rows: true, turned: false, steps, sums };
        product.run(alpha, into, c, Meanwhile::nothing());
    }
}

/// Numbers of packed weights.
pub(super) fn packed_len(rows: usize, cols: usize) -> usize {
    rows.div_ceil(BAND) * cols.div_ceil(STEP) * PART
}

/// Packs a band of weights, as the right operand of `x·wᵀ`.
///
/// # Safety
///
/// The instructions of AMX's level are there; `to` is writable for [`packed_len`].
pub(super) unsafe fn pack_weights(w: Mat<'_>, to: *mut u32) {
    // SAFETY: the caller's promise.
    unsafe { Operand::Plain(w).pack::<1>(Side::Right, to) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Order;
    use crate::kernels::check::{assert_close, values, wide};
    use crate::{Exec, MatMut, Plan};

    /// The bits of a number after rounding.
    fn rounded(x: f32) -> u32 {
        u32::from(half::bf16::from_f32(x).to_bits())
    }

    #[test]
    fn bands_hold_pairs_wherever_they_come_from() {
        if !Isa::detect().tiles() {
            return;
        }
        for (rows, cols) in [(1, 1), (5, 31), (16, 32), (17, 33), (32, 64), (40, 70), (70, 129)] {
            let x = values(rows * cols, 1);
            let turned: Vec<f32> = (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect();
            for x in [Mat::new(&x, rows, cols), Mat::new(&turned, cols, rows).t()] {
                for side in [Side::Left, Side::Right] {
                    let mut packed = vec![u32::MAX; packed_len(rows, cols)];
                    // SAFETY: the instructions are there, and so is the room.
                    unsafe { Operand::Plain(x).pack::<1>(side, packed.as_mut_ptr()) };
                    let number = |i: usize, p: usize| {
                        let inside = i < rows && p < cols;
                        if inside { rounded(x.at(i, p)) } else { 0 }
                    };
                    for (at, pair) in packed.into_iter().enumerate() {
                        let (step, line, column) = (at / PART, at % TILE / V, at % V);
                        let (of_tile, p) = if side == Side::Left { (line, column) } else { (column, line) };
                        let steps = cols.div_ceil(STEP);
                        let i = step / steps * BAND + at % PART / TILE * V + of_tile;
                        let p = step % steps * STEP + 2 * p;
                        let wanted = number(i, p) | number(i, p + 1) << 16;
                        assert_eq!(pair, wanted, "{side:?} {i}, {p} of {rows} × {cols}");
                    }
                }
            }
        }
    }

    #[test]
    fn turned_weights_are_those_of_the_transposed_matrix() {
        if !Isa::detect().tiles() {
            return;
        }
        let isa = Isa::detect();
        for (rows, cols) in [(1, 1), (16, 32), (33, 31), (70, 129), (96, 160)] {
            let w = values(rows * cols, 1);
            let (mut packed, mut wanted) = (vec![0; packed_len(rows, cols)], vec![0; packed_len(cols, rows)]);
            let mut turned = vec![u32::MAX; wanted.len()];
            let plain = Mat::new(&w, rows, cols);
            // SAFETY: the instructions are there, and so is the room.
            unsafe {
                pack_weights(plain, packed.as_mut_ptr());
                pack_weights(plain.t(), wanted.as_mut_ptr());
                let right = Right::Packed(super::super::Packed::new(isa, &packed, rows, cols));
                Operand::right(right).pack::<1>(Side::Right, turned.as_mut_ptr());
            }
            assert_eq!(turned, wanted, "{rows} × {cols}");
        }
    }

    #[test]
    fn cells_give_the_same_as_rows() {
        if !Isa::detect().tiles() {
            return;
        }
        // Either side shared by all threads, in several tasks, groups of columns and blocks of depth; the last in two
        // blocks of what is shared.
        let shapes = [
            (32, 48, 64),
            (16, 16, 16),
            (48, 2304, 800),
            (800, 48, 800),
            (48, 48, 2304),
            (336, 400, 48),
            (400, 336, 48),
            (2752, 2704, 16),
        ];
        for (m, n, k) in shapes {
            let rows = [values(m * k, 1), values(k * n, 2), values(m * n, 3)];
            let cols = [k, n, n];
            let cells = [0, 1, 2].map(|i| Order::Cells.arrange(&rows[i], cols[i]));
            for into in [Into::Set, Into::Stream, Into::Add] {
                let product = |which: u8| {
                    let order = |bit: u8| if which >> bit & 1 == 1 { Order::Cells } else { Order::Rows };
                    let of = |i: usize| if order(i as u8) == Order::Cells { &cells[i] } else { &rows[i] };
                    let mut exec = Exec::new(&Plan::new(1).with_threads(2)).unwrap();
                    // Where a line of a cache starts: only then are numbers written past the caches.
                    let mut c = Buffer::zeros("a product", m * n).unwrap();
                    c.copy_from_slice(of(2));
                    let a = Mat::ordered(order(0), of(0), m, k);
                    let b = Right::Plain(Mat::ordered(order(1), of(1), k, n));
                    exec.product(0.5, a, b, into, MatMut::ordered(order(2), &mut c, m, n));
                    // And with both transposed, which gives the transposed product.
                    let (at, bt) =
                        (Mat::ordered(order(0), of(0), m, k).t(), Mat::ordered(order(1), of(1), k, n).t());
                    let mut ct = vec![0.0; m * n];
                    exec.product(0.5, bt, Right::Plain(at), Into::Set, MatMut::new(&mut ct, n, m));
                    (order(2).to_rows(&c, n), ct)
                };
                let wanted = product(0);
                for which in 1..8 {
                    assert!(product(which) == wanted, "{m} × {n} × {k}, {into:?}, {which:03b}");
                }
            }
        }
    }

    #[test]
    fn a_few_rows_meet_weights_in_cells() {
        if !Isa::detect().tiles() {
            return;
        }
        let mut exec = Exec::new(&Plan::new(1).with_threads(2)).unwrap();
        let (n, k) = (80, 96);
        let (w, x) = (values(n * k, 1), values(15 * k, 2));
        let cells = Order::Cells.arrange(&w, k);
        for m in [1, 3, 6, 7, 15] {
            let mut product = |order, w: &[f32]| {
                let mut y = vec![f32::NAN; m * n];
                let w = Right::Plain(Mat::ordered(order, w, n, k).t());
                exec.product(1.0, Mat::new(&x, m, k), w, Into::Set, MatMut::new(&mut y, m, n));
                y
            };
            let wanted = product(Order::Rows, &w);
            assert_close(&product(Order::Cells, &cells), &wide(&wanted), 1e-5);
        }
    }

    #[test]
    fn tasks_end_together() {
        // 72 bands on two threads: nine tasks of eight would leave one thread waiting.
        assert_eq!(width(72, 8, 2), 6);
        assert_eq!(width(128, 8, 2), 8);
        assert_eq!(width(3, 8, 2), 1);
    }
}
