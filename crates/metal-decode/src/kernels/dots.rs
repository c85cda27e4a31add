//! A matrix of integers times one vector, in integer arithmetic: for devices that multiply and add four bytes
//! at once.
//!
//! ```text
//! q[k] = round(x[k] / s),  s = max_block |x| / 8355000        24 bits, as three signed bytes: q = Σ_d 256ᵈ·q_d
//! y[m] = Σ_blocks scale[m, block] · s · Σ_d 256ᵈ · Σ_k (w[m, k] − offset) · q_d[k]
//! ```
//!
//! The inner sums are exact, and `q` is as exact as an f32, so the result is that of [`super::gemv`] to a
//! rounding; a weight costs three quarters of an instruction instead of about four. Every workgroup makes the
//! bytes of `x` for itself, in workgroup memory, while its first weights are on their way, and goes round
//! over the rows, so that few workgroups do that. Norms and epilogues are those of `gemv`.

use model::quant::Format;

use super::gemv::{Gemv, bindings, store, store_largest};
use super::{Epilogue, each};
use crate::layout;

/// Blocks of `x` that are staged at a time, at most.
const STAGED: u32 = 224;

/// The text; see [`Gemv::text`]. Grid: ([`super::gemv::Tiling::dots`]).
pub(super) fn text(gemv: &Gemv, lanes: u32) -> String {
    let tiling = gemv.tiling;
    let (rows, threads, split) = (tiling.rows as usize, tiling.threads, tiling.split);
    let (subgroups, words) = (threads / lanes, layout::words(gemv.format));
    let staged = STAGED / lanes * lanes;
    let mut s = bindings(gemv, lanes);
    s += layout::SCALE_FN;
    s += &format!(
        "var<workgroup> D: array<vec4<u32>, {}>;\nvar<workgroup> SX: array<vec2<f32>, {staged}>;\n",
        6 * staged
    );
    if gemv.norm {
        s += &format!("var<workgroup> SQX: array<f32, {subgroups}>;\n");
    }
    s += "fn bytes(a: u32, b: u32, c: u32, d: u32) -> u32 {
  return (a & 255u) | ((b & 255u) << 8u) | ((c & 255u) << 16u) | (d << 24u);
}
// Below 2^22 this is the number itself, without the slow conversion.
fn float(t: i32) -> f32 { return bitcast<f32>(t + 0x4b400000) - 12582912.0; }\n";
    s += &format!(
        "@compute @workgroup_size({threads})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) all: vec3<u32>,
        @builtin(local_invocation_index) li: u32, @builtin(subgroup_id) sg: u32,
        @builtin(subgroup_invocation_id) lane: u32) {{
  let part = sg % {split}u; let units = (M + {}u) / {rows}u; let stride = all.x * {}u;
  let whole = NB <= {staged}u;\n",
        rows - 1,
        subgroups / split,
    );
    s += &each(rows * words, |i| format!("  var q{}_{}: vec4<u32>;\n", i / words, i % words));
    s += &each(rows, |r| format!("  var d{r} = 0.0;\n"));
    s += "  var sq0 = 0.0; var ready = false;\n";
    let largest = gemv.epilogue == Epilogue::Largest;
    s += if largest { "  var z = 0.0; var best = 0xffffffffu;\n" } else { "" };
    // All subgroups go round together, since they stage together.
    s += &format!(
        "  for (var base = wid.x * {0}u; base < units; base += stride) {{
    let unit = base + sg / {split}u; let row0 = unit * {rows}u;\n",
        subgroups / split
    );
    s += &each(rows, |r| format!("    let n{r} = min(row0 + {r}u, M - 1u) * NB; var a{r} = 0.0;\n"));
    s += &format!(
        "    for (var c = 0u; c < NB; c += {staged}u) {{
      let end = min(c + {staged}u, NB); let step = {}u; var j = c + part * {lanes}u + lane;\n",
        lanes * split
    );
    s += &load(gemv, lanes, "j");
    s += "      if (!ready) {\n        workgroupBarrier();\n";
    s += &stage(gemv, lanes, staged);
    s += "        workgroupBarrier();\n        ready = whole;\n      }\n";
    s += "      for (; j < end; j += step) {\n";
    s += &each(rows * words, |i| {
        let (r, n) = (i / words, i % words);
        format!("        let w{r}_{n} = q{r}_{n};\n")
    });
    s += &each(rows, |r| format!("        let e{r} = d{r};\n"));
    s += &load(gemv, lanes, "(j + step)");
    s += "        let b = j - c; let x = SX[b];\n";
    for digit in 0..3 {
        s += &each(2, |half| {
            format!("        let x{digit}_{half} = D[{}u + b];\n", (2 * digit + half) as u32 * staged)
        });
    }
    for r in 0..rows {
        s += "        {\n";
        for digit in 0..3 {
            let mut sum = Vec::new();
            for piece in 0..8 {
                let x = format!("x{digit}_{}.{}", piece / 4, field(piece % 4));
                sum.push(format!("dot4I8Packed({}, {x})", weights(gemv.format, r, piece)));
            }
            s += &format!("          let t{digit} = {};\n", sum.join(" + "));
        }
        let offset = if gemv.format == Format::Q4_0 { " - x.y" } else { "" };
        s += &format!(
            "          a{r} = fma(e{r} * x.x, fma(float(t2), 65536.0, fma(float(t1), 256.0, float(t0))){offset}, a{r});
        }}\n"
        );
    }
    s += "      }\n    }\n";
    s += &each(rows, |r| format!("    a{r} = subgroupAdd(a{r});\n"));
    if gemv.norm {
        // Every workgroup saw all of `x`.
        let all = each(subgroups as usize, |g| format!(" + SQX[{g}u]"));
        s += &format!("    sq0 = 0.0{all};\n");
    }
    s += &store(gemv, true);
    // The next round writes what this one read.
    s += if split > 1 { "    workgroupBarrier();\n  }\n" } else { "  }\n" };
    s += &if largest { store_largest(gemv, lanes, "wid.x") } else { String::new() };
    s + "}\n"
}

