//! The way from the last activation to the loss, and back.

use backend::Result;
use model::ModelConfig;
use model::{Role, TokenId};

use crate::kernels::cross_entropy;
use crate::kernels::rms_norm::norm_of;
use crate::train::gradient;
use crate::{Act, Cpu, Into, Left, Mat, MatMut, Rows, RowsMut};

/// Most tokens, and most logits, of one pass through the head: 32 MiB.
const HEAD_TOKENS: usize = 1024;
const HEAD_LOGITS: usize = 8 << 20;

/// Tokens that products pack in one piece; passes are multiples of it.
const PIECE: usize = 64;

impl Cpu {
    /// The loss of the last activation; with its gradient when `dx` is there.
    pub(crate) fn head(&mut self, x: &Act, targets: &[TokenId], mut dx: Option<&mut Act>) -> Result<f32> {
        let (c, tokens, isa) = (&self.config, self.tokens.len(), self.exec.isa);
        let count = self.count_targets(targets)?;
        let (dim, vocab) = (c.dim, c.vocab);
        let factor = 1.0 / count.max(1) as f32;
        let head = if c.tied { Role::Embed } else { Role::Head };
        let step = head_tokens(c);
        self.scratch.losses.resize(tokens, 0.0);
        for start in (0..tokens).step_by(step) {
            let rows = step.min(tokens - start);
            let logits = &mut self.scratch.logits[..rows * vocab];
            let w = self.storage.matrix(head, head, None, dim);
            {
                let gain = self.storage.weight(Role::FinalNorm, Role::FinalNorm, None);
                let norm = norm_of(isa, &x.0[start * dim..], gain, c.norm_eps);
                let norm = Left::made(&mut self.scratch.norm[..rows * dim], dim, &norm);
                self.exec.product(1.0, norm, w.t(), Into::Set, MatMut::new(logits, rows, vocab));
            }
            let backward = dx.is_some();
            let parts = (
                Rows::new(&targets[start..start + rows], 1),
                RowsMut::new(logits, vocab),
                RowsMut::new(&mut self.scratch.losses[start..start + rows], 1),
            );
            self.exec.pool.each(parts, |_, (target, z, loss)| {
                let target = target[0];
                loss[0] = match (target == TokenId::IGNORE, backward) {
                    (true, false) => 0.0,
                    (true, true) => {
                        z.fill(0.0);
                        0.0
                    }
                    (false, false) => cross_entropy::loss(isa, z, target.0 as usize),
                    (false, true) => cross_entropy::loss_backward(isa, z, target.0 as usize, factor),
                };
            });
            if backward {
                let dz = Mat::new(logits, rows, vocab);
                let dnorm = &mut self.scratch.dnorm[start * dim..(start + rows) * dim];
                self.exec.product(1.0, dz, w.right(), Into::Set, MatMut::new(dnorm, rows, dim));
                let norm = Mat::new(&self.scratch.norm, rows, dim);
                gradient(&mut self.exec, &mut self.storage, (head, head, None), 1.0, dz, norm);
            }
        }
        if let Some(dx) = &mut dx {
            dx.0[..tokens * dim].fill(0.0);
            self.norm_backward(Role::FinalNorm, None, x, dx);
        }
        let sum: f64 = self.scratch.losses.iter().map(|&l| f64::from(l)).sum();
        Ok((sum / count.max(1) as f64) as f32)
    }
}

/// Tokens of one pass through the head. Every pass reads the head's weights and adds to their gradient.
pub(crate) fn head_tokens(c: &ModelConfig) -> usize {
    let most = (HEAD_LOGITS / c.vocab).clamp(1, HEAD_TOKENS);
    if most < PIECE { most } else { most / PIECE * PIECE }
}
