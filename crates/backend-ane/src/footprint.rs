//! The memory of a trainer, counted by the code that takes it.

use ane_bridge::{Chip, CompileError};
use backend::{Footprint, Result};
use backend_cpu::{Cpu, count};
use mil::eval::Rows;
use mil::verify::Limits;
use mil::{Program, verify};
use model::ModelConfig;

use crate::ane::Buffers;
use crate::error::AneError;
use crate::plan::Plan;
use crate::programs::surface_bytes;

/// Bytes that training takes on the host and in surfaces, on a chip of these limits; nothing is taken. What
/// Apple's framework keeps for itself is not known here; for the virtual device, see [`evaluator_bytes`].
///
/// # Errors
/// As [`crate::Ane::new`], but for want of memory.
pub fn footprint(config: &ModelConfig, plan: Plan, limits: &Limits, muon: bool) -> Result<Footprint> {
    let mut found = Cpu::footprint(config, plan.on_host(), muon)?;
    let (plan, dims) = plan.of_model(config, limits).map_err(AneError::Plan)?;
    let (buffers, counted) = count(|| Buffers::new(config, &plan));
    buffers?;
    found.extend(&counted);
    let [weights, rest] = surface_bytes(&plan, &dims, config.layers);
    found.add("surfaces of weights", weights);
    found.add("surfaces of activations", rest);
    Ok(found)
}

/// Bytes that the virtual device keeps for itself in training: values and constants of every program, in its
/// evaluator and as verified.
///
/// # Errors
/// As [`crate::Ane::new`], and for a program that its evaluator does not take.
pub fn evaluator_bytes(config: &ModelConfig, plan: Plan, chip: &Chip) -> Result<u64> {
    let (plan, dims) = plan.of_model(config, &chip.limits()).map_err(AneError::Plan)?;
    let mut bytes = 0;
    for kernel in plan.kernels() {
        let program = kernel.program(&plan.dims(&dims, kernel), &plan.choices);
        let verified =
            verify(program, &chip.target()).map_err(|faults| AneError::rules(kernel.name(), &faults))?;
        let settings =
            mil::eval::Settings { rows: Rows::Pitched, count_flushed: false, ..Default::default() };
        let failed = |source| CompileError::Plan { program: kernel.name().into(), source };
        let evaluated =
            mil::eval::Plan::new(&verified, settings).map_err(failed).map_err(AneError::Compile)?;
        bytes += evaluated.bytes() + constants(&verified);
    }
    Ok(bytes)
}

/// Bytes of the constants of a program.
fn constants(program: &Program) -> u64 {
    let ops = program.functions.iter().flat_map(|f| f.ops());
    ops.filter_map(|op| op.constant()).map(|literal| literal.ty.bytes() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A surface of weights holds each matrix in fp16, forward and backward in programs of their own.
    #[test]
    fn counts_two_copies_of_the_weights_in_fp16() {
        let config = ModelConfig {
            dim: 256,
            hidden: 512,
            heads: 4,
            kv_heads: 4,
            head_dim: 64,
            ..ModelConfig::default()
        };
        let of =
            |sequences| footprint(&config, Plan::new(64, sequences), &Chip::M4_MAX.limits(), false).unwrap();
        let (one, two) = (of(1), of(2));
        let block = 4 * 256 * 256 + 3 * 256 * 512;
        let copies = (2 * 2 * config.layers * block) as f64;
        let weights = one.of("surfaces of weights") as f64;
        assert!((1.0..1.4).contains(&(weights / copies)), "{weights} {copies}");
        assert_eq!(one.of("surfaces of weights"), two.of("surfaces of weights"));
        assert!(two.of("surfaces of activations") > one.of("surfaces of activations"));
        assert!(one.of("activations") > 0 && one.of("first moments") > 0);
        let long = footprint(&config, Plan::new(4096, 1), &Chip::M4_MAX.limits(), false).unwrap_err();
        assert!(format!("{:?}", long).contains("Sequence"), "{long:?}");
    }
}
