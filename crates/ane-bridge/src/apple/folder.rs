//! The folder that the compiler reads a program from, and its removal.
//!
//! ```text
//! <temporary>/<identifier>/model.mil
//! <temporary>/<identifier>/weights/…      one file per BLOBFILE path, without `@model_path/`
//! <temporary>/<identifier>.lock           held as long as somebody needs the folder
//! ```
//!
//! The identifier follows from the program, so two executables of one program, in one process or in
//! two, have the same folder. Each holds a shared lock; who gets the lock alone removes the folder.
//! Whether a loaded program still needs its folder is not known, so it stays until the program goes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use mil::Weights;

/// What BLOBFILE paths begin with.
const MODEL_PATH: &str = "@model_path/";

/// A program's files. Removed on drop, unless somebody else uses them.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock_path: PathBuf,
    lock: File,
}

/// Why a program's files were not written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum FolderError {
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the weight file `{path}` is not below `@model_path/`; name it `@model_path/weights/<name>.bin`")]
    Outside { path: String },
    #[error("the identifier `{identifier}` of the program is no file name")]
    Identifier { identifier: String },
}

impl Folder {
    /// Writes a program and its weights below `temporary`.
    ///
    /// # Errors
    /// [`FolderError`] when a path leads outside of the folder, or the files cannot be written.
    pub fn write(
        temporary: &Path,
        identifier: &str,
        text: &str,
        weights: Option<&Weights>,
    ) -> Result<Self, FolderError> {
        if !plain(Path::new(identifier)) || Path::new(identifier).components().count() != 1 {
            return Err(FolderError::Identifier { identifier: identifier.into() });
        }
        let path = temporary.join(identifier);
        let lock_path = temporary.join(format!("{identifier}.lock"));
        let lock = shared(&lock_path).map_err(|e| failed(&lock_path, e))?;
        // From here on a drop cleans up.
        let folder = Self { path, lock_path, lock };
        put(&folder.path.join("model.mil"), text.as_bytes())?;
        for (name, bytes) in weights.into_iter().flat_map(Weights::files) {
            folder.weights(name, bytes)?;
        }
        Ok(folder)
    }

    /// Writes a weight file, and returns its path.
    ///
    /// # Errors
    /// As [`Folder::write`].
    pub fn weights(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, FolderError> {
        let below = name.strip_prefix(MODEL_PATH).map(Path::new).filter(|below| plain(below));
        let below = below.ok_or_else(|| FolderError::Outside { path: name.into() })?;
        let path = self.path.join(below);
        put(&path, bytes)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A lock that somebody else holds too cannot be taken alone.
        if self.lock.unlock().is_ok() && self.lock.try_lock().is_ok() {
            // Nobody is left to tell; the system clears its temporary folder too.
            let _ = fs::remove_dir_all(&self.path);
            let _ = fs::remove_file(&self.lock_path);
        }
    }
}

fn failed(path: &Path, source: io::Error) -> FolderError {
    FolderError::Write { path: path.into(), source }
}

/// A shared lock on the file of this path: not on one that was removed while we waited.
fn shared(path: &Path) -> io::Result<File> {
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.lock_shared()?;
        match fs::metadata(path) {
            Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(file),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}

/// Only names, no `..`, no root.
fn plain(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Writes a file in one step, unless it holds these bytes already: another process may be reading it.
fn put(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let parent = path.parent().expect("files lie in the folder");
    fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let partial = parent.join(format!(".{}-{number}", std::process::id()));
    fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path)).map_err(|e| failed(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(path: &str) -> Weights {
        let mut weights = Weights::new();
        weights.insert(path, vec![1, 2, 3]);
        weights
    }

    #[test]
    fn the_last_one_removes_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let files = weights("@model_path/weights/w.bin");
        let write = || Folder::write(dir.path(), "ab12", "text", Some(&files)).unwrap();
        let (one, two) = (write(), write());
        assert_eq!(fs::read(dir.path().join("ab12/weights/w.bin")).unwrap(), [1, 2, 3]);
        assert_eq!(fs::read_to_string(dir.path().join("ab12/model.mil")).unwrap(), "text");
        drop(one);
        assert!(dir.path().join("ab12/model.mil").exists());
        drop(two);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(write());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_written_elsewhere_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["@model_path/../w.bin", "/etc/w.bin", "weights/w.bin", "@model_path/"] {
            let error = Folder::write(dir.path(), "ab12", "text", Some(&weights(path))).unwrap_err();
            assert!(matches!(error, FolderError::Outside { .. }), "{error}");
        }
        for identifier in ["", "..", "a/b", "/tmp"] {
            let error = Folder::write(dir.path(), identifier, "text", None).unwrap_err();
            assert!(matches!(error, FolderError::Identifier { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Folder::write(&file, "ab12", "text", None).unwrap_err();
        assert!(error.to_string().starts_with("cannot write"), "{error}");
    }
}
