//! Records on the wire: sizes, content types, and where a record ends.
//!
//! In: the first bytes of a TCP stream. Out: the length of the first record, or why it is none. Stateless.

use crate::alert::{Alert, Failure, PeerFault};

/// Bytes of a record header: type, version, length (RFC 8446 5.1).
pub const HEADER_BYTES: usize = 5;

/// Most plaintext one record carries (RFC 8446 5.1; RFC 5246 6.2.1).
pub const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// Most plaintext that a connection's records of data are given by us, between [`Fragment::BYTES_MIN`] and
/// [`PLAINTEXT_BYTES_MAX`]. It is configured, not negotiated: rustls answers neither max_fragment_length (RFC 6066 4)
/// nor record_size_limit (RFC 8449), as a server may. Shorter records let a client use the first bytes sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment(u16);

impl Fragment {
    /// Shortest: the least that max_fragment_length could ask for.
    pub const BYTES_MIN: usize = 512;

    /// As long as records may be.
    pub const MAX: Fragment = Fragment(PLAINTEXT_BYTES_MAX as u16);

    /// A limit of so many bytes; `None` outside of the bounds.
    pub fn new(bytes: usize) -> Option<Fragment> {
        let bounds = Fragment::BYTES_MIN..=PLAINTEXT_BYTES_MAX;
        bounds.contains(&bytes).then(|| u16::try_from(bytes).ok().map(Fragment))?
    }

    /// Its bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// What TLS 1.3 allows protection to add: type, padding, tag (RFC 8446 5.2).
const EXPANSION13_BYTES_MAX: usize = 256;

/// What TLS 1.2 allows protection to add (RFC 5246 6.2.3).
const EXPANSION12_BYTES_MAX: usize = 2048;

/// Longest record of any version, header included: what [`record_len`] lets pass.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + EXPANSION12_BYTES_MAX;

/// Longest record of TLS 1.3, header included.
pub const RECORD13_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + EXPANSION13_BYTES_MAX;

/// AEAD tag of every suite.
pub(crate) const TAG_BYTES: usize = 16;

/// The part of the nonce that TLS 1.2 AES-GCM sends (RFC 5288 3).
pub(crate) const EXPLICIT_NONCE_BYTES: usize = 8;

/// Most [`Sealer`](crate::Sealer) writes for one record, any suite: TLS 1.2 AES-GCM with its explicit nonce.
pub const SEALED_BYTES_MAX: usize = HEADER_BYTES + EXPLICIT_NONCE_BYTES + PLAINTEXT_BYTES_MAX + TAG_BYTES;

const _: () =
    assert!(EXPLICIT_NONCE_BYTES > 1, "TLS 1.3 adds its content type, TLS 1.2 its nonce: the larger counts");
const _: () = assert!(SEALED_BYTES_MAX <= RECORD_BYTES_MAX && RECORD13_BYTES_MAX <= RECORD_BYTES_MAX);

/// Content types (RFC 8446 5.1).
pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// The record version of TLS 1.2, and of every protected record of TLS 1.3.
pub(crate) const VERSION: [u8; 2] = [3, 3];

/// Length of the first record in `bytes`, header included; `None` while fewer than [`HEADER_BYTES`] are there.
///
/// The version is not known to the caller yet, so the bound is that of TLS 1.2; [`Opener`](crate::Opener) applies
/// the stricter one of TLS 1.3. The minor version is not checked: it has to be ignored in ClientHellos (RFC 8446 5.1).
///
/// # Errors
/// A type that is not TLS, a major version that is not 3, or a length no version allows.
pub fn record_len(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    // A wrong first byte is known as soon as it is there: other protocols on this port are told apart early.
    match bytes.first() {
        Some(&kind) if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind) => {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::RecordType));
        }
        _ => {}
    }
    let Some(&[_, major, _, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    if major != VERSION[0] {
        return Err(Failure::peer(Alert::PROTOCOL_VERSION, PeerFault::RecordVersion));
    }
    let len = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if len > RECORD_BYTES_MAX {
        return Err(Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::RecordTooLong));
    }
    Ok(Some(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waits_for_five_bytes_unless_the_first_is_wrong() {
        for have in 0..HEADER_BYTES {
            assert_eq!(record_len(&[22, 3, 1, 0, 9][..have]), Ok(None));
        }
        assert_eq!(record_len(&[22, 3, 1, 0, 9]), Ok(Some(14)));
        let failure = Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::RecordType);
        assert_eq!(record_len(b"G"), Err(failure));
    }

    #[test]
    fn bounds_are_those_of_the_rfcs() {
        let of = |len: u16| record_len(&[23, 3, 3, (len >> 8) as u8, len as u8]);
        assert_eq!(of(16384 + 2048), Ok(Some(RECORD_BYTES_MAX)));
        assert_eq!(of(16384 + 2049).map_err(|it| it.alert), Err(Alert::RECORD_OVERFLOW));
        let failure = Failure::peer(Alert::PROTOCOL_VERSION, PeerFault::RecordVersion);
        assert_eq!(record_len(&[22, 2, 0, 0, 1]), Err(failure));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(Some(len)) = record_len(&bytes) {
                prop_assert!((HEADER_BYTES..=RECORD_BYTES_MAX).contains(&len));
            }
        }
    }
}
