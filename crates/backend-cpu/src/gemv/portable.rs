//! The kernels in plain Rust: the fallback, and what the others are tested against.

use half::f16;

use super::{BLOCK, Kind, LANES, Lanes, Row, VECTOR};
use crate::Isa;
use crate::isa::simd;
use crate::kernels::vector::fma;

/// A panel of bf16 pairs.
pub(super) fn bf16<const M: usize>(panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
    for (x, y) in x.iter().zip(y) {
        bf16_row(Isa::baseline(), panel, x.values, y);
    }
}

simd! {
    fn bf16_row(panel: &[u8], x: &[f32], y: &mut Lanes) {
        bf16_lanes::<FMA>(panel, x, y)
    }
}

/// One row of inputs: even columns and odd ones have sums of their own.
#[inline(always)]
pub(super) fn bf16_lanes<const FMA: bool>(panel: &[u8], x: &[f32], y: &mut Lanes) {
    let (mut even, mut odd) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (unit, x) in panel.as_chunks::<VECTOR>().0.iter().zip(x.as_chunks::<2>().0) {
        let (pairs, _) = unit.as_chunks::<4>();
        for l in 0..LANES {
            let pair = u32::from_le_bytes(pairs[l]);
            even[l] = fma::<FMA>(f32::from_bits(pair << 16), x[0], even[l]);
            odd[l] = fma::<FMA>(f32::from_bits(pair & 0xFFFF_0000), x[1], odd[l]);
        }
    }
    for l in 0..LANES {
        y[l] = even[l] + odd[l];
    }
}

/// A panel of blocks.
pub(super) fn quants<const M: usize>(kind: Kind, panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
    *y = [[0.0; LANES]; M];
    for (u, unit) in panel.chunks_exact(kind.unit_bytes()).enumerate() {
        let (scales, weights) = unit.split_at(VECTOR);
        for (half, weights) in weights.chunks_exact(weights.len() / 2).enumerate() {
            let block = 2 * u + half;
            for (x, y) in x.iter().zip(&mut *y) {
                let inputs = &x.quants[block * BLOCK..][..BLOCK];
                let mut dots = [x.offsets[block]; LANES];
                for (v, vector) in weights.chunks_exact(VECTOR).enumerate() {
                    for (dot, four) in dots.iter_mut().zip(vector.chunks_exact(4)) {
                        for (i, &w) in four.iter().enumerate() {
                            let term = |w: u8, column: usize| i32::from(w) * i32::from(inputs[column]);
                            *dot += match kind {
                                Kind::Q4 => term(w & 15, 8 * v + i) + term(w >> 4, 8 * v + 4 + i),
                                _ => term(w, 4 * v + i),
                            };
                        }
                    }
                }
                for l in 0..LANES {
                    let d = scale(scales, half, l) * x.scales[block];
                    y[l] = fma::<{ cfg!(target_arch = "aarch64") }>(dots[l] as f32, d, y[l]);
                }
            }
        }
    }
}

fn scale(scales: &[u8], half: usize, lane: usize) -> f32 {
    let at = half * VECTOR / 2 + 2 * lane;
    f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32()
}

/// One row of weights.
pub(super) fn read_lane(kind: Kind, panel: &[u8], lane: usize, values: &mut [f32]) {
    let columns = kind.unit_columns();
    for (values, unit) in values.chunks_mut(columns).zip(panel.chunks_exact(kind.unit_bytes())) {
        if kind == Kind::Bf16 {
            for (value, half) in values.iter_mut().zip(unit[4 * lane..].chunks_exact(2)) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes([half[0], half[1]])) << 16);
            }
            continue;
        }
        let (scales, weights) = unit.split_at(VECTOR);
        for (column, value) in values.iter_mut().enumerate() {
            let (half, column) = (column / BLOCK, column % BLOCK);
            let vectors = weights.len() / VECTOR / 2;
            let byte = |v: usize, i| weights[(half * vectors + v) * VECTOR + 4 * lane + i];
            let q = match kind {
                Kind::Q4 => byte(column / 8, column % 4) >> (column / 4 % 2 * 4) & 15,
                _ => byte(column / 4, column % 4),
            };
            *value = scale(scales, half, lane) * (i32::from(q) - kind.zero()) as f32;
        }
    }
}
