//! Every kernel against the same product in f64.

use model::quant::Format;

use super::*;
use crate::kernels::check::{assert_close, values};

/// `x·wᵀ` of what the panels hold and of inputs that are rounded as the kernels round them.
fn wanted(w: &Panels, x: &[f32], n: usize) -> Vec<f64> {
    let mut row = vec![0.0; w.columns];
    let mut y = vec![0.0; n * w.rows];
    for r in 0..w.rows {
        w.row(r, &mut row);
        for (m, x) in x.chunks_exact(w.columns).enumerate() {
            y[m * w.rows + r] = row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
        }
    }
    y
}

/// Inputs as eight bits in blocks hold them.
fn rounded(kind: Kind, x: &[f32], columns: usize) -> Vec<f32> {
    if kind == Kind::Bf16 {
        return x.to_vec();
    }
    let round = |block: &[f32]| -> Vec<f32> {
        let d = block.iter().fold(0.0f32, |a, b| a.max(b.abs())) / 127.0;
        block.iter().map(|x| if d == 0.0 { 0.0 } else { (x / d).round_ties_even() * d }).collect()
    };
    x.chunks(columns).flat_map(|row| row.chunks(BLOCK).flat_map(round)).collect()
}

fn matrix(pool: &Pool, kind: Kind, rows: usize, columns: usize) -> (Vec<f32>, Panels) {
    let w = values(rows * columns, 7);
    let mut panels = Panels::reserve(kind, rows, columns).unwrap();
    panels.pack(pool, |r, to| match w.get(r * columns..(r + 1) * columns) {
        Some(row) => to.copy_from_slice(row),
        None => to.fill(0.0),
    });
    (w, panels)
}

const KINDS: [Kind; 3] = [Kind::Bf16, Kind::Q8, Kind::Q4];

#[test]
fn panels_hold_what_the_format_holds() {
    let pool = Pool::new(2).unwrap();
    for kind in KINDS {
        for (rows, columns) in [(1, 1), (16, 64), (37, 33), (5, 130), (33, 96)] {
            let (w, panels) = matrix(&pool, kind, rows, columns);
            let wanted = model::quant::Quantized::new(kind.format(), columns, &w).unwrap().to_f32();
            let mut row = vec![0.0; columns];
            for (r, wanted) in wanted.chunks(columns).enumerate() {
                panels.row(r, &mut row);
                assert_eq!(row, wanted, "{kind:?} {rows} × {columns}, row {r}");
            }
        }
    }
    assert_eq!(Kind::of(Format::F16), None);
}

#[test]
fn products_agree_on_every_level_for_any_number_of_rows() {
    let pool = Pool::new(2).unwrap();
    for &isa in Isa::available() {
        for kind in KINDS {
            for (rows, columns) in [(1, 1), (16, 64), (37, 33), (50, 130), (300, 576)] {
                let (_, w) = matrix(&pool, kind, rows, columns);
                for n in [1, 2, 3, 4, 7, 8, 19] {
                    let x = values(n * columns, 3);
                    let mut inputs = Inputs::new(isa, kind, n, columns + 70).unwrap();
                    inputs.set(isa, &pool, &x, columns);
                    let mut y = vec![f32::NAN; n * rows];
                    w.product(isa, &pool, &inputs, n, &mut y, |_, y, [v]| {
                        y.copy_from_slice(&v[..y.len()]);
                    });
                    // Rounding at a tie may go either way: one step of one input.
                    let tolerance = if kind == Kind::Bf16 { 1e-5 } else { 2e-4 };
                    assert_close(&y, &wanted(&w, &rounded(kind, &x, columns), n), tolerance);
                }
            }
        }
    }
}

#[test]
fn prompts_agree_within_the_rounding_of_bf16() {
    let mut pool = Pool::new(2).unwrap();
    for &isa in Isa::available() {
        for kind in KINDS {
            for (rows, columns, n) in [(1, 1, 24), (37, 33, 40), (300, 576, 33), (150, 1100, 70)] {
                pool.reserve_scratch(scratch(isa, n)).unwrap();
                let (_, w) = matrix(&pool, kind, rows, columns);
                let x = values(n * columns, 3);
                let mut inputs = Inputs::new(isa, kind, n, columns + 70).unwrap();
                inputs.set(isa, &pool, &x, columns);
                let mut y = vec![f32::NAN; n * rows];
                w.product(isa, &pool, &inputs, n, &mut y, |_, y, [v]| y.copy_from_slice(&v[..y.len()]));
                let wanted = wanted(&w, &x, n);
                let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt();
                let error = norm(&mut y.iter().zip(&wanted).map(|(&y, w)| f64::from(y) - w));
                let size = norm(&mut wanted.iter().copied());
                assert!(error <= 1e-2 * size, "{isa:?} {kind:?} {rows} × {columns}: {:.1e}", error / size);
            }
        }
    }
}

#[test]
fn rows_alone_and_together_have_the_same_bits_on_any_number_of_threads() {
    for &isa in Isa::available() {
        for kind in KINDS {
            let (rows, columns, n) = (203, 320, 15);
            let x = values(n * columns, 3);
            let run = |threads, together: usize| {
                let pool = Pool::new(threads).unwrap();
                let (_, w) = matrix(&pool, kind, rows, columns);
                let mut inputs = Inputs::new(isa, kind, n, columns).unwrap();
                let mut all = Vec::new();
                for x in x.chunks(together * columns) {
                    let n = x.len() / columns;
                    inputs.set(isa, &pool, x, columns);
                    let mut y = vec![0.0; n * rows];
                    w.product(isa, &pool, &inputs, n, &mut y, |_, y, [v]| {
                        y.copy_from_slice(&v[..y.len()]);
                    });
                    all.extend(y);
                }
                all
            };
            let one = run(1, 1);
            for (threads, together) in [(1, 15), (2, 4), (3, 15), (8, 7)] {
                assert!(run(threads, together) == one, "{isa:?} {kind:?} {threads} {together}");
            }
        }
    }
}

#[test]
fn the_largest_integers_do_not_overflow_and_nan_stays() {
    let pool = Pool::new(1).unwrap();
    for &isa in Isa::available() {
        for kind in KINDS {
            let columns = 64;
            let w: Vec<f32> = (0..columns).map(|i| if i % 2 == 0 { -1.0 } else { 1.0 }).collect();
            let mut panels = Panels::reserve(kind, 1, columns).unwrap();
            panels.pack(&pool, |_, to| to.copy_from_slice(&w));
            let w = panels;
            let mut held = vec![0.0; columns];
            w.row(0, &mut held);
            let mut x: Vec<f32> = held.iter().map(|w| w.signum()).collect();
            let mut inputs = Inputs::new(isa, kind, 1, columns).unwrap();
            let run = |inputs: &Inputs| {
                let mut y = [0.0];
                w.product(isa, &pool, inputs, 1, &mut y, |_, y, [v]| y.copy_from_slice(&v[..1]));
                y[0]
            };
            inputs.set(isa, &pool, &x, columns);
            let sum: f32 = held.iter().map(|w| w.abs()).sum();
            assert!((run(&inputs) - sum).abs() < 1e-2, "{isa:?} {kind:?}: {} for {sum}", run(&inputs));
            for bad in [f32::NAN, f32::INFINITY] {
                x[5] = bad;
                inputs.set(isa, &pool, &x, columns);
                assert!(!run(&inputs).is_finite(), "{isa:?} {kind:?} {bad}");
            }
        }
    }
}
