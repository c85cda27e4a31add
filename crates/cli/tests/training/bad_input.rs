//! Files that are not what they should be: the message and the exit code of each, in tables that are
//! reviewed as a whole. Nothing panics, takes two seconds, or takes 64 MB beyond the length of its files.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::hf::{self, Export};
use model::{ModelConfig, SplitPattern, Tokenizer, Weights, from_fn};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::support;

/// What a command may take beyond the length of its files: 64 MB, and what it takes without any.
const MEMORY: u64 = (64 << 20) + (32 << 20);
const TIME: Duration = Duration::from_secs(10);

/// Runs with a limit of memory, and writes down what was answered.
fn row(table: &mut String, what: &str, lab: &Lab, file_bytes: u64, args: &[&str]) {
    let inner = lab.command(args);
    let mut command = Command::new("sh");
    let script = format!("ulimit -d {} && exec \"$0\" \"$@\"", (MEMORY + file_bytes) >> 10);
    command.args(["-c", &script]).arg(inner.get_program()).args(inner.get_args()).current_dir(lab.root());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let begin = Instant::now();
    let ran = support::run(&mut command);
    assert!(begin.elapsed() < TIME, "{what}: {:?}", begin.elapsed());
    assert!(!ran.err.contains("panicked"), "{what}: {}", ran.err);
    let last = ran.err.lines().last().unwrap_or("(nothing)");
    assert!(last.len() < 1000, "{what}: a message of {} bytes", last.len());
    let last = if ran.code == 0 { "(works)".into() } else { lab.tidy(last) };
    // A temporary name holds the number of the process.
    writeln!(table, "{what}\n    {} {last}", ran.code).unwrap();
}

/// Lines that no change of the built-in stories changes, for the tables name places in them.
fn text_of(lines: usize) -> String {
    const LINES: [&str; 5] = [
        "Five quacking zephyrs jolt my wax bed.",
        "The cat sat on the mat and looked at the hat.",
        "How vexingly quick daft zebras jump!",
        "One day the little bird flew over the garden wall.",
        "Pack my box with five dozen liquor jugs.",
    ];
    (0..lines).map(|i| format!("{}\n", LINES[i % 5])).collect()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::train([text_of(40)], 300, SplitPattern::Gpt2).unwrap()
}

/// A sound model and its tokenizer, to be spoilt.
struct Models {
    lab: Lab,
    tokenizer: Tokenizer,
    table: String,
}

impl Models {
    fn new() -> Self {
        Self { lab: Lab::new(), tokenizer: tokenizer(), table: String::new() }
    }

    /// Spoils a fresh copy, then writes with it.
    fn case(&mut self, what: &str, spoil: impl FnOnce(&Path)) {
        self.shards(what, u64::MAX, spoil);
    }

    fn shards(&mut self, what: &str, shard_bytes: u64, spoil: impl FnOnce(&Path)) {
        let config = ModelConfig {
            dim: 16,
            hidden: 24,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            vocab: 300,
            max_seq: 32,
            ..ModelConfig::default()
        };
        let dir = self.lab.path("m");
        let _ = fs::remove_dir_all(&dir);
        let weights = Weights::init(&config, 1);
        let export = Export {
            files: vec![("tokenizer.json".into(), self.tokenizer.json().into())],
            shard_bytes,
            ..Export::default()
        };
        hf::save(&dir, &config, &export, &mut from_fn(|id| Ok(Cow::Borrowed(weights.get(id))))).unwrap();
        spoil(&dir);
        let bytes = |path: &Path| fs::metadata(path).map_or(0, |m| m.len());
        let files = fs::read_dir(&dir).unwrap().map(|e| bytes(&e.unwrap().path())).sum();
        row(&mut self.table, what, &self.lab, files, &["generate", "m", "-p", "The", "-n", "1"]);
    }

    /// The header of the tensors, changed as text.
    fn header(&mut self, what: &str, change: impl FnOnce(String) -> Vec<u8>) {
        self.case(what, |dir| {
            let path = dir.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header = change(String::from_utf8(bytes[8..end].to_vec()).unwrap().trim_end().to_owned());
            let length = (header.len() as u64).to_le_bytes();
            fs::write(&path, [&length[..], &header, &bytes[end..]].concat()).unwrap();
        });
    }

