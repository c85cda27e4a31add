//! Files that survive a crash: hashed while written, synced, and put in place by rename.
//!
//! With the feature `failpoints` each step is a fail point (`checkpoint::write`, `…::fsync`,
//! `…::rename`, `…::delete`, `…::mkdir`, `…::sync_dir`), whose `return(ERRNO)` makes it fail with that error.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::FileError;

/// Size and hash of a file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name in the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub hash: blake3::Hash,
}

/// A file being written; [`HashedFile::finish`] makes it durable.
pub(crate) struct HashedFile {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl HashedFile {
    const BUFFER: usize = 1 << 20;

    /// Starts a file that is not there yet.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let file = step("checkpoint::write")
            .and_then(|()| File::options().write(true).create_new(true).open(path))
            .map_err(FileError::io("create", path))?;
        let buffer = Vec::with_capacity(Self::BUFFER);
        Ok(Self { file, path: path.to_owned(), buffer, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), FileError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(Self::BUFFER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == Self::BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), FileError> {
        step("checkpoint::write")
            .and_then(|()| self.file.write_all(&self.buffer))
            .map_err(FileError::io("write", &self.path))?;
        self.hasher.update(&self.buffer);
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is buffered, checks the length and syncs. On a Mac this ends before the medium; the
    /// small files that follow, see [`write`], carry everything before them along.
    pub fn finish(self, name: &str) -> Result<Written, FileError> {
        self.close(name, |file| Ok(rustix::fs::fsync(file)?))
    }

    fn close(mut self, name: &str, sync: impl FnOnce(&File) -> io::Result<()>) -> Result<Written, FileError> {
        self.flush()?;
        let length = self.file.metadata().map_err(FileError::io("inspect", &self.path))?.len();
        if length != self.bytes {
            let text = format!("{length} bytes after {} were written", self.bytes);
            return Err(FileError::io("write", &self.path)(io::Error::other(text)));
        }
        step("checkpoint::fsync")
            .and_then(|()| sync(&self.file))
            .map_err(FileError::io("sync", &self.path))?;
        Ok(Written { name: name.to_owned(), bytes: self.bytes, hash: self.hasher.finalize() })
    }
}

/// Writes a new small file, down to the medium (`F_FULLFSYNC` on a Mac).
pub(crate) fn write(dir: &Path, name: &str, content: &[u8]) -> Result<Written, FileError> {
    let mut file = HashedFile::create(&dir.join(name))?;
    file.write(content)?;
    file.close(name, File::sync_all)
}

/// Puts a small file in the place of the old one: after a crash one of the two is there, whole.
pub(crate) fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<(), FileError> {
    let temporary = format!(".tmp-{name}-{}", std::process::id());
    remove(&dir.join(&temporary))?;
    write(dir, &temporary, content)?;
    rename(&dir.join(&temporary), &dir.join(name))?;
    sync_dir(dir)
}

/// Makes one new directory durable in its parent.
pub(crate) fn create_dir(path: &Path) -> Result<(), FileError> {
    step("checkpoint::mkdir").and_then(|()| fs::create_dir(path)).map_err(FileError::io("create", path))
}

/// Renames, replacing a file but not a directory that holds something.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    step("checkpoint::rename").and_then(|()| fs::rename(from, to)).map_err(FileError::io("rename", from))
}

/// Removes a file, or a directory with everything in it; nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    step("checkpoint::delete")
        .and_then(|()| if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) })
        .map_err(FileError::io("delete", path))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    let synced = step("checkpoint::sync_dir").and_then(|()| File::open(path)?.sync_all());
    match synced {
        // File systems that cannot sync a directory order the names themselves.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other.map_err(FileError::io("sync", path)),
    }
}

/// Makes sure that `path` is a directory, creating it and its parents.
pub(crate) fn ensure_dir(path: &Path) -> Result<(), FileError> {
    if fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
        return Err(FileError::Occupied { path: path.to_owned(), found: "is a file", wanted: "a directory" });
    }
    step("checkpoint::mkdir").and_then(|()| fs::create_dir_all(path)).map_err(FileError::io("create", path))
}

/// Bytes that may still be written to the file system of `dir`.
pub(crate) fn free_bytes(dir: &Path) -> Result<u64, FileError> {
    let found = rustix::fs::statvfs(dir).map_err(|e| FileError::io("inspect", dir)(e.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Opens a regular file for reading; a pipe or a device would hang or never end.
pub(crate) fn open(path: &Path) -> Result<(File, u64), FileError> {
    let found = fs::metadata(path).map_err(FileError::io("open", path))?;
    if !found.is_file() {
        return Err(FileError::Occupied {
            path: path.to_owned(),
            found: "is no regular file",
            wanted: "a file",
        });
    }
    let file = File::open(path).map_err(FileError::io("open", path))?;
    let bytes = file.metadata().map_err(FileError::io("inspect", path))?.len();
    Ok((file, bytes))
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let (file, bytes) = open(path)?;
    let too_long = |bytes: u64| FileError::Contents {
        path: path.to_owned(),
        reason: format!("{bytes} bytes, wanted at most {limit}"),
    };
    if bytes > limit {
        return Err(too_long(bytes));
    }
    let mut content = Vec::with_capacity(bytes as usize);
    file.take(limit + 1).read_to_end(&mut content).map_err(FileError::io("read", path))?;
    if content.len() as u64 > limit {
        return Err(too_long(content.len() as u64));
    }
    Ok(content)
}

/// Size and hash of a file that is there.
pub(crate) fn hash(path: &Path) -> Result<(u64, blake3::Hash), FileError> {
    let (mut file, _) = open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; HashedFile::BUFFER];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(FileError::io("read", path))?;
        if n == 0 {
            return Ok((bytes, hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Where a test can make the next step fail.
#[cfg(feature = "failpoints")]
pub(crate) fn step(name: &str) -> io::Result<()> {
    fail::fail_point!(name, |errno| {
        let errno = errno.and_then(|n| n.parse().ok()).unwrap_or(rustix::io::Errno::IO.raw_os_error());
        Err(io::Error::from_raw_os_error(errno))
    });
    Ok(())
}

/// Nothing, in a build without fail points.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn step(_: &str) -> io::Result<()> {
    Ok(())
}
