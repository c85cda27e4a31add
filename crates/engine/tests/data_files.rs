//! Text files of every kind, good and bad, become documents or a precise error.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::data::{Block, Blocks, DataError, Format, Part, ReadOptions, Result, Tally, find};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn blocks_of(path: &Path, options: &ReadOptions, block_bytes: usize) -> Result<(Vec<Block>, Tally)> {
    let mut blocks = Blocks::new(find(&[path.to_path_buf()], options)?, options.clone(), block_bytes);
    let all = blocks.by_ref().collect::<Result<Vec<_>>>()?;
    Ok((all, blocks.tally()))
}

/// Whole documents, their pieces joined.
fn documents(path: &Path, options: &ReadOptions) -> Result<Vec<String>> {
    let mut all = vec![String::new()];
    for block in blocks_of(path, options, 1 << 16)?.0 {
        all.last_mut().unwrap().push_str(&block.text());
        if block.ends_document {
            all.push(String::new());
        }
    }
    assert_eq!(all.pop().as_deref(), Some(""), "the last document does not end");
    Ok(all)
}

fn plain(path: &Path) -> Result<Vec<String>> {
    documents(path, &ReadOptions::default())
}

/// The error's code and its message without the folder.
fn refusal<T: std::fmt::Debug>(path: &Path, result: Result<T>) -> String {
    let error = result.unwrap_err();
    let folder = format!("{}/", path.parent().unwrap().display());
    format!("{} {error}", error.code()).replace(&folder, "")
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn text_files_are_documents() {
    let dir = Dir::new();
    assert_eq!(plain(&dir.file("a.txt", "one\ntwo")).unwrap(), ["one\ntwo"]);
    assert_eq!(
        plain(&dir.file("b.txt", "\u{feff}one\r\ntwo\r\nthree\rfour\r")).unwrap(),
        ["one\ntwo\nthree\rfour\r"]
    );
    let many = "one\n<|endoftext|>\ntwo\n<|endoftext|><|endoftext|>\n\nthree\n<|endoftext|>\n";
    assert_eq!(plain(&dir.file("c.txt", many)).unwrap(), ["one", "two", "three"]);
    assert_eq!(plain(&dir.file("d.txt", "")).unwrap(), [""; 0]);
    assert_eq!(plain(&dir.file("e.txt", "<|endoftext|>")).unwrap(), [""; 0]);
    assert_eq!(plain(&dir.file("f.txt.gz", gz("zipped é".as_bytes()))).unwrap(), ["zipped é"]);
    assert_eq!(plain(&dir.file("g.txt.zst", zstd::encode_all(&b"zst"[..], 1).unwrap())).unwrap(), ["zst"]);
    assert_eq!(plain(&dir.file("README", "no ending")).map_err(|e| e.code()), Err("E3047"));
    let named = ReadOptions { format: Some(Format::Text), ..Default::default() };
    assert_eq!(documents(&dir.file("README", "no ending"), &named).unwrap(), ["no ending"]);
}

#[test]
fn long_text_comes_in_pieces_that_join() {
    let dir = Dir::new();
    for text in [
        "The cat sat. é 日本\r\n".repeat(9000),
        "x".repeat(300_000),
        "é".repeat(200_000),
        "\r\n".repeat(99_999),
    ] {
        let text = text + "<|endoftext|>tail";
        let path = dir.file("long.txt", &text);
        let (blocks, _) = blocks_of(&path, &ReadOptions::default(), 10_000).unwrap();
        assert!(blocks.iter().all(|b| b.text_bytes() <= 10_000));
        assert!(blocks.len() >= 10);
        let joined: String = blocks.iter().map(Block::text).collect();
        let (body, _) = text.split_once("<|endoftext|>").unwrap();
        let body = body.replace("\r\n", "\n");
        // Line ends in front of the mark are dropped from the last piece alone.
        assert!(joined.starts_with(body.trim_end_matches('\n')));
        assert!(joined.ends_with("tail"));
        assert_eq!(blocks.iter().filter(|b| b.ends_document).count(), 2);
    }
}

#[test]
fn mark_at_every_place_of_a_piece_is_found() {
    let dir = Dir::new();
    for before in 0..40 {
        let path = dir.file("mark.txt", format!("{}<|endoftext|>b", "a".repeat(before)));
        let (blocks, _) = blocks_of(&path, &ReadOptions::default(), 16).unwrap();
        let joined: String = blocks.iter().map(Block::text).collect();
        assert_eq!(joined, "a".repeat(before) + "b");
    }
}

#[test]
fn folders_are_read_in_order_to_the_bottom() {
    let dir = Dir::new();
    dir.file("texts/b.txt", "b");
    dir.file("texts/a/z.jsonl", "{\"text\": \"z\"}\n");
    dir.file("texts/c.txt", "c");
    dir.file("texts/picture.png", "no");
    dir.file("texts/.hidden.txt", "no");
    let folder = dir.0.path().join("texts");
    assert_eq!(plain(&folder).unwrap(), ["z", "b", "c"]);

    dir.file("empty/picture.png", "no");
    let empty = dir.0.path().join("empty");
    assert_eq!(
        refusal(&empty, plain(&empty)),
        "E3047 `empty`: no data in this folder, wanted .txt, .jsonl, .parquet, .tok or .bin files"
    );
    dir.file("texts/tokens.bin", "no");
    assert_eq!(
        refusal(&folder.join("x"), plain(&folder)),
        "E3047 `a/z.jsonl`: text beside token files; give one kind or the other"
    );
    let missing = dir.0.path().join("missing.txt");
    assert_eq!(refusal(&missing, plain(&missing)), "E3045 cannot read `missing.txt`");
}

#[test]
fn bad_text_is_refused_with_its_place_or_replaced() {
    let dir = Dir::new();
    let check = |bytes: &[u8], problem: &str| {
        let path = dir.file("t.txt", bytes);
        assert_eq!(refusal(&path, plain(&path)), format!("E3050 `t.txt`: {problem}"));
    };
    let utf8 = "not UTF-8; convert the file, or replace bad bytes with --lossy at byte";
    check(b"abc\xffdef", &format!("{utf8} 3"));
    check(b"abc\xe6\x97", &format!("{utf8} 3"));
    check(b"a\xed\xa0\x80", &format!("{utf8} 1"));
    let far = [vec![b'a'; 300_000], vec![0xC3]].concat();
    check(&far, &format!("{utf8} 300000"));
    check(b"\xef\xbb\xbfab\0c", "a NUL byte; this is no text, or replace such bytes with --lossy at byte 5");
    let utf16 =
        "UTF-16 (byte order mark), wanted UTF-8; convert it with `iconv -f UTF-16 -t UTF-8` at byte 0";
    check(b"\xff\xfea\0", utf16);
    check(b"\xfe\xff\0a", utf16);

    let lossy = ReadOptions { lossy: true, ..Default::default() };
    let path = dir.file("t.txt", b"a\xff\xfeb\0\xe6\x97");
    let (blocks, tally) = blocks_of(&path, &lossy, 100).unwrap();
    assert_eq!(blocks[0].text(), "a\u{fffd}\u{fffd}b\u{fffd}\u{fffd}");
    assert_eq!(tally.replaced, 4);

    let cut = gz(&b"much text ".repeat(1000));
    let path = dir.file("t.txt.gz", &cut[..cut.len() / 2]);
    assert_eq!(refusal(&path, plain(&path)), "E3045 cannot read `t.txt.gz`");
    let path = dir.file("t.txt.zst", "no zstd");
    assert_eq!(refusal(&path, plain(&path)), "E3045 cannot read `t.txt.zst`");
}

#[test]
fn jsonl_documents_of_three_shapes() {
    let dir = Dir::new();
    let lines = "\u{feff}{\"text\": \"caf\\u00e9\", \"id\": 7}\r\n\n{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n   \n{\"text\": \"last\"}";
    let want = ["café", "2+2=4", "last"];
    assert_eq!(plain(&dir.file("a.jsonl", lines)).unwrap(), want);
    assert_eq!(plain(&dir.file("a.jsonl.gz", gz(lines.as_bytes()))).unwrap(), want);
    assert_eq!(
        plain(&dir.file("a.jsonl.zst", zstd::encode_all(lines.as_bytes(), 1).unwrap())).unwrap(),
        want
    );

    let chat = r#"{"messages": [{"role": "user", "content": "Hi <|im_end|>"},
        {"role": "assistant", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]}"#;
    let path = dir.file("chat.jsonl", chat.replace('\n', " "));
    let (blocks, _) = blocks_of(&path, &ReadOptions::default(), 100).unwrap();
    let text = |t: &str| Part::Text(t.to_string());
    let turn = |t: &str| [Part::MessageStart, text(t), Part::MessageEnd, text("\n")];
    assert_eq!(blocks.len(), 1);
    assert_eq!(blocks[0].parts, [turn("user\nHi <|im_end|>"), turn("assistant\nHello")].concat());

    // A document over 64 KiB comes in pieces.
    let long = format!("{{\"text\": \"{}\"}}", "word ".repeat(50_000));
    let (blocks, _) = blocks_of(&dir.file("long.jsonl", long), &ReadOptions::default(), 100).unwrap();
    assert_eq!(blocks.iter().map(Block::text).collect::<String>(), "word ".repeat(50_000));
    assert!(blocks.len() > 3 && blocks.iter().all(|b| b.text_bytes() <= 1 << 16));
    assert!(blocks.iter().rev().skip(1).all(|b| !b.ends_document) && blocks.last().unwrap().ends_document);
}

