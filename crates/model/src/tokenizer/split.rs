//! The rules that cut text into words before byte-pair encoding.
//!
//! A word never crosses a cut, so long texts can be encoded part by part, and equal words give equal
//! tokens. The three rules are those of widely read model families; llama.cpp knows each by the name
//! that [`SplitPattern::llama_cpp_name`] gives, and `tokenizer.json` by its regular expression.

use serde_json::{Value, json};

/// Longest text, in bytes, that is handed to the encoder at once.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// How text is cut into words. Sources: the published `tokenizer.json` of GPT-2, Llama 3 and Qwen2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SplitPattern {
    /// GPT-2: letters, digits, or other signs, each run with one leading space.
    Gpt2,
    /// Llama 3: as GPT-2, but digits in groups of at most three and line ends kept together.
    LlamaBpe,
    /// Qwen2: as Llama 3, but every digit alone.
    Qwen2,
}

const LLAMA_BPE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl SplitPattern {
    /// Every pattern.
    pub const ALL: [SplitPattern; 3] = [SplitPattern::Gpt2, SplitPattern::LlamaBpe, SplitPattern::Qwen2];

    /// The name under which llama.cpp knows it (`tokenizer.ggml.pre` in a GGUF file).
    pub fn llama_cpp_name(self) -> &'static str {
        match self {
            SplitPattern::Gpt2 => "gpt-2",
            SplitPattern::LlamaBpe => "llama-bpe",
            SplitPattern::Qwen2 => "qwen2",
        }
    }

    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn pre_tokenizer(self) -> Value {
        let byte_level = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
            })
        };
        let regex = match self {
            SplitPattern::Gpt2 => return byte_level(true),
            SplitPattern::LlamaBpe => LLAMA_BPE,
            SplitPattern::Qwen2 => QWEN2,
        };
        let split = json!({
            "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
        });
        json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]})
    }

    /// The pattern that a `pre_tokenizer` object writes down, if it is one of ours.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<SplitPattern> {
        let plain = |v: &Value, use_regex: bool| {
            v["type"] == "ByteLevel"
                && v["add_prefix_space"] == false
                && v["use_regex"].as_bool().unwrap_or(true) == use_regex
        };
        if plain(pre_tokenizer, true) {
            return Some(SplitPattern::Gpt2);
        }
        let parts = pre_tokenizer["pretokenizers"].as_array()?;
        let [split, byte_level] = parts.as_slice() else { return None };
        let isolated = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] != true;
        if !isolated || !plain(byte_level, false) {
            return None;
        }
        match split["pattern"]["Regex"].as_str()? {
            LLAMA_BPE => Some(SplitPattern::LlamaBpe),
            QWEN2 => Some(SplitPattern::Qwen2),
            _ => None,
        }
    }

    /// End of the first word of `text`, which is ASCII and not empty.
    ///
    /// Equal to the first match of the regular expression: on ASCII a letter is `[A-Za-z]`, a number
    /// `[0-9]`, and white space tab to carriage return and the space.
    pub(super) fn ascii_word(self, text: &[u8]) -> usize {
        match self {
            SplitPattern::Gpt2 => gpt2_word(text),
            SplitPattern::LlamaBpe => llama_word(text, 3),
            SplitPattern::Qwen2 => llama_word(text, 1),
        }
    }
}

fn is_space(b: u8) -> bool {
    matches!(b, b'\t'..=b'\r' | b' ')
}

fn is_other(b: u8) -> bool {
    !is_space(b) && !b.is_ascii_alphanumeric()
}

fn run(text: &[u8], from: usize, is: impl Fn(u8) -> bool) -> usize {
    from + text[from..].iter().take_while(|b| is(**b)).count()
}

fn contraction(text: &[u8], fold: bool) -> Option<usize> {
    if text[0] != b'\'' {
        return None;
    }
    let at = |i: usize| text.get(i).map(|b| if fold { b.to_ascii_lowercase() } else { *b });
    match (at(1)?, at(2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(3),
        _ => None,
    }
}

/// A run of white space gives its last character to the word behind it.
fn space_run(text: &[u8]) -> usize {
    let end = run(text, 0, is_space);
    if end == text.len() || end == 1 { end } else { end - 1 }
}

fn gpt2_word(text: &[u8]) -> usize {
    if let Some(end) = contraction(text, false) {
        return end;
    }
    let start = usize::from(text[0] == b' ');
    match text.get(start) {
        Some(b) if b.is_ascii_alphabetic() => run(text, start, |b| b.is_ascii_alphabetic()),
        Some(b) if b.is_ascii_digit() => run(text, start, |b| b.is_ascii_digit()),
        Some(b) if is_other(*b) => run(text, start, is_other),
        _ => space_run(text),
    }
}

fn llama_word(text: &[u8], digits: usize) -> usize {
    if let Some(end) = contraction(text, true) {
        return end;
    }
    let first = text[0];
    let letter = |b: u8| b.is_ascii_alphabetic();
    if letter(first) {
        return run(text, 0, letter);
    }
    let leads = !first.is_ascii_digit() && first != b'\r' && first != b'\n';
    if leads && text.get(1).is_some_and(|b| letter(*b)) {
        return run(text, 1, letter);
    }
    if first.is_ascii_digit() {
        return run(&text[..digits.min(text.len())], 0, |b| b.is_ascii_digit());
    }
    let start = usize::from(first == b' ');
    if text.get(start).is_some_and(|b| is_other(*b)) {
        let end = run(text, start, is_other);
        return run(text, end, |b| b == b'\r' || b == b'\n');
    }
    let spaces = &text[..run(text, 0, is_space)];
    match spaces.iter().rposition(|b| *b == b'\r' || *b == b'\n') {
        Some(last) => last + 1,
        None => space_run(text),
    }
}

/// Whether all three patterns begin a word at `at`, whatever stands around: a single space between
/// a sign and a letter, or the first letter of a line.
pub(super) fn is_seam(text: &[u8], at: usize) -> bool {
    let sign = |i: usize| text[i].is_ascii_graphic();
    match text.get(at) {
        Some(b' ') => at >= 1 && sign(at - 1) && text.get(at + 1).is_some_and(|b| b.is_ascii_alphabetic()),
        Some(b) if b.is_ascii_alphabetic() => at >= 2 && text[at - 1] == b'\n' && sign(at - 2),
        _ => false,
    }
}

/// Where to cut `text` so that the part before it has at most `max_bytes` bytes: the last place in
/// the second half of these where every [`SplitPattern`] begins a word; else behind the last white
/// space; else behind the last whole character. Never 0 unless `text` is empty.
///
/// Tokens of the two parts are the tokens of the whole in the first case, which is the rule in
/// running text; the other two keep memory and time bounded on anything else.
pub fn cut(text: &str, max_bytes: usize) -> usize {
    if text.len() <= max_bytes {
        return text.len();
    }
    let bytes = text.as_bytes();
    let max = text.floor_char_boundary(max_bytes);
    let Some(first_char) = text.chars().next() else { return 0 };
    let least = (max_bytes / 2).max(1);
    let seam = (least..=max).rev().find(|&at| is_seam(bytes, at));
    let space = || (least..=max).rev().find(|&at| is_space(bytes[at - 1]) && !is_space(bytes[at]));
    seam.or_else(space).unwrap_or(max.max(first_char.len_utf8()))
}
