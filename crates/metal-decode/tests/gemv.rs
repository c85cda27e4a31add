//! Products against f64 on the same weights: every format, both arithmetics, shapes that fill nothing evenly.

mod common;

use metal_decode::kernels::Epilogue;
use metal_decode::kernels::gemv::{Gemv, Tiling};
use metal_decode::{Gpu, layout};
use model::quant::{Format, Quantized};

/// Numbers between −1 and 1 that do not repeat (Weyl's sequence).
fn numbers(n: usize, start: f64) -> Vec<f32> {
    (1..=n).map(|i| ((i as f64 * 0.754_877_666 + start).fract() * 2.0 - 1.0) as f32).collect()
}

/// Largest error of one shape over the root mean square of the results, against f64 on the same weights.
fn error(gpu: &Gpu, gemv: &Gemv, k: usize, m: usize) -> f64 {
    let (lanes, columns) = (gpu.lanes(), gemv.columns as usize);
    let weights = numbers(k * m, 0.1);
    let stored: Vec<Vec<f32>> =
        weights.chunks_exact(k).map(|row| Quantized::new(gemv.format, k, row).unwrap().to_f32()).collect();
    let (blocks, row_words) =
        (k.div_ceil(layout::BLOCK), k.div_ceil(layout::BLOCK) * 4 * layout::words(gemv.format));
    let (mut words, mut scales) = (vec![0u32; m * row_words], vec![0u16; (m * blocks).next_multiple_of(2)]);
    let places = words.chunks_exact_mut(row_words).zip(scales.chunks_exact_mut(blocks));
    for (row, (words, scales)) in weights.chunks_exact(k).zip(places) {
        let row = Quantized::new(gemv.format, k, row).unwrap();
        layout::repack_row(gemv.format, k, lanes as usize, row.bytes(), words, scales);
    }
    let (words, scales) = (gpu.buffer_of("w", &words).unwrap(), gpu.buffer_of("s", &scales).unwrap());
    let xs: Vec<Vec<f32>> = (0..columns).map(|t| numbers(k, 0.3 * t as f64)).collect();
    let gain = numbers(k, 0.7);
    let in_place: Vec<f32> = xs.iter().flat_map(|x| layout::activations(x, lanes as usize)).collect();
    let x = gpu.buffer_of("x", &in_place).unwrap();
    let g = gpu.buffer_of("g", &layout::activations(&gain, lanes as usize)).unwrap();
    let y = gpu.buffer("y", (columns * m * 4) as u64).unwrap();
    let eps = 1e-5;
    let mut constants = vec![
        ("NB", blocks as f64),
        ("M", m as f64),
        ("XS", (layout::activation_row(k, lanes as usize) / 4) as f64),
        ("YS", m as f64),
    ];
    let mut buffers = vec![&words, &scales, &x, &y];
    if gemv.norm {
        constants.extend([("KF", k as f64), ("EPS", eps)]);
        buffers.push(&g);
    }
    let kernel = gpu.compile(&gemv.text(lanes), &constants).unwrap();
    gpu.submit([&gpu.step(&kernel, &buffers, gemv.grid(m, lanes))], 1, &[], None);
    let got: Vec<f32> = gpu.read(&y, columns * m).unwrap();
    let (mut worst, mut squares) = (0f64, 0f64);
    for (x, got) in xs.iter().zip(got.chunks_exact(m)) {
        let mean: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / k as f64;
        let r = (mean + eps).sqrt().recip();
        let input = |k: usize| f64::from(x[k]) * if gemv.norm { r * f64::from(gain[k]) } else { 1.0 };
        for (row, got) in stored.iter().zip(got) {
            let wanted: f64 = row.iter().enumerate().map(|(k, &w)| f64::from(w) * input(k)).sum();
            squares += wanted * wanted;
            // NaN is the worst.
            let off = (f64::from(*got) - wanted).abs();
            worst = if off.is_nan() { f64::INFINITY } else { worst.max(off) };
        }
    }
    worst / (squares / (columns * m) as f64).sqrt()
}

#[test]
fn errs_by_less_than_a_hundred_thousandth_of_the_root_mean_square() {
    let gpu = common::gpu();
    // Shapes that fill nothing evenly: odd rows, a last block of one number, less than a tile, many tiles.
    let shapes = [(1, 3), (33, 5), (96, 17), (1000, 31), (2049, 6)];
    let tilings = [(1, 64, 1, 0), (2, 64, 2, 2), (4, 64, 4, 1), (4, 64, 1, 3), (2, 64, 2, 0)];
    for format in Format::ALL {
        for (n, (k, m)) in shapes.into_iter().enumerate() {
            let (rows, threads, split, dots) = tilings[n];
            let tiling = Tiling { rows, threads, split, dots };
            for (columns, norm) in [(1, n % 2 == 0), (2, n % 2 == 1)] {
                let gemv = Gemv { format, tiling, columns, norm, epilogue: Epilogue::Store };
                let error = error(&gpu, &gemv, k, m);
                assert!(error < 1e-5, "{format}, {k} × {m}, {columns} vectors, norm {norm}: {error:.1e}");
            }
        }
    }
}
