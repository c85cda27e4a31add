//! RMS norm of each row.
//!
//! ```text
//! r[t]   = (mean_c x[t,c]² + ε)^-½
//! y[t,c] = x[t,c] · gain[c] · r[t]
//! dx     = r · (g − x · r² · mean_c(g·x)),   g = dy · gain
//! dgain[c] += Σ_t dy[t,c] · x[t,c] · r[t]
//! ```
//!
//! Shapes: `x`, `y`, `dy`, `dx` are `[rows, channels]`; `gain` is `[channels]`.
//! Source: Zhang & Sennrich 2019, arXiv:1910.07467.

/// Normalises each row of `gain.len()` channels.
pub fn forward(x: &[f64], gain: &[f32], eps: f32) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(gain.len()) {
        let r = inverse_rms(row, eps);
        y.extend(row.iter().zip(gain).map(|(x, &g)| x * f64::from(g) * r));
    }
    y
}

/// Gradient with respect to `x`; adds that of the gain to `dgain`.
pub fn backward(x: &[f64], gain: &[f32], eps: f32, dy: &[f64], dgain: &mut [f64]) -> Vec<f64> {
    let n = gain.len();
    let mut dx = Vec::with_capacity(x.len());
    for (x, dy) in x.chunks_exact(n).zip(dy.chunks_exact(n)) {
        let r = inverse_rms(x, eps);
        let g: Vec<f64> = dy.iter().zip(gain).map(|(dy, &gain)| dy * f64::from(gain)).collect();
        let mean = g.iter().zip(x).map(|(g, x)| g * x).sum::<f64>() / n as f64;
        dx.extend(g.iter().zip(x).map(|(g, x)| r * (g - x * r * r * mean)));
        for c in 0..n {
            dgain[c] += dy[c] * x[c] * r;
        }
    }
    dx
}

fn inverse_rms(row: &[f64], eps: f32) -> f64 {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    (mean + f64::from(eps)).sqrt().recip()
}

#[cfg(test)]
mod tests {
    use super::super::check::{assert_close, dot, numeric_gradient, values};
    use super::*;

    #[test]
    fn gradients() {
        let (x, dy) = (values(12, 1), values(12, 2));
        let gain = [0.5f32, -1.5, 2.0, 1.0];
        let mut dgain = [0.0; 4];
        let dx = backward(&x, &gain, 1e-3, &dy, &mut dgain);
        assert_close(&dx, &numeric_gradient(&x, |x| dot(&forward(x, &gain, 1e-3), &dy)));
        // Linear in the gain.
        let by_gain: Vec<f64> = (0..4)
            .map(|c| {
                let mut unit = [0.0f32; 4];
                unit[c] = 1.0;
                dot(&forward(&x, &unit, 1e-3), &dy)
            })
            .collect();
        assert_close(&dgain, &by_gain);
    }

    #[test]
    fn makes_the_mean_square_one() {
        let y = forward(&[3.0, 4.0], &[1.0, 1.0], 1e-12);
        assert_close(&[(y[0] * y[0] + y[1] * y[1]) / 2.0], &[1.0]);
    }
}
