//! A server under test, and HTTP by hand: what goes over the wire is what is tested.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{ChildStdout, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Guard, Lab};

/// A server of `rustane serve`, which ends with the test.
pub struct Server {
    process: Guard,
    /// Kept open; nothing more is written there.
    _out: BufReader<ChildStdout>,
    pub address: String,
    said: std::path::PathBuf,
}

impl Server {
    /// Starts it on any port and waits until it says where.
    pub fn start(lab: &Lab, args: &[&str]) -> Self {
        let said = lab.path("served.txt");
        let mut command = lab.command(&[&["serve", "--port", "0"], args].concat());
        let err = std::fs::File::create(&said).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(err).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let process = Guard(child);
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").map(str::to_owned);
        let said_by_now = || std::fs::read_to_string(&said).unwrap();
        let address = address.unwrap_or_else(|| panic!("no address: {line:?} {}", said_by_now()));
        Self { process, _out: out, address, said }
    }

    /// What it said of requests and itself.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap()
    }

    /// Waits until it said so.
    pub fn wait_for(&self, text: &str) {
        let begin = Instant::now();
        while !self.said().contains(text) {
            assert!(begin.elapsed() < Duration::from_secs(60), "never said {text:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until so many requests wait behind the one that is written.
    pub fn wait_for_line(&self, waiting: usize) {
        let begin = Instant::now();
        loop {
            let state = self.get("/health").json();
            if state["writing"] == true && state["waiting"] == waiting {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{state}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The exit code, once it ends.
    pub fn ended(&mut self) -> Option<i32> {
        self.process.0.wait().unwrap().code()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1"), &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(&format!("POST {path} HTTP/1.1"), &[], body.to_string().as_bytes())
    }

    /// Sends a request with these lines in its head, and reads the whole answer.
    pub fn send(&self, first: &str, lines: &[&str], body: &[u8]) -> Answer {
        self.open(first, lines, body).read()
    }

    /// Sends a request; the answer is read by whoever has the connection.
    pub fn open(&self, first: &str, lines: &[&str], body: &[u8]) -> Connection {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let has = |name: &str| lines.iter().any(|line| line.to_lowercase().starts_with(name));
        let mut head = format!("{first}\r\nConnection: close\r\n");
        if !has("host:") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if first.starts_with("POST") && !has("content-type:") {
            head += "Content-Type: application/json\r\n";
        }
        if !has("transfer-encoding:") && !has("content-length:") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        for line in lines {
            head += &format!("{line}\r\n");
        }
        let sent = stream.write_all(&[format!("{head}\r\n").as_bytes(), body].concat());
        // A server that refuses the head answers and closes, whether the rest has come or not.
        let refused = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
        assert!(sent.as_ref().map_or_else(|e| refused.contains(&e.kind()), |()| true), "{sent:?}");
        Connection(BufReader::new(stream))
    }

    /// A connection on which a text is written piece by piece, from the first event on.
    pub fn stream(&self, path: &str, body: &Value) -> Connection {
        let mut body = body.clone();
        body["stream"] = true.into();
        self.open(&format!("POST {path} HTTP/1.1"), &[], body.to_string().as_bytes())
    }
}

/// A request that was sent.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Waits for the next event; nothing at the end.
    pub fn event(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(data.trim_end().to_owned());
            }
        }
    }

    /// Leaves without a word.
    pub fn leave(self) {
        self.0.get_ref().shutdown(Shutdown::Both).unwrap();
    }

    /// The whole answer.
    pub fn read(mut self) -> Answer {
        let mut bytes = Vec::new();
        let read = self.0.read_to_end(&mut bytes);
        // Whoever closes with something unread resets the connection, behind the answer.
        assert!(read.as_ref().map_or_else(|e| e.kind() == ErrorKind::ConnectionReset, |_| true), "{read:?}");
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
        let (first, head) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = first.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { without_chunks(body) } else { body.to_owned() };
        Answer { status, head: head.to_lowercase(), body }
    }
}

fn without_chunks(mut body: &str) -> String {
    let mut text = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n").expect("a chunk has a length");
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return text;
        }
        text += &rest[..length];
        body = rest[length..].strip_prefix("\r\n").expect("a chunk has an end");
    }
}

/// What came back.
pub struct Answer {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The answer to a request that went well.
    pub fn fine(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// Every event of a stream.
    pub fn events(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.head.contains("content-type: text/event-stream"), "{}", self.head);
        let events = self.body.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
        events.map(|event| event.strip_prefix("data: ").expect("an event is data").to_owned()).collect()
    }
}