    /// One tensor of the header, changed.
    fn tensor(&mut self, what: &str, change: impl FnOnce(&mut Value)) {
        self.header(what, |text| {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            change(&mut value["model.norm.weight"]);
            value.to_string().into_bytes()
        });
    }

    fn json(&mut self, file: &str, what: &str, change: impl FnOnce(&mut Value)) {
        self.case(what, |dir| {
            let path = dir.join(file);
            let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            change(&mut value);
            fs::write(&path, value.to_string()).unwrap();
        });
    }

    fn config(&mut self, field: &str, value: Value) {
        self.json("config.json", &format!("config: {field} {value}"), |config| config[field] = value);
    }
}

/// The place of `model.norm.weight`, sixteen numbers, in the file.
fn offsets(tensor: &Value) -> (u64, u64) {
    let at = |i: usize| tensor["data_offsets"][i].as_u64().unwrap();
    (at(0), at(1))
}

#[test]
fn tensors() {
    let mut m = Models::new();
    m.case("a sound model", |_| {});
    for bytes in [0, 7] {
        m.case(&format!("{bytes} bytes"), |dir| {
            File::options().write(true).open(dir.join("model.safetensors")).unwrap().set_len(bytes).unwrap();
        });
    }
    for length in [u64::MAX, 1 << 63, 100_000_001, 100_000] {
        m.case(&format!("header length {length}"), |dir| {
            let file = File::options().write(true).open(dir.join("model.safetensors")).unwrap();
            file.write_all_at(&length.to_le_bytes(), 0).unwrap();
        });
    }
    m.case("header length 16000001 in a long file", |dir| {
        let file = File::options().write(true).open(dir.join("model.safetensors")).unwrap();
        file.write_all_at(&16_000_001u64.to_le_bytes(), 0).unwrap();
        file.set_len(17_000_000).unwrap();
    });
    m.header("header: not UTF-8", |_| b"{\"a\xff\": 1}".to_vec());
    m.header("header: not JSON", |_| b"tensors".to_vec());
    m.header("header: an array", |_| b"[1, 2]".to_vec());
    m.header("header: cut", |text| text[..text.len() / 2].into());
    m.header("header: a name twice", |text| {
        text.replace("model.norm.weight", "model.embed_tokens.weight").into()
    });
    m.header("header: more behind it", |text| (text + "{}").into());
    m.header("header: 100000 brackets", |_| [b"{\"a\":".to_vec(), vec![b'['; 100_000]].concat());
    m.tensor("offsets: reversed", |t| {
        let (a, b) = offsets(t);
        t["data_offsets"] = json!([b, a]);
    });
    m.tensor("offsets: overlap", |t| {
        let (a, b) = offsets(t);
        t["data_offsets"] = json!([a - 4, b - 4]);
    });
    m.tensor("offsets: a gap", |t| {
        let (a, b) = offsets(t);
        t["data_offsets"] = json!([a + 4, b]);
        t["shape"] = json!([15]);
    });
    m.tensor("offsets: past the end", |t| {
        let (a, b) = offsets(t);
        t["data_offsets"] = json!([a, b + (1u64 << 40)]);
    });
    m.tensor("offsets: negative", |t| t["data_offsets"] = json!([-4, 60]));
    m.tensor("shape: overflows", |t| t["shape"] = json!([1u64 << 33, 1u64 << 33]));
    m.tensor("shape: not that of its bytes", |t| t["shape"] = json!([17]));
    m.tensor("shape: not that of the model", |t| t["shape"] = json!([4, 4]));
    m.tensor("dtype: F64", |t| {
        t["dtype"] = json!("F64");
        t["shape"] = json!([8]);
    });
    m.tensor("dtype: F4", |t| t["dtype"] = json!("F4"));
    m.tensor("dtype: I32", |t| t["dtype"] = json!("I32"));
    for cut in [1, 4096] {
        m.case(&format!("{cut} bytes short"), |dir| {
            let file = File::options().write(true).open(dir.join("model.safetensors")).unwrap();
            file.set_len(file.metadata().unwrap().len() - cut).unwrap();
        });
    }
    m.case("one byte long", |dir| {
        File::options().append(true).open(dir.join("model.safetensors")).unwrap().write_all(b"x").unwrap();
    });
    m.header("a tensor by another name", |text| {
        text.replace("model.norm.weight", "model.norms.weight").into()
    });
    m.header("a tensor that belongs to nothing", |text| {
        text.replacen('{', r#"{"extra":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"#, 1).into()
    });
    m.case("no tensors", |dir| fs::remove_file(dir.join("model.safetensors")).unwrap());
    m.case("a folder for a file", |dir| {
        fs::remove_file(dir.join("model.safetensors")).unwrap();
        fs::create_dir(dir.join("model.safetensors")).unwrap();
    });
    m.case("a link to itself", |dir| {
        fs::remove_file(dir.join("model.safetensors")).unwrap();
        symlink("model.safetensors", dir.join("model.safetensors")).unwrap();
    });
    m.case("pickle only", |dir| {
        fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap();
    });
    const SHARD: u64 = 8000;
    const INDEX: &str = "model.safetensors.index.json";
    m.shards("shards: sound", SHARD, |_| {});
    m.shards("shards: one is gone", SHARD, |dir| {
        let gone = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.to_string_lossy().contains("-of-"));
        fs::remove_file(gone.max().unwrap()).unwrap();
    });
    let mut map = |what: &str, name: &str, file: &str| {
        m.shards(what, SHARD, |dir| {
            let mut index: Value = serde_json::from_slice(&fs::read(dir.join(INDEX)).unwrap()).unwrap();
            index["weight_map"][name] = json!(file);
            fs::write(dir.join(INDEX), index.to_string()).unwrap();
        });
    };
    map("shards: a path upwards", "model.norm.weight", "../../etc/x");
    map("shards: a path from the root", "model.norm.weight", "/etc/passwd");
    map("shards: a hidden file", "model.norm.weight", ".x");
    map("shards: a tensor in the wrong one", "model.embed_tokens.weight", "model-00002-of-00003.safetensors");
    m.shards("shards: an index without a map", SHARD, |dir| fs::write(dir.join(INDEX), "{}").unwrap());
    insta::assert_snapshot!(m.table);
}

