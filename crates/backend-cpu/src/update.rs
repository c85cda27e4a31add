//! The update of parameters: of all of them after the way back, or layer by layer within it.
//!
//! Within it the norm of the whole gradient is not known yet. Clipping then takes the larger of two
//! norms: that of the update before, and that of what this way back has shown so far, which is never
//! above the one looked for. Sources of updates within the way back: Lv et al. 2023, arXiv:2306.09782;
//! PyTorch's tutorial on fusing the optimizer step into the backward pass.

use std::ops::Range;

use backend::{AdamW, Error, Result, Rule, Update};
use model::Slot;

use crate::kernels::{adamw, muon, vector};
use crate::moments::{BLOCK, Chance, Moments};
use crate::packed::Panels;
use crate::params::{ParamIndex, Storage, Tensors};
use crate::pool::Maybe;
use crate::weights::WeightsMut;
use crate::{Cpu, Exec, Rows, RowsMut};

/// Parameters of one task.
pub(crate) const CHUNK: usize = 1 << 14;

/// Where an update within the way back is.
pub(crate) struct Moving {
    /// The one that was announced.
    update: Option<Update>,
    /// Sum of the squared gradients so far.
    squares: f64,
    /// Whether all of this way back was finite; weights stay where they are from then on.
    pub(crate) sound: bool,
    /// The norm of the update before.
    norm: f32,
}

impl Default for Moving {
    fn default() -> Self {
        Self { update: None, squares: 0.0, sound: true, norm: 0.0 }
    }
}

impl Cpu {
    /// The update after the way back.
    pub(crate) fn update_all(&mut self, update: &Update) -> Result<f32> {
        self.reserve_muon(update)?;
        let all = 0..self.storage.layout.table().len();
        let norm = (self.squares(all.clone()).sqrt() * f64::from(update.grad_scale)) as f32;
        if norm.is_finite() {
            self.move_weights(update, norm, all.clone());
        }
        self.storage.clear_gradients(all);
        Ok(norm)
    }

    /// Prepares the update within the next way back.
    pub(crate) fn begin_update(&mut self, update: &Update, norm: f32) -> Result<()> {
        if self.plan.update_in_backward {
            self.reserve_muon(update)?;
            let update = Some(update.clone());
            self.moving = Moving { update, squares: 0.0, sound: true, norm };
        }
        Ok(())
    }

    /// Moves the weights of a layer that the way back has left, or those outside of all layers.
    pub(crate) fn move_layer(&mut self, layer: Option<usize>) -> Result<()> {
        if !self.plan.update_in_backward {
            return Ok(());
        }
        let Some(update) = self.moving.update.clone() else {
            return Err(not_announced("the way back began without `announce`"));
        };
        let spans = self.storage.layout.of_layer(layer);
        for span in &spans {
            self.moving.squares += self.squares(span.clone());
        }
        let so_far = (self.moving.squares.sqrt() * f64::from(update.grad_scale)) as f32;
        self.moving.sound &= so_far.is_finite();
        for span in spans {
            if self.moving.sound {
                self.move_weights(&update, so_far.max(self.moving.norm), span.clone());
            }
            self.storage.clear_gradients(span);
        }
        Ok(())
    }

    /// Ends the update that [`Cpu::begin_update`] began: its norm, which is not finite when it stopped.
    pub(crate) fn end_update(&mut self, update: &Update) -> Result<f32> {
        if self.moving.update.take().as_ref() != Some(update) {
            return Err(not_announced("`update` is not the one that was announced"));
        }
        if !self.moving.sound {
            return Ok(f32::NAN);
        }
        Ok((self.moving.squares.sqrt() * f64::from(update.grad_scale)) as f32)
    }

    fn reserve_muon(&mut self, update: &Update) -> Result<()> {
        for p in self.storage.layout.table() {
            if let Rule::Muon(_) = update.rules.of(p.group) {
                self.muon.reserve(p.shape[0], p.len() / p.shape[0])?;
            }
        }
        Ok(())
    }

    /// The sum of the squared gradients of neighbouring parameters: what products kept, and the others read.
    fn squares(&mut self, span: Range<ParamIndex>) -> f64 {
        let isa = self.exec.isa;
        let mut total = 0.0;
        for (span, kept) in self.storage.pieces(span) {
            let gradients = self.storage.settle(span);
            total += kept.unwrap_or_else(|| {
                let squares = &mut self.scratch.squares[..gradients.len().div_ceil(CHUNK)];
                self.exec.pool.each(
                    (Rows::new(gradients, CHUNK), RowsMut::new(squares, 1)),
                    |_, (g, sum)| {
                        sum[0] = vector::sum_of_squares(isa, g);
                    },
                );
                squares.iter().sum()
            });
        }
        total
    }

    fn move_weights(&mut self, update: &Update, norm: f32, span: Range<ParamIndex>) {
        apply(&mut self.exec, &mut self.storage, &mut self.muon, update, update.factor(norm), span);
    }
}

fn not_announced(what: &str) -> Error {
    let message = format!(
        "{what}; a backend that updates in the backward pass takes one micro-batch per update, and is told of \
         the update before it"
    );
    Error::Device { device: "cpu", source: message.into() }
}

