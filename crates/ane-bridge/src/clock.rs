//! How long a chip would take: an analytic clock, no measurement of this machine.
//!
//! ```text
//! rate = chained − (chained − single) / √chain                       TFLOPS of products
//! c    = mac_flops / rate + vector_flops / vector                    compute
//! d    = (input_bytes + output_bytes) / dma                          data in and out
//! s    = max(0, resident_bytes − sram) / tile · input_bytes / dma    spill
//! t    = dispatch + max(c, d) + min(c, d) / chain + s
//! ```
//!
//! `chain` is the number of products on the program's longest path: a deep program keeps its activations
//! on the chip and fetches ahead, a single product does neither. `s` is the cliff: intermediates that
//! outgrow the on-chip memory (about 32 MB by the published throughput knee) are computed tile by tile,
//! and every tile streams the program's inputs, dynamic weights first of all, once more. It explains why
//! a fused feed-forward of hidden size 12288 and 13824 is several times slower per FLOP than 11008: at
//! 512 tokens its three `[hidden, tokens]` intermediates pass 32 MiB at hidden size 10923. The mechanism
//! is our reading; what the hardware does inside is not published.
//!
//! Source of the shape `floor + max(flops, bytes)`: ANEForge, docs/developer/optimizer-and-cost.md.

use mil::Function;
use mil::ops::Work as OpWork;

use crate::chip::Chip;

/// What one dispatch has to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Floating-point operations in matrix products and convolutions.
    pub mac_flops: f64,
    /// All others.
    pub vector_flops: f64,
    /// Bytes of the inputs and of constants that are computed with.
    pub input_bytes: f64,
    /// Bytes of the outputs.
    pub output_bytes: f64,
    /// Products on the longest path, at least 1.
    pub chain: f64,
    /// Most bytes of computed values that wait for a later operation at one time.
    pub resident_bytes: f64,
}

impl Work {
    /// Counts a function whose types were verified.
    pub fn of(function: &Function) -> Self {
        let cost = mil::cost(function);
        Work {
            mac_flops: cost.mac_flops as f64,
            vector_flops: (cost.flops - cost.mac_flops) as f64,
            input_bytes: cost.input_bytes as f64 + cost.weight_bytes as f64,
            output_bytes: cost.output_bytes as f64,
            chain: chain(function) as f64,
            resident_bytes: resident_bytes(function) as f64,
        }
    }
}

/// Seconds of one dispatch on a chip.
pub fn dispatch_s(chip: &Chip, work: &Work) -> f64 {
    let ane = &chip.ane;
    let chain = work.chain.max(1.0);
    let rate = ane.chained_tflops - (ane.chained_tflops - ane.single_tflops) / chain.sqrt();
    let compute = work.mac_flops / (rate * 1e12) + work.vector_flops / (ane.vector_gflops * 1e9);
    let data = (work.input_bytes + work.output_bytes) / (ane.dma_gb_s * 1e9);
    let tiles = (work.resident_bytes - ane.sram_bytes).max(0.0) / ane.tile_bytes;
    let spill = tiles * work.input_bytes / (ane.dma_gb_s * 1e9);
    ane.dispatch_s + compute.max(data) + compute.min(data) / chain + spill
}

/// Seconds of one dispatch of a program's function.
pub fn program_s(chip: &Chip, function: &Function) -> f64 {
    dispatch_s(chip, &Work::of(function))
}

/// Products on the longest path, at least 1.
fn chain(function: &Function) -> u64 {
    let index = Index::new(function);
    let mut longest = vec![0u64; index.len];
    for op in function.ops() {
        let below = op.operands().map(|id| longest[index.of(id)]).max().unwrap_or(0);
        let own = u64::from(matches!(op.op.def().map(|d| d.work), Some(OpWork::Count(_))));
        for &id in &op.results {
            longest[index.of(id)] = below + own;
        }
    }
    longest.into_iter().max().unwrap_or(0).max(1)
}

/// Most bytes of computed values alive between their operation and the last one that reads them.
/// Views cost nothing but keep what they show alive; constants and inputs are streamed.
fn resident_bytes(function: &Function) -> u64 {
    let index = Index::new(function);
    // The computed value behind each value, through views.
    let mut base: Vec<Option<usize>> = vec![None; index.len];
    let mut bytes = vec![0u64; index.len];
    let mut last_read = vec![0usize; index.len];
    for (at, op) in function.ops().iter().enumerate() {
        let mut shown = None;
        for id in op.operands() {
            if let Some(value) = base[index.of(id)] {
                last_read[value] = at;
                shown = shown.or(Some(value));
            }
        }
        let computes = op.constant().is_none() && !matches!(op.op.def().map(|d| d.work), Some(OpWork::None));
        for &id in &op.results {
            let i = index.of(id);
            if computes {
                base[i] = Some(i);
                bytes[i] = function.value(id).ty.bytes() as u64;
            } else {
                base[i] = shown;
            }
        }
    }
    let mut freed_at = vec![0u64; function.ops().len()];
    let (mut alive, mut most) = (0u64, 0u64);
    for (at, op) in function.ops().iter().enumerate() {
        // Elementwise work happens in place: what is read here for the last time makes room first.
        alive -= freed_at[at];
        for &id in &op.results {
            let i = index.of(id);
            if last_read[i] > at {
                alive += bytes[i];
                freed_at[last_read[i]] += bytes[i];
            }
        }
        most = most.max(alive);
    }
    most
}

