//! Kernels at the shapes of a 110M model, beside the peaks of this machine.
//!
//! `cargo bench -p backend-cpu --bench kernels -- [threads]`

use std::hint::black_box;
use std::time::Instant;

use backend::AdamW;
use backend_cpu::kernels::attention::{self, Heads};
use backend_cpu::kernels::{adamw, cross_entropy, rms_norm, swiglu};
use backend_cpu::{
    Exec, Into, Isa, Mat, MatMut, Packed, Plan, Precision, Right, Rows, RowsMut, pack, packed_len, probe,
};

fn main() {
    let threads = std::env::args().find_map(|a| a.parse().ok()).unwrap_or(2);
    let plan = Plan::new(1).with_threads(threads).with_precision(Precision::Bf16);
    let mut exec = Exec::new(&plan).expect("threads start");
    // Without tiles, where there are any: f32 goes through them in three parts.
    let mut vectors = match Isa::available() {
        [.., isa, tiles] if tiles.name() == "amx" => {
            Some(Exec::new(&Plan { isa: *isa, ..plan }).expect("threads start"))
        }
        _ => None,
    };
    let peak = probe::peak_gflops(threads).expect("threads start");
    let bandwidth = probe::memory_bandwidth(threads).expect("threads start");
    println!("{threads} threads, {}: {peak:.0} GFLOP/s, {bandwidth:.1} GB/s read", exec.isa.name());
    let bf16_peak = probe::peak_bf16_gflops(threads).expect("threads start");
    if let Some(peak) = bf16_peak {
        println!("bf16: {peak:.0} GFLOP/s");
    }

    for (m, n, k) in [
        (256, 2304, 768),
        (256, 768, 768),
        (256, 4096, 768),
        (256, 768, 2048),
        (2304, 768, 256),
        (1024, 2304, 768),
        (2304, 768, 1024),
        (256, 32_000, 768),
        (256, 768, 32_000),
        (32_000, 768, 256),
        (1024, 1024, 1024),
    ] {
        let (a, b) = (vec![0.5; m * k], vec![0.25; k * n]);
        let mut c = vec![0.0; m * n];
        let flops = 2.0 * (m * n * k) as f64;
        print!("gemm {m:>5}×{n:>5}×{k:>5}");
        let layouts = [
            ("NN", Mat::new(&a, m, k), Mat::new(&b, k, n)),
            ("NT", Mat::new(&a, m, k), Mat::new(&b, n, k).t()),
            ("TN", Mat::new(&a, k, m).t(), Mat::new(&b, k, n)),
        ];
        for (name, a, b) in layouts {
            let s = best(|| exec.matmul(1.0, a, b, Into::Set, MatMut::new(&mut c, m, n)));
            print!("  {name} {:5.0} GFLOP/s ({:2.0} %)", flops / s / 1e9, flops / s / 1e9 / peak * 100.0);
            if let Some(exec) = &mut vectors {
                let s = best(|| exec.matmul(1.0, a, b, Into::Set, MatMut::new(&mut c, m, n)));
                print!(", without tiles {:.0}", flops / s / 1e9);
            }
        }
        println!();
        let Some(peak) = bf16_peak else { continue };
        print!("bf16 {m:>5}×{n:>5}×{k:>5}");
        let (w, wt) = (packed(exec.isa, &b, k, n), packed(exec.isa, &b, n, k));
        let layouts = [
            ("NN", Mat::new(&a, m, k), Right::Plain(Mat::new(&b, k, n))),
            ("NT", Mat::new(&a, m, k), Right::Plain(Mat::new(&b, n, k).t())),
            ("TN", Mat::new(&a, k, m).t(), Right::Plain(Mat::new(&b, k, n))),
            ("N packed", Mat::new(&a, m, k), Right::Packed(Packed::new(&w, k, n))),
            ("N packedT", Mat::new(&a, m, k), Right::PackedT(Packed::new(&wt, n, k))),
        ];
        for (name, a, b) in layouts {
            let s = best(|| exec.product(1.0, a, b, Into::Set, MatMut::new(&mut c, m, n)));
            print!("  {name} {:5.0} GFLOP/s ({:2.0} %)", flops / s / 1e9, flops / s / 1e9 / peak * 100.0);
        }
        println!();
    }

    let isa = exec.isa;
    let n = 8 << 20;
    let rule = AdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let factors = adamw::Factors::new(&rule, 1, 1.0);
    let (g, mut w, mut m, mut v) = (vec![0.1; n], vec![0.1; n], vec![0.1; n], vec![0.1; n]);
    let s = best(|| {
        let part = 1 << 14;
        let w = RowsMut::new(&mut w, part);
        let parts = (Rows::new(&g, part), w, RowsMut::new(&mut m, part), RowsMut::new(&mut v, part));
        exec.pool.each(parts, |_, (g, w, m, v)| adamw::update(isa, &factors, g, w, m, v));
    });
    println!("adamw            {:6.1} GB/s", 28.0 * n as f64 / s / 1e9);

    let (x, gain, mut y) = (vec![0.5; 256 * 768], vec![1.0; 768], vec![0.0; 256 * 768]);
    let s = best(|| rms_norm::forward(isa, &x, &gain, 1e-5, &mut y));
    println!("rms_norm         {:6.2} ns per 16 numbers, one thread", s * 1e9 / x.len() as f64 * 16.0);
    let (gate, up, mut y) = (vec![0.5; 1 << 16], vec![0.5; 1 << 16], vec![0.0; 1 << 16]);
    let s = best(|| swiglu::forward(isa, &gate, &up, &mut y));
    println!("swiglu           {:6.2} ns per 16 numbers, one thread", s * 1e9 / y.len() as f64 * 16.0);
    let mut z = vec![0.5; 32_000];
    let s = best(|| {
        black_box(cross_entropy::loss_backward(isa, &mut z, 7, 1.0));
    });
    println!("cross_entropy    {:6.2} ns per 16 numbers, one thread", s * 1e9 / z.len() as f64 * 16.0);

    for (seq, batch) in [(256, 1), (1024, 1)] {
        let h = Heads { seq, heads: 12, kv_heads: 12, head_dim: 64 };
        exec.pool.reserve_scratch(h.scratch()).expect("small");
        let tokens = seq * batch;
        let qkv = vec![0.1; tokens * 3 * 768];
        let (mut o, mut lse) = (vec![0.0; tokens * 768], vec![0.0; tokens * 12]);
        let flops = 2.0 * (seq + 1) as f64 * (tokens * 768) as f64;
        let s = best(|| attention::forward(&exec, exec.precision, h, &qkv, &mut o, &mut lse));
        print!("attention {seq:>5}: forward {:5.0} GFLOP/s", flops / s / 1e9);
        let (dout, mut delta, mut dqkv) = (o.clone(), lse.clone(), qkv.clone());
        let s = best(|| {
            attention::backward(&exec, h, &qkv, &o, &lse, &dout, &mut delta, &mut dqkv);
        });
        println!(", backward {:5.0} GFLOP/s (useful half only)", 2.0 * flops / s / 1e9);
    }
}

fn packed(isa: Isa, w: &[f32], rows: usize, cols: usize) -> Vec<u32> {
    let mut to = vec![0; packed_len(rows, cols)];
    for row in (0..rows).step_by(48) {
        let part = Mat::new(&w[row * cols..], 48.min(rows - row), cols);
        pack(isa, part, &mut to[row * cols.div_ceil(2)..]);
    }
    to
}

/// Seconds of the best of several runs.
fn best(mut run: impl FnMut()) -> f64 {
    let mut time = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..9).map(|_| time()).fold(f64::INFINITY, f64::min)
}
