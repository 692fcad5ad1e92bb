//! Accounting by message flags: what is watched, what a reply makes due, and the records of it.
//!
//! A host family says which flags are set, and reads the values ([`Source`]); this module does not know its types.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::clock::Moment;
use super::context::{self, Context, Reply};
use super::extras::{Extras, Named, Variable};
use super::marks::Types;
use super::names::is_identifier;
use super::order::EVENT_ORDER;
use super::record::{Backend, Core, EndCause, Field, Kind, Record, Shape, Signalling, Times, of_event};
use super::rules::Rules;

/// Number of a message flag in the server.
pub type Bit = u32;

/// How a parameter names a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlagName {
    /// By its number.
    Number(u32),
    /// By its name, which the server knows.
    Name(String),
}

/// The flags of each backend and the others, as names or as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags<F> {
    /// Accounting, by backend.
    pub accounting: [Option<F>; Backend::ALL.len()],
    /// Missed calls, by backend.
    pub missed: [Option<F>; Backend::ALL.len()],
    /// `failed_transaction_flag`.
    pub failed: Option<F>,
    /// `cdr_flag`.
    pub cdr: Option<F>,
    /// `acc_prepare_flag`.
    pub prepare: Option<F>,
}

impl<F> Default for Flags<F> {
    fn default() -> Flags<F> {
        Flags { accounting: [const { None }; _], missed: [const { None }; _], failed: None, cdr: None, prepare: None }
    }
}

impl<F> Flags<F> {
    /// The same flags, each as `f` converts it.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn resolve<G, E>(&self, mut f: impl FnMut(&F) -> Result<G, E>) -> Result<Flags<G>, E> {
        let mut out = Flags::default();
        for b in Backend::ALL {
            out.accounting[b.index()] = self.accounting[b.index()].as_ref().map(&mut f).transpose()?;
            out.missed[b.index()] = self.missed[b.index()].as_ref().map(&mut f).transpose()?;
        }
        for (to, from) in [(&mut out.failed, &self.failed), (&mut out.cdr, &self.cdr), (&mut out.prepare, &self.prepare)] {
            *to = from.as_ref().map(&mut f).transpose()?;
        }
        Ok(out)
    }

    /// Some flag could account something.
    pub fn is_used(&self) -> bool {
        self.accounting.iter().chain(&self.missed).any(Option::is_some)
    }
}

/// What the flags do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlagRules {
    /// The flags.
    pub flags: Flags<Bit>,
    /// `acc_prepare_always`: every INVITE is watched, so that flags set later count.
    pub prepare_always: bool,
    /// `failed_filter`: codes that make no transaction record.
    pub failed_filter: Vec<u16>,
    /// `report_ack`.
    pub report_ack: bool,
    /// `report_cancels`.
    pub report_cancels: bool,
    /// `early_media`.
    pub early_media: bool,
}

/// Keys of what a watched request's context keeps besides its values.
const CDR: &[u8] = b"#cdr";
const ON_FAILURE: &[u8] = b"#missed";

/// The flags that make a request a watched one: at least one of them is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The backends whose accounting flag is set.
    pub accounted: Types,
    /// Those whose missed flag is set.
    missed: Types,
    /// `acc_prepare_flag` is set, or `acc_prepare_always`.
    prepared: bool,
}

/// A transaction that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// A failure of all branches counts, before the script tries others.
    pub on_failure: bool,
    /// The call has a CDR instead of the record of its answer.
    pub cdr: bool,
}

impl Watched {
    /// Keeps it in the request's context.
    pub fn keep(self, ctx: &mut Context) {
        for (key, on) in [(CDR, self.cdr), (ON_FAILURE, self.on_failure)] {
            if on || ctx.extra.has(key) {
                ctx.put_extra(key, on.then_some(b"1"), usize::MAX);
            }
        }
    }

    /// What the request's context keeps.
    pub fn kept(ctx: &Context) -> Watched {
        Watched { on_failure: ctx.extra.get(ON_FAILURE).is_some(), cdr: ctx.extra.get(CDR).is_some() }
    }
}

/// The backends that get records of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Of the missed call.
    pub missed: Types,
    /// Of the transaction.
    pub transaction: Types,
}

impl Due {
    /// Nothing is due.
    pub const fn is_empty(self) -> bool {
        self.missed.0 == 0 && self.transaction.0 == 0
    }
}

