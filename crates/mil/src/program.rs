//! A MIL program as data: functions that own an arena of values and a list of operations.
//!
//! Values are named by [`ValueId`] inside their function. A function is built in order: a value
//! exists before any operation may use it, so "used before defined" cannot be written.

use half::f16;

use crate::blob::Weights;
use crate::ops::{self, OpDef};
use crate::types::{DType, Shape, TensorType};

/// A value of one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where the text wrote something, counted from 1; 0:0 for programs that were built.
///
/// Positions say nothing about meaning, so all of them compare equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pos {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub col: u32,
}

impl PartialEq for Pos {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Version of the text dialect: `program(major.minor)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

/// A whole program: one or more functions, each a procedure of the compiled model.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Dialect version; [`Program::new`] writes 1.3.
    pub version: Version,
    /// `buildInfo` pairs in text order. The compiler does not check them.
    pub build_info: Vec<(String, String)>,
    /// Functions in text order.
    pub functions: Vec<Function>,
    /// Contents of the BLOBFILEs that constants name; `None` when only the text is at hand.
    /// The text does not hold them.
    pub weights: Option<Weights>,
}

impl Program {
    /// A program in the 1.3 dialect with the build information that coremltools 9.0 writes.
    pub fn new(functions: Vec<Function>) -> Self {
        let info = [
            ("coremlc-component-MIL", "3510.2.1"),
            ("coremlc-version", "3505.4.1"),
            ("coremltools-component-milinternal", ""),
            ("coremltools-version", "9.0"),
        ];
        Self {
            version: Version { major: 1, minor: 3 },
            build_info: info.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
            functions,
            weights: None,
        }
    }

    /// The same program with the contents of its BLOBFILEs.
    #[must_use]
    pub fn with_weights(mut self, weights: Weights) -> Self {
        self.weights = Some(weights);
        self
    }

    /// The function called `name`.
    pub fn function(&self, name: &str) -> Option<&Function> {
        self.functions.iter().find(|f| f.name == name)
    }
}

/// One function: parameters, operations in order, and the names it returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Name, `main` by custom.
    pub name: String,
    /// Operation set, `ios18` by custom.
    pub opset: String,
    params: Vec<ValueId>,
    ops: Vec<Op>,
    outputs: Vec<ValueId>,
    values: Vec<Value>,
    pos: Pos,
}

impl Function {
    /// An empty function.
    pub fn new(name: impl Into<String>, opset: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            opset: opset.into(),
            params: Vec::new(),
            ops: Vec::new(),
            outputs: Vec::new(),
            values: Vec::new(),
            pos: Pos::default(),
        }
    }

    /// Parameters in declared order.
    pub fn params(&self) -> &[ValueId] {
        &self.params
    }

    /// Operations, constants included, in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Returned values in declared order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// Every value, in order of definition.
    pub fn values(&self) -> impl ExactSizeIterator<Item = (ValueId, &Value)> {
        self.values.iter().enumerate().map(|(i, v)| (ValueId(i as u32), v))
    }

    /// A value of this function.
    ///
    /// # Panics
    /// When `id` belongs to another function with more values.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The value called `name`. Linear in the number of values.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values().find(|(_, v)| v.name == name).map(|(id, _)| id)
    }

    /// The operation that makes `id`; `None` for a parameter.
    pub fn def(&self, id: ValueId) -> Option<&Op> {
        self.values[id.index()].def.map(|op| &self.ops[op as usize])
    }

    /// The constant behind `id`, if `id` is one.
    pub fn constant(&self, id: ValueId) -> Option<&Literal> {
        self.def(id).and_then(Op::constant)
    }

    /// Where the text declared the function.
    pub fn pos(&self) -> Pos {
        self.pos
    }

    pub(crate) fn set_pos(&mut self, pos: Pos) {
        self.pos = pos;
    }

    /// Adds a parameter. The caller keeps names unique.
    pub(crate) fn add_param(&mut self, name: String, ty: TensorType, pos: Pos) -> ValueId {
        let id = self.add_value(name, ty, None, pos);
        self.params.push(id);
        id
    }

    /// Adds an operation whose arguments name values of this function.
    pub(crate) fn add_op(&mut self, mut op: Op, results: Vec<(String, TensorType, Pos)>) -> Vec<ValueId> {
        let index = self.ops.len() as u32;
        op.results =
            results.into_iter().map(|(name, ty, pos)| self.add_value(name, ty, Some(index), pos)).collect();
        let ids = op.results.clone();
        self.ops.push(op);
        ids
    }

    pub(crate) fn set_outputs(&mut self, outputs: Vec<ValueId>) {
        self.outputs = outputs;
    }

    pub(crate) fn rename(&mut self, id: ValueId, name: String) {
        if let Some(op) = self.values[id.index()].def {
            let op = &mut self.ops[op as usize];
            if op.results.len() == 1 {
                op.name.clone_from(&name);
            }
        }
        self.values[id.index()].name = name;
    }

    fn add_value(&mut self, name: String, ty: TensorType, def: Option<u32>, pos: Pos) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("a function has fewer than 2^32 values"));
        self.values.push(Value { name, ty, pos, def });
        id
    }
}

/// A named value with its declared type.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Identifier in the text; device inputs and outputs bind by it.
    pub name: String,
    /// Declared type.
    pub ty: TensorType,
    /// Where the text declared it.
    pub pos: Pos,
    def: Option<u32>,
}

/// Which operation an [`Op`] is: one of the op table, or a name that the table does not know.
#[derive(Clone, Debug)]
pub enum OpName {
    /// A row of the op table.
    Known(&'static OpDef),
    /// Anything else; the verifier refuses it.
    Unknown(String),
}

impl OpName {
    /// Looks `name` up in the op table.
    pub fn new(name: &str) -> Self {
        match ops::find(name) {
            Some(def) => OpName::Known(def),
            None => OpName::Unknown(name.to_string()),
        }
    }

    /// The name as the text spells it.
    pub fn as_str(&self) -> &str {
        match self {
            OpName::Known(def) => def.name,
            OpName::Unknown(name) => name,
        }
    }

    /// The table row.
    pub fn def(&self) -> Option<&'static OpDef> {
        match self {
            OpName::Known(def) => Some(def),
            OpName::Unknown(_) => None,
        }
    }
}

impl PartialEq for OpName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// One statement: `results = op(args)[name = …, attrs]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Which operation.
    pub op: OpName,
    /// Keyword arguments in text order.
    pub args: Vec<(String, Arg)>,
    /// Attributes besides `name`, in text order; a constant keeps its `val` here.
    pub attrs: Vec<(String, Literal)>,
    /// The values it makes.
    pub results: Vec<ValueId>,
    /// The `name` attribute. Unique by custom; nothing binds by it.
    pub name: String,
    /// Where the text wrote it.
    pub pos: Pos,
}

