//! What is accounted where: the algebra of `do_accounting` and `drop_accounting`.
//!
//! Marks are a set of (backend, flag) pairs. `do_accounting` adds, `drop_accounting` takes away;
//! flags belong to the backends named in the same call (D14), and dropping touches only the
//! backends named (D15).
#![forbid(unsafe_code)]

use super::wire::Reader;
use crate::declaration::{Backend, By, DESTINATIONS_MAX};

/// A flag of a backend. The numbers are the bits that the original stores in
/// a dialog's `accX_flags`, one byte per backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// Normal accounting: answered transactions.
    On = 0,
    /// One record at the end of the dialog instead of one for the INVITE.
    Cdr = 1,
    /// Failed attempts are missed calls; cleared by the record it makes.
    Missed = 2,
    /// Also accounts transactions with a negative final reply.
    Failed = 3,
    /// A CDR requested by message flags; script functions neither set nor drop it.
    CdrByFlag = 4,
    /// A record when the call begins, beside its CDR.
    Start = 5,
    /// Records while the call is up, beside its CDR; includes `Start`.
    Interim = 6,
}

impl Flag {
    const NAMED: [Flag; 5] = [Flag::Cdr, Flag::Missed, Flag::Failed, Flag::Start, Flag::Interim];

    const fn name(self) -> &'static str {
        match self {
            Flag::On => "on",
            Flag::Cdr => "cdr",
            Flag::Missed => "missed",
            Flag::Failed => "failed",
            Flag::CdrByFlag => "cdr by flag",
            Flag::Start => "start",
            Flag::Interim => "interim",
        }
    }
}

/// A set of (backend, flag) pairs: byte `b` has the flags of the backend with number `b`, even if this build
/// does not know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Marks(u128);

const _: () = assert!(DESTINATIONS_MAX <= size_of::<Marks>());

/// The backends named in a call, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Types(pub u16);

/// The flags named in a call, as a set of `cdr`, `missed`, `failed`, `start`, `interim`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

/// What `drop_accounting(type, flags)` does to a backend's normal accounting (D15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropMode {
    /// Only the flags are cleared, as the documentation of the original says.
    Documented,
    /// A backend whose last flag is dropped is turned off, as in the original since 3.4.3.
    Stock,
}

impl DropMode {
    /// Values of the parameter.
    pub const NAMES: [(&str, DropMode); 2] = [("documented", DropMode::Documented), ("stock", DropMode::Stock)];
}

/// A word that is not a backend or not a flag.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    /// Not a backend.
    #[error("\"{0}\" is not an accounting backend: use {names}, joined by '|' if more than one", names = Backend::names())]
    Type(String),
    /// Not a flag.
    #[error("\"{0}\" is not an accounting flag: use cdr, missed, failed, start or interim, joined by '|' if more than one")]
    Flag(String),
}

impl Types {
    /// Every backend.
    pub const ALL: Types = {
        let (mut set, mut i) = (0, 0);
        while i < Backend::COUNT {
            set |= 1 << Backend::ALL[i] as u8;
            i += 1;
        }
        Types(set)
    };

    /// Only this backend.
    pub const fn one(backend: Backend) -> Types {
        Types(1 << backend as u8)
    }

    /// Reads names of backends, joined by `|`; case and surrounding blanks do not matter.
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

    /// Those that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Types) -> Types {
        Types(self.0 & !other.0)
    }

    /// Those that are also in `other`.
    #[must_use]
    pub const fn and(self, other: Types) -> Types {
        Types(self.0 & other.0)
    }

    /// Together with `other`.
    #[must_use]
    pub const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    /// The backends in [`Marks::bits`].
    const fn of_bits(mut bits: u128) -> Types {
        let mut set = 0;
        while bits != 0 {
            set |= 1 << (bits.trailing_zeros() / 8);
            bits &= bits - 1;
        }
        Types(set)
    }

    /// No backend is named.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
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

impl Flag {
    /// This flag alone.
    pub const fn only(self) -> Flags {
        Flags(1 << self as u8)
    }
}

impl Flags {
    /// Reads names of flags, joined by `|`; case and surrounding blanks do not matter.
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

    /// Does the call want records while it is up?
    pub const fn report(self) -> bool {
        self.has(Flag::Start) || self.has(Flag::Interim)
    }

    /// Without this flag.
    #[must_use]
    pub const fn without(self, flag: Flag) -> Flags {
        Flags(self.0 & !(1 << flag as u8))
    }
}

