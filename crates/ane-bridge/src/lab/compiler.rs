//! What the compiler takes.

use mil::eval::Arithmetic;
use mil::program::Arg;
use mil::{DType, Program, ValueId, Weights, parse};

use super::rig::{build, causes, checked, differing, evaluate, random, run_once};
use super::{Answer, LabError, Subject};
use crate::apple::Route;
use crate::bare::{Bare, BareModel};
use crate::device::Device;
use crate::surface::Layout;

/// Whether a program compiles, runs and gives what the evaluator gives; else why not.
fn works(device: &impl Device, name: &str, program: Program, inputs: &[Vec<f32>]) -> Result<(), String> {
    let program = checked(device, program);
    let found = run_once(device, name, &program, inputs).map_err(|error| causes(&error))?;
    let wanted = evaluate(&program, Arithmetic::Exact, inputs);
    match found.iter().zip(&wanted).map(|(found, wanted)| differing(found, wanted)).sum() {
        0usize => Ok(()),
        wrong => Err(format!("{wrong} results are wrong")),
    }
}

/// One verdict over several programs, and what was said of those that did not work.
fn verdict(tried: Vec<(String, Result<(), String>)>, all: &str) -> Answer {
    let (good, bad): (Vec<_>, Vec<_>) = tried.into_iter().partition(|(_, result)| result.is_ok());
    let good: Vec<_> = good.into_iter().map(|(name, _)| name).collect();
    let detail: Vec<_> =
        bad.iter().map(|(name, result)| format!("{name}: {}", result.as_ref().unwrap_err())).collect();
    if bad.is_empty() {
        return Answer::new(all, good.join(", "));
    }
    Answer::new(if good.is_empty() { "none".into() } else { good.join(", ") }, detail.join("; "))
}

pub fn concat(subject: &impl Subject) -> Result<Answer, LabError> {
    const EXTENTS: [usize; 4] = [1, 8, 4, 32];
    let device = subject.open(Route::Daemon)?;
    let mut tried = Vec::new();
    for (axis, along) in [(1, "channels"), (2, "height"), (3, "width")] {
        for count in [2, 3] {
            let program = build(|b| {
                let inputs: Vec<_> =
                    (0..count).map(|i| b.input(&format!("i0{i}"), DType::Fp16, EXTENTS)).collect();
                let all = b.concat(&inputs, axis);
                let y = b.relu(all);
                b.output("o00_y", y);
            });
            let inputs: Vec<_> = (0..count).map(|i| random(EXTENTS.iter().product(), i as u64 + 1)).collect();
            tried.push((format!("{count} along {along}"), works(&device, "concat", program, &inputs)));
        }
    }
    Ok(verdict(tried, "all"))
}

