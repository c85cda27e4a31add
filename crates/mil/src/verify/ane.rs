//! The ANE's rules, one item each.

use super::Evidence::{Contested, Inferred, Measured};
use super::Severity::{Error, Warning};
use super::{Check, Context, Report, Rule, Target};
use crate::blob;
use crate::ops::{Call, Support};
use crate::program::{Arg, Data, Function, Literal, Op, Program, ValueId};
use crate::types::{DType, TensorType};

macro_rules! rules {
    ($($id:literal $severity:ident $evidence:ident $check:expr, $says:literal, $source:literal;)*) => {
        &[$(Rule { id: $id, says: $says, severity: $severity, evidence: $evidence, source: $source, check: $check }),*]
    };
}

/// Every rule, in the order of `docs/ane-rules.md`.
pub const RULES: &[Rule] = rules! {
    "version" Error Measured Check::Program(version),
        "the dialect is 1.0 or 1.3", "every program seen to compile has one of them";
    "empty" Error Measured Check::Program(empty),
        "a program has a function, a function an operation and an output", "ANEForge: an empty program crashes the compiler";
    "returned" Error Measured Check::Function(returned),
        "returned values are computed, and returned once", "luengnat/rustane, ane_constraints.md 18: else InvalidMILProgram";
    "type" Error Inferred Check::Types,
        "declared types equal inferred types", "coremltools 9.0 operation semantics";
    "operand" Error Measured Check::Types,
        "arguments have the names, kinds and element types of the op table", "luengnat/rustane, ane_constraints.md 16; coremltools 9.0";
    "epsilon" Error Measured Check::Types,
        "rsqrt, log, inverse and the norms name their epsilon", "ironmill op probes, M3 Pro macOS 15.4";
    "unknown-op" Error Inferred Check::Function(unknown_op),
        "every operation is in the op table", "coremltools 9.0 ios18 registry";
    "refused-op" Error Measured Check::Function(refused_op),
        "no operation that ANE compilers refuse", "ironmill op probes, M3 Pro macOS 15.4; ANEForge";
    "contested" Warning Contested Check::Function(contested),
        "operations on which reports disagree are avoided", "see docs/ane-rules.md, disagreements";
    "inline" Warning Contested Check::Function(inline),
        "arguments are named constants, not written in place", "refused by Orion and luengnat/rustane, accepted by ironmill and ANEForge";
    "literal" Error Measured Check::Function(literal),
        "fp16 tensors that are computed with come from a BLOBFILE; real_div takes none", "mil-hwx-compiler, 1018 compiles on H13 and H14 targets";
    "blob" Error Measured Check::Function(blobs),
        "BLOBFILEs exist, and their records have the type and size of the constant", "MILBlob reader strings in ANE compiler errors";
    "io-order" Error Measured Check::Function(io_order),
        "inputs and outputs are declared in byte order of their names", "Orion 3 and 13: six permutations tried; luengnat/rustane 10, 11";
    "pitch" Error Inferred Check::Function(pitch),
        "rows of inputs and outputs are multiples of 64 bytes", "ironmill RowStride; luengnat/rustane length sweep; mil-hwx-compiler strides";
    "surface" Error Measured Check::Function(surface),
        "a surface has rows times pitch bytes", "Orion 2, 4, 12: status 0x1d";
    "io-type" Error Measured Check::Function(io_type),
        "inputs are fp16, fp32 or bool, outputs fp16 or fp32", "ironmill, ane-runtime-behavior.md 2";
    "rank" Error Measured Check::Function(rank),
        "values have at most five axes", "ANEForge, capabilities.md";
    "extent" Error Measured Check::Function(extent),
        "axes stay inside the chip's extents, and no axis is empty", "ANEForge, cross-chip.md: 16384 to M3, 65536 from M4";
    "batch" Warning Contested Check::Function(batch),
        "inputs and outputs have batch 1", "all training kernels; ironmill compiled a batch of 2";
    "wide-conv" Error Measured Check::Function(wide_conv),
        "a convolution reads at most 16384 channels (a warning from M4)", "maderix/ANE, classifier backward with 32000 channels";
    "kernel-width" Error Measured Check::Function(kernel_width),
        "a convolution kernel is at most 13 (M1 to M3) or 15 wide", "ANEForge, cross-chip.md";
    "zero-mul" Error Measured Check::Function(zero_mul),
        "the result of a reduction is not multiplied by a constant 0", "ANEForge, op-quirks.md: ANECCompile failure";
    "root-after-reduce" Warning Contested Check::Function(root_after_reduce),
        "after a reduction, pow(x, -0.5) instead of rsqrt or sqrt", "whiskeypolitik/rustane: refused; ironmill: rsqrt compiles";
    "identity-output" Warning Contested Check::Function(identity_output),
        "an output is not made by identity", "Espresso: breaks several outputs; ncdrone/ane uses it on inputs";
    "single-op" Warning Measured Check::Function(single_op),
        "reshape, slice_by_index and tile are not alone in a program", "ironmill op probes";
    "working-set" Warning Measured Check::Function(working_set),
        "inputs, outputs and the largest intermediate fit 32 MB", "maderix/ANE sram_probe.m: a throughput knee, not a failure";
    "slow-channels" Warning Measured Check::Function(slow_channels),
        "fewer than 5120 channels per input", "whiskeypolitik/rustane: 4.7 times slower per layer than 4096";
    "finite" Error Inferred Check::Function(finite),
        "constants are finite and inside fp16's ±65504", "fp16 range; casts overflow to infinity (ironmill)";
    "slice-clamp" Warning Measured Check::Function(slice_clamp),
        "on M1 and M2, values sliced from inside the last axis stay below 4094", "ANEForge, cross-chip.md and rooflines";
    "compile-budget" Error Measured Check::Program(compile_budget),
        "a process compiles at most 100 programs", "maderix/ANE, Orion 5, ironmill: about 119, then silent failure; gone on macOS 26.3";
    "load-budget" Error Measured Check::Program(load_budget),
        "a process has at most 100 programs loaded", "ANEForge, dispatch.md: 110 to 128";
};

