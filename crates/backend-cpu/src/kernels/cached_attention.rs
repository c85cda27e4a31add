//! Queries of one position against the cached keys and values of their head.
//!
//! ```text
//! s[h,j] = q[h]·k[j] / √d        o[h] = Σ_j softmax(s[h])[j] · v[j]
//! ```
//!
//! Keys lie in blocks of [`BLOCK`] positions, `[d][BLOCK]`, so that the lanes of a vector are positions;
//! values `[position][d]`, so that they are channels. Both are f32 or f16. Shapes: `q` and `o`
//! `[heads, d]`, the heads of a group, which share keys and values: each number of the cache is read and
//! converted once for as many of them as registers hold sums of. Sums are f32. Source: Shazeer 2019,
//! arXiv:1911.02150; Ainslie et al. 2023, arXiv:2305.13245.

use half::f16;

use super::cross_entropy::{exp_shifted, maximum};
use super::vector::fma;
use crate::Isa;
use crate::isa::simd;
use crate::memory::LINE;

/// Positions of a block of keys.
pub const BLOCK: usize = 16;

/// Most heads that go together.
const TOGETHER: usize = 8;

/// How many do: eight vectors of sums and what they meet fit 32 registers of 16 numbers only.
fn together(isa: Isa) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.avx512() {
        return TOGETHER;
    }
    let _ = isa;
    TOGETHER / 2
}

/// How a cache holds a number.
pub trait Element: Copy + Default + Send + Sync + 'static {
    /// The nearest one; numbers beyond the range become its ends.
    fn of(x: f32) -> Self;

    /// What it is.
    fn get(self) -> f32;

    /// See [`attend`].
    #[doc(hidden)]
    fn attend(isa: Isa, d: usize, q: &[f32], k: &[Self], v: &[Self], scores: &mut [f32], o: &mut [f32]);
}

impl Element for f32 {
    fn of(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn get(self) -> f32 {
        self
    }

    fn attend(isa: Isa, d: usize, q: &[f32], k: &[f32], v: &[f32], scores: &mut [f32], o: &mut [f32]) {
        attend_f32(isa, together(isa), d, q, k, v, scores, o);
    }
}

/// The bits of an f16.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Half(u16);

impl Element for Half {
    fn of(x: f32) -> Self {
        let most = f32::from(f16::MAX);
        Self(f16::from_f32(x.clamp(-most, most)).to_bits())
    }

    /// In operations of which every machine has vectors: the exponent moves to its place and is corrected
    /// by a factor, which also makes small numbers right that have no leading one.
    #[inline(always)]
    fn get(self) -> f32 {
        /// 2¹¹².
        const FACTOR: f32 = f32::from_bits((127 + 112) << 23);
        let bits = (i32::from(self.0 as i16) << 13) as u32 & 0x8FFF_FFFF;
        f32::from_bits(bits) * FACTOR
    }

