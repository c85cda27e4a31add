//! A verified program, compiled: which kernel reads what from where.

use half::f16;

use super::compile::Compiler;
use super::map::unary;
use super::{Arithmetic, Buf, Env, Host, Io, Kernel, Layout, Lower, Slice, Stats, View};
use crate::types::{DType, TensorType};
use crate::verify::Verified;

/// Choices of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How products are summed.
    pub arithmetic: Arithmetic,
    /// How rows of inputs and outputs lie in the caller's buffers.
    pub rows: Rows,
    /// Count flushed products too ([`Stats::flushed`]); costs a few percent of a run.
    pub count_flushed: bool,
    /// Elementary functions whose results were measured; the others are computed.
    pub tables: &'static [Table],
}

/// What hardware gives for an operation of one fp16 operand.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The operation: `exp`, `sigmoid`, `tanh` or another of one operand without parameters.
    pub op: &'static str,
    /// 65,536 fp16 results, little-endian, in the order of the inputs' bits: 131,072 bytes.
    pub results: &'static [u8],
}

impl Table {
    pub(super) fn lower(self) -> Lower {
        unary(move |x| {
            let at = 2 * usize::from(f16::from_f32(x).to_bits());
            f16::from_le_bytes([self.results[at], self.results[at + 1]]).to_f32()
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { arithmetic: Arithmetic::Fast, rows: Rows::Dense, count_flushed: true, tables: &[] }
    }
}

/// How rows lie in the buffers of inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One after the other.
    Dense,
    /// [`TensorType::row_pitch`] apart, as on an ANE surface.
    Pitched,
}

/// Why a verified program has no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PlanError {
    #[error("the program has no function `{function}`; it has {has}")]
    NoFunction { function: String, has: String },
    #[error(
        "the evaluator does not know `{op}`, which makes `{value}`; rewrite it with operations of docs/mil.md"
    )]
    NoEvaluator { op: String, value: String },
    #[error("`{value}` needs the file `{path}`; attach it with `Program::with_weights`")]
    NoWeights { value: String, path: String },
    #[error("the weights of `{value}` cannot be read")]
    Blob { value: String, source: crate::blob::BlobError },
    #[error(
        "`{value}` is a constant of type {dtype}, which the evaluator cannot compute with; cast it to fp16"
    )]
    DType { value: String, dtype: DType },
    #[error(
        "the values of the program need {need} bytes at once, over the limit of {limit}; split the program"
    )]
    TooLarge { need: usize, limit: usize },
}

/// Why a plan did not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RunError {
    #[error("{found} {what} were given, but the program has {wanted}")]
    Count { what: &'static str, found: usize, wanted: usize },
    #[error("`{name}` got {found} elements of {found_type}, but needs {wanted} of {wanted_type}")]
    Buffer { name: String, found: usize, found_type: &'static str, wanted: usize, wanted_type: &'static str },
}

/// A buffer to write an output to.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum SliceMut<'a> {
    F16(&'a mut [f16]),
    F32(&'a mut [f32]),
}

impl SliceMut<'_> {
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn as_slice(&self) -> Slice<'_> {
        match self {
            SliceMut::F16(v) => Slice::F16(v),
            SliceMut::F32(v) => Slice::F32(v),
        }
    }

    /// `len` elements from `at` on.
    pub(crate) fn part(&mut self, at: usize, len: usize) -> SliceMut<'_> {
        match self {
            SliceMut::F16(v) => SliceMut::F16(&mut v[at..at + len]),
            SliceMut::F32(v) => SliceMut::F32(&mut v[at..at + len]),
        }
    }
}

/// An input or output of a plan.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name in the program.
    pub name: String,
    /// Type in the program.
    pub ty: TensorType,
    /// Elements that its buffer must have.
    pub len: usize,
    pub(super) layout: Layout,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Input(usize),
    Slot(usize),
    Output(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub source: Source,
    pub layout: Layout,
}

/// Where a node writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Slot(usize),
    /// The caller's buffer, when the result lies in it as it is.
    Output(usize),
}

pub(super) struct Node {
    pub kernel: Box<dyn Kernel>,
    pub operands: Vec<Operand>,
    pub target: Target,
    pub dims: Vec<usize>,
}

/// A program compiled for evaluation, with its buffers.
pub struct Plan {
    pub(super) inputs: Vec<Port>,
    pub(super) outputs: Vec<(Port, Operand)>,
    pub(super) nodes: Vec<Node>,
    pub(super) slots: Vec<Buf>,
    /// Elements of each slot.
    pub(super) lens: Vec<usize>,
    pub(super) env: Env,
}

impl Plan {
    /// Compiles the function `main`, or the only one.
    ///
    /// # Errors
    /// [`PlanError`] when an operation has no evaluator or weights are missing.
    pub fn new(program: &Verified, settings: Settings) -> Result<Self, PlanError> {
        let name = match program.functions.as_slice() {
            [only] => only.name.as_str(),
            _ => "main",
        };
        Self::of(program, name, settings)
    }

