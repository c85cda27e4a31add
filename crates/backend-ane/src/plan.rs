//! Choices, as data.

use backend_cpu::Isa;
use mil::verify::Limits;
use model::ModelConfig;

use crate::dims::Dims;
use crate::kernels::Kernel;

/// The operation of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linear {
    /// `matmul` of two computed operands.
    Matmul,
    /// A 1×1 convolution whose weight is computed; on hardware 25 to 47 % slower than `matmul`
    /// (ncdrone/rustane), kept because chips differ.
    Conv,
}

/// How a program gets its activations and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Side by side in one surface, as far as their channels agree.
    Packed,
    /// Each in a surface of its own.
    Separate,
}

/// How the feed-forward block is cut into programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ffn {
    /// `W2·(silu(W1·x) ⊙ W3·x)` in one program.
    Fused,
    /// Gate and up in one program, down in another: hidden sizes that do not fit one.
    Split,
}

/// Where the classifier runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classifier {
    /// On the CPU, in f32.
    Host,
    /// On the device, by shards of the vocabulary; its weight gradient stays on the CPU.
    Device,
}

/// Powers of two that keep operands away from the ANE's product grid of 2⁻¹⁶: products below it
/// vanish, so operands go up by a power of two and results come down by it, which rounds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// Weights are staged times `2^weight`. Results beyond ±32768 / 2^weight overflow.
    pub weight: i32,
    /// Operands that meet probabilities or their gradients go up by `2^attention` inside the program.
    pub attention: i32,
    /// Gradients are staged so that their largest magnitude lies in `[2^gradient, 2^(gradient+1))`;
    /// `None` stages them as they are. Every dispatch chooses anew from what it stages, so there is
    /// no state to save; one whose result overflows runs again with a smaller power.
    pub gradient: Option<i32>,
}

impl Scaling {
    /// Every operand as it is.
    pub const OFF: Self = Self { weight: 0, attention: 0, gradient: None };
}

impl Default for Scaling {
    /// Weights times 16, attention times 16, gradients up to 64: with weights of deviation 0.02 the
    /// typical product is then above 2⁻⁶, and activations may reach 2048.
    fn default() -> Self {
        Self { weight: 4, attention: 4, gradient: Some(6) }
    }
}

/// What decides the text of a program, beside its extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Operation of linear layers.
    pub linear: Linear,
    /// Surfaces of inputs.
    pub inputs: Inputs,
    /// Powers of two.
    pub scaling: Scaling,
}

impl Default for Choices {
    fn default() -> Self {
        Self { linear: Linear::Matmul, inputs: Inputs::Packed, scaling: Scaling::default() }
    }
}

/// How an ANE backend is to run a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Longest sequence; shorter ones are padded to it, because programs have fixed extents.
    pub seq: usize,
    /// Most sequences of a micro-batch.
    pub sequences: usize,
    /// Choices inside the programs.
    pub choices: Choices,
    /// Fused or split feed-forward.
    pub ffn: Ffn,
    /// Parts that the heads are cut into; divides the key heads.
    pub head_shards: usize,
    /// Parts that the feed-forward channels are cut into; divides them.
    pub ffn_shards: usize,
    /// Where the classifier runs.
    pub classifier: Classifier,
    /// Parts that the vocabulary is cut into, where the classifier runs on the device.
    pub vocab_shards: usize,
    /// Threads of the work that stays on the CPU. No result depends on it.
    pub threads: usize,
    /// Vector instructions of the work on the CPU.
    pub isa: Isa,
    /// When executables are made anew.
    pub care: Care,
}

/// Care for long runs: throughput of some chips decays with the dispatches of an executable
/// (ncdrone/rustane, pull request 12), until it is compiled again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Care {
    /// Steps whose mean dispatch time is the normal one.
    pub warm: u32,
    /// A step this many times slower than normal counts as slow.
    pub factor: f64,
    /// Slow steps in a row after which the executables are made anew.
    pub patience: u32,
    /// Compiles that are left alone: below, the run should save and restart the process.
    pub reserve: u32,
}

