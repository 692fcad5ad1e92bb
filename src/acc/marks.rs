//! What is accounted where: the algebra of `do_accounting` and `drop_accounting`.
//!
//! Marks are a set of (backend, flag) pairs. `do_accounting` adds, `drop_accounting` takes away;
//! flags belong to the backends named in the same call (D14), and dropping touches only the
//! backends named (D15).
#![forbid(unsafe_code)]

use super::record::Backend;
use crate::config::DropMode;

/// One thing that can be on for a backend. The numbers are the bits that the original keeps in
/// a dialog's `accX_flags`, one byte for each backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// Normal accounting: answered transactions.
    On = 0,
    /// One record at the end of the dialog instead of one for the INVITE.
    Cdr = 1,
    /// Failed attempts as missed calls; used up by the record it makes.
    Missed = 2,
    /// Transactions with a negative final reply too.
    Failed = 3,
}

impl Flag {
    const NAMED: [Flag; 3] = [Flag::Cdr, Flag::Missed, Flag::Failed];

    const fn name(self) -> &'static str {
        match self {
            Flag::On => "on",
            Flag::Cdr => "cdr",
            Flag::Missed => "missed",
            Flag::Failed => "failed",
        }
    }
}

/// A set of (backend, flag) pairs: byte `b` holds the flags of the backend with number `b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks(pub u32);

/// The backends named in a call, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Types(pub u8);

/// The flags named in a call, as a set of `cdr`, `missed`, `failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

/// A word that is no backend or no flag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// Not a backend.
    #[error("\"{0}\" is no accounting backend: use log, db, aaa or evi, several joined by '|'")]
    Type(String),
    /// Not a flag.
    #[error("\"{0}\" is no accounting flag: use cdr, missed or failed, several joined by '|'")]
    Flag(String),
}

impl Types {
    /// Every backend.
    pub const ALL: Types = Types(0b1111);

    /// Reads `log|db|aaa|evi`; case and blanks around the words are free.
    pub fn parse(text: &[u8]) -> Result<Types, WordError> {
        let text = String::from_utf8_lossy(text);
        let mut set = 0;
        for word in text.split('|') {
            let word = word.trim();
            let backend = Backend::ALL.into_iter().find(|b| b.name().eq_ignore_ascii_case(word)).ok_or_else(|| WordError::Type(word.into()))?;
            set |= 1 << backend as u8;
        }
        Ok(Types(set))
    }

    /// Is this backend named?
    pub const fn has(self, backend: Backend) -> bool {
        self.0 >> backend as u8 & 1 != 0
    }

    /// The named backends.
    pub fn iter(self) -> impl Iterator<Item = Backend> {
        Backend::ALL.into_iter().filter(move |b| self.has(*b))
    }
}

impl Flags {
    /// Reads `cdr|missed|failed`; case and blanks around the words are free.
    pub fn parse(text: &[u8]) -> Result<Flags, WordError> {
        let text = String::from_utf8_lossy(text);
        let mut set = 0;
        for word in text.split('|') {
            let word = word.trim();
            let flag = Flag::NAMED.into_iter().find(|f| f.name().eq_ignore_ascii_case(word)).ok_or_else(|| WordError::Flag(word.into()))?;
            set |= 1 << flag as u8;
        }
        Ok(Flags(set))
    }

    /// Is this flag named?
    pub const fn has(self, flag: Flag) -> bool {
        self.0 >> flag as u8 & 1 != 0
    }

    /// Without this flag.
    #[must_use]
    pub const fn without(self, flag: Flag) -> Flags {
        Flags(self.0 & !(1 << flag as u8))
    }
}

impl Marks {
    const fn bit(backend: Backend, flag: Flag) -> u32 {
        1 << (backend as u32 * 8 + flag as u32)
    }

    /// Is the flag set for the backend?
    pub const fn has(self, backend: Backend, flag: Flag) -> bool {
        self.0 & Marks::bit(backend, flag) != 0
    }

    /// Is normal accounting on for the backend?
    pub const fn on(self, backend: Backend) -> bool {
        self.has(backend, Flag::On)
    }

    /// The backends that get a CDR.
    pub fn cdr(self) -> impl Iterator<Item = Backend> {
        Backend::ALL.into_iter().filter(move |b| self.on(*b) && self.has(*b, Flag::Cdr))
    }

    /// Is any backend to get a CDR?
    pub fn any_cdr(self) -> bool {
        self.cdr().next().is_some()
    }

    /// Nothing is accounted.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `do_accounting(types, flags)`.
    #[must_use]
    pub fn add(self, types: Types, flags: Flags) -> Marks {
        let byte = u32::from(flags.0) | 1 << Flag::On as u8;
        types.iter().fold(self, |m, b| Marks(m.0 | byte << (b as u32 * 8)))
    }

