//! Lent keys that nobody lent.

use keyferry_tls::{Fragment, LentSealer, RecordKey, Suite};

/// Seals with the key of a wire form.
pub fn sealer(wire: &[u8]) -> LentSealer {
    LentSealer::new(RecordKey::decode(wire).expect("a sound wire form"))
}

/// The wire form of a lent key: format, suite, first number 0, so many records, key, IV, longest fragment.
pub fn wire(suite: Suite, key_bytes: usize) -> [u8; RecordKey::WIRE_BYTES] {
    let mut wire = [0; RecordKey::WIRE_BYTES];
    wire[0] = 2;
    wire[2..4].copy_from_slice(&suite.wire().to_be_bytes());
    wire[12..20].copy_from_slice(&(1u64 << 23).to_be_bytes());
    wire[20..20 + key_bytes].fill(7);
    wire[52..64].fill(9);
    wire[64..].copy_from_slice(&(Fragment::MAX.bytes() as u16).to_be_bytes());
    wire
}
