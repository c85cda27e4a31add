//! Training checkpoints: everything that a run needs to go on as if it had not stopped.
//!
//! ```text
//! <dir>/latest                            name of the newest checkpoint
//! <dir>/step-00000500/                    a Hugging Face directory, as in `hf`, and
//!     training/optimizer.safetensors      <parameter>.moment1, <parameter>.moment2
//!     training/state.json                 what the trainer counts
//!     manifest.json                       step, size and BLAKE3 of every file; written last
//! ```
//!
//! A checkpoint appears under its name by one rename of a complete, synced directory, and old ones go
//! only afterwards. So after a crash at any moment the newest `step-*` is whole, or the one before it is;
//! which of the two, the manifest tells. `docs/checkpoints.md` has the order of the steps.
//!
//! One process writes: hold a [`crate::RunLock`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hf::{self, Export, Reader};
use crate::safetensors::{self, Entry, Float, TensorFile};
use crate::source::{Keyed, Source};
use crate::{FileError, ModelConfig, ParamId, Params, Slot, durable};

mod manifest;

pub use manifest::{Manifest, ManifestFile};

/// Subdirectory of a checkpoint with what only training needs.
const TRAINING: &str = "training";
const OPTIMIZER: &str = "training/optimizer.safetensors";
const STATE: &str = "training/state.json";
const LATEST: &str = "latest";
/// Prefix of what is being written or deleted.
const TEMPORARY: &str = ".tmp-";
/// Longest state that is read, in bytes.
const MAX_STATE: u64 = 64_000_000;

/// Which checkpoints stay when a new one was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The newest so many; the newest two stay in any case.
    pub last: usize,
    /// And those whose step is a multiple of this.
    pub every: Option<u64>,
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 3, every: None }
    }
}

/// What a checkpoint is made from, but for the numbers.
pub struct Snapshot<'a, T> {
    /// Updates done.
    pub step: u64,
    /// The model's shape.
    pub config: &'a ModelConfig,
    /// Tokenizer files and how weights are stored; `shard_bytes` counts, `float` is always f32 here.
    pub export: &'a Export,
    /// The optimizer's tensors, in the order in which they are asked for.
    pub moments: &'a [(ParamId, Slot)],
    /// What the trainer counts. Stored as JSON: floating-point numbers in it come back exactly, but must
    /// be finite.
    pub state: &'a T,
}

/// A checkpoint that was written.
#[derive(Debug)]
pub struct Saved {
    /// Where it is.
    pub dir: PathBuf,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Steps whose checkpoints were deleted for it, or why that failed; the new one is safe either way.
    pub deleted: Result<Vec<u64>, FileError>,
}

/// A damaged checkpoint that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it was.
    pub from: PathBuf,
    /// Where it is now.
    pub to: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A checkpoint whose files were verified.
#[derive(Debug)]
pub struct Checkpoint<T> {
    /// Updates done.
    pub step: u64,
    /// Where it is.
    pub dir: PathBuf,
    /// What the trainer counted.
    pub state: T,
    /// The list of its files.
    pub manifest: Manifest,
    model: Reader,
    optimizer: TensorFile,
}

impl<T> Checkpoint<T> {
    /// Shape, weights and special tokens.
    pub fn model(&self) -> &Reader {
        &self.model
    }

    /// Whether it holds that tensor: weights always, moments as they were saved.
    pub fn has(&self, id: ParamId, slot: Slot) -> bool {
        slot == Slot::Weight || self.optimizer.find(&self.name(id, slot)).is_some()
    }

    /// The numbers of one tensor.
    pub fn read(&self, id: ParamId, slot: Slot) -> Result<Vec<f32>, FileError> {
        if slot == Slot::Weight {
            return self.model.read(id);
        }
        let name = self.name(id, slot);
        let shape = &self.model.params().get(id).shape;
        let contents = |reason| FileError::Contents { path: self.optimizer.path().to_owned(), reason };
        let tensor = self.optimizer.find(&name).ok_or_else(|| contents(format!("missing `{name}`")))?;
        if tensor.shape != *shape {
            let got = &tensor.shape;
            return Err(contents(format!("`{name}` has the shape {got:?}, wanted {shape:?}")));
        }
        self.optimizer.read(tensor)
    }

