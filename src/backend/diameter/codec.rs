//! Diameter messages as bytes (RFC 6733 §3 and §4): header, AVPs, groups.
//!
//! Reading trusts nothing: a length that does not fit is an error, never a panic, and no memory is
//! allocated for what a message merely claims to contain.
#![forbid(unsafe_code)]

/// Version, length, flags, command, application and both identifiers.
pub const HEADER: usize = 20;
/// The longest message: its length has 24 bits and is a multiple of four.
pub const MAX_MESSAGE: usize = (1 << 24) - 4;
/// The longest message that is read: answers are short, and a peer must not make us store more.
pub const MAX_READ: usize = 1 << 20;
/// Header of an AVP without and with a vendor.
const AVP_HEADER: usize = 8;
const VENDOR: usize = 4;

/// Command flag: a request.
pub const REQUEST: u8 = 0x80;
/// Command flag: agents may forward it.
pub const PROXIABLE: u8 = 0x40;
/// Command flag: the answer reports a protocol error.
pub const ERROR: u8 = 0x20;
/// Command flag: it may have been sent before (T).
pub const RETRANSMITTED: u8 = 0x10;

/// AVP flag: a vendor's number follows.
const AVP_VENDOR: u8 = 0x80;
/// AVP flag: a node that does not understand the AVP must refuse the message.
const AVP_MANDATORY: u8 = 0x40;

/// The header of a message, without version and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Command flags.
    pub flags: u8,
    /// Command code, 24 bits.
    pub command: u32,
    /// Application.
    pub application: u32,
    /// Matches an answer with its request on one connection (Hop-by-Hop identifier).
    pub hop_by_hop: u32,
    /// The same in all copies of one request (End-to-End identifier).
    pub end_to_end: u32,
}

impl Header {
    /// It is a request.
    pub const fn is_request(&self) -> bool {
        self.flags & REQUEST != 0
    }
}

/// Which AVP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Number, within the vendor's space where there is a vendor.
    pub code: u32,
    /// Vendor, none for those of the IETF.
    pub vendor: Option<u32>,
    /// It is sent with the M bit.
    pub mandatory: bool,
}

impl Attribute {
    /// An AVP of the base protocol, which has the M bit.
    pub const fn base(code: u32) -> Attribute {
        Attribute { code, vendor: None, mandatory: true }
    }

    /// Bytes of its header.
    pub const fn header(&self) -> usize {
        AVP_HEADER + if self.vendor.is_some() { VENDOR } else { 0 }
    }
}

/// Bytes that a value of this length takes, including header and padding.
pub const fn padded(length: usize) -> usize {
    length.div_ceil(4) * 4
}

/// A message being written.
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message without AVPs.
    pub fn new(header: &Header) -> Writer {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend([1, 0, 0, 0]);
        bytes.extend((header.command & 0xff_ffff | u32::from(header.flags) << 24).to_be_bytes());
        bytes.extend(header.application.to_be_bytes());
        bytes.extend(header.hop_by_hop.to_be_bytes());
        bytes.extend(header.end_to_end.to_be_bytes());
        Writer(bytes)
    }

    /// A writer for AVPs that are added to another message, see [`Writer::append`].
    pub const fn part() -> Writer {
        Writer(Vec::new())
    }

    /// The bytes of such AVPs.
    pub fn into_part(self) -> Vec<u8> {
        self.0
    }

    /// Adds AVPs that were written separately.
    pub fn append(&mut self, part: &[u8]) {
        self.0.extend_from_slice(part);
    }

    /// Bytes so far.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Adds an AVP.
    pub fn put(&mut self, attribute: &Attribute, value: &[u8]) {
        self.nest(attribute, |w| w.0.extend_from_slice(value));
    }

    /// Adds an AVP with a 32-bit number.
    pub fn number(&mut self, attribute: &Attribute, value: u32) {
        self.put(attribute, &value.to_be_bytes());
    }

    /// Adds an AVP whose value is what `members` writes.
    pub fn nest(&mut self, attribute: &Attribute, members: impl FnOnce(&mut Writer)) {
        let start = self.0.len();
        let flags = if attribute.vendor.is_some() { AVP_VENDOR } else { 0 } | if attribute.mandatory { AVP_MANDATORY } else { 0 };
        self.0.extend(attribute.code.to_be_bytes());
        self.0.extend([flags, 0, 0, 0]);
        if let Some(vendor) = attribute.vendor {
            self.0.extend(vendor.to_be_bytes());
        }
        members(self);
        // A message with a group that is too long for its header is too long itself.
        let length = (self.0.len() - start) as u32;
        self.0[start + 5..start + 8].copy_from_slice(&length.to_be_bytes()[1..]);
        self.0.resize(padded(self.0.len()), 0);
    }

    /// The message; `None` if it is longer than a message can be.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        let length = self.0.len();
        self.0[1..4].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
        (length <= MAX_MESSAGE).then_some(self.0)
    }
}

