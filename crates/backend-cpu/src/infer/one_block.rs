//! A forward pass of a model of which one block is in memory at a time, in f32 or in few bits.

use std::sync::OnceLock;

use backend::{Error, Footprint, Result, Tokens};
use model::{ModelConfig, Param, TokenId};

use super::matrices::FillRow;
use super::pass::{Model, Row};
use crate::head::head_tokens;
use crate::kernels::cross_entropy;
use crate::{CpuError, Plan, Rows, RowsMut, count};

/// The embedding, the head and one block, whose weights take turns. Nothing of a matrix in few bits is ever there in
/// f32 but the row that each thread packs.
pub struct OneBlock {
    model: Model,
    rows: Vec<Row>,
    logits: Vec<f32>,
}

impl OneBlock {
    /// Zeros for a model of one layer and sequences of at most `plan.max_tokens` tokens.
    ///
    /// # Errors
    /// No memory, no thread, a format that no kernel reads, or a model of several layers.
    pub fn new(config: &ModelConfig, plan: Plan) -> Result<Self> {
        assert_eq!(config.layers, 1, "one block of the whole");
        Ok(Self { model: Self::reserve(config, plan)?, rows: Vec::new(), logits: Vec::new() })
    }

    fn reserve(config: &ModelConfig, plan: Plan) -> std::result::Result<Model, CpuError> {
        let mut model = Model::reserve(config, plan)?;
        model.rope.reserve(model.max_tokens)?;
        Ok(model)
    }

    /// Bytes that a pass touches; nothing is taken.
    ///
    /// # Errors
    /// As [`OneBlock::new`], but for want of memory.
    pub fn footprint(config: &ModelConfig, plan: Plan) -> Result<Footprint> {
        let (model, mut found) = count(|| Self::reserve(config, plan));
        let model = model?;
        found.set("weights", model.plain_bytes());
        found.add("logits", 4 * (config.vocab * head_tokens(config).min(model.max_tokens)) as u64);
        Ok(found)
    }

    /// The model of one layer.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Replaces the weights of the block, or for `None` those outside of it. `draw` writes a row of a parameter.
    ///
    /// # Errors
    /// A weight that the format cannot hold.
    pub fn fill(&mut self, block: Option<usize>, draw: FillRow<'_>) -> Result<()> {
        let Model { config, matrices, exec, .. } = &mut self.model;
        let (format, bad) = (matrices.format(), OnceLock::new());
        matrices.fill_rows(config, block, &exec.pool, &|p: &Param, row, to: &mut [f32]| {
            draw(p, row, to);
            let Some(format) = format.filter(|_| p.group.quantized()) else { return };
            if let Err(mut source) = format.check(to.len(), to) {
                source.row = row;
                let _ = bad.set(CpuError::Weight { name: p.name.clone(), source });
                to.fill(0.0);
            }
        });
        match bad.into_inner() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Begins a pass of one sequence.
    ///
    /// # Errors
    /// Tokens that are not the model's, or more than the plan has.
    pub fn embed(&mut self, tokens: Tokens<'_>) -> Result<()> {
        tokens.check(&self.model.config)?;
        if tokens.ids.len() > self.model.max_tokens {
            return Err(Error::SequenceTooLong { got: tokens.ids.len(), max: self.model.max_tokens });
        }
        let row = |(position, &token)| Row { cache: 0, position, token };
        self.rows = tokens.ids.iter().enumerate().map(row).collect();
        let config = self.model.config.clone();
        self.model.embed(&config, &self.rows);
        Ok(())
    }

    /// The block, with the weights that it has now.
    pub fn block(&mut self) {
        let config = self.model.config.clone();
        self.model.attention(&config, 0, &mut [], &self.rows);
        self.model.ffn(&config, 0, self.rows.len());
    }

    /// Mean cross-entropy of the pass, nats per token.
    ///
    /// # Errors
    /// Another number of targets than of tokens.
    pub fn loss(&mut self, targets: &[TokenId]) -> Result<f32> {
        let c = self.model.config.clone();
        let (n, isa, step) = (self.rows.len(), self.model.exec.isa, head_tokens(&c));
        if targets.len() != n {
            return Err(Error::WrongLength { name: "targets".into(), wanted: n, got: targets.len() });
        }
        let mut losses = vec![0.0; n];
        for (start, losses) in (0..n).step_by(step).zip(losses.chunks_mut(step)) {
            self.logits.clear();
            self.model.head(&c, start, losses.len(), &mut self.logits);
            let targets = Rows::new(&targets[start..start + losses.len()], 1);
            let parts = (targets, Rows::new(&self.logits, c.vocab), RowsMut::new(losses, 1));
            self.model.exec.pool.each(parts, |_, (target, logits, loss)| {
                loss[0] = cross_entropy::loss(isa, logits, target[0].0 as usize);
            });
        }
        let sum: f64 = losses.iter().map(|&l| f64::from(l)).sum();
        Ok((sum / n.max(1) as f64) as f32)
    }
}

#[cfg(test)]
mod tests {
    use backend::Prefill;
    use model::quant::Format;
    use model::{Params, Weights};

