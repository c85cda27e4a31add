//! The safetensors reader and writer, beside the format's own library.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;
use model::from_fn;
use model::safetensors::{Dtype, Entry, Float, MAX_HEADER, TensorFile, write};
use proptest::prelude::*;

/// A file from a header and so many bytes of numbers.
fn file(header: &str, numbers: usize) -> Vec<u8> {
    raw(header.as_bytes(), numbers)
}

fn raw(header: &[u8], numbers: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend((0..numbers).map(|i| i as u8));
    bytes
}

/// Opens `bytes` as `m.safetensors`; the error as `CODE message`, without the directory.
fn open(bytes: &[u8]) -> Result<TensorFile, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    std::fs::write(&path, bytes).unwrap();
    TensorFile::open(&path)
        .map_err(|e| format!("{} {e}", e.code()).replace(&format!("{}/", dir.path().display()), ""))
}

fn refused(bytes: &[u8], wanted: &str) {
    assert_eq!(open(bytes).unwrap_err(), wanted);
}

#[test]
fn refuses_a_file_without_room_for_a_header() {
    refused(b"", "E3001 m.safetensors: 0 bytes, header needs 8");
    refused(&[0; 7], "E3001 m.safetensors: 7 bytes, header needs 8");
}

#[test]
fn refuses_a_header_longer_than_the_file_or_the_limit() {
    for length in [u64::MAX, 1 << 63, 3] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b' '; 2]);
        let wanted =
            format!("E3002 m.safetensors: header length {length} exceeds the rest of the file of 2 bytes");
        refused(&bytes, &wanted);
    }
    let long = raw(&vec![b' '; MAX_HEADER as usize + 1], 0);
    refused(&long, "E3002 m.safetensors: header length 16000001 exceeds the limit of 16000000 bytes");
}

#[test]
fn refuses_a_header_that_is_no_object_of_tensors() {
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    for (header, wanted) in [
        (&b""[..], "byte 8: the header does not begin with `{`"),
        (b"[]", "byte 8: the header does not begin with `{`"),
        (b" {}", "byte 8: the header does not begin with `{`"),
        (b"{\"\xff\"}", "byte 10: the header is not UTF-8"),
        (b"{\"a\"", "byte 11: EOF while parsing an object"),
        (b"{} x", "byte 11: trailing characters"),
        (b"{\n \"a\": 1}", "byte 16: invalid type: integer `1`, expected struct RawTensor"),
        (deep.as_bytes(), "byte 13: invalid type: sequence, expected a string"),
        (twice.as_bytes(), "byte 63: duplicate key `a`"),
        (br#"{"__metadata__":{"a":1}}"#, "byte 29: invalid type: integer `1`, expected a string"),
        (br#"{"__metadata__":{},"__metadata__":{}}"#, "byte 44: duplicate key `__metadata__`"),
    ] {
        refused(&raw(header, 2), &format!("E3003 m.safetensors: {wanted}"));
    }
}

#[test]
fn refuses_too_many_tensors_and_dimensions() {
    let row = |i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let many: Vec<String> = (0..200_001).map(row).collect();
    let error = open(&file(&format!("{{{}}}", many.join(",")), 0)).unwrap_err();
    assert!(error.starts_with("E3003") && error.ends_with("more than 200000 tensors"), "{error}");
    let few = open(&file(&format!("{{{}}}", many[..200_000].join(",")), 0)).unwrap();
    assert_eq!(few.tensors().len(), 200_000);

    let header = r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#;
    refused(
        &file(header, 1),
        "E3003 m.safetensors: byte 53: invalid length 9, expected a list of at most 8 numbers",
    );
}

#[test]
fn refuses_ranges_that_do_not_fit_shape_and_file() {
    let one = |shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    for (header, wanted) in [
        (one("[2]", "[8,0]"), "begins at 8 and ends before, at 0"),
        (one("[2]", "[-8,0]"), "has the offset -8"),
        (one("[-2]", "[0,8]"), "has the extent -2 in its shape"),
        (one("[1.5]", "[0,6]"), "has the extent 1.5 in its shape"),
        (one("[2]", "[0]"), "has 1 offsets, wanted 2"),
        (one("[3]", "[0,8]"), "has 8 bytes, its shape [3] of F32 takes 12"),
        (one("[2]", "[4,12]"), "leaves a hole: it begins at byte 4 of the numbers, the one before ends at 0"),
        (
            one("[4294967296,4294967296]", "[0,8]"),
            "has the shape [4294967296, 4294967296], more numbers than there are addresses",
        ),
        (
            one("[18446744073709551615]", "[0,8]"),
            "has the shape [18446744073709551615], more numbers than there are addresses",
        ),
    ] {
        refused(&file(&header, 8), &format!("E3004 m.safetensors: `a` {wanted}"));
    }
    let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    let wanted = "E3004 m.safetensors: `b` overlaps the one before: it begins at byte 2 of the numbers, the one before ends at 4";
    refused(&file(overlap, 6), wanted);
}

#[test]
fn refuses_formats_it_does_not_know_and_reads_no_integers_as_weights() {
    for dtype in ["F4", "F6_E2M3", "Q8_0", ""] {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,1]}}}}"#);
        let wanted = format!(
            "E3005 m.safetensors: `a` has dtype {dtype}, wanted F32, F16, BF16, or another format of whole bytes"
        );
        refused(&file(&header, 1), &wanted);
    }
    let header = r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let open = open(&file(header, 8)).unwrap();
    let tensor = open.find("a").unwrap();
    assert_eq!(tensor.dtype, Dtype::Other { name: "I64", bytes: 8 });
    let error = open.read(tensor).unwrap_err();
    assert_eq!(error.code(), "E3005");
    assert!(error.to_string().ends_with("`a` has dtype I64, wanted F32, F16 or BF16"), "{error}");
}

