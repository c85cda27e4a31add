//! Where the bytes of inputs and outputs lie, and which surface is which value.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use half::f16;
use mil::eval::{Slice, SliceMut};
use mil::{Builder, DType, Program, Weights};

use super::rig::{Rig, build, causes, checked};
use super::{Answer, LabError, Subject};
use crate::apple::Route;
use crate::bare::{Bare, BareModel};
use crate::surface::{Layout, Surface};

const CHANNELS: usize = 8;

/// `y = x + x` on rows of `width`.
fn twice(width: usize) -> Program {
    build(|b| {
        let x = b.input("i00_x", DType::Fp16, [1, CHANNELS, 1, width]);
        let y = b.add(x, x);
        b.output("o00_y", y);
    })
}

/// All elements of an fp16 surface.
fn raw(surface: &Surface) -> Result<Vec<f32>, LabError> {
    Ok(match surface.read()?.slice() {
        Slice::F16(all) => all.iter().map(|v| v.to_f32()).collect(),
        _ => unreachable!("the programs here have fp16 surfaces"),
    })
}

pub fn pitch(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let mut found = BTreeSet::new();
    let mut detail = Vec::new();
    for width in [4, 16, 20] {
        let rig = Rig::new(&device, "pitch", &checked(&device, twice(width)))?;
        // Element i of the memory holds i + 1, so every result tells where its operand lay.
        match rig.inputs[0].write()?.slice_mut() {
            SliceMut::F16(all) => {
                all.iter_mut().enumerate().for_each(|(i, v)| *v = f16::from_f32((i + 1) as f32));
            }
            _ => unreachable!("the programs here have fp16 surfaces"),
        }
        if let Err(error) = rig.dispatch() {
            found.insert("refused".to_owned());
            detail.push(format!("{width}: {error}"));
            continue;
        }
        let memory = raw(&rig.outputs[0])?;
        let steps = [width, 32, 64, 128];
        let fits = |&(from, to): &(usize, usize)| {
            let at = |c: usize, w: usize| memory.get(c * to + w).copied();
            (0..2).all(|c| (0..width).all(|w| at(c, w) == Some(2.0 * (c * from + w + 1) as f32)))
        };
        let pairs = steps.iter().flat_map(|&from| steps.map(|to| (from, to)));
        let step = match pairs.clone().find(fits) {
            Some((from, to)) if from == to && from == width => "packed".to_owned(),
            Some((from, to)) if from == to => format!("{} bytes", 2 * from),
            Some((from, to)) => format!("{} bytes in, {} out", 2 * from, 2 * to),
            None => "unknown".to_owned(),
        };
        detail.push(format!("rows of {width}: {step}"));
        found.insert(step);
    }
    let verdict: Vec<_> = found.into_iter().collect();
    Ok(Answer::new(verdict.join(" and "), detail.join("; ")))
}

/// Inputs and outputs in byte order, which is neither alphabetical (a10 before B) nor by number (a9 before
/// a10): output `i` is input `i`.
const NAMES: [(&str, &str); 4] = [("B", "O_z"), ("a10", "o10"), ("a9", "o9"), ("c", "p")];

/// A program of [`NAMES`], declared in this order.
fn named(order: [usize; 4]) -> String {
    let program = build(|b| {
        let declare = |b: &mut Builder, i: usize| b.input(NAMES[i].0, DType::Fp16, [1, CHANNELS, 1, 32]);
        let inputs = order.map(|i| declare(b, i));
        for (x, i) in inputs.into_iter().zip(order) {
            let y = b.relu(x);
            b.output(NAMES[i].1, y);
        }
    });
    program.to_string()
}

/// Which input each output holds when the surface at place `i` is bound to symbol `i`, and whether the
/// compiler tells byte order; `None` when it does not tell.
fn bound(device: &impl Bare, order: [usize; 4]) -> Result<(Vec<f32>, Option<bool>), LabError> {
    let model = device.load(&named(order), &Weights::new(), 0)?;
    let layout = Layout::fp16(CHANNELS, 32);
    let surfaces = || (0..4).map(|_| device.surface(layout)).collect::<Result<Vec<_>, _>>();
    let (inputs, outputs) = (surfaces()?, surfaces()?);
    for (i, surface) in inputs.iter().enumerate() {
        surface.write()?.fill((i + 1) as f32);
    }
    model.run(&inputs.iter().collect::<Vec<_>>(), &outputs.iter().collect::<Vec<_>>())?;
    let found = outputs.iter().map(|surface| Ok(surface.read()?.row(0)?[0].to_f32()));
    let found = found.collect::<Result<Vec<_>, LabError>>()?;
    let told = model.symbols().map(|[ins, outs]| {
        ins.iter().zip(NAMES).all(|(told, (name, _))| told == name)
            && outs.iter().zip(NAMES).all(|(told, (_, name))| told == name)
    });
    Ok((found, told))
}

