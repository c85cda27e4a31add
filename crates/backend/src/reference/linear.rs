//! A linear layer.
//!
//! ```text
//! y[t,o]  = Σ_i x[t,i]·w[o,i] (+ b[o])
//! dx[t,i] = Σ_o dy[t,o]·w[o,i]
//! dw[o,i] += Σ_t dy[t,o]·x[t,i]
//! db[o]   += Σ_t dy[t,o]
//! ```
//!
//! Shapes: `x` `[tokens, inputs]`, `y` `[tokens, outputs]`, `w` `[outputs, inputs]`.

/// `x·wᵀ + b`.
pub fn forward(x: &[f64], w: &[f32], bias: Option<&[f32]>, inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    let mut y = Vec::with_capacity(x.len() / inputs * outputs);
    for row in x.chunks_exact(inputs) {
        for o in 0..outputs {
            let sum: f64 = row.iter().zip(&w[o * inputs..]).map(|(x, &w)| x * f64::from(w)).sum();
            y.push(sum + bias.map_or(0.0, |b| f64::from(b[o])));
        }
    }
    y
}

/// Gradient with respect to the input: `dy·w`.
pub fn backward_input(dy: &[f64], w: &[f32], inputs: usize) -> Vec<f64> {
    let outputs = w.len() / inputs;
    let mut dx = Vec::with_capacity(dy.len() / outputs * inputs);
    for row in dy.chunks_exact(outputs) {
        let start = dx.len();
        dx.resize(start + inputs, 0.0);
        for (o, g) in row.iter().enumerate() {
            for (dx, &w) in dx[start..].iter_mut().zip(&w[o * inputs..]) {
                *dx += g * f64::from(w);
            }
        }
    }
    dx
}

/// Adds the gradient of the weights: `dyᵀ·x`.
pub fn backward_weight(dy: &[f64], x: &[f64], inputs: usize, dw: &mut [f64]) {
    let outputs = dw.len() / inputs;
    for (dy, x) in dy.chunks_exact(outputs).zip(x.chunks_exact(inputs)) {
        for (dw, g) in dw.chunks_exact_mut(inputs).zip(dy) {
            for (dw, x) in dw.iter_mut().zip(x) {
                *dw += g * x;
            }
        }
    }
}

/// Adds the gradient of the bias: the column sums of `dy`.
pub fn backward_bias(dy: &[f64], db: &mut [f64]) {
    for row in dy.chunks_exact(db.len()) {
        for (db, g) in db.iter_mut().zip(row) {
            *db += g;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{assert_close, dot, numeric_gradient, values};
    use super::*;

    #[test]
    fn gradients() {
        let (inputs, outputs, tokens) = (3, 4, 2);
        let w: Vec<f32> = values(inputs * outputs, 1).iter().map(|&v| v as f32).collect();
        let b: Vec<f32> = values(outputs, 2).iter().map(|&v| v as f32).collect();
        let (x, dy) = (values(tokens * inputs, 3), values(tokens * outputs, 4));
        let loss = |x: &[f64]| dot(&forward(x, &w, Some(&b), inputs), &dy);
        assert_close(&backward_input(&dy, &w, inputs), &numeric_gradient(&x, loss));

        // Linear in the weights too: the gradient times the weights is the bias-free loss.
        let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; b.len()]);
        backward_weight(&dy, &x, inputs, &mut dw);
        backward_bias(&dy, &mut db);
        let w64: Vec<f64> = w.iter().map(|&v| f64::from(v)).collect();
        let b64: Vec<f64> = b.iter().map(|&v| f64::from(v)).collect();
        assert_close(&[dot(&dw, &w64) + dot(&db, &b64)], &[loss(&x)]);
        let unit = |o: usize, i: usize| {
            let mut unit = vec![0.0f32; inputs * outputs];
            unit[o * inputs + i] = 1.0;
            dot(&forward(&x, &unit, None, inputs), &dy)
        };
        let each: Vec<f64> =
            (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))).map(|(o, i)| unit(o, i)).collect();
        assert_close(&dw, &each);
    }
}
