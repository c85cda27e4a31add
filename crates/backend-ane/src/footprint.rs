//! The memory of a trainer, counted by the code that takes it.

use backend::{Footprint, Result};
use backend_cpu::{Cpu, count};
use mil::verify::Limits;
use model::ModelConfig;

use crate::ane::Buffers;
use crate::error::AneError;
use crate::plan::Plan;
use crate::programs::surface_bytes;

/// Bytes that training takes on the host and in surfaces, on a chip of these limits; nothing is taken. What
/// Apple's framework, or the evaluator of the virtual device, keeps for itself is not known here.
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

#[cfg(test)]
mod tests {
    use ane_bridge::Chip;

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
