//! A framework that is not the one of our notes is refused before anything is sent to it.

#![cfg(feature = "gnustep")]

use ane_bridge::AppleAne;
use ane_bridge::apple::table::{self, check};
use ane_bridge::apple::{self, Mismatch, OpenError, Settings};

#[test]
fn other_types_missing_methods_and_missing_classes_are_told_apart() {
    fake_ane::install_changed();
    assert_eq!(
        check(&table::COMPILE.row).unwrap_err(),
        Mismatch::Encoding {
            method: "-[_ANEInMemoryModel compileWithQoS:options:error:]".into(),
            found: "B@:Q@^@".into(),
            wanted: "B@:I@^@",
        }
    );
    let missing = check(&table::UNLOAD.row).unwrap_err();
    assert_eq!(missing, Mismatch::Selector { method: "-[_ANEInMemoryModel unloadWithQoS:error:]".into() });
    assert_eq!(check(&table::WRAP.row).unwrap_err(), Mismatch::Class { class: "_ANEIOSurfaceObject" });
    check(&table::MODEL.row).unwrap();

    // Any library that is there: the classes are in this program.
    let settings = Settings { framework: "libobjc.so.4".into(), ..Settings::default() };
    let error = AppleAne::open(settings.clone()).unwrap_err();
    let OpenError::Table { count, all, first } = &error else { panic!("{error}") };
    let known = table::ROWS.iter().filter(|row| check(row).is_ok()).count();
    assert_eq!((known, *count), (1, all - 1), "{error}");
    assert_eq!(*first, Mismatch::Class { class: "_ANEInMemoryModelDescriptor" });

    let probe = apple::probe(&settings);
    assert_eq!(probe.route, None);
    let calls = probe.findings.last().unwrap();
    assert!(!calls.ok && calls.found.contains("has the types `B@:Q@^@`, not `B@:I@^@`"), "{probe}");
}