impl Marks {
    /// The lowest bit of each backend's byte.
    const LOWEST: u128 = {
        let (mut bits, mut i) = (0, 0);
        while i < Backend::COUNT {
            bits |= 1 << (Backend::ALL[i] as u32 * 8);
            i += 1;
        }
        bits
    };

    /// The flag of each backend, at its lowest bit.
    const fn bits(self, flag: Flag) -> u128 {
        self.0 >> flag as u32 & Marks::LOWEST
    }

    /// The backends that get a CDR because of a script function, as [`Marks::bits`].
    const fn cdr_bits(self) -> u128 {
        self.bits(Flag::On) & self.bits(Flag::Cdr)
    }

    const fn bit(backend: Backend, flag: Flag) -> u128 {
        1 << (backend as u32 * 8 + flag as u32)
    }

    /// The two halves of the set, for memory that is written in words.
    pub const fn words(self) -> [u64; 2] {
        [self.0 as u64, (self.0 >> 64) as u64]
    }

    /// Reverses [`Marks::words`].
    pub const fn of_words([low, high]: [u64; 2]) -> Marks {
        Marks(low as u128 | (high as u128) << 64)
    }

    /// Appends the encoding: a count, then that many bytes, one per backend by its number; the other backends have no marks.
    pub fn encode(self, out: &mut Vec<u8>) {
        let bytes = self.0.to_le_bytes();
        let count = bytes.len() - self.0.leading_zeros() as usize / 8;
        out.push(count as u8);
        out.extend_from_slice(&bytes[..count]);
    }

