//! `manifest.json`: what a complete checkpoint consists of.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::shorten;
use crate::{FileError, Written, durable, hf};

pub const NAME: &str = "manifest.json";
/// Version of the layout; readers refuse a later one.
const SCHEMA: u32 = 1;
/// Longest manifest that is read, in bytes.
const MAX_BYTES: u64 = 16_000_000;

/// Size and hash of every file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the layout.
    pub schema: u32,
    /// Updates done.
    pub step: u64,
    /// BLAKE3 of `config.json`, in hex.
    pub config: String,
    /// BLAKE3 of `tokenizer.json`, in hex, if there is one.
    pub tokenizer: Option<String>,
    /// The files, by path with `/`, without the manifest.
    pub files: BTreeMap<String, ManifestFile>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its content, in hex.
    pub blake3: String,
}

impl Manifest {
    pub(super) fn new(step: u64, written: &[Written]) -> Self {
        let hash = |name| written.iter().find(|w| w.name == name).map(|w| w.hash.to_hex().to_string());
        let file = |w: &Written| ManifestFile { bytes: w.bytes, blake3: w.hash.to_hex().to_string() };
        Self {
            schema: SCHEMA,
            step,
            config: hash(hf::CONFIG).unwrap_or_default(),
            tokenizer: hash(hf::TOKENIZER),
            files: written.iter().map(|w| (w.name.clone(), file(w))).collect(),
        }
    }

    pub(super) fn text(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest has text")
    }

    /// Reads the manifest of a checkpoint. Its file names are safe to open below `dir`.
    pub fn read(dir: &Path) -> Result<Self, FileError> {
        let path = dir.join(NAME);
        if !path.exists() {
            return Err(damaged(dir, format!("{NAME} is missing: it was not written to the end")));
        }
        let text = durable::read(&path, MAX_BYTES)?;
        let schema: Schema = parse(&path, &text)?;
        if schema.schema != SCHEMA {
            let reason = format!("schema {}, wanted {SCHEMA}: written by another version", schema.schema);
            return Err(FileError::Foreign { path, reason });
        }
        let manifest: Self = parse(&path, &text)?;
        for name in manifest.files.keys() {
            let plain = |c: Component| matches!(c, Component::Normal(_));
            let safe = !name.is_empty()
                && !name.contains(['\\', '\0', ':'])
                && Path::new(name).components().all(plain);
            if !safe {
                let reason = "wanted a path below the checkpoint".into();
                return Err(FileError::UnsafePath { path, name: shorten(name), reason });
            }
        }
        Ok(manifest)
    }

    /// Compares every file with its size, and then with its hash. `needed` must be among them.
    pub(super) fn verify(&self, dir: &Path, needed: &[&str]) -> Result<(), FileError> {
        if let Some(name) = needed.iter().find(|name| !self.files.contains_key(**name)) {
            return Err(damaged(dir, format!("{NAME} does not list {name}")));
        }
        for (name, wanted) in &self.files {
            let found = std::fs::metadata(dir.join(name));
            match found {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(damaged(dir, format!("{} is missing", shorten(name))));
                }
                Err(e) => return Err(FileError::io("inspect", &dir.join(name))(e)),
                Ok(found) if found.len() != wanted.bytes => {
                    let reason =
                        format!("{} has {} bytes, wanted {}", shorten(name), found.len(), wanted.bytes);
                    return Err(damaged(dir, reason));
                }
                Ok(_) => {}
            }
        }
        for (name, wanted) in &self.files {
            let (_, hash) = durable::hash(&dir.join(name))?;
            if *hash.to_hex() != *wanted.blake3 {
                return Err(damaged(dir, format!("the content of {} has changed", shorten(name))));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Schema {
    schema: u32,
}

fn parse<'de, T: Deserialize<'de>>(path: &Path, text: &'de [u8]) -> Result<T, FileError> {
    serde_json::from_slice(text).map_err(|e| FileError::json(path, 0, text, &e))
}

fn damaged(dir: &Path, reason: String) -> FileError {
    FileError::Damaged { dir: dir.to_owned(), reason }
}
