//! The CPU as the host of a device: what it keeps when the blocks of a model run elsewhere.

use std::ops::{Deref, DerefMut};

use backend::Result;
use model::ModelConfig;

use crate::kernels::rope;
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
    /// Rotary positions.
    pub rope: &'a rope::Table,
}

impl Cpu {
    /// The parts of this backend.
    pub fn host(&mut self) -> Host<'_> {
        Host { config: &self.config, exec: &mut self.exec, storage: &mut self.storage, rope: &self.rope }
    }

    /// Tokens of the last micro-batch, and of one sequence of it.
    pub fn shape(&self) -> (usize, usize) {
        (self.tokens.len(), self.seq)
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
