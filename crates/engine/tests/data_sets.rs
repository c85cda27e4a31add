//! From files to batches: preparing, token files, shuffling, resuming.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine::data::{
    Batch, DataError, Dataset, Format, Loader, PrepareOptions, ReadOptions, Result, Shard, ShardWriter,
    Sources, Tokens, Validation, Vocabulary, prepare, train_tokenizer,
};
use model::{SplitPattern, TokenId, Tokenizer};

const STORIES: Sources = Sources::Stories { seed: 1, bytes: 300_000 };

fn tokenizer() -> &'static Tokenizer {
    static ONE: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(|| {
        train_tokenizer(&STORIES, &ReadOptions::default(), 1024, SplitPattern::LlamaBpe, 200_000).unwrap()
    });
    &ONE
}

fn files(train: &[PathBuf], val: &[PathBuf]) -> Sources {
    Sources::Files { train: train.to_vec(), val: val.to_vec() }
}

fn build(sources: &Sources, options: &PrepareOptions, out: &Path) -> Result<Dataset> {
    prepare(sources, tokenizer(), options, out, &mut |_| {})
}

fn simple(sources: &Sources, out: &Path) -> Result<Dataset> {
    build(sources, &PrepareOptions::default(), out)
}

fn all(tokens: &Tokens) -> Vec<TokenId> {
    let mut out = vec![TokenId(0); tokens.len() as usize];
    tokens.read(0, &mut out).unwrap();
    out
}

fn text(tokens: &Tokens) -> String {
    tokenizer().decode(&all(tokens))
}

fn message(path: &Path, error: &DataError) -> String {
    format!("{} {error}", error.code()).replace(&format!("{}/", path.parent().unwrap().display()), "")
}

#[test]
fn stories_become_two_parts_that_hold_every_story() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let mut seen = Vec::new();
    let set =
        prepare(&STORIES, tokenizer(), &PrepareOptions::default(), &out, &mut |p| seen.push(p)).unwrap();
    let info = set.info.clone().unwrap();
    let stories = info.train.documents + info.val.documents;
    assert_eq!(info.val.documents, (stories - 2) / 50 + 1);
    assert!(info.train.text_bytes + info.val.text_bytes >= 300_000);
    let last = seen.last().unwrap();
    assert_eq!(last.bytes, info.train.text_bytes + info.val.text_bytes);
    assert_eq!(last.tokens + stories, set.train.len() + set.val.len());
    let eod = tokenizer().eos().unwrap();
    let second = engine::data::Stories::story(1, 1);
    let first_val: Vec<_> = all(&set.val).into_iter().take_while(|t| *t != eod).collect();
    assert_eq!(tokenizer().decode(&first_val), second);
    assert_eq!(all(&set.train).last(), Some(&eod));
}

#[test]
fn the_result_is_the_same_for_any_number_of_threads_and_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let threads = |threads| PrepareOptions { threads, ..Default::default() };
    let one = build(&STORIES, &threads(1), &dir.path().join("one")).unwrap();
    let five = build(&STORIES, &threads(5), &dir.path().join("five")).unwrap();
    assert!(!one.reused && !five.reused);
    assert_eq!((all(&one.train), all(&one.val)), (all(&five.train), all(&five.val)));
    assert_eq!(one.info, five.info);

    let again = build(&STORIES, &threads(2), &dir.path().join("one")).unwrap();
    assert!(again.reused);
    assert_eq!(again.info, one.info);
    let other = Sources::Stories { seed: 2, bytes: 300_000 };
    let rebuilt = simple(&other, &dir.path().join("one")).unwrap();
    assert!(!rebuilt.reused);
    // The files of the earlier set are gone.
    let left = fs::read_dir(dir.path().join("one")).unwrap().count();
    assert_eq!(left, 3);
}