#[test]
fn bad_lines_are_refused_with_their_number() {
    let dir = Dir::new();
    let check = |bytes: &[u8], problem: &str| {
        let path = dir.file("d.jsonl", bytes);
        assert_eq!(refusal(&path, plain(&path)), format!("E3051 `d.jsonl`:{problem}"));
    };
    let good = "{\"text\": \"a\"}\n";
    let with = |line: &str| format!("{good}{line}").into_bytes();
    check(b"", "1: the file is empty, wanted one JSON object per line");
    check(
        &with("{\"text\": \"b"),
        "2: not JSON at column 11: EOF while parsing a string; the line is cut off",
    );
    check(&with("{\"body\": \"b\"}"), "2: no field `text`, `messages`, or `prompt` with `completion`");
    check(&with("{\"prompt\": \"b\"}"), "2: no field `text`, `messages`, or `prompt` with `completion`");
    check(&with("{\"text\": 3}"), "2: `text` is a number, wanted a string");
    check(&with("{\"text\": null}"), "2: `text` is missing or null, wanted a string");
    check(&with("[1]"), "2: an array where an object was wanted");
    check(&with("{\"messages\": []}"), "2: `messages` is empty");
    check(&with("{\"messages\": 5}"), "2: `messages` is a number, wanted an array");
    check(&with("{\"messages\": [5]}"), "2: `messages[0]` is a number, wanted an object");
    check(
        &with("{\"messages\": [{\"content\": \"x\"}]}"),
        "2: `messages[0].role` is missing or null, wanted a string",
    );
    check(
        &with("{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image\"}]}]}"),
        "2: `messages[0].content` holds a part that is no text",
    );
    check(&[b"{\"text\": \"".as_slice(), b"\xff\"}"].concat(), "1: not UTF-8 at byte 10 of the line");
    check(&with("\u{feff}{\"text\": \"b\"}"), "2: not JSON at column 1: expected value");
    check("\u{feff}\u{feff}{}".as_bytes(), "1: not JSON at column 1: expected value");
    check(&with(&"[".repeat(100_000)), "2: not JSON at column 128: recursion limit exceeded");
}

