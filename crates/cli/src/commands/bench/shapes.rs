//! Which models a published protocol runs on, and how many of their layers.

use std::str::FromStr;

use bench::protocol;
use engine::RunConfig;
use model::ModelConfig;

use crate::commands::presets;
use crate::device::{DeviceArgs, available_memory, bytes};
use crate::failure::Failure;

/// A model by name.
pub struct Shape {
    /// Its name, lower case.
    pub name: String,
    /// With the model of the protocol, one sequence a step.
    pub config: RunConfig,
}

/// How many layers run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layers {
    /// As many as memory takes.
    Fit,
    /// That many, or all.
    Count(usize),
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(n) if n > 0 => Ok(Self::Count(n)),
            _ if text == "fit" => Ok(Self::Fit),
            _ => Err("wanted a number above 0, or `fit`".into()),
        }
    }
}

/// `DIM,HIDDEN,LAYERS,SEQ`.
#[derive(Clone, Copy, Debug)]
pub struct Extents([usize; 4]);

impl FromStr for Extents {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = "wanted DIM,HIDDEN,LAYERS,SEQ such as 1024,2816,8,512, DIM a multiple of 128";
        let numbers: Vec<usize> = text.split(',').map_while(|n| n.trim().parse().ok()).collect();
        match numbers[..] {
            [dim, hidden, layers, seq]
                if text.split(',').count() == 4 && dim > 0 && dim.is_multiple_of(128) =>
            {
                Ok(Self([dim, hidden, layers, seq]))
            }
            _ => Err(wanted.into()),
        }
    }
}

impl Shape {
    /// A preset.
    pub fn preset(name: &str) -> anyhow::Result<Self> {
        let name = name.to_lowercase();
        let config = toml::from_str(presets::find(&name)?.text)?;
        Self::new(name, config)
    }

    /// A shape of one's own: heads of 128 channels, 8192 tokens in the vocabulary.
    pub fn custom(Extents([dim, hidden, layers, seq]): Extents) -> anyhow::Result<Self> {
        let heads = dim / 128;
        let model = ModelConfig {
            dim,
            hidden,
            layers,
            heads,
            kv_heads: heads,
            head_dim: 128,
            vocab: 8192,
            max_seq: seq,
            ..ModelConfig::default()
        };
        let mut config = RunConfig { model, ..RunConfig::default() };
        config.train.seq = seq;
        Self::new(format!("{dim},{hidden},{layers},{seq}"), config)
    }

    fn new(name: String, mut config: RunConfig) -> anyhow::Result<Self> {
        config.train.batch = 1;
        config.model = protocol::model(&config.model);
        config.validate().map_err(|e| Failure::Usage(format!("{name}: {e}")))?;
        Ok(Self { name, config })
    }

    /// The first layers of the model alone, which keep the factor on the residual stream of the whole.
    pub fn slice(&self, layers: usize) -> RunConfig {
        let mut config = self.config.clone();
        config.model.layers = layers.min(config.model.layers);
        config
    }

    /// As many layers as fit beside what else is in use.
    pub fn fit(&self, device: &DeviceArgs) -> anyhow::Result<usize> {
        let (all, unknown) = (self.config.model.layers, || {
            Failure::Usage(
                "--layers fit needs a device whose memory is known; give a number of layers".into(),
            )
        });
        let [one, two] = [1, 2].map(|n| device.trainer(&self.slice(n)).map(|t| t.memory()));
        let (one, two) = (one?.ok_or_else(unknown)?, two?.ok_or_else(unknown)?);
        let free = available_memory().ok_or_else(unknown)?;
        // A twentieth is left to everything else.
        let room = (free / 20 * 19).saturating_sub(one);
        let more = (room / (two - one).max(1)) as usize;
        Ok(all.min(1 + more))
    }

    /// `1536d/4096h/20L/seq512`, parameters, and what of it runs.
    pub fn headline(&self, layers: usize) -> String {
        let m = &self.config.model;
        let depth = if layers == m.layers {
            format!("{layers}L")
        } else {
            format!("{layers} of {} layers", m.layers)
        };
        let params = ModelConfig { layers, ..m.clone() }.param_count() as f64;
        let params =
            if params < 1e9 { format!("{:.0}M", params / 1e6) } else { format!("{:.2}B", params / 1e9) };
        format!(
            "{} — {}d/{}h/{depth}/seq{} — {params} params — h/d={:.2}x",
            self.name,
            m.dim,
            m.hidden,
            self.config.train.seq,
            m.hidden as f64 / m.dim as f64
        )
    }
}

/// What memory a run took beside what was foreseen.
pub fn memory_line(measured: Option<u64>, predicted: Option<u64>) -> String {
    let known = |n: Option<u64>, none: &str| n.map_or(none.to_owned(), bytes);
    format!(
        "memory {} at the peak, {} predicted",
        known(measured, "not measured here"),
        known(predicted, "none")
    )
}

/// The line above and below a headline.
pub fn rule() -> String {
    "=".repeat(72)
}
