//! Text: what is printed, what is read, and what happens to anything else.

use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use mil::program::{Arg, Data, Literal};
use mil::{Builder, DType, Program, Target, TensorType, ValueId, parse, verify};
use proptest::prelude::*;

fn linear_program() -> Program {
    let mut b = Builder::new("main");
    let packed = b.input("packed", DType::Fp16, [1, 64, 1, 192]);
    let act = b.named("act").slice(packed, &[0, 0, 0, 0], &[1, 64, 1, 64]);
    let wt = b.named("wt").slice(packed, &[0, 0, 0, 64], &[1, 64, 1, 128]);
    let act = b.named("act_cs").reshape(act, &[1, 1, 64, 64]);
    let act = b.named("act_sc").transpose(act, &[0, 1, 3, 2]);
    let wt = b.named("wt_co").reshape(wt, &[1, 1, 64, 128]);
    let y = b.named("y_so").matmul(act, wt);
    let y = b.named("y_os").transpose(y, &[0, 1, 3, 2]);
    let y = b.reshape(y, &[1, 128, 1, 64]);
    b.output("y", y);
    Program::new(vec![b.finish().unwrap()])
}

#[test]
fn text_of_a_linear_layer() {
    let program = linear_program();
    insta::assert_snapshot!(program);
    assert!(verify(program, &Target::default()).unwrap().warnings().is_empty());
}

#[test]
fn wrong_shapes_are_all_reported_by_the_builder() {
    let mut b = Builder::new("main");
    let x = b.input("x", DType::Fp16, [1, 4, 1, 32]);
    let w = b.input("y", DType::Fp16, [1, 4, 1, 31]);
    let bad = b.named("scores").matmul(x, w);
    let _depends = b.relu(bad);
    let _also_bad = b.reshape(x, &[1, 5]);
    let errors = b.finish().unwrap_err();
    let values: Vec<&str> = errors.iter().map(|e| e.value.as_str()).collect();
    assert_eq!(values, ["scores", "reshape"]);
    assert!(errors[0].to_string().contains("sums over 32 and 1"), "{}", errors[0]);
}

/// The other spellings that published programs use.
#[test]
fn reads_the_spellings_of_other_projects() {
    let old = r#"program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-component-MIL", "3500.14.1"}, {"coremlc-version", "3500.32.1"}})]
{
    func main<ios16>(tensor<fp32, [1, 4, 1, 16]> x) [FlexibleShapeInformation = tuple<tuple<tensor<string, []>, dict<tensor<string, []>, tensor<int32, [?]>>>>((("DefaultShapes", {{"x", [1, 4, 1, 16]}})))] {
        tensor<string, []> to16=const()[name=tensor<string, []>("to16"), val=tensor<string, []>("fp16")];
        tensor<fp16, [1,4,1,16]> h = cast(dtype=to16,x=x)[name=tensor<string, []>("h")];
        tensor<fp16, [4, 4, 1, 1]> w = const()[name = tensor<string, []>("w"), val = tensor<fp16, [4, 4, 1, 1]>(BLOBFILE(path = tensor<string, []>("@model_path/weights/w.bin"), offset = tensor<uint64, []>(64)))];
        tensor<int32, [2]> ones = const()[name = string("ones"), val = tensor<int32, [2]>([1, 1])];
        tensor<int32, []> g = const()[name = string("g"), val = tensor<int32, []>(1)];
        tensor<fp16, [1, 4, 1, 16]> y = conv(dilations = ones, groups = g, pad = tensor<int32, [4]>([0, 0, 0, 0]), pad_type = string("valid"), strides = ones, weight = w, x = h)[name = string("y")]; // a comment
        tensor<fp16, [1, 2, 1, 16]> a, tensor<fp16, [1, 2, 1, 16]> b = split(axis = int32(1), num_splits = 2, x = y)[name = string("ab")];
        tensor<fp16, [2, 2]> m = const()[name = string("m"), val = tensor<fp16, [2, 2]>([[0x1.5cp-3, -0x1p-24], [1e-3, -65504]])];
        tensor<fp16, [1, 4, 1, 16]> c = concat(axis = int32(1), interleave = bool(false), values = (b, a))[name = string("c")];
        tensor<fp32, [1, 4, 1, 16]> out = cast(dtype = string("fp32"), x = c)[name = string("out")];
    } -> (out);
}"#;
    let program = parse(old).unwrap();
    let main = program.function("main").unwrap();
    assert_eq!((program.version.minor, main.opset.as_str(), program.build_info.len()), (0, "ios16", 2));
    let m = main.constant(main.find("m").unwrap()).unwrap();
    let Data::F16(values) = &m.data else { panic!("{m:?}") };
    let wanted = [1.359_375 / 8.0, -(2f32.powi(-24)), 0.001, -65504.0].map(f16::from_f32);
    assert_eq!(values, &wanted);
    assert_eq!(parse(&program.to_string()).unwrap(), program);
    verify(program, &Target::default()).unwrap();
}

