//! The memory of a trainer, counted by the very code that takes it.
//!
//! While a thread counts, its [`crate::Buffer`]s have a length and nothing behind it: [`Cpu`] is built as
//! always, and what it would have taken is known without a byte of it.

use std::cell::RefCell;
use std::ops::Range;

use backend::{Footprint, Result};
use model::{ModelConfig, Params, Role};

use crate::head::head_tokens;
use crate::memory::page_of;
use crate::moments::Moments;
use crate::params::places;
use crate::{Buffer, Cpu, MomentFormat, Plan};

thread_local! {
    static COUNT: RefCell<Option<Footprint>> = const { RefCell::new(None) };
}

/// Counts what `make` takes in [`crate::Buffer`]s on this thread instead of taking it. What it made knows its
/// lengths; whoever reads it panics.
pub fn count<T>(make: impl FnOnce() -> T) -> (T, Footprint) {
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            COUNT.set(None);
        }
    }
    COUNT.set(Some(Footprint::default()));
    let _end = End;
    let made = make();
    (made, COUNT.take().unwrap_or_default())
}

/// Whether this thread counts.
pub(crate) fn counting() -> bool {
    COUNT.with_borrow(Option::is_some)
}

/// Adds to the count of this thread; false when there is none, so that memory is to be taken.
pub(crate) fn counts(what: &'static str, bytes: u64) -> bool {
    COUNT.with_borrow_mut(|count| count.as_mut().map(|count| count.add(what, bytes)).is_some())
}

impl Cpu {
    /// Bytes that training touches by this plan, with or without updates by Muon; nothing is taken.
    ///
    /// # Errors
    /// As [`Cpu::new`], but for want of memory.
    pub fn footprint(config: &ModelConfig, plan: Plan, muon: bool) -> Result<Footprint> {
        let (cpu, mut found) = count(|| {
            let mut cpu = Self::build(config, plan)?;
            for p in Params::new(config).iter().filter(|p| muon && is_block_matrix(p.role)) {
                cpu.muon.reserve(p.shape[0], p.len() / p.shape[0])?;
            }
            Ok::<_, crate::CpuError>(cpu)
        });
        let mut cpu = cpu?;
        let c = config;
        // Reserved at their largest for any product, used as far as those of this model go.
        let products = products(c, plan.max_tokens.max(1), muon);
        found.set("scratch of threads", cpu.exec.pool.scratch_bytes() as u64);
        found.set("packed operands", cpu.exec.shared_bytes(&products) as u64);
        let largest = |sides: fn(usize, usize) -> usize| {
            let matrices = Params::new(c);
            let matrices = matrices.iter().filter(|p| is_block_matrix(p.role));
            matrices.map(|p| sides(p.shape[0], p.len() / p.shape[0])).max().unwrap_or(0) as u64
        };
        if muon {
            // Reserving grows: what counts is the largest.
            let side = largest(|a, b| a.min(b));
            found.set("iteration of Muon", 8 * (largest(|a, b| a * b) + side * side));
            // Muon has one moment: of the second, memory touches the pages in which AdamW's are.
            let second = found.of("second moments");
            let adamw = Params::new(c);
            let adamw = adamw.iter().filter(|p| !is_block_matrix(p.role));
            let places = adamw.map(|p| cpu.storage.layout.range(p.id));
            found.set("second moments", touched(second, cpu.storage.layout.len(), places));
            if plan.moments != MomentFormat::F32 {
                found.add("moments of a matrix, in f32", 4 * largest(|a, b| a * b));
            }
        }
        Ok(found)
    }
}