impl Default for Care {
    fn default() -> Self {
        Self { warm: 5, factor: 1.5, patience: 3, reserve: 15 }
    }
}

/// Most tokens of a shard of the vocabulary: they are input channels on the way back.
/// Source: docs/ane-rules.md, `wide-conv`.
const MAX_VOCAB: usize = 16_384;

/// Why a plan does not go with a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PlanError {
    #[error("{field} = {got} does not divide {what} = {of}; use {wanted}")]
    Shards { field: &'static str, got: usize, what: &'static str, of: usize, wanted: usize },
    #[error("vocab_shards = {got}, wanted 1 to {max}, the tokens of the vocabulary")]
    VocabShards { got: usize, max: usize },
    #[error(
        "the plan is for sequences of {seq} tokens, but the model has {max} positions; use at most {max}"
    )]
    Sequence { seq: usize, max: usize },
    #[error(
        "the probabilities of {heads} heads at {seq} tokens take {got} channels, and the chip takes {max}; \
         use shorter sequences"
    )]
    Channels { heads: usize, seq: usize, got: usize, max: usize },
    #[error(
        "`{kernel}` would be {got} wide, and the chip takes {max}, in every cut of this model; \
         use shorter sequences or another chip"
    )]
    Width { kernel: &'static str, got: usize, max: usize },
}

impl Plan {
    /// A plan for micro-batches of `sequences` sequences of `seq` tokens: everything packed and fused,
    /// on every core.
    pub fn new(seq: usize, sequences: usize) -> Self {
        Self {
            seq,
            sequences: sequences.max(1),
            choices: Choices::default(),
            ffn: Ffn::Fused,
            head_shards: 1,
            ffn_shards: 1,
            classifier: Classifier::Host,
            vocab_shards: 1,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            isa: Isa::detect(),
            care: Care::default(),
        }
    }

    /// The plan of the host, which keeps nothing of the blocks and has no products of their weights.
    pub(crate) fn on_host(&self) -> backend_cpu::Plan {
        let tokens = self.seq.max(1).saturating_mul(self.sequences);
        let plan = backend_cpu::Plan::new(tokens).with_threads(self.threads).with_recompute(true);
        backend_cpu::Plan { isa: self.isa, by_rows: true, ..plan }
    }

    /// The same for a model on a chip, with the extents of a block.
    ///
    /// # Errors
    /// [`PlanError::Sequence`], those of [`Plan::check`] and of [`Plan::fit`].
    pub fn of_model(self, config: &ModelConfig, limits: &Limits) -> Result<(Self, Dims), PlanError> {
        if self.seq > config.max_seq {
            return Err(PlanError::Sequence { seq: self.seq, max: config.max_seq });
        }
        let dims = Dims::new(config, self.seq);
        self.check(&dims)?;
        Ok((self.fit(&dims, limits)?, dims))
    }

    /// The same with the least cut that the chip takes: shards of the heads as their probabilities need
    /// them; of the feed-forward, separate inputs before a split of it before shards of it.
    ///
    /// # Errors
    /// [`PlanError::Channels`], [`PlanError::Width`] when no cut fits.
    pub fn fit(mut self, dims: &Dims, limits: &Limits) -> Result<Self, PlanError> {
        let rows = |shards: usize| dims.heads / shards * dims.s();
        let fits = |n: &usize| dims.kv_heads.is_multiple_of(*n) && rows(*n) <= limits.channels;
        self.head_shards = (self.head_shards..=dims.kv_heads).find(fits).ok_or(PlanError::Channels {
            heads: dims.group(),
            seq: dims.s(),
            got: rows(dims.kv_heads),
            max: limits.channels,
        })?;
        // The packed programs hold a sequence beside the shard's columns.
        let vocab = limits.spatial.saturating_sub(dims.s()).clamp(1, MAX_VOCAB);
        let shards = self.vocab_shards.max(dims.vocab.div_ceil(vocab));
        // Shards are equal but for the last, so some may be left without a part.
        self.vocab_shards = dims.vocab.div_ceil(dims.vocab.div_ceil(shards));
        let shards: Vec<_> =
            (self.ffn_shards..=dims.hidden).filter(|n| dims.hidden.is_multiple_of(*n)).collect();
        let start = (self.choices.inputs, self.ffn);
        let mut worst = None;
        for ffn_shards in shards {
            for (inputs, ffn) in
                [start, (Inputs::Separate, start.1), (start.0, Ffn::Split), (Inputs::Separate, Ffn::Split)]
            {
                self.ffn_shards = ffn_shards;
                (self.choices.inputs, self.ffn) = (inputs, ffn);
                match self.too_wide(dims, limits) {
                    None => return Ok(self),
                    Some(error) => worst = Some(error),
                }
            }
        }
        Err(worst.unwrap_or(PlanError::Width { kernel: "ffn_fwd", got: 0, max: limits.spatial }))
    }

