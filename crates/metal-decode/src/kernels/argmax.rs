//! The largest logit of each strip of the vocabulary, the first of equals: what sampling starts from.
//!
//! Results are (value's bits, index) per strip; the index is `0xffffffff` where no logit is a number.
//! Grid: ([`STRIPS`], 1, 1).

/// Strips.
pub const STRIPS: u32 = 64;

/// WGSL: `nan(z)`, and `better(a, i, b, j)`, whether `a` at `i` comes before `b` at `j`.
pub const ORDER_FNS: &str = "fn nan(z: f32) -> bool { return (bitcast<u32>(z) & 0x7fffffffu) > 0x7f800000u; }
fn better(a: f32, i: u32, b: f32, j: u32) -> bool {
  return j == 0xffffffffu || (i != 0xffffffffu && (a > b || (a == b && i < j)));
}\n";

/// The text. Override: `VOCAB`.
pub fn text() -> String {
    format!(
        "override VOCAB: u32;
@group(0) @binding(0) var<storage, read> L: array<f32>;
@group(0) @binding(1) var<storage, read_write> A: array<vec2<u32>>;
var<workgroup> Z: array<f32, 128>;
var<workgroup> N: array<u32, 128>;
{ORDER_FNS}@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) li: u32) {{
  var z = 0.0; var n = 0xffffffffu;
  for (var i = wid.x * 128u + li; i < VOCAB; i += {}u) {{
    let next = L[i];
    if (!nan(next) && better(next, i, z, n)) {{ z = next; n = i; }}
  }}
  Z[li] = z; N[li] = n;
  workgroupBarrier();
  for (var half = 64u; half > 0u; half >>= 1u) {{
    if (li < half && better(Z[li + half], N[li + half], Z[li], N[li])) {{ Z[li] = Z[li + half]; N[li] = N[li + half]; }}
    workgroupBarrier();
  }}
  if (li == 0u) {{ A[wid.x] = vec2<u32>(bitcast<u32>(Z[0]), N[0]); }}
}}\n",
        STRIPS * 128
    )
}
