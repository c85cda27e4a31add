//! Apple chips with a Neural Engine: what limits and the clock need to know of each.
//!
//! Three kinds of numbers, told apart by [`Chip::evidence`]: the M4 Max is fitted to published training
//! runs; some chips have published measurements of their Neural Engine alone; the rest is scaled from
//! the nearest relative. Sources: maderix/ANE (README, issues 3 and 42, pull request 50, convolution
//! stacks), ANEForge (docs/rooflines.md, device saturation sweep, dense products), whiskeypolitik/rustane
//! (results, M4 Max host), Apple's specifications (memory bandwidth). See docs/ane-bridge.md.

use mil::verify::{Family, Limits, Target};

use crate::measured;

use Evidence::{Measured, Scaled};
use Family::{M1, M2, M3, M4, M5};

/// A chip. All of them are in [`Chip::ALL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chip {
    /// Name as macOS says it, without "Apple".
    pub name: &'static str,
    /// Generation, which decides what programs the ANE takes.
    pub family: Family,
    /// Neural Engine cores; two dies of 16 on an Ultra.
    pub ane_cores: u32,
    /// Memory bandwidth of the whole chip by Apple's specification, GB/s.
    pub memory_gb_s: f64,
    /// How well [`Chip::ane`] is known.
    pub evidence: Evidence,
    /// Speeds of the Neural Engine.
    pub ane: Ane,
    /// Speeds of the CPU cores that feed it.
    pub host: Host,
}

/// Where a chip's speeds come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Fitted to published training steps of this chip.
    Fitted,
    /// Product rates or dispatch time published for this chip, the rest scaled.
    Measured,
    /// Scaled from a relative.
    Scaled,
}

/// Speeds of a Neural Engine as [`crate::clock`] uses them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ane {
    /// A whole dispatch of a tiny program, seconds.
    pub dispatch_s: f64,
    /// Rate of one matrix product alone, TFLOPS.
    pub single_tflops: f64,
    /// Rate of a long chain of products in one program, TFLOPS.
    pub chained_tflops: f64,
    /// Elementwise work, GFLOPS.
    pub vector_gflops: f64,
    /// Reading inputs and writing outputs, GB/s.
    pub dma_gb_s: f64,
    /// On-chip memory for intermediates, bytes.
    pub sram_bytes: f64,
    /// Intermediates beyond it are computed in tiles of this many bytes, and each tile streams the
    /// program's inputs again.
    pub tile_bytes: f64,
}

/// Speeds of the host as [`crate::predict`] uses them. Rates of f32 data, in bytes of f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Host {
    /// Weights to fp16 surfaces for the forward pass, what overlap hides taken off, GB/s.
    pub stage_gb_s: f64,
    /// The same for the backward pass, with transposes and gradient accumulation, GB/s.
    pub restage_gb_s: f64,
    /// More time that transposing takes for the backward pass, as a share of [`Host::restage_gb_s`]'s, of a matrix whose
    /// rows lie a multiple of 4 KiB apart: they fall into few sets of the caches.
    pub conflict: f64,
    /// Activations to and from surfaces, GB/s.
    pub copy_gb_s: f64,
    /// f32 matrix products (weight gradients, classifier), TFLOPS.
    pub sgemm_tflops: f64,
    /// The AdamW pass over 28 bytes per parameter, GB/s.
    pub adam_gb_s: f64,
    /// The gradient norm over 4 bytes per parameter, GB/s.
    pub norm_gb_s: f64,
}

/// The M4 Max. `dispatch_s`, `sram_bytes` and `copy_gb_s` are measurements taken as published;
/// `single_tflops` and `chained_tflops` are published peaks; `dma_gb_s` fits four dynamic products;
/// `vector_gflops`, `tile_bytes`, `stage_gb_s`, `restage_gb_s`, `conflict` and `sgemm_tflops` are fitted to the
/// calibration rows of [`crate::predict::PUBLISHED`]; Adam and norm to their share of the same rows.
const M4_MAX: Chip = Chip {
    name: "M4 Max",
    family: Family::M4,
    ane_cores: 16,
    memory_gb_s: 546.0,
    evidence: Evidence::Fitted,
    ane: Ane {
        dispatch_s: 95e-6,
        single_tflops: 8.9,
        chained_tflops: 19.0,
        vector_gflops: 15.7,
        dma_gb_s: 200.0,
        sram_bytes: 33_554_432.0,
        tile_bytes: 43_600.0,
    },
    host: Host {
        stage_gb_s: 17.0,
        restage_gb_s: 11.3,
        conflict: 0.69,
        copy_gb_s: 90.0,
        sgemm_tflops: 2.86,
        adam_gb_s: 300.0,
        norm_gb_s: 150.0,
    },
};

