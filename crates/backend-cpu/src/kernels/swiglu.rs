//! The gate of the feed-forward.
//!
//! ```text
//! y  = silu(gate) · up,   silu(z) = z·σ(z)
//! dgate = dy · up · σ(gate)·(1 + gate·(1 − σ(gate)))        dup = dy · silu(gate)
//! ```
//!
//! Shapes: `gate`, `up`, `y` of one row, equal lengths. Source: Shazeer 2020, arXiv:2002.05202.

use super::vector::{fma, sigmoid};
use crate::isa::simd;

simd! {
    /// `y = silu(gate) ⊙ up`.
    pub fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((&g, &u), y) in gate.iter().zip(up).zip(y) {
            *y = g * sigmoid::<FMA>(g) * u;
        }
    }
}

simd! {
    /// In one pass and in place: `gate` and `up` become their gradients, `dy` becomes `y` again,
    /// which the gradient of the next matrix needs.
    pub fn backward(gate: &mut [f32], up: &mut [f32], dy: &mut [f32]) {
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(dy) {
            let (g, u, d) = (*gate, *up, *dy);
            let s = sigmoid::<FMA>(g);
            let silu = g * s;
            *gate = d * u * s * fma::<FMA>(g, 1.0 - s, 1.0);
            *up = d * silu;
            *dy = silu * u;
        }
    }
}

#[cfg(test)]
mod tests {
    use backend::reference::swiglu as reference;

    use super::*;
    use crate::Isa;
    use crate::kernels::check::{assert_close, values, wide};

    #[test]
    fn agrees_with_the_reference() {
        for &isa in Isa::available() {
            for n in [1, 7, 16, 37, 2048] {
                let gate: Vec<f32> = values(n, 1).iter().map(|g| 20.0 * g).collect();
                let (up, dy) = (values(n, 2), values(n, 3));
                let mut y = vec![0.0; n];
                forward(isa, &gate, &up, &mut y);
                let y_wanted = reference::forward(&wide(&gate), &wide(&up));
                assert_close(&y, &y_wanted, 1e-6);
                let (dgate_wanted, dup_wanted) = reference::backward(&wide(&gate), &wide(&up), &wide(&dy));
                let (mut dgate, mut dup, mut again) = (gate, up, dy);
                backward(isa, &mut dgate, &mut dup, &mut again);
                assert_close(&dgate, &dgate_wanted, 3e-6);
                assert_close(&dup, &dup_wanted, 1e-6);
                assert_close(&again, &y_wanted, 1e-6);
            }
        }
    }

    #[test]
    fn large_gates_do_not_overflow() {
        let (mut gate, mut up, mut dy) = ([200.0, -200.0], [1.0, 1.0], [1.0, 1.0]);
        backward(Isa::detect(), &mut gate, &mut up, &mut dy);
        assert_eq!((dy[0], up[0], gate[0]), (200.0, 200.0, 1.0));
        assert!(dy[1].abs() < 1e-30 && up[1].abs() < 1e-30 && gate[1].abs() < 1e-30);
    }
}
