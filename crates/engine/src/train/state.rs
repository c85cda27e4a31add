//! What a run counts, as it stands in a checkpoint.

use model::ModelConfig;
use serde::{Deserialize, Serialize};

use crate::RunConfig;
use crate::data::Dataset;

/// What a checkpoint holds beside weights and moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Updates done: the schedule and AdamW count these.
    pub updates: u64,
    /// Sequences consumed: the position in the data.
    pub position: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Steps of the run, when a time budget was turned into them.
    pub planned: Option<u64>,
    /// Moving average of the loss.
    pub ema: Option<f64>,
    /// Norm of the gradient at the last update; 0 before the first.
    #[serde(default)]
    pub grad_norm: f32,
    /// Lowest bits per byte so far.
    pub best_bpb: Option<f64>,
    /// Batches left out in a row.
    pub skips_in_a_row: u32,
    /// Length of the metrics file.
    pub metrics_bytes: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The settings.
    pub config: RunConfig,
    /// What identifies the data.
    pub data: DataId,
    /// What the run trained on last, such as `cpu`; none in checkpoints from before this was recorded.
    #[serde(default)]
    pub device: Option<String>,
}

/// What identifies the data of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataId {
    /// Hash of files, tokenizer and options, when the data were prepared by us.
    pub fingerprint: Option<String>,
    /// Tokens to train on.
    pub train_tokens: u64,
    /// Tokens to validate on.
    pub val_tokens: u64,
}

impl DataId {
    pub(super) fn of(data: &Dataset) -> Self {
        Self {
            fingerprint: data.info.as_ref().map(|info| info.fingerprint.clone()),
            train_tokens: data.train.len(),
            val_tokens: data.val.len(),
        }
    }
}

impl TrainState {
    pub(super) fn new(config: &RunConfig, data: DataId, device: &str) -> Self {
        Self {
            step: 0,
            updates: 0,
            position: 0,
            tokens: 0,
            planned: None,
            ema: None,
            grad_norm: 0.0,
            best_bpb: None,
            skips_in_a_row: 0,
            metrics_bytes: 0,
            seconds: 0.0,
            config: config.clone(),
            data,
            device: Some(device.to_owned()),
        }
    }

    /// Steps of the run, if they are known.
    pub fn total(&self) -> Option<u64> {
        self.config.steps().or(self.planned)
    }

    /// Whether the run has reached its end.
    pub fn is_finished(&self) -> bool {
        self.total().is_some_and(|total| self.step >= total)
    }
}

/// A setting that is not what the checkpoint was trained with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The key, such as `optimizer.lr`.
    pub key: String,
    /// Value of the checkpoint.
    pub saved: String,
    /// Value now.
    pub now: String,
}

impl Drift {
    /// Settings that only decide what happens beside the training.
    const HARMLESS: [&str; 8] = [
        "train.eval_every",
        "train.eval_tokens",
        "train.sample_every",
        "train.sample_tokens",
        "train.sample_prompt",
        "train.save_every",
        "train.keep",
        "train.keep_every",
    ];

    /// The first setting that gives the model other tensors than those of a saved one, so that no drift
    /// can be allowed.
    pub(super) fn of_tensors(saved: &ModelConfig, now: &RunConfig) -> Option<Drift> {
        let saved = RunConfig { model: saved.clone(), ..now.clone() };
        let free =
            |key: &str| key.starts_with("model.rope") || ["model.max_seq", "model.norm_eps"].contains(&key);
        Self::between(&saved, now).into_iter().find(|drift| !free(&drift.key))
    }

    /// The settings that would make a resumed run another run.
    pub fn between(saved: &RunConfig, now: &RunConfig) -> Vec<Drift> {
        let (saved, now) = (flatten(saved), flatten(now));
        let keys: std::collections::BTreeSet<_> = saved.keys().chain(now.keys()).collect();
        let value = |map: &Flat, key: &str| map.get(key).map_or("not set".into(), toml::Value::to_string);
        keys.into_iter()
            .filter(|key| saved.get(*key) != now.get(*key) && !Self::HARMLESS.contains(&key.as_str()))
            .map(|key| Drift { key: key.clone(), saved: value(&saved, key), now: value(&now, key) })
            .collect()
    }
}

type Flat = std::collections::BTreeMap<String, toml::Value>;

fn flatten(config: &RunConfig) -> Flat {
    fn walk(prefix: &str, value: toml::Value, out: &mut Flat) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                    walk(&key, value, out);
                }
            }
            value => {
                out.insert(prefix.to_owned(), value);
            }
        }
    }
    let mut out = Flat::new();
    walk("", toml::Value::Table(config.to_table()), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_must_stay_as_they_are() {
        let now = RunConfig::default();
        let mut saved = now.model.clone();
        (saved.max_seq, saved.norm_eps, saved.rope.theta) = (7, 0.5, 3.0);
        assert_eq!(Drift::of_tensors(&saved, &now), None);
        saved.layers += 1;
        let drift = Drift::of_tensors(&saved, &now).unwrap();
        assert_eq!(
            (drift.key.as_str(), drift.saved.as_str(), drift.now.as_str()),
            ("model.layers", "7", "6")
        );
    }

    #[test]
    fn names_what_would_change_the_training_and_nothing_else() {
        let saved = RunConfig::default();
        let mut now = saved.clone();
        now.train.eval_every += 1;
        now.train.keep += 1;
        assert_eq!(Drift::between(&saved, &now), []);
        now.optimizer.lr = 0.5;
        now.train.tokens = Some(3);
        let drift = Drift::between(&saved, &now);
        assert_eq!(
            drift.iter().map(|d| d.key.as_str()).collect::<Vec<_>>(),
            ["optimizer.lr", "train.tokens"]
        );
        assert_eq!((drift[1].saved.as_str(), drift[1].now.as_str()), ("not set", "3"));
    }
}
