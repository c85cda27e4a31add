//! First half of the way back through attention: gradient of the values, probabilities and theirs.
//!
//! ```text
//! p = softmax(q·k/√d), again        dv[j] = Σ_i p[i,j]·da[i]        dp[i,j] = da[i]·v[j]
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | q, rotated | Q × S | | dv | K × S |
//! | k, rotated | K × S | | p | h·S × S |
//! | v | K × S | | dp | h·S × S |
//! | da | Q × S | | | |
//!
//! Always separate inputs: `q`, `k` and `v` are the surfaces that `sdpa_fwd` wrote, and `p` and `dp` go to
//! `sdpa_bwd_qk` as surfaces too. The gradients of a key head sum over its query heads in the product.

use mil::{Flip, Program};

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::{Choices, Inputs};

/// Where its matrices lie.
pub fn packing(d: &Dims, _: &Choices) -> Packing {
    let (q, k, s, rows) = (d.q_dim(), d.kv_dim(), d.s(), d.heads * d.s());
    let inputs = [(Part::Q, q, s), (Part::K, k, s), (Part::V, k, s), (Part::Da, q, s)];
    Packing::new(Inputs::Separate, &inputs, &[(Part::Dv, k, s), (Part::P, rows, s), (Part::Dp, rows, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let [q, k, v, da] = [Part::Q, Part::K, Part::V, Part::Da].map(|part| {
        let x = g.part(part);
        g.heads(x)
    });
    let (q, da) = (g.grouped(q), g.grouped(da));
    let p = g.probabilities(q, k);
    let p_rows = g.grouped_rows(p);
    let dv = g.b.named("dv_heads").matmul(da, p_rows);
    let dp = g.b.named("dp_heads").matmul_flip(da, v, Flip::X);
    let (dv, p, dp) = (g.flat("dv", dv), g.flat("p", p), g.flat("dp", dp));
    g.finish(&[(Part::Dv, dv), (Part::P, p), (Part::Dp, dp)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{Case, agrees, attention, dot, matches_differences, shapes, tiny, values};
    use super::*;
    use crate::kernels::Kernel;

    fn case(d: &Dims) -> Case {
        let (q, k, s) = (d.q_dim(), d.kv_dim(), d.s());
        let inputs = [(q, 2.0), (k, 2.0), (k, 1.0), (q, 1.0)];
        let [q, k, v, da] = std::array::from_fn(|i| values(inputs[i].0 * s, i as u64 + 1, inputs[i].1));
        let [_, _, dv] = attention::backward(d, &q, &k, &v, &da);
        let [p, dp] = attention::probabilities(d, &q, &k, &v, &da);
        let parts = [(Part::Q, q), (Part::K, k), (Part::V, v), (Part::Da, da)].into();
        let wanted = [(Part::Dv, dv), (Part::P, p), (Part::Dp, dp)].into();
        Case { kernel: Kernel::SdpaBwdV, parts, wanted, raised: false }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_forward() {
        let (d, case) = (tiny(), case(&tiny()));
        let p = &case.parts;
        matches_differences(&case, &d, Part::Dv, &p[&Part::V], |v| {
            dot(&attention::forward(&d, &p[&Part::Q], &p[&Part::K], v), &p[&Part::Da])
        });
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
