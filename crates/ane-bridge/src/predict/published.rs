//! Times that others published, to calibrate and to judge the predictions. None is ours.

use Use::{Calibration, ChipPoint, HeldOut, OtherChip};

use super::Model;

/// What a published row serves for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// M4 Max: constants were fitted to it.
    Calibration,
    /// M4 Max: the fit did not use it.
    HeldOut,
    /// Another chip's row that set its host factor.
    ChipPoint,
    /// Another chip's row that set nothing.
    OtherChip,
}

/// One published measurement, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Measured {
    pub chip: &'static str,
    pub name: &'static str,
    pub model: Model,
    pub forward_ms: f64,
    /// Backward, update and the whole step; forward-only runs have none.
    pub step: Option<[f64; 3]>,
    pub used: Use,
    pub source: &'static str,
}

const fn model([dim, hidden, layers, seq]: [usize; 4]) -> Model {
    let heads = dim / 128;
    Model { dim, hidden, heads, kv_heads: heads, head_dim: 128, layers, vocab: 8192, seq }
}

/// A training row: `[dim, hidden, layers, seq]`, then forward, backward, update, step.
const fn row(
    chip: &'static str,
    name: &'static str,
    sizes: [usize; 4],
    ms: [f64; 4],
    used: Use,
    source: &'static str,
) -> Measured {
    let [forward_ms, backward, update, step] = ms;
    let step = Some([backward, update, step]);
    Measured { chip, name, model: model(sizes), forward_ms, step, used, source }
}

const fn sweep(name: &'static str, sizes: [usize; 4], ms: [f64; 4], used: Use) -> Measured {
    row("M4 Max", name, sizes, ms, used, "whiskeypolitik/rustane, results/2026-03-18_1830_param-sweep.md")
}

/// A forward pass of 512 tokens: `[dim, hidden, layers]`.
const fn ladder(
    chip: &'static str,
    name: &'static str,
    [dim, hidden, layers]: [usize; 3],
    forward_ms: f64,
    used: Use,
) -> Measured {
    let source = "ncdrone/rustane, README.md";
    Measured { chip, name, model: model([dim, hidden, layers, 512]), forward_ms, step: None, used, source }
}

/// The 25 sweep configurations and the forward ladder of the M4 Max, and runs of other chips.
pub const PUBLISHED: &[Measured] = &[
    sweep("600m-A", [1536, 4096, 20, 512], [235.0, 644.0, 58.0, 961.0], Calibration),
    sweep("600m-B", [1280, 3456, 28, 512], [278.0, 622.0, 55.0, 973.0], HeldOut),
    sweep("600m-C", [1792, 4864, 14, 512], [234.0, 554.0, 62.0, 865.0], HeldOut),
    sweep("600m-D", [1536, 6144, 16, 512], [272.0, 659.0, 60.0, 1007.0], HeldOut),
    sweep("600m-E", [1536, 4096, 20, 256], [171.0, 462.0, 57.0, 707.0], Calibration),
    sweep("1b-A", [2048, 5632, 28, 512], [592.0, 1461.0, 147.0, 2248.0], HeldOut),
    sweep("1b-B", [1792, 4864, 36, 512], [620.0, 1412.0, 140.0, 2210.0], Calibration),
    sweep("1b-C", [2304, 6144, 20, 512], [549.0, 1313.0, 121.0, 2012.0], HeldOut),
    sweep("1b-D", [2048, 8192, 20, 512], [554.0, 1535.0, 126.0, 2254.0], HeldOut),
    sweep("1b-E", [2048, 5632, 28, 256], [426.0, 1046.0, 137.0, 1647.0], HeldOut),
    sweep("1.5b-A", [2304, 6144, 32, 512], [872.0, 2109.0, 199.0, 3232.0], HeldOut),
    sweep("1.5b-B", [2048, 5632, 40, 512], [834.0, 2090.0, 198.0, 3179.0], HeldOut),
    sweep("1.5b-C", [2560, 6912, 24, 512], [800.0, 1753.0, 182.0, 2775.0], Calibration),
    sweep("1.5b-D", [2304, 9216, 22, 512], [981.0, 2068.0, 182.0, 3287.0], HeldOut),
    sweep("1.5b-E", [2304, 6144, 32, 256], [611.0, 1510.0, 190.0, 2369.0], HeldOut),
    sweep("3b-A", [2560, 6912, 40, 512], [1323.0, 2938.0, 296.0, 4639.0], Calibration),
    sweep("3b-B", [2304, 6144, 48, 512], [1294.0, 3123.0, 278.0, 4774.0], HeldOut),
    sweep("3b-C", [3072, 8192, 28, 512], [1284.0, 3423.0, 295.0, 5089.0], HeldOut),
    sweep("3b-D", [2560, 10240, 28, 512], [1533.0, 3293.0, 265.0, 5171.0], HeldOut),
    sweep("3b-E", [2560, 6912, 40, 256], [950.0, 1998.0, 289.0, 3313.0], Calibration),
    sweep("5b-A", [3072, 8192, 44, 512], [2050.0, 5303.0, 458.0, 7940.0], Calibration),
    sweep("5b-B", [2560, 6912, 60, 512], [2001.0, 4344.0, 430.0, 6893.0], HeldOut),
    sweep("5b-C", [3584, 9600, 32, 512], [2351.0, 5242.0, 450.0, 8171.0], HeldOut),
    sweep("5b-D", [3072, 12288, 32, 512], [4636.0, 5429.0, 438.0, 10613.0], Calibration),
    sweep("5b-E", [3072, 8192, 44, 256], [1467.0, 4087.0, 438.0, 6115.0], HeldOut),
    ladder("M4 Max", "fwd-5b", [3072, 8192, 44], 2064.0, HeldOut),
    ladder("M4 Max", "fwd-7b", [4096, 11008, 32], 3132.0, Calibration),
    ladder("M4 Max", "fwd-10b", [4096, 11008, 48], 4696.0, HeldOut),
    ladder("M4 Max", "fwd-13b", [5120, 13824, 40], 21962.0, HeldOut),
    ladder("M4 Max", "fwd-15b", [5120, 13824, 48], 26740.0, HeldOut),
    ladder("M4 Max", "fwd-20b", [5120, 13824, 64], 40933.0, Calibration),
    ladder("M4 Max", "fwd-25b", [5120, 13824, 80], 64000.0, HeldOut),
    ladder("M4 Max", "fwd-30b", [6144, 16384, 64], 75000.0, HeldOut),
    ladder("M5 Max", "fwd-5b", [3072, 8192, 44], 1910.0, ChipPoint),
    ladder("M5 Max", "fwd-7b", [4096, 11008, 32], 2878.0, OtherChip),
    ladder("M5 Max", "fwd-10b", [4096, 11008, 48], 4329.0, OtherChip),
    ladder("M5 Max", "fwd-13b", [5120, 13824, 40], 20270.0, OtherChip),
    ladder("M5 Max", "fwd-15b", [5120, 13824, 48], 24303.0, OtherChip),
    ladder("M5 Max", "fwd-20b", [5120, 13824, 64], 32380.0, OtherChip),
    row(
        "M2 Pro",
        "600m-E",
        [1536, 4096, 20, 256],
        [293.9, 741.5, 109.5, 1174.6],
        ChipPoint,
        "ncdrone/rustane, pull request 20",
    ),
];