    fn too_wide(&self, dims: &Dims, limits: &Limits) -> Option<PlanError> {
        self.kernels().into_iter().find_map(|kernel| {
            let packing = kernel.packing(&self.dims(dims, kernel), &self.choices);
            let ports = packing.inputs.iter().chain(&packing.outputs);
            let got = ports.map(|p| p.width).max().unwrap_or(0);
            (got > limits.spatial).then(|| PlanError::Width {
                kernel: kernel.name(),
                got,
                max: limits.spatial,
            })
        })
    }

    /// Checks the plan against a block's extents.
    ///
    /// # Errors
    /// [`PlanError::Shards`], [`PlanError::VocabShards`].
    pub fn check(&self, dims: &Dims) -> Result<(), PlanError> {
        let cuts = [
            ("head_shards", self.head_shards, "kv_heads", dims.kv_heads),
            ("ffn_shards", self.ffn_shards, "hidden", dims.hidden),
        ];
        if !(1..=dims.vocab).contains(&self.vocab_shards) {
            return Err(PlanError::VocabShards { got: self.vocab_shards, max: dims.vocab });
        }
        for (field, got, what, of) in cuts {
            if got == 0 || !of.is_multiple_of(got) {
                let wanted = (1..=got.clamp(1, of)).rev().find(|n| of.is_multiple_of(*n)).unwrap_or(1);
                return Err(PlanError::Shards { field, got, what, of, wanted });
            }
        }
        Ok(())
    }

    /// The programs of the plan: the ten, one more with a split feed-forward, two more with the
    /// classifier.
    pub fn kernels(&self) -> Vec<Kernel> {
        let ffn: &[Kernel] = match self.ffn {
            Ffn::Fused => &[Kernel::FfnFwd],
            Ffn::Split => &[Kernel::FfnGateUp, Kernel::FfnDown],
        };
        let head: &[Kernel] = match self.classifier {
            Classifier::Host => &[],
            Classifier::Device => &[Kernel::HeadFwd, Kernel::HeadBwd],
        };
        [&[Kernel::SdpaFwd, Kernel::WoFwd], ffn, &Kernel::BACKWARD, head].concat()
    }

