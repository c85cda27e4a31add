//! `rustane mil` through the binary: every program dumped, checked, run and counted, and a table of bad
//! inputs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use model::from_fn;
use model::safetensors::{self, Entry, Float, TensorFile};
use tempfile::TempDir;

mod support;

use support::{Ran, rustane};

/// `y = a·b` of two inputs.
const PRODUCT: &str = r#"program(1.3)
{
    func main<ios18>(tensor<fp16, [1, 1, 2, 32]> a, tensor<fp16, [1, 1, 32, 32]> b) {
        bool no = const()[name = string("no"), val = bool(false)];
        tensor<fp16, [1, 1, 2, 32]> y = matmul(transpose_x = no, transpose_y = no, x = a, y = b)[name = string("y")];
    } -> (y);
}
"#;

/// `y = x + w`, with `w` in a file.
const WITH_WEIGHTS: &str = r#"program(1.3)
{
    func main<ios18>(tensor<fp16, [1, 4, 1, 32]> x) {
        tensor<fp16, [1, 4, 1, 32]> w = const()[name = string("w"), val = tensor<fp16, [1, 4, 1, 32]>(BLOBFILE(path = string("@model_path/weights/w.bin"), offset = uint64(64)))];
        tensor<fp16, [1, 4, 1, 32]> y = add(x = x, y = w)[name = string("y")];
    } -> (y);
}
"#;

/// Small extents that no two axes share.
const SMALL: [&str; 10] = [
    "--set",
    "model.dim=24",
    "--set",
    "model.hidden=40",
    "--set",
    "model.heads=4",
    "--set",
    "model.kv_heads=2",
    "--seq",
    "32",
];

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    fn mil(&self, args: &[&str]) -> Ran {
        rustane(self.0.path(), &[&["mil"], args].concat())
    }

    /// What a command that works prints.
    fn says(&self, args: &[&str]) -> String {
        let ran = self.mil(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        ran.out
    }

    fn tensors(&self, file: &str, tensors: &[(&str, Float, &[usize], f32)]) {
        let entries: Vec<_> = tensors
            .iter()
            .map(|(name, float, shape, _)| Entry {
                name: name.to_string(),
                float: *float,
                shape: shape.to_vec(),
            })
            .collect();
        let mut source = from_fn(|i: usize| {
            let (_, _, shape, value) = tensors[i];
            Ok(Cow::Owned(vec![value; shape.iter().product()]))
        });
        let _ = fs::remove_file(self.path(file));
        safetensors::write(&self.path(file), &BTreeMap::new(), &entries, &mut source).unwrap();
    }
}

fn values(file: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = TensorFile::open(file).unwrap();
    let tensor = file.find(name).unwrap();
    (tensor.shape.clone(), file.read(tensor).unwrap())
}

#[test]
fn every_program_is_listed_written_read_and_run() {
    let folder = Folder::new();
    let list = folder.says(&["dump"]);
    let names = backend_ane::kernels::Kernel::ALL.iter().map(|k| k.name());
    assert!(names.clone().all(|name| list.contains(&format!("\n{name} "))), "{list}");
    let written = folder.says(
        &[&["dump", "all", "--out", "programs", "--set", "train.classifier=device"], &SMALL[..]].concat(),
    );
    assert_eq!(written.lines().count(), 12, "{written}");
    for name in names.filter(|name| !["ffn_gate_up", "ffn_down"].contains(name)) {
        let place = format!("programs/{name}");
        let checked = folder.says(&["check", &place]);
        assert!(checked.starts_with(&format!("{place}/model.mil: ok for M4 Max, ")), "{checked}");
        // The text of the file is what is printed, and both spellings run to the same bits.
        let printed = folder.mil(&[&["dump", name], &SMALL[..]].concat());
        assert_eq!(
            (printed.code, &printed.out),
            (0, &fs::read_to_string(folder.path(&place).join("model.mil")).unwrap())
        );
        let table = |args: &[&str]| -> Vec<String> {
            let out = folder.says(&[&["run"], args].concat());
            assert!(out.starts_with("virtual ANE (M4 Max), fast arithmetic\n"), "{out}");
            out.lines().filter(|line| line.starts_with('o')).map(str::to_owned).collect()
        };
        let (file, built) = (table(&[&place]), table(&[&[name], &SMALL[..]].concat()));
        assert!(file.len() >= 2, "{file:?}");
        assert_eq!(file, built);
    }
    let again = folder.mil(&[&["dump", "wo_fwd", "--out", "programs"], &SMALL[..]].concat());
    let wanted = "error: programs/wo_fwd/model.mil is there already; name another folder\n";
    assert_eq!((again.code, again.err.as_str()), (2, wanted));
}

