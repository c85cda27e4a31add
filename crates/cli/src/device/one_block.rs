//! Devices that run a model forward with one block of it in memory.

use std::collections::BTreeMap;

use backend::{Footprint, Result, Tokens};
use backend_cpu::Plan;
use bench::{Draw, OneBlock, TrainsForward};
use engine::RunConfig;
use model::quant::Format;
use model::{ModelConfig, Params, TokenId};

use super::memory::demand;
use super::{DeviceArgs, chain};
use crate::failure::Failure;

/// Such a device, and what is told of it.
pub struct Forward {
    /// It.
    pub device: Box<dyn OneBlock>,
    /// Bytes that it will touch, where that is known.
    pub memory: Option<u64>,
    /// What it did so far, as a line; nothing for the CPU.
    pub ledger: Box<dyn Fn() -> Option<String>>,
    /// Dispatches by device.
    pub counts: Box<dyn Fn() -> Option<BTreeMap<String, u64>>>,
}

/// The CPU with weights in few bits.
struct FewBits(backend_cpu::OneBlock);

impl OneBlock for FewBits {
    fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    fn fill(&mut self, block: Option<usize>, draw: Draw<'_>) -> Result<()> {
        self.0.fill(block, draw)
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<()> {
        self.0.embed(tokens)
    }

    fn block(&mut self) -> Result<()> {
        self.0.block();
        Ok(())
    }

    fn loss(&mut self, targets: &[TokenId]) -> Result<f32> {
        self.0.loss(targets)
    }
}

impl DeviceArgs {
    /// A device with one block of a model. Weights are f32 and the device any that trains; or they are in a format,
    /// on the CPU.
    pub fn one_block(&self, config: &RunConfig, format: Option<Format>) -> anyhow::Result<Forward> {
        let Some(format) = format else {
            let trainer = self.trainer(config)?;
            return Ok(Forward {
                memory: trainer.memory().map(|reserved| touched(&config.model, reserved)),
                ledger: Box::new(trainer.later_ledger()),
                counts: Box::new(trainer.later_counts()),
                device: Box::new(TrainsForward::new(trainer.backend, self.threads())),
            });
        };
        if !self.is_cpu()? {
            let text =
                format!("weights as {format} are of the CPU, not of the {}: use --device cpu", self.name());
            return Err(Failure::Usage(text).into());
        }
        let plan = Plan::new(config.train.seq).with_threads(self.threads()).with_format(Some(format));
        let needed = backend_cpu::OneBlock::footprint(&config.model, plan)?;
        demand(&needed)?;
        let device = backend_cpu::OneBlock::new(&config.model, plan);
        Ok(Forward {
            device: Box::new(FewBits(device.map_err(|e| Failure::DoesNotFit(chain(&e)))?)),
            memory: Some(Footprint::total(&needed)),
            ledger: Box::new(|| None),
            counts: Box::new(|| None),
        })
    }
}

/// Bytes that a forward pass touches of those that a trainer of one layer reserves: neither gradients nor
/// moments, and the numbers drawn last beside them.
fn touched(model: &ModelConfig, reserved: u64) -> u64 {
    let largest = Params::new(model).iter().map(|p| 4 * p.len() as u64).max().unwrap_or(0);
    reserved.saturating_sub(12 * model.param_count()) + largest
}