    fn name(&self, id: ParamId, slot: Slot) -> String {
        tensor_name(self.model.params(), id, slot)
    }
}

/// What [`Checkpoints::load`] found.
#[derive(Debug)]
pub struct Found<T> {
    /// The newest sound checkpoint; `None` only where there never was one.
    pub checkpoint: Option<Checkpoint<T>>,
    /// Damaged ones that were newer, for the user to know.
    pub quarantined: Vec<Quarantined>,
}

/// The checkpoints of one run.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    keep: Keep,
}

impl Checkpoints {
    /// Opens a directory of checkpoints, creates it if need be and removes what a crash left unfinished.
    pub fn open(dir: &Path, keep: Keep) -> Result<Self, FileError> {
        durable::ensure_dir(dir)?;
        for name in names(dir)? {
            if name.starts_with(TEMPORARY) {
                durable::remove(&dir.join(name))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), keep })
    }

    /// Steps with a checkpoint, ascending; damaged ones are not told apart here.
    pub fn steps(&self) -> Result<Vec<u64>, FileError> {
        steps(&self.dir)
    }

    /// Writes a checkpoint. `source` is asked for every weight in the order of the table and then for each
    /// of `moments`. On failure the checkpoints before it are as they were.
    pub fn save<T: Serialize>(
        &self,
        snapshot: &Snapshot<T>,
        source: &mut dyn Source<(ParamId, Slot)>,
    ) -> Result<Saved, FileError> {
        let temporary =
            self.dir.join(format!("{TEMPORARY}{}-{}", step_name(snapshot.step), std::process::id()));
        durable::remove(&temporary)?;
        let dir = self.dir.join(step_name(snapshot.step));
        let saved = self
            .write(&temporary, snapshot, source)
            .and_then(|bytes| self.publish(&temporary, &dir).map(|()| bytes));
        match saved {
            Ok(bytes) => Ok(Saved { dir, bytes, deleted: self.delete_old(snapshot.step) }),
            Err(error) => {
                // Gives the room back; what fails here is removed by the next `open`.
                let _ = durable::remove(&temporary);
                Err(error)
            }
        }
    }

    fn write<T: Serialize>(
        &self,
        dir: &Path,
        snapshot: &Snapshot<T>,
        source: &mut dyn Source<(ParamId, Slot)>,
    ) -> Result<u64, FileError> {
        let export = Export { float: Float::F32, ..snapshot.export.clone() };
        let params = Params::new(snapshot.config);
        let moments: Vec<Entry> = snapshot
            .moments
            .iter()
            .map(|&(id, slot)| Entry {
                name: tensor_name(&params, id, slot),
                float: Float::F32,
                shape: params.get(id).shape.clone(),
            })
            .collect();
        let state = serde_json::to_vec_pretty(snapshot.state)
            .map_err(|e| FileError::io("write", &dir.join(STATE))(e.into()))?;

        let metadata = BTreeMap::from([("format".into(), "pt".into())]);
        let header = safetensors::header_bytes(&metadata, &moments).len() as u64;
        let needed = hf::planned_bytes(snapshot.config, &export)
            + header
            + moments.iter().map(Entry::bytes).sum::<u64>()
            + state.len() as u64;
        let free = durable::free_bytes(&self.dir)?;
        if needed > free {
            return Err(FileError::Space { dir: self.dir.clone(), needed, free });
        }

        durable::create_dir(dir)?;
        let mut files = hf::save_into(
            dir,
            snapshot.config,
            &export,
            &mut Keyed { source, key: |id| (id, Slot::Weight) },
        )?;
        durable::create_dir(&dir.join(TRAINING))?;
        let mut optimizer = durable::HashedFile::create(&dir.join(OPTIMIZER))?;
        safetensors::write_to(
            &mut optimizer,
            &metadata,
            &moments,
            &mut Keyed { source, key: |i: usize| snapshot.moments[i] },
        )?;
        files.push(optimizer.finish(OPTIMIZER)?);
        files.push(durable::write(dir, STATE, &state)?);
        durable::sync_dir(&dir.join(TRAINING))?;

        let manifest = Manifest::new(snapshot.step, &files);
        let written = durable::write(dir, manifest::NAME, &manifest.text())?;
        durable::sync_dir(dir)?;
        Ok(files.iter().map(|f| f.bytes).sum::<u64>() + written.bytes)
    }

    /// Puts the complete directory under its name, and the name into `latest`.
    fn publish(&self, temporary: &Path, dir: &Path) -> Result<(), FileError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        // A step that is there already, after a return to an earlier one, gives way.
        let old = self.dir.join(format!("{TEMPORARY}old-{name}-{}", std::process::id()));
        durable::remove(&old)?;
        if dir.exists() {
            durable::rename(dir, &old)?;
        }
        if let Err(error) = durable::rename(temporary, dir) {
            if old.exists() {
                durable::rename(&old, dir)?;
            }
            return Err(error);
        }
        durable::sync_dir(&self.dir)?;
        durable::replace(&self.dir, LATEST, format!("{name}\n").as_bytes())?;
        durable::remove(&old)
    }

    fn delete_old(&self, newest: u64) -> Result<Vec<u64>, FileError> {
        let steps: Vec<u64> = self.steps()?.into_iter().filter(|&s| s <= newest).collect();
        let old = &steps[..steps.len().saturating_sub(self.keep.last.max(2))];
        let keep = |step: u64| self.keep.every.is_some_and(|n| n > 0 && step.is_multiple_of(n));
        let mut deleted = Vec::new();
        for &step in old.iter().filter(|&&s| !keep(s)) {
            self.discard(&self.dir.join(step_name(step)))?;
            deleted.push(step);
        }
        Ok(deleted)
    }

    /// Deletes a checkpoint so that no part of it is ever left under its name.
    fn discard(&self, dir: &Path) -> Result<(), FileError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let temporary = self.dir.join(format!("{TEMPORARY}delete-{name}-{}", std::process::id()));
        durable::remove(&temporary)?;
        durable::rename(dir, &temporary)?;
        durable::remove(&temporary)
    }

    /// The checkpoint that `latest` names, or else the newest sound one. A candidate's files are first
    /// compared with its manifest; one that does not match is renamed to `step-N.corrupt` and the next
    /// is tried, newest first.
    ///
    /// Where checkpoints were written but none is sound, that is an error, never a fresh start.
    pub fn load<T: DeserializeOwned>(&self) -> Result<Found<T>, FileError> {
        let mut quarantined = Vec::new();
        for step in candidates(&self.dir)? {
            let dir = self.dir.join(step_name(step));
            match verify(&dir, step) {
                Ok(manifest) => {
                    let checkpoint = Some(open(&dir, manifest)?);
                    return Ok(Found { checkpoint, quarantined });
                }
                Err(error) if means_damage(&error) => {
                    quarantined.push(self.quarantine(&dir, error)?);
                }
                Err(error) => return Err(error),
            }
        }
        match self.reason_to_stop(&quarantined)? {
            Some(reason) => Err(FileError::NoCheckpoint { dir: self.dir.clone(), reason }),
            None => Ok(Found { checkpoint: None, quarantined }),
        }
    }

    /// Why an empty list of checkpoints is no fresh run.
    fn reason_to_stop(&self, quarantined: &[Quarantined]) -> Result<Option<String>, FileError> {
        const ADVICE: &str = "repair or remove them, or start in another directory";
        if let Some(first) = quarantined.first() {
            let n = quarantined.len();
            return Ok(Some(format!("{n} found, all damaged; the newest: {}; {ADVICE}", first.reason)));
        }
        let aside = names(&self.dir)?.into_iter().find(|n| n.starts_with("step-") && n.contains(".corrupt"));
        if let Some(name) = aside {
            return Ok(Some(format!("only damaged ones are left, such as {name}; {ADVICE}")));
        }
        let latest = self.dir.join(LATEST);
        if latest.exists() {
            let text = durable::read(&latest, 4096)?;
            let name = String::from_utf8_lossy(&text).trim().to_owned();
            return Ok(Some(format!(
                "`latest` names {name}, which is gone; put it back, or remove `latest` to start over"
            )));
        }
        Ok(None)
    }

    fn quarantine(&self, dir: &Path, error: FileError) -> Result<Quarantined, FileError> {
        let reason = match error {
            FileError::Damaged { reason, .. } => reason,
            other => other.to_string(),
        };
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut to = self.dir.join(format!("{name}.corrupt"));
        let mut n = 2;
        while to.exists() {
            to = self.dir.join(format!("{name}.corrupt-{n}"));
            n += 1;
        }
        durable::rename(dir, &to)?;
        durable::sync_dir(&self.dir)?;
        Ok(Quarantined { from: dir.to_owned(), to, reason })
    }
}

