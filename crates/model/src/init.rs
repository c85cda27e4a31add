//! First values of the parameters.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::{Group, ModelConfig, Param, Role};

const DEVIATION: f32 = 0.02;

/// Fills one parameter. Each has its own random stream, so a model with another head or another
/// number of layers starts with the same numbers elsewhere.
pub(crate) fn fill(config: &ModelConfig, param: &Param, seed: u64, out: &mut [f32]) {
    let deviation = match (param.group, param.role) {
        (Group::Gain, _) => return out.fill(1.0),
        (Group::Bias, _) => return out.fill(0.0),
        (_, Role::O | Role::Down) => DEVIATION / (2.0 * config.layers as f32).sqrt(),
        _ => DEVIATION,
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream(param));
    for pair in out.chunks_mut(2) {
        let (a, b) = normal_pair(&mut rng);
        pair[0] = a * deviation;
        if let Some(second) = pair.get_mut(1) {
            *second = b * deviation;
        }
    }
}

/// A stream number that depends on what the parameter is, not on its place in the table.
fn stream(param: &Param) -> u64 {
    (param.layer.map_or(0, |l| l as u64 + 1) << 8) | param.role as u64
}

/// Two independent standard normals (Box and Muller 1958).
fn normal_pair(rng: &mut ChaCha8Rng) -> (f32, f32) {
    // In (0, 1], so that the logarithm is finite.
    let radius = 1.0 - (rng.next_u32() >> 8) as f32 / (1 << 24) as f32;
    let angle = (rng.next_u32() >> 8) as f32 / (1 << 24) as f32 * std::f32::consts::TAU;
    let length = (-2.0 * radius.ln()).sqrt();
    (length * angle.cos(), length * angle.sin())
}

#[cfg(test)]
mod tests {
    use crate::{Group, ModelConfig, Role, Rope, Weights};

    fn config(layers: usize) -> ModelConfig {
        ModelConfig {
            dim: 64,
            hidden: 160,
            layers,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 500,
            max_seq: 32,
            norm_eps: 1e-5,
            rope: Rope { theta: 1e4, scaling: None },
            tied: true,
            qk_norm: true,
            qkv_bias: false,
            residual_scale: 1.0,
        }
    }

    #[test]
    fn has_the_stated_deviation_and_no_mean() {
        let weights = Weights::init(&config(2), 7);
        for p in weights.params() {
            let values = weights.get(p.id);
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
            let wanted = match p.role {
                Role::O | Role::Down => 0.01,
                _ => 0.02,
            };
            if p.group == Group::Gain {
                assert!(values.iter().all(|&v| v == 1.0));
            } else {
                assert!(mean.abs() < 4.0 * wanted / n.sqrt(), "{} mean {mean}", p.name);
                assert!((deviation / wanted - 1.0).abs() < 0.1, "{} deviation {deviation}", p.name);
            }
        }
    }

    #[test]
    fn depends_on_the_seed_and_not_on_the_depth() {
        let (shallow, deep) = (Weights::init(&config(1), 7), Weights::init(&config(2), 7));
        let q = |w: &Weights, layer| w.get(w.params().find(Role::Q, Some(layer)).unwrap()).to_vec();
        assert_eq!(q(&shallow, 0), q(&deep, 0));
        assert_ne!(q(&deep, 0), q(&deep, 1));
        assert_ne!(q(&shallow, 0), q(&Weights::init(&config(1), 8), 0));
    }
}
