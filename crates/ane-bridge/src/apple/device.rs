//! The Neural Engine as a [`Device`].
//!
//! ```text
//! compile   text, weights → model → folder → compile → load → symbol order
//! bind      surfaces → wrapped, in symbol order → one request object, used for every run
//! run       keep the host's guards away → evaluate → ledger
//! drop      unload → folder removed → slot given back
//! ```
//!
//! Compiles and loaded programs are counted over the process, because the limits are the process's.
//! Evaluations of a device run one at a time, as the hardware runs them.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mil::{Function, ValueId, Verified, Weights};

use super::attributes::{self, Attributes};
use super::error::{OpenError, SystemError};
use super::folder::Folder;
use super::framework::{Framework, Object, Wanted};
use super::iosurface::{self, Handle};
use super::settings::{Route, Settings};
use super::system;
use crate::chip::Chip;
use crate::clock;
use crate::device::{Device, Executable, Port, Request, arrange, distinct};
use crate::error::{BindError, CompileError, RunError, Status};
use crate::ledger::Ledger;
use crate::surface::{Access, Hold, Layout, Surface, SurfaceError};

/// What results are labelled with: only silicon is called ANE.
const WHAT: &str = if cfg!(target_os = "macos") { "ANE" } else { "fake ANE framework" };
/// A load may fail right after its compile and work after a while (maderix/ANE, bridge/ane_bridge.m).
const LOAD_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Compiles tried in this process.
static COMPILES: AtomicU32 = AtomicU32::new(0);
/// Programs loaded in this process.
static LOADED: AtomicU32 = AtomicU32::new(0);

/// The Neural Engine of this machine. Clones are the same device.
#[derive(Clone)]
pub struct AppleAne(Arc<Shared>);

pub(super) struct Shared {
    pub framework: Framework,
    /// There when evaluations are direct.
    client: Option<Object>,
    pub settings: Settings,
    chip: &'static Chip,
    budget: Option<u32>,
    temporary: PathBuf,
    state: Mutex<State>,
    /// Held by the evaluation in flight.
    pub engine: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Dispatches tried.
    dispatches: u64,
    ledger: Ledger,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Counters stay valid when a thread panics between them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AppleAne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppleAne({})", self.0.chip.name)
    }
}

impl AppleAne {
    /// Loads the framework, compares its calls with [`super::table`], and opens the device.
    ///
    /// # Errors
    /// [`OpenError`] says what of it is not there.
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        let direct = settings.route == Route::Direct;
        let wanted = Wanted { direct, statistics: settings.statistics };
        let framework = Framework::open(&settings.framework, wanted)?;
        if framework.has_engine() == Some(false) {
            return Err(OpenError::NoEngine);
        }
        let chip = match settings.chip {
            Some(chip) => chip,
            None => {
                let name = system::chip().ok_or(OpenError::ChipUnknown)?;
                Chip::find(&name).ok_or(OpenError::ChipNew { name })?
            }
        };
        let client = direct.then(|| framework.client()).transpose().map_err(OpenError::Client)?;
        let budget = settings.compile_budget.of(system::version().as_deref());
        let temporary = framework.temporary_folder();
        Ok(Self(Arc::new(Shared {
            framework,
            client,
            settings,
            chip,
            budget,
            temporary,
            state: Mutex::default(),
            engine: Mutex::new(()),
        })))
    }

    /// The choices that the device was opened with.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Compiles that this process tried so far, on any device value.
    pub fn compiles(&self) -> u32 {
        COMPILES.load(Ordering::Relaxed)
    }

    /// Programs that this process has loaded, on any device value.
    pub fn loaded(&self) -> u32 {
        LOADED.load(Ordering::Relaxed)
    }

    /// Counts one compile and takes the load slot that it will need, or says why there is none.
    fn admit(&self, name: &str) -> Result<Slot, CompileError> {
        let (budget, limit) = (self.0.budget, self.0.settings.load_limit);
        let count = |compiles: u32| {
            let needed = compiles.saturating_add(1);
            budget.is_none_or(|budget| needed <= budget).then_some(needed)
        };
        if let Err(compiles) = COMPILES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) {
            let budget = budget.unwrap_or(compiles);
            return Err(CompileError::Budget {
                program: name.into(),
                needed: compiles.saturating_add(1),
                budget,
            });
        }
        let take = |loaded: u32| (loaded < limit).then_some(loaded + 1);
        match LOADED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(Slot),
            Err(loaded) => Err(CompileError::Loaded { program: name.into(), needed: loaded + 1, limit }),
        }
    }
}

