//! The engine behind the classes: compiles to `mil::eval` plans, keeps count, evaluates requests.

use std::fs;
use std::path::Path;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use half::f16;
use mil::eval::{Plan, Port, Rows, Settings, Slice, SliceMut};
use mil::verify::Family;
use mil::{DType, Target};
use objc2::rc::Retained;
use objc2::runtime::NSObject;
use objc2::{DefinedClass, class, msg_send};
use objc2_foundation::{NSString, NSTemporaryDirectory};

use super::descriptor::Described;
use super::fault::Fault;
use super::request::{Bound, Request};
use super::{COMPILER_DOMAIN, DOMAIN, Failure};
use crate::iosurface::{Surface, Use};

static COMPILES: AtomicU32 = AtomicU32::new(0);
static LOADED: AtomicU32 = AtomicU32::new(0);
static RUNNING: AtomicU32 = AtomicU32::new(0);
static MOST: AtomicU32 = AtomicU32::new(0);

/// Compiles so far, failed ones included.
pub fn compiles() -> u32 {
    COMPILES.load(Ordering::SeqCst)
}

/// Programs loaded now.
pub fn loaded() -> u32 {
    LOADED.load(Ordering::SeqCst)
}

/// Most evaluations that were under way at once since the last call.
pub fn most_at_once() -> u32 {
    MOST.swap(0, Ordering::SeqCst)
}

/// An evaluation under way, also one that ends by an exception.
struct Running;