    /// The extents of one program: those of the block, or of a shard.
    pub fn dims(&self, block: &Dims, kernel: Kernel) -> Dims {
        match kernel {
            Kernel::SdpaFwd | Kernel::SdpaBwdV | Kernel::SdpaBwdQk => block.head_shard(self.head_shards),
            Kernel::FfnFwd | Kernel::FfnGateUp | Kernel::FfnDown | Kernel::FfnBwdW2 | Kernel::FfnBwdW13 => {
                block.ffn_shard(self.ffn_shards)
            }
            Kernel::HeadFwd | Kernel::HeadBwd => block.vocab_shard(self.vocab_shards),
            Kernel::WoFwd | Kernel::WoBwd | Kernel::QBwd | Kernel::KvBwd => block.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use mil::verify::Family;
    use mil::{Target, verify};

    use super::*;

    fn llama(dim: usize, hidden: usize, heads: usize) -> ModelConfig {
        ModelConfig { dim, hidden, heads, kv_heads: heads, head_dim: dim / heads, ..ModelConfig::default() }
    }

    fn fitted(config: &ModelConfig, seq: usize, family: Family) -> Result<(Plan, Dims), PlanError> {
        let dims = Dims::new(config, seq);
        Ok((Plan::new(seq, 1).fit(&dims, &Target::new(family).limits())?, dims))
    }

    #[test]
    fn cuts_only_what_the_chip_refuses() {
        let cuts = |hidden, family| {
            let (plan, _) = fitted(&llama(1024, hidden, 8), 512, family).unwrap();
            (plan.choices.inputs, plan.ffn, plan.ffn_shards)
        };
        assert_eq!(cuts(4096, Family::M3), (Inputs::Packed, Ffn::Fused, 1));
        assert_eq!(cuts(8192, Family::M3), (Inputs::Separate, Ffn::Fused, 1));
        assert_eq!(cuts(8192, Family::M4), (Inputs::Packed, Ffn::Fused, 1));
        assert_eq!(cuts(20480, Family::M3), (Inputs::Separate, Ffn::Fused, 2));
    }

    #[test]
    fn shards_heads_whose_probabilities_are_too_many() {
        let (plan, _) = fitted(&llama(2048, 4096, 32), 4096, Family::M5).unwrap();
        assert_eq!(plan.head_shards, 2);
        let one_group = ModelConfig { kv_heads: 1, ..llama(2048, 4096, 32) };
        assert!(matches!(
            fitted(&one_group, 4096, Family::M5),
            Err(PlanError::Channels { got: 131_072, .. })
        ));
    }

    #[test]
    fn no_shard_of_the_vocabulary_is_empty() {
        for (vocab, asked, wanted) in [(10, 6, 5), (10, 3, 3), (27, 27, 27), (16_384, 1, 1), (16_385, 1, 2)] {
            let dims = Dims::new(&ModelConfig { vocab, ..llama(64, 96, 2) }, 32);
            let plan = Plan { vocab_shards: asked, ..Plan::new(32, 1) };
            let plan = plan.fit(&dims, &Target::new(Family::M5).limits()).unwrap();
            assert_eq!(plan.vocab_shards, wanted, "{vocab} in {asked}");
        }
    }

    #[test]
    fn says_which_shards_divide() {
        let dims = Dims::new(&llama(64, 96, 6), 32);
        let error = Plan { ffn_shards: 7, ..Plan::new(32, 1) }.check(&dims).unwrap_err();
        assert_eq!(error.to_string(), "ffn_shards = 7 does not divide hidden = 96; use 6");
        let error = Plan { head_shards: 0, ..Plan::new(32, 1) }.check(&dims).unwrap_err();
        assert!(error.to_string().ends_with("use 1"), "{error}");
        let error = Plan { vocab_shards: 0, ..Plan::new(32, 1) }.check(&dims).unwrap_err();
        let wanted = format!("vocab_shards = 0, wanted 1 to {}, the tokens of the vocabulary", dims.vocab);
        assert_eq!(error.to_string(), wanted);
    }

    /// Every program of models from 48M to 1.5B breaks no rule of any chip.
    #[test]
    fn real_models_pass_on_every_chip() {
        for (dim, hidden, heads) in [(768, 2048, 6), (1024, 2816, 8), (1536, 4096, 12), (2304, 6144, 18)] {
            for family in Family::ALL {
                let config = ModelConfig { vocab: 50_257, ..llama(dim, hidden, heads) };
                let (mut plan, dims) = fitted(&config, 512, family).unwrap();
                plan.classifier = Classifier::Device;
                assert_eq!(plan.vocab_shards, 4);
                for kernel in plan.kernels() {
                    let program = kernel.program(&plan.dims(&dims, kernel), &plan.choices);
                    let verified = verify(program, &Target::new(family));
                    assert!(verified.is_ok(), "{family:?} {}: {:?}", kernel.name(), verified.err());
                }
            }
        }
    }
}
