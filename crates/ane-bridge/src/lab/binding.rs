//! Where the bytes of inputs and outputs lie, and which surface is which value.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use half::f16;
use mil::eval::{Slice, SliceMut};
use mil::{DType, Program};

use super::rig::{Rig, build, checked};
use super::{Answer, LabError, Subject};
use crate::apple::Route;
use crate::surface::Surface;

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

pub fn order(subject: &impl Subject) -> Result<Answer, LabError> {
    // In byte order, which is neither alphabetical (a10 before B) nor by number (a9 before a10).
    let names = [("B", "O_z"), ("a10", "o10"), ("a9", "o9"), ("c", "p")];
    let device = subject.open(Route::Daemon)?;
    let program = build(|b| {
        let inputs: Vec<_> =
            names.iter().map(|(name, _)| b.input(name, DType::Fp16, [1, CHANNELS, 1, 32])).collect();
        for (x, (_, name)) in inputs.into_iter().zip(names) {
            let y = b.relu(x);
            b.output(name, y);
        }
    });
    let rig = Rig::new(&device, "order", &checked(&device, program))?;
    let inputs: Vec<_> = (1..=4).map(|v| vec![v as f32; CHANNELS * 32]).collect();
    let found: Vec<f32> = rig.run(&inputs)?.iter().map(|output| output[0]).collect();
    let verdict = if found == [1.0, 2.0, 3.0, 4.0] { "byte order" } else { "another" };
    Ok(Answer::new(verdict, format!("the outputs of B, a10, a9, c hold the inputs number {found:?}")))
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
