//! The CPU as the host of a device: what it keeps when the blocks of a model run elsewhere.

use std::ops::{Deref, DerefMut};

use backend::{Error, Result};
use model::{ModelConfig, Role, TokenId};

use crate::params::Storage;
use crate::{Act, Cpu, Exec};

/// What blocks that run elsewhere need of the host.
pub struct Host<'a> {
    /// The shape of the model.
    pub config: &'a ModelConfig,
    /// Threads and matrix products.
    pub exec: &'a mut Exec,
    /// Weights and gradients.
    pub storage: &'a mut Storage,
    /// Gradients of normalised inputs, `[tokens, dim]`, for [`Cpu::backward_norm`].
    pub dnorm: &'a mut [f32],
    /// Gradients of rotated queries and keys, and of values, `[tokens, q_dim + 2·kv_dim]`, for
    /// [`Cpu::backward_rotation`].
    pub dqkv: &'a mut [f32],
    /// Queries and keys before their norms, `[tokens, q_dim + kv_dim]`; empty without such norms.
    pub raw: &'a mut [f32],
}

impl Cpu {
    /// The parts of this backend, whose plan keeps matrices row by row.
    pub fn host(&mut self) -> Host<'_> {
        assert!(self.plan.by_rows, "devices read matrices row by row: the plan's `by_rows`");
        Host {
            config: &self.config,
            exec: &mut self.exec,
            storage: &mut self.storage,
            dnorm: &mut self.scratch.dnorm,
            dqkv: &mut self.scratch.dqkv,
            raw: &mut self.layers[0].raw,
        }
    }

    /// Turns [`Host::dnorm`] into the gradient of `x`, which is added to `dy`, and of the gain.
    pub fn backward_norm(&mut self, role: Role, layer: Option<usize>, x: &Act, dy: &mut Act) {
        self.norm_backward(role, layer, x, dy);
    }

    /// Turns [`Host::dqkv`] back through the rotation and the norms of queries and keys, or adds up the
    /// gradients of the biases. The plan recomputes, so that there is one [`Host::raw`].
    pub fn backward_rotation(&mut self, layer: usize) {
        self.rotation_backward();
        self.qk_norm_backward(layer);
        if self.config.qkv_bias {
            self.bias_backward(Some(layer));
        }
    }

    /// Tokens of the last micro-batch, and of one sequence of it.
    pub fn shape(&self) -> (usize, usize) {
        (self.tokens.len(), self.seq)
    }

    /// How many targets of the last micro-batch count: those that are not [`TokenId::IGNORE`].
    ///
    /// # Errors
    /// When there is not one for each token, or one is outside of the vocabulary.
    pub fn count_targets(&self, targets: &[TokenId]) -> Result<usize> {
        let (wanted, vocab) = (self.tokens.len(), self.config.vocab);
        if targets.len() != wanted {
            return Err(Error::WrongLength { name: "targets".into(), wanted, got: targets.len() });
        }
        let counted = targets.iter().filter(|t| **t != TokenId::IGNORE);
        match counted.clone().find(|t| t.0 as usize >= vocab) {
            Some(&token) => Err(Error::TokenOutOfRange { token, vocab }),
            None => Ok(counted.count()),
        }
    }

    /// An activation that nobody holds; its content is left over from before.
    pub fn take_act(&mut self) -> Result<Act> {
        self.take()
    }

    /// Gives an activation back.
    pub fn put_act(&mut self, act: Act) {
        self.free.push(act);
    }
}

impl Deref for Act {
    type Target = [f32];

    /// `[tokens, dim]`, with room for the largest micro-batch.
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Act {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
