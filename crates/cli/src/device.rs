//! Picks the backend: the one place that names them.

mod faults;
mod memory;
mod place;
mod trainer;

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use ane_bridge::{AppleAne, Chip, VirtualAne};
use backend_ane::{AneError, AneInfer};
use backend_cpu::{CpuInfer, Plan};
use engine::config::Classifier;
use engine::infer::Infer;
use metal_decode::{Api, GpuInfer};
use model::{BoxError, ModelConfig, Weights};

use self::place::Place;
use crate::failure::Failure;
use crate::format::Held;
use crate::gpu;

pub use self::memory::{available_memory, bytes};
pub use self::trainer::Trainer;

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
    /// Chip that the virtual Neural Engine stands for [default: M4 Max], or that a Mac's own is taken for
    #[arg(long, value_name = "CHIP", value_parser = chip)]
    pub chip: Option<&'static Chip>,
    /// Threads; no result depends on it [default: one per core]
    #[arg(long, env = "RUSTANE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// One for everything that this process does: its compiles are counted together.
    #[arg(skip)]
    ane: Arc<OnceLock<VirtualAne>>,
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

    /// A backend that writes where the model trains: with `auto` on the host, whatever GPU there is.
    pub fn writer(&self, config: &ModelConfig, weights: Weights) -> Result<Box<dyn Infer>, BoxError> {
        if gpu::api(self.device).is_some() {
            return Ok(self.writer_in(config, weights, None)?.0);
        }
        Ok(self.host_writer(config, weights, None)?.0)
    }

    /// A backend that writes with weights in a format, and what reports call it.
    pub fn writer_in(
        &self,
        config: &ModelConfig,
        weights: Weights,
        format: Option<Held>,
    ) -> Result<(Box<dyn Infer>, String), BoxError> {
        if let Some(writer) = self.gpu_writer(config, Some(&weights), format, |settings| settings)? {
            let label = format!("{}, {}", writer.gpu().label(), writer.format());
            return Ok((Box::new(writer), label));
        }
        self.host_writer(config, weights, format)
    }

    /// The model on a GPU, where the flag leads there: always with `metal` and `vulkan`; with `auto` where
    /// one is there that is no program, passes its test and holds the model. `None` is the host. What `auto`
    /// comes to is said, with the reason. Noise for no weights; `change` has the last word on the settings.
    pub fn gpu_writer(
        &self,
        config: &ModelConfig,
        weights: Option<&Weights>,
        format: Option<Held>,
        change: impl FnOnce(metal_decode::Settings) -> metal_decode::Settings,
    ) -> Result<Option<GpuInfer>, Failure> {
        let auto = self.device == Device::Auto;
        let load = |api| {
            let format = Held::on_gpu(format)?;
            let device = gpu::open(api)?;
            let settings = change(gpu::settings(&device, format));
            gpu::load(device, config, weights, settings)
        };
        match gpu::api(self.device).or(auto.then_some(Api::Any)).map(load) {
            Some(Ok(writer)) => {
                if auto {
                    gpu::say(&format!("{}, {}: it passed its test", writer.gpu().label(), writer.format()));
                }
                Ok(Some(writer))
            }
            Some(Err(error)) if auto => {
                gpu::say(&format!("{}: {error}", self.label()));
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }

    /// The processor, or a Neural Engine with it, and what reports call it.
    fn host_writer(
        &self,
        config: &ModelConfig,
        weights: Weights,
        format: Option<Held>,
    ) -> Result<(Box<dyn Infer>, String), BoxError> {
        if self.is_cpu()? {
            let label = format!("{}, {}", self.label(), format.unwrap_or(Held::F32));
            return Ok((Box::new(self.cpu_writer(config, weights, format)?), label));
        }
        if let Some(format) = format {
            let text = format!("--format {format} is of the CPU and of GPUs: --device cpu, metal or vulkan");
            return Err(Failure::Usage(text).into());
        }
        Ok((self.ane_writer(config, weights)?, self.label()))
    }

    /// Whether the flag leads to the CPU alone.
    pub fn is_cpu(&self) -> Result<bool, Failure> {
        self.check()?;
        Ok(matches!(self.place()?, Place::Cpu))
    }

    /// The CPU as a writer.
    pub fn cpu_writer(
        &self,
        config: &ModelConfig,
        weights: Weights,
        format: Option<Held>,
    ) -> Result<CpuInfer, BoxError> {
        // A prompt is read in passes of this many tokens.
        let plan = Plan::new(config.max_seq.min(512)).with_threads(self.threads());
        let plan = plan.with_format(Held::on_cpu(format)?);
        CpuInfer::new(config, weights, plan).map_err(|error| match chain(&error) {
            text if is_weight(&error) => Failure::Data { code: "E3030", text }.into(),
            _ => error.into(),
        })
    }

    fn ane_writer(&self, config: &ModelConfig, weights: Weights) -> Result<Box<dyn Infer>, BoxError> {
        // Prompts are padded to one length; decoding is the CPU's.
        let padded = || backend_ane::Plan {
            threads: self.threads(),
            ..backend_ane::Plan::new(config.max_seq.min(512), 1)
        };
        match self.place()? {
            Place::Ane(settings) => {
                let device = AppleAne::open(settings)?;
                Ok(Box::new(AneInfer::new(device, config, weights, padded())?))
            }
            Place::VirtualAne => Ok(Box::new(AneInfer::new(self.virtual_ane(), config, weights, padded())?)),
            Place::Cpu => Ok(Box::new(self.cpu_writer(config, weights, None)?)),
        }
    }
}

/// Whether a weight is the cause of an error.
fn is_weight(error: &backend::Error) -> bool {
    let mut next = Some(error as &dyn std::error::Error);
    while let Some(error) = next {
        if error.is::<model::quant::QuantError>() {
            return true;
        }
        next = error.source();
    }
    false
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
