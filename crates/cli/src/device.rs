//! Picks the backend: the one place that names them.

use std::num::NonZeroUsize;

use ane_bridge::{Chip, Device as _, Settings, VirtualAne};
use backend::Train;
use backend_ane::{Ane, AneInfer};
use backend_cpu::{Act, Cpu, CpuInfer, Plan};
use engine::RunConfig;
use engine::infer::Infer;
use model::{BoxError, ModelConfig, Weights};

use crate::failure::Failure;

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The best device of this machine that this build knows: the CPU
    Auto,
    /// Every core of the processor
    Cpu,
    /// The virtual Neural Engine: Apple's MIL programs under the hardware's rules, computed by the CPU
    Ane,
    /// Not in this build
    Metal,
    /// Not in this build
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
    /// Chip that the virtual Neural Engine stands for
    #[arg(long, default_value = "M4 Max", value_name = "CHIP", value_parser = chip)]
    pub chip: &'static Chip,
    /// Threads; no result depends on it [default: one per core]
    #[arg(long, env = "RUSTANE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

fn chip(name: &str) -> Result<&'static Chip, String> {
    let names = || Chip::ALL.iter().map(|chip| chip.name).collect::<Vec<_>>().join(", ");
    Chip::find(&name.replace('-', " ")).ok_or_else(|| format!("wanted one of {}", names()))
}

/// A backend that trains, chosen at run time.
pub struct Trainer {
    /// The backend.
    pub backend: Box<dyn Train<Act = Act>>,
    /// Bytes that it reserved, where that is known.
    pub memory: Option<u64>,
    ane: Option<VirtualAne>,
}

impl Trainer {
    /// What the device did, as a line; nothing for the CPU.
    pub fn ledger(&self) -> Option<String> {
        let device = self.ane.as_ref()?;
        let total = device.ledger().total();
        Some(format!(
            "{}: {} dispatches of {} compiles in {:.1} s; a {} would take about {:.1} s for them",
            device.label(),
            total.dispatches,
            total.compiles,
            total.real.as_secs_f64(),
            device.chip().name,
            total.predicted_s
        ))
    }
}

impl DeviceArgs {
    /// Threads that will compute.
    pub fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(all, usize::from)
    }

    /// What ran, as reports say it.
    pub fn label(&self) -> String {
        let threads = self.threads();
        let device = match self.device {
            Device::Ane => format!("virtual ANE ({})", self.chip.name),
            _ => "cpu".to_owned(),
        };
        format!("{device}, {threads} thread{}", if threads == 1 { "" } else { "s" })
    }

    /// Fails for devices that this build does not have.
    pub fn check(&self) -> Result<(), Failure> {
        let name = match self.device {
            Device::Auto | Device::Cpu | Device::Ane => return Ok(()),
            Device::Metal => "Metal",
            Device::Vulkan => "Vulkan",
            Device::Cuda => "CUDA",
        };
        Err(Failure::NoDevice(format!("{name} is not in this build; use --device cpu")))
    }

    fn virtual_ane(&self) -> VirtualAne {
        VirtualAne::new(Settings { chip: self.chip, count_flushed: false, ..Settings::default() })
    }

    /// A backend that trains; its memory is reserved, and touched by no page yet.
    pub fn trainer(&self, config: &RunConfig) -> anyhow::Result<Trainer> {
        self.check()?;
        if self.device == Device::Ane {
            let device = self.virtual_ane();
            let plan = backend_ane::Plan {
                threads: self.threads(),
                ..backend_ane::Plan::new(config.train.seq, config.train.batch)
            };
            let backend = Box::new(Ane::new(device.clone(), &config.model, plan)?);
            return Ok(Trainer { backend, memory: None, ane: Some(device) });
        }
        let tokens = config.train.seq * config.train.batch;
        let plan = Plan::new(tokens).with_threads(self.threads()).with_recompute(config.train.recompute);
        let cpu = Cpu::new(&config.model, plan).map_err(|e| Failure::DoesNotFit(chain(&e)))?;
        let memory = cpu.bytes() as u64;
        if let Some(available) = available_memory()
            && memory > available
        {
            return Err(Failure::DoesNotFit(format!(
                "training needs {}, {} are free: try --recompute, a smaller --batch or --seq, or a smaller \
                 preset",
                bytes(memory),
                bytes(available)
            ))
            .into());
        }
        Ok(Trainer { backend: Box::new(cpu), memory: Some(memory), ane: None })
    }

    /// A backend that writes.
    pub fn writer(&self, config: &ModelConfig, weights: Weights) -> Result<Box<dyn Infer>, BoxError> {
        self.check()?;
        if self.device == Device::Ane {
            // Prompts are padded to one length; decoding is the CPU's.
            let plan = backend_ane::Plan {
                threads: self.threads(),
                ..backend_ane::Plan::new(config.max_seq.min(512), 1)
            };
            return Ok(Box::new(AneInfer::new(self.virtual_ane(), config, weights, plan)?));
        }
        // A prompt is read in passes of this many tokens.
        let plan = Plan::new(config.max_seq.min(512)).with_threads(self.threads());
        Ok(Box::new(CpuInfer::new(config, weights, plan)?))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Bytes that can be used without swapping, where the system tells.
pub fn available_memory() -> Option<u64> {
    let number = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let machine = number(line)? * 1024;
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit = read("memory.max").and_then(|t| number(&t));
    let used = read("memory.current").and_then(|t| number(&t)).unwrap_or(0);
    Some(limit.map_or(machine, |limit| machine.min(limit.saturating_sub(used))))
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.1} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.1} kB", n / 1e3),
        n => format!("{n} bytes"),
    }
}