pub fn mask(subject: &impl Subject) -> Result<Answer, LabError> {
    const SEQ: usize = 32;
    const DIM: usize = 64;
    let device = subject.open(Route::Daemon)?;
    let program = |masked: bool| {
        build(|b| {
            let q = b.input("a_q", DType::Fp16, [1, 2, SEQ, DIM]);
            let k = b.input("b_k", DType::Fp16, [1, 2, SEQ, DIM]);
            let v = b.input("c_v", DType::Fp16, [1, 2, SEQ, DIM]);
            let mask = b.input("d_mask", DType::Fp16, [1, 1, SEQ, SEQ]);
            let mut args = vec![("query", Arg::Value(q)), ("key", Arg::Value(k)), ("value", Arg::Value(v))];
            if masked {
                args.push(("attn_mask", Arg::Value(mask)));
            }
            let y = b.op("scaled_dot_product_attention", args);
            b.output("z_y", y);
            if !masked {
                // Else the mask would be an input that nothing reads.
                let read = b.relu(mask);
                b.output("z_z", read);
            }
        })
    };
    let causal = (0..SEQ * SEQ).map(|i| if i % SEQ > i / SEQ { -65504.0 } else { 0.0 }).collect();
    let tensor = |seed| random(2 * SEQ * DIM, seed);
    let inputs = [tensor(1), tensor(2), tensor(3), causal];
    let with = checked(&device, program(true));
    let found = run_once(&device, "mask", &with, &inputs)?;
    let far = |program: &mil::Verified| {
        let wanted = evaluate(program, Arithmetic::Exact, &inputs);
        found[0].iter().zip(&wanted[0]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    let (honoured, ignored) = (far(&with), far(&checked(&device, program(false))));
    let verdict = match (honoured < 0.02, ignored < 0.02) {
        (true, false) => "honoured",
        (false, true) => "ignored",
        _ => "neither",
    };
    Ok(Answer::new(
        verdict,
        format!("off by {honoured:.4} from the masked and {ignored:.4} from the bare result"),
    ))
}

pub fn opsets(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let mut tried = Vec::new();
    for opset in ["ios16", "ios17", "ios18"] {
        let mut program = build(|b| {
            let x = b.input("i00_x", DType::Fp16, [1, 8, 1, 64]);
            let y = b.relu(x);
            b.output("o00_y", y);
        });
        program.functions[0].opset = opset.into();
        tried.push((opset.to_owned(), works(&device, opset, program, &[random(8 * 64, 1)])));
    }
    Ok(verdict(tried, "ios16 ios17 ios18"))
}

/// A transpose whose permutation is written in the call.
const IN_PLACE: &str = r#"program(1.3)
{
    func main<ios18>(tensor<fp16, [1, 32, 1, 64]> i00_x) {
        tensor<fp16, [1, 64, 1, 32]> t = transpose(perm = tensor<int32, [4]>([0, 3, 2, 1]), x = i00_x)[name = string("t")];
        tensor<fp16, [1, 64, 1, 32]> o00_y = relu(x = t)[name = string("o00_y")];
    } -> (o00_y);
}
"#;

/// A product with a tensor of numbers that stand in the text.
const LITERAL: &str = r#"program(1.3)
{
    func main<ios18>(tensor<fp16, [1, 4, 1, 32]> i00_x) {
        tensor<fp16, [1, 4, 1, 1]> w = const()[name = string("w"), val = tensor<fp16, [1, 4, 1, 1]>([1.0, 2.0, 3.0, 4.0])];
        tensor<fp16, [1, 4, 1, 32]> o00_y = mul(x = i00_x, y = w)[name = string("o00_y")];
    } -> (o00_y);
}
"#;

/// A line of comment.
const COMMENT: &str = r#"program(1.3)
{
    // what only people read
    func main<ios18>(tensor<fp16, [1, 4, 1, 32]> i00_x) {
        tensor<fp16, [1, 4, 1, 32]> o00_y = relu(x = i00_x)[name = string("o00_y")];
    } -> (o00_y);
}
"#;

/// Whether a text compiles as it stands, and runs.
fn taken(device: &impl Bare, text: &str) -> Result<(), LabError> {
    let program = parse(text).expect("the text is a program");
    let function = &program.functions[0];
    let surface = |id: &ValueId| {
        let layout = Layout::of(&function.value(*id).ty).expect("the texts have fp16 ports");
        device.surface(layout)
    };
    let inputs = function.params().iter().map(surface).collect::<Result<Vec<_>, _>>()?;
    let outputs = function.outputs().iter().map(surface).collect::<Result<Vec<_>, _>>()?;
    let model = device.load(text, &Weights::new(), 0)?;
    Ok(model.run(&inputs.iter().collect::<Vec<_>>(), &outputs.iter().collect::<Vec<_>>())?)
}

pub fn texts(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let (mut verdict, mut detail) = (Vec::new(), Vec::new());
    for (name, text) in [("in place", IN_PLACE), ("literal", LITERAL), ("comment", COMMENT)] {
        match taken(&device, text) {
            Ok(()) => verdict.push(format!("{name} yes")),
            Err(error) => {
                verdict.push(format!("{name} no"));
                detail.push(format!("{name}: {}", causes(&error)));
            }
        }
    }
    if detail.is_empty() {
        detail.push("all three were compiled and run".into());
    }
    Ok(Answer::new(verdict.join(", "), detail.join("; ")))
}
