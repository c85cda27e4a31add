//! How vocabularies write bytes as printable text.

use std::collections::HashMap;

/// The printable character that stands for a byte in byte-level vocabularies. Source: GPT-2's
/// encoder; bytes that print as Latin-1 stand for themselves, the others for U+0100 and up.
pub(super) fn byte_char(byte: u8) -> char {
    let code = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
        0..=b' ' => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x100 + 33 + u32::from(byte - 0x7F),
        0xAD => 0x100 + 67,
    };
    char::from_u32(code).expect("below U+0200 every code is a character")
}

pub(super) fn byte_chars() -> [char; 256] {
    std::array::from_fn(|b| byte_char(b as u8))
}

pub(super) fn byte_alphabet() -> HashMap<char, u8> {
    (0..=255).map(|b| (byte_char(b), b)).collect()
}

/// Text of a SentencePiece token: `<0xAB>` is a byte and `▁` a space.
pub(super) fn sentence_piece_bytes(name: &str) -> Vec<u8> {
    let byte = name.strip_prefix("<0x").and_then(|n| n.strip_suffix('>')).filter(|n| n.len() == 2);
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => name.replace('▁', " ").into_bytes(),
    }
}
