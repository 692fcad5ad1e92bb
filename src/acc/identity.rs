//! Names that are the same in every process and after every restart: FNV-1a (128 bits) over the
//! parts, each preceded by its length.
#![forbid(unsafe_code)]

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// A name being made.
pub(crate) struct Identity(u128);

impl Identity {
    /// Nothing eaten yet.
    pub(crate) const fn new() -> Identity {
        Identity(OFFSET)
    }

    /// Adds a part.
    pub(crate) fn eat(&mut self, part: &[u8]) {
        for b in (part.len() as u64).to_le_bytes().iter().chain(part) {
            self.0 = (self.0 ^ u128::from(*b)).wrapping_mul(PRIME);
        }
    }

    /// The name.
    pub(crate) const fn finish(self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let name = |parts: &[&[u8]]| {
            let mut id = Identity::new();
            parts.iter().for_each(|p| id.eat(p));
            id.finish()
        };
        assert_ne!(name(&[b"ab", b"c"]), name(&[b"a", b"bc"]));
        assert_eq!(name(&[b"ab", b"c"]), name(&[b"ab", b"c"]));
    }
}
