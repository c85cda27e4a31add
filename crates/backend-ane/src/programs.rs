//! The loaded programs: surfaces, requests, dispatches, and their care in long runs.
//!
//! Each program is compiled when it is first needed and serves every layer. Surfaces that hold
//! weights belong to a layer; those that carry activations between two programs are shared, and what
//! the way back needs is kept per layer and sequence, where the forward program wrote it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ane_bridge::{Device, Executable, Layout, Request, RunError, Surface};
use mil::{Verified, verify};

use crate::care::{Monitor, Watch};
use crate::dims::Dims;
use crate::error::{AneError, AneResult};
use crate::kernels::Kernel;
use crate::packing::{Packing, Part, Place, Port};
use crate::plan::{Choices, Plan, Scaling};
use crate::worker::Worker;

/// A device whose requests another thread may run.
pub trait AneDevice: Device<Executable: Executable<Request: 'static>> {}

impl<D: Device<Executable: Executable<Request: 'static>>> AneDevice for D {}

/// Which request of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub layer: usize,
    pub shard: usize,
    /// Sequence of the micro-batch.
    pub row: usize,
}

/// What tells surfaces apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// An input with weights: kernel and whether it is unscaled, layer, shard, port.
    Weights(Kernel, bool, usize, usize, usize),
    /// What the way back needs: part, layer, shard, sequence.
    Kept(Part, usize, usize, usize),
    /// From `sdpa_bwd_v` to `sdpa_bwd_qk`.
    Between(Part),
    /// An input or output that is written or read right away.
    Own(Kernel, Side, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    In,
    Out,
}

struct Bound {
    request: Arc<dyn Request>,
    inputs: Vec<Surface>,
    outputs: Vec<Surface>,
}

struct Loaded<E> {
    variant: Variant,
    packing: Packing,
    verified: Verified,
    /// Empty for a moment while it is made anew.
    executable: Option<E>,
    bound: Vec<Bound>,
    /// Generation of the weights that each layer's surfaces hold.
    staged: Vec<u64>,
}

/// One of the executables of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    kernel: Kernel,
    /// Without powers of two: what overflows with those of the plan.
    plain: bool,
}

impl Variant {
    fn index(self) -> usize {
        2 * self.kernel as usize + usize::from(self.plain)
    }

    /// Its name in the ledger.
    fn name(self) -> String {
        let name = self.kernel.name();
        if self.plain { format!("{name}, unscaled") } else { name.to_owned() }
    }
}

/// The programs of a model on a device.
pub(crate) struct Programs<D: Device> {
    device: D,
    worker: Worker,
    plan: Plan,
    dims: Dims,
    layers: usize,
    /// Layers whose intermediate results are kept apart: all for training, one for inference.
    kept_layers: usize,
    /// By [`Variant::index`].
    loaded: Vec<Option<Loaded<D::Executable>>>,
    /// By layer, what runs without powers of two in this micro-batch.
    unscaled: Vec<[bool; Stage::COUNT]>,
    surfaces: BTreeMap<Key, Surface>,
    watch: Watch,
}

impl<D: AneDevice> Programs<D> {
    pub fn new(device: D, plan: Plan, dims: Dims, layers: usize, kept_layers: usize) -> AneResult<Self> {
        Ok(Self {
            device,
            worker: Worker::new()?,
            plan,
            dims,
            layers,
            kept_layers,
            loaded: (0..2 * Kernel::ALL.len()).map(|_| None).collect(),
            unscaled: vec![Default::default(); layers],
            surfaces: BTreeMap::new(),
            watch: Watch::default(),
        })
    }

    pub fn device(&self) -> &D {
        &self.device
    }

    pub fn monitor(&self) -> &Monitor {
        &self.watch.monitor
    }

    /// From now on, the programs that this one belongs to run without powers of two in this layer, for
    /// the rest of the micro-batch; false when they do already.
    ///
    /// The choice does not outlive the micro-batch, so that no result depends on what ran before it; the
    /// executable and the weights that it has staged do.
    pub fn unscale(&mut self, kernel: Kernel, layer: usize) -> bool {
        let Scaling { weight, attention, .. } = self.plan.choices.scaling;
        let Some(stage) = Stage::of(kernel) else { return false };
        if weight == 0 && attention == 0 {
            return false;
        }
        !std::mem::replace(&mut self.unscaled[layer][stage as usize], true)
    }

    /// Every program has its planned powers of two again.
    pub fn begin(&mut self) {
        self.unscaled.fill(Default::default());
    }

