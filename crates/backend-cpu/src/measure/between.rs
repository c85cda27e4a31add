//! Attention, and what lies between the products: norms, rotation, gate, loss, update.

use backend::AdamW;

use super::{Numbers, Run, Work, bytes, numbers};
use crate::kernels::attention::{self, Heads};
use crate::kernels::{adamw, cross_entropy, rms_norm, rope, swiglu};
use crate::memory::CpuResult;
use crate::moments::{BLOCK, Moments};
use crate::{Buffer, Chance, Exec, MomentFormat, Rows, RowsMut};

/// Rows of a task, as in a step.
const ROWS: usize = 32;

/// Weights of a task of the update, and most that are moved here: far more than caches hold.
const CHUNK: usize = 1 << 14;
const MOST_WEIGHTS: u64 = 32 << 20;

/// Operations of an exponential: a polynomial of degree 6 and the split of its argument.
const EXP: f64 = 18.0;

/// Numbers between −½ and ½ (Knuth's multiplier; the high bits are the good ones).
pub(super) fn noise(seed: u64) -> impl Iterator<Item = f32> {
    let next = |state: &u64| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    std::iter::successors(next(&seed), next).map(|state| (state >> 40) as f32 / 16_777_216.0 - 0.5)
}

fn filled(len: usize, seed: u64) -> CpuResult<Buffer> {
    let mut to = Buffer::zeros("operands of a kernel", len)?;
    to.iter_mut().zip(noise(seed)).for_each(|(to, x)| *to = x);
    Ok(to)
}

/// Attention of all heads, forward and back, in the precision of `exec`.
pub(super) fn attention(run: &mut Run<'_>, exec: &mut Exec) -> CpuResult<()> {
    let (c, seq, tokens) = (run.config, run.settings.seq, run.tokens());
    let [forward, backward] =
        ["forward", "backward"].map(|way| format!("attention/{way}/{}", exec.precision.name()));
    if ![&forward, &backward].into_iter().any(|name| run.wants(name)) {
        return Ok(());
    }
    let heads = Heads::new(c, seq);
    exec.pool.reserve_scratch(heads.scratch())?;
    let (q, row) = (c.q_dim(), c.q_dim() + 2 * c.kv_dim());
    let (qkv, dout) = (filled(tokens * row, 1)?, filled(tokens * q, 2)?);
    let [mut o, mut lse, mut delta, mut dqkv] = [
        Buffer::zeros("outputs", tokens * q)?,
        Buffer::zeros("sums", tokens * c.heads)?,
        Buffer::zeros("sums", tokens * c.heads)?,
        Buffer::zeros("gradients", tokens * row)?,
    ];
    // Two products of half a square, forward; four on the way back.
    let flops = 2.0 * (seq + 1) as f64 * (tokens * q) as f64;
    let numbers = numbers(exec.precision);
    let (read, written) = (bytes(tokens * row), bytes(tokens * (q + c.heads)));
    let mut rope = rope::Table::new(c);
    rope.reserve(seq)?;
    attention::forward(exec, exec.precision, heads, &qkv, &mut o, &mut lse);
    run.time(&forward, Work { numbers, flops, read, written }, || {
        attention::forward(exec, exec.precision, heads, &qkv, &mut o, &mut lse);
    });
    let work = Work {
        numbers,
        flops: 2.0 * flops,
        read: read + bytes(2 * tokens * q) + bytes(tokens * c.heads),
        written: read,
    };
    run.time(&backward, work, || {
        let back = |position, dx: &mut [f32]| rope.backward(exec.isa, position, dx);
        attention::backward(exec, heads, back, &qkv, &o, &lse, &dout, &mut delta, &mut dqkv);
    });
    Ok(())
}

/// The other kernels, which are f32 in either precision.
pub(super) fn run(run: &mut Run<'_>, exec: &Exec) -> CpuResult<()> {
    norm(run, exec)?;
    rotation(run, exec)?;
    gate(run, exec)?;
    loss(run, exec)?;
    update(run, exec)
}

/// Work in f32: operations, and numbers that are read and written.
fn work(flops: f64, read: usize, written: usize) -> Work {
    Work { numbers: Numbers::F32, flops, read: bytes(read), written: bytes(written) }
}

fn norm(run: &mut Run<'_>, exec: &Exec) -> CpuResult<()> {
    let (c, isa) = (run.config, exec.isa);
    let (dim, n, len) = (c.dim, run.tokens() * c.dim, ROWS * c.dim);
    let (x, gain, dy) = (filled(n, 1)?, vec![1.0; dim], filled(n, 2)?);
    let mut y = Buffer::zeros("activations", n)?;
    run.time("rms_norm/forward", work(4.0 * n as f64, n, n), || {
        rms_norm::normalise(exec, &x, &gain, c.norm_eps, &mut y);
    });
    let mut partial = vec![0.0; n.div_ceil(len) * dim];
    run.time("rms_norm/backward", work(12.0 * n as f64, 3 * n, n), || {
        let parts = (
            Rows::new(&x, len),
            Rows::new(&dy, len),
            RowsMut::new(&mut y, len),
            RowsMut::new(&mut partial, dim),
        );
        exec.pool.each(parts, |_, (x, dy, dx, dgain)| {
            dgain.fill(0.0);
            rms_norm::backward(isa, x, &gain, c.norm_eps, dy, dx, dgain);
        });
    });
    Ok(())
}

