//! The backend: its parts, its memory, and what it does before and between dispatches.

use ane_bridge::Ledger;
use backend::Result;
use backend_cpu::kernels::rms_norm;
use backend_cpu::{Act, Buffer, Cpu, Rows, RowsMut};
use model::{ModelConfig, Role};

use crate::care::{Health, Monitor};
use crate::dims::Dims;
use crate::error::{AneError, AneResult};
use crate::kernels::{Kernel, power};
use crate::packing::Part;
use crate::plan::{Classifier, Ffn, Plan};
use crate::programs::{AneDevice, Programs, Slot};
use crate::staging::{self, Source};

/// A model whose blocks run as MIL programs on a device, the classifier too where [`Plan::classifier`]
/// says so, and whose norms, weight gradients, loss and optimizer run on the CPU meanwhile.
///
/// Sums over residuals, weights, gradients and moments are f32 on the host; activations are fp16 on the
/// device. An activation that overflows at the powers of two of [`crate::Scaling`] is computed again
/// without them, and a gradient at a smaller one. Only an activation beyond ±32768 stays infinite, and the
/// loss with it, or a gradient that fits no power; then [`backend::Train::update`] returns a norm that is
/// not finite and skips the step.
pub struct Ane<D: AneDevice> {
    pub(crate) cpu: Cpu,
    pub(crate) programs: Programs<D>,
    pub(crate) plan: Plan,
    pub(crate) dims: Dims,
    /// Inputs of attention and feed-forward of each layer, for the way back.
    pub(crate) kept: Vec<[Option<Act>; 2]>,
    pub(crate) training: bool,
    /// Whether the classifier is the embedding.
    tied: bool,
    /// Counts changes of the weights; 0 is that of surfaces never written.
    pub(crate) generation: u64,
    pub(crate) buffers: Buffers,
    /// A product of the feed-forward's gradients that waits for the device to be busy.
    pub(crate) pending: Option<GateUp>,
}

/// `dW1` and `dW3` of one sequence: `dh · norm`, whose factors are in [`Buffers`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct GateUp {
    pub layer: usize,
    pub row: usize,
}

/// f32 memory of the host, for one sequence unless said.
pub(crate) struct Buffers {
    /// Normalised inputs of attention, `[tokens, dim]` of the micro-batch.
    pub attn_norm: Buffer,
    /// Normalised inputs of the feed-forward, `[tokens, dim]` of the micro-batch.
    pub ffn_norm: Buffer,
    /// Outputs of a program, `[tokens, channels]`.
    pub out: Buffer,
    /// A gradient times its power of two.
    pub scaled: Buffer,
    /// `dgated`, then `gated`: `[hidden, tokens]`.
    pub gated: Buffer,
    /// `h1` and `h3`, then their gradients: `[2·hidden, tokens]`.
    pub h: Buffer,
    /// `[q_dim, tokens]`.
    pub attn: Buffer,
    /// `[q_dim, tokens]`.
    pub da: Buffer,
    /// Logits, then their gradients, `[tokens, vocab]`; empty when the classifier is the host's.
    pub logits: Buffer,
    /// Those of a shard, `[tokens, vocab / shards]`.
    pub part: Buffer,
    /// Loss of each token.
    pub losses: Buffer,
    /// A weight on its way to a surface.
    pub weights: Vec<f32>,
}

