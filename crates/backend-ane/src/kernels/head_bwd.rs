//! Back through the classifier, for a part of the vocabulary.
//!
//! ```text
//! dx = Whᵀ·dlogits
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | dlogits | V × S | | dx · 2^w, a summand of it | D × S |
//! | wh = 2^w · Wh | V × D | | | |
//!
//! Packed: `dlogits | wh`. The last shard may have fewer tokens than `V`: the rest is zero.

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, v, s) = (d.dim, d.vocab, d.s());
    Packing::new(c.inputs, &[(Part::DLogits, v, s), (Part::Wh, v, dim)], &[(Part::Dx, dim, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let (dlogits, w) = (g.part(Part::DLogits), g.part(Part::Wh));
    let dx = g.linear("dx", w, dlogits);
    g.finish(&[(Part::Dx, dx)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{
        Case, agrees, dot, matches_differences, product, shapes, tiny, transposed, values,
    };
    use super::*;
    use crate::kernels::Kernel;

    fn weight(d: &Dims) -> Vec<f64> {
        values(d.dim * d.vocab, 2, 0.1)
    }

    fn case(d: &Dims) -> Case {
        let (dim, v, s) = (d.dim, d.vocab, d.s());
        let (dlogits, w) = (values(v * s, 1, 1.0), weight(d));
        let wanted = [(Part::Dx, product(&transposed(&w, dim), &dlogits, v, s))].into();
        let parts = [(Part::DLogits, dlogits), (Part::Wh, w)].into();
        Case { kernel: Kernel::HeadBwd, parts, wanted, raised: true }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_logits() {
        let (d, case) = (tiny(), case(&tiny()));
        let x = values(d.dim * d.s(), 3, 1.0);
        matches_differences(&case, &d, Part::Dx, &x, |x| {
            dot(&product(&weight(&d), x, d.dim, d.s()), &case.parts[&Part::DLogits])
        });
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
