//! Hugging Face directories: every family, tied and untied, in one file and in shards; and every kind of
//! bad directory with its message.

mod common;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use common::config;
use model::hf::{self, Export, Reader, SpecialTokens};
use model::safetensors::{Entry, Float, TensorFile, write};
use model::{Llama3Scaling, ModelConfig, Rope, TokenId, Weights, from_fn};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

fn save(dir: &Path, config: &ModelConfig, export: &Export) -> Weights {
    let weights = Weights::init(config, 1);
    hf::save(dir, config, export, &mut from_fn(|id| Ok(Cow::Borrowed(weights.get(id))))).unwrap();
    weights
}

/// A directory of the small model.
fn saved() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &config(), &Export::default());
    dir
}

/// A directory of it in shards.
fn sharded() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &config(), &Export { shard_bytes: 4500, ..Export::default() });
    dir
}

/// Why a directory does not open: `CODE message`, without the path.
fn refusal(dir: &Path) -> String {
    let error = Reader::open(dir).unwrap_err();
    format!("{} {error}", error.code())
        .replace(&format!("{}/", dir.display()), "")
        .replace(&dir.display().to_string(), "DIR")
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// The refusal after setting one field of `config.json`.
fn refusal_with(field: &str, value: Value) -> String {
    let dir = saved();
    edit(&dir.path().join("config.json"), |c| c[field] = value);
    refusal(dir.path())
}

#[test]
fn reads_back_every_family_tied_and_untied_whole_and_in_shards() {
    let scaling =
        Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_seq: 16 };
    for (qk_norm, qkv_bias) in [(false, false), (true, false), (false, true)] {
        for tied in [true, false] {
            for (shard_bytes, scaling) in [(u64::MAX, None), (8000, Some(scaling)), (1, None)] {
                let rope = Rope { theta: 500_000.0, scaling };
                let config = ModelConfig { tied, qk_norm, qkv_bias, rope, head_dim: 6, ..config() };
                let dir = tempfile::tempdir().unwrap();
                let tokens = SpecialTokens { bos: Some(TokenId(1)), eos: vec![TokenId(2), TokenId(7)] };
                let export = Export { shard_bytes, tokens: tokens.clone(), ..Export::default() };
                let weights = save(dir.path(), &config, &export);
                let model = hf::load(dir.path()).unwrap();
                assert_eq!(model.config, config);
                assert_eq!(model.weights, weights);
                assert_eq!(model.tokens, tokens);
            }
        }
    }
}

#[test]
fn cuts_shards_at_the_limit_and_gives_a_larger_tensor_its_own() {
    let dir = sharded();
    let index: Value =
        serde_json::from_slice(&fs::read(dir.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    let config = config();
    assert_eq!(index["metadata"]["total_size"], 4 * config.param_count());
    assert_eq!(index["metadata"]["total_parameters"], config.param_count());
    let mut count = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            count += 1;
            let file = TensorFile::open(&path).unwrap();
            let bytes: usize = file.tensors().iter().map(|t| 4 * t.len()).sum();
            assert!(bytes <= 4500 || file.tensors().len() == 1);
            assert_eq!(file.metadata()["format"], "pt");
            for t in file.tensors() {
                assert_eq!(index["weight_map"][&t.name], path.file_name().unwrap().to_str().unwrap());
            }
        }
    }
    assert!(count > 1);
    assert!(dir.path().join(format!("model-{count:05}-of-{count:05}.safetensors")).exists());
}

#[test]
fn writes_the_fields_that_old_and_new_readers_look_for() {
    let scaling =
        Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_seq: 16 };
    let config = ModelConfig { rope: Rope { theta: 5e5, scaling: Some(scaling) }, ..config() };
    let dir = tempfile::tempdir().unwrap();
    let tokens = SpecialTokens { bos: None, eos: vec![TokenId(2)] };
    let files = vec![("tokenizer.json".to_owned(), b"{}".to_vec())];
    save(dir.path(), &config, &Export { tokens, files, float: Float::Bf16, ..Export::default() });
    let read =
        |name: &str| -> Value { serde_json::from_slice(&fs::read(dir.path().join(name)).unwrap()).unwrap() };
    let stretched = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    });
    let mut with_theta = stretched.clone();
    with_theta["rope_theta"] = json!(5e5);
    assert_eq!(
        read("config.json"),
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 50, "max_position_embeddings": 32,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "rope_scaling": stretched, "rope_parameters": with_theta,
            "tie_word_embeddings": true, "hidden_act": "silu", "attention_dropout": 0.0,
            "initializer_range": 0.02, "use_cache": true, "dtype": "bfloat16", "torch_dtype": "bfloat16",
            "bos_token_id": null, "eos_token_id": 2, "attention_bias": false, "mlp_bias": false,
        })
    );
    assert_eq!(
        read("generation_config.json"),
        json!({ "_from_model_config": true, "bos_token_id": null, "eos_token_id": 2 })
    );
    assert_eq!(fs::read(dir.path().join("tokenizer.json")).unwrap(), b"{}");
}

