//! One trainer per run directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::{FileError, durable};

/// The right to write in a run directory, until it is dropped or the process ends in any way.
///
/// Rests on a lock of the operating system on the file `run.lock`; the file stays, the lock does not.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Name of the file that is locked.
    pub const FILE: &str = "run.lock";

    /// Takes the lock of `dir`, which is created if need be. Never waits: a directory in use is an
    /// error that names the process.
    pub fn acquire(dir: &Path) -> Result<Self, FileError> {
        durable::ensure_dir(dir)?;
        let path = dir.join(Self::FILE);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(FileError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FileError::Locked { dir: dir.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(e)) => return Err(FileError::io("lock", &path)(e)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(FileError::io("write", &path))?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = Read::take(file, 32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".into(),
    }
}
