//! The whole training step of a model, in ms per phase, beside the peaks of this machine.
//!
//! `cargo bench -p backend-cpu --bench step -- --batch 4 --threads 2`

use std::time::{Duration, Instant};

use backend::{AdamW, Rule, Rules, Tokens, Train, Update};
use backend_cpu::{Cpu, Isa, MomentFormat, Plan, Precision, WeightFormat, probe};
use model::{ModelConfig, Params, Rope, Slot, TokenId};
use rustix::time::{ClockId, clock_gettime};

/// `--name value` of the command line.
fn option(name: &str, default: usize) -> usize {
    let mut args = std::env::args().skip_while(|a| a != name);
    match args.nth(1) {
        None => default,
        Some(value) => value.parse().unwrap_or_else(|_| panic!("{name} wants a number, got `{value}`")),
    }
}

fn main() {
    let threads = option("--threads", 2);
    let (batch, seq, repeats) = (option("--batch", 1), option("--seq", 256), option("--steps", 5));
    let config = ModelConfig {
        dim: option("--dim", 768),
        hidden: option("--hidden", 2048),
        layers: option("--layers", 12),
        heads: option("--heads", 12),
        kv_heads: option("--kv-heads", 12),
        head_dim: option("--head-dim", 64),
        vocab: option("--vocab", 32_000),
        max_seq: seq,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: None },
        tied: true,
        qk_norm: false,
        qkv_bias: false,
        residual_scale: 1.0,
    };
    let tokens = batch * seq;
    let plan = Plan::new(tokens).with_threads(threads).with_recompute(option("--recompute", 0) != 0);
    let precision = if option("--bf16", 0) != 0 { Precision::Bf16 } else { Precision::F32 };
    let plan = plan.with_update_in_backward(option("--in-backward", 0) != 0).with_moments(
        match option("--state-bytes", 8) {
            2 => MomentFormat::Q8,
            4 => MomentFormat::Bf16,
            _ => MomentFormat::F32,
        },
    );
    let narrow = option("--weight-bytes", 4) == 2;
    let plan = plan.with_weights(if narrow { WeightFormat::Bf16 } else { WeightFormat::F32 });
    let level = option("--level", Isa::available().len() - 1);
    let plan = Plan { isa: Isa::available()[level], ..plan.with_precision(precision) };
    let mut cpu = Cpu::new(&config, plan).expect("the model fits");
    // Tensor by tensor: a second copy of a large model would not fit.
    let mut state = 1u64;
    let mut values = Vec::new();
    for p in &Params::new(&config) {
        values.clear();
        values.extend((0..p.len()).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if p.shape.len() == 1 { 1.0 } else { ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.07 }
        }));
        cpu.write(p.id, Slot::Weight, &values).expect("weights are written");
    }
    drop(values);

    let ids: Vec<_> = (0..tokens).map(|i| TokenId((i * 7919 % config.vocab) as u32)).collect();
    let targets: Vec<_> = (0..tokens).map(|i| TokenId((i * 104_729 % config.vocab) as u32)).collect();
    let rule = Rule::AdamW(AdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let rules = Rules { embedding: rule, head: rule, matrix: rule, gain: rule, bias: rule };

    let names = ["forward", "head", "backward", "embed backward", "update"];
    let mut phases: [Vec<Duration>; 5] = Default::default();
    let (mut totals, mut cpu_times) = (Vec::new(), Vec::new());
    for step in 0..=repeats as u64 {
        let (start, cpu_start) = (Instant::now(), cpu_time());
        let mut at = start;
        let mut times = Vec::new();
        let mut lap = || {
            times.push(at.elapsed());
            at = Instant::now();
        };
        let update = Update { step: step + 1, grad_scale: 1.0, clip: Some(1.0), rules: rules.clone() };
        cpu.announce(&update, 0.0).expect("update begins");
        let mut x = cpu.embed(Tokens { ids: &ids, seq }).expect("embed runs");
        for layer in 0..config.layers {
            x = cpu.attention(layer, x).expect("attention runs");
            x = cpu.ffn(layer, x).expect("ffn runs");
        }
        lap();
        let (loss, mut dx) = cpu.loss_backward(x, &targets).expect("loss runs");
        lap();
        for layer in (0..config.layers).rev() {
            dx = cpu.ffn_backward(layer, dx).expect("ffn runs back");
            dx = cpu.attention_backward(layer, dx).expect("attention runs back");
        }
        lap();
        cpu.embed_backward(dx).expect("embed runs back");
        lap();
        cpu.update(&update).expect("update runs");
        lap();
        // The first step touches memory for the first time.
        if step > 0 {
            totals.push(start.elapsed());
            cpu_times.push(cpu_time() - cpu_start);
            phases.iter_mut().zip(times).for_each(|(phase, time)| phase.push(time));
        } else {
            println!("{:.1} MB", Cpu::footprint(&config, plan, false).unwrap().total() as f64 / 1e6);
        }
        println!("loss {loss:.4} in {:.2} s", start.elapsed().as_secs_f64());
    }

    let ms = median(&mut totals);
    let gflop = config.train_flops_per_token(seq) * tokens as f64 / 1e9;
    let peak = match precision {
        Precision::Bf16 => {
            probe::peak_bf16_gflops_of(plan.isa, threads).expect("threads start").unwrap_or(f64::NAN)
        }
        Precision::F32 => probe::peak_gflops_of(plan.isa, threads).expect("threads start"),
    };
    for (name, times) in names.iter().zip(&mut phases) {
        println!("{name:<16}{:8.1} ms", median(times));
    }
    let (least, most) = (totals[0].as_secs_f64() * 1e3, totals[totals.len() - 1].as_secs_f64() * 1e3);
    println!(
        "step {ms:.1} ms [{least:.1}..{most:.1}], {:.1} ms of cpu time, {:.0} tok/s, {:.0} GFLOP/s = {:.0} % of {peak:.0}",
        median(&mut cpu_times),
        tokens as f64 / ms * 1e3,
        gflop / ms * 1e3,
        gflop / ms * 1e3 / peak * 100.0,
    );
}

/// Of all threads: what a busy machine disturbs least.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// In ms; sorts.
fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
