//! How fast the virtual device feeds and runs programs on this machine.
//!
//! `cargo bench -p ane-bridge` prints: the evaluator's product, GFLOP/s; staging
//! to and from surfaces, GB/s of f32; the cost of an empty dispatch.

use std::hint::black_box;
use std::time::Instant;

use ane_bridge::{Device, Executable, Layout, Region, Request, Surface, VirtualAne};
use mil::eval::{Mat, SimdGemm};
use mil::{Builder, DType, Program, Target, verify};

fn main() {
    for (m, k, n) in [(256, 768, 2048), (256, 2048, 768), (256, 64, 256), (64, 768, 768), (512, 1536, 4096)] {
        let (a, b) = (vec![0.5; m * k], vec![0.25; k * n]);
        let mut c = vec![0.0; m * n];
        let gflop = 2e-9 * (m * k * n) as f64;
        let (a, b) = (Mat::rows(&a, m, k), Mat::rows(&b, k, n));
        let rate = gflop / seconds(|| SimdGemm::default().product(a, b, black_box(&mut c)));
        println!("product {m:4} x {k:4} x {n:4}: {rate:6.1} GFLOP/s on one thread");
    }
    staging();
    dispatch();
}

fn staging() {
    let (channels, width) = (768, 2304);
    let surface = Surface::on_heap(Layout::fp16(channels, width)).expect("memory for a surface");
    let mut host = vec![0.5f32; channels * width];
    let all = Region::new(0..channels, 0..width);
    let part = Region::new(0..channels, 256..width);
    let part_len = part.elements();
    let gb = |elements: usize, s: f64| 4e-9 * elements as f64 / s;
    let write = |f: &mut dyn FnMut(&mut ane_bridge::WriteGuard<'_>)| {
        seconds(|| f(&mut surface.write().expect("no guard is alive")))
    };
    let flat = write(&mut |g| g.write(&all, &host).expect("it fits"));
    let rows = write(&mut |g| g.write(&part, &host[..part_len]).expect("it fits"));
    let turned = write(&mut |g| g.write_transposed(&part, &host[..part_len]).expect("it fits"));
    let read = seconds(|| {
        surface.read().expect("no guard is alive").read_transposed(&all, &mut host).expect("it fits");
    });
    println!(
        "staging, GB/s of f32: flat {:.1}, rows of a region {:.1}, transposed {:.1}, transposed back {:.1}",
        gb(all.elements(), flat),
        gb(part_len, rows),
        gb(part_len, turned),
        gb(all.elements(), read)
    );
}

fn dispatch() {
    let mut b = Builder::new("main");
    let x = b.input("i00_x", DType::Fp16, [1, 32, 1, 32]);
    let y = b.add(x, x);
    b.output("o00_y", y);
    let function = b.finish().expect("the program is typed");
    let program = verify(Program::new(vec![function]), &Target::default()).expect("the program is legal");
    let device = VirtualAne::default();
    let exe = device.compile("tiny", &program).expect("the budget is fresh");
    let [x, y] = [exe.inputs(), exe.outputs()].map(|p| device.surface(p[0].layout).expect("memory"));
    let request = exe.bind(&[("i00_x", &x)], &[("o00_y", &y)]).expect("the surfaces fit");
    let s = seconds(|| request.run().expect("no guard is alive"));
    println!("empty dispatch: {:.2} us", s * 1e6);
}

/// Median seconds of a run.
fn seconds(mut f: impl FnMut()) -> f64 {
    f();
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
