//! Where each matrix lies in the surfaces of a program.
//!
//! A surface `[1, channels, 1, width]` holds one or more blocks side by side on the width axis;
//! element `(c, j)` of a block is at column `offset + j` of row `c`. The program slices by this
//! description and the host writes by it, so both cannot disagree on the order.
//! Source of the layout: maderix/ANE, training_dynamic; the fault it rules out: docs/kernels.md.

use std::ops::Range;

use ane_bridge::{Layout, Region};

use crate::plan::Inputs;

/// A matrix that goes into or comes out of a program, always `[channels, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Normalised input of a block, `[dim, seq]`.
    X,
    /// Query projection.
    Wq,
    /// Key projection.
    Wk,
    /// Value projection.
    Wv,
    /// Biases of queries, keys and values in one column, `[q_dim + 2·kv_dim, 1]`.
    Bias,
    /// Gains of the query and of the key norm in two columns, `[head_dim, 2]`.
    Gains,
    /// Output of the heads, `[q_dim, seq]`.
    Attn,
    /// Queries, rotated, `[q_dim, seq]`.
    Q,
    /// Keys, rotated, `[kv_dim, seq]`.
    K,
    /// Values, `[kv_dim, seq]`.
    V,
    /// Queries before their norm.
    QRaw,
    /// Keys before their norm.
    KRaw,
    /// Output projection.
    Wo,
    /// Gate of the feed-forward.
    W1,
    /// Up-projection of the feed-forward.
    W3,
    /// Down-projection of the feed-forward.
    W2,
    /// Classifier, of a shard of the vocabulary.
    Wh,
    /// `Wh·x`, `[vocab, seq]`.
    Logits,
    /// ∂loss/∂ of [`Part::Logits`].
    DLogits,
    /// `W1·x`, `[hidden, seq]`.
    H1,
    /// `W3·x`, `[hidden, seq]`.
    H3,
    /// `silu(h1) ⊙ h3`, `[hidden, seq]`.
    Gated,
    /// Output of a block before the residual sum, `[dim, seq]`.
    Y,
    /// ∂loss/∂ of the output of a block.
    Dy,
    /// ∂loss/∂ of [`Part::Gated`].
    DGated,
    /// ∂loss/∂ of [`Part::H1`].
    Dh1,
    /// ∂loss/∂ of [`Part::H3`].
    Dh3,
    /// ∂loss/∂ of [`Part::Attn`].
    Da,
    /// Probabilities, `[heads·seq, seq]`: row `head·seq + query`, column key.
    P,
    /// ∂loss/∂ of [`Part::P`].
    Dp,
    /// ∂loss/∂ of the queries.
    Dq,
    /// ∂loss/∂ of the keys.
    Dk,
    /// ∂loss/∂ of [`Part::V`].
    Dv,
    /// ∂loss/∂ of [`Part::X`], or a summand of it.
    Dx,
}

impl Part {
    /// Its name in the programs.
    pub fn name(self) -> &'static str {
        match self {
            Part::X => "x",
            Part::Wq => "wq",
            Part::Wk => "wk",
            Part::Wv => "wv",
            Part::Bias => "bias",
            Part::Gains => "gains",
            Part::Attn => "attn",
            Part::Q => "q",
            Part::K => "k",
            Part::V => "v",
            Part::QRaw => "q_raw",
            Part::KRaw => "k_raw",
            Part::Wo => "wo",
            Part::W1 => "w1",
            Part::W3 => "w3",
            Part::W2 => "w2",
            Part::Wh => "wh",
            Part::Logits => "logits",
            Part::DLogits => "dlogits",
            Part::H1 => "h1",
            Part::H3 => "h3",
            Part::Gated => "gated",
            Part::Y => "y",
            Part::Dy => "dy",
            Part::DGated => "dgated",
            Part::Dh1 => "dh1",
            Part::Dh3 => "dh3",
            Part::Da => "da",
            Part::P => "p",
            Part::Dp => "dp",
            Part::Dq => "dq",
            Part::Dk => "dk",
            Part::Dv => "dv",
            Part::Dx => "dx",
        }
    }
}