fn version(program: &Program, _: &Target, report: &mut Report<'_>) {
    let v = program.version;
    if !matches!((v.major, v.minor), (1, 0 | 3)) {
        report.at(
            "",
            Default::default(),
            format!("the dialect is {}.{}", v.major, v.minor),
            "write `program(1.3)`",
        );
    }
}

fn empty(program: &Program, _: &Target, report: &mut Report<'_>) {
    if program.functions.is_empty() {
        report.at("", Default::default(), "the program has no function", "add `func main<ios18>(…)`");
    }
    for f in &program.functions {
        if computed(f).next().is_none() {
            let message = format!("the function `{}` computes nothing", f.name);
            report.at("", f.pos(), message, "add an operation; an empty program crashes the compiler");
        } else if f.outputs().is_empty() {
            report.at("", f.pos(), format!("the function `{}` returns nothing", f.name), "return a value");
        }
    }
}

fn returned(c: &Context<'_>, report: &mut Report<'_>) {
    let outputs = c.function.outputs();
    for (i, &id) in outputs.iter().enumerate() {
        let value = c.function.value(id);
        let message = match c.function.def(id) {
            None => "is returned, but it is an input",
            Some(op) if op.op.as_str() == "const" => "is returned, but it is a constant",
            Some(_) if outputs[..i].contains(&id) => "is returned twice",
            Some(_) => continue,
        };
        report.at(&value.name, value.pos, message, "return each computed value once");
    }
}

fn unknown_op(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops().iter().filter(|op| op.op.def().is_none()) {
        report.at(
            first(c, op),
            op.pos,
            format!("there is no operation `{}`", op.op.as_str()),
            "see docs/mil.md for those there are",
        );
    }
}

