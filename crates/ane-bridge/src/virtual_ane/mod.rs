//! A device on every machine: MIL text in, the hardware's numbers, limits and errors out.
//!
//! Arithmetic is [`mil::eval`]'s. Limits are those of one process with the private framework: compiles
//! and loaded programs are counted, evaluations run one at a time, surfaces have the real pitch. Time
//! is kept twice in the [`Ledger`]: what this machine took, and what the chip would take by
//! [`crate::clock`].

mod bare;
mod faults;
mod threads;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mil::Verified;
use mil::eval::{Arithmetic, Host, Mat, Plan, Rows, Slice, SliceMut, Table};
use smallvec::SmallVec;

use crate::chip::Chip;
use crate::clock;
use crate::device::{Device, Executable, Port, Request, arrange, distinct};
use crate::error::{BindError, CompileError, RunError, Status};
use crate::ledger::Ledger;
use crate::measured::Measured;
use crate::surface::{Layout, ReadGuard, Surface, SurfaceError, WriteGuard};

pub use bare::VirtualBare;
pub use faults::{Faults, SlowDown};
pub use threads::Threads;

/// Choices of a virtual device.
#[derive(Clone)]
pub struct Settings {
    /// The chip whose limits and times apply.
    pub chip: &'static Chip,
    /// How products are summed.
    pub arithmetic: Arithmetic,
    /// Count flushed products too; costs a few percent of a run.
    pub count_flushed: bool,
    /// Compiles that the device takes, failed ones included; `None` for macOS from 26.3 on, where
    /// 150 were seen to pass. Default 119, after which hardware failed silently (Orion 5, maderix/ANE).
    pub compile_budget: Option<u32>,
    /// Programs loaded at once. Default 110; 110 to 128 were seen (ANEForge, docs/dispatch.md).
    pub load_limit: u32,
    /// Elementary functions whose results were measured on the chip.
    pub tables: &'static [Table],
    /// Faults to inject.
    pub faults: Faults,
    /// The f32 product of [`Arithmetic::Fast`], and the threads.
    pub host: Arc<dyn Host>,
}

impl Default for Settings {
    /// An M4 Max with the fast arithmetic.
    fn default() -> Self {
        Self::of(Chip::M4_MAX)
    }
}

impl Settings {
    /// A chip with the fast arithmetic, and with what was measured on it in place of what is assumed.
    pub fn of(chip: &'static Chip) -> Self {
        let assumed = Self {
            chip,
            arithmetic: Arithmetic::Fast,
            count_flushed: true,
            compile_budget: Some(119),
            load_limit: 110,
            tables: &[],
            faults: Faults::default(),
            host: Arc::new(Threads),
        };
        match Measured::of(chip.name) {
            Some(measured) => assumed.with(measured),
            None => assumed,
        }
    }

    /// These settings with what was measured.
    pub fn with(self, measured: &Measured) -> Self {
        Self {
            compile_budget: measured.compile_budget().unwrap_or(self.compile_budget),
            load_limit: measured.load_limit().unwrap_or(self.load_limit),
            tables: measured.tables,
            ..self
        }
    }
}

/// The virtual ANE. One value stands for one process with the framework: a new value is what a
/// restarted process gets. Clones are the same device.
#[derive(Clone)]
pub struct VirtualAne(Arc<Shared>);

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    /// Held by the evaluation in flight.
    engine: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Compiles tried.
    compiles: u32,
    loaded: u32,
    /// Dispatches tried.
    dispatches: u64,
    faults: Faults,
    ledger: Ledger,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Counters stay valid when a thread panics between them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for VirtualAne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualAne({})", self.0.settings.chip.name)
    }
}

impl Default for VirtualAne {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl VirtualAne {
    /// A device in a fresh process.
    pub fn new(settings: Settings) -> Self {
        let state = State { faults: settings.faults.clone(), ..State::default() };
        Self(Arc::new(Shared { settings, state: Mutex::new(state), engine: Mutex::new(()) }))
    }

    /// The choices that the device was made with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Replaces the faults. Counts go on.
    pub fn inject(&self, faults: Faults) {
        self.0.state().faults = faults;
    }

    /// Compiles tried so far.
    pub fn compiles(&self) -> u32 {
        self.0.state().compiles
    }

    /// Programs loaded now.
    pub fn loaded(&self) -> u32 {
        self.0.state().loaded
    }