/// The newest complete model below `dir`, for readers that train nothing: `dir` is a directory of
/// checkpoints, or a model itself. Verifies no hashes and changes nothing.
pub fn newest_model(dir: &Path) -> Result<PathBuf, FileError> {
    if dir.join(hf::CONFIG).exists() {
        return Ok(dir.to_owned());
    }
    let complete = |step: &u64| dir.join(step_name(*step)).join(manifest::NAME).exists();
    match candidates(dir)?.into_iter().find(complete) {
        Some(step) => Ok(dir.join(step_name(step))),
        None => {
            let reason = format!("neither {} nor a complete step-* is there", hf::CONFIG);
            Err(FileError::NoCheckpoint { dir: dir.to_owned(), reason })
        }
    }
}

/// Compares every file with the manifest.
fn verify(dir: &Path, step: u64) -> Result<Manifest, FileError> {
    let manifest = Manifest::read(dir)?;
    if manifest.step != step {
        let reason = format!("{} says step {}", manifest::NAME, manifest.step);
        return Err(FileError::Damaged { dir: dir.to_owned(), reason });
    }
    manifest.verify(dir, &[hf::CONFIG, OPTIMIZER, STATE])?;
    Ok(manifest)
}

/// Opens a checkpoint that was verified: what fails now is no damage.
fn open<T: DeserializeOwned>(dir: &Path, manifest: Manifest) -> Result<Checkpoint<T>, FileError> {
    let state_path = dir.join(STATE);
    let text = durable::read(&state_path, MAX_STATE)?;
    let state = serde_json::from_slice(&text).map_err(|e| FileError::Foreign {
        path: state_path,
        reason: format!("the state of another version of this program: {e}"),
    })?;
    let model = Reader::open(dir)?;
    let optimizer = TensorFile::open(&dir.join(OPTIMIZER))?;
    Ok(Checkpoint { step: manifest.step, dir: dir.to_owned(), state, manifest, model, optimizer })
}

