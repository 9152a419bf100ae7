//! A distributor's other end, as a fuzzer plays it: datagrams sealed and opened as `docs/PROTOCOL.md` says, so that
//! whatever is in them gets behind the seal.
//!
//! In: a link's secret, numbers, plaintext; the distributor's datagrams. Out: datagrams, plaintext. Written from the
//! description, and not from what it is held against.

use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

/// Direction and number in front of what is sealed.
pub(crate) const HEADER_BYTES: usize = 16;
/// Set in the numbers of datagrams that only acknowledge.
pub(crate) const BARE: u64 = 1 << 63;
/// Bytes of a notice.
pub(crate) const NOTICE_BYTES: usize = 35;
const TAG_BYTES: usize = 16;
/// Numbers, as a power of two, that one key seals.
const KEY_SHIFT: u32 = 20;

/// One direction of a channel.
struct Direction {
    chain: [u8; 32],
    id: [u8; 8],
    /// Of the numbers of one epoch.
    keys: BTreeMap<u64, LessSafeKey>,
}

impl Direction {
    fn new(prk: &Prk, name: &[u8]) -> Direction {
        let mut chain = [0; 32];
        expand(prk, &[b"keyferry flows v1 ", name], &mut chain);
        let mut id = [0; 8];
        expand(&Prk::new_less_safe(HKDF_SHA256, &chain), &[b"keyferry flows id"], &mut id);
        Direction { chain, id, keys: BTreeMap::new() }
    }

    fn key(&mut self, number: u64) -> &LessSafeKey {
        let (epoch, chain) = (number >> KEY_SHIFT, &self.chain);
        self.keys.entry(epoch).or_insert_with(|| {
            let mut key = [0; 32];
            let prk = Prk::new_less_safe(HKDF_SHA256, chain);
            expand(&prk, &[b"keyferry flows key", &epoch.to_be_bytes()], &mut key);
            LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("a key of 32 bytes"))
        })
    }
}

fn expand(prk: &Prk, info: &[&[u8]], out: &mut [u8]) {
    /// How long it is to be.
    struct Bytes(usize);
    impl aws_lc_rs::hkdf::KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    let okm = prk.expand(info, Bytes(out.len())).expect("within HKDF's range");
    okm.fill(out).expect("as long as it is");
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// The end whose name sorts second.
pub(crate) struct Sealed {
    outgoing: Direction,
    incoming: Direction,
}

impl Sealed {
    pub(crate) fn new(secret: &[u8; 32], salt: &[u8]) -> Sealed {
        let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
        Sealed { outgoing: Direction::new(&prk, b"second"), incoming: Direction::new(&prk, b"first") }
    }

    /// What the distributor's datagrams for this end begin with.
    pub(crate) fn incoming_id(&self) -> [u8; 8] {
        self.incoming.id
    }

    /// What this end's datagrams begin with.
    pub(crate) fn outgoing_id(&self) -> [u8; 8] {
        self.outgoing.id
    }

    pub(crate) fn seal(&mut self, number: u64, plaintext: &[u8]) -> Vec<u8> {
        let mut datagram = self.outgoing.id.to_vec();
        datagram.extend(number.to_be_bytes());
        let mut sealed = plaintext.to_vec();
        let key = self.outgoing.key(number);
        key.seal_in_place_append_tag(nonce(number), Aad::empty(), &mut sealed).expect("a datagram is short");
        datagram.extend(sealed);
        datagram
    }

    /// The distributor's datagram: its number, what it acknowledges, its notices.
    ///
    /// # Panics
    /// If it is not as it should be.
    pub(crate) fn open(&mut self, datagram: &[u8]) -> (u64, u64, Vec<[u8; NOTICE_BYTES]>) {
        let (header, sealed) = datagram.split_at(HEADER_BYTES);
        assert_eq!(header[..8], self.incoming.id, "it is of this channel");
        let number = number(&header[8..]);
        let mut sealed = sealed.to_vec();
        let opened = self.incoming.key(number).open_in_place(nonce(number), Aad::empty(), &mut sealed);
        let (ack, notices) = opened.expect("the other end has sealed it").split_at(8);
        let (notices, rest) = notices.as_chunks::<NOTICE_BYTES>();
        assert!(rest.is_empty(), "notices are whole");
        (number, self::number(ack), notices.to_vec())
    }
}

/// Eight bytes as the number they are.
pub(crate) fn number(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
}

/// What was sealed under each number of each direction.
#[derive(Default)]
pub(crate) struct Seals(BTreeMap<([u8; 8], u64), [u8; TAG_BYTES]>);

impl Seals {
    /// Takes note of a datagram on the wire.
    ///
    /// # Panics
    /// If another one was sealed under its number.
    pub(crate) fn note(&mut self, datagram: &[u8]) {
        let direction = datagram[..8].try_into().expect("eight bytes");
        let tag = *datagram.last_chunk().expect("a tag");
        let before = self.0.insert((direction, number(&datagram[8..])), tag);
        assert!(before.is_none_or(|before| before == tag), "no number ever seals two plaintexts");
    }
}
