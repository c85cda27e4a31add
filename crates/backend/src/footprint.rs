//! Memory that a backend takes, by purpose.

/// Bytes by what they are for, in the order in which they were first named.
///
/// Whoever allocates makes it, so that what is foretold and what is taken cannot differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint(Vec<(&'static str, u64)>);

impl Footprint {
    /// Adds bytes; those of the same purpose are summed.
    pub fn add(&mut self, what: &'static str, bytes: u64) {
        match self.0.iter_mut().find(|(name, _)| *name == what) {
            Some((_, sum)) => *sum = sum.saturating_add(bytes),
            None => self.0.push((what, bytes)),
        }
    }

    /// Replaces the bytes of a purpose.
    pub fn set(&mut self, what: &'static str, bytes: u64) {
        self.0.retain(|(name, _)| *name != what);
        if bytes > 0 {
            self.add(what, bytes);
        }
    }

    /// Adds everything of another one.
    pub fn extend(&mut self, other: &Footprint) {
        other.items().for_each(|(what, bytes)| self.add(what, bytes));
    }

    /// Bytes of one purpose.
    pub fn of(&self, what: &str) -> u64 {
        self.0.iter().find(|(name, _)| *name == what).map_or(0, |(_, bytes)| *bytes)
    }

    /// Purposes with their bytes.
    pub fn items(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().copied()
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_purpose() {
        let mut f = Footprint::default();
        f.add("weights", 8);
        f.add("logits", 3);
        f.add("weights", 2);
        assert_eq!(f.items().collect::<Vec<_>>(), [("weights", 10), ("logits", 3)]);
        f.set("logits", 0);
        f.set("weights", 7);
        assert_eq!((f.total(), f.of("weights"), f.of("logits")), (7, 7, 0));
        let mut twice = f.clone();
        twice.extend(&f);
        twice.add("more", u64::MAX);
        assert_eq!((twice.of("weights"), twice.total()), (14, u64::MAX));
    }
}
