//! From a verified function to a plan: what is a view, what is computed, and which buffer is free when.

use half::f16;
use pulp::Arch;

use super::plan::{Node, Operand, Plan, PlanError, Port, Rows, Settings, Source, Table, Target};
use super::{
    Buf, Env, Io, Kernel, Layout, Lower, MAX_RANK, SimdGemm, Stats, TASK, map, parts, store_exact, with_lines,
};
use crate::ops::{ArgRef, Call, OpDef};
use crate::program::{Data, Function, Literal, Program};
use crate::types::{DType, TensorType};

/// Bytes of values that a plan may keep; larger programs are mistakes.
const MEMORY_LIMIT: usize = 1 << 36;

/// Turns a function into nodes and hands out slots.
pub(super) struct Compiler<'a> {
    program: &'a Program,
    function: &'a Function,
    clamps: bool,
    /// Where each value lies, once it is known.
    places: Vec<Option<Operand>>,
    /// Index of the last operation that reads each value; the number of operations for outputs.
    last_use: Vec<usize>,
    /// Values that some operation computes with, or that are returned.
    computed: Vec<bool>,
    nodes: Vec<Node>,
    slots: Vec<Buf>,
    lens: Vec<usize>,
    /// Operation after which a slot may be written again; `usize::MAX` for constants.
    busy_until: Vec<usize>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(program: &'a Program, function: &'a Function, clamps: bool) -> Self {
        let count = function.values().len();
        let mut last_use = vec![0; count];
        let mut computed = vec![false; count];
        for (i, op) in function.ops().iter().enumerate() {
            for id in op.operands() {
                last_use[id.index()] = i;
            }
            for arg in op.op.def().iter().flat_map(|def| Call { function, op }.operands(def)) {
                if let ArgRef::Value(id) = arg {
                    computed[id.index()] = true;
                }
            }
        }
        for id in function.outputs() {
            last_use[id.index()] = usize::MAX;
            computed[id.index()] = true;
        }
        // A view keeps the buffer under it alive: push last uses from results back to operands.
        for op in function.ops().iter().rev() {
            let is_view =
                op.op.def().is_some_and(|def| matches!((def.lower)(&Call { function, op }), Lower::View(_)));
            if is_view {
                let last = op.results.iter().map(|r| last_use[r.index()]).max().unwrap_or(0);
                for id in op.operands() {
                    last_use[id.index()] = last_use[id.index()].max(last);
                }
            }
        }
        Self {
            program,
            function,
            clamps,
            places: vec![None; count],
            last_use,
            computed,
            nodes: Vec::new(),
            slots: Vec::new(),
            lens: Vec::new(),
            busy_until: Vec::new(),
        }
    }

    pub(super) fn compile(mut self, settings: Settings) -> Result<Plan, PlanError> {
        let function = self.function;
        let mut inputs = Vec::new();
        for (i, &id) in function.params().iter().enumerate() {
            let port = port(&function.value(id).name, &function.value(id).ty, settings.rows);
            self.places[id.index()] = Some(Operand { source: Source::Input(i), layout: port.layout });
            inputs.push(port);
        }
        for (i, op) in function.ops().iter().enumerate() {
            self.lower(i, Call { function, op }, settings.tables)?;
        }
        let outputs = function.outputs().iter().map(|&id| {
            let value = function.value(id);
            let place = self.places[id.index()].expect("every value of a verified program has a place");
            (port(&value.name, &value.ty, settings.rows), place)
        });
        let mut outputs: Vec<_> = outputs.collect();
        write_through(&mut self.nodes, &mut outputs, &self.slots);
        // Constants are there already; the others need what is still written to them.
        for s in (0..self.slots.len()).filter(|&s| self.slots[s].as_slice().is_empty()) {
            let writers = self.nodes.iter().filter(|n| n.target == Target::Slot(s));
            self.lens[s] = writers.map(|n| n.dims.iter().product()).max().unwrap_or(0);
        }
        let need = self.slots.iter().zip(&self.lens).fold(0usize, |sum, (slot, &len)| {
            sum.saturating_add(len.saturating_mul(if matches!(slot, Buf::F16(_)) { 2 } else { 4 }))
        });
        if need > MEMORY_LIMIT {
            return Err(PlanError::TooLarge { need, limit: MEMORY_LIMIT });
        }
        let env = Env {
            arch: Arch::new(),
            arithmetic: settings.arithmetic,
            count_flushed: settings.count_flushed,
            host: Box::new(SimdGemm::default()),
            scratch: Default::default(),
            exact: Default::default(),
            rounded: Vec::new(),
            exponents: Default::default(),
            stats: Stats::default(),
        };
        Ok(Plan { inputs, outputs, nodes: self.nodes, slots: self.slots, lens: self.lens, env })
    }

    fn lower(&mut self, i: usize, call: Call<'a>, tables: &[Table]) -> Result<(), PlanError> {
        let results = &call.op.results;
        let name = || self.function.value(results[0]).name.clone();
        let missing = || PlanError::NoEvaluator { op: call.op.op.as_str().to_string(), value: name() };
        let def = call.op.op.def().ok_or_else(missing)?;
        let fp16 = results.len() == 1 && call.result(0).dtype == DType::Fp16;
        let table = tables.iter().find(|table| fp16 && table.op == call.op.op.as_str());
        let lower = table.map_or_else(|| (def.lower)(&call), |table| table.lower());
        match lower {
            Lower::Missing => Err(missing()),
            Lower::Constant => {
                let literal = call.op.constant().ok_or_else(missing)?;
                // Parameters of operations are read at compile time and need no place.
                if self.computed[results[0].index()] {
                    let place = self.constant(literal, &name())?;
                    self.places[results[0].index()] = Some(place);
                }
                Ok(())
            }
            Lower::View(view) => {
                let operand = self.operands(&call, def)?[0];
                let layouts = match view(&operand.layout) {
                    Some(layouts) => layouts,
                    None => {
                        let until = results.iter().map(|r| self.last_use[r.index()]).max().unwrap_or(i);
                        let dense = self.copy(operand, i, until, false);
                        let layouts = view(&dense.layout).expect("a dense operand takes every view");
                        return self.place_views(i, call, dense, layouts);
                    }
                };
                self.place_views(i, call, operand, layouts)
            }
            Lower::Compute(kernel) => {
                let operands = self.operands(&call, def)?;
                let ty = call.result(0);
                let slot = self.slot(ty.dtype, ty.shape.elements(), i, self.last_use[results[0].index()]);
                let layout = Layout::dense(&ty.shape);
                self.places[results[0].index()] = Some(Operand { source: Source::Slot(slot), layout });
                self.nodes.push(Node {
                    kernel,
                    operands,
                    target: Target::Slot(slot),
                    dims: ty.shape.to_vec(),
                });
                Ok(())
            }
        }
    }

    fn place_views(
        &mut self,
        i: usize,
        call: Call<'a>,
        from: Operand,
        layouts: Vec<Layout>,
    ) -> Result<(), PlanError> {
        let starts_inside = call.ints("begin").and_then(|b| b.last()).is_some_and(|&b| b != 0);
        for (&result, layout) in call.op.results.iter().zip(layouts) {
            let mut place = Operand { source: from.source, layout };
            if self.clamps && starts_inside {
                place = self.copy(place, i, self.last_use[result.index()], true);
            }
            self.places[result.index()] = Some(place);
        }
        Ok(())
    }

    /// A dense copy of `from`; `clamp` copies as the slices of M1 and M2 do.
    fn copy(&mut self, from: Operand, i: usize, until: usize, clamp: bool) -> Operand {
        let dtype = match from.source {
            Source::Slot(s) if matches!(self.slots[s], Buf::F16(_)) => DType::Fp16,
            Source::Input(n) => self.function.value(self.function.params()[n]).ty.dtype,
            Source::Slot(_) | Source::Output(_) => DType::Fp32,
        };
        let slot = self.slot(dtype, from.layout.len(), i, until);
        let dims = from.layout.dims().to_vec();
        let layout = Layout::dense(&dims);
        let kernel = if clamp {
            map::convert(|x| if x.abs() > crate::verify::SLICE_CLAMP { f32::INFINITY.copysign(x) } else { x })
        } else {
            Lower::kernel(Copy)
        };
        let Lower::Compute(kernel) = kernel else { unreachable!("both are kernels") };
        self.nodes.push(Node { kernel, operands: vec![from], target: Target::Slot(slot), dims });
        Operand { source: Source::Slot(slot), layout }
    }

    fn operands(&mut self, call: &Call<'a>, def: &OpDef) -> Result<Vec<Operand>, PlanError> {
        call.operands(def)
            .into_iter()
            .map(|arg| match arg {
                ArgRef::Value(id) => Ok(self.places[id.index()].expect("operands are defined before use")),
                ArgRef::Literal(literal) => {
                    let name = self.function.value(call.op.results[0]).name.clone();
                    self.constant(literal, &name)
                }
                ArgRef::Tuple(_) => unreachable!("lists are flattened by `Call::operands`"),
            })
            .collect()
    }

    fn constant(&mut self, literal: &Literal, name: &str) -> Result<Operand, PlanError> {
        let len = literal.ty.shape.elements();
        let dtype = literal.ty.dtype;
        let unsupported = || PlanError::DType { value: name.to_string(), dtype };
        let buf = match &literal.data {
            Data::F16(v) => Buf::F16(v.clone()),
            Data::F32(v) => Buf::F32(v.clone()),
            Data::Int(v) => Buf::F32(v.iter().map(|&x| x as f32).collect()),
            Data::Bool(v) => Buf::F32(v.iter().map(|&x| f32::from(u8::from(x))).collect()),
            Data::Str(_) => return Err(unsupported()),
            Data::Blob { path, offset } => {
                let no_weights = || PlanError::NoWeights { value: name.to_string(), path: path.clone() };
                let file = self.program.weights.as_ref().and_then(|w| w.get(path)).ok_or_else(no_weights)?;
                let record = crate::blob::read(file, *offset)
                    .map_err(|source| PlanError::Blob { value: name.to_string(), source })?;
                decode(dtype, record.data).ok_or_else(unsupported)?
            }
        };
        self.slots.push(buf);
        self.lens.push(len);
        self.busy_until.push(usize::MAX);
        let layout = Layout::dense(&literal.ty.shape);
        Ok(Operand { source: Source::Slot(self.slots.len() - 1), layout })
    }

    /// A slot for `len` elements that is written at operation `i` and read up to `until`.
    fn slot(&mut self, dtype: DType, len: usize, i: usize, until: usize) -> usize {
        let half = dtype == DType::Fp16;
        let free = (0..self.slots.len())
            .filter(|&s| self.busy_until[s] < i && matches!(self.slots[s], Buf::F16(_)) == half)
            // The closest in size, so that large buffers stay for large values.
            .min_by_key(|&s| self.lens[s].abs_diff(len));
        let slot = free.unwrap_or_else(|| {
            self.slots.push(if half { Buf::F16(Vec::new()) } else { Buf::F32(Vec::new()) });
            self.lens.push(0);
            self.busy_until.push(0);
            self.slots.len() - 1
        });
        self.lens[slot] = self.lens[slot].max(len);
        self.busy_until[slot] = until.max(i);
        slot
    }
}

