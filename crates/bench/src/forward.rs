//! A forward pass of a model that need not fit into memory: one block at a time, its weights drawn when
//! the pass reaches it.

use std::time::{Duration, Instant};

use backend::{Result, Slot, Tokens, Train};
use model::{ModelConfig, Param, Params};
use serde::Serialize;

use crate::protocol;
use crate::statistics::median;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct ForwardSettings {
    /// Tokens of the sequence.
    pub seq: usize,
    /// Passes before the timed ones.
    pub warmup: usize,
    /// Timed passes; at least 1.
    pub timed: usize,
    /// Threads that draw weights.
    pub threads: usize,
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

/// Runs `whole`, whose blocks take turns in the only block of `backend`.
///
/// # Errors
/// Those of the backend.
///
/// # Panics
/// When the backend has not exactly one block of that shape.
pub fn forward<B: Train>(
    backend: B,
    whole: &ModelConfig,
    settings: &ForwardSettings,
    watch: &mut dyn FnMut(ForwardProgress),
) -> Result<ForwardReport> {
    // The protocol's layers begin alike.
    let draw = |param: &Param, _: usize, out: &mut [f32]| protocol::draw(whole, param, settings.threads, out);
    pass(backend, whole, settings, &draw, watch)
}

/// [`forward`] with weights from anywhere: `draw` fills a parameter of the only block as that of a layer.
fn pass<B: Train>(
    mut backend: B,
    whole: &ModelConfig,
    settings: &ForwardSettings,
    draw: &dyn Fn(&Param, usize, &mut [f32]),
    watch: &mut dyn FnMut(ForwardProgress),
) -> Result<ForwardReport> {
    let ForwardSettings { seq, warmup, timed, .. } = *settings;
    assert_eq!(*backend.config(), ModelConfig { layers: 1, ..whole.clone() }, "one block of the whole");
    let config = backend.config().clone();
    let params = Params::new(&config);
    let mut numbers = Vec::new();
    let mut write = |backend: &mut B, block: Option<usize>, layer: usize| -> Result<()> {
        for p in params.iter().filter(|p| p.layer == block) {
            numbers.resize(p.len(), 0.0);
            draw(p, layer, &mut numbers);
            backend.write(p.id, Slot::Weight, &numbers)?;
        }
        Ok(())
    };
    write(&mut backend, None, 0)?;
    watch(ForwardProgress::Ready);
    let (ids, targets) = protocol::tokens(seq, whole.vocab);
    let (mut ms, mut ms_weights, mut loss) = (Vec::new(), Vec::new(), 0.0);
    for pass in 0..warmup + timed {
        let (begin, mut weights) = (Instant::now(), Duration::ZERO);
        let mut x = backend.embed(Tokens { ids: &ids, seq })?;
        for layer in 0..whole.layers {
            let drawing = Instant::now();
            write(&mut backend, Some(0), layer)?;
            weights += drawing.elapsed();
            x = backend.attention(0, x)?;
            x = backend.ffn(0, x)?;
        }
        loss = backend.loss(x, &targets)?;
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
        let settings = ForwardSettings { seq: 16, warmup: 1, timed: 2, threads: 2 };
        let mut passes = 0;
        let watch = &mut |p| passes += usize::from(matches!(p, ForwardProgress::Pass(_)));
        // Not the protocol's: its blocks begin with Wo and W2 at zero, and pass on what they are given.
        let noise = |p: &Param, layer: usize, out: &mut [f32]| {
            for (i, w) in out.iter_mut().enumerate() {
                *w = 0.3 * (((7 * i + 131 * layer + p.len()) as f32).sin());
            }
        };
        let report = pass(Reference::new(&one), &whole, &settings, &noise, watch).unwrap();
        assert_eq!((report.params, report.layers, report.ms.len(), passes), (whole.param_count(), 3, 2, 3));
        assert_eq!(report.loss, loss(&whole, &noise));
        // The test can fail: layers in another order, or one of them twice, give another loss.
        let turned = |p: &Param, layer: usize, out: &mut [f32]| noise(p, [1, 0, 2][layer], out);
        let twice = |p: &Param, layer: usize, out: &mut [f32]| noise(p, [0, 1, 1][layer], out);
        assert!((loss(&whole, &turned) - report.loss).abs() > 1e-4);
        assert!((loss(&whole, &twice) - report.loss).abs() > 1e-4);
    }

    #[test]
    fn the_protocol_goes_block_by_block_too() {
        let whole = protocol::model(&shape());
        let one = ModelConfig { layers: 1, ..whole.clone() };
        let settings = ForwardSettings { seq: 16, warmup: 0, timed: 1, threads: 2 };
        let report = forward(Reference::new(&one), &whole, &settings, &mut |_| {}).unwrap();
        let settings = SweepSettings { seq: 16, steps: 0, timed: 1, threads: 1 };
        let wanted = sweep(Reference::new(&whole), &settings, &mut |_| {}).unwrap();
        assert_eq!(report.loss, wanted.loss_before);
    }

    /// Loss of the whole model in one piece.
    fn loss(whole: &ModelConfig, draw: &dyn Fn(&Param, usize, &mut [f32])) -> f32 {
        let mut backend = Reference::new(whole);
        for p in &Params::new(whole) {
            let mut numbers = vec![0.0; p.len()];
            draw(p, p.layer.unwrap_or(0), &mut numbers);
            backend.write(p.id, Slot::Weight, &numbers).unwrap();
        }
        let (ids, targets) = protocol::tokens(16, whole.vocab);
        backend::forward(&mut backend, Tokens { ids: &ids, seq: 16 }, &targets).unwrap()
    }
}
