//! AVPs by name: those built in, and those of the `extra-avps-file`, a file as `aaa_diameter` of
//! OpenSIPS reads it (its `dictionary.opensips`).
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::codec::Attribute;
use super::conf::read_text;
use crate::journal::json::unhex;

/// Seconds from 1900 to 1970: the AVP type Time counts from then (RFC 6733 §4.3.1).
const SINCE_1900: i64 = 2_208_988_800;

/// The vendor 3GPP.
pub const TGPP: u32 = 10415;

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// UTF-8 text.
    Text,
    /// Bytes as they are, or hexadecimal digits after `0x`.
    Octets,
    /// Bytes, always given as hexadecimal digits.
    Hex,
    /// An address with its family.
    Address,
    /// Seconds since 1970, sent as since 1900.
    Time,
    /// Unsigned, in this many bytes.
    Unsigned(u8),
    /// Signed, in this many bytes.
    Integer(u8),
    /// IEEE 754 in four bytes.
    Float32,
    /// IEEE 754 in eight bytes.
    Float64,
    /// A group: no field can be written to it.
    Grouped,
}

impl Type {
    /// The type of this name in a file, compared as in OpenSIPS: only the beginning of the name counts.
    fn from_name(name: &str) -> Option<Type> {
        const NAMES: [(&str, Type); 14] = [
            ("ip", Type::Address),
            ("hex", Type::Hex),
            ("time", Type::Time),
            ("utf8string", Type::Text),
            ("string", Type::Text),
            ("octet", Type::Octets),
            ("unsigned64", Type::Unsigned(8)),
            ("unsigned", Type::Unsigned(4)),
            ("integer64", Type::Integer(8)),
            ("integer", Type::Integer(4)),
            ("float64", Type::Float64),
            ("float", Type::Float32),
            ("enum", Type::Integer(4)),
            ("grouped", Type::Grouped),
        ];
        let name = name.to_ascii_lowercase();
        NAMES.iter().find(|(n, _)| name.starts_with(n)).map(|(_, t)| *t)
    }
}

/// An AVP with the type of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Which one, and whether it is sent with the M bit.
    pub attribute: Attribute,
    /// How its value is written.
    pub kind: Type,
}

/// AVPs that a field may be written to, by their names in RFC 6733, RFC 7155 and OpenSIPS.
const BUILT_IN: &str = "\
User-Name 1 utf8string
Called-Station-Id 30 utf8string
Calling-Station-Id 31 utf8string
NAS-Identifier 32 utf8string
Acct-Session-Id 44 octets
Acct-Session-Time 46 unsigned
Acct-Multi-Session-Id 50 utf8string
Acct-Delay-Time 41 unsigned
Class 25 octets
Termination-Cause 295 enum
Sip-Method 204 enum
Sip-Response-Code 205 unsigned
Sip-From-Tag 206 utf8string
Sip-To-Tag 207 utf8string
Sip-Uri-User 208 utf8string
Sip-Uri-Host 209 utf8string
Sip-Group 211 utf8string
Sip-Rpid 213 utf8string
SIP-AVP 225 utf8string
Sip-Call-Duration 227 unsigned
Sip-Call-Setuptime 228 unsigned
Sip-Call-Created 229 unsigned
Sip-Call-MSDuration 230 unsigned
Transaction-Id 231 utf8string
";

/// Those of them that must be sent with the M bit (RFC 6733 §4.5).
const BASE: [u32; 5] = [1, 25, 44, 50, 295];

/// AVPs by name; case does not count.
#[derive(Clone, Debug)]
pub struct Dictionary {
    file: Option<PathBuf>,
    names: HashMap<String, Definition>,
    values: HashMap<(u32, String), i64>,
}

/// Where a name was looked for, for errors.
impl fmt::Display for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}", file.display()),
            None => f.write_str("the built-in AVPs"),
        }
    }
}

impl Dictionary {
    /// The built-in AVPs alone; `mandatory`: those of OpenSIPS have the M bit.
    pub fn built_in(mandatory: bool) -> Dictionary {
        let mut names = HashMap::new();
        for line in BUILT_IN.lines() {
            let mut words = line.split(' ');
            if let (Some(name), Some(Ok(code)), Some(Some(kind))) = (words.next(), words.next().map(str::parse), words.next().map(Type::from_name)) {
                let own = (204..=231).contains(&code);
                let attribute = Attribute { code, vendor: None, mandatory: if own { mandatory } else { BASE.contains(&code) } };
                names.insert(name.to_ascii_lowercase(), Definition { attribute, kind });
            }
        }
        Dictionary { file: None, names, values: HashMap::new() }
    }