impl Op {
    /// The argument called `name`.
    pub fn arg(&self, name: &str) -> Option<&Arg> {
        self.args.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    /// The attribute called `name`.
    pub fn attr(&self, name: &str) -> Option<&Literal> {
        self.attrs.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    /// The value of a `const`.
    pub fn constant(&self) -> Option<&Literal> {
        (self.op.as_str() == "const").then(|| self.attr("val")).flatten()
    }

    /// Every value that the arguments name.
    pub fn operands(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.args
            .iter()
            .flat_map(|(_, arg)| match arg {
                Arg::Value(id) => std::slice::from_ref(id),
                Arg::Tuple(ids) => ids.as_slice(),
                Arg::Literal(_) => &[],
            })
            .copied()
    }
}

/// What a keyword argument holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A value by name.
    Value(ValueId),
    /// Several values: `values = (a, b)`.
    Tuple(Vec<ValueId>),
    /// A literal written in place. Built programs never do that: some compilers are said to refuse it.
    Literal(Literal),
}

/// A typed constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Literal {
    /// Type as written; `data` has as many elements, unless it is a blob.
    pub ty: TensorType,
    /// Elements, row-major.
    pub data: Data,
}

impl Literal {
    /// A scalar `fp16`, rounded to nearest, ties to even.
    pub fn fp16(value: f32) -> Self {
        Self { ty: TensorType::scalar(DType::Fp16), data: Data::F16(vec![f16::from_f32(value)]) }
    }

    /// A scalar `int32`.
    pub fn int32(value: i32) -> Self {
        Self { ty: TensorType::scalar(DType::Int32), data: Data::Int(vec![value.into()]) }
    }

    /// A one-axis `int32` tensor.
    pub fn int32s(values: &[i64]) -> Self {
        Self { ty: TensorType::new(DType::Int32, [values.len()]), data: Data::Int(values.to_vec()) }
    }

    /// A scalar `bool`.
    pub fn bool(value: bool) -> Self {
        Self { ty: TensorType::scalar(DType::Bool), data: Data::Bool(vec![value]) }
    }

    /// A scalar `string`.
    pub fn string(value: impl Into<String>) -> Self {
        Self { ty: TensorType::scalar(DType::String), data: Data::Str(vec![value.into()]) }
    }

    /// A reference to a tensor in a BLOBFILE; `offset` names its metadata record.
    pub fn blob(dtype: DType, shape: impl Into<Shape>, path: impl Into<String>, offset: u64) -> Self {
        Self { ty: TensorType::new(dtype, shape), data: Data::Blob { path: path.into(), offset } }
    }
}

/// Elements of a constant. Floats compare by bits, so a program with a NaN equals itself.
#[derive(Clone, Debug)]
pub enum Data {
    /// `fp16` elements.
    F16(Vec<f16>),
    /// `fp32` elements.
    F32(Vec<f32>),
    /// Elements of any integer type.
    Int(Vec<i64>),
    /// `bool` elements.
    Bool(Vec<bool>),
    /// `string` elements.
    Str(Vec<String>),
    /// `BLOBFILE(path, offset)`.
    Blob {
        /// Path as written, `@model_path/…` by custom.
        path: String,
        /// Position of the metadata record in the file, bytes.
        offset: u64,
    },
}

impl Data {
    /// Number of elements; `None` for a blob.
    pub fn len(&self) -> Option<usize> {
        Some(match self {
            Data::F16(v) => v.len(),
            Data::F32(v) => v.len(),
            Data::Int(v) => v.len(),
            Data::Bool(v) => v.len(),
            Data::Str(v) => v.len(),
            Data::Blob { .. } => return None,
        })
    }

    /// True for no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Data::F16(a), Data::F16(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (Data::F32(a), Data::F32(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
            (Data::Int(a), Data::Int(b)) => a == b,
            (Data::Bool(a), Data::Bool(b)) => a == b,
            (Data::Str(a), Data::Str(b)) => a == b,
            (Data::Blob { path: a, offset: i }, Data::Blob { path: b, offset: j }) => a == b && i == j,
            _ => false,
        }
    }
}