#[test]
fn a_changed_file_is_prepared_again_and_a_damaged_set_too() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("a.txt"), dir.path().join("set"));
    fs::write(&path, "one two three ".repeat(500)).unwrap();
    let sources = files(std::slice::from_ref(&path), &[]);
    assert!(!simple(&sources, &out).unwrap().reused);
    assert!(simple(&sources, &out).unwrap().reused);
    fs::write(&path, "one two four ".repeat(500)).unwrap();
    // What a killed preparation left is cleared away.
    let left = out.join("train-00000000-00000.tok.1.partial");
    fs::write(&left, "half").unwrap();
    let set = simple(&sources, &out).unwrap();
    assert!(!set.reused && text(&set.train).contains("four"));
    assert!(!left.exists());
    let shard = out.join(&set.info.unwrap().train.files[0]);
    fs::write(&shard, "cut").unwrap();
    assert!(!simple(&sources, &out).unwrap().reused);
    fs::write(out.join("dataset.json"), "{").unwrap();
    assert!(!simple(&sources, &out).unwrap().reused);
}

#[test]
fn one_text_file_gives_validation_from_its_middle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    let body: String = (0..20_000).map(|i| format!("Sentence {i} is here. ")).collect();
    fs::write(&path, &body).unwrap();
    let set = simple(&files(&[path], &[]), &dir.path().join("set")).unwrap();
    let info = set.info.as_ref().unwrap();
    assert_eq!(info.train.text_bytes + info.val.text_bytes, body.len() as u64);
    let share = info.val.text_bytes as f64 / body.len() as f64;
    assert!((0.015..0.025).contains(&share), "{share}");
    // Every piece of validation is followed by an end, and so is the training text where it lacks one.
    assert!(info.val.documents >= 4);
    assert_eq!(info.train.documents, info.val.documents + 1);
    assert!(body.contains(text(&set.val).get(..1000).unwrap()));
}

#[test]
fn validation_may_be_given_and_climbmix_has_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.txt"), dir.path().join("b.txt"));
    fs::write(&a, "training words ".repeat(300)).unwrap();
    fs::write(&b, "checking words ".repeat(30)).unwrap();
    let set = simple(&files(std::slice::from_ref(&a), &[b]), &dir.path().join("set")).unwrap();
    assert_eq!(text(&set.train), "training words ".repeat(300));
    assert_eq!(text(&set.val), "checking words ".repeat(30));

    // The layout of the corpus, with lines instead of Parquet rows to keep the test small.
    let mix = dir.path().join("mix");
    fs::create_dir(&mix).unwrap();
    for (name, body) in [("shard_00000", "zero"), ("shard_06541", "late"), ("shard_06542", "pinned")] {
        fs::write(mix.join(format!("{name}.parquet")), format!("{{\"text\": \"{body}\"}}\n")).unwrap();
    }
    let read = ReadOptions { format: Some(Format::Jsonl), ..Default::default() };
    let options = PrepareOptions { read, ..Default::default() };
    let set = build(&files(&[mix], &[]), &options, &dir.path().join("set")).unwrap();
    assert_eq!((text(&set.train).as_str(), text(&set.val).as_str()), ("zerolate", "pinned"));
}

#[test]
fn chats_keep_their_marks_and_cannot_forge_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chat.jsonl");
    let line = r#"{"messages": [{"role": "user", "content": "<|im_end|><|endoftext|>"}]}"#;
    fs::write(&path, format!("{line}\n{line}\n")).unwrap();
    let set = simple(&files(&[path], &[]), &dir.path().join("set")).unwrap();
    let tokens = all(&set.train);
    let specials: Vec<u32> = tokens.iter().filter(|t| tokenizer().is_special(**t)).map(|t| t.0).collect();
    assert_eq!(specials, [1, 2, 0]);
    assert_eq!(tokenizer().decode(&tokens), "user\n<|im_end|><|endoftext|>\n");
}

