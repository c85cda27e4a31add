//! Draws the next token on the device, so that no token waits for the host.
//!
//! In this order, as on the host: temperature, top-k, min-p, top-p, draw; temperature 0 takes the most
//! likely. The cut-offs of top-k and top-p are thresholds on the logits, found digit by digit of their
//! ordered bits from histograms in workgroup memory; equal logits at a threshold stay together. Masses in
//! the histogram of top-p are in units of 2⁻³¹ of the whole, so their sum does not depend on the order.
//! The random number is Philox4x32-10 of (seed, tokens drawn). Source: Salmon et al. 2011,
//! doi:10.1145/2063384.2063405.
//!
//! The token becomes the next input: `R[0]` is its row, one position on; `RING[drawn mod length]` keeps it
//! for the host. One workgroup.

use super::argmax::{ORDER_FNS, STRIPS};

/// Tokens that the ring holds.
pub const RING: usize = 64;
/// Words before the ring: temperature, top-k, top-p, min-p, seed (2), drawn, unused.
pub const HEADER: usize = 8;

/// The text of the most likely token alone, from the largest logits of `COUNT` workgroups: see
/// [`super::Epilogue::Largest`]. One workgroup.
pub fn greedy() -> String {
    format!(
        "override COUNT: u32;
@group(0) @binding(0) var<storage, read> A: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read_write> R: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> D: array<u32>;
var<workgroup> Z: array<f32, 256>;
var<workgroup> N: array<u32, 256>;
{ORDER_FNS}@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32) {{
  var z = 0.0; var token = 0xffffffffu;
  for (var i = li; i < COUNT; i += 256u) {{
    let a = A[i]; let next = bitcast<f32>(a.x);
    if (better(next, a.y, z, token)) {{ z = next; token = a.y; }}
  }}
  Z[li] = z; N[li] = token;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half >>= 1u) {{
    if (li < half && better(Z[li + half], N[li + half], Z[li], N[li])) {{ Z[li] = Z[li + half]; N[li] = N[li + half]; }}
    workgroupBarrier();
  }}
  if (li == 0u) {{ {} }}
}}\n",
        next("N[0]")
    )
}

/// WGSL: makes `token` the next input and keeps it for the host.
fn next(token: &str) -> String {
    format!(
        "let row = R[0]; let drawn = D[6]; let next = {token};
    R[0] = vec4<u32>(select(next, 0u, next == 0xffffffffu), row.y + 1u, row.z, row.w);
    D[{HEADER}u + drawn % {RING}u] = next;
    D[6] = drawn + 1u;"
    )
}

