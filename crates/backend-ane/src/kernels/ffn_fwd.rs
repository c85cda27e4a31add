//! The feed-forward.
//!
//! ```text
//! h1 = W1·x        h3 = W3·x        gated = silu(h1) ⊙ h3        y = W2·gated
//! ```
//!
//! | program | input | shape | | output | shape |
//! |---|---|---|---|---|---|
//! | ffn_fwd | x | D × S | | y | D × S |
//! | | w1 = 2^w · W1ᵀ | D × H | | h1 | H × S |
//! | | w3 = 2^w · W3ᵀ | D × H | | h3 | H × S |
//! | | w2 = 2^w · W2 | D × H | | | |
//! | ffn_gate_up | x, w1, w3 | as above | | h1, h3, gated | H × S |
//! | ffn_down | gated | H × S | | y | D × S |
//! | | w2 = 2^w · W2ᵀ | H × D | | | |
//!
//! Packed: `x | w1 | w3 | w2`, `S + 3H` wide; the two halves are `S + 2H` and `S + D` wide, for hidden
//! sizes that go beyond the chip's width. A shard has a part of H; the host adds the shards' `y`.

use mil::{Program, ValueId};

use super::Graph;
use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::Choices;

/// Where the matrices of the whole lie.
pub fn packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, h, s) = (d.dim, d.hidden, d.s());
    let inputs = [(Part::X, dim, s), (Part::W1, dim, h), (Part::W3, dim, h), (Part::W2, dim, h)];
    Packing::new(c.inputs, &inputs, &[(Part::Y, dim, s), (Part::H1, h, s), (Part::H3, h, s)])
}

/// The whole.
pub fn program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, packing(d, c));
    let [h1, h3, gated] = gate(&mut g);
    let w2 = g.part(Part::W2);
    let y = g.linear_rows("y", w2, gated);
    let y = g.unscale_weight("y", y);
    g.finish(&[(Part::Y, y), (Part::H1, h1), (Part::H3, h3)])
}

/// Where the matrices of the first half lie.
pub fn gate_up_packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, h, s) = (d.dim, d.hidden, d.s());
    let outputs = [(Part::H1, h, s), (Part::H3, h, s), (Part::Gated, h, s)];
    Packing::new(c.inputs, &[(Part::X, dim, s), (Part::W1, dim, h), (Part::W3, dim, h)], &outputs)
}

/// The first half.
pub fn gate_up_program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, gate_up_packing(d, c));
    let [h1, h3, gated] = gate(&mut g);
    g.finish(&[(Part::H1, h1), (Part::H3, h3), (Part::Gated, gated)])
}

/// Where the matrices of the second half lie.
pub fn down_packing(d: &Dims, c: &Choices) -> Packing {
    let (dim, h, s) = (d.dim, d.hidden, d.s());
    Packing::new(c.inputs, &[(Part::Gated, h, s), (Part::W2, h, dim)], &[(Part::Y, dim, s)])
}

/// The second half.
pub fn down_program(d: &Dims, c: &Choices) -> Program {
    let mut g = Graph::new(d, c, down_packing(d, c));
    let (gated, w2) = (g.part(Part::Gated), g.part(Part::W2));
    let y = g.linear("y", w2, gated);
    let y = g.unscale_weight("y", y);
    g.finish(&[(Part::Y, y)])
}

fn gate(g: &mut Graph<'_>) -> [ValueId; 3] {
    let x = g.part(Part::X);
    let mut project = |part, name: &str| {
        let w = g.part(part);
        let y = g.linear(name, w, x);
        g.unscale_weight(name, y)
    };
    let (h1, h3) = (project(Part::W1, "h1"), project(Part::W3, "h3"));
    let sigmoid = g.b.sigmoid(h1);
    let silu = g.b.named("silu").mul(h1, sigmoid);
    let gated = g.b.named("gated").mul(silu, h3);
    [h1, h3, gated]
}

#[cfg(test)]
mod tests {
    use backend::reference::swiglu;

    use super::super::check::{Case, agrees, product, shapes, transposed, values};
    use super::*;
    use crate::kernels::Kernel;

    fn case(d: &Dims, kernel: Kernel) -> Case {
        let (dim, h, s) = (d.dim, d.hidden, d.s());
        let (x, [w1, w3]) = (values(dim * s, 1, 2.0), [2, 3].map(|seed| values(h * dim, seed, 0.3)));
        let w2 = values(dim * h, 4, 0.1);
        let (h1, h3) = (product(&w1, &x, dim, s), product(&w3, &x, dim, s));
        let gated = swiglu::forward(&h1, &h3);
        let y = product(&w2, &gated, h, s);
        let gate = [(Part::X, x), (Part::W1, transposed(&w1, dim)), (Part::W3, transposed(&w3, dim))];
        let (parts, wanted) = match kernel {
            Kernel::FfnDown => {
                ([(Part::Gated, gated), (Part::W2, transposed(&w2, h))].into(), [(Part::Y, y)].into())
            }
            Kernel::FfnGateUp => (gate.into(), [(Part::H1, h1), (Part::H3, h3), (Part::Gated, gated)].into()),
            _ => (
                gate.into_iter().chain([(Part::W2, w2)]).collect(),
                [(Part::Y, y), (Part::H1, h1), (Part::H3, h3)].into(),
            ),
        };
        Case { kernel, parts, wanted, raised: false }
    }

    #[test]
    fn agrees_with_the_reference() {
        for kernel in [Kernel::FfnFwd, Kernel::FfnGateUp, Kernel::FfnDown] {
            agrees(|d| case(d, kernel));
        }
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(program(&shapes()[0], &Choices::default()));
    }

    #[test]
    fn text_of_the_halves() {
        insta::assert_snapshot!(gate_up_program(&shapes()[0], &Choices::default()));
        insta::assert_snapshot!(down_program(&shapes()[0], &Choices::default()));
    }
}