    /// Counts a dispatch that ran again because its result overflowed.
    pub fn count_retry(&self) {
        self.watch.monitor.update(|health| health.retried += 1);
    }

    fn variant(&self, kernel: Kernel, layer: usize) -> Variant {
        let plain = Stage::of(kernel).is_some_and(|stage| self.unscaled[layer][stage as usize]);
        Variant { kernel, plain }
    }

    fn choices(&self, variant: Variant) -> Choices {
        let choices = self.plan.choices;
        let plain = Scaling { weight: 0, attention: 0, ..choices.scaling };
        if variant.plain { Choices { scaling: plain, ..choices } } else { choices }
    }

    /// The power of two of the weights that a program takes in a layer.
    pub fn weight_power(&self, kernel: Kernel, layer: usize) -> i32 {
        self.choices(self.variant(kernel, layer)).scaling.weight
    }

    /// Shards of a program.
    pub fn shards(&self, kernel: Kernel) -> usize {
        shards(&self.plan, kernel)
    }

    fn index(&self, kernel: Kernel, slot: Slot) -> usize {
        let rows = rows(&self.plan, kernel);
        (slot.layer * self.shards(kernel) + slot.shard) * rows + if rows == 1 { 0 } else { slot.row }
    }

    /// Compiles the program of a layer and binds all its requests, once for all layers.
    pub fn load(&mut self, kernel: Kernel, layer: usize) -> AneResult<()> {
        let variant = self.variant(kernel, layer);
        if self.loaded[variant.index()].is_some() {
            return Ok(());
        }
        let (dims, choices) = (self.plan.dims(&self.dims, kernel), self.choices(variant));
        let packing = kernel.packing(&dims, &choices);
        let target = self.device.chip().target();
        let verified = verify(kernel.program(&dims, &choices), &target)
            .map_err(|faults| AneError::rules(kernel.name(), &faults))?;
        let executable = self.device.compile(&variant.name(), &verified)?;
        let mut bound = Vec::new();
        for slot in slots(&self.plan, kernel, self.layers) {
            let inputs = self.surfaces_of(variant, slot, &packing, Side::In)?;
            let outputs = self.surfaces_of(variant, slot, &packing, Side::Out)?;
            let request = bind(&executable, &packing, &inputs, &outputs)?;
            bound.push(Bound { request, inputs, outputs });
        }
        let staged = vec![0; self.layers];
        self.loaded[variant.index()] =
            Some(Loaded { variant, packing, verified, executable: Some(executable), bound, staged });
        Ok(())
    }

    fn surfaces_of(
        &mut self,
        variant: Variant,
        slot: Slot,
        packing: &Packing,
        side: Side,
    ) -> AneResult<Vec<Surface>> {
        let ports = match side {
            Side::In => &packing.inputs,
            Side::Out => &packing.outputs,
        };
        let mut surfaces = Vec::with_capacity(ports.len());
        for (i, port) in ports.iter().enumerate() {
            let key = key(self.kept_layers, variant, slot, side, i, port);
            surfaces.push(self.surface(key, port.layout())?);
        }
        Ok(surfaces)
    }

    fn surface(&mut self, key: Key, layout: Layout) -> AneResult<Surface> {
        if let Some(surface) = self.surfaces.get(&key) {
            return Ok(surface.clone());
        }
        let surface = self.device.surface(layout)?;
        self.surfaces.insert(key, surface.clone());
        Ok(surface)
    }

    fn loaded(&self, kernel: Kernel, layer: usize) -> &Loaded<D::Executable> {
        let index = self.variant(kernel, layer).index();
        self.loaded[index].as_ref().expect("a program is loaded before it is used")
    }

    /// The surface and place of an input.
    pub fn input(&self, kernel: Kernel, slot: Slot, part: Part) -> (Surface, Place) {
        let loaded = self.loaded(kernel, slot.layer);
        let place = loaded.packing.input(part);
        (loaded.bound[self.index(kernel, slot)].inputs[place.port].clone(), place)
    }

    /// The surface of an output.
    pub fn output(&self, kernel: Kernel, slot: Slot, part: Part) -> Surface {
        let loaded = self.loaded(kernel, slot.layer);
        loaded.bound[self.index(kernel, slot)].outputs[loaded.packing.output(part).port].clone()
    }

    /// Whether the surfaces of a layer hold an older generation of its weights; they count as written
    /// from then on.
    pub fn take_stale(&mut self, kernel: Kernel, layer: usize, generation: u64) -> bool {
        let index = self.variant(kernel, layer).index();
        let loaded = self.loaded[index].as_mut().expect("a program is loaded before it is used");
        std::mem::replace(&mut loaded.staged[layer], generation) != generation
    }

