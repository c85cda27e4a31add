//! Projections, rotation and causal attention.
//!
//! ```text
//! q = Wq·x (+ b)    k = Wk·x (+ b)    v = Wv·x (+ b)
//! q, k = norm(q), norm(k) per head, where the model has such norms
//! q, k = rope(q), rope(k)
//! p[i,j] = softmax_j(q[i]·k[j] / √d)  for j ≤ i        attn[i] = Σ_j p[i,j]·v[j]
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | x | D × S | | attn | Q × S |
//! | wq = 2^w · Wqᵀ | D × Q | | q, rotated | Q × S |
//! | wk = 2^w · Wkᵀ | D × K | | k, rotated | K × S |
//! | wv = 2^w · Wvᵀ | D × K | | v | K × S |
//! | bias, or gains | Q+2K × 1, or d × 2 | | q_raw, k_raw (with gains) | Q × S, K × S |
//!
//! Packed: `x | wq | wk | wv` in one surface. A norm's mean square counts as at least 2⁻¹⁴, the
//! smallest normal fp16: padded tokens are all zero.

use mil::{Flip, Program, ValueId};

use super::Graph;
use crate::dims::{Dims, Extra};
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Smallest mean square in a norm of queries or keys.
const FLOOR: f32 = 1.0 / 16384.0;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, q, k, s) = (d.dim, d.q_dim(), d.kv_dim(), d.s());
    let mut inputs = vec![(Part::X, dim, s), (Part::Wq, dim, q), (Part::Wk, dim, k), (Part::Wv, dim, k)];
    let mut outputs = vec![(Part::Attn, q, s), (Part::Q, q, s), (Part::K, k, s), (Part::V, k, s)];
    match d.extra {
        Extra::None => {}
        Extra::QkvBias => inputs.push((Part::Bias, q + 2 * k, 1)),
        Extra::QkNorm => {
            inputs.push((Part::Gains, d.head_dim, 2));
            outputs.extend([(Part::QRaw, q, s), (Part::KRaw, k, s)]);
        }
    }
    Packing::new(c.inputs, &inputs, &outputs)
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let x = g.part(Part::X);
    let mut project = |part, name: &str| {
        let w = g.part(part);
        let y = g.linear(name, w, x);
        g.unscale_weight(name, y)
    };
    let (mut q, mut k) = (project(Part::Wq, "q_raw"), project(Part::Wk, "k_raw"));
    let mut v = project(Part::Wv, "v_raw");
    if d.extra == Extra::QkvBias {
        let bias = g.part(Part::Bias);
        let mut first = 0;
        for y in [&mut q, &mut k, &mut v] {
            let channels = g.b.ty(*y).shape[1];
            let b = g.b.slice(bias, &[0, first, 0, 0], &[1, channels, 1, 1]);
            *y = g.b.add(*y, b);
            first += channels;
        }
    }
    let (mut q_heads, mut k_heads) = (g.heads(q), g.heads(k));
    let v_heads = g.heads(v);
    if d.extra == Extra::QkNorm {
        let gains = g.part(Part::Gains);
        q_heads = norm(&mut g, d, "q_norm", q_heads, gains, 0);
        k_heads = norm(&mut g, d, "k_norm", k_heads, gains, 1);
    }
    let rotation = g.rotation();
    let q_turned = g.rotate("q_turned", q_heads, &rotation);
    let k_turned = g.rotate("k_turned", k_heads, &rotation);
    let q_grouped = g.grouped(q_turned);
    let p = g.probabilities(q_grouped, k_turned);
    let p = g.grouped_rows(p);
    let v_raised = g.raise("v_raised", v_heads);
    let attn = g.b.matmul_flip(v_raised, p, Flip::Y);
    let lowered = g.lowered();
    let attn = g.times("attn_heads", attn, lowered);
    let attn = g.ungrouped("attn", attn);
    let (q_out, k_out) = (g.flat("q", q_turned), g.flat("k", k_turned));
    let mut outputs = vec![(Part::Attn, attn), (Part::Q, q_out), (Part::K, k_out), (Part::V, v)];
    if d.extra == Extra::QkNorm {
        outputs.extend([(Part::QRaw, q), (Part::KRaw, k)]);
    }
    g.finish(&outputs)
}

/// `x · (mean_c x² + ε)^-½ · gain` over the channels of each head of `[1, h, d, S]`.
fn norm(g: &mut Graph<'_>, d: &Dims, name: &str, x: ValueId, gains: ValueId, column: usize) -> ValueId {
    let gain = g.b.slice(gains, &[0, 0, 0, column], &[1, d.head_dim, 1, 1]);
    let gain = g.b.reshape(gain, &[1, 1, d.head_dim, 1]);
    let square = g.b.mul(x, x);
    let mean = g.b.reduce_mean(square, &[2]);
    let eps = g.b.fp16(d.norm_eps);
    let mean = g.b.add(mean, eps);
    let floor = g.b.fp16(FLOOR);
    let mean = g.b.maximum(mean, floor);
    let exponent = g.b.fp16(-0.5);
    let inverse = g.b.pow(mean, exponent);
    let y = g.b.mul(x, inverse);
    g.b.named(name).mul(y, gain)
}

#[cfg(test)]
mod tests {
    use backend::reference::{rms_norm, rope};
    use mil::blob::{self, BlobWriter};
    use mil::{Weights, parse};

    use super::super::check::{Case, FAST, agrees, attention, narrow, product, shapes, transposed, values};
    use super::*;
    use crate::kernels::{Kernel, graph};

