//! Backends that write.

use std::num::NonZeroUsize;

use ane_bridge::AppleAne;
use backend::{Decode, Feed, KvBlock, Logits, Prefill, SeqId, Stream};
use backend_ane::AneInfer;
use backend_cpu::{CpuInfer, Plan};
use engine::infer::Infer;
use metal_decode::{Api, GpuInfer, Settings};
use model::{BoxError, ModelConfig, TokenId, Weights};

use super::place::Place;
use super::{Device, DeviceArgs, chain};
use crate::failure::Failure;
use crate::format::{Held, held};
use crate::gpu;

/// Flags of commands that write.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct WriterArgs {
    /// How weights are held: f32 (the CPU), f16 (a GPU), bf16, q8_0 or q4_0 [default: f32 on the CPU, f16 on a GPU]
    #[arg(long, value_name = "FORMAT", value_parser = held)]
    format: Option<Held>,
    /// Tokens that each token sees, itself included: the cache is a ring of little more, and a text may be longer
    /// (GPUs) [default: all]
    #[arg(long, value_name = "N")]
    window: Option<NonZeroUsize>,
    /// Where prompts are read, if not where the text is written: keys and values go over [default: there]
    #[arg(long, value_name = "DEVICE")]
    prompts: Option<Device>,
}

impl WriterArgs {
    /// Weights in a format, and nothing else that is not the default.
    pub fn of(format: Option<Held>) -> Self {
        Self { format, ..Self::default() }
    }
}

/// One device reads the prompt, another writes: each has the whole model.
struct HandOver {
    reads: Box<dyn Infer>,
    writes: Box<dyn Infer>,
}

impl Prefill for HandOver {
    fn prefill(&mut self, tokens: &[TokenId]) -> backend::Result<(KvBlock, Logits)> {
        self.reads.prefill(tokens)
    }
}

impl Decode for HandOver {
    fn seed(&mut self, seq: SeqId, kv: &KvBlock) -> backend::Result<()> {
        self.writes.seed(seq, kv)
    }