fn rotation(run: &mut Run<'_>, exec: &Exec) -> CpuResult<()> {
    let (c, seq, isa) = (run.config, run.settings.seq, exec.isa);
    let row = c.q_dim() + c.kv_dim();
    let mut table = rope::Table::new(c);
    table.reserve(seq)?;
    let mut qk = filled(run.tokens() * row, 1)?;
    let n = qk.len();
    run.time("rope/forward", work(3.0 * n as f64, n, n), || {
        exec.pool.each(RowsMut::new(&mut qk, ROWS * row), |chunk, qk| {
            for (t, qk) in qk.chunks_exact_mut(row).enumerate() {
                table.forward(isa, (chunk * ROWS + t) % seq, qk);
            }
        });
    });
    Ok(())
}

fn gate(run: &mut Run<'_>, exec: &Exec) -> CpuResult<()> {
    let (hidden, isa) = (run.config.hidden, exec.isa);
    let n = run.tokens() * hidden;
    let (mut gate_up, mut y) = (filled(2 * n, 1)?, filled(n, 2)?);
    run.time("swiglu/forward", work((EXP + 4.0) * n as f64, 2 * n, n), || {
        let parts = (Rows::new(&gate_up, 2 * hidden), RowsMut::new(&mut y, hidden));
        exec.pool.each(parts, |_, (gate_up, y)| {
            let (gate, up) = gate_up.split_at(hidden);
            swiglu::forward(isa, gate, up, y);
        });
    });
    run.time("swiglu/backward", work((EXP + 11.0) * n as f64, 3 * n, 3 * n), || {
        let parts = (RowsMut::new(&mut gate_up, 2 * hidden), RowsMut::new(&mut y, hidden));
        exec.pool.each(parts, |_, (gate_up, dy)| {
            let (gate, up) = gate_up.split_at_mut(hidden);
            swiglu::backward(isa, gate, up, dy);
        });
    });
    Ok(())
}

/// Loss and gradient of the logits of as many tokens as meet the head at once.
fn loss(run: &mut Run<'_>, exec: &Exec) -> CpuResult<()> {
    const NAME: &str = "cross_entropy/backward";
    let (c, isa) = (run.config, exec.isa);
    let rows = run.tokens().min(crate::head::head_tokens(c));
    if !run.wants(NAME) {
        return Ok(());
    }
    let mut logits = filled(rows * c.vocab, 1)?;
    let n = logits.len();
    run.time(NAME, work((EXP + 4.0) * n as f64, n, n), || {
        exec.pool.each(RowsMut::new(&mut logits, c.vocab), |row, z| {
            std::hint::black_box(cross_entropy::loss_backward(isa, z, row % c.vocab, 1.0));
        });
    });
    Ok(())
}

/// AdamW with moments in each format.
fn update(run: &mut Run<'_>, exec: &Exec) -> CpuResult<()> {
    let formats = [("f32", MomentFormat::F32), ("bf16", MomentFormat::Bf16), ("q8", MomentFormat::Q8)];
    let n = (run.config.param_count().min(MOST_WEIGHTS) as usize).next_multiple_of(BLOCK);
    let isa = exec.isa;
    let rule = AdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let (f, chance) = (adamw::Factors::new(&rule, 1, 1.0), Chance::new(1));
    for (word, format) in formats {
        let name = format!("adamw/{word}");
        if !run.wants(&name) {
            continue;
        }
        let (g, mut w, mut moments) = (filled(n, 1)?, filled(n, 2)?, Moments::new(format, n)?);
        let bytes = match format {
            MomentFormat::F32 => 8.0,
            MomentFormat::Bf16 => 4.0,
            MomentFormat::Q8 => 2.0 + 1.0 / BLOCK as f64,
        };
        let work = Work {
            numbers: Numbers::F32,
            flops: 15.0 * n as f64,
            read: (8.0 + bytes) * n as f64,
            written: (4.0 + bytes) * n as f64,
        };
        run.time(&name, work, || {
            let parts = (Rows::new(&g, CHUNK), RowsMut::new(&mut w, CHUNK));
            let at = |part: usize| chance.at(part * CHUNK);
            match &mut moments {
                Moments::F32([m, v]) => {
                    let moments = (RowsMut::new(m, CHUNK), RowsMut::new(v, CHUNK));
                    exec.pool
                        .each((parts, moments), |_, ((g, w), (m, v))| adamw::update(isa, &f, g, w, m, v));
                }
                Moments::Bf16([m, v]) => {
                    let moments = (RowsMut::new(m, CHUNK), RowsMut::new(v, CHUNK));
                    exec.pool.each((parts, moments), |part, ((g, w), (m, v))| {
                        adamw::update_bf16(isa, &f, at(part), g, w, m, v);
                    });
                }
                Moments::Q8 { m, exponents, v } => {
                    let exponents = RowsMut::new(exponents, CHUNK / BLOCK);
                    let moments = (RowsMut::new(m, CHUNK), exponents, RowsMut::new(v, CHUNK));
                    exec.pool.each((parts, moments), |part, ((g, w), (m, e, v))| {
                        adamw::update_q8(isa, &f, at(part), g, w, m, e, v);
                    });
                }
            }
        });
    }
    Ok(())
}
