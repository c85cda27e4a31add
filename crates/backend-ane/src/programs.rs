//! The loaded programs: surfaces, requests, dispatches, and their care in long runs.
//!
//! Each program is compiled when it is first needed and serves every layer. Surfaces that hold
//! weights belong to a layer; those that carry activations between two programs are shared, and what
//! the way back needs is kept per layer and sequence, where the forward program wrote it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ane_bridge::{Device, Executable, Layout, Request, RunError, Surface};
use mil::{Target, Verified, verify};

use crate::dims::Dims;
use crate::error::{AneError, AneResult};
use crate::kernels::Kernel;
use crate::packing::{Packing, Part, Place, Port};
use crate::plan::{Care, Plan};
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
    /// An input with weights: kernel, layer, shard, port.
    Weights(Kernel, usize, usize, usize),
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
    packing: Packing,
    verified: Verified,
    /// Empty for a moment while it is made anew.
    executable: Option<E>,
    bound: Vec<Bound>,
    /// Generation of the weights that each layer's surfaces hold.
    staged: Vec<u64>,
}

/// How a long run fares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// Executables made anew, because throughput decayed or a dispatch failed.
    pub recreated: u64,
    /// Throughput decayed and no compile is left: save a checkpoint and restart the process.
    pub restart: bool,
    /// Mean time of a dispatch in the last step, seconds.
    pub dispatch_s: f64,
    /// The same in the first steps, or in those after the executables were made anew.
    pub normal_dispatch_s: f64,
}