impl Buffers {
    /// For a plan that goes with a model.
    pub fn new(config: &ModelConfig, plan: &Plan) -> Result<Self> {
        let tokens = plan.seq.max(1).saturating_mul(plan.sequences);
        let (seq, q) = (plan.seq.max(1), config.q_dim());
        let widest = q.max(config.dim).max(config.kv_dim());
        let buffer = |width| Buffer::zeros_2d("activations", seq, width);
        let classifier = plan.classifier == Classifier::Device;
        Ok(Self {
            attn_norm: Buffer::zeros_2d("activations", tokens, config.dim)?,
            ffn_norm: Buffer::zeros_2d("activations", tokens, config.dim)?,
            out: buffer(widest)?,
            scaled: buffer(widest.max(2 * config.hidden).max(2 * config.kv_dim()))?,
            gated: buffer(config.hidden)?,
            h: buffer(2 * config.hidden)?,
            attn: buffer(q)?,
            da: buffer(q)?,
            logits: buffer(if classifier { config.vocab } else { 0 })?,
            part: buffer(if classifier { config.vocab.div_ceil(plan.vocab_shards) } else { 0 })?,
            losses: buffer(usize::from(classifier))?,
            weights: Vec::new(),
        })
    }
}

impl<D: AneDevice> Ane<D> {
    /// A model of zeros; write its weights. Programs are compiled when they are first needed.
    ///
    /// # Errors
    /// When the plan does not go with the model or the chip, or memory is short.
    pub fn new(device: D, config: &ModelConfig, plan: Plan) -> Result<Self> {
        Self::build(device, config, plan, true)
    }

    /// The same for [`backend::Prefill`] and losses alone: one layer's intermediate results instead
    /// of all layers'.
    ///
    /// # Errors
    /// As [`Ane::new`].
    pub fn for_inference(device: D, config: &ModelConfig, plan: Plan) -> Result<Self> {
        Self::build(device, config, plan, false)
    }

    fn build(device: D, config: &ModelConfig, plan: Plan, training: bool) -> Result<Self> {
        // The configuration is checked here, before anything is computed from it.
        let cpu = Cpu::new(config, plan.on_host())?;
        let (plan, dims) = plan.of_model(config, &device.chip().limits()).map_err(AneError::Plan)?;
        let buffers = Buffers::new(config, &plan)?;
        let kept_layers = if training { config.layers } else { 1 };
        Ok(Self {
            cpu,
            programs: Programs::new(device, plan.clone(), dims.clone(), config.layers, kept_layers)?,
            plan,
            dims,
            kept: (0..config.layers).map(|_| [None, None]).collect(),
            training,
            tied: config.tied,
            generation: 1,
            buffers,
            pending: None,
        })
    }

    /// The plan it runs by: the caller's, cut to fit the chip.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device.
    pub fn device(&self) -> &D {
        self.programs.device()
    }

    /// How results must be labelled, such as `virtual ANE (M4 Max)`.
    pub fn label(&self) -> String {
        self.device().label()
    }

    /// What ran on the device, how often and how long.
    pub fn ledger(&self) -> Ledger {
        self.device().ledger()
    }

    /// How a long run fares.
    pub fn health(&self) -> Health {
        self.programs.monitor().health()
    }

    /// What reads [`Ane::health`] while somebody else holds the backend.
    pub fn monitor(&self) -> Monitor {
        self.programs.monitor().clone()
    }

    /// The forward programs, compiled now instead of with the first step, and the backward ones when
    /// the backend is for training.
    ///
    /// # Errors
    /// As the first step would.
    pub fn compile(&mut self) -> Result<()> {
        let kernels = self.plan.kernels();
        let back = |k: &Kernel| Kernel::BACKWARD.contains(k) || *k == Kernel::HeadBwd;
        let wanted = kernels.into_iter().filter(|k| self.training || !back(k));
        Ok(wanted.collect::<Vec<_>>().into_iter().try_for_each(|k| self.programs.load(k, 0))?)
    }

