"""Golden files for the meaning of MIL operations, computed by coremltools' value inference.

    pip install coremltools==9.0 && python tests/interop/mil_ops.py

Writes tests/interop/golden/mil/<op>.mil: one function per case, with an `// eval:` line that
crates/mil/tests/eval.rs runs in both arithmetics. Inputs are fp16 values; results are what coremltools computes
from them in float32, rounded to fp16 once.
"""

import pathlib

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function

OUT = pathlib.Path(__file__).parent / "golden" / "mil"
RNG = np.random.default_rng(7)


def values(*shape, low=-2.0, high=2.0):
    # Quarters and a few odd values: short in the text, and not only exact cases.
    x = RNG.uniform(low, high, shape)
    return (np.round(x * 64) / 64).astype(np.float16)


def positive(*shape):
    return values(*shape, low=0.25, high=4.0)


def ints(*v):
    return np.array(v, dtype=np.int32)


X = (1, 4, 2, 3)
CASES = []


def case(op, inputs, **params):
    CASES.append((op, inputs, params))


for op in "add sub mul real_div maximum minimum".split():
    case(op, {"x": values(*X), "y": positive(*X)})
    case(op, {"x": values(*X), "y": positive(4, 1, 1)})
    case(op, {"x": values(3), "y": positive(2, 1)})
case("floor_div", {"x": values(*X), "y": positive(*X)})
case("pow", {"x": positive(*X), "y": values(*X)})
for op in "equal not_equal less less_equal greater greater_equal".split():
    # Bool results come back through a cast.
    a = values(2, 8)
    b = np.where(RNG.uniform(size=a.shape) < 0.4, a, values(2, 8))
    case(op, {"x": a, "y": b})
for op in "abs sign ceil floor square exp exp2 erf atan relu relu6 sigmoid tanh silu softplus softsign".split():
    case(op, {"x": values(2, 9)})
    case(op, {"x": values(2, 9, low=-8.0, high=8.0)})
case("sqrt", {"x": positive(2, 8)})
case("rsqrt", {"x": positive(2, 8)}, epsilon=np.float16(1 / 64))
case("log", {"x": positive(2, 8)}, epsilon=np.float16(1 / 64))
case("inverse", {"x": positive(2, 8)}, epsilon=np.float16(1 / 64))
case("clip", {"x": values(2, 8)}, alpha=np.float16(-0.5), beta=np.float16(1.25))
case("threshold", {"x": values(2, 8)}, alpha=np.float16(0.25))
case("leaky_relu", {"x": values(2, 8)}, alpha=np.float16(0.125))
case("elu", {"x": values(2, 8)}, alpha=np.float16(0.5))
case("linear_activation", {"x": values(2, 8)}, alpha=np.float16(0.5), beta=np.float16(1.25))
case("sigmoid_hard", {"x": values(2, 8)}, alpha=np.float16(0.5), beta=np.float16(0.25))
for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"):
    case("gelu", {"x": values(2, 8)}, mode=mode)
for op in "reduce_sum reduce_mean reduce_max reduce_min reduce_l1_norm reduce_l2_norm reduce_sum_square".split():
    case(op, {"x": values(*X)}, axes=ints(1), keep_dims=True)
    case(op, {"x": values(*X)}, axes=ints(-1), keep_dims=False)
    case(op, {"x": values(*X)}, axes=ints(1, 3), keep_dims=True)
    case(op, {"x": values(*X)}, axes=ints(0, 1), keep_dims=False)
for op in "reduce_log_sum reduce_log_sum_exp".split():
    case(op, {"x": positive(*X)}, axes=ints(-1), keep_dims=True)
    case(op, {"x": positive(*X)}, axes=ints(1), keep_dims=False)
case("softmax", {"x": values(*X)}, axis=np.int32(-1))
case("softmax", {"x": values(*X)}, axis=np.int32(1))
case("matmul", {"x": values(2, 3, 4), "y": values(2, 4, 5)}, transpose_x=False, transpose_y=False)
case("matmul", {"x": values(2, 4, 3), "y": values(2, 5, 4)}, transpose_x=True, transpose_y=True)
case("matmul", {"x": values(1, 2, 3, 4), "y": values(1, 1, 5, 4)}, transpose_x=False, transpose_y=True)
case("reshape", {"x": values(*X)}, shape=ints(2, 12))
case("reshape", {"x": values(*X)}, shape=ints(3, -1))
case("transpose", {"x": values(*X)}, perm=ints(0, 3, 1, 2))
case("transpose", {"x": values(3, 4)}, perm=ints(-1, 0))
case("slice_by_size", {"x": values(*X)}, begin=ints(0, 1, 0, 1), size=ints(1, 2, -1, 2))
case("slice_by_index", {"x": values(5, 6)}, begin=ints(1, 0), end=ints(5, 6), stride=ints(2, 3))
case("slice_by_index", {"x": values(5, 6)}, begin=ints(4, -1), end=ints(0, 1), stride=ints(-1, -2))
case(
    "slice_by_index",
    {"x": values(5, 6)},
    begin=ints(2, 1),
    end=ints(0, 0),
    begin_mask=np.array([False, True]),
    end_mask=np.array([False, True]),
    squeeze_mask=np.array([True, False]),
)
case("expand_dims", {"x": values(3, 4)}, axes=ints(0, 2))
case("squeeze", {"x": values(1, 3, 1, 4)}, axes=ints(0, 2))
case("reverse", {"x": values(3, 4)}, axes=ints(-1))
case("tile", {"x": values(2, 3)}, reps=ints(2, 3))
case("pad", {"x": values(2, 3)}, pad=ints(1, 0, 2, 1), mode="constant", constant_val=np.float16(0.5))
case("concat", {"values": [values(2, 3), values(2, 2)]}, axis=np.int32(1), interleave=False)
# Value inference of an interleaved concat joins without interleaving, against its own documentation:
# crates/mil/tests/eval/concat.mil follows the documentation.
case("concat", {"values": [values(2, 3), values(4, 3), values(1, 3)]}, axis=np.int32(0), interleave=False)
case("split", {"x": values(2, 6)}, axis=np.int32(1), num_splits=np.int32(3))
case("split", {"x": values(5, 2)}, axis=np.int32(0), split_sizes=ints(1, 4))
case("select", {"cond": values(2, 3), "a": values(2, 3), "b": values(2, 3)})
case("identity", {"x": values(2, 3)})