/// A row of the table: `rates` are dispatch µs, single and chained TFLOPS of the Neural Engine.
/// What has no measurement follows the M4 Max: elementwise work with the single rate, DMA with the
/// memory bandwidth, the host with `host`.
const fn chip(
    name: &'static str,
    family: Family,
    ane_cores: u32,
    memory_gb_s: f64,
    evidence: Evidence,
    rates: [f64; 3],
    host: f64,
) -> Chip {
    let like = M4_MAX;
    let [dispatch_us, single_tflops, chained_tflops] = rates;
    Chip {
        name,
        family,
        ane_cores,
        memory_gb_s,
        evidence,
        ane: Ane {
            dispatch_s: dispatch_us * 1e-6,
            single_tflops,
            chained_tflops,
            vector_gflops: like.ane.vector_gflops * single_tflops / like.ane.single_tflops,
            dma_gb_s: like.ane.dma_gb_s * memory_gb_s / like.memory_gb_s,
            ..like.ane
        },
        host: Host {
            stage_gb_s: like.host.stage_gb_s * host,
            restage_gb_s: like.host.restage_gb_s * host,
            conflict: like.host.conflict,
            copy_gb_s: like.host.copy_gb_s * host,
            sgemm_tflops: like.host.sgemm_tflops * host,
            adam_gb_s: like.host.adam_gb_s * host,
            norm_gb_s: like.host.norm_gb_s * host,
        },
    }
}

impl Chip {
    /// Apple M4 Max, the chip with most published measurements.
    pub const M4_MAX: &'static Chip = &M4_MAX;

    /// All chips, oldest first. The last number scales the M4 Max's host: M5 Max and M2 Pro from one
    /// published run each (5B forward, 600m-E step), M3 Ultra from its 600M step of 1302 ms
    /// (ncdrone/rustane, pull request 16); the others by bandwidth and cores, unmeasured.
    pub const ALL: &'static [Chip] = &[
        chip("M1", M1, 16, 68.0, Measured, [220.0, 4.3, 9.0], 0.30),
        chip("M1 Pro", M1, 16, 200.0, Scaled, [220.0, 4.3, 9.0], 0.45),
        chip("M1 Max", M1, 16, 400.0, Measured, [220.0, 4.6, 9.0], 0.50),
        chip("M1 Ultra", M1, 32, 800.0, Scaled, [220.0, 4.6, 9.0], 0.55),
        chip("M2", M2, 16, 100.0, Scaled, [200.0, 7.2, 12.0], 0.40),
        chip("M2 Pro", M2, 16, 200.0, Measured, [200.0, 7.2, 12.0], 0.55),
        chip("M2 Max", M2, 16, 400.0, Scaled, [200.0, 7.2, 12.0], 0.60),
        chip("M2 Ultra", M2, 32, 800.0, Scaled, [200.0, 7.2, 12.0], 0.65),
        chip("M3", M3, 16, 100.0, Scaled, [120.0, 8.0, 16.8], 0.50),
        chip("M3 Pro", M3, 16, 150.0, Measured, [120.0, 8.0, 16.8], 0.60),
        chip("M3 Max", M3, 16, 400.0, Scaled, [120.0, 8.0, 16.8], 0.80),
        chip("M3 Ultra", M3, 32, 819.0, Measured, [200.0, 6.0, 16.8], 0.72),
        chip("M4", M4, 16, 120.0, Measured, [91.0, 5.4, 18.6], 0.60),
        chip("M4 Pro", M4, 16, 273.0, Measured, [95.0, 6.2, 18.6], 0.80),
        M4_MAX,
        chip("M5", M5, 16, 153.0, Measured, [106.0, 8.7, 19.0], 0.70),
        chip("M5 Pro", M5, 16, 307.0, Measured, [106.0, 10.0, 19.0], 0.90),
        chip("M5 Max", M5, 16, 614.0, Measured, [95.0, 10.0, 19.3], 1.08),
    ];

    /// The chip called `name`; letters may be of either case, and "Apple" may stand before it.
    pub fn find(name: &str) -> Option<&'static Chip> {
        let name = name.trim();
        let bare = match name.get(..6) {
            Some(head) if head.eq_ignore_ascii_case("apple ") => name[6..].trim_start(),
            _ => name,
        };
        Self::ALL.iter().find(|chip| chip.name.eq_ignore_ascii_case(bare))
    }

    /// Extents that programs for this chip may have.
    pub fn limits(&self) -> Limits {
        self.target().limits()
    }

    /// What programs for this chip are verified for, in a fresh process.
    pub fn target(&self) -> Target {
        let slice_clamp = measured::Measured::of(self.name).and_then(measured::Measured::slice_clamp);
        Target { slice_clamp, ..Target::new(self.family) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_chips_of_their_family() {
        for chip in Chip::ALL {
            assert_eq!(Chip::find(chip.name), Some(chip));
            assert_eq!(Family::of_chip(chip.name), Some(chip.family));
        }
        assert_eq!(Chip::find("apple m4 max"), Some(Chip::M4_MAX));
        assert_eq!(Chip::find("M4 Maxi"), None);
        assert_eq!(Chip::find("éléphant"), None);
    }

    #[test]
    fn m3_ultra_takes_no_row_beyond_16384() {
        assert_eq!(Chip::find("M3 Ultra").unwrap().limits().spatial, 16_384);
        assert!(Chip::M4_MAX.limits().spatial > 37_888);
    }
}
