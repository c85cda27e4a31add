//! The way back through a layer.
//!
//! Every program of it is linear in the gradient it gets, so each dispatch stages that gradient times
//! a power of two of its own and divides the result by it, in f32. A result that is not finite is
//! computed again with a smaller one.

use backend::Result;
use backend_cpu::kernels::swiglu;
use backend_cpu::{Act, Mat, MatMut, Rows, RowsMut};
use model::Role;

use crate::ane::{Ane, GateUp};
use crate::error::AneResult;
use crate::kernels::{Kernel, power};
use crate::packing::Part;
use crate::programs::{AneDevice, Slot};
use crate::staging;

/// How often a gradient that overflows is staged again, each time 2⁻⁶ smaller.
const RETRIES: u32 = 4;
const STEP_DOWN: f32 = 1.0 / 64.0;

impl<D: AneDevice> Ane<D> {
    /// The powers of two to try for a gradient.
    pub(crate) fn powers(&self, gradient: &[f32]) -> impl Iterator<Item = (f32, bool)> + use<D> {
        let first = match self.plan.choices.scaling.gradient {
            Some(target) => staging::power_for(gradient, target),
            None => 1.0,
        };
        // What is not finite already stays so.
        let tries = if staging::finite(gradient) { RETRIES } else { 0 };
        (0..=tries).map(move |n| (first * STEP_DOWN.powi(n as i32), n == tries))
    }

    /// The factor on what a block adds to the residual stream.
    fn residual_scale(&mut self) -> f32 {
        self.cpu.host().config.residual_scale
    }

    /// Gradient through the feed-forward.
    pub(crate) fn ffn_back(&mut self, layer: usize, mut dy: Act) -> Result<Act> {
        let x = self.take_kept(layer, 1)?;
        self.settle();
        self.ffn_back_rows(layer, &x, &dy)?;
        self.cpu.backward_norm(Role::FfnNorm, Some(layer), &x, &mut dy);
        self.cpu.put_act(x);
        Ok(dy)
    }

    fn ffn_back_rows(&mut self, layer: usize, x: &Act, dy: &Act) -> AneResult<()> {
        let ((tokens, seq), dim) = (self.cpu.shape(), self.dims.dim);
        self.ready(Kernel::FfnBwdW2, layer)?;
        self.normalise(Role::FfnNorm, Some(layer), x);
        self.cpu.host().dnorm[..tokens * dim].fill(0.0);
        for row in 0..tokens / seq {
            let own = row * seq * dim..(row + 1) * seq * dim;
            self.back_down(layer, row, seq, &dy[own.clone()])?;
            self.back_gate(layer, row, seq)?;
            self.back_gate_up(layer, row, seq, &dy[own])?;
            self.pending = Some(GateUp { layer, row });
        }
        Ok(())
    }

    /// `dgated = a·W2ᵀ·dy`, while the products of the sequence before it run.
    fn back_down(&mut self, layer: usize, row: usize, seq: usize, dy: &[f32]) -> AneResult<()> {
        let shards = self.programs.shards(Kernel::FfnBwdW2);
        let share = self.dims.hidden / shards * seq;
        let lowered = self.residual_scale() * power(-self.plan.choices.scaling.weight);
        for (factor, last) in self.powers(dy) {
            self.scale(dy, factor);
            for shard in 0..shards {
                let slot = Slot { layer, shard, row };
                let (surface, place) = self.programs.input(Kernel::FfnBwdW2, slot, Part::Dy);
                staging::write_tokens(&surface, &place, &self.buffers.scaled[..dy.len()])?;
                self.run(Kernel::FfnBwdW2, slot, |ane| {
                    ane.settle();
                    ane.ready(Kernel::FfnBwdW13, layer)
                })?;
                let surface = self.programs.output(Kernel::FfnBwdW2, slot, Part::DGated);
                staging::read_channels(&surface, seq, &mut self.buffers.gated[shard * share..][..share])?;
            }
            let gated = &mut self.buffers.gated[..shards * share];
            if last || staging::finite(gated) {
                let back = lowered / factor;
                gated.iter_mut().for_each(|g| *g *= back);
                return Ok(());
            }
            self.programs.count_retry();
        }
        Ok(())
    }