#[test]
fn errors_say_where_and_what_to_do() {
    let ty = "tensor<fp16, [1, 4, 1, 32]>";
    let body = |line: &str| {
        format!("program(1.3)\n{{\n    func main<ios18>({ty} x) {{\n        {line}\n    }} -> (x);\n}}")
    };
    let cases = [
        (body(&format!("{ty} y = relu(x = z);")), "4:50: `z` is not defined above this line"),
        (body(&format!("{ty} x = relu(x = x);")), "4:37: `x` is defined twice"),
        (body("tensor<fp16, [1, ?]> y = relu(x = x);"), "4:26: the extent `?` is flexible"),
        (body("tensor<fp17, [1]> y = relu(x = x);"), "4:16: `fp17` is no element type"),
        (body("fp16 c = const()[val = fp16(\"1\")];"), "4:37: the string \"1\" stands where a float belongs"),
        (
            body("tensor<fp16, [3]> c = const()[val = tensor<fp16, [3]>([1, 2])];"),
            "4:45: `tensor<fp16, [3]>` has 3 elements, but 2",
        ),
        (body("fp16 c = const()[val = fp16(1)"), "5:5: `}` stands where `,` or `]` belongs"),
        (body("string s = const()[val = string(\"abc)];"), "4:41: this string never ends"),
        ("program(1)".into(), "1:9: `1` is no dialect version"),
        (String::new(), "1:1: the end of the text stands where `program` belongs"),
    ];
    let errors = cases.map(|(text, wanted)| (parse(&text).unwrap_err().to_string(), wanted));
    let wrong = errors.iter().filter(|(error, wanted)| !(error.starts_with(wanted) && error.contains("; ")));
    assert_eq!(wrong.collect::<Vec<_>>(), [].iter().collect::<Vec<&(String, &str)>>());
}

#[test]
fn deep_nesting_and_huge_shapes_cost_nothing() {
    let nested = |n: usize| {
        format!(
            "program(1.3) {{ func main<ios18>(fp16 x) {{ fp16 c = const()[val = tensor<fp16, [1]>({}1{})]; }} -> (c); }}",
            "[".repeat(n),
            "]".repeat(n),
        )
    };
    assert!(parse(&nested(8)).is_ok());
    assert!(parse(&nested(1 << 20)).unwrap_err().message.contains("nested"));
    let dict = format!("program(1.3) [buildInfo = {}", "dict<".repeat(1 << 20));
    assert!(parse(&dict).unwrap_err().message.contains("nested"));
    let huge = "program(1.3) { func main<ios18>(tensor<fp16, [4000000000, 4000000000, 4000000000]> x) {
        tensor<fp16, [4000000000, 4000000000, 4000000000]> y = relu(x = x); } -> (y); }";
    let errors = verify(parse(huge).unwrap(), &Target::default()).unwrap_err();
    assert!(errors.iter().any(|d| d.rule == "extent"), "{errors:#?}");
}

fn corpus() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dirs: [PathBuf; 3] =
        [root.join("tests/verify"), root.join("tests/eval"), root.join("../../tests/interop/golden/mil")];
    let mut paths: Vec<PathBuf> = dirs
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()))
        .filter(|p| p.extension().is_some_and(|e| e == "mil"))
        .collect();
    paths.sort();
    paths.iter().map(|p| fs::read_to_string(p).unwrap()).collect()
}

#[test]
fn every_text_of_the_corpus_round_trips() {
    for text in corpus() {
        let program = parse(&text).unwrap();
        assert_eq!(parse(&program.to_string()).unwrap(), program);
    }
}

