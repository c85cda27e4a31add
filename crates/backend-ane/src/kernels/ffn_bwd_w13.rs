//! Back through gate and up-projection.
//!
//! ```text
//! dx = W1ᵀ·dh1 + W3ᵀ·dh3
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | dh1 | H × S | | dx · 2^w | D × S |
//! | dh3 | H × S | | | |
//! | w1 = 2^w · W1 | H × D | | | |
//! | w3 = 2^w · W3 | H × D | | | |
//!
//! Packed: `dh1 | dh3 | w1 | w3`. This and `kv_bwd` are the programs whose published order differed
//! between kernel and host, see docs/kernels.md; here both sides read it from [`packing`].

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, h, s) = (d.dim, d.hidden, d.s());
    let inputs = [(Part::Dh1, h, s), (Part::Dh3, h, s), (Part::W1, h, dim), (Part::W3, h, dim)];
    Packing::new(c.inputs, &inputs, &[(Part::Dx, dim, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let [dh1, dh3, w1, w3] = [Part::Dh1, Part::Dh3, Part::W1, Part::W3].map(|part| g.part(part));
    let gate = g.linear("dx_gate", w1, dh1);
    let up = g.linear("dx_up", w3, dh3);
    let dx = g.b.named("dx").add(gate, up);
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
        [2, 3].map(|seed| values(d.dim * d.hidden, seed, 0.1))
    }

    fn case(d: &Dims) -> Case {
        let (dim, h, s) = (d.dim, d.hidden, d.s());
        let (dh1, dh3, [w1, w3]) = (values(h * s, 1, 1.0), values(h * s, 4, 1.0), weights(d));
        let gate = product(&transposed(&w1, dim), &dh1, h, s);
        let up = product(&transposed(&w3, dim), &dh3, h, s);
        let dx = gate.iter().zip(up).map(|(a, b)| a + b).collect();
        let parts = [(Part::Dh1, dh1), (Part::Dh3, dh3), (Part::W1, w1), (Part::W3, w3)].into();
        Case { kernel: Kernel::FfnBwdW13, parts, wanted: [(Part::Dx, dx)].into(), raised: true }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_projections() {
        let (d, case) = (tiny(), case(&tiny()));
        let x = values(d.dim * d.s(), 5, 1.0);
        let [w1, w3] = weights(&d);
        matches_differences(&case, &d, Part::Dx, &x, |x| {
            dot(&product(&w1, x, d.dim, d.s()), &case.parts[&Part::Dh1])
                + dot(&product(&w3, x, d.dim, d.s()), &case.parts[&Part::Dh3])
        });
    }

    /// As in `kv_bwd`: the order in which the published host wrote its blocks.
    #[test]
    fn another_order_of_staging_is_caught() {
        let d = Dims { dim: 32, ..shapes().swap_remove(0) };
        let c = Choices::default();
        let swapped = |part| match part {
            Part::Dh3 => packing(&d, &c).input(Part::W1),
            Part::W1 => packing(&d, &c).input(Part::Dh3),
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
