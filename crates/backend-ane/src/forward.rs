//! Attention and feed-forward of a layer: norm, stage, dispatch, residual sum.

use std::ops::Range;

use backend::Result;
use backend_cpu::Act;
use model::Role;

use crate::ane::{Ane, Buffers};
use crate::error::{AneError, AneResult};
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
        self.normalise(Role::AttnNorm, Some(layer), x);
        let shards = self.programs.shards(Kernel::SdpaFwd);
        for row in 0..tokens / seq {
            let own = row * seq * dim..(row + 1) * seq * dim;
            let mut finite = true;
            for shard in 0..shards {
                finite &= self.heads(Slot { layer, shard, row }, own.clone())?;
            }
            self.output(Slot { layer, shard: 0, row }, seq, finite, &mut y[own])?;
        }
        Ok(())
    }

    /// Projections and attention of a shard of the heads, for the rows `own` of the norm; whether all of
    /// it is finite.
    fn heads(&mut self, slot: Slot, own: Range<usize>) -> AneResult<bool> {
        let (kernel, layer) = (Kernel::SdpaFwd, slot.layer);
        let mut first = true;
        loop {
            let (surface, place) = self.programs.input(kernel, slot, Part::X);
            staging::write_tokens(&surface, &place, &self.buffers.attn_norm[own.clone()])?;
            let first = std::mem::take(&mut first);
            self.run(kernel, slot, |ane| {
                if !first {
                    return Ok(());
                }
                ane.ready(Kernel::WoFwd, layer)?;
                ane.ffn_kernels().iter().try_for_each(|k| ane.ready(*k, layer))
            })?;
            // Infinite values show in `attn`; infinite queries and keys need not.
            let parts = [Part::Attn, Part::Q, Part::K];
            let finite = parts.into_iter().try_fold(true, |finite, part| {
                let surface = self.programs.output(kernel, slot, part);
                Ok::<_, AneError>(finite && staging::surface_is_finite(&surface)?)
            })?;
            if finite || !self.again_unscaled(&[kernel], layer, |b| &b.attn_norm[own.clone()])? {
                return Ok(finite);
            }
        }
    }

    /// Adds `Wo·attn` of all shards to `y`. `finite` says whether `attn` is.
    fn output(&mut self, slot: Slot, seq: usize, finite: bool, y: &mut [f32]) -> AneResult<()> {
        let kernel = Kernel::WoFwd;
        loop {
            for shard in 0..self.programs.shards(Kernel::SdpaFwd) {
                let attn = self.programs.output(Kernel::SdpaFwd, Slot { shard, ..slot }, Part::Attn);
                let (surface, place) = self.programs.input(kernel, slot, Part::Attn);
                let channels = attn.layout().rows();
                staging::copy_rows(&attn, self.dims.s(), &surface, &place, shard * channels)?;
            }
            self.run(kernel, slot, |_| Ok(()))?;
            let out = self.read_output(kernel, slot, seq, y.len())?;
            let again = finite && !staging::finite(out);
            if !again || !self.again_unscaled(&[kernel], slot.layer, |_| &[])? {
                self.add_output(y);
                return Ok(());
            }
        }
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
        self.normalise(Role::FfnNorm, Some(layer), x);
        for row in 0..tokens / seq {
            let own = row * seq * dim..(row + 1) * seq * dim;
            for shard in 0..self.programs.shards(kernels[0]) {
                let slot = Slot { layer, shard, row };
                let next = (layer + 1 < self.kept.len()).then_some(layer + 1);
                self.feed_forward(slot, seq, own.clone(), next.filter(|_| row == 0 && shard == 0))?;
                self.add_output(&mut y[own.clone()]);
            }
        }
        Ok(())
    }

    /// A shard of the feed-forward for the rows `own` of the norm, to [`Buffers::out`]; meanwhile the
    /// attention of layer `next` is made ready.
    fn feed_forward(
        &mut self,
        slot: Slot,
        seq: usize,
        own: Range<usize>,
        mut next: Option<usize>,
    ) -> AneResult<()> {
        let kernels = self.ffn_kernels();
        loop {
            let (surface, place) = self.programs.input(kernels[0], slot, Part::X);
            staging::write_tokens(&surface, &place, &self.buffers.ffn_norm[own.clone()])?;
            let next = next.take();
            self.run(kernels[0], slot, |ane| match next {
                Some(next) => ane.ready(Kernel::SdpaFwd, next),
                None => Ok(()),
            })?;
            if self.plan.ffn == Ffn::Split {
                let gated = self.programs.output(Kernel::FfnGateUp, slot, Part::Gated);
                let (surface, place) = self.programs.input(Kernel::FfnDown, slot, Part::Gated);
                staging::copy_rows(&gated, self.dims.s(), &surface, &place, 0)?;
                self.run(Kernel::FfnDown, slot, |_| Ok(()))?;
            }
            let out = self.read_output(kernels[kernels.len() - 1], slot, seq, own.len())?;
            let finite = staging::finite(out);
            if finite || !self.again_unscaled(kernels, slot.layer, |b| &b.ffn_norm[own.clone()])? {
                return Ok(());
            }
        }
    }

    /// After an overflow: makes the programs of a block ready without powers of two. False when they had
    /// none, or when `input` is not finite, so that nothing would help.
    pub(crate) fn again_unscaled(
        &mut self,
        kernels: &[Kernel],
        layer: usize,
        input: impl FnOnce(&Buffers) -> &[f32],
    ) -> AneResult<bool> {
        if !staging::finite(input(&self.buffers)) || !self.programs.unscale(kernels[0], layer) {
            return Ok(false);
        }
        self.programs.count_retry();
        kernels.iter().try_for_each(|k| self.ready(*k, layer))?;
        Ok(true)
    }

    /// Reads the block output of a program to [`Buffers::out`].
    fn read_output(&mut self, kernel: Kernel, slot: Slot, seq: usize, n: usize) -> AneResult<&[f32]> {
        let surface = self.programs.output(kernel, slot, Part::Y);
        let out = &mut self.buffers.out[..n];
        staging::read_tokens(&surface, seq, out)?;
        Ok(out)
    }

    /// Adds [`Buffers::out`] to `[tokens, dim]`, times the residual scale.
    fn add_output(&mut self, y: &mut [f32]) {
        let scale = self.cpu.host().config.residual_scale;
        y.iter_mut().zip(&*self.buffers.out).for_each(|(y, out)| *y += scale * *out);
    }
}
