//! What ran where, how often and how long.

use std::collections::BTreeMap;
use std::time::Duration;

use mil::eval::Stats;

/// Counts of one program, over all executables of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entry {
    /// Successful compiles.
    pub compiles: u64,
    /// Finished dispatches.
    pub dispatches: u64,
    /// Dispatches that failed.
    pub failures: u64,
    /// Wall time of the finished dispatches on this machine.
    pub real: Duration,
    /// The same by the hardware's own clock; zero on devices that have none, or were not asked.
    pub hardware: Duration,
    /// Time that the chip would take by [`crate::clock`], seconds.
    pub predicted_s: f64,
    /// What fp16 and the grid lost; zero on devices that cannot see it.
    pub stats: Stats,
}

impl Entry {
    fn add(&mut self, other: &Entry) {
        self.compiles += other.compiles;
        self.dispatches += other.dispatches;
        self.failures += other.failures;
        self.real += other.real;
        self.hardware += other.hardware;
        self.predicted_s += other.predicted_s;
        self.stats += other.stats;
    }
}

/// Counts by program name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    /// Programs and their counts, sorted by name.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The counts of one program; zeros for a name that never compiled.
    pub fn of(&self, program: &str) -> Entry {
        self.entries.get(program).copied().unwrap_or_default()
    }

    /// All programs together.
    pub fn total(&self) -> Entry {
        let mut total = Entry::default();
        self.entries.values().for_each(|entry| total.add(entry));
        total
    }

    pub(crate) fn entry(&mut self, program: &str) -> &mut Entry {
        if !self.entries.contains_key(program) {
            self.entries.insert(program.to_string(), Entry::default());
        }
        self.entries.get_mut(program).expect("the entry was just made")
    }
}
