//! The first thing each end says on the Unix socket. In: a [`Hello`], or a peer's bytes. Out: bytes, or a checked
//! [`Hello`]. Control thread.
//!
//! ```text
//! magic 8 | version u32 | body length u32 | body          all little-endian
//! body: incarnation u64 | random 32 | workers u16 | limits 5 * u64 | name length u16 | name
//! ```
//! The first 16 bytes never change, so that any two versions can name each other.

use crate::Limits;

/// The version of this exchange and of the layout of the memory behind it.
pub const VERSION: u32 = 1;
/// Longest node name, in bytes.
pub const NODE_BYTES_MAX: usize = 255;
/// Most workers of a node.
pub const WORKERS_MAX: u16 = 256;

const MAGIC: [u8; 8] = *b"kffabric";
/// Bytes before the body.
pub(super) const PREFIX_BYTES: usize = 16;
const FIXED_BYTES: usize = 8 + 32 + 2 + 5 * 8 + 2;
/// Longest body.
pub(super) const BODY_BYTES_MAX: usize = FIXED_BYTES + NODE_BYTES_MAX;

/// What one end says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// The node's name: not empty, at most [`NODE_BYTES_MAX`] bytes, no control characters.
    pub node: String,
    /// Changes each time the node starts.
    pub incarnation: u64,
    /// Fresh random bytes, for the keys of this connection.
    pub random: [u8; 32],
    /// Workers of the node, 1 to [`WORKERS_MAX`].
    pub workers: u16,
    /// What the node offers; the pairs get the smaller of each.
    pub limits: Limits,
}

/// What is wrong with a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It does not begin as one: something else answers on that socket.
    #[error("the peer does not speak keyferry's fabric: is this the right socket?")]
    Magic,
    /// It ends early, or later than its fields do.
    #[error("the hello's length is wrong")]
    Length,
    /// The name is empty, too long, not UTF-8, or has control characters.
    #[error("the node name must be 1 to 255 bytes of UTF-8 without control characters")]
    Node,
    /// No workers, or too many.
    #[error("the number of workers must be 1 to 256")]
    Workers,
}

impl Hello {
    /// Whether the fields are within their bounds; limits are checked once agreed.
    pub(super) fn check(&self) -> Result<(), HelloError> {
        let node = &self.node;
        if node.is_empty() || node.len() > NODE_BYTES_MAX || node.chars().any(char::is_control) {
            return Err(HelloError::Node);
        }
        if self.workers == 0 || self.workers > WORKERS_MAX {
            return Err(HelloError::Workers);
        }
        Ok(())
    }

    /// The bytes of a hello that passed [`check`](Self::check).
    pub(super) fn encode(&self) -> Vec<u8> {
        let limits = &self.limits;
        let mut body = Vec::with_capacity(BODY_BYTES_MAX);
        body.extend(self.incarnation.to_le_bytes());
        body.extend(self.random);
        body.extend(self.workers.to_le_bytes());
        for value in [
            limits.message_bytes_max,
            limits.receives,
            limits.posted_max,
            limits.slots_bytes,
            limits.staging_bytes,
        ] {
            body.extend((value as u64).to_le_bytes());
        }
        body.extend((self.node.len() as u16).to_le_bytes());
        body.extend(self.node.as_bytes());

        let mut bytes = Vec::with_capacity(PREFIX_BYTES + body.len());
        bytes.extend(MAGIC);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// Version and body length from the first [`PREFIX_BYTES`] bytes. The length is the peer's claim.
    pub(super) fn decode_prefix(prefix: &[u8; PREFIX_BYTES]) -> Result<(u32, u32), HelloError> {
        let mut rest = &prefix[..];
        if field::<8>(&mut rest)? != MAGIC {
            return Err(HelloError::Magic);
        }
        Ok((u32::from_le_bytes(field(&mut rest)?), u32::from_le_bytes(field(&mut rest)?)))
    }

    /// A whole hello, as [`exchange`](super::exchange) reads it; for fuzzers.
    ///
    /// # Errors
    /// See [`HelloError`].
    #[doc(hidden)]
    pub fn read(bytes: &[u8]) -> Result<Hello, HelloError> {
        let (prefix, body) = bytes.split_first_chunk().ok_or(HelloError::Length)?;
        let (version, len) = Hello::decode_prefix(prefix)?;
        if len as usize != body.len() || body.len() > BODY_BYTES_MAX {
            return Err(HelloError::Length);
        }
        Hello::decode_body(version, body)
    }

    /// The bytes of a hello that was [`read`](Self::read); for fuzzers.
    #[doc(hidden)]
    pub fn write(&self) -> Vec<u8> {
        self.encode()
    }

    /// The rest of a hello of this version.
    pub(super) fn decode_body(version: u32, mut body: &[u8]) -> Result<Hello, HelloError> {
        let rest = &mut body;
        let incarnation = u64::from_le_bytes(field(rest)?);
        let random = field(rest)?;
        let workers = u16::from_le_bytes(field(rest)?);
        let limits = Limits {
            message_bytes_max: size(rest)?,
            receives: size(rest)?,
            posted_max: size(rest)?,
            slots_bytes: size(rest)?,
            staging_bytes: size(rest)?,
        };
        let node_bytes = u16::from_le_bytes(field(rest)?);
        if rest.len() != usize::from(node_bytes) {
            return Err(HelloError::Length);
        }
        let node = std::str::from_utf8(rest).map_err(|_| HelloError::Node)?.to_owned();
        let hello = Hello { version, node, incarnation, random, workers, limits };
        hello.check()?;
        Ok(hello)
    }
}

/// Takes `N` bytes off the front.
fn field<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], HelloError> {
    let (first, after) = rest.split_first_chunk::<N>().ok_or(HelloError::Length)?;
    *rest = after;
    Ok(*first)
}

