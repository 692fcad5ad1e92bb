//! Run-time reader of attribute dictionaries, in the formats of FreeRADIUS (2 and 3) and of
//! radcli, radiusclient-ng and freeradius-client.
//!
//! The names of extra and leg fields are attribute names of the operator's dictionary. What
//! that file lacks comes from a built-in one: the standard attributes of a record and the
//! Sip-* attributes of `scripts/radius/dictionary.opensips-acc`. A definition in the file overrides
//! the built-in one, and a later line overrides an earlier one; but an attribute of a vendor never
//! hides one without a vendor.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::conf::{beside, read_text};

/// Maximum depth of nested files; FreeRADIUS itself stays below 5.
const MAX_DEPTH: usize = 32;

/// Standard attributes that a record or its sender uses (RFC 2865 §5, RFC 2866 §5, RFC 2869
/// §5.3, RFC 3162 §2.1).
const STANDARD: &str = "\
ATTRIBUTE User-Name 1 string
ATTRIBUTE NAS-IP-Address 4 ipaddr
ATTRIBUTE NAS-Port 5 integer
ATTRIBUTE Service-Type 6 integer
ATTRIBUTE Called-Station-Id 30 string
ATTRIBUTE Calling-Station-Id 31 string
ATTRIBUTE NAS-Identifier 32 string
ATTRIBUTE Acct-Status-Type 40 integer
ATTRIBUTE Acct-Delay-Time 41 integer
ATTRIBUTE Acct-Session-Id 44 string
ATTRIBUTE Acct-Session-Time 46 integer
ATTRIBUTE Event-Timestamp 55 date
ATTRIBUTE NAS-IPv6-Address 95 ipv6addr
";

/// The attributes of SIP records, also shipped as a file for RADIUS servers.
const SIP: &str = include_str!("../../../scripts/radius/dictionary.opensips-acc");

/// How a value is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `string`, `text`: the bytes as they are.
    Text,
    /// `octets`, `abinary`: the bytes as they are, or hexadecimal digits after `0x`.
    Octets,
    /// `integer`, `uint32`, `byte`, `short`, `integer64` …: big-endian, with this many bytes (1, 2, 4 or 8).
    Integer(u8),
    /// `date`, `time`: seconds since 1970 in four bytes.
    Date,
    /// `ipaddr`, `ipv4addr`.
    Ipv4,
    /// `ipv6addr`.
    Ipv6,
    /// `combo-ip`: IPv4 or IPv6, depending on the value.
    Ip,
    /// A type that a field cannot be written to (`tlv`, `extended`, prefixes …), under its own name.
    Unusable(String),
}

impl Type {
    fn from_name(name: &str) -> Type {
        // octets[16]: the length only concerns the server.
        let plain = name.split('[').next().unwrap_or(name).to_ascii_lowercase();
        match plain.as_str() {
            "string" | "text" => Type::Text,
            "octets" | "abinary" => Type::Octets,
            "byte" | "uint8" => Type::Integer(1),
            "short" | "uint16" => Type::Integer(2),
            "integer" | "uint32" | "signed" | "int32" => Type::Integer(4),
            "integer64" | "uint64" | "int64" => Type::Integer(8),
            "date" | "time" => Type::Date,
            "ipaddr" | "ipv4addr" => Type::Ipv4,
            "ipv6addr" => Type::Ipv6,
            "combo-ip" | "combo" => Type::Ip,
            _ => Type::Unusable(name.to_owned()),
        }
    }
}

/// The vendor of an attribute: how it is packed into Vendor-Specific (RFC 2865 §5.26).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vendor {
    /// SMI private enterprise code.
    pub id: u32,
    /// Bytes of the vendor's type field: 1, 2 or 4.
    pub type_size: u8,
    /// Bytes of the vendor's length field: 0, 1 or 2.
    pub length_size: u8,
    /// A continuation byte follows the length (`format=1,1,c`).
    pub continuation: bool,
}

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Name as the dictionary spells it.
    pub name: Arc<str>,
    /// Number, within the vendor's space where there is a vendor.
    pub code: u32,
    /// How its value is written.
    pub kind: Type,
    /// Vendor, none for standard attributes.
    pub vendor: Option<Vendor>,
}

