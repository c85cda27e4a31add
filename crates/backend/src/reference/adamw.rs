//! The update of [`crate::AdamW`], in f64 with f32 storage.

use crate::AdamW;

/// Moves `w` and its moments by the gradient `g · factor`; `step` counts from 1.
pub fn update(rule: &AdamW, step: u64, factor: f32, g: &[f64], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let AdamW { lr, beta1, beta2, eps, weight_decay } = *rule;
    let [lr, beta1, beta2, eps, decay] = [lr, beta1, beta2, eps, weight_decay].map(f64::from);
    let correction1 = 1.0 - beta1.powi(step as i32);
    let correction2 = 1.0 - beta2.powi(step as i32);
    for i in 0..w.len() {
        let g = g[i] * f64::from(factor);
        let first = beta1 * f64::from(m[i]) + (1.0 - beta1) * g;
        let second = beta2 * f64::from(v[i]) + (1.0 - beta2) * g * g;
        let direction = (first / correction1) / ((second / correction2).sqrt() + eps);
        w[i] = (f64::from(w[i]) * (1.0 - lr * decay) - lr * direction) as f32;
        m[i] = first as f32;
        v[i] = second as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_sign_of_the_gradient() {
        let rule = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.5 };
        let (mut w, mut m, mut v) = ([1.0, 1.0, 0.0], [0.0; 3], [0.0; 3]);
        update(&rule, 1, 2.0, &[3.0, -0.01, 0.0], &mut w, &mut m, &mut v);
        assert!((w[0] - 0.85).abs() < 1e-6 && (w[1] - 1.05).abs() < 1e-5, "{w:?}");
        assert_eq!(w[2], 0.0);
        assert!((m[0] - 0.6).abs() < 1e-6 && (v[0] - 1.8).abs() < 1e-6);
    }
}