fn refused_op(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops() {
        if let Some(Support::Refused(instead)) = op.op.def().map(|d| d.support) {
            report.at(first(c, op), op.pos, format!("ANE compilers refuse `{}`", op.op.as_str()), instead);
        }
    }
}

fn contested(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops() {
        let call = Call { function: c.function, op };
        if let Some(Support::Contested(reports)) = op.op.def().map(|d| d.support) {
            report.at(first(c, op), op.pos, format!("`{}` is contested", op.op.as_str()), reports);
        }
        if op.op.as_str() == "conv" && op.arg("bias").is_some() {
            report.at(
                first(c, op),
                op.pos,
                "the bias of a convolution is contested",
                "add it in an `add` of its own",
            );
        }
        if op.op.as_str() == "conv" && call.int("groups").is_some_and(|g| g != 1) {
            report.at(first(c, op), op.pos, "grouped convolutions are contested", "use one group");
        }
    }
}

fn inline(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops() {
        for (name, arg) in &op.args {
            if matches!(arg, Arg::Literal(_)) {
                report.at(
                    first(c, op),
                    op.pos,
                    format!("`{name}` is written in place"),
                    "name it with a `const`",
                );
            }
        }
    }
}

fn literal(c: &Context<'_>, report: &mut Report<'_>) {
    const BINARY: [&str; 8] = ["add", "sub", "mul", "real_div", "maximum", "minimum", "pow", "floor_div"];
    for op in c.function.ops() {
        let binary = BINARY.contains(&op.op.as_str());
        if !binary && !matches!(op.op.as_str(), "conv" | "matmul" | "linear") {
            continue;
        }
        let call = Call { function: c.function, op };
        for name in ["x", "y", "weight", "bias"] {
            let Some(constant) = call.literal(name).filter(|l| l.ty.dtype.is_float()) else { continue };
            match constant.data {
                Data::Blob { .. } if op.op.as_str() == "real_div" => report.at(
                    first(c, op),
                    op.pos,
                    format!("`{name}` of `real_div` is in a BLOBFILE"),
                    "multiply by the inverse instead",
                ),
                Data::Blob { .. } => {}
                _ if constant.ty.shape.rank() > 0 => report.at(
                    first(c, op),
                    op.pos,
                    format!("`{name}` is a tensor written in the text, which ANE compilers refuse there"),
                    "put it in a BLOBFILE, or use a scalar",
                ),
                _ => {}
            }
        }
    }
}

fn blobs(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops() {
        let in_args = op.args.iter().filter_map(|(_, a)| match a {
            Arg::Literal(l) => Some(l),
            _ => None,
        });
        for literal in op.attrs.iter().map(|(_, l)| l).chain(in_args) {
            if let Some((message, fix)) = blob_fault(c.program, literal) {
                report.at(first(c, op), op.pos, message, fix);
            }
        }
    }
}

fn blob_fault(program: &Program, literal: &Literal) -> Option<(String, String)> {
    let Data::Blob { path, offset } = &literal.data else { return None };
    if *offset < 64 || !offset.is_multiple_of(64) {
        let message = format!("the offset {offset} of `{path}` is no multiple of 64 from 64 on");
        return Some((message, "name the metadata record: 64 for the first tensor".into()));
    }
    let weights = program.weights.as_ref()?;
    let Some(file) = weights.get(path) else {
        return Some((
            format!("no weights are attached for `{path}`"),
            "attach the file under exactly this path".into(),
        ));
    };
    let record = match blob::read(file, *offset) {
        Ok(record) => record,
        Err(error) => {
            return Some((format!("`{path}` cannot be read: {error}"), "write the file again".into()));
        }
    };
    if record.dtype != literal.ty.dtype || record.data.len() != literal.ty.bytes() {
        let message = format!(
            "the record at {offset} of `{path}` has {} bytes of {}, but `{}` needs {}",
            record.data.len(),
            record.dtype,
            literal.ty,
            literal.ty.bytes(),
        );
        return Some((message, "check the offset and the declared type".into()));
    }
    None
}

