//! Back through the output projection of attention.
//!
//! ```text
//! da = Woᵀ·dy
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | dy | D × S | | da · 2^w | Q × S |
//! | wo = 2^w · Wo | D × Q | | | |
//!
//! Packed: `dy | wo`.

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, q, s) = (d.dim, d.q_dim(), d.s());
    Packing::new(c.inputs, &[(Part::Dy, dim, s), (Part::Wo, dim, q)], &[(Part::Da, q, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let (dy, w) = (g.part(Part::Dy), g.part(Part::Wo));
    let da = g.linear("da", w, dy);
    g.finish(&[(Part::Da, da)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{
        Case, agrees, dot, matches_differences, product, shapes, tiny, transposed, values,
    };
    use super::*;
    use crate::kernels::Kernel;

    fn weight(d: &Dims) -> Vec<f64> {
        values(d.dim * d.q_dim(), 2, 0.1)
    }

    fn case(d: &Dims) -> Case {
        let (dim, q, s) = (d.dim, d.q_dim(), d.s());
        let (dy, w) = (values(dim * s, 1, 1.0), weight(d));
        let wanted = [(Part::Da, product(&transposed(&w, q), &dy, dim, s))].into();
        let parts = [(Part::Dy, dy), (Part::Wo, w)].into();
        Case { kernel: Kernel::WoBwd, parts, wanted, raised: true }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_forward() {
        let (d, case) = (tiny(), case(&tiny()));
        let attn = values(d.q_dim() * d.s(), 3, 1.0);
        matches_differences(&case, &d, Part::Da, &attn, |attn| {
            dot(&product(&weight(&d), attn, d.q_dim(), d.s()), &case.parts[&Part::Dy])
        });
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