#[test]
fn refuses_a_file_cut_short_or_with_something_behind() {
    let header = r#"{"a":{"dtype":"F32","shape":[1024],"data_offsets":[0,4096]},"b":{"dtype":"F32","shape":[1024],"data_offsets":[4096,8192]}}"#;
    let whole = file(header, 8192);
    open(&whole).unwrap();
    for (cut, tensor) in [(1, "b"), (4096, "b"), (5000, "a"), (8192, "a")] {
        let have = 8192 - cut;
        let wanted = format!(
            "E3006 m.safetensors: {have} bytes of numbers, the header describes 8192: cut short by {cut} in `{tensor}`"
        );
        refused(&whole[..whole.len() - cut], &wanted);
    }
    let behind = [&whole[..], b"PK\x03\x04"].concat();
    refused(&behind, "E3006 m.safetensors: 8196 bytes of numbers, the header describes 8192: 4 too many");
}

#[test]
fn refuses_what_is_no_file_without_waiting_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = TensorFile::open(dir.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is no regular file, wanted a file", dir.path().display()));

    let link = dir.path().join("loop.safetensors");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    let error = TensorFile::open(&link).unwrap_err();
    let wanted = format!("{}: unsafe path `loop.safetensors`: a loop of symbolic links", link.display());
    assert_eq!((error.code(), error.to_string()), ("E3007", wanted));
}

#[test]
fn a_long_name_does_not_flood_the_message() {
    let name = "x\\u0000".repeat(1_000_000);
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}}}"#);
    let error = open(&file(&header, 8)).unwrap_err();
    assert!(error.len() < 800 && !error.contains('\0'), "{} bytes", error.len());
}

fn save(path: &Path, tensors: &[(Entry, Vec<f32>)]) {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let entries: Vec<Entry> = tensors.iter().map(|(e, _)| e.clone()).collect();
    let mut asked = 0..;
    let written = write(
        path,
        &metadata,
        &entries,
        &mut from_fn(|i| {
            assert_eq!(Some(i), asked.next(), "each tensor once, in order");
            Ok(Cow::Borrowed(&tensors[i].1))
        }),
    )
    .unwrap();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(written.bytes, bytes.len() as u64);
    assert_eq!(written.hash, blake3::hash(&bytes));
}

#[test]
fn rounds_halves_as_the_formats_say() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    // 1 + 2^-8 lies between the bf16 neighbours 1 and 1 + 2^-7, and ties go to even; 65520 is the first
    // number that rounds to infinity in f16.
    let ulp = 1.0 / 256.0;
    let values = vec![1.0, 1.0 + ulp, 1.0 + 3.0 * ulp, -0.1, 65_519.0, 65_520.0, 1e-8, f32::MAX];
    let entry = |name: &str, float| Entry { name: name.into(), float, shape: vec![2, 4] };
    let tensors = [entry("single", Float::F32), entry("half", Float::F16), entry("brain", Float::Bf16)]
        .map(|e| (e, values.clone()));
    save(&path, &tensors);
    let file = TensorFile::open(&path).unwrap();
    let read = |name| file.read(file.find(name).unwrap()).unwrap();
    assert_eq!(read("single"), values);
    let inf = f32::INFINITY;
    assert_eq!(read("half"), [1.0, 1.0 + ulp, 1.0 + 3.0 * ulp, -0.099_975_586, 65_504.0, inf, 0.0, inf]);
    assert_eq!(
        read("brain"),
        [1.0, 1.0, 1.0 + 4.0 * ulp, -0.100_097_656, 65_536.0, 65_536.0, 1.001_171_8e-8, inf]
    );
    assert_eq!(file.metadata()["format"], "pt");
}