    use super::*;
    use crate::CpuInfer;

    fn whole() -> ModelConfig {
        ModelConfig {
            dim: 48,
            hidden: 88,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            head_dim: 12,
            vocab: 90,
            ..ModelConfig::default()
        }
    }

    /// Runs every layer through the one block; the loss against these targets.
    fn pass(c: &ModelConfig, weights: &Weights, plan: Plan, ids: &[TokenId], targets: &[TokenId]) -> f32 {
        let one = ModelConfig { layers: 1, ..c.clone() };
        let mut block = OneBlock::new(&one, plan).unwrap();
        let row = |layer: usize| {
            move |p: &Param, row: usize, to: &mut [f32]| {
                let id = weights.params().find(p.role, p.layer.map(|_| layer)).unwrap();
                to.copy_from_slice(&weights.get(id)[row * to.len()..][..to.len()]);
            }
        };
        block.fill(None, &row(0)).unwrap();
        block.embed(Tokens { ids, seq: ids.len() }).unwrap();
        for layer in 0..c.layers {
            block.fill(Some(0), &row(layer)).unwrap();
            block.block();
        }
        block.loss(targets).unwrap()
    }

    /// The loss is that of the writer with all layers there, whose cache holds keys and values in f16.
    #[test]
    fn is_the_model_that_writes_in_every_format() {
        let normed = ModelConfig { tied: false, qk_norm: true, ..whole() };
        for c in [whole(), normed, ModelConfig { qkv_bias: true, ..whole() }] {
            let weights = Weights::init(&c, 3);
            for format in [None, Some(Format::Bf16), Some(Format::Q8_0), Some(Format::Q4_0)] {
                let plan = Plan::new(40).with_threads(2).with_format(format);
                // A prompt of one token reads its own value alone, which a cache holds in another precision.
                for len in [2, 7, 40] {
                    let ids: Vec<_> = (0..len).map(|i| TokenId(7 * i % 90)).collect();
                    let mut writer = CpuInfer::new(&c, weights.clone(), plan).unwrap();
                    let losses: Vec<f64> = (1..=ids.len())
                        .map(|n| {
                            let (_, logits) = writer.prefill(&ids[..n]).unwrap();
                            f64::from(cross_entropy::loss(plan.isa, logits.last(), 5))
                        })
                        .collect();
                    let wanted = losses.iter().sum::<f64>() / losses.len() as f64;
                    let got = f64::from(pass(&c, &weights, plan, &ids, &vec![TokenId(5); ids.len()]));
                    assert!((got - wanted).abs() < 2e-3, "{format:?}, {len} tokens: {got}, wanted {wanted}");
                }
            }
        }
    }

    #[test]
    fn refuses_weights_that_the_format_cannot_hold_and_tokens_that_are_not_there() {
        let one = ModelConfig { layers: 1, ..whole() };
        let plan = Plan::new(8).with_threads(2).with_format(Some(Format::Q8_0));
        let mut block = OneBlock::new(&one, plan).unwrap();
        let bad = |p: &Param, row: usize, to: &mut [f32]| {
            to.fill(if p.name.contains("up_proj") && row == 17 { f32::NAN } else { 0.1 });
        };
        let error = block.fill(Some(0), &bad).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("model.layers.0.mlp.up_proj.weight") && text.contains("row: 17"), "{text}");
        let ids = [TokenId(1); 9];
        assert!(matches!(
            block.embed(Tokens { ids: &ids, seq: 9 }),
            Err(Error::SequenceTooLong { got: 9, max: 8 })
        ));
        assert!(block.embed(Tokens { ids: &[TokenId(90)], seq: 1 }).is_err());
        block.embed(Tokens { ids: &ids[..1], seq: 1 }).unwrap();
        assert!(block.loss(&[]).is_err());
        assert!(OneBlock::new(&one, plan.with_format(Some(Format::F16))).is_err());
    }

    /// Weights of 16, 8.5 and 4.5 bits, in whole panels.
    #[test]
    fn counts_weights_in_the_format() {
        let c = ModelConfig {
            dim: 512,
            hidden: 1024,
            layers: 1,
            heads: 8,
            kv_heads: 8,
            head_dim: 64,
            vocab: 2048,
            ..whole()
        };
        let matrices: usize = Params::new(&c).iter().filter(|p| p.group.quantized()).map(Param::len).sum();
        for (format, bits) in [(Format::Bf16, 16.0), (Format::Q8_0, 8.5), (Format::Q4_0, 4.5)] {
            let found =
                OneBlock::footprint(&c, Plan::new(64).with_threads(2).with_format(Some(format))).unwrap();
            let wanted = matrices as f64 * bits / 8.0;
            assert!(
                (found.of("weights in few bits") as f64 / wanted - 1.0).abs() < 0.01,
                "{format}: {found:?}"
            );
        }
    }
}