    /// Compiles the function `name`.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn of(program: &Verified, name: &str, settings: Settings) -> Result<Self, PlanError> {
        let function = program.function(name).ok_or_else(|| PlanError::NoFunction {
            function: name.to_string(),
            has: program.functions.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        let clamps = program.target().limits().slice_clamp;
        Compiler::new(program, function, clamps).compile(settings)
    }

    /// Replaces the product of [`Arithmetic::Fast`] and the threads.
    #[must_use]
    pub fn with_host(mut self, host: Box<dyn Host>) -> Self {
        self.env.host = host;
        self
    }

    /// Bytes of constants and of values that it keeps between runs, from the first run on.
    pub fn bytes(&self) -> u64 {
        let each = |slot: &Buf| if matches!(slot, Buf::F16(_)) { 2 } else { 4 };
        self.slots.iter().zip(&self.lens).map(|(slot, &len)| each(slot) * len as u64).sum()
    }

    /// Inputs in declared order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Outputs in declared order.
    pub fn outputs(&self) -> impl ExactSizeIterator<Item = &Port> {
        self.outputs.iter().map(|(port, _)| port)
    }

    /// Runs once. Inputs are read in place; the first run allocates the plan's buffers.
    ///
    /// # Errors
    /// [`RunError`] when a buffer has the wrong length or type; then nothing was run.
    pub fn run(&mut self, inputs: &[Slice<'_>], outputs: &mut [SliceMut<'_>]) -> Result<Stats, RunError> {
        self.check(inputs, outputs)?;
        for (slot, &len) in self.slots.iter_mut().zip(&self.lens) {
            slot.resize(len);
        }
        self.env.stats = Stats::default();
        for node in &self.nodes {
            let len = node.dims.iter().product();
            match node.target {
                Target::Slot(i) => {
                    let mut out = std::mem::replace(&mut self.slots[i], Buf::F32(Vec::new()));
                    run(node, inputs, &self.slots, outputs, out.as_mut(len), &mut self.env);
                    self.slots[i] = out;
                }
                Target::Output(i) => {
                    let mut out = std::mem::replace(&mut outputs[i], SliceMut::F32(&mut []));
                    run(node, inputs, &self.slots, outputs, out.part(0, len), &mut self.env);
                    outputs[i] = out;
                }
            }
        }
        for (o, (port, operand)) in self.outputs.iter().enumerate() {
            if matches!(operand.source, Source::Output(i) if i == o) {
                continue;
            }
            let mut out = std::mem::replace(&mut outputs[o], SliceMut::F32(&mut []));
            let data = match operand.source {
                Source::Input(i) => inputs[i],
                Source::Slot(i) => self.slots[i].as_slice(),
                Source::Output(i) => outputs[i].as_slice(),
            };
            copy_out(View { data, layout: operand.layout }, &port.layout, &mut out, &mut self.env.scratch[0]);
            outputs[o] = out;
        }
        Ok(self.env.stats)
    }

    fn check(&self, inputs: &[Slice<'_>], outputs: &[SliceMut<'_>]) -> Result<(), RunError> {
        let counts =
            [("inputs", inputs.len(), self.inputs.len()), ("outputs", outputs.len(), self.outputs.len())];
        for (what, found, wanted) in counts {
            if found != wanted {
                return Err(RunError::Count { what, found, wanted });
            }
        }
        let given_inputs = inputs.iter().map(|s| match s {
            Slice::F16(v) => (v.len(), "fp16"),
            Slice::F32(v) => (v.len(), "fp32"),
        });
        let given_outputs = outputs.iter().map(|s| match s {
            SliceMut::F16(v) => (v.len(), "fp16"),
            SliceMut::F32(v) => (v.len(), "fp32"),
        });
        for (port, (found, found_type)) in
            self.inputs.iter().zip(given_inputs).chain(self.outputs().zip(given_outputs))
        {
            let wanted_type = if port.ty.dtype == DType::Fp16 { "fp16" } else { "fp32" };
            if found < port.len || found_type != wanted_type {
                return Err(RunError::Buffer {
                    name: port.name.clone(),
                    found,
                    found_type,
                    wanted: port.len,
                    wanted_type,
                });
            }
        }
        Ok(())
    }
}

fn run(
    node: &Node,
    inputs: &[Slice<'_>],
    slots: &[Buf],
    outputs: &[SliceMut<'_>],
    out: SliceMut<'_>,
    env: &mut Env,
) {
    node.kernel.run(&mut Io { operands: &node.operands, inputs, slots, outputs, out, dims: &node.dims, env });
}

/// Copies a view to the rows of an output.
fn copy_out(view: View<'_>, to: &Layout, out: &mut SliceMut<'_>, scratch: &mut Vec<f32>) {
    let len = view.layout.len();
    let width = view.layout.dims().last().copied().unwrap_or(1).max(1);
    match (view.data, &mut *out) {
        (Slice::F16(v), SliceMut::F16(out)) if view.layout.is_dense() && to.is_dense() => {
            let at = view.layout.offset;
            return out[..len].copy_from_slice(&v[at..at + len]);
        }
        _ => {}
    }
    scratch.resize(scratch.len().max(len), 0.0);
    view.load(&mut scratch[..len]);
    let row_step = if to.dims().len() >= 2 { to.steps()[to.dims().len() - 2] as usize } else { width };
    for (row, line) in scratch[..len].chunks_exact(width).enumerate() {
        match out {
            SliceMut::F16(out) => {
                let out = &mut out[row * row_step..][..width];
                super::convert::narrow(line, out);
            }
            SliceMut::F32(out) => out[row * row_step..][..width].copy_from_slice(line),
        }
    }
}
