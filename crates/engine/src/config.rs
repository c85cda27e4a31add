//! What a training run is told: one value, from presets, files, variables and flags.

use std::path::PathBuf;

use model::{ConfigError, ModelConfig, SplitPattern};
use serde::{Deserialize, Serialize};

use crate::data::Format;
use crate::optim::Schedule;

/// Everything that decides a training run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Shape of the model.
    pub model: ModelConfig,
    /// What it reads.
    pub data: DataConfig,
    /// How long, in which portions, with what on the side.
    pub train: TrainConfig,
    /// How gradients become weights.
    pub optimizer: OptimizerConfig,
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Files or folders of text or tokens; none: the built-in stories.
    pub path: Vec<PathBuf>,
    /// Files or folders for validation; none: a part of `path`.
    pub val: Vec<PathBuf>,
    /// Format of files whose names do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Column of parquet files.
    pub text_column: String,
    /// Replace bytes that are no UTF-8 instead of stopping.
    pub lossy: bool,
    /// Lines of a `.jsonl` file that may be bad.
    pub skip_bad: u64,
    /// One block in this many goes to validation.
    pub val_every: u64,
    /// An existing `tokenizer.json`; none: one is trained with the model's vocabulary size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// How a trained tokenizer splits text into words.
    pub split: SplitPattern,
    /// Bytes of built-in stories.
    pub story_bytes: u64,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: Vec::new(),
            val: Vec::new(),
            format: None,
            text_column: "text".into(),
            lossy: false,
            skip_bad: 0,
            val_every: 50,
            tokenizer: None,
            split: SplitPattern::Gpt2,
            story_bytes: 12_000_000,
        }
    }
}

/// How long a run is, in which portions, and what happens on the side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Tokens of one sequence.
    pub seq: usize,
    /// Sequences of one micro-batch.
    pub batch: usize,
    /// Micro-batches of one update.
    pub accum: usize,
    /// Updates of the run.
    pub steps: u64,
    /// Tokens of the run; takes the place of `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Seconds of the run, from which `steps` is measured; takes the place of `steps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_s: Option<u64>,
    /// Decides first weights, order of the data and samples.
    pub seed: u64,
    /// Recompute activations in the backward pass instead of keeping them.
    pub recompute: bool,
    /// Move the weights of each layer in the backward pass, which then keeps the gradients of one
    /// layer at a time; wants `accum` 1.
    pub update_in_backward: bool,
    /// Numbers that the matrix products of the CPU multiply. The default is f32, so that a run is equally
    /// exact whatever the processor has; the last bits are those of its instructions.
    pub precision: Precision,
    /// How the CPU keeps weights; bf16 wants `precision` bf16.
    pub weights: WeightFormat,
    /// Where the logits and the way back through them are computed.
    pub classifier: Classifier,
    /// Steps between validations; 0: only at the end.
    pub eval_every: u64,
    /// Tokens of one validation, at most.
    pub eval_tokens: u64,
    /// Steps between samples; 0: only at the end.
    pub sample_every: u64,
    /// Tokens of one sample.
    pub sample_tokens: usize,
    /// What a sample starts with.
    pub sample_prompt: String,
    /// Steps between checkpoints; 0: only at the end.
    pub save_every: u64,
    /// Newest checkpoints to keep.
    pub keep: usize,
    /// Also keep every checkpoint whose step is a multiple of this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_every: Option<u64>,
    /// What to do when the loss or the gradient is not finite.
    pub on_nan: OnNan,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            seq: 128,
            batch: 16,
            accum: 1,
            steps: 1000,
            tokens: None,
            budget_s: None,
            seed: 1,
            recompute: false,
            update_in_backward: false,
            precision: Precision::F32,
            weights: WeightFormat::F32,
            classifier: Classifier::Cpu,
            eval_every: 250,
            eval_tokens: 65_536,
            sample_every: 500,
            sample_tokens: 120,
            sample_prompt: String::new(),
            save_every: 500,
            keep: 3,
            keep_every: None,
            on_nan: OnNan::Stop,
        }
    }
}

/// Numbers that matrix products multiply; weights, gradients and sums are f32 in any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 24 bits.
    F32,
    /// 8 bits.
    Bf16,
    /// bf16 where the processor multiplies in it, else f32. Settled before a run starts, which
    /// records the outcome.
    Auto,
}

/// How weights are kept: 4 or 2 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightFormat {
    /// Exactly.
    F32,
    /// Matrices in bf16, rounded by chance after every update.
    Bf16,
}