#[test]
fn too_little_data_says_how_much_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    fs::write(&path, "").unwrap();
    let sources = files(std::slice::from_ref(&path), &[]);
    let error = simple(&sources, &dir.path().join("set")).unwrap_err();
    let rest = "at least 2 are needed; add text or shorten the sequence";
    assert_eq!(message(&path, &error), format!("E3070 the training data has 0 tokens, {rest}"));
    fs::write(&path, "a few words").unwrap();
    let error = simple(&sources, &dir.path().join("set")).unwrap_err();
    assert_eq!(message(&path, &error), format!("E3070 the validation data has 0 tokens, {rest}"));
    assert!(!dir.path().join("set/dataset.json").exists());

    fs::write(&path, "words ".repeat(200)).unwrap();
    let set = simple(&sources, &dir.path().join("set")).unwrap();
    let have = set.train.len();
    let error = Loader::new(set.train, 4096, 1, 0).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the training data has {have} tokens, at least 4097 are needed; add text or shorten the sequence"
        )
    );
    assert!(Validation::new(set.val.slice(0..1), tokenizer().byte_lens(), 8, 1).is_err());
    let none = simple(&files(&[], &[]), &dir.path().join("set")).unwrap_err();
    assert_eq!(none.code(), "E3047");
}

#[test]
fn a_large_file_is_read_in_constant_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.txt.zst");
    // 200 MB without a line end or a space, in a few kilobytes.
    let file = fs::File::create(&path).unwrap();
    let mut packer = zstd::Encoder::new(file, 1).unwrap();
    for _ in 0..200 {
        std::io::Write::write_all(&mut packer, &[b'x'; 1 << 20]).unwrap();
    }
    packer.finish().unwrap();
    let before = peak_bytes();
    let mut blocks = engine::data::Blocks::new(
        engine::data::find(&[path], &ReadOptions::default()).unwrap(),
        ReadOptions::default(),
        engine::data::BLOCK_BYTES,
    );
    let bytes = blocks.try_fold(0, |sum, block| block.map(|b| sum + b.text_bytes())).unwrap();
    assert_eq!(bytes, 200 << 20);
    let grown = peak_bytes() - before;
    assert!(grown < 64 << 20, "{} MiB more at the peak", grown >> 20);
}

/// Most memory that this process has had. Other tests of this file take a few megabytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

const FREE: Vocabulary = Vocabulary { hash: None, vocab: 70_000 };

fn write_shard(path: &Path, tokens: &[u32], vocabulary: Vocabulary) {
    let mut writer = ShardWriter::create(path, vocabulary, TokenId(0)).unwrap();
    for part in tokens.chunks(1000) {
        writer.push(&part.iter().map(|t| TokenId(*t)).collect::<Vec<_>>(), 3).unwrap();
    }
    writer.finish().unwrap();
}

fn read_shard(path: &Path, format: Format, vocabulary: &Vocabulary) -> Result<Vec<u32>> {
    let shard = Shard::open(path, format, vocabulary)?;
    let mut out = vec![TokenId(0); shard.len() as usize];
    shard.read(0, &mut out)?;
    Ok(out.into_iter().map(|t| t.0).collect())
}