    /// Dispatches tried so far.
    pub fn dispatches(&self) -> u64 {
        self.0.state().dispatches
    }

    /// Counts one compile, and the load slot it will take, or says why there is none.
    fn admit(&self, name: &str, program: &Verified) -> Result<Slot, CompileError> {
        let Settings { chip, compile_budget, load_limit, .. } = self.0.settings;
        let program_name = || name.to_string();
        let found = program.target().family;
        if found != chip.family {
            return Err(CompileError::Family {
                program: program_name(),
                found,
                chip: chip.name.to_string(),
                wanted: chip.family,
            });
        }
        let mut state = self.0.state();
        let needed = state.compiles.saturating_add(1);
        if let Some(budget) = compile_budget.filter(|&budget| needed > budget) {
            return Err(CompileError::Budget { program: program_name(), needed, budget });
        }
        state.compiles = needed;
        if state.faults.compile_fails.contains(&needed) {
            let reason = format!("InvalidMILProgram (injected at compile {needed})");
            return Err(CompileError::Rejected { program: program_name(), reason });
        }
        let loaded = state.loaded + 1;
        if loaded > load_limit {
            return Err(CompileError::Loaded { program: program_name(), needed: loaded, limit: load_limit });
        }
        state.loaded = loaded;
        Ok(Slot(self.0.clone()))
    }
}

impl Device for VirtualAne {
    type Executable = VirtualExecutable;

    fn chip(&self) -> &'static Chip {
        self.0.settings.chip
    }

    fn label(&self) -> String {
        format!("virtual ANE ({})", self.0.settings.chip.name)
    }

    fn compile(&self, name: &str, program: &Verified) -> Result<VirtualExecutable, CompileError> {
        let slot = self.admit(name, program)?;
        let [function] = program.functions.as_slice() else {
            return Err(CompileError::Functions { program: name.into(), count: program.functions.len() });
        };
        let settings = &self.0.settings;
        let plan_settings = mil::eval::Settings {
            arithmetic: settings.arithmetic,
            rows: Rows::Pitched,
            count_flushed: settings.count_flushed,
            tables: settings.tables,
        };
        let plan = Plan::of(program, &function.name, plan_settings)
            .map_err(|source| CompileError::Plan { program: name.into(), source })?
            .with_host(Box::new(SharedHost(settings.host.clone())));
        let inputs = ports(name, plan.inputs().iter())?;
        let outputs = ports(name, plan.outputs())?;
        let predicted_s = clock::program_s(settings.chip, function);
        self.0.state().ledger.entry(name).compiles += 1;
        Ok(VirtualExecutable(Arc::new(Loaded {
            name: name.to_string(),
            inputs,
            outputs,
            predicted_s,
            plan: Mutex::new(plan),
            runs: AtomicU64::new(0),
            slot,
        })))
    }

    fn surface(&self, layout: Layout) -> Result<Surface, SurfaceError> {
        Surface::on_heap(layout)
    }

    fn compiles_left(&self) -> Option<u32> {
        self.0.settings.compile_budget.map(|budget| budget.saturating_sub(self.compiles()))
    }

    fn ledger(&self) -> Ledger {
        self.0.state().ledger.clone()
    }
}

/// Binding is by name; declared order is byte order unless [`bare`] lifted the rule.
fn ports<'a>(
    program: &str,
    found: impl Iterator<Item = &'a mil::eval::Port>,
) -> Result<Vec<Port>, CompileError> {
    let port = |port: &mil::eval::Port| {
        let layout = Layout::of(&port.ty).ok_or_else(|| CompileError::Port {
            program: program.into(),
            value: port.name.clone(),
            found: port.ty.to_string(),
        })?;
        Ok(Port { name: port.name.clone(), layout })
    };
    found.map(port).collect()
}

/// A place among the loaded programs, given back on drop.
struct Slot(Arc<Shared>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().loaded -= 1;
    }
}

struct SharedHost(Arc<dyn Host>);

impl Host for SharedHost {
    fn matmul(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]) {
        self.0.matmul(a, b, c);
    }

    fn spread(&self, work: &(dyn Fn() + Sync)) {
        self.0.spread(work);
    }
}

/// One entry per input or output of a program, without an allocation for up to eight.
type PerPort<T> = SmallVec<[T; 8]>;

