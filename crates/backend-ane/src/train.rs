//! [`Train`] and [`Prefill`] of the ANE backend.

use std::borrow::Cow;

use backend::{Decode, Error, Feed, KvBlock, Logits, Prefill, Result, SeqId, Tokens, Train, Update};
use backend_cpu::kernels::rms_norm;
use backend_cpu::{Act, CpuInfer, Into, Mat, MatMut};
use model::{ModelConfig, ParamId, Role, TokenId, Weights};

use crate::ane::Ane;
use crate::error::AneError;
use crate::kernels::Kernel;
use crate::packing::Part;
use crate::plan::{Classifier, Plan};
use crate::programs::{AneDevice, Slot};
use crate::staging;

impl<D: AneDevice> Train for Ane<D> {
    type Act = Act;

    fn config(&self) -> &ModelConfig {
        self.cpu.config()
    }

    fn read(&mut self, id: ParamId, slot: model::Slot) -> Result<Cow<'_, [f32]>> {
        self.settle();
        self.cpu.read(id, slot)
    }

    fn write(&mut self, id: ParamId, slot: model::Slot, values: &[f32]) -> Result<()> {
        self.settle();
        if slot == model::Slot::Weight {
            self.generation += 1;
        }
        self.cpu.write(id, slot, values)
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Act> {
        self.settle();
        self.programs.begin();
        tokens.check(self.cpu.config())?;
        if tokens.seq > self.plan.seq {
            return Err(Error::SequenceTooLong { got: tokens.seq, max: self.plan.seq });
        }
        if tokens.batch() > self.plan.sequences {
            return Err(Error::BatchTooLarge {
                got: tokens.ids.len(),
                max: self.plan.sequences * tokens.seq,
            });
        }
        self.cpu.embed(tokens)
    }

    fn attention(&mut self, layer: usize, x: Act) -> Result<Act> {
        self.attention_forward(layer, x)
    }

    fn ffn(&mut self, layer: usize, x: Act) -> Result<Act> {
        self.ffn_forward(layer, x)
    }

    fn loss(&mut self, x: Act, targets: &[TokenId]) -> Result<f32> {
        if self.plan.classifier == Classifier::Host {
            return self.cpu.loss(x, targets);
        }
        let loss = self.classify(&x, targets, None);
        self.cpu.put_act(x);
        loss
    }

    fn loss_backward(&mut self, x: Act, targets: &[TokenId]) -> Result<(f32, Act)> {
        if self.plan.classifier == Classifier::Host {
            return self.cpu.loss_backward(x, targets);
        }
        let mut dx = self.cpu.take_act()?;
        let loss = self.classify(&x, targets, Some(&mut dx));
        self.cpu.put_act(x);
        Ok((loss?, dx))
    }

    fn ffn_backward(&mut self, layer: usize, dy: Act) -> Result<Act> {
        self.ffn_back(layer, dy)
    }

    fn attention_backward(&mut self, layer: usize, dy: Act) -> Result<Act> {
        self.attention_back(layer, dy)
    }

    fn embed_backward(&mut self, dx: Act) -> Result<()> {
        self.cpu.embed_backward(dx)
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        self.settle();
        let norm = self.cpu.update(update)?;
        if norm.is_finite() {
            self.generation += 1;
        }
        self.programs.end_step()?;
        Ok(norm)
    }

    fn download(&mut self, x: &Act) -> Result<Vec<f32>> {
        self.cpu.download(x)
    }
}

