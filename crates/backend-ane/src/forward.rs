//! Attention and feed-forward of a layer: norm, stage, dispatch, residual sum.

use backend::Result;
use backend_cpu::Act;
use model::Role;

use crate::ane::Ane;
use crate::error::AneResult;
use crate::kernels::Kernel;
use crate::packing::Part;
use crate::plan::Ffn;
use crate::programs::{AneDevice, Slot};
use crate::staging;

impl<D: AneDevice> Ane<D> {
    /// `x + a·Wo·sdpa(rope(Wqkv·norm(x)))`.
    pub(crate) fn attention_forward(&mut self, layer: usize, x: Act) -> Result<Act> {
        let mut y = self.cpu.take_act()?;
        self.attention_rows(layer, &x, &mut y)?;
        self.keep(layer, 0, x);
        Ok(y)
    }

    fn attention_rows(&mut self, layer: usize, x: &Act, y: &mut Act) -> AneResult<()> {
        let ((tokens, seq), dim) = (self.cpu.shape(), self.dims.dim);
        y[..tokens * dim].copy_from_slice(&x[..tokens * dim]);
        self.ready(Kernel::SdpaFwd, layer)?;
        self.normalise(Role::AttnNorm, layer, x);
        let shards = self.programs.shards(Kernel::SdpaFwd);
        for row in 0..tokens / seq {
            let own = row * seq * dim..(row + 1) * seq * dim;
            for shard in 0..shards {
                let slot = Slot { layer, shard, row };
                let (surface, place) = self.programs.input(Kernel::SdpaFwd, slot, Part::X);
                staging::write_tokens(&surface, &place, &self.buffers.attn_norm[own.clone()])?;
                self.run(Kernel::SdpaFwd, slot, |ane| {
                    ane.ready(Kernel::WoFwd, layer)?;
                    ane.ffn_kernels().iter().try_for_each(|k| ane.ready(*k, layer))
                })?;
                let attn = self.programs.output(Kernel::SdpaFwd, slot, Part::Attn);
                let whole = Slot { layer, shard: 0, row };
                let (surface, place) = self.programs.input(Kernel::WoFwd, whole, Part::Attn);
                let channels = attn.layout().rows();
                staging::copy_rows(&attn, self.dims.s(), &surface, &place, shard * channels)?;
            }
            let slot = Slot { layer, shard: 0, row };
            self.run(Kernel::WoFwd, slot, |_| Ok(()))?;
            self.add_output(Kernel::WoFwd, slot, seq, &mut y[own])?;
        }
        Ok(())
    }

    /// `x + a·W2·(silu(W1·n) ⊙ W3·n)` with `n = norm(x)`.
    pub(crate) fn ffn_forward(&mut self, layer: usize, x: Act) -> Result<Act> {
        let mut y = self.cpu.take_act()?;
        self.ffn_rows(layer, &x, &mut y)?;
        self.keep(layer, 1, x);
        Ok(y)
    }

    fn ffn_rows(&mut self, layer: usize, x: &Act, y: &mut Act) -> AneResult<()> {
        let ((tokens, seq), dim) = (self.cpu.shape(), self.dims.dim);
        y[..tokens * dim].copy_from_slice(&x[..tokens * dim]);
        // A product that waits would lose its factor.
        self.settle();
        let kernels = self.ffn_kernels();
        kernels.iter().try_for_each(|k| self.ready(*k, layer))?;
        self.normalise(Role::FfnNorm, layer, x);
        for row in 0..tokens / seq {
            let own = row * seq * dim..(row + 1) * seq * dim;
            for shard in 0..self.programs.shards(kernels[0]) {
                let slot = Slot { layer, shard, row };
                let (surface, place) = self.programs.input(kernels[0], slot, Part::X);
                staging::write_tokens(&surface, &place, &self.buffers.ffn_norm[own.clone()])?;
                let first = row == 0 && shard == 0;
                let next = (layer + 1 < self.kept.len()).then_some(layer + 1);
                self.run(kernels[0], slot, |ane| match next {
                    Some(next) if first => ane.ready(Kernel::SdpaFwd, next),
                    _ => Ok(()),
                })?;
                if self.plan.ffn == Ffn::Split {
                    let gated = self.programs.output(Kernel::FfnGateUp, slot, Part::Gated);
                    let (surface, place) = self.programs.input(Kernel::FfnDown, slot, Part::Gated);
                    staging::copy_rows(&gated, self.dims.s(), &surface, &place, 0)?;
                    self.run(Kernel::FfnDown, slot, |_| Ok(()))?;
                }
                self.add_output(kernels[kernels.len() - 1], slot, seq, &mut y[own.clone()])?;
            }
        }
        Ok(())
    }

    /// Adds the block output of a program to `[tokens, dim]`, times the residual scale.
    fn add_output(&mut self, kernel: Kernel, slot: Slot, seq: usize, y: &mut [f32]) -> AneResult<()> {
        let surface = self.programs.output(kernel, slot, Part::Y);
        let out = &mut self.buffers.out[..y.len()];
        staging::read_tokens(&surface, seq, out)?;
        let scale = self.cpu.host().config.residual_scale;
        y.iter_mut().zip(out).for_each(|(y, out)| *y += scale * *out);
        Ok(())
    }
}
