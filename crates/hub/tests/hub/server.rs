//! A hub on 127.0.0.1, honest until a test says otherwise, and a cache to pull into.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hub::{Error, Event, Hub, Kind, Pulled, Repo, Request, Secret, Select, Settings, Times, Watch};
use sha2::Digest as _;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const REPO: &str = "org/name";
pub const FOLDER: &str = "datasets--org--name";

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0.eq_ignore_ascii_case(name)).map(|h| h.1.as_str())
    }

    /// The first byte that the request's range asks for.
    pub fn range(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }

    /// A request for the bytes of a file.
    pub fn is_get_of(&self, file: &str) -> bool {
        self.method == "GET" && self.path.contains("/resolve/") && self.path.ends_with(file)
    }
}

type Handler = dyn Fn(&Seen, &mut TcpStream) + Send + Sync;

/// Answers each connection once, on its own thread, and remembers what was asked.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Seen, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, halt) = (seen.clone(), stop.clone());
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if halt.load(Ordering::SeqCst) {
                    return;
                }
                let (handler, log) = (handler.clone(), log.clone());
                let Ok(mut stream) = stream else { continue };
                thread::spawn(move || {
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    if let Some(request) = read_request(&stream) {
                        log.lock().unwrap().push(request.clone());
                        handler(&request, &mut stream);
                        finish(&mut stream);
                    }
                });
            }
        });
        Self { address, seen, stop, thread: Some(thread) }
    }

    /// An honest hub with these files.
    pub fn honest(files: &Files) -> Self {
        let files = files.clone();
        Self::start(move |seen, stream| files.answer(seen, stream))
    }

    /// A hub that is honest but for the bytes of `file`: `n` counts the requests for them from 0.
    pub fn spoiling(
        files: &Files,
        file: &'static str,
        spoil: impl Fn(usize, &Seen, &mut TcpStream, &Files) + Send + Sync + 'static,
    ) -> Self {
        let files = files.clone();
        let count = Mutex::new(0);
        Self::start(move |seen, stream| {
            if !seen.is_get_of(file) {
                return files.answer(seen, stream);
            }
            let n = {
                let mut count = count.lock().unwrap();
                *count += 1;
                *count - 1
            };
            spoil(n, seen, stream, &files);
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn gets_of(&self, file: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.is_get_of(file)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    Some(Seen { method, path, headers })
}

/// Closes without a reset, which could take bytes away that the other side has not read yet.
fn finish(stream: &mut TcpStream) {
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest), Ok(n) if n > 0) {}
}

/// Writes a response. A `HEAD` answer passes the length of the body it stands for and no body.
pub fn reply(stream: &mut TcpStream, status: &str, headers: &[(&str, String)], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    if !headers.iter().any(|h| matches!(h.0, "content-length" | "transfer-encoding")) {
        head += &format!("content-length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    // A client that has heard enough may close first.
    let _ = stream.write_all((head + "\r\n").as_bytes());
    let _ = stream.write_all(body);
}

pub fn html(stream: &mut TcpStream, status: &str, extra: &[(&str, String)]) {
    let mut headers = vec![("content-type", "text/html".to_owned())];
    headers.extend(extra.iter().cloned());
    reply(stream, status, &headers, b"<!doctype html><title>Sorry</title><p>Something else than your file");
}

/// A file of the fake hub.
#[derive(Clone)]
pub struct Stored {
    pub bytes: Vec<u8>,
    pub lfs: bool,
}

impl Stored {
    /// The name of its blob.
    pub fn etag(&self) -> String {
        if self.lfs { sha256(&self.bytes) } else { git_hash(&self.bytes) }
    }
}

/// What the fake hub holds.
#[derive(Clone, Default)]
pub struct Files(pub BTreeMap<String, Stored>);

impl Files {
    /// One large file, `data.bin`, of `len` bytes.
    pub fn one(len: usize) -> Self {
        Self::default().with("data.bin", noise(7, len), true)
    }

    pub fn with(mut self, name: &str, bytes: Vec<u8>, lfs: bool) -> Self {
        self.0.insert(name.into(), Stored { bytes, lfs });
        self
    }

    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.0[name].bytes
    }

    pub fn etag(&self, name: &str) -> String {
        self.0[name].etag()
    }

    pub fn list(&self) -> String {
        let files = self.0.iter().map(|(name, file)| {
            let size = file.bytes.len();
            match file.lfs {
                true => serde_json::json!({
                    "rfilename": name, "size": size, "blobId": "f".repeat(40),
                    "lfs": {"sha256": file.etag(), "size": size, "pointerSize": 134},
                }),
                false => serde_json::json!({"rfilename": name, "size": size, "blobId": file.etag()}),
            }
        });
        serde_json::json!({"id": REPO, "sha": COMMIT, "siblings": files.collect::<Vec<_>>()}).to_string()
    }

    /// What the real hub would answer.
    pub fn answer(&self, seen: &Seen, stream: &mut TcpStream) {
        let path = seen.path.split('?').next().unwrap();
        if path.starts_with("/api/") {
            return reply(
                stream,
                "200 OK",
                &[("content-type", "application/json".into())],
                self.list().as_bytes(),
            );
        }
        let Some((_, name)) = path.split_once(&format!("/resolve/{COMMIT}/")) else {
            return html(stream, "404 Not Found", &[]);
        };
        let name = name.replace("%20", " ");
        let Some(file) = self.0.get(&name) else { return html(stream, "404 Not Found", &[]) };
        let mut headers = vec![("etag", format!("\"{}\"", file.etag())), ("x-repo-commit", COMMIT.into())];
        if file.lfs {
            headers.push(("x-linked-etag", format!("\"{}\"", file.etag())));
            headers.push(("x-linked-size", file.bytes.len().to_string()));
        }
        if seen.method == "HEAD" {
            headers.push(("content-length", file.bytes.len().to_string()));
            return reply(stream, "200 OK", &headers, b"");
        }
        self.send_from(&name, seen.range(), stream, &headers);
    }

    /// The bytes of a file from `start` on, as a range if there is one.
    pub fn send_from(
        &self,
        name: &str,
        start: Option<usize>,
        stream: &mut TcpStream,
        headers: &[(&'static str, String)],
    ) {
        let bytes = self.bytes(name);
        let mut headers = headers.to_vec();
        match start {
            None => reply(stream, "200 OK", &headers, bytes),
            Some(start) if start < bytes.len() => {
                headers.push(("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())));
                reply(stream, "206 Partial Content", &headers, &bytes[start..]);
            }
            Some(_) => reply(stream, "416 Range Not Satisfiable", &headers, b""),
        }
    }

    /// Like an honest answer, but the connection closes after `upto` bytes of the body.
    pub fn cut(&self, name: &str, start: Option<usize>, upto: usize, stream: &mut TcpStream) {
        let bytes = &self.bytes(name)[start.unwrap_or(0)..];
        let mut headers = vec![("content-length", bytes.len().to_string())];
        let total = self.bytes(name).len();
        if let Some(start) = start {
            headers.push(("content-range", format!("bytes {start}-{}/{total}", total - 1)));
        }
        let status = if start.is_some() { "206 Partial Content" } else { "200 OK" };
        reply(stream, status, &headers, &bytes[..upto.min(bytes.len())]);
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub fn git_hash(bytes: &[u8]) -> String {
    let mut hash = sha1::Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Pseudo-random numbers: xorshift64*.
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % limit
    }
}

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut noise = Noise::new(seed);
    (0..len).map(|_| noise.below(256) as u8).collect()
}

/// A cache in a temporary folder, and how to pull into it.
pub struct Place {
    folder: tempfile::TempDir,
    pub settings: Settings,
    pub request: Request,
}

impl Place {
    pub fn new(endpoint: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(folder.path().join("hub"));
        settings.endpoint = endpoint.into();
        settings.token = Some(Secret::new("hf_test"));
        settings.times = Times {
            connect: Duration::from_secs(2),
            answer: Duration::from_secs(3),
            idle: Duration::from_secs(3),
            slow_window: Duration::from_secs(3),
            slow_bytes: 100,
            tries: 4,
            progress_bytes: 1,
            pause: Duration::from_millis(1),
            pause_max: Duration::from_millis(4),
            lock: Duration::from_secs(10),
        };
        let request = Request {
            repo: Repo::new(Kind::Dataset, REPO).unwrap(),
            revision: "main".into(),
            select: Select::Patterns(vec!["*".into()]),
            validation: None,
        };
        Self { folder, settings, request }
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn repo(&self) -> PathBuf {
        self.settings.cache.join(FOLDER)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.repo().join("blobs").join(etag)
    }

    pub fn pull(&self) -> hub::Result<Pulled> {
        self.pull_watched(&AtomicBool::new(false), &mut |_| {})
    }

    pub fn pull_watched(
        &self,
        cancel: &AtomicBool,
        report: &mut dyn FnMut(Event<'_>),
    ) -> hub::Result<Pulled> {
        Hub::new(self.settings.clone())?.pull(&self.request, &mut Watch::new(cancel, report))
    }

    /// Pulls, and checks that all of `files` came whole.
    pub fn pull_all(&self, files: &Files) -> Pulled {
        let pulled = self.pull().unwrap();
        for (name, file) in &files.0 {
            assert_eq!(fs::read(pulled.folder.join(name)).unwrap(), file.bytes, "{name}");
        }
        self.check(files);
        pulled
    }

    /// Pulls, expects failure, and checks that nothing wrong is to be seen.
    pub fn pull_fails(&self, files: &Files) -> Error {
        let error = self.pull().unwrap_err();
        self.check(files);
        assert!(!self.repo().join("refs/main").exists(), "a branch names a snapshot that is not whole");
        error
    }

    /// Reads the cache through.
    pub fn check(&self, files: &Files) {
        for (name, path) in list(&self.repo().join("blobs")) {
            if name.ends_with(".incomplete") || name.ends_with(".tmp") {
                continue;
            }
            let bytes = fs::read(path).unwrap();
            let hash = if name.len() == 64 { sha256(&bytes) } else { git_hash(&bytes) };
            assert_eq!(hash, name, "a corrupt blob is visible");
        }
        for (name, path) in list(&self.repo().join("snapshots").join(COMMIT)) {
            assert_eq!(fs::read(path).unwrap(), files.bytes(&name), "{name} is not what the hub has");
        }
    }

    /// Lengths of the partial and temporary files.
    pub fn partials(&self) -> Vec<usize> {
        let blobs = list(&self.repo().join("blobs")).into_iter();
        blobs.filter(|b| b.0.contains('.')).map(|b| fs::read(b.1).unwrap().len()).collect()
    }
}

/// The files under a folder, with their paths relative to it.
pub fn list(folder: &Path) -> Vec<(String, PathBuf)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(list(&entry.path()).into_iter().map(|(sub, path)| (format!("{name}/{sub}"), path)));
        } else {
            files.push((name, entry.path()));
        }
    }
    files.sort();
    files
}