#[test]
fn the_flags_decide_the_text() {
    let folder = Folder::new();
    let text = |more: &[&str]| {
        let ran = folder.mil(&[&["dump", "ffn_fwd"], &SMALL[..], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    };
    let whole = text(&[]);
    assert!(whole.contains("tensor<fp16, [1, 40, 1, 32]>") && whole.contains(" = matmul("), "{whole}");
    assert!(text(&["--linear", "conv"]).contains(" = conv("));
    let separate = text(&["--packing", "separate"]);
    assert!(separate.contains(" i00_x") && !separate.contains("i00_packed"), "{separate}");
    let halves = text(&["--ffn-shards", "2"]);
    assert!(
        halves.contains("tensor<fp16, [1, 20, 1, 32]>") && !halves.contains("[1, 40, 1, 32]"),
        "{halves}"
    );
    // What a chip does not take whole is cut for it.
    let wide = ["dump", "--preset", "1b-a", "--seq", "512"];
    let of = |chip: &str| folder.says(&[&wide[..], &["--chip", chip]].concat());
    assert!(of("m4-max").contains("packed inputs, fused feed-forward\ncut for M4 Max"), "{}", of("m4-max"));
    assert_ne!(of("m4-max").lines().next(), of("m1").lines().next());
}

#[test]
fn every_broken_rule_is_reported_at_its_place() {
    let folder = Folder::new();
    folder.put(
        "bad.mil",
        PRODUCT
            .replace("[1, 1, 2, 32]> y", "[1, 1, 2, 31]> y")
            .replace("b) {", "B) {")
            .replace("y = b)", "y = B)"),
    );
    let ran = folder.mil(&["check", "bad.mil"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    assert!(ran.err.starts_with("error[E3091]: bad.mil: "), "{}", ran.err);
    for rule in ["bad.mil:3:", "error[io-order]: `B` in `main`", "bad.mil:5:", "error[type]: `y` in `main`"] {
        assert!(ran.err.contains(rule), "{rule}: {}", ran.err);
    }
    // Run and cost refuse it too.
    for command in ["run", "cost"] {
        assert_eq!(folder.mil(&[command, "bad.mil"]).code, 3);
    }
    // Rows of 32 bytes are for those who say that they lie apart.
    folder.put("narrow.mil", PRODUCT.replace("32]> a", "16]> a").replace("32, 32]> b", "16, 32]> b"));
    assert!(folder.mil(&["check", "narrow.mil"]).err.contains("error[pitch]: `a` in `main`"));
    assert!(folder.says(&["check", "narrow.mil", "--padded-rows"]).contains(": ok for M4 Max, "));
    folder.says(&["run", "narrow.mil", "--padded-rows"]);
}

#[test]
fn given_tensors_go_in_and_results_come_out() {
    let folder = Folder::new();
    folder.put("product.mil", PRODUCT);
    // Products of 2^-18 are below the grid of 2^-16.
    let small = 2f32.powi(-9);
    folder.tensors(
        "in.safetensors",
        &[("a", Float::F16, &[1, 1, 2, 32], small), ("b", Float::F16, &[1, 1, 32, 32], small)],
    );
    folder.tensors("only.safetensors", &[("whatever", Float::F16, &[1, 1, 32, 32], 2.0)]);
    let run = |how: &str, b: &str| {
        let b = format!("b={b}");
        let out = folder.says(&[
            "run",
            "product.mil",
            "--arithmetic",
            how,
            "--input",
            "a=in.safetensors",
            "--input",
            &b,
            "--out",
            "out.safetensors",
        ]);
        let y = values(&folder.path("out.safetensors"), "y");
        fs::remove_file(folder.path("out.safetensors")).unwrap();
        (out, y)
    };
    let (out, fast) = run("fast", "in.safetensors");
    assert_eq!(fast, (vec![1, 1, 2, 32], vec![2f32.powi(-13); 64]));
    assert!(
        out.contains("2048 products, 2048 below the grid (100.00 %, kept by the fast arithmetic)"),
        "{out}"
    );
    let (out, exact) = run("exact", "in.safetensors");
    assert_eq!(exact.1, vec![0.0; 64]);
    assert!(
        out.contains("2048 products, 2048 below the grid (100.00 %), 0 overflows, 0 subnormals"),
        "{out}"
    );
    let (out, other) = run("exact", "only.safetensors");
    assert_eq!(other.1, vec![0.125; 64]);
    assert!(out.contains(" 0.125000"), "{out}");
    // What is there already stays.
    folder.put("out.safetensors", "mine");
    let ran = folder.mil(&["run", "product.mil", "--out", "out.safetensors"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "error: --out out.safetensors is there already; remove it or give another name\n")
    );
    fs::remove_file(folder.path("out.safetensors")).unwrap();
    // From 32768 on there is no number.
    folder.tensors("in.safetensors", &[("a", Float::F16, &[1, 1, 2, 32], 512.0)]);
    let (out, overflown) = run("exact", "only.safetensors");
    assert_eq!(overflown.1, vec![f32::INFINITY; 64]);
    assert!(out.contains("64 overflows"), "{out}");
}

#[test]
fn the_seed_decides_random_inputs() {
    let folder = Folder::new();
    folder.put("product.mil", PRODUCT);
    let run = |args: &[&str]| {
        let out = folder.says(&[&["run", "product.mil"], args].concat());
        out.lines().find(|line| line.starts_with("y ")).unwrap().to_owned()
    };
    assert_eq!(run(&[]), run(&["--seed", "0"]));
    assert_ne!(run(&[]), run(&["--seed", "1"]));
    assert!(run(&["--size", "0"]).contains(" 0.000000  0.000000  0.000000  0.000000 "));
}

#[test]
fn constants_are_read_beside_the_text() {
    let folder = Folder::new();
    folder.put("sum/model.mil", WITH_WEIGHTS);
    let mut blob = mil::blob::BlobWriter::new();
    blob.write(mil::DType::Fp16, &[0x00, 0x3c].repeat(128));
    let blob = blob.finish();
    folder.put("sum/weights/w.bin", &blob);
    folder.says(&["run", "sum", "--size", "0", "--out", "out.safetensors"]);
    assert_eq!(values(&folder.path("out.safetensors"), "y").1, vec![1.0; 128]);
    // A truncated file, and none.
    folder.put("sum/weights/w.bin", &blob[..200]);
    let ran = folder.mil(&["check", "sum"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.err.contains("error[blob]: `w` in `main`") && ran.err.contains("it is truncated"),
        "{}",
        ran.err
    );
    fs::remove_file(folder.path("sum/weights/w.bin")).unwrap();
    let ran = folder.mil(&["check", "sum/model.mil"]);
    assert!(ran.code == 3 && ran.err.contains("\nnote: sum/weights/w.bin is not there; "), "{}", ran.err);
    assert!(folder.says(&["check", "sum", "--no-weights"]).contains(": ok for M4 Max"));
    let ran = folder.mil(&["run", "sum", "--no-weights"]);
    assert!(
        ran.code == 1 && ran.err.contains("`w` needs the file `@model_path/weights/w.bin`"),
        "{}",
        ran.err
    );
}

#[test]
fn work_is_counted_and_time_predicted() {
    let folder = Folder::new();
    folder.put("product.mil", PRODUCT.replace("1, 2, 32", "1, 256, 512").replace("32, 32", "512, 512"));
    let out = folder.says(&["cost", "product.mil"]);
    // 2 · 256 · 512 · 512 operations; (256 + 512) · 512 fp16 go in.
    let row = out.lines().nth(1).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!(cells, ["product.mil", "134.218", "134.218", "0.786", "0.262", "0.000", "1", "1"], "{out}");
    let chips = ane_bridge::Chip::ALL;
    let rows: Vec<_> =
        out.lines().filter(|line| chips.iter().any(|c| line.starts_with(&format!("{}  ", c.name)))).collect();
    assert_eq!(rows.len(), chips.len(), "{out}");
    // 95 µs of dispatch, 134 MFLOP at 8.9 TFLOPS, 1.05 MB at 200 GB/s, one after the other.
    let m4_max = rows.iter().find(|row| row.starts_with("M4 Max")).unwrap();
    assert!(m4_max.contains(" 115 ") && m4_max.ends_with("fitted to published runs"), "{m4_max}");
    // All programs of a model, on one chip.
    let out = folder.says(&[&["cost", "all", "--chip", "m4 pro"], &SMALL[..]].concat());
    assert!(out.contains("\nffn_bwd_w13 ") && out.contains("\nM4 Pro "), "{out}");
    // Rows of 20000 are for chips from M4 on.
    folder
        .put("wide.mil", PRODUCT.replace("32, 32]> b", "32, 20000]> b").replace("2, 32]> y", "2, 20000]> y"));
    let out = folder.says(&["cost", "wide.mil"]);
    assert!(
        out.contains("- not on M1, M1 Pro,")
            && out.contains("M3 Ultra: wide.mil:3:")
            && out.contains("error[extent]"),
        "{out}"
    );
    assert_eq!(folder.mil(&["cost", "wide.mil", "--chip", "m3"]).code, 3);
}

#[test]
fn bad_inputs_are_answered() {
    let folder = Folder::new();
    folder.put("product.mil", PRODUCT);
    folder.put("cut.mil", &PRODUCT[..PRODUCT.len() / 2]);
    folder.put("binary.mil", [b'p', 0xff, 0xfe]);
    folder.put("empty.mil", "");
    folder.put("out.mil", WITH_WEIGHTS.replace("@model_path/weights/w.bin", "@model_path/../w.bin"));
    folder.put("two.mil", PRODUCT.replace("\n}\n", "\n    func other<ios18>(tensor<fp16, [1, 1, 2, 32]> x) {\n        tensor<fp16, [1, 1, 2, 32]> z = relu(x = x)[name = string(\"z\")];\n    } -> (z);\n}\n"));
    folder.put("no.safetensors", "not tensors");
    folder.tensors(
        "in.safetensors",
        &[
            ("a", Float::F32, &[1, 1, 2, 32], 1.0),
            ("b", Float::F16, &[32, 32], 1.0),
            ("c", Float::F16, &[1], 1.0),
        ],
    );
    let cases: &[(&[&str], i32, &str)] = &[
        (&["check", "cut.mil"], 3, "error[E3090]: cut.mil:"),
        (
            &["check", "empty.mil"],
            3,
            "error[E3090]: empty.mil:1:1: the end of the text stands where `program` belongs",
        ),
        (&["check", "binary.mil"], 3, "error[E3090]: binary.mil: byte 1 is no UTF-8"),
        (
            &["check", "out.mil"],
            3,
            "error[E3090]: out.mil: BLOBFILE `@model_path/../w.bin` leads out of the folder",
        ),
        (&["check", "nothing.mil"], 1, "error: cannot read nothing.mil: No such file"),
        (
            &["check", "product.mil", "--chip", "M9"],
            2,
            "error: invalid value 'M9' for '--chip <CHIP>': wanted one of M1, ",
        ),
        (
            &["dump", "ffn_fwt"],
            2,
            "error: there is no program and no file `ffn_fwt`; did you mean `ffn_fwd`? `rustane mil dump` lists",
        ),
        (
            &["run", "sdpa_fw"],
            2,
            "error: there is no program and no file `sdpa_fw`; did you mean `sdpa_fwd`?",
        ),
        (&["dump", "all"], 2, "error: `all` are 10 programs; name a folder for them with --out"),
        (
            &["dump", "q_bwd", "--preset", "tinny"],
            2,
            "error: there is no preset `tinny`; did you mean `tiny`?",
        ),
        (
            &["dump", "q_bwd", "--set", "model.kv_heads=4"],
            2,
            "error: `model.kv_heads` is 4, wanted a divisor of `heads` = 6",
        ),
        (
            &["dump", "q_bwd", "--ffn-shards", "7"],
            2,
            "error: ffn_shards = 7 does not divide hidden = 512; use 4",
        ),
        (
            &["dump", "q_bwd", "--head-shards", "0"],
            2,
            "error: head_shards = 0 does not divide kv_heads = 3; use 1",
        ),
        (&["dump", "q_bwd", "--seq", "0"], 2, "error: `train.seq` is 0"),
        (
            &["dump", "q_bwd", "--seq", "100000"],
            2,
            "error: the probabilities of 2 heads at 100000 tokens take ",
        ),
        (&["run", "wo_fwd", "--set", "model.dim=70000"], 2, "error: `wo_fwd` would be 70"),
        (
            &["dump", "q_bwd", "--linear", "conf"],
            2,
            "error: invalid value 'conf' for '--linear <OP>': wanted matmul or conv",
        ),
        (
            &["run", "two.mil"],
            1,
            "error: `two.mil` has 2 functions; give the device one function per program",
        ),
        (
            &["run", "product.mil", "--input", "x"],
            2,
            "error: invalid value 'x' for '--input <NAME=FILE>': wanted NAME=FILE",
        ),
        (
            &["run", "product.mil", "--input", "q=in.safetensors"],
            2,
            "error: --input: there is no input `q`, the program has a, b",
        ),
        (&["run", "product.mil", "--input", "a=no.safetensors"], 3, "error[E3"),
        (&["run", "product.mil", "--input", "a=none.safetensors"], 1, "error: cannot "),
        (
            &["run", "product.mil", "--input", "a=in.safetensors"],
            3,
            "error[E3092]: in.safetensors: `a` is F32 [1, 1, 2, 32], but the input `a` takes F16 [1, 1, 2, 32]; save it so",
        ),
        (
            &["run", "product.mil", "--input", "b=in.safetensors"],
            3,
            "error[E3092]: in.safetensors: `b` is F16 [32, 32], but the input `b` takes F16 [1, 1, 32, 32]",
        ),
        (
            &["run", "product.mil", "--input", "a=in.safetensors", "--input", "a=in.safetensors"],
            2,
            "error: --input a is given twice",
        ),
        (
            &["run", "product.mil", "--out", "no/where.safetensors"],
            1,
            "error: cannot create no/where.safetensors",
        ),
        (&["run", "product.mil", "--size", "-1"], 2, "error: "),
    ];
    let mut wrong = Vec::new();
    for (args, code, begins) in cases {
        let ran = folder.mil(args);
        if ran.code != *code || !ran.err.starts_with(begins) {
            wrong.push(format!("{args:?} gave {}: {}", ran.code, ran.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
