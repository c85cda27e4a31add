//! Checkpoints: what is saved comes back exactly, old ones go as told, damaged ones are put aside.

mod common;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use common::config;
use model::checkpoint::{Checkpoints, Keep, Saved, Snapshot, newest_model};
use model::hf::{self, Export};
use model::{FileError, ModelConfig, ParamId, Params, Role, RunLock, Slot, Weights, from_fn};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    lr: f64,
    loss: f32,
    position: u64,
}

/// Numbers whose decimal text is long.
fn state(step: u64) -> State {
    State { lr: 0.1 + step as f64 / 3.0, loss: 1.0 / 7.0 + step as f32, position: u64::MAX - step }
}

fn value(step: u64, id: ParamId, slot: Slot) -> f32 {
    (step as f32 + id.index() as f32).sin() * if slot == Slot::Moment2 { 1e-30 } else { 1.0 }
}

/// Matrices have one moment, as under Muon, and the rest two.
fn moments(params: &Params) -> Vec<(ParamId, Slot)> {
    let both = [Slot::Moment1, Slot::Moment2];
    params
        .iter()
        .flat_map(|p| both[..if p.role == Role::Q { 1 } else { 2 }].iter().map(|&s| (p.id, s)))
        .collect()
}

fn try_save(dir: &Path, keep: Keep, step: u64, config: &ModelConfig) -> Result<Saved, FileError> {
    let params = Params::new(config);
    let files = vec![("tokenizer.json".to_owned(), b"{}".to_vec())];
    let snapshot = Snapshot {
        step,
        config,
        export: &Export { files, ..Export::default() },
        moments: &moments(&params),
        state: &state(step),
    };
    Checkpoints::open(dir, keep)?.save(
        &snapshot,
        &mut from_fn(|(id, slot)| Ok(Cow::Owned(vec![value(step, id, slot); params.get(id).len()]))),
    )
}

fn save(dir: &Path, step: u64) -> Saved {
    try_save(dir, Keep { last: 100, every: None }, step, &config()).unwrap()
}

fn run(steps: &[u64]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for &step in steps {
        save(dir.path(), step);
    }
    dir
}

fn open(dir: &Path) -> Checkpoints {
    Checkpoints::open(dir, Keep::default()).unwrap()
}

/// The step that a run would go on from, and why newer ones were put aside, as `name: reason`.
fn load(dir: &Path) -> Result<(Option<u64>, Vec<String>), String> {
    let found = open(dir).load::<State>().map_err(|e| {
        format!("{} {e}", e.code())
            .replace(&format!("{}/", dir.display()), "")
            .replace(&dir.display().to_string(), "DIR")
    })?;
    let aside = found.quarantined.iter().map(|q| {
        assert!(q.to.exists() && !q.from.exists());
        let reason = q.reason.replace(&format!("{}/", dir.display()), "");
        format!("{}: {reason}", q.to.file_name().unwrap().display())
    });
    Ok((found.checkpoint.map(|c| c.step), aside.collect()))
}

#[test]
fn gives_back_every_number_exactly() {
    let dir = run(&[7]);
    let found = open(dir.path()).load::<State>().unwrap();
    let checkpoint = found.checkpoint.unwrap();
    assert_eq!((checkpoint.step, &checkpoint.state), (7, &state(7)));
    assert_eq!(checkpoint.model().config(), &config());
    let saved: Vec<_> = moments(checkpoint.model().params());
    for p in checkpoint.model().params() {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            let wanted = slot == Slot::Weight || saved.contains(&(p.id, slot));
            assert_eq!(checkpoint.has(p.id, slot), wanted);
            if wanted {
                assert_eq!(checkpoint.read(p.id, slot).unwrap(), vec![value(7, p.id, slot); p.len()]);
            }
        }
    }
    let q = checkpoint.model().params().find(Role::Q, Some(0)).unwrap();
    let error = checkpoint.read(q, Slot::Moment2).unwrap_err();
    let file = dir.path().join("step-00000007/training/optimizer.safetensors");
    let wanted = format!("{}: missing `model.layers.0.self_attn.q_proj.weight.moment2`", file.display());
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn the_manifest_lists_every_file_with_its_hash() {
    let dir = run(&[7]);
    let saved = dir.path().join("step-00000007");
    let found = open(dir.path()).load::<State>().unwrap().checkpoint.unwrap();
    let names: Vec<&str> = found.manifest.files.keys().map(String::as_str).collect();
    let wanted = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "training/optimizer.safetensors",
        "training/state.json",
    ];
    assert_eq!(names, wanted);
    for (name, file) in &found.manifest.files {
        let content = fs::read(saved.join(name)).unwrap();
        assert_eq!(
            (file.bytes, &file.blake3),
            (content.len() as u64, &blake3::hash(&content).to_hex().to_string())
        );
    }
    assert_eq!(found.manifest.tokenizer.as_deref(), Some(&*blake3::hash(b"{}").to_hex()));
    assert_eq!(found.manifest.config, found.manifest.files["config.json"].blake3);
}

