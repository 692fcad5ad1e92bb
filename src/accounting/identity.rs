//! Identities that are the same in every process and after every restart: FNV-1a (128 bits) over the
//! parts, each preceded by its length.
#![forbid(unsafe_code)]

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
/// Eight steps, the last seven of them for zero bytes.
const PRIME_8: u128 = {
    let (mut power, mut i) = (PRIME, 1);
    while i < 8 {
        power = power.wrapping_mul(PRIME);
        i += 1;
    }
    power
};

/// An identity being computed.
pub(crate) struct Identity(u128);

impl Identity {
    /// The identity of no parts.
    pub(crate) const fn new() -> Identity {
        Identity(OFFSET)
    }

    /// Adds a part.
    pub(crate) fn eat(&mut self, part: &[u8]) {
        match u8::try_from(part.len()) {
            // A short length ends with seven zeros.
            Ok(len) => self.0 = (self.0 ^ u128::from(len)).wrapping_mul(PRIME_8),
            Err(_) => self.bytes(&(part.len() as u64).to_le_bytes()),
        }
        self.bytes(part);
    }

    fn bytes(&mut self, part: &[u8]) {
        let mut state = self.0;
        for b in part {
            state = (state ^ u128::from(*b)).wrapping_mul(PRIME);
        }
        self.0 = state;
    }

    /// The result.
    pub(crate) const fn finish(self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Identities are stored: they must be those of FNV-1a, byte by byte, for every length.
    #[test]
    fn identities_are_those_of_the_plain_algorithm() {
        for len in [0, 1, 20, 255, 256, 70_000] {
            let part: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let bytes = (len as u64).to_le_bytes();
            let plain = bytes.iter().chain(&part).fold(OFFSET, |state, b| (state ^ u128::from(*b)).wrapping_mul(PRIME));
            let mut id = Identity::new();
            id.eat(&part);
            assert_eq!(id.finish(), plain, "{len}");
        }
    }

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