#[test]
fn reads_the_old_spelling_and_the_new_one_alike() {
    let parse =
        |config: &Value| hf::parse_config(Path::new("config.json"), config.to_string().as_bytes()).unwrap();
    // SmolLM2-135M as published, but for fields that say nothing about the shape.
    let old = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "bos_token_id": 0, "eos_token_id": 0,
        "hidden_act": "silu", "hidden_size": 576, "intermediate_size": 1536, "is_llama_config": true,
        "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 9,
        "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-5,
        "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100_000, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "vocab_size": 49152,
    });
    let (config, tokens) = parse(&old);
    assert_eq!(config.param_count(), 134_515_008);
    assert_eq!((config.head_dim, config.rope), (64, Rope { theta: 1e5, scaling: None }));
    assert_eq!(tokens, SpecialTokens { bos: Some(TokenId(0)), eos: vec![TokenId(0)] });

    let mut new = old.clone();
    for field in ["rope_scaling", "rope_theta", "torch_dtype"] {
        new.as_object_mut().unwrap().remove(field);
    }
    new["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 100_000 });
    new["dtype"] = json!("bfloat16");
    assert_eq!(parse(&new), (config, tokens));

    // Llama 3.2's scaling in both spellings.
    let llama3 = json!({
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    });
    let mut scaled = old.clone();
    scaled["rope_scaling"] = llama3.clone();
    let wanted =
        Llama3Scaling { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_seq: 8192 };
    assert_eq!(parse(&scaled).0.rope, Rope { theta: 1e5, scaling: Some(wanted) });
    new["rope_parameters"] = llama3;
    new["rope_parameters"]["rope_theta"] = json!(500_000.0);
    assert_eq!(parse(&new).0.rope, Rope { theta: 5e5, scaling: Some(wanted) });
}

#[test]
fn fills_absent_fields_as_transformers_does() {
    let parse =
        |config: Value| hf::parse_config(Path::new("config.json"), config.to_string().as_bytes()).unwrap().0;
    let least = |model_type: &str| {
        json!({
            "model_type": model_type, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1,
            "num_attention_heads": 64, "vocab_size": 100,
        })
    };
    let llama = parse(least("llama"));
    assert_eq!((llama.kv_heads, llama.head_dim, llama.max_seq), (64, 2, 2048));
    assert_eq!((llama.norm_eps, llama.rope.theta, llama.tied), (1e-6, 1e4, false));
    let qwen3 = parse(least("qwen3"));
    assert_eq!((qwen3.kv_heads, qwen3.head_dim, qwen3.max_seq, qwen3.qk_norm), (32, 128, 32768, true));
    let qwen2 = parse(least("qwen2"));
    assert_eq!((qwen2.kv_heads, qwen2.head_dim, qwen2.max_seq, qwen2.qkv_bias), (32, 2, 32768, true));
    let mut null = least("qwen2");
    null["num_key_value_heads"] = Value::Null;
    assert_eq!(parse(null).kv_heads, 64);
}

#[test]
fn the_stop_tokens_are_those_of_both_files() {
    let dir = saved();
    edit(&dir.path().join("config.json"), |c| c["eos_token_id"] = json!([2, 3]));
    edit(&dir.path().join("generation_config.json"), |c| c["eos_token_id"] = json!([3, 4]));
    let tokens = hf::load(dir.path()).unwrap().tokens;
    assert_eq!(tokens.eos, [2, 3, 4].map(TokenId));
    fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    assert_eq!(hf::load(dir.path()).unwrap().tokens.eos, [2, 3].map(TokenId));
}

