//! The update of [`backend::AdamW`] in one pass over memory.
//!
//! ```text
//! g = factor · gradient
//! m = β₁·m + (1−β₁)·g        v = β₂·v + (1−β₂)·g²
//! w = w·(1 − lr·decay) − lr/(1−β₁ᵗ) · m / (√v·(1−β₂ᵗ)^-½ + ε)
//! ```
//!
//! All of one shape, in f32; moments that are kept in fewer bits are widened and narrowed in the same
//! pass. Source: Loshchilov & Hutter 2019, arXiv:1711.05101.

use backend::AdamW;

use super::vector::fma;
use crate::isa::simd;
use crate::moments::{BLOCK, Chance, first, first_codes, narrow, root, root_code, wide};

/// The numbers of one update, computed once in f64.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    gradient: f32,
    keep1: f32,
    keep2: f32,
    new1: f32,
    new2: f32,
    keep_weight: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

impl Factors {
    /// Of update number `step` (from 1) with gradients times `factor`.
    pub fn new(rule: &AdamW, step: u64, factor: f32) -> Self {
        let [lr, beta1, beta2] = [rule.lr, rule.beta1, rule.beta2].map(f64::from);
        let correction = |beta: f64| 1.0 - beta.powf(step as f64);
        Self {
            gradient: factor,
            keep1: rule.beta1,
            keep2: rule.beta2,
            new1: (1.0 - beta1) as f32,
            new2: (1.0 - beta2) as f32,
            keep_weight: (1.0 - lr * f64::from(rule.weight_decay)) as f32,
            rate: (lr / correction(beta1)) as f32,
            root: correction(beta2).sqrt().recip() as f32,
            eps: rule.eps,
        }
    }
}

simd! {
    /// Moves `w` and its moments.
    pub fn update(f: &Factors, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        for (((g, w), m), v) in g.iter().zip(w).zip(m).zip(v) {
            (*m, *v) = moments::<FMA>(f, *g, *m, *v);
            move_weight::<FMA>(f, w, *m, v.sqrt());
        }
    }
}

simd! {
    /// [`update`] of moments in bf16.
    pub fn update_bf16(f: &Factors, chance: Chance, g: &[f32], w: &mut [f32], m: &mut [u16], v: &mut [u16]) {
        for (i, (((g, w), m), v)) in g.iter().zip(w).zip(m).zip(v).enumerate() {
            let (m_new, v_new) = moments::<FMA>(f, *g, wide(*m), wide(*v));
            move_weight::<FMA>(f, w, m_new, v_new.sqrt());
            let random = chance.draw(i);
            (*m, *v) = (narrow(m_new, random), narrow(v_new, random >> 16));
        }
    }
}

simd! {
    /// [`update`] of moments in 8 bits. The first weight starts a block.
    pub fn update_q8(
        f: &Factors,
        chance: Chance,
        g: &[f32],
        w: &mut [f32],
        m: &mut [u8],
        exponents: &mut [u8],
        v: &mut [u8],
    ) {
        let blocks = g.chunks(BLOCK).zip(w.chunks_mut(BLOCK)).zip(m.chunks_mut(BLOCK)).zip(v.chunks_mut(BLOCK));
        for (b, ((((g, w), m), v), exponent)) in blocks.zip(exponents).enumerate() {
            let chance = chance.further(b * BLOCK);
            let mut m_new = [0.0; BLOCK];
            for i in 0..g.len() {
                let r = root(v[i]);
                let (first, second) = moments::<FMA>(f, g[i], first(m[i], *exponent), r * r);
                let r = second.sqrt();
                move_weight::<FMA>(f, &mut w[i], first, r);
                m_new[i] = first;
                v[i] = root_code(r, chance.draw(i));
            }
            let mut codes = [0; BLOCK];
            *exponent = first_codes(&m_new, chance, &mut codes);
            m.copy_from_slice(&codes[..m.len()]);
        }
    }
}