impl FlagRules {
    fn those(flags: &[Option<Bit>; Backend::ALL.len()], is_set: impl Fn(Bit) -> bool) -> Types {
        let set = Backend::ALL.into_iter().filter(|b| flags[b.index()].is_some_and(&is_set));
        Types(set.fold(0, |types, b| types | 1 << b as u8))
    }

    /// The backends whose accounting flag is set.
    pub fn accounted(&self, is_set: impl Fn(Bit) -> bool) -> Types {
        FlagRules::those(&self.flags.accounting, is_set)
    }

    /// The backends whose missed flag is set, for an INVITE.
    pub fn missed(&self, method: &[u8], is_set: impl Fn(Bit) -> bool) -> Types {
        if method == b"INVITE" { FlagRules::those(&self.flags.missed, is_set) } else { Types(0) }
    }

    /// The flags that make a request a watched one; `None` if none of them is set.
    pub fn raised(&self, is_set: impl Fn(Bit) -> bool) -> Option<Raised> {
        let prepared = self.prepare_always || self.flags.prepare.is_some_and(&is_set);
        let raised = Raised { accounted: self.accounted(&is_set), missed: FlagRules::those(&self.flags.missed, &is_set), prepared };
        (prepared || !raised.accounted.is_empty() || !raised.missed.is_empty()).then_some(raised)
    }

    /// A request with these flags got its transaction: is it watched? Flags that are set later on another never count.
    pub fn watch(&self, request: &Core, raised: Raised, has_dialogs: bool, is_set: impl Fn(Bit) -> bool) -> Option<Watched> {
        if request.method == b"CANCEL" && !self.report_cancels || request.method == b"ACK" {
            return None;
        }
        let is_invite = request.method == b"INVITE";
        let is_call = is_invite && request.to_tag.is_empty();
        Some(Watched {
            on_failure: is_invite && (!raised.missed.is_empty() || raised.prepared),
            cdr: is_call && !raised.accounted.is_empty() && has_dialogs && self.flags.cdr.is_some_and(is_set),
        })
    }

    /// A flag may be both an accounting flag and a missed flag: the missed record then uses up both.
    pub fn shares_flags(&self) -> bool {
        self.flags.missed.iter().flatten().any(|bit| self.flags.accounting.contains(&Some(*bit)))
    }

    /// A missed record of a backend uses up this flag.
    pub fn is_missed_flag(&self, bit: Bit) -> bool {
        self.flags.missed.contains(&Some(bit))
    }

    /// The flags that the missed records of these backends use up.
    pub fn used_up(&self, missed: Types) -> impl Iterator<Item = Bit> {
        missed.iter().filter_map(|b| self.flags.missed[b.index()])
    }

    /// What a reply that goes upstream makes due. A missed flag that is also an accounting flag is used up
    /// by the missed record.
    pub fn on_reply(&self, request: &Core, cdr: bool, reply: &Reply, is_set: impl Fn(Bit) -> bool) -> Due {
        let missed = if reply.code >= 300 { self.missed(&request.method, &is_set) } else { Types(0) };
        let used: Vec<Bit> = self.used_up(missed).collect();
        let is_set = |bit| is_set(bit) && !used.contains(&bit);
        let counts = match reply.code {
            ..200 => self.early_media && reply.has_body,
            200..300 => !cdr,
            300.. => self.flags.failed.is_some_and(is_set) && !self.failed_filter.contains(&reply.code),
        };
        Due { missed, transaction: if counts { self.accounted(is_set) } else { Types(0) } }
    }
}

/// Where a host family reads values.
pub trait Source {
    /// The value of a variable at this moment.
    fn value(&self, index: usize, variable: &Variable) -> Option<Vec<u8>>;

    /// The value of the AVP with this index: the `n`-th, counted from the one that was set last.
    fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>>;
}

/// Values of one event, each read once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// By variable: those that a backend asked for.
    values: Vec<Option<Vec<u8>>>,
    is_read: Vec<bool>,
    /// Of each leg, by AVP.
    legs: Vec<Vec<Option<Vec<u8>>>>,
    /// The same for the BYE of a call.
    bye_values: Vec<Option<Vec<u8>>>,
    bye_legs: Vec<Vec<Option<Vec<u8>>>>,
}

/// Keys under which a context keeps what is [`Taken`]. No field tag and no variable begins with `#`.
const BYE: &str = "#bye";
const LEGS: &str = "#legs";
const LEG: &str = "#leg";
const BYE_LEGS: &str = "#byelegs";
const BYE_LEG: &str = "#byeleg";