/// Moves neighbouring parameters, with gradients times `factor`: neighbours of the same AdamW in one go,
/// matrices of Muon and packed matrices one by one.
fn apply(
    exec: &mut Exec,
    storage: &mut Storage,
    scratch: &mut muon::Scratch,
    update: &Update,
    factor: f32,
    span: Range<ParamIndex>,
) {
    storage.weights_changed(storage.layout.around(span.clone()));
    let chance = Chance::new(update.step);
    let params: Vec<_> = storage
        .layout
        .table()
        .iter()
        .filter(|p| span.contains(&p.id.index()))
        .map(|p| (storage.layout.range(p.id), p.shape[0], update.rules.of(p.group)))
        .collect();
    let mut first = 0;
    while let Some((place, rows, rule)) = params.get(first).cloned() {
        let mut place = place;
        let mut next = first + 1;
        match rule {
            Rule::AdamW(adamw) => {
                let packed = storage.packed_from(place.start).map(|len| place.start + len);
                while let Some((range, _, other)) = params.get(next) {
                    let joins = match packed {
                        Some(end) => range.end <= end,
                        None => {
                            *other == rule
                                && storage.packed_from(range.start).is_none()
                                && storage.joins(span.start + first, span.start + next)
                        }
                    };
                    if !joins {
                        break;
                    }
                    place.end = range.end;
                    next += 1;
                }
                move_by_adamw(
                    exec,
                    storage,
                    &adamw,
                    update.step,
                    factor,
                    chance,
                    (span.start + first, place),
                );
            }
            Rule::Muon(rule) => {
                let shape = (rows, storage.order(span.start + first));
                let Tensors { gradients, weights, moments, .. } =
                    storage.tensors(span.start + first, place.clone());
                let mut wide = vec![0.0; if let WeightsMut::Bf16(w) = &weights { w.len() } else { 0 }];
                let (isa, at) = (exec.isa, chance.of_weights().at(place.start));
                let change = |weights: &mut [f32]| {
                    if let Moments::F32([m, _]) = moments {
                        muon::update(exec, &rule, factor, shape, gradients, weights, &mut m[place], scratch);
                    } else {
                        let mut m = moments.read(place.clone(), Slot::Moment1).into_owned();
                        muon::update(exec, &rule, factor, shape, gradients, weights, &mut m, scratch);
                        moments.write(exec.isa, place, Slot::Moment1, &m, chance);
                    }
                };
                weights.change(isa, at, &mut wide, change, |_| ());
            }
        }
        first = next;
    }
}

/// Moves a place, and packs it while it is in the cache.
fn move_by_adamw(
    exec: &Exec,
    storage: &mut Storage,
    rule: &AdamW,
    step: u64,
    factor: f32,
    chance: Chance,
    (first, place): (ParamIndex, Range<usize>),
) {
    let (isa, f) = (exec.isa, adamw::Factors::new(rule, step, factor));
    let Tensors { gradients, weights, packed, moments } = storage.tensors(first, place.clone());
    let panels = packed.and_then(|packed| packed.panels(place.start));
    let chunk = panels.as_ref().map_or(CHUNK, Panels::weights);
    let count = place.len().div_ceil(chunk);
    let (packer, panels) = panels.map(Panels::split).unzip();
    let for_weights = |part: usize| chance.of_weights().at(place.start + part * chunk);
    type Part<'a> = (WeightsMut<'a>, Option<&'a mut [u32]>, &'a mut [f32]);
    let change_and_pack = |part: usize, (w, panel, scratch): Part<'_>, change: &mut dyn FnMut(&mut [f32])| {
        let (wide, scratch) = scratch.split_at_mut(chunk);
        w.change(isa, for_weights(part), wide, change, |w| {
            if let (Some(packer), Some(panel)) = (packer, panel) {
                packer.pack(w, scratch, panel);
            }
        });
    };
    let chance = |part: usize| chance.at(place.start + part * chunk);
    let parts = (Rows::new(gradients, chunk), weights.parts(chunk), Maybe::new(panels, count));
    match moments {
        Moments::F32([m, v]) => {
            let (m, v) = (&mut m[place.clone()], &mut v[place.clone()]);
            let moments = (RowsMut::new(m, chunk), RowsMut::new(v, chunk));
            exec.pool.each_with_scratch((parts, moments), |part, ((g, w, panel), (m, v)), scratch| {
                let mut change = |w: &mut [f32]| adamw::update(isa, &f, g, w, m, v);
                change_and_pack(part, (w, panel, scratch), &mut change);
            });
        }
        Moments::Bf16([m, v]) => {
            let (m, v) = (&mut m[place.clone()], &mut v[place.clone()]);
            let moments = (RowsMut::new(m, chunk), RowsMut::new(v, chunk));
            exec.pool.each_with_scratch((parts, moments), |part, ((g, w, panel), (m, v)), scratch| {
                let mut change = |w: &mut [f32]| adamw::update_bf16(isa, &f, chance(part), g, w, m, v);
                change_and_pack(part, (w, panel, scratch), &mut change);
            });
        }
        Moments::Q8 { m, exponents, v } => {
            let exponents = &mut exponents[place.start / BLOCK..place.end.div_ceil(BLOCK)];
            let (m, v) = (&mut m[place.clone()], &mut v[place.clone()]);
            let moments =
                (RowsMut::new(m, chunk), RowsMut::new(exponents, chunk / BLOCK), RowsMut::new(v, chunk));
            exec.pool.each_with_scratch((parts, moments), |part, ((g, w, panel), (m, e, v)), scratch| {
                let mut change = |w: &mut [f32]| adamw::update_q8(isa, &f, chance(part), g, w, m, e, v);
                change_and_pack(part, (w, panel, scratch), &mut change);
            });
        }
    }
}
