//! Causal grouped-query attention in blocks, never holding all scores.
//!
//! ```text
//! s[i,j] = q[i]·k[j] / √d  for j ≤ i        p = e^{s − lse[i]}      o[i] = Σ_j p[i,j]·v[j]
//! dv[j] = Σ_i p[i,j]·do[i]                  dp[i,j] = do[i]·v[j]    δ[i] = o[i]·do[i]
//! ds[i,j] = p[i,j]·(dp[i,j] − δ[i])         dq[i] = Σ_j ds·k[j]/√d  dk[j] = Σ_i ds·q[i]/√d
//! ```
//!
//! Forward, a block of queries meets the blocks of keys up to its own, with a running maximum and
//! sum; only the log of the sum (`lse`) is kept for the way back, which computes `p` again.
//!
//! Shapes: `qkv`, `dqkv` `[batch·seq, (heads + 2·kv_heads)·d]`, queries, keys, values side by side;
//! `o`, `do` `[batch·seq, heads·d]`; `lse`, `delta` `[batch·seq, heads]`. Sums are f32.
//! Source: Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691.

use model::ModelConfig;

use super::cross_entropy::{exp_shifted, maximum};
use super::vector::{dot, scale};
use crate::apart::Apart;
use crate::gemm::{Into, Mat, MatMut, small, small_scratch};
use crate::isa::simd;
use crate::{Exec, Precision};

/// Most queries and keys of a block.
const BLOCK: usize = 128;

/// Queries and keys of a block. What smaller ones spare at the diagonal, larger ones spare in packing, which counts for
/// more where products take next to no time. Short sequences are cut into smaller ones for the sake of many threads.
fn block(precision: Precision, seq: usize) -> usize {
    match precision {
        Precision::Bf16 if seq >= 4 * BLOCK => BLOCK,
        Precision::F32 | Precision::Bf16 => BLOCK / 2,
    }
}

/// Extents of one call.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Tokens of one sequence.
    pub seq: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

impl Heads {
    /// Of a model, for sequences of `seq` tokens.
    pub fn new(config: &ModelConfig, seq: usize) -> Self {
        let ModelConfig { heads, kv_heads, head_dim, .. } = *config;
        Self { seq, heads, kv_heads, head_dim }
    }

    /// Scratch numbers that each thread needs.
    pub fn scratch(&self) -> usize {
        let d = self.head_dim;
        let product = small_scratch(BLOCK, d, BLOCK).max(small_scratch(BLOCK, BLOCK, d));
        2 * BLOCK * BLOCK + 2 * BLOCK + product
    }

