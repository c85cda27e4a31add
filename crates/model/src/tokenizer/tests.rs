use proptest::prelude::*;

use super::*;

const TEXT: &str = "The cat sat on the mat. The dog didn't sit; it ran!\n\nIn 2024, 12345 cats ran  \
    and ran.\n  \"We'll go,\" they said. DON'T\r\n\tStop.\n";

fn trained(split: SplitPattern) -> Tokenizer {
    Tokenizer::train(std::iter::repeat_n(TEXT, 5), 400, split).unwrap()
}

fn code_of(json: &[u8]) -> (&'static str, String) {
    let error = Tokenizer::from_bytes(json).unwrap_err();
    (error.code(), error.to_string())
}

#[test]
fn training_is_deterministic_and_survives_its_file() {
    for split in SplitPattern::ALL {
        let (a, b) = (trained(split), trained(split));
        assert_eq!(a.json(), b.json());
        assert_eq!(a.split_pattern(), Some(split));
        let read = Tokenizer::from_bytes(a.json()).unwrap();
        assert_eq!(read.hash(), a.hash());
        assert_eq!(read.encode(TEXT).unwrap(), a.encode(TEXT).unwrap());
        assert!(a.encode(TEXT).unwrap().len() < TEXT.len() / 2);
    }
    assert_ne!(trained(SplitPattern::Gpt2).hash(), trained(SplitPattern::Qwen2).hash());
}

#[test]
fn vocabulary_begins_with_specials_and_bytes() {
    let t = trained(SplitPattern::LlamaBpe);
    assert_eq!(t.eos(), Some(TokenId(0)));
    assert_eq!((t.token(IM_START), t.token(IM_END)), (Some(TokenId(1)), Some(TokenId(2))));
    assert!((259..=400).contains(&t.vocab()));
    let bytes: u32 = t.byte_lens()[3..259].iter().sum();
    assert_eq!(bytes, 256);
    assert_eq!(t.byte_len(TokenId(0)), 0);
    assert_eq!(t.byte_len(TokenId(u32::MAX)), 0);
}

#[test]
fn hash_ignores_formatting_only() {
    let t = trained(SplitPattern::Gpt2);
    let value: Value = serde_json::from_slice(t.json()).unwrap();
    let compact = Tokenizer::from_bytes(value.to_string().as_bytes()).unwrap();
    assert_eq!(compact.hash(), t.hash());
    let mut other = value;
    other["added_tokens"][0]["lstrip"] = true.into();
    assert_ne!(Tokenizer::from_bytes(other.to_string().as_bytes()).unwrap().hash(), t.hash());
}

#[test]
fn special_names_in_data_stay_text() {
    let t = trained(SplitPattern::Qwen2);
    let text = "a<|endoftext|>b<|im_start|>";
    let plain = t.encode(text).unwrap();
    assert!(plain.iter().all(|id| !t.is_special(*id)));
    assert_eq!(t.decode(&plain), text);
    let with = t.encode_with_specials(text).unwrap();
    assert_eq!(with.iter().filter(|id| t.is_special(**id)).count(), 2);
    assert_eq!((with[1], *with.last().unwrap()), (TokenId(0), TokenId(1)));
    assert_eq!(t.decode(&with), "ab");
}

#[test]
fn long_runs_are_quick_and_whole() {
    let t = trained(SplitPattern::LlamaBpe);
    for unit in ["_", " ", "a", "\n", "9", "日", "é "] {
        let text = unit.repeat((1 << 20) / unit.len());
        let start = std::time::Instant::now();
        let tokens = t.encode(&text).unwrap();
        assert!(start.elapsed().as_secs() < 5, "1 MiB of {unit:?} took {:?}", start.elapsed());
        assert_eq!(t.decode(&tokens), text);
    }
}

#[test]
fn cutting_keeps_the_tokens_of_running_text() {
    let sentence = "The cat sat on the mat, and \"the dog\" didn't run.\nIn 2024 it did. ";
    let text = sentence.repeat(3 * split::PIECE_BYTES / sentence.len());
    for split in SplitPattern::ALL {
        let t = trained(split);
        let whole = t.inner.encode_fast(text.as_str(), false).unwrap();
        let whole: Vec<TokenId> = whole.get_ids().iter().map(|id| TokenId(*id)).collect();
        assert_eq!(t.encode(&text).unwrap(), whole);
    }
    assert_eq!(cut("日本", 1), 3);
    assert_eq!(cut("日本", 4), 3);
    assert_eq!(cut("ab cd", 3), 2);
    assert_eq!(cut("", 3), 0);
}

