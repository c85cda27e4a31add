//! What a machine's speed depends on besides its parts: what feeds it, how warm it is, and how much
//! memory its GPU may keep. A Mac tells all of it; Linux tells what its drivers put below `/sys`.

use std::fs;
use std::path::{Path, PathBuf};

use ane_bridge::apple::{self, Machine, Thermal};

use super::{Check, Mark};
use crate::device::bytes;

/// Why a line says nothing.
const NOT_MEASURED: &str = "not measured";

/// The three lines; `mac` is this machine where it is one.
pub(super) fn checks(mac: Option<&Machine>) -> [Check; 3] {
    match mac {
        Some(mac) => [mac_gpu(mac), mac_power(mac), mac_thermal(mac)],
        None => [
            gpu(Path::new("/sys/class/drm")),
            power(Path::new("/sys/class/power_supply")),
            thermal(Path::new("/sys/class/thermal")),
        ],
    }
}

/// `mains` or `battery`, where the system tells.
pub fn power_source() -> Option<&'static str> {
    let battery = match apple::machine() {
        Some(mac) => mac.power? == "Battery Power",
        None => Supply::read(Path::new("/sys/class/power_supply"))?.on_battery(),
    };
    Some(if battery { "battery" } else { "mains" })
}

/// The highest temperature, or on a Mac the thermal state.
pub fn heat() -> Option<String> {
    match apple::machine() {
        Some(mac) => Some(format!("state {}", mac.thermal)),
        None => Some(format!("{:.1} °C", Zones::read(Path::new("/sys/class/thermal"))?.celsius)),
    }
}

fn unknown(name: &'static str, why: &str) -> Check {
    Check { mark: Mark::None, ..Check::ok(name, format!("{NOT_MEASURED}: {why}")) }
}

fn mac_gpu(mac: &Machine) -> Check {
    match mac.gpu_memory {
        Some(most) => Check::ok("GPU memory", format!("{} at most, of all memory", bytes(most))),
        None => unknown("GPU memory", "the system has no Metal device"),
    }
}

fn mac_power(mac: &Machine) -> Check {
    let Some(source) = &mac.power else { return unknown("power", "the system names no source") };
    let low = if mac.low_power { ", low-power mode" } else { "" };
    let check = Check::ok("power", format!("{source}{low}"));
    if source == "AC Power" && !mac.low_power {
        return check;
    }
    check.but(Mark::Warn, "measurements are slower so; plug it in and switch low-power mode off")
}

fn mac_thermal(mac: &Machine) -> Check {
    let check = Check::ok("thermal", format!("state {}", mac.thermal));
    if mac.thermal < Thermal::Serious {
        return check;
    }
    check.but(Mark::Warn, TOO_WARM)
}

const TOO_WARM: &str = "the system slows it down; let it cool before measuring";

/// Names and paths of the folders in a folder, sorted by name.
fn folders(root: &Path, prefix: &str) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    let mut found: Vec<_> = named.filter(|(name, _)| name.starts_with(prefix)).collect();
    found.sort();
    found
}