    /// These and what a file defines; its AVPs are sent with the M bit, as in OpenSIPS.
    ///
    /// # Errors
    /// The file or its line, and what to change.
    pub fn read(mut self, file: &Path) -> Result<Dictionary, String> {
        let text = read_text(file, "the parameter names it as extra-avps-file:")?;
        let mut vendors = HashMap::new();
        let mut lines = text.lines().enumerate();
        while let Some((i, line)) = lines.next() {
            let line = line.split('#').next().unwrap_or("");
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some((keyword, args)) = words.split_first() else { continue };
            let keyword = keyword.to_ascii_uppercase();
            let done = match keyword.as_str() {
                "ATTRIBUTE" => self.attribute(args, &vendors),
                "VALUE" => self.value(args),
                "VENDOR" => vendor(args, &mut vendors),
                // These describe requests and answers of other modules. The original also skips words that it does not know.
                _ => Ok(()),
            };
            done.map_err(|e| format!("{}:{}: {keyword} {e}", file.display(), i + 1))?;
            let grouped = keyword == "ATTRIBUTE" && args.get(2).and_then(|t| Type::from_name(t)) == Some(Type::Grouped);
            if (grouped || keyword == "REQUEST" || keyword == "ANSWER") && !lines.by_ref().map(|(_, l)| l.trim()).any(|l| l.starts_with('}')) {
                return Err(format!("{}:{}: {keyword} {}: its '{{' block is never ended; add a line '}}'", file.display(), i + 1, args.join(" ")));
            }
        }
        self.file = Some(file.to_owned());
        Ok(self)
    }

    fn attribute(&mut self, args: &[&str], vendors: &HashMap<String, u32>) -> Result<(), String> {
        let [name, code, rest @ ..] = args else { return Err("needs a name and a number".into()) };
        if name.len() > 64 {
            return Err(format!("{name}: the name is longer than 64 bytes; shorten it"));
        }
        let code = code.parse().ok().filter(|c| *c != 0).ok_or_else(|| format!("{name}: '{code}' is not a number from 1 to 4294967295"))?;
        let kind = rest.first().map_or(Some(Type::Text), |t| Type::from_name(t)).ok_or_else(|| {
            format!(
                "{name}: '{}' is not a type: use string, hexstring, ip, time, unsigned32, unsigned64, integer32, integer64, float32, float64 or grouped",
                rest[0]
            )
        })?;
        let vendor = match rest.get(1) {
            None => None,
            Some(v) => Some(
                v.parse().ok().or_else(|| vendors.get(&v.to_ascii_lowercase()).copied()).ok_or_else(|| format!("{name}: '{v}' is not a vendor's number"))?,
            ),
        };
        let attribute = Attribute { code, vendor: vendor.filter(|v| *v != 0), mandatory: true };
        self.names.insert(name.to_ascii_lowercase(), Definition { attribute, kind });
        Ok(())
    }

    fn value(&mut self, args: &[&str]) -> Result<(), String> {
        let [attribute, name, number, ..] = args else { return Err("needs an attribute, a name and a number".into()) };
        let number = number.parse().map_err(|_| format!("{attribute} {name}: '{number}' is not a number"))?;
        if let Some(definition) = self.names.get(&attribute.to_ascii_lowercase()) {
            self.values.insert((definition.attribute.code, name.to_ascii_lowercase()), number);
        }
        Ok(())
    }

    /// The AVP that a field is written to: its name, `CODE`, or `CODE@VENDOR`.
    pub fn find(&self, name: &str) -> Option<Definition> {
        if let Some(known) = self.names.get(&name.to_ascii_lowercase()) {
            return Some(known.clone());
        }
        let (code, vendor) = match name.split_once('@') {
            Some((code, vendor)) => (code, Some(vendor.parse().ok().filter(|v| *v != 0)?)),
            None => (name, None),
        };
        let code = code.parse().ok().filter(|c| *c != 0)?;
        Some(Definition { attribute: Attribute { code, vendor, mandatory: false }, kind: Type::Text })
    }

