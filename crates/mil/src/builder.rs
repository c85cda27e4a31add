//! Functions from Rust code: each method adds an operation and infers its type.
//!
//! Parameters of operations become named constants, written once per value. A wrong shape is
//! remembered and reported by [`Builder::finish`] with all others; values that depend on it are
//! skipped, so a kernel reads as straight-line code.

use std::collections::{HashMap, HashSet};

use crate::ops::Call;
use crate::program::{Arg, Data, Function, Literal, Op, OpName, Pos, ValueId};
use crate::types::{DType, Shape, TensorType};

/// Why a function could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{function}`: `{value}` = `{op}`: {message}; {fix}")]
#[allow(missing_docs, reason = "the message names the fields")]
pub struct BuildError {
    pub function: String,
    pub value: String,
    pub op: String,
    pub message: String,
    pub fix: String,
}

/// Which operands of a matrix product come transposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flip {
    /// `x · y`.
    #[default]
    None,
    /// `xᵀ · y`.
    X,
    /// `x · yᵀ`.
    Y,
    /// `xᵀ · yᵀ`.
    Both,
}

/// Builds one function.
pub struct Builder {
    function: Function,
    names: HashSet<String>,
    /// Parameter constants by their text.
    constants: HashMap<String, ValueId>,
    broken: HashSet<ValueId>,
    next_name: Option<String>,
    outputs: Vec<ValueId>,
    errors: Vec<BuildError>,
}

impl Builder {
    /// Starts a function in the operation set `ios18`.
    pub fn new(name: &str) -> Self {
        Self {
            function: Function::new(name, "ios18"),
            names: HashSet::new(),
            constants: HashMap::new(),
            broken: HashSet::new(),
            next_name: None,
            outputs: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Names the next value: `b.named("scores").matmul(q, k)`.
    pub fn named(&mut self, name: impl Into<String>) -> &mut Self {
        self.next_name = Some(name.into());
        self
    }

    /// Adds a parameter. Devices bind inputs in byte order of their names.
    pub fn input(&mut self, name: &str, dtype: DType, shape: impl Into<Shape>) -> ValueId {
        let name = self.unique(name);
        self.function.add_param(name, TensorType::new(dtype, shape), Pos::default())
    }

    /// Returns `value` under `name`; a parameter or constant cannot be renamed and is refused later.
    pub fn output(&mut self, name: &str, value: ValueId) {
        if self.function.value(value).name != name {
            let name = self.unique(name);
            self.names.remove(&self.function.value(value).name);
            self.function.rename(value, name);
        }
        self.outputs.push(value);
    }

    /// The type of a value.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.function.value(value).ty
    }

    /// The finished function.
    ///
    /// # Errors
    /// Every operation whose operands do not go together.
    pub fn finish(mut self) -> Result<Function, Vec<BuildError>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        self.function.set_outputs(self.outputs);
        Ok(self.function)
    }

    /// Adds any operation of the table; `args` in the order in which they are printed.
    pub fn op(&mut self, op: &str, args: Vec<(&str, Arg)>) -> ValueId {
        self.ops(op, args, 1)[0]
    }

    fn ops(&mut self, name: &str, args: Vec<(&str, Arg)>, results: usize) -> Vec<ValueId> {
        let wanted = self.next_name.take().unwrap_or_else(|| name.to_string());
        let value = self.unique(&wanted);
        let args: Vec<(String, Arg)> = args
            .into_iter()
            .map(|(key, arg)| match arg {
                Arg::Literal(literal) => (key.to_string(), Arg::Value(self.parameter(&value, key, literal))),
                arg => (key.to_string(), arg),
            })
            .collect();
        let op = Op {
            op: OpName::new(name),
            args,
            attrs: Vec::new(),
            results: Vec::new(),
            name: value.clone(),
            pos: Pos::default(),
        };
        let poisoned = op.operands().any(|id| self.broken.contains(&id));
        // Types that only the declared result gives are checked by the verifier.
        let types = if poisoned { Err(Vec::new()) } else { self.infer(op.clone(), results) };
        match types {
            Ok(types) => {
                let mut names = vec![value];
                names.extend((1..types.len()).map(|i| self.unique(&format!("{wanted}_{i}"))));
                let results = names.into_iter().zip(types).map(|(n, t)| (n, t, Pos::default())).collect();
                self.function.add_op(op, results)
            }
            Err(faults) => {
                self.errors.extend(faults.into_iter().map(|(message, fix)| BuildError {
                    function: self.function.name.clone(),
                    value: value.clone(),
                    op: name.to_string(),
                    message,
                    fix,
                }));
                let ty = TensorType::scalar(DType::Fp16);
                let results = (0..results).map(|_| (value.clone(), ty.clone(), Pos::default())).collect();
                let ids = self.function.add_op(op, results);
                self.broken.extend(ids.iter().copied());
                ids
            }
        }
    }

