//! Backends that train.

use std::collections::BTreeMap;
use std::sync::Arc;

use ane_bridge::{AppleAne, Chip, Ledger};
use backend::{Footprint, Train};
use backend_ane::{Ane, AneDevice, Care, Monitor};
use backend_cpu::{Act, Cpu, MomentFormat, Plan};
use engine::RunConfig;
use engine::config::{
    OptimizerConfig, OptimizerDevice, OptimizerKind, OptimizerState, Precision, WeightFormat,
};
use metal_decode::{Api, Gpu, GpuOptimizer};

use super::faults::Injected;
use super::memory::demand;
use super::place::Place;
use super::{DeviceArgs, ane_classifier, chain};
use crate::failure::Failure;

/// A backend that trains, chosen at run time.
pub struct Trainer {
    /// The backend.
    pub backend: Box<dyn Train<Act = Act>>,
    /// What it takes, where that is known.
    pub footprint: Option<Footprint>,
    /// The GPU of the updates, where one does them.
    pub updates: Option<String>,
    ane: Option<OnAne>,
}

/// What is told of a Neural Engine, real or virtual, that trains.
#[derive(Clone)]
struct OnAne {
    label: String,
    chip: &'static Chip,
    ledger: Arc<dyn Fn() -> Ledger>,
    monitor: Monitor,
}

impl Trainer {
    /// What runs, as runs record it: the device, and the one of the updates where that is another.
    pub fn name(&self, device: &DeviceArgs) -> String {
        let updates = self.updates.as_ref().map(|gpu| format!(", updates on {gpu}"));
        device.name() + &updates.unwrap_or_default()
    }

    /// Bytes that it takes, where that is known.
    pub fn memory(&self) -> Option<u64> {
        self.footprint.as_ref().map(Footprint::total)
    }

    /// Says what the device did, as a line, when the backend has gone elsewhere; nothing for the CPU.
    pub fn later_ledger(&self) -> impl Fn() -> Option<String> + use<> {
        let ane = self.ane.clone();
        move || ane.as_ref().map(OnAne::line)
    }

    /// Dispatches by device, for when the backend has gone elsewhere; nothing for the CPU, which keeps no ledger.
    pub fn later_counts(&self) -> impl Fn() -> Option<BTreeMap<String, u64>> + use<> {
        let ane = self.ane.clone();
        move || ane.as_ref().map(|ane| [(ane.label.clone(), (ane.ledger)().total().dispatches)].into())
    }

    /// Says whether the device wants a fresh process, while the backend is at work.
    pub fn restart_wanted(&self) -> impl Fn() -> bool + use<> {
        let monitor = self.ane.as_ref().map(|ane| ane.monitor.clone());
        move || monitor.as_ref().is_some_and(|monitor| monitor.health().restart)
    }
}

impl OnAne {
    /// What it did so far.
    fn line(&self) -> String {
        let (total, health) = ((self.ledger)().total(), self.monitor.health());
        let count = |n: u64, what: &str| if n == 0 { String::new() } else { format!(", {n} {what}") };
        format!(
            "{}: {} dispatches of {} compiles in {:.1} s; a {} would take about {:.1} s for them{}{}{}",
            self.label,
            total.dispatches,
            total.compiles,
            total.real.as_secs_f64(),
            self.chip.name,
            total.predicted_s,
            count(health.retried, "run again after an overflow"),
            count(total.failures, "failed"),
            count(health.recreated, "programs compiled anew")
        )
    }
}

impl DeviceArgs {
    /// Fails for updates on a GPU that is not there, or with moments that only the CPU keeps.
    pub fn check_optimizer(&self, optimizer: &OptimizerConfig) -> Result<(), Failure> {
        self.optimizer_gpu(optimizer).map(drop)
    }

    fn optimizer_gpu(&self, optimizer: &OptimizerConfig) -> Result<Option<Gpu>, Failure> {
        let api = match optimizer.device {
            OptimizerDevice::Cpu => return Ok(None),
            OptimizerDevice::Metal => Api::Metal,
            OptimizerDevice::Vulkan => Api::Vulkan,
        };
        if optimizer.state != OptimizerState::F32 {
            let text =
                "a GPU keeps the moments as f32: leave --optimizer-state out, or use --optimizer-device cpu";
            return Err(Failure::Usage(text.into()));
        }
        match Gpu::open(api) {
            Ok(gpu) => Ok(Some(gpu)),
            Err(error) => Err(Failure::NoDevice(format!(
                "`optimizer.device`: {}, or --optimizer-device cpu",
                chain(&error).trim_end_matches('.')
            ))),
        }
    }

    /// A backend that trains; its memory is reserved, and touched by no page yet.
    pub fn trainer(&self, config: &RunConfig) -> anyhow::Result<Trainer> {
        let gpu = self.optimizer_gpu(&config.optimizer)?;
        let trainer = self.passes(config)?;
        let Some(gpu) = gpu else { return Ok(trainer) };
        let updates = Some(gpu.label());
        let backend = GpuOptimizer::new(trainer.backend, gpu).map_err(|e| {
            Failure::DoesNotFit(format!("{}: use --optimizer-device cpu, or a smaller model", chain(&e)))
        })?;
        Ok(Trainer { backend: Box::new(backend), updates, ..trainer })
    }

