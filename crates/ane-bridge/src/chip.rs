//! Apple chips with a Neural Engine: what the clock and the verifier need to know of each.

use mil::verify::{Family, Limits, Target};

/// A chip. All of them are in [`Chip::ALL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chip {
    /// Name as macOS says it, without "Apple".
    pub name: &'static str,
    /// Generation, which decides what programs the ANE takes.
    pub family: Family,
    /// Neural Engine cores; two dies of 16 on an Ultra.
    pub ane_cores: u32,
    /// Memory bandwidth of the whole chip by Apple's specification, GB/s.
    pub memory_gb_s: f64,
}
impl Chip {
    /// Apple M4 Max.
    pub const M4_MAX: &'static Chip =
        &Chip { name: "M4 Max", family: Family::M4, ane_cores: 16, memory_gb_s: 546.0 };
    /// Extents that programs for this chip may have.
    pub fn limits(&self) -> Limits {
        Target::new(self.family).limits()
    }
}
