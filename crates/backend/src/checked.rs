//! Compares a backend with the reference, call by call.

use std::borrow::Cow;

use model::{ModelConfig, ParamId, Slot, TokenId};

use crate::reference::{self, Reference};
use crate::{Error, Result, Tokens, Train, Update};

/// A backend that runs beside the reference. Every result that differs by more than the tolerance,
/// measured as ‖result − reference‖ / ‖reference‖, is an error that names it.
///
/// Slow: for tests, and for finding out which block of a device is wrong.
pub struct Checked<B> {
    inner: B,
    reference: Reference,
    tolerance: f64,
    worst: f64,
}

impl<B: Train> Checked<B> {
    /// Wraps a backend; the reference takes over its weights and moments.
    pub fn new(mut inner: B, tolerance: f64) -> Result<Self> {
        let mut reference = Reference::new(inner.config());
        let ids: Vec<_> = reference.params().iter().map(|p| p.id).collect();
        for id in ids {
            for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
                reference.write(id, slot, &inner.read(id, slot)?)?;
            }
        }
        Ok(Self { inner, reference, tolerance, worst: 0.0 })
    }

    /// The largest relative error so far.
    pub fn worst(&self) -> f64 {
        self.worst
    }

    fn compare(&mut self, what: impl FnOnce() -> String, got: &[f32], wanted: &[f32]) -> Result<()> {
        let error = relative_error(got, wanted);
        self.worst = self.worst.max(error);
        // Written so that NaN fails.
        if error <= self.tolerance {
            return Ok(());
        }
        Err(Error::Mismatch { what: what(), error, allowed: self.tolerance })
    }

    fn both(
        &mut self,
        what: impl FnOnce() -> String,
        act: B::Act,
        reference: reference::Act,
    ) -> Result<(B::Act, reference::Act)> {
        let got = self.inner.download(&act)?;
        let wanted = self.reference.download(&reference)?;
        self.compare(what, &got, &wanted)?;
        Ok((act, reference))
    }
}

/// ‖got − wanted‖ / ‖wanted‖, in f64; 0 when both are zero.
pub fn relative_error(got: &[f32], wanted: &[f32]) -> f64 {
    if got.len() != wanted.len() {
        return f64::NAN;
    }
    let square = |v: f64| v * v;
    let difference: f64 = got.iter().zip(wanted).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    let size: f64 = wanted.iter().map(|&w| square(f64::from(w))).sum();
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt() }
}

impl<B: Train> Train for Checked<B> {
    type Act = (B::Act, reference::Act);

    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn read(&mut self, id: ParamId, slot: Slot) -> Result<Cow<'_, [f32]>> {
        let got = self.inner.read(id, slot)?.into_owned();
        let wanted = self.reference.read(id, slot)?.into_owned();
        let name = self.reference.params().get(id).name.clone();
        self.compare(|| format!("{slot:?} of `{name}`"), &got, &wanted)?;
        Ok(got.into())
    }

    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> Result<()> {
        self.reference.write(id, slot, values)?;
        self.inner.write(id, slot, values)
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Self::Act> {
        let acts = (self.inner.embed(tokens)?, self.reference.embed(tokens)?);
        self.both(|| "embed".into(), acts.0, acts.1)
    }

    fn attention(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        let acts = (self.inner.attention(layer, x.0)?, self.reference.attention(layer, x.1)?);
        self.both(|| format!("attention of layer {layer}"), acts.0, acts.1)
    }

    fn ffn(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        let acts = (self.inner.ffn(layer, x.0)?, self.reference.ffn(layer, x.1)?);
        self.both(|| format!("ffn of layer {layer}"), acts.0, acts.1)
    }

    fn loss(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<f32> {
        let (got, wanted) = (self.inner.loss(x.0, targets)?, self.reference.loss(x.1, targets)?);
        self.compare(|| "loss".into(), &[got], &[wanted])?;
        Ok(got)
    }

    fn loss_backward(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<(f32, Self::Act)> {
        let (got, dx) = self.inner.loss_backward(x.0, targets)?;
        let (wanted, reference) = self.reference.loss_backward(x.1, targets)?;
        self.compare(|| "loss".into(), &[got], &[wanted])?;
        Ok((got, self.both(|| "gradient of the loss".into(), dx, reference)?))
    }

    fn ffn_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        let acts = (self.inner.ffn_backward(layer, dy.0)?, self.reference.ffn_backward(layer, dy.1)?);
        self.both(|| format!("ffn_backward of layer {layer}"), acts.0, acts.1)
    }

    fn attention_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        let got = self.inner.attention_backward(layer, dy.0)?;
        let wanted = self.reference.attention_backward(layer, dy.1)?;
        self.both(|| format!("attention_backward of layer {layer}"), got, wanted)
    }

    fn embed_backward(&mut self, dx: Self::Act) -> Result<()> {
        self.inner.embed_backward(dx.0)?;
        self.reference.embed_backward(dx.1)?;
        let ids: Vec<_> = self.reference.params().iter().map(|p| p.id).collect();
        ids.into_iter().try_for_each(|id| self.read(id, Slot::Gradient).map(drop))
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        let (got, wanted) = (self.inner.update(update)?, self.reference.update(update)?);
        if got.is_finite() || wanted.is_finite() {
            self.compare(|| "gradient norm".into(), &[got], &[wanted])?;
        }
        Ok(got)
    }

    fn download(&mut self, x: &Self::Act) -> Result<Vec<f32>> {
        self.inner.download(&x.0)
    }
}
