//! Times the calls across the seam.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use model::{ModelConfig, ParamId, Slot, TokenId};

use crate::{Result, Tokens, Train, Update};

/// A kind of call across the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `embed`.
    Embed,
    /// `attention`.
    Attention,
    /// `ffn`.
    Ffn,
    /// `loss`.
    Loss,
    /// `loss_backward`.
    LossBackward,
    /// `ffn_backward`.
    FfnBackward,
    /// `attention_backward`.
    AttentionBackward,
    /// `embed_backward`.
    EmbedBackward,
    /// `update`.
    Update,
}

impl Phase {
    /// Every phase, in the order of a step.
    pub const ALL: [Phase; 9] = [
        Phase::Embed,
        Phase::Attention,
        Phase::Ffn,
        Phase::Loss,
        Phase::LossBackward,
        Phase::FfnBackward,
        Phase::AttentionBackward,
        Phase::EmbedBackward,
        Phase::Update,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Embed => "embed",
            Phase::Attention => "attention",
            Phase::Ffn => "ffn",
            Phase::Loss => "loss",
            Phase::LossBackward => "loss_backward",
            Phase::FfnBackward => "ffn_backward",
            Phase::AttentionBackward => "attention_backward",
            Phase::EmbedBackward => "embed_backward",
            Phase::Update => "update",
        }
    }
}

/// A backend whose calls are timed. A device that returns early shows its time where it is
/// waited for.
pub struct Timed<B> {
    inner: B,
    spent: [Duration; Phase::ALL.len()],
}

impl<B> Timed<B> {
    /// Wraps a backend; all times are zero.
    pub fn new(inner: B) -> Self {
        Self { inner, spent: Default::default() }
    }

    /// Time spent in a phase since the last [`Timed::reset`].
    pub fn spent(&self, phase: Phase) -> Duration {
        self.spent[phase as usize]
    }

    /// Sets all times to zero.
    pub fn reset(&mut self) {
        self.spent = Default::default();
    }

    /// The backend inside.
    pub fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    fn time<T>(&mut self, phase: Phase, call: impl FnOnce(&mut B) -> T) -> T {
        let start = Instant::now();
        let result = call(&mut self.inner);
        self.spent[phase as usize] += start.elapsed();
        result
    }
}

impl<B: Train> Train for Timed<B> {
    type Act = B::Act;

    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn read(&mut self, id: ParamId, slot: Slot) -> Result<Cow<'_, [f32]>> {
        self.inner.read(id, slot)
    }

    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> Result<()> {
        self.inner.write(id, slot, values)
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Self::Act> {
        self.time(Phase::Embed, |b| b.embed(tokens))
    }

    fn attention(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        self.time(Phase::Attention, |b| b.attention(layer, x))
    }

    fn ffn(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        self.time(Phase::Ffn, |b| b.ffn(layer, x))
    }

    fn loss(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<f32> {
        self.time(Phase::Loss, |b| b.loss(x, targets))
    }

    fn loss_backward(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<(f32, Self::Act)> {
        self.time(Phase::LossBackward, |b| b.loss_backward(x, targets))
    }

    fn ffn_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        self.time(Phase::FfnBackward, |b| b.ffn_backward(layer, dy))
    }

    fn attention_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        self.time(Phase::AttentionBackward, |b| b.attention_backward(layer, dy))
    }

    fn embed_backward(&mut self, dx: Self::Act) -> Result<()> {
        self.time(Phase::EmbedBackward, |b| b.embed_backward(dx))
    }

    fn announce(&mut self, update: &Update, norm: f32) -> Result<()> {
        self.inner.announce(update, norm)
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        self.time(Phase::Update, |b| b.update(update))
    }

    fn download(&mut self, x: &Self::Act) -> Result<Vec<f32>> {
        self.inner.download(x)
    }
}
