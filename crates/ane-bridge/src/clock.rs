//! Analytic clock.

use crate::chip::Chip;

/// Seconds of one dispatch of a program.
pub fn program_s(_chip: &Chip, function: &mil::Function) -> f64 {
    95e-6 + mil::cost(function).flops as f64 / 8e12
}
