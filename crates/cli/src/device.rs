//! Picks the backend: the one place that names them.

use std::num::NonZeroUsize;

use backend_cpu::{Cpu, CpuInfer, Plan};
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
}

/// Flags of every command that computes.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// Where the model runs
    #[arg(long, env = "RUSTANE_DEVICE", default_value = "auto", value_name = "DEVICE")]
    pub device: Device,
    /// Threads; no result depends on it [default: one per core]
    #[arg(long, env = "RUSTANE_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
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
        format!("cpu, {threads} thread{}", if threads == 1 { "" } else { "s" })
    }

    /// A backend that trains; its memory is reserved, and touched by no page yet.
    pub fn trainer(&self, config: &RunConfig) -> anyhow::Result<Cpu> {
        let tokens = config.train.seq * config.train.batch;
        let plan = Plan::new(tokens).with_threads(self.threads()).with_recompute(config.train.recompute);
        let cpu = Cpu::new(&config.model, plan).map_err(|e| Failure::DoesNotFit(chain(&e)))?;
        if let Some(available) = available_memory()
            && cpu.bytes() as u64 > available
        {
            return Err(Failure::DoesNotFit(format!(
                "training needs {}, {} are free: try --recompute, a smaller --batch or --seq, or a smaller \
                 preset",
                bytes(cpu.bytes() as u64),
                bytes(available)
            ))
            .into());
        }
        Ok(cpu)
    }

    /// A backend that writes.
    pub fn writer(&self, config: &ModelConfig, weights: Weights) -> Result<Box<dyn Infer>, BoxError> {
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