/// A matrix inside a surface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Which one.
    pub part: Part,
    /// Its columns.
    pub columns: Range<usize>,
}

/// One input or output of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the program; names sort in the order of the ports, as the ANE binds them.
    pub name: String,
    /// Rows.
    pub channels: usize,
    /// Columns, padded to whole 64-byte lines.
    pub width: usize,
    /// What lies in it.
    pub blocks: Vec<Block>,
}

impl Port {
    /// The surface that it takes.
    pub fn layout(&self) -> Layout {
        Layout::fp16(self.channels, self.width)
    }
}

/// Where a part lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into the inputs or outputs.
    pub port: usize,
    /// Its rows and columns there.
    pub region: Region,
}

/// The inputs and outputs of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Inputs in binding order.
    pub inputs: Vec<Port>,
    /// Outputs in binding order, one part each.
    pub outputs: Vec<Port>,
}

/// A part with its extents.
pub(crate) type Sized = (Part, usize, usize);

impl Packing {
    /// Places `inputs`; [`Inputs::Packed`] puts neighbours of equal channels into one surface.
    pub(crate) fn new(how: Inputs, inputs: &[Sized], outputs: &[Sized]) -> Self {
        let mut groups: Vec<Vec<Sized>> = Vec::new();
        for &part in inputs {
            match groups.last_mut() {
                Some(group) if how == Inputs::Packed && group[0].1 == part.1 => group.push(part),
                _ => groups.push(vec![part]),
            }
        }
        let inputs = groups.iter().enumerate().map(|(i, group)| port('i', i, group)).collect();
        let outputs = outputs.iter().enumerate().map(|(i, part)| port('o', i, &[*part])).collect();
        Self { inputs, outputs }
    }

    /// Where an input lies.
    ///
    /// # Panics
    /// When the program has no such input: each caller knows its kernel.
    pub fn input(&self, part: Part) -> Place {
        find(&self.inputs, part).unwrap_or_else(|| panic!("no input holds {part:?}"))
    }

    /// Where an output lies.
    ///
    /// # Panics
    /// When the program has no such output: each caller knows its kernel.
    pub fn output(&self, part: Part) -> Place {
        find(&self.outputs, part).unwrap_or_else(|| panic!("no output holds {part:?}"))
    }
}

fn find(ports: &[Port], part: Part) -> Option<Place> {
    ports.iter().enumerate().find_map(|(i, port)| {
        let block = port.blocks.iter().find(|b| b.part == part)?;
        Some(Place { port: i, region: Region::new(0..port.channels, block.columns.clone()) })
    })
}

fn port(side: char, number: usize, parts: &[Sized]) -> Port {
    let mut end = 0;
    let blocks = parts.iter().map(|&(part, _, columns)| {
        let start = end;
        end += columns;
        Block { part, columns: start..end }
    });
    let blocks: Vec<_> = blocks.collect();
    let what = match parts {
        [(part, ..)] => part.name(),
        _ => "packed",
    };
    Port {
        name: format!("{side}{number:02}_{what}"),
        channels: parts[0].1,
        width: end.next_multiple_of(crate::SeqLen::STEP),
        blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_equal_channels_side_by_side() {
        let parts = [(Part::X, 8, 32), (Part::Wq, 8, 24), (Part::Wk, 8, 3), (Part::Bias, 30, 1)];
        let packed = Packing::new(Inputs::Packed, &parts, &[(Part::Q, 24, 32)]);
        assert_eq!(packed.inputs.len(), 2);
        assert_eq!((packed.inputs[0].name.as_str(), packed.inputs[0].width), ("i00_packed", 64));
        assert_eq!(packed.input(Part::Wk).region, Region::new(0..8, 56..59));
        assert_eq!(packed.input(Part::Bias).port, 1);
        let separate = Packing::new(Inputs::Separate, &parts, &[(Part::Q, 24, 32)]);
        assert_eq!(separate.inputs.iter().map(|p| p.width).collect::<Vec<_>>(), [32, 32, 32, 32]);
        assert_eq!(separate.input(Part::Wk), Place { port: 2, region: Region::new(0..8, 0..3) });
        assert_eq!(separate.outputs[0].name, "o00_q");
    }
}