    /// Through the gate, on the host: `dh1` and `dh3` from `h1`, `h3` and `dgated`, which becomes `gated`.
    fn back_gate(&mut self, layer: usize, row: usize, seq: usize) -> AneResult<()> {
        let (hidden, kernel) = (self.dims.hidden, self.ffn_kernels()[0]);
        let shards = self.programs.shards(kernel);
        let share = hidden / shards * seq;
        for shard in 0..shards {
            for (half, part) in [Part::H1, Part::H3].into_iter().enumerate() {
                let surface = self.programs.output(kernel, Slot { layer, shard, row }, part);
                let first = half * hidden * seq + shard * share;
                staging::read_channels(&surface, seq, &mut self.buffers.h[first..first + share])?;
            }
        }
        let n = hidden * seq;
        let (h1, h3) = self.buffers.h[..2 * n].split_at_mut(n);
        let exec = self.cpu.host().exec;
        let (isa, len) = (exec.isa, 16 * seq);
        let parts =
            (RowsMut::new(h1, len), RowsMut::new(h3, len), RowsMut::new(&mut self.buffers.gated[..n], len));
        exec.pool.each(parts, |_, (h1, h3, dy)| swiglu::backward(isa, h1, h3, dy));
        Ok(())
    }

    /// `dnorm += W1ᵀ·dh1 + W3ᵀ·dh3`, while `dW2 += a·dy·gatedᵀ` runs.
    fn back_gate_up(&mut self, layer: usize, row: usize, seq: usize, dy: &[f32]) -> AneResult<()> {
        let (dim, hidden) = (self.dims.dim, self.dims.hidden);
        let shards = self.programs.shards(Kernel::FfnBwdW13);
        let (n, share) = (hidden * seq, hidden / shards * seq);
        let lowered = power(-self.plan.choices.scaling.weight);
        let mut first = true;
        for (factor, last) in self.powers(&self.buffers.h[..2 * n]) {
            self.scale_h(2 * n, factor);
            let mut all_finite = true;
            for shard in 0..shards {
                let slot = Slot { layer, shard, row };
                for (half, part) in [Part::Dh1, Part::Dh3].into_iter().enumerate() {
                    let (surface, place) = self.programs.input(Kernel::FfnBwdW13, slot, part);
                    let from = half * n + shard * share;
                    staging::write_channels(&surface, &place, &self.buffers.scaled[from..from + share])?;
                }
                let down = std::mem::take(&mut first);
                self.run(Kernel::FfnBwdW13, slot, |ane| {
                    if down {
                        let host = ane.cpu.host();
                        let scale = host.config.residual_scale;
                        let (dw, into) = host.storage.gradient(Role::Down, Role::Down, Some(layer));
                        let gated = Mat::new(&ane.buffers.gated, hidden, seq);
                        let dy = Mat::new(dy, seq, dim);
                        host.exec.matmul(scale, dy.t(), gated.t(), into, MatMut::new(dw, dim, hidden));
                    }
                    ane.ready(Kernel::WoBwd, layer)
                })?;
                let surface = self.programs.output(Kernel::FfnBwdW13, slot, Part::Dx);
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

    /// Gradient through attention.
    pub(crate) fn attention_back(&mut self, layer: usize, mut dy: Act) -> Result<Act> {
        let x = self.take_kept(layer, 0)?;
        self.attention_back_rows(layer, &x, &dy)?;
        self.cpu.backward_norm(Role::AttnNorm, Some(layer), &x, &mut dy);
        self.cpu.put_act(x);
        Ok(dy)
    }

    fn attention_back_rows(&mut self, layer: usize, x: &Act, dy: &Act) -> AneResult<()> {
        let ((tokens, seq), dim) = (self.cpu.shape(), self.dims.dim);
        self.ready(Kernel::WoBwd, layer)?;
        self.programs.load(Kernel::SdpaBwdV, layer)?;
        self.programs.load(Kernel::SdpaBwdQk, layer)?;
        self.normalise(Role::AttnNorm, Some(layer), x);
        for row in 0..tokens / seq {
            let dy = &dy[row * seq * dim..(row + 1) * seq * dim];
            self.back_out(layer, row, seq, dy)?;
            self.back_heads(layer, row, seq, dy)?;
        }
        self.cpu.backward_rotation(layer);
        self.ready(Kernel::QBwd, layer)?;
        self.cpu.host().dnorm[..tokens * dim].fill(0.0);
        for row in 0..tokens / seq {
            let (q, kv) = (self.dims.q_dim(), self.dims.kv_dim());
            self.back_projection(Kernel::QBwd, &[(Part::Dq, 0, q)], layer, row, seq)?;
            self.back_projection(
                Kernel::KvBwd,
                &[(Part::Dk, q, kv), (Part::Dv, q + kv, kv)],
                layer,
                row,
                seq,
            )?;
        }
        Ok(())
    }

    /// `da = a·Woᵀ·dy`, while the products of the feed-forward run.
    fn back_out(&mut self, layer: usize, row: usize, seq: usize, dy: &[f32]) -> AneResult<()> {
        let n = self.dims.q_dim() * seq;
        let slot = Slot { layer, shard: 0, row };
        let lowered = self.residual_scale() * power(-self.plan.choices.scaling.weight);
        for (factor, last) in self.powers(dy) {
            self.scale(dy, factor);
            let (surface, place) = self.programs.input(Kernel::WoBwd, slot, Part::Dy);
            staging::write_tokens(&surface, &place, &self.buffers.scaled[..dy.len()])?;
            self.run(Kernel::WoBwd, slot, |ane| {
                ane.settle();
                ane.ready(Kernel::QBwd, layer)?;
                ane.ready(Kernel::KvBwd, layer)
            })?;
            let surface = self.programs.output(Kernel::WoBwd, slot, Part::Da);
            let da = &mut self.buffers.da[..n];
            staging::read_channels(&surface, seq, da)?;
            if last || staging::finite(da) {
                let back = lowered / factor;
                da.iter_mut().for_each(|d| *d *= back);
                return Ok(());
            }
            self.programs.count_retry();
        }
        Ok(())
    }

    /// Through the heads, to the rows of `dqkv`, while `dWo += a·dy·attnᵀ` runs.
    fn back_heads(&mut self, layer: usize, row: usize, seq: usize, dy: &[f32]) -> AneResult<()> {
        let (dim, q, kv) = (self.dims.dim, self.dims.q_dim(), self.dims.kv_dim());
        let shards = self.programs.shards(Kernel::SdpaBwdV);
        let share = q / shards * seq;
        for shard in 0..shards {
            let slot = Slot { layer, shard, row };
            let surface = self.programs.output(Kernel::SdpaFwd, slot, Part::Attn);
            staging::read_channels(&surface, seq, &mut self.buffers.attn[shard * share..][..share])?;
            if !self.cpu.host().raw.is_empty() {
                for (part, first, channels) in [(Part::QRaw, 0, q), (Part::KRaw, q, kv)] {
                    let surface = self.programs.output(Kernel::SdpaFwd, slot, part);
                    let out = &mut self.buffers.out[..channels / shards * seq];
                    staging::read_tokens(&surface, seq, out)?;
                    let raw = &mut self.cpu.host().raw[row * seq * (q + kv)..];
                    columns(out, raw, channels / shards, q + kv, first + shard * (channels / shards), 1.0);
                }
            }
        }
        let mut first = true;
        for (factor, last) in self.powers(&self.buffers.da[..q * seq]) {
            let scaled = &mut self.buffers.scaled[..q * seq];
            scaled.iter_mut().zip(&*self.buffers.da).for_each(|(s, d)| *s = factor * d);
            let mut all_finite = true;
            for shard in 0..shards {
                let slot = Slot { layer, shard, row };
                let (surface, place) = self.programs.input(Kernel::SdpaBwdV, slot, Part::Da);
                staging::write_channels(&surface, &place, &self.buffers.scaled[shard * share..][..share])?;
                let out = std::mem::take(&mut first);
                self.run(Kernel::SdpaBwdV, slot, |ane| {
                    if out {
                        let host = ane.cpu.host();
                        let scale = host.config.residual_scale;
                        let (dw, into) = host.storage.gradient(Role::O, Role::O, Some(layer));
                        let attn = Mat::new(&ane.buffers.attn, q, seq);
                        let dy = Mat::new(dy, seq, dim);
                        host.exec.matmul(scale, dy.t(), attn.t(), into, MatMut::new(dw, dim, q));
                    }
                    Ok(())
                })?;
                self.run(Kernel::SdpaBwdQk, slot, |_| Ok(()))?;
                for (kernel, part, from, channels) in [
                    (Kernel::SdpaBwdQk, Part::Dq, 0, q),
                    (Kernel::SdpaBwdQk, Part::Dk, q, kv),
                    (Kernel::SdpaBwdV, Part::Dv, q + kv, kv),
                ] {
                    let channels = channels / shards;
                    let surface = self.programs.output(kernel, slot, part);
                    let out = &mut self.buffers.out[..channels * seq];
                    staging::read_tokens(&surface, seq, out)?;
                    all_finite &= staging::finite(out);
                    let width = q + 2 * kv;
                    let dqkv = &mut self.cpu.host().dqkv[row * seq * width..];
                    columns(out, dqkv, channels, width, from + shard * channels, 1.0 / factor);
                }
            }
            if all_finite || last {
                return Ok(());
            }
            self.programs.count_retry();
        }
        Ok(())
    }

    /// Adds what comes back through query, or key and value, projections to `dnorm`, while the products
    /// of all three run once.
    fn back_projection(
        &mut self,
        kernel: Kernel,
        parts: &[(Part, usize, usize)],
        layer: usize,
        row: usize,
        seq: usize,
    ) -> AneResult<()> {
        let (dim, width) = (self.dims.dim, self.dims.q_dim() + 2 * self.dims.kv_dim());
        let slot = Slot { layer, shard: 0, row };
        let lowered = power(-self.plan.choices.scaling.weight);
        let mut end = 0;
        for &(_, first, channels) in parts {
            let dqkv = &self.cpu.host().dqkv[row * seq * width..][..seq * width];
            let to = &mut self.buffers.scaled[end..end + seq * channels];
            for (to, row) in to.chunks_exact_mut(channels).zip(dqkv.chunks_exact(width)) {
                to.copy_from_slice(&row[first..first + channels]);
            }
            end += seq * channels;
        }
        let mut before = 1.0;
        let mut products = kernel == Kernel::QBwd && row == 0;
        for (factor, last) in self.powers(&self.buffers.scaled[..end]) {
            let change = factor / before;
            self.buffers.scaled[..end].iter_mut().for_each(|s| *s *= change);
            before = factor;
            let mut start = 0;
            for &(part, _, channels) in parts {
                let (surface, place) = self.programs.input(kernel, slot, part);
                staging::write_tokens(&surface, &place, &self.buffers.scaled[start..start + seq * channels])?;
                start += seq * channels;
            }
            let now = std::mem::take(&mut products);
            self.run(kernel, slot, |ane| {
                if now {
                    ane.qkv_products(layer);
                }
                Ok(())
            })?;
            let surface = self.programs.output(kernel, slot, Part::Dx);
            let out = &mut self.buffers.out[..seq * dim];
            staging::read_tokens(&surface, seq, out)?;
            if last || staging::finite(out) {
                self.add_dnorm(row, seq, lowered / factor);
                return Ok(());
            }
            self.programs.count_retry();
        }
        Ok(())
    }

    /// `dWq`, `dWk` and `dWv` of the micro-batch.
    fn qkv_products(&mut self, layer: usize) {
        let ((tokens, _), dim) = (self.cpu.shape(), self.dims.dim);
        let width = self.dims.q_dim() + 2 * self.dims.kv_dim();
        let host = self.cpu.host();
        let (dw, into) = host.storage.gradient(Role::Q, Role::V, Some(layer));
        let (d, norm) = (Mat::new(host.dqkv, tokens, width), Mat::new(&self.buffers.attn_norm, tokens, dim));
        host.exec.matmul(1.0, d.t(), norm, into, MatMut::new(dw, width, dim));
    }

    /// Does the product that waits: `dW1` and `dW3` of a sequence.
    pub(crate) fn settle(&mut self) {
        let Some(GateUp { layer, row }) = self.pending.take() else { return };
        let ((_, seq), dim, hidden) = (self.cpu.shape(), self.dims.dim, self.dims.hidden);
        let host = self.cpu.host();
        let (dw, into) = host.storage.gradient(Role::Gate, Role::Up, Some(layer));
        let dh = Mat::new(&self.buffers.h, 2 * hidden, seq);
        let norm = Mat::new(&self.buffers.ffn_norm[row * seq * dim..], seq, dim);
        host.exec.matmul(1.0, dh, norm, into, MatMut::new(dw, 2 * hidden, dim));
    }

    fn scale(&mut self, x: &[f32], factor: f32) {
        self.buffers.scaled.iter_mut().zip(x).for_each(|(s, x)| *s = factor * x);
    }

    fn scale_h(&mut self, n: usize, factor: f32) {
        let exec = self.cpu.host().exec;
        const CHUNK: usize = 1 << 14;
        let parts =
            (RowsMut::new(&mut self.buffers.scaled[..n], CHUNK), Rows::new(&self.buffers.h[..n], CHUNK));
        exec.pool.each(parts, |_, (s, h)| s.iter_mut().zip(h).for_each(|(s, h)| *s = factor * h));
    }

    /// Adds `factor ·` the output of a program to a sequence's rows of `dnorm`.
    pub(crate) fn add_dnorm(&mut self, row: usize, seq: usize, factor: f32) {
        let n = seq * self.dims.dim;
        let dnorm = &mut self.cpu.host().dnorm[row * n..(row + 1) * n];
        dnorm.iter_mut().zip(&*self.buffers.out).for_each(|(d, out)| *d += factor * out);
    }
}

/// Writes `factor · [tokens, channels]` to columns of rows of `width`.
fn columns(from: &[f32], to: &mut [f32], channels: usize, width: usize, first: usize, factor: f32) {
    for (from, to) in from.chunks_exact(channels).zip(to.chunks_mut(width)) {
        to[first..first + channels].iter_mut().zip(from).for_each(|(t, f)| *t = factor * f);
    }
}
