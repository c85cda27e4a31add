//! Training on a device.

use std::borrow::Cow;

use model::{ModelConfig, ParamId, Slot, TokenId};

use crate::{Error, Result, Update};

/// The tokens of one micro-batch: sequences of equal length, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[batch, seq]`, row-major.
    pub ids: &'a [TokenId],
    /// Tokens of one sequence.
    pub seq: usize,
}

impl Tokens<'_> {
    /// Sequences.
    pub fn batch(&self) -> usize {
        self.ids.len() / self.seq
    }

    /// Whether a model of this shape can take these tokens.
    pub fn check(&self, config: &ModelConfig) -> Result<()> {
        let Self { ids, seq } = *self;
        if seq == 0 || ids.is_empty() || !ids.len().is_multiple_of(seq) {
            return Err(Error::RaggedBatch { tokens: ids.len(), seq });
        }
        if seq > config.max_seq {
            return Err(Error::SequenceTooLong { got: seq, max: config.max_seq });
        }
        match ids.iter().find(|t| t.0 as usize >= config.vocab) {
            Some(&token) => Err(Error::TokenOutOfRange { token, vocab: config.vocab }),
            None => Ok(()),
        }
    }
}

/// What a device does to train: one method per block, none per tensor operation.
///
/// A micro-batch runs `embed`, then `attention` and `ffn` of every layer, then `loss_backward`,
/// then the backwards in reverse; [`forward_backward`] is that order. Gradients add up over
/// micro-batches until `update`. `loss`, `loss_backward`, `update`, `read` and `download` wait for
/// the device; the others may return early. `update` waits for the norm: weights may move later, as long as whoever
/// reads one finds it moved.
pub trait Train {
    /// Activations on the device.
    type Act;

    /// The shape of the model.
    fn config(&self) -> &ModelConfig;

    /// One tensor of a parameter as f32. Gradients are the sums since the last update; moments are
    /// zeros before the first. Tensor by tensor, so that saving needs no second copy of the model.
    fn read(&mut self, id: ParamId, slot: Slot) -> Result<Cow<'_, [f32]>>;

    /// Replaces one tensor of a parameter.
    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> Result<()>;

    /// The embeddings of a micro-batch. Its shape holds until the next `embed`.
    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Self::Act>;

    /// `x + a·Wo·sdpa(rope(Wqkv·norm(x)))` with `a` = [`ModelConfig::residual_scale`].
    fn attention(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act>;

    /// `x + a·W2·(silu(W1·n) ⊙ W3·n)` with `n = norm(x)`.
    fn ffn(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act>;

    /// Mean cross-entropy of `head·norm(x)` in nats per target, over the targets that are not
    /// [`TokenId::IGNORE`]; 0 when there are none.
    fn loss(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<f32>;

    /// [`Train::loss`] and its gradient with respect to `x`. One method, so that a backend can
    /// turn each piece of the logits into its gradient and never hold all of them.
    fn loss_backward(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<(f32, Self::Act)>;

    /// Gradient through the last `ffn` of this layer.
    fn ffn_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act>;

    /// Gradient through the last `attention` of this layer.
    fn attention_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act>;

    /// Gradient of the embedding rows that the last `embed` read.
    fn embed_backward(&mut self, dx: Self::Act) -> Result<()>;

    /// Says by which update the gradients of the next micro-batch, alone, will be applied. A backend
    /// may then move the weights of a layer as soon as the way back has left it; the call of `update`
    /// that follows has the same update. `norm` is what the update before returned, 0 before the first:
    /// clipping within the way back goes by it.
    fn announce(&mut self, update: &Update, norm: f32) -> Result<()> {
        let _ = (update, norm);
        Ok(())
    }

    /// Applies the summed gradients, clears them, and returns their norm: over all parameters,
    /// after [`Update::grad_scale`], before clipping. When the norm is not finite, the weights and
    /// moments stay as they are.
    fn update(&mut self, update: &Update) -> Result<f32>;

    /// An activation on the host, `[tokens, dim]`, row-major.
    fn download(&mut self, x: &Self::Act) -> Result<Vec<f32>>;
}

/// A device chosen at run time.
impl<T: Train + ?Sized> Train for Box<T> {
    type Act = T::Act;

    fn config(&self) -> &ModelConfig {
        (**self).config()
    }

    fn read(&mut self, id: ParamId, slot: Slot) -> Result<Cow<'_, [f32]>> {
        (**self).read(id, slot)
    }

    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> Result<()> {
        (**self).write(id, slot, values)
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Self::Act> {
        (**self).embed(tokens)
    }

    fn attention(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        (**self).attention(layer, x)
    }

    fn ffn(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        (**self).ffn(layer, x)
    }

    fn loss(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<f32> {
        (**self).loss(x, targets)
    }

    fn loss_backward(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<(f32, Self::Act)> {
        (**self).loss_backward(x, targets)
    }

    fn ffn_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        (**self).ffn_backward(layer, dy)
    }

    fn attention_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        (**self).attention_backward(layer, dy)
    }

    fn embed_backward(&mut self, dx: Self::Act) -> Result<()> {
        (**self).embed_backward(dx)
    }

    fn announce(&mut self, update: &Update, norm: f32) -> Result<()> {
        (**self).announce(update, norm)
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        (**self).update(update)
    }

    fn download(&mut self, x: &Self::Act) -> Result<Vec<f32>> {
        (**self).download(x)
    }
}

/// Loss of a micro-batch, without gradients: nats per target.
pub fn forward<B: Train>(backend: &mut B, tokens: Tokens<'_>, targets: &[TokenId]) -> Result<f32> {
    let x = blocks(backend, tokens)?;
    backend.loss(x, targets)
}

/// Loss of a micro-batch, adding its gradients to the sums: nats per target.
pub fn forward_backward<B: Train>(backend: &mut B, tokens: Tokens<'_>, targets: &[TokenId]) -> Result<f32> {
    let x = blocks(backend, tokens)?;
    let (loss, mut dx) = backend.loss_backward(x, targets)?;
    for layer in (0..backend.config().layers).rev() {
        dx = backend.ffn_backward(layer, dx)?;
        dx = backend.attention_backward(layer, dx)?;
    }
    backend.embed_backward(dx)?;
    Ok(loss)
}

fn blocks<B: Train>(backend: &mut B, tokens: Tokens<'_>) -> Result<B::Act> {
    let mut x = backend.embed(tokens)?;
    for layer in 0..backend.config().layers {
        x = backend.attention(layer, x)?;
        x = backend.ffn(layer, x)?;
    }
    Ok(x)
}
