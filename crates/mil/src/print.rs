//! Program → text, in the 1.3 dialect that the ANE compiler accepts.
//!
//! Scalars are printed bare (`string("…")`, `bool(true)`), tensors as flat row-major lists, every
//! statement with its `name`. Floats are printed so that reading them back gives the same bits:
//! short decimals where they are readable, C99 hex floats elsewhere, as Apple's own printer does.

use std::fmt::{self, Display, Formatter, Write};

use crate::program::{Arg, Data, Function, Literal, Op, Program};
use crate::types::TensorType;

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "program({}.{})", self.version.major, self.version.minor)?;
        f.write_str("[buildInfo = dict<string, string>({")?;
        for (i, (key, value)) in self.build_info.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{{{}, {}}}", Quoted(key), Quoted(value))?;
        }
        f.write_str("})]\n{\n")?;
        for function in &self.functions {
            function.fmt(f)?;
        }
        f.write_str("}\n")
    }
}

impl Display for Function {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "    func {}<{}>(", self.name, self.opset)?;
        list(f, self.params(), |f, &id| {
            let value = self.value(id);
            write!(f, "{} {}", value.ty, value.name)
        })?;
        f.write_str(") {\n")?;
        for op in self.ops() {
            f.write_str("        ")?;
            statement(f, self, op)?;
            f.write_char('\n')?;
        }
        f.write_str("    } -> (")?;
        list(f, self.outputs(), |f, &id| f.write_str(&self.value(id).name))?;
        f.write_str(");\n")
    }
}

fn statement(f: &mut Formatter<'_>, function: &Function, op: &Op) -> fmt::Result {
    list(f, &op.results, |f, &id| {
        let value = function.value(id);
        write!(f, "{} {}", value.ty, value.name)
    })?;
    write!(f, " = {}(", op.op.as_str())?;
    list(f, &op.args, |f, (name, arg)| {
        write!(f, "{name} = ")?;
        match arg {
            Arg::Value(id) => f.write_str(&function.value(*id).name),
            Arg::Tuple(ids) => {
                f.write_char('(')?;
                list(f, ids, |f, &id| f.write_str(&function.value(id).name))?;
                f.write_char(')')
            }
            Arg::Literal(literal) => literal.fmt(f),
        }
    })?;
    write!(f, ")[name = string({})", Quoted(&op.name))?;
    for (name, value) in &op.attrs {
        write!(f, ", {name} = {value}")?;
    }
    f.write_str("];")
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.ty)?;
        match &self.data {
            Data::F16(v) => elements(f, &self.ty, v, |f, x| float(f, x.to_f32())),
            Data::F32(v) => elements(f, &self.ty, v, |f, x| float(f, *x)),
            Data::Int(v) => elements(f, &self.ty, v, |f, x| write!(f, "{x}")),
            Data::Bool(v) => elements(f, &self.ty, v, |f, x| write!(f, "{x}")),
            Data::Str(v) => elements(f, &self.ty, v, |f, x| Quoted(x).fmt(f)),
            Data::Blob { path, offset } => {
                write!(f, "BLOBFILE(path = string({}), offset = uint64({offset}))", Quoted(path))
            }
        }?;
        f.write_char(')')
    }
}

fn elements<T>(
    f: &mut Formatter<'_>,
    ty: &TensorType,
    values: &[T],
    one: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    if ty.shape.rank() == 0 && values.len() == 1 {
        return one(f, &values[0]);
    }
    f.write_char('[')?;
    list(f, values, one)?;
    f.write_char(']')
}

fn list<T>(
    f: &mut Formatter<'_>,
    items: &[T],
    one: impl Fn(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        one(f, item)?;
    }
    Ok(())
}

fn float(f: &mut Formatter<'_>, x: f32) -> fmt::Result {
    if x.is_nan() {
        return f.write_str("nan");
    }
    if x.is_infinite() || x == 0.0 || (1e-3..1e7).contains(&x.abs()) {
        // Rust prints the shortest decimal that reads back as the same f32.
        return write!(f, "{x}");
    }
    let bits = x.to_bits();
    let sign = if bits >> 31 == 1 { "-" } else { "" };
    let exponent = (bits >> 23 & 0xff) as i32;
    let mantissa = bits & 0x7f_ffff;
    let (lead, exponent) = if exponent == 0 { (0, -126) } else { (1, exponent - 127) };
    // 23 bits fill six hex digits after one shift; trailing zeros are noise.
    let digits = format!("{:06x}", mantissa << 1);
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    write!(f, "{sign}0x{lead}{point}{digits}p{exponent:+}")
}

/// A string with the escapes that the parser undoes.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}