    /// A value in the form of its AVP; `None` if the AVP cannot hold it.
    pub fn write(&self, definition: &Definition, value: &[u8]) -> Option<Vec<u8>> {
        let text = || std::str::from_utf8(value).ok().map(str::trim);
        let number =
            || text()?.parse::<i128>().ok().or_else(|| self.values.get(&(definition.attribute.code, text()?.to_ascii_lowercase())).map(|n| i128::from(*n)));
        let fitting = |from: i128, to: i128, bytes: u8| {
            let n = number()?;
            (from..to).contains(&n).then(|| n.to_be_bytes()[16 - usize::from(bytes)..].to_vec())
        };
        match definition.kind {
            Type::Text => Some(readable(value)),
            Type::Octets => Some(value.strip_prefix(b"0x").and_then(unhex).unwrap_or_else(|| value.to_vec())),
            Type::Hex => unhex(value.strip_prefix(b"0x").unwrap_or(value)),
            Type::Address => text()?.parse().ok().map(address),
            Type::Time => i64::try_from(number()?).ok().and_then(time),
            Type::Unsigned(bytes) => fitting(0, 1 << (u32::from(bytes) * 8), bytes),
            Type::Integer(bytes) => {
                let half = 1 << (u32::from(bytes) * 8 - 1);
                fitting(-half, half, bytes)
            }
            Type::Float32 => text()?.parse::<f32>().ok().map(|f| f.to_be_bytes().to_vec()),
            Type::Float64 => text()?.parse::<f64>().ok().map(|f| f.to_be_bytes().to_vec()),
            Type::Grouped => None,
        }
    }
}

/// `VENDOR number name`; in a dictionary of RADIUS `VENDOR name number`.
fn vendor(args: &[&str], vendors: &mut HashMap<String, u32>) -> Result<(), String> {
    let known = match args {
        [a, b, ..] => a.parse().ok().map(|n| (*b, n)).or_else(|| b.parse().ok().map(|n| (*a, n))),
        _ => None,
    };
    let (name, number) = known.ok_or("needs a number and a name")?;
    vendors.insert(name.to_ascii_lowercase(), number);
    Ok(())
}

/// An address with its family (RFC 6733 §4.3.1).
pub fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => [&[0, 1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[0, 2][..], &ip.octets()].concat(),
    }
}

/// A time in seconds since 1970, from 1968 to 2104: the numbers start again in 2036 (RFC 5905 §6).
pub fn time(seconds: i64) -> Option<Vec<u8>> {
    let since = seconds.checked_add(SINCE_1900)?;
    (i64::from(i32::MAX) + 1..3 << 31).contains(&since).then(|| (since as u32).to_be_bytes().to_vec())
}