#[test]
fn a_checkpoint_is_a_model_for_any_reader() {
    let dir = run(&[7]);
    let at = newest_model(dir.path()).unwrap();
    assert_eq!(at, dir.path().join("step-00000007"));
    assert_eq!(newest_model(&at).unwrap(), at);
    let model = hf::load(&at).unwrap();
    assert_ne!(model.weights, Weights::zeros(&config()));
    let empty = tempfile::tempdir().unwrap();
    let error = newest_model(empty.path()).unwrap_err();
    let wanted = format!(
        "{}: no usable checkpoint: neither config.json nor a complete step-* is there",
        empty.path().display()
    );
    assert_eq!(error.to_string(), wanted);
}

#[test]
fn reports_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let saved = save(dir.path(), 3);
    let mut bytes = 0;
    for place in [saved.dir.clone(), saved.dir.join("training")] {
        bytes += fs::read_dir(place)
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap())
            .filter(|m| m.is_file())
            .map(|m| m.len())
            .sum::<u64>();
    }
    assert_eq!(saved.bytes, bytes);
    assert_eq!(fs::read_to_string(dir.path().join("latest")).unwrap(), "step-00000003\n");
}

#[test]
fn keeps_the_newest_and_every_nth() {
    for (keep, wanted) in [
        (Keep { last: 3, every: None }, &[8, 9, 10][..]),
        (Keep { last: 0, every: None }, &[9, 10]),
        (Keep { last: 1, every: Some(4) }, &[4, 8, 9, 10]),
        (Keep { last: 2, every: Some(0) }, &[9, 10]),
        (Keep { last: usize::MAX, every: None }, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for step in 1..=10 {
            try_save(dir.path(), keep, step, &config()).unwrap().deleted.unwrap();
        }
        assert_eq!(open(dir.path()).steps().unwrap(), wanted, "{keep:?}");
        assert_eq!(load(dir.path()), Ok((Some(10), vec![])));
    }
}

#[test]
fn an_empty_directory_is_a_fresh_run() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(&dir.path().join("checkpoints")), Ok((None, vec![])));
}

#[test]
fn puts_a_damaged_checkpoint_aside_and_takes_the_one_before() {
    type Break = fn(&Path);
    let cases: [(&str, Break); 9] = [
        ("manifest.json is missing: it was not written to the end", |d| {
            fs::remove_file(d.join("manifest.json")).unwrap();
        }),
        ("model.safetensors is missing", |d| fs::remove_file(d.join("model.safetensors")).unwrap()),
        ("training/optimizer.safetensors is missing", |d| fs::remove_dir_all(d.join("training")).unwrap()),
        ("the content of model.safetensors has changed", |d| {
            let mut bytes = fs::read(d.join("model.safetensors")).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(d.join("model.safetensors"), bytes).unwrap();
        }),
        ("training/optimizer.safetensors has 40 bytes, wanted", |d| {
            let file =
                fs::File::options().write(true).open(d.join("training/optimizer.safetensors")).unwrap();
            file.set_len(40).unwrap();
        }),
        ("step-00000003/manifest.json: byte 0: EOF while parsing a value", |d| {
            fs::write(d.join("manifest.json"), "").unwrap();
        }),
        ("step-00000003/manifest.json: unsafe path `../../x`: wanted a path below the checkpoint", |d| {
            let text = fs::read_to_string(d.join("manifest.json")).unwrap();
            fs::write(d.join("manifest.json"), text.replace("\"config.json\":", "\"../../x\":")).unwrap();
        }),
        ("manifest.json says step 2", |d| {
            fs::copy(d.join("../step-00000002/manifest.json"), d.join("manifest.json")).unwrap();
        }),
        ("manifest.json does not list training/state.json", |d| {
            let text = fs::read_to_string(d.join("manifest.json")).unwrap();
            fs::write(d.join("manifest.json"), text.replace("training/state.json", "config.json")).unwrap();
        }),
    ];
    for (reason, damage) in cases {
        let dir = run(&[1, 2, 3]);
        damage(&dir.path().join("step-00000003"));
        let (step, aside) = load(dir.path()).unwrap();
        assert_eq!(step, Some(2), "{reason}");
        assert_eq!(aside.len(), 1);
        assert!(aside[0].starts_with(&format!("step-00000003.corrupt: {reason}")), "{aside:?}");
        // The run goes on and comes to the same step again.
        save(dir.path(), 3);
        assert_eq!(load(dir.path()), Ok((Some(3), vec![])));
        assert!(dir.path().join("step-00000003.corrupt").exists());
    }
}