impl AppleAne {
    /// Compiles and loads a text. A drop of the result unloads.
    pub(super) fn load_text(
        &self,
        name: &str,
        text: &str,
        weights: Option<&Weights>,
        offset: u64,
    ) -> Result<Loaded, CompileError> {
        let shared = &self.0;
        let slot = self.admit(name)?;
        let (framework, qos) = (&shared.framework, shared.settings.qos);
        let refused = |source| CompileError::System { program: name.into(), source };
        let model = framework.model(text, weights, offset).map_err(refused)?;
        let identifier = framework.identifier(&model).map_err(refused)?;
        let folder = Folder::write(&shared.temporary, &identifier, text, weights)
            .map_err(|source| CompileError::Files { program: name.into(), source: source.into() })?;
        framework.compile(&model, qos).map_err(refused)?;
        let loaded = Loaded { model, device: shared.clone(), folder, _slot: slot };
        if framework.load(&loaded.model, qos).is_err() {
            std::thread::sleep(LOAD_AGAIN_AFTER);
            framework.load(&loaded.model, qos).map_err(refused)?;
        }
        Ok(loaded)
    }
}

impl Device for AppleAne {
    type Executable = AppleExecutable;

    fn chip(&self) -> &'static Chip {
        self.0.chip
    }

    fn label(&self) -> String {
        format!("{WHAT} ({})", self.0.chip.name)
    }

    fn compile(&self, name: &str, program: &Verified) -> Result<AppleExecutable, CompileError> {
        let shared = &self.0;
        let found = program.target().family;
        if found != shared.chip.family {
            return Err(CompileError::Family {
                program: name.into(),
                found,
                chip: shared.chip.name.to_string(),
                wanted: shared.chip.family,
            });
        }
        let [function] = program.functions.as_slice() else {
            return Err(CompileError::Functions { program: name.into(), count: program.functions.len() });
        };
        let inputs = ports(name, function, function.params())?;
        let outputs = ports(name, function, function.outputs())?;
        let text = program.to_string();
        let model = self.load_text(name, &text, program.weights.as_ref(), 0)?;
        let framework = &shared.framework;
        let order = Order::of(framework.attributes(&model.model).as_ref(), &inputs, &outputs)
            .map_err(|reason| CompileError::Rejected { program: name.into(), reason })?;
        let inner = shared.client.as_ref().map(|_| framework.inner(&model.model)).transpose();
        let inner = inner.map_err(|source| CompileError::System { program: name.into(), source })?;
        let predicted_s = clock::program_s(shared.chip, function);
        let program = Program { name: name.to_string(), inputs, outputs, order, predicted_s, inner, model };
        shared.state().ledger.entry(name).compiles += 1;
        Ok(AppleExecutable(Arc::new(program)))
    }

    fn surface(&self, layout: Layout) -> Result<Surface, SurfaceError> {
        iosurface::create(layout)
    }

    fn compiles_left(&self) -> Option<u32> {
        self.0.budget.map(|budget| budget.saturating_sub(self.compiles()))
    }

    fn ledger(&self) -> Ledger {
        self.0.state().ledger.clone()
    }
}

/// The verifier guarantees that declared order is byte order of the names.
fn ports(program: &str, function: &Function, values: &[ValueId]) -> Result<Vec<Port>, CompileError> {
    let port = |&id: &ValueId| {
        let value = function.value(id);
        let layout = Layout::of(&value.ty).ok_or_else(|| CompileError::Port {
            program: program.into(),
            value: value.name.clone(),
            found: value.ty.to_string(),
        })?;
        Ok(Port { name: value.name.clone(), layout })
    };
    values.iter().map(port).collect()
}

/// A place among the loaded programs, given back on drop.
struct Slot;

impl Drop for Slot {
    fn drop(&mut self) {
        LOADED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A compiled model. Fields drop after the unload, in this order.
pub(super) struct Loaded {
    pub model: Object,
    pub device: Arc<Shared>,
    pub folder: Folder,
    _slot: Slot,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // Nobody is left to tell; the system unloads what its process leaves behind.
        let _ = self.device.framework.unload(&self.model, self.device.settings.qos);
    }
}

/// Symbol index of each port.
struct Order {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

impl Order {
    /// As the compiler tells, or byte order of the names, which hardware was seen to bind by (Orion 3, 13).
    fn of(attributes: Option<&Attributes>, inputs: &[Port], outputs: &[Port]) -> Result<Self, String> {
        let Some(attributes) = attributes else {
            return Ok(Self { inputs: (0..inputs.len()).collect(), outputs: (0..outputs.len()).collect() });
        };
        Ok(Self {
            inputs: attributes::indices("input", inputs, &attributes.inputs)?,
            outputs: attributes::indices("output", outputs, &attributes.outputs)?,
        })
    }
}

/// A program on the Neural Engine.
pub struct AppleExecutable(Arc<Program>);

struct Program {
    name: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    order: Order,
    predicted_s: f64,
    /// The model as the client knows it, when evaluations are direct.
    inner: Option<Object>,
    model: Loaded,
}

impl fmt::Debug for AppleExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppleExecutable({})", self.0.name)
    }
}

