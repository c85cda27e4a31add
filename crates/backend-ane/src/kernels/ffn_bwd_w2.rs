//! Back through the down-projection.
//!
//! ```text
//! dgated = W2ᵀ·dy
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | dy | D × S | | dgated · 2^w | H × S |
//! | w2 = 2^w · W2 | D × H | | | |
//!
//! Packed: `dy | w2`. The host goes through the gate in f32 and takes the power of two away.

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, h, s) = (d.dim, d.hidden, d.s());
    Packing::new(c.inputs, &[(Part::Dy, dim, s), (Part::W2, dim, h)], &[(Part::DGated, h, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let (dy, w) = (g.part(Part::Dy), g.part(Part::W2));
    let dgated = g.linear("dgated", w, dy);
    g.finish(&[(Part::DGated, dgated)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{
        Case, agrees, dot, matches_differences, product, shapes, tiny, transposed, values,
    };
    use super::*;
    use crate::kernels::Kernel;

    fn weight(d: &Dims) -> Vec<f64> {
        values(d.dim * d.hidden, 2, 0.1)
    }

    fn case(d: &Dims) -> Case {
        let (dim, h, s) = (d.dim, d.hidden, d.s());
        let (dy, w) = (values(dim * s, 1, 1.0), weight(d));
        let wanted = [(Part::DGated, product(&transposed(&w, h), &dy, dim, s))].into();
        let parts = [(Part::Dy, dy), (Part::W2, w)].into();
        Case { kernel: Kernel::FfnBwdW2, parts, wanted, raised: true }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_forward() {
        let (d, case) = (tiny(), case(&tiny()));
        let gated = values(d.hidden * d.s(), 3, 1.0);
        matches_differences(&case, &d, Part::DGated, &gated, |gated| {
            dot(&product(&weight(&d), gated, d.hidden, d.s()), &case.parts[&Part::Dy])
        });
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
