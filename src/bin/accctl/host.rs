//! `accctl host`: says whether the module works with a server, using only the server's program file.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use acc::host::{kamailio, opensips};

use crate::Outcome;

#[derive(clap::Args)]
pub struct Host {
    /// The program of the server: /usr/sbin/opensips or /usr/sbin/kamailio
    #[arg(value_name = "FILE")]
    program: PathBuf,
}

pub fn run(o: &Host) -> Outcome {
    let bytes = std::fs::read(&o.program).map_err(|e| format!("{}: {e}", o.program.display()))?;
    let program = Program::of(&bytes).ok_or_else(|| format!("{} is not a program for x86_64 Linux", o.program.display()))?;
    let judged = judge(&program).ok_or_else(|| format!("{} is neither OpenSIPS nor Kamailio", o.program.display()))?;
    let name = o.program.display();
    Ok(match judged {
        Ok(None) => (format!("{name}: accepted, a tested version\n"), ExitCode::SUCCESS),
        Ok(Some(version)) => {
            let more = "has all that the module needs, as far as its file tells; the module checks the rest when it starts";
            (format!("{name}: accepted: {version} came after the tested versions and {more}\n"), ExitCode::SUCCESS)
        }
        Err(why) => (format!("{name}: refused: {why}\n"), ExitCode::FAILURE),
    })
}

/// The version if it is not among the tested ones, or why the module would refuse it; `None` for another program.
fn judge(program: &Program<'_>) -> Option<Result<Option<String>, String>> {
    let text = |name| program.text(name).unwrap_or_default();
    let (version, judged, needed) = if program.symbols.contains_key("ver_name") {
        let (name, version, arch, os) = (text("ver_name"), text("ver_version"), text("ver_arch"), text("ver_os"));
        (format!("{name} {version}"), kamailio::versions::judge(&name, &version, &arch, &os), kamailio::SYMBOLS)
    } else {
        let version = program.find("opensips ", "/linux)")?;
        let flags = program.find("STATS: ", ", ").unwrap_or_default();
        let judged = opensips::versions::judge(&version, &flags);
        (version, judged, opensips::SYMBOLS)
    };
    Some(judged.and_then(|untested| {
        let missing: Vec<_> = needed.iter().filter(|name| !program.symbols.contains_key(**name)).copied().collect();
        if missing.is_empty() {
            return Ok(untested.map(|_| version.clone()));
        }
        Err(format!("it does not offer {}, which this acc module needs", missing.join(", ")))
    }))
}

/// A program file (ELF).
struct Program<'a> {
    bytes: &'a [u8],
    /// Where the values of its symbols are in the file.
    symbols: HashMap<String, Option<usize>>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?)).ok()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
}

/// A terminated string.
fn text_at(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|b| *b == 0)?;
    Some(String::from_utf8_lossy(&rest[..end]).into_owned())
}

impl<'a> Program<'a> {
    const DYNSYM: usize = 11;

    fn of(bytes: &'a [u8]) -> Option<Program<'a>> {
        // 64 bits, little-endian, x86_64.
        if bytes.get(..6)? != b"\x7fELF\x02\x01" || u16_at(bytes, 0x12)? != 62 {
            return None;
        }
        let (sections, size, count) = (u64_at(bytes, 0x28)?, u16_at(bytes, 0x3a)?, u16_at(bytes, 0x3c)?);
        let mut all = Vec::new();
        for i in 0..count {
            let at = sections.checked_add(i * size)?;
            let field = |offset: usize| u64_at(bytes, at.checked_add(offset)?);
            all.push((u32_at(bytes, at.checked_add(4)?)?, field(0x10)?, field(0x18)?, field(0x20)?, u32_at(bytes, at.checked_add(0x28)?)?));
        }
        let place = |address: usize| {
            let (_, begin, offset, ..) =
                all.iter().find(|(kind, begin, _, length, _)| *kind == 1 && *begin > 0 && address.checked_sub(*begin).is_some_and(|d| d < *length))?;
            offset.checked_add(address - begin)
        };
        let mut symbols = HashMap::new();
        for (_, _, offset, length, link) in all.iter().filter(|(kind, ..)| *kind == Self::DYNSYM) {
            let (_, _, names, ..) = all.get(*link)?;
            for at in (0..*length / 24).map(|i| offset.saturating_add(i * 24)) {
                // It only refers to this symbol of another object.
                if u16_at(bytes, at.checked_add(6)?)? == 0 {
                    continue;
                }
                let name = text_at(bytes, names.checked_add(u32_at(bytes, at)?)?)?;
                symbols.insert(name, place(u64_at(bytes, at.checked_add(8)?)?));
            }
        }
        Some(Program { bytes, symbols })
    }

    /// The text that a symbol names.
    fn text(&self, symbol: &str) -> Option<String> {
        text_at(self.bytes, (*self.symbols.get(symbol)?)?)
    }

    /// A printable text with this beginning that contains this part.
    fn find(&self, beginning: &str, part: &str) -> Option<String> {
        let texts = self.bytes.split(|b| *b == 0).filter(|s| s.starts_with(beginning.as_bytes()) && s.iter().all(|b| (0x20..0x7f).contains(b)));
        texts.map(|s| String::from_utf8_lossy(s).into_owned()).find(|s| s.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn this_program_is_no_server() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(judge(&Program::of(&bytes).unwrap()).is_none_or(|judged| judged.is_err()));
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(head in prop::collection::vec(any::<u8>(), 0..200), numbers in prop::collection::vec(0u8..80, 0..400)) {
            let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0".to_vec();
            bytes.extend(&numbers);
            let _ = Program::of(&bytes).map(|p| judge(&p).is_some());
            let _ = Program::of(&head).map(|p| p.text("ver_name"));
        }
    }
}
