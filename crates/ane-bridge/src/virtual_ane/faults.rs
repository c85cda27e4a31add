//! Faults to inject, so that whoever drives the device can show what it does then.

use std::collections::BTreeSet;

/// What shall go wrong, and when.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Compiles that fail, counted from 1 over the device's life.
    pub compile_fails: BTreeSet<u32>,
    /// The dispatch that fails with status 0x1d, counted from 1 over the device's life.
    pub evaluate_fails_at: Option<u64>,
    /// Decay of throughput.
    pub slow_down: Option<SlowDown>,
}

/// An executable becomes slower with use, until the program is compiled anew.
///
/// Seen on M3 Ultra: 600M training slowed down after about 40 steps unless kernels were recompiled
/// (ncdrone/rustane, pull request 12).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowDown {
    /// Dispatches of one executable that still take their normal time.
    pub after: u64,
    /// Time of the later ones as a multiple of the normal time, at least 1.
    pub factor: f64,
}

impl SlowDown {
    /// The factor of an executable's dispatch number `run`, counted from 1.
    pub(super) fn factor_at(self, run: u64) -> Option<f64> {
        (run > self.after && self.factor > 1.0 && self.factor.is_finite()).then_some(self.factor)
    }
}