#[test]
fn a_line_of_over_100_mb_is_dropped_not_held() {
    let dir = Dir::new();
    let path = dir.0.path().join("big.jsonl");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"{\"text\": \"").unwrap();
    for _ in 0..101 {
        file.write_all(&[b'a'; 1 << 20]).unwrap();
    }
    file.write_all(b"\"}\n{\"text\": \"next\"}\n").unwrap();
    assert_eq!(refusal(&path, plain(&path)), "E3051 `big.jsonl`:1: longer than 100 MiB");
    let skip = ReadOptions { skip_bad: 1, ..Default::default() };
    assert_eq!(documents(&path, &skip).unwrap(), ["next"]);
}

#[test]
fn some_bad_lines_may_be_passed_over() {
    let dir = Dir::new();
    let path = dir.file("d.jsonl", "{\"text\": \"a\"}\nbad\n{}\n{\"text\": \"b\"}\nworse\n");
    let options = |skip_bad| ReadOptions { skip_bad, ..Default::default() };
    let (blocks, tally) = blocks_of(&path, &options(3), 100).unwrap();
    assert_eq!((blocks.len(), tally.skipped), (2, 3));
    let error = blocks_of(&path, &options(2), 100).unwrap_err();
    assert!(matches!(error, DataError::Jsonl { line: 5, .. }), "{error}");
}

const SCHEMA: &str =
    "message rows { optional binary text (UTF8); required int64 id; required binary body (UTF8); }";

/// Rows of `text` (with gaps), `id` and `body`, in two row groups.
fn parquet(rows: &[Option<&[u8]>], compression: Compression) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for half in rows.chunks(rows.len().div_ceil(2).max(1)) {
        let mut group = writer.next_row_group().unwrap();
        let levels: Vec<i16> = half.iter().map(|r| i16::from(r.is_some())).collect();
        let texts: Vec<ByteArray> = half.iter().flatten().map(|r| r.to_vec().into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&levels), None).unwrap();
        column.close().unwrap();
        let ids: Vec<i64> = (0..half.len() as i64).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let bodies: Vec<ByteArray> = ids.iter().map(|i| format!("body {i}").into_bytes().into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&bodies, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_rows_are_documents() {
    let dir = Dir::new();
    let names: Vec<String> = (0..500).map(|i| format!("row {} é", i % 190)).collect();
    let mut rows: Vec<Option<&[u8]>> = names.iter().map(|n| Some(n.as_bytes())).collect();
    rows[3] = None;
    rows[499] = None;
    rows[7] = Some(b"");
    let want: Vec<&str> =
        names.iter().enumerate().filter(|(i, _)| ![3, 7, 499].contains(i)).map(|(_, n)| n.as_str()).collect();
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())]
    {
        let path = dir.file("p.parquet", parquet(&rows, compression));
        assert_eq!(plain(&path).unwrap(), want);
        let other = ReadOptions { text_column: "body".into(), ..Default::default() };
        let bodies = documents(&path, &other).unwrap();
        assert_eq!((bodies.len(), bodies[1].as_str()), (500, "body 1"));
    }
}

