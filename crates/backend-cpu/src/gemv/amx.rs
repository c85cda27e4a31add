//! Many rows at once with tiles of AMX: a prompt.
//!
//! Inputs are rounded to bf16 and lie tile by tile, 16 rows of 32 columns, so that rows do not meet in few sets
//! of a cache; tiles of the same rows follow each other. Weights become bf16 on their way, [`DEPTH`] columns
//! of two panels at a time, so that they stay in the first-level cache while all inputs go by; a task has up
//! to [`PANELS`] panels, so that inputs come from the second-level cache more often than from memory. A panel
//! of pairs is what a tile multiplies: 16 pairs of 16 outputs. Sums are f32.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kind, LANES, Lanes, VECTOR};
use crate::gemm::amx::{self, ROW_BYTES, Tiles};

/// Rows of inputs that go together: two tiles.
pub(super) const ROWS: usize = 2 * amx::ROWS;
/// Most panels of a task.
pub(super) const PANELS: usize = 16;
/// Columns of a pass.
const DEPTH: usize = 512;
/// Rows and columns of a tile of inputs.
pub(super) const TILE_ROWS: usize = amx::ROWS;
pub(super) const TILE_COLUMNS: usize = 32;
/// Numbers of a tile.
const TILE: usize = TILE_ROWS * TILE_COLUMNS;

/// Numbers of scratch for [`products`] of `n` rows.
pub(super) fn scratch(n: usize) -> usize {
    n.next_multiple_of(ROWS) * PANELS * LANES + DEPTH * LANES
}

/// The sums of all rows with up to [`PANELS`] panels, `[panel][row][LANES]` at the beginning of `scratch`.
///
/// `x` is `[n rounded up to ROWS][padded]` in tiles, the upper halves of f32; `panel` gives the bytes of each panel.
///
/// # Safety
///
/// [`available`], and AVX-512 with bf16; panels are whole units of `padded` columns.
pub(super) unsafe fn products<'a>(
    kind: Kind,
    panels: usize,
    panel: impl Fn(usize) -> &'a [u8],
    x: &[u16],
    padded: usize,
    scratch: &mut [f32],
) {
    let rows = x.len() / padded;
    let (sums, weights) = scratch.split_at_mut(rows * PANELS * LANES);
    assert!(rows.is_multiple_of(ROWS) && panels <= PANELS && weights.len() >= DEPTH * LANES);
    // SAFETY: the caller's promise.
    let _tiles = unsafe { Tiles::new() };
    for from in (0..padded).step_by(DEPTH) {
        let depth = DEPTH.min(padded - from);
        for pair in (0..panels).step_by(2) {
            for (side, weights) in weights.chunks_exact_mut(DEPTH / 2 * LANES).take(2).enumerate() {
                // The second of a pair may be missing: its sums are not used.
                if pair + side < panels {
                    // SAFETY: instructions as promised; whole units.
                    unsafe { unpack(kind, panel(pair + side), from, depth, weights) };
                }
            }
            for row in (0..rows).step_by(ROWS) {
                let sum = |side: usize| ((pair + side) * rows + row) * LANES;
                // SAFETY: ROWS rows of `depth` columns from `from` on; pairs of as many columns; sums of
                // ROWS rows, of panels below PANELS, which is even.
                unsafe {
                    let x = x.as_ptr().add(row * padded + from * TILE_ROWS);
                    let c = [sum(0), sum(1)].map(|at| sums.as_mut_ptr().add(at));
                    tiles(depth / TILE_COLUMNS, x, TILE_ROWS * padded, weights.as_ptr(), c, from > 0);
                }
            }
        }
    }
}

