//! Data sets known by a short name, with the files to take from each.

use crate::repo::{Kind, Repo};
use crate::{Error, Request, Result, Select};

/// A data set with a short name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The short name.
    pub name: &'static str,
    /// The hub id.
    pub id: &'static str,
    /// How its files are laid out.
    pub layout: Layout,
    /// What it is, in one line.
    pub about: &'static str,
}

/// How the files of a data set are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All files of a readable kind.
    Whole,
    /// `shard_00000.parquet` … of which the last, `shard_<last>.parquet`, is the pinned validation shard.
    Shards {
        /// Number of the validation shard; the training shards are `0..last`.
        last: u32,
        /// Training shards pulled when no number is given.
        default: u32,
    },
}

/// The data sets with a short name. Sources: the data sets' pages on the hub; github.com/karpathy/nanochat
/// (`nanochat/dataset.py`) and github.com/karpathy/autoresearch (`prepare.py`) for the shard numbers and the
/// rule that the last shard validates.
pub const ENTRIES: [Entry; 3] = [
    Entry {
        name: "tinystories",
        id: "karpathy/tinystories-gpt4-clean",
        layout: Layout::Whole,
        about: "2.7 million short stories in simple words, one parquet file of about 0.7 GB",
    },
    Entry {
        name: "climbmix",
        id: "karpathy/climbmix-400b-shuffle",
        layout: Layout::Shards { last: 6542, default: 4 },
        about: "400 billion tokens of web text, in parquet shards of about 0.1 GB",
    },
    Entry {
        name: "fineweb-edu",
        id: "karpathy/fineweb-edu-100b-shuffle",
        layout: Layout::Shards { last: 1822, default: 4 },
        about: "100 billion tokens of educational web text, in parquet shards of about 0.1 GB",
    },
];

/// Files that training can read.
const READABLE: [&str; 8] =
    ["*.parquet", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.txt", "*.txt.gz", "*.txt.zst", "*.bin"];

/// The request for a short name, or for any hub id as `org/name` or `org/name@revision`.
///
/// `shards` is the number of training shards of a sharded entry; the validation shard always comes along. Other
/// data sets have no shards to count and ignore it.
///
/// Errors: [`Error::RepoId`], [`Error::Revision`], [`Error::Shards`].
pub fn request(name: &str, shards: Option<u32>) -> Result<Request> {
    let Some(entry) = ENTRIES.iter().find(|entry| entry.name == name) else {
        let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
        crate::repo::check_revision(revision)?;
        let repo = Repo::new(Kind::Dataset, id)?;
        return Ok(Request { repo, revision: revision.into(), select: readable(), validation: None });
    };
    let repo = Repo::new(Kind::Dataset, entry.id)?;
    let (select, validation) = match entry.layout {
        Layout::Whole => (readable(), None),
        Layout::Shards { last, default } => {
            let wanted = shards.unwrap_or(default);
            if !(1..=last).contains(&wanted) {
                return Err(Error::Shards { name: name.into(), wanted, have: last });
            }
            let names = (0..wanted).chain([last]).map(shard_name).collect();
            (Select::Names(names), Some(shard_name(last)))
        }
    };
    Ok(Request { repo, revision: "main".into(), select, validation })
}

fn readable() -> Select {
    Select::Patterns(READABLE.map(String::from).to_vec())
}

fn shard_name(number: u32) -> String {
    format!("shard_{number:05}.parquet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_come_with_their_validation_shard() {
        let request = request("climbmix", Some(2)).unwrap();
        assert_eq!(request.repo.id(), "karpathy/climbmix-400b-shuffle");
        let names = ["shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"];
        assert_eq!(request.select, Select::Names(names.map(String::from).to_vec()));
        assert_eq!(request.validation.as_deref(), Some("shard_06542.parquet"));
    }

    #[test]
    fn all_shards_are_each_named_once() {
        let Select::Names(names) = request("fineweb-edu", Some(1822)).unwrap().select else { panic!() };
        assert_eq!(names.len(), 1823);
        assert!(names.is_sorted_by(|a, b| a < b));
        for wanted in [0, 1823] {
            assert!(matches!(request("fineweb-edu", Some(wanted)), Err(Error::Shards { have: 1822, .. })));
        }
    }

    #[test]
    fn other_names_are_hub_ids() {
        let request = super::request("roneneldan/TinyStories@refs/convert/parquet", None).unwrap();
        assert_eq!(
            (request.repo.id(), request.revision.as_str()),
            ("roneneldan/TinyStories", "refs/convert/parquet")
        );
        assert_eq!(super::request("a/b", None).unwrap().revision, "main");
        assert!(matches!(super::request("tinystory", None), Err(Error::RepoId { .. })));
        assert!(matches!(super::request("a/b@../x", None), Err(Error::Revision { .. })));
    }
}