/// Where the logits and the way back through them are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Classifier {
    /// On the CPU, in f32.
    Cpu,
    /// Where the blocks run, in the numbers of that device.
    Device,
}

/// What to do when the loss or the gradient norm is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnNan {
    /// End the run; the weights are those before the step.
    Stop,
    /// Leave this batch out.
    Skip,
    /// Go back to the newest checkpoint and leave out what led here.
    Rollback,
}

/// How gradients become weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Rule of the weight matrices inside the blocks; everything else gets AdamW.
    pub kind: OptimizerKind,
    /// Where gradients become weights.
    pub device: OptimizerDevice,
    /// How the CPU keeps the moments.
    pub state: OptimizerState,
    /// Peak learning rate of AdamW.
    pub lr: f32,
    /// Peak learning rate of Muon.
    pub muon_lr: f32,
    /// Momentum of Muon.
    pub momentum: f32,
    /// Shape of the learning rate over the run.
    pub schedule: Schedule,
    /// Updates over which the learning rate rises.
    pub warmup: u64,
    /// Share of the peak learning rate that is left at the end.
    pub final_lr: f32,
    /// Share of the run over which `wsd` falls.
    pub decay: f32,
    /// Decay of AdamW's first moment.
    pub beta1: f32,
    /// Decay of AdamW's second moment.
    pub beta2: f32,
    /// Added to the root of AdamW's second moment.
    pub eps: f32,
    /// Weight decay of matrices; gains and biases have none.
    pub weight_decay: f32,
    /// Largest norm of the gradient; 0: no limit.
    pub clip: f32,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            device: OptimizerDevice::Cpu,
            state: OptimizerState::F32,
            lr: 1e-3,
            muon_lr: 0.02,
            momentum: 0.95,
            schedule: Schedule::Cosine,
            warmup: 100,
            final_lr: 0.1,
            decay: 0.2,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
        }
    }
}

/// Rule of the weight matrices inside the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// [`backend::AdamW`].
    AdamW,
    /// [`backend::Muon`].
    Muon,
}

/// Where gradients become weights; the passes run where the model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerDevice {
    /// On the CPU.
    Cpu,
    /// On the GPU of a Mac.
    Metal,
    /// On any other GPU.
    Vulkan,
}

/// How the moments of the optimizer are kept: 8, 4 or 2 bytes per weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerState {
    /// Exactly.
    F32,
    /// In bf16, rounded by chance.
    Bf16,
    /// In 8-bit floats, rounded by chance.
    Q8,
}

/// A value that no run can have.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{key}` is {got}, wanted {wanted}")]
pub struct SettingError {
    /// The key in the file.
    pub key: String,
    /// What it holds.
    pub got: String,
    /// What it may hold.
    pub wanted: String,
}

impl From<ConfigError> for SettingError {
    fn from(e: ConfigError) -> Self {
        Self { key: format!("model.{}", e.field), got: e.got, wanted: e.wanted }
    }
}