    fn extend(&mut self, feeds: &[Feed<'_>]) -> backend::Result<Logits> {
        self.writes.extend(feeds)
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> backend::Result<()> {
        self.writes.truncate(seq, len)
    }

    fn release(&mut self, seq: SeqId) {
        self.writes.release(seq);
    }

    fn stream(&mut self) -> Option<&mut dyn Stream> {
        self.writes.stream()
    }
}

impl DeviceArgs {
    /// A backend that writes where the model trains: with `auto` on the host, whatever GPU there is.
    pub fn writer(&self, config: &ModelConfig, weights: Weights) -> Result<Box<dyn Infer>, BoxError> {
        if gpu::api(self.device).is_some() {
            return Ok(self.writer_in(config, weights, &WriterArgs::default())?.0);
        }
        Ok(self.host_writer(config, weights, None)?.0)
    }

    /// A backend that writes, by the flags of writing, and what reports call it.
    pub fn writer_in(
        &self,
        config: &ModelConfig,
        weights: Weights,
        writing: &WriterArgs,
    ) -> Result<(Box<dyn Infer>, String), BoxError> {
        let Some(device) = writing.prompts else {
            return self.one_writer(config, weights, writing);
        };
        let prompts = Self { device, ..self.clone() };
        let (reads, reader) = prompts.one_writer(config, weights.clone(), &WriterArgs::default())?;
        let (writes, writer) = self.one_writer(config, weights, writing)?;
        Ok((Box::new(HandOver { reads, writes }), format!("{writer}; prompts on {reader}")))
    }

    fn one_writer(
        &self,
        config: &ModelConfig,
        weights: Weights,
        &WriterArgs { format, window, .. }: &WriterArgs,
    ) -> Result<(Box<dyn Infer>, String), BoxError> {
        let change = |settings| Settings { window, ..settings };
        if let Some(writer) = self.gpu_writer(config, Some(&weights), format, change)? {
            let label = format!("{}, {}", writer.gpu().label(), writer.format());
            return Ok((Box::new(writer), label));
        }
        if let Some(window) = window {
            let text = format!("--window {window} is for GPUs: --device metal or vulkan");
            return Err(Failure::Usage(text).into());
        }
        self.host_writer(config, weights, format)
    }

    /// The model on a GPU, where the flag leads there: always with `metal` and `vulkan`; with `auto` where
    /// one is there that is no program, passes its test and holds the model. `None` is the host. What `auto`
    /// comes to is said, with the reason. Noise for no weights; `change` has the last word on the settings.
    pub fn gpu_writer(
        &self,
        config: &ModelConfig,
        weights: Option<&Weights>,
        format: Option<Held>,
        change: impl FnOnce(Settings) -> Settings,
    ) -> Result<Option<GpuInfer>, Failure> {
        let auto = self.device == Device::Auto;
        let load = |api| {
            let format = Held::on_gpu(format)?;
            let device = gpu::open(api)?;
            let settings = change(gpu::settings(&device, format));
            gpu::load(device, config, weights, settings)
        };
        match gpu::api(self.device).or(auto.then_some(Api::Any)).map(load) {
            Some(Ok(writer)) => {
                if auto {
                    gpu::say(&format!("{}, {}: it passed its test", writer.gpu().label(), writer.format()));
                }
                Ok(Some(writer))
            }
            Some(Err(error)) if auto => {
                gpu::say(&format!("{}: {error}", self.label()));
                Ok(None)
            }
            Some(Err(error)) => Err(error),
            None => Ok(None),
        }
    }

    /// The processor, or a Neural Engine with it, and what reports call it.
    fn host_writer(
        &self,
        config: &ModelConfig,
        weights: Weights,
        format: Option<Held>,
    ) -> Result<(Box<dyn Infer>, String), BoxError> {
        if self.is_cpu()? {
            let label = format!("{}, {}", self.label(), format.unwrap_or(Held::F32));
            return Ok((Box::new(self.cpu_writer(config, weights, format)?), label));
        }
        if let Some(format) = format {
            let text = format!("--format {format} is of the CPU and of GPUs: --device cpu, metal or vulkan");
            return Err(Failure::Usage(text).into());
        }
        Ok((self.ane_writer(config, weights)?, self.label()))
    }

    /// The CPU as a writer.
    pub fn cpu_writer(
        &self,
        config: &ModelConfig,
        weights: Weights,
        format: Option<Held>,
    ) -> Result<CpuInfer, BoxError> {
        // A prompt is read in passes of this many tokens.
        let plan = Plan::new(config.max_seq.min(512)).with_threads(self.threads());
        let plan = plan.with_format(Held::on_cpu(format)?);
        CpuInfer::new(config, weights, plan).map_err(|error| match chain(&error) {
            text if is_weight(&error) => Failure::Data { code: "E3030", text }.into(),
            _ => error.into(),
        })
    }

    fn ane_writer(&self, config: &ModelConfig, weights: Weights) -> Result<Box<dyn Infer>, BoxError> {
        // Prompts are padded to one length; decoding is the CPU's.
        let padded = || backend_ane::Plan {
            threads: self.threads(),
            ..backend_ane::Plan::new(config.max_seq.min(512), 1)
        };
        match self.place()? {
            Place::Ane(settings) => {
                let device = AppleAne::open(settings)?;
                Ok(Box::new(AneInfer::new(device, config, weights, padded())?))
            }
            Place::VirtualAne => Ok(Box::new(AneInfer::new(self.virtual_ane(), config, weights, padded())?)),
            Place::Cpu => Ok(Box::new(self.cpu_writer(config, weights, None)?)),
        }
    }
}

/// Whether a weight is the cause of an error.
fn is_weight(error: &backend::Error) -> bool {
    let mut next = Some(error as &dyn std::error::Error);
    while let Some(error) = next {
        if error.is::<model::quant::QuantError>() {
            return true;
        }
        next = error.source();
    }
    false
}