#[derive(Default)]
struct Watch {
    busy: Duration,
    dispatches: u32,
    warm: u32,
    slow: u32,
    health: Health,
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
    loaded: Vec<Option<Loaded<D::Executable>>>,
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
            loaded: Kernel::ALL.iter().map(|_| None).collect(),
            surfaces: BTreeMap::new(),
            watch: Watch::default(),
        })
    }

    pub fn device(&self) -> &D {
        &self.device
    }

    pub fn health(&self) -> Health {
        self.watch.health
    }

    /// Shards of a program.
    pub fn shards(&self, kernel: Kernel) -> usize {
        match kernel {
            Kernel::SdpaFwd | Kernel::SdpaBwdV | Kernel::SdpaBwdQk => self.plan.head_shards,
            Kernel::FfnFwd | Kernel::FfnGateUp | Kernel::FfnDown | Kernel::FfnBwdW2 | Kernel::FfnBwdW13 => {
                self.plan.ffn_shards
            }
            Kernel::WoFwd | Kernel::WoBwd | Kernel::QBwd | Kernel::KvBwd => 1,
        }
    }

    /// Sequences that have requests of their own: where kept results are read or written.
    fn rows(&self, kernel: Kernel) -> usize {
        match kernel {
            Kernel::SdpaFwd | Kernel::FfnFwd | Kernel::FfnGateUp | Kernel::SdpaBwdV | Kernel::SdpaBwdQk => {
                self.plan.sequences
            }
            _ => 1,
        }
    }

    fn index(&self, kernel: Kernel, slot: Slot) -> usize {
        let rows = self.rows(kernel);
        (slot.layer * self.shards(kernel) + slot.shard) * rows + if rows == 1 { 0 } else { slot.row }
    }

    /// Compiles a program and binds all its requests, once.
    pub fn load(&mut self, kernel: Kernel) -> AneResult<()> {
        if self.loaded[kernel as usize].is_some() {
            return Ok(());
        }
        let dims = self.plan.dims(&self.dims, kernel);
        let packing = kernel.packing(&dims, &self.plan.choices);
        let target = Target::new(self.device.chip().family);
        let verified = verify(kernel.program(&dims, &self.plan.choices), &target).map_err(|faults| {
            let faults = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            AneError::Rules { kernel: kernel.name(), faults }
        })?;
        let executable = self.device.compile(kernel.name(), &verified)?;
        let (shards, rows) = (self.shards(kernel), self.rows(kernel));
        let mut bound = Vec::with_capacity(self.layers * shards * rows);
        for layer in 0..self.layers {
            for shard in 0..shards {
                for row in 0..rows {
                    let slot = Slot { layer, shard, row };
                    let inputs = self.surfaces_of(kernel, slot, &packing, Side::In)?;
                    let outputs = self.surfaces_of(kernel, slot, &packing, Side::Out)?;
                    let request = bind(&executable, &packing, &inputs, &outputs)?;
                    bound.push(Bound { request, inputs, outputs });
                }
            }
        }
        let staged = vec![0; self.layers];
        self.loaded[kernel as usize] =
            Some(Loaded { packing, verified, executable: Some(executable), bound, staged });
        Ok(())
    }

    fn surfaces_of(
        &mut self,
        kernel: Kernel,
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
            let key = self.key(kernel, slot, side, i, port);
            surfaces.push(self.surface(key, port.layout())?);
        }
        Ok(surfaces)
    }

    fn key(&self, kernel: Kernel, slot: Slot, side: Side, port: usize, of: &Port) -> Key {
        let part = of.blocks[0].part;
        let kept = match (kernel, side) {
            (Kernel::SdpaFwd, Side::Out) => true,
            (Kernel::SdpaBwdV | Kernel::SdpaBwdQk, Side::In) => matches!(part, Part::Q | Part::K | Part::V),
            _ => matches!(part, Part::H1 | Part::H3),
        };
        if kept {
            return Key::Kept(part, slot.layer % self.kept_layers, slot.shard, slot.row);
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
                    | Part::Bias
                    | Part::Gains
            )
        };
        match of.blocks.iter().any(|b| weight(b.part)) {
            true => Key::Weights(kernel, slot.layer, slot.shard, port),
            false => Key::Own(kernel, side, port),
        }
    }

    fn surface(&mut self, key: Key, layout: Layout) -> AneResult<Surface> {
        if let Some(surface) = self.surfaces.get(&key) {
            return Ok(surface.clone());
        }
        let surface = self.device.surface(layout)?;
        self.surfaces.insert(key, surface.clone());
        Ok(surface)
    }

    fn loaded(&self, kernel: Kernel) -> &Loaded<D::Executable> {
        self.loaded[kernel as usize].as_ref().expect("a program is loaded before it is used")
    }

    /// The surface and place of an input.
    pub fn input(&self, kernel: Kernel, slot: Slot, part: Part) -> (Surface, Place) {
        let loaded = self.loaded(kernel);
        let place = loaded.packing.input(part);
        (loaded.bound[self.index(kernel, slot)].inputs[place.port].clone(), place)
    }

    /// The surface of an output.
    pub fn output(&self, kernel: Kernel, slot: Slot, part: Part) -> Surface {
        let loaded = self.loaded(kernel);
        loaded.bound[self.index(kernel, slot)].outputs[loaded.packing.output(part).port].clone()
    }

    /// Whether the surfaces of a layer hold an older generation of its weights; they count as written
    /// from then on.
    pub fn take_stale(&mut self, kernel: Kernel, layer: usize, generation: u64) -> bool {
        let loaded = self.loaded[kernel as usize].as_mut().expect("a program is loaded before it is used");
        std::mem::replace(&mut loaded.staged[layer], generation) != generation
    }

    /// Starts a dispatch; [`Programs::finish`] waits for it.
    pub fn start(&self, kernel: Kernel, slot: Slot) {
        self.worker.start(self.loaded(kernel).bound[self.index(kernel, slot)].request.clone());
    }

    /// Waits for the dispatch that was started. One that failed runs again on a new executable.
    pub fn finish(&mut self, kernel: Kernel, slot: Slot) -> AneResult<()> {
        match self.wait()? {
            Ok(()) => Ok(()),
            Err(source @ RunError::Failed { .. }) => {
                if self.device.compiles_left() == Some(0) {
                    return Err(AneError::Spent { kernel: kernel.name(), source: source.into() });
                }
                self.recreate(kernel)?;
                self.start(kernel, slot);
                self.wait()?.map_err(|source| AneError::Run { kernel: kernel.name(), source: source.into() })
            }
            Err(source) => Err(AneError::Run { kernel: kernel.name(), source: source.into() }),
        }
    }

    fn wait(&mut self) -> AneResult<Result<(), RunError>> {
        let (result, took) = self.worker.wait()?;
        self.watch.busy += took;
        self.watch.dispatches += 1;
        Ok(result)
    }

    /// Compiles a program again and binds it to the same surfaces.
    fn recreate(&mut self, kernel: Kernel) -> AneResult<()> {
        let Some(loaded) = self.loaded[kernel as usize].as_mut() else { return Ok(()) };
        // The old one goes first: loaded programs are limited too.
        let nothing: Arc<dyn Request> = Arc::new(Unloaded);
        loaded.bound.iter_mut().for_each(|b| b.request = nothing.clone());
        loaded.executable = None;
        let executable = self.device.compile(kernel.name(), &loaded.verified)?;
        for b in &mut loaded.bound {
            b.request = bind(&executable, &loaded.packing, &b.inputs, &b.outputs)?;
        }
        loaded.executable = Some(executable);
        self.watch.health.recreated += 1;
        Ok(())
    }

    /// Ends a step of the watch: after some slow ones in a row, all executables are made anew.
    pub fn end_step(&mut self) -> AneResult<()> {
        let Care { warm, factor, patience, reserve } = self.plan.care;
        let watch = &mut self.watch;
        let mean = watch.busy.as_secs_f64() / f64::from(watch.dispatches.max(1));
        let any = std::mem::take(&mut watch.dispatches) > 0;
        watch.busy = Duration::ZERO;
        if !any {
            return Ok(());
        }
        watch.health.dispatch_s = mean;
        if watch.warm < warm {
            watch.warm += 1;
            watch.health.normal_dispatch_s += (mean - watch.health.normal_dispatch_s) / f64::from(watch.warm);
            return Ok(());
        }
        let slow = mean > factor * watch.health.normal_dispatch_s;
        watch.slow = if slow { watch.slow + 1 } else { 0 };
        if watch.slow < patience {
            return Ok(());
        }
        watch.slow = 0;
        let kernels = Kernel::ALL.iter().copied().filter(|k| self.loaded[*k as usize].is_some());
        let kernels: Vec<_> = kernels.collect();
        let needed = kernels.len() as u32 + reserve;
        if self.device.compiles_left().is_some_and(|left| left < needed) {
            self.watch.health.restart = true;
            return Ok(());
        }
        // What is normal is learned anew: if the executables were not the cause, the machine is slower now.
        (self.watch.warm, self.watch.health.normal_dispatch_s) = (0, 0.0);
        kernels.into_iter().try_for_each(|kernel| self.recreate(kernel))
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
