//! The loss with the classifier on the device: logits and the way back through them, by shards of the
//! vocabulary. Final norm, softmax and the gradient of the classifier stay on the host.

use backend::Result;
use backend_cpu::kernels::cross_entropy;
use backend_cpu::{Act, Mat, MatMut, Rows, RowsMut};
use model::{Role, TokenId};

use crate::ane::Ane;
use crate::error::AneResult;
use crate::kernels::{Kernel, power};
use crate::packing::Part;
use crate::programs::{AneDevice, Slot};
use crate::staging;

impl<D: AneDevice> Ane<D> {
    /// Mean cross-entropy of the last activation, nats per target; with its gradient when `dx` is there.
    pub(crate) fn classify(&mut self, x: &Act, targets: &[TokenId], mut dx: Option<&mut Act>) -> Result<f32> {
        let count = self.cpu.count_targets(targets)?;
        let ((tokens, seq), dim) = (self.cpu.shape(), self.dims.dim);
        self.settle();
        self.normalise(Role::FinalNorm, None, x);
        self.cpu.host().dnorm[..tokens * dim].fill(0.0);
        let mut sum = 0.0;
        for row in 0..tokens / seq {
            self.logits(row, seq)?;
            let targets = &targets[row * seq..(row + 1) * seq];
            let scale = dx.is_some().then(|| 1.0 / count.max(1) as f32);
            sum += self.cross_entropy(targets, scale);
            if dx.is_some() {
                self.back_classifier(row, seq)?;
            }
        }
        if let Some(dx) = &mut dx {
            dx[..tokens * dim].fill(0.0);
            self.cpu.backward_norm(Role::FinalNorm, None, x, dx);
        }
        Ok((sum / count.max(1) as f64) as f32)
    }

    /// The logits of a sequence, `[seq, vocab]`.
    fn logits(&mut self, row: usize, seq: usize) -> AneResult<()> {
        let (kernel, dim, vocab) = (Kernel::HeadFwd, self.dims.dim, self.dims.vocab);
        let own = row * seq * dim..(row + 1) * seq * dim;
        self.ready(kernel, 0)?;
        let shards = self.programs.shards(kernel);
        for shard in 0..shards {
            let slot = Slot { layer: 0, shard, row: 0 };
            let surface = loop {
                let (surface, place) = self.programs.input(kernel, slot, Part::X);
                staging::write_tokens(&surface, &place, &self.buffers.ffn_norm[own.clone()])?;
                self.run(kernel, slot, |_| Ok(()))?;
                let surface = self.programs.output(kernel, slot, Part::Logits);
                if staging::surface_is_finite(&surface)?
                    || !self.again_unscaled(&[kernel], 0, |b| &b.ffn_norm[own.clone()])?
                {
                    break surface;
                }
            };
            let share = surface.layout().rows();
            let part = &mut self.buffers.part[..seq * share];
            staging::read_tokens(&surface, seq, part)?;
            let columns = staging::part(vocab, shard, shards);
            for (to, from) in self.buffers.logits.chunks_exact_mut(vocab).zip(part.chunks_exact(share)) {
                to[columns.clone()].copy_from_slice(&from[..columns.len()]);
            }
        }
        Ok(())
    }

    /// Sum of the losses of a sequence; turns its logits into the gradient of `scale ·` that sum, when
    /// there is a scale.
    fn cross_entropy(&mut self, targets: &[TokenId], scale: Option<f32>) -> f64 {
        let (vocab, seq) = (self.dims.vocab, targets.len());
        let exec = self.cpu.host().exec;
        let isa = exec.isa;
        let parts = (
            Rows::new(targets, 1),
            RowsMut::new(&mut self.buffers.logits[..seq * vocab], vocab),
            RowsMut::new(&mut self.buffers.losses[..seq], 1),
        );
        exec.pool.each(parts, |_, (target, z, loss)| {
            loss[0] = match (target[0], scale) {
                (TokenId::IGNORE, scale) => {
                    if scale.is_some() {
                        z.fill(0.0);
                    }
                    0.0
                }
                (target, None) => cross_entropy::loss(isa, z, target.0 as usize),
                (target, Some(scale)) => cross_entropy::loss_backward(isa, z, target.0 as usize, scale),
            };
        });
        self.buffers.losses[..seq].iter().map(|&l| f64::from(l)).sum()
    }

    /// `dnorm += Whᵀ·dlogits`, while `dWh += dlogits·normᵀ` runs.
    fn back_classifier(&mut self, row: usize, seq: usize) -> AneResult<()> {
        let (kernel, dim, vocab) = (Kernel::HeadBwd, self.dims.dim, self.dims.vocab);
        self.ready(kernel, 0)?;
        let shards = self.programs.shards(kernel);
        let share = vocab.div_ceil(shards);
        let lowered = power(-self.plan.choices.scaling.weight);
        let mut first = true;
        for (factor, last) in self.powers(&self.buffers.logits[..seq * vocab]) {
            let mut all_finite = true;
            for shard in 0..shards {
                let slot = Slot { layer: 0, shard, row: 0 };
                let columns = staging::part(vocab, shard, shards);
                let part = &mut self.buffers.part[..seq * share];
                for (to, from) in part.chunks_exact_mut(share).zip(self.buffers.logits.chunks_exact(vocab)) {
                    to.fill(0.0);
                    to.iter_mut().zip(&from[columns.clone()]).for_each(|(to, from)| *to = factor * from);
                }
                let (surface, place) = self.programs.input(kernel, slot, Part::DLogits);
                staging::write_tokens(&surface, &place, part)?;
                let product = std::mem::take(&mut first);
                self.run(kernel, slot, |ane| {
                    if product {
                        ane.classifier_product(row, seq);
                    }
                    Ok(())
                })?;
                let surface = self.programs.output(kernel, slot, Part::Dx);
                let out = &mut self.buffers.out[..seq * dim];
                staging::read_tokens(&surface, seq, out)?;
                all_finite &= staging::finite(out);
                if !all_finite && !last {
                    break;
                }
                self.add_dnorm(row, seq, lowered / factor);
            }
            if all_finite || last {
                return Ok(());
            }
            self.programs.count_retry();
            // Shards that were finite are computed again.
            self.cpu.host().dnorm[row * seq * dim..][..seq * dim].fill(0.0);
        }
        Ok(())
    }

    /// `dWh` of a sequence.
    fn classifier_product(&mut self, row: usize, seq: usize) {
        let (dim, vocab) = (self.dims.dim, self.dims.vocab);
        let host = self.cpu.host();
        let role = if host.config.tied { Role::Embed } else { Role::Head };
        let (dw, into) = host.storage.gradient(role, role, None);
        let dlogits = Mat::new(&self.buffers.logits, seq, vocab);
        let norm = Mat::new(&self.buffers.ffn_norm[row * seq * dim..], seq, dim);
        host.exec.matmul(1.0, dlogits.t(), norm, into, MatMut::new(dw, vocab, dim));
    }
}