#[inline(always)]
fn moments<const FMA: bool>(f: &Factors, g: f32, m: f32, v: f32) -> (f32, f32) {
    let g = f.gradient * g;
    (fma::<FMA>(f.keep1, m, f.new1 * g), fma::<FMA>(f.keep2, v, f.new2 * g * g))
}

#[inline(always)]
fn move_weight<const FMA: bool>(f: &Factors, w: &mut f32, m: f32, root: f32) {
    let direction = m / fma::<FMA>(root, f.root, f.eps);
    *w = fma::<FMA>(-f.rate, direction, f.keep_weight * *w);
}

#[cfg(test)]
mod tests {
    use backend::reference::adamw as reference;

    use super::*;
    use crate::Isa;
    use crate::kernels::check::{assert_close, values, wide};

    #[test]
    fn agrees_with_the_reference_over_many_updates() {
        let rule = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        for &isa in Isa::available() {
            for n in [1, 33, 1000] {
                let (mut w, mut m, mut v) = (values(n, 1), vec![0.0; n], vec![0.0; n]);
                let (mut w_wanted, mut m_wanted, mut v_wanted) = (w.clone(), m.clone(), v.clone());
                for step in 1..=20 {
                    let g = values(n, 10 + step);
                    update(isa, &Factors::new(&rule, step, 0.5), &g, &mut w, &mut m, &mut v);
                    reference::update(
                        &rule,
                        step,
                        0.5,
                        &wide(&g),
                        &mut w_wanted,
                        &mut m_wanted,
                        &mut v_wanted,
                    );
                }
                assert_close(&w, &wide(&w_wanted), 2e-6);
                assert_close(&m, &wide(&m_wanted), 1e-6);
                assert_close(&v, &wide(&v_wanted), 1e-6);
            }
        }
    }

    #[test]
    fn narrow_moments_are_those_of_f32_rounded() {
        use crate::MomentFormat;
        use crate::moments::Moments;
        use model::Slot;
        let rule = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        for &isa in Isa::available() {
            for format in [MomentFormat::Bf16, MomentFormat::Q8] {
                let n = 200;
                let mut moments = Moments::new(format, n).unwrap();
                let mut w = values(n, 1);
                for step in 1..=5 {
                    let (f, chance, g) =
                        (Factors::new(&rule, step, 0.5), Chance::new(step), values(n, 10 + step));
                    // From the same moments in f32, by the exact update and the way of a checkpoint.
                    let (mut w_wanted, mut wanted) = (w.clone(), Moments::new(format, n).unwrap());
                    let [mut m, mut v] =
                        [Slot::Moment1, Slot::Moment2].map(|slot| moments.read(0..n, slot).into_owned());
                    update(isa, &f, &g, &mut w_wanted, &mut m, &mut v);
                    match &mut moments {
                        Moments::F32(_) => unreachable!("not tested here"),
                        Moments::Bf16([m, v]) => update_bf16(isa, &f, chance, &g, &mut w, m, v),
                        Moments::Q8 { m, exponents, v } => {
                            update_q8(isa, &f, chance, &g, &mut w, m, exponents, v);
                        }
                    }
                    assert_close(&w, &wide(&w_wanted), 1e-6);
                    wanted.write(isa, 0..n, Slot::Moment1, &m, chance);
                    let got = moments.read(0..n, Slot::Moment1).into_owned();
                    let same =
                        got.iter().zip(&*wanted.read(0..n, Slot::Moment1)).filter(|(a, b)| a == b).count();
                    assert!(same > n * 9 / 10, "{isa:?} {format:?}: {same} of {n} first moments");
                    let relative = |(got, v): (&f32, &f32)| (got - v).abs() / v.max(1e-12);
                    let got = moments.read(0..n, Slot::Moment2);
                    let worst = got.iter().zip(&v).map(relative).fold(0.0, f32::max);
                    assert!(worst < 0.3, "{isa:?} {format:?}: second moments off by {worst}");
                }
            }
        }
    }
}