fn field(n: usize) -> &'static str {
    ["x", "y", "z", "w"][n]
}

/// Four weights of piece `piece` as bytes.
fn weights(format: Format, r: usize, piece: usize) -> String {
    if format == Format::Q8_0 {
        return format!("w{r}_{}.{}", piece / 4, field(piece % 4));
    }
    // The even ones of eight, then the odd ones.
    let word = format!("w{r}_0.{}", field(piece / 2));
    if piece.is_multiple_of(2) {
        format!("{word} & 0x0f0f0f0fu")
    } else {
        format!("({word} >> 4u) & 0x0f0f0f0fu")
    }
}

/// WGSL: the weights and scales of block `j`; behind the last block they are those of the last.
fn load(gemv: &Gemv, lanes: u32, j: &str) -> String {
    let (rows, v) = (gemv.tiling.rows as usize, layout::words(gemv.format));
    let mut s = format!(
        "        {{ let at = min({j}, NB - 1u); let tile = at & ~{}u; let w = min({lanes}u, NB - tile); let to = tile * {v}u + (at - tile);\n",
        lanes - 1
    );
    for r in 0..rows {
        s += &each(v, |i| format!("          q{r}_{i} = W[n{r} * {v}u + to + {i}u * w];\n"));
        s += &format!("          d{r} = scale(n{r} + at);\n");
    }
    s + "        }\n"
}

/// WGSL: the bytes of the blocks from `c` to `end`, one thread for a block.
fn stage(gemv: &Gemv, lanes: u32, staged: u32) -> String {
    let threads = gemv.tiling.threads;
    let mut s = String::new();
    if gemv.norm {
        // The sum is over all pieces of `x`, each seen once.
        s += "        if (c == 0u) { sq0 = 0.0; }\n";
    }
    s += &format!(
        "        for (var b = li; b < end - c; b += {threads}u) {{
          let at = c + b; let tile = at & ~{}u; let xb = tile * 8u + (at - tile);\n",
        lanes - 1
    );
    for i in 0..8 {
        let at = format!("xb + {}u", i * lanes);
        if gemv.norm {
            s += &format!(
                "          let r{i} = X[{at}]; sq0 += dot(r{i}, r{i}); let v{i} = r{i} * G[{at}];\n"
            );
        } else {
            s += &format!("          let v{i} = X[{at}];\n");
        }
    }
    let most = (1..8).fold("abs(v0)".to_owned(), |most, i| format!("max({most}, abs(v{i}))"));
    s += &format!(
        "          let most4 = {most}; let most = max(max(most4.x, most4.y), max(most4.z, most4.w));
          let inverse = select(0.0, 8355000.0 / most, most > 1e-30);\n"
    );
    // Three signed bytes reach 8355711; a little less leaves room for rounding. The bias makes the digits unsigned bytes; turning their sign bits makes them signed ones.
    s += &each(8, |i| format!("          let i{i} = vec4<i32>(round(v{i} * inverse));\n"));
    let sum = (0..8).map(|i| format!("i{i}")).collect::<Vec<_>>().join(" + ");
    s += &format!("          let sum4 = {sum}; let sum = sum4.x + sum4.y + sum4.z + sum4.w;\n");
    s += &each(8, |i| {
        format!("          let u{i} = vec4<u32>(i{i} + vec4<i32>(8421504)) ^ vec4<u32>(0x808080u);\n")
    });
    for digit in 0..3 {
        for half in 0..2 {
            let mut packed = Vec::new();
            for piece in 4 * half..4 * half + 4 {
                let value = |k: usize| format!("u{}.{} >> {}u", k / 4, field(k % 4), 8 * digit);
                let k: [usize; 4] = match gemv.format {
                    Format::Q4_0 => [0, 2, 4, 6].map(|e| piece / 2 * 8 + e + piece % 2),
                    _ => [0, 1, 2, 3].map(|e| 4 * piece + e),
                };
                packed.push(format!("bytes({})", k.map(value).join(", ")));
            }
            let to = (2 * digit + half) as u32 * staged;
            s += &format!("          D[{to}u + b] = vec4<u32>({});\n", packed.join(", "));
        }
    }
    s += "          SX[b] = vec2<f32>(most * (1.0 / 8355000.0), 8.0 * f32(sum));\n        }\n";
    if gemv.norm {
        s += "        if (end == NB) { let sum = subgroupAdd(sq0); if (lane == 0u) { SQX[sg] = sum; } }\n";
    }
    s
}
