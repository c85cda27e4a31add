//! A folder with the settings of a model that trains in milliseconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use model::{SplitPattern, Tokenizer};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{self, Ran};

/// Two blocks of 32 channels, 128 tokens per step.
pub const MICRO: &str = "\
[model]
dim = 32
hidden = 48
layers = 2
heads = 2
kv_heads = 1
head_dim = 16
vocab = 300
max_seq = 64

[data]
story_bytes = 40_000
val_every = 10

[train]
seq = 32
batch = 4
steps = 60
eval_every = 20
eval_tokens = 2000
sample_every = 30
sample_tokens = 8
sample_prompt = \"The\"
save_every = 25

[optimizer]
kind = \"adamw\"
lr = 5e-3
warmup = 4
";

/// A working folder with `micro.toml` in it.
pub struct Lab {
    dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("micro.toml"), MICRO).unwrap();
        Self { dir }
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// A command that keeps prepared data in one cache for all tests.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = support::command(self.root(), args);
        command.env("RUSTANE_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("rustane-cache"));
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        support::run(&mut self.command(args))
    }

    /// `rustane train --config micro.toml --out OUT …`, not yet started.
    pub fn training(&self, out: &str, more: &[&str]) -> Command {
        self.command(&[&["train", "--config", "micro.toml", "--out", out], more].concat())
    }

    pub fn train(&self, out: &str, more: &[&str]) -> Ran {
        support::run(&mut self.training(out, more))
    }

    /// Trains and demands success; returns what was said.
    pub fn trained(&self, out: &str, more: &[&str]) -> String {
        let ran = self.train(out, more);
        assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{more:?}: {}", ran.err);
        ran.err
    }

    /// A training that goes on beside the test; what it says goes to the file `err.txt`.
    pub fn spawn(&self, out: &str, more: &[&str]) -> Guard {
        self.start(&mut self.training(out, more))
    }

    pub fn start(&self, command: &mut Command) -> Guard {
        let err = fs::File::create(self.path("err.txt")).unwrap();
        Guard(command.stdout(Stdio::null()).stderr(err).spawn().unwrap())
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.path("err.txt")).unwrap()
    }

    /// The text with the place of this folder taken out.
    pub fn tidy(&self, text: &str) -> String {
        let real = self.root().canonicalize().unwrap();
        text.replace(&format!("{}/", real.display()), "").replace(&format!("{}/", self.root().display()), "")
    }

    /// Every line of the metrics without what the clock said.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        assert!(text.ends_with('\n'));
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().remove("wall");
            value
        };
        text.lines().map(line).collect()
    }

    /// The files of a run's newest checkpoint that no clock may change.
    pub fn weights(&self, run: &str) -> Vec<(String, Vec<u8>)> {
        let newest = self.newest(run);
        let files = [
            "model.safetensors",
            "training/optimizer.safetensors",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ];
        files.iter().map(|f| (format!("{}/{f}", newest.0), fs::read(newest.1.join(f)).unwrap())).collect()
    }

    /// Name and path of the checkpoint that `latest` names.
    pub fn newest(&self, run: &str) -> (String, PathBuf) {
        let run = self.path(run);
        let name = fs::read_to_string(run.join("latest")).unwrap().trim().to_owned();
        let path = run.join(&name);
        (name, path)
    }

    /// Demands that two runs ended in the same bits.
    pub fn same(&self, a: &str, b: &str) {
        let (a, b) = ((self.metrics(a), self.weights(a)), (self.metrics(b), self.weights(b)));
        for (x, y) in a.0.iter().zip(&b.0) {
            assert_eq!(x, y);
        }
        assert_eq!(a.0.len(), b.0.len());
        for ((name, x), (other, y)) in a.1.iter().zip(&b.1) {
            assert_eq!(name, other);
            assert!(x == y, "{name} differs");
        }
    }
}

/// A process that ends with the test.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A tokenizer of 300 tokens, and the text that it was trained on.
pub fn tokenizer() -> (Tokenizer, String) {
    let text = stories(30_000);
    (Tokenizer::train([&text], 300, SplitPattern::Gpt2).unwrap(), text)
}

/// Built-in stories, one per line.
pub fn stories(bytes: u64) -> String {
    engine::data::Blocks::stories(1, bytes).map(|block| block.unwrap().text() + "\n").collect()
}

/// Random numbers that a seed repeats. Source: Steele, Lea & Flood 2014, SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