impl RunConfig {
    /// Checks every value; the first violation is returned.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.model.validate()?;
        let t = &self.train;
        let o = &self.optimizer;
        let finite = |key, value: f32, holds: bool, wanted: &str| {
            check(value.is_finite() && holds, key, value, wanted)
        };
        check(
            (1..=self.model.max_seq).contains(&t.seq),
            "train.seq",
            t.seq,
            &format!("1 to the {} positions of the model (`model.max_seq`)", self.model.max_seq),
        )?;
        check((1..=1 << 20).contains(&t.batch), "train.batch", t.batch, "at least 1")?;
        check((1..=1 << 20).contains(&t.accum), "train.accum", t.accum, "at least 1")?;
        let alone = t.accum == 1 || !t.update_in_backward;
        check(alone, "train.accum", t.accum, "1, because of train.update_in_backward")?;
        let tokens = [t.seq, t.batch, t.accum].iter().map(|&n| n as u128).product::<u128>();
        check(tokens <= 1 << 40, "train.batch", format!("{tokens} tokens an update"), "at most 2^40 tokens")?;
        check(t.steps > 0, "train.steps", t.steps, "at least 1")?;
        check(t.tokens != Some(0), "train.tokens", 0, "at least 1")?;
        check(t.budget_s != Some(0), "train.budget_s", 0, "at least 1 second")?;
        check(
            t.tokens.is_none() || t.budget_s.is_none(),
            "train.tokens",
            "set together with `train.budget_s`",
            "one of the two",
        )?;
        check(t.keep > 0, "train.keep", t.keep, "at least 1")?;
        check(t.eval_tokens > 0, "train.eval_tokens", t.eval_tokens, "at least 1")?;
        check(t.keep_every != Some(0), "train.keep_every", 0, "at least 1")?;
        check(self.data.val_every >= 2, "data.val_every", self.data.val_every, "at least 2")?;
        check(self.data.story_bytes >= 1, "data.story_bytes", self.data.story_bytes, "at least 1")?;
        finite("optimizer.lr", o.lr, o.lr > 0.0, "a number above 0, such as 1e-3")?;
        finite("optimizer.muon_lr", o.muon_lr, o.muon_lr > 0.0, "a number above 0, such as 0.02")?;
        for (key, value) in
            [("optimizer.momentum", o.momentum), ("optimizer.beta1", o.beta1), ("optimizer.beta2", o.beta2)]
        {
            finite(key, value, (0.0..1.0).contains(&value), "a number from 0 to under 1")?;
        }
        for (key, value) in [("optimizer.final_lr", o.final_lr), ("optimizer.decay", o.decay)] {
            finite(key, value, (0.0..=1.0).contains(&value), "a number from 0 to 1")?;
        }
        finite("optimizer.eps", o.eps, o.eps > 0.0, "a number above 0, such as 1e-8")?;
        for (key, value) in [("optimizer.weight_decay", o.weight_decay), ("optimizer.clip", o.clip)] {
            finite(key, value, value >= 0.0, "a number of at least 0")?;
        }
        Ok(())
    }

    /// The values as in a file. Numbers keep their shortest form: 0.001 does not become 0.0010000000474974513.
    pub fn to_table(&self) -> toml::Table {
        let text = toml::to_string(self).expect("settings are TOML");
        text.parse().expect("what was written is TOML")
    }

    /// Tokens of one update.
    pub fn tokens_per_step(&self) -> u64 {
        (self.train.seq * self.train.batch * self.train.accum) as u64
    }

    /// Updates of the run; `None` while a time budget has yet to be measured.
    pub fn steps(&self) -> Option<u64> {
        match (self.train.tokens, self.train.budget_s) {
            (Some(tokens), _) => Some(tokens.div_ceil(self.tokens_per_step())),
            (None, Some(_)) => None,
            (None, None) => Some(self.train.steps),
        }
    }
}

fn check(holds: bool, key: &str, got: impl ToString, wanted: &str) -> Result<(), SettingError> {
    if holds {
        return Ok(());
    }
    Err(SettingError { key: key.into(), got: got.to_string(), wanted: wanted.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_key_at_fault() {
        type Case = (&'static str, fn(&mut RunConfig));
        let broken: [Case; 14] = [
            ("optimizer.lr", |c| c.optimizer.lr = -1.0),
            ("optimizer.lr", |c| c.optimizer.lr = 0.0),
            ("optimizer.lr", |c| c.optimizer.lr = f32::NAN),
            ("optimizer.lr", |c| c.optimizer.lr = f32::INFINITY),
            ("train.batch", |c| c.train.batch = 0),
            ("train.seq", |c| c.train.seq = 0),
            ("train.seq", |c| c.train.seq = 257),
            ("train.steps", |c| c.train.steps = 0),
            ("train.tokens", |c| (c.train.tokens, c.train.budget_s) = (Some(5), Some(5))),
            ("optimizer.beta2", |c| c.optimizer.beta2 = 1.0),
            ("optimizer.clip", |c| c.optimizer.clip = f32::NAN),
            ("data.val_every", |c| c.data.val_every = 1),
            ("train.keep", |c| c.train.keep = 0),
            ("model.kv_heads", |c| c.model.kv_heads = 4),
        ];
        RunConfig::default().validate().unwrap();
        for (key, break_it) in broken {
            let mut config = RunConfig::default();
            break_it(&mut config);
            assert_eq!(config.validate().unwrap_err().key, key);
        }
    }

    #[test]
    fn tokens_take_the_place_of_steps() {
        let mut config = RunConfig::default();
        config.train.tokens = Some(config.tokens_per_step() * 3 + 1);
        assert_eq!(config.steps(), Some(4));
        config.train.tokens = None;
        config.train.budget_s = Some(60);
        assert_eq!(config.steps(), None);
    }
}
