//! Any text is read or refused; what was read prints to itself again and is verified without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mil::verify::Family;
use mil::{Target, parse, verify};

fuzz_target!(|text: &str| {
    let Ok(program) = parse(text) else { return };
    assert_eq!(parse(&program.to_string()).as_ref(), Ok(&program));
    for function in &program.functions {
        mil::cost(function);
    }
    for family in Family::ALL {
        let _ = verify(program.clone(), &Target::new(family));
    }
});