    fn infer(&mut self, op: Op, results: usize) -> Result<Vec<TensorType>, Vec<(String, String)>> {
        let Some(def) = op.op.def() else {
            return Err(vec![("there is no such operation".into(), "see docs/mil.md".into())]);
        };
        // Rules such as that of `split` look at the number of results.
        let mut op = op;
        op.results = vec![ValueId(0); results];
        let call = Call { function: &self.function, op: &op };
        let faults = call.check_args(def);
        if !faults.is_empty() {
            return Err(faults.into_iter().map(|f| (f.message, f.fix)).collect());
        }
        (def.infer)(&call).map_err(|f| vec![(f.message, f.fix)])
    }

    fn unique(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_string();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{wanted}_{n}");
            n += 1;
        }
        name
    }

    fn parameter(&mut self, value: &str, key: &str, literal: Literal) -> ValueId {
        let text = literal.to_string();
        if let Some(&id) = self.constants.get(&text) {
            return id;
        }
        let id = self.add_constant(&format!("{value}_{key}"), literal);
        self.constants.insert(text, id);
        id
    }

    fn add_constant(&mut self, name: &str, literal: Literal) -> ValueId {
        let name = self.unique(name);
        let ty = literal.ty.clone();
        let op = Op {
            op: OpName::new("const"),
            args: Vec::new(),
            attrs: vec![("val".into(), literal)],
            results: Vec::new(),
            name: name.clone(),
            pos: Pos::default(),
        };
        self.function.add_op(op, vec![(name, ty, Pos::default())])[0]
    }
}

fn ints(values: &[usize]) -> Arg {
    Arg::Literal(Literal::int32s(&values.iter().map(|&v| v as i64).collect::<Vec<_>>()))
}

fn axes(values: &[i64]) -> Arg {
    Arg::Literal(Literal::int32s(values))
}

fn flag(value: bool) -> Arg {
    Arg::Literal(Literal::bool(value))
}

macro_rules! binary {
    ($($name:ident: $formula:literal),* $(,)?) => {
        impl Builder {
            $(#[doc = $formula]
            pub fn $name(&mut self, x: ValueId, y: ValueId) -> ValueId {
                self.op(stringify!($name), vec![("x", Arg::Value(x)), ("y", Arg::Value(y))])
            })*
        }
    };
}

binary! {
    add: "`x + y`, broadcast.",
    sub: "`x − y`, broadcast.",
    mul: "`x · y`, broadcast.",
    real_div: "`x / y`, broadcast.",
    maximum: "The larger of both, broadcast.",
    minimum: "The smaller of both, broadcast.",
    pow: "`x ^ y`, broadcast.",
    greater: "`x > y` as bool, broadcast.",
}

macro_rules! unary {
    ($($name:ident: $formula:literal),* $(,)?) => {
        impl Builder {
            $(#[doc = $formula]
            pub fn $name(&mut self, x: ValueId) -> ValueId {
                self.op(stringify!($name), vec![("x", Arg::Value(x))])
            })*
        }
    };
}

unary! {
    exp: "`e^x`.",
    sigmoid: "`1 / (1 + e^−x)`.",
    silu: "`x · sigmoid(x)`.",
    tanh: "Hyperbolic tangent.",
    relu: "`max(x, 0)`.",
    square: "`x²`.",
    sqrt: "`√x`.",
    abs: "`|x|`.",
}

macro_rules! reduce {
    ($($name:ident: $formula:literal),* $(,)?) => {
        impl Builder {
            $(#[doc = $formula]
            pub fn $name(&mut self, x: ValueId, over: &[i64]) -> ValueId {
                self.op(stringify!($name), vec![("axes", axes(over)), ("keep_dims", flag(true)), ("x", Arg::Value(x))])
            })*
        }
    };
}

reduce! {
    reduce_sum: "Sum over axes, which stay with extent 1.",
    reduce_mean: "Mean over axes, which stay with extent 1.",
    reduce_max: "Largest over axes, which stay with extent 1.",
}

impl Builder {
    /// A constant written in the text; tensors with more than one element belong into [`Self::weight`].
    pub fn constant(&mut self, literal: Literal) -> ValueId {
        let name = self.next_name.take().unwrap_or_else(|| "c".into());
        self.add_constant(&name, literal)
    }

    /// A scalar fp16 constant, written once per value.
    pub fn fp16(&mut self, value: f32) -> ValueId {
        let name = self.next_name.take().unwrap_or_else(|| "c".into());
        self.parameter(&name, "fp16", Literal::fp16(value))
    }

