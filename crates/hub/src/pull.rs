//! A pull: which files, from the hub or from the cache, into one snapshot folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::blob::{Blob, check_space};
use crate::cache::{RepoCache, is_file};
use crate::http::Client;
use crate::listing::{Listed, Listing, list};
use crate::repo::{Repo, check_file, check_revision, is_commit};
use crate::{Error, Event, Result, Secret, Settings, Watch};

/// Names shown in an error, at most.
const SHOWN: usize = 4;

/// What to bring from the hub.
#[derive(Clone, Debug)]
pub struct Request {
    /// From where.
    pub repo: Repo,
    /// A branch, a tag, or a commit.
    pub revision: String,
    /// Which files.
    pub select: Select,
    /// The file that is for validation, when the data set pins one.
    pub validation: Option<String>,
}

/// Which files of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// These, all of which must exist.
    Names(Vec<String>),
    /// Those that match any of these, of which one must exist. `*` stands for any characters, `/` included; `?`
    /// for one.
    Patterns(Vec<String>),
}

/// What is now on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The snapshot folder: give it to `--data`. It may hold more files, from earlier pulls of the same commit.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// The files asked for, sorted, relative to `folder`.
    pub files: Vec<String>,
    /// The file of these that is for validation.
    pub validation: Option<String>,
}

/// A hub, with its cache.
pub struct Hub {
    client: Client,
    cache: PathBuf,
    offline: bool,
}

impl Hub {
    /// Reads the token file if there is one and no token was given; connects to nothing yet.
    ///
    /// Errors: [`Error::Setting`] for an endpoint, proxy or token that cannot be used.
    pub fn new(mut settings: Settings) -> Result<Self> {
        if settings.token.is_none() {
            let text = settings.token_file.as_ref().and_then(|path| fs::read_to_string(path).ok());
            settings.token =
                text.map(|text| text.trim().to_owned()).filter(|t| !t.is_empty()).map(Secret::new);
        }
        Ok(Self { client: Client::new(&settings)?, cache: settings.cache, offline: settings.offline })
    }

    /// The files of a repository at a revision. Needs the network.
    pub fn list(&self, repo: &Repo, revision: &str, watch: &mut Watch<'_>) -> Result<Listing> {
        check_revision(revision)?;
        if self.offline {
            let folder = RepoCache::new(&self.cache, repo).root().to_owned();
            return Err(Error::Offline { folder, missing: format!("the list of files of {repo}") });
        }
        list(&self.client, repo, revision, watch)
    }

    /// Brings the files asked for into the cache, those that are not there yet, and checks each.
    ///
    /// Offline it only looks: a snapshot that has all files asked for by name, or one file that matches, will do.
    ///
    /// Errors: every variant of [`Error`] has its case here. Whatever happens, blobs are whole or absent, and a
    /// later pull goes on from what has arrived.
    pub fn pull(&self, request: &Request, watch: &mut Watch<'_>) -> Result<Pulled> {
        check_revision(&request.revision)?;
        let cache = RepoCache::new(&self.cache, &request.repo);
        if self.offline {
            return cached(&cache, request);
        }
        let listing = list(&self.client, &request.repo, &request.revision, watch)?;
        let files = choose(request, listing.files)?;
        let folder = cache.snapshot(&listing.commit);
        let missing: Vec<&Listed> =
            files.iter().filter(|f| !is_file(&folder.join(&f.name), f.size)).collect();
        let bytes = missing.iter().map(|file| file.size).try_fold(0u64, |sum, size| sum.checked_add(size?));
        let cached = files.len() - missing.len();
        watch.report(Event::Planned { files: files.len(), cached, bytes });
        if !missing.is_empty() {
            fs::create_dir_all(cache.root()).map_err(Error::io("create", cache.root()))?;
            let absent = missing.iter().filter(|file| !cache.has_listed(file));
            let need = absent.filter_map(|file| file.size).fold(0, u64::saturating_add);
            check_space(cache.root(), need.saturating_sub(cache.partial_bytes()))?;
        }
        for file in missing {
            let url = self.client.url(&request.repo.file_path(&listing.commit, &file.name));
            let blob = Blob::describe(&self.client, url, &listing.commit, file, watch)?;
            blob.fetch(&self.client, &cache, watch)?;
            cache.link(&listing.commit, &file.name, &blob.digest)?;
            watch.report(Event::Done { file: &file.name, bytes: blob.size });
        }
        if request.revision != listing.commit {
            cache.write_ref(&request.revision, &listing.commit)?;
        }
        let files = files.into_iter().map(|file| file.name).collect();
        Ok(Pulled { folder, commit: listing.commit, files, validation: request.validation.clone() })
    }
}

