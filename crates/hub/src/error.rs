use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why files did not come from the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A repository id that is not `org/name`.
    #[error("`{id}` is not a hub id: {why}; write `org/name`, for example `karpathy/tinystories-gpt4-clean`")]
    RepoId {
        /// The id as given.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A branch, tag or commit name that cannot be one.
    #[error("`{revision}` is not a revision: {why}; write a branch, a tag or a 40-digit commit")]
    Revision {
        /// The revision as given.
        revision: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file name that would leave the snapshot folder.
    #[error("{repo} names a file `{}`: {why}; refused", name.escape_debug())]
    FileName {
        /// The repository.
        repo: String,
        /// The name as the hub gave it.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More shards asked for than the data set has.
    #[error("`{name}` has {have} training shards, not {wanted}; ask for 1 to {have}")]
    Shards {
        /// The catalog name.
        name: String,
        /// Shards asked for.
        wanted: u32,
        /// Shards there are.
        have: u32,
    },
    /// An endpoint, proxy or token that cannot be used.
    #[error("{name} `{value}` cannot be used: {why}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// Its value; never a token's.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// No place for the cache is known.
    #[error(
        "no folder for downloads: none of HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and HOME is set; set HF_HOME"
    )]
    NoHome,
    /// Offline, and the cache does not hold what was asked for.
    #[error("offline, and {folder} lacks {missing}; unset HF_HUB_OFFLINE to download", folder = folder.display())]
    Offline {
        /// Where was looked.
        folder: PathBuf,
        /// What is not there.
        missing: String,
    },
    /// The hub knows no such repository, revision or file.
    #[error("{url}: not found (HTTP {status}{reason}); check the name and the revision")]
    NotFound {
        /// What was asked for.
        url: String,
        /// 404 or 410.
        status: u16,
        /// The hub's own words, after a comma, or nothing.
        reason: String,
    },
    /// The hub refused access.
    #[error(
        "{url}: no access (HTTP {status}{reason}); check the name, accept the terms on its page if it is gated, \
         and set HF_TOKEN if it is private"
    )]
    NoAccess {
        /// What was asked for.
        url: String,
        /// 401 or 403.
        status: u16,
        /// The hub's own words, after a comma, or nothing.
        reason: String,
    },
    /// Any other status that is not a success.
    #[error("{url}: HTTP {status}{reason}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// The server's own words, after a comma, or nothing.
        reason: String,
    },
    /// A document that could not be sent.
    #[error("not sent after {tries} tries: {last}; it is kept here, try again later")]
    NotSent {
        /// Failed tries.
        tries: u32,
        /// The last failure.
        #[source]
        last: Box<Error>,
    },
    /// The connection could not be made, or broke.
    #[error("{url}: {source}; check the network (HF_HUB_OFFLINE=1 uses only what is cached)")]
    Network {
        /// What was asked for.
        url: String,
        /// The failure.
        source: io::Error,
    },
    /// Bytes came too slowly to go on.
    #[error("{url}: {bytes} bytes in {seconds:.1} s, too slow to go on")]
    Slow {
        /// What was asked for.
        url: String,
        /// Bytes in the last window.
        bytes: u64,
        /// The window.
        seconds: f32,
    },
    /// A redirect that is not followed.
    #[error("{url}: redirect not followed: {why}")]
    Redirect {
        /// The address that redirected.
        url: String,
        /// Why not.
        why: String,
    },
    /// An answer that does not say what the protocol asks it to.
    #[error("{url}: unusable answer: {why}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A body that is not as long as the hub said the file is.
    #[error("{url}: {found} bytes announced or sent, the file has {wanted}")]
    Length {
        /// What was asked for.
        url: String,
        /// Bytes announced or sent.
        found: u64,
        /// Bytes the file has.
        wanted: u64,
    },
    /// The bytes are not those the hub has.
    #[error(
        "`{file}`: hash {found}, the hub says {wanted}, twice; the download was discarded, try again later"
    )]
    Hash {
        /// The file.
        file: String,
        /// The hash of what came.
        found: String,
        /// The hash that was announced.
        wanted: String,
    },
    /// The bounded number of tries is used up.
    #[error(
        "gave up after {tries} tries without progress: {last}; run the same command again to go on from there"
    )]
    GaveUp {
        /// Failed tries in a row.
        tries: u32,
        /// The last failure.
        #[source]
        last: Box<Error>,
    },
    /// The disk cannot hold the download.
    #[error(
        "{folder} has {free} bytes free, the download needs {need}; free some space or set HF_HUB_CACHE",
        folder = folder.display()
    )]
    NoSpace {
        /// The cache folder.
        folder: PathBuf,
        /// Bytes still to come.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk filled up while writing.
    #[error("{path}: the disk is full; free some space and run the same command again", path = path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// A file of the cache could not be read or written.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Another process holds the lock of this file for too long.
    #[error(
        "{lock}: held by another process for {waited:?}; wait for its download or end it",
        lock = lock.display()
    )]
    Busy {
        /// The lock file.
        lock: PathBuf,
        /// How long this one waited.
        waited: Duration,
    },
    /// Nothing in the repository is wanted.
    #[error("{repo} holds no file like {wanted}; it has {has}")]
    NoFiles {
        /// The repository.
        repo: String,
        /// Patterns or names looked for.
        wanted: String,
        /// Some of the names that are there.
        has: String,
    },
    /// The caller's flag was set.
    #[error("stopped; run the same command again to go on from there")]
    Cancelled,
}

impl Error {
    /// Names what was done to which path, and tells a full disk apart.
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path, source },
            _ => Error::Io { doing, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named() {
        let error = Error::io("write", "/cache/blob")(io::Error::from(io::ErrorKind::StorageFull));
        assert!(error.to_string().starts_with("/cache/blob: the disk is full; free some space"), "{error}");
        let error = Error::io("write", "/cache/blob")(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(error.to_string().starts_with("cannot write /cache/blob: "), "{error}");
    }
}