/// Attributes and named values; names are compared without regard to case, as the RADIUS
/// libraries do.
#[derive(Clone, Debug)]
pub struct Dictionary {
    file: Option<PathBuf>,
    attributes: HashMap<String, Attribute>,
    values: HashMap<(String, String), u64>,
}

/// Where a name was looked for, for errors.
impl fmt::Display for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(p) => write!(f, "{}", p.display()),
            None => f.write_str("the built-in dictionary"),
        }
    }
}

impl Dictionary {
    /// The built-in dictionary alone.
    ///
    /// # Errors
    /// None in practice: a test reads it.
    pub fn built_in() -> Result<Dictionary, String> {
        let mut reader = Reader::default();
        for (name, text) in [("built-in standard attributes", STANDARD), ("built-in Sip attributes", SIP)] {
            reader.text(Path::new(name), text)?;
        }
        Ok(Dictionary { file: None, attributes: reader.attributes, values: reader.values })
    }

    /// The built-in dictionary and `file` with everything it includes.
    ///
    /// # Errors
    /// One line naming the file, its line, and what to change: a file that cannot be read, one
    /// that includes itself, a malformed definition.
    pub fn read(file: &Path) -> Result<Dictionary, String> {
        Dictionary::built_in()?.and(file)
    }

    /// This dictionary and `file` with everything it includes.
    ///
    /// # Errors
    /// As [`Dictionary::read`].
    pub fn and(self, file: &Path) -> Result<Dictionary, String> {
        let mut reader = Reader { attributes: self.attributes, values: self.values, ..Reader::default() };
        reader.file(file, "the client configuration of aaa_url ('dictionary') names")?;
        Ok(Dictionary { file: Some(file.to_owned()), attributes: reader.attributes, values: reader.values })
    }

    /// The attribute of that name.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.get(&name.to_ascii_lowercase())
    }

    /// The number of a named value of an attribute.
    pub fn value(&self, attribute: &str, name: &str) -> Option<u64> {
        self.values.get(&(attribute.to_ascii_lowercase(), name.to_ascii_lowercase())).copied()
    }
}

/// The state of reading.
#[derive(Default)]
struct Reader {
    attributes: HashMap<String, Attribute>,
    values: HashMap<(String, String), u64>,
    vendors: HashMap<String, Vendor>,
    /// The vendor between BEGIN-VENDOR and END-VENDOR, with the name that must end it. Without a vendor:
    /// extended attributes (RFC 6929), which fields cannot use.
    block: Option<(String, Option<Vendor>)>,
    /// Open TLV blocks: their members are not attributes themselves.
    tlv: Vec<String>,
    /// Files being read, outermost first, to refuse loops.
    open: Vec<PathBuf>,
}