#[test]
fn names_field_value_and_what_is_allowed() {
    for (field, value, wanted) in [
        (
            "model_type",
            json!("mamba"),
            r#"`model_type` is "mamba", wanted one of llama, qwen2, qwen3, granite"#,
        ),
        ("model_type", Value::Null, "`model_type` is null, wanted one of llama, qwen2, qwen3, granite"),
        ("hidden_size", json!(0), "`hidden_size` is 0, wanted 1 to 16777216"),
        ("hidden_size", json!(-16), "`hidden_size` is -16, wanted a whole number"),
        ("hidden_size", json!("16"), r#"`hidden_size` is "16", wanted a whole number"#),
        ("hidden_size", json!({ "a": 1 }), "`hidden_size` is an object, wanted a whole number"),
        (
            "num_attention_heads",
            json!(5),
            "`num_key_value_heads` is 2, wanted a divisor of `num_attention_heads` = 5",
        ),
        (
            "num_key_value_heads",
            json!(8),
            "`num_key_value_heads` is 8, wanted a divisor of `num_attention_heads` = 4",
        ),
        ("num_hidden_layers", json!(1_000_000_000), "`num_hidden_layers` is 1000000000, wanted 1 to 10000"),
        (
            "head_dim",
            json!(3),
            "`head_dim` is 3, wanted an even number, because rotary positions turn pairs of channels",
        ),
        ("rms_norm_eps", json!("NaN"), r#"`rms_norm_eps` is "NaN", wanted a number"#),
        ("rms_norm_eps", json!(-1.0), "`rms_norm_eps` is -1, wanted a number between 0 and 1, such as 1e-5"),
        (
            "vocab_size",
            json!(64),
            "`vocab_size` is such that `model.embed_tokens.weight` has the shape [64, 16], wanted the shape [50, 16] that it has in model.safetensors",
        ),
        (
            "intermediate_size",
            json!(32),
            "`intermediate_size` is such that `model.layers.0.mlp.gate_proj.weight` has the shape [32, 16], wanted the shape [24, 16] that it has in model.safetensors",
        ),
        ("tie_word_embeddings", json!(1), "`tie_word_embeddings` is 1, wanted true or false"),
        ("hidden_act", json!("gelu"), r#"`hidden_act` is "gelu", wanted silu"#),
        ("mlp_bias", json!(true), "`mlp_bias` is true, wanted false"),
        ("attention_bias", json!(true), "`attention_bias` is true, wanted false"),
        ("pretraining_tp", json!(2), "`pretraining_tp` is 2, wanted 1"),
        ("sliding_window", json!(4096), "`sliding_window` is 4096, wanted null"),
        (
            "layer_types",
            json!(["sliding_attention"]),
            r#"`layer_types` is ["sliding_attention"], wanted a list of `full_attention`"#,
        ),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor` is 0.5, wanted 1"),
        (
            "quantization",
            json!({ "bits": 4 }),
            "`quantization` is an object, wanted absent: quantised weights are not read",
        ),
        (
            "rope_scaling",
            json!({ "type": "linear", "factor": 2.0 }),
            r#"`rope_scaling.type` is "linear", wanted `default` or `llama3`"#,
        ),
        (
            "rope_scaling",
            json!({ "rope_type": "yarn", "factor": 4.0 }),
            r#"`rope_scaling.rope_type` is "yarn", wanted `default` or `llama3`"#,
        ),
        (
            "rope_scaling",
            json!({ "factor": 4.0 }),
            "`rope_scaling.rope_type` is absent, wanted `default` or `llama3`",
        ),
        (
            "rope_scaling",
            json!({ "rope_type": "llama3", "factor": 4.0 }),
            "`rope_scaling.low_freq_factor` is absent, wanted a number",
        ),
        (
            "rope_parameters",
            json!({ "rope_type": "dynamic" }),
            r#"`rope_parameters.rope_type` is "dynamic", wanted `default` or `llama3`"#,
        ),
        ("rope_parameters", json!([1]), "`rope_parameters` is [1], wanted an object or null"),
        (
            "eos_token_id",
            json!([2, 50]),
            "`eos_token_id` is [2,50], wanted token ids below `vocab_size` = 50",
        ),
        ("bos_token_id", json!(-1), "`bos_token_id` is -1, wanted token ids below `vocab_size` = 50"),
    ] {
        assert_eq!(refusal_with(field, value), format!("E3010 config.json: {wanted}"));
    }
    let dir = saved();
    edit(&dir.path().join("config.json"), |c| {
        c["rope_parameters"] = Value::Null;
        c["rope_theta"] = json!(0);
    });
    let wanted = "E3010 config.json: `rope_theta` is 0, wanted a number above 1, such as 10000";
    assert_eq!(refusal(dir.path()), wanted);
    for field in ["hidden_size", "vocab_size", "intermediate_size"] {
        edit(&dir.path().join("config.json"), |c| _ = c.as_object_mut().unwrap().remove(field));
        assert_eq!(
            refusal(dir.path()),
            format!("E3010 config.json: `{field}` is absent, wanted a whole number")
        );
        edit(&dir.path().join("config.json"), |c| c[field] = json!(16));
    }
}

#[test]
fn refuses_the_other_factors_of_granite() {
    let config = ModelConfig { residual_scale: 0.25, ..config() };
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &config, &Export::default());
    assert_eq!(hf::load(dir.path()).unwrap().config, config);
    let root = 1.0 / (config.head_dim as f64).sqrt();
    for (field, value, wanted) in [
        ("embedding_multiplier", json!(12.0), "`embedding_multiplier` is 12.0, wanted 1".to_owned()),
        ("logits_scaling", json!(8.0), "`logits_scaling` is 8.0, wanted 1".to_owned()),
        (
            "attention_multiplier",
            json!(0.015625),
            format!("`attention_multiplier` is 0.015625, wanted 1/√{} = {root}", config.head_dim),
        ),
        (
            "attention_multiplier",
            Value::Null,
            format!("`attention_multiplier` is null, wanted 1/√{} = {root}", config.head_dim),
        ),
        (
            "residual_multiplier",
            json!(-1),
            "`residual_multiplier` is -1, wanted a number above 0, such as 1".into(),
        ),
    ] {
        let before = fs::read(dir.path().join("config.json")).unwrap();
        edit(&dir.path().join("config.json"), |c| c[field] = value.clone());
        assert_eq!(refusal(dir.path()), format!("E3010 config.json: {wanted}"));
        fs::write(dir.path().join("config.json"), before).unwrap();
    }
}

#[test]
fn refuses_a_sliding_window_only_where_it_is_used() {
    let config = ModelConfig { qkv_bias: true, ..config() };
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &config, &Export::default());
    edit(&dir.path().join("config.json"), |c| c["sliding_window"] = json!(4096));
    hf::load(dir.path()).unwrap();
    edit(&dir.path().join("config.json"), |c| c["use_sliding_window"] = json!(true));
    assert_eq!(refusal(dir.path()), "E3010 config.json: `use_sliding_window` is true, wanted false");
}

#[test]
fn names_the_byte_where_a_file_is_no_json() {
    let dir = saved();
    fs::write(dir.path().join("config.json"), "{\n  \"hidden_size\": NaN\n}").unwrap();
    assert_eq!(refusal(dir.path()), "E3003 config.json: byte 19: expected value");
    fs::write(dir.path().join("config.json"), "[".repeat(100_000)).unwrap();
    assert_eq!(refusal(dir.path()), "E3003 config.json: byte 0: invalid type: sequence, expected a map");
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert_eq!(refusal(dir.path()), "E3000 cannot open config.json: No such file or directory (os error 2)");
}

/// Writes `model.safetensors` again with other tensors.
fn rewrite(dir: &Path, names: impl Fn(&str) -> Vec<String>) {
    let path = dir.join("model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let mut entries = Vec::new();
    let mut values = Vec::new();
    for t in file.tensors() {
        for name in names(&t.name) {
            entries.push(Entry { name, float: Float::F32, shape: t.shape.clone() });
            values.push(file.read(t).unwrap());
        }
    }
    fs::remove_file(&path).unwrap();
    write(
        &path,
        &Default::default(),
        &entries,
        &mut from_fn(|i: usize| Ok(Cow::Borrowed(values[i].as_slice()))),
    )
    .unwrap();
}

#[test]
fn lists_missing_and_unexpected_tensors_with_the_nearest_names() {
    let dir = saved();
    rewrite(dir.path(), |name| vec![name.replace("0.mlp.gate_proj", "0.mlp.gate_prj")]);
    assert_eq!(
        refusal(dir.path()),
        "E3006 model.safetensors: missing `model.layers.0.mlp.gate_proj.weight` (nearest: \
         `model.layers.0.mlp.gate_prj.weight`); unexpected `model.layers.0.mlp.gate_prj.weight`"
    );
    let dir = saved();
    rewrite(dir.path(), |name| match name {
        "model.norm.weight" => vec![name.into(), "score.weight".into(), "model.norm.bias".into()],
        _ => vec![name.into()],
    });
    assert_eq!(
        refusal(dir.path()),
        "E3006 model.safetensors: unexpected `model.norm.bias` (nearest: `model.norm.weight`), `score.weight`"
    );
    let dir = saved();
    rewrite(dir.path(), |name| vec![name.replace("model.", "transformer.")]);
    let refusal = refusal(dir.path());
    assert!(refusal.contains(" and 16 more; unexpected "), "{refusal}");
}

#[test]
fn passes_over_copies_of_what_is_known() {
    let dir = saved();
    rewrite(dir.path(), |name| match name {
        "model.embed_tokens.weight" => vec![name.into(), "lm_head.weight".into()],
        "model.norm.weight" => vec![name.into(), "model.layers.0.self_attn.rotary_emb.inv_freq".into()],
        _ => vec![name.into()],
    });
    assert_eq!(hf::load(dir.path()).unwrap().weights, Weights::init(&config(), 1));
    edit(&dir.path().join("config.json"), |c| c["tie_word_embeddings"] = json!(false));
    hf::load(dir.path()).unwrap();
}

#[test]
fn an_untied_model_needs_its_head() {
    let dir = saved();
    edit(&dir.path().join("config.json"), |c| c["tie_word_embeddings"] = json!(false));
    assert_eq!(refusal(dir.path()), "E3006 model.safetensors: missing `lm_head.weight`");
}

#[test]
fn refuses_an_index_that_does_not_fit_its_shards() {
    let shard = "model-00002-of-00005.safetensors";
    let index = "model.safetensors.index.json";
    let norm = "model.norm.weight";
    let with = |change: fn(&mut Value)| {
        let dir = sharded();
        edit(&dir.path().join(index), change);
        refusal(dir.path())
    };
    let dir = sharded();
    assert!(dir.path().join(shard).exists());
    fs::remove_file(dir.path().join(shard)).unwrap();
    assert_eq!(refusal(dir.path()), format!("E3006 {shard}: listed in {index} but absent"));

    for (name, reason) in [
        ("../../etc/x", "wanted a file name without `/`, `\\` or `:`"),
        ("/etc/passwd", "wanted a file name without `/`, `\\` or `:`"),
        ("..\\x", "wanted a file name without `/`, `\\` or `:`"),
        ("..", "wanted a file name that does not begin with a dot"),
        ("", "wanted 1 to 255 bytes"),
    ] {
        let dir = sharded();
        edit(&dir.path().join(index), |i| i["weight_map"][norm] = json!(name));
        assert_eq!(refusal(dir.path()), format!("E3007 {index}: unsafe path `{name}`: {reason}"));
    }

    let wrong = with(|i| i["weight_map"]["model.norm.weight"] = json!("model-00001-of-00005.safetensors"));
    assert_eq!(wrong, format!("E3006 model-00001-of-00005.safetensors: missing `{norm}`"));
    let left = with(|i| _ = i["weight_map"].as_object_mut().unwrap().remove("model.norm.weight"));
    assert!(
        left.starts_with("E3006 model-00005-of-00005.safetensors: unexpected `model.norm.weight`"),
        "{left}"
    );
    assert_eq!(with(|i| *i = json!({})), format!("E3003 {index}: byte 1: missing field `weight_map`"));
    assert_eq!(
        with(|i| i["weight_map"] = json!([])),
        format!(
            "E3003 {index}: byte 69: invalid type: sequence, expected an object from tensor names to file names"
        )
    );
    fs::write(dir.path().join(index), r#"{"weight_map":{"a":"x","a":"y"}}"#).unwrap();
    assert_eq!(refusal(dir.path()), format!("E3003 {index}: byte 30: duplicate key `a`"));
}

#[test]
fn a_loop_of_links_among_the_shards_ends() {
    let dir = sharded();
    let shard = dir.path().join("model-00002-of-00005.safetensors");
    fs::remove_file(&shard).unwrap();
    std::os::unix::fs::symlink(&shard, &shard).unwrap();
    let wanted = "E3007 model-00002-of-00005.safetensors: unsafe path `model-00002-of-00005.safetensors`: a loop of symbolic links";
    assert_eq!(refusal(dir.path()), wanted);
}

#[test]
fn follows_links_as_they_are_in_the_hub_cache() {
    let (blobs, snapshot) = (saved(), tempfile::tempdir().unwrap());
    for entry in fs::read_dir(blobs.path()).unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, snapshot.path().join(path.file_name().unwrap())).unwrap();
    }
    hf::load(snapshot.path()).unwrap();
}

#[test]
fn writes_neither_into_a_file_nor_among_other_files() {
    let try_save = |dir: &Path, export: &Export| {
        let error = hf::save(dir, &config(), export, &mut from_fn(|_| unreachable!())).unwrap_err();
        format!("{} {error}", error.code()).replace(&dir.display().to_string(), "DIR")
    };
    let dir = saved();
    assert_eq!(
        try_save(dir.path(), &Export::default()),
        "E3085 DIR holds files already, wanted a new or empty directory"
    );
    assert_eq!(
        try_save(&dir.path().join("config.json"), &Export::default()),
        "E3085 DIR is a file, wanted a directory"
    );
    let files = vec![("../tokenizer.json".into(), Vec::new())];
    assert_eq!(
        try_save(&dir.path().join("new"), &Export { files, ..Export::default() }),
        "E3007 DIR: unsafe path `../tokenizer.json`: wanted a file name without `/`, `\\` or `:`"
    );
}

#[test]
fn says_before_training_that_a_shape_cannot_be_exported() {
    hf::check(&config()).unwrap();
    let error = hf::check(&ModelConfig { dim: 18, ..config() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.json: `hidden_size` is 18, wanted a multiple of `num_attention_heads` = 4: transformers loads no \
         other Llama"
    );
    hf::check(&ModelConfig { dim: 18, qk_norm: true, ..config() }).unwrap();
    hf::check(&ModelConfig { layers: 0, ..config() }).unwrap_err();
    hf::check(&ModelConfig { residual_scale: 0.5, ..config() }).unwrap();
    let error = hf::check(&ModelConfig { residual_scale: 0.5, qk_norm: true, ..config() }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "config.json: `residual_multiplier` is 0.5, wanted 1: transformers has no Qwen3ForCausalLM with it"
    );
}

#[test]
fn loads_what_transformers_wrote() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/golden/models");
    let mut families = Vec::new();
    for case in fs::read_dir(models).unwrap() {
        let model = hf::load(&case.unwrap().path()).unwrap();
        for p in model.weights.params() {
            let values = model.weights.get(p.id);
            assert!(values.iter().any(|&v| v != 0.0) && values.iter().all(|v| v.is_finite()), "{}", p.name);
        }
        families.push(hf::Family::of(&model.config).model_type());
    }
    families.sort_unstable();
    families.dedup();
    assert_eq!(families, ["granite", "llama", "qwen2", "qwen3"]);
}

proptest! {
    #[test]
    fn a_shape_survives_its_config_json(
        (heads, group, head_dim, dim) in (1usize..5, 1usize..4, 1usize..40, 1usize..40),
        (hidden, layers, vocab, max_seq) in (1usize..99, 1usize..3, 3usize..99, 1usize..99999),
        (norm_eps, theta, residual_scale) in (1e-12f32..0.1, 1.5f64..1e9, 1e-3f32..2.0),
        scaling in prop::option::of((1.0f64..64.0, 0.1f64..2.0, 2.1f64..9.0, 1usize..99999)),
        (tied, family) in (any::<bool>(), 0..4),
    ) {
        let scaling = scaling.map(|(factor, low_freq_factor, high_freq_factor, original_max_seq)| {
            Llama3Scaling { factor, low_freq_factor, high_freq_factor, original_max_seq }
        });
        let config = ModelConfig {
            dim: dim * heads * group, hidden, layers, heads: heads * group, kv_heads: heads, head_dim: 2 * head_dim,
            vocab, max_seq, norm_eps, rope: Rope { theta, scaling }, tied,
            qk_norm: family == 1, qkv_bias: family == 2,
            residual_scale: if family == 3 { residual_scale } else { 1.0 },
        };
        let dir = tempfile::tempdir().unwrap();
        hf::save(dir.path(), &config, &Export { float: Float::Bf16, ..Export::default() }, &mut from_fn(|id| {
            let params = model::Params::new(&config);
            Ok(Cow::Owned(vec![0.5; params.get(id).len()]))
        })).unwrap();
        let reader = Reader::open(dir.path()).unwrap();
        prop_assert_eq!(reader.config(), &config);
        for p in reader.params() {
            prop_assert!(reader.read(p.id).unwrap().iter().all(|&v| v == 0.5));
        }
    }
}