pub fn order(subject: &impl Subject) -> Result<Answer, LabError> {
    const OTHER: [usize; 4] = [2, 0, 3, 1];
    let device = subject.open(Route::Daemon)?;
    let (found, told) = bound(&device, [0, 1, 2, 3])?;
    let mut detail = vec![format!("the outputs of B, a10, a9, c hold the inputs number {found:?}")];
    let byte = [1.0, 2.0, 3.0, 4.0];
    if found != byte {
        return Ok(Answer::new("another", detail.join("; ")));
    }
    let mut verdict = "byte order".to_owned();
    verdict += match bound(&device, OTHER) {
        Err(error) => {
            detail.push(format!("declared otherwise: {}", causes(&error)));
            ", refused when declared otherwise"
        }
        Ok((found, _)) => {
            detail.push(format!("declared otherwise: {found:?}"));
            if found == byte { ", also when declared otherwise" } else { ", another when declared otherwise" }
        }
    };
    verdict += match told {
        Some(true) => ", and told so",
        Some(false) => ", and told otherwise",
        None => ", and not told",
    };
    Ok(Answer::new(verdict, detail.join("; ")))
}

pub fn sizes(subject: &impl Subject) -> Result<Answer, LabError> {
    let widths = [32, 64, 96, 128];
    let device = subject.open(Route::Daemon)?;
    let program = build(|b| {
        let inputs: Vec<_> = widths
            .iter()
            .enumerate()
            .map(|(i, &width)| b.input(&format!("i0{i}"), DType::Fp16, [1, CHANNELS, 1, width]))
            .collect();
        for (i, x) in inputs.into_iter().enumerate() {
            let y = b.add(x, x);
            b.output(&format!("o0{i}"), y);
        }
    });
    let rig = Rig::new(&device, "sizes", &checked(&device, program))?;
    let inputs: Vec<Vec<f32>> =
        widths.iter().map(|&w| (0..CHANNELS * w).map(|i| i as f32).collect()).collect();
    let answer = match rig.run(&inputs) {
        Err(error) => Answer::new("yes", format!("{error}")),
        Ok(found) => {
            let right = found.iter().zip(&inputs).all(|(y, x)| y.iter().zip(x).all(|(y, x)| *y == 2.0 * x));
            Answer::new(if right { "no" } else { "wrong results" }, "widths 32, 64, 96 and 128")
        }
    };
    Ok(answer)
}

/// Folders below `temporary` that hold a program's text.
fn folders(temporary: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(temporary)? {
        let path = entry?.path();
        if path.join("model.mil").is_file() {
            found.insert(path);
        }
    }
    Ok(found)
}

pub fn folder(subject: &impl Subject, temporary: &Path) -> Result<Answer, LabError> {
    // An extent that no other program of the lab has, so the folder is this one's alone.
    const WIDTH: usize = 224;
    let device = subject.open(Route::Daemon)?;
    let before = folders(temporary)?;
    let rig = Rig::new(&device, "folder", &checked(&device, twice(WIDTH)))?;
    let made: Vec<_> = folders(temporary)?.difference(&before).cloned().collect();
    // Another process may compile at this time; only what holds our text is ours.
    let ours = |path: &PathBuf| {
        fs::read_to_string(path.join("model.mil")).is_ok_and(|text| text.contains("[1, 8, 1, 224]"))
    };
    let made: Vec<_> = made.into_iter().filter(ours).collect();
    for path in &made {
        fs::remove_dir_all(path)?;
    }
    let verdict = match rig.run(&[vec![3.0; CHANNELS * WIDTH]]) {
        Ok(found) if found[0].iter().all(|&y| y == 6.0) => "no",
        Ok(_) => "wrong results",
        Err(_) => "yes",
    };
    Ok(Answer::new(verdict, format!("{} folders were removed after the load", made.len())))
}