/// Positions of a function's values.
struct Index {
    of: std::collections::HashMap<mil::ValueId, usize>,
    len: usize,
}

impl Index {
    fn new(function: &Function) -> Self {
        let of: std::collections::HashMap<_, _> =
            function.values().enumerate().map(|(i, (id, _))| (id, i)).collect();
        Self { len: of.len(), of }
    }

    fn of(&self, id: mil::ValueId) -> usize {
        self.of[&id]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mil::{Builder, DType};

    /// `silu(W1·x) ⊙ (W3·x)`, then `W2`, as products of two inputs.
    fn feed_forward(tokens: usize, dim: usize, hidden: usize) -> Function {
        let mut b = Builder::new("main");
        let x = b.input("i00_x", DType::Fp16, [1, 1, tokens, dim]);
        let w1 = b.input("i01_w1", DType::Fp16, [1, 1, dim, hidden]);
        let w2 = b.input("i02_w2", DType::Fp16, [1, 1, hidden, dim]);
        let h = b.matmul(x, w1);
        let s = b.sigmoid(h);
        let g = b.mul(h, s);
        let y = b.matmul(g, w2);
        b.output("o00_y", y);
        b.finish().unwrap()
    }

    #[test]
    fn counts_work_chain_and_what_must_wait() {
        let work = Work::of(&feed_forward(64, 128, 256));
        assert_eq!(work.mac_flops, 2.0 * 2.0 * 64.0 * 128.0 * 256.0);
        assert_eq!(work.chain, 2.0);
        // `h` and its sigmoid wait for their product.
        assert_eq!(work.resident_bytes, 2.0 * 2.0 * 64.0 * 256.0);
        assert_eq!(work.input_bytes, 2.0 * (64.0 * 128.0 + 2.0 * 128.0 * 256.0));
        assert_eq!(work.output_bytes, 2.0 * 64.0 * 128.0);
    }

    #[test]
    fn intermediates_beyond_the_on_chip_memory_are_a_cliff() {
        let per_flop = |hidden: f64| {
            let work = Work {
                mac_flops: 6.0 * 512.0 * 4096.0 * hidden,
                vector_flops: 0.0,
                input_bytes: 2.0 * 3.0 * 4096.0 * hidden,
                output_bytes: 0.0,
                chain: 2.0,
                resident_bytes: 2.0 * 3.0 * 512.0 * hidden,
            };
            dispatch_s(Chip::M4_MAX, &work) / work.mac_flops
        };
        assert!(per_flop(10_900.0) < 1.01 * per_flop(8_192.0));
        assert!(per_flop(12_288.0) > 2.0 * per_flop(10_900.0));
        assert!(per_flop(13_824.0) > 1.5 * per_flop(12_288.0));
    }

    #[test]
    fn a_tiny_program_costs_a_dispatch() {
        let s = program_s(Chip::M4_MAX, &feed_forward(32, 32, 32));
        assert!((95e-6..105e-6).contains(&s), "{s}");
    }

    /// Dynamic products at 512 tokens on the M4 Max, µs. Source: whiskeypolitik/rustane,
    /// system/experiments.tsv. Only the input rate was set with them.
    #[test]
    fn dynamic_products_take_their_published_time() {
        for (k, n, published_us) in
            [(768, 768, 150.0), (768, 2048, 297.0), (1536, 1536, 421.0), (1536, 4096, 954.0)]
        {
            let (k, n) = (f64::from(k), f64::from(n));
            let work = Work {
                mac_flops: 2.0 * 512.0 * k * n,
                vector_flops: 0.0,
                input_bytes: 2.0 * k * (512.0 + n),
                output_bytes: 2.0 * 512.0 * n,
                chain: 1.0,
                resident_bytes: 0.0,
            };
            let ratio = dispatch_s(Chip::M4_MAX, &work) * 1e6 / published_us;
            assert!((0.8..1.25).contains(&ratio), "{k} {n}: {ratio}");
        }
    }
}
