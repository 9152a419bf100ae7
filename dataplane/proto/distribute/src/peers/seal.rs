//! Datagrams between two distributors, sealed: their network is also the clients'.
//!
//! In: a number and bytes. Out: sealed bytes, or opened ones. AES-256-GCM; each direction has its own secret, by HKDF from
//! that of the link between the two, and from it a key for each 2^20 numbers. The nonce is the datagram's number, which
//! is used for one plaintext only: what is sent again is sent as it was sealed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

/// Bytes of the name a direction's datagrams begin with.
pub(crate) const ID_BYTES: usize = 8;
/// Bytes that sealing adds.
pub(crate) const TAG_BYTES: usize = 16;
/// Numbers, as a power of two, that one key seals.
const KEY_SHIFT: u32 = 20;

/// What one life of the link between two distributors gives each end: a secret for each direction.
pub struct Secrets {
    outgoing: Zeroizing<[u8; 32]>,
    incoming: Zeroizing<[u8; 32]>,
}

impl Secrets {
    /// Both ends' secrets. `secret`: the link's, of 32 bytes; `salt`: what is fresh of both ends, the first's first;
    /// `is_first`: whether this end is the one whose name sorts first.
    pub fn new(secret: &[u8; 32], salt: &[u8], is_first: bool) -> Secrets {
        let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
        let (first, second) =
            (expand(&prk, &[b"keyferry flows v1 first"]), expand(&prk, &[b"keyferry flows v1 second"]));
        match is_first {
            true => Secrets { outgoing: first, incoming: second },
            false => Secrets { outgoing: second, incoming: first },
        }
    }
}

struct Bytes(usize);

impl KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(prk: &Prk, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    prk.expand(info, Bytes(N))
        .and_then(|okm| okm.fill(&mut out[..]))
        .expect("as many bytes are within HKDF's range");
    out
}

/// One direction of a channel.
pub(crate) struct Sealer {
    secret: Zeroizing<[u8; 32]>,
    id: [u8; ID_BYTES],
    /// The numbers, without their low bits, that the key is for.
    epoch: u64,
    key: LessSafeKey,
}

impl Sealer {
    pub(crate) fn new(secret: Zeroizing<[u8; 32]>) -> Sealer {
        let id = expand(&Prk::new_less_safe(HKDF_SHA256, &secret[..]), &[b"keyferry flows id"]);
        let key = key(&secret, 0);
        Sealer { secret, id: *id, epoch: 0, key }
    }

    /// The same direction, with a key of its own at hand: for numbers far from the others.
    pub(crate) fn again(&self) -> Sealer {
        Sealer::new(self.secret.clone())
    }

    /// Which direction of which channel it is: no secret.
    pub(crate) fn id(&self) -> [u8; ID_BYTES] {
        self.id
    }

    /// Seals `bytes` but for the last [`TAG_BYTES`], which become the tag.
    pub(crate) fn seal(&mut self, number: u64, bytes: &mut [u8]) {
        let (plaintext, room) = bytes.split_at_mut(bytes.len() - TAG_BYTES);
        let sealed = self.key(number).seal_in_place_separate_tag(nonce(number), Aad::empty(), plaintext);
        room.copy_from_slice(sealed.expect("a datagram is short").as_ref());
    }

    /// Opens what the other end sealed under this number; `None`: it did not.
    pub(crate) fn open<'b>(&mut self, number: u64, bytes: &'b mut [u8]) -> Option<&'b [u8]> {
        let opened = self.key(number).open_in_place(nonce(number), Aad::empty(), bytes);
        opened.ok().map(|plaintext| &*plaintext)
    }

    fn key(&mut self, number: u64) -> &LessSafeKey {
        let epoch = number >> KEY_SHIFT;
        if epoch != self.epoch {
            (self.epoch, self.key) = (epoch, key(&self.secret, epoch));
        }
        &self.key
    }
}

fn key(secret: &[u8; 32], epoch: u64) -> LessSafeKey {
    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
    let key: Zeroizing<[u8; 32]> = expand(&prk, &[b"keyferry flows key", &epoch.to_be_bytes()]);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key[..]).expect("AES-256 takes 32 bytes"))
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// The outgoing and the incoming direction.
pub(crate) fn both(secrets: Secrets) -> (Sealer, Sealer) {
    (Sealer::new(secrets.outgoing), Sealer::new(secrets.incoming))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_end_seals_the_other_opens_under_its_number_alone() {
        let secrets = |is_first| Secrets::new(&[7; 32], b"fresh", is_first);
        let ((mut out, mut back), (mut theirs, mut into)) = (both(secrets(true)), both(secrets(false)));
        assert_eq!((out.id(), back.id()), (into.id(), theirs.id()));
        assert_ne!(out.id(), back.id());
        for number in [0, 1, 1 << KEY_SHIFT, 1 << 63] {
            let mut bytes = [1; 20];
            out.seal(number, &mut bytes);
            assert_eq!(into.open(number + 1, &mut { bytes }), None);
            assert_eq!(back.open(number, &mut { bytes }), None, "not what this end sealed itself");
            assert_eq!(theirs.open(number, &mut { bytes }), None);
            assert_eq!(into.open(number, &mut bytes), Some(&[1; 4][..]));
        }
        let (_, mut other) = both(Secrets::new(&[7; 32], b"later", false));
        let mut bytes = [1; 20];
        out.seal(5, &mut bytes);
        assert_eq!(other.open(5, &mut bytes), None, "another life of the link");
    }
}
