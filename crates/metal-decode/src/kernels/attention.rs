//! Attention of a few new positions over all cached ones, cut into splits of positions.
//!
//! ```text
//! s[h, p] = q[h]·k[p] / √d        w = exp(s − max)        o[h] = Σ_p w[h, p]·v[p] / Σ_p w[h, p]
//! ```
//!
//! A workgroup takes a key head, up to eight of its query heads, one split and one row, and walks its
//! positions in tiles of [`TILE`]: first a thread is a position and computes the products of all query
//! heads, reading K once; then a thread is a chunk of 8 channels and adds up values, reading V once. The
//! maximum moves once per tile, not per position. With several splits each leaves its sum, maximum and
//! weight, and `combine` joins them. Sources: Milakov & Gimelshein 2018, arXiv:1805.02867 (online softmax);
//! Dao et al. 2023, <https://crfm.stanford.edu/2023/10/12/flashdecoding.html> (splits).

use super::each;
use super::rope_append::Heads;
use crate::layout;

/// Positions of a tile, and threads of a workgroup.
pub const TILE: u32 = 128;

/// Query heads of one workgroup: the most, up to 8, that divide those of a key head.
pub fn group(h: Heads) -> u32 {
    let all = h.heads / h.kv_heads;
    (1..=8).rev().find(|n| all.is_multiple_of(*n)).unwrap_or(1)
}

/// Numbers of a partial result: the sums of a head's channels, the maximum, the weight.
pub fn partial(h: Heads) -> u32 {
    h.chunks() * 8 + 2
}

/// Whether [`text`] can do the work of [`super::rope_append`] as well: where one workgroup has all query heads of
/// a key head, so that one alone writes the new key and value.
pub fn turns(h: Heads) -> bool {
    group(h) == h.heads / h.kv_heads
}

/// What one row needs before attention, done on the way: see [`super::rope_append`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whether heads are normalised.
    pub norm: bool,
}

