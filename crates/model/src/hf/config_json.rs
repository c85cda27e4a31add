//! `config.json` to [`ModelConfig`] and back.
//!
//! Two spellings are in use: `torch_dtype`, `rope_theta` and `rope_scaling` until transformers 4,
//! `dtype` and `rope_parameters` since 5. Both are read, and both are written, so that old readers
//! (llama.cpp's converter, mlx-lm) and new ones find what they look for. Where a field is absent, the
//! family's default in transformers holds.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Export, SpecialTokens};
use crate::error::shorten;
use crate::{ConfigError, FileError, Llama3Scaling, ModelConfig, Rope, TokenId};

/// A model family of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// No biases, no norm over heads.
    Llama,
    /// Biases on queries, keys and values.
    Qwen2,
    /// Norms over the heads of queries and keys.
    Qwen3,
    /// Llama with a factor on what blocks add to the residual stream; its other factors must be 1.
    Granite,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Granite];

    /// The family whose block is the one of `config`.
    pub fn of(config: &ModelConfig) -> Self {
        match (config.qkv_bias, config.qk_norm) {
            (true, _) => Self::Qwen2,
            (_, true) => Self::Qwen3,
            _ if config.residual_scale != 1.0 => Self::Granite,
            _ => Self::Llama,
        }
    }

    /// `model_type` in the file.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Granite => "granite",
        }
    }

    /// The class that loads it.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Granite => "GraniteForCausalLM",
        }
    }
}

/// Reads the text of a `config.json`; `path` is for messages.
pub fn parse_config(path: &Path, text: &[u8]) -> Result<(ModelConfig, SpecialTokens), FileError> {
    let map: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| FileError::json(path, 0, text, &e))?;
    let f = Fields { path, prefix: "", map: &map };
    let family = family(&f)?;
    refuse_other_mathematics(&f, family)?;

    let (dim, heads) = (f.whole("hidden_size")?, f.whole("num_attention_heads")?);
    let (default_kv_heads, default_seq) = match family {
        Family::Llama | Family::Granite => (heads, 2048),
        Family::Qwen2 | Family::Qwen3 => (32, 32768),
    };
    let kv_heads = match f.map.get("num_key_value_heads") {
        Some(Value::Null) => heads,
        None => default_kv_heads,
        Some(_) => f.whole("num_key_value_heads")?,
    };
    let head_dim = head_dim(&f, family, dim, heads)?;
    let residual_scale = match family {
        Family::Granite => residual_scale(&f, head_dim)?,
        _ => 1.0,
    };
    let config = ModelConfig {
        dim,
        hidden: f.whole("intermediate_size")?,
        layers: f.whole("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim,
        vocab: f.whole("vocab_size")?,
        max_seq: f.optional_whole("max_position_embeddings")?.unwrap_or(default_seq),
        norm_eps: f.optional_number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope: rope(&f)?,
        tied: f.optional_bool("tie_word_embeddings")?.unwrap_or(false),
        qk_norm: family == Family::Qwen3,
        qkv_bias: family == Family::Qwen2,
        residual_scale,
    };
    config.validate().map_err(|e| in_their_words(path, e))?;
    let tokens = SpecialTokens {
        bos: f.token("bos_token_id", config.vocab)?,
        eos: f.tokens("eos_token_id", config.vocab)?,
    };
    Ok((config, tokens))
}

/// Adds the tokens of a `generation_config.json` to those of `config.json`.
pub(super) fn merge_generation_config(
    path: &Path,
    text: &[u8],
    vocab: usize,
    tokens: &mut SpecialTokens,
) -> Result<(), FileError> {
    let map: Map<String, Value> =
        serde_json::from_slice(text).map_err(|e| FileError::json(path, 0, text, &e))?;
    let f = Fields { path, prefix: "", map: &map };
    tokens.bos = tokens.bos.or(f.token("bos_token_id", vocab)?);
    for token in f.tokens("eos_token_id", vocab)? {
        if !tokens.eos.contains(&token) {
            tokens.eos.push(token);
        }
    }
    Ok(())
}

