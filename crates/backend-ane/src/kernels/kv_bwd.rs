//! Back through key and value projections.
//!
//! ```text
//! dx = Wkᵀ·dk + Wvᵀ·dv
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | dk, turned back | K × S | | dx · 2^w | D × S |
//! | dv | K × S | | | |
//! | wk = 2^w · Wk | K × D | | | |
//! | wv = 2^w · Wv | K × D | | | |
//!
//! Packed: `dk | dv | wk | wv`; on the order see `ffn_bwd_w13`.

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, k, s) = (d.dim, d.kv_dim(), d.s());
    let inputs = [(Part::Dk, k, s), (Part::Dv, k, s), (Part::Wk, k, dim), (Part::Wv, k, dim)];
    Packing::new(c.inputs, &inputs, &[(Part::Dx, dim, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let [dk, dv, wk, wv] = [Part::Dk, Part::Dv, Part::Wk, Part::Wv].map(|part| g.part(part));
    let key = g.linear("dx_key", wk, dk);
    let value = g.linear("dx_value", wv, dv);
    let dx = g.b.named("dx").add(key, value);
    g.finish(&[(Part::Dx, dx)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{
        Case, FAST, agrees, dot, matches_differences, product, shapes, tiny, transposed, values,
    };
    use super::*;
    use crate::kernels::Kernel;

    fn weights(d: &Dims) -> [Vec<f64>; 2] {
        [2, 3].map(|seed| values(d.dim * d.kv_dim(), seed, 0.1))
    }

    fn case(d: &Dims) -> Case {
        let (dim, k, s) = (d.dim, d.kv_dim(), d.s());
        let (dk, dv, [wk, wv]) = (values(k * s, 1, 1.0), values(k * s, 4, 1.0), weights(d));
        let key = product(&transposed(&wk, dim), &dk, k, s);
        let value = product(&transposed(&wv, dim), &dv, k, s);
        let dx = key.iter().zip(value).map(|(a, b)| a + b).collect();
        let parts = [(Part::Dk, dk), (Part::Dv, dv), (Part::Wk, wk), (Part::Wv, wv)].into();
        Case { kernel: Kernel::KvBwd, parts, wanted: [(Part::Dx, dx)].into(), raised: true }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_projections() {
        let (d, case) = (tiny(), case(&tiny()));
        let x = values(d.dim * d.s(), 5, 1.0);
        let [wk, wv] = weights(&d);
        matches_differences(&case, &d, Part::Dx, &x, |x| {
            dot(&product(&wk, x, d.dim, d.s()), &case.parts[&Part::Dk])
                + dot(&product(&wv, x, d.dim, d.s()), &case.parts[&Part::Dv])
        });
    }

    /// The published fault: the host writes gradients first, the program reads gradient and weight in
    /// turn. Extents are equal, so sizes cannot tell.
    #[test]
    fn another_order_of_staging_is_caught() {
        let d = Dims { dim: 32, ..shapes().swap_remove(0) };
        let c = Choices::default();
        let swapped = |part| match part {
            Part::Dv => packing(&d, &c).input(Part::Wk),
            Part::Wk => packing(&d, &c).input(Part::Dv),
            part => packing(&d, &c).input(part),
        };
        let (case, right) = (case(&d), |part| packing(&d, &c).input(part));
        assert!(case.mutant_error(&d, &c, program(&d, &c), right) <= FAST);
        assert!(case.mutant_error(&d, &c, program(&d, &c), swapped) > 0.5);
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