#[test]
fn stream_never_splits_a_character() {
    let t = trained(SplitPattern::LlamaBpe);
    let text = "naïve 日本 🦀!";
    let mut stream = t.stream();
    let mut shown = String::new();
    for token in t.encode(text).unwrap() {
        let part = stream.push(token);
        assert!(!part.contains('\u{FFFD}'));
        shown.push_str(&part);
    }
    assert_eq!(shown + &stream.finish(), text);

    let crab = t.encode("🦀").unwrap();
    let mut stream = t.stream();
    assert_eq!(stream.push(crab[0]), "");
    assert_eq!(stream.push(t.encode("a").unwrap()[0]), "\u{FFFD}a");
    stream.push(crab[0]);
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn reads_other_kinds_of_vocabulary() {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 0, "content": "</s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": null, "fuse_unk": false,
            "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "vocab": {"</s>": 0, "a": 1, "▁": 2, "▁a": 3, "<0xC3>": 4, "<0xA9>": 5}, "merges": ["▁ a"]},
    });
    let t = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
    assert_eq!((t.eos(), t.split_pattern()), (Some(TokenId(0)), None));
    let tokens = t.encode("a aé").unwrap();
    assert_eq!(tokens, [1, 3, 4, 5].map(TokenId));
    assert_eq!(t.byte_lens(), [0, 1, 1, 2, 1, 1]);
    let mut stream = t.stream();
    let parts: Vec<String> = tokens.iter().map(|id| stream.push(*id)).collect();
    assert_eq!(parts, ["a", " a", "", "é"]);
    assert_eq!(stream.finish(), "");
}

#[test]
fn config_names_class_and_tokens() {
    let config: Value = serde_json::from_str(&trained(SplitPattern::Gpt2).config_json(512)).unwrap();
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(config["eos_token"], END_OF_TEXT);
    assert_eq!(config["model_max_length"], 512);
    assert!(config["chat_template"].as_str().unwrap().contains(IM_START));
}

#[test]
fn refuses_broken_files() {
    let good: Value = serde_json::from_slice(trained(SplitPattern::Gpt2).json()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        code_of(value.to_string().as_bytes())
    };
    let deep = "[".repeat(100_000);
    for bad in [b"".as_slice(), b"{", b"[]", b"\xff\xfe", b"{\"model\": 3}", deep.as_bytes()] {
        let (code, text) = code_of(bad);
        assert_eq!(code, "E3020");
        assert!(text.starts_with("not a tokenizer.json: "), "{text}");
    }
    let (code, text) = with(&|v| v["model"]["vocab"]["zzz"] = 4_000_000_000u64.into());
    assert_eq!(code, "E3020");
    assert!(text.starts_with("token `zzz` has id 4000000000, wanted less than "), "{text}");
    let (_, text) = with(&|v| v["added_tokens"][1]["id"] = u64::MAX.into());
    assert!(text.starts_with("token `<|im_start|>` has id "), "{text}");
    let (_, text) = with(&|v| v["model"]["vocab"]["zzz"] = 5.into());
    assert!(text.contains("share id 5"), "{text}");
    let (_, text) = with(&|v| v["model"]["vocab"]["zzz"] = (-1).into());
    assert!(text.contains("`zzz` is -1, not a number"), "{text}");
    // Merges of tokens that do not exist, and of one with itself into nothing.
    for merge in ["qq zz", "a", "a a a", ""] {
        let (code, _) = with(&|v| v["model"]["merges"] = json!([merge]));
        assert_eq!(code, "E3020", "{merge:?}");
    }
    let missing = Tokenizer::from_bytes(good.to_string().as_bytes()).unwrap().with_eos("<nope>").unwrap_err();
    assert_eq!(missing.to_string(), "the tokenizer has no token `<nope>`");
    let small = Tokenizer::train([""], 100, SplitPattern::Gpt2).unwrap_err();
    assert_eq!(
        small.to_string(),
        "a vocabulary of 100 is too small, wanted at least 259: 256 bytes and 3 special tokens"
    );
}

proptest! {
    #[test]
    fn words_by_hand_are_the_words_of_the_file(
        text in r"([ -~]{0,6}|[ \t\r\n]{1,4}|[a-z' ]{0,9}|[0-9 ]{0,5}|\PC{0,3}|日|\u{a0}|é){0,12}",
    ) {
        for split in SplitPattern::ALL {
            let t = trained_once(split);
            let whole = t.inner.encode_fast(text.as_str(), false).unwrap();
            let whole: Vec<TokenId> = whole.get_ids().iter().map(|id| TokenId(*id)).collect();
            let ours = t.encode(&text).unwrap();
            prop_assert_eq!(&ours, &whole);
            prop_assert_eq!(t.decode(&ours), text.as_str());
            let bytes: usize = ours.iter().map(|id| t.byte_len(*id)).sum();
            prop_assert_eq!(bytes, text.len());
        }
    }

    #[test]
    fn hostile_bytes_are_refused_not_fatal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Tokenizer::from_bytes(&bytes).is_err());
    }
}

fn trained_once(split: SplitPattern) -> &'static Tokenizer {
    static ALL: std::sync::LazyLock<[Tokenizer; 3]> =
        std::sync::LazyLock::new(|| SplitPattern::ALL.map(trained));
    &ALL[split as usize]
}
