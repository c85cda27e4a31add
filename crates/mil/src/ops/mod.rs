//! The operations: one file per family, each with operands, type rule and evaluation together.
//!
//! To add one, write a row in its family's table. Names, argument names and defaults are those of
//! coremltools' `ios18` registry; what the ANE takes is in [`Support`], with reasons in
//! `docs/ane-rules.md`.

pub mod activation;
pub mod attention;
pub mod constant;
pub mod conv;
pub mod elementwise;
pub mod linear;
pub mod normalize;
pub mod reduce;
pub mod refused;
pub mod shape;

use std::fmt;

use crate::eval::Lower;
use crate::program::{Arg, Data, Function, Literal, Op, ValueId};
use crate::types::{DType, TensorType};

/// One row of the op table.
pub struct OpDef {
    /// Name in MIL text.
    pub name: &'static str,
    /// Arguments; the text may give them in any order.
    pub params: &'static [Param],
    /// Types of the results.
    pub infer: fn(&Call<'_>) -> Result<Vec<TensorType>, Fault>,
    /// How the evaluator runs it.
    pub lower: fn(&Call<'_>) -> Lower,
    /// Floating-point operations.
    pub work: Work,
    /// Whether ANE compilers take it.
    pub support: Support,
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpDef").field(&self.name).finish()
    }
}

/// One argument of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Keyword in the text.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// False when the text may leave it out.
    pub required: bool,
}

/// What an argument holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor, computed or constant: an operand of the evaluation.
    Tensor,
    /// Several tensors.
    Tensors,
    /// A constant `int32` scalar.
    Int,
    /// A constant `int32` list.
    Ints,
    /// A constant `bool`.
    Bool,
    /// A constant list of `bool`.
    Bools,
    /// A constant string.
    Str,
    /// A constant float scalar of the element type of `x`.
    Float,
}

/// How many floating-point operations a statement takes.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Data movement.
    None,
    /// So many per element of the result.
    PerResult(u64),
    /// So many per element of the first operand.
    PerInput(u64),
    /// Counted from the call.
    Count(fn(&Call<'_>) -> u64),
}

/// Whether ANE compilers take an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Compiled and numerically checked on hardware by someone.
    Checked,
    /// Reported to compile.
    Compiles,
    /// Reports disagree; the text says how.
    Contested(&'static str),
    /// Refused by every report; the text says what to write instead.
    Refused(&'static str),
}

/// A broken type or operand rule, not yet tied to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Id of the rule, a row of `docs/ane-rules.md`.
    pub rule: &'static str,
    /// What was found, and what was wanted.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl Fault {
    /// A fault of the rule `type`: shapes or element types that do not go together.
    pub fn ty(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { rule: "type", message: message.into(), fix: fix.into() }
    }

    /// A fault of the rule `operand`: an argument that is missing, misnamed or of the wrong kind.
    pub fn operand(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { rule: "operand", message: message.into(), fix: fix.into() }
    }
}

/// The table, family by family.
pub fn table() -> impl Iterator<Item = &'static OpDef> {
    let families: [&'static [OpDef]; 10] = [
        constant::OPS,
        elementwise::OPS,
        activation::OPS,
        linear::OPS,
        conv::OPS,
        attention::OPS,
        reduce::OPS,
        normalize::OPS,
        shape::OPS,
        refused::OPS,
    ];
    families.into_iter().flatten()
}

/// The row called `name`.
pub fn find(name: &str) -> Option<&'static OpDef> {
    table().find(|def| def.name == name)
}

pub(crate) const fn need(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: true }
}

pub(crate) const fn may(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, required: false }
}

/// An operation together with the function that its arguments belong to.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Where the values live.
    pub function: &'a Function,
    /// The statement.
    pub op: &'a Op,
}

