//! The update of all parameters.

use std::ops::Range;

use backend::{AdamW, Rule, Update};
use model::Slot;

use crate::kernels::{adamw, muon};
use crate::moments::{BLOCK, Chance, Moments};
use crate::packed::Panels;
use crate::params::{Storage, Tensors};
use crate::pool::Maybe;
use crate::{Exec, Rows, RowsMut};

/// Parameters of one task.
pub(crate) const CHUNK: usize = 1 << 14;

/// Moves all parameters, with gradients times `factor`: neighbours of the same AdamW in one go,
/// matrices of Muon and packed matrices one by one.
pub fn apply(
    exec: &mut Exec,
    storage: &mut Storage,
    scratch: &mut muon::Scratch,
    update: &Update,
    factor: f32,
) {
    let chance = Chance::new(update.step);
    let params: Vec<_> = storage
        .layout
        .table()
        .iter()
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
                        None => *other == rule && storage.packed_from(range.start).is_none(),
                    };
                    if !joins {
                        break;
                    }
                    place.end = range.end;
                    next += 1;
                }
                move_by_adamw(exec, storage, &adamw, update.step, factor, chance, place);
            }
            Rule::Muon(rule) => {
                let Tensors { gradients, weights, moments, .. } = storage.tensors(place.clone());
                if let Moments::F32([m, _]) = moments {
                    muon::update(exec, &rule, factor, rows, gradients, weights, &mut m[place], scratch);
                } else {
                    let mut m = moments.read(place.clone(), Slot::Moment1).into_owned();
                    muon::update(exec, &rule, factor, rows, gradients, weights, &mut m, scratch);
                    moments.write(exec.isa, place, Slot::Moment1, &m, chance);
                }
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
    place: Range<usize>,
) {
    let (isa, f) = (exec.isa, adamw::Factors::new(rule, step, factor));
    let Tensors { gradients, weights, packed, moments } = storage.tensors(place.clone());
    let panels = packed.and_then(|packed| packed.panels(place.start));
    let chunk = panels.as_ref().map_or(CHUNK, Panels::weights);
    let count = place.len().div_ceil(chunk);
    let (write, panels) = panels.map(|panels| panels.split()).unzip();
    let pack = |panel: Option<&mut [u32]>, w: &[f32]| {
        if let (Some(write), Some(panel)) = (&write, panel) {
            write(w, panel);
        }
    };
    let chance = |part: usize| chance.at(place.start + part * chunk);
    let parts = (Rows::new(gradients, chunk), RowsMut::new(weights, chunk), Maybe::new(panels, count));
    match moments {
        Moments::F32([m, v]) => {
            let (m, v) = (&mut m[place.clone()], &mut v[place.clone()]);
            let moments = (RowsMut::new(m, chunk), RowsMut::new(v, chunk));
            exec.pool.each((parts, moments), |_, ((g, w, panel), (m, v))| {
                adamw::update(isa, &f, g, w, m, v);
                pack(panel, w);
            });
        }
        Moments::Bf16([m, v]) => {
            let (m, v) = (&mut m[place.clone()], &mut v[place.clone()]);
            let moments = (RowsMut::new(m, chunk), RowsMut::new(v, chunk));
            exec.pool.each((parts, moments), |part, ((g, w, panel), (m, v))| {
                adamw::update_bf16(isa, &f, chance(part), g, w, m, v);
                pack(panel, w);
            });
        }
        Moments::Q8 { m, exponents, v } => {
            let exponents = &mut exponents[place.start / BLOCK..place.end.div_ceil(BLOCK)];
            let (m, v) = (&mut m[place.clone()], &mut v[place.clone()]);
            let moments =
                (RowsMut::new(m, chunk), RowsMut::new(exponents, chunk / BLOCK), RowsMut::new(v, chunk));
            exec.pool.each((parts, moments), |part, ((g, w, panel), (m, exponents, v))| {
                adamw::update_q8(isa, &f, chance(part), g, w, m, exponents, v);
                pack(panel, w);
            });
        }
    }
}
