//! A training sweep's configuration: the loss before and after some steps, and the time of a step.

use std::time::Instant;

use backend::{Phase, Result, Slot, Timed, Tokens, Train, forward, forward_backward};
use model::{Params, TokenId};
use serde::Serialize;

use crate::protocol;
use crate::statistics::median;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct SweepSettings {
    /// Tokens of the sequence.
    pub seq: usize,
    /// Updates between the two losses.
    pub steps: usize,
    /// Steps after them whose median is the time of a step; with 0, it is that of `steps`.
    pub timed: usize,
    /// Threads that draw weights.
    pub threads: usize,
}

/// What has been reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SweepProgress {
    /// Every weight is written.
    Ready,
    /// The loss before training, nats per token.
    Before(f32),
    /// The loss before an update.
    Step(f32),
    /// The loss after the updates.
    After(f32),
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepReport {
    /// Parameters of the model.
    pub params: u64,
    /// Tokens of the sequence.
    pub seq: usize,
    /// Loss of a forward pass before training, nats per token.
    pub loss_before: f32,
    /// The same after the updates.
    pub loss_after: f32,
    /// Loss before each update.
    pub losses: Vec<f32>,
    /// Norm of the gradient of each update, before clipping.
    pub gradient_norms: Vec<f32>,
    /// Median step, milliseconds.
    pub ms_per_step: f64,
    /// Median times inside it: embedding and blocks forward.
    pub ms_forward: f64,
    /// Last norm, head and loss, forward and backward.
    pub ms_head: f64,
    /// Blocks and embedding backward.
    pub ms_backward: f64,
    /// AdamW.
    pub ms_update: f64,
    /// Every timed step.
    pub ms: Vec<f64>,
    /// Tokens per second, from the median step.
    pub tok_per_s: f64,
    /// Floating-point operations of a step in matrix products.
    pub gflop_per_step: f64,
    /// Their rate.
    pub gflop_per_s: f64,
}

/// The phases of each of the four times.
const PARTS: [&[Phase]; 4] = [
    &[Phase::Embed, Phase::Attention, Phase::Ffn],
    &[Phase::LossBackward],
    &[Phase::FfnBackward, Phase::AttentionBackward, Phase::EmbedBackward],
    &[Phase::Update],
];