impl Cpu {
    /// Bytes that fine-tuning by low-rank adapters would touch: what training does, but for the gradients and
    /// moments of the weights, which stay as they are. Each of the seven matrices of a block has an adapter
    /// `B·A`, `A` of `[rank, inputs]` and `B` of `[outputs, rank]`, in f32, trained by AdamW; the backward pass needs
    /// `A·x`. An estimate: no backend trains adapters yet. Source: Hu et al. 2021, arXiv:2106.09685.
    ///
    /// # Errors
    /// As [`Cpu::new`], but for want of memory.
    pub fn lora_footprint(config: &ModelConfig, plan: Plan, rank: usize) -> Result<Footprint> {
        let mut found = Self::footprint(config, plan.with_update_in_backward(false), false)?;
        for what in ["gradients", "first moments", "second moments"] {
            found.set(what, 0);
        }
        let table = Params::new(config);
        let matrices = || table.iter().filter(|p| is_block_matrix(p.role));
        let sides = matrices().flat_map(|p| [p.shape[1], p.shape[0]]);
        let (_, len) = places(sides.map(|side| (false, rank.saturating_mul(side))));
        let layers = if plan.recompute { 1 } else { config.layers };
        let inner = plan.max_tokens.saturating_mul(rank).saturating_mul(matrices().count() / config.layers);
        let (made, adapters) = count(|| {
            Buffer::<f32>::zeros("adapters", len)?;
            Buffer::<f32>::zeros("gradients of adapters", len)?;
            // Of all layers, or of the one that is computed again, and their gradient.
            Buffer::<f32>::zeros("activations of adapters", inner.saturating_mul(layers + 1))?;
            Moments::new(plan.moments, len)
        });
        made?;
        adapters.items().for_each(|(what, bytes)| match what {
            "first moments" | "second moments" => found.add("moments of adapters", bytes),
            what => found.add(what, bytes),
        });
        Ok(found)
    }
}

/// Bytes of the pages that hold these places of a buffer of `bytes` for `len` numbers. Places come in order.
pub(crate) fn touched(bytes: u64, len: usize, places: impl Iterator<Item = Range<usize>>) -> u64 {
    let each = bytes / len.max(1) as u64;
    let page = page_of(bytes as usize) as u64;
    let (mut pages, mut next) = (0, 0);
    for place in places.filter(|place| !place.is_empty()) {
        let first = (place.start as u64 * each / page).max(next);
        let end = (place.end as u64 * each).div_ceil(page);
        pages += end.saturating_sub(first);
        next = next.max(end);
    }
    (pages * page).min(bytes)
}

fn is_block_matrix(role: Role) -> bool {
    matches!(role, Role::Q | Role::K | Role::V | Role::O | Role::Gate | Role::Up | Role::Down)
}

/// `(rows, columns, depth)` of the products of a step.
fn products(c: &ModelConfig, tokens: usize, muon: bool) -> Vec<(usize, usize, usize)> {
    let (dim, q) = (c.dim, c.q_dim());
    let layers = [(q + 2 * c.kv_dim(), dim), (dim, q), (2 * c.hidden, dim), (dim, c.hidden)];
    let head = (head_tokens(c).min(tokens), (c.vocab, dim));
    let all = layers.into_iter().map(|shape| (tokens, shape)).chain([head]);
    let mut products: Vec<_> =
        all.flat_map(|(t, (out, inner))| [(t, out, inner), (t, inner, out), (out, inner, t)]).collect();
    for (out, inner) in layers.into_iter().filter(|_| muon) {
        let (side, long) = (out.min(inner), out.max(inner));
        products.extend([(side, side, long), (side, side, side), (side, long, side)]);
    }
    products
}

#[cfg(test)]
mod tests {
    use backend::{AdamW, Muon, Rule, Rules, Tokens, Train, Update, forward_backward};
    use model::{Slot, TokenId, Weights};

    use super::*;
    use crate::Precision;

    fn config() -> ModelConfig {
        ModelConfig { vocab: 300, max_seq: 64, ..ModelConfig::default() }
    }

    #[test]
    fn counting_takes_nothing_and_ends() {
        let huge = ModelConfig { dim: 1 << 15, hidden: 1 << 17, layers: 500, ..config() };
        let found = Cpu::footprint(&huge, Plan::new(1 << 20), false).unwrap();
        assert!(found.of("weights") > 10 << 40 && found.of("activations") > 100 << 30, "{found:?}");
        assert!(!counting());
        assert_eq!(Buffer::<f32>::zeros("test", 3).unwrap()[..], [0.0; 3]);
        let (_, nothing) = count(|| ());
        assert_eq!(nothing.total(), 0);
    }

    #[test]
    fn touching_a_part_of_a_page_touches_all_of_it() {
        let of = |bytes, len, places: &[Range<usize>]| touched(bytes, len, places.iter().cloned());
        // 100 small pages of 1024 numbers; the second place begins in the page where the first ends.
        let small = 100 << 12;
        assert_eq!(of(small, 100 << 10, &[1000..1100, 1500..1600, 5000..5000, 9000..9001]), 3 << 12);
        // Four huge ones.
        assert_eq!(of(8 << 20, 2 << 20, &[0..1, 600_000..600_001]), 4 << 20);
        assert_eq!(of(small, 100 << 10, &[0..1 << 10, 1 << 10..100 << 10]), small);
    }