    /// Starts a dispatch; [`Programs::finish`] waits for it.
    pub fn start(&self, kernel: Kernel, slot: Slot) {
        self.worker.start(self.loaded(kernel, slot.layer).bound[self.index(kernel, slot)].request.clone());
    }

    /// Waits for the dispatch that was started. One that failed runs again on a new executable.
    pub fn finish(&mut self, kernel: Kernel, slot: Slot) -> AneResult<()> {
        match self.wait()? {
            Ok(()) => Ok(()),
            Err(source @ RunError::Failed { .. }) => {
                if self.device.compiles_left() == Some(0) {
                    return Err(AneError::Spent { kernel: kernel.name(), source: source.into() });
                }
                self.recreate(self.variant(kernel, slot.layer).index())?;
                self.start(kernel, slot);
                self.wait()?.map_err(|source| AneError::Run { kernel: kernel.name(), source: source.into() })
            }
            Err(source) => Err(AneError::Run { kernel: kernel.name(), source: source.into() }),
        }
    }

    fn wait(&mut self) -> AneResult<Result<(), RunError>> {
        let (result, took) = self.worker.wait()?;
        self.watch.took(took);
        Ok(result)
    }

    /// Compiles a program again and binds it to the same surfaces.
    fn recreate(&mut self, index: usize) -> AneResult<()> {
        let Some(loaded) = self.loaded[index].as_mut() else { return Ok(()) };
        // The old one goes first: loaded programs are limited too.
        let nothing: Arc<dyn Request> = Arc::new(Unloaded);
        loaded.bound.iter_mut().for_each(|b| b.request = nothing.clone());
        loaded.executable = None;
        let executable = self.device.compile(&loaded.variant.name(), &loaded.verified)?;
        for b in &mut loaded.bound {
            b.request = bind(&executable, &loaded.packing, &b.inputs, &b.outputs)?;
        }
        loaded.executable = Some(executable);
        self.watch.monitor.update(|health| health.recreated += 1);
        Ok(())
    }

    /// Ends a step of the watch: after some slow ones in a row, all executables are made anew. The step
    /// is done and its weights are written, so what fails here asks for a restart instead.
    pub fn end_step(&mut self) -> AneResult<()> {
        if !self.watch.end_step(&self.plan.care) {
            return Ok(());
        }
        let programs = self.loaded.iter().enumerate().filter(|(_, l)| l.is_some());
        let programs: Vec<_> = programs.map(|(index, _)| index).collect();
        let needed = programs.len() as u32 + self.plan.care.reserve;
        if self.device.compiles_left().is_some_and(|left| left < needed) {
            self.watch.monitor.update(|health| health.restart = true);
            return Ok(());
        }
        self.watch.relearn();
        match programs.into_iter().try_for_each(|index| self.recreate(index)) {
            Err(AneError::Compile(_)) => {
                self.watch.monitor.update(|health| health.restart = true);
                Ok(())
            }
            result => result,
        }
    }
}

/// Shards of a program.
fn shards(plan: &Plan, kernel: Kernel) -> usize {
    match kernel {
        Kernel::SdpaFwd | Kernel::SdpaBwdV | Kernel::SdpaBwdQk => plan.head_shards,
        Kernel::FfnFwd | Kernel::FfnGateUp | Kernel::FfnDown | Kernel::FfnBwdW2 | Kernel::FfnBwdW13 => {
            plan.ffn_shards
        }
        Kernel::HeadFwd | Kernel::HeadBwd => plan.vocab_shards,
        Kernel::WoFwd | Kernel::WoBwd | Kernel::QBwd | Kernel::KvBwd => 1,
    }
}

/// Sequences that have requests of their own: where kept results are read or written.
fn rows(plan: &Plan, kernel: Kernel) -> usize {
    match kernel {
        Kernel::SdpaFwd | Kernel::FfnFwd | Kernel::FfnGateUp | Kernel::SdpaBwdV | Kernel::SdpaBwdQk => {
            plan.sequences
        }
        _ => 1,
    }
}

/// The requests of a program, in the order of their index.
fn slots(plan: &Plan, kernel: Kernel, layers: usize) -> impl Iterator<Item = Slot> + use<> {
    let (shards, rows) = (shards(plan, kernel), rows(plan, kernel));
    let layers = if matches!(kernel, Kernel::HeadFwd | Kernel::HeadBwd) { 1 } else { layers };
    (0..layers * shards * rows).map(move |i| Slot {
        layer: i / (shards * rows),
        shard: i / rows % shards,
        row: i % rows,
    })
}