    /// A constant in a BLOBFILE; `offset` is what [`crate::blob::BlobWriter`] returned.
    pub fn weight(
        &mut self,
        name: &str,
        dtype: DType,
        shape: impl Into<Shape>,
        path: &str,
        offset: u64,
    ) -> ValueId {
        self.add_constant(
            name,
            Literal { ty: TensorType::new(dtype, shape), data: Data::Blob { path: path.into(), offset } },
        )
    }

    /// `x · y` over the last two axes, batches broadcast.
    pub fn matmul(&mut self, x: ValueId, y: ValueId) -> ValueId {
        self.matmul_flip(x, y, Flip::None)
    }

    /// A matrix product with operands transposed.
    pub fn matmul_flip(&mut self, x: ValueId, y: ValueId, flip: Flip) -> ValueId {
        let (fx, fy) = (matches!(flip, Flip::X | Flip::Both), matches!(flip, Flip::Y | Flip::Both));
        let args = vec![
            ("transpose_x", flag(fx)),
            ("transpose_y", flag(fy)),
            ("x", Arg::Value(x)),
            ("y", Arg::Value(y)),
        ];
        self.op("matmul", args)
    }

    /// A 1×1 convolution: `y[o, s] = Σ_i weight[o, i, 0, 0] · x[i, s]` for `x` `[1, I, 1, S]`.
    pub fn conv1x1(&mut self, x: ValueId, weight: ValueId) -> ValueId {
        let args = vec![
            ("dilations", ints(&[1, 1])),
            ("groups", Arg::Literal(Literal::int32(1))),
            ("pad", ints(&[0, 0, 0, 0])),
            ("pad_type", Arg::Literal(Literal::string("valid"))),
            ("strides", ints(&[1, 1])),
            ("weight", Arg::Value(weight)),
            ("x", Arg::Value(x)),
        ];
        self.op("conv", args)
    }

    /// Softmax along one axis.
    pub fn softmax(&mut self, x: ValueId, axis: i64) -> ValueId {
        let axis = Literal::int32(axis.clamp(i32::MIN.into(), i32::MAX.into()) as i32);
        self.op("softmax", vec![("axis", Arg::Literal(axis)), ("x", Arg::Value(x))])
    }

    /// The same elements under another shape.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        self.op("reshape", vec![("shape", ints(shape)), ("x", Arg::Value(x))])
    }

    /// Axes in the order `perm`.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        self.op("transpose", vec![("perm", ints(perm)), ("x", Arg::Value(x))])
    }

    /// `size` elements from `begin` on, per axis.
    pub fn slice(&mut self, x: ValueId, begin: &[usize], size: &[usize]) -> ValueId {
        self.op("slice_by_size", vec![("begin", ints(begin)), ("size", ints(size)), ("x", Arg::Value(x))])
    }

    /// Values one after the other along `axis`. Some chips refuse it; prefer several outputs.
    pub fn concat(&mut self, values: &[ValueId], axis: i32) -> ValueId {
        let args = vec![
            ("axis", Arg::Literal(Literal::int32(axis))),
            ("interleave", flag(false)),
            ("values", Arg::Tuple(values.to_vec())),
        ];
        self.op("concat", args)
    }

    /// Repeats per axis.
    pub fn tile(&mut self, x: ValueId, reps: &[usize]) -> ValueId {
        self.op("tile", vec![("reps", ints(reps)), ("x", Arg::Value(x))])
    }

    /// Equal parts along `axis`.
    pub fn split(&mut self, x: ValueId, axis: i32, parts: usize) -> Vec<ValueId> {
        let args = vec![
            ("axis", Arg::Literal(Literal::int32(axis))),
            ("num_splits", Arg::Literal(Literal::int32(i32::try_from(parts).unwrap_or(i32::MAX)))),
            ("x", Arg::Value(x)),
        ];
        self.ops("split", args, parts.max(1))
    }

    /// Another element type: `fp16`, `fp32`, `bool` or an 8- or 16-bit integer.
    pub fn cast(&mut self, x: ValueId, dtype: DType) -> ValueId {
        self.op("cast", vec![("dtype", Arg::Literal(Literal::string(dtype.name()))), ("x", Arg::Value(x))])
    }

    /// `1 / √(x + ε)`; after a reduction, prefer `pow(x, −0.5)`.
    pub fn rsqrt(&mut self, x: ValueId, epsilon: f32) -> ValueId {
        self.op("rsqrt", vec![("epsilon", Arg::Literal(Literal::fp16(epsilon))), ("x", Arg::Value(x))])
    }

    /// `cond ? a : b`.
    pub fn select(&mut self, cond: ValueId, a: ValueId, b: ValueId) -> ValueId {
        self.op("select", vec![("cond", Arg::Value(cond)), ("a", Arg::Value(a)), ("b", Arg::Value(b))])
    }
}
