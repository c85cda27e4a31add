//! A forward pass of a model that need not fit into memory: one block at a time, its weights drawn when
//! the pass reaches it.

use std::time::{Duration, Instant};

use backend::{Result, Slot, Tokens, Train};
use model::{ModelConfig, Param, Params, TokenId};
use serde::Serialize;

use crate::protocol;
use crate::statistics::median;

/// Writes a row of a parameter; a vector is one row.
pub type Draw<'a> = &'a (dyn Fn(&Param, usize, &mut [f32]) + Sync);

/// The same as that of a layer.
type DrawLayer<'a> = dyn Fn(&Param, usize, usize, &mut [f32]) + Sync + 'a;

/// What a pass needs of a device that has the embedding, the head and one block of a model: the weights of all
/// blocks take turns in it.
pub trait OneBlock {
    /// The model of one layer.
    fn config(&self) -> &ModelConfig;

    /// Replaces the weights of the block, or for `None` those outside of it.
    ///
    /// # Errors
    /// Those of the device.
    fn fill(&mut self, block: Option<usize>, draw: Draw<'_>) -> Result<()>;

    /// Begins a pass of one sequence.
    ///
    /// # Errors
    /// Those of the device.
    fn embed(&mut self, tokens: Tokens<'_>) -> Result<()>;

    /// The block, with the weights that it has now.
    ///
    /// # Errors
    /// Those of the device.
    fn block(&mut self) -> Result<()>;

    /// Mean cross-entropy of the pass, nats per token; waits for the device.
    ///
    /// # Errors
    /// Those of the device.
    fn loss(&mut self, targets: &[TokenId]) -> Result<f32>;
}

/// A backend that trains, used forward alone: its weights are f32, and drawn one parameter at a time.
pub struct TrainsForward<B: Train> {
    backend: B,
    params: Params,
    threads: usize,
    numbers: Vec<f32>,
    x: Option<B::Act>,
}

impl<B: Train> TrainsForward<B> {
    /// Weights are drawn on `threads` threads.
    pub fn new(backend: B, threads: usize) -> Self {
        Self { params: Params::new(backend.config()), backend, threads, numbers: Vec::new(), x: None }
    }

    fn x(&mut self) -> B::Act {
        self.x.take().expect("`embed` comes first")
    }
}

impl<B: Train> OneBlock for TrainsForward<B> {
    fn config(&self) -> &ModelConfig {
        self.backend.config()
    }

    fn fill(&mut self, block: Option<usize>, draw: Draw<'_>) -> Result<()> {
        for p in self.params.iter().filter(|p| p.layer == block) {
            self.numbers.resize(p.len(), 0.0);
            protocol::fill_rows(p, self.threads, &mut self.numbers, &|row, out| draw(p, row, out));
            self.backend.write(p.id, Slot::Weight, &self.numbers)?;
        }
        Ok(())
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<()> {
        self.x = Some(self.backend.embed(tokens)?);
        Ok(())
    }

    fn block(&mut self) -> Result<()> {
        let x = self.x();
        let x = self.backend.attention(0, x)?;
        self.x = Some(self.backend.ffn(0, x)?);
        Ok(())
    }

    fn loss(&mut self, targets: &[TokenId]) -> Result<f32> {
        let x = self.x();
        self.backend.loss(x, targets)
    }
}

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct ForwardSettings {
    /// Tokens of the sequence.
    pub seq: usize,
    /// Passes before the timed ones.
    pub warmup: usize,
    /// Timed passes; at least 1.
    pub timed: usize,
}

/// What has been reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ForwardProgress {
    /// The weights outside the blocks are written.
    Ready,
    /// A pass is over, and the loss it found.
    Pass(f32),
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForwardReport {
    /// Parameters of the whole model.
    pub params: u64,
    /// Blocks that ran, one after the other.
    pub layers: usize,
    /// Tokens of the sequence.
    pub seq: usize,
    /// Mean cross-entropy, nats per token.
    pub loss: f32,
    /// Median pass without drawing weights, milliseconds.
    pub ms_forward: f64,
    /// Median time in a pass that goes into weights.
    pub ms_weights: f64,
    /// Every timed pass, weights not counted.
    pub ms: Vec<f64>,
    /// Tokens per second of `ms_forward`.
    pub tok_per_s: f64,
    /// Floating-point operations of a pass in matrix products.
    pub gflop: f64,
    /// Their rate in `ms_forward`.
    pub gflop_per_s: f64,
}

/// Runs `whole`, whose blocks take turns in the only block of `device`.
///
/// # Errors
/// Those of the device.
///
/// # Panics
/// When the device has not exactly one block of that shape.
pub fn forward(
    device: &mut dyn OneBlock,
    whole: &ModelConfig,
    settings: &ForwardSettings,
    watch: &mut dyn FnMut(ForwardProgress),
) -> Result<ForwardReport> {
    // The protocol's layers begin alike.
    let draw =
        |param: &Param, _: usize, row: usize, out: &mut [f32]| protocol::draw_row(whole, param, row, out);
    pass(device, whole, settings, &draw, watch)
}

/// [`forward`] with weights from anywhere: `draw` writes a row of a parameter of the only block as that of a layer.
fn pass(
    device: &mut dyn OneBlock,
    whole: &ModelConfig,
    settings: &ForwardSettings,
    draw: &DrawLayer<'_>,
    watch: &mut dyn FnMut(ForwardProgress),
) -> Result<ForwardReport> {
    let ForwardSettings { seq, warmup, timed } = *settings;
    assert_eq!(*device.config(), ModelConfig { layers: 1, ..whole.clone() }, "one block of the whole");
    device.fill(None, &|p, row, out| draw(p, 0, row, out))?;
    watch(ForwardProgress::Ready);
    let (ids, targets) = protocol::tokens(seq, whole.vocab);
    let (mut ms, mut ms_weights, mut loss) = (Vec::new(), Vec::new(), 0.0);
    for pass in 0..warmup + timed {
        let (begin, mut weights) = (Instant::now(), Duration::ZERO);
        device.embed(Tokens { ids: &ids, seq })?;
        for layer in 0..whole.layers {
            let drawing = Instant::now();
            device.fill(Some(0), &|p, row, out| draw(p, layer, row, out))?;
            weights += drawing.elapsed();
            device.block()?;
        }
        loss = device.loss(&targets)?;
        if pass >= warmup {
            ms.push((begin.elapsed() - weights).as_secs_f64() * 1e3);
            ms_weights.push(weights.as_secs_f64() * 1e3);
        }
        watch(ForwardProgress::Pass(loss));
    }
    let ms_forward = median(&ms);
    let gflop = whole.forward_flops_per_token(seq) * seq as f64 / 1e9;
    Ok(ForwardReport {
        params: whole.param_count(),
        layers: whole.layers,
        seq,
        loss,
        ms_forward,
        ms_weights: median(&ms_weights),
        ms,
        tok_per_s: seq as f64 / ms_forward * 1e3,
        gflop,
        gflop_per_s: gflop / ms_forward * 1e3,
    })
}

#[cfg(test)]
mod tests {
    use backend::reference::Reference;
    use model::ModelConfig;

    use super::*;
    use crate::{SweepSettings, sweep};

    fn shape() -> ModelConfig {
        ModelConfig {
            dim: 24,
            hidden: 40,
            layers: 3,
            heads: 2,
            kv_heads: 2,
            head_dim: 12,
            vocab: 97,
            ..ModelConfig::default()
        }
    }

    #[test]
    fn block_by_block_is_the_whole_model() {
        let whole = protocol::model(&shape());
        let one = ModelConfig { layers: 1, ..whole.clone() };
        let settings = ForwardSettings { seq: 16, warmup: 1, timed: 2 };
        let mut passes = 0;
        let watch = &mut |p| passes += usize::from(matches!(p, ForwardProgress::Pass(_)));
        // Not the protocol's: its blocks begin with Wo and W2 at zero, and pass on what they are given.
        let noise = |p: &Param, layer: usize, row: usize, out: &mut [f32]| {
            let first = row * out.len();
            for (i, w) in out.iter_mut().enumerate() {
                *w = 0.3 * (((7 * (first + i) + 131 * layer + p.len()) as f32).sin());
            }
        };
        let mut device = TrainsForward::new(Reference::new(&one), 2);
        let report = pass(&mut device, &whole, &settings, &noise, watch).unwrap();
        assert_eq!((report.params, report.layers, report.ms.len(), passes), (whole.param_count(), 3, 2, 3));
        assert_eq!(report.loss, loss(&whole, &noise));
        // The test can fail: layers in another order, or one of them twice, give another loss.
        let turned =
            |p: &Param, layer: usize, row: usize, out: &mut [f32]| noise(p, [1, 0, 2][layer], row, out);
        let twice =
            |p: &Param, layer: usize, row: usize, out: &mut [f32]| noise(p, [0, 1, 1][layer], row, out);
        assert!((loss(&whole, &turned) - report.loss).abs() > 1e-4);
        assert!((loss(&whole, &twice) - report.loss).abs() > 1e-4);
    }

    #[test]
    fn the_protocol_goes_block_by_block_too() {
        let whole = protocol::model(&shape());
        let one = ModelConfig { layers: 1, ..whole.clone() };
        let settings = ForwardSettings { seq: 16, warmup: 0, timed: 1 };
        let report =
            forward(&mut TrainsForward::new(Reference::new(&one), 2), &whole, &settings, &mut |_| {})
                .unwrap();
        let settings = SweepSettings { seq: 16, steps: 0, timed: 1, threads: 1 };
        let wanted = sweep(Reference::new(&whole), &settings, &mut |_| {}).unwrap();
        assert_eq!(report.loss, wanted.loss_before);
    }

    /// Loss of the whole model in one piece.
    fn loss(whole: &ModelConfig, draw: &DrawLayer<'_>) -> f32 {
        let mut backend = Reference::new(whole);
        for p in &Params::new(whole) {
            let mut numbers = vec![0.0; p.len()];
            let layer = p.layer.unwrap_or(0);
            protocol::fill_rows(p, 2, &mut numbers, &|row, out| draw(p, layer, row, out));
            backend.write(p.id, Slot::Weight, &numbers).unwrap();
        }
        let (ids, targets) = protocol::tokens(16, whole.vocab);
        backend::forward(&mut backend, Tokens { ids: &ids, seq: 16 }, &targets).unwrap()
    }
}
