//! How much a process may have, and how fast it is.

use mil::eval::Slice;
use mil::{DType, Program};

use super::rig::{Rig, build, checked, differing, random};
use super::{Answer, LabError, Subject};
use crate::apple::Route;
use crate::bare::Bare;
use crate::device::{Device, Request};
use crate::surface::Layout;

/// A small program that differs from those of all other numbers.
fn numbered(number: u32) -> Program {
    build(|b| {
        let x = b.input("i00_x", DType::Fp16, [1, 8, 1, 32]);
        let c = b.fp16(1.0 + number as f32 / 1024.0);
        let y = b.mul(x, c);
        b.output("o00_y", y);
    })
}

pub fn compiles(subject: &impl Subject) -> Result<Answer, LabError> {
    const MOST: u32 = 200;
    let device = subject.open(Route::Daemon)?;
    // Dropped at once, so that nothing stays loaded.
    let works = |number: u32| device.compile("compiles", &checked(&device, numbered(number))).map(drop);
    // The first compile of the program fills the system's cache, the others find it there.
    for repeat in 0..MOST {
        if let Err(error) = works(0) {
            return Ok(Answer::new(format!("{repeat}, repeats count"), format!("then: {error}")));
        }
    }
    for number in 1..=MOST {
        if let Err(error) = works(number) {
            return Ok(Answer::new(format!("{number}, repeats are free"), format!("then: {error}")));
        }
    }
    Ok(Answer::new(format!("{MOST} or more"), "no compile failed"))
}

pub fn loads(subject: &impl Subject) -> Result<Answer, LabError> {
    const MOST: u32 = 300;
    let device = subject.open(Route::Daemon)?;
    let mut loaded = Vec::new();
    for number in 0..MOST {
        match device.compile("loads", &checked(&device, numbered(number))) {
            Ok(executable) => loaded.push(executable),
            Err(error) => return Ok(Answer::new(number.to_string(), format!("then: {error}"))),
        }
    }
    Ok(Answer::new(format!("{MOST} or more"), "no load failed"))
}

pub fn threads(subject: &impl Subject) -> Result<Answer, LabError> {
    const RUNS: usize = 200;
    let product = || {
        build(|b| {
            let x = b.input("i00_x", DType::Fp16, [1, 1, 32, 64]);
            let w = b.input("i01_w", DType::Fp16, [1, 1, 64, 64]);
            let y = b.matmul(x, w);
            b.output("o00_y", y);
        })
    };
    let daemon = subject.open(Route::Daemon)?;
    let wanted = |seed: u64| -> Result<(Vec<Vec<f32>>, Vec<f32>), LabError> {
        let inputs = vec![random(32 * 64, seed), random(64 * 64, seed + 10)];
        let rig = Rig::new(&daemon, "daemon", &checked(&daemon, product()))?;
        let mut found = rig.run(&inputs)?;
        Ok((inputs, found.remove(0)))
    };
    let cases = [wanted(1)?, wanted(2)?];
    let one = |(inputs, wanted): &(Vec<Vec<f32>>, Vec<f32>)| -> Result<usize, LabError> {
        let device = subject.open(Route::Direct)?;
        let rig = Rig::new(&device, "direct", &checked(&device, product()))?;
        rig.fill(inputs)?;
        let request = rig.request()?;
        let mut wrong = 0;
        for _ in 0..RUNS {
            rig.outputs[0].write()?.fill(f32::NAN);
            request.run()?;
            wrong += usize::from(differing(&rig.results()?[0], wanted) > 0);
        }
        Ok(wrong)
    };
    let wrong = std::thread::scope(|scope| {
        let other = scope.spawn(|| one(&cases[1]));
        let mine = one(&cases[0]);
        let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, LabError>(mine? + other?)
    })?;
    let verdict = if wrong == 0 { "same" } else { "different" };
    Ok(Answer::new(verdict, format!("{wrong} of {} evaluations differ", 2 * RUNS)))
}

pub fn surfaces(subject: &impl Subject) -> Result<Answer, LabError> {
    const CHANNELS: usize = 8 << 10;
    /// Small surfaces to ask for when a large one was refused.
    const SMALL: usize = 64;
    let device = subject.open(Route::Daemon)?;
    let small = Layout::fp16(8, 1024);
    let fresh = device.fresh(small)?;
    let all_zero = |slice: Slice<'_>| match slice {
        Slice::F16(all) => all.iter().all(|value| value.to_bits() == 0),
        _ => false,
    };
    let memory = if all_zero(fresh.read()?.slice()) { "zero" } else { "not zero" };
    drop(fresh);
    let layout = Layout::fp16(CHANNELS, 1024);
    let most = subject.most_surface_bytes() / layout.bytes();
    let mut kept = Vec::new();
    for _ in 0..most {
        match device.surface(layout) {
            Ok(surface) => kept.push(surface),
            Err(error) => {
                let mib = (kept.len() * layout.bytes()) >> 20;
                // Small ones still to be had: a limit of bytes. None: a limit of their number.
                let others = (0..SMALL).take_while(|_| match device.surface(small) {
                    Ok(surface) => {
                        kept.push(surface);
                        true
                    }
                    Err(_) => false,
                });
                let detail =
                    format!("after {mib} MiB: {error}; then {} of {SMALL} small ones", others.count());
                return Ok(Answer::new(format!("{memory}, refused"), detail));
            }
        }
    }
    let detail = format!("{} MiB in surfaces of 16 MiB", (most * layout.bytes()) >> 20);
    Ok(Answer::new(format!("{memory}, granted"), detail))
}

pub fn channels(subject: &impl Subject) -> Result<Answer, LabError> {
    const TOKENS: usize = 32;
    const RUNS: usize = 10;
    /// Weights of both programs: channels times outputs.
    const WEIGHTS: usize = 4096 * 640;
    let device = subject.open(Route::Daemon)?;
    let mut seconds = Vec::new();
    for channels in [4096, 5120] {
        let program = build(|b| {
            let x = b.input("i00_x", DType::Fp16, [1, channels, 1, TOKENS]);
            let w = b.input("i01_w", DType::Fp16, [1, channels, 1, WEIGHTS / channels]);
            let flat = b.reshape(x, &[1, 1, channels, TOKENS]);
            let turned = b.transpose(flat, &[0, 1, 3, 2]);
            let wide = b.reshape(w, &[1, 1, channels, WEIGHTS / channels]);
            let y = b.matmul(turned, wide);
            b.output("o00_y", y);
        });
        let name = format!("channels {channels}");
        let rig = Rig::new(&device, &name, &checked(&device, program))?;
        rig.fill(&[random(channels * TOKENS, 1), random(WEIGHTS, 2)])?;
        let request = rig.request()?;
        for _ in 0..RUNS {
            request.run()?;
        }
        seconds.push(subject.seconds(&device.ledger().of(&name)) / RUNS as f64);
    }
    let ratio = seconds[1] / seconds[0];
    // Reports of slow channels say 4.7 times; equal work within noise is below this.
    let verdict = if ratio < 1.5 { "not slower" } else { "slower" };
    let [narrow, wide] = [seconds[0] * 1e6, seconds[1] * 1e6];
    Ok(Answer::new(verdict, format!("{narrow:.0} µs at 4096 channels, {wide:.0} µs at 5120, for equal work")))
}
