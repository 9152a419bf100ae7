//! The record header (RFC 8446 section 5.1) and the sizes that follow from it.

use crate::alert::{Alert, Failure};

/// Bytes of a record header.
pub const HEADER_BYTES: usize = 5;

/// Largest plaintext of a record.
pub const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// Largest record received: TLS 1.2 allows 2048 bytes of expansion (RFC 5246 section 6.2.3).
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + 2048;

/// Largest record we seal: explicit nonce and tag in TLS 1.2, inner type and tag in TLS 1.3.
pub const SEALED_BYTES_MAX: usize = HEADER_BYTES + 8 + PLAINTEXT_BYTES_MAX + 16;

pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// The whole length of the first record, once its header is there.
///
/// # Errors
/// A type, version or length no record has.
pub fn record_len(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return match bytes.first() {
            Some(kind) if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(kind) => {
                Err(Failure::record(Alert::UNEXPECTED_MESSAGE))
            }
            _ => Ok(None),
        };
    };
    if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&header[0]) {
        return Err(Failure::record(Alert::UNEXPECTED_MESSAGE));
    }
    if header[1] != 3 {
        return Err(Failure::record(Alert::PROTOCOL_VERSION));
    }
    let len = HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if len > RECORD_BYTES_MAX {
        return Err(Failure::record(Alert::RECORD_OVERFLOW));
    }
    Ok(Some(len))
}
