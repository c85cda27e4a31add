//! What a Mac says of itself without root: chip, memory, system, and what may slow it down.

use std::fmt;

/// A Mac.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The chip, such as `Apple M4 Max`.
    pub chip: String,
    /// Cores made for speed.
    pub performance_cores: u32,
    /// Cores made for long battery life.
    pub efficiency_cores: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes that the GPU may keep resident: Metal's recommended working set, which follows a limit that
    /// the owner set (`iogpu.wired_limit_mb`).
    pub gpu_memory: Option<u64>,
    /// The version of macOS, such as `26.3`.
    pub os_version: String,
    /// Its build, such as `25D125`.
    pub os_build: String,
    /// Where the current comes from, as macOS names it: `AC Power`, `Battery Power`, `UPS Power`.
    pub power: Option<String>,
    /// Whether the owner asked for low power, which slows the chip down.
    pub low_power: bool,
    /// How warm it is.
    pub thermal: Thermal,
}

/// How warm a Mac is; from [`Thermal::Serious`] on it slows down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are Apple's")]
pub enum Thermal {
    Nominal,
    Fair,
    Serious,
    Critical,
}

impl Thermal {
    /// Apple's number of a state; states to come count as critical.
    #[cfg(any(target_os = "macos", test))]
    fn of(state: isize) -> Self {
        match state {
            0 => Self::Nominal,
            1 => Self::Fair,
            2 => Self::Serious,
            _ => Self::Critical,
        }
    }
}

impl Machine {
    /// Why measurements now would be slower than they need be.
    pub fn slowed_by(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.low_power {
            found.push("low-power mode is on".into());
        }
        if self.thermal >= Thermal::Serious {
            found.push(format!("its thermal state is {}", self.thermal));
        }
        if let Some(power) = self.power.as_deref().filter(|power| *power != "AC Power") {
            found.push(format!("it runs on {}", power.to_lowercase()));
        }
        found
    }
}

impl fmt::Display for Thermal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nominal => "nominal",
            Self::Fair => "fair",
            Self::Serious => "serious",
            Self::Critical => "critical",
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chip, performance_cores, efficiency_cores, os_version, os_build, thermal, .. } = self;
        let gib = self.memory >> 30;
        write!(f, "{chip}, {performance_cores}+{efficiency_cores} cores, {gib} GiB")?;
        if let Some(limit) = self.gpu_memory {
            write!(f, " ({} GiB for the GPU)", limit >> 30)?;
        }
        write!(f, ", macOS {os_version} ({os_build}), ")?;
        if let Some(power) = &self.power {
            write!(f, "{power}, ")?;
        }
        write!(f, "thermal state {thermal}{}", if self.low_power { ", low-power mode" } else { "" })
    }
}

/// This machine; `None` where no macOS runs.
pub fn machine() -> Option<Machine> {
    #[cfg(target_os = "macos")]
    return macos::machine();
    #[cfg(not(target_os = "macos"))]
    None
}

#[cfg(target_os = "macos")]
#[allow(unsafe_code, reason = "calls IOKit")]
mod macos {
    use std::ffi::c_void;
    use std::ptr::NonNull;

    use objc2::rc::autoreleasepool;
    use objc2_foundation::{NSProcessInfo, NSString};

    use super::{Machine, Thermal};
    use crate::apple::{Gpu, sys, system};

    // Source: IOKit/ps/IOPowerSources.h of Apple's SDK.
    #[link(name = "IOKit", kind = "framework")]
    unsafe extern "C" {
        /// A description of all power sources, to be released; null when there is no memory.
        fn IOPSCopyPowerSourcesInfo() -> *const c_void;
        /// A CFString that lives as long as the description.
        fn IOPSGetProvidingPowerSourceType(description: *const c_void) -> *const c_void;
    }

    pub fn machine() -> Option<Machine> {
        let cores = |name| system::number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let (low_power, thermal) = autoreleasepool(|_| {
            let process = NSProcessInfo::processInfo();
            (process.isLowPowerModeEnabled(), Thermal::of(process.thermalState().0))
        });
        Some(Machine {
            chip: system::chip()?,
            performance_cores: cores(c"hw.perflevel0.physicalcpu"),
            efficiency_cores: cores(c"hw.perflevel1.physicalcpu"),
            memory: system::number(c"hw.memsize")?,
            gpu_memory: Gpu::system().and_then(|gpu| gpu.working_set()),
            os_version: system::version()?,
            os_build: system::build()?,
            power: power(),
            low_power,
            thermal,
        })
    }

    fn power() -> Option<String> {
        autoreleasepool(|_| {
            // SAFETY: takes nothing; the result is checked, and released below.
            let description = NonNull::new(unsafe { IOPSCopyPowerSourcesInfo() }.cast_mut())?;
            // SAFETY: the description is live.
            let source = unsafe { IOPSGetProvidingPowerSourceType(description.as_ptr()) };
            // SAFETY: a CFString is an NSString, and this one lives as long as the description.
            let name = unsafe { source.cast::<NSString>().as_ref() }.map(ToString::to_string);
            // SAFETY: IOPSCopyPowerSourcesInfo gave us this one reference, and nothing of it is used any more.
            unsafe { sys::CFRelease(description.as_ptr()) };
            name
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac() -> Machine {
        Machine {
            chip: "Apple M4 Max".into(),
            performance_cores: 12,
            efficiency_cores: 4,
            memory: 128 << 30,
            gpu_memory: Some(96 << 30),
            os_version: "26.3".into(),
            os_build: "25D125".into(),
            power: Some("AC Power".into()),
            low_power: false,
            thermal: Thermal::of(0),
        }
    }

    #[test]
    fn what_slows_a_machine_is_named() {
        assert_eq!(mac().slowed_by(), Vec::<String>::new());
        assert_eq!(
            mac().to_string(),
            "Apple M4 Max, 12+4 cores, 128 GiB (96 GiB for the GPU), macOS 26.3 (25D125), AC Power, thermal state nominal"
        );
        let power = Some("Battery Power".into());
        let tired = Machine { power, low_power: true, thermal: Thermal::of(2), ..mac() };
        assert_eq!(
            tired.slowed_by(),
            ["low-power mode is on", "its thermal state is serious", "it runs on battery power"]
        );
        assert_eq!(Thermal::of(9), Thermal::Critical);
        assert!(Thermal::of(1) < Thermal::Serious);
    }

    #[cfg(not(target_os = "macos"))]
    #[test]
    fn other_systems_are_no_mac() {
        assert_eq!(machine(), None);
    }
}