impl Taken {
    /// Reads the values that records of these backends show.
    pub fn read(extras: &Extras, due: Types, source: &impl Source) -> Taken {
        let named = due.iter().flat_map(|b| &extras.extra[b.index()]).map(|n| n.value);
        let table = extras.table.filter(|_| due.has(Backend::Db));
        let (values, is_read) = values(extras, named.chain(table), source);
        Taken { values, is_read, legs: legs(extras, &extras.legs, source), ..Taken::default() }
    }

    /// Reads, at the BYE of a call, the values that its CDRs show of the BYE.
    pub fn read_bye(extras: &Extras, due: Types, source: &impl Source) -> Taken {
        let named = due.iter().flat_map(|b| &extras.bye[b.index()]).map(|n| n.value);
        let (bye_values, is_read) = values(extras, named, source);
        Taken { bye_values, is_read, bye_legs: legs(extras, &extras.bye_legs, source), ..Taken::default() }
    }

    /// The table that the script named, empty if none.
    ///
    /// # Errors
    /// The text, if it is not the name of a table.
    pub fn table(&self, extras: &Extras) -> Result<&[u8], &[u8]> {
        let named = extras.table.and_then(|i| self.values.get(i)?.as_deref()).unwrap_or_default();
        let is_one = |name: &str| name.is_empty() || name.split('.').count() <= 2 && name.split('.').all(is_identifier);
        if std::str::from_utf8(named).is_ok_and(is_one) { Ok(named) } else { Err(named) }
    }

    /// Keeps the values in a context of at most `most` bytes. Returns a key whose value was clipped, if there is one.
    pub fn keep(&self, extras: &Extras, ctx: &mut Context, most: usize) -> Option<String> {
        let mut clipped = None;
        let mut put = |key: String, value: &Option<Vec<u8>>| {
            if !ctx.put_extra(key.as_bytes(), value.as_deref(), most) {
                clipped = Some(key);
            }
        };
        for (i, v) in extras.variables.iter().enumerate().filter(|(i, _)| self.is_read.get(*i) == Some(&true)) {
            if let Some(value) = self.values.get(i) {
                put(v.key.to_string(), value);
            }
            if let Some(value) = self.bye_values.get(i) {
                put(format!("{BYE}{}", v.key), value);
            }
        }
        for (count, leg, all) in [(LEGS, LEG, &self.legs), (BYE_LEGS, BYE_LEG, &self.bye_legs)] {
            if all.is_empty() {
                continue;
            }
            put(count.to_owned(), &Some(all.len().to_string().into_bytes()));
            for (n, values) in all.iter().enumerate() {
                for (avp, value) in extras.avps.iter().zip(values).filter(|(_, value)| value.is_some()) {
                    put(format!("{leg}{n}${avp}"), value);
                }
            }
        }
        clipped
    }

    /// What a context keeps.
    pub fn kept(extras: &Extras, values: &context::Values) -> Taken {
        let get = |key: &str| values.get(key.as_bytes()).map(<[u8]>::to_vec);
        let legs = |count: &str, leg: &str| {
            let n: usize = get(count).and_then(|n| String::from_utf8(n).ok()?.parse().ok()).unwrap_or(0);
            // A damaged count makes no more legs than there are values.
            let of = |n: usize| extras.avps.iter().map(|avp| get(&format!("{leg}{n}${avp}"))).collect::<Vec<_>>();
            (0..n).map(of).take_while(|leg| leg.iter().any(Option::is_some)).collect()
        };
        Taken {
            is_read: vec![true; extras.variables.len()],
            values: extras.variables.iter().map(|v| get(&v.key)).collect(),
            legs: legs(LEGS, LEG),
            bye_values: extras.variables.iter().map(|v| get(&format!("{BYE}{}", v.key))).collect(),
            bye_legs: legs(BYE_LEGS, BYE_LEG),
        }
    }

    /// These values with the legs of another event.
    #[must_use]
    pub fn with_legs_of(self, other: Taken) -> Taken {
        Taken { legs: other.legs, ..self }
    }