/// The text. Override: `VOCAB`.
pub fn text() -> String {
    format!(
        "override VOCAB: u32;
@group(0) @binding(0) var<storage, read> L: array<f32>;
@group(0) @binding(1) var<storage, read> A: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> R: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> D: array<u32>;
var<workgroup> HIST: array<atomic<u32>, 256>;
var<workgroup> SUM: array<f32, 256>;
var<workgroup> FOUND: u32;
var<workgroup> MOST: f32;
{ORDER_FNS}
fn ordered(z: f32) -> u32 {{
  let b = bitcast<u32>(z);
  return select(b | 0x80000000u, ~b, (b & 0x80000000u) != 0u);
}}
fn high(a: u32, b: u32) -> u32 {{
  let al = a & 0xffffu; let ah = a >> 16u; let bl = b & 0xffffu; let bh = b >> 16u;
  let m = ah * bl + ((al * bl) >> 16u); let n = al * bh + (m & 0xffffu);
  return ah * bh + (m >> 16u) + (n >> 16u);
}}
fn philox(seed: vec2<u32>, n: u32) -> u32 {{
  var c = vec4<u32>(n, 0u, 0u, 0u); var k = seed;
  for (var i = 0u; i < 10u; i++) {{
    c = vec4<u32>(high(0xCD9E8D57u, c.z) ^ c.y ^ k.x, 0xCD9E8D57u * c.z, high(0xD2511F53u, c.x) ^ c.w ^ k.y, 0xD2511F53u * c.x);
    k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
  }}
  return c.x;
}}
// A token's weight: 1 for the most likely, 0 below the threshold.
fn weight(i: u32, least: u32, hot: f32, min_p: f32) -> f32 {{
  let z = L[i];
  if (nan(z) || ordered(z) < least) {{ return 0.0; }}
  let w = exp((z - MOST) * hot);
  return select(0.0, w, w >= min_p);
}}
fn total(li: u32, mine: f32) -> f32 {{
  workgroupBarrier();
  SUM[li] = mine;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half >>= 1u) {{
    if (li < half) {{ SUM[li] += SUM[li + half]; }}
    workgroupBarrier();
  }}
  let sum = SUM[0];
  workgroupBarrier();
  return sum;
}}
// The largest threshold above which there is enough: tokens, or mass in units of 2^-31 of `whole`.
fn threshold(li: u32, enough: u32, whole: f32, least: u32, hot: f32, min_p: f32) -> u32 {{
  var prefix = 0u; var above = 0u;
  for (var digit = 0u; digit < 4u; digit++) {{
    atomicStore(&HIST[li], 0u);
    workgroupBarrier();
    let shift = 24u - 8u * digit;
    for (var i = li; i < VOCAB; i += 256u) {{
      let z = L[i]; let k = ordered(z);
      if (!nan(z) && (digit == 0u || (k >> (shift + 8u)) == prefix)) {{
        var mass = 1u;
        if (whole > 0.0) {{ mass = u32(weight(i, least, hot, min_p) / whole * 2147483648.0); }}
        atomicAdd(&HIST[(k >> shift) & 255u], mass);
      }}
    }}
    workgroupBarrier();
    if (li == 0u) {{
      var bin = 255u;
      for (; bin > 0u; bin--) {{
        let more = atomicLoad(&HIST[bin]);
        if (above + more >= enough) {{ break; }}
        above += more;
      }}
      FOUND = bin;
    }}
    workgroupBarrier();
    prefix = (prefix << 8u) | FOUND;
    workgroupBarrier();
  }}
  return prefix;
}}
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32) {{
  var most = 0.0; var token = 0xffffffffu;
  for (var i = 0u; i < {STRIPS}u; i++) {{
    let a = A[i]; let z = bitcast<f32>(a.x);
    if (better(z, a.y, most, token)) {{ most = z; token = a.y; }}
  }}
  let temperature = bitcast<f32>(D[0]); let top_k = D[1]; let top_p = bitcast<f32>(D[2]);
  let min_p = bitcast<f32>(D[3]); let drawn = D[6];
  if (li == 0u) {{ MOST = most; }}
  workgroupBarrier();
  // An infinite logit is certain: differences from it would be no numbers.
  if (temperature > 0.0 && token != 0xffffffffu && abs(most) < 3.0e38) {{
    let hot = 1.0 / temperature;
    var least = 0u;
    if (top_k > 0u && top_k < VOCAB) {{ least = threshold(li, top_k, 0.0, 0u, hot, 0.0); }}
    var mine = 0.0;
    for (var i = li; i < VOCAB; i += 256u) {{ mine += weight(i, least, hot, min_p); }}
    var sum = total(li, mine);
    if (top_p < 1.0) {{
      let cut = threshold(li, u32(top_p * 2147483648.0), sum, least, hot, min_p);
      least = max(least, cut);
    }}
    let strip = (VOCAB + 255u) / 256u; let first = li * strip; let end = min(first + strip, VOCAB);
    mine = 0.0;
    for (var i = first; i < end; i++) {{ mine += weight(i, least, hot, min_p); }}
    sum = total(li, mine);
    SUM[li] = mine;
    workgroupBarrier();
    var left = f32(philox(vec2<u32>(D[4], D[5]), drawn) >> 8u) / 16777216.0 * sum;
    var owner = 0u; var last = 0u;
    for (var i = 0u; i < 256u; i++) {{
      if (SUM[i] > 0.0) {{ last = i; }}
    }}
    loop {{
      if (owner == last || left < SUM[owner]) {{ break; }}
      left -= SUM[owner];
      owner++;
    }}
    for (var i = owner * strip; i < min((owner + 1u) * strip, VOCAB); i++) {{
      let w = weight(i, least, hot, min_p);
      if (w > 0.0) {{ token = i; left -= w; if (left < 0.0) {{ break; }} }}
    }}
  }}
  workgroupBarrier();
  if (li == 0u) {{ {} }}
}}\n",
        next("token")
    )
}
