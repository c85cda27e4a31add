//! Which chip, in which state, a program is checked for.

use std::collections::BTreeMap;

/// Generations of the Neural Engine that differ in their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// M1, M1 Pro, Max, Ultra.
    M1,
    /// M2 and its variants.
    M2,
    /// M3 and its variants.
    M3,
    /// M4 and its variants.
    M4,
    /// M5 and its variants.
    M5,
}

impl Family {
    /// All generations, oldest first.
    pub const ALL: [Family; 5] = [Family::M1, Family::M2, Family::M3, Family::M4, Family::M5];

    /// The family of a chip such as `M4 Max`; letters may be of either case.
    pub fn of_chip(chip: &str) -> Option<Self> {
        let head = chip.split_whitespace().next()?;
        Self::ALL.into_iter().find(|f| format!("{f:?}").eq_ignore_ascii_case(head))
    }
}

/// Sizes that a family takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest extent of a channel axis.
    pub channels: usize,
    /// Largest extent of every other axis.
    pub spatial: usize,
    /// Widest convolution kernel.
    pub kernel_width: usize,
    /// Slices inside the last axis lose magnitudes above [`super::SLICE_CLAMP`].
    pub slice_clamp: bool,
}

/// A chip family with the state of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Chip family.
    pub family: Family,
    /// Whether slices inside the last axis lose magnitudes above [`super::SLICE_CLAMP`], where that was measured;
    /// `None`: as the family does.
    pub slice_clamp: Option<bool>,
    /// Programs that the process has compiled so far.
    pub compiled: u32,
    /// Programs that the process has loaded now.
    pub loaded: u32,
    /// The caller lays out rows at [`crate::TensorType::row_pitch`], so rows need not be multiples of 64 bytes.
    pub padded_rows: bool,
    /// The caller binds by what the compiler tells, so inputs and outputs may be declared in any order.
    pub any_order: bool,
    /// Bytes of the surfaces that will be bound, by input or output name; names left out fit.
    pub surfaces: BTreeMap<String, usize>,
}

impl Default for Target {
    /// An M4 in a fresh process.
    fn default() -> Self {
        Self::new(Family::M4)
    }
}

impl Target {
    /// Compiles that a process may do; hardware fails silently after about 119.
    pub const COMPILE_BUDGET: u32 = 100;
    /// Programs that a process may have loaded; hardware takes about 110 to 128.
    pub const LOAD_BUDGET: u32 = 100;

    /// A family in a fresh process.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            slice_clamp: None,
            compiled: 0,
            loaded: 0,
            padded_rows: false,
            any_order: false,
            surfaces: BTreeMap::new(),
        }
    }

    /// The sizes that the family takes.
    pub fn limits(&self) -> Limits {
        let newer = self.family >= Family::M4;
        Limits {
            channels: 65_536,
            spatial: if newer { 65_536 } else { 16_384 },
            kernel_width: if newer { 15 } else { 13 },
            slice_clamp: self.slice_clamp.unwrap_or(self.family <= Family::M2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_belong_to_families() {
        assert_eq!(Family::of_chip("m4 max"), Some(Family::M4));
        assert_eq!(Family::of_chip("M1"), Some(Family::M1));
        assert_eq!(Family::of_chip("A17"), None);
    }
}