/// Whether a model of this shape can be written: it is valid, and transformers would load it.
pub(super) fn check(path: &Path, config: &ModelConfig) -> Result<(), FileError> {
    config.validate().map_err(|e| in_their_words(path, e))?;
    let family = Family::of(config);
    if config.residual_scale != 1.0 && family != Family::Granite {
        return Err(FileError::Config {
            path: path.to_owned(),
            field: "residual_multiplier".into(),
            got: config.residual_scale.to_string(),
            wanted: format!("1: transformers has no {} with it", family.architecture()),
        });
    }
    if family == Family::Llama && !config.dim.is_multiple_of(config.heads) {
        return Err(FileError::Config {
            path: path.to_owned(),
            field: "hidden_size".into(),
            got: config.dim.to_string(),
            wanted: format!(
                "a multiple of `num_attention_heads` = {}: transformers loads no other Llama",
                config.heads
            ),
        });
    }
    Ok(())
}

/// The text of `config.json`. Fails for a shape that transformers would refuse to load.
pub(super) fn config_text(path: &Path, config: &ModelConfig, export: &Export) -> Result<Vec<u8>, FileError> {
    check(path, config)?;
    let family = Family::of(config);
    let theta = config.rope.theta;
    let (scaling, parameters) = match config.rope.scaling {
        None => (Value::Null, json!({ "rope_type": "default", "rope_theta": theta })),
        Some(s) => {
            let scaling = json!({
                "rope_type": "llama3",
                "factor": s.factor,
                "low_freq_factor": s.low_freq_factor,
                "high_freq_factor": s.high_freq_factor,
                "original_max_position_embeddings": s.original_max_seq,
            });
            let mut parameters = scaling.clone();
            parameters["rope_theta"] = json!(theta);
            (scaling, parameters)
        }
    };
    let mut file = json!({
        "architectures": [family.architecture()],
        "model_type": family.model_type(),
        "hidden_size": config.dim,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.max_seq,
        "rms_norm_eps": shortest(config.norm_eps),
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rope_parameters": parameters,
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
        "dtype": export.float.torch_name(),
        "torch_dtype": export.float.torch_name(),
        "bos_token_id": bos_json(&export.tokens),
        "eos_token_id": eos_json(&export.tokens),
    });
    let own = match family {
        Family::Llama => json!({ "attention_bias": false, "mlp_bias": false }),
        Family::Granite => json!({
            "attention_bias": false,
            "mlp_bias": false,
            "residual_multiplier": shortest(config.residual_scale),
            "embedding_multiplier": 1.0,
            "logits_scaling": 1.0,
            "attention_multiplier": attention_multiplier(config.head_dim),
        }),
        Family::Qwen2 => json!({
            "use_sliding_window": false,
            "sliding_window": null,
            "max_window_layers": config.layers,
        }),
        Family::Qwen3 => json!({
            "attention_bias": false,
            "use_sliding_window": false,
            "sliding_window": null,
            "max_window_layers": config.layers,
        }),
    };
    if let (Value::Object(file), Value::Object(own)) = (&mut file, own) {
        file.extend(own);
    }
    Ok(pretty(&file))
}

/// The text of `generation_config.json`.
pub(super) fn generation_config_text(tokens: &SpecialTokens) -> Vec<u8> {
    pretty(&json!({
        "_from_model_config": true,
        "bos_token_id": bos_json(tokens),
        "eos_token_id": eos_json(tokens),
    }))
}

fn bos_json(tokens: &SpecialTokens) -> Value {
    tokens.bos.map_or(Value::Null, |t| json!(t.0))
}

/// One token as a number, several as a list: old readers know only the number.
fn eos_json(tokens: &SpecialTokens) -> Value {
    match tokens.eos[..] {
        [] => Value::Null,
        [one] => json!(one.0),
        ref several => several.iter().map(|t| t.0).collect(),
    }
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a JSON value has text");
    text.push(b'\n');
    text
}

/// 1e-5 as f32 becomes 1e-5 as f64, not 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("a number's text is a number")
}

fn family(f: &Fields) -> Result<Family, FileError> {
    let known = Family::ALL.map(Family::model_type).join(", ");
    match f.map.get("model_type") {
        Some(Value::String(name)) => match Family::ALL.into_iter().find(|c| c.model_type() == name) {
            Some(family) => Ok(family),
            None => Err(f.fault("model_type", &format!("one of {known}"))),
        },
        _ => Err(f.fault("model_type", &format!("one of {known}"))),
    }
}