fn io_order(c: &Context<'_>, report: &mut Report<'_>) {
    if c.target.any_order {
        return;
    }
    for (what, ids) in [("input", c.function.params()), ("output", c.function.outputs())] {
        for pair in ids.windows(2) {
            let (a, b) = (c.function.value(pair[0]), c.function.value(pair[1]));
            if a.name.as_bytes() > b.name.as_bytes() {
                report.at(
                    &b.name,
                    b.pos,
                    format!("the {what} `{}` is declared after `{}`, but binds before it", b.name, a.name),
                    format!("name them so that they sort as declared, such as `{}00_{}`", &what[..1], a.name),
                );
            }
        }
    }
}

fn pitch(c: &Context<'_>, report: &mut Report<'_>) {
    if c.target.padded_rows {
        return;
    }
    for (value, ty) in ports(c) {
        if ty.dtype.bits() > 0 && !ty.is_pitch_dense() {
            let width = ty.shape.last().copied().unwrap_or(1);
            let padded = ty.row_pitch() * 8 / ty.dtype.bits();
            report.at(
                value,
                position(c, value),
                format!(
                    "a row has {width} elements of {}, {} bytes, no multiple of 64",
                    ty.dtype,
                    width * ty.dtype.bits() / 8
                ),
                format!("pad the last axis to {padded}"),
            );
        }
    }
}

fn surface(c: &Context<'_>, report: &mut Report<'_>) {
    for (value, ty) in ports(c) {
        let need = ty.surface_bytes();
        if let Some(&bytes) = c.target.surfaces.get(value).filter(|&&bytes| bytes < need) {
            report.at(
                value,
                position(c, value),
                format!("its surface has {bytes} bytes, but `{ty}` takes {need}: status 0x1d"),
                format!("allocate at least {need} bytes"),
            );
        }
    }
}

fn io_type(c: &Context<'_>, report: &mut Report<'_>) {
    let inputs = c.function.params().iter().map(|&id| (id, true));
    for (id, input) in inputs.chain(c.function.outputs().iter().map(|&id| (id, false))) {
        let value = c.function.value(id);
        if !(value.ty.dtype.is_float() || (input && value.ty.dtype == DType::Bool)) {
            let what = if input { "an input" } else { "an output" };
            report.at(&value.name, value.pos, format!("{what} is {}", value.ty.dtype), "cast it to fp16");
        }
    }
}

fn rank(c: &Context<'_>, report: &mut Report<'_>) {
    for (_, value) in c.function.values().filter(|(_, v)| v.ty.shape.rank() > 5) {
        report.at(
            &value.name,
            value.pos,
            format!("`{}` has {} axes, over 5", value.ty, value.ty.shape.rank()),
            "merge axes with a reshape",
        );
    }
}

/// Elements of one value that no chip takes, whatever its axes: 32 GiB of fp16.
const MAX_ELEMENTS: usize = 1 << 34;

fn extent(c: &Context<'_>, report: &mut Report<'_>) {
    let limits = c.target.limits();
    for (_, value) in c.function.values() {
        let shape = &value.ty.shape;
        let channel_axis = if shape.rank() >= 3 { 1 } else { usize::MAX };
        for (axis, &dim) in shape.iter().enumerate() {
            let limit = if axis == channel_axis { limits.channels } else { limits.spatial };
            if dim == 0 || dim > limit {
                report.at(
                    &value.name,
                    value.pos,
                    format!(
                        "axis {axis} of {shape} has {dim} elements; {:?} takes 1 to {limit}",
                        c.target.family
                    ),
                    if dim == 0 {
                        "remove the empty axis"
                    } else {
                        "split the axis over several programs or outputs"
                    },
                );
            }
        }
        if shape.elements() > MAX_ELEMENTS {
            report.at(
                &value.name,
                value.pos,
                format!("`{}` has more than {MAX_ELEMENTS} elements", value.ty),
                "split it",
            );
        }
    }
}

