//! The update of [`backend::AdamW`] in one pass over memory.
//!
//! ```text
//! g = factor · gradient
//! m = β₁·m + (1−β₁)·g        v = β₂·v + (1−β₂)·g²
//! w = w·(1 − lr·decay) − lr/(1−β₁ᵗ) · m / (√v·(1−β₂ᵗ)^-½ + ε)
//! ```
//!
//! All of one shape, f32. Source: Loshchilov & Hutter 2019, arXiv:1711.05101.

use backend::AdamW;

use super::vector::fma;
use crate::isa::simd;

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
            let g = f.gradient * g;
            *m = fma::<FMA>(f.keep1, *m, f.new1 * g);
            *v = fma::<FMA>(f.keep2, *v, f.new2 * g * g);
            let direction = *m / fma::<FMA>(v.sqrt(), f.root, f.eps);
            *w = fma::<FMA>(-f.rate, direction, f.keep_weight * *w);
        }
    }
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
}
