//! Picks the backend: the one place that names them.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use ane_bridge::{AppleAne, Chip, Faults, Ledger, Settings, SlowDown, VirtualAne, apple};
use backend::Train;
use backend_ane::{Ane, AneDevice, AneError, AneInfer, Monitor};
use backend_cpu::{Act, Cpu, CpuInfer, Isa, MomentFormat, Plan};
use engine::RunConfig;
use engine::config::{Classifier, OptimizerConfig, OptimizerDevice, OptimizerState, Precision, WeightFormat};
use engine::infer::Infer;
use metal_decode::{Api, Gpu, GpuInfer, GpuOptimizer};
use model::{BoxError, ModelConfig, Weights};

use crate::ane;
use crate::failure::Failure;
use crate::format::Held;
use crate::gpu;

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

/// A backend that trains, chosen at run time.
pub struct Trainer {
    /// The backend.
    pub backend: Box<dyn Train<Act = Act>>,
    /// Bytes that it reserved, where that is known.
    pub memory: Option<u64>,
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

/// Where a flag leads on this machine.
enum Place {
    Cpu,
    VirtualAne,
    /// The Neural Engine of this Mac.
    Ane(apple::Settings),
}

impl Trainer {
    /// What runs, as runs record it: the device, and the one of the updates where that is another.
    pub fn name(&self, device: &DeviceArgs) -> String {
        let updates = self.updates.as_ref().map(|gpu| format!(", updates on {gpu}"));
        device.name() + &updates.unwrap_or_default()
    }

    /// What the device did, as a line; nothing for the CPU.
    pub fn ledger(&self) -> Option<String> {
        self.later_ledger()()
    }

    /// [`Trainer::ledger`] for when the backend has gone elsewhere.
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
    /// Threads that will compute.
    pub fn threads(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.map_or_else(all, usize::from)
    }

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
    fn place(&self) -> Result<Place, Failure> {
        let asked = match (self.device, apple::BUILT) {
            (Device::Ane | Device::Auto, true) => ane::verdict(),
            (Device::Ane | Device::VirtualAne, _) => return Ok(Place::VirtualAne),
            _ => return Ok(Place::Cpu),
        };
        let chip = || self.chip.or_else(|| Chip::find(&apple::system_chip()?));
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
        self.chip.unwrap_or(Chip::M4_MAX)
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

    /// The virtual Neural Engine that commands use.
    pub fn virtual_ane_settings(&self) -> Settings {
        Settings { chip: self.virtual_chip(), count_flushed: false, ..Settings::default() }
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

    fn virtual_ane(&self) -> VirtualAne {
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
        let precision = self.settle(config.train.precision);
        match self.place()? {
            Place::Ane(settings) => return self.on_ane(AppleAne::open(settings)?, config),
            Place::VirtualAne => return self.on_ane(self.virtual_ane(), config),
            Place::Cpu => {}
        }
        if config.train.weights == WeightFormat::Bf16 && precision != Precision::Bf16 {
            let text = "--weights bf16 wants products in bf16, got f32; add --precision bf16";
            return Err(Failure::Usage(text.into()).into());
        }
        let tokens = config.train.seq * config.train.batch;
        let plan = Plan::new(tokens)
            .with_threads(self.threads())
            .with_recompute(config.train.recompute)
            .with_update_in_backward(config.train.update_in_backward)
            .with_precision(match precision {
                Precision::Bf16 => backend_cpu::Precision::Bf16,
                Precision::F32 | Precision::Auto => backend_cpu::Precision::F32,
            })
            .with_weights(match config.train.weights {
                WeightFormat::F32 => backend_cpu::WeightFormat::F32,
                WeightFormat::Bf16 => backend_cpu::WeightFormat::Bf16,
            })
            .with_moments(match config.optimizer.state {
                OptimizerState::F32 => MomentFormat::F32,
                OptimizerState::Bf16 => MomentFormat::Bf16,
                OptimizerState::Q8 => MomentFormat::Q8,
            });
        let cpu = Cpu::new(&config.model, plan).map_err(|e| Failure::DoesNotFit(chain(&e)))?;
        let memory = cpu.bytes() as u64;
        if let Some(available) = available_memory()
            && memory > available
        {
            return Err(Failure::DoesNotFit(format!(
                "training needs {}, {} are free: try --update-in-backward, --recompute, --optimizer-state q8, \
                 a smaller --batch or --seq, or a smaller preset",
                bytes(memory),
                bytes(available)
            ))
            .into());
        }
        Ok(Trainer { backend: Box::new(cpu), memory: Some(memory), updates: None, ane: None })
    }

    fn on_ane<D>(&self, device: D, config: &RunConfig) -> anyhow::Result<Trainer>
    where
        D: AneDevice + Clone + 'static,
    {
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
        let mut plan = backend_ane::Plan {
            threads: self.threads(),
            classifier: ane_classifier(config.train.classifier),
            ..backend_ane::Plan::new(config.train.seq, config.train.batch)
        };
        plan.care.factor = Injected::now().care_factor.unwrap_or(plan.care.factor);
        let (label, chip) = (device.label(), device.chip());
        let backend = Box::new(Ane::new(device.clone(), &config.model, plan)?);
        let (monitor, ledger) = (backend.monitor(), Arc::new(move || device.ledger()));
        Ok(Trainer {
            backend,
            memory: None,
            updates: None,
            ane: Some(OnAne { label, chip, ledger, monitor }),
        })
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

/// Faults of the virtual device, which only tests ask for.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Injected {
    budget: Option<u32>,
    fail_at: Option<u64>,
    slow_after: Option<u64>,
    care_factor: Option<f64>,
}

impl Injected {
    /// Nothing, unless the build has fail points and `device::faults` is set to a line of TOML.
    fn now() -> Self {
        fail::fail_point!("device::faults", |text| {
            let text = text.unwrap_or_default().replace(' ', "\n");
            toml::from_str(&text).expect("the test writes the faults as TOML")
        });
        Self::default()
    }

    fn faults(&self) -> Faults {
        Faults {
            evaluate_fails_at: self.fail_at,
            slow_down: self.slow_after.map(|after| SlowDown { after, factor: 30.0 }),
            ..Faults::default()
        }
    }
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