#[test]
fn finds_another_name_for_the_second_damaged_one_of_a_step() {
    let dir = run(&[1, 2]);
    for name in ["step-00000002.corrupt", "step-00000002.corrupt-2"] {
        fs::write(dir.path().join("step-00000002/config.json"), "{}").unwrap();
        let (step, aside) = load(dir.path()).unwrap();
        assert_eq!(step, Some(1));
        assert!(aside[0].starts_with(&format!("{name}: ")), "{aside:?}");
        save(dir.path(), 2);
    }
}

#[test]
fn never_starts_over_when_there_was_something() {
    let dir = run(&[1, 2]);
    for step in ["step-00000001", "step-00000002"] {
        fs::remove_file(dir.path().join(step).join("manifest.json")).unwrap();
    }
    let advice = "repair or remove them, or start in another directory";
    let wanted = format!(
        "E3080 DIR: no usable checkpoint: 2 found, all damaged; the newest: manifest.json is missing: it was not \
         written to the end; {advice}"
    );
    assert_eq!(load(dir.path()), Err(wanted));
    let again = load(dir.path()).unwrap_err();
    assert!(
        again
            .starts_with("E3080 DIR: no usable checkpoint: only damaged ones are left, such as step-0000000")
    );
    assert!(again.ends_with(advice));

    let dir = run(&[5]);
    fs::remove_dir_all(dir.path().join("step-00000005")).unwrap();
    let wanted = "E3080 DIR: no usable checkpoint: `latest` names step-00000005, which is gone; put it back, or remove \
                  `latest` to start over";
    assert_eq!(load(dir.path()), Err(wanted.into()));
}

#[test]
fn goes_on_from_latest_and_without_it_from_the_newest() {
    let dir = run(&[1, 2, 3]);
    fs::write(dir.path().join("latest"), "step-00000002\n").unwrap();
    assert_eq!(load(dir.path()), Ok((Some(2), vec![])));
    for broken in ["", "step-2", "../../elsewhere", "\u{fffd}", "step-00000009"] {
        fs::write(dir.path().join("latest"), broken).unwrap();
        assert_eq!(load(dir.path()), Ok((Some(3), vec![])), "{broken:?}");
    }
    fs::remove_file(dir.path().join("latest")).unwrap();
    assert_eq!(load(dir.path()), Ok((Some(3), vec![])));
}

#[test]
fn a_step_reached_again_replaces_its_checkpoint() {
    let dir = run(&[1, 2, 3]);
    fs::write(dir.path().join("latest"), "step-00000001\n").unwrap();
    let marker = dir.path().join("step-00000002/marker");
    fs::write(&marker, "").unwrap();
    save(dir.path(), 2);
    assert!(!marker.exists());
    assert_eq!(load(dir.path()), Ok((Some(2), vec![])));
    assert_eq!(open(dir.path()).steps().unwrap(), [1, 2, 3]);
}