    fn row(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn out_row(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        (self.head_dim as f32).sqrt().recip()
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Channel where the keys of a key head start in a row of `qkv`.
    fn key(&self, kv_head: usize) -> usize {
        (self.heads + kv_head) * self.head_dim
    }

    /// Channel where the values of a key head start.
    fn value(&self, kv_head: usize) -> usize {
        (self.heads + self.kv_heads + kv_head) * self.head_dim
    }
}

/// Outputs of all heads, and the log of the sum of each softmax, with products in `precision`.
///
/// The threads need [`Heads::scratch`] numbers each.
pub fn forward(exec: &Exec, precision: Precision, h: Heads, qkv: &[f32], o: &mut [f32], lse: &mut [f32]) {
    let (pool, isa) = (&exec.pool, exec.isa);
    let (d, row) = (h.head_dim, h.row());
    let side = block(precision, h.seq);
    let blocks = h.seq.div_ceil(side);
    let tokens = qkv.len() / row;
    assert!(o.len() == tokens * h.out_row() && lse.len() == tokens * h.heads);
    let (o, lse) = (Apart::new(o), Apart::new(lse));
    // Late blocks of queries are the long ones: they go first.
    pool.run_with_scratch(tokens / h.seq * blocks * h.heads, |task, scratch| {
        let (head, rest) = (task % h.heads, task / h.heads);
        let (late, first) = (blocks - 1 - rest % blocks, rest / blocks * h.seq);
        let kv = head / h.group();
        let i0 = late * side;
        let rows = side.min(h.seq - i0);
        let (scores, scratch) = scratch.split_at_mut(side * side);
        let (state, scratch) = scratch.split_at_mut(2 * side);
        let (max, sum) = state.split_at_mut(side);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let q = Mat::strided(&qkv[(first + i0) * row + head * d..], rows, d, row);
        let start = |r| (first + i0 + r) * h.out_row() + head * d;
        // SAFETY: this task alone has these rows of this head, and each use ends before the next.
        let out = || unsafe { o.columns(start(0), rows, d, h.out_row()) };
        // SAFETY: as above.
        let out_of = |r| unsafe { o.part(start(r), d) };
        for j0 in (0..=i0).step_by(side) {
            let cols = side.min(h.seq - j0);
            let at = |channel| Mat::strided(&qkv[(first + j0) * row + channel..], cols, d, row);
            let s = MatMut::strided(scores, rows, cols, side);
            small(isa, precision, h.scale(), q, at(h.key(kv)).t(), Into::Set, s, scratch);
            for r in 0..rows {
                let seen = if j0 == i0 { r + 1 } else { cols };
                let scores = &mut scores[r * side..][..cols];
                let shrink = softmax_step(isa, &mut scores[..seen], &mut max[r], &mut sum[r]);
                scores[seen..].fill(0.0);
                if j0 > 0 && shrink != 1.0 {
                    scale(isa, shrink, out_of(r));
                }
            }
            let p = Mat::strided(scores, rows, cols, side);
            let into = if j0 == 0 { Into::Set } else { Into::Add };
            small(isa, precision, 1.0, p, at(h.value(kv)), into, out(), scratch);
        }
        for r in 0..rows {
            scale(isa, sum[r].recip(), out_of(r));
            // SAFETY: as above.
            let lse = unsafe { lse.part((first + i0 + r) * h.heads + head, 1) };
            lse[0] = max[r] + sum[r].ln();
        }
    });
}

/// Gradients of queries, keys and values. `delta` is written on the way. What comes out of queries and keys goes
/// through `back` in the end, with the position of the token: back through a rotation.
///
/// The threads need [`Heads::scratch`] numbers each.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    exec: &Exec,
    h: Heads,
    back: impl Fn(usize, &mut [f32]) + Sync,
    qkv: &[f32],
    o: &[f32],
    lse: &[f32],
    dout: &[f32],
    delta: &mut [f32],
    dqkv: &mut [f32],
) {
    use crate::pool::{Rows, RowsMut};
    const TOKENS: usize = 32;
    let (pool, isa) = (&exec.pool, exec.isa);
    let (side, d, row, out_row) = (block(exec.precision, h.seq), h.head_dim, h.row(), h.out_row());
    let tokens = qkv.len() / row;
    assert!(dqkv.len() == qkv.len() && o.len() == tokens * out_row && dout.len() == o.len());
    let parts = (
        Rows::new(o, TOKENS * out_row),
        Rows::new(dout, TOKENS * out_row),
        RowsMut::new(delta, TOKENS * h.heads),
    );
    pool.each(parts, |_, (o, dout, delta)| {
        for ((o, dout), delta) in o.chunks_exact(d).zip(dout.chunks_exact(d)).zip(delta) {
            *delta = dot(isa, o, dout);
        }
    });
    let delta = &*delta;
    let dqkv = Apart::new(dqkv);
    pool.run_with_scratch(tokens / h.seq * h.kv_heads, |task, scratch| {
        let (kv, first) = (task % h.kv_heads, task / h.kv_heads * h.seq);
        let (scores, scratch) = scratch.split_at_mut(side * side);
        let (ds, scratch) = scratch.split_at_mut(side * side);
        let at = |t: usize, rows, channel| Mat::strided(&qkv[(first + t) * row + channel..], rows, d, row);
        // SAFETY: this task alone has this sequence of this key head and of its query heads, and
        // each use ends before the next.
        let gradient =
            |t: usize, rows, channel| unsafe { dqkv.columns((first + t) * row + channel, rows, d, row) };
        for j0 in (0..h.seq).step_by(side) {
            let cols = side.min(h.seq - j0);
            let (key, value) = (at(j0, cols, h.key(kv)), at(j0, cols, h.value(kv)));
            for head in kv * h.group()..(kv + 1) * h.group() {
                for i0 in (j0..h.seq).step_by(side) {
                    let rows = side.min(h.seq - i0);
                    let q = at(i0, rows, head * d);
                    let start = (first + i0) * out_row + head * d;
                    let dout = Mat::strided(&dout[start..], rows, d, out_row);
                    let s = MatMut::strided(scores, rows, cols, side);
                    small(isa, exec.precision, h.scale(), q, key.t(), Into::Set, s, scratch);
                    let s = MatMut::strided(ds, rows, cols, side);
                    small(isa, exec.precision, 1.0, dout, value.t(), Into::Set, s, scratch);
                    for r in 0..rows {
                        let seen = if j0 == i0 { r + 1 } else { cols };
                        let (p, ds) = (&mut scores[r * side..][..cols], &mut ds[r * side..][..cols]);
                        let t = (first + i0 + r) * h.heads + head;
                        softmax_backward(isa, lse[t], delta[t], h.scale(), &mut p[..seen], &mut ds[..seen]);
                        p[seen..].fill(0.0);
                        ds[seen..].fill(0.0);
                    }
                    let (p, ds) =
                        (Mat::strided(scores, rows, cols, side), Mat::strided(ds, rows, cols, side));
                    let begun = |is_first| if is_first { Into::Set } else { Into::Add };
                    let first_query = begun(head == kv * h.group() && i0 == j0);
                    let dv = gradient(j0, cols, h.value(kv));
                    small(isa, exec.precision, 1.0, p.t(), dout, first_query, dv, scratch);
                    let dk = gradient(j0, cols, h.key(kv));
                    small(isa, exec.precision, 1.0, ds.t(), q, first_query, dk, scratch);
                    let dq = gradient(i0, rows, head * d);
                    small(isa, exec.precision, 1.0, ds, key, begun(j0 == 0), dq, scratch);
                }
            }
        }
        let queries = h.group() * d;
        for position in 0..h.seq {
            let start = (first + position) * row;
            // SAFETY: as above.
            let part = |channel, len| unsafe { dqkv.part(start + channel, len) };
            back(position, part(kv * queries, queries));
            back(position, part(h.key(kv), d));
        }
    });
}

simd! {
    /// Turns scores into `e^{s − max}` with a running maximum and sum; returns the factor on what
    /// was summed before.
    fn softmax_step(s: &mut [f32], max: &mut f32, sum: &mut f32) -> f32 {
        let block = maximum(s);
        let next = if block > *max { block } else { *max };
        let shrink = if *max == next { 1.0 } else { super::vector::exp::<FMA>(*max - next) };
        *sum = *sum * shrink + exp_shifted::<FMA>(s, next);
        *max = next;
        shrink
    }
}

simd! {
    /// Turns scores into probabilities, and their gradient into that of the scores, times `scale`.
    fn softmax_backward(lse: f32, delta: f32, scale: f32, p: &mut [f32], dp: &mut [f32]) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = super::vector::exp::<FMA>(*p - lse);
            *dp = *p * (*dp - delta) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use backend::reference::attention as reference;

    use super::*;
    use crate::kernels::check::{assert_close, values, wide};
    use crate::{Isa, Plan, Precision};

    fn exec(isa: Isa, precision: Precision, h: Heads) -> Exec {
        let plan = Plan { isa, ..Plan::new(1).with_threads(3).with_precision(precision) };
        let mut exec = Exec::new(&plan).unwrap();
        exec.pool.reserve_scratch(h.scratch()).unwrap();
        exec
    }

    fn columns(x: &[f32], row: usize, from: usize, to: usize) -> Vec<f64> {
        x.chunks(row).flat_map(|r| wide(&r[from..to])).collect()
    }

    fn cases() -> Vec<Heads> {
        let h = |seq, heads, kv_heads, head_dim| Heads { seq, heads, kv_heads, head_dim };
        vec![
            h(1, 1, 1, 2),
            h(5, 4, 2, 6),
            h(64, 2, 1, 20),
            h(65, 3, 3, 16),
            h(200, 4, 2, 64),
            h(530, 2, 1, 16),
        ]
    }

    #[test]
    fn agrees_with_the_reference() {
        for &isa in Isa::available() {
            agrees(isa, Precision::F32, [2e-6, 1e-5]);
        }
    }

    #[test]
    fn agrees_with_the_reference_in_bf16() {
        for isa in [Isa::available()[0], Isa::detect()] {
            agrees(isa, Precision::Bf16, [2e-2, 3e-2]);
        }
    }

    /// Within these tolerances, forward and backward.
    fn agrees(isa: Isa, precision: Precision, [there, back]: [f64; 2]) {
        for h in cases() {
            let (tokens, row, d) = (2 * h.seq, h.row(), h.head_dim);
            let (q, kv) = (h.out_row(), h.kv_heads * d);
            let qkv: Vec<f32> = values(tokens * row, 1).iter().map(|x| 2.0 * x).collect();
            let dout = values(tokens * q, 2);
            let exec = exec(isa, precision, h);
            let (mut o, mut lse) = (vec![f32::NAN; tokens * q], vec![f32::NAN; tokens * h.heads]);
            forward(&exec, precision, h, &qkv, &mut o, &mut lse);

            let r = reference::Heads { seq: h.seq, heads: h.heads, kv_heads: h.kv_heads, head_dim: d };
            let parts = [(0, q), (q, q + kv), (q + kv, row)].map(|(from, to)| columns(&qkv, row, from, to));
            assert_close(&o, &reference::forward(r, &parts[0], &parts[1], &parts[2]), there);

            let (mut delta, mut dqkv) = (lse.clone(), vec![f32::NAN; qkv.len()]);
            backward(&exec, h, |_, _| {}, &qkv, &o, &lse, &dout, &mut delta, &mut dqkv);
            let (dq, dk, dv) = reference::backward(r, &parts[0], &parts[1], &parts[2], &wide(&dout));
            let narrow =
                |from, to| -> Vec<f32> { dqkv.chunks(row).flat_map(|r| r[from..to].to_vec()).collect() };
            assert_close(&narrow(0, q), &dq, back);
            assert_close(&narrow(q, q + kv), &dk, back);
            assert_close(&narrow(q + kv, row), &dv, back);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let h = Heads { seq: 70, heads: 1, kv_heads: 1, head_dim: 4 };
        let qkv: Vec<f32> = values(70 * h.row(), 1).iter().map(|x| 1e4 * x).collect();
        let (mut o, mut lse) = (vec![0.0; 70 * 4], vec![0.0; 70]);
        forward(&exec(Isa::detect(), Precision::F32, h), Precision::F32, h, &qkv, &mut o, &mut lse);
        assert!(o.iter().chain(&lse).all(|v| v.is_finite()));
    }
}