/// Texts that were damaged at random are read, printed, verified and counted without a panic.
fn fuzz(seed: u64, count: usize) -> usize {
    let corpus: Vec<Vec<char>> = corpus().iter().map(|t| t.chars().take(1500).collect()).collect();
    let pieces = [
        "tensor<fp16, [",
        "]>",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "//",
        "->",
        "=",
        ",",
        ";",
        "-1",
        "99999999999999999999",
        "0x1p-400000",
        "nan",
        "fp16(",
        "BLOBFILE(",
        "x",
        "const()",
        "é\u{0}",
        "4294967295",
        "0",
    ];
    let mut state = seed;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let mut read = 0;
    for _ in 0..count {
        let mut text = corpus[next(corpus.len())].clone();
        for _ in 0..=next(4) {
            let at = next(text.len());
            match next(4) {
                0 => {
                    text.remove(at);
                }
                1 => {
                    text.splice(at..at, pieces[next(pieces.len())].chars());
                }
                2 => {
                    let end = (at + next(40)).min(text.len());
                    let copy: Vec<char> = text[at..end].to_vec();
                    let to = next(text.len());
                    text.splice(to..to, copy);
                }
                _ => {
                    let other = &corpus[next(corpus.len())];
                    text[at] = other[next(other.len())];
                }
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(program) = parse(&text) {
            read += 1;
            assert_eq!(parse(&program.to_string()).as_ref(), Ok(&program));
            for function in &program.functions {
                mil::cost(function);
            }
            let _ = verify(program, &Target::default());
        }
    }
    read
}

#[test]
fn damaged_texts_never_panic() {
    assert!(fuzz(1, 100_000) > 100);
}

/// Operations that take any tensor, by number; operands are the values so far.
fn any_program() -> impl Strategy<Value = Program> {
    let step = (0u8..12, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<f32>());
    let dims = prop::collection::vec(1usize..5, 1..4);
    (dims, prop::collection::vec(step, 1..20), "[a-zA-Z_][a-zA-Z0-9_]{0,8}", "\\PC{0,12}").prop_map(build)
}

type Step = (u8, prop::sample::Index, prop::sample::Index, f32);

fn build((dims, steps, name, info): (Vec<usize>, Vec<Step>, String, String)) -> Program {
    let mut b = Builder::new("main");
    let mut values: Vec<ValueId> =
        vec![b.input(&name, DType::Fp16, dims.clone()), b.input("x", DType::Fp16, dims)];
    for (kind, i, j, number) in steps {
        let (x, y) = (*i.get(&values), *j.get(&values));
        let rank = b.ty(x).shape.rank();
        let dims = b.ty(x).shape.to_vec();
        let elements = b.ty(x).shape.elements();
        let same = b.ty(x).shape == b.ty(y).shape;
        let value = match kind {
            0 if same => b.add(x, y),
            1 => {
                let c = b.fp16(number);
                b.mul(x, c)
            }
            2 => b.reshape(x, &[elements]),
            3 => b.transpose(x, &(0..rank).rev().collect::<Vec<_>>()),
            4 => b.reduce_sum(x, &[-1]),
            5 if rank >= 2 => b.matmul_flip(x, x, mil::Flip::Y),
            6 => b.softmax(x, 0),
            7 => b.slice(x, &vec![0; rank], &dims.iter().map(|d| d.div_ceil(2)).collect::<Vec<_>>()),
            8 => b.concat(&[x, x], 0),
            9 => *b.split(x, 0, dims[0]).last().unwrap(),
            10 => {
                let ty = TensorType::new(DType::Fp32, [2]);
                b.named("free").constant(Literal { ty, data: Data::F32(vec![number, -0.0]) })
            }
            11 => {
                let ids = vec![("dtype", Arg::Literal(Literal::string("fp16"))), ("x", Arg::Value(x))];
                b.op("cast", ids)
            }
            _ => b.silu(x),
        };
        if b.ty(value).dtype == DType::Fp16 && b.ty(value).shape.elements() < 4096 {
            values.push(value);
        }
    }
    let last = *values.last().unwrap();
    let y = b.relu(last);
    b.output("out", y);
    let mut program = Program::new(vec![b.finish().unwrap()]);
    program.build_info.push(("note".into(), info));
    program
}

proptest! {
    #[test]
    fn text_round_trips(p in any_program()) {
        let text = p.to_string();
        let again = parse(&text).unwrap();
        prop_assert_eq!(&again, &p);
        prop_assert_eq!(again.to_string(), text);
    }

    #[test]
    fn floats_keep_their_bits(bits in any::<u32>(), half in any::<u16>()) {
        let (x, h) = (f32::from_bits(bits), f16::from_bits(half));
        prop_assume!(!x.is_nan() && !h.is_nan());
        let mut b = Builder::new("main");
        let ty = |d| TensorType::new(d, [1]);
        b.constant(Literal { ty: ty(DType::Fp32), data: Data::F32(vec![x]) });
        b.constant(Literal { ty: ty(DType::Fp16), data: Data::F16(vec![h]) });
        let p = Program::new(vec![b.finish().unwrap()]);
        prop_assert_eq!(parse(&p.to_string()).unwrap(), p);
    }
}
