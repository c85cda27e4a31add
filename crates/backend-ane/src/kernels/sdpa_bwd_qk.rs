//! Second half of the way back through attention: gradients of queries and keys.
//!
//! ```text
//! ds[i,j] = p[i,j]·(dp[i,j] − Σ_j p·dp)        dq[i] = Σ_j ds[i,j]·k[j]/√d        dk[j] = Σ_i ds[i,j]·q[i]/√d
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | p | h·S × S | | dq | Q × S |
//! | dp | h·S × S | | dk | K × S |
//! | q, rotated | Q × S | | | |
//! | k, rotated | K × S | | | |
//!
//! Always separate inputs, see `sdpa_bwd_v`. Gradients are those of the rotated queries and keys.

use mil::{Flip, Program};

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::{Choices, Inputs};

/// Where its matrices lie.
pub fn packing(d: &Dims, _: &Choices) -> Packing {
    let (q, k, s, rows) = (d.q_dim(), d.kv_dim(), d.s(), d.heads * d.s());
    let inputs = [(Part::P, rows, s), (Part::Dp, rows, s), (Part::Q, q, s), (Part::K, k, s)];
    Packing::new(Inputs::Separate, &inputs, &[(Part::Dq, q, s), (Part::Dk, k, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let [p, dp] = [Part::P, Part::Dp].map(|part| {
        let x = g.part(part);
        g.head_rows(x)
    });
    let [q, k] = [Part::Q, Part::K].map(|part| {
        let x = g.part(part);
        g.heads(x)
    });
    let weighted = g.b.mul(p, dp);
    let mean = g.b.named("mean").reduce_sum(weighted, &[-1]);
    let centred = g.b.sub(dp, mean);
    let ds = g.b.named("ds").mul(p, centred);
    let ds = g.grouped_rows(ds);
    let (q, k) = (g.raise("q_raised", q), g.raise("k_raised", k));
    let q = g.grouped(q);
    let scale = g.score_scale() * g.lowered();
    let dq = g.b.matmul_flip(k, ds, Flip::Y);
    let dq = g.times("dq_heads", dq, scale);
    let dk = g.b.matmul(q, ds);
    let dk = g.times("dk_heads", dk, scale);
    let (dq, dk) = (g.ungrouped("dq", dq), g.flat("dk", dk));
    g.finish(&[(Part::Dq, dq), (Part::Dk, dk)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{Case, agrees, attention, dot, matches_differences, shapes, tiny, values};
    use super::*;
    use crate::kernels::Kernel;

    fn inputs(d: &Dims) -> [Vec<f64>; 4] {
        let (q, k, s) = (d.q_dim(), d.kv_dim(), d.s());
        let inputs = [(q, 2.0), (k, 2.0), (k, 1.0), (q, 1.0)];
        std::array::from_fn(|i| values(inputs[i].0 * s, i as u64 + 1, inputs[i].1))
    }

    fn case(d: &Dims) -> Case {
        let [q, k, v, da] = inputs(d);
        let [dq, dk, _] = attention::backward(d, &q, &k, &v, &da);
        let [p, dp] = attention::probabilities(d, &q, &k, &v, &da);
        let parts = [(Part::P, p), (Part::Dp, dp), (Part::Q, q), (Part::K, k)].into();
        Case {
            kernel: Kernel::SdpaBwdQk,
            parts,
            wanted: [(Part::Dq, dq), (Part::Dk, dk)].into(),
            raised: false,
        }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_forward() {
        let d = tiny();
        let ([q, k, v, da], case) = (inputs(&d), case(&d));
        matches_differences(&case, &d, Part::Dq, &q, |q| dot(&attention::forward(&d, q, &k, &v), &da));
        matches_differences(&case, &d, Part::Dk, &k, |k| dot(&attention::forward(&d, &q, k, &v), &da));
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
