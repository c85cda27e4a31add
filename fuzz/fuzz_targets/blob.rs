//! Any bytes are a weight file or refused; every record lies inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mil::blob;

fuzz_target!(|file: &[u8]| {
    let Ok(records) = blob::records(file) else { return };
    for record in records {
        assert_eq!(blob::read(file, record.offset).as_ref(), Ok(&record));
        assert!(record.data.len() < file.len() && record.elements() <= record.data.len() * 2);
    }
});
