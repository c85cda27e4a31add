//! Output projection of attention.
//!
//! ```text
//! y = Wo·attn
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | attn | Q × S | | y | D × S |
//! | wo = 2^w · Woᵀ | Q × D | | | |
//!
//! Packed: `attn | wo`. The residual sum is the host's, in f32.

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, q, s) = (d.dim, d.q_dim(), d.s());
    Packing::new(c.inputs, &[(Part::Attn, q, s), (Part::Wo, q, dim)], &[(Part::Y, dim, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let (attn, w) = (g.part(Part::Attn), g.part(Part::Wo));
    let y = g.linear("y", w, attn);
    let y = g.unscale_weight("y", y);
    g.finish(&[(Part::Y, y)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{Case, agrees, product, shapes, transposed, values};
    use super::*;
    use crate::kernels::Kernel;

    fn case(d: &Dims) -> Case {
        let (dim, q, s) = (d.dim, d.q_dim(), d.s());
        let (attn, w) = (values(q * s, 1, 1.0), values(dim * q, 2, 0.1));
        let wanted = [(Part::Y, product(&w, &attn, q, s))].into();
        let parts = [(Part::Attn, attn), (Part::Wo, transposed(&w, q))].into();
        Case { kernel: Kernel::WoFwd, parts, wanted, raised: false }
    }

    #[test]
    fn agrees_with_the_reference() {
        agrees(case);
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }
}