/// Two tiles of rows by two tiles of panels.
///
/// # Safety
///
/// Tiles are configured; the operands are there, the second rows of `x` `next` numbers behind the first, `c`
/// for [`ROWS`] rows of [`LANES`] sums.
unsafe fn tiles(steps: usize, x: *const u16, next: usize, w: *const f32, c: [*mut f32; 2], add: bool) {
    const LINE: usize = ROW_BYTES;
    let below = |at: *mut f32| at.wrapping_add(amx::ROWS * LANES);
    // SAFETY: the caller's promise; tiles are named nowhere else.
    unsafe {
        if add {
            asm!(
                "tileloadd tmm0, [{c0} + {line}*1]", "tileloadd tmm1, [{c1} + {line}*1]",
                "tileloadd tmm2, [{d0} + {line}*1]", "tileloadd tmm3, [{d1} + {line}*1]",
                c0 = in(reg) c[0], c1 = in(reg) c[1], d0 = in(reg) below(c[0]), d1 = in(reg) below(c[1]),
                line = in(reg) LINE, options(readonly, nostack, preserves_flags)
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nomem, nostack, preserves_flags)
            );
        }
        asm!(
            "2:",
            "tileloadd tmm4, [{x0} + {line}*1]",
            "tileloadd tmm6, [{w0} + {line}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w1} + {line}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x1} + {line}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x0}, {tile}", "add {x1}, {tile}", "add {w0}, {tile}", "add {w1}, {tile}",
            "dec {steps}",
            "jnz 2b",
            x0 = inout(reg) x => _, x1 = inout(reg) x.add(next) => _,
            w0 = inout(reg) w => _, w1 = inout(reg) w.add(DEPTH / 2 * LANES) => _,
            steps = inout(reg) steps => _, line = in(reg) LINE, tile = const 2 * TILE,
            options(readonly, nostack)
        );
        asm!(
            "tilestored [{c0} + {line}*1], tmm0", "tilestored [{c1} + {line}*1], tmm1",
            "tilestored [{d0} + {line}*1], tmm2", "tilestored [{d1} + {line}*1], tmm3",
            c0 = in(reg) c[0], c1 = in(reg) c[1], d0 = in(reg) below(c[0]), d1 = in(reg) below(c[1]),
            line = in(reg) LINE, options(nostack, preserves_flags)
        );
    }
}

/// Columns of a panel as pairs of bf16, `[pairs][LANES]`.
///
/// # Safety
///
/// The machine has AVX-512 with bf16; the panel has these columns, whole units of them.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn unpack(kind: Kind, panel: &[u8], from: usize, depth: usize, to: &mut [f32]) {
    assert!(to.len() >= depth / 2 * LANES);
    let units = panel.chunks_exact(kind.unit_bytes()).skip(from / kind.unit_columns());
    let end = to[..depth / 2 * LANES].as_mut_ptr_range().end;
    let mut to = to.as_mut_ptr();
    for unit in units.take(depth / kind.unit_columns()) {
        // SAFETY: inside a unit, and as many pairs as its columns have; the room was checked.
        unsafe {
            let at = |vector: usize| _mm512_loadu_si512(unit.as_ptr().add(vector * VECTOR).cast());
            if kind == Kind::Bf16 {
                _mm512_storeu_si512(to.cast(), at(0));
                to = to.add(LANES);
                continue;
            }
            let vectors = (kind.unit_bytes() / VECTOR - 1) / 2;
            for half in 0..2 {
                let scale = _mm256_loadu_si256(unit.as_ptr().add(half * VECTOR / 2).cast());
                let scale = _mm512_cvtph_ps(scale);
                let shift = _mm512_mul_ps(scale, _mm512_set1_ps(-kind.zero() as f32));
                for v in 0..vectors {
                    let bytes = at(1 + half * vectors + v);
                    let fours = match kind {
                        Kind::Q4 => {
                            let mask = _mm512_set1_epi32(0x0F0F_0F0F);
                            let high = _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), mask);
                            [Some(_mm512_and_si512(bytes, mask)), Some(high)]
                        }
                        _ => [Some(bytes), None],
                    };
                    for bytes in fours.into_iter().flatten() {
                        let byte = |shifted| _mm512_and_si512(shifted, _mm512_set1_epi32(255));
                        let number = |q| _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), scale, shift);
                        let numbers = [
                            number(byte(bytes)),
                            number(byte(_mm512_srli_epi32::<8>(bytes))),
                            number(byte(_mm512_srli_epi32::<16>(bytes))),
                            number(_mm512_srli_epi32::<24>(bytes)),
                        ];
                        for pair in numbers.as_chunks::<2>().0 {
                            _mm512_storeu_si512(to.cast(), pairs(pair[0], pair[1]));
                            to = to.add(LANES);
                        }
                    }
                }
            }
        }
    }
    // SAFETY: `to` is inside, or at the end, of the room of which the length was checked.
    unsafe { to.write_bytes(0, end.offset_from_unsigned(to)) };
}

/// Two numbers of each lane, rounded to bf16, the first one below.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs(low: __m512, high: __m512) -> __m512i {
    /// A number of the lower half, then its neighbour of the upper half.
    const TURNS: [u16; 32] = {
        let mut turns = [0; 32];
        let mut i = 0;
        while i < 32 {
            turns[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        turns
    };
    // SAFETY: 32 bf16 are 512 bits, and so are 32 numbers of the table.
    unsafe {
        let halves: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
        _mm512_permutexvar_epi16(_mm512_loadu_si512(TURNS.as_ptr().cast()), halves)
    }
}

/// The sums of a row with a panel.
pub(super) fn lanes(scratch: &[f32], rows: usize, panel: usize, row: usize) -> &Lanes {
    let at = (panel * rows.next_multiple_of(ROWS) + row) * LANES;
    scratch[at..].first_chunk().expect("a row of sums")
}
