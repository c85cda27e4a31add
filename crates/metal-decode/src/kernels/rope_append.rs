//! Rotary positions of queries and keys, and the new keys and values into the cache.
//!
//! ```text
//! q, k ← rope(norm(q)), rope(norm(k))      the norm over each head where the model has one
//! K[slot, head, :, position] = k           V[slot, head, position, :] = v
//! ```
//!
//! A kernel of its own because it orders the writes of all new positions before the reads of attention.
//! Angles: position = 256·a + b, and the rotations by a and b come from two small tables, exact to a
//! rounding where f32 angles are not. `qkv` is `[rows, heads + 2·kv_heads, head_dim]`; queries are
//! rotated in place. Caches hold f16: keys `[slot, kv_head, chunk of 8, position]`, values
//! `[slot, kv_head, position, chunk of 8]`. Grid: (heads + 2·kv_heads, 1, rows).

/// Threads of a workgroup.
pub const THREADS: u32 = 64;

/// Extents of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Heads {
    /// Query heads.
    pub heads: u32,
    /// Key heads.
    pub kv_heads: u32,
    /// Channels of a head.
    pub head_dim: u32,
    /// Positions of a sequence in the cache: a multiple of [`super::attention::TILE`].
    pub capacity: u32,
    /// Positions that a token sees, itself included, and the cache is a ring; 0: all.
    pub window: u32,
}

impl Heads {
    /// Chunks of 8 channels; the last may hold zeros.
    pub fn chunks(&self) -> u32 {
        self.head_dim.div_ceil(8)
    }

    /// WGSL: the place in the cache of a position.
    pub fn place(&self, position: &str) -> String {
        if self.window == 0 { position.to_owned() } else { format!("({position}) % {}u", self.capacity) }
    }
}

/// The text; `norm` says whether heads are normalised. Override: `EPS`.
pub fn text(h: Heads, norm: bool) -> String {
    let Heads { heads, kv_heads, head_dim, capacity, .. } = h;
    let (half, chunks, at) = (head_dim / 2, h.chunks(), h.place("pos"));
    let (binding, normalise) = if norm {
        (
            "override EPS: f32;
@group(0) @binding(6) var<storage, read> G: array<f32>;
var<workgroup> SUM: array<f32, 64>;\n",
            format!(
                "  var sq = 0.0;
  for (var i = li; i < {head_dim}u; i += {THREADS}u) {{ sq += H[i] * H[i]; }}
  SUM[li] = sq;
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < {THREADS}u; i++) {{ sum += SUM[i]; }}
  let r = inverseSqrt(sum / {head_dim}.0 + EPS);
  let gain = select({head_dim}u, 0u, head < {heads}u);
  for (var i = li; i < {head_dim}u; i += {THREADS}u) {{ H[i] = H[i] * r * G[gain + i]; }}
  workgroupBarrier();\n"
            ),
        )
    } else {
        ("", String::new())
    };
    format!(
        "@group(0) @binding(0) var<storage, read> R: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> NEAR: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> FAR: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> QKV: array<f32>;
@group(0) @binding(4) var<storage, read_write> KC: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> VC: array<vec4<u32>>;
{binding}var<workgroup> H: array<f32, {}>;
fn half2(a: f32, b: f32) -> u32 {{ return pack2x16float(clamp(vec2<f32>(a, b), vec2<f32>(-65504.0), vec2<f32>(65504.0))); }}
fn chunk(c: u32) -> vec4<u32> {{
  let i = c * 8u;
  return vec4<u32>(half2(H[i], H[i + 1u]), half2(H[i + 2u], H[i + 3u]), half2(H[i + 4u], H[i + 5u]), half2(H[i + 6u], H[i + 7u]));
}}
@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) li: u32) {{
  let head = wid.x; let row = R[wid.z]; let pos = row.y; let slot = row.z;
  let base = (wid.z * {}u + head) * {head_dim}u;
  for (var i = li; i < {}u; i += {THREADS}u) {{
    var v = 0.0;
    if (i < {head_dim}u) {{ v = QKV[base + i]; }}
    H[i] = v;
  }}
  workgroupBarrier();
  if (head >= {}u) {{
    let v = slot * {kv_heads}u + head - {}u;
    for (var c = li; c < {chunks}u; c += {THREADS}u) {{ VC[(v * {capacity}u + {at}) * {chunks}u + c] = chunk(c); }}
    return;
  }}
{normalise}  for (var i = li; i < {half}u; i += {THREADS}u) {{
    let n = NEAR[(pos & 255u) * {half}u + i]; let f = FAR[(pos >> 8u) * {half}u + i];
    let c = f.x * n.x - f.y * n.y; let s = f.y * n.x + f.x * n.y;
    let a = H[i]; let b = H[i + {half}u];
    H[i] = a * c - b * s; H[i + {half}u] = b * c + a * s;
  }}
  workgroupBarrier();
  if (head < {heads}u) {{
    for (var i = li; i < {head_dim}u; i += {THREADS}u) {{ QKV[base + i] = H[i]; }}
    return;
  }}
  let k = slot * {kv_heads}u + head - {heads}u;
  for (var c = li; c < {chunks}u; c += {THREADS}u) {{ KC[(k * {chunks}u + c) * {capacity}u + {at}] = chunk(c); }}
}}\n",
        chunks * 8,
        heads + 2 * kv_heads,
        chunks * 8,
        heads + kv_heads,
        heads + kv_heads,
    )
}
