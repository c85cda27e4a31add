//! Downloads data sets and models from the Hugging Face hub into its standard cache.
//!
//! ```text
//! name ─▶ catalog ─▶ Request ─▶ list files ─▶ per file: HEAD ─▶ blob, resumed and hashed ─▶ symlink ─▶ ref
//! ```
//!
//! The cache is the one Python's `huggingface_hub` keeps, so each can use what the other fetched:
//!
//! ```text
//! <cache>/datasets--org--name/blobs/<etag>                 the bytes, named by their hash
//!                             snapshots/<commit>/<file>    relative symlink to the blob
//!                             refs/<revision>              the commit a branch or tag stood at
//! <cache>/.locks/datasets--org--name/<etag>.lock           one download of a blob at a time
//! ```
//!
//! What holds whatever the network does:
//!
//! - A blob appears under its name only by a rename, after its length and its hash were right: SHA-256 for large
//!   files, the git blob hash (SHA-1) for small ones. A file whose hash the hub does not tell is refused.
//! - Bytes arrive in `<etag>.<unique>.incomplete`. A later call, in this process or another, goes on from there.
//! - The ref is written last, so a branch names a snapshot only when all files asked for are in it.
//! - Tries, redirects, waiting and listing size are bounded by [`Times`] and constants. The token goes to the
//!   endpoint's own origin and nowhere else.
//!
//! The crate reads no environment variable by itself: [`Settings::from_vars`] takes the reader as an argument.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! # fn main() -> Result<(), hub::Error> {
//! let settings = hub::Settings::from_vars(|name| std::env::var(name).ok())?;
//! let cancel = AtomicBool::new(false);
//! let mut report = |event: hub::Event<'_>| println!("{event:?}");
//! let request = hub::catalog::request("climbmix", None)?;
//! let pulled = hub::Hub::new(settings)?.pull(&request, &mut hub::Watch::new(&cancel, &mut report))?;
//! println!("train with --data {}", pulled.folder.display());
//! # Ok(())
//! # }
//! ```
//!
//! Sources: the hub's HTTP interface and cache layout as documented at
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache> and
//! <https://huggingface.co/docs/hub/api>; HTTP ranges and redirects, RFC 9110.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod post;
mod pull;
mod repo;
mod settings;

mod blob;
mod cache;
mod digest;
mod http;
mod listing;
mod url;

mod error;
mod watch;

pub use error::Error;
pub use listing::{Listed, Listing};
pub use pull::{Hub, Pulled, Request, Select};
pub use repo::{Kind, Repo};
pub use settings::{Secret, Settings, Times};
pub use watch::{Event, Watch};

/// What this crate's calls return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