fn batch(c: &Context<'_>, report: &mut Report<'_>) {
    for (value, ty) in ports(c) {
        if ty.shape.rank() == 4 && ty.shape[0] != 1 {
            report.at(
                value,
                position(c, value),
                format!("the batch of `{ty}` is {}", ty.shape[0]),
                "put the batch on another axis",
            );
        }
    }
}

fn wide_conv(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops().iter().filter(|op| op.op.as_str() == "conv") {
        let x = Call { function: c.function, op }.opt_ty("x").and_then(|x| x.shape.get(1).copied());
        if let Some(channels) = x.filter(|&n| n > 16_384) {
            let severity = if c.target.family >= super::Family::M4 { Warning } else { Error };
            let message = format!("the convolution reads {channels} channels, over 16384");
            report.with(severity, first(c, op), op.pos, message, "compute it on the CPU, or in parts");
        }
    }
}

fn kernel_width(c: &Context<'_>, report: &mut Report<'_>) {
    let limit = c.target.limits().kernel_width;
    for op in c.function.ops().iter().filter(|op| op.op.as_str() == "conv") {
        let weight = Call { function: c.function, op }.opt_ty("weight");
        let width = weight.filter(|w| w.shape.rank() >= 3).and_then(|w| w.shape.last().copied());
        if let Some(width) = width.filter(|&w| w > limit) {
            report.at(
                first(c, op),
                op.pos,
                format!("the kernel is {width} wide; {:?} takes {limit}", c.target.family),
                "lay it along the height, or split it",
            );
        }
    }
}

fn zero_mul(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops().iter().filter(|op| op.op.as_str() == "mul") {
        let call = Call { function: c.function, op };
        let zero = ["x", "y"].iter().any(|name| call.float(name) == Some(0.0));
        if zero && op.operands().any(|id| is_reduction(c.function, id)) {
            report.at(
                first(c, op),
                op.pos,
                "a reduction is multiplied by a constant 0",
                "leave the product out",
            );
        }
    }
}

fn root_after_reduce(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops().iter().filter(|op| matches!(op.op.as_str(), "rsqrt" | "sqrt")) {
        // Scaling or an epsilon between the two changes nothing.
        let behind = op.operands().any(|id| {
            is_reduction(c.function, id)
                || c.function.def(id).is_some_and(|def| {
                    matches!(def.op.as_str(), "add" | "mul")
                        && def.operands().any(|id| is_reduction(c.function, id))
                })
        });
        if behind {
            let message = format!("`{}` follows a reduction", op.op.as_str());
            report.at(first(c, op), op.pos, message, "write pow with the exponent -0.5 or 0.5");
        }
    }
}

fn identity_output(c: &Context<'_>, report: &mut Report<'_>) {
    for &id in c.function.outputs() {
        if c.function.def(id).is_some_and(|op| op.op.as_str() == "identity") {
            let value = c.function.value(id);
            report.at(&value.name, value.pos, "an output is made by `identity`", "return the operand itself");
        }
    }
}

fn single_op(c: &Context<'_>, report: &mut Report<'_>) {
    let mut ops = computed(c.function);
    if let (Some(op), None) = (ops.next(), ops.next())
        && matches!(op.op.as_str(), "reshape" | "slice_by_index" | "tile")
    {
        let message = format!("`{}` is the only operation", op.op.as_str());
        report.at(first(c, op), op.pos, message, "do it on the CPU, or together with its neighbours");
    }
}

/// On-chip memory where throughput drops, bytes.
const SRAM: u64 = 32 << 20;

fn working_set(c: &Context<'_>, report: &mut Report<'_>) {
    let bytes = crate::cost(c.function).working_set_bytes;
    if bytes > SRAM {
        report.at(
            "",
            c.function.pos(),
            format!("it touches {bytes} bytes at once, over {SRAM}"),
            "split it; expect 30 % less throughput",
        );
    }
}