impl Reader {
    fn file(&mut self, file: &Path, why: &str) -> Result<(), String> {
        let text = read_text(file, why)?;
        let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        if self.open.contains(&real) {
            return Err(format!("{}: {why} this file, which is already being read: the files include each other; remove that line", file.display()));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("{}: more than {MAX_DEPTH} files inside one another; include fewer levels", file.display()));
        }
        self.open.push(real);
        let done = self.text(file, &text);
        self.open.pop();
        done
    }

    fn text(&mut self, file: &Path, text: &str) -> Result<(), String> {
        let (block, tlv) = (self.block.take(), std::mem::take(&mut self.tlv));
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("");
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some((keyword, args)) = words.split_first() {
                let at = format!("{}:{}", file.display(), i + 1);
                match (keyword.to_ascii_uppercase().as_str(), args) {
                    ("$INCLUDE" | "INCLUDE", [path, ..]) => self.file(&beside(file, path), &format!("{at} includes"))?,
                    // The form of FreeRADIUS for a file that may be missing.
                    ("$INCLUDE-", [path, ..]) => {
                        if beside(file, path).exists() {
                            self.file(&beside(file, path), &format!("{at} includes"))?;
                        }
                    }
                    (upper, args) => self.line(upper, args).map_err(|e| format!("{at}: {e}"))?,
                }
            }
        }
        if let Some((name, _)) = &self.block {
            return Err(format!("{}: BEGIN-VENDOR {name} is never ended; add END-VENDOR {name}", file.display()));
        }
        if let Some(name) = self.tlv.last() {
            return Err(format!("{}: BEGIN-TLV {name} is never ended; add END-TLV {name}", file.display()));
        }
        (self.block, self.tlv) = (block, tlv);
        Ok(())
    }

    fn line(&mut self, keyword: &str, args: &[&str]) -> Result<(), String> {
        match (keyword, args) {
            ("ATTRIBUTE", [name, code, kind, rest @ ..]) => self.attribute(name, code, kind, rest),
            ("VALUE", [attribute, name, number, ..]) => {
                let number = parse_number(number).ok_or_else(|| format!("VALUE {attribute} {name}: '{number}' is not a number"))?;
                self.values.insert((attribute.to_ascii_lowercase(), name.to_ascii_lowercase()), number);
                Ok(())
            }
            ("VENDOR", [name, id, rest @ ..]) => {
                let id = parse_number(id).and_then(|n| u32::try_from(n).ok()).ok_or_else(|| format!("VENDOR {name}: '{id}' is not a number below 2^32"))?;
                let format = rest.iter().find_map(|w| w.strip_prefix("format=")).unwrap_or("1,1");
                let (type_size, length_size, continuation) =
                    parse_format(format).ok_or_else(|| format!("VENDOR {name}: format={format} is not 1|2|4,0|1|2[,c]"))?;
                self.vendors.insert(name.to_ascii_lowercase(), Vendor { id, type_size, length_size, continuation });
                Ok(())
            }
            ("BEGIN-VENDOR", [name, rest @ ..]) => {
                if let Some((open, _)) = &self.block {
                    return Err(format!("BEGIN-VENDOR {name} inside {open}; end that one first with END-VENDOR {open}"));
                }
                let vendor = *self
                    .vendors
                    .get(&name.to_ascii_lowercase())
                    .ok_or_else(|| format!("BEGIN-VENDOR {name}: no such vendor; define it before with VENDOR"))?;
                // format=Extended-Vendor-Specific-N, in version 4 parent=
                let plain = !rest.iter().any(|w| w.starts_with("format=") || w.starts_with("parent="));
                self.block = Some(((*name).to_owned(), plain.then_some(vendor)));
                Ok(())
            }
            ("END-VENDOR", [name, ..]) => match self.block.take() {
                Some((open, _)) if open.eq_ignore_ascii_case(name) => Ok(()),
                Some((open, _)) => Err(format!("END-VENDOR {name} ends {open}; the names must be the same")),
                None => Err(format!("END-VENDOR {name} without BEGIN-VENDOR; remove it")),
            },
            ("BEGIN-TLV", [name, ..]) => {
                self.tlv.push((*name).to_owned());
                Ok(())
            }
            ("END-TLV", [name, ..]) => match self.tlv.pop() {
                Some(open) if open.eq_ignore_ascii_case(name) => Ok(()),
                _ => Err(format!("END-TLV {name} does not end the TLV that is open")),
            },
            ("ATTRIBUTE" | "VALUE" | "VENDOR" | "BEGIN-VENDOR" | "END-VENDOR" | "BEGIN-TLV" | "END-TLV" | "$INCLUDE" | "INCLUDE" | "$INCLUDE-", _) => {
                Err(format!("{keyword}: too few words on the line"))
            }
            _ => Err(format!("'{keyword}' is not a dictionary keyword of FreeRADIUS 3 or radcli; correct or remove the line")),
        }
    }

    fn attribute(&mut self, name: &str, code: &str, kind: &str, rest: &[&str]) -> Result<(), String> {
        // 26.9.1, 241.1: members of another attribute (RFC 6929), and so are those of TLV blocks.
        let member = code.contains('.') || !self.tlv.is_empty() || matches!(self.block, Some((_, None)));
        let number = code.rsplit('.').next().and_then(parse_number).and_then(|n| u32::try_from(n).ok());
        let number = number.ok_or_else(|| format!("ATTRIBUTE {name}: '{code}' is not a number"))?;
        // The fourth word is a vendor (old style), vendor=NAME, or flags for the server.
        let column = rest.first().and_then(|w| match w.strip_prefix("vendor=") {
            Some(v) => {
                Some(self.vendors.get(&v.to_ascii_lowercase()).copied().ok_or_else(|| format!("ATTRIBUTE {name}: no vendor {v}; define it before with VENDOR")))
            }
            None => self.vendors.get(&w.to_ascii_lowercase()).copied().map(Ok),
        });
        let vendor = match (column, &self.block) {
            (Some(v), _) => Some(v?),
            (None, Some((_, v))) => *v,
            (None, None) => None,
        };
        let kind = match vendor {
            _ if member => Type::Unusable(format!("{kind}, a member of another attribute")),
            // Above 255 are attributes of the server itself, which no packet carries.
            None if number == 0 || number > 255 => Type::Unusable(format!("{kind}, numbered {number} outside 1 to 255")),
            Some(v) if v.type_size < 4 && number >= 1 << (8 * v.type_size) => Type::Unusable(format!("{kind}, numbered {number} beyond its vendor's format")),
            _ => Type::from_name(kind),
        };
        let key = name.to_ascii_lowercase();
        // FreeRADIUS has a Sip-Method of some vendor's: it must not hide the common one.
        if vendor.is_none() || self.attributes.get(&key).is_none_or(|a| a.vendor.is_some()) {
            self.attributes.insert(key, Attribute { name: Arc::from(name), code: number, kind, vendor });
        }
        Ok(())
    }
}

