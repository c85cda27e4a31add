//! The update of parameters: of all of them after the way back, or layer by layer within it.
//!
//! After the way back, parameters outside of layers and those of the first layer move at once, the others when they are
//! needed: each layer moves beside the products of the layer before, in the next forward pass. AdamW waits for
//! memory, and products compute. No bit depends on it, and whoever asks for a parameter finds it moved.
//!
//! Within the way back the norm of the whole gradient is not known yet. Clipping then takes the larger of two
//! norms: that of the update before, and that of what this way back has shown so far, which is never
//! above the one looked for. Sources of updates within the way back: Lv et al. 2023, arXiv:2306.09782;
//! PyTorch's tutorial on fusing the optimizer step into the backward pass.

use std::ops::{Range, RangeTo};

use backend::{Error, Result, Rule, Update};
use model::{Role, Slot};

use crate::kernels::{adamw, muon, vector};
use crate::moments::{BLOCK, Chance, Moments};
use crate::packed::Panels;
use crate::params::{ParamIndex, Storage, Tensors};
use crate::pool::{Beside, Chore, Maybe};
use crate::weights::WeightsMut;
use crate::{Cpu, Exec, Isa, Rows, RowsMut};

/// Parameters of one task.
pub(crate) const CHUNK: usize = 1 << 14;

/// An update after the way back that has not moved everything.
pub(crate) struct Pending {
    update: Update,
    /// What gradients are multiplied by.
    factor: f32,
    /// What is left.
    left: Range<ParamIndex>,
}

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
        self.finish_update();
        self.reserve_muon(update)?;
        let all = 0..self.storage.layout.table().len();
        let norm = (self.squares(all.clone()).sqrt() * f64::from(update.grad_scale)) as f32;
        let later = if norm.is_finite() { self.later(update) } else { 0..0 };
        for now in [all.start..later.start, later.end..all.end] {
            if norm.is_finite() {
                self.move_weights(update, norm, now.clone());
            }
            self.storage.clear_gradients(now);
        }
        let factor = update.factor(norm);
        self.pending = (!later.is_empty()).then(|| Pending { update: update.clone(), factor, left: later });
        Ok(norm)
    }

    /// What an update may leave to the next forward pass: parameters of AdamW in all layers but the first. A plan that keeps
    /// matrices by rows does so for a device, which reads weights without asking this backend.
    fn later(&self, update: &Update) -> Range<ParamIndex> {
        let table = self.storage.layout.table();
        let of_layer = |p: &model::Param| p.layer.is_some_and(|layer| layer > 0);
        let start = table.iter().position(of_layer);
        let (Some(start), false) = (start, self.plan.by_rows) else { return 0..0 };
        let end = table.iter().rposition(of_layer).map_or(start, |last| last + 1);
        let by_adamw = |p: &model::Param| matches!(update.rules.of(p.group), Rule::AdamW(_));
        if table.iter().filter(|p| of_layer(p)).all(by_adamw) { start..end } else { 0..0 }
    }

    /// Moves what the last update has left.
    pub(crate) fn finish_update(&mut self) {
        self.finish_update_of(..self.config.layers);
    }

    /// Moves what the last update has left of these layers.
    pub(crate) fn finish_update_of(&mut self, layers: RangeTo<usize>) {
        let Some(Pending { update, factor, left }) = self.pending.take() else { return };
        let end = self.storage.layout.of_product(Role::Down, layers.end - 1).end.max(left.start);
        let (now, later) = (left.start..end, end..left.end);
        apply(&mut self.exec, &mut self.storage, &mut self.muon, &update, factor, now.clone());
        self.storage.clear_gradients(now);
        self.pending = (!later.is_empty()).then_some(Pending { update, factor, left: later });
    }

    /// What moves the parameters of this product of the layer behind `layer`, if the last update has left them: for
    /// threads to do beside the same product of `layer`.
    ///
    /// # Safety
    ///
    /// It is done, or a panic ends this backend, before anything is asked of `self` but weights of `layer`.
    pub(crate) unsafe fn beside(&mut self, layer: usize, product: Role) -> Beside<'static> {
        let Some(pending) = &mut self.pending else { return Beside::nothing() };
        if layer + 1 == self.config.layers {
            return Beside::nothing();
        }
        let span = self.storage.layout.of_product(product, layer + 1);
        if span.start != pending.left.start {
            return Beside::nothing();
        }
        self.storage.weights_changed(self.storage.layout.around(span.clone()));
        let (step, chance) = (pending.update.step, Chance::new(pending.update.step));
        let mut chores = Vec::new();
        for Run { first, place, rule, .. } in runs(&self.storage, &pending.update, span.clone()) {
            let Rule::AdamW(rule) = rule else { unreachable!("see `later`") };
            let factors = adamw::Factors::new(&rule, step, pending.factor);
            let chore = by_adamw(self.exec.isa, &mut self.storage, factors, chance, first, place);
            // SAFETY: the memory of a parameter stays where it is. Nobody else refers to that of this one until it is
            // done: weights of another layer are asked for, as the caller promised, and `Storage::weight`, `Storage::matrix`
            // and `PackedWeights::get` go through `Buffer::part`.
            chores.push(unsafe { std::mem::transmute::<Chore<'_>, Chore<'static>>(chore) });
        }
        self.storage.clear_gradients(span.clone());
        pending.left.start = span.end;
        if pending.left.is_empty() {
            self.pending = None;
        }
        Beside::new(chores)
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