/// Sets what changes from one sending of a message to the next.
pub fn address(message: &mut [u8], hop_by_hop: u32, end_to_end: u32, retransmitted: bool) {
    if let Some(header) = message.get_mut(..HEADER) {
        header[4] = header[4] & !RETRANSMITTED | if retransmitted { RETRANSMITTED } else { 0 };
        header[12..16].copy_from_slice(&hop_by_hop.to_be_bytes());
        header[16..20].copy_from_slice(&end_to_end.to_be_bytes());
    }
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not version 1.
    #[error("not a Diameter message (version {0})")]
    Version(u8),
    /// An impossible length.
    #[error("a message of {0} bytes")]
    Length(usize),
    /// An AVP that does not fit in its message or group.
    #[error("an AVP that does not fit in its message")]
    Avp,
}

fn u24(bytes: &[u8]) -> usize {
    bytes.iter().take(3).fold(0, |n, b| n << 8 | usize::from(*b))
}

/// Length of the message that begins with these bytes; `None` if it is not known yet.
///
/// # Errors
/// The bytes cannot be the beginning of a message: close the connection.
pub fn length(begin: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((version, rest)) = begin.split_first() else { return Ok(None) };
    if *version != 1 {
        return Err(Malformed::Version(*version));
    }
    let Some(length) = rest.get(..3).map(u24) else { return Ok(None) };
    if (HEADER..=MAX_READ).contains(&length) && length % 4 == 0 { Ok(Some(length)) } else { Err(Malformed::Length(length)) }
}

/// Header and AVPs of a message.
///
/// # Errors
/// Not one whole message. Its AVPs are not checked here.
pub fn decode(message: &[u8]) -> Result<(Header, Avps<'_>), Malformed> {
    let word = |at: usize| message.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    match (length(message)?, message.get(HEADER..), word(4), word(8), word(12), word(16)) {
        (Some(n), Some(avps), Some(command), Some(application), Some(hop_by_hop), Some(end_to_end)) if n == message.len() => {
            let header = Header { flags: message[4], command: command & 0xff_ffff, application, hop_by_hop, end_to_end };
            Ok((header, Avps(avps)))
        }
        _ => Err(Malformed::Length(message.len())),
    }
}

/// An AVP that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avp<'a> {
    /// Which one.
    pub attribute: Attribute,
    /// Its value, without padding.
    pub value: &'a [u8],
}

impl<'a> Avp<'a> {
    /// Is it the AVP of the IETF with this number?
    pub fn is(&self, code: u32) -> bool {
        self.attribute.code == code && self.attribute.vendor.is_none()
    }

    /// A 32-bit number.
    pub fn number(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    /// Text for people and comparisons.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value).into_owned()
    }

    /// The members of a group.
    pub fn members(&self) -> Avps<'a> {
        Avps(self.value)
    }
}

/// The AVPs of a message or group, in order; the last item is an error if what remains is not an AVP.
#[derive(Clone, Debug)]
pub struct Avps<'a>(&'a [u8]);

impl<'a> Avps<'a> {
    fn one(&self) -> Option<(Avp<'a>, &'a [u8])> {
        let word = |at: usize| self.0.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let (code, flags, length) = (word(0)?, *self.0.get(4)?, u24(self.0.get(5..8)?));
        let vendor = if flags & AVP_VENDOR != 0 { Some(word(AVP_HEADER)?) } else { None };
        let attribute = Attribute { code, vendor: vendor.filter(|v| *v != 0), mandatory: flags & AVP_MANDATORY != 0 };
        let header = AVP_HEADER + if vendor.is_some() { VENDOR } else { 0 };
        let value = self.0.get(header..length)?;
        // Some implementations leave out the padding of a group's last member.
        let rest = self.0.get(padded(length)..).unwrap_or_default();
        Some((Avp { attribute, value }, rest))
    }
}