#[test]
fn reports_a_source_that_fails_or_gives_the_wrong_amount() {
    let dir = tempfile::tempdir().unwrap();
    let entries = [Entry { name: "a".into(), float: Float::F32, shape: vec![2, 3] }];
    let path = dir.path().join("short.safetensors");
    let error =
        write(&path, &BTreeMap::new(), &entries, &mut from_fn(|_| Ok(vec![0.0; 5].into()))).unwrap_err();
    assert!(error.to_string().ends_with("`a` is given 5 numbers, its shape [2, 3] takes 6"), "{error}");
    let path = dir.path().join("failing.safetensors");
    let error =
        write(&path, &BTreeMap::new(), &entries, &mut from_fn(|_| Err("device lost".into()))).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot write `a` to {}: device lost", path.display()));
}

#[test]
fn never_writes_over_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    std::fs::write(&path, "mine").unwrap();
    write(&path, &BTreeMap::new(), &[], &mut from_fn(|_| unreachable!())).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

fn golden_files() -> Vec<PathBuf> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/golden/models");
    let cases = std::fs::read_dir(models).unwrap().map(|case| case.unwrap().path());
    let files = cases.flat_map(|case| std::fs::read_dir(case).unwrap().map(|f| f.unwrap().path()));
    files.filter(|f| f.extension().is_some_and(|e| e == "safetensors")).collect()
}

#[test]
fn reads_pytorchs_files_as_the_formats_own_library_does() {
    let files = golden_files();
    assert!(!files.is_empty());
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        let ours = TensorFile::open(&path).unwrap();
        assert_eq!(ours.tensors().len(), theirs.len());
        for tensor in ours.tensors() {
            let view = theirs.tensor(&tensor.name).unwrap();
            assert_eq!(tensor.shape, view.shape());
            let wanted: Vec<u32> = match tensor.dtype.name() {
                "F32" => view.data().chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect(),
                // The upper half of a single.
                "BF16" => view.data().chunks(2).map(|b| u32::from_le_bytes([0, 0, b[0], b[1]])).collect(),
                _ => continue,
            };
            let read: Vec<u32> = ours.read(tensor).unwrap().into_iter().map(f32::to_bits).collect();
            assert_eq!(read, wanted, "{}", tensor.name);
        }
    }
}

fn any_tensors() -> impl Strategy<Value = Vec<(Entry, Vec<f32>)>> {
    let float = prop_oneof![Just(Float::F32), Just(Float::F16), Just(Float::Bf16)];
    let one =
        (".{0,12}", float, prop::collection::vec(0usize..5, 0..4)).prop_flat_map(|(name, float, shape)| {
            let len = shape.iter().product::<usize>();
            // Whole numbers that every format holds exactly.
            let values = prop::collection::vec((-128i32..128).prop_map(|v| v as f32), len);
            values.prop_map(move |values| (Entry { name: name.clone(), float, shape: shape.clone() }, values))
        });
    prop::collection::vec(one, 0..6).prop_map(|mut tensors| {
        tensors.sort_by(|a, b| a.0.name.cmp(&b.0.name));
        tensors.dedup_by(|a, b| a.0.name == b.0.name);
        tensors.retain(|t| t.0.name != "__metadata__");
        tensors
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back_by_us_and_by_the_formats_own_library(tensors in any_tensors()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        save(&path, &tensors);
        let bytes = std::fs::read(&path).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        let ours = TensorFile::open(&path).unwrap();
        prop_assert_eq!(theirs.len(), tensors.len());
        for (entry, values) in &tensors {
            let tensor = ours.find(&entry.name).unwrap();
            prop_assert_eq!(&tensor.shape, &entry.shape);
            prop_assert_eq!(&ours.read(tensor).unwrap(), values);
            let view = theirs.tensor(&entry.name).unwrap();
            prop_assert_eq!(view.shape(), &entry.shape[..]);
        }
    }

    /// Ours is the stricter of the two: what it opens, the format's own library opens as well.
    #[test]
    fn opens_nothing_that_the_formats_own_library_refuses(
        tensors in any_tensors(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in 0usize..3,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        save(&path, &tensors);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        if let Ok(file) = open(&bytes) {
            prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
            for tensor in file.tensors() {
                prop_assert!(tensor.len() <= bytes.len());
            }
        }
    }
}