/// Neighbours that move in one go: those of the same AdamW; matrices of Muon and packed matrices one by one.
struct Run {
    first: ParamIndex,
    place: Range<usize>,
    /// Of the first one.
    rows: usize,
    rule: Rule,
}

/// The runs of neighbouring parameters.
fn runs(storage: &Storage, update: &Update, span: Range<ParamIndex>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for p in storage.layout.table().iter().filter(|p| span.contains(&p.id.index())) {
        let (place, rule) = (storage.layout.range(p.id), update.rules.of(p.group));
        if let Some(run) = runs.last_mut() {
            let packed = storage.packed_from(run.place.start).map(|len| run.place.start + len);
            let joins = match (run.rule, packed) {
                (Rule::Muon(_), _) => false,
                (_, Some(end)) => place.end <= end,
                (before, None) => {
                    rule == before
                        && storage.packed_from(place.start).is_none()
                        && storage.joins((run.first, run.place.end), p.id.index())
                }
            };
            if joins {
                run.place.end = place.end;
                continue;
            }
        }
        runs.push(Run { first: p.id.index(), place, rows: p.shape[0], rule });
    }
    runs
}

/// Moves neighbouring parameters, with gradients times `factor`.
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
    for Run { first, place, rows, rule } in runs(storage, update, span) {
        match rule {
            Rule::AdamW(rule) => {
                let factors = adamw::Factors::new(&rule, update.step, factor);
                exec.pool.run_chore(by_adamw(exec.isa, storage, factors, chance, first, place));
            }
            Rule::Muon(rule) => {
                let shape = (rows, storage.order(first));
                let Tensors { gradients, weights, moments, .. } = storage.tensors(first, place.clone());
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
    }
}

/// What moves a place from parameter `first` on, and packs it while it is in the cache.
fn by_adamw(
    isa: Isa,
    storage: &mut Storage,
    f: adamw::Factors,
    chance: Chance,
    first: ParamIndex,
    place: Range<usize>,
) -> Chore<'_> {
    let Tensors { gradients, weights, packed, moments } = storage.tensors(first, place.clone());
    let panels = packed.and_then(|packed| packed.panels(place.start));
    let chunk = panels.as_ref().map_or(CHUNK, Panels::weights);
    let count = place.len().div_ceil(chunk);
    let (packer, panels) = panels.map(Panels::split).unzip();
    let start = place.start;
    type Part<'a> = (WeightsMut<'a>, Option<&'a mut [u32]>, &'a mut [f32]);
    let change_and_pack =
        move |part: usize, (w, panel, scratch): Part<'_>, change: &mut dyn FnMut(&mut [f32])| {
            let (wide, scratch) = scratch.split_at_mut(chunk);
            let chance = chance.of_weights().at(start + part * chunk);
            w.change(isa, chance, wide, change, |w| {
                if let (Some(packer), Some(panel)) = (packer, panel) {
                    packer.pack(w, scratch, panel);
                }
            });
        };
    let chance = move |part: usize| chance.at(start + part * chunk);
    let parts = (Rows::new(gradients, chunk), weights.parts(chunk), Maybe::new(panels, count));
    match moments {
        Moments::F32([m, v]) => {
            let (m, v) = (m.part_mut(place.clone()), v.part_mut(place));
            let moments = (RowsMut::new(m, chunk), RowsMut::new(v, chunk));
            Chore::new((parts, moments), move |part, ((g, w, panel), (m, v)), scratch| {
                let mut change = |w: &mut [f32]| adamw::update(isa, &f, g, w, m, v);
                change_and_pack(part, (w, panel, scratch), &mut change);
            })
        }
        Moments::Bf16([m, v]) => {
            let (m, v) = (m.part_mut(place.clone()), v.part_mut(place));
            let moments = (RowsMut::new(m, chunk), RowsMut::new(v, chunk));
            Chore::new((parts, moments), move |part, ((g, w, panel), (m, v)), scratch| {
                let mut change = |w: &mut [f32]| adamw::update_bf16(isa, &f, chance(part), g, w, m, v);
                change_and_pack(part, (w, panel, scratch), &mut change);
            })
        }
        Moments::Q8 { m, exponents, v } => {
            assert!(place.start.is_multiple_of(BLOCK), "an update starts with a block of moments");
            let exponents = exponents.part_mut(place.start / BLOCK..place.end.div_ceil(BLOCK));
            let (m, v) = (m.part_mut(place.clone()), v.part_mut(place));
            let moments =
                (RowsMut::new(m, chunk), RowsMut::new(exponents, chunk / BLOCK), RowsMut::new(v, chunk));
            Chore::new((parts, moments), move |part, ((g, w, panel), (m, e, v)), scratch| {
                let mut change = |w: &mut [f32]| adamw::update_q8(isa, &f, chance(part), g, w, m, e, v);
                change_and_pack(part, (w, panel, scratch), &mut change);
            })
        }
    }
}
