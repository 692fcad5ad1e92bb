//! Transactions that are watched because of message flags, the same in every host family. The values of the
//! request are read while it is private, and kept in a context of their own; those of branches and replies
//! are added as they come.

use crate::accounting::context::{Context, Reply};
use crate::accounting::extras::{Class, Extras, Variable};
use crate::accounting::flags::{Source, Watched};

/// Where the family reads values.
pub trait Reading {
    /// The value of the variable with this index, of a message that is private.
    fn of_message(&self, index: usize) -> Option<Vec<u8>>;

    /// The same for a variable that needs no message.
    fn of_moment(&self, index: usize) -> Option<Vec<u8>>;

    /// The value of an AVP: the `n`-th, counted from the one that was set last.
    fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>>;
}

/// Keys of what a context keeps besides the values themselves. No variable begins like this.
const LAST: &[u8] = b"#last";
const CSEQ: &[u8] = b"#cseq";

fn of_branch(branch: u32, key: &str) -> Vec<u8> {
    format!("#b{branch}:{key}").into_bytes()
}

fn answer_of(branch: u32) -> Vec<u8> {
    format!("#a{branch}").into_bytes()
}

/// What distinguishes the reply of one branch from others.
fn answer(code: u16, to_tag: &[u8]) -> Vec<u8> {
    [code.to_string().as_bytes(), b" ", to_tag].concat()
}

/// Is this a variable that is read on every reply?
fn is_read_on_reply(v: &Variable) -> bool {
    v.of_reply && matches!(v.class, Class::Message | Class::Branch)
}

/// Are values read on replies?
pub fn needs_replies(extras: &Extras) -> bool {
    needs_branches(extras) || extras.variables.iter().any(is_read_on_reply)
}

/// Are values read on branches?
pub fn needs_branches(extras: &Extras) -> bool {
    extras.variables.iter().any(|v| !v.of_reply && v.class == Class::Branch)
}

/// A context that keeps values, each as far as it has room.
pub struct Keeper<'a> {
    /// The context.
    pub ctx: &'a mut Context,
    /// Most bytes it may take.
    pub most: usize,
    /// The key of a value that was clipped.
    pub clipped: Option<Vec<u8>>,
}

impl Keeper<'_> {
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        if !self.ctx.put_extra(key, value, self.most) {
            self.clipped = Some(key.to_vec());
        }
    }

    /// Keeps the values of the request.
    pub fn request(&mut self, extras: &Extras, watched: Watched, cseq: Option<&[u8]>, read: &impl Reading) {
        watched.keep(self.ctx);
        if let Some(cseq) = cseq {
            self.put(CSEQ, Some(cseq));
        }
        for (i, v) in extras.variables.iter().enumerate() {
            if !v.of_reply && matches!(v.class, Class::Message | Class::Branch) {
                self.put(v.key.as_bytes(), read.of_message(i).as_deref());
            }
        }
    }

    fn last(&mut self, branch: u32) {
        if last(self.ctx).is_none_or(|last| last < branch) {
            self.put(LAST, Some(branch.to_string().as_bytes()));
        }
    }

    /// Keeps the values of a branch that is forwarded.
    pub fn branch(&mut self, extras: &Extras, branch: u32, read: &impl Reading) {
        self.last(branch);
        for (i, v) in extras.variables.iter().enumerate() {
            if !v.of_reply && v.class == Class::Branch {
                self.put(&of_branch(branch, &v.key), read.of_message(i).as_deref());
            }
        }
    }

    /// Keeps the values of a reply that came to a branch.
    pub fn reply(&mut self, extras: &Extras, branch: u32, reply: &Reply, read: &impl Reading) {
        self.last(branch);
        self.put(&answer_of(branch), Some(&answer(reply.code, &reply.to_tag)));
        for (i, v) in extras.variables.iter().enumerate().filter(|(_, v)| is_read_on_reply(v)) {
            self.put(&of_branch(branch, &v.key), read.of_message(i).as_deref());
        }
    }
}

fn last(ctx: &Context) -> Option<u32> {
    std::str::from_utf8(ctx.extra.get(LAST)?).ok()?.parse().ok()
}