    fn case(d: &Dims) -> Case {
        let (dim, q, k, s) = (d.dim, d.q_dim(), d.kv_dim(), d.s());
        let x = values(dim * s, 1, 2.0);
        let w = [(q, 2), (k, 3), (k, 4)].map(|(n, seed)| values(n * dim, seed, 0.5));
        let mut y = [0, 1, 2].map(|i| product(&w[i], &x, dim, s));
        let [wq, wk, wv] = w.map(|w| transposed(&w, dim));
        let mut parts = [(Part::X, x), (Part::Wq, wq), (Part::Wk, wk), (Part::Wv, wv)].to_vec();
        let mut wanted = Vec::new();
        if d.extra == Extra::QkvBias {
            let bias = values(q + 2 * k, 5, 0.5);
            let mut rest = &bias[..];
            for y in &mut y {
                let (b, after) = rest.split_at(y.len() / s);
                y.chunks_exact_mut(s).zip(b).for_each(|(row, b)| row.iter_mut().for_each(|y| *y += b));
                rest = after;
            }
            parts.push((Part::Bias, bias));
        }
        let [mut queries, mut keys, v] = y.map(|y| transposed(&y, s));
        if d.extra == Extra::QkNorm {
            let gains = values(2 * d.head_dim, 6, 1.0);
            wanted.push((Part::QRaw, transposed(&queries, q)));
            wanted.push((Part::KRaw, transposed(&keys, k)));
            for (column, rows) in [&mut queries, &mut keys].into_iter().enumerate() {
                let gain: Vec<f32> = gains.iter().skip(column).step_by(2).map(|&g| g as f32).collect();
                *rows = rms_norm::forward(rows, &gain, d.norm_eps);
            }
            parts.push((Part::Gains, gains));
        }
        let frequencies = d.rope.frequencies(d.head_dim);
        rope::forward(&mut queries, &frequencies, q, s, 0);
        rope::forward(&mut keys, &frequencies, k, s, 0);
        let [queries, keys] = [transposed(&queries, q), transposed(&keys, k)];
        let v = transposed(&v, k);
        let attn = attention::forward(d, &queries, &keys, &v);
        wanted.extend([(Part::Attn, attn), (Part::Q, queries), (Part::K, keys), (Part::V, v)]);
        let (parts, wanted) = (parts.into_iter().collect(), wanted.into_iter().collect());
        Case { kernel: Kernel::SdpaFwd, parts, wanted, raised: false }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }

    #[test]
    fn text_with_norms() {
        insta::assert_snapshot!(program(&shapes()[2], &Choices::default()));
    }

    /// The error that a change of the program makes.
    fn error_after(change: impl Fn(Program) -> Program) -> f64 {
        let (d, c) = (shapes().swap_remove(3), Choices::default());
        let packing = packing(&d, &c);
        case(&d).mutant_error(&d, &c, change(program(&d, &c)), |part| packing.input(part))
    }

    #[test]
    fn a_missing_score_scale_is_caught() {
        let (d, c) = (shapes().swap_remove(3), Choices::default());
        // 1/√16 is the constant of `q_scaled` alone.
        let scale = mil::program::Literal::fp16(1.0 / (d.head_dim as f32).sqrt()).to_string();
        let text = program(&d, &c).to_string();
        assert_eq!(text.matches(&scale).count(), 1, "{scale} in {text}");
        let change = |p: Program| {
            let without = p.to_string().replace(&scale, &mil::program::Literal::fp16(1.0).to_string());
            let weights = p.weights.expect("the program has constants");
            parse(&without).expect("the text is still MIL").with_weights(weights)
        };
        assert!(error_after(|p| p) <= FAST);
        assert!(error_after(change) > 20.0 * FAST, "{}", error_after(change));
    }

    #[test]
    fn a_wrong_sign_of_the_rotation_is_caught() {
        // The tables are written in the order cos, sin, half_swap, mask; the swap changes its sign.
        let change = |p: Program| {
            let file = p.weights.as_ref().and_then(|w| w.get(graph::WEIGHTS)).expect("constants").to_vec();
            let mut writer = BlobWriter::new();
            for (i, record) in blob::records(&file).expect("our own file").iter().enumerate() {
                let mut data = record.data.to_vec();
                if i == 2 {
                    data.chunks_exact_mut(2).for_each(|v| v[1] ^= 0x80);
                }
                writer.write(record.dtype, &data);
            }
            let mut weights = Weights::new();
            weights.insert(graph::WEIGHTS, writer.finish());
            p.with_weights(weights)
        };
        assert!(error_after(change) > 20.0 * FAST, "{}", error_after(change));
    }

    #[test]
    fn swapped_projections_are_caught() {
        let (d, c) = (shapes().swap_remove(0), Choices::default());
        let packing = packing(&d, &c);
        let swapped = |part| match part {
            Part::Wk => packing.input(Part::Wv),
            Part::Wv => packing.input(Part::Wk),
            part => packing.input(part),
        };
        assert!(case(&d).mutant_error(&d, &c, program(&d, &c), swapped) > 0.5);
    }

    #[test]
    fn a_later_token_changes_nothing_before_it() {
        let (d, c) = (shapes().swap_remove(0), Choices::default());
        let s = d.s();
        let mut changed = case(&d).parts;
        changed.get_mut(&Part::X).expect("x").iter_mut().skip(s - 1).step_by(s).for_each(|x| *x = 2.0);
        let run = |parts| {
            let p = packing(&d, &c);
            super::super::check::run(program(&d, &c), &p, mil::eval::Arithmetic::Fast, parts)
        };
        let (before, after) = (run(&case(&d).parts), run(&changed));
        let early = |x: &[f64]| narrow(x).chunks(s).flat_map(|row| row[..s - 1].to_vec()).collect::<Vec<_>>();
        assert_eq!(early(&before[&Part::Attn]), early(&after[&Part::Attn]));
        assert_ne!(before[&Part::Attn], after[&Part::Attn]);
    }
}