    /// `drop_accounting(types, flags)`: no types = everything, no flags = the backends entirely.
    #[must_use]
    pub fn remove(self, types: Option<Types>, flags: Option<Flags>, mode: DropMode) -> Marks {
        let mut left = self;
        for b in types.unwrap_or(Types::ALL).iter() {
            let shift = b as u32 * 8;
            let byte = left.0 >> shift & 0xff;
            let kept = match flags {
                None => 0,
                Some(f) => {
                    let kept = byte & !u32::from(f.0);
                    let only_on = kept == 1 << Flag::On as u32;
                    let dropped_some = kept != byte;
                    if mode == DropMode::Stock && only_on && dropped_some { 0 } else { kept }
                }
            };
            left.0 = left.0 & !(0xff << shift) | kept << shift;
        }
        left
    }

    /// Clears `missed` once it made a record.
    #[must_use]
    pub const fn used_missed(self, backend: Backend) -> Marks {
        Marks(self.0 & !Marks::bit(backend, Flag::Missed))
    }

    /// Without this flag for any backend.
    #[must_use]
    pub fn without(self, flag: Flag) -> Marks {
        Backend::ALL.into_iter().fold(self, |m, b| Marks(m.0 & !Marks::bit(b, flag)))
    }

    /// Without the backends that get a CDR in `call` (D13).
    #[must_use]
    pub fn outside_cdr_of(self, call: Marks) -> Marks {
        call.cdr().fold(self, |m, b| Marks(m.0 & !(0xff << (b as u32 * 8))))
    }

    /// Without the backends that get a CDR here: what an in-dialog request may keep (D13).
    #[must_use]
    pub fn without_cdr(self) -> Marks {
        self.outside_cdr_of(self)
    }

    /// Union.
    #[must_use]
    pub const fn union(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn words_are_case_insensitive_and_blanks_are_free() {
        assert_eq!(Types::parse(b" Log | EVI"), Ok(Types(0b1001)));
        assert_eq!(Flags::parse(b"CDR|missed | Failed "), Ok(Flags(0b1110)));
    }

    #[test]
    fn unknown_words_are_named() {
        assert_eq!(Types::parse(b"log|foo"), Err(WordError::Type("foo".into())));
        assert_eq!(Types::parse(b""), Err(WordError::Type(String::new())));
        assert_eq!(Flags::parse(b"cdr|on"), Err(WordError::Flag("on".into())));
        assert_eq!(Flags::parse(b"cdr|"), Err(WordError::Flag(String::new())));
    }

    #[test]
    fn stock_mode_switches_a_backend_off_with_its_last_flag() {
        let m = Marks::default().add(Types(0b0001), Flags(0b0100));
        assert!(m.remove(Some(Types(1)), Some(Flags(0b0100)), DropMode::Stock).is_empty());
        assert!(m.remove(Some(Types(1)), Some(Flags(0b0100)), DropMode::Documented).on(Backend::Log));
        // A flag that was not set drops nothing, so nothing goes off.
        let plain = Marks::default().add(Types(1), Flags(0));
        assert_eq!(plain.remove(Some(Types(1)), Some(Flags(0b0010)), DropMode::Stock), plain);
    }

    /// A call as the model sees it.
    #[derive(Clone, Debug)]
    enum Call {
        Do(u8, u8),
        Drop(Option<u8>, Option<u8>),
    }

    fn call() -> impl Strategy<Value = Call> {
        let flags = (0u8..8).prop_map(|f| f << 1);
        prop_oneof![
            (1u8..16, flags.clone()).prop_map(|(t, f)| Call::Do(t, f)),
            (proptest::option::of(1u8..16), proptest::option::of(flags)).prop_map(|(t, f)| Call::Drop(t, f)),
        ]
    }

    proptest! {
        /// Any sequence of calls equals plain set operations on (backend, flag) pairs.
        #[test]
        fn any_sequence_equals_the_set_model(calls in proptest::collection::vec(call(), 0..12)) {
            let mut marks = Marks::default();
            let mut model: BTreeSet<(u8, u8)> = BTreeSet::new();
            for c in calls {
                match c {
                    Call::Do(t, f) => {
                        marks = marks.add(Types(t), Flags(f));
                        for b in (0..4).filter(|b| t >> b & 1 != 0) {
                            model.insert((b, 0));
                            model.extend((1..4).filter(|x| f >> x & 1 != 0).map(|x| (b, x)));
                        }
                    }
                    Call::Drop(t, f) => {
                        marks = marks.remove(t.map(Types), f.map(Flags), DropMode::Documented);
                        model.retain(|(b, x)| {
                            let named = t.is_none_or(|t| t >> b & 1 != 0);
                            let dropped = f.is_none_or(|f| f >> x & 1 != 0);
                            !(named && dropped)
                        });
                    }
                }
            }
            for b in 0..4u8 {
                for x in 0..4u8 {
                    prop_assert_eq!(marks.0 >> (b * 8 + x) & 1 != 0, model.contains(&(b, x)), "backend {} flag {}", b, x);
                }
            }
        }
    }
}