#[test]
fn token_files_round_trip_in_both_widths() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tok");
    for vocab in [60_000u32, 70_000] {
        let tokens: Vec<u32> = (0..700_000).map(|i| i * 7 % vocab).collect();
        write_shard(&path, &tokens, Vocabulary { hash: Some([7; 32]), vocab: vocab as usize });
        assert_eq!(read_shard(&path, Format::Tokens, &FREE).unwrap(), tokens);
        let shard = Shard::open(&path, Format::Tokens, &FREE).unwrap();
        shard.verify().unwrap();
        let zeros = tokens.iter().filter(|t| **t == 0).count() as u64;
        assert_eq!(shard.counts().unwrap().documents, zeros);
        assert_eq!(shard.end_of_document(), Some(TokenId(0)));
        let mut few = [TokenId(0); 3];
        shard.read(699_997, &mut few).unwrap();
        assert_eq!(few.map(|t| t.0), tokens[699_997..]);
        assert!(shard.read(699_998, &mut few).is_err());
    }
    // An unfinished file leaves nothing behind.
    let mut writer = ShardWriter::create(&dir.path().join("b.tok"), FREE, TokenId(0)).unwrap();
    assert!(writer.push(&[TokenId(70_000)], 1).is_err());
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn damaged_token_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tok");
    let mine = Vocabulary { hash: Some([7; 32]), vocab: 1000 };
    write_shard(&path, &(0..600_000).map(|i| i % 1000).collect::<Vec<_>>(), mine);
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = read_shard(&path, Format::Tokens, &mine).unwrap_err();
        message(&path, &error)
    };
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    assert_eq!(refused(&[]), refused(b"x"));
    assert_eq!(
        refused(&flipped(0)),
        "E3040 `a.tok`: neither our magic number nor one of llm.c; for tokens of two bytes without a header give --format u16"
    );
    assert_eq!(refused(&flipped(8)), "E3040 `a.tok`: version 0, wanted 1; prepare the text again");
    assert_eq!(refused(&flipped(12)), "E3040 `a.tok`: tokens of 3 bytes, wanted 2 or 4");
    let length = good.len();
    let cut = "the file is cut off or damaged";
    assert_eq!(
        refused(&good[..length - 1]),
        format!("E3040 `a.tok`: {} bytes, 600000 tokens need {length}; {cut}", length - 1)
    );
    let mut many = good.clone();
    many[56..64].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(
        refused(&many),
        format!("E3040 `a.tok`: {length} bytes, {} tokens need more than a file can have; {cut}", u64::MAX)
    );
    assert_eq!(refused(&good[..100]), "E3040 `a.tok`: 100 bytes, the header alone has 256");
    let header = "E3040 `a.tok`: the checksum of the header is wrong; the file is damaged";
    assert_eq!(refused(&flipped(16)), header);
    assert_eq!(refused(&flipped(72)), header);
    assert_eq!(refused(&flipped(length - 1)), header);
    assert_eq!(
        refused(&flipped(256 + (1 << 20))),
        "E3040 `a.tok`: the checksum of 151424 bytes from 1048832 on is wrong; the file is damaged"
    );

    // Only what is touched is checked; `verify` touches all.
    fs::write(&path, flipped(256 + (1 << 20))).unwrap();
    let shard = Shard::open(&path, Format::Tokens, &mine).unwrap();
    shard.read(0, &mut [TokenId(0); 100]).unwrap();
    assert!(shard.verify().is_err());

    fs::write(&path, &good).unwrap();
    let other =
        read_shard(&path, Format::Tokens, &Vocabulary { hash: Some([8; 32]), vocab: 1000 }).unwrap_err();
    assert_eq!(
        message(&path, &other),
        "E3041 `a.tok` was made with tokenizer 0707070707070707, the model's is 0808080808080808; use the tokenizer that made it, or prepare the text again"
    );
    let small = read_shard(&path, Format::Tokens, &Vocabulary { hash: None, vocab: 999 }).unwrap_err();
    assert_eq!(message(&path, &small), "E3040 `a.tok`: a vocabulary of 1000, the model has 999");
    // Cut off while it is open.
    let shard = Shard::open(&path, Format::Tokens, &mine).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1000).unwrap();
    assert_eq!(shard.read(500_000, &mut [TokenId(0); 10]).unwrap_err().code(), "E3045");
}

#[test]
fn no_bytes_make_a_token_file_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tok");
    let mine = Vocabulary { hash: Some([7; 32]), vocab: 1000 };
    write_shard(&path, &(0..500).collect::<Vec<_>>(), mine);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        for bytes in [good[..at].to_vec(), [&good[..at], &[!good[at]], &good[at + 1..]].concat()] {
            fs::write(&path, bytes).unwrap();
            let code = read_shard(&path, Format::Tokens, &mine).unwrap_err().code();
            assert!(["E3040", "E3041"].contains(&code), "{code} at {at}");
        }
    }
}

fn llm_c(magic: i32, version: i32, claimed: i32, tokens: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [magic, version, claimed].iter().flat_map(|n| n.to_le_bytes()).collect();
    bytes.resize(1024, 0);
    [bytes, tokens.to_vec()].concat()
}