    fn attend(isa: Isa, d: usize, q: &[f32], k: &[Self], v: &[Self], scores: &mut [f32], o: &mut [f32]) {
        attend_f16(isa, together(isa), d, q, k, v, scores, o);
    }
}

/// Numbers of scratch for [`attend`] to `seen` positions.
pub fn scratch(seen: usize) -> usize {
    TOGETHER * seen.next_multiple_of(BLOCK)
}

/// Where channel `channel` of the key of `position` lies.
pub fn key_at(d: usize, position: usize, channel: usize) -> usize {
    position / BLOCK * BLOCK * d + channel * BLOCK + position % BLOCK
}

/// The outputs of heads of `d` channels. `v` holds exactly the positions that are seen, `k` whole blocks
/// of at least as many; `scores` is [`scratch`].
pub fn attend<E: Element>(
    isa: Isa,
    d: usize,
    q: &[f32],
    k: &[E],
    v: &[E],
    scores: &mut [f32],
    o: &mut [f32],
) {
    E::attend(isa, d, q, k, v, scores, o);
}

simd! {
    fn attend_f32(
        most: usize,
        d: usize,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        scores: &mut [f32],
        o: &mut [f32],
    ) {
        heads::<FMA, f32>(most, d, q, k, v, scores, o)
    }
}

simd! {
    fn attend_f16(
        most: usize,
        d: usize,
        q: &[f32],
        k: &[Half],
        v: &[Half],
        scores: &mut [f32],
        o: &mut [f32],
    ) {
        heads::<FMA, Half>(most, d, q, k, v, scores, o)
    }
}

#[inline(always)]
fn heads<const FMA: bool, E: Element>(
    most: usize,
    d: usize,
    q: &[f32],
    k: &[E],
    v: &[E],
    scores: &mut [f32],
    o: &mut [f32],
) {
    let heads = q.len() / d;
    let mut first = 0;
    while first < heads {
        let (q, o) = (&q[first * d..], &mut o[first * d..]);
        first += match most.min(heads - first) {
            8.. => group::<FMA, E, 8>(d, q, k, v, scores, o),
            4.. => group::<FMA, E, 4>(d, q, k, v, scores, o),
            3 => group::<FMA, E, 3>(d, q, k, v, scores, o),
            2 => group::<FMA, E, 2>(d, q, k, v, scores, o),
            _ => group::<FMA, E, 1>(d, q, k, v, scores, o),
        };
    }
}

/// The first `G` heads. Returns `G`.
#[inline(always)]
fn group<const FMA: bool, E: Element, const G: usize>(
    d: usize,
    q: &[f32],
    k: &[E],
    v: &[E],
    scores: &mut [f32],
    o: &mut [f32],
) -> usize {
    let seen = v.len() / d;
    let stride = seen.next_multiple_of(BLOCK);
    let scale = (d as f32).sqrt().recip();
    for (block, k) in k.chunks_exact(BLOCK * d).take(stride / BLOCK).enumerate() {
        // Values come while scores are computed, else nothing but keys would for half of the time.
        let block_of_values = v.as_ptr().wrapping_add(block * BLOCK * d);
        (0..BLOCK * d).step_by(LINE / size_of::<E>()).for_each(|at| fetch(block_of_values.wrapping_add(at)));
        let mut sums = [[0.0f32; BLOCK]; G];
        for (c, k) in k.as_chunks::<BLOCK>().0.iter().enumerate() {
            let k = numbers(k);
            for (g, sums) in sums.iter_mut().enumerate() {
                for (s, k) in sums.iter_mut().zip(k) {
                    *s = fma::<FMA>(q[g * d + c], k, *s);
                }
            }
        }
        for (g, sums) in sums.iter().enumerate() {
            let scores = &mut scores[g * stride + block * BLOCK..][..BLOCK];
            for (to, s) in scores.iter_mut().zip(sums) {
                *to = scale * s;
            }
        }
    }
    for scores in scores.chunks_exact_mut(stride).take(G) {
        let scores = &mut scores[..seen];
        let max = maximum(scores);
        let sum = exp_shifted::<FMA>(scores, max).recip();
        scores.iter_mut().for_each(|s| *s *= sum);
    }
    /// Channels of a vector.
    const WIDE: usize = 16;
    let whole = d / WIDE * WIDE;
    for c in (0..whole).step_by(WIDE) {
        let mut sums = [[0.0f32; WIDE]; G];
        for (j, v) in v.chunks_exact(d).enumerate() {
            let v: &[E; WIDE] = v[c..].first_chunk().expect("a whole vector of channels");
            let v = numbers(v);
            for (g, sums) in sums.iter_mut().enumerate() {
                let p = scores[g * stride + j];
                for (s, v) in sums.iter_mut().zip(v) {
                    *s = fma::<FMA>(p, v, *s);
                }
            }
        }
        for (g, sums) in sums.iter().enumerate() {
            o[g * d + c..][..WIDE].copy_from_slice(sums);
        }
    }
    for g in 0..G {
        for c in whole..d {
            let terms = v.chunks_exact(d).zip(&scores[g * stride..]);
            o[g * d + c] = terms.fold(0.0, |sum, (v, &p)| fma::<FMA>(p, v[c].get(), sum));
        }
    }
    G
}

/// Asks for what is read later; any place will do.
#[inline(always)]
fn fetch<E>(at: *const E) {
    // SAFETY: a prefetch may be anywhere.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    let _ = at;
}

/// What a vector of the cache holds.
#[inline(always)]
fn numbers<E: Element, const N: usize>(from: &[E; N]) -> [f32; N] {
    let mut numbers = [0.0; N];
    for (to, from) in numbers.iter_mut().zip(from) {
        *to = from.get();
    }
    numbers
}

#[cfg(test)]
mod tests {
    use backend::reference::attention as reference;

    use super::*;
    use crate::kernels::check::{assert_close, values, wide};

    fn agrees<E: Element>(tolerance: f64) {
        for &isa in Isa::available() {
            for (seen, heads, d) in [(1, 1, 4), (37, 2, 10), (16, 3, 16), (200, 9, 64), (33, 5, 20)] {
                let round = |x: Vec<f32>| -> Vec<f32> { x.into_iter().map(|x| E::of(x).get()).collect() };
                let q = values(heads * d, 1);
                let (k, v) = (round(values(seen * d, 2)), round(values(seen * d, 3)));
                let mut keys = vec![E::default(); seen.next_multiple_of(BLOCK) * d];
                for (i, &x) in k.iter().enumerate() {
                    keys[key_at(d, i / d, i % d)] = E::of(x);
                }
                let cached: Vec<E> = v.iter().map(|&v| E::of(v)).collect();
                let (mut o, mut scores) = (vec![f32::NAN; heads * d], vec![f32::NAN; scratch(seen)]);
                attend(isa, d, &q, &keys, &cached, &mut scores, &mut o);
                for (q, o) in q.chunks(d).zip(o.chunks(d)) {
                    let r = reference::Heads { seq: seen, heads: 1, kv_heads: 1, head_dim: d };
                    // The last of as many queries as positions sees all of them.
                    let mut queries = vec![0.0; seen * d];
                    queries[(seen - 1) * d..].copy_from_slice(&wide(q));
                    let wanted = reference::forward(r, &queries, &wide(&k), &wide(&v));
                    assert_close(o, &wanted[(seen - 1) * d..], tolerance);
                }
            }
        }
    }

    #[test]
    fn agrees_with_the_reference_in_either_kind() {
        agrees::<f32>(2e-6);
        agrees::<Half>(2e-6);
    }

    #[test]
    fn every_finite_half_is_read_exactly() {
        for bits in 0..=u16::MAX {
            let wanted = f16::from_bits(bits).to_f32();
            if wanted.is_finite() {
                assert_eq!(Half(bits).get().to_bits(), wanted.to_bits(), "{bits:#x}");
            }
        }
        assert_eq!(Half::of(1e6).get(), 65_504.0);
        assert_eq!(Half::of(f32::NEG_INFINITY).get(), -65_504.0);
    }
}
