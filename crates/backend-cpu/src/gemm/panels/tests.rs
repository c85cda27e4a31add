use super::*;
use crate::gemm::bf16::{in_hardware, pack, packed_len, panel_rows};
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
    let mut to = vec![u32::MAX; packed_len(isa, rows, cols)];
    let most = panel_rows(isa);
    for (panel, to) in to.chunks_mut(packed_len(isa, most, cols)).enumerate() {
        let row = panel * most;
        pack(isa, Mat::new(&w[row * cols..], most.min(rows - row), cols), to);
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
                Right::Packed(Packed::new(isa, &w, k, n)),
                Right::PackedT(Packed::new(isa, &wt, n, k)),
            ];
            for right in rights {
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
    for (m, n, k) in [
        (2100, 20, 30),
        (20, 2100, 30),
        (2100, 2110, 3),
        (2050, 10, 4000),
        (9, 60, 8000),
        (1370, 1380, 800),
        (1380, 1370, 800),
    ] {
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let wanted = plain(&rounded(&a), &rounded(&b), (m, n, k));
        let isa = Isa::detect();
        let bt = turned(&b, n, k);
        let (w, wt) = (packed(isa, &b, k, n), packed(isa, &bt, n, k));
        let rights = [
            Right::Plain(Mat::new(&b, k, n)),
            Right::PackedT(Packed::new(isa, &wt, n, k)),
            Right::Packed(Packed::new(isa, &w, k, n)),
        ];
        for right in rights {
            let mut c = vec![f32::NAN; m * n];
            exec(isa, 2).product(1.0, Mat::new(&a, m, k), right, Into::Set, MatMut::new(&mut c, m, n));
            assert_close(&c, &wanted, 1e-3);
        }
    }
}

#[test]
fn the_instructions_pack_as_plain_rust_does() {
    for isa in levels() {
        packs_as_plain_rust_does(Unit::bf16(isa));
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
                plain_bf16::pack_rows(a, two.as_mut_ptr());
            }
            assert_eq!(one, two, "rows of {rows} × {cols}");
            (one, two) = (vec![0; room], vec![0; room]);
            // SAFETY: as above.
            unsafe {
                unit.pack_columns(a.t(), one.as_mut_ptr());
                plain_bf16::pack_columns(a.t(), two.as_mut_ptr());
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
            plain_bf16::turn(from.as_ptr(), 48, pairs, two.as_mut_ptr());
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
                exec(isa, threads).product(1.0, Mat::new(&a, m, k), b, Into::Set, MatMut::new(&mut c, m, n));
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
