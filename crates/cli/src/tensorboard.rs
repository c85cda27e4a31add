//! TensorBoard event files: a row of framed protobuf messages.
//!
//! ```text
//! record   length u64 | masked CRC32C of those 8 bytes u32 | message | masked CRC32C of it u32
//! mask     rotate_right(crc, 15) + 0xa282ead8
//! Event    1: wall_time double   2: step int64   3: file_version string   5: summary Summary
//! Summary  1: value Value, repeated
//! Value    1: tag string   2: simple_value float
//! ```
//!
//! All little endian. The first message holds the version, the others one scalar each. Source:
//! `tensorflow/core/util/event.proto`, `summary.proto` and `lib/io/record_writer.h` of TensorFlow;
//! CRC32C: RFC 3720, appendix B.4.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const VERSION: &str = "brain.Event:2";

/// An event file that is being written.
#[derive(Debug)]
pub struct Writer {
    file: File,
}

impl Writer {
    /// Starts a new file in `dir`, which is created if need be. TensorBoard shows all files of a folder
    /// as one run, so a run that continues adds a file.
    pub fn create(dir: &Path) -> io::Result<Writer> {
        std::fs::create_dir_all(dir)?;
        let (now, process) = (now(), std::process::id());
        let mut attempt = 0;
        let file = loop {
            let name = format!("events.out.tfevents.{:010}.rustane.{process}.{attempt}", now as u64);
            match File::options().write(true).create_new(true).open(dir.join(name)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                opened => break opened?,
            }
        };
        let mut writer = Writer { file };
        let mut event = Vec::new();
        double(&mut event, 1, now);
        bytes(&mut event, 3, VERSION.as_bytes());
        writer.record(&event)?;
        Ok(writer)
    }

    /// Appends one value of the curve `tag`, whole, before it returns.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> io::Result<()> {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, FIXED_32);
        entry.extend_from_slice(&value.to_le_bytes());
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &entry);
        let mut event = Vec::new();
        double(&mut event, 1, now());
        key(&mut event, 2, VARINT);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, message: &[u8]) -> io::Result<()> {
        let length = (message.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(message.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(message);
        record.extend_from_slice(&masked_crc(message).to_le_bytes());
        self.file.write_all(&record)
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED_32: u8 = 5;

/// Number and wire type of a field; all our numbers are below 16.
fn key(out: &mut Vec<u8>, field: u8, wire: u8) {
    out.push(field << 3 | wire);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    key(out, field, FIXED_64);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    key(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, reflected, a byte at a time.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_has_the_published_values() {
        // RFC 3720, appendix B.4, and the customary check value.
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(&(0..32).rev().collect::<Vec<u8>>()), 0x113f_db5c);
    }

    #[test]
    fn mask_turns_and_adds() {
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
        // What TensorFlow writes behind the length 24 of its first record.
        assert_eq!(masked_crc(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[derive(Debug, PartialEq)]
    enum Field<'a> {
        Number(u64),
        Double(f64),
        Bytes(&'a [u8]),
        Float(f32),
    }

    /// Splits a protobuf message into its fields.
    fn fields(mut message: &[u8]) -> Vec<(u8, Field<'_>)> {
        fn take<'a>(from: &mut &'a [u8], n: usize) -> &'a [u8] {
            let (head, tail) = from.split_at(n);
            *from = tail;
            head
        }
        fn number(from: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = take(from, 1)[0];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut out = Vec::new();
        while !message.is_empty() {
            let key = take(&mut message, 1)[0];
            let value = match key & 7 {
                0 => Field::Number(number(&mut message)),
                1 => Field::Double(f64::from_le_bytes(take(&mut message, 8).try_into().unwrap())),
                2 => {
                    let length = number(&mut message) as usize;
                    Field::Bytes(take(&mut message, length))
                }
                5 => Field::Float(f32::from_le_bytes(take(&mut message, 4).try_into().unwrap())),
                wire => panic!("wire type {wire}"),
            };
            out.push((key >> 3, value));
        }
        out
    }

    /// Splits a file into messages and checks every sum.
    fn records(mut file: &[u8]) -> Vec<&[u8]> {
        let mut out = Vec::new();
        while !file.is_empty() {
            let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(u32_at(8), masked_crc(&file[..8]));
            let message = &file[12..12 + length];
            assert_eq!(u32_at(12 + length), masked_crc(message));
            out.push(message);
            file = &file[16 + length..];
        }
        out
    }

    #[test]
    fn what_was_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let written = [("train/loss", 1, 2.5), ("train/loss", 300, -0.125), ("val/bpb", 1 << 40, 1.0)];
        let before = now();
        let mut writer = Writer::create(dir.path()).unwrap();
        for (tag, step, value) in written {
            writer.scalar(tag, step, value).unwrap();
        }
        let entries: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(entries.len(), 1);
        assert!(entries[0].to_str().unwrap().contains("events.out.tfevents."));
        let file = std::fs::read(&entries[0]).unwrap();
        let records = records(&file);
        assert_eq!(fields(records[0])[1..], [(3, Field::Bytes(b"brain.Event:2"))]);
        assert_eq!(records.len(), 1 + written.len());
        for (record, (tag, step, value)) in records[1..].iter().zip(written) {
            let event = fields(record);
            let [(1, Field::Double(time)), (2, Field::Number(got)), (5, Field::Bytes(summary))] = event[..]
            else {
                panic!("{event:?}")
            };
            assert!(before <= time && time <= now());
            assert_eq!(got, step);
            let summary = fields(summary);
            let [(1, Field::Bytes(entry))] = summary[..] else { panic!("{summary:?}") };
            assert_eq!(fields(entry), [(1, Field::Bytes(tag.as_bytes())), (2, Field::Float(value))]);
        }
    }

    #[test]
    fn a_run_that_continues_adds_a_file() {
        let dir = tempfile::tempdir().unwrap();
        for files in 1..=3 {
            Writer::create(&dir.path().join("tb")).unwrap();
            assert_eq!(std::fs::read_dir(dir.path().join("tb")).unwrap().count(), files);
        }
    }
}