/// The text. `rows` of `qkv` are `heads + 2·kv_heads` heads, rotated and in the cache already unless they `turn`
/// here, which is for one row. Override: `OS`, numbers of a row of `o`; `EPS` of norms. Grid: (kv_heads · groups,
/// splits, rows).
pub fn text(h: Heads, lanes: u32, splits: u32, turn: Option<Turn>) -> String {
    let Heads { heads, kv_heads, head_dim: d, capacity, window } = h;
    let (n, chunks, subgroups) = (group(h) as usize, h.chunks(), TILE / lanes);
    let (groups, pieces) = (heads / kv_heads / n as u32, chunks * 2);
    // Threads that walk values: whole rows of chunks.
    let walkers = TILE / chunks;
    let stride = chunks * 8;
    let access = if turn.is_some() { "read_write" } else { "read" };
    let mut s = format!(
        "override OS: u32;
@group(0) @binding(0) var<storage, read> R: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> Q: array<f32>;
@group(0) @binding(2) var<storage, {access}> KC: array<vec4<u32>>;
@group(0) @binding(3) var<storage, {access}> VC: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> O: array<f32>;
{}var<workgroup> QS: array<vec4<f32>, {}>;
var<workgroup> P: array<f32, {}>;
var<workgroup> RED: array<f32, {}>;
var<workgroup> ACC: array<vec4<f32>, {}>;
fn lo(v: vec4<u32>) -> vec4<f32> {{ return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }}
fn hi(v: vec4<u32>) -> vec4<f32> {{ return vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)); }}
{}@compute @workgroup_size({TILE})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) li: u32,
        @builtin(subgroup_id) sg: u32, @builtin(subgroup_invocation_id) lane: u32) {{
  let row = R[wid.z]; let len = row.y + 1u; let kv = row.z * {kv_heads}u + wid.x / {groups}u;
  let head0 = wid.x * {n}u;
{}\n",
        turn.map_or(String::new(), |turn| turn_text(h, turn)),
        n as u32 * pieces,
        n as u32 * TILE,
        n as u32 * subgroups,
        walkers * pieces,
        layout::place_fn(lanes),
        share(window, splits),
    );
    s += &match turn {
        Some(turn) => turn_queries(h, lanes, turn),
        None => load_queries(h),
    };
    s += "  workgroupBarrier();\n";
    s += &each(n, |i| {
        format!("  var m{i} = -1e30; var l{i} = 0.0; var x{i} = vec4<f32>(0.0); var y{i} = vec4<f32>(0.0);\n")
    });
    s += &format!(
        "  let walker = li / {chunks}u; let c = li % {chunks}u;
  for (var t0 = first; t0 < end; t0 += {TILE}u) {{
    let t = t0 + li; let here = t < end; let kb = kv * {chunks}u * {capacity}u + {};\n",
        h.place("t")
    );
    s += &each(n, |i| format!("    var s{i} = 0.0;\n"));
    s += "    if (here) {\n";
    // Loads of eight chunks go out together.
    for from in (0..chunks).step_by(8) {
        let now = from..(from + 8).min(chunks);
        s += "      {\n";
        for c in now.clone() {
            s += &format!("        let k{c} = KC[kb + {}u];\n", c * capacity);
        }
        for c in now {
            s += &format!("        let a{c} = lo(k{c}); let b{c} = hi(k{c});\n");
            s += &each(n, |i| {
                let q = i as u32 * pieces + 2 * c;
                format!("        s{i} += dot(QS[{q}u], a{c}) + dot(QS[{}u], b{c});\n", q + 1)
            });
        }
        s += "      }\n";
    }
    s += "    }\n";
    s += &each(n, |i| {
        format!(
            "    {{ let top = subgroupMax(select(-1e30, s{i}, here)); if (lane == 0u) {{ RED[{}u + sg] = top; }} }}\n",
            i as u32 * subgroups
        )
    });
    s += "    workgroupBarrier();\n";
    s += &each(n, |i| {
        let at = i as u32 * subgroups;
        let most = (0..subgroups).fold(format!("m{i}"), |most, g| format!("max({most}, RED[{}u])", at + g));
        format!(
            "    {{ let most = {most}; let keep = exp(m{i} - most); m{i} = most;
      let p = select(0.0, exp(s{i} - most), here); l{i} = l{i} * keep + p; P[{}u + li] = p;
      x{i} *= keep; y{i} *= keep; }}\n",
            i as u32 * TILE
        )
    });
    s += &format!(
        "    workgroupBarrier();
    let count = min({TILE}u, end - t0);
    if (walker < {walkers}u) {{
      var u = walker; let vb = (kv * {capacity}u{}) * {chunks}u + c;
      for (; u + {}u < count; u += {}u) {{\n",
        if window == 0 { " + t0" } else { "" },
        3 * walkers,
        4 * walkers
    );
    let value = |u: &str| match window {
        0 => format!("vb + {u} * {chunks}u"),
        _ => format!("vb + ((t0 + {u}) % {capacity}u) * {chunks}u"),
    };
    s += &each(4, |e| {
        let at = value(&format!("(u + {}u)", e as u32 * walkers));
        format!("        let v{e} = VC[{at}];\n")
    });
    s += &each(4, |e| {
        let mut text = format!("        let f{e} = lo(v{e}); let g{e} = hi(v{e});\n");
        text += &each(n, |i| {
            let at = i as u32 * TILE + e as u32 * walkers;
            format!("        {{ let p = P[{at}u + u]; x{i} += p * f{e}; y{i} += p * g{e}; }}\n")
        });
        text
    });
    s += &format!(
        "      }}
      for (; u < count; u += {walkers}u) {{
        let v = VC[{}]; let f = lo(v); let g = hi(v);\n",
        value("u")
    );
    s += &each(n, |i| {
        format!("        {{ let p = P[{}u + u]; x{i} += p * f; y{i} += p * g; }}\n", i as u32 * TILE)
    });
    s += "      }\n    }\n    workgroupBarrier();\n  }\n";
    // Weights over all threads, sums over the walkers.
    s += &each(n, |i| {
        format!(
            "  {{ let sum = subgroupAdd(l{i}); if (lane == 0u) {{ RED[{}u + sg] = sum; }} }}\n",
            i as u32 * subgroups
        )
    });
    for i in 0..n {
        let at = i as u32 * subgroups;
        let weight: Vec<_> = (0..subgroups).map(|g| format!("RED[{}u]", at + g)).collect();
        s += &format!(
            "  if (walker < {walkers}u) {{ ACC[walker * {pieces}u + c * 2u] = x{i}; ACC[walker * {pieces}u + c * 2u + 1u] = y{i}; }}
  workgroupBarrier();
  for (var e = li; e < {pieces}u; e += {TILE}u) {{
    var sum = vec4<f32>(0.0);
    for (var w = 0u; w < {walkers}u; w++) {{ sum += ACC[w * {pieces}u + e]; }}
    let l = {};\n",
            weight.join(" + ")
        );
        for (e, field) in ["x", "y", "z", "w"].into_iter().enumerate() {
            s += &if splits == 1 {
                format!(
                    "    if (e * 4u + {e}u < {d}u) {{ O[wid.z * OS + place((head0 + {i}u) * {d}u + e * 4u + {e}u)] = sum.{field} / l; }}\n"
                )
            } else {
                let at = format!("((wid.z * {heads}u + head0 + {i}u) * {splits}u + wid.y) * {}u", partial(h));
                format!("    O[{at} + e * 4u + {e}u] = sum.{field};\n")
            };
        }
        if splits > 1 {
            let at = format!("((wid.z * {heads}u + head0 + {i}u) * {splits}u + wid.y) * {}u", partial(h));
            s += &format!(
                "    if (e == 0u) {{ O[{at} + {stride}u] = m{i}; O[{at} + {}u] = l; }}\n",
                stride + 1
            );
        }
        s += "  }\n  workgroupBarrier();\n";
    }
    s + "}\n"
}

/// WGSL: the positions of a split, from `first` to `end`, of those up to `len` that the row sees.
fn share(window: u32, splits: u32) -> String {
    let (begin, seen, from) = match window {
        0 => (String::new(), "len", "wid.y * share"),
        _ => (
            format!("  let begin = max(len, {window}u) - {window}u;\n"),
            "len - begin",
            "begin + wid.y * share",
        ),
    };
    format!(
        "{begin}  let share = ({seen} + {}u) / {splits}u; let first = {from}; let end = min(first + share, len);",
        splits - 1
    )
}

/// WGSL: the rotated queries into `QS`, scaled.
fn load_queries(h: Heads) -> String {
    let Heads { heads, kv_heads, head_dim: d, .. } = h;
    let pieces = h.chunks() * 2;
    let mut s = format!(
        "  for (var i = li; i < {}u; i += {TILE}u) {{
    let e = (i % {pieces}u) * 4u; let at = (wid.z * {}u + head0 + i / {pieces}u) * {d}u + e;
    var q = vec4<f32>(0.0);\n",
        group(h) * pieces,
        heads + 2 * kv_heads,
    );
    for (e, field) in ["x", "y", "z", "w"].into_iter().enumerate() {
        s += &format!("    if (e + {e}u < {d}u) {{ q.{field} = Q[at + {e}u]; }}\n");
    }
    s + &format!("    QS[i] = q * {:?};\n  }}\n", 1.0 / (d as f32).sqrt())
}

/// WGSL: `value(base, e)`, channel `e` of the head at `base`, and `turned(base, e, pos, r, gain)`, the same normalised
/// by `r` and the gains from `gain` on, and rotated.
fn turn_text(h: Heads, turn: Turn) -> String {
    let (d, half) = (h.head_dim, h.head_dim / 2);
    let gains = |at: &str| if turn.norm { format!(" * r * H[gain + {at}]") } else { String::new() };
    let norm = if turn.norm {
        format!(
            "override EPS: f32;\n@group(0) @binding(7) var<storage, read> H: array<f32>;\nvar<workgroup> HN: array<f32, {}>;\n",
            group(h) + 1
        )
    } else {
        String::new()
    };
    format!(
        "@group(0) @binding(5) var<storage, read> NEAR: array<vec2<f32>>;
@group(0) @binding(6) var<storage, read> FAR: array<vec2<f32>>;
{norm}fn half2(a: f32, b: f32) -> u32 {{ return pack2x16float(clamp(vec2<f32>(a, b), vec2<f32>(-65504.0), vec2<f32>(65504.0))); }}
fn value(base: u32, e: u32) -> f32 {{
  if (e >= {d}u) {{ return 0.0; }}
  return Q[base + e];
}}
fn turned(base: u32, e: u32, pos: u32, r: f32, gain: u32) -> f32 {{
  if (e >= {d}u) {{ return 0.0; }}
  let i = e % {half}u;
  let n = NEAR[(pos & 255u) * {half}u + i]; let f = FAR[(pos >> 8u) * {half}u + i];
  let c = f.x * n.x - f.y * n.y; let s = f.y * n.x + f.x * n.y;
  let a = Q[base + i]{}; let b = Q[base + {half}u + i]{};
  return select(b * c + a * s, a * c - b * s, e < {half}u);
}}\n",
        gains("i"),
        gains(&format!("{half}u + i"))
    )
}

/// WGSL: the queries, rotated here, into `QS`; who reads the new position writes its key and value first.
fn turn_queries(h: Heads, lanes: u32, turn: Turn) -> String {
    let Heads { heads, kv_heads, head_dim: d, capacity, .. } = h;
    let (n, chunks, place) = (group(h), h.chunks(), h.place("pos"));
    let pieces = chunks * 2;
    let mut s = format!(
        "  let pos = row.y; let kbase = ({heads}u + wid.x) * {d}u; let vbase = ({}u + wid.x) * {d}u;\n",
        heads + kv_heads
    );
    let factor = |head: &str| if turn.norm { format!("HN[{head}]") } else { "1.0".to_owned() };
    if turn.norm {
        s += &format!(
            "  for (var h = sg; h <= {n}u; h += {}u) {{
    let base = select((head0 + h) * {d}u, kbase, h == {n}u);
    var sum = 0.0;
    for (var e = lane; e < {d}u; e += {lanes}u) {{ sum += Q[base + e] * Q[base + e]; }}
    sum = subgroupAdd(sum);
    if (lane == 0u) {{ HN[h] = inverseSqrt(sum / {d}.0 + EPS); }}
  }}
  workgroupBarrier();\n",
            TILE / lanes
        );
    }
    let four = (0..4).map(|c| format!("turned(base, e + {c}u, pos, r, 0u)")).collect::<Vec<_>>().join(", ");
    s += &format!(
        "  for (var i = li; i < {}u; i += {TILE}u) {{
    let h = i / {pieces}u; let e = (i % {pieces}u) * 4u; let base = (head0 + h) * {d}u; let r = {};
    QS[i] = {:?} * vec4<f32>({four});
  }}\n",
        n * pieces,
        factor("h"),
        1.0 / (d as f32).sqrt()
    );
    let pairs = |number: &dyn Fn(u32) -> String| {
        (0..4)
            .map(|c| format!("half2({}, {})", number(2 * c), number(2 * c + 1)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    s + &format!(
        "  if (first < end && end == len) {{
    for (var c = li; c < {chunks}u; c += {TILE}u) {{
      let e = c * 8u; let r = {};
      KC[(kv * {chunks}u + c) * {capacity}u + {place}] = vec4<u32>({});
      VC[(kv * {capacity}u + {place}) * {chunks}u + c] = vec4<u32>({});
    }}
  }}
  storageBarrier();\n",
        factor(&format!("{n}u")),
        pairs(&|e| format!("turned(kbase, e + {e}u, pos, r, {d}u)")),
        pairs(&|e| format!("value(vbase, e + {e}u)"))
    )
}

/// Joins the splits of each head. Override: `OS`. Grid: (heads, 1, rows).
pub fn combine(h: Heads, lanes: u32, splits: u32) -> String {
    let Heads { heads, head_dim: d, .. } = h;
    let (stride, n) = (h.chunks() * 8, partial(h));
    format!(
        "override OS: u32;
@group(0) @binding(0) var<storage, read> P: array<f32>;
@group(0) @binding(1) var<storage, read_write> O: array<f32>;
{}@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) li: u32) {{
  let base = (wid.z * {heads}u + wid.x) * {}u;
  var most = -1e30;
  for (var i = 0u; i < {splits}u; i++) {{ most = max(most, P[base + i * {n}u + {stride}u]); }}
  var l = 0.0;
  for (var i = 0u; i < {splits}u; i++) {{
    l += P[base + i * {n}u + {}u] * exp(P[base + i * {n}u + {stride}u] - most);
  }}
  for (var e = li; e < {d}u; e += 64u) {{
    var sum = 0.0;
    for (var i = 0u; i < {splits}u; i++) {{
      sum += P[base + i * {n}u + e] * exp(P[base + i * {n}u + {stride}u] - most);
    }}
    O[wid.z * OS + place(wid.x * {d}u + e)] = sum / l;
  }}
}}\n",
        layout::place_fn(lanes),
        splits * n,
        stride + 1,
    )
}
