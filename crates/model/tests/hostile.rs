//! Damaged and hostile files: readers answer with an error or with what is there. They do not panic, do
//! not hang, and allocate little more than the file is long.

mod common;

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::config;
use model::checkpoint::{Checkpoints, Keep, Snapshot};
use model::hf::{self, Export};
use model::safetensors::TensorFile;
use model::{FileError, Weights, from_fn};
use peak_alloc::PeakAlloc;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tempfile::TempDir;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a reader may take beyond the length of the file.
const SLACK: usize = 64 << 20;

/// Text that parsers trip over.
const TRAPS: [&str; 22] = [
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "-1",
    "0",
    "1e308",
    "1e999",
    "1.5",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"\\ud800\"",
    "\"../../etc/x\"",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "4294967296,4294967296,4294967296",
    "16777216",
    "10000",
    "\0",
    "\u{feff}",
];

struct Mutator(ChaCha8Rng);

impl Mutator {
    fn below(&mut self, n: usize) -> usize {
        self.0.next_u64() as usize % n.max(1)
    }

    /// One to three changes: a bit, a byte, a number or a word for another, a cut, a repetition.
    fn change(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len() + 1).min(bytes.len().saturating_sub(1));
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = self.0.next_u32() as u8,
                2 => bytes.truncate(at),
                3 => {
                    let end = (at + self.below(200)).min(bytes.len());
                    let piece = bytes[at.min(end)..end].to_vec();
                    bytes.splice(end..end, piece);
                }
                _ => {
                    let (start, end) = token(&bytes, at);
                    let trap = TRAPS[self.below(TRAPS.len())];
                    bytes.splice(start..end, trap.bytes());
                }
            }
        }
        bytes
    }
}

/// The number or word around a byte.
fn token(bytes: &[u8], at: usize) -> (usize, usize) {
    let inside = |b: &u8| b.is_ascii_alphanumeric() || b"._-\"".contains(b);
    let start = at - bytes[..at].iter().rev().take_while(|b| inside(b)).count();
    let end = at + bytes[at..].iter().take_while(|b| inside(b)).count();
    (start, end)
}

/// Runs a reader and holds it to its promise about memory and time.
fn bounded<T>(what: &str, bytes: usize, read: impl FnOnce() -> Result<T, FileError>) -> bool {
    HEAP.reset_peak_usage();
    let (before, start) = (HEAP.current_usage(), Instant::now());
    let outcome = read();
    let taken = HEAP.peak_usage().saturating_sub(before);
    assert!(taken <= bytes + SLACK, "{what}: {taken} bytes of memory for {bytes} of files");
    assert!(start.elapsed() < Duration::from_secs(5), "{what}: {:?}", start.elapsed());
    if let Err(error) = &outcome {
        assert!(error.to_string().len() < 4096, "{what}: a message of {} bytes", error.to_string().len());
    }
    outcome.is_ok()
}

fn directory(shard_bytes: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::init(&config(), 1);
    let export = Export { shard_bytes, ..Export::default() };
    hf::save(dir.path(), &config(), &export, &mut from_fn(|id| Ok(Cow::Borrowed(weights.get(id))))).unwrap();
    dir
}