/// Which surface a port of a request takes.
fn key(kept_layers: usize, variant: Variant, slot: Slot, side: Side, port: usize, of: &Port) -> Key {
    let Variant { kernel, plain } = variant;
    let part = of.blocks[0].part;
    let kept = match (kernel, side) {
        (Kernel::SdpaFwd, Side::Out) => true,
        (Kernel::SdpaBwdV | Kernel::SdpaBwdQk, Side::In) => matches!(part, Part::Q | Part::K | Part::V),
        _ => matches!(part, Part::H1 | Part::H3),
    };
    if kept {
        return Key::Kept(part, slot.layer % kept_layers, slot.shard, slot.row);
    }
    if matches!(part, Part::P | Part::Dp) {
        return Key::Between(part);
    }
    let weight = |part: Part| {
        matches!(
            part,
            Part::Wq
                | Part::Wk
                | Part::Wv
                | Part::Wo
                | Part::W1
                | Part::W2
                | Part::W3
                | Part::Wh
                | Part::Bias
                | Part::Gains
        )
    };
    match of.blocks.iter().any(|b| weight(b.part)) {
        true => Key::Weights(kernel, plain, slot.layer, slot.shard, port),
        false => Key::Own(kernel, side, port),
    }
}

/// Bytes of the surfaces that training makes, of weights and of all else; nothing is taken. Programs that
/// run again without powers of two get surfaces for their weights beside these.
pub(crate) fn surface_bytes(plan: &Plan, dims: &Dims, layers: usize) -> [u64; 2] {
    let mut surfaces = BTreeMap::new();
    for kernel in plan.kernels() {
        let packing = kernel.packing(&plan.dims(dims, kernel), &plan.choices);
        for slot in slots(plan, kernel, layers) {
            for (side, ports) in [(Side::In, &packing.inputs), (Side::Out, &packing.outputs)] {
                for (i, port) in ports.iter().enumerate() {
                    let key = key(layers, Variant { kernel, plain: false }, slot, side, i, port);
                    surfaces.entry(key).or_insert(port.layout().bytes() as u64);
                }
            }
        }
    }
    let sum = |weights: bool| {
        let of = surfaces.iter().filter(|(key, _)| matches!(key, Key::Weights(..)) == weights);
        of.map(|(_, bytes)| bytes).sum()
    };
    [sum(true), sum(false)]
}

/// Programs that share their powers of two in a layer: what one of them computes with them, the others
/// meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Heads,
    Output,
    Ffn,
    Classifier,
}

impl Stage {
    const COUNT: usize = 4;

    /// The stage of a program; none for those that a smaller power of two of the gradient serves.
    fn of(kernel: Kernel) -> Option<Self> {
        match kernel {
            // Keys and queries go up in the backward program as values do in the forward one.
            Kernel::SdpaFwd | Kernel::SdpaBwdQk => Some(Stage::Heads),
            Kernel::WoFwd => Some(Stage::Output),
            Kernel::FfnFwd | Kernel::FfnGateUp | Kernel::FfnDown => Some(Stage::Ffn),
            Kernel::HeadFwd => Some(Stage::Classifier),
            Kernel::FfnBwdW2
            | Kernel::FfnBwdW13
            | Kernel::WoBwd
            | Kernel::SdpaBwdV
            | Kernel::QBwd
            | Kernel::KvBwd
            | Kernel::HeadBwd => None,
        }
    }
}

/// Stands for requests whose executable is gone.
struct Unloaded;

impl Request for Unloaded {
    fn run(&self) -> Result<(), RunError> {
        Err(RunError::Failed {
            program: "unloaded".into(),
            dispatch: 0,
            status: ane_bridge::Status::INFERENCE,
            reason: "its executable could not be made anew".into(),
            system: None,
        })
    }
}

fn bind<E: Executable<Request: 'static>>(
    executable: &E,
    packing: &Packing,
    inputs: &[Surface],
    outputs: &[Surface],
) -> AneResult<Arc<dyn Request>> {
    let inputs: Vec<_> = named(&packing.inputs, inputs).collect();
    let outputs: Vec<_> = named(&packing.outputs, outputs).collect();
    Ok(Arc::new(executable.bind(&inputs, &outputs)?))
}

fn named<'a>(ports: &'a [Port], surfaces: &'a [Surface]) -> impl Iterator<Item = (&'a str, &'a Surface)> {
    ports.iter().map(|p| p.name.as_str()).zip(surfaces)
}
