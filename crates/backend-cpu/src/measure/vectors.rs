//! Products of one token with weights in every format, which come from memory.

use model::quant::Format;

use super::{Numbers, Run, Work, bytes};
use crate::gemv::{Inputs, Kind, Panels};
use crate::memory::CpuResult;
use crate::{Buffer, Exec, Into, Mat, MatMut};

/// Bytes of weights that a call goes through: more than caches hold, but where only the going through is tested.
const BYTES: usize = if cfg!(test) { 1 << 20 } else { 512 << 20 };

/// The matrix into the feed-forward, as often as it takes for its weights to come from memory.
pub(super) fn run(run: &mut Run<'_>, exec: &mut Exec) -> CpuResult<()> {
    for format in [Format::Bf16, Format::Q8_0, Format::Q4_0] {
        let kind = Kind::of(format).expect("held by the CPU");
        quantized(run, exec, &format!("gemv/{}", format.name()), kind)?;
    }
    full(run, exec)
}

fn quantized(run: &mut Run<'_>, exec: &Exec, name: &str, kind: Kind) -> CpuResult<()> {
    if !run.wants(name) {
        return Ok(());
    }
    let (rows, columns) = (2 * run.config.hidden, run.config.dim);
    let row: Vec<f32> = super::between::noise(3).take(columns).collect();
    let mut panels = Vec::new();
    let mut total = 0;
    while total < BYTES {
        let mut next = Panels::reserve(kind, rows, columns)?;
        match panels.first() {
            Some(first) => next.copy(first),
            None => next.pack(&exec.pool, |_, to| to.copy_from_slice(&row)),
        }
        total += next.bytes();
        panels.push(next);
    }
    let x: Vec<f32> = super::between::noise(4).take(columns).collect();
    let mut inputs = Inputs::new(exec.isa, kind, 1, columns)?;
    let mut y = vec![0.0; rows];
    let work = Work {
        numbers: if kind == Kind::Bf16 { Numbers::F32 } else { Numbers::Int8 },
        flops: 2.0 * (panels.len() * rows * columns) as f64,
        read: total as f64,
        written: panels.len() as f64 * bytes(rows),
    };
    run.time(name, work, || {
        inputs.set(exec.isa, &exec.pool, &x, columns);
        for w in &panels {
            w.product(exec.isa, &exec.pool, &inputs, 1, &mut y, |_, y, [v]| y.copy_from_slice(&v[..y.len()]));
        }
    });
    Ok(())
}

/// Weights as they are.
fn full(run: &mut Run<'_>, exec: &mut Exec) -> CpuResult<()> {
    const NAME: &str = "gemv/f32";
    if !run.wants(NAME) {
        return Ok(());
    }
    let (rows, columns) = (2 * run.config.hidden, run.config.dim);
    let rows = rows * BYTES.div_ceil(size_of::<f32>() * rows * columns);
    let mut w = Buffer::zeros_2d("weights", rows, columns)?;
    // Written, else all pages are the one page of zeros.
    w.fill(0.25);
    let x: Vec<f32> = super::between::noise(4).take(columns).collect();
    let mut y = vec![0.0; rows];
    let n = rows * columns;
    let work = Work { numbers: Numbers::F32, flops: 2.0 * n as f64, read: bytes(n), written: bytes(rows) };
    run.time(NAME, work, || {
        let (x, w) = (Mat::new(&x, 1, columns), Mat::new(&w, rows, columns).t());
        exec.matmul(1.0, x, w, Into::Set, MatMut::new(&mut y, 1, rows));
    });
    Ok(())
}