    /// The backend of the forward and backward passes, and of the updates unless a GPU does them.
    fn passes(&self, config: &RunConfig) -> anyhow::Result<Trainer> {
        self.check()?;
        let place = self.place()?;
        let footprint = self.footprint(config)?;
        demand(&footprint)?;
        match place {
            Place::Ane(settings) => {
                self.on_ane(AppleAne::open(settings)?, Care::default(), config, footprint)
            }
            Place::VirtualAne => {
                // It does not wear: its dispatches take longer when the machine has other work.
                let factor = Injected::now().care_factor.unwrap_or(f64::INFINITY);
                let care = Care { factor, ..Care::default() };
                self.on_ane(self.virtual_ane(), care, config, footprint)
            }
            Place::Cpu => {
                let cpu = Cpu::new(&config.model, self.cpu_plan(config));
                let cpu = cpu.map_err(|e| Failure::DoesNotFit(chain(&e)))?;
                Ok(Trainer { backend: Box::new(cpu), footprint: Some(footprint), updates: None, ane: None })
            }
        }
    }

    /// What training takes, counted by the backend that takes it; nothing is taken.
    pub fn footprint(&self, config: &RunConfig) -> anyhow::Result<Footprint> {
        let chip = match self.place()? {
            Place::Cpu => {
                let precision = self.settle(config.train.precision);
                if config.train.weights == WeightFormat::Bf16 && precision != Precision::Bf16 {
                    let text = "--weights bf16 wants products in bf16, got f32; add --precision bf16";
                    return Err(Failure::Usage(text.into()).into());
                }
                let muon = config.optimizer.kind == OptimizerKind::Muon;
                let found = Cpu::footprint(&config.model, self.cpu_plan(config), muon);
                return Ok(found.map_err(|e| Failure::DoesNotFit(chain(&e)))?);
            }
            Place::Ane(settings) => settings.chip.unwrap_or(Chip::M4_MAX),
            Place::VirtualAne => self.virtual_chip(),
        };
        self.ane_footprint(config, chip)
    }

    /// What fine-tuning by adapters of a rank would take on the CPU.
    pub fn lora_footprint(&self, config: &RunConfig, rank: usize) -> anyhow::Result<Footprint> {
        let found = Cpu::lora_footprint(&config.model, self.cpu_plan(config), rank);
        Ok(found.map_err(|e| Failure::DoesNotFit(chain(&e)))?)
    }

    /// What training takes on a chip's Neural Engine, this machine's or not.
    pub fn ane_footprint(&self, config: &RunConfig, chip: &Chip) -> anyhow::Result<Footprint> {
        for (flag, ours) in [
            ("--precision", self.settle(config.train.precision) == Precision::F32),
            ("--optimizer-state", config.optimizer.state == OptimizerState::F32),
            ("--update-in-backward", !config.train.update_in_backward),
            ("--weights", config.train.weights == WeightFormat::F32),
        ] {
            if !ours {
                let text = format!("{flag} is of the CPU; leave it out, or use --device cpu");
                return Err(Failure::Usage(text).into());
            }
        }
        let muon = config.optimizer.kind == OptimizerKind::Muon;
        let mut found = backend_ane::footprint(&config.model, self.ane_plan(config), &chip.limits(), muon)?;
        if self.is_virtual_ane()? {
            let bytes = backend_ane::evaluator_bytes(&config.model, self.ane_plan(config), chip)?;
            found.add("evaluator of the virtual ANE", bytes);
        }
        Ok(found)
    }

    fn ane_plan(&self, config: &RunConfig) -> backend_ane::Plan {
        backend_ane::Plan {
            threads: self.threads(),
            classifier: ane_classifier(config.train.classifier),
            ..backend_ane::Plan::new(config.train.seq, config.train.batch)
        }
    }

    fn cpu_plan(&self, config: &RunConfig) -> Plan {
        let plan = Plan::new(config.train.seq * config.train.batch)
            .with_threads(self.threads())
            .with_recompute(config.train.recompute)
            .with_update_in_backward(config.train.update_in_backward)
            .with_weights(match config.train.weights {
                WeightFormat::F32 => backend_cpu::WeightFormat::F32,
                WeightFormat::Bf16 => backend_cpu::WeightFormat::Bf16,
            })
            .with_precision(match self.settle(config.train.precision) {
                Precision::Bf16 => backend_cpu::Precision::Bf16,
                Precision::F32 | Precision::Auto => backend_cpu::Precision::F32,
            })
            .with_moments(match config.optimizer.state {
                OptimizerState::F32 => MomentFormat::F32,
                OptimizerState::Bf16 => MomentFormat::Bf16,
                OptimizerState::Q8 => MomentFormat::Q8,
            });
        // A GPU that updates reads gradients and writes weights as rows in every step.
        Plan { by_rows: config.optimizer.device != OptimizerDevice::Cpu, ..plan }
    }

    fn on_ane<D>(
        &self,
        device: D,
        care: Care,
        config: &RunConfig,
        footprint: Footprint,
    ) -> anyhow::Result<Trainer>
    where
        D: AneDevice + Clone + 'static,
    {
        let plan = backend_ane::Plan { care, ..self.ane_plan(config) };
        let (label, chip) = (device.label(), device.chip());
        let backend = Box::new(Ane::new(device.clone(), &config.model, plan)?);
        let (monitor, ledger) = (backend.monitor(), Arc::new(move || device.ledger()));
        let ane = Some(OnAne { label, chip, ledger, monitor });
        Ok(Trainer { backend, footprint: Some(footprint), updates: None, ane })
    }
}
