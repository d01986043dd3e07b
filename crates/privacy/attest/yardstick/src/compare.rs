//! Changed evidence, and where two verifiers disagree about it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use crate::outcome::Outcome;

/// One change to a piece of bytes.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// As it is.
    None,
    /// One bit of this byte.
    Flip(usize, u8),
    /// Nothing from here on.
    Cut(usize),
}

impl Change {
    /// The changed bytes.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::None => {}
            Self::Flip(at, bit) => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (bit & 7)),
            Self::Cut(at) => bytes.truncate(at),
        }
        bytes
    }

    /// Every `step`th byte of a range flipped, in a bit that differs from byte to byte.
    pub fn flips(range: Range<usize>, step: usize) -> impl Iterator<Item = Self> {
        range.step_by(step.max(1)).map(|at| Self::Flip(at, (at % 8) as u8))
    }

    /// Every `step`th shorter length.
    pub fn cuts(length: usize, step: usize) -> impl Iterator<Item = Self> {
        (0..length).step_by(step.max(1)).map(Self::Cut)
    }
}

/// Who said yes where the other said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Lambda accepts what the yardstick refuses.
    OursAccepts,
    /// Lambda refuses what the yardstick accepts.
    TheirsAccepts,
}

/// Disagreements of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Whose evidence: `tdx`, `sgx`, `snp`, `cca`.
    pub tee: &'static str,
    /// Who accepts.
    pub side: Side,
    /// Why the other refuses: ids of our failed checks, or the yardstick's words without numbers.
    pub why: String,
}

/// How often, the first and the last of them.
#[derive(Debug, Clone)]
pub struct Seen {
    /// How often.
    pub count: usize,
    /// Evidence, part and change.
    pub example: String,
    /// The same of the last.
    pub last: String,
}

/// All disagreements, by kind.
#[derive(Debug, Default)]
pub struct Tally {
    /// By kind.
    pub classes: BTreeMap<Class, Seen>,
    /// Changed and unchanged evidence looked at.
    pub compared: usize,
    /// … of which both accepted.
    pub both_accepted: usize,
    /// Panics of yardsticks.
    pub panics: BTreeMap<String, Seen>,
}

impl Tally {
    /// Notes what both said about one piece of evidence.
    pub fn note(&mut self, tee: &'static str, what: impl Fn() -> String, ours: &Outcome, theirs: &Outcome) {
        self.compared += 1;
        if let Outcome::Panicked(text) = theirs {
            count(&mut self.panics, format!("{tee}: {}", without_numbers(text)), &what);
        }
        let (side, why) = match (ours, theirs) {
            (Outcome::Accepted, Outcome::Accepted) => {
                self.both_accepted += 1;
                return;
            }
            (Outcome::Accepted, Outcome::Refused(why) | Outcome::Panicked(why)) => {
                (Side::OursAccepts, without_numbers(why))
            }
            (Outcome::Refused(why) | Outcome::Panicked(why), Outcome::Accepted) => (Side::TheirsAccepts, why.clone()),
            _ => return,
        };
        count(&mut self.classes, Class { tee, side, why }, &what);
    }
}

fn count<K: Ord>(seen: &mut BTreeMap<K, Seen>, key: K, what: &impl Fn() -> String) {
    let example = what();
    match seen.entry(key) {
        Entry::Occupied(mut known) => {
            let known = known.get_mut();
            known.count += 1;
            known.last = example;
        }
        Entry::Vacant(free) => {
            free.insert(Seen { count: 1, last: example.clone(), example });
        }
    }
}

/// Messages that differ in numbers only are of one kind.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars().take(160) {
        match letter {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            '\n' => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_changes_one_bit_or_cuts() {
        assert_eq!(Change::Flip(1, 1).of(&[0, 0]), [0, 2]);
        assert_eq!(Change::Cut(1).of(&[1, 2]), [1]);
        assert_eq!(Change::None.of(&[1, 2]), [1, 2]);
    }

    #[test]
    fn only_disagreements_are_classes() {
        let mut tally = Tally::default();
        let (yes, no) = (Outcome::Accepted, Outcome::Refused("byte 17".into()));
        for (ours, theirs) in [(&yes, &yes), (&no, &no), (&yes, &no), (&no, &yes)] {
            tally.note("tdx", || "example".into(), ours, theirs);
        }
        let found: Vec<_> = tally.classes.keys().map(|class| (class.side, class.why.as_str())).collect();
        assert_eq!(found, [(Side::OursAccepts, "byte #"), (Side::TheirsAccepts, "byte 17")]);
        assert_eq!((tally.compared, tally.both_accepted), (4, 1));
    }
}
