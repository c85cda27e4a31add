//! Weight files against those that Apple's writer made (`tests/interop/mil_blob.py`).

use std::fs;
use std::path::PathBuf;

use half::f16;
use mil::DType;
use mil::blob::{BlobWriter, read, records};

fn golden(name: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/golden/mil");
    fs::read(dir.join(name)).unwrap()
}

fn fp16(count: usize) -> Vec<f16> {
    (0..count).map(|i| f16::from_f32(i as f32 / 8.0 - 4.0)).collect()
}

#[test]
fn one_tensor_has_the_bytes_of_apples_writer() {
    let mut blob = BlobWriter::new();
    assert_eq!(blob.write_fp16(&fp16(64)), 64);
    assert_eq!(blob.finish(), golden("blob_one.bin"));
}

#[test]
fn many_tensors_have_the_bytes_of_apples_writer() {
    let mut blob = BlobWriter::new();
    let floats: Vec<u8> = [1.5f32, -2.25].iter().flat_map(|x| x.to_le_bytes()).collect();
    let ints: Vec<u8> = [-7i32, 1 << 30].iter().flat_map(|x| x.to_le_bytes()).collect();
    let offsets = [
        blob.write_fp16(&fp16(5)),
        blob.write(DType::Fp32, &floats),
        blob.write(DType::Int8, &[0x80, 0x7f, 3]),
        blob.write(DType::UInt8, &[0, 255]),
        blob.write(DType::Int32, &ints),
    ];
    assert_eq!(offsets, [64, 192, 320, 448, 576]);
    assert_eq!(blob.finish(), golden("blob_many.bin"));
}

#[test]
fn reads_what_apples_writer_wrote() {
    let file = golden("blob_many.bin");
    let found: Vec<_> = records(&file).unwrap().iter().map(|r| (r.offset, r.dtype, r.elements())).collect();
    let wanted = [
        (64, DType::Fp16, 5),
        (192, DType::Fp32, 2),
        (320, DType::Int8, 3),
        (448, DType::UInt8, 2),
        (576, DType::Int32, 2),
    ];
    assert_eq!(found, wanted);
    let bytes: Vec<u8> = fp16(5).iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(read(&file, 64).unwrap().data, bytes);
}

#[test]
fn damaged_files_are_errors() {
    let file = golden("blob_many.bin");
    let mut seed = 1u64;
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut damaged = file.clone();
        for turn in 0..3 {
            let at = (seed >> (20 + turn)) as usize % damaged.len();
            damaged[at] = (seed >> (40 + turn)) as u8;
        }
        damaged.truncate((seed >> 8) as usize % (file.len() + 1));
        // Any answer will do, as long as there is one and it stays inside the file.
        if let Ok(records) = records(&damaged) {
            assert!(records.iter().map(|r| r.data.len()).sum::<usize>() <= damaged.len());
        }
    }
}