    /// Reads what [`Marks::encode`] wrote; it never ends with a zero.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<Marks> {
        let count = usize::from(r.u8()?);
        let mut bytes = [0; size_of::<u128>()];
        bytes.get_mut(..count)?.copy_from_slice(r.take(count)?);
        (bytes[..count].last() != Some(&0)).then(|| Marks(u128::from_le_bytes(bytes)))
    }

    /// Sets these bits of [`Flag`]s for a backend.
    #[must_use]
    pub const fn with(self, backend: Backend, flags: u8) -> Marks {
        Marks(self.0 | (flags as u128) << (backend as u32 * 8))
    }

    /// Is the flag set for the backend?
    pub const fn has(self, backend: Backend, flag: Flag) -> bool {
        self.0 & Marks::bit(backend, flag) != 0
    }

    /// Is accounting on, by the script or by message flags, for a backend whose records go through the journal?
    pub const fn on_in_journal(self) -> bool {
        const BITS: u128 = {
            let (mut bits, mut i) = (0, 0);
            while i < Backend::COUNT {
                if matches!(Backend::ALL[i].by(), By::Delivery) {
                    bits |= Marks::bit(Backend::ALL[i], Flag::On) | Marks::bit(Backend::ALL[i], Flag::CdrByFlag);
                }
                i += 1;
            }
            bits
        };
        self.0 & BITS != 0
    }

    /// Is normal accounting on for the backend?
    pub const fn on(self, backend: Backend) -> bool {
        self.has(backend, Flag::On)
    }

    /// The backends that get a CDR.
    pub fn cdr(self) -> impl Iterator<Item = Backend> {
        self.cdr_by_script().or(self.cdr_by_flag()).iter()
    }

    /// The backends that get a CDR because of a script function.
    pub const fn cdr_by_script(self) -> Types {
        Types::of_bits(self.cdr_bits())
    }

    /// The backends that get a CDR because of message flags.
    pub const fn cdr_by_flag(self) -> Types {
        Types::of_bits(self.bits(Flag::CdrByFlag))
    }

    /// With exactly these backends for [`Flag::CdrByFlag`].
    #[must_use]
    pub fn with_cdr_by_flag(self, types: Types) -> Marks {
        types.iter().fold(self.without(Flag::CdrByFlag), |m, b| Marks(m.0 | Marks::bit(b, Flag::CdrByFlag)))
    }

    /// The backends whose normal accounting is on.
    pub const fn types(self) -> Types {
        self.having(Flag::On)
    }

    /// The backends with this flag.
    pub const fn having(self, flag: Flag) -> Types {
        Types::of_bits(self.bits(flag))
    }

    /// The backends that get such a record ([`Flag::Start`] or [`Flag::Interim`]) beside their CDR.
    pub const fn reported(self, flag: Flag) -> Types {
        Types::of_bits(self.cdr_bits() & self.bits(flag))
    }

    /// Does any backend get a CDR?
    pub const fn any_cdr(self) -> bool {
        (self.cdr_bits() | self.bits(Flag::CdrByFlag)) != 0
    }

    /// Nothing is accounted.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `do_accounting(types, flags)`.
    #[must_use]
    pub fn add(self, types: Types, flags: Flags) -> Marks {
        let flags = if flags.has(Flag::Interim) { Flags(flags.0 | 1 << Flag::Start as u8) } else { flags };
        types.iter().fold(self, |m, b| m.with(b, flags.0 | 1 << Flag::On as u8))
    }

    /// `drop_accounting(types, flags)`: no types = all backends, no flags = everything of these backends. In the mode of
    /// the original, a backend that is left without `cdr`, `missed` and `failed` is turned off.
    #[must_use]
    pub fn remove(self, types: Option<Types>, flags: Option<Flags>, mode: DropMode) -> Marks {
        const OPTIONS: u128 = (1 << Flag::Cdr as u8) | (1 << Flag::Missed as u8) | (1 << Flag::Failed as u8);
        let mut left = self;
        for b in types.unwrap_or(Types::ALL).iter() {
            let shift = b as u32 * 8;
            let byte = left.0 >> shift & 0xff;
            let kept = match flags {
                None => byte & 1 << Flag::CdrByFlag as u32,
                Some(f) => {
                    // Interim records begin with that of the start, and both need the CDR.
                    let reports = (1 << Flag::Start as u8) | (1 << Flag::Interim as u8);
                    let f = if f.has(Flag::Cdr) || f.has(Flag::Start) { Flags(f.0 | reports) } else { f };
                    let kept = byte & !u128::from(f.0);
                    if mode == DropMode::Stock && kept & OPTIONS == 0 { byte & 1 << Flag::CdrByFlag as u32 } else { kept }
                }
            };
            left.0 = left.0 & !(0xff << shift) | kept << shift;
        }
        left
    }

    /// The same inside an answered call. Its answer has settled that it gets a CDR: the flag `cdr` can no longer be dropped,
    /// and the CDR is written to the backends that are on at its end.
    #[must_use]
    pub fn remove_answered(self, types: Option<Types>, flags: Option<Flags>, mode: DropMode) -> Marks {
        let left = self.remove(types, flags, mode);
        let settled = self.remove(types, flags.map(|f| f.without(Flag::Cdr)), DropMode::Documented);
        let bits = left.types().iter().fold(0, |bits, b| bits | 0xff << (b as u32 * 8));
        Marks(left.0 & !bits | settled.0 & bits)
    }

    /// Clears `missed` after it has made a record.
    #[must_use]
    pub const fn used_missed(self, backend: Backend) -> Marks {
        Marks(self.0 & !Marks::bit(backend, Flag::Missed))
    }

    /// Without this flag for any backend.
    #[must_use]
    pub const fn without(self, flag: Flag) -> Marks {
        Marks(self.0 & !(Marks::LOWEST << flag as u32))
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
    fn records_of_a_call_that_is_up_go_with_its_cdr() {
        let db = Types::one(Backend::Db);
        let marked = |flags: &[u8]| Marks::default().add(db, Flags::parse(flags).unwrap());
        for dropped in [&b"start"[..], b"cdr"] {
            let left = marked(b"cdr|interim|failed").remove(Some(db), Some(Flags::parse(dropped).unwrap()), DropMode::Stock);
            assert!(left.reported(Flag::Start).is_empty() && left.reported(Flag::Interim).is_empty() && left.has(Backend::Db, Flag::Failed));
        }
        let left = marked(b"cdr|interim").remove(Some(db), Some(Flags::parse(b"interim").unwrap()), DropMode::Stock);
        assert!(!left.reported(Flag::Start).is_empty() && left.reported(Flag::Interim).is_empty());
    }

    #[test]
    fn unknown_words_are_named() {
        assert_eq!(Types::parse(b"log|foo"), Err(WordError::Type("foo".into())));
        assert_eq!(Types::parse(b""), Err(WordError::Type(String::new())));
        assert_eq!(Flags::parse(b"cdr|on"), Err(WordError::Flag("on".into())));
        assert_eq!(Flags::parse(b"start|INTERIM"), Ok(Flags(0b110_0000)));
        assert_eq!(Flags::parse(b"cdr|"), Err(WordError::Flag(String::new())));
    }

    #[test]
    fn stock_mode_switches_a_backend_off_with_its_last_flag() {
        let m = Marks::default().add(Types(0b0001), Flags(0b0100));
        assert!(m.remove(Some(Types(1)), Some(Flags(0b0100)), DropMode::Stock).is_empty());
        assert!(m.remove(Some(Types(1)), Some(Flags(0b0100)), DropMode::Documented).on(Backend::Log));
        // As with the original, whether the flag was set or not; backends that are not named stay on (D15).
        let plain = Marks::default().add(Types(0b11), Flags(0));
        assert_eq!(plain.remove(Some(Types(1)), Some(Flags(0b0010)), DropMode::Stock).types(), Types(0b10));
    }

    #[test]
    fn an_answered_call_keeps_its_cdr_while_the_backend_is_on() {
        let log = Some(Types(0b0001));
        let cdr = Some(Flag::Cdr.only());
        let marked = |flags: &[u8]| Marks::default().add(Types(0b0001), Flags::parse(flags).unwrap());
        let (all, only) = (marked(b"cdr|missed|interim"), marked(b"cdr"));
        assert_eq!(all.remove_answered(log, cdr, DropMode::Documented), all);
        assert_eq!(all.remove_answered(log, cdr, DropMode::Stock), all);
        assert_eq!(all.remove_answered(log, Some(Flags::parse(b"missed|interim").unwrap()), DropMode::Stock), marked(b"cdr|start"));
        assert_eq!(only.remove_answered(log, cdr, DropMode::Documented), only);
        assert!(only.remove_answered(log, cdr, DropMode::Stock).is_empty());
        assert!(all.remove_answered(log, None, DropMode::Documented).is_empty());
    }

    #[test]
    fn interim_records_begin_with_one_of_the_start() {
        let (db, aaa) = (Types::one(Backend::Db), Types::one(Backend::Aaa));
        let m = Marks::default().add(db, Flags::parse(b"cdr|interim").unwrap()).add(aaa, Flags::parse(b"cdr|start").unwrap());
        assert_eq!((m.reported(Flag::Start), m.reported(Flag::Interim)), (db.or(aaa), db));
        let without_interim = m.remove(Some(db), Some(Flag::Interim.only()), DropMode::Documented);
        assert_eq!((without_interim.reported(Flag::Start), without_interim.reported(Flag::Interim)), (db.or(aaa), Types(0)));
        assert!(m.remove(None, Some(Flag::Cdr.only()), DropMode::Documented).reported(Flag::Start).is_empty());
    }

    #[test]
    fn marks_have_one_encoding() {
        for (bytes, read) in [(&[0][..], true), (&[1, 5], true), (&[3, 5, 0, 1], true), (&[1, 0], false), (&[2, 5, 0], false), (&[17], false)] {
            let mut reader = Reader(bytes);
            assert_eq!(Marks::decode(&mut reader).is_some(), read, "{bytes:?}");
        }
    }

    #[test]
    fn scripts_leave_the_cdrs_of_flags_alone() {
        let (log, db) = (Types::one(Backend::Log), Types::one(Backend::Db));
        let m = Marks::default().add(log, Flags(2)).with_cdr_by_flag(db);
        assert_eq!((m.cdr().count(), m.cdr_by_flag(), m.cdr_by_script(), m.types()), (2, db, log, log));
        let left = m.remove(None, None, DropMode::Documented);
        assert_eq!((left.cdr().collect::<Vec<_>>(), left.on(Backend::Db)), (vec![Backend::Db], false));
        assert!(left.with_cdr_by_flag(Types(0)).is_empty());
    }

    /// A call of a script function, as the model represents it.
    #[derive(Clone, Debug)]
    enum Call {
        Do(u16, u8),
        Drop(Option<u16>, Option<u8>),
    }

    fn call() -> impl Strategy<Value = Call> {
        let flags = (0u8..8).prop_map(|f| f << 1);
        prop_oneof![
            (1u16..16, flags.clone()).prop_map(|(t, f)| Call::Do(t, f)),
            (proptest::option::of(1u16..16), proptest::option::of(flags)).prop_map(|(t, f)| Call::Drop(t, f)),
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
                        for b in (0..4u8).filter(|b| t >> b & 1 != 0) {
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