#[test]
fn bad_parquet_is_refused() {
    let dir = Dir::new();
    let good = parquet(&[Some(b"one"), Some(b"two"), None, Some(b"four")], Compression::UNCOMPRESSED);
    let check = |bytes: &[u8], problem: &str| {
        let path = dir.file("p.parquet", bytes);
        assert_eq!(refusal(&path, plain(&path)), format!("E3060 `p.parquet`: {problem}"));
    };
    check(b"", "0 bytes, a Parquet file has at least 12");
    check(&good[..good.len() - 1], "does not end with `PAR1`; the file is cut off");
    check(b"hello, this is no parquet", "no Parquet file");
    let end = good.len();
    let claims = |n: u32| [&good[..end - 8], &n.to_le_bytes(), b"PAR1"].concat();
    check(
        &claims(u32::MAX),
        &format!("the footer claims 4294967295 bytes, at most {} are possible", end - 12),
    );
    check(&[&good[..end - 4], b"PARE"].concat(), "encrypted Parquet is not read");

    let named = |name: &str| {
        let path = dir.file("p.parquet", &good);
        let options = ReadOptions { text_column: name.into(), ..Default::default() };
        refusal(&path, documents(&path, &options))
    };
    assert_eq!(named("id"), "E3060 `p.parquet`: column `id` holds INT64, wanted text (BYTE_ARRAY)");
    assert_eq!(
        named("words"),
        "E3060 `p.parquet`: no column `words`; there are `text`, `id`, `body`; name one with --text-column"
    );
    let nested =
        parse_message_type("message m { optional group text { required binary a (UTF8); } }").unwrap();
    let mut bytes = Vec::new();
    let writer = SerializedFileWriter::new(&mut bytes, Arc::new(nested), Default::default()).unwrap();
    writer.close().unwrap();
    check(&bytes, "column `text` holds nested values, wanted text");

    let path =
        dir.file("p.parquet", parquet(&[Some(b"ok"), Some(b"\xff"), Some(b"ok")], Compression::SNAPPY));
    assert_eq!(refusal(&path, plain(&path)), "E3060 `p.parquet`: row 1 is not UTF-8 at its byte 0");
    assert_eq!(documents(&path, &ReadOptions { skip_bad: 1, ..Default::default() }).unwrap(), ["ok", "ok"]);
    assert_eq!(documents(&path, &ReadOptions { lossy: true, ..Default::default() }).unwrap()[1], "\u{fffd}");
}

#[test]
fn a_page_that_claims_gigabytes_is_refused_before_it_is_unpacked() {
    // 100 MB of one letter pack into some kilobytes.
    let dir = Dir::new();
    let long = vec![b'a'; 100 << 20];
    let bytes = parquet(&[Some(&long)], Compression::ZSTD(Default::default()));
    assert!(bytes.len() < 1 << 20);
    let path = dir.file("bomb.parquet", bytes);
    let text = refusal(&path, plain(&path));
    assert!(text.starts_with("E3060 `bomb.parquet`: the page at byte "), "{text}");
    assert!(text.ends_with("at most 67108864 are read"), "{text}");
}

#[test]
fn damaged_parquet_never_panics() {
    let dir = Dir::new();
    let names: Vec<String> = (0..60).map(|i| format!("row {}", i % 7)).collect();
    let rows: Vec<Option<&[u8]>> = names.iter().map(|n| Some(n.as_bytes())).collect();
    let good = parquet(&rows, Compression::SNAPPY);
    let mut refused = 0;
    let mut early = 0;
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        if let Err(error) = plain(&dir.file("p.parquet", bytes)) {
            assert_eq!(error.code(), "E3060");
            refused += 1;
            // A row group that claims more rows than it holds.
            early += usize::from(error.to_string().ends_with(" rows early; the file is damaged"));
        }
        if at % 7 == 0 {
            assert!(plain(&dir.file("p.parquet", &good[..at])).is_err());
        }
    }
    // A flipped bit in a text is just another text; one in a header or the footer is mostly found.
    assert!(refused > good.len() / 5, "{refused} of {}", good.len());
    assert!(early > 0);
}
