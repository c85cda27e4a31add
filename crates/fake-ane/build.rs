//! Makes the run-time libraries of GNUstep linkable, and the class symbols that objc2 refers to; compiles
//! the catching of exceptions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Classes of which objc2-foundation takes the address. GCC's ABI exports no such symbols: these are
/// placeholders, and `runtime/classes.rs` puts the runtime's classes in their place.
const CLASSES: [&str; 24] = [
    "NSArray",
    "NSAttributedString",
    "NSAutoreleasePool",
    "NSBundle",
    "NSCharacterSet",
    "NSCoder",
    "NSCountedSet",
    "NSData",
    "NSDate",
    "NSDictionary",
    "NSEnumerator",
    "NSError",
    "NSException",
    "NSMutableArray",
    "NSMutableData",
    "NSMutableDictionary",
    "NSMutableString",
    "NSNull",
    "NSNumber",
    "NSObject",
    "NSProxy",
    "NSString",
    "NSURL",
    "NSValue",
];

/// Debian ships these without the links that a linker looks for: they belong to the -dev packages,
/// which need a whole Objective-C compiler.
const LIBRARIES: [&str; 2] = ["libobjc.so", "libgnustep-base.so"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_GNUSTEP").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in LIBRARIES {
        match installed(name) {
            Some(library) => {
                let link = out.join(name);
                let _ = fs::remove_file(&link);
                std::os::unix::fs::symlink(library, link).expect("OUT_DIR can be written");
            }
            None => println!("cargo:warning={name} is not installed; `tests/need gnustep` installs it"),
        }
    }
    let source = out.join("classes.c");
    let lines: String = CLASSES.iter().map(|class| format!("char _OBJC_CLASS_{class}[8];\n")).collect();
    fs::write(&source, lines).expect("OUT_DIR can be written");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([out.join("libobjc_class_symbols.so"), source])
        .status();
    assert!(compiled.is_ok_and(|status| status.success()), "`cc` did not compile the class symbols");
    catching(&out);
    println!("cargo:rustc-link-search=native={}", out.display());
}

/// Makes the library of `catch.m`, with GCC: its runtime is the one that runs.
fn catching(out: &Path) {
    const SOURCE: &str = "src/runtime/catch.m";
    println!("cargo:rerun-if-changed={SOURCE}");
    let object = out.join("catch.o");
    let compiled = Command::new("gcc")
        .args(["-c", "-O1", "-fPIC", "-fexceptions", "-fobjc-exceptions", SOURCE, "-o"])
        .arg(&object)
        .status();
    // Lints need no library; linking names it.
    if !compiled.is_ok_and(|status| status.success()) {
        println!(
            "cargo:warning=`gcc` did not compile {SOURCE}; `tests/need gnustep` installs its Objective-C compiler"
        );
        return;
    }
    let library = out.join("libfake_ane_catch.a");
    let _ = fs::remove_file(&library);
    let made = Command::new("ar").arg("crs").args([library, object]).status();
    assert!(made.is_ok_and(|status| status.success()), "`ar` made no library of {SOURCE}");
}

/// The newest library whose name begins with `name` and a dot.
fn installed(name: &str) -> Option<PathBuf> {
    let arch = format!("/usr/lib/{}-linux-gnu", env::var("CARGO_CFG_TARGET_ARCH").ok()?);
    let files =
        [Path::new("/usr/lib"), Path::new(&arch)].into_iter().filter_map(|dir| fs::read_dir(dir).ok());
    let paths = files.flatten().flatten().map(|entry| entry.path());
    let of_name = |path: &PathBuf| {
        path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}.")))
    };
    paths.filter(of_name).max()
}