fn parse_number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

fn parse_format(format: &str) -> Option<(u8, u8, bool)> {
    let mut parts = format.split(',');
    let type_size = parts.next()?.parse().ok().filter(|n| [1, 2, 4].contains(n))?;
    let length_size = parts.next()?.parse().ok().filter(|n| *n <= 2)?;
    match (parts.next(), parts.next()) {
        (None, _) => Some((type_size, length_size, false)),
        // The continuation byte exists for 1,1 only (WiMAX).
        (Some("c"), None) if (type_size, length_size) == (1, 1) => Some((1, 1, true)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the first of several files of one directory.
    fn read(files: &[(&str, &str)]) -> Result<Dictionary, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Dictionary::read(&dir.path().join(files[0].0)).map_err(|e| e.replace(&format!("{}/", dir.path().display()), ""))
    }

    fn code(d: &Dictionary, name: &str) -> (Option<u32>, u32) {
        let a = d.attribute(name).unwrap_or_else(|| panic!("{name}"));
        (a.vendor.map(|v| v.id), a.code)
    }

    #[test]
    fn the_built_in_names() {
        let d = Dictionary::built_in().unwrap();
        for (name, number) in [
            ("Acct-Status-Type", 40),
            ("Service-Type", 6),
            ("Sip-Response-Code", 205),
            ("Sip-Method", 204),
            ("Event-Timestamp", 55),
            ("Sip-From-Tag", 206),
            ("Sip-To-Tag", 207),
            ("Acct-Session-Id", 44),
            ("Sip-Call-Duration", 227),
            ("Sip-Call-Setuptime", 228),
            ("Sip-Call-Created", 229),
            ("Sip-Call-MSDuration", 230),
            ("NAS-Port", 5),
            ("Acct-Delay-Time", 41),
            ("NAS-IP-Address", 4),
        ] {
            assert_eq!(code(&d, name), (None, number), "{name}");
        }
        assert_eq!(d.value("Service-Type", "Sip-Session"), Some(15));
        assert_eq!((d.value("Acct-Status-Type", "Alive"), d.value("acct-status-type", "FAILED")), (Some(3), Some(15)));
    }

    #[test]
    fn both_formats() {
        let d = read(&[(
            "dict",
            "# comment\nATTRIBUTE One 0xF0 string # note\nattribute Two 241 uint32 has_tag,encrypt=2\nATTRIBUTE Six 100 octets[16]\n\
             VENDOR Cisco 9\nVENDOR Star 8164 format=2,2\nVENDOR Wim 24757 format=1,1,c\n\
             ATTRIBUTE Old 1 string Cisco\nATTRIBUTE Opt 2 integer vendor=Cisco\n\
             BEGIN-VENDOR Star\nATTRIBUTE Wide 0x1234 ipaddr\nVALUE Wide Ten 0x0a\nEND-VENDOR Star\nATTRIBUTE After 242 date\n\
             ATTRIBUTE Tlv 101 tlv\nBEGIN-TLV Tlv\nATTRIBUTE Member 1 string\nEND-TLV Tlv\nATTRIBUTE Dotted 241.7 integer\nATTRIBUTE Internal 1000 string\n\
             ATTRIBUTE Sip-To-Tag 104 string\nATTRIBUTE One 243 string\n",
        )])
        .unwrap();
        assert_eq!(code(&d, "ONE"), (None, 243));
        assert_eq!((code(&d, "two"), &d.attribute("two").unwrap().kind), ((None, 241), &Type::Integer(4)));
        assert_eq!(d.attribute("six").unwrap().kind, Type::Octets);
        assert_eq!((code(&d, "Old"), code(&d, "Opt"), code(&d, "Wide"), code(&d, "After")), ((Some(9), 1), (Some(9), 2), (Some(8164), 0x1234), (None, 242)));
        assert_eq!(d.attribute("Wide").unwrap().vendor.map(|v| (v.type_size, v.length_size, v.continuation)), Some((2, 2, false)));
        assert_eq!(d.value("wide", "ten"), Some(10));
        for unusable in ["Tlv", "Member", "Dotted", "Internal"] {
            assert!(matches!(d.attribute(unusable).unwrap().kind, Type::Unusable(_)), "{unusable}");
        }
        // The file overrides a built-in name; other built-in names stay.
        assert_eq!((code(&d, "Sip-To-Tag"), code(&d, "Sip-From-Tag")), ((None, 104), (None, 206)));
    }

    #[test]
    fn types() {
        for (name, want) in [
            ("string", Type::Text),
            ("String", Type::Text),
            ("text", Type::Text),
            ("octets", Type::Octets),
            ("abinary", Type::Octets),
            ("integer", Type::Integer(4)),
            ("uint32", Type::Integer(4)),
            ("signed", Type::Integer(4)),
            ("byte", Type::Integer(1)),
            ("short", Type::Integer(2)),
            ("integer64", Type::Integer(8)),
            ("date", Type::Date),
            ("ipaddr", Type::Ipv4),
            ("ipv4addr", Type::Ipv4),
            ("ipv6addr", Type::Ipv6),
            ("combo-ip", Type::Ip),
            ("ipv6prefix", Type::Unusable("ipv6prefix".to_owned())),
        ] {
            assert_eq!(Type::from_name(name), want);
        }
    }

    #[test]
    fn includes_are_relative_to_the_including_file() {
        let d = read(&[
            ("dict", "$INCLUDE sub/a\nINCLUDE sub/a\n$INCLUDE- none\n"),
            ("sub/a", "$INCLUDE b\nATTRIBUTE A 240 string\n"),
            ("sub/b", "VENDOR V 7\nATTRIBUTE B 241 string V\n"),
        ])
        .unwrap();
        assert_eq!((code(&d, "A"), code(&d, "B")), ((None, 240), (Some(7), 241)));
    }

    #[test]
    fn errors_name_file_and_line() {
        for (files, want) in [
            (&[("dict", "ATTRIBUTE A x string\n")][..], "dict:1: ATTRIBUTE A: 'x' is not a number"),
            (&[("dict", "\nATTRIBUTE A 1\n")], "dict:2: ATTRIBUTE: too few words"),
            (&[("dict", "VALUE A B C\n")], "dict:1: VALUE A B: 'C' is not a number"),
            (&[("dict", "VENDOR V -1\n")], "dict:1: VENDOR V: '-1' is not"),
            (&[("dict", "VENDOR V 1 format=3,1\n")], "dict:1: VENDOR V: format=3,1 is not"),
            (&[("dict", "BEGIN-VENDOR V\n")], "dict:1: BEGIN-VENDOR V: no such vendor"),
            (&[("dict", "VENDOR V 1\nBEGIN-VENDOR V\n")], "dict: BEGIN-VENDOR V is never ended"),
            (&[("dict", "VENDOR V 1\nVENDOR W 2\nBEGIN-VENDOR V\nEND-VENDOR W\n")], "dict:4: END-VENDOR W ends V"),
            (&[("dict", "END-VENDOR V\n")], "dict:1: END-VENDOR V without BEGIN-VENDOR"),
            (&[("dict", "ATTRIBUTE A 1 string vendor=V\n")], "dict:1: ATTRIBUTE A: no vendor V"),
            (&[("dict", "BEGIN-TLV T\n")], "dict: BEGIN-TLV T is never ended"),
            (&[("dict", "END-TLV T\n")], "dict:1: END-TLV T does not end"),
            (&[("dict", "FOO bar\n")], "dict:1: 'FOO' is not a dictionary keyword"),
            (&[("dict", "$INCLUDE gone\n")], "gone: dict:1 includes this file, which cannot be read"),
            (&[("dict", "$INCLUDE a\n"), ("a", "\nBAD\n")], "a:2: 'BAD' is not"),
            (&[("dict", "$INCLUDE dict\n")], "dict: dict:1 includes this file, which is already being read"),
            (&[("dict", "$INCLUDE a\n"), ("a", "$INCLUDE ./dict\n")], "./dict: a:1 includes this file, which is already being read"),
        ] {
            let e = read(files).unwrap_err();
            assert!(e.starts_with(want), "wanted {want:?}, got {e:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_text_never_panics(text in "((ATTRIBUTE|VALUE|VENDOR|BEGIN-VENDOR|END-VENDOR|BEGIN-TLV|END-TLV|[A-Z$]{1,9})( [ -~é]{0,9}){0,5}\n){0,9}") {
            let _ = Reader::default().text(Path::new("dict"), &text);
        }
    }

    #[test]
    fn real_dictionaries_when_they_are_installed() {
        for (file, probes) in [
            ("/usr/share/freeradius/dictionary", &[("User-Name", None, 1), ("Cisco-AVPair", Some(9), 1), ("Class", None, 25), ("Sip-Method", None, 204)][..]),
            ("/etc/radcli/dictionary", &[("User-Name", None, 1), ("Sip-Call-Created", None, 229)]),
        ] {
            if !Path::new(file).exists() {
                continue;
            }
            let d = Dictionary::read(Path::new(file)).unwrap();
            for (name, vendor, number) in probes {
                assert_eq!(code(&d, name), (*vendor, *number), "{file}: {name}");
            }
        }
    }
}