/// Number of the INVITE, if it was kept.
pub fn cseq(ctx: &Context) -> Option<&[u8]> {
    ctx.extra.get(CSEQ)
}

/// The branch whose reply is reported: `picked`, if the server has named it, otherwise the latest that got such a
/// reply. In that case, the server's own replies count for the last branch.
pub fn branch_of(ctx: &Context, reply: Option<&Reply>, picked: Option<u32>) -> Option<u32> {
    let last = last(ctx)?;
    let Some(reply) = reply else { return picked.or(Some(last)) };
    let wanted = answer(reply.code, &reply.to_tag);
    let is_it = |branch: &u32| ctx.extra.get(&answer_of(*branch)) == Some(&wanted[..]);
    picked.filter(is_it).or_else(|| (0..=last).rev().find(is_it)).or(picked).or(Some(last))
}

/// Values of a watched transaction at one of its events.
pub struct AtEvent<'a, R> {
    /// The request's context.
    pub ctx: &'a Context,
    /// The branch that the event is about.
    pub branch: Option<u32>,
    /// The reply did not come from the server itself.
    pub received: bool,
    /// Its code.
    pub code: u16,
    /// Where the rest is read.
    pub read: R,
}

impl<R: Reading> Source for AtEvent<'_, R> {
    fn value(&self, index: usize, v: &Variable) -> Option<Vec<u8>> {
        if v.of_reply && !self.received {
            return None;
        }
        let kept = |key: &[u8]| self.ctx.extra.get(key).map(<[u8]>::to_vec);
        let of_branch = || self.branch.map(|b| of_branch(b, &v.key));
        match v.class {
            Class::Moment => self.read.of_moment(index),
            Class::Code => Some(self.code.to_string().into_bytes()),
            _ if v.of_reply => kept(&of_branch()?),
            Class::Branch => match of_branch() {
                // A branch that was not seen has the values of the request.
                Some(key) if self.ctx.extra.has(&key) => kept(&key),
                _ => kept(v.key.as_bytes()),
            },
            Class::Message => kept(v.key.as_bytes()),
        }
    }

    fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>> {
        self.read.avp(index, n)
    }
}

/// Values of the current message, which is private.
pub struct OfMessage<R> {
    /// Where they are read.
    pub read: R,
    /// It is a reply.
    pub is_reply: bool,
}

impl<R: Reading> Source for OfMessage<R> {
    fn value(&self, index: usize, v: &Variable) -> Option<Vec<u8>> {
        if v.of_reply && !self.is_reply { None } else { self.read.of_message(index) }
    }

    fn avp(&self, index: usize, n: usize) -> Option<Vec<u8>> {
        self.read.avp(index, n)
    }
}

/// Values of an ACK: its own, and what the answer had.
pub struct OfAck<'a, R> {
    /// What [`crate::accounting::flags::Taken::keep`] kept at the answer.
    pub answer: &'a Context,
    /// Where the ACK's own are read.
    pub read: R,
}