/// Everything that makes another function of the same tensors.
fn refuse_other_mathematics(f: &Fields, family: Family) -> Result<(), FileError> {
    let absent = |v: &Value| v.is_null();
    let falsy = |v: &Value| v.is_null() || *v == Value::Bool(false);
    let one = |v: &Value| v.is_null() || v.as_f64() == Some(1.0);
    f.expect("hidden_act", "silu", |v| matches!(v.as_str(), Some("silu" | "swish")))?;
    f.expect("mlp_bias", "false", falsy)?;
    f.expect("pretraining_tp", "1", one)?;
    f.expect("partial_rotary_factor", "1", one)?;
    f.expect("rope_interleaved", "false", falsy)?;
    f.expect("quantization_config", "absent: quantised weights are not read", absent)?;
    f.expect("quantization", "absent: quantised weights are not read", absent)?;
    match family {
        Family::Granite => {
            f.expect("attention_bias", "false", falsy)?;
            f.expect("embedding_multiplier", "1", one)?;
            f.expect("logits_scaling", "1", one)?;
        }
        Family::Llama => {
            f.expect("attention_bias", "false", falsy)?;
            f.expect("sliding_window", "null", absent)?;
        }
        Family::Qwen2 => f.expect("use_sliding_window", "false", falsy)?,
        Family::Qwen3 => {
            f.expect("attention_bias", "false", falsy)?;
            f.expect("use_sliding_window", "false", falsy)?;
        }
    }
    f.expect("layer_types", "a list of `full_attention`", |v| {
        let full = |layers: &Vec<Value>| layers.iter().all(|l| l.as_str() == Some("full_attention"));
        v.is_null() || v.as_array().is_some_and(full)
    })
}

/// Granite's factor on the residual stream. Scores must be divided by `√head_dim`, as everywhere else.
fn residual_scale(f: &Fields, head_dim: usize) -> Result<f32, FileError> {
    let scores = attention_multiplier(head_dim);
    let got = f.optional_number("attention_multiplier")?.unwrap_or(1.0);
    if (got - scores).abs() > 1e-6 * scores {
        return Err(f.fault("attention_multiplier", &format!("1/√{head_dim} = {scores}")));
    }
    Ok(f.optional_number("residual_multiplier")?.unwrap_or(1.0) as f32)
}

fn attention_multiplier(head_dim: usize) -> f64 {
    1.0 / (head_dim as f64).sqrt()
}

fn head_dim(f: &Fields, family: Family, dim: usize, heads: usize) -> Result<usize, FileError> {
    match (f.map.get("head_dim"), family) {
        (None, Family::Qwen3) => return Ok(128),
        (None | Some(Value::Null), _) => {}
        (Some(_), _) => return f.whole("head_dim"),
    }
    if heads == 0 || !dim.is_multiple_of(heads) {
        return Err(f.fault(
            "num_attention_heads",
            &format!("a divisor of `hidden_size` = {dim}, or `head_dim` beside it"),
        ));
    }
    Ok(dim / heads)
}

/// `rope_scaling` wins over `rope_parameters`, and a theta inside over one outside, as in transformers.
fn rope(f: &Fields) -> Result<Rope, FileError> {
    let mut theta = f.optional_number("rope_theta")?.unwrap_or(10_000.0);
    let place = ["rope_scaling", "rope_parameters"].into_iter().find(|name| match f.map.get(*name) {
        None | Some(Value::Null) => false,
        Some(Value::Object(inner)) => !inner.is_empty(),
        Some(_) => true,
    });
    let Some(place) = place else { return Ok(Rope { theta, scaling: None }) };
    let Some(Value::Object(map)) = f.map.get(place) else {
        return Err(f.fault(place, "an object or null"));
    };
    let r = Fields { path: f.path, prefix: place, map };
    theta = r.optional_number("rope_theta")?.unwrap_or(theta);
    r.expect("partial_rotary_factor", "1", |v| v.is_null() || v.as_f64() == Some(1.0))?;
    let kind = ["rope_type", "type"].into_iter().find(|k| map.contains_key(*k));
    let scaling = match kind.and_then(|k| map[k].as_str()) {
        Some("default") => None,
        Some("llama3") => Some(Llama3Scaling {
            factor: r.number("factor")?,
            low_freq_factor: r.number("low_freq_factor")?,
            high_freq_factor: r.number("high_freq_factor")?,
            original_max_seq: r.whole("original_max_position_embeddings")?,
        }),
        // Only a theta: the plain rotation.
        None if kind.is_none() && map.keys().all(|k| k == "rope_theta" || k == "partial_rotary_factor") => {
            None
        }
        _ => return Err(r.fault(kind.unwrap_or("rope_type"), "`default` or `llama3`")),
    };
    Ok(Rope { theta, scaling })
}