impl<'a> Call<'a> {
    /// Checks names, presence and kinds of the arguments against the table; reports all faults.
    pub fn check_args(&self, def: &OpDef) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, arg) in self.args() {
            match def.params.iter().find(|p| p.name == name) {
                None => faults.push(Fault::operand(
                    format!("`{}` has no argument `{name}`", def.name),
                    format!("its arguments are {}", param_names(def)),
                )),
                Some(param) => faults.extend(self.check_kind(param, arg)),
            }
        }
        for param in def.params.iter().filter(|p| p.required) {
            if !self.args().any(|(name, _)| name == param.name) {
                let rule = if param.name == "epsilon" { "epsilon" } else { "operand" };
                faults.push(Fault {
                    rule,
                    message: format!("`{}` lacks the argument `{}`", def.name, param.name),
                    fix: match param.name {
                        "epsilon" => "the ANE compiler refuses the default; give a constant epsilon".into(),
                        name => format!("give `{name} = …`"),
                    },
                });
            }
        }
        faults
    }

    fn args(&self) -> impl Iterator<Item = (&'a str, ArgRef<'a>)> {
        let attrs: &[(String, Literal)] = if is_constexpr(self.op) { &self.op.attrs } else { &[] };
        (self.op.args.iter().map(|(n, a)| {
            (
                n.as_str(),
                match a {
                    Arg::Value(id) => ArgRef::Value(*id),
                    Arg::Tuple(ids) => ArgRef::Tuple(ids),
                    Arg::Literal(l) => ArgRef::Literal(l),
                },
            )
        }))
        .chain(attrs.iter().map(|(n, l)| (n.as_str(), ArgRef::Literal(l))))
    }

    fn check_kind(&self, param: &Param, arg: ArgRef<'a>) -> Option<Fault> {
        let (wanted, ok): (&str, fn(&TensorType) -> bool) = match param.kind {
            Kind::Tensor => ("a tensor", |t| t.dtype != DType::String),
            Kind::Tensors => {
                return (!matches!(arg, ArgRef::Tuple(_) | ArgRef::Value(_))).then(|| {
                    Fault::operand(format!("`{}` is no list of values", param.name), "write `(a, b)`")
                });
            }
            Kind::Int => ("a constant int32", |t| t.dtype == DType::Int32 && t.shape.rank() == 0),
            Kind::Ints => ("a constant int32 list", |t| t.dtype == DType::Int32 && t.shape.rank() == 1),
            Kind::Bool => ("a constant bool", |t| t.dtype == DType::Bool && t.shape.rank() == 0),
            Kind::Bools => ("a constant bool list", |t| t.dtype == DType::Bool && t.shape.rank() == 1),
            Kind::Str => ("a constant string", |t| t.dtype == DType::String && t.shape.rank() == 0),
            Kind::Float => ("a constant float", |t| t.dtype.is_float() && t.shape.rank() == 0),
        };
        let (ty, literal) = match arg {
            ArgRef::Value(id) => (&self.function.value(id).ty, self.function.constant(id)),
            ArgRef::Literal(l) => (&l.ty, Some(l)),
            ArgRef::Tuple(_) => {
                return Some(Fault::operand(
                    format!("`{}` is a list of values, not {wanted}", param.name),
                    "give one value",
                ));
            }
        };
        if !ok(ty) {
            return Some(Fault::operand(
                format!("`{}` is `{ty}`, not {wanted}", param.name),
                format!("give {wanted}"),
            ));
        }
        if param.kind == Kind::Tensor {
            return None;
        }
        match literal {
            None => Some(Fault::operand(
                format!("`{}` is computed, but the compiler must know it", param.name),
                "give a `const`",
            )),
            Some(Literal { data: Data::Blob { .. }, .. }) => Some(Fault::operand(
                format!("`{}` is in a BLOBFILE, but it is no weight", param.name),
                "write the value in the text",
            )),
            Some(literal) if literal.data.len() != Some(literal.ty.shape.elements()) => Some(Fault::operand(
                format!("`{}` holds {:?} elements, not as many as `{ty}`", param.name, literal.data.len()),
                "list every element",
            )),
            Some(_) if param.kind == Kind::Float => {
                let x = self.opt_ty("x")?;
                (x.dtype.is_float() && x.dtype != ty.dtype).then(|| {
                    Fault::operand(
                        format!("`{}` is {}, but `x` is {}", param.name, ty.dtype, x.dtype),
                        format!("write it as `{}(…)`", x.dtype),
                    )
                })
            }
            Some(_) => None,
        }
    }

    /// The type of a tensor argument that must be there.
    pub fn ty(&self, name: &str) -> Result<&'a TensorType, Fault> {
        self.opt_ty(name)
            .ok_or_else(|| Fault::operand(format!("`{name}` is missing"), format!("give `{name} = …`")))
    }

    /// The type of a tensor argument.
    pub fn opt_ty(&self, name: &str) -> Option<&'a TensorType> {
        match self.find(name)? {
            ArgRef::Value(id) => Some(&self.function.value(id).ty),
            ArgRef::Literal(l) => Some(&l.ty),
            ArgRef::Tuple(_) => None,
        }
    }

    /// The types of a list argument.
    pub fn types(&self, name: &str) -> Vec<&'a TensorType> {
        let ids: &[ValueId] = match self.op.arg(name) {
            Some(Arg::Tuple(ids)) => ids,
            Some(Arg::Value(id)) => std::slice::from_ref(id),
            _ => &[],
        };
        ids.iter().map(|&id| &self.function.value(id).ty).collect()
    }

    /// The constant that an argument holds.
    pub fn literal(&self, name: &str) -> Option<&'a Literal> {
        match self.find(name)? {
            ArgRef::Value(id) => self.function.constant(id),
            ArgRef::Literal(l) => Some(l),
            ArgRef::Tuple(_) => None,
        }
    }

    /// A constant integer argument.
    pub fn int(&self, name: &str) -> Option<i64> {
        match &self.literal(name)?.data {
            Data::Int(v) => v.first().copied(),
            _ => None,
        }
    }

    /// A constant integer list; a scalar is a list of one.
    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        match &self.literal(name)?.data {
            Data::Int(v) => Some(v),
            _ => None,
        }
    }

    /// A constant integer list that must be there.
    pub fn need_ints(&self, name: &str) -> Result<&'a [i64], Fault> {
        self.ints(name).ok_or_else(|| {
            Fault::operand(
                format!("`{name}` is no constant int32 list"),
                format!("give `{name}` as a `const`"),
            )
        })
    }

    /// A constant bool argument.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.bools(name)?.first().copied()
    }

    /// A constant bool list.
    pub fn bools(&self, name: &str) -> Option<&'a [bool]> {
        match &self.literal(name)?.data {
            Data::Bool(v) => Some(v),
            _ => None,
        }
    }

    /// A constant string argument.
    pub fn string(&self, name: &str) -> Option<&'a str> {
        match &self.literal(name)?.data {
            Data::Str(v) => v.first().map(String::as_str),
            _ => None,
        }
    }

    /// A constant float argument.
    pub fn float(&self, name: &str) -> Option<f32> {
        match &self.literal(name)?.data {
            Data::F16(v) => v.first().map(|x| x.to_f32()),
            Data::F32(v) => v.first().copied(),
            _ => None,
        }
    }

    /// The declared type of result `i`.
    pub fn result(&self, i: usize) -> &'a TensorType {
        &self.function.value(self.op.results[i]).ty
    }

    /// Operands of the evaluation: the tensor arguments in table order.
    pub(crate) fn operands(&self, def: &OpDef) -> Vec<ArgRef<'a>> {
        let mut out = Vec::new();
        for param in def.params.iter().filter(|p| matches!(p.kind, Kind::Tensor | Kind::Tensors)) {
            match self.find(param.name) {
                Some(ArgRef::Tuple(ids)) => out.extend(ids.iter().map(|&id| ArgRef::Value(id))),
                Some(arg) => out.push(arg),
                None => {}
            }
        }
        out
    }

    fn find(&self, name: &str) -> Option<ArgRef<'a>> {
        self.args().find(|(n, _)| *n == name).map(|(_, a)| a)
    }
}

/// An argument, wherever the text put it.
#[derive(Clone, Copy)]
pub(crate) enum ArgRef<'a> {
    Value(ValueId),
    Tuple(&'a [ValueId]),
    Literal(&'a Literal),
}

/// The `constexpr_*` operations carry their operands as attributes.
pub(crate) fn is_constexpr(op: &Op) -> bool {
    op.op.as_str().starts_with("constexpr_")
}

fn param_names(def: &OpDef) -> String {
    let names: Vec<&str> = def.params.iter().map(|p| p.name).collect();
    names.join(", ")
}