/// A program on the virtual ANE.
pub struct VirtualExecutable(Arc<Loaded>);

struct Loaded {
    name: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    predicted_s: f64,
    plan: Mutex<Plan>,
    /// Dispatches of this executable.
    runs: AtomicU64,
    slot: Slot,
}

impl fmt::Debug for VirtualExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualExecutable({})", self.0.name)
    }
}

impl Executable for VirtualExecutable {
    type Request = VirtualRequest;

    fn name(&self) -> &str {
        &self.0.name
    }

    fn inputs(&self) -> &[Port] {
        &self.0.inputs
    }

    fn outputs(&self) -> &[Port] {
        &self.0.outputs
    }

    fn predicted_s(&self) -> f64 {
        self.0.predicted_s
    }

    fn bind(
        &self,
        inputs: &[(&str, &Surface)],
        outputs: &[(&str, &Surface)],
    ) -> Result<VirtualRequest, BindError> {
        let program = self.0.clone();
        let inputs = arrange(&program.name, "input", &program.inputs, inputs)?;
        let outputs = arrange(&program.name, "output", &program.outputs, outputs)?;
        distinct(&program.name, (&program.inputs, &inputs), (&program.outputs, &outputs))?;
        Ok(VirtualRequest { program, inputs, outputs })
    }
}

/// Surfaces bound to a program on the virtual ANE.
pub struct VirtualRequest {
    program: Arc<Loaded>,
    inputs: Vec<Surface>,
    outputs: Vec<Surface>,
}

impl fmt::Debug for VirtualRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualRequest({})", self.program.name)
    }
}

impl Request for VirtualRequest {
    fn run(&self) -> Result<(), RunError> {
        let program = &*self.program;
        let device = &program.slot.0;
        let result = self.evaluate(program, device);
        if result.is_err() {
            device.state().ledger.entry(&program.name).failures += 1;
        }
        result
    }
}

impl VirtualRequest {
    fn evaluate(&self, program: &Loaded, device: &Shared) -> Result<(), RunError> {
        let used = |port: &Port, source| RunError::Surface {
            program: program.name.clone(),
            name: port.name.clone(),
            source,
        };
        let _in_flight = device.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let slow_down = {
            let mut state = device.state();
            state.dispatches += 1;
            let dispatch = state.dispatches;
            if state.faults.evaluate_fails_at == Some(dispatch) {
                return Err(RunError::Failed {
                    program: program.name.clone(),
                    dispatch,
                    status: Status::INFERENCE,
                    reason: "Program Inference error (injected)".into(),
                    system: None,
                });
            }
            state.faults.slow_down
        };
        let runs = program.runs.fetch_add(1, Ordering::Relaxed) + 1;

        let reads: PerPort<ReadGuard<'_>> = program
            .inputs
            .iter()
            .zip(&self.inputs)
            .map(|(port, surface)| surface.read().map_err(|e| used(port, e)))
            .collect::<Result<_, _>>()?;
        let mut writes: PerPort<WriteGuard<'_>> = program
            .outputs
            .iter()
            .zip(&self.outputs)
            .map(|(port, surface)| surface.write().map_err(|e| used(port, e)))
            .collect::<Result<_, _>>()?;
        let inputs: PerPort<Slice<'_>> = reads.iter().map(ReadGuard::slice).collect();
        let mut outputs: PerPort<SliceMut<'_>> = writes.iter_mut().map(WriteGuard::slice_mut).collect();

        let start = Instant::now();
        let mut plan = program.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = &mut *plan;
        // Inside the pool from first to last: a thread of it hands out tasks and goes on by itself
        // when the others are late, where one from outside would wait for them at every operation.
        let stats = rayon::scope(|_| plan.run(&inputs, &mut outputs))
            .map_err(|source| RunError::Evaluate { program: program.name.clone(), source })?;
        let mut predicted_s = program.predicted_s;
        if let Some(factor) = slow_down.and_then(|slow| slow.factor_at(runs)) {
            std::thread::sleep(start.elapsed().mul_f64(factor - 1.0));
            predicted_s *= factor;
        }
        let mut state = device.state();
        let entry = state.ledger.entry(&program.name);
        entry.dispatches += 1;
        entry.real += start.elapsed();
        entry.predicted_s += predicted_s;
        entry.stats += stats;
        Ok(())
    }
}