/// Lets nodes write to the caller's buffers where results lie there as they do in a slot.
fn write_through(nodes: &mut [Node], outputs: &mut [(Port, Operand)], slots: &[Buf]) {
    for o in 0..outputs.len() {
        let (port, Operand { source, layout }) = &outputs[o];
        let Source::Slot(slot) = *source else { continue };
        let is_half = matches!(slots[slot], Buf::F16(_));
        // The last to write the slot made the value: an output keeps its slot to the end.
        let Some(maker) = nodes.iter().rposition(|n| n.target == Target::Slot(slot)) else { continue };
        let whole = nodes[maker].dims.iter().product::<usize>() == layout.len() && layout.offset == 0;
        let same_type = is_half == (port.ty.dtype == DType::Fp16);
        if !(whole && same_type && layout.is_dense() && port.layout.is_dense()) {
            continue;
        }
        nodes[maker].target = Target::Output(o);
        let readers = nodes[maker + 1..].iter_mut().flat_map(|n| &mut n.operands);
        let returned = outputs.iter_mut().map(|(_, place)| place);
        for place in readers.chain(returned) {
            if matches!(place.source, Source::Slot(s) if s == slot) {
                place.source = Source::Output(o);
            }
        }
    }
}

fn port(name: &str, ty: &TensorType, rows: Rows) -> Port {
    let width = ty.shape.last().copied().unwrap_or(1);
    let row_step = match rows {
        Rows::Dense => width,
        Rows::Pitched => ty.row_pitch() * 8 / ty.dtype.bits(),
    };
    let count = ty.shape.elements().checked_div(width).unwrap_or(0);
    debug_assert!(ty.shape.rank() <= MAX_RANK);
    Port {
        name: name.to_string(),
        ty: ty.clone(),
        len: count * row_step,
        layout: Layout::pitched(&ty.shape, row_step),
    }
}

