//! The chip model beside what was published: every row with its error, and what the model says of the two
//! findings of the published sweep, the crossover of shapes and the cliff at 5120 channels.
//!
//! Times are predictions of [`ane_bridge::predict`]; constants stand in `ane_bridge::chip` with their sources.
//! Nothing here is fitted.

use ane_bridge::Chip;
use ane_bridge::chip::Evidence;
use ane_bridge::predict::{Measured, Model, PUBLISHED, Use, forward_ms, step_ms};
use serde::Serialize;

/// A predicted time and the published one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Milliseconds of the model.
    pub predicted_ms: f64,
    /// Milliseconds that others measured, on this chip; none for most chips.
    pub published_ms: Option<f64>,
}

impl Pair {
    /// Predicted over published, less one.
    pub fn error(&self) -> Option<f64> {
        self.published_ms.map(|ms| self.predicted_ms / ms - 1.0)
    }
}

/// A configuration on a chip.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Name of the configuration.
    pub name: &'static str,
    /// A forward pass.
    pub forward: Pair,
    /// A whole step; forward-only configurations have none.
    pub step: Option<Pair>,
    /// What the row served for, when it is of this chip.
    pub used: Option<&'static str>,
    /// Shares of the predicted forward pass.
    pub parts: Parts,
}

/// Where a predicted forward pass goes, shares of its time. Found by taking one cost at a time out of the
/// model, so they need not add up to one where costs hide each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Parts {
    /// The fixed cost of dispatches.
    pub dispatch: f64,
    /// Inputs streamed again for intermediates that outgrow the on-chip memory.
    pub spill: f64,
    /// Weights written to surfaces by the host.
    pub staging: f64,
}

/// The published configurations on a chip, the sweep first.
pub fn rows(chip: &Chip) -> Vec<Row> {
    let of = |name: &str| PUBLISHED.iter().find(|m| m.name == name && m.chip == chip.name);
    let row = |m: &Measured| {
        let here = of(m.name);
        let forward =
            Pair { predicted_ms: forward_ms(chip, &m.model), published_ms: here.map(|m| m.forward_ms) };
        let step = m.step.map(|_| Pair {
            predicted_ms: step_ms(chip, &m.model).total_ms(),
            published_ms: here.and_then(|m| m.step).map(|[.., step]| step),
        });
        Row { name: m.name, forward, step, used: here.map(|m| used(m.used)), parts: parts(chip, &m.model) }
    };
    PUBLISHED.iter().filter(|m| m.chip == Chip::M4_MAX.name).map(row).collect()
}

fn used(used: Use) -> &'static str {
    match used {
        Use::Calibration => "fitted",
        Use::HeldOut => "held out",
        Use::ChipPoint => "set the host factor",
        Use::OtherChip => "held out",
    }
}

/// What is known of a chip's speeds.
pub fn evidence(chip: &Chip) -> &'static str {
    match chip.evidence {
        Evidence::Fitted => "fitted to published training steps of this chip",
        Evidence::Measured => "published product rates or dispatch times of this chip, the rest scaled",
        Evidence::Scaled => "scaled from a relative, may be off by a factor",
    }
}

/// Where the predicted forward pass goes.
pub fn parts(chip: &Chip, model: &Model) -> Parts {
    let all = forward_ms(chip, model);
    let without = |change: fn(&mut Chip)| {
        let mut chip = *chip;
        change(&mut chip);
        1.0 - forward_ms(&chip, model) / all
    };
    Parts {
        dispatch: without(|c| c.ane.dispatch_s = 0.0),
        spill: without(|c| c.ane.sram_bytes = f64::INFINITY),
        staging: without(|c| c.host.stage_gb_s = f64::INFINITY),
    }
}

/// Three shapes of one scale: which is fastest, by tokens and by work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scale {
    /// Name, such as `3b`.
    pub name: &'static str,
    /// Variants A (baseline), B (deep and narrow), C (wide and shallow).
    pub variants: [Variant; 3],
}

/// A shape of a scale.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// `A`, `B` or `C`.
    pub letter: char,
    /// Parameters.
    pub params: f64,
    /// A step.
    pub step: Pair,
}

impl Scale {
    /// The fastest variant by a time of each; `None` where one is not known.
    pub fn fastest(&self, time: impl Fn(&Variant) -> Option<f64>) -> Option<char> {
        let times: Option<Vec<(f64, char)>> =
            self.variants.iter().map(|v| Some((time(v)?, v.letter))).collect();
        times?.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, letter)| letter)
    }
}

