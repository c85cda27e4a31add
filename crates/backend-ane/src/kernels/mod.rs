//! The ten programs, and two for a classifier on the device, one per file: math, table of shapes and
//! packing, program, test.
//!
//! All tensors are `[1, channels, 1, columns]` in fp16: tokens lie on the width axis. Weights are
//! inputs beside the activations, so a program is compiled once and serves every layer and step.
//! `S` is the padded sequence, `D` dim, `H` hidden, `V` a shard of the vocabulary, `Q` q_dim, `K` kv_dim, `d` head_dim, `h` heads,
//! `w` and `a` the powers of two of [`crate::Scaling`]. Residual sums, norms, weight gradients and
//! the way back through the rotation are the host's.

mod graph;

pub mod ffn_bwd_w13;
pub mod ffn_bwd_w2;
pub mod ffn_fwd;
pub mod head_bwd;
pub mod head_fwd;
pub mod kv_bwd;
pub mod q_bwd;
pub mod sdpa_bwd_qk;
pub mod sdpa_bwd_v;
pub mod sdpa_fwd;
pub mod wo_bwd;
pub mod wo_fwd;

#[cfg(test)]
mod check;

use mil::Program;

use crate::dims::Dims;
use crate::packing::Packing;
use crate::plan::Choices;

pub(crate) use graph::{Graph, power};

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident $text:literal $packing:path, $program:path;)*) => {
        /// One program of the set.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kernel {
            $($(#[$doc])* $name,)*
        }

        impl Kernel {
            /// Every program, both cuts of the feed-forward among them.
            pub const ALL: &[Kernel] = &[$(Kernel::$name),*];

            /// Its name in ledgers, errors and on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kernel::$name => $text,)*
                }
            }

            /// Where its matrices lie.
            pub fn packing(self, d: &Dims, c: &Choices) -> Packing {
                match self {
                    $(Kernel::$name => $packing(d, c),)*
                }
            }

            /// Its text and constants.
            pub fn program(self, d: &Dims, c: &Choices) -> Program {
                match self {
                    $(Kernel::$name => $program(d, c),)*
                }
            }
        }
    };
}

kernels! {
    /// Projections, rotation and causal attention.
    SdpaFwd "sdpa_fwd" sdpa_fwd::packing, sdpa_fwd::program;
    /// Output projection.
    WoFwd "wo_fwd" wo_fwd::packing, wo_fwd::program;
    /// The whole feed-forward.
    FfnFwd "ffn_fwd" ffn_fwd::packing, ffn_fwd::program;
    /// Its first half, where the whole does not fit.
    FfnGateUp "ffn_gate_up" ffn_fwd::gate_up_packing, ffn_fwd::gate_up_program;
    /// Its second half.
    FfnDown "ffn_down" ffn_fwd::down_packing, ffn_fwd::down_program;
    /// Back through the down-projection.
    FfnBwdW2 "ffn_bwd_w2" ffn_bwd_w2::packing, ffn_bwd_w2::program;
    /// Back through gate and up-projection.
    FfnBwdW13 "ffn_bwd_w13" ffn_bwd_w13::packing, ffn_bwd_w13::program;
    /// Back through the output projection.
    WoBwd "wo_bwd" wo_bwd::packing, wo_bwd::program;
    /// Gradient of the values, probabilities and their gradient.
    SdpaBwdV "sdpa_bwd_v" sdpa_bwd_v::packing, sdpa_bwd_v::program;
    /// Gradients of queries and keys.
    SdpaBwdQk "sdpa_bwd_qk" sdpa_bwd_qk::packing, sdpa_bwd_qk::program;
    /// Back through the query projection.
    QBwd "q_bwd" q_bwd::packing, q_bwd::program;
    /// Back through key and value projections.
    KvBwd "kv_bwd" kv_bwd::packing, kv_bwd::program;
    /// Logits, where the classifier runs on the device.
    HeadFwd "head_fwd" head_fwd::packing, head_fwd::program;
    /// Back through the classifier.
    HeadBwd "head_bwd" head_bwd::packing, head_bwd::program;
}

impl Kernel {
    /// The programs of the backward pass through the blocks.
    pub const BACKWARD: [Kernel; 7] = [
        Kernel::FfnBwdW2,
        Kernel::FfnBwdW13,
        Kernel::WoBwd,
        Kernel::SdpaBwdV,
        Kernel::SdpaBwdQk,
        Kernel::QBwd,
        Kernel::KvBwd,
    ];

    /// The program of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.name() == name)
    }
}
