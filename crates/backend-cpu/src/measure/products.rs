//! Matrix products at the shapes of a step: forward, back to the inputs, back to the weights.

use model::ModelConfig;

use super::{Run, Work, bytes, numbers_of_large};
use crate::cells::Order;
use crate::gemm::bf16::{pack, packed_len, panel_rows};
use crate::head::head_tokens;
use crate::memory::CpuResult;
use crate::packed::panels_of;
use crate::{Buffer, Exec, Into, Mat, MatMut, Packed, Precision, Right};

/// Weights `[outputs, inputs]` of a name, and most tokens that meet them at once.
fn matrices(c: &ModelConfig, tokens: usize) -> [(&'static str, usize, usize, usize); 5] {
    [
        ("qkv", c.q_dim() + 2 * c.kv_dim(), c.dim, tokens),
        ("o", c.dim, c.q_dim(), tokens),
        ("gate_up", 2 * c.hidden, c.dim, tokens),
        ("down", c.dim, c.hidden, tokens),
        ("head", c.vocab, c.dim, tokens.min(head_tokens(c))),
    ]
}

/// Products in the precision of `exec`, and with weights that are packed where there is such a thing.
pub(super) fn run(run: &mut Run<'_>, exec: &mut Exec) -> CpuResult<()> {
    let precision = exec.precision;
    let numbers = numbers_of_large(precision, exec.isa);
    for (matrix, outputs, inputs, tokens) in matrices(run.config, run.tokens()) {
        let name = |way: &str, kind: &str| format!("gemm/{matrix}/{way}/{}{kind}", precision.name());
        let names = [
            name("forward", ""),
            name("dx", ""),
            name("dw", ""),
            name("forward", "-packed"),
            name("dx", "-packed"),
        ];
        if !names.iter().any(|name| run.wants(name)) {
            continue;
        }
        let noise = |len, seed| {
            let mut to = Buffer::zeros("operands of a product", len)?;
            to.iter_mut().zip(super::between::noise(seed)).for_each(|(to, x)| *to = x);
            CpuResult::Ok(to)
        };
        let (mut x, mut y) = (noise(tokens * inputs, 1)?, noise(tokens * outputs, 2)?);
        let (w, mut dw) = (noise(outputs * inputs, 3)?, Buffer::zeros("gradients", outputs * inputs)?);
        let (weights, sides) = (bytes(outputs * inputs), [bytes(tokens * inputs), bytes(tokens * outputs)]);
        let work = |read, written| Work {
            numbers,
            flops: 2.0 * tokens as f64 * outputs as f64 * inputs as f64,
            read,
            written,
        };
        let order = Order::best(exec.isa, precision, &[outputs, inputs]);
        let plain = Mat::ordered(order, &w, outputs, inputs);
        let forward = (work(sides[0] + weights, sides[1]), Right::Plain(plain.t()));
        let back = (work(sides[1] + weights, sides[0]), Right::Plain(plain));
        let into_y = |exec: &mut Exec, x: &[f32], right, y: &mut [f32]| {
            let x = Mat::new(x, tokens, inputs);
            exec.product(1.0, x, right, Into::Set, MatMut::new(y, tokens, outputs));
        };
        let into_x = |exec: &mut Exec, y: &[f32], right, x: &mut [f32]| {
            let y = Mat::new(y, tokens, outputs);
            exec.product(1.0, y, right, Into::Set, MatMut::new(x, tokens, inputs));
        };
        run.time(&names[0], forward.0, || into_y(exec, &x, forward.1, &mut y));
        run.time(&names[1], back.0, || into_x(exec, &y, back.1, &mut x));
        run.time(&names[2], work(sides[0] + sides[1], weights), || {
            let (y, x) = (Mat::new(&y, tokens, outputs), Mat::new(&x, tokens, inputs));
            let dw = MatMut::ordered(order, &mut dw, outputs, inputs);
            exec.product(1.0, y.t(), Right::Plain(x), Into::Stream, dw);
        });
        if precision == Precision::F32 {
            continue;
        }
        let packed = packed(exec, &w, outputs, inputs)?;
        let half = |work: Work| Work { read: work.read - weights / 2.0, ..work };
        let right = Right::PackedT(Packed::new(exec.isa, &packed, outputs, inputs));
        run.time(&names[3], half(forward.0), || into_y(exec, &x, right, &mut y));
        let right = Right::Packed(Packed::new(exec.isa, &packed, outputs, inputs));
        run.time(&names[4], half(back.0), || into_x(exec, &y, right, &mut x));
    }
    Ok(())
}

/// Weights as an update leaves them behind.
fn packed(exec: &Exec, w: &[f32], rows: usize, cols: usize) -> CpuResult<Buffer<u32>> {
    let mut to = Buffer::zeros("packed weights", packed_len(exec.isa, rows, cols))?;
    let most = panel_rows(exec.isa);
    exec.pool.each(panels_of(exec.isa, &mut to, cols), |panel, to| {
        let row = panel * most;
        pack(exec.isa, Mat::new(&w[row * cols..], most.min(rows - row), cols), to);
    });
    Ok(to)
}
