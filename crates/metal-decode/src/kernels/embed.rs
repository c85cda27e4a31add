//! The embedding row of each token.
//!
//! ```text
//! x[t, k] = w[token[t], k]
//! ```
//!
//! `w` is a part of the table, `M` rows from `ROW0` on: a part writes the rows of its own tokens alone.
//! Grid: (blocks / 8, rows).

use model::quant::Format;

use crate::layout;

/// Threads of a workgroup: 8 blocks of 8 pieces.
pub const THREADS: usize = 64;

/// The text.
pub fn text(format: Format, lanes: u32) -> String {
    format!(
        "override NB: u32; override M: u32; override ROW0: u32; override XS: u32;
@group(0) @binding(0) var<storage, read> W: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read> R: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> X: array<vec4<f32>>;
{}@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) li: u32) {{
  _ = &S;
  let j = wid.x * 8u + (li >> 3u); let i = li & 7u; let token = R[wid.y].x;
  if (j >= NB || token < ROW0 || token - ROW0 >= M) {{ return; }}
  let tile = j & ~{}u;
  X[wid.y * XS + tile * 8u + i * {lanes}u + (j - tile)] = weight4(token - ROW0, j, i);
}}\n",
        layout::weight4_fn(format, lanes),
        lanes - 1
    )
}