/// A file of one word or number.
fn word(folder: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What AMD's driver tells of its memory. Source: Linux, Documentation/gpu/amdgpu/driver-misc.rst.
fn gpu(root: &Path) -> Check {
    let total = |(_, path): &(String, PathBuf)| {
        word(&path.join("device"), "mem_info_vram_total")?.parse::<u64>().ok()
    };
    match folders(root, "card").iter().filter_map(total).max() {
        Some(total) => Check::ok("GPU memory", format!("{} of its own", bytes(total))),
        None => {
            unknown("GPU memory", "no driver tells below /sys/class/drm; --device vulkan asks the GPU itself")
        }
    }
}

/// What feeds a Linux machine. Source: Linux, Documentation/ABI/testing/sysfs-class-power.
struct Supply {
    mains: bool,
    /// What each battery tells.
    batteries: Vec<String>,
    discharging: bool,
}

impl Supply {
    fn read(root: &Path) -> Option<Self> {
        let mut found = Self { mains: false, batteries: Vec::new(), discharging: false };
        for (_, supply) in folders(root, "") {
            // A battery of a mouse feeds no processor.
            if word(&supply, "scope").as_deref() == Some("Device") {
                continue;
            }
            match word(&supply, "type").as_deref() {
                Some("Battery") => {
                    let status = word(&supply, "status").unwrap_or_else(|| "status unknown".into());
                    found.discharging |= status == "Discharging";
                    let charge = word(&supply, "capacity").map_or(String::new(), |c| format!("{c} %, "));
                    found.batteries.push(format!("battery {charge}{}", status.to_lowercase()));
                }
                Some("Mains" | "USB" | "UPS") => {
                    found.mains |= word(&supply, "online").as_deref() == Some("1");
                }
                _ => {}
            }
        }
        (found.mains || !found.batteries.is_empty()).then_some(found)
    }

    fn on_battery(&self) -> bool {
        !self.mains && self.discharging
    }
}

fn power(root: &Path) -> Check {
    let Some(supply) = Supply::read(root) else {
        return unknown("power", "the kernel names no power supply");
    };
    let mains = supply.mains.then(|| "mains".to_owned());
    let told: Vec<String> = mains.into_iter().chain(supply.batteries.iter().cloned()).collect();
    let check = Check::ok("power", told.join(", "));
    if supply.on_battery() {
        return check.but(Mark::Warn, "measurements on a battery are slower; plug it in");
    }
    check
}

/// Temperatures of a Linux machine. Source: Linux, Documentation/driver-api/thermal/sysfs-api.rst; they are in
/// thousandths of a degree.
struct Zones {
    /// Of the warmest zone.
    celsius: f64,
    warmest: String,
    /// Zones so warm that the kernel slows the processor down.
    slowed: Vec<String>,
}

impl Zones {
    fn read(root: &Path) -> Option<Self> {
        let number = |folder: &Path, name: &str| word(folder, name)?.parse::<i64>().ok();
        let mut warmest: Option<(i64, String)> = None;
        let mut slowed = Vec::new();
        for (name, zone) in folders(root, "thermal_zone") {
            // A zone without its sensor tells an error, or a temperature far below ice.
            let Some(temperature) = number(&zone, "temp").filter(|t| *t > -40_000) else { continue };
            let name = word(&zone, "type").unwrap_or(name);
            let trips = (0..).map_while(|i| Some((i, word(&zone, &format!("trip_point_{i}_type"))?)));
            let slows = trips
                .filter(|(_, kind)| kind == "passive")
                .filter_map(|(i, _)| number(&zone, &format!("trip_point_{i}_temp")))
                .find(|trip| *trip > 0 && temperature >= *trip);
            if let Some(trip) = slows {
                slowed.push(format!("{name} is beyond {} °C", trip / 1000));
            }
            if warmest.as_ref().is_none_or(|(most, _)| temperature > *most) {
                warmest = Some((temperature, name));
            }
        }
        let (temperature, warmest) = warmest?;
        Some(Self { celsius: temperature as f64 / 1e3, warmest, slowed })
    }
}

fn thermal(root: &Path) -> Check {
    let Some(zones) = Zones::read(root) else {
        return unknown("thermal", "the kernel has no temperature of this machine");
    };
    let mut found = format!("{} °C ({})", zones.celsius as i64, zones.warmest);
    if zones.slowed.is_empty() {
        return Check::ok("thermal", found);
    }
    found += &format!(", {}", zones.slowed.join(", "));
    Check::ok("thermal", found).but(Mark::Warn, TOO_WARM)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of a folder, and what is in them.
    type Files<'a> = &'a [(&'a str, &'a str)];

    /// A folder with these files.
    fn files(files: Files<'_>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn told(check: &Check) -> (Mark, &str) {
        (check.mark, check.found.as_str())
    }

    #[test]
    fn power_supplies_are_told_apart() {
        let cases: &[(Files<'_>, (Mark, &str))] = &[
            (&[], (Mark::None, "not measured: the kernel names no power supply")),
            (&[("AC/type", "Mains\n"), ("AC/online", "1\n")], (Mark::Ok, "mains")),
            (
                &[
                    ("AC/type", "Mains\n"),
                    ("AC/online", "0\n"),
                    ("BAT0/type", "Battery\n"),
                    ("BAT0/status", "Discharging\n"),
                    ("BAT0/capacity", "45\n"),
                ],
                (Mark::Warn, "battery 45 %, discharging"),
            ),
            (
                &[
                    ("BAT0/type", "Battery\n"),
                    ("BAT0/status", "Full\n"),
                    ("usb/type", "USB\n"),
                    ("usb/online", "1\n"),
                ],
                (Mark::Ok, "mains, battery full"),
            ),
            // A mouse.
            (
                &[("hid/type", "Battery\n"), ("hid/scope", "Device\n"), ("hid/status", "Discharging\n")],
                (Mark::None, "not measured: the kernel names no power supply"),
            ),
        ];
        for (there, wanted) in cases {
            let root = files(there);
            assert_eq!(told(&power(root.path())), *wanted, "{there:?}");
            let battery = Supply::read(root.path()).is_some_and(|supply| supply.on_battery());
            assert_eq!(battery, wanted.0 == Mark::Warn);
        }
        assert_eq!(power(Path::new("/no/such/folder")).mark, Mark::None);
    }

    #[test]
    fn the_warmest_zone_is_told_and_a_slowed_one_stands_out() {
        let zones: Files<'_> = &[
            ("thermal_zone0/type", "acpitz\n"),
            ("thermal_zone0/temp", "27800\n"),
            ("thermal_zone1/type", "x86_pkg_temp\n"),
            ("thermal_zone1/temp", "61000\n"),
            ("thermal_zone1/trip_point_0_type", "critical\n"),
            ("thermal_zone1/trip_point_0_temp", "60000\n"),
            ("thermal_zone1/trip_point_1_type", "passive\n"),
            ("thermal_zone1/trip_point_1_temp", "95000\n"),
            ("thermal_zone2/type", "iwlwifi_1\n"),
            ("thermal_zone2/temp", "-274000\n"),
            ("cooling_device0/type", "Processor\n"),
        ];
        assert_eq!(told(&thermal(files(zones).path())), (Mark::Ok, "61 °C (x86_pkg_temp)"));
        assert_eq!(Zones::read(files(zones).path()).unwrap().celsius, 61.0);
        let mut hot = zones.to_vec();
        hot[3].1 = "96000\n";
        assert_eq!(
            told(&thermal(files(&hot).path())),
            (Mark::Warn, "96 °C (x86_pkg_temp), x86_pkg_temp is beyond 95 °C")
        );
        for broken in [&[][..], &[("thermal_zone0/temp", "warm\n")][..]] {
            let root = files(broken);
            let found = thermal(root.path());
            assert_eq!(
                told(&found),
                (Mark::None, "not measured: the kernel has no temperature of this machine")
            );
        }
    }

    #[test]
    fn the_largest_card_counts() {
        let root = files(&[
            ("card0/device/mem_info_vram_total", "536870912\n"),
            ("card1/device/mem_info_vram_total", "8589934592\n"),
            ("card1-DP-1/status", "connected\n"),
        ]);
        assert_eq!(gpu(root.path()).found, format!("{} of its own", bytes(8 << 30)));
        assert_eq!(gpu(files(&[("card0/device/vendor", "0x10de\n")]).path()).mark, Mark::None);
    }

    #[test]
    fn a_mac_tells_all_three() {
        let mac = Machine {
            chip: "Apple M4 Max".into(),
            performance_cores: 12,
            efficiency_cores: 4,
            memory: 128 << 30,
            gpu_memory: Some(96 << 30),
            os_version: "26.3".into(),
            os_build: "25D125".into(),
            power: Some("AC Power".into()),
            low_power: false,
            thermal: Thermal::Nominal,
        };
        let [gpu, power, heat] = checks(Some(&mac));
        assert_eq!(gpu.found, format!("{} at most, of all memory", bytes(96 << 30)));
        assert_eq!((told(&power), told(&heat)), ((Mark::Ok, "AC Power"), (Mark::Ok, "state nominal")));
        let tired = Machine {
            gpu_memory: None,
            power: Some("Battery Power".into()),
            low_power: true,
            thermal: Thermal::Critical,
            ..mac.clone()
        };
        let [gpu, power, heat] = checks(Some(&tired));
        assert_eq!(told(&gpu), (Mark::None, "not measured: the system has no Metal device"));
        assert_eq!(told(&power), (Mark::Warn, "Battery Power, low-power mode"));
        assert_eq!(told(&heat), (Mark::Warn, "state critical"));
        assert_eq!(checks(Some(&Machine { power: None, ..mac }))[1].mark, Mark::None);
    }
}
