//! Where the flags of a device lead on this machine, and what is said of it.

use ane_bridge::{Chip, Settings, VirtualAne, apple};
use backend_cpu::Isa;
use engine::config::{Classifier, Precision};

use super::faults::Injected;
use super::{Device, DeviceArgs, WhichChip};
use crate::ane;
use crate::failure::Failure;

/// Where a flag leads on this machine.
pub(super) enum Place {
    Cpu,
    VirtualAne,
    /// The Neural Engine of this Mac.
    Ane(apple::Settings),
}

impl DeviceArgs {
    /// What runs, as runs record it: all that results depend on.
    pub fn name(&self) -> String {
        let of = |what: &str, chip: Option<&Chip>| match chip {
            Some(chip) => format!("{what} ({})", chip.name),
            None => what.to_owned(),
        };
        match self.place() {
            Ok(Place::Ane(settings)) => of("ANE", settings.chip),
            Ok(Place::VirtualAne) => of("virtual ANE", Some(self.virtual_chip())),
            Ok(Place::Cpu) | Err(_) => "cpu".to_owned(),
        }
    }

    /// Where the flag leads. On a Mac this examines the Neural Engine, once per build of macOS.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        let asked = match (self.device, apple::BUILT) {
            (Device::Ane | Device::Auto, true) => ane::verdict(),
            (Device::Ane | Device::VirtualAne, _) => {
                if self.chip.is_some_and(|chip| chip.found().is_none()) {
                    let text =
                        "--chip this: this machine has no chip of Apple's; name one, or use --device cpu";
                    return Err(Failure::NoDevice(text.into()));
                }
                return Ok(Place::VirtualAne);
            }
            _ => return Ok(Place::Cpu),
        };
        let chip = || self.chip.unwrap_or(WhichChip::This).found();
        match asked.route() {
            Some(route) => {
                Ok(Place::Ane(apple::Settings { route, chip: chip(), ..apple::Settings::default() }))
            }
            None if self.device == Device::Ane => {
                Err(Failure::NoDevice(format!("{}; use --device cpu", asked.sentence())))
            }
            None => {
                ane::say_why_not();
                Ok(Place::Cpu)
            }
        }
    }

    /// The chip that the virtual Neural Engine stands for.
    pub fn virtual_chip(&self) -> &'static Chip {
        self.chip.and_then(WhichChip::found).unwrap_or(Chip::M4_MAX)
    }

    /// Whether the virtual Neural Engine computes.
    pub fn is_virtual_ane(&self) -> Result<bool, Failure> {
        Ok(matches!(self.place()?, Place::VirtualAne))
    }

    /// The chip whose Neural Engine is planned for: one that was named, unless the CPU was too.
    pub fn planned_chip(&self) -> Result<Option<&'static Chip>, Failure> {
        self.check()?;
        Ok(match (self.device, self.place()?) {
            (Device::Cpu, _) => None,
            (_, Place::Ane(settings)) => Some(settings.chip.unwrap_or(Chip::M4_MAX)),
            (_, Place::VirtualAne) => Some(self.virtual_chip()),
            (_, Place::Cpu) => self.chip.and_then(WhichChip::found),
        })
    }

    /// These flags again, for a command to type.
    pub fn flags(&self) -> String {
        let device = clap::ValueEnum::to_possible_value(&self.device).filter(|_| self.device != Device::Auto);
        let device = device.map_or(String::new(), |device| format!(" --device {}", device.get_name()));
        let threads = self.threads.map_or(String::new(), |threads| format!(" --threads {threads}"));
        device + &threads
    }

    /// What ran, as reports say it.
    pub fn label(&self) -> String {
        let threads = self.threads();
        format!("{}, {threads} thread{}", self.name(), if threads == 1 { "" } else { "s" })
    }

    /// Fails for devices that this build does not have.
    pub fn check(&self) -> Result<(), Failure> {
        let name = match self.device {
            Device::Auto | Device::Cpu | Device::Ane | Device::VirtualAne => return self.place().map(drop),
            Device::Metal | Device::Vulkan => {
                let text = "the GPU writes and does not train yet; use --device cpu or ane";
                return Err(Failure::NoDevice(text.into()));
            }
            Device::Cuda => "CUDA",
        };
        Err(Failure::NoDevice(format!("{name} is not in this build; use --device cpu")))
    }

    /// Fails for a classifier on a device that has none.
    pub fn check_classifier(&self, classifier: Classifier) -> Result<(), Failure> {
        if classifier == Classifier::Cpu || !matches!(self.place(), Ok(Place::Cpu)) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "`train.classifier` is device, and {} computes every part of the model; use --device ane, or \
             --classifier cpu",
            self.name()
        )))
    }

    /// The virtual Neural Engine that commands use.
    pub fn virtual_ane_settings(&self) -> Settings {
        Settings { count_flushed: false, ..Settings::of(self.virtual_chip()) }
    }

    /// What `auto` comes to on this machine: bf16 where the processor multiplies in it.
    pub fn settle(&self, precision: Precision) -> Precision {
        let bf16 = backend_cpu::Precision::Bf16.in_hardware(Isa::detect());
        match precision {
            Precision::Auto if bf16 && matches!(self.place(), Ok(Place::Cpu)) => Precision::Bf16,
            Precision::Auto => Precision::F32,
            settled => settled,
        }
    }

    pub(super) fn virtual_ane(&self) -> VirtualAne {
        let settings = || {
            let settings = self.virtual_ane_settings();
            let faults = Injected::now();
            Settings {
                compile_budget: faults.budget.or(settings.compile_budget),
                faults: faults.faults(),
                ..settings
            }
        };
        self.ane.get_or_init(|| VirtualAne::new(settings())).clone()
    }
}
