//! The ledger: one JSON object per line and run, appended and never changed.
//!
//! A record is on the disk before [`Ledger::append`] returns. A process that is killed while it writes leaves half a
//! line at the end: readers pass over it, and the next append cuts it off. A damaged line before the end is an error,
//! for then something else wrote here.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the records.
const VERSION: u32 = 1;
/// Longest ledger that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// One training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 1.
    pub v: u32,
    /// The experiment that it belongs to; runs with other seeds share it.
    pub id: String,
    /// What was tried, in words.
    pub desc: String,
    /// Seed of weights and order of the data.
    pub seed: u64,
    /// How long it was.
    pub budget: Budget,
    /// Preset that it started from.
    pub preset: String,
    /// Settings that differ from the preset, by key.
    pub settings: BTreeMap<String, Value>,
    /// What ran it.
    pub device: String,
    /// When it ended, RFC 3339 in UTC.
    pub ended: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Budget {
    /// Tokens trained on: the same on every machine.
    Tokens(u64),
    /// Seconds: depends on the machine, and on what else it does.
    Seconds(u64),
    /// Updates.
    Steps(u64),
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Tokens(n) => write!(f, "{n} tokens"),
            Budget::Seconds(n) => write!(f, "{n} s"),
            Budget::Steps(n) => write!(f, "{n} steps"),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase", deny_unknown_fields)]
pub enum Outcome {
    /// It reached its end.
    Done {
        /// Bits per byte of the validation text, at the end.
        val_bpb: f64,
        /// Nats per token of it.
        val_loss: f64,
        /// Updates.
        steps: u64,
        /// Tokens trained on.
        tokens: u64,
        /// Seconds of training steps.
        seconds: f64,
        /// Parameters of the model.
        params: u64,
    },
    /// It did not.
    Failed {
        /// Exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// What it said last.
        error: String,
    },
}

/// Why a ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum LedgerError {
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}: line {line} is no record of version {VERSION}: {reason}", path.display())]
    Line { path: PathBuf, line: usize, reason: String },
    #[error("{}: more than {MAX_FILE} bytes", path.display())]
    TooLong { path: PathBuf },
}

/// A ledger and what it holds.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    records: Vec<Record>,
}

impl Ledger {
    /// Reads a ledger; one that does not exist is empty.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let mut text = Vec::new();
        match File::open(path) {
            Ok(file) => {
                let read = file.take(MAX_FILE + 1).read_to_end(&mut text);
                read.map_err(|source| LedgerError::Io { path: path.into(), source })?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(LedgerError::Io { path: path.into(), source }),
        }
        if text.len() as u64 > MAX_FILE {
            return Err(LedgerError::TooLong { path: path.into() });
        }
        let mut records = Vec::new();
        let whole = text.len() - tail(&text).len();
        for (i, line) in text[..whole].split_inclusive(|b| *b == b'\n').enumerate() {
            let reason = match serde_json::from_slice::<Record>(line) {
                Ok(record) if record.v == VERSION => {
                    records.push(record);
                    continue;
                }
                Ok(record) => format!("its version is {}", record.v),
                Err(e) => e.to_string(),
            };
            return Err(LedgerError::Line { path: path.into(), line: i + 1, reason });
        }
        // The newline alone may be missing.
        records.extend(serde_json::from_slice(tail(&text)).ok().filter(|r: &Record| r.v == VERSION));
        Ok(Self { path: path.into(), records })
    }

    /// All records, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds a record; it is on the disk when this returns.
    ///
    /// # Errors
    /// [`LedgerError::Io`].
    pub fn append(&mut self, record: Record) -> Result<(), LedgerError> {
        let mut line = serde_json::to_vec(&record).expect("a record is JSON");
        line.push(b'\n');
        self.write(&line).map_err(|source| LedgerError::Io { path: self.path.clone(), source })?;
        self.records.push(record);
        Ok(())
    }

    fn write(&self, line: &[u8]) -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.path)?;
        file.lock()?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let half = tail(&text);
        let sound = serde_json::from_slice::<Record>(half).is_ok();
        let end = if sound { text.len() } else { text.len() - half.len() };
        file.set_len(end as u64)?;
        file.seek(SeekFrom::Start(end as u64))?;
        if sound {
            file.write_all(b"\n")?;
        }
        file.write_all(line)?;
        file.sync_all()
    }

    /// The name of the next experiment.
    pub fn next_id(&self) -> String {
        let last = self.records.iter().filter_map(|r| r.id.parse::<u32>().ok()).max();
        format!("{:04}", last.unwrap_or(0) + 1)
    }
}

/// What comes after the last newline.
fn tail(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    &text[end..]
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn record(id: &str, seed: u64, val_bpb: f64) -> Record {
        Record {
            v: VERSION,
            id: id.into(),
            desc: format!("try {id}"),
            seed,
            budget: Budget::Tokens(1000),
            preset: "tiny".into(),
            settings: BTreeMap::new(),
            device: "cpu".into(),
            ended: "2026-11-21T16:00:00Z".into(),
            outcome: Outcome::Done {
                val_bpb,
                val_loss: 2.0 * val_bpb,
                steps: 10,
                tokens: 1000,
                seconds: 1.0,
                params: 5,
            },
        }
    }

    #[test]
    fn appends_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!((ledger.records().len(), ledger.next_id().as_str()), (0, "0001"));
        ledger.append(record("0001", 1, 2.0)).unwrap();
        ledger.append(record("0002", 1, 1.5)).unwrap();
        let again = Ledger::open(&path).unwrap();
        assert_eq!(again.records(), ledger.records());
        assert_eq!(again.next_id(), "0003");
    }

    #[test]
    fn half_a_line_at_the_end_is_what_a_kill_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        Ledger::open(&path).unwrap().append(record("0001", 1, 2.0)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..whole.len() {
            std::fs::write(&path, [&whole[..], &whole[..cut]].concat()).unwrap();
            let mut ledger = Ledger::open(&path).unwrap();
            // Without its newline alone, the record is whole.
            let lines = if cut == whole.len() - 1 { 2 } else { 1 };
            assert_eq!(ledger.records().len(), lines, "cut at {cut}");
            ledger.append(record("0002", 1, 1.0)).unwrap();
            assert_eq!(Ledger::open(&path).unwrap().records().len(), lines + 1, "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_end_has_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        Ledger::open(&path).unwrap().append(record("0001", 1, 2.0)).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        for (bad, wanted) in [
            ("{\"v\":\n", "line 2 is no record of version 1: EOF"),
            ("{}\n", "missing field"),
            ("\u{0}\n", "line 2"),
            (&good.replace("\"v\":1", "\"v\":2"), "its version is 2"),
            (&good.replace("\"seed\":1", "\"seed\":-1"), "invalid value"),
        ] {
            std::fs::write(&path, format!("{good}{bad}{good}")).unwrap();
            let error = Ledger::open(&path).unwrap_err().to_string();
            assert!(error.contains("ledger.jsonl: line 2") && error.contains(wanted), "{wanted}: {error}");
        }
    }
}