impl<R: Reading> Source for OfAck<'_, R> {
    fn value(&self, index: usize, v: &Variable) -> Option<Vec<u8>> {
        match v.class {
            Class::Message | Class::Branch if !v.of_reply && !v.is_of_script() => self.read.of_message(index),
            _ => self.answer.extra.get(v.key.as_bytes()).map(<[u8]>::to_vec),
        }
    }

    fn avp(&self, _index: usize, _n: usize) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::extras::Family;
    use crate::accounting::flags::Taken;
    use crate::accounting::marks::Types;
    use crate::accounting::record::Backend;

    /// A message: every variable of it is its name and its number.
    struct Message(&'static str);

    impl Reading for Message {
        fn of_message(&self, index: usize) -> Option<Vec<u8>> {
            Some(format!("{}{index}", self.0).into_bytes())
        }

        fn of_moment(&self, index: usize) -> Option<Vec<u8>> {
            Some(format!("now{index}").into_bytes())
        }

        fn avp(&self, _index: usize, _n: usize) -> Option<Vec<u8>> {
            None
        }
    }

    fn reply(code: u16, to_tag: &str) -> Reply {
        Reply { code, to_tag: to_tag.into(), ..Reply::default() }
    }

    /// Values of an event, by their extras.
    fn values(extras: &Extras, ctx: &Context, reply: Option<&Reply>, picked: Option<u32>) -> Vec<String> {
        let branch = branch_of(ctx, reply, picked);
        let source = AtEvent { ctx, branch, received: reply.is_some(), code: reply.map_or(408, |r| r.code), read: Message("never") };
        let mut kept = Context::default();
        Taken::read(extras, Types::one(Backend::Log), &source).keep(extras, &mut kept, usize::MAX);
        let value = |key: &str| kept.extra.get(key.as_bytes()).map_or("-".into(), |v| String::from_utf8_lossy(v).into_owned());
        extras.variables.iter().map(|v| value(&v.key)).collect()
    }

    #[test]
    fn values_are_of_the_request_the_branch_and_the_reply() {
        let mut extras = Extras::default();
        extras.set(Backend::Log, "a=$fu; b=$avp(x); c=$ru; d=$rs/reply; e=$T_reply_code; f=$avp(x)/reply", Family::OpenSips).unwrap();
        assert!(needs_branches(&extras) && needs_replies(&extras));
        let mut ctx = Context::default();
        let mut keep = Keeper { ctx: &mut ctx, most: usize::MAX, clipped: None };
        keep.request(&extras, Watched { on_failure: true, cdr: false }, Some(b"7"), &Message("req"));
        assert_eq!(Watched::kept(keep.ctx), Watched { on_failure: true, cdr: false });
        assert_eq!(cseq(keep.ctx), Some(&b"7"[..]));
        // Before any branch, and for the server's own reply, the values of the request count.
        assert_eq!(values(&extras, keep.ctx, None, None), ["req0", "now1", "req2", "-", "408", "-"]);
        for (branch, name) in [(0, "first"), (1, "second"), (2, "third")] {
            keep.branch(&extras, branch, &Message(name));
        }
        keep.reply(&extras, 0, &reply(486, "t0"), &Message("r"));
        keep.reply(&extras, 1, &reply(486, "t1"), &Message("s"));
        let (first, second) = (reply(486, "t0"), reply(486, "t1"));
        assert_eq!(values(&extras, keep.ctx, Some(&first), None), ["req0", "now1", "first2", "r3", "486", "now5"]);
        assert_eq!(values(&extras, keep.ctx, Some(&second), Some(0)), ["req0", "now1", "second2", "s3", "486", "now5"], "the tag says which");
        keep.reply(&extras, 1, &first, &Message("s"));
        assert_eq!(values(&extras, keep.ctx, Some(&first), Some(0))[2..4], ["first2", "r3"], "the server says which of two alike");
        assert_eq!(values(&extras, keep.ctx, Some(&first), None)[2..4], ["second2", "s3"], "else the latest");
        assert_eq!(values(&extras, keep.ctx, None, None)[2..4], ["third2", "-"]);
        assert_eq!(values(&extras, keep.ctx, None, Some(1))[2..4], ["second2", "-"]);
    }

    #[test]
    fn an_ack_has_its_own_values_and_those_of_the_answer() {
        let mut extras = Extras::default();
        extras.set(Backend::Log, "a=$ru; b=$avp(x); c=$rs/reply; d=$var(x)", Family::OpenSips).unwrap();
        let due = Types::one(Backend::Log);
        let (mut ctx, mut answer) = (Context::default(), Context::default());
        let mut keep = Keeper { ctx: &mut ctx, most: usize::MAX, clipped: None };
        keep.request(&extras, Watched { on_failure: false, cdr: false }, None, &Message("request"));
        let source = AtEvent { ctx: &ctx, branch: None, received: true, code: 200, read: Message("invite") };
        Taken::read(&extras, due, &source).keep(&extras, &mut answer, usize::MAX);
        let source = OfAck { answer: &answer, read: Message("ack") };
        let mut kept = Context::default();
        Taken::read(&extras, due, &source).keep(&extras, &mut kept, usize::MAX);
        let got: Vec<_> = extras.variables.iter().map(|v| kept.extra.get(v.key.as_bytes())).collect();
        assert_eq!(got, [Some(&b"ack0"[..]), Some(b"now1"), None, Some(b"request3")], "a script's variable has what the INVITE's route set (K24)");
    }
}