    fn fields(&self, extras: &Extras, backend: Backend, kind: Kind) -> Vec<Field> {
        let value = |values: &[Option<Vec<u8>>], n: &Named| Field { name: Arc::clone(&n.name), value: values.get(n.value).cloned().flatten() };
        let mut fields: Vec<_> = extras.extra[backend.index()].iter().map(|n| value(&self.values, n)).collect();
        if kind == Kind::Cdr {
            fields.extend(extras.bye[backend.index()].iter().map(|n| value(&self.bye_values, n)));
        }
        fields
    }

    /// One list for each leg; in a CDR, with the BYE's values after the INVITE's. If legs are declared, there is at least one.
    fn leg_fields(&self, extras: &Extras, kind: Kind) -> Vec<Vec<Field>> {
        let is_cdr = kind == Kind::Cdr;
        let bye = if is_cdr { &extras.bye_legs[..] } else { &[] };
        if extras.legs.is_empty() && bye.is_empty() {
            return Vec::new();
        }
        let value = |legs: &[Vec<Option<Vec<u8>>>], n: usize, named: &Named| Field {
            name: Arc::clone(&named.name),
            value: legs.get(n).and_then(|leg| leg.get(named.value).cloned().flatten()),
        };
        let n = self.legs.len().max(if is_cdr { self.bye_legs.len() } else { 0 }).max(1);
        let leg = |n| {
            let of_invite = extras.legs.iter().map(|named| value(&self.legs, n, named));
            of_invite.chain(bye.iter().map(|named| value(&self.bye_legs, n, named))).collect()
        };
        (0..n).map(leg).collect()
    }

    /// Appends the values to those of a record in the shape of `do_accounting()`.
    pub fn join(&self, extras: &Extras, record: &mut Record) {
        record.extras.extend(self.fields(extras, record.backend, record.kind));
        if record.legs.is_empty() {
            record.legs = self.leg_fields(extras, record.kind);
        }
    }
}

/// Reads some variables, each once.
fn values(extras: &Extras, wanted: impl Iterator<Item = usize>, source: &impl Source) -> (Vec<Option<Vec<u8>>>, Vec<bool>) {
    let mut is_wanted = vec![false; extras.variables.len()];
    wanted.for_each(|i| is_wanted[i] = true);
    let read = |(i, v)| if is_wanted[i] { source.value(i, v) } else { None };
    (extras.variables.iter().enumerate().map(read).collect(), is_wanted)
}

/// Reads legs until no AVP has a value.
fn legs(extras: &Extras, declared: &[Named], source: &impl Source) -> Vec<Vec<Option<Vec<u8>>>> {
    let is_declared = |i: usize| declared.iter().any(|n| n.value == i);
    let leg = |n| (0..extras.avps.len()).map(|i| if is_declared(i) { source.avp(i, n) } else { None }).collect::<Vec<_>>();
    (0..).map(leg).take_while(|leg| leg.iter().any(Option::is_some)).collect()
}

/// What the records of an event have in common.
pub struct Event<'a> {
    /// What happened.
    pub kind: Kind,
    /// Method, tags, Call-ID, code, reason.
    pub core: &'a Core,
    /// From and To swap.
    pub upstream: bool,
    /// The request had a To tag.
    pub in_dialog: bool,
    /// Arrival of the request.
    pub created: Moment,
    /// Completion, or the answer of a call.
    pub time: Moment,
    /// The record shows when the request came: it belongs to a call with a CDR.
    pub timed: bool,
    /// Milliseconds from the answer to the end (CDR only).
    pub duration_ms: Option<i64>,
    /// How the call ended (CDR only).
    pub end: Option<EndCause>,
    /// What was seen of the signalling.
    pub signalling: Signalling,
    /// The table that the script named; empty = that of the parameters.
    pub table: &'a [u8],
}

/// The record of a backend, in the shape of message flags.
pub fn record(rules: &Rules, backend: Backend, event: &Event<'_>, taken: &Taken) -> Record {
    let mut core = event.core.clone();
    if event.upstream {
        std::mem::swap(&mut core.from_tag, &mut core.to_tag);
    }
    let extras = &rules.fields.flags;
    let id = of_event(event.kind, &core, event.created, event.time);
    Record {
        kind: event.kind,
        shape: Shape::Flags,
        backend,
        table: rules.table_of(backend, event.kind, event.table),
        core,
        time: event.time.wall,
        times: event.timed.then(|| Times { created: event.created.wall, setup_ms: event.time.millis_since(event.created) }),
        duration_ms: event.duration_ms,
        end: event.end,
        signalling: event.signalling.clone(),
        reported: false,
        in_dialog: event.in_dialog,
        extras: taken.fields(extras, backend, event.kind),
        legs: taken.leg_fields(extras, event.kind),
        id,
    }
}

