//! Where numbers lie in the device's memory.
//!
//! A GPU reads fast when neighbouring lanes read neighbouring 16 bytes. Every kernel works in blocks of 32
//! numbers, one per lane, so the pieces of the blocks of `lanes` neighbours are laid side by side:
//!
//! ```text
//! number k:  block j = k / 32, tile = j / lanes, lane = j mod lanes, piece i = (k mod 32) / 4
//! activation:  vec4 of piece i at  tile · 8 · lanes + i · lanes + lane        (rows padded to whole tiles)
//! weight:      vec4 of word  v at  tile · V · lanes + v · w     + lane        w = blocks of this tile
//! ```
//!
//! `V` is the number of 16-byte words of a block: 4 for f16 and bf16, 2 for Q8_0, 1 for Q4_0. Scales stay
//! in the order of blocks. Source of the order inside a word: this file.

use model::quant::Format;

/// Numbers of a block.
pub const BLOCK: usize = 32;

/// 16-byte words of a block.
pub fn words(format: Format) -> usize {
    match format {
        Format::F16 | Format::Bf16 => 4,
        Format::Q8_0 => 2,
        Format::Q4_0 => 1,
    }
}

/// Whether blocks have a scale.
pub fn scaled(format: Format) -> bool {
    matches!(format, Format::Q8_0 | Format::Q4_0)
}

/// f32 numbers of a row of `k` activations.
pub fn activation_row(k: usize, lanes: usize) -> usize {
    k.div_ceil(BLOCK).next_multiple_of(lanes) * BLOCK
}

/// The place of activation `k`.
pub fn activation(k: usize, lanes: usize) -> usize {
    let (j, within) = (k / BLOCK, k % BLOCK);
    let (tile, lane) = (j / lanes * lanes, j % lanes);
    (tile * 8 + within / 4 * lanes + lane) * 4 + within % 4
}

/// Numbers in the order of [`activation`], padded with zeros.
pub fn activations(values: &[f32], lanes: usize) -> Vec<f32> {
    let mut out = vec![0.0; activation_row(values.len(), lanes)];
    values.iter().enumerate().for_each(|(k, &v)| out[activation(k, lanes)] = v);
    out
}

/// One row of a matrix for the device: words and scales, from its [`Format`] row.
pub fn repack_row(
    format: Format,
    columns: usize,
    lanes: usize,
    bytes: &[u8],
    words_out: &mut [u32],
    scales: &mut [u16],
) {
    let (blocks, v) = (columns.div_ceil(BLOCK), words(format));
    let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    for j in 0..blocks {
        let tile = j / lanes * lanes;
        let width = lanes.min(blocks - tile);
        let place = |n: usize| (tile * v + n * width + j - tile) * 4;
        if !scaled(format) {
            let mut block = [0; 2 * BLOCK];
            let from = &bytes[(2 * BLOCK * j).min(bytes.len())..(2 * BLOCK * (j + 1)).min(bytes.len())];
            block[..from.len()].copy_from_slice(from);
            for (i, b) in block.chunks_exact(4).enumerate() {
                words_out[place(i / 4) + i % 4] = word(b);
            }
            continue;
        }
        let block = &bytes[j * format.block_bytes()..][..format.block_bytes()];
        scales[j] = u16::from_le_bytes([block[0], block[1]]);
        let q = &block[2..];
        if format == Format::Q8_0 {
            for (i, b) in q.chunks_exact(4).enumerate() {
                words_out[place(i / 4) + i % 4] = word(b);
            }
            continue;
        }
        // Value by value, from the lowest four bits of the first word on.
        let four_bits = |i: usize| u32::from(if i < 16 { q[i] & 15 } else { q[i - 16] >> 4 });
        for c in 0..4 {
            words_out[place(0) + c] = (0..8).map(|e| four_bits(8 * c + e) << (4 * e)).sum();
        }
    }
}

/// WGSL: `place(k)`, the place of activation `k` in a row.
pub fn place_fn(lanes: u32) -> String {
    format!(
        "fn place(k: u32) -> u32 {{
  let j = k >> 5u; let tile = j & ~{0}u; let i = (k >> 2u) & 7u;
  return ((tile * 8u + i * {lanes}u + (j - tile)) << 2u) | (k & 3u);
}}\n",
        lanes - 1
    )
}

/// WGSL: `scale(i)`, the scale of block `i` of the buffer `S` of pairs of f16.
pub const SCALE_FN: &str = "fn scale(i: u32) -> f32 {
  let p = unpack2x16float(S[i >> 1u]); return select(p.x, p.y, (i & 1u) == 1u);
}\n";

/// WGSL: `bf(w)`, two bf16 as f32.
pub const BF16_FN: &str = "fn bf(w: u32) -> vec2<f32> {
  return vec2<f32>(bitcast<f32>(w << 16u), bitcast<f32>(w & 0xffff0000u));
}\n";

/// WGSL: `weight4(row, j, i)`, four weights of block `j` of a row of `NB` blocks, from the buffers `W` and
/// `S`, with their scale applied.
pub fn weight4_fn(format: Format, lanes: u32) -> String {
    let v = words(format);
    let (word, value) = match format {
        Format::Q8_0 => ("i >> 2u", "vec4<f32>(unpack4xI8(q[i & 3u])) * scale(row * NB + j)"),
        Format::Q4_0 => (
            "0u",
            "(vec4<f32>((vec4<u32>(q[i >> 1u] >> ((i & 1u) * 16u)) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u)) \
             - 8.0) * scale(row * NB + j)",
        ),
        Format::F16 => (
            "i >> 1u",
            "vec4<f32>(unpack2x16float(q[(i & 1u) * 2u]), unpack2x16float(q[(i & 1u) * 2u + 1u]))",
        ),
        Format::Bf16 => ("i >> 1u", "vec4<f32>(bf(q[(i & 1u) * 2u]), bf(q[(i & 1u) * 2u + 1u]))"),
    };
    let helper = match format {
        Format::Bf16 => BF16_FN,
        Format::F16 => "",
        _ => SCALE_FN,
    };
    format!(
        "{helper}fn weight4(row: u32, j: u32, i: u32) -> vec4<f32> {{
  let tile = j & ~{0}u; let w = min({lanes}u, NB - tile);
  let q = W[row * NB * {v}u + tile * {v}u + ({word}) * w + (j - tile)];
  return {value};
}}\n",
        lanes - 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_activation_has_a_place_of_its_own() {
        for (k, lanes) in [(1, 8), (30, 8), (257, 8), (4096, 32), (1100, 32)] {
            let mut seen = vec![false; activation_row(k, lanes)];
            for i in 0..k {
                assert!(!std::mem::replace(&mut seen[activation(i, lanes)], true), "{i} of {k}");
            }
        }
    }

    #[test]
    fn neighbouring_lanes_read_neighbouring_words() {
        // The first words of the blocks of a tile touch each other.
        let columns = 32 * 8;
        let bytes: Vec<u8> = (0..8).flat_map(|j| [0, 0].into_iter().chain([j as u8; 32])).collect();
        let (mut words, mut scales) = (vec![0; 8 * 8], vec![0; 8]);
        repack_row(Format::Q8_0, columns, 8, &bytes, &mut words, &mut scales);
        let first: Vec<_> = words.chunks(4).take(8).map(|w| w[0] & 255).collect();
        assert_eq!(first, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
