//! One file: what the hub says of it, and its bytes, resumed and checked.

use std::io::Read;
use std::path::Path;
use std::time::Instant;

use crate::cache::{Partial, RepoCache, free_bytes};
use crate::digest::Digest;
use crate::http::{Client, Fault, Follow, Reply, Tries, brief};
use crate::listing::Listed;
use crate::url::Url;
use crate::{Error, Event, Result, Watch};

/// A file with all that is needed to fetch and check it.
pub(crate) struct Blob<'a> {
    /// Its name in the repository.
    pub(crate) file: &'a str,
    pub(crate) url: Url,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl<'a> Blob<'a> {
    /// Asks the hub for hash and size, and compares them with the listing and the commit.
    pub(crate) fn describe(
        client: &Client,
        url: Url,
        commit: &str,
        listed: &'a Listed,
        watch: &mut Watch<'_>,
    ) -> Result<Self> {
        let mut tries = Tries::new(client.times());
        let reply = loop {
            watch.check()?;
            match client.send("HEAD", &url, &[], Follow::OnTheHub) {
                Ok(reply) => break reply,
                Err(fault) => tries.after(fault, false, watch)?,
            }
        };
        let refuse = |why: String| Err(Error::Answer { url: reply.url(), why });
        if reply.status() != 200 && !reply.is_redirect() {
            return refuse(format!("HTTP {} to a request for a description", reply.status()));
        }
        if let Some(other) = reply.header("x-repo-commit").filter(|other| *other != commit) {
            return refuse(format!("commit `{}`, not {commit}", brief(other)));
        }
        let told = reply.header("x-linked-etag").or_else(|| reply.header("etag")).and_then(Digest::parse);
        let digest = match (told, &listed.digest) {
            (Some(told), Some(listed)) if told != *listed => {
                return refuse(format!("hash {}, but {} in the list of files", told.name(), listed.name()));
            }
            (Some(digest), _) => digest,
            (None, Some(digest)) => digest.clone(),
            (None, None) => return refuse("it tells no hash to check the file with".into()),
        };
        let told = match reply.number("x-linked-size")? {
            Some(size) => Some(size),
            // The length of a redirect is that of its own body.
            None if reply.is_redirect() => None,
            None => reply.number("content-length")?,
        };
        let size = match (told, listed.size) {
            (Some(told), Some(listed)) if told != listed => {
                return refuse(format!("{told} bytes, but {listed} in the list of files"));
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => return refuse("it tells no size to check the file with".into()),
        };
        Ok(Self { file: &listed.name, url, digest, size })
    }

    /// Brings the blob into the cache, unless it is there.
    pub(crate) fn fetch(&self, client: &Client, cache: &RepoCache, watch: &mut Watch<'_>) -> Result<()> {
        if cache.has_blob(&self.digest, self.size) {
            return Ok(());
        }
        let lock = cache.lock(&self.digest, client.times().lock, watch)?;
        if cache.has_blob(&self.digest, self.size) {
            return Ok(());
        }
        let mut partial = cache.partial(&self.digest, self.size, lock.is_some(), watch)?;
        check_space(cache.root(), self.size - partial.len())?;
        self.complete(client, &mut partial, watch)?;
        let first = partial.hash();
        if first != self.digest.name() {
            watch.report(Event::Retry { error: &self.wrong_hash(first), wait: client.times().pause });
            partial.restart()?;
            self.complete(client, &mut partial, watch)?;
            let found = partial.hash();
            if found != self.digest.name() {
                partial.discard();
                return Err(self.wrong_hash(found));
            }
        }
        match partial.finish() {
            // Without working locks another process may have been first.
            Err(_) if cache.has_blob(&self.digest, self.size) => Ok(()),
            result => result,
        }
    }

    fn wrong_hash(&self, found: String) -> Error {
        Error::Hash { file: self.file.to_owned(), found, wanted: self.digest.name().to_owned() }
    }

    /// Tries until all bytes are here, or tries without progress are used up.
    fn complete(&self, client: &Client, partial: &mut Partial, watch: &mut Watch<'_>) -> Result<()> {
        let mut tries = Tries::new(client.times());
        let mut resume = Resume::default();
        // A server that always starts over and always breaks off brings no byte beyond this mark.
        let mut mark = partial.len();
        loop {
            watch.check()?;
            watch.report(Event::Bytes { file: self.file, done: partial.len(), total: self.size });
            if partial.len() == self.size {
                return Ok(());
            }
            let Err(fault) = self.attempt(client, partial, &mut resume, watch) else { continue };
            let progress = partial.len() >= mark.saturating_add(client.times().progress_bytes.max(1));
            mark = if progress { partial.len() } else { mark };
            tries.after(fault, progress, watch)?;
        }
    }

    /// One request for the bytes that are missing. Bytes that are here go only when others take their place.
    fn attempt(
        &self,
        client: &Client,
        partial: &mut Partial,
        resume: &mut Resume,
        watch: &mut Watch<'_>,
    ) -> Result<(), Fault> {
        let range = format!("bytes={}-", partial.len());
        let mut headers = Vec::new();
        let ranged = partial.len() > 0 && !resume.refused;
        if ranged {
            headers.push(("range", range.as_str()));
            headers.extend(resume.etag.as_deref().map(|etag| ("if-range", etag)));
        }
        let reply = client.send("GET", &self.url, &headers, Follow::ToTheEnd)?;
        if let Err(error) = self.accept(&reply, partial.len(), ranged, resume.etag.as_deref()) {
            resume.refused = ranged && reply.status() != 200;
            return Err(Fault::again(error));
        }
        if reply.status() == 200 {
            partial.restart()?;
        }
        resume.refused = false;
        resume.etag = reply.header("etag").filter(|etag| etag.starts_with('"')).map(str::to_owned);
        self.receive(client, reply, partial, watch)
    }

    /// Whether the body of this answer goes on from the bytes that are here, or starts over.
    fn accept(&self, reply: &Reply, len: u64, ranged: bool, etag: Option<&str>) -> Result<()> {
        let refuse = |why: String| Err(Error::Answer { url: reply.url(), why });
        if let Some(coding) = reply.header("content-encoding").filter(|c| !c.eq_ignore_ascii_case("identity"))
        {
            return refuse(format!("the bytes are encoded as `{}`", brief(coding)));
        }
        let start = match reply.status() {
            200 => 0,
            206 if ranged => {
                let header = reply.header("content-range").unwrap_or_default();
                let wanted = (len, self.size);
                if content_range(header)
                    .is_none_or(|(start, _, total)| (start, total.unwrap_or(self.size)) != wanted)
                {
                    return refuse(format!(
                        "the range `{}`, where bytes {}-{} of {} were asked for",
                        brief(header),
                        len,
                        self.size - 1,
                        self.size
                    ));
                }
                if let (Some(old), Some(new)) = (etag, reply.header("etag"))
                    && old != new
                {
                    return refuse("the file changed since its first part came".into());
                }
                len
            }
            status => return refuse(format!("HTTP {status} to a request for bytes from {len}")),
        };
        match reply.number("content-length")? {
            Some(found) if reply.status() == 200 && found != self.size => {
                Err(Error::Length { url: reply.url(), found, wanted: self.size })
            }
            Some(found) if found > self.size - start => {
                Err(Error::Length { url: reply.url(), found: found.saturating_add(start), wanted: self.size })
            }
            _ => Ok(()),
        }
    }

    fn receive(
        &self,
        client: &Client,
        reply: Reply,
        partial: &mut Partial,
        watch: &mut Watch<'_>,
    ) -> Result<(), Fault> {
        let times = client.times();
        let url = reply.url();
        let mut reader = reply.into_reader();
        let mut buffer = vec![0; 64 << 10];
        let (mut window, mut bytes) = (Instant::now(), 0);
        loop {
            watch.check()?;
            let n = match reader.read(&mut buffer) {
                Ok(n) => n,
                Err(source) => return Err(Fault::again(Error::Network { url, source })),
            };
            let found = partial.len() + n as u64;
            if found > partial.size() {
                partial.restart()?;
                return Err(Fault::again(Error::Length { url, found, wanted: self.size }));
            }
            partial.push(&buffer[..n])?;
            if found == self.size {
                return Ok(());
            }
            if n == 0 {
                return Err(Fault::again(Error::Length { url, found, wanted: self.size }));
            }
            watch.report(Event::Bytes { file: self.file, done: found, total: self.size });
            bytes += n as u64;
            if window.elapsed() >= times.slow_window {
                if bytes < times.slow_bytes {
                    let seconds = window.elapsed().as_secs_f32();
                    return Err(Fault::again(Error::Slow { url, bytes, seconds }));
                }
                (window, bytes) = (Instant::now(), 0);
            }
        }
    }
}

/// How the last answers bear on asking for a range.
#[derive(Default)]
struct Resume {
    /// What the server called the bytes that are here.
    etag: Option<String>,
    /// It did not go on from them: ask for the whole file.
    refused: bool,
}

/// Fails when the file system of `folder` cannot take `need` more bytes.
pub(crate) fn check_space(folder: &Path, need: u64) -> Result<()> {
    match free_bytes(folder) {
        Some(free) if free < need => Err(Error::NoSpace { folder: folder.to_owned(), need, free }),
        _ => Ok(()),
    }
}

/// Reads `bytes <first>-<last>/<total or *>`. RFC 9110, 14.4.
fn content_range(header: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_or_refused() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, 0, None)));
        for bad in [
            "",
            "bytes",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes -1-5/10",
            "items 0-1/2",
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
