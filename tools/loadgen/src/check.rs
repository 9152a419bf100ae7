//! Compares a reply's body as it arrives: byte by byte with the pattern the synthetic application publishes, or by
//! SHA-256 with what it should be.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use keyferry_app::synthetic::fill;

/// Bytes compared in one step.
const STEP_BYTES: usize = 4096;

/// A body that is not the one asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// A byte differs.
    #[error("seed {seed}: byte {offset} is {found:#04x}, not {expected:#04x}")]
    Byte {
        /// Seed of the request.
        seed: u64,
        /// Where in the body.
        offset: u64,
        /// What came.
        found: u8,
        /// What the pattern has there.
        expected: u8,
    },
    /// The body has another length.
    #[error("seed {seed}: {found} bytes, not {expected}")]
    Length {
        /// Seed of the request.
        seed: u64,
        /// Bytes that came (at least).
        found: u64,
        /// Bytes asked for.
        expected: u64,
    },
    /// The body has another hash.
    #[error("a body's SHA-256 is {0}, not that of --expect-sha256")]
    Hash(String),
}

/// What a body has to be.
#[derive(Clone)]
pub enum Expected {
    /// The pattern of a seed.
    Pattern(Check),
    /// Bytes with this SHA-256. (The running hash is on the heap: this check costs an allocation a reply.)
    Sha256([u8; 32], Context),
    /// Anything.
    Any,
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Expected::Pattern(_) => "Pattern",
            Expected::Sha256(..) => "Sha256",
            Expected::Any => "Any",
        })
    }
}

impl Expected {
    /// Expects bytes with the SHA-256 `hash`.
    pub fn sha256(hash: [u8; 32]) -> Expected {
        Expected::Sha256(hash, Context::new(&SHA256))
    }

    /// Takes the next bytes of the body.
    ///
    /// # Errors
    /// At the first byte that differs from the pattern, or that is one too many.
    pub fn body(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        match self {
            Expected::Pattern(check) => check.body(bytes),
            Expected::Sha256(_, hash) => {
                hash.update(bytes);
                Ok(())
            }
            Expected::Any => Ok(()),
        }
    }

    /// The body has ended.
    ///
    /// # Errors
    /// When it is not what was asked for.
    pub fn end(self) -> Result<(), Mismatch> {
        match self {
            Expected::Pattern(check) => check.end(),
            Expected::Sha256(expected, hash) => {
                let found = hash.finish();
                if found.as_ref() == expected {
                    return Ok(());
                }
                let text = found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                Err(Mismatch::Hash(text))
            }
            Expected::Any => Ok(()),
        }
    }
}

/// Reads a SHA-256 as 64 hexadecimal digits.
///
/// # Errors
/// Any other text.
pub fn parse_sha256(text: &str) -> Result<[u8; 32], String> {
    let wrong = || format!("{text:?} is not 64 hexadecimal digits; print them by sha256sum FILE");
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
    Ok(std::array::from_fn(|at| digits[2 * at] << 4 | digits[2 * at + 1]))
}

/// Progress through one body.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    seed: u64,
    expected: u64,
    offset: u64,
}

impl Check {
    /// Expects `bytes` bytes of the pattern of `seed`.
    pub fn new(seed: u64, bytes: u64) -> Check {
        Check { seed, expected: bytes, offset: 0 }
    }

    /// Compares the next bytes of the body.
    ///
    /// # Errors
    /// At the first byte that differs, or that is one too many.
    pub fn body(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        let end = self.offset + bytes.len() as u64;
        if end > self.expected {
            return Err(Mismatch::Length { seed: self.seed, found: end, expected: self.expected });
        }
        let mut pattern = [0; STEP_BYTES];
        for part in bytes.chunks(STEP_BYTES) {
            let pattern = &mut pattern[..part.len()];
            fill(self.seed, self.offset, pattern);
            if part != pattern {
                return Err(self.first_difference(part, pattern));
            }
            self.offset += part.len() as u64;
        }
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// When it is shorter than asked for.
    pub fn end(&self) -> Result<(), Mismatch> {
        if self.offset == self.expected {
            Ok(())
        } else {
            Err(Mismatch::Length { seed: self.seed, found: self.offset, expected: self.expected })
        }
    }

    fn first_difference(&self, part: &[u8], pattern: &[u8]) -> Mismatch {
        let at = part.iter().zip(pattern).position(|(found, expected)| found != expected).unwrap_or(0);
        Mismatch::Byte {
            seed: self.seed,
            offset: self.offset + at as u64,
            found: part[at],
            expected: pattern[at],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use keyferry_app::synthetic::splitmix64;

    use super::*;

    #[test]
    fn pattern_is_the_published_one() {
        // The first output of splitmix64 for state 0, as in its authors' reference.
        assert_eq!(splitmix64(0), 0xe220_a839_7b1d_cdaf);
        let mut out = [0; 72];
        fill(0, 0, &mut out);
        assert_eq!(out[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
        assert_eq!(out[8..16], 0x8058_21f2_fa68_49c4_u64.to_le_bytes());
        assert_eq!(out[64..], splitmix64(1).to_le_bytes());
    }

    proptest! {
        #[test]
        fn any_fragmentation_passes_and_any_flip_fails(
            seed: u64,
            body in 1_usize..20_000,
            cut in 1_usize..5_000,
            flip: prop::sample::Index,
        ) {
            let mut bytes = vec![0; body];
            fill(seed, 0, &mut bytes);
            let mut check = Check::new(seed, body as u64);
            for part in bytes.chunks(cut) {
                prop_assert_eq!(check.body(part), Ok(()));
            }
            prop_assert_eq!(check.end(), Ok(()));

            let at = flip.index(body);
            bytes[at] ^= 0x10;
            let mut check = Check::new(seed, body as u64);
            let found = bytes.chunks(cut).try_for_each(|part| check.body(part));
            let is_found = matches!(found, Err(Mismatch::Byte { offset, .. }) if offset == at as u64);
            prop_assert!(is_found);
        }
    }

    #[test]
    fn hashes_are_those_of_sha256sum() {
        // The example of FIPS 180-4.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let mut expected = Expected::sha256(parse_sha256(abc).unwrap());
        expected.body(b"a").unwrap();
        let mut right = expected.clone();
        right.body(b"bc").unwrap();
        assert_eq!(right.end(), Ok(()));
        expected.body(b"bd").unwrap();
        assert!(matches!(expected.end(), Err(Mismatch::Hash(_))));
        assert!(parse_sha256("ab").is_err() && parse_sha256(&"x".repeat(64)).is_err());
    }

    #[test]
    fn length_matters() {
        let mut bytes = [0; 8];
        fill(3, 0, &mut bytes);
        let mut check = Check::new(3, 8);
        check.body(&bytes[..7]).unwrap();
        assert!(matches!(check.end(), Err(Mismatch::Length { found: 7, .. })));
        let mut check = Check::new(3, 7);
        assert!(matches!(check.body(&bytes), Err(Mismatch::Length { found: 8, .. })));
    }
}