fn slow_channels(c: &Context<'_>, report: &mut Report<'_>) {
    for &id in c.function.params() {
        let value = c.function.value(id);
        if value.ty.shape.rank() == 4 && value.ty.shape[1] >= 5120 {
            report.at(
                &value.name,
                value.pos,
                format!("{} channels run several times slower than 4096", value.ty.shape[1]),
                "shard the layer",
            );
        }
    }
}

fn finite(c: &Context<'_>, report: &mut Report<'_>) {
    for op in c.function.ops() {
        let in_args = op.args.iter().filter_map(|(_, a)| match a {
            Arg::Literal(l) => Some(l),
            _ => None,
        });
        for literal in op.attrs.iter().map(|(_, l)| l).chain(in_args) {
            if let Some((index, x)) = infinite(c.program, literal) {
                let message = format!("element {index} is {x}, but fp16 ends at ±65504");
                report.at(first(c, op), op.pos, message, "scale it; a mask wants -65504");
            }
        }
    }
}

/// The first element that fp16 does not hold as a finite number.
fn infinite(program: &Program, literal: &Literal) -> Option<(usize, f32)> {
    let bad = |x: f32| x.is_nan() || x.abs() > 65504.0;
    match &literal.data {
        Data::F16(v) => v.iter().map(|x| x.to_f32()).enumerate().find(|(_, x)| bad(*x)),
        Data::F32(v) => v.iter().copied().enumerate().find(|(_, x)| bad(*x)),
        Data::Blob { path, offset } if literal.ty.dtype == DType::Fp16 => {
            let record = blob::read(program.weights.as_ref()?.get(path)?, *offset).ok()?;
            let values = record.data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
            values.enumerate().find(|(_, x)| bad(*x))
        }
        _ => None,
    }
}

fn slice_clamp(c: &Context<'_>, report: &mut Report<'_>) {
    if !c.target.limits().slice_clamp {
        return;
    }
    for op in c.function.ops().iter().filter(|op| op.op.as_str().starts_with("slice_by")) {
        let begin = Call { function: c.function, op }.ints("begin").and_then(|b| b.last());
        if begin.is_some_and(|&b| b != 0) {
            let message = format!("{:?} turns values above 4094 into infinities here", c.target.family);
            report.at(first(c, op), op.pos, message, "keep packed values small, or put large ones first");
        }
    }
}

fn compile_budget(program: &Program, target: &Target, report: &mut Report<'_>) {
    if target.compiled >= Target::COMPILE_BUDGET {
        let pos = program.functions.first().map(Function::pos).unwrap_or_default();
        let message =
            format!("the process has compiled {} programs of {}", target.compiled, Target::COMPILE_BUDGET);
        report.at("", pos, message, "save a checkpoint and restart the process");
    }
}

fn load_budget(program: &Program, target: &Target, report: &mut Report<'_>) {
    if target.loaded >= Target::LOAD_BUDGET {
        let pos = program.functions.first().map(Function::pos).unwrap_or_default();
        let message = format!("the process has {} programs loaded of {}", target.loaded, Target::LOAD_BUDGET);
        report.at("", pos, message, "unload programs first");
    }
}

fn computed(function: &Function) -> impl Iterator<Item = &Op> {
    function.ops().iter().filter(|op| op.op.as_str() != "const")
}

fn first<'a>(c: &Context<'a>, op: &Op) -> &'a str {
    op.results.first().map_or("", |&id| c.function.value(id).name.as_str())
}

fn is_reduction(function: &Function, id: ValueId) -> bool {
    function.def(id).is_some_and(|op| op.op.as_str().starts_with("reduce_"))
}

fn ports<'a>(c: &Context<'a>) -> impl Iterator<Item = (&'a str, &'a TensorType)> {
    let function = c.function;
    function.params().iter().chain(function.outputs()).map(move |&id| {
        let value = function.value(id);
        (value.name.as_str(), &value.ty)
    })
}

fn position(c: &Context<'_>, name: &str) -> crate::program::Pos {
    c.function.find(name).map(|id| c.function.value(id).pos).unwrap_or_default()
}
