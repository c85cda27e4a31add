//! How gradients become new weights.

use model::Group;

/// One update of all parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Which update of the run this is, from 1: AdamW's bias correction needs it.
    pub step: u64,
    /// Factor on the summed gradients: 1 over the number of micro-batches (and the loss scale).
    pub grad_scale: f32,
    /// Largest norm of the whole gradient; larger ones are scaled down to it.
    pub clip: Option<f32>,
    /// The rule of each group of parameters.
    pub rules: Rules,
}

impl Update {
    /// The factor on the summed gradients when their scaled norm is `norm`.
    pub fn factor(&self, norm: f32) -> f32 {
        // The 1e-6 is PyTorch's, so that both clip alike.
        let clip = self.clip.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.grad_scale * clip
    }
}

/// The rule of each group of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Token embedding (and the head when tied).
    pub embedding: Rule,
    /// Output head of its own.
    pub head: Rule,
    /// Weight matrices inside the blocks.
    pub matrix: Rule,
    /// Gains of norms.
    pub gain: Rule,
    /// Biases.
    pub bias: Rule,
}

impl Rules {
    /// The rule of a group.
    pub fn of(&self, group: Group) -> Rule {
        match group {
            Group::Embedding => self.embedding,
            Group::Head => self.head,
            Group::Matrix => self.matrix,
            Group::Gain => self.gain,
            Group::Bias => self.bias,
        }
    }
}

/// How one parameter moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Both moments in use.
    AdamW(AdamW),
    /// For matrices; the first moment is its momentum.
    Muon(Muon),
}

/// Adam with decoupled weight decay. Source: Loshchilov & Hutter 2019, arXiv:1711.05101.
///
/// ```text
/// m = β₁·m + (1−β₁)·g        v = β₂·v + (1−β₂)·g²
/// w = w·(1 − lr·decay) − lr · (m / (1−β₁ᵗ)) / (√(v / (1−β₂ᵗ)) + ε)
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay per unit of learning rate.
    pub weight_decay: f32,
}

/// Momentum made orthogonal, for matrices. Source: Jordan et al. 2024,
/// <https://kellerjordan.github.io/posts/muon/>.
///
/// ```text
/// m = μ·m + g        u = g + μ·m
/// O = NewtonSchulz(u), five steps of X ← a·X + (b·A + c·A²)·X with A = X·Xᵀ, X₀ = u/‖u‖
/// w = w·(1 − lr·decay) − lr · √max(1, rows/columns) · O
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the momentum.
    pub momentum: f32,
    /// Weight decay per unit of learning rate.
    pub weight_decay: f32,
}

impl Muon {
    /// Steps of the Newton–Schulz iteration.
    pub const STEPS: usize = 5;
    /// Its coefficients `a, b, c`: chosen by the authors for a steep slope at zero.
    pub const COEFFICIENTS: (f32, f32, f32) = (3.4445, -4.7750, 2.0315);
    /// Added to the norm before the first step, so that a zero gradient stays zero.
    pub const EPS: f32 = 1e-7;
}

impl Rule {
    /// The same rule at another learning rate.
    pub fn with_lr(self, lr: f32) -> Self {
        match self {
            Rule::AdamW(rule) => Rule::AdamW(AdamW { lr, ..rule }),
            Rule::Muon(rule) => Rule::Muon(Muon { lr, ..rule }),
        }
    }
}