/// The files asked for, sorted by name; names checked.
fn choose(request: &Request, mut files: Vec<Listed>) -> Result<Vec<Listed>> {
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files.dedup_by(|a, b| a.name == b.name);
    let has = some_of(files.iter().map(|file| file.name.as_str()));
    let nothing = |wanted: String| Error::NoFiles { repo: request.repo.to_string(), wanted, has };
    match &request.select {
        Select::Names(names) => {
            let absent = names.iter().filter(|name| files.binary_search_by(|f| f.name.cmp(name)).is_err());
            let absent: Vec<&str> = absent.map(String::as_str).collect();
            if !absent.is_empty() {
                return Err(nothing(some_of(absent.into_iter())));
            }
            files.retain(|file| names.contains(&file.name));
        }
        Select::Patterns(patterns) => {
            files.retain(|file| patterns.iter().any(|pattern| matches(pattern, &file.name)));
            if files.is_empty() {
                return Err(nothing(some_of(patterns.iter().map(String::as_str))));
            }
        }
    }
    files.iter().try_for_each(|file| check_file(&request.repo, &file.name))?;
    Ok(files)
}

/// What the cache alone can give.
fn cached(cache: &RepoCache, request: &Request) -> Result<Pulled> {
    let commit = match is_commit(&request.revision) {
        true => Some(request.revision.clone()),
        false => cache.read_ref(&request.revision),
    };
    let Some(commit) = commit else {
        let missing = format!("revision `{}` of {}", request.revision, request.repo);
        return Err(Error::Offline { folder: cache.root().to_owned(), missing });
    };
    let folder = cache.snapshot(&commit);
    let (files, missing) = match &request.select {
        Select::Names(names) => {
            names.iter().try_for_each(|name| check_file(&request.repo, name))?;
            let missing: Vec<&str> =
                names.iter().filter(|n| !is_file(&folder.join(n), None)).map(String::as_str).collect();
            (names.clone(), (!missing.is_empty()).then(|| some_of(missing.into_iter())))
        }
        Select::Patterns(patterns) => {
            let mut files = Vec::new();
            walk(&folder, "", &mut files);
            files.retain(|name| patterns.iter().any(|pattern| matches(pattern, name)));
            let none = files.is_empty();
            (files, none.then(|| format!("any of {}", some_of(patterns.iter().map(String::as_str)))))
        }
    };
    if let Some(missing) = missing {
        return Err(Error::Offline { folder, missing });
    }
    let mut files = files;
    files.sort();
    files.dedup();
    Ok(Pulled { folder, commit, files, validation: request.validation.clone() })
}

/// The files under `folder`, through links to files but not through links to folders.
fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = format!("{prefix}{name}");
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), &format!("{name}/"), files);
        } else if is_file(&entry.path(), None) {
            files.push(name);
        }
    }
}

/// Whether the whole of `name` matches; `*` any characters, `?` one. Time is at most the product of the lengths.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The last star, and the character that it was last made to reach.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, reach)) = star else { return false };
                star = Some((at, reach + 1));
                p = at + 1;
                n = reach + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The first few names, and how many more.
fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| format!("`{}`", n.escape_debug())).collect();
    match names.len() {
        0 => "nothing".into(),
        n if n > SHOWN => format!("{} and {} more", shown.join(", "), n - SHOWN),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in
            [("*.txt", "a/b.txt"), ("*", ""), ("a?c*", "abc"), ("*b*c", "abbcbc"), ("x", "x")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.txt", "a.txt.gz"), ("a", "ab"), ("?", ""), ("*b*c", "abcb"), ("", "x")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        // A pattern of many stars must not take exponential time.
        assert!(!matches(&"*a".repeat(50), &format!("{}b", "a".repeat(500))));
    }
}