impl Executable for AppleExecutable {
    type Request = AppleRequest;

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
    ) -> Result<AppleRequest, BindError> {
        let program = self.0.clone();
        let inputs = arrange(&program.name, "input", &program.inputs, inputs)?;
        let outputs = arrange(&program.name, "output", &program.outputs, outputs)?;
        distinct(&program.name, (&program.inputs, &inputs), (&program.outputs, &outputs))?;
        let shared = &program.model.device;
        let framework = &shared.framework;
        let refused = |source| BindError::System { program: program.name.clone(), source };
        let wrapped_inputs = program.wrapped(&program.inputs, &inputs, &program.order.inputs)?;
        let wrapped_outputs = program.wrapped(&program.outputs, &outputs, &program.order.outputs)?;
        let statistics = shared.settings.statistics.then(|| framework.statistics(&program.model.model));
        let statistics = statistics.transpose().map_err(refused)?;
        let request =
            framework.request(&wrapped_inputs, &wrapped_outputs, statistics.as_ref()).map_err(refused)?;
        Ok(AppleRequest { program, request, statistics, inputs, outputs })
    }
}

/// A surface as requests take it.
pub(super) fn wrapped(
    framework: &Framework,
    program: &str,
    port: &str,
    surface: &Surface,
) -> Result<Object, BindError> {
    let foreign = || BindError::Foreign { program: program.into(), name: port.into() };
    let handle = surface.native::<Handle>().ok_or_else(foreign)?;
    // SAFETY: the handle, and so its IOSurface, lives through the call.
    let object = unsafe { framework.wrap(handle.raw()) };
    object.map_err(|source| BindError::System { program: program.into(), source })
}

impl Program {
    /// Surfaces as a request takes them, sorted by the index of their symbol.
    fn wrapped(
        &self,
        ports: &[Port],
        surfaces: &[Surface],
        order: &[usize],
    ) -> Result<Vec<(Object, usize)>, BindError> {
        let wrap = |((port, surface), &index): ((&Port, &Surface), &usize)| {
            Ok((wrapped(&self.model.device.framework, &self.name, &port.name, surface)?, index))
        };
        let mut wrapped = ports.iter().zip(surfaces).zip(order).map(wrap).collect::<Result<Vec<_>, _>>()?;
        wrapped.sort_by_key(|(_, index)| *index);
        Ok(wrapped)
    }

    /// Keeps the host's guards away from surfaces.
    fn held<'a>(
        &self,
        ports: &[Port],
        surfaces: &'a [Surface],
        access: Access,
    ) -> Result<Vec<Hold<'a>>, RunError> {
        let used = |port: &Port, source| RunError::Surface {
            program: self.name.clone(),
            name: port.name.clone(),
            source,
        };
        ports.iter().zip(surfaces).map(|(port, s)| s.hold(access).map_err(|e| used(port, e))).collect()
    }
}

/// Surfaces bound to a program on the Neural Engine.
pub struct AppleRequest {
    program: Arc<Program>,
    /// Not changed once made: binding other surfaces to it crashed (Espresso).
    request: Object,
    statistics: Option<Object>,
    inputs: Vec<Surface>,
    outputs: Vec<Surface>,
}

impl fmt::Debug for AppleRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppleRequest({})", self.program.name)
    }
}

impl Request for AppleRequest {
    fn run(&self) -> Result<(), RunError> {
        let result = self.evaluate();
        if result.is_err() {
            let program = &*self.program;
            program.model.device.state().ledger.entry(&program.name).failures += 1;
        }
        result
    }
}

impl AppleRequest {
    fn evaluate(&self) -> Result<(), RunError> {
        let program = &*self.program;
        let shared = &*program.model.device;
        let _in_flight = shared.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let dispatch = {
            let mut state = shared.state();
            state.dispatches += 1;
            state.dispatches
        };
        let _reads = program.held(&program.inputs, &self.inputs, Access::Read)?;
        let _writes = program.held(&program.outputs, &self.outputs, Access::Write)?;

        let start = Instant::now();
        let (model, qos) = (&program.model.model, shared.settings.qos);
        let evaluated = match (&shared.client, &program.inner) {
            (Some(client), Some(inner)) => {
                shared.framework.evaluate_direct(client, inner, &self.request, qos)
            }
            _ => shared.framework.evaluate(model, &self.request, qos),
        };
        let took = start.elapsed();
        evaluated.map_err(|system| failed(&program.name, dispatch, system))?;

        let hardware_ns = self.statistics.as_ref().map_or(0, |s| shared.framework.hardware_ns(s));
        let mut state = shared.state();
        let entry = state.ledger.entry(&program.name);
        entry.dispatches += 1;
        entry.real += took;
        entry.hardware += Duration::from_nanos(hardware_ns);
        entry.predicted_s += program.predicted_s;
        Ok(())
    }
}

pub(super) fn failed(program: &str, dispatch: u64, system: SystemError) -> RunError {
    // Without a status in the text, the error's code is the best there is.
    let status = system.status().unwrap_or(system.code as u32);
    RunError::Failed {
        program: program.into(),
        dispatch,
        status: Status(status),
        reason: "the system refused the evaluation".into(),
        system: Some(Box::new(system)),
    }
}
