//! File tests of the evaluator: `tests/eval/*.mil`, and the golden files that coremltools computed.
//!
//! ```text
//! // eval: main([1, -2]) == [1, 0]          every value equal, in both arithmetics
//! // eval: main([1, -2]) ~= [0.731, 0.119]  to two fp16 steps
//! // eval exact: … / // eval fast: …        in one arithmetic only
//! ```
//!
//! Inputs and outputs are listed row by row, several of them as `([…], […])`.

use std::fs;
use std::path::Path;

use half::f16;
use mil::eval::{Arithmetic, Plan, Settings, Slice, SliceMut};
use mil::{DType, Target, Verified, parse, verify};

fn lists(text: &str) -> Vec<Vec<f32>> {
    text.split('[')
        .skip(1)
        .map(|part| {
            let inside = part.split(']').next().unwrap();
            inside.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect()
        })
        .collect()
}

/// Runs a plan on fp32 values and widens its results.
fn run(program: &Verified, function: &str, inputs: &[Vec<f32>], arithmetic: Arithmetic) -> Vec<Vec<f32>> {
    let mut plan = Plan::of(program, function, Settings { arithmetic, ..Settings::default() }).unwrap();
    let halves: Vec<Vec<f16>> =
        inputs.iter().map(|v| v.iter().map(|&x| f16::from_f32(x)).collect()).collect();
    let slices: Vec<Slice<'_>> = plan
        .inputs()
        .iter()
        .zip(inputs.iter().zip(&halves))
        .map(|(port, (x, h))| if port.ty.dtype == DType::Fp16 { Slice::F16(h) } else { Slice::F32(x) })
        .collect();
    let ports: Vec<_> = plan.outputs().cloned().collect();
    let mut halves: Vec<Vec<f16>> = ports.iter().map(|p| vec![f16::NAN; p.len]).collect();
    let mut singles: Vec<Vec<f32>> = ports.iter().map(|p| vec![f32::NAN; p.len]).collect();
    for _ in 0..2 {
        // The second run meets the buffers that the first left behind.
        let mut out: Vec<SliceMut<'_>> = ports
            .iter()
            .zip(halves.iter_mut().zip(&mut singles))
            .map(|(p, (h, s))| if p.ty.dtype == DType::Fp16 { SliceMut::F16(h) } else { SliceMut::F32(s) })
            .collect();
        plan.run(&slices, &mut out).unwrap();
    }
    ports
        .iter()
        .zip(halves.iter().zip(singles))
        .map(|(p, (h, s))| match p.ty.dtype {
            DType::Fp16 => h.iter().map(|x| x.to_f32()).collect(),
            _ => s,
        })
        .collect()
}

fn close(got: f32, want: f32, steps: f32) -> bool {
    if got.is_nan() || want.is_nan() {
        return got.is_nan() == want.is_nan();
    }
    let rounded = f16::from_f32(want).to_f32();
    if got == rounded || got == want {
        return true;
    }
    let step = (want.abs() / 1024.0).max(2f32.powi(-24));
    (got - want).abs() <= steps * step
}

fn check(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap();
    let name = path.display();
    let mut target = Target { padded_rows: true, ..Target::default() };
    if text.contains("// target: M1") {
        target.family = mil::verify::Family::M1;
    }
    let program = parse(&text).unwrap_or_else(|e| panic!("{name}:{e}"));
    let program = verify(program, &target).unwrap_or_else(|e| panic!("{name}: {e:#?}"));
    let mut count = 0;
    for line in text.lines().filter(|l| l.starts_with("// eval")) {
        let (head, rest) = line.split_once(": ").unwrap();
        let arithmetics: &[Arithmetic] = match head {
            "// eval" => &[Arithmetic::Fast, Arithmetic::Exact],
            "// eval exact" => &[Arithmetic::Exact],
            "// eval fast" => &[Arithmetic::Fast],
            other => panic!("{name}: {other}"),
        };
        let (steps, call, want) = match rest.split_once(" == ") {
            Some((call, want)) => (0.0, call, want),
            None => {
                let (call, want) = rest.split_once(" ~= ").unwrap();
                (2.0, call, want)
            }
        };
        let function = call.split('(').next().unwrap();
        for &arithmetic in arithmetics {
            let got = run(&program, function, &lists(call), arithmetic);
            let want = lists(want);
            let fits = got.len() == want.len()
                && got
                    .iter()
                    .zip(&want)
                    .all(|(g, w)| g.len() == w.len() && g.iter().zip(w).all(|(&g, &w)| close(g, w, steps)));
            assert!(fits, "{name}: {arithmetic:?} {line}\n got {got:?}");
            count += 1;
        }
    }
    assert!(count > 0, "{name} evaluates nothing");
    count
}

fn check_all(dir: &str) -> usize {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "mil"));
    paths.iter().map(|p| check(p)).sum()
}

#[test]
fn files_evaluate_as_they_say() {
    assert!(check_all("tests/eval") > 30);
}

#[test]
fn operations_agree_with_coremltools() {
    assert!(check_all("../../tests/interop/golden/mil") > 100);
}
