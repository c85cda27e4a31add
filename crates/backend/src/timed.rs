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

/// One call across the seam.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What was called.
    pub phase: Phase,
    /// The block, for calls that have one.
    pub layer: Option<usize>,
    /// When it began, from [`Timed::record`] on.
    pub begin: Duration,
    /// How long it took.
    pub took: Duration,
}

/// A backend whose calls are timed. A device that returns early shows its time where it is
/// waited for.
pub struct Timed<B> {
    inner: B,
    spent: [Duration; Phase::ALL.len()],
    record: Option<Record>,
}

/// Calls one by one.
struct Record {
    since: Instant,
    most: usize,
    spans: Vec<Span>,
}

impl<B> Timed<B> {
    /// Wraps a backend; all times are zero.
    pub fn new(inner: B) -> Self {
        Self { inner, spent: Default::default(), record: None }
    }

    /// Time spent in a phase since the last [`Timed::reset`].
    pub fn spent(&self, phase: Phase) -> Duration {
        self.spent[phase as usize]
    }

    /// Sets all times to zero.
    pub fn reset(&mut self) {
        self.spent = Default::default();
    }

    /// Keeps every call from now on, at most so many: those after them are only summed.
    pub fn record(&mut self, most: usize) {
        self.record = Some(Record { since: Instant::now(), most, spans: Vec::new() });
    }

    /// The calls since [`Timed::record`], in order.
    pub fn spans(&self) -> &[Span] {
        self.record.as_ref().map_or(&[], |record| &record.spans)
    }

    /// The backend inside.
    pub fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    fn time<T>(&mut self, phase: Phase, layer: Option<usize>, call: impl FnOnce(&mut B) -> T) -> T {
        let start = Instant::now();
        let result = call(&mut self.inner);
        let took = start.elapsed();
        self.spent[phase as usize] += took;
        if let Some(record) = self.record.as_mut().filter(|record| record.spans.len() < record.most) {
            let begin = start.duration_since(record.since);
            record.spans.push(Span { phase, layer, begin, took });
        }
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
        self.time(Phase::Embed, None, |b| b.embed(tokens))
    }

    fn attention(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        self.time(Phase::Attention, Some(layer), |b| b.attention(layer, x))
    }

    fn ffn(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        self.time(Phase::Ffn, Some(layer), |b| b.ffn(layer, x))
    }

    fn loss(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<f32> {
        self.time(Phase::Loss, None, |b| b.loss(x, targets))
    }

    fn loss_backward(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<(f32, Self::Act)> {
        self.time(Phase::LossBackward, None, |b| b.loss_backward(x, targets))
    }

    fn ffn_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        self.time(Phase::FfnBackward, Some(layer), |b| b.ffn_backward(layer, dy))
    }

    fn attention_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        self.time(Phase::AttentionBackward, Some(layer), |b| b.attention_backward(layer, dy))
    }

    fn embed_backward(&mut self, dx: Self::Act) -> Result<()> {
        self.time(Phase::EmbedBackward, None, |b| b.embed_backward(dx))
    }

    fn announce(&mut self, update: &Update, norm: f32) -> Result<()> {
        self.inner.announce(update, norm)
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        self.time(Phase::Update, None, |b| b.update(update))
    }

    fn download(&mut self, x: &Self::Act) -> Result<Vec<f32>> {
        self.inner.download(x)
    }
}
