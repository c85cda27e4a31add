//! From logits to a token.
//!
//! In this order: repetition penalty, temperature, top-k, min-p, top-p, draw. Sources: Keskar et al.
//! 2019, arXiv:1909.05858 (penalty); Holtzman et al. 2020, arXiv:1904.09751 (top-p); Nguyen et al.
//! 2024, arXiv:2407.01082 (min-p).

use std::collections::HashSet;

use backend::Draw;
use model::TokenId;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How text is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Division of the logits; 0: always the most likely token.
    pub temperature: f32,
    /// Draw among the so many most likely tokens; 0: among all.
    pub top_k: usize,
    /// Draw among the most likely tokens that together have this probability; 1: among all.
    pub top_p: f32,
    /// Draw among tokens at least this share as likely as the most likely one; 0: among all.
    pub min_p: f32,
    /// Weakens tokens that came before; 1: not at all.
    pub repetition_penalty: f32,
    /// Decides the draws.
    pub seed: u64,
    /// Longest continuation, in tokens.
    pub max_tokens: usize,
    /// Texts that end the continuation; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the continuation, besides the tokenizer's own.
    pub ends: Vec<TokenId>,
    /// Go on behind a token that ends a text.
    pub ignore_eos: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            max_tokens: 256,
            stop: Vec::new(),
            ends: Vec::new(),
            ignore_eos: false,
        }
    }
}

impl Sampling {
    /// The part that a device which draws tokens itself follows: all but the penalty.
    pub fn draw(&self) -> Draw {
        let Self { temperature, top_k, top_p, min_p, seed, .. } = *self;
        Draw { temperature, top_k, top_p, min_p, seed }
    }
}

/// Draws tokens; the draws depend on the seed alone.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
    seen: HashSet<TokenId>,
    order: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler behind the tokens of a prompt.
    pub fn new(sampling: &Sampling, prompt: &[TokenId]) -> Self {
        Self {
            sampling: sampling.clone(),
            rng: ChaCha8Rng::seed_from_u64(sampling.seed),
            seen: prompt.iter().copied().collect(),
            order: Vec::new(),
        }
    }

    /// The next token; `None` when no logit is a number.
    pub fn draw(&mut self, logits: &[f32]) -> Option<TokenId> {
        let s = &self.sampling;
        self.order.clear();
        self.order.extend((0..logits.len() as u32).filter_map(|i| {
            let mut z = logits[i as usize];
            if s.repetition_penalty != 1.0 && self.seen.contains(&TokenId(i)) {
                z = if z > 0.0 { z / s.repetition_penalty } else { z * s.repetition_penalty };
            }
            (!z.is_nan()).then_some((z, i))
        }));
        let token = if s.temperature <= 0.0 { self.most_likely()? } else { self.at_random()? };
        self.seen.insert(token);
        Some(token)
    }

    /// The largest logit; the first of equals, so that greedy text is one text.
    fn most_likely(&self) -> Option<TokenId> {
        let best =
            self.order.iter().copied().reduce(|best, next| if next.0 > best.0 { next } else { best })?;
        Some(TokenId(best.1))
    }

    fn at_random(&mut self) -> Option<TokenId> {
        let s = &self.sampling;
        let order = &mut self.order;
        let likelier = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if s.top_k > 0 && s.top_k < order.len() {
            order.select_nth_unstable_by(s.top_k - 1, likelier);
            order.truncate(s.top_k);
        }
        let max = order.iter().map(|o| o.0).fold(f32::NEG_INFINITY, f32::max);
        if max.is_infinite() {
            // Certain, or nothing at all: a difference of infinities would be no number.
            return self.most_likely();
        }
        for (z, _) in order.iter_mut() {
            *z = ((*z - max) / s.temperature).exp();
        }
        // The most likely one now has the weight 1.
        order.retain(|(weight, _)| *weight >= s.min_p && *weight > 0.0);
        if s.top_p < 1.0 {
            order.sort_unstable_by(likelier);
            let enough = s.top_p * order.iter().map(|o| o.0).sum::<f32>();
            let mut sum = 0.0;
            let more = order.iter().take_while(|o| {
                let before = sum;
                sum += o.0;
                before < enough
            });
            let keep = more.count().max(1);
            order.truncate(keep);
        }
        let total: f32 = order.iter().map(|o| o.0).sum();
        let mut left = total * ((self.rng.next_u32() >> 8) as f32 / (1 << 24) as f32);
        for (weight, token) in order.iter() {
            left -= weight;
            if left < 0.0 {
                return Some(TokenId(*token));
            }
        }
        order.last().map(|o| TokenId(o.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampling() -> Sampling {
        Sampling { temperature: 1.0, top_p: 1.0, ..Sampling::default() }
    }

    fn counts(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        for seed in 0..4000 {
            let mut sampler = Sampler::new(&Sampling { seed, ..sampling.clone() }, &[]);
            counts[sampler.draw(logits).unwrap().0 as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut sampler = Sampler::new(&Sampling { temperature: 0.0, ..sampling() }, &[]);
        assert_eq!(sampler.draw(&[1.0, 3.0, f32::NAN, 3.0]), Some(TokenId(1)));
        assert_eq!(sampler.draw(&[f32::NAN]), None);
    }

    #[test]
    fn draws_as_often_as_likely() {
        // Probabilities ½, ¼, ¼.
        let logits = [2f32.ln(), 0.0, 0.0];
        let counts = counts(&sampling(), &logits);
        assert!((1880..2120).contains(&counts[0]) && (900..1100).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn the_cuts_leave_what_they_should() {
        // Weights 8, 4, 2, 1.
        let logits = [8f32.ln(), 4f32.ln(), 2f32.ln(), 0.0];
        let drawn = |s: Sampling| counts(&s, &logits).iter().filter(|&&n| n > 0).count();
        assert_eq!(drawn(sampling()), 4);
        assert_eq!(drawn(Sampling { top_k: 2, ..sampling() }), 2);
        assert_eq!(drawn(Sampling { min_p: 0.2, ..sampling() }), 3);
        assert_eq!(drawn(Sampling { top_p: 0.5, ..sampling() }), 1);
        assert_eq!(drawn(Sampling { top_p: 0.6, ..sampling() }), 2);
        assert_eq!(drawn(Sampling { temperature: 0.05, ..sampling() }), 1);
    }

    #[test]
    fn the_penalty_weakens_what_came_before() {
        let s = Sampling { temperature: 0.0, repetition_penalty: 2.0, ..sampling() };
        let mut sampler = Sampler::new(&s, &[TokenId(0)]);
        assert_eq!(sampler.draw(&[3.0, 2.0]), Some(TokenId(1)));
        // Both came before now; a negative logit sinks.
        assert_eq!(sampler.draw(&[-1.0, -3.0, -2.5]), Some(TokenId(0)));
    }

    proptest! {
        #[test]
        fn always_draws_a_token_that_is_there(
            logits in prop::collection::vec(prop::num::f32::ANY, 1..20),
            temperature in prop_oneof![Just(0.0f32), 1e-3f32..1e6],
            top_k in 0usize..25,
            top_p in 0.0f32..=1.0,
            min_p in 0.0f32..=1.0,
            seed: u64,
        ) {
            let s = Sampling { temperature, top_k, top_p, min_p, seed, ..sampling() };
            let drawn = Sampler::new(&s, &[]).draw(&logits);
            match drawn {
                Some(token) => prop_assert!(!logits[token.0 as usize].is_nan()),
                None => prop_assert!(logits.iter().all(|z| z.is_nan())),
            }
        }
    }
}