/// Runs the protocol of [`crate::protocol`] on a backend whose configuration is a
/// [`protocol::model`], or a slice of one; `watch` hears of every loss as soon as it is there.
///
/// # Errors
/// Those of the backend.
pub fn sweep<B: Train>(
    backend: B,
    settings: &SweepSettings,
    watch: &mut dyn FnMut(SweepProgress),
) -> Result<SweepReport> {
    let SweepSettings { seq, steps, timed, threads } = *settings;
    let mut backend = Timed::new(backend);
    let config = backend.config().clone();
    write_weights(&mut backend, threads)?;
    watch(SweepProgress::Ready);
    let (ids, targets) = protocol::tokens(seq, config.vocab);
    let tokens = Tokens { ids: &ids, seq };
    let loss_before = forward(&mut backend, tokens, &targets)?;
    watch(SweepProgress::Before(loss_before));
    let (mut losses, mut gradient_norms, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for done in 0..steps {
        let step = step(&mut backend, tokens, &targets, done)?;
        watch(SweepProgress::Step(step.loss));
        losses.push(step.loss);
        gradient_norms.push(step.norm);
        times.push(step.ms);
    }
    let loss_after = forward(&mut backend, tokens, &targets)?;
    watch(SweepProgress::After(loss_after));
    if timed > 0 {
        times.clear();
    }
    for done in steps..steps + timed {
        times.push(step(&mut backend, tokens, &targets, done)?.ms);
    }
    let column = |i: usize| times.iter().map(|t| t[i]).collect::<Vec<_>>();
    let [ms_forward, ms_head, ms_backward, ms_update] = [0, 1, 2, 3].map(|i| median(&column(i)));
    let ms = column(4);
    let ms_per_step = median(&ms);
    let gflop_per_step = config.train_flops_per_token(seq) * seq as f64 / 1e9;
    Ok(SweepReport {
        params: config.param_count(),
        seq,
        loss_before,
        loss_after,
        losses,
        gradient_norms,
        ms_per_step,
        ms_forward,
        ms_head,
        ms_backward,
        ms_update,
        ms,
        tok_per_s: seq as f64 / ms_per_step * 1e3,
        gflop_per_step,
        gflop_per_s: gflop_per_step / ms_per_step * 1e3,
    })
}

/// One step: what it found, and the milliseconds of its four parts and in all.
struct Step {
    loss: f32,
    norm: f32,
    ms: [f64; 5],
}

fn step<B: Train>(
    backend: &mut Timed<B>,
    tokens: Tokens<'_>,
    targets: &[TokenId],
    done: usize,
) -> Result<Step> {
    backend.reset();
    let begin = Instant::now();
    let update = protocol::update(done as u64);
    backend.announce(&update, 0.0)?;
    let loss = forward_backward(backend, tokens, targets)?;
    let norm = backend.update(&update)?;
    let all = begin.elapsed().as_secs_f64() * 1e3;
    let part = |phases: &[Phase]| phases.iter().map(|p| backend.spent(*p).as_secs_f64() * 1e3).sum::<f64>();
    let [forward, head, backward, update] = PARTS.map(part);
    Ok(Step { loss, norm, ms: [forward, head, backward, update, all] })
}

/// Draws each kind of tensor once and writes it to every layer, which all begin alike.
fn write_weights<B: Train>(backend: &mut B, threads: usize) -> Result<()> {
    let config = backend.config().clone();
    let params = Params::new(&config);
    let mut numbers = Vec::new();
    for p in params.iter().filter(|p| p.layer.is_none_or(|layer| layer == 0)) {
        numbers.resize(p.len(), 0.0);
        protocol::draw(&config, p, threads, &mut numbers);
        let alike = params.iter().filter(|other| other.role == p.role);
        alike.map(|other| other.id).try_for_each(|id| backend.write(id, Slot::Weight, &numbers))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use backend::reference::Reference;
    use model::ModelConfig;

    use super::*;

    fn config() -> ModelConfig {
        let shape = ModelConfig {
            dim: 24,
            hidden: 40,
            layers: 2,
            heads: 2,
            kv_heads: 2,
            head_dim: 12,
            vocab: 97,
            ..ModelConfig::default()
        };
        protocol::model(&shape)
    }

    #[test]
    fn learns_and_tells_as_it_goes() {
        let settings = SweepSettings { seq: 16, steps: 4, timed: 2, threads: 2 };
        let mut heard = Vec::new();
        let report = sweep(Reference::new(&config()), &settings, &mut |p| heard.push(p)).unwrap();
        // Fresh blocks add nothing, and the embedding is small: the loss is that of guessing.
        assert!((report.loss_before - 97f32.ln()).abs() < 0.01, "{report:?}");
        assert_eq!(report.losses[0], report.loss_before);
        let falls = [&report.losses[..], &[report.loss_after]].concat();
        assert!(falls.windows(2).all(|w| w[1] < w[0]), "{falls:?}");
        assert_eq!((report.ms.len(), report.gradient_norms.len()), (2, 4));
        let inside = report.ms_forward + report.ms_head + report.ms_backward + report.ms_update;
        assert!(inside > 0.5 * report.ms_per_step && inside < 1.5 * report.ms_per_step, "{report:?}");
        assert_eq!(
            (heard[0], heard[1], heard.len()),
            (SweepProgress::Ready, SweepProgress::Before(report.loss_before), 7)
        );
        assert_eq!(heard[6], SweepProgress::After(report.loss_after));
    }

    #[test]
    fn without_timed_steps_the_training_steps_are_timed() {
        let settings = SweepSettings { seq: 8, steps: 3, timed: 0, threads: 1 };
        let report = sweep(Reference::new(&config()), &settings, &mut |_| {}).unwrap();
        assert_eq!(report.ms.len(), 3);
    }
}