/// Text with '?' for each byte that is not UTF-8: a peer would refuse the message.
pub fn readable(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for chunk in value.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        out.extend(chunk.invalid().iter().map(|_| b'?'));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Dictionary, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("d");
        std::fs::write(&file, text).unwrap();
        Dictionary::built_in(false).read(&file).map_err(|e| e.replace(&dir.path().display().to_string(), ""))
    }

    fn attribute(code: u32, vendor: Option<u32>, mandatory: bool) -> Attribute {
        Attribute { code, vendor, mandatory }
    }

    /// As in the README of `aaa_diameter`, and as the file that OpenSIPS comes with.
    #[test]
    fn files_of_the_original_are_read() {
        let d = read(
            "# comment\nATTRIBUTE out_gw  232 string\nATTRIBUTE rated_duration 234 integer   # seconds\nATTRIBUTE bare 240\nATTRIBUTE Exponent 429 integer32\n\
             ATTRIBUTE Value-Digits 447 integer64\nATTRIBUTE Cost-Unit 424 grouped\n{\n\tValue-Digits | REQUIRED | 1\n\tExponent | OPTIONAL | 1\n}\n\
             VENDOR 10415 3GPP\nATTRIBUTE Trunk 852 utf8string 10415\nATTRIBUTE Trunk2 853 utf8string 3gpp\nAPPLICATION 42 My Diameter Application\n\
             REQUEST 92001 My-Custom-Request\n{\n\tATTRIBUTE | REQUIRED | 1\n}\nVENDOR    Cisco   9\nATTRIBUTE Cisco-AVPair 1 string Cisco\n\
             VALUE Sip-Method Invite 1\nATTRIBUTE Sip-Method 204 integer\n",
        )
        .unwrap();
        for (name, want, kind) in [
            ("OUT_GW", attribute(232, None, true), Type::Text),
            ("rated_duration", attribute(234, None, true), Type::Integer(4)),
            ("bare", attribute(240, None, true), Type::Text),
            ("Value-Digits", attribute(447, None, true), Type::Integer(8)),
            ("Cost-Unit", attribute(424, None, true), Type::Grouped),
            ("Trunk", attribute(852, Some(10415), true), Type::Text),
            ("Trunk2", attribute(853, Some(10415), true), Type::Text),
            ("Cisco-AVPair", attribute(1, Some(9), true), Type::Text),
            ("User-Name", attribute(1, None, true), Type::Text),
            ("Sip-Uri-User", attribute(208, None, false), Type::Text),
            ("7846", attribute(7846, None, false), Type::Text),
            ("831@10415", attribute(831, Some(10415), false), Type::Text),
        ] {
            assert_eq!(d.find(name), Some(Definition { attribute: want, kind }), "{name}");
        }
        let method = d.find("sip-method").unwrap();
        assert_eq!(d.write(&method, b"invite"), Some(vec![0, 0, 0, 1]));
        for nothing in ["No-Such", "0", "1@0", "1@", "@9", "99999999999"] {
            assert_eq!(d.find(nothing), None, "{nothing}");
        }
        assert!(Dictionary::built_in(true).find("Sip-Uri-User").unwrap().attribute.mandatory);
        assert_eq!(BUILT_IN.lines().count(), Dictionary::built_in(false).names.len());
    }

    #[test]
    fn errors_name_the_line_and_the_cure() {
        for (text, want) in [
            ("\nATTRIBUTE x\n", "/d:2: ATTRIBUTE needs a name and a number"),
            ("ATTRIBUTE x y", "/d:1: ATTRIBUTE x: 'y' is not a number"),
            ("ATTRIBUTE x 1 blob", "/d:1: ATTRIBUTE x: 'blob' is not a type: use string"),
            ("ATTRIBUTE x 1 string Nobody", "/d:1: ATTRIBUTE x: 'Nobody' is not a vendor"),
            ("ATTRIBUTE x 1 grouped\n{\n", "/d:1: ATTRIBUTE x 1 grouped: its '{' block is never ended"),
            ("VENDOR x", "/d:1: VENDOR needs"),
            ("VALUE a b c", "/d:1: VALUE a b: 'c' is not a number"),
            (&format!("ATTRIBUTE {} 1", "x".repeat(65)), "/d:1: ATTRIBUTE xxx"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.starts_with(want), "wanted {want:?}, got {e:?}");
        }
    }

    #[test]
    fn values_take_the_form_of_their_type() {
        let d = Dictionary::built_in(false);
        for (kind, value, want) in [
            (Type::Text, "a\u{e9}", Some(vec![b'a', 0xc3, 0xa9])),
            (Type::Octets, "0x00ff", Some(vec![0, 255])),
            (Type::Octets, "0xz", Some(b"0xz".to_vec())),
            (Type::Hex, "00ff", Some(vec![0, 255])),
            (Type::Hex, "zz", None),
            (Type::Address, "127.0.0.1", Some(vec![0, 1, 127, 0, 0, 1])),
            (Type::Address, "::1", Some([vec![0, 2], vec![0; 15], vec![1]].concat())),
            (Type::Address, "here", None),
            (Type::Time, "0", Some(vec![0x83, 0xaa, 0x7e, 0x80])),
            (Type::Time, "2085978496", Some(vec![0; 4])),
            (Type::Time, "99999999999", None),
            (Type::Unsigned(4), "4294967295", Some(vec![255; 4])),
            (Type::Unsigned(4), "4294967296", None),
            (Type::Unsigned(4), "-1", None),
            (Type::Unsigned(8), "1", Some(vec![0, 0, 0, 0, 0, 0, 0, 1])),
            (Type::Integer(4), " -1 ", Some(vec![255; 4])),
            (Type::Integer(4), "2147483648", None),
            (Type::Integer(8), "-2", Some(vec![255, 255, 255, 255, 255, 255, 255, 254])),
            (Type::Float32, "1", Some(vec![0x3f, 0x80, 0, 0])),
            (Type::Float64, "-2", Some(vec![0xc0, 0, 0, 0, 0, 0, 0, 0])),
            (Type::Grouped, "x", None),
        ] {
            assert_eq!(d.write(&Definition { attribute: Attribute::base(1), kind }, value.as_bytes()), want, "{kind:?} {value}");
        }
        assert_eq!(readable(b"a\xffb\xc3"), b"a?b?");
    }
}