    /// The programs of the feed-forward.
    pub(crate) fn ffn_kernels(&self) -> &'static [Kernel] {
        match self.plan.ffn {
            Ffn::Fused => &[Kernel::FfnFwd],
            Ffn::Split => &[Kernel::FfnGateUp, Kernel::FfnDown],
        }
    }

    /// Makes a program ready for a layer: compiled, with the present weights in its surfaces.
    pub(crate) fn ready(&mut self, kernel: Kernel, layer: usize) -> AneResult<()> {
        self.programs.load(kernel, layer)?;
        if !self.programs.take_stale(kernel, layer, self.generation) {
            return Ok(());
        }
        let shards = self.programs.shards(kernel);
        let factor = power(self.programs.weight_power(kernel, layer));
        let storage = self.cpu.host().storage;
        let scratch = &mut self.buffers.weights;
        for shard in 0..shards {
            let slot = Slot { layer, shard, row: 0 };
            for source in staging::sources(kernel) {
                let Source { part, role, .. } = *source;
                let (surface, place) = self.programs.input(kernel, slot, part);
                let (role, of) = match role {
                    Role::Head if self.tied => (Role::Embed, None),
                    Role::Head => (role, None),
                    _ => (role, Some(layer)),
                };
                let w = storage.weight(role, role, of);
                let outputs = match role {
                    Role::Head | Role::Embed => self.dims.vocab,
                    Role::Q => self.dims.q_dim(),
                    Role::K | Role::V => self.dims.kv_dim(),
                    Role::Gate | Role::Up => self.dims.hidden,
                    _ => self.dims.dim,
                };
                source.write(w, outputs, (shard, shards), factor, (&surface, &place), scratch)?;
            }
            if let (Kernel::SdpaFwd, Some((part, columns))) = (kernel, staging::vectors(self.dims.extra)) {
                let (surface, place) = self.programs.input(kernel, slot, part);
                // `[columns, rows]`; of a vector over heads, a shard has its part.
                scratch.clear();
                for role in columns.iter().copied().flatten() {
                    let v = storage.weight(*role, *role, Some(layer));
                    let share = if part == Part::Bias { v.len() / shards } else { v.len() };
                    let first = if part == Part::Bias { shard * share } else { 0 };
                    scratch.extend_from_slice(&v[first..first + share]);
                }
                staging::write_tokens(&surface, &place, scratch)?;
            }
        }
        Ok(())
    }

    /// Runs a program, and `meanwhile` on this thread while the device is busy.
    pub(crate) fn run(
        &mut self,
        kernel: Kernel,
        slot: Slot,
        meanwhile: impl FnOnce(&mut Self) -> AneResult<()>,
    ) -> AneResult<()> {
        self.programs.start(kernel, slot);
        let host = meanwhile(self);
        self.programs.finish(kernel, slot)?;
        host
    }

    /// Normalises an activation over all tokens, into [`Buffers::attn_norm`] for attention, else into
    /// [`Buffers::ffn_norm`].
    pub(crate) fn normalise(&mut self, role: Role, layer: Option<usize>, x: &Act) {
        let (tokens, _) = self.cpu.shape();
        let norm = match role {
            Role::AttnNorm => &mut self.buffers.attn_norm,
            _ => &mut self.buffers.ffn_norm,
        };
        let host = self.cpu.host();
        let (dim, eps, isa) = (host.config.dim, host.config.norm_eps, host.exec.isa);
        let gain = host.storage.weight(role, role, layer);
        let len = ROWS * dim;
        let parts = (Rows::new(&x[..tokens * dim], len), RowsMut::new(&mut norm[..tokens * dim], len));
        host.exec.pool.each(parts, |_, (x, norm)| rms_norm::forward(isa, x, gain, eps, norm));
    }

    /// Keeps the input of a block for the way back.
    pub(crate) fn keep(&mut self, layer: usize, block: usize, x: Act) {
        if !self.training {
            return self.cpu.put_act(x);
        }
        if let Some(old) = self.kept[layer][block].replace(x) {
            self.cpu.put_act(old);
        }
    }

    /// The input of a block, once.
    pub(crate) fn take_kept(&mut self, layer: usize, block: usize) -> AneResult<Act> {
        if !self.training {
            return Err(AneError::Inference);
        }
        let block_name = ["attention", "ffn"][block];
        self.kept[layer][block].take().ok_or(AneError::NoForward { block: block_name, layer })
    }
}

/// Tokens of one task of the norms, as in the CPU backend.
const ROWS: usize = 32;