/// A fault that `validate` found, under the name the file has for the field.
fn in_their_words(path: &Path, error: ConfigError) -> FileError {
    let field = match error.field {
        "dim" => "hidden_size",
        "hidden" => "intermediate_size",
        "layers" => "num_hidden_layers",
        "heads" => "num_attention_heads",
        "kv_heads" => "num_key_value_heads",
        "vocab" => "vocab_size",
        "max_seq" => "max_position_embeddings",
        "norm_eps" => "rms_norm_eps",
        "residual_scale" => "residual_multiplier",
        "rope.theta" => "rope_theta",
        "rope.scaling.factor" => "rope_scaling.factor",
        "rope.scaling.low_freq_factor" => "rope_scaling.low_freq_factor",
        "rope.scaling.high_freq_factor" => "rope_scaling.high_freq_factor",
        "rope.scaling.original_max_seq" => "rope_scaling.original_max_position_embeddings",
        same => same,
    };
    let wanted = error.wanted.replace("`heads`", "`num_attention_heads`");
    FileError::Config { path: path.to_owned(), field: field.into(), got: error.got, wanted }
}

/// Typed access to an object, with errors that name the field.
struct Fields<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn fault(&self, field: &str, wanted: &str) -> FileError {
        let got = match self.map.get(field) {
            None => "absent".into(),
            Some(Value::Object(_)) => "an object".into(),
            Some(Value::Array(list)) if list.len() > 8 => format!("a list of {}", list.len()),
            Some(value) => shorten(&value.to_string()),
        };
        let field = if self.prefix.is_empty() { field.into() } else { format!("{}.{field}", self.prefix) };
        FileError::Config { path: self.path.to_owned(), field, got, wanted: wanted.into() }
    }

    /// Checks a field that may be absent.
    fn expect(&self, field: &str, wanted: &str, fits: impl Fn(&Value) -> bool) -> Result<(), FileError> {
        match self.map.get(field) {
            Some(value) if !fits(value) => Err(self.fault(field, wanted)),
            _ => Ok(()),
        }
    }

    fn present(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    fn whole(&self, field: &str) -> Result<usize, FileError> {
        let value = self.map.get(field).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        value.ok_or_else(|| self.fault(field, "a whole number"))
    }

    fn optional_whole(&self, field: &str) -> Result<Option<usize>, FileError> {
        self.present(field).map(|_| self.whole(field)).transpose()
    }

    fn number(&self, field: &str) -> Result<f64, FileError> {
        self.map.get(field).and_then(Value::as_f64).ok_or_else(|| self.fault(field, "a number"))
    }

    fn optional_number(&self, field: &str) -> Result<Option<f64>, FileError> {
        self.present(field).map(|_| self.number(field)).transpose()
    }

    fn optional_bool(&self, field: &str) -> Result<Option<bool>, FileError> {
        self.present(field).map(|v| v.as_bool().ok_or_else(|| self.fault(field, "true or false"))).transpose()
    }

    fn token(&self, field: &str, vocab: usize) -> Result<Option<TokenId>, FileError> {
        Ok(self.tokens(field, vocab)?.first().copied())
    }

    /// Absent, null, one or a list.
    fn tokens(&self, field: &str, vocab: usize) -> Result<Vec<TokenId>, FileError> {
        let id = |v: &Value| match v.as_u64() {
            Some(id) if id < vocab as u64 => Ok(TokenId(id as u32)),
            _ => Err(self.fault(field, &format!("token ids below `vocab_size` = {vocab}"))),
        };
        match self.present(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(one) => Ok(vec![id(one)?]),
        }
    }
}