/// A new file in the place of the old one. Writing over the old one is slow on file systems that sync then.
fn put(path: &Path, content: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

/// Changes one file of a good directory many times; `read` must survive each. Some changes must be
/// refused, else they reach nothing.
fn fuzz(name: &str, dir: &Path, cases: usize, read: impl Fn() -> Result<(), FileError>) {
    let path = dir.join(name);
    let original = fs::read(&path).unwrap();
    let mut mutator = Mutator(ChaCha8Rng::seed_from_u64(7));
    let mut refused = 0;
    for case in 0..cases {
        let changed = mutator.change(&original);
        put(&path, &changed);
        refused += !bounded(&format!("{name} case {case}"), changed.len(), &read) as usize;
    }
    assert!(refused > cases / 4, "only {refused} of {cases} changes of {name} were noticed");
    fs::write(&path, original).unwrap();
    read().unwrap();
}

/// One test, because the heap is counted for the whole process.
#[test]
fn readers_survive_any_file() {
    large_headers();

    let whole = directory(u64::MAX);
    let load = |dir: &Path| hf::load(dir).map(|_| ());
    fuzz("config.json", whole.path(), 3000, || load(whole.path()));
    fuzz("generation_config.json", whole.path(), 1000, || load(whole.path()));
    headers(&whole.path().join("model.safetensors"), 5000);

    let shards = directory(4500);
    fuzz("model.safetensors.index.json", shards.path(), 2000, || load(shards.path()));
    manifests(300);
}

/// Changes aim at the header, which is a small part of the file.
fn headers(path: &Path, cases: usize) {
    let original = fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(original[..8].try_into().unwrap()) as usize;
    let mut mutator = Mutator(ChaCha8Rng::seed_from_u64(11));
    let mut refused = 0;
    for case in 0..cases {
        let mut changed = mutator.change(&original[8..header]);
        // Mostly with the right length in front, so that the JSON is reached.
        let length =
            if case % 8 == 0 { mutator.0.next_u64() >> mutator.below(64) } else { changed.len() as u64 };
        changed.splice(0..0, length.to_le_bytes());
        changed.extend(&original[header..]);
        put(path, &changed);
        let read_all = || {
            let file = TensorFile::open(path)?;
            file.tensors().iter().try_for_each(|t| file.read(t).map(drop))
        };
        refused += !bounded(&format!("header case {case}"), changed.len(), read_all) as usize;
    }
    assert!(refused > cases / 4, "only {refused} of {cases} changed headers were noticed");
    fs::write(path, original).unwrap();
}

fn manifests(cases: usize) {
    let dir = tempfile::tempdir().unwrap();
    let save = |step: u64| {
        let config = config();
        let snapshot =
            Snapshot { step, config: &config, export: &Export::default(), moments: &[], state: &step };
        let params = model::Params::new(&config);
        let mut ones = from_fn(|(id, _)| Ok(Cow::Owned(vec![1.0; params.get(id).len()])));
        let checkpoints = Checkpoints::open(dir.path(), Keep::default()).unwrap();
        checkpoints.save(&snapshot, &mut ones).unwrap();
    };
    save(1);
    save(2);
    let newest = dir.path().join("step-00000002");
    let manifest = newest.join("manifest.json");
    let original = fs::read(&manifest).unwrap();
    let mut mutator = Mutator(ChaCha8Rng::seed_from_u64(13));
    let mut aside = 0;
    for case in 0..cases {
        let changed = mutator.change(&original);
        put(&manifest, &changed);
        bounded(&format!("manifest case {case}"), changed.len(), || {
            let checkpoints = Checkpoints::open(dir.path(), Keep::default())?;
            let found = checkpoints.load::<u64>()?;
            // Whatever the newest says, a sound one is found.
            let checkpoint = found.checkpoint.unwrap();
            assert_eq!(checkpoint.state, checkpoint.step);
            for q in found.quarantined {
                fs::rename(q.to, q.from).unwrap();
                aside += 1;
            }
            Ok(())
        });
    }
    assert!(aside > cases / 4, "only {aside} of {cases} changed manifests were noticed");
}

/// The longest headers that are read: as many tensors as possible, and one thing repeated to the end.
fn large_headers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let row = |i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
    let rows: String = (0..240_000).map(row).collect();
    let megabytes = |open: &str, piece: &str| format!("{open}{}", piece.repeat(15_000_000 / piece.len()));
    for (what, header) in [
        ("rows", format!("{{{rows}")),
        ("depth", megabytes("{\"a\":", "[")),
        ("objects", megabytes("{\"a\":", "{\"a\":")),
        ("extents", megabytes(r#"{"a":{"dtype":"F32","shape":["#, "1,")),
        (
            "metadata",
            format!(
                "{{\"__metadata__\":{{{}",
                (0..1_200_000).map(|i| format!("\"{i}\":\"\",")).collect::<String>()
            ),
        ),
        ("name", megabytes("{\"", "n")),
        ("escapes", megabytes("{\"", "\\u0000")),
        ("spaces", megabytes("{", " ")),
    ] {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        fs::write(&path, &bytes).unwrap();
        assert!(!bounded(what, bytes.len(), || TensorFile::open(&path)), "{what} was read");
    }
    // As long, but whole.
    let header = format!("{{{}}}", &rows[..rows.match_indices("},").nth(199_999).unwrap().0 + 1]);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    fs::write(&path, &bytes).unwrap();
    assert!(bounded("200 000 tensors", bytes.len(), || TensorFile::open(&path)));

    let index = directory(4500);
    let entries: String = (0..600_000).map(|i| format!("\"{i}\":\"x\",")).collect();
    let text = format!("{{\"weight_map\":{{{entries}\"a\":\"x\"}}}}");
    fs::write(index.path().join("model.safetensors.index.json"), &text).unwrap();
    assert!(!bounded("index", text.len(), || hf::load(index.path())));
    // Ten thousand layers asked for, two there.
    let config_path = index.path().join("config.json");
    let config = fs::read_to_string(&config_path).unwrap();
    let deep = config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 10000");
    assert_ne!(config, deep);
    fs::write(&config_path, deep).unwrap();
    fs::remove_file(index.path().join("model.safetensors.index.json")).unwrap();
    let whole = directory(u64::MAX);
    fs::copy(whole.path().join("model.safetensors"), index.path().join("model.safetensors")).unwrap();
    assert!(!bounded("layers", 20_000, || hf::load(index.path())));
}