/// The five scales of the sweep on a chip.
pub fn scales(chip: &Chip) -> Vec<Scale> {
    let rows = rows(chip);
    let variant = |scale: &str, letter: char| {
        let name = format!("{scale}-{letter}");
        let row = rows.iter().find(|r| r.name == name).expect("the sweep has every variant");
        let model = &PUBLISHED.iter().find(|m| m.name == name).expect("the same").model;
        Variant { letter, params: model.params(), step: row.step.expect("the sweep trains") }
    };
    let scale = |name| Scale { name, variants: ['A', 'B', 'C'].map(|letter| variant(name, letter)) };
    ["600m", "1b", "1.5b", "3b", "5b"].into_iter().map(scale).collect()
}

/// A point on the way over the cliff.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Channels of the residual stream.
    pub dim: usize,
    /// Channels of the feed-forward.
    pub hidden: usize,
    /// One layer forward.
    pub layer_ms: f64,
    /// Floating-point operations of its products over that time, 10¹² a second.
    pub tflops: f64,
    /// Share of the time that is spilling.
    pub spill: f64,
}

/// Forward time of one layer over growing widths at 512 tokens, hidden as the ladder has it: 2.7 times.
pub fn cliff(chip: &Chip) -> Vec<Point> {
    let widths = [(3072, 8192), (3584, 9600), (4096, 11_008), (4608, 12_416), (5120, 13_824), (6144, 16_384)];
    let point = |(dim, hidden): (usize, usize)| {
        let heads = dim / 128;
        let shape = |layers| Model {
            dim,
            hidden,
            heads,
            kv_heads: heads,
            head_dim: 128,
            layers,
            vocab: 8192,
            seq: 512,
        };
        let layer = |chip: &Chip| forward_ms(chip, &shape(2)) - forward_ms(chip, &shape(1));
        let mut endless = *chip;
        endless.ane.sram_bytes = f64::INFINITY;
        let (ms, dry) = (layer(chip), layer(&endless));
        let seq = 512.0;
        let flops = 2.0 * seq * shape(1).layer_weights() + 4.0 * seq * seq * dim as f64;
        Point { dim, hidden, layer_ms: ms, tflops: flops / ms / 1e9, spill: 1.0 - dry / ms }
    };
    widths.into_iter().map(point).collect()
}

/// The hidden size at which the fused feed-forward's three `[hidden, seq]` intermediates outgrow the on-chip
/// memory.
pub fn cliff_hidden(chip: &Chip, seq: usize) -> f64 {
    chip.ane.sram_bytes / (2.0 * 3.0 * seq as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_configuration_is_there_and_only_its_own_chip_has_published_times() {
        let rows_of = |name| rows(Chip::find(name).unwrap());
        let own = rows_of("M4 Max");
        assert_eq!((own.len(), own.iter().filter(|r| r.step.is_some()).count()), (33, 25));
        assert!(own.iter().all(|r| r.forward.error().is_some() && r.used.is_some()));
        assert_eq!(rows_of("M5 Max").iter().filter(|r| r.forward.published_ms.is_some()).count(), 6);
        assert!(rows_of("M1").iter().all(|r| r.forward.error().is_none() && r.forward.predicted_ms > 0.0));
        let json = serde_json::to_value(&own).unwrap();
        assert_eq!(json[0]["name"], "600m-A");
    }

    /// By published times the winner goes from C to A to B as models grow, and so it does in the model, for a reason.
    #[test]
    fn the_published_crossover_is_in_the_rows_and_in_the_model() {
        let winners = |chip: &Chip, time: fn(&Variant) -> Option<f64>| -> String {
            scales(chip).iter().filter_map(|s| s.fastest(time)).collect()
        };
        let model = |v: &Variant| Some(v.step.predicted_ms);
        assert_eq!(winners(Chip::M4_MAX, |v| v.step.published_ms), "CCCAB");
        assert_eq!(winners(Chip::M4_MAX, model), "CCCAB");
        let mut even = *Chip::M4_MAX;
        even.host.conflict = 0.0;
        assert_eq!(winners(&even, model), "CCCBB", "without rows that conflict, the smaller B leads at 3B");
    }

    #[test]
    fn the_cliff_is_spilling_and_begins_where_the_memory_ends() {
        let at = cliff_hidden(Chip::M4_MAX, 512);
        assert!((10_900.0..10_950.0).contains(&at), "{at}");
        for p in cliff(Chip::M4_MAX) {
            assert_eq!(p.spill > 0.01, p.hidden as f64 > at, "{p:?}");
        }
        let tflops: Vec<f64> = cliff(Chip::M4_MAX).iter().map(|p| p.tflops).collect();
        assert!(tflops[4] < tflops[2] / 2.0, "{tflops:?}");
        assert_eq!(parts(Chip::M4_MAX, &PUBLISHED[0].model).spill, 0.0);
    }
}