    #[test]
    fn every_format_and_choice_changes_what_it_should() {
        let of = |plan: Plan, muon| Cpu::footprint(&config(), plan.with_threads(2), muon).unwrap();
        let plain = of(Plan::new(256), false);
        let moments = |f: &Footprint| f.of("first moments") + f.of("second moments");
        assert_eq!(plain.of("weights"), plain.of("gradients"));
        assert_eq!(moments(&plain), 2 * plain.of("weights"));
        let half = of(Plan::new(256).with_moments(MomentFormat::Bf16), false);
        assert_eq!(moments(&half), plain.of("weights"));
        let q8 = of(Plan::new(256).with_moments(MomentFormat::Q8), false);
        assert!(moments(&q8) < plain.of("weights") * 51 / 100);
        let bf16 = of(Plan::new(256).with_precision(Precision::Bf16), false);
        assert!(bf16.of("packed weights") * 2 > plain.of("weights") * 9 / 10);
        let recompute = of(Plan::new(256).with_recompute(true), false);
        assert!(recompute.of("activations") < plain.of("activations"));
        assert!(of(Plan::new(256), true).of("iteration of Muon") >= 8 * 192 * 512);
    }

    #[test]
    fn adapters_are_all_that_low_rank_training_moves() {
        let c = config();
        let of = |rank, recompute| {
            let plan = Plan::new(128).with_threads(2).with_recompute(recompute);
            Cpu::lora_footprint(&c, plan, rank).unwrap()
        };
        let (eight, full) =
            (of(8, false), Cpu::footprint(&c, Plan::new(128).with_threads(2), false).unwrap());
        let (d, h, q, kv) = (c.dim, c.hidden, c.q_dim(), c.kv_dim());
        let sides = (d + q) + 2 * (d + kv) + (q + d) + 2 * (d + h) + (h + d);
        let wanted = (4 * 8 * sides * c.layers) as f64;
        assert!((eight.of("adapters") as f64 / wanted - 1.0).abs() < 0.01, "{eight:?}");
        assert_eq!(eight.of("gradients of adapters"), eight.of("adapters"));
        assert_eq!(eight.of("moments of adapters"), 2 * eight.of("adapters"));
        assert_eq!(eight.of("activations of adapters"), (4 * 128 * 8 * 7 * (c.layers + 1)) as u64);
        for what in ["weights", "activations", "logits"] {
            assert_eq!(eight.of(what), full.of(what), "{what}");
        }
        assert_eq!(eight.of("gradients") + eight.of("first moments"), 0);
        assert!(eight.total() < full.total());
        assert!(of(16, false).of("adapters") > 19 * eight.of("adapters") / 10);
        assert!(of(8, true).total() < eight.total());
    }

    /// Whatever a step takes beyond what was counted shows here: buffers made after the start.
    #[test]
    fn a_step_takes_no_buffer_that_was_not_counted() {
        let (c, plan) = (config(), Plan::new(128).with_threads(2));
        let mut cpu = Cpu::new(&c, plan).unwrap();
        let weights = Weights::init(&c, 1);
        for p in weights.params() {
            cpu.write(p.id, Slot::Weight, weights.get(p.id)).unwrap();
        }
        let ids: Vec<_> = (0..128).map(|i| TokenId(i % 300)).collect();
        for rule in [
            Rule::AdamW(AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 }),
            Rule::Muon(Muon { lr: 1e-3, momentum: 0.9, weight_decay: 0.0 }),
        ] {
            let adamw = AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
            let other = Rule::AdamW(adamw);
            let rules = Rules { embedding: other, head: other, matrix: rule, gain: other, bias: other };
            let update = Update { step: 1, grad_scale: 1.0, clip: None, rules };
            let (_, taken) = count(|| {
                forward_backward(&mut cpu, Tokens { ids: &ids, seq: 64 }, &ids).unwrap();
                // Muon takes its memory in the first update, and would read what was only counted.
                if matches!(rule, Rule::AdamW(_)) {
                    cpu.update(&update).unwrap();
                }
            });
            assert_eq!(taken, Footprint::default(), "{rule:?}");
        }
    }
}