impl Running {
    fn begin() -> Self {
        MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A program on its way through the engine; shared by the classes that stand for it.
pub(super) struct Engine {
    pub described: Described,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plan: Option<Plan>,
    loads: u32,
    loaded: bool,
    evaluations: u64,
    pub statistics_mask: u32,
}

/// Name, row width, bytes of a row: what the compiler tells of a symbol.
pub(super) struct Symbol {
    pub name: String,
    pub width: usize,
    pub row_bytes: usize,
}

impl Engine {
    pub fn new(described: Described) -> Self {
        Self { described, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_statistics_mask(&self, mask: u32) {
        self.state().statistics_mask = mask;
    }

    /// Compiles what lies in the model's folder.
    pub fn compile(&self) -> Result<(), Failure> {
        COMPILES.fetch_add(1, Ordering::SeqCst);
        let failed = |reason: &str, detail: &str| {
            let text = format!("_ANECompiler : ANECCompile() FAILED: {reason} ({detail})");
            Err(Failure::new(COMPILER_DOMAIN, 1, text))
        };
        match self.described.fault {
            Some(Fault::Compile) => return failed("InvalidMILProgram", "asked for"),
            Some(Fault::CompileSilently) => return Err(Failure::silent()),
            Some(Fault::CompileThrows) => raise("the compiler was asked to throw"),
            _ => {}
        }
        let folder = NSTemporaryDirectory().to_string();
        let folder = Path::new(&folder).join(self.described.identifier());
        if fs::read(folder.join("model.mil")).ok().as_ref() != Some(&self.described.text) {
            return failed("InvalidMILProgram", "model.mil is not in the model's folder");
        }
        for (path, bytes) in self.described.weights.files() {
            let below = path.strip_prefix("@model_path/").unwrap_or(path);
            if !fs::read(folder.join(below)).is_ok_and(|there| there == bytes) {
                return failed("InvalidMILProgram", &format!("{path} is not in the model's folder"));
            }
        }
        let program = self.described.program.clone().with_weights(self.described.weights.clone());
        let target = Target { padded_rows: true, any_order: true, ..Target::new(Family::M4) };
        let verified = match mil::verify(program, &target) {
            Ok(verified) => verified,
            Err(faults) => return failed("InvalidMILProgram", &faults[0].to_string()),
        };
        let settings = Settings { rows: Rows::Pitched, count_flushed: false, ..Settings::default() };
        match Plan::new(&verified, settings) {
            Ok(plan) => self.state().plan = Some(plan),
            Err(error) => return failed("CompilationFailure", &error.to_string()),
        }
        // A Mac's compiler leaves its result beside the text.
        let left = fs::write(folder.join("net.plist"), "").and_then(|()| fs::write(folder.join("data"), ""));
        left.or_else(|error| failed("CompilationFailure", &error.to_string()))
    }

    pub fn load(&self) -> Result<(), Failure> {
        let mut state = self.state();
        state.loads += 1;
        if state.plan.is_none() {
            return Err(Failure::new(DOMAIN, 2, "the program is not compiled"));
        }
        match self.described.fault {
            Some(Fault::LoadOnce) if state.loads == 1 => return Err(Failure::silent()),
            Some(Fault::Load) => return Err(Failure::new(DOMAIN, 4, "ANERuntimeErrorCacheMiss")),
            _ => {}
        }
        if !std::mem::replace(&mut state.loaded, true) {
            LOADED.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    pub fn unload(&self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.state().loaded) {
            return Err(Failure::new(DOMAIN, 3, "the program is not loaded"));
        }
        LOADED.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    /// Inputs and outputs in the order of their symbol indices; `None` before the compile.
    pub fn symbols(&self) -> Option<[Vec<Symbol>; 2]> {
        let state = self.state();
        let plan = state.plan.as_ref()?;
        let fault = self.described.fault;
        let symbol = |port: &Port| {
            let pitch = port.ty.row_pitch();
            let wide = fault == Some(Fault::WideRows);
            Symbol {
                name: port.name.clone(),
                width: port.ty.shape.last().copied().unwrap_or(1),
                row_bytes: if wide { 2 * pitch } else { pitch },
            }
        };
        let mut inputs: Vec<_> = plan.inputs().iter().map(symbol).collect();
        let mut outputs: Vec<_> = plan.outputs().map(symbol).collect();
        // Byte order of the names, whatever the order of declaration (Orion 3 and 13).
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        outputs.sort_by(|a, b| a.name.cmp(&b.name));
        match fault {
            Some(Fault::NoAttributes) => return None,
            Some(Fault::Backwards) => {
                inputs.reverse();
                outputs.reverse();
            }
            Some(Fault::OtherName) => inputs[0].name += "_other",
            _ => {}
        }
        Some([inputs, outputs])
    }

    /// Evaluates a request; `direct` says by which way it came.
    pub fn evaluate(&self, request: &Request, qos: u32, direct: bool) -> Result<(), Failure> {
        let running = Running::begin();
        let start = Instant::now();
        let result = self.evaluated(request, qos);
        drop(running);
        let statistics = request.ivars().statistics.as_ref();
        if let (Some(statistics), Ok(()), true) = (statistics, &result, direct) {
            // Through the daemon a Mac leaves a zero.
            let ns = if self.state().statistics_mask == 0 { 0 } else { start.elapsed().as_nanos() as u64 };
            statistics.set(ns.max(u64::from(self.state().statistics_mask != 0)));
        }
        result
    }

    fn evaluated(&self, request: &Request, qos: u32) -> Result<(), Failure> {
        if qos > 63 {
            return Err(Failure::new(DOMAIN, 5, format!("there is no priority {qos}")));
        }
        let mut state = self.state();
        if !state.loaded {
            return Err(Failure::new(DOMAIN, 3, "the program is not loaded"));
        }
        state.evaluations += 1;
        let first = state.evaluations == 1;
        match self.described.fault {
            Some(Fault::Evaluate) => return Err(Failure::status(0x1d, "Program Inference error")),
            Some(Fault::EvaluateThrows) => raise("the engine was asked to throw"),
            Some(Fault::EvaluateOnce) if first => {
                return Err(Failure::status(0x1d, "Program Inference error"));
            }
            _ => {}
        }
        let plan = state.plan.as_mut().expect("what is loaded was compiled");
        let backwards = self.described.fault == Some(Fault::Backwards);
        let bound = request.ivars();
        let inputs = in_order(&bound.inputs, plan.inputs().iter(), backwards)?;
        let outputs = in_order(&bound.outputs, plan.outputs(), backwards)?;
        for (surface, port) in inputs.iter().zip(plan.inputs()).chain(outputs.iter().zip(plan.outputs())) {
            if surface.bytes() < port.len * port.ty.dtype.bits() / 8 {
                return Err(Failure::status(0x1d, "Program Inference error"));
            }
        }
        for (i, output) in outputs.iter().enumerate() {
            if inputs.iter().chain(&outputs[..i]).any(|other| std::ptr::eq(*other, *output)) {
                return Err(Failure::status(0x9, "aliased surface"));
            }
        }
        let reads = inputs.iter().map(|surface| (*surface, Use::Reads));
        let taken = Taken::all(reads.chain(outputs.iter().map(|surface| (*surface, Use::Writes))))?;
        let read: Vec<_> = inputs.iter().zip(plan.inputs()).map(|(s, port)| view(s, port)).collect();
        let mut written: Vec<_> =
            outputs.iter().zip(plan.outputs()).map(|(s, port)| view_mut(s, port)).collect();
        let ran = plan.run(&read, &mut written);
        drop(taken);
        ran.map(drop).map_err(|error| Failure::new(DOMAIN, 8, error.to_string()))
    }
}

/// Throws an exception of Foundation's.
fn raise(reason: &str) {
    let name = NSString::from_str("NSInternalInconsistencyException");
    let reason = NSString::from_str(reason);
    // SAFETY: the class takes two strings and a dictionary or nil; `raise` does not come back.
    unsafe {
        let exception: Retained<NSObject> = msg_send![class!(NSException), exceptionWithName: &*name, reason: &*reason, userInfo: None::<&NSObject>];
        let () = msg_send![&exception, raise];
    }
}

/// Surfaces by port, from surfaces by symbol index.
fn in_order<'a, 'p>(
    bound: &'a [Bound],
    ports: impl Iterator<Item = &'p Port>,
    backwards: bool,
) -> Result<Vec<&'a Surface>, Failure> {
    let names: Vec<&str> = ports.map(|port| port.name.as_str()).collect();
    let mut symbols: Vec<usize> = (0..names.len()).collect();
    symbols.sort_by_key(|&port| names[port]);
    if backwards {
        symbols.reverse();
    }
    let mut surfaces = vec![None; names.len()];
    for Bound { surface, index } in bound {
        let slot = symbols.get(*index).map(|&port| &mut surfaces[port]);
        *slot.ok_or_else(|| Failure::status(0x2, "no such symbol"))? = Some(surface.surface());
    }
    surfaces.into_iter().map(|s| s.ok_or_else(|| Failure::status(0x2, "a symbol has no surface"))).collect()
}

/// Surfaces that the engine works on.
struct Taken<'a>(Vec<&'a Surface>);

impl<'a> Taken<'a> {
    fn all(surfaces: impl Iterator<Item = (&'a Surface, Use)>) -> Result<Self, Failure> {
        let mut taken = Self(Vec::new());
        for (surface, wanted) in surfaces {
            if !surface.engine_takes(wanted) {
                return Err(Failure::new(DOMAIN, 6, "the host holds a lock of a surface"));
            }
            taken.0.push(surface);
        }
        Ok(taken)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|surface| surface.engine_leaves());
    }
}

fn view<'a>(surface: &'a Surface, port: &Port) -> Slice<'a> {
    let base: NonNull<u8> = surface.base();
    // SAFETY: the size was checked, allocations are page-aligned and initialised, and the host cannot
    // lock a surface that the engine has taken.
    unsafe {
        match port.ty.dtype {
            DType::Fp32 => Slice::F32(slice::from_raw_parts(base.as_ptr().cast::<f32>(), port.len)),
            _ => Slice::F16(slice::from_raw_parts(base.as_ptr().cast::<f16>(), port.len)),
        }
    }
}

fn view_mut<'a>(surface: &'a Surface, port: &Port) -> SliceMut<'a> {
    let base: NonNull<u8> = surface.base();
    // SAFETY: as for `view`; an output has a surface of its own.
    unsafe {
        match port.ty.dtype {
            DType::Fp32 => SliceMut::F32(slice::from_raw_parts_mut(base.as_ptr().cast::<f32>(), port.len)),
            _ => SliceMut::F16(slice::from_raw_parts_mut(base.as_ptr().cast::<f16>(), port.len)),
        }
    }
}
