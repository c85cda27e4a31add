//! The files of a repository at a revision, as the hub lists them.

use std::io::Read;

use serde::Deserialize;

use crate::digest::Digest;
use crate::http::{Client, Fault, Follow, Tries, brief};
use crate::repo::{Repo, is_commit};
use crate::{Error, Result, Watch};

/// The longest listing that is read. 6,543 shards take about 2 MB.
const MAX_LISTING_BYTES: u64 = 64 << 20;

/// The files of a repository at one commit.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The commit that the revision stands at: 40 hexadecimal digits.
    pub commit: String,
    /// Its files, in the hub's order. Names are as the hub gave them, not yet checked.
    pub files: Vec<Listed>,
}

/// A file of a [`Listing`].
#[derive(Clone, Debug)]
pub struct Listed {
    /// Path in the repository, with `/`.
    pub name: String,
    /// Bytes, when the hub tells.
    pub size: Option<u64>,
    pub(crate) digest: Option<Digest>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

pub(crate) fn list(client: &Client, repo: &Repo, revision: &str, watch: &mut Watch<'_>) -> Result<Listing> {
    let mut tries = Tries::new(client.times());
    loop {
        watch.check()?;
        match attempt(client, repo, revision) {
            Ok(listing) => return Ok(listing),
            Err(fault) => tries.after(fault, false, watch)?,
        }
    }
}

fn attempt(client: &Client, repo: &Repo, revision: &str) -> Result<Listing, Fault> {
    let url = client.url(&repo.listing_path(revision));
    let reply = client.send("GET", &url, &[("accept", "application/json")], Follow::ToTheEnd)?;
    let url = reply.url();
    let answer = |why: String| Error::Answer { url: url.clone(), why };
    if reply.status() != 200 {
        return Err(answer(format!("HTTP {} to a request for a list", reply.status())).into());
    }
    let mut bytes = Vec::new();
    reply
        .into_reader()
        .take(MAX_LISTING_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Fault::again(Error::Network { url: url.clone(), source }))?;
    if bytes.len() as u64 > MAX_LISTING_BYTES {
        return Err(answer(format!("a list of more than {MAX_LISTING_BYTES} bytes")).into());
    }
    // A proxy's page in place of the list may be gone at the next try.
    let info: Info = serde_json::from_slice(&bytes)
        .map_err(|error| Fault::again(answer(format!("not a list of files: {error}"))))?;
    if !is_commit(&info.sha) {
        return Err(answer(format!("the commit `{}` is not 40 hexadecimal digits", brief(&info.sha))).into());
    }
    if is_commit(revision) && info.sha != revision {
        return Err(answer(format!("a list of commit {}, not of {revision}", info.sha)).into());
    }
    let files = info.siblings.into_iter().map(listed).collect();
    Ok(Listing { commit: info.sha, files })
}

fn listed(sibling: Sibling) -> Listed {
    let (sha256, lfs_size) = sibling.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
    let is_lfs = sha256.is_some();
    // The git hash of a large file is that of its pointer, not of its bytes.
    let hash = if is_lfs { sha256 } else { sibling.blob_id };
    Listed {
        name: sibling.rfilename,
        size: lfs_size.or(sibling.size),
        digest: hash.as_deref().and_then(Digest::parse),
    }
}