#[test]
fn a_later_version_of_the_format_is_refused_and_not_put_aside() {
    let dir = run(&[1]);
    let at = dir.path().join("step-00000001/manifest.json");
    let text = fs::read_to_string(&at).unwrap();
    fs::write(&at, text.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
    let wanted = "E3082 step-00000001/manifest.json: schema 2, wanted 1: written by another version";
    assert_eq!(load(dir.path()), Err(wanted.into()));
    fs::write(&at, text).unwrap();
    assert_eq!(load(dir.path()), Ok((Some(1), vec![])));

    let error = open(dir.path()).load::<Vec<u8>>().unwrap_err();
    assert_eq!(error.code(), "E3082");
    let wanted = "training/state.json: the state of another version of this program: invalid type: map, expected a \
                  sequence at line 1 column 0";
    assert!(error.to_string().ends_with(wanted), "{error}");
}

#[test]
fn removes_what_a_crash_left_unfinished() {
    let dir = run(&[1]);
    let rubbish = dir.path().join(".tmp-step-00000002-12345");
    fs::create_dir(&rubbish).unwrap();
    fs::write(rubbish.join("model.safetensors"), "half").unwrap();
    assert_eq!(load(dir.path()), Ok((Some(1), vec![])));
    assert!(!rubbish.exists());
}

#[test]
fn refuses_to_begin_what_does_not_fit() {
    let dir = run(&[1]);
    // Petabytes: 2^24 rows of 2^24 numbers.
    let huge = ModelConfig { dim: 1 << 24, vocab: 1 << 24, ..config() };
    let params = Params::new(&huge);
    let snapshot = Snapshot {
        step: 2,
        config: &huge,
        export: &Export::default(),
        moments: &moments(&params),
        state: &(),
    };
    let error = open(dir.path()).save(&snapshot, &mut from_fn(|_| unreachable!())).unwrap_err();
    let FileError::Space { needed, free, .. } = error else { panic!("{error}") };
    let least =
        3 * 4 * huge.param_count() - 4 * 2 * params.get(params.find(Role::Q, Some(0)).unwrap()).len() as u64;
    assert!((least..least + 1_000_000).contains(&needed), "{needed}, wanted a little over {least}");
    let text = format!(
        "{}: {needed} bytes needed, {free} free; free some space or keep fewer checkpoints",
        dir.path().display()
    );
    assert_eq!((error.code(), error.to_string()), ("E3083", text));
    assert_eq!(load(dir.path()), Ok((Some(1), vec![])));
}

#[test]
fn a_source_that_fails_leaves_nothing_behind() {
    let dir = run(&[1]);
    let config = config();
    let snapshot =
        Snapshot { step: 2, config: &config, export: &Export::default(), moments: &[], state: &() };
    let error = open(dir.path()).save(&snapshot, &mut from_fn(|_| Err("device lost".into()))).unwrap_err();
    assert!(error.to_string().ends_with("/model.safetensors: device lost"), "{error}");
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn says_so_when_the_directory_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run");
    fs::write(&file, "").unwrap();
    let wanted = format!("{} is a file, wanted a directory", file.display());
    assert_eq!(Checkpoints::open(&file, Keep::default()).unwrap_err().to_string(), wanted);
    assert_eq!(RunLock::acquire(&file).unwrap_err().to_string(), wanted);
}

#[test]
fn a_second_trainer_is_refused_until_the_first_ends() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let lock = RunLock::acquire(&run).unwrap();
    let error = RunLock::acquire(&run).unwrap_err();
    let wanted = format!(
        "{} is in use by process {}; wait until it ends, stop it, or choose another directory",
        run.display(),
        std::process::id()
    );
    assert_eq!((error.code(), error.to_string()), ("E3084", wanted));
    drop(lock);
    // What an ended process wrote there, however long, is replaced.
    fs::write(run.join(RunLock::FILE), "4294967295\nleft over\n").unwrap();
    let lock = RunLock::acquire(&run).unwrap();
    assert_eq!(fs::read_to_string(run.join(RunLock::FILE)).unwrap(), format!("{}\n", std::process::id()));
    fs::write(run.join(RunLock::FILE), "not a number").unwrap();
    assert!(RunLock::acquire(&run).unwrap_err().to_string().contains("in use by another process;"));
    drop(lock);
}
