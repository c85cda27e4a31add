//! Which model the training programs are for, and how they are cut.

use std::path::PathBuf;

use ane_bridge::Chip;
use backend_ane::kernels::Kernel;
use backend_ane::{Dims, Ffn, Inputs, Linear, Plan};
use mil::Program;

use crate::commands::presets;
use crate::device::{ane_classifier, available_memory, bytes};
use crate::failure::Failure;
use crate::settings::{Layers, Origin};

/// Flags that decide the text of a training program.
#[derive(clap::Args)]
#[command(next_help_heading = "Training programs")]
pub struct PlanArgs {
    /// Model to make the program for; `rustane presets ls` lists them
    #[arg(long, default_value = "tiny")]
    preset: String,
    /// File with the settings of a model (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as model.dim=256; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Tokens of one sequence, padded to a multiple of 32 [default: as the model trains]
    #[arg(long, value_name = "N")]
    seq: Option<usize>,
    /// Operation of linear layers: matmul or conv
    #[arg(long, default_value = "matmul", value_parser = linear, value_name = "OP")]
    linear: Linear,
    /// Inputs in one surface or each in its own: packed or separate. This and the next four: what is not
    /// given is whole; when none is, the least cut that the chip takes
    #[arg(long, value_parser = packing, value_name = "HOW")]
    packing: Option<Inputs>,
    /// The feed-forward in one program or in two: fused or split
    #[arg(long, value_parser = ffn, value_name = "HOW")]
    ffn: Option<Ffn>,
    /// Parts that the heads are cut into
    #[arg(long, value_name = "N")]
    head_shards: Option<usize>,
    /// Parts that the channels of the feed-forward are cut into
    #[arg(long, value_name = "N")]
    ffn_shards: Option<usize>,
    /// Parts that the vocabulary is cut into. The plan has the classifier's programs with --set
    /// train.classifier=device
    #[arg(long, value_name = "N")]
    vocab_shards: Option<usize>,
}

fn linear(text: &str) -> Result<Linear, String> {
    match text {
        "matmul" => Ok(Linear::Matmul),
        "conv" => Ok(Linear::Conv),
        _ => Err("wanted matmul or conv".into()),
    }
}

fn packing(text: &str) -> Result<Inputs, String> {
    match text {
        "packed" => Ok(Inputs::Packed),
        "separate" => Ok(Inputs::Separate),
        _ => Err("wanted packed or separate".into()),
    }
}

fn ffn(text: &str) -> Result<Ffn, String> {
    match text {
        "fused" => Ok(Ffn::Fused),
        "split" => Ok(Ffn::Split),
        _ => Err("wanted fused or split".into()),
    }
}

/// A model's plan, which makes its programs.
pub struct Planned {
    /// How the programs are cut.
    pub plan: Plan,
    /// Extents of a block.
    pub dims: Dims,
}

impl PlanArgs {
    /// The plan that the flags describe, or the least cut that `chip` takes.
    pub fn plan(&self, chip: &Chip) -> anyhow::Result<Planned> {
        let mut layers = Layers::new();
        layers.preset(presets::find(&self.preset)?);
        if let Some(file) = &self.config {
            layers.file(file)?;
        }
        for assignment in &self.set {
            layers.assign(assignment)?;
        }
        if let Some(seq) = self.seq {
            layers.set("train.seq", seq, Origin::Flag("seq".into()));
            // Positions are the model's, and no program depends on their number.
            layers.set("model.max_seq", seq.max(1), Origin::Flag("seq".into()));
        }
        let config = layers.finish()?;
        let dims = Dims::new(&config.model, config.train.seq);
        let mut plan = Plan::new(config.train.seq, 1);
        plan.choices.linear = self.linear;
        plan.choices.inputs = self.packing.unwrap_or(plan.choices.inputs);
        plan.ffn = self.ffn.unwrap_or(plan.ffn);
        plan.head_shards = self.head_shards.unwrap_or(plan.head_shards);
        plan.ffn_shards = self.ffn_shards.unwrap_or(plan.ffn_shards);
        plan.classifier = ane_classifier(config.train.classifier);
        plan.vocab_shards = self.vocab_shards.unwrap_or(plan.vocab_shards);
        let refused = |e: backend_ane::PlanError| Failure::Usage(format!("{e} ({})", chip.name));
        plan.check(&dims).map_err(refused)?;
        let asked = self.packing.is_some()
            || self.ffn.is_some()
            || self.head_shards.is_some()
            || self.ffn_shards.is_some()
            || self.vocab_shards.is_some();
        if !asked {
            plan = plan.fit(&dims, &chip.limits()).map_err(refused)?;
        }
        // The causal mask and the rotation are constants of these extents; f32 first, then fp16.
        let (seq, head_dim) = (dims.s() as u64, dims.head_dim as u64);
        let constants = (seq + head_dim).saturating_mul(seq + head_dim).saturating_mul(6);
        demand(constants, "the constants of the attention programs", "use a shorter --seq")?;
        Ok(Planned { plan, dims })
    }
}

impl Planned {
    /// The program of a kernel.
    pub fn program(&self, kernel: Kernel) -> Program {
        kernel.program(&self.plan.dims(&self.dims, kernel), &self.plan.choices)
    }

    /// The cut in words.
    pub fn describe(&self) -> String {
        let inputs = match self.plan.choices.inputs {
            Inputs::Packed => "packed",
            Inputs::Separate => "separate",
        };
        let ffn = match self.plan.ffn {
            Ffn::Fused => "fused",
            Ffn::Split => "split",
        };
        let shards = |n: usize, what: &str| match n {
            1 => String::new(),
            n => format!(", {what} in {n} shards"),
        };
        format!(
            "dim {}, hidden {}, {} heads of {}, {} key heads, {} tokens; {inputs} inputs, {ffn} feed-forward{}{}{}",
            self.dims.dim,
            self.dims.hidden,
            self.dims.heads,
            self.dims.head_dim,
            self.dims.kv_heads,
            self.dims.s(),
            shards(self.plan.head_shards, "heads"),
            shards(self.plan.ffn_shards, "feed-forward"),
            shards(self.plan.vocab_shards, "vocabulary"),
        )
    }
}

/// Fails where more memory is needed than there is.
pub fn demand(needed: u64, what: &str, advice: &str) -> Result<(), Failure> {
    match available_memory() {
        Some(free) if needed > free => Err(Failure::DoesNotFit(format!(
            "{what} need at least {}, {} are free; {advice}",
            bytes(needed),
            bytes(free)
        ))),
        _ => Ok(()),
    }
}
