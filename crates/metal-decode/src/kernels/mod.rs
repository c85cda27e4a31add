//! The kernels: one WGSL template per file.
//!
//! Extents are `override` constants; what decides the shape of the code (format, rows, lanes, heads) is
//! written into the text, unrolled, so that no kernel depends on a driver's unrolling.

pub mod adamw;
pub mod argmax;
pub mod attention;
pub mod dots;
pub mod embed;
pub mod gemm;
pub mod gemv;
pub mod muon;
pub mod rms_norm;
pub mod rope_append;
pub mod rows;
pub mod sample;
pub mod stream;

/// What a matrix product does with its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// `y = W·x`.
    Store,
    /// `y = W·x + bias`.
    Bias,
    /// `y = y + scale · W·x`, in the order of activations.
    Residual,
    /// Rows in pairs, gate and up: `y = silu(gate) · up`, in the order of activations.
    Swiglu,
    /// No result is kept but the largest of each workgroup and its row, as [`argmax`] has them.
    Largest,
}

impl Epilogue {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Epilogue::Store => "store",
            Epilogue::Bias => "bias",
            Epilogue::Residual => "residual",
            Epilogue::Swiglu => "swiglu",
            Epilogue::Largest => "largest",
        }
    }
}

/// Text for each of `n` numbers.
pub(crate) fn each(n: usize, text: impl FnMut(usize) -> String) -> String {
    (0..n).map(text).collect()
}