/// Little-endian weights as a buffer.
fn decode(dtype: DType, data: &[u8]) -> Option<Buf> {
    Some(match dtype {
        DType::Fp16 => Buf::F16(data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect()),
        DType::Fp32 => {
            Buf::F32(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        DType::Int8 => Buf::F32(data.iter().map(|&b| f32::from(b as i8)).collect()),
        DType::UInt8 => Buf::F32(data.iter().map(|&b| f32::from(b)).collect()),
        DType::Int16 => {
            Buf::F32(data.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]]))).collect())
        }
        DType::UInt16 => {
            Buf::F32(data.chunks_exact(2).map(|b| f32::from(u16::from_le_bytes([b[0], b[1]]))).collect())
        }
        _ => return None,
    })
}

/// A dense copy of operand 0.
struct Copy;

impl Kernel for Copy {
    fn run(&self, io: &mut Io<'_>) {
        let view = io.view(0);
        let len = view.layout.len();
        // A transposing load goes by squares, so it is one task.
        let task = if view.in_runs() { TASK } else { len };
        parts(&*io.env.host, &mut io.out, task, |start, out, _| {
            with_lines([out.len(), 0, 0], |[line, ..]| {
                if start == 0 && line.len() == len {
                    view.load(line)
                } else {
                    view.load_range(start, line)
                }
                store_exact(out, 0, line);
            });
        });
    }
}