impl<'a> Iterator for Avps<'a> {
    type Item = Result<Avp<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let one = self.one();
        self.0 = one.map_or(&[], |(_, rest)| rest);
        Some(one.map(|(avp, _)| avp).ok_or(Malformed::Avp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ACR: Header = Header { flags: REQUEST | PROXIABLE, command: 271, application: 3, hop_by_hop: 0x0102_0304, end_to_end: 0xa0b0_c0d0 };

    /// Byte by byte as RFC 6733 draws them.
    #[test]
    fn a_message_is_these_bytes() {
        let mut w = Writer::new(&ACR);
        w.put(&Attribute::base(263), b"a;1;2");
        w.number(&Attribute { code: 480, vendor: None, mandatory: false }, 4);
        w.nest(&Attribute { code: 873, vendor: Some(10415), mandatory: true }, |w| {
            w.put(&Attribute { code: 830, vendor: Some(10415), mandatory: false }, b"x");
        });
        let want = [
            &[1, 0, 0, 76, 0xc0, 0, 1, 0x0f, 0, 0, 0, 3, 1, 2, 3, 4, 0xa0, 0xb0, 0xc0, 0xd0][..],
            &[0, 0, 1, 7, 0x40, 0, 0, 13, b'a', b';', b'1', b';', b'2', 0, 0, 0],
            &[0, 0, 1, 0xe0, 0, 0, 0, 12, 0, 0, 0, 4],
            &[0, 0, 3, 0x69, 0xc0, 0, 0, 28, 0, 0, 0x28, 0xaf],
            &[0, 0, 3, 0x3e, 0x80, 0, 0, 13, 0, 0, 0x28, 0xaf, b'x', 0, 0, 0],
        ]
        .concat();
        let mut got = w.finish().unwrap();
        assert_eq!(got, want);
        address(&mut got, 7, 9, true);
        let (header, avps) = decode(&got).unwrap();
        assert_eq!(header, Header { flags: REQUEST | PROXIABLE | RETRANSMITTED, hop_by_hop: 7, end_to_end: 9, ..ACR });
        let avps: Vec<_> = avps.map(Result::unwrap).collect();
        assert_eq!(avps.iter().map(|a| a.attribute.code).collect::<Vec<_>>(), [263, 480, 873]);
        assert_eq!((avps[0].value, avps[1].number()), (&b"a;1;2"[..], Some(4)));
        assert_eq!(avps[2].members().map(|a| a.unwrap().value).collect::<Vec<_>>(), [b"x"]);
        address(&mut got, 7, 9, false);
        assert_eq!(decode(&got).unwrap().0.flags, REQUEST | PROXIABLE);
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for (begin, want) in [
            (&[2, 0, 0, 20][..], Err(Malformed::Version(2))),
            (&[1, 0, 0, 19], Err(Malformed::Length(19))),
            (&[1, 0, 0, 22], Err(Malformed::Length(22))),
            (&[1, 0xff, 0xff, 0xfc], Err(Malformed::Length(0xff_fffc))),
            (&[1, 0, 0], Ok(None)),
            (&[], Ok(None)),
            (&[1, 0, 0, 20, 9], Ok(Some(20))),
        ] {
            assert_eq!(length(begin), want);
        }
        // An AVP of 0 to 11 bytes with a vendor, or of more than there is.
        for n in (0..12).chain([17, 255]) {
            let avp = [0, 0, 0, 1, 0x80, 0, 0, n, 0, 0, 0, 9, 1, 2, 3, 4];
            assert_eq!(Avps(&avp).collect::<Vec<_>>(), [Err(Malformed::Avp)], "{n}");
        }
        // Without the padding after the last one.
        let avp = [0, 0, 0, 1, 0, 0, 0, 9, 7];
        assert_eq!(Avps(&avp).next().unwrap().unwrap().value, [7]);
    }

    #[test]
    fn a_message_that_is_too_long_is_not_finished() {
        let value = vec![0; MAX_MESSAGE - HEADER - AVP_HEADER];
        for (more, fits) in [(0, true), (1, false)] {
            let mut w = Writer::new(&ACR);
            w.put(&Attribute::base(1), &[value.as_slice(), &vec![0; more]].concat());
            assert_eq!(w.finish().is_some(), fits);
        }
    }

    fn attribute() -> impl Strategy<Value = Attribute> {
        (any::<u32>(), proptest::option::of(1u32..), any::<bool>()).prop_map(|(code, vendor, mandatory)| Attribute { code, vendor, mandatory })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(avps in proptest::collection::vec((attribute(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8), flags in any::<u8>(), command in 0u32..1 << 24, ids in any::<(u32, u32, u32)>()) {
            let header = Header { flags, command, application: ids.0, hop_by_hop: ids.1, end_to_end: ids.2 };
            let mut w = Writer::new(&header);
            w.nest(&Attribute::base(297), |w| avps.iter().for_each(|(a, v)| w.put(a, v)));
            let bytes = w.finish().unwrap();
            let (read, mut outer) = decode(&bytes).unwrap();
            prop_assert_eq!(read, header);
            let group = outer.next().unwrap().unwrap();
            prop_assert!(outer.next().is_none());
            let inner: Vec<_> = group.members().map(|a| a.map(|a| (a.attribute, a.value.to_vec()))).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(inner, avps);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), whole in any::<bool>()) {
            let mut bytes = bytes;
            if whole && bytes.len() >= HEADER {
                bytes.truncate(bytes.len() / 4 * 4);
                let n = bytes.len() as u32;
                bytes[..4].copy_from_slice(&(n | 1 << 24).to_be_bytes());
            }
            if let Ok((_, avps)) = decode(&bytes) {
                let taken: usize = avps.flatten().map(|a| a.value.len() + AVP_HEADER).sum();
                prop_assert!(taken + HEADER <= bytes.len());
            }
        }
    }
}
