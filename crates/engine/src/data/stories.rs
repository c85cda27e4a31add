//! The built-in corpus: small stories in simple English, from a grammar of our own.
//!
//! Story `i` of a seed is a pure function of both. A story has a cast (a hero, a friend, a
//! grown-up, each with a pronoun), a plot of several beats, and words that stay the same from the
//! first sentence to the last, so that there is something to learn beyond single sentences.

mod plots;
mod words;

use std::collections::HashMap;

use super::shuffle::mix;
use plots::{Beat, DETAIL, OPENING, PLOTS};
use words::{ANIMALS, ELDERS, HE, LISTS, SHE};

/// The stories of a seed, without end.
#[derive(Clone, Debug)]
pub struct Stories {
    seed: u64,
    next: u64,
}

impl Stories {
    /// The stories of `seed`, from the first on.
    pub fn new(seed: u64) -> Stories {
        Stories { seed, next: 0 }
    }

    /// Story `index`, without a line end behind it.
    pub fn story(seed: u64, index: u64) -> String {
        Teller::new(seed, index).tell()
    }
}

impl Iterator for Stories {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let story = Stories::story(self.seed, self.next);
        self.next += 1;
        Some(story)
    }
}

/// Random choices that depend on the seed and the story alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        // The high half times the number of sides: even enough for word lists.
        (((mix(self.0) >> 32) * sides as u64) >> 32) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}

/// Whose turn it is to be called `he` or `she`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Person {
    she: bool,
}

impl Person {
    fn pronoun(self, form: &str) -> Option<&'static str> {
        Some(match (form, self.she) {
            ("he", true) => "she",
            ("he", false) => "he",
            ("him", true) => "her",
            ("him", false) => "him",
            ("his", true) => "her",
            ("his", false) => "his",
            ("himself", true) => "herself",
            ("himself", false) => "himself",
            _ => return None,
        })
    }
}

struct Teller {
    dice: Dice,
    hero: Person,
    friend: Person,
    elder: Person,
    /// Whether the story has said who the friend is.
    introduced: bool,
    /// Words that this story has settled on, by slot.
    bound: HashMap<String, String>,
}

impl Teller {
    fn new(seed: u64, index: u64) -> Teller {
        let mut dice = Dice(mix(seed ^ mix(index.wrapping_mul(2).wrapping_add(1))));
        let mut bound = HashMap::new();
        let mut bind = |slot: &str, word: &str| bound.insert(slot.to_string(), word.to_string());
        let animals = dice.roll(100) < 45;
        let person = |dice: &mut Dice, not: (&str, &'static str)| {
            let she = dice.roll(2) == 0;
            let mut draw = |from: &[&'static str], not: &str| loop {
                let word = dice.pick(from);
                if word != not {
                    return word;
                }
            };
            let name = draw(if she { SHE } else { HE }, not.0);
            let kind = match (animals, she) {
                (true, _) => draw(ANIMALS, not.1),
                (false, true) => "girl",
                (false, false) => "boy",
            };
            (Person { she }, name, kind)
        };
        let (hero, name, kind) = person(&mut dice, ("", ""));
        let (friend, friend_name, friend_kind) = person(&mut dice, (name, kind));
        let (elder, she) = dice.pick(ELDERS);
        let other_elder = dice.pick(ELDERS).0;
        for (slot, word) in [
            ("n", name),
            ("kind", kind),
            ("f", friend_name),
            ("fkind", friend_kind),
            ("kind2", friend_kind),
            ("el", elder),
            ("el2", other_elder),
        ] {
            bind(slot, word);
        }
        Teller { dice, hero, friend, elder: Person { she }, introduced: false, bound }
    }

    fn tell(mut self) -> String {
        let plot = self.dice.pick(PLOTS);
        // Half of the stories are one paragraph, the others have a few.
        let paragraphs = self.dice.roll(2) == 0;
        let mut story = String::new();
        let beats = [OPENING, DETAIL].into_iter().chain(plot.iter().copied());
        for (i, beat) in beats.enumerate() {
            let text = self.beat(beat);
            if text.is_empty() {
                continue;
            }
            if !story.is_empty() {
                let breaks = paragraphs && (i == 2 || (i > 3 && self.dice.roll(3) == 0));
                story.push_str(if breaks { "\n\n" } else { " " });
            }
            story.push_str(&text);
        }
        articles(&story)
    }

    fn beat(&mut self, beat: Beat) -> String {
        let way = self.dice.pick(beat);
        self.introduced |= ["{fkind}", "friend {f}"].iter().any(|told| way.contains(told));
        self.expand(way)
    }

    fn expand(&mut self, template: &str) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            let end = at + rest[at..].find('}').expect("every template closes what it opens");
            let slot = &rest[at + 1..end];
            let spoken = out.matches('"').count() % 2 == 1;
            if slot == "f" && !self.introduced && !spoken {
                self.introduced = true;
                let begins = out.is_empty() || out.trim_end().ends_with(['.', '!', '?']);
                out.push_str(&self.slot(if begins { "His" } else { "his" }));
                out.push_str(" friend ");
            }
            out.push_str(&self.slot(slot));
            rest = &rest[end + 1..];
        }
        out + rest
    }

    /// The words of a slot; a capital letter in its name begins a sentence.
    fn slot(&mut self, slot: &str) -> String {
        let name = slot.to_lowercase();
        let people = [("", self.hero), ("f", self.friend), ("e", self.elder)];
        let pronoun =
            people.into_iter().find_map(|(prefix, person)| person.pronoun(name.strip_prefix(prefix)?));
        let words = match pronoun {
            Some(word) => word.to_string(),
            None if slot == "El" => {
                format!("{} {}", self.hero.pronoun("his").expect("a form"), self.bound["el"])
            }
            None => self.word(&name),
        };
        let begins = slot.starts_with(|c: char| c.is_ascii_uppercase());
        if !begins {
            return words;
        }
        let mut letters = words.chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
    }

    /// The word that this story has for a slot, drawn at its first use.
    fn word(&mut self, slot: &str) -> String {
        let (slot, form) = slot.split_once('.').unwrap_or((slot, ""));
        if !self.bound.contains_key(slot) {
            let list = slot.trim_end_matches(|c: char| c.is_ascii_digit());
            let words = LISTS.iter().find(|(name, _)| *name == list).expect("every slot has a list").1;
            let word = loop {
                let word = self.dice.pick(words);
                if !self.bound.values().any(|used| used == word) {
                    break word;
                }
            };
            // Some entries have slots of their own.
            let word = self.expand(word);
            self.bound.insert(slot.to_string(), word);
        }
        let word = &self.bound[slot];
        match (word.split_once('|'), form) {
            (Some((_, noun)), "to") => format!("to {noun}"),
            (Some((preposition, noun)), "in") => format!("{preposition} {noun}"),
            (Some((_, noun)), _) => noun.to_string(),
            (None, _) => word.clone(),
        }
    }
}

/// Turns `a` into `an` before a vowel. Templates say `a` throughout.
fn articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut words = text.split_inclusive(' ').peekable();
    while let Some(word) = words.next() {
        let article = word.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        let vowel = |next: &&str| {
            next.starts_with(['a', 'e', 'i', 'o', 'u'])
                || next.starts_with("hour")
                || next.starts_with("honest")
        };
        if matches!(article, "a " | "A ") && words.peek().is_some_and(vowel) {
            out.push_str(word.trim_end());
            out.push_str("n ");
        } else {
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests;
