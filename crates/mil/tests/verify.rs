//! File tests of the rules: `tests/verify/<rule>.mil` breaks its rule, and says where.
//!
//! ```text
//! // target: M1 compiled=100 loaded=0      chip and process (default: M4, fresh)
//! // surface: x 128                        bytes of the surface that will be bound to `x`
//! // blob: path int8 4                     a weight file with one tensor of so many elements
//! …;  // error: rule                       this rule is broken on this line; `warning:` alike
//! ```
//!
//! Warnings that a file does not name are not compared; errors all are.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use mil::blob::BlobWriter;
use mil::verify::{Family, RULES, Severity};
use mil::{DType, Target, Weights, parse, verify};

fn files() -> Vec<(String, String)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/verify");
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn target(text: &str) -> Target {
    let mut target = Target::default();
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("// target: ") {
            for word in words.split_whitespace() {
                match word.split_once('=') {
                    Some(("compiled", n)) => target.compiled = n.parse().unwrap(),
                    Some(("loaded", n)) => target.loaded = n.parse().unwrap(),
                    _ => target.family = Family::of_chip(word).unwrap(),
                }
            }
        }
        if let Some((name, bytes)) = line.strip_prefix("// surface: ").and_then(|l| l.split_once(' ')) {
            target.surfaces.insert(name.to_string(), bytes.parse().unwrap());
        }
    }
    target
}

fn weights(text: &str) -> Option<Weights> {
    let mut weights = None;
    for line in text.lines().filter_map(|l| l.strip_prefix("// blob: ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let dtype = DType::from_name(words[1]).unwrap();
        let mut blob = BlobWriter::new();
        blob.write(dtype, &vec![0; words[2].parse::<usize>().unwrap() * dtype.bits() / 8]);
        weights.get_or_insert_with(Weights::new).insert(words[0], blob.finish());
    }
    weights
}

#[test]
fn files_break_the_rules_they_name() {
    for (name, text) in files() {
        let mut expected = BTreeSet::new();
        for (i, line) in text.lines().enumerate() {
            for (severity, mark) in [("error", "// error: "), ("warning", "// warning: ")] {
                if let Some((_, rules)) = line.split_once(mark) {
                    expected.extend(rules.split(", ").map(|r| (i as u32 + 1, severity, r.to_string())));
                }
            }
        }
        let mut program = parse(&text).unwrap_or_else(|e| panic!("{name}.mil:{e}"));
        program.weights = weights(&text);
        let diagnostics = match verify(program, &target(&text)) {
            Ok(verified) => verified.warnings().to_vec(),
            Err(diagnostics) => diagnostics,
        };
        let found: BTreeSet<_> = diagnostics
            .iter()
            .map(|d| {
                assert!(!d.message.is_empty() && !d.fix.is_empty());
                let severity = if d.severity == Severity::Error { "error" } else { "warning" };
                (d.pos.line.max(1), severity, d.rule.to_string())
            })
            .filter(|d| d.1 == "error" || expected.contains(d))
            .collect();
        assert_eq!(found, expected, "{name}.mil: {diagnostics:#?}");
    }
}

#[test]
fn every_rule_has_a_file_that_breaks_it() {
    let files = files();
    for rule in RULES {
        let broken = files.iter().any(|(name, text)| {
            name == rule.id
                && (text.contains(&format!("error: {}", rule.id))
                    || text.contains(&format!("warning: {}", rule.id)))
        });
        assert!(broken, "tests/verify/{}.mil does not break its rule", rule.id);
    }
}

#[test]
fn the_manual_lists_every_rule() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ane-rules.md");
    let text = fs::read_to_string(manual).unwrap();
    let rules = text.split("## Disagreements").next().unwrap();
    let listed: Vec<&str> = rules.lines().filter(|l| l.starts_with("| `")).collect();
    let rows: Vec<String> = RULES
        .iter()
        .map(|r| {
            format!("| `{}` | {} | {:?} | {:?} | {} |", r.id, r.says, r.severity, r.evidence, r.source)
                .to_lowercase()
        })
        .collect();
    // What Macs answered stands behind the evidence; `rustane ane lab merge` writes it.
    let bare = |line: &&str| {
        let cells = line.split(" | ").enumerate();
        let bare =
            cells.map(|(i, cell)| if i == 3 { cell.split("; ").next().unwrap_or_default() } else { cell });
        bare.collect::<Vec<_>>().join(" | ").to_lowercase()
    };
    let listed: Vec<String> = listed.iter().map(bare).collect();
    assert_eq!(listed, rows, "docs/ane-rules.md and RULES differ");
}

#[test]
fn all_violations_are_reported_at_once() {
    let text = "program(1.3) { func main<ios18>(tensor<fp16, [1, 4, 1, 5]> x) {
        tensor<fp16, [1, 4, 1, 5]> b = rsqrt(x = x);
        tensor<fp16, [1, 4, 1, 6]> a = relu(x = x);
    } -> (b, a); }";
    let rules: BTreeSet<&str> =
        verify(parse(text).unwrap(), &Target::default()).unwrap_err().iter().map(|d| d.rule).collect();
    assert_eq!(rules, BTreeSet::from(["epsilon", "io-order", "pitch", "type"]));
}
