//! The lab asks the virtual device, whose answers are what the model assumes.

use std::collections::BTreeSet;

use ane_bridge::Chip;
use ane_bridge::lab::{QUESTIONS, Question, Virtual, ask};

fn agrees(chip: &'static Chip, numbers: impl IntoIterator<Item = u8>) {
    let temporary = tempfile::tempdir().unwrap();
    for number in numbers {
        let question = Question::find(number).unwrap();
        let answer = ask(&Virtual(chip), number, temporary.path()).unwrap();
        assert_eq!(answer.verdict, question.assumed(chip), "question {number}: {}", answer.detail);
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
    assert_ne!(clamp.assumed(m1), clamp.assumed(Chip::M4_MAX));
    agrees(m1, [1, 7, 8, 19]);
}

#[test]
fn every_question_is_listed_once_and_names_rules_that_exist() {
    let listed: Vec<u8> = QUESTIONS.iter().map(|question| question.number).collect();
    assert_eq!(listed, (1..=24).collect::<Vec<_>>());
    let rules: BTreeSet<_> = mil::verify::RULES.iter().map(|rule| rule.id).collect();
    for rule in QUESTIONS.iter().flat_map(|question| question.rules) {
        assert!(rules.contains(rule), "{rule}");
    }
}

#[test]
fn what_a_refuted_answer_changes_is_there() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    for question in QUESTIONS {
        assert!(!question.model.is_empty(), "question {}", question.number);
        for (file, word) in question.model {
            let text = std::fs::read_to_string(format!("{root}{file}")).unwrap();
            assert!(text.contains(word), "question {}: {file} has no `{word}`", question.number);
        }
    }
}