#[test]
fn token_files_of_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.bin");
    let refused = |bytes: &[u8], format, vocab| {
        fs::write(&path, bytes).unwrap();
        read_shard(&path, format, &Vocabulary { hash: Some([1; 32]), vocab }).map_err(|e| message(&path, &e))
    };
    let read = |bytes: &[u8], vocab| refused(bytes, Format::Tokens, vocab);
    assert_eq!(read(&llm_c(20240520, 1, 3, &[1, 0, 2, 0, 0, 1]), 300), Ok(vec![1, 2, 256]));
    assert_eq!(read(&llm_c(20240801, 7, 2, &[1, 0, 0, 0, 0, 0, 1, 0]), 70_000), Ok(vec![1, 65536]));
    assert_eq!(refused(&[5, 0, 1, 1], Format::U16, 300), Ok(vec![5, 257]));

    let error = |text: &str| Err(format!("E3040 `a.bin`: {text}"));
    assert_eq!(
        read(&llm_c(20240520, 1, 3, &[1, 0, 2, 0, 44, 1]), 300),
        error(
            "token 300 at position 2 is not below the vocabulary of 300; the file was made with another tokenizer or is damaged"
        )
    );
    assert_eq!(
        read(&llm_c(20240520, 1, 4, &[0; 6]), 300),
        error("1030 bytes, 4 tokens need 1032; the file is cut off or damaged")
    );
    assert_eq!(read(&llm_c(20240520, 2, 3, &[0; 6]), 300), error("llm.c version 2, wanted 1 or 7"));
    assert_eq!(
        read(&llm_c(20240520, 1, -3, &[0; 6]), 300),
        error("a negative number of tokens in the header")
    );
    assert_eq!(read(&llm_c(20240520, 1, 0, &[]), 300), error("no tokens"));
    assert_eq!(
        refused(&[1, 2, 3], Format::U16, 300),
        error("3 bytes, wanted an even number of them for --format u16")
    );
    assert_eq!(refused(&[], Format::U16, 300), error("no tokens"));
}

#[test]
fn token_files_are_opened_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let mine = Vocabulary::of(tokenizer());
    let numbers: Vec<u32> = (0..200_000).map(|i| i % 900).collect();
    let folder = dir.path().join("shards");
    fs::create_dir(&folder).unwrap();
    write_shard(&folder.join("a.tok"), &numbers[..77_777], mine);
    write_shard(&folder.join("b.tok"), &numbers[77_777..], mine);
    let out = dir.path().join("set");
    let set = simple(&files(std::slice::from_ref(&folder), &[]), &out).unwrap();
    assert!(!out.exists());
    assert_eq!((set.train.len(), set.val.len()), (196_000, 4_000));
    let joined: Vec<u32> = all(&set.train).into_iter().chain(all(&set.val)).map(|t| t.0).collect();
    assert_eq!(joined, numbers);

    let given = files(&[folder.join("a.tok")], &[folder.join("b.tok")]);
    let set = simple(&given, &out).unwrap();
    assert_eq!((set.train.len(), set.val.len()), (77_777, 122_223));

    // A prepared folder is opened as it is.
    let prepared = simple(&STORIES, &out).unwrap();
    let opened = simple(&files(&[out], &[]), &dir.path().join("elsewhere")).unwrap();
    assert_eq!(opened.info, prepared.info);

    let error = train_tokenizer(&given, &ReadOptions::default(), 300, SplitPattern::Gpt2, 1000).unwrap_err();
    assert_eq!(
        message(&folder.join("a.tok"), &error),
        "E3047 `a.tok`: holds tokens; give the tokenizer.json that made them"
    );
}

/// `n` tokens that count up, in files of uneven length.
fn counting(dir: &Path, n: u32) -> Tokens {
    let mut start = 0;
    let mut shards = Vec::new();
    for (i, length) in [1, 10, 333, u32::MAX].into_iter().enumerate() {
        let end = n.min(start + length.min(n));
        if start < end {
            let path = dir.join(format!("{i}.tok"));
            write_shard(&path, &(start..end).collect::<Vec<_>>(), FREE);
            shards.push(Shard::open(&path, Format::Tokens, &FREE).unwrap());
        }
        start = end;
    }
    Tokens::new(shards)
}