def number(x):
    return repr(float(x)).removesuffix(".0")


def listed(a):
    return "[" + ", ".join(number(v) for v in np.asarray(a).ravel()) + "]"


def text_type(a, dtype="fp16"):
    return f"tensor<{dtype}, [{', '.join(map(str, a.shape))}]>"


def constant(name, v):
    if isinstance(v, str):
        ty, body = "string", f'"{v}"'
    elif isinstance(v, bool):
        ty, body = "bool", str(v).lower()
    elif isinstance(v, np.ndarray) and v.dtype == bool:
        ty, body = f"tensor<bool, [{v.size}]>", "[" + ", ".join(str(bool(b)).lower() for b in v) + "]"
    elif isinstance(v, np.ndarray):
        ty, body = f"tensor<int32, [{v.size}]>", "[" + ", ".join(map(str, v)) + "]"
    elif isinstance(v, np.int32):
        ty, body = "int32", str(v)
    else:
        ty, body = "fp16", number(v)
    return f'        {ty} {name} = const()[name = string("{name}"), val = {ty}({body})];'


def widen(a):
    return a.astype(np.float32)


def build(op, inputs, params):
    """The value that coremltools infers, per result."""
    given = {k: [widen(a) for a in v] if isinstance(v, list) else widen(v) for k, v in inputs.items()}
    params = {k: np.float32(v) if isinstance(v, np.float16) else v for k, v in params.items()}
    with Function({}):
        if op == "select":
            given["cond"] = given["cond"] > 0
        result = getattr(mb, op)(**given, **params)
        results = result if isinstance(result, (list, tuple)) else [result]
        return [r.val for r in results]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    files, skipped = {}, []
    for op, inputs, params in CASES:
        results = build(op, inputs, params)
        if any(r is None for r in results):
            skipped.append(op)
            continue
        file = files.setdefault(op, {"evals": [], "functions": []})
        name = f"{op}_{len(file['functions'])}"
        flat = inputs["values"] if "values" in inputs else list(inputs.values())
        signature = ", ".join(f"{text_type(a)} i{n}" for n, a in enumerate(flat))
        lines = [f"    func {name}<ios18>({signature}) {{"]
        lines += [constant(k, v) for k, v in params.items()]
        if "values" in inputs:
            args = ["values = (" + ", ".join(f"i{n}" for n in range(len(flat))) + ")"]
        else:
            args = [f"{k} = i{n}" for n, k in enumerate(inputs)]
        if op == "select":
            lines.append(constant("zero", np.float16(0)))
            lines.append(f'        {text_type(flat[0], "bool")} c = greater(x = i0, y = zero)[name = string("c")];')
            args[0] = "cond = c"
        args += [f"{k} = {k}" for k in params]
        is_bool = results[0].dtype == bool
        kind = "bool" if is_bool else "fp16"
        prefix = "b" if is_bool else "y"
        outs = ", ".join(f"{text_type(r, kind)} {prefix}{n}" for n, r in enumerate(results))
        lines.append(f'        {outs} = {op}({", ".join(args)})[name = string("{op}")];')
        if is_bool:
            lines.append(constant("to", "fp16"))
            lines.append(f'        {text_type(results[0])} y0 = cast(dtype = to, x = b0)[name = string("y0")];')
        lines.append(f"    }} -> ({', '.join(f'y{n}' for n in range(len(results)))});")
        file["functions"].append("\n".join(lines))
        given = ", ".join(listed(a) for a in flat)
        wanted = ", ".join(listed(np.asarray(r, dtype=np.float16)) for r in results)
        file["evals"].append(f"// eval: {name}({given}) ~= {wanted}")
    for op, file in files.items():
        body = "\n".join(file["evals"]) + "\nprogram(1.3)\n{\n" + "\n".join(file["functions"]) + "\n}\n"
        (OUT / f"{op}.mil").write_text(body)
    print(f"{len(files)} operations, {len(CASES) - len(skipped)} cases; without value inference: {skipped}")


if __name__ == "__main__":
    main()