/// A manual record, in the shape of message flags.
pub fn shaped(rules: &Rules, record: Record, taken: &Taken) -> Record {
    let extras = &rules.fields.flags;
    Record {
        shape: Shape::Flags,
        times: None,
        extras: taken.fields(extras, record.backend, record.kind),
        legs: taken.leg_fields(extras, record.kind),
        ..record
    }
}

/// The records of some backends, in the order of an event.
pub fn records(rules: &Rules, due: Types, event: &Event<'_>, taken: &Taken) -> Vec<Record> {
    EVENT_ORDER.into_iter().filter(|b| due.has(*b)).map(|b| record(rules, b, event, taken)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::accounting::extras::Family;

    const LOG: Types = Types::one(Backend::Log);
    const DB: Types = Types::one(Backend::Db);

    /// Flags 0 and 1 account to log and SQL, 10 and 11 their missed calls, 20 failures, 21 CDRs.
    fn rules() -> FlagRules {
        let mut flags = Flags { failed: Some(20), cdr: Some(21), ..Flags::default() };
        for (backend, n) in [(Backend::Log, 0), (Backend::Db, 1)] {
            (flags.accounting[backend.index()], flags.missed[backend.index()]) = (Some(n), Some(10 + n));
        }
        FlagRules { flags, failed_filter: vec![404], ..FlagRules::default() }
    }

    fn request(method: &str, to_tag: &str) -> Core {
        Core { method: method.into(), to_tag: to_tag.into(), ..Core::default() }
    }

    fn set(bits: &[Bit]) -> impl Fn(Bit) -> bool + '_ {
        move |bit| bits.contains(&bit)
    }

    fn watch(rules: &FlagRules, request: &Core, has_dialogs: bool, bits: &[Bit]) -> Option<Watched> {
        rules.watch(request, rules.raised(set(bits))?, has_dialogs, set(bits))
    }

    #[test]
    fn what_is_watched() {
        let (invite, inside, cancel) = (request("INVITE", ""), request("INVITE", "t"), request("CANCEL", ""));
        let some = |on_failure, cdr| Some(Watched { on_failure, cdr });
        for (request, bits, want) in [
            (&invite, &[][..], None),
            (&invite, &[20, 21], None),
            (&invite, &[0], some(false, false)),
            (&invite, &[11], some(true, false)),
            (&invite, &[11, 21], some(true, false)),
            (&invite, &[1, 21], some(false, true)),
            (&inside, &[1, 21], some(false, false)),
            (&request("MESSAGE", ""), &[10, 21], some(false, false)),
            (&cancel, &[0], None),
            (&request("ACK", "t"), &[0], None),
        ] {
            assert_eq!(watch(&rules(), request, true, bits), want, "{request:?} {bits:?}");
        }
        assert_eq!(watch(&rules(), &invite, false, &[0, 21]), some(false, false), "there are no dialogs");
        assert_eq!(watch(&FlagRules { report_cancels: true, ..rules() }, &cancel, true, &[0]), some(false, false));
        assert_eq!(watch(&FlagRules { prepare_always: true, ..rules() }, &invite, true, &[]), some(true, false));
    }

    #[test]
    fn what_a_reply_makes_due() {
        let invite = request("INVITE", "");
        let due = |method: &str, cdr, code, bits: &[Bit]| {
            let reply = Reply { code, has_body: true, ..Reply::default() };
            let due = FlagRules { early_media: true, ..rules() }.on_reply(&request(method, ""), cdr, &reply, set(bits));
            (due.missed, due.transaction)
        };
        let none = Types(0);
        for (method, cdr, code, bits, want) in [
            ("INVITE", false, 200, &[0, 1, 10, 20][..], (none, LOG.or(DB))),
            ("INVITE", true, 200, &[0], (none, none)),
            ("INVITE", true, 183, &[0], (none, LOG)),
            ("INVITE", false, 486, &[0], (none, none)),
            ("INVITE", false, 486, &[20], (none, none)),
            ("INVITE", false, 486, &[0, 11, 20], (DB, LOG)),
            ("INVITE", true, 486, &[0, 11, 20], (DB, LOG)),
            ("INVITE", false, 404, &[0, 10, 20], (LOG, none)),
            ("MESSAGE", false, 486, &[0, 10, 20], (none, LOG)),
        ] {
            assert_eq!(due(method, cdr, code, bits), want, "{method} {code} {bits:?}");
        }
        let mut same = rules();
        same.flags.missed = same.flags.accounting;
        let reply = Reply { code: 486, ..Reply::default() };
        assert_eq!(same.on_reply(&invite, false, &reply, set(&[0, 20])), Due { missed: LOG, transaction: none }, "one use clears it");
        let silent = Reply { code: 183, ..Reply::default() };
        assert!(FlagRules { early_media: true, ..rules() }.on_reply(&invite, false, &silent, set(&[0])).is_empty());
    }

    struct Fixed;

    impl Source for Fixed {
        fn value(&self, _index: usize, v: &Variable) -> Option<Vec<u8>> {
            (*v.text != *"$avp(none)").then(|| if *v.text == *"$avp(empty)" { Vec::new() } else { v.key.as_bytes().to_vec() })
        }

        /// The first AVP has two values, the second one.
        fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>> {
            (n + index < 2).then(|| format!("{index}{n}").into_bytes())
        }
    }

    fn extras() -> Extras {
        let mut extras = Extras::default();
        extras.set(Backend::Log, "a=$fu; b=$avp(none); c=$rs/reply; a=$avp(empty)", Family::OpenSips).unwrap();
        extras.set(Backend::Db, "x=$ru", Family::OpenSips).unwrap();
        extras.set_bye(Backend::Log, "d=$rm", Family::OpenSips).unwrap();
        extras.set_legs("src=$avp(s); dst=$avp(d)").unwrap();
        extras.set_bye_legs("end=$avp(d)").unwrap();
        extras.set_table("$avp(t)", Family::OpenSips).unwrap();
        extras
    }

    fn shown(fields: &[Field]) -> String {
        let value = |f: &Field| f.value.as_ref().map_or("-".into(), |v| String::from_utf8_lossy(v).into_owned());
        fields.iter().map(|f| format!("{}={}", f.name, value(f))).collect::<Vec<_>>().join(" ")
    }

    /// Values that went through a context, whose encoding is that of the journal and of dialogs, are the same.
    #[test]
    fn values_are_kept_for_the_end_of_a_call() {
        let extras = extras();
        let mut ctx = Context::default();
        assert_eq!(Taken::read(&extras, LOG.or(DB), &Fixed).keep(&extras, &mut ctx, usize::MAX), None);
        assert_eq!(Taken::read_bye(&extras, LOG, &Fixed).keep(&extras, &mut ctx, usize::MAX), None);
        let mut bytes = Vec::new();
        ctx.encode(&mut bytes);
        let kept = Taken::kept(&extras, &Context::decode(&bytes).unwrap().extra);
        assert_eq!(shown(&kept.fields(&extras, Backend::Log, Kind::Cdr)), "a=$fu b=- c=$rs/reply a= d=$rm");
        assert_eq!(shown(&kept.fields(&extras, Backend::Log, Kind::Transaction)), "a=$fu b=- c=$rs/reply a=");
        assert_eq!(shown(&kept.fields(&extras, Backend::Db, Kind::Cdr)), "x=$ru");
        let legs: Vec<_> = kept.leg_fields(&extras, Kind::Cdr).iter().map(|leg| shown(leg)).collect();
        assert_eq!(legs, ["src=00 dst=10 end=10", "src=01 dst=- end=-"]);
        assert_eq!(kept.table(&extras), Err(&b"$avp(t)"[..]), "a name that no statement can contain");
        assert_eq!(shown(&Taken::default().leg_fields(&extras, Kind::Transaction)[0]), "src=- dst=-", "one empty leg");
    }

    #[test]
    fn a_full_context_clips_and_says_so() {
        let extras = extras();
        let mut ctx = Context::default();
        let most = ctx.encoded_len() + 40;
        assert!(Taken::read(&extras, LOG, &Fixed).keep(&extras, &mut ctx, most).is_some());
        assert!(ctx.encoded_len() <= most);
    }

    proptest! {
        /// A damaged number of legs makes no legs.
        #[test]
        fn what_is_kept_never_panics(n in "[0-9]{0,12}") {
            let mut ctx = Context::default();
            ctx.put_extra(LEGS.as_bytes(), Some(n.as_bytes()), usize::MAX);
            prop_assert!(Taken::kept(&extras(), &ctx.extra).legs.is_empty());
        }
    }
}
