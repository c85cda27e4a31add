//! Choices of an Apple device.

use std::path::PathBuf;

use crate::chip::Chip;

/// Where the framework lies. There is no file of this name: the loader finds it in the system's cache.
pub const FRAMEWORK: &str = "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine";

/// Choices of an [`super::AppleAne`].
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The framework to load.
    pub framework: PathBuf,
    /// The chip; `None` asks the system.
    pub chip: Option<&'static Chip>,
    /// How evaluations reach the hardware.
    pub route: Route,
    /// Priority of compiles, loads and evaluations.
    pub qos: Qos,
    /// Compiles that this process may do, failed ones included; `None` for no limit.
    pub compile_budget: Budget,
    /// Programs loaded at once in this process. 110 to 128 were seen (ANEForge, docs/dispatch.md).
    pub load_limit: u32,
    /// Ask the hardware for its own time of each evaluation.
    pub statistics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            framework: FRAMEWORK.into(),
            chip: None,
            route: Route::Direct,
            qos: Qos::Default,
            compile_budget: Budget::BySystem,
            load_limit: 110,
            statistics: false,
        }
    }
}

/// How evaluations reach the hardware. Results are the same, bit for bit (whiskeypolitik/rustane).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// From this process: about 11 µs less per evaluation on an M5 (thebasedcapital/ane-infer).
    Direct,
    /// Through the daemon `aned`.
    Daemon,
}

/// Priority of work. All compile, load and run; none changes an evaluation's time (maderix/ANE,
/// training/m5result.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Apple's")]
pub enum Qos {
    Background,
    Utility,
    #[default]
    Default,
    UserInitiated,
    UserInteractive,
}

impl Qos {
    /// The number that the framework takes, a 32-bit one.
    pub fn raw(self) -> u32 {
        match self {
            Qos::Background => 9,
            Qos::Utility => 17,
            Qos::Default => 21,
            Qos::UserInitiated => 25,
            Qos::UserInteractive => 33,
        }
    }
}

/// Compiles that a process may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// As seen on this macOS: see [`Budget::of`].
    BySystem,
    /// So many, failed ones included.
    Of(u32),
    /// Any number.
    Unlimited,
}

impl Budget {
    /// The number for a version of macOS such as `26.3.1`.
    ///
    /// About 119 compiles worked in a process before hardware failed silently (Orion 5, maderix/ANE);
    /// from 26.3 on 150 passed (ncdrone/rustane, system/k2-gossip.md). What is not known has the limit.
    pub fn of(self, version: Option<&str>) -> Option<u32> {
        let number = |part: Option<&str>| part.and_then(|p| p.trim().parse::<u32>().ok());
        match self {
            Budget::Of(count) => Some(count),
            Budget::Unlimited => None,
            Budget::BySystem => {
                let mut parts = version.unwrap_or_default().split('.');
                let version = (number(parts.next()).unwrap_or(0), number(parts.next()).unwrap_or(0));
                (version < (26, 3)).then_some(119)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_follows_the_system() {
        for (version, budget) in [
            (Some("15.4"), Some(119)),
            (Some("26.2.9"), Some(119)),
            (Some("26.3"), None),
            (Some("27"), None),
            (Some("next"), Some(119)),
            (None, Some(119)),
        ] {
            assert_eq!(Budget::BySystem.of(version), budget, "{version:?}");
        }
        assert_eq!(Budget::Of(3).of(None), Some(3));
        assert_eq!(Budget::Unlimited.of(None), None);
    }
}