#[test]
fn an_epoch_holds_every_sequence_once_in_an_order_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let loader = Loader::new(counting(dir.path(), 1001), 10, 4, 3).unwrap();
    assert_eq!(loader.sequences_per_epoch(), 100);
    let starts = |epoch: u64| -> Vec<u32> {
        (0..25)
            .flat_map(|i| {
                let batch = loader.batch(epoch * 100 + 4 * i).unwrap();
                assert_eq!((batch.rows(), batch.counted()), (4, 40));
                let pairs = batch.tokens.iter().zip(&batch.targets);
                assert!(pairs.clone().all(|(x, y)| x.0 + 1 == y.0));
                batch.tokens.chunks(10).map(|row| row[0].0).collect::<Vec<_>>()
            })
            .collect()
    };
    let (first, second) = (starts(0), starts(1));
    assert_ne!(first, second);
    for mut order in [first, second] {
        order.sort_unstable();
        assert!(order.into_iter().eq((0..1000).step_by(10)));
    }
    assert_eq!((loader.epoch(99), loader.epoch(100)), (0, 1));
}

#[test]
fn a_fresh_loader_goes_on_where_another_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = counting(dir.path(), 5000);
    let loader = || Loader::new(tokens.clone(), 16, 3, 9).unwrap();
    let run: Vec<Batch> = {
        let one = loader();
        (0..250).map(|i| one.batch(3 * i).unwrap()).collect()
    };
    // 312 sequences in an epoch: the first, around its end, and far behind it.
    for i in [0, 1, 103, 104, 105, 207, 208, 249] {
        assert_eq!(loader().batch(3 * i).unwrap(), run[i as usize]);
    }
    // Another size of batches gives the same sequences.
    let six = Loader::new(tokens.clone(), 16, 6, 9).unwrap().batch(306).unwrap();
    let two = [&run[102].tokens[..], &run[103].tokens].concat();
    assert_eq!(six.tokens, two);
    assert_ne!(Loader::new(tokens, 16, 3, 10).unwrap().batch(0).unwrap(), run[0]);
}

#[test]
fn validation_counts_every_byte_once() {
    let dir = tempfile::tempdir().unwrap();
    let set = simple(&STORIES, &dir.path().join("set")).unwrap();
    let (text_bytes, documents) = set.info.map(|i| (i.val.text_bytes, i.val.documents)).unwrap();
    let first = all(&set.val)[0];
    for (seq, batch) in [(64, 3), (1, 1), (5, 1000), (100_000, 2)] {
        let val = Validation::new(set.val.clone(), tokenizer().byte_lens(), seq, batch).unwrap();
        let (mut bytes, mut targets) = (0, HashMap::new());
        for one in val.batches() {
            let one = one.unwrap();
            assert_eq!(one.batch.tokens.len(), seq * batch);
            bytes += one.bytes;
            for target in one.batch.targets.into_iter().filter(|t| *t != TokenId::IGNORE) {
                *targets.entry(target).or_insert(0u64) += 1;
            }
        }
        // All but the very first token, which nothing predicts, and the ends of documents.
        assert_eq!(bytes, text_bytes - tokenizer().byte_len(first) as u64);
        assert_eq!(targets.get(&TokenId(0)), None);
        assert_eq!(targets.values().sum::<u64>(), set.val.len() - 1 - documents);
    }
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    fs::write(&out, "a file").unwrap();
    let error = simple(&STORIES, &out).unwrap_err();
    assert_eq!(message(&out, &error), "E3046 cannot write `set`");
}

#[test]
fn a_description_that_leaves_its_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let set = simple(&STORIES, &out).unwrap();
    let name = &set.info.unwrap().train.files[0];
    let path = out.join("dataset.json");
    let text = fs::read_to_string(&path).unwrap();
    for evil in ["../x.tok", "/etc/passwd"] {
        fs::write(&path, text.replace(name.as_str(), evil)).unwrap();
        let error = Dataset::open(&out, &Vocabulary::of(tokenizer())).unwrap_err();
        assert_eq!(
            message(&path, &error),
            format!(
                "E3042 `dataset.json`: the file name `{evil}` leaves the folder; delete the folder and prepare the data again"
            )
        );
    }
    // A shard that was exchanged for another of the right kind.
    fs::write(&path, &text).unwrap();
    write_shard(&out.join(name), &[1, 2, 3], Vocabulary::of(tokenizer()));
    let error = Dataset::open(&out, &Vocabulary::of(tokenizer())).unwrap_err();
    assert!(error.to_string().contains("tokens are listed, the files hold 3"), "{error}");
}
