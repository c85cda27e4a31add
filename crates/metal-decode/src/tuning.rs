//! Which tiling each matrix product runs with.
//!
//! No device is known well enough to compute the best one, so a table holds what was timed: built in for
//! classes of devices, and measured on the user's by [`crate::tune`].

use model::quant::Format;
use serde::{Deserialize, Serialize};

use crate::gpu::Gpu;
use crate::kernels::Epilogue;
use crate::kernels::gemv::Tiling;

/// One timed shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the format.
    pub format: String,
    /// Inputs.
    pub k: usize,
    /// Outputs.
    pub m: usize,
    /// The fastest tiling.
    pub tiling: Tiling,
}

/// The table of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// Timed shapes.
    pub entries: Vec<Entry>,
    /// Splits of positions in attention over long contexts; 0: by the number of key heads.
    #[serde(default)]
    pub splits: u32,
    /// Rows of a subgroup when several vectors are multiplied at once; 0: two.
    #[serde(default)]
    pub batch_rows: u32,
}

impl Tuning {
    /// What is known of a device before anything was timed on it.
    pub fn builtin() -> Self {
        // (inputs, outputs) and the tilings of Q8_0 and Q4_0 in integer arithmetic, where they win; each
        // (rows, threads, split, dots). Then those of halves, Q8_0 and Q4_0 in floats, each (rows, threads,
        // split). Timed on an NVIDIA H200 through Vulkan: results/h200-vulkan.
        type Whole = ((usize, usize), [(u32, u32, u32, u32); 2]);
        const IN_DOTS: [Whole; 5] = [
            ((4096, 6144), [(4, 256, 1, 264), (2, 512, 1, 264)]),
            ((4096, 4096), [(2, 256, 1, 264), (2, 512, 1, 264)]),
            ((4096, 28_672), [(4, 256, 1, 264), (2, 512, 1, 264)]),
            ((14_336, 4096), [(4, 256, 2, 264), (2, 512, 2, 264)]),
            ((4096, 128_256), [(4, 256, 1, 264), (2, 512, 1, 264)]),
        ];
        type Row = ((usize, usize), [(u32, u32, u32); 3]);
        const TIMED: [Row; 10] = [
            ((4096, 6144), [(2, 128, 4), (2, 256, 2), (2, 256, 2)]),
            ((4096, 4096), [(4, 128, 4), (2, 256, 4), (2, 128, 4)]),
            ((4096, 28_672), [(2, 128, 4), (2, 128, 2), (4, 128, 2)]),
            ((14_336, 4096), [(2, 128, 2), (2, 256, 8), (4, 256, 4)]),
            ((4096, 128_256), [(2, 128, 4), (4, 128, 1), (4, 128, 1)]),
            ((2048, 3072), [(2, 128, 2), (2, 256, 2), (1, 256, 2)]),
            ((2048, 2048), [(2, 128, 2), (1, 256, 2), (1, 256, 2)]),
            ((2048, 16_384), [(2, 128, 2), (4, 128, 1), (4, 256, 1)]),
            ((8192, 2048), [(2, 128, 4), (2, 256, 4), (4, 256, 4)]),
            ((2048, 128_256), [(2, 128, 2), (4, 128, 1), (4, 128, 1)]),
        ];
        let mut entries = Vec::new();
        // The first of equally near entries is taken.
        for ((k, m), tilings) in IN_DOTS {
            for (format, (rows, threads, split, dots)) in
                [Format::Q8_0, Format::Q4_0].into_iter().zip(tilings)
            {
                let tiling = Tiling { rows, threads, split, dots };
                entries.push(Entry { format: format.name().into(), k, m, tiling });
            }
        }
        for ((k, m), tilings) in TIMED {
            for format in Format::ALL {
                let (rows, threads, split) = match format {
                    Format::F16 | Format::Bf16 => tilings[0],
                    Format::Q8_0 => tilings[1],
                    Format::Q4_0 => tilings[2],
                };
                let tiling = Tiling { rows, threads, split, dots: 0 };
                entries.push(Entry { format: format.name().into(), k, m, tiling });
            }
        }
        Self { entries, splits: 0, batch_rows: 0 }
    }

    /// The tiling for a matrix: that of the nearest shape of its format, made to fit the device.
    pub fn tiling(&self, gpu: &Gpu, format: Format, k: usize, m: usize, epilogue: Epilogue) -> Tiling {
        let distance = |e: &Entry| {
            let ratio = |a: usize, b: usize| (a as f64 / b as f64).ln().abs();
            ratio(e.k, k) + ratio(e.m, m)
        };
        let can = |e: &&Entry| e.tiling.dots == 0 || gpu.multiplies_bytes();
        let of_format = self.entries.iter().filter(|e| e.format == format.name()).filter(can);
        let nearest = of_format.min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let tiling = nearest.map_or(Tiling { rows: 2, threads: 128, split: 1, dots: 0 }, |e| e.tiling);
        let rows = if epilogue == Epilogue::Swiglu { tiling.rows.next_multiple_of(2) } else { tiling.rows };
        let threads = tiling.threads.min(gpu.max_threads()).max(gpu.lanes());
        let most = threads / gpu.lanes();
        let split = (1..=tiling.split.min(most)).rev().find(|s| most.is_multiple_of(*s)).unwrap_or(1);
        Tiling { rows, threads, split, ..tiling }
    }
}
