//! The house rules that a machine can check: who may use whom, and who may do what.

use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("mil", &[]),
    ("model", &[]),
    ("hub", &[]),
    ("ane-bridge", &["mil", "fake-ane"]),
    ("fake-ane", &["mil"]),
    ("backend", &["model"]),
    ("backend-cpu", &["backend", "model"]),
    ("backend-cuda", &["backend", "model"]),
    ("metal-decode", &["backend", "model"]),
    ("backend-ane", &["backend", "model", "backend-cpu", "ane-bridge", "mil", "fake-ane"]),
    ("engine", &["backend", "model"]),
    ("bench", &["engine", "backend", "model", "ane-bridge", "mil"]),
    ("server", &["engine", "model"]),
];
/// The crate that may use all others, and print, read the environment and exit.
const TOP: &str = "rustane";
/// Crates that talk to hardware, or stand for it in tests, and need unsafe code for that.
const UNSAFE: [&str; 4] = ["ane-bridge", "backend-cpu", "backend-cuda", "fake-ane"];
/// Crates that deny unsafe code but for one file: wgpu trusts a kernel only through an unsafe call.
const UNSAFE_FILE: [(&str, &str); 1] = [("metal-decode", "src/trusted.rs")];
/// Files that differ by operating system: all of `ane-bridge`, and these.
const BY_SYSTEM: [&str; 5] = [
    "crates/ane-bridge/",
    "crates/backend-cpu/src/gemm/accelerate.rs",
    "crates/backend-cpu/src/kernels/accelerate.rs",
    // Linux wants to be asked before it keeps the tiles of a process.
    "crates/backend-cpu/src/gemm/amx.rs",
    // Advice about huge pages, which Linux alone takes.
    "crates/backend-cpu/src/memory.rs",
];

struct Crate {
    name: String,
    dir: PathBuf,
    manifest: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn crates() -> Vec<Crate> {
    let mut crates = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let dir = entry.unwrap().path();
        let Ok(manifest) = fs::read_to_string(dir.join("Cargo.toml")) else { continue };
        let table: toml::Table = manifest.parse().unwrap();
        crates.push(Crate { name: table["package"]["name"].as_str().unwrap().to_owned(), dir, manifest });
    }
    assert!(crates.len() >= 7, "only {} crates were found", crates.len());
    crates
}

/// Our crates that a manifest names, in every table of dependencies.
fn uses(manifest: &str) -> Vec<String> {
    fn walk(table: &toml::Table, found: &mut Vec<String>) {
        for (key, value) in table {
            let toml::Value::Table(inner) = value else { continue };
            if !key.ends_with("dependencies") {
                walk(inner, found);
                continue;
            }
            for (name, how) in inner {
                let name = how.get("package").and_then(toml::Value::as_str).unwrap_or(name);
                if name == TOP || ARROWS.iter().any(|(ours, _)| *ours == name) {
                    found.push(name.to_owned());
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(&manifest.parse().unwrap(), &mut found);
    found
}

/// Why a crate may not use what it uses.
fn wrong_arrows(name: &str, manifest: &str) -> Vec<String> {
    if name == TOP {
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(ours, _)| *ours == name) else {
        return vec![format!("`{name}` is not in the table of arrows")];
    };
    let wrong = uses(manifest).into_iter().filter(|used| !allowed.contains(&used.as_str()));
    wrong.map(|used| format!("`{name}` uses `{used}`, which the table of arrows does not allow")).collect()
}

/// Rust files below a folder.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Lines of code, without comments and without the tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
    lines.map(|(i, line)| (i + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn forbidden_calls(text: &str) -> Vec<(usize, &'static str)> {
    const CALLS: [&str; 6] =
        ["println!", "print!(", "env::var", "env::set_var", "process::exit", "process::abort"];
    let found = |(number, line): (usize, &str)| {
        CALLS.iter().filter(|call| line.contains(**call)).map(|call| (number, *call)).collect::<Vec<_>>()
    };
    code(text).flat_map(found).collect()
}

fn forbids_unsafe(text: &str) -> bool {
    code(text).any(|(_, line)| line == "#![forbid(unsafe_code)]")
}

#[test]
fn crates_use_only_those_below_them() {
    let wrong: Vec<String> = crates().iter().flat_map(|c| wrong_arrows(&c.name, &c.manifest)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_forbidden_where_no_hardware_is() {
    for Crate { name, dir, .. } in crates() {
        let wraps_maps = name == "model" && dir.join("src/mmap.rs").exists();
        let one_file = UNSAFE_FILE.iter().any(|(ours, _)| *ours == name);
        if UNSAFE.contains(&name.as_str()) || one_file || wraps_maps {
            continue;
        }
        let roots = ["src/lib.rs", "src/main.rs"].map(|file| dir.join(file));
        let mut seen = 0;
        for root in roots.iter().filter(|root| root.exists()) {
            let text = fs::read_to_string(root).unwrap();
            assert!(forbids_unsafe(&text), "{} lacks #![forbid(unsafe_code)]", root.display());
            seen += 1;
        }
        assert!(seen > 0, "`{name}` has neither lib.rs nor main.rs");
    }
}

#[test]
fn unsafe_code_stays_in_the_one_file_that_may_have_it() {
    for Crate { name, dir, .. } in crates() {
        let Some((_, file)) = UNSAFE_FILE.iter().find(|(ours, _)| *ours == name) else { continue };
        let root = fs::read_to_string(dir.join("src/lib.rs")).unwrap();
        assert!(code(&root).any(|(_, line)| line == "#![deny(unsafe_code)]"), "`{name}` does not deny it");
        for path in sources(&dir.join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            let allows = code(&text).any(|(_, line)| line.contains("allow(unsafe_code)"));
            assert_eq!(allows, path.ends_with(file), "{}", path.display());
        }
    }
}

#[test]
fn systems_differ_in_few_places() {
    let root = root();
    for Crate { dir, .. } in crates() {
        for path in sources(&dir) {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
            // This file says the word.
            if name.ends_with("tests/arrows.rs") || BY_SYSTEM.iter().any(|allowed| name.starts_with(allowed))
            {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let line = code(&text).find(|(_, line)| line.contains("target_os"));
            assert!(line.is_none(), "{name}:{}: `target_os` is not allowed here", line.unwrap().0);
        }
    }
}

#[test]
fn only_the_top_prints_reads_the_environment_and_exits() {
    for Crate { name, dir, .. } in crates() {
        if name == TOP {
            continue;
        }
        for path in sources(&dir.join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            let calls = forbidden_calls(&text);
            assert!(calls.is_empty(), "{}: {calls:?} (line, call)", path.display());
        }
    }
}

#[test]
fn the_checks_see_what_they_look_for() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\nengine.workspace = true\nserde = \"1\"\n\
                    [target.'cfg(unix)'.dev-dependencies]\nsome = { package = \"hub\", path = \"..\" }\n";
    assert_eq!(uses(manifest), ["engine", "hub"]);
    assert_eq!(
        wrong_arrows("bench", manifest),
        ["`bench` uses `hub`, which the table of arrows does not allow"]
    );
    assert_eq!(wrong_arrows("x", manifest), ["`x` is not in the table of arrows"]);
    let text = "fn f() {\n    // println!()\n    eprintln!();\n    std::process::exit(1);\n}\n\n\
                #[cfg(test)]\nmod tests { println!() }\n";
    assert_eq!(forbidden_calls(text), [(3, "println!"), (4, "process::exit")]);
    assert!(forbids_unsafe("//! x\n#![forbid(unsafe_code)]\n"));
    assert!(!forbids_unsafe("// #![forbid(unsafe_code)]\n"));
}
