//! The cache on disk: names, locks, partial files, links and refs.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::digest::{Digest, Hasher};
use crate::listing::Listed;
use crate::repo::Repo;
use crate::{Error, Event, Result, Watch};

/// The folder of one repository in the cache, and the folder of its locks.
pub(crate) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, repo: &Repo) -> Self {
        Self { root: cache.join(repo.folder()), locks: cache.join(".locks").join(repo.folder()) }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that a branch or tag stood at when it was last pulled.
    pub(crate) fn read_ref(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| crate::repo::is_commit(commit))
    }

    /// Records where a branch or tag stands, whole or not at all.
    pub(crate) fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if self.read_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        create_parent(&path)?;
        let new = self.new_file("ref", "tmp")?;
        fs::write(&new, commit).map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("replace", &path))
    }

    /// The blob, if it is there with this size. Its bytes were checked before it got its name.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        is_file(&self.blobs().join(digest.name()), Some(size))
    }

    /// The blob of a listed file, if the list tells its hash and size and it is there.
    pub(crate) fn has_listed(&self, file: &Listed) -> bool {
        file.digest.as_ref().zip(file.size).is_some_and(|(digest, size)| self.has_blob(digest, size))
    }

    /// Puts a link to the blob into the snapshot; a copy where the file system knows no links.
    pub(crate) fn link(&self, commit: &str, file: &str, digest: &Digest) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        let new = self.new_file(digest.name(), "tmp")?;
        let up = "../".repeat(2 + file.matches('/').count());
        if symlink(&format!("{up}blobs/{}", digest.name()), &new).is_err() {
            let blob = self.blobs().join(digest.name());
            fs::copy(&blob, &new).map_err(Error::io("copy to", &new))?;
        }
        fs::rename(&new, &path).map_err(Error::io("replace", &path))
    }

    /// Takes the lock of a blob, the same that `huggingface_hub` takes. `None` where the file system has no locks:
    /// then two processes may both download, each into its own file.
    pub(crate) fn lock(
        &self,
        digest: &Digest,
        patience: Duration,
        watch: &mut Watch<'_>,
    ) -> Result<Option<File>> {
        let path = self.locks.join(format!("{}.lock", digest.name()));
        create_parent(&path)?;
        let start = Instant::now();
        let mut told = false;
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(Error::io("open", &path))?;
            match file.try_lock() {
                // Who held it before may have removed the file: then this lock keeps nobody out.
                Ok(()) if is_same_file(&file, &path) => return Ok(Some(file)),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        watch.report(Event::Waiting { lock: &path });
                        told = true;
                    }
                    if start.elapsed() >= patience {
                        return Err(Error::Busy { lock: path, waited: start.elapsed() });
                    }
                    watch.sleep(Duration::from_millis(50))?;
                }
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(None);
                }
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
            }
        }
    }

    /// Opens the file that a blob's bytes arrive in. With `resume` it takes over what an earlier call left, by
    /// renaming it to a name of its own, and hashes it; without, it leaves other files alone.
    pub(crate) fn partial(
        &self,
        digest: &Digest,
        size: u64,
        resume: bool,
        watch: &Watch<'_>,
    ) -> Result<Partial> {
        let path = self.new_file(digest.name(), "incomplete")?;
        if resume {
            self.take_over(digest, size, &path);
        }
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        let mut partial =
            Partial { path, file, len: 0, hasher: digest.hasher(size), digest: digest.clone(), size };
        partial.hash_what_is_there(watch)?;
        Ok(partial)
    }

    /// A path that no other call uses: process, time and a counter. It is beside the blobs, so that nobody finds
    /// it in a snapshot or takes it for a ref.
    fn new_file(&self, name: &str, extension: &str) -> Result<PathBuf> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let blobs = self.blobs();
        fs::create_dir_all(&blobs).map_err(Error::io("create", &blobs))?;
        let nanos = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos());
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        Ok(blobs.join(format!("{name}.{:x}-{nanos:x}-{count:x}.{extension}", std::process::id())))
    }

    /// Bytes of all partial files: space that the rest of their downloads will not need.
    pub(crate) fn partial_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.blobs()).into_iter().flatten().flatten();
        let partial = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "incomplete"));
        partial.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }

    /// Moves the longest usable leftover to `to` and removes the others. The caller holds the lock.
    fn take_over(&self, digest: &Digest, size: u64, to: &Path) {
        let Ok(entries) = fs::read_dir(self.blobs()) else { return };
        let mut found: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let of_this_blob = name.strip_prefix(digest.name())?;
                let partial = of_this_blob.starts_with('.') && of_this_blob.ends_with(".incomplete");
                let meta = fs::symlink_metadata(entry.path()).ok()?;
                (partial && meta.is_file()).then(|| (meta.len(), entry.path()))
            })
            .collect();
        found.sort();
        let mut taken = false;
        while let Some((len, path)) = found.pop() {
            // What cannot be moved or removed is not needed: the download starts over.
            if !taken && len <= size {
                taken = fs::rename(&path, to).is_ok();
            } else {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// The bytes of a blob that are here so far, hashed.
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    len: u64,
    hasher: Hasher,
    digest: Digest,
    size: u64,
}

impl Partial {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Bytes the whole blob has.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Throws the bytes away.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io("empty", &self.path))?;
        self.file.rewind().map_err(Error::io("rewind", &self.path))?;
        self.hasher = self.digest.hasher(self.size);
        self.len = 0;
        Ok(())
    }

    /// The hash of the bytes so far.
    pub(crate) fn hash(&self) -> String {
        self.hasher.hex()
    }

    /// Gives the blob its name, when its bytes are on the disk. The caller has compared the hash.
    pub(crate) fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        let blob = self.path.with_file_name(self.digest.name());
        fs::rename(&self.path, &blob).map_err(Error::io("name", &blob))?;
        // Makes the name last through a power cut; not every file system can do it for a folder.
        if let Some(folder) = blob.parent().and_then(|folder| File::open(folder).ok()) {
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// Removes the bytes: they are not what they should be.
    pub(crate) fn discard(self) {
        // One that cannot be removed fails its hash again next time.
        let _ = fs::remove_file(&self.path);
    }

    fn hash_what_is_there(&mut self, watch: &Watch<'_>) -> Result<()> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            watch.check()?;
            match self.file.read(&mut buffer).map_err(Error::io("read", &self.path))? {
                0 => return Ok(()),
                n => {
                    self.hasher.update(&buffer[..n]);
                    self.len += n as u64;
                }
            }
        }
    }
}

/// A regular file, through links, of this size if one is given.
pub(crate) fn is_file(path: &Path, size: Option<u64>) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && size.is_none_or(|size| meta.len() == size))
}

fn create_parent(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(Error::io("create", folder))
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &str, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same_file(_file: &File, path: &Path) -> bool {
    path.exists()
}

/// Bytes that an ordinary user can still write to the file system of `folder`; `None` where it does not tell.
#[cfg(unix)]
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    // Some network file systems report no size at all.
    (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that an ordinary user can still write to the file system of `folder`; `None` where it does not tell.
#[cfg(not(unix))]
pub(crate) fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}
