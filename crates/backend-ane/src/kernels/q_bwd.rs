//! Back through the query projection.
//!
//! ```text
//! dx = Wqᵀ·dq
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | dq, turned back | Q × S | | dx · 2^w | D × S |
//! | wq = 2^w · Wq | Q × D | | | |
//!
//! Packed: `dq | wq`.

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, q, s) = (d.dim, d.q_dim(), d.s());
    Packing::new(c.inputs, &[(Part::Dq, q, s), (Part::Wq, q, dim)], &[(Part::Dx, dim, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let (dq, w) = (g.part(Part::Dq), g.part(Part::Wq));
    let dx = g.linear("dx", w, dq);
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
        values(d.dim * d.q_dim(), 2, 0.1)
    }

    fn case(d: &Dims) -> Case {
        let (dim, q, s) = (d.dim, d.q_dim(), d.s());
        let (dq, w) = (values(q * s, 1, 1.0), weight(d));
        let wanted = [(Part::Dx, product(&transposed(&w, dim), &dq, q, s))].into();
        let parts = [(Part::Dq, dq), (Part::Wq, w)].into();
        Case { kernel: Kernel::QBwd, parts, wanted, raised: true }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn is_the_gradient_of_the_projection() {
        let (d, case) = (tiny(), case(&tiny()));
        let x = values(d.dim * d.s(), 3, 1.0);
        matches_differences(&case, &d, Part::Dx, &x, |x| {
            dot(&product(&weight(&d), x, d.dim, d.s()), &case.parts[&Part::Dq])
        });
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
