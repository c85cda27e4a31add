use std::collections::{BTreeSet, HashSet};

use super::*;

fn stories() -> Vec<String> {
    Stories::new(1).take(3000).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphabetic() && c != '-').filter(|w| !w.is_empty())
}

#[test]
fn two_stories() {
    insta::assert_snapshot!(format!("{}\n---\n{}", Stories::story(1, 0), Stories::story(7, 42)));
}

#[test]
fn a_story_depends_on_seed_and_index_alone() {
    let all: Vec<String> = Stories::new(5).take(20).collect();
    assert_eq!(all[13], Stories::story(5, 13));
    assert_ne!(all[13], Stories::story(6, 13));
}

#[test]
fn no_two_stories_are_equal() {
    let stories = stories();
    let distinct: HashSet<&String> = stories.iter().collect();
    assert_eq!(distinct.len(), stories.len());
}

#[test]
fn lengths_are_those_of_small_stories() {
    let lengths: Vec<usize> = stories().iter().map(|s| words(s).count()).collect();
    let mean = lengths.iter().sum::<usize>() / lengths.len();
    assert!((90..180).contains(&mean), "{mean}");
    assert!(
        lengths.iter().all(|n| (60..=240).contains(n)),
        "{:?} {:?}",
        lengths.iter().min(),
        lengths.iter().max()
    );
}

#[test]
fn vocabulary_is_small_but_not_tiny() {
    let stories = stories();
    let vocabulary: BTreeSet<String> = stories.iter().flat_map(|s| words(s)).map(str::to_lowercase).collect();
    assert!((1200..2500).contains(&vocabulary.len()), "{}", vocabulary.len());
}

#[test]
fn spelling_is_clean() {
    for story in stories() {
        for bad in [
            "  ", " .", " ,", "..", "{", "}", "[", "]", "|", " \n", "\n ", ",\"  ", "the the ", " a the ",
            " to to ",
        ] {
            assert!(!story.contains(bad), "{bad:?} in: {story}");
        }
        assert_eq!(story.trim(), story);
        assert!(story.ends_with(['.', '!', '?', '"']), "{story}");
        assert_eq!(story.matches('"').count() % 2, 0, "{story}");
        for (sentence, next) in
            story.match_indices(['.', '!', '?']).map(|(at, _)| (&story[..=at], &story[at + 1..]))
        {
            let begins = next.strip_prefix(' ').or(next.strip_prefix("\n\n"));
            let lower = begins.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_lowercase()));
            assert!(!lower, "no capital behind: {sentence}");
        }
    }
}

#[test]
fn articles_fit_the_word_behind_them() {
    for story in stories() {
        let all: Vec<&str> = words(&story).collect();
        for pair in all.windows(2) {
            let vowel = pair[1].to_lowercase().starts_with(['a', 'e', 'i', 'o', 'u']);
            let vowel = (vowel && !pair[1].starts_with("uni")) || ["hour", "honest"].contains(&pair[1]);
            match pair[0] {
                "a" | "A" => assert!(!vowel, "{pair:?} in: {story}"),
                "an" | "An" => assert!(vowel, "{pair:?} in: {story}"),
                _ => {}
            }
        }
    }
}

#[test]
fn pronouns_agree_with_the_cast() {
    let mut checked = [0, 0];
    for index in 0..3000 {
        let teller = Teller::new(3, index);
        let she = teller.hero.she;
        if teller.friend.she != she || teller.elder.she != she {
            continue;
        }
        checked[usize::from(she)] += 1;
        let story = teller.tell();
        let wrong: &[&str] =
            if she { &["he", "him", "his", "himself"] } else { &["she", "her", "hers", "herself"] };
        let found = words(&story).find(|w| wrong.contains(&w.to_lowercase().as_str()));
        assert_eq!(found, None, "in: {story}");
    }
    assert!(checked.iter().all(|n| *n > 200), "{checked:?}");
}

#[test]
fn every_way_of_every_beat_can_be_told() {
    for (i, way) in
        PLOTS.iter().flat_map(|p| p.iter()).chain([&OPENING, &DETAIL]).flat_map(|b| b.iter()).enumerate()
    {
        let text = Teller::new(9, i as u64).expand(way);
        assert!(!text.contains(['{', '}', '[', ']', '|']), "{way} became {text}");
    }
}
