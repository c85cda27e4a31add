//! The lab asks the virtual device, whose answers are what the model assumes.

use std::collections::BTreeSet;

use ane_bridge::Chip;
use ane_bridge::lab::{NOT_ASKED, QUESTIONS, Question, Virtual, ask};

fn agrees(chip: &'static Chip, numbers: impl IntoIterator<Item = u8>) {
    let temporary = tempfile::tempdir().unwrap();
    for number in numbers {
        let question = Question::find(number).unwrap();
        let answer = ask(&Virtual(chip), number, temporary.path()).unwrap();
        assert_eq!(answer.verdict, question.assumed(chip.family), "question {number}: {}", answer.detail);
        assert!(!answer.detail.is_empty() && answer.tables.is_empty(), "question {number}");
    }
}

#[test]
fn the_virtual_device_answers_as_the_model_assumes() {
    agrees(Chip::M4_MAX, QUESTIONS.iter().map(|question| question.number));
}

#[test]
fn older_chips_answer_otherwise_where_they_differ() {
    let m1 = Chip::find("M1").unwrap();
    let clamp = Question::find(19).unwrap();
    assert_ne!(clamp.assumed(m1.family), clamp.assumed(Chip::M4_MAX.family));
    agrees(m1, [1, 7, 8, 19]);
}

#[test]
fn every_question_is_listed_once_and_names_rules_that_exist() {
    let listed: Vec<u8> =
        QUESTIONS.iter().map(|q| q.number).chain(NOT_ASKED.iter().map(|(n, _)| *n)).collect();
    assert_eq!(listed.len(), 24);
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), (1..=24).collect());
    let rules: BTreeSet<_> = mil::verify::RULES.iter().map(|rule| rule.id).collect();
    for rule in QUESTIONS.iter().flat_map(|question| question.rules) {
        assert!(rules.contains(rule), "{rule}");
    }
}