/// A size; one too large for this machine is as good as the largest, for the agreement takes the smaller.
fn size(rest: &mut &[u8]) -> Result<usize, HelloError> {
    Ok(usize::try_from(u64::from_le_bytes(field(rest)?)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> impl Strategy<Value = Hello> {
        let limits =
            (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|l| Limits {
                message_bytes_max: l.0 as usize,
                receives: l.1 as usize,
                posted_max: l.2 as usize,
                slots_bytes: l.3 as usize,
                staging_bytes: l.4 as usize,
            });
        ("[a-zä.-]{1,100}", any::<u64>(), any::<[u8; 32]>(), 1..=WORKERS_MAX, limits).prop_map(
            |(node, incarnation, random, workers, limits)| Hello {
                version: VERSION,
                node,
                incarnation,
                random,
                workers,
                limits,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(hello in hello()) {
            prop_assert_eq!(Hello::read(&hello.encode()), Ok(hello));
        }

        #[test]
        fn a_cut_hello_is_refused(hello in hello(), cut in any::<prop::sample::Index>()) {
            let bytes = hello.encode();
            let kept = PREFIX_BYTES + cut.index(bytes.len() - PREFIX_BYTES);
            prop_assert!(Hello::decode_body(VERSION, &bytes[PREFIX_BYTES..kept]).is_err());
        }

        #[test]
        fn garbage_never_panics_and_never_exceeds_bounds(
            body in prop::collection::vec(any::<u8>(), 0..2 * BODY_BYTES_MAX),
        ) {
            if let Ok(hello) = Hello::decode_body(VERSION, &body) {
                prop_assert_eq!(hello.check(), Ok(()));
            }
        }
    }

    #[test]
    fn names_and_workers_are_bounded() {
        let good = Hello {
            version: VERSION,
            node: "a".into(),
            incarnation: 1,
            random: [0; 32],
            workers: 1,
            limits: Limits {
                message_bytes_max: 1,
                receives: 1,
                posted_max: 1,
                slots_bytes: 0,
                staging_bytes: 0,
            },
        };
        assert_eq!(good.check(), Ok(()));
        for node in ["", "a\nb", &"x".repeat(NODE_BYTES_MAX + 1)] {
            let bad = Hello { node: node.to_owned(), ..good.clone() };
            assert_eq!(bad.check(), Err(HelloError::Node));
            // A name too long does not fit the longest hello either.
            let refused = if node.len() > NODE_BYTES_MAX { HelloError::Length } else { HelloError::Node };
            assert_eq!(Hello::read(&bad.encode()), Err(refused));
        }
        for workers in [0, WORKERS_MAX + 1] {
            let bad = Hello { workers, ..good.clone() };
            assert_eq!(Hello::read(&bad.encode()), Err(HelloError::Workers));
        }
    }
}
