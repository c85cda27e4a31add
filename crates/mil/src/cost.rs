//! What a function costs, counted from its text: no chip, no time.

use crate::ops::{Call, Kind, Work};
use crate::program::{Data, Function, Op};

/// Counts of one function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add is two.
    pub flops: u64,
    /// Of these, in matrix products and convolutions.
    pub mac_flops: u64,
    /// Dense bytes of the inputs.
    pub input_bytes: u64,
    /// Dense bytes of the outputs.
    pub output_bytes: u64,
    /// Bytes of the constants that are computed with.
    pub weight_bytes: u64,
    /// Statements that are no constants.
    pub ops: u64,
    /// Operations on the longest path from an input to an output.
    pub depth: u64,
    /// Bytes of inputs, outputs and the largest intermediate, at once.
    pub working_set_bytes: u64,
}

/// Counts a function whose types were verified.
pub fn cost(function: &Function) -> Cost {
    let bytes = |ids: &[crate::program::ValueId]| -> u64 {
        ids.iter().map(|&id| function.value(id).ty.bytes() as u64).fold(0, u64::saturating_add)
    };
    let mut cost = Cost {
        input_bytes: bytes(function.params()),
        output_bytes: bytes(function.outputs()),
        ..Cost::default()
    };
    let mut depth = vec![0u64; function.values().len()];
    let mut largest = 0u64;
    for op in function.ops() {
        if let Some(literal) = op.constant() {
            if matches!(literal.data, Data::Blob { .. }) {
                cost.weight_bytes = cost.weight_bytes.saturating_add(literal.ty.bytes() as u64);
            }
            continue;
        }
        cost.ops += 1;
        let below = op.operands().map(|id| depth[id.index()]).max().unwrap_or(0);
        for &id in &op.results {
            depth[id.index()] = below + 1;
            largest = largest.max(function.value(id).ty.bytes() as u64);
        }
        let flops = flops(function, op);
        cost.flops = cost.flops.saturating_add(flops);
        if matches!(op.op.def().map(|d| d.work), Some(Work::Count(_))) {
            cost.mac_flops = cost.mac_flops.saturating_add(flops);
        }
    }
    cost.depth = function.outputs().iter().map(|id| depth[id.index()]).max().unwrap_or(0);
    cost.working_set_bytes = cost.input_bytes.saturating_add(cost.output_bytes).saturating_add(largest);
    cost
}

/// Floating-point operations of one statement.
pub fn flops(function: &Function, op: &Op) -> u64 {
    let Some(def) = op.op.def() else { return 0 };
    let call = Call { function, op };
    match def.work {
        Work::None => 0,
        Work::PerResult(n) => n.saturating_mul(call.result(0).shape.elements() as u64),
        Work::PerInput(n) => {
            let first = def.params.iter().find(|p| p.kind == Kind::Tensor).and_then(|p| call.opt_ty(p.name));
            n.saturating_mul(first.map_or(0, |ty| ty.shape.elements() as u64))
        }
        Work::Count(count) => count(&call),
    }
}
