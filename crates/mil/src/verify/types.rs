//! Declared types against inferred ones, and arguments against the op table.

use super::Report;
use crate::ops::{Call, Support};
use crate::program::{Data, Function, Literal, Op};

/// Reports under the rules `type`, `operand` and `epsilon`.
pub(crate) fn check(function: &Function, report: &mut Report<'_>) {
    for op in function.ops() {
        check_op(function, op, report);
    }
}

fn check_op(function: &Function, op: &Op, report: &mut Report<'_>) {
    let Some(first) = op.results.first() else { return };
    let name = &function.value(*first).name;
    for (_, literal) in &op.attrs {
        check_literal(name, literal, op, report);
    }
    // Unknown and refused operations have rules of their own.
    let Some(def) = op.op.def().filter(|d| !matches!(d.support, Support::Refused(_))) else { return };
    let call = Call { function, op };
    let faults = call.check_args(def);
    if !faults.is_empty() {
        for fault in faults {
            report.rule(fault.rule, name, op.pos, fault.message, fault.fix);
        }
        return;
    }
    let types = match (def.infer)(&call) {
        Ok(types) => types,
        Err(fault) => return report.rule(fault.rule, name, op.pos, fault.message, fault.fix),
    };
    if types.len() != op.results.len() {
        let message =
            format!("`{}` makes {} results, but {} are named", def.name, types.len(), op.results.len());
        return report.rule("type", name, op.pos, message, "name each result once".into());
    }
    for (&id, inferred) in op.results.iter().zip(types) {
        let value = function.value(id);
        if value.ty != inferred {
            let message = format!("declared as `{}`, but `{}` makes `{inferred}`", value.ty, def.name);
            report.rule("type", &value.name, value.pos, message, format!("declare it as `{inferred}`"));
        }
    }
}

fn check_literal(name: &str, literal: &Literal, op: &Op, report: &mut Report<'_>) {
    let Some(len) = literal.data.len() else { return };
    if len != literal.ty.shape.elements() {
        let message = format!("`{}` holds {len} elements", literal.ty);
        report.rule("type", name, op.pos, message, "list every element".into());
    }
    let (Data::Int(values), Some((low, high))) = (&literal.data, literal.ty.dtype.int_range()) else {
        return;
    };
    if let Some(v) = values.iter().find(|v| !(low..=high).contains(*v)) {
        let message = format!("{v} does not fit {}, which ends at {low} and {high}", literal.ty.dtype);
        report.rule("type", name, op.pos, message, "use a wider type or another value".into());
    }
}