#[test]
fn configs() {
    let mut m = Models::new();
    m.case("config: absent", |dir| fs::remove_file(dir.join("config.json")).unwrap());
    m.case("config: empty", |dir| fs::write(dir.join("config.json"), "").unwrap());
    m.case("config: a list", |dir| fs::write(dir.join("config.json"), "[]").unwrap());
    m.case("config: 5 MB", |dir| fs::write(dir.join("config.json"), " ".repeat(5_000_000)).unwrap());
    m.config("hidden_size", json!(0));
    m.config("hidden_size", json!(32));
    m.config("hidden_size", json!(1.5));
    m.config("hidden_size", json!("16"));
    m.config("hidden_size", json!(null));
    m.config("hidden_size", json!(u64::MAX));
    m.config("num_attention_heads", json!(3));
    m.config("num_key_value_heads", json!(4));
    m.config("num_key_value_heads", json!(0));
    m.config("head_dim", json!(7));
    m.config("vocab_size", json!(301));
    m.config("vocab_size", json!(1u64 << 40));
    m.config("num_hidden_layers", json!(1_000_000_000));
    m.config("num_hidden_layers", json!(2));
    m.config("rms_norm_eps", json!("NaN"));
    m.config("rms_norm_eps", json!(-1e-5));
    m.config("rms_norm_eps", json!(0));
    m.config("model_type", json!("mamba"));
    m.config("model_type", json!(7));
    m.config("hidden_act", json!("gelu"));
    m.config("attention_bias", json!(true));
    m.config("quantization_config", json!({ "bits": 4 }));
    m.config("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 }));
    m.config("eos_token_id", json!(300));
    m.config("eos_token_id", json!(-1));
    m.json("generation_config.json", "generation_config: eos_token_id [1, 99999]", |c| {
        c["eos_token_id"] = json!([1, 99999])
    });
    m.case("generation_config: not JSON", |dir| fs::write(dir.join("generation_config.json"), "{").unwrap());
    insta::assert_snapshot!(m.table);
}

#[test]
fn tokenizers() {
    let mut m = Models::new();
    let file = |dir: &Path, text: &[u8]| fs::write(dir.join("tokenizer.json"), text).unwrap();
    m.case("tokenizer: absent", |dir| fs::remove_file(dir.join("tokenizer.json")).unwrap());
    m.case("tokenizer: empty", |dir| file(dir, b""));
    m.case("tokenizer: not UTF-8", |dir| file(dir, b"{\"a\xff\": 1}"));
    m.case("tokenizer: another JSON", |dir| file(dir, b"{\"vocab\": {}}"));
    m.case("tokenizer: 100000 brackets", |dir| file(dir, &[b'['; 100_000]));
    m.case("tokenizer: 129 MiB", |dir| {
        File::create(dir.join("tokenizer.json")).unwrap().set_len(129 << 20).unwrap();
    });
    let mut json = |what: &str, change: &dyn Fn(&mut Value)| {
        m.json("tokenizer.json", &format!("tokenizer: {what}"), change)
    };
    json("a merge of what is no token", &|t| t["model"]["merges"][0] = json!(["no", "where"]));
    json("a merge of one part", &|t| t["model"]["merges"][0] = json!(["a"]));
    json("a merge that is a number", &|t| t["model"]["merges"][0] = json!(7));
    json("a token far away", &|t| t["model"]["vocab"]["a"] = json!(4_000_000_000u32));
    json("a token below zero", &|t| t["model"]["vocab"]["a"] = json!(-1));
    json("two tokens with one number", &|t| t["model"]["vocab"]["a"] = t["model"]["vocab"]["b"].clone());
    json("a special token far away", &|t| t["added_tokens"][1]["id"] = json!(4_000_000_000u32));
    json("an unknown model", &|t| t["model"]["type"] = json!("Magic"));
    json(
        "a pattern that does not end",
        &|t| t["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "Regex": "((a+)+$" }, "behavior": "Isolated", "invert": false }),
    );
    json("more tokens than the model", &|t| t["model"]["vocab"]["zzz"] = json!(300));
    m.case("tokenizer_config: an end that is no token", |dir| {
        fs::write(dir.join("tokenizer_config.json"), "{\"eos_token\": \"<nothing>\"}").unwrap();
    });
    m.case("tokenizer_config: not JSON", |dir| fs::write(dir.join("tokenizer_config.json"), "{").unwrap());
    insta::assert_snapshot!(m.table);
}

/// Files to train on, each with a good tokenizer.
struct Data {
    lab: Lab,
    table: String,
    cases: usize,
}

impl Data {
    fn new() -> Self {
        let lab = Lab::new();
        lab.put("tok.json", tokenizer().json());
        Self { lab, table: String::new(), cases: 0 }
    }

    fn case(&mut self, what: &str, name: &str, content: impl AsRef<[u8]>) {
        self.given(what, name, content, &[]);
    }

    fn given(&mut self, what: &str, name: &str, content: impl AsRef<[u8]>, more: &[&str]) {
        let content = content.as_ref();
        self.lab.put(name, content);
        self.train(what, content.len() as u64, &[&["--data", name], more].concat());
    }

    fn train(&mut self, what: &str, bytes: u64, more: &[&str]) {
        self.cases += 1;
        let out = format!("run-{}", self.cases);
        let train = [
            "train",
            "--config",
            "micro.toml",
            "--out",
            &out,
            "--tokenizer",
            "tok.json",
            "--steps",
            "1",
            "--threads",
            "1",
        ];
        row(&mut self.table, what, &self.lab, bytes, &[&train, more].concat());
        assert!(!self.lab.path(&out).join("step-00000001").exists() || self.table.ends_with("0 (works)\n"));
    }
}

/// Our header with these fields, its checksum, and tokens.
fn shard(version: u32, width: u32, hash: [u8; 32], count: u64, tokens: &[u16]) -> Vec<u8> {
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let mut head = b"RSTNTOK\0".to_vec();
    head.extend(version.to_le_bytes());
    head.extend(width.to_le_bytes());
    head.extend(hash);
    head.extend(300u32.to_le_bytes());
    head.extend(0u32.to_le_bytes());
    for number in [count, 1, 2 * tokens.len() as u64] {
        head.extend(number.to_le_bytes());
    }
    head.extend((1u32 << 20).to_le_bytes());
    head.resize(224, 0);
    let table = if bytes.is_empty() { Vec::new() } else { blake3::hash(&bytes).as_bytes()[..16].to_vec() };
    let hash = blake3::Hasher::new().update(&head).update(&table).finalize();
    [&head[..], hash.as_bytes(), &bytes, &table].concat()
}

fn llm_c(magic: i32, version: i32, count: i32, tokens: &[u16]) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    for (i, word) in [magic, version, count].into_iter().enumerate() {
        bytes[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes.extend(tokens.iter().flat_map(|t| t.to_le_bytes()));
    bytes
}

#[test]
fn shards() {
    let mut d = Data::new();
    let hash = tokenizer().hash();
    let tokens: Vec<u16> = (0..4000).map(|i| 3 + (i * 7 + i / 11) % 290).collect();
    let n = tokens.len() as u64;
    let good = shard(1, 2, hash, n, &tokens);
    d.case("a sound shard", "a.tok", &good);
    d.case("empty", "a.tok", b"");
    d.case("seven bytes", "a.tok", b"RSTNTOK");
    d.case("a bad magic number", "a.tok", [b"NOTATOKN", &good[8..]].concat());
    d.case("a header that is cut", "a.tok", &good[..100]);
    d.case("version 2", "a.tok", shard(2, 2, hash, n, &tokens));
    d.case("tokens of 3 bytes", "a.tok", shard(1, 3, hash, n, &tokens));
    d.case("one token more than there are", "a.tok", shard(1, 2, hash, n + 1, &tokens));
    d.case("2^63 tokens", "a.tok", shard(1, 2, hash, 1 << 63, &tokens));
    d.case("2^40 tokens", "a.tok", shard(1, 2, hash, 1 << 40, &tokens));
    d.case("one byte short", "a.tok", &good[..good.len() - 1]);
    d.case("a page short", "a.tok", &good[..good.len() - 4096]);
    d.case("no tokens", "a.tok", shard(1, 2, hash, 0, &[]));
    d.case("one token", "a.tok", shard(1, 2, hash, 1, &[5]));
    let mut flipped = good.clone();
    flipped[300] ^= 1;
    d.case("a flipped bit", "a.tok", &flipped);
    flipped = good.clone();
    flipped[60] ^= 1;
    d.case("a flipped bit in the header", "a.tok", &flipped);
    d.case("another tokenizer", "a.tok", shard(1, 2, [7; 32], n, &tokens));
    let mut high = tokens.clone();
    high[1234] = 300;
    d.case("a token that is none", "a.tok", shard(1, 2, hash, n, &high));
    d.case("llm.c", "b.bin", llm_c(20240520, 1, n as i32, &tokens));
    d.case("llm.c: version 2", "b.bin", llm_c(20240520, 2, n as i32, &tokens));
    d.case("llm.c: a bad magic number", "b.bin", llm_c(1, 1, n as i32, &tokens));
    d.case("llm.c: a negative count", "b.bin", llm_c(20240520, 1, -1, &tokens));
    d.case("llm.c: 2^31 - 1 tokens", "b.bin", llm_c(20240520, 1, i32::MAX, &tokens));
    d.case("llm.c: an odd length", "b.bin", &llm_c(20240520, 1, n as i32, &tokens)[..2001]);
    d.case("llm.c: a token that is none", "b.bin", llm_c(20240520, 1, n as i32, &high));
    let bare: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    d.given("u16", "c.bin", &bare, &["--format", "u16"]);
    d.given("u16: an odd length", "c.bin", &bare[1..], &["--format", "u16"]);
    d.given("u16: empty", "c.bin", b"", &["--format", "u16"]);
    d.given("u16: one token", "c.bin", &bare[..2], &["--format", "u16"]);
    d.given("u16: fewer tokens than a sequence", "c.bin", &bare[..40], &["--format", "u16"]);
    let bare: Vec<u8> = high.iter().flat_map(|t| t.to_le_bytes()).collect();
    d.given("u16: a token that is none", "c.bin", &bare, &["--format", "u16"]);
    d.case("tokens that are not named so", "c.bin", &bare);
    d.lab.put("mixed/a.txt", "text");
    d.lab.put("mixed/b.bin", "tokens");
    d.train("tokens beside text", 0, &["--data", "mixed"]);
    let known: String = hash[..8].iter().map(|b| format!("{b:02x}")).collect();
    insta::assert_snapshot!(d.table.replace(&known, "(its hash)"));

    // Without its tokenizer a shard is refused.
    let mut table = String::new();
    d.lab.put("a.tok", good);
    row(
        &mut table,
        "no tokenizer",
        &d.lab,
        0,
        &["train", "--config", "micro.toml", "--out", "r", "--data", "a.tok"],
    );
    insta::assert_snapshot!(table, @"
    no tokenizer
        3 error[E3047]: `a.tok`: holds tokens; give the tokenizer.json that made them
    ");
}

#[test]
fn text() {
    let mut d = Data::new();
    let good = text_of(80);
    d.case("sound text", "a.txt", &good);
    d.case("not UTF-8", "a.txt", [good.as_bytes(), b"\xff\xfe"].concat());
    d.given("not UTF-8, replaced", "a.txt", [good.as_bytes(), b"\xff\xfe"].concat(), &["--lossy"]);
    d.case("half a character at the end", "a.txt", [good.as_bytes(), b"\xe6\x97"].concat());
    d.case("NUL bytes", "a.txt", format!("{good}\0{good}"));
    d.case("UTF-16", "a.txt", b"\xff\xfea\0b\0");
    d.case("UTF-8 with a byte order mark", "a.txt", format!("\u{feff}{good}"));
    d.case("lone carriage returns", "a.txt", good.replace('\n', "\r"));
    d.case("one line of 4 MB", "a.txt", "The cat sat on the mat. ".repeat(4_000_000 / 24));
    d.case("4 MB without a space", "a.txt", "_".repeat(4_000_000));
    d.case("empty", "a.txt", "");
    d.case("one letter", "a.txt", "a");
    d.case("shorter than a sequence", "a.txt", "The cat sat.");
    d.lab.put("val.txt", "");
    d.given("nothing to validate on", "a.txt", &good, &["--val-data", "val.txt"]);
    d.case("gzip that is none", "a.txt.gz", "no gzip");
    d.case("zstd that is none", "a.txt.zst", "no zstd");
    d.case("an unknown kind", "a.docx", "PK");
    d.train("absent", 0, &["--data", "none.txt"]);
    fs::create_dir(d.lab.path("empty")).unwrap();
    d.train("an empty folder", 0, &["--data", "empty"]);
    symlink("loop.txt", d.lab.path("loop.txt")).unwrap();
    d.train("a link to itself", 0, &["--data", "loop.txt"]);
    insta::assert_snapshot!(d.table);
}

#[test]
fn jsonl() {
    let mut d = Data::new();
    let good: String = text_of(80).lines().map(|l| json!({ "text": l }).to_string() + "\n").collect();
    let with = |line: &str| format!("{{\"text\": \"a\"}}\n{line}");
    d.case("sound lines", "a.jsonl", &good);
    d.case("empty", "a.jsonl", "");
    d.case("half a line at the end", "a.jsonl", good.clone() + "{\"text\": \"The c");
    d.case("no text in a line", "a.jsonl", with("{\"body\": \"b\"}"));
    d.case("text that is a number", "a.jsonl", with("{\"text\": 3}"));
    d.case("an array", "a.jsonl", with("[1]"));
    d.case("not JSON", "a.jsonl", with("hello"));
    d.given("not JSON, passed over", "a.jsonl", good.clone() + "hello\n", &["--skip-bad", "1"]);
    d.case("not UTF-8", "a.jsonl", b"{\"text\": \"\xff\"}\n");
    d.case("a byte order mark twice", "a.jsonl", "\u{feff}\u{feff}{\"text\": \"a\"}");
    d.case("100000 brackets", "a.jsonl", with(&"[".repeat(100_000)));
    d.case("a message without a role", "a.jsonl", with("{\"messages\": [{\"content\": \"x\"}]}"));
    let file = File::create(d.lab.path("long.jsonl")).unwrap();
    // A line of 101 MiB of nothing.
    file.set_len(101 << 20).unwrap();
    d.train("a line of 101 MiB", 101 << 20, &["--data", "long.jsonl"]);
    insta::assert_snapshot!(d.table);
}

fn parquet(schema: &str, texts: &[&[u8]], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = texts.iter().map(|t| t.to_vec().into()).collect();
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    while let Some(mut column) = group.next_column().unwrap() {
        let numbers: Vec<i64> = (0..texts.len() as i64).collect();
        column.typed::<Int64Type>().write_batch(&numbers, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_files() {
    let mut d = Data::new();
    let schema = "message rows { required binary text (UTF8); required int64 id; }";
    let story = text_of(80);
    let rows: Vec<&[u8]> = story.lines().map(str::as_bytes).collect();
    let good = parquet(schema, &rows, Compression::SNAPPY);
    let end = good.len();
    d.case("sound rows", "a.parquet", &good);
    d.case("empty", "a.parquet", b"");
    d.case("a footer that is cut", "a.parquet", &good[..end - 1]);
    d.case("a bad magic number", "a.parquet", [b"PAR2", &good[4..end - 4], b"PAR2"].concat());
    d.case("no parquet", "a.parquet", "hello, this is no parquet");
    d.case(
        "a footer of 4 GB",
        "a.parquet",
        [&good[..end - 8], &u32::MAX.to_le_bytes()[..], b"PAR1"].concat(),
    );
    d.case("a footer of nothing", "a.parquet", [&good[..end - 8], &0u32.to_le_bytes()[..], b"PAR1"].concat());
    d.case(
        "a footer of noise",
        "a.parquet",
        [&b"PAR1"[..], &[0xff; 64], &64u32.to_le_bytes(), b"PAR1"].concat(),
    );
    d.given("no such column", "a.parquet", &good, &["--text-column", "words"]);
    d.given("a column of numbers", "a.parquet", &good, &["--text-column", "id"]);
    let nested =
        parse_message_type("message m { optional group text { required binary a (UTF8); } }").unwrap();
    let mut bytes = Vec::new();
    SerializedFileWriter::new(&mut bytes, Arc::new(nested), Default::default()).unwrap().close().unwrap();
    d.case("nested text", "a.parquet", bytes);
    d.case("not UTF-8", "a.parquet", parquet(schema, &[b"ok", b"\xff"], Compression::SNAPPY));
    let bomb = parquet(schema, &[&vec![b'a'; 100 << 20]], Compression::ZSTD(Default::default()));
    assert!(bomb.len() < 1 << 20);
    d.case("a page that unpacks to 100 MB", "a.parquet", bomb);
    // What a packer or a writer makes of the same data may change with its version.
    let (before, rest) = d.table.split_once("104857604 bytes, ").unwrap();
    let (_, after) = rest.split_once(" packed").unwrap();
    let table = format!("{before}104857604 bytes, (few) packed{after}");
    insta::assert_snapshot!(table.replace(&(end - 12).to_string(), "(all others)"));
}

#[test]
fn places_that_cannot_be_written() {
    let lab = Lab::new();
    let mut table = String::new();
    lab.put("file", "mine");
    row(&mut table, "out is a file", &lab, 0, &["train", "--config", "micro.toml", "--out", "file"]);
    row(
        &mut table,
        "out is below a file",
        &lab,
        0,
        &["train", "--config", "micro.toml", "--out", "file/run"],
    );
    lab.put("run/config.toml/x", "a folder");
    row(
        &mut table,
        "a folder stands where a file goes",
        &lab,
        0,
        &["train", "--config", "micro.toml", "--out", "run"],
    );
    insta::assert_snapshot!(table);
    assert_eq!(fs::read_to_string(lab.path("file")).unwrap(), "mine");
}
