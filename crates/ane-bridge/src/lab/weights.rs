//! What becomes of weights that a compile has seen.

use super::rig::{BareRig, WEIGHT_NAME, WEIGHT_PATH, causes, weight_file};
use super::{Answer, LabError, Subject};
use crate::apple::Route;
use crate::bare::BareModel;

/// What the program was compiled with, and what it gets afterwards.
const OLD: f32 = 2.0;
const NEW: f32 = 3.0;

/// Which weight is in force after somebody tried to exchange it.
fn in_force(weight: Result<f32, LabError>) -> (&'static str, String) {
    match weight {
        Ok(OLD) => ("frozen", "the weight is the compiled one".into()),
        Ok(NEW) => ("exchanged", "the weight is the new one".into()),
        Ok(other) => ("broken", format!("the weight is {other}")),
        Err(error) => ("no result", causes(&error)),
    }
}

pub fn reload(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let mut rig = BareRig::new(&device, &weight_file(&[OLD]), 0)?;
    if rig.weight()? != OLD {
        return Ok(Answer::new("broken", "the weight was wrong before anything was exchanged"));
    }
    if let Err(error) = rig.model.reload(WEIGHT_PATH, &weight_file(&[NEW])) {
        return Ok(Answer::new("refused", causes(&error)));
    }
    let (verdict, detail) = in_force(rig.weight());
    Ok(Answer::new(verdict, format!("unloaded, file replaced, loaded again: {detail}")))
}

pub fn offset(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    // The program names the first record, at 64; its data lie at 128.
    let file = weight_file(&[OLD, NEW]);
    let mut found = Vec::new();
    for offset in [0, 64, 128] {
        let weight = BareRig::new(&device, &file, offset).and_then(|rig| rig.weight());
        found.push((offset, weight));
    }
    let ignored = found.iter().all(|(_, weight)| matches!(weight, Ok(OLD)));
    let told = |(offset, weight): &(u64, Result<f32, LabError>)| match weight {
        Ok(OLD) => format!("{offset}: first record"),
        Ok(NEW) => format!("{offset}: second record"),
        Ok(_) => format!("{offset}: neither record"),
        Err(_) => format!("{offset}: refused"),
    };
    let all: Vec<_> = found.iter().map(told).collect();
    let detail: Vec<_> = found
        .iter()
        .map(|(offset, weight)| match weight {
            Ok(weight) => format!("with {offset} the weight is {weight}"),
            Err(error) => format!("with {offset}: {}", causes(error)),
        })
        .collect();
    Ok(Answer::new(if ignored { "ignored".into() } else { all.join(", ") }, detail.join("; ")))
}

pub fn instance(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let mut rig = BareRig::new(&device, &weight_file(&[OLD]), 0)?;
    if rig.weight()? != OLD {
        return Ok(Answer::new("broken", "the weight was wrong before anything was exchanged"));
    }
    if let Err(error) = rig.model.new_instance(WEIGHT_NAME, &weight_file(&[NEW])) {
        return Ok(Answer::new("refused", causes(&error)));
    }
    let (verdict, detail) = in_force(rig.weight());
    Ok(Answer::new(verdict, format!("a new instance was loaded: {detail}")))
}