impl<D: AneDevice> Prefill for Ane<D> {
    fn prefill(&mut self, tokens: &[TokenId]) -> Result<(KvBlock, Logits)> {
        let (heads, d) = (self.dims.kv_heads, self.dims.head_dim);
        let (layers, len) = (self.kept.len(), tokens.len());
        let mut x = self.embed(Tokens { ids: tokens, seq: len })?;
        let mut kv = KvBlock {
            layers,
            kv_heads: heads,
            len,
            head_dim: d,
            keys: Vec::with_capacity(layers * heads * len * d),
            values: Vec::with_capacity(layers * heads * len * d),
        };
        for layer in 0..layers {
            x = self.attention_forward(layer, x)?;
            for shard in 0..self.plan.head_shards {
                let slot = Slot { layer, shard, row: 0 };
                for (part, to) in [(Part::K, &mut kv.keys), (Part::V, &mut kv.values)] {
                    let surface = self.programs.output(Kernel::SdpaFwd, slot, part);
                    let rows = surface.layout().rows();
                    let out = &mut self.buffers.out[..rows * len];
                    staging::read_tokens(&surface, len, out).map_err(AneError::Surface)?;
                    for head in 0..rows / d {
                        out.chunks_exact(rows).for_each(|row| to.extend(&row[head * d..(head + 1) * d]));
                    }
                }
            }
            x = self.ffn_forward(layer, x)?;
        }
        let logits = self.last_logits(&x, len);
        self.cpu.put_act(x);
        Ok((kv, logits))
    }
}

impl<D: AneDevice> Ane<D> {
    /// Logits after the last of `len` tokens, on the CPU.
    fn last_logits(&mut self, x: &Act, len: usize) -> Logits {
        let host = self.cpu.host();
        let (dim, vocab, eps, tied) =
            (host.config.dim, host.config.vocab, host.config.norm_eps, host.config.tied);
        let gain = host.storage.weight(Role::FinalNorm, Role::FinalNorm, None);
        let norm = &mut self.buffers.out[..dim];
        rms_norm::forward(host.exec.isa, &x[(len - 1) * dim..len * dim], gain, eps, norm);
        let role = if tied { Role::Embed } else { Role::Head };
        let w = Mat::new(host.storage.weight(role, role, None), vocab, dim);
        let mut values = vec![0.0; vocab];
        let y = MatMut::new(&mut values, 1, vocab);
        host.exec.matmul(1.0, Mat::new(norm, 1, dim), w.t(), Into::Set, y);
        Logits { vocab, values }
    }
}

/// Writing text: prompts on the device, then token by token on the CPU, which one dispatch per token
/// would not beat.
pub struct AneInfer<D: AneDevice> {
    prefill: Ane<D>,
    decode: CpuInfer,
}

impl<D: AneDevice> AneInfer<D> {
    /// A model of these weights. Prompts are at most [`Plan::seq`] tokens long on the device; longer
    /// ones are an error.
    ///
    /// # Errors
    /// As [`Ane::new`].
    pub fn new(device: D, config: &ModelConfig, weights: Weights, plan: Plan) -> Result<Self> {
        let plan = Plan { sequences: 1, ..plan };
        let mut prefill = Ane::for_inference(device, config, plan)?;
        for p in weights.params() {
            prefill.write(p.id, model::Slot::Weight, weights.get(p.id))?;
        }
        let on_host = backend_cpu::Plan::new(prefill.plan.seq).with_threads(prefill.plan.threads);
        let decode = CpuInfer::new(config, weights, backend_cpu::Plan { isa: prefill.plan.isa, ..on_host })?;
        Ok(Self { prefill, decode })
    }

    /// The part that reads prompts.
    pub fn prefill_backend(&self) -> &Ane<D> {
        &self.prefill
    }
}

impl<D: AneDevice> Prefill for AneInfer<D> {
    fn prefill(&mut self, tokens: &[TokenId]) -> Result<(KvBlock, Logits)> {
        self.prefill.prefill(tokens)
    }
}

impl<D: AneDevice> Decode for AneInfer<D> {
    fn seed(&mut self, seq: SeqId, kv: &KvBlock) -> Result<()> {
        self.decode.seed(seq, kv)
    }

    fn extend(&mut self, feeds: &[Feed<'_>]) -> Result<Logits> {
        self.decode.extend(feeds)
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()> {
        self.decode.truncate(seq, len)
    }

    fn release(&mut self, seq: SeqId) {
        self.decode.release(seq);
    }
}
