use std::fmt;

use crate::{Error, Result};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weights, configuration, tokenizer.
    Model,
    /// Text.
    Dataset,
}

/// A repository on the hub: its kind and its checked `org/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    kind: Kind,
    id: String,
}

impl Repo {
    /// Checks that `id` is `org/name`: letters, digits, `-`, `_`, `.`; no `--` or `..`, which the cache's folder
    /// names could not keep apart; each part at most 96 long and not beginning or ending with `-` or `.`.
    pub fn new(kind: Kind, id: &str) -> Result<Self> {
        match id_flaw(id) {
            None => Ok(Self { kind, id: id.to_owned() }),
            Some(why) => Err(Error::RepoId { id: id.to_owned(), why }),
        }
    }

    /// `org/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its folder in the cache: `datasets--org--name`.
    pub(crate) fn folder(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }

    /// Path of the listing of a revision, with sizes and hashes.
    pub(crate) fn listing_path(&self, revision: &str) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        format!("/api/{kind}/{}/revision/{}?blobs=true", self.id, encode(revision, ""))
    }

    /// Path of one file at a revision.
    pub(crate) fn file_path(&self, revision: &str, file: &str) -> String {
        let kind = match self.kind {
            Kind::Model => "",
            Kind::Dataset => "/datasets",
        };
        format!("{kind}/{}/resolve/{}/{}", self.id, encode(revision, ""), encode(file, "/"))
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Model => "model",
            Kind::Dataset => "data set",
        };
        write!(f, "{kind} `{}`", self.id)
    }
}

fn id_flaw(id: &str) -> Option<&'static str> {
    let Some((org, name)) = id.split_once('/') else {
        return Some("it has no `/`");
    };
    for part in [org, name] {
        if part.is_empty() {
            return Some("a part is empty");
        }
        if part.contains('/') {
            return Some("it has more than one `/`");
        }
        if part.len() > 96 {
            return Some("a part is longer than 96 characters");
        }
        if !part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Some("only letters, digits, `-`, `_` and `.` are allowed");
        }
        if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
            return Some("a part begins or ends with `-` or `.`");
        }
        if part.contains("--") || part.contains("..") {
            return Some("`--` and `..` are not allowed");
        }
    }
    None
}

/// Refuses a revision that could not be a file under `refs/`.
pub(crate) fn check_revision(revision: &str) -> Result<()> {
    match path_flaw(revision) {
        None => Ok(()),
        Some(why) => Err(Error::Revision { revision: revision.to_owned(), why }),
    }
}

/// Refuses a file name that could leave the snapshot folder, here or on another system.
pub(crate) fn check_file(repo: &Repo, name: &str) -> Result<()> {
    match path_flaw(name) {
        None => Ok(()),
        Some(why) => Err(Error::FileName { repo: repo.to_string(), name: name.to_owned(), why }),
    }
}

fn path_flaw(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path.len() > 1024 {
        return Some("it is longer than 1024 bytes");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Some("it has a backslash or a control character");
    }
    if path.starts_with('/') || path.as_bytes().get(1) == Some(&b':') {
        return Some("it is an absolute path");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("a part of it is empty, `.` or `..`");
    }
    None
}

/// A commit's name: 40 lower-case hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Percent-encodes all but the unreserved characters of RFC 3986 and those in `keep`.
fn encode(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || keep.as_bytes().contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_org_slash_name() {
        for good in ["karpathy/climbmix-400b-shuffle", "a/b", "HuggingFaceTB/SmolLM2-135M", "o_1/n.2"] {
            assert_eq!(Repo::new(Kind::Dataset, good).unwrap().id(), good);
        }
        for bad in [
            "gpt2", "", "/", "a/", "/b", "a/b/c", "a/..", "../b", "a/b--c", "a/b..c", "a/.b", "-a/b",
            "a b/c", "a/b%2f", "a\\b/c", "é/b", "a/b?", "a/b#c", "a/b\n",
        ] {
            assert!(matches!(Repo::new(Kind::Model, bad), Err(Error::RepoId { .. })), "{bad:?}");
        }
        assert!(Repo::new(Kind::Model, &format!("a/{}", "x".repeat(97))).is_err());
    }

    #[test]
    fn file_names_stay_inside() {
        let repo = Repo::new(Kind::Dataset, "a/b").unwrap();
        for good in ["x.txt", "data/train/x y.parquet", "..x", "a.b/..c"] {
            check_file(&repo, good).unwrap();
        }
        for bad in
            ["", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "C:/x", "c:x", "a\0b", "a\nb"]
        {
            assert!(matches!(check_file(&repo, bad), Err(Error::FileName { .. })), "{bad:?}");
        }
        assert!(check_revision("refs/pr/1").is_ok() && check_revision("../main").is_err());
    }

    #[test]
    fn paths_are_encoded() {
        let data = Repo::new(Kind::Dataset, "a/b").unwrap();
        let model = Repo::new(Kind::Model, "a/b").unwrap();
        assert_eq!(data.listing_path("refs/pr/1"), "/api/datasets/a/b/revision/refs%2Fpr%2F1?blobs=true");
        assert_eq!(model.listing_path("main"), "/api/models/a/b/revision/main?blobs=true");
        assert_eq!(data.file_path("main", "d/x y#?.txt"), "/datasets/a/b/resolve/main/d/x%20y%23%3F.txt");
        assert_eq!(model.file_path("main", "ü"), "/a/b/resolve/main/%C3%BC");
        assert_eq!((data.folder(), model.folder()), ("datasets--a--b".into(), "models--a--b".into()));
    }
}
