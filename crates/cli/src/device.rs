//! Picks the backend: the one place that names them.

mod faults;
mod memory;
mod one_block;
mod place;
mod trainer;
mod writer;

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use ane_bridge::{Chip, VirtualAne, apple};
use backend_ane::AneError;
use engine::config::Classifier;

use self::place::Place;
use crate::failure::Failure;

pub use self::memory::{available_memory, bytes};
pub use self::trainer::Trainer;
pub use self::writer::WriterArgs;

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The best device that this build knows here: a Mac's Neural Engine where it works, or the CPU
    Auto,
    /// Every core of the processor
    Cpu,
    /// Apple's Neural Engine; where the system has none, the virtual one
    Ane,
    /// The virtual Neural Engine: Apple's MIL programs under the hardware's rules, computed by the CPU
    VirtualAne,
    /// The GPU of a Mac, for writing
    Metal,
    /// Any other GPU, for writing; a software driver counts and is called so
    Vulkan,
    /// Not in this build
    Cuda,
}

/// Flags of every command that computes.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// Where the model runs
    #[arg(long, env = "RUSTANE_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub device: Device,
    /// Chip that the virtual Neural Engine stands for [default: M4 Max], or that a Mac's own is taken for; `this`
    /// is the machine's own
    #[arg(long, value_name = "CHIP", value_parser = which_chip)]
    pub chip: Option<WhichChip>,
    /// Threads; no result depends on it [default: one per core]
    #[arg(long, env = "RUSTANE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// One for everything that this process does: its compiles are counted together.
    #[arg(skip)]
    ane: Arc<OnceLock<VirtualAne>>,
}

/// A chip on the command line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WhichChip {
    /// The one of this machine, if it is Apple's.
    This,
    /// That one.
    Named(&'static Chip),
}

impl WhichChip {
    /// The chip; nothing for this machine's where it is not Apple's.
    fn found(self) -> Option<&'static Chip> {
        match self {
            Self::This => Chip::find(&apple::system_chip()?),
            Self::Named(chip) => Some(chip),
        }
    }

    /// As the flag takes it.
    pub fn flag(self) -> String {
        match self {
            Self::This => "this".into(),
            Self::Named(chip) => chip.name.replace(' ', "-"),
        }
    }
}

fn which_chip(name: &str) -> Result<WhichChip, String> {
    if name.eq_ignore_ascii_case("this") {
        return Ok(WhichChip::This);
    }
    chip(name).map(WhichChip::Named).map_err(|text| text + ", or this")
}

/// The chip of that name, such as `M4 Max` or `m4-max`.
pub fn chip(name: &str) -> Result<&'static Chip, String> {
    let names = || Chip::ALL.iter().map(|chip| chip.name).collect::<Vec<_>>().join(", ");
    Chip::find(&name.replace('-', " ")).ok_or_else(|| format!("wanted one of {}", names()))
}

impl DeviceArgs {
    /// Threads that will compute.
    pub fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(all, usize::from)
    }

    /// Whether the flag leads to the CPU alone.
    pub fn is_cpu(&self) -> Result<bool, Failure> {
        self.check()?;
        Ok(matches!(self.place()?, Place::Cpu))
    }
}

/// The setting as the backend has it.
pub fn ane_classifier(classifier: Classifier) -> backend_ane::Classifier {
    match classifier {
        Classifier::Cpu => backend_ane::Classifier::Host,
        Classifier::Device => backend_ane::Classifier::Device,
    }
}

/// The cause of an error after which a fresh process could go on.
pub fn needs_restart(error: &backend::Error) -> Option<&AneError> {
    let mut next = Some(error as &dyn std::error::Error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<AneError>().filter(|error| error.needs_restart()) {
            return Some(error);
        }
        next = error.source();
    }
    None
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
