//! Classifier: the logits of a part of the vocabulary.
//!
//! ```text
//! logits = Wh·x
//! ```
//!
//! | input | shape | | output | shape |
//! |---|---|---|---|---|
//! | x | D × S | | logits | V × S |
//! | wh = 2^w · Whᵀ | D × V | | | |
//!
//! Packed: `x | wh`. The last shard may have fewer tokens than `V`: the rest is zero.

use mil::Program;

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where its matrices lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, v, s) = (d.dim, d.vocab, d.s());
    Packing::new(c.inputs, &[(Part::X, dim, s), (Part::Wh, dim, v)], &[(Part::Logits, v, s)])
}

/// The program.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let (x, w) = (g.part(Part::X), g.part(Part::Wh));
    let y = g.linear("logits", w, x);
    let y = g.unscale_weight("logits", y);
    g.finish(&[(Part::Logits, y)])
}

#[cfg(test)]
mod tests {
    use super::super::check::{Case, agrees, product, shapes, transposed, values};
    use super::*;
    use crate::kernels::Kernel;

    fn case(d: &Dims) -> Case {
        let (dim, v, s) = (d.dim, d.vocab, d.s());
        let (x, w) = (values(dim * s, 1, 1.0), values(v * dim, 2, 0.1));
        let wanted = [(Part::Logits, product(&w, &x, dim, s))].into();
        let parts = [(Part::X, x), (Part::Wh, transposed(&w, dim))].into();
        Case { kernel: Kernel::HeadFwd, parts, wanted, raised: false }
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
