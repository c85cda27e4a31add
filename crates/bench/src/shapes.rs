//! Shapes of published models, for benchmarks of decoding: their weights are not needed for a time.

use model::{ModelConfig, Rope};

/// The shapes by name. Sources: the models' `config.json` on the Hugging Face hub.
pub fn find(name: &str) -> Option<ModelConfig> {
    let base = ModelConfig {
        vocab: 128_256,
        max_seq: 32_768,
        rope: Rope { theta: 500_000.0, scaling: None },
        tied: false,
        ..ModelConfig::default()
    };
    match name {
        "llama-1b" => Some(ModelConfig {
            dim: 2048,
            hidden: 8192,
            layers: 16,
            heads: 32,
            kv_heads: 8,
            head_dim: 64,
            tied: true,
            ..base
        }),
        // TinyLlama/TinyLlama-1.1B.
        "llama-1.1b" => Some(ModelConfig {
            dim: 2048,
            hidden: 5632,
            layers: 22,
            heads: 32,
            kv_heads: 4,
            head_dim: 64,
            vocab: 32_000,
            max_seq: 2048,
            rope: Rope { theta: 10_000.0, scaling: None },
            ..base
        }),
        "smollm-135m" => Some(ModelConfig {
            dim: 576,
            hidden: 1536,
            layers: 30,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            vocab: 49_152,
            max_seq: 2048,
            rope: Rope { theta: 10_000.0, scaling: None },
            tied: true,
            ..base
        }),
        "llama-8b" => Some(ModelConfig {
            dim: 4096,
            hidden: 14_336,
            layers: 32,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            ..base
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_have_as_many_parameters_as_published() {
        assert_eq!(find("llama-1b").unwrap().param_count(), 1_235_814_400);
        assert_eq!(find("llama-8b").unwrap().param_count(), 8_030_261_248);
        assert_eq!(find("llama-1.1b").unwrap().param_count(), 1_100_048_384);
        assert_eq!(find("smollm-135m").unwrap().param_count(), 134_515_008);
        assert_eq!(find("llama-9b"), None);
    }
}