/// Whether an error says that the checkpoint is broken, rather than that it cannot be reached now.
fn means_damage(error: &FileError) -> bool {
    match error {
        FileError::Io { source, .. } => {
            source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
        }
        FileError::Foreign { .. } => false,
        _ => true,
    }
}

/// Steps to try in turn: the one of `latest`, then the newest first.
fn candidates(dir: &Path) -> Result<Vec<u64>, FileError> {
    let mut steps = steps(dir)?;
    steps.reverse();
    let latest = dir.join(LATEST);
    if latest.exists() {
        let text = durable::read(&latest, 4096)?;
        let named = std::str::from_utf8(&text).ok().and_then(|name| parse_step(name.trim()));
        if let Some(at) = named.and_then(|step| steps.iter().position(|&s| s == step)) {
            steps[..=at].rotate_right(1);
        }
    }
    Ok(steps)
}

fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

fn parse_step(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

fn steps(dir: &Path) -> Result<Vec<u64>, FileError> {
    let mut steps: Vec<u64> = names(dir)?.iter().filter_map(|name| parse_step(name)).collect();
    steps.sort_unstable();
    Ok(steps)
}

/// Names in a directory, but for those that are no UTF-8: none of ours.
fn names(dir: &Path) -> Result<Vec<String>, FileError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(FileError::io("read", dir))? {
        let entry = entry.map_err(FileError::io("read", dir))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn tensor_name(params: &Params, id: ParamId, slot: Slot) -> String {
    let name = &params.get(id).name;
    match slot {
        Slot::Weight => name.clone(),
        Slot::Gradient => format!("{name}.gradient"),
        Slot::Moment1 => format!("{name}.moment1"),
        Slot::Moment2 => format!("{name}.moment2"),
    }
}
