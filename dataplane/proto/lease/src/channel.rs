//! The sealed channel of one queue pair: secrecy and order of lease messages, and the peer's receive credit.
//!
//! RDMA neither encrypts nor authenticates, so every message is sealed with AES-256-GCM. Keys are derived by HKDF
//! per direction, worker pair and incarnation; the nonce is the message counter and only the next one is accepted
//! (a reliable connection delivers in order, so anything else is a forgery or a replay). Keys ratchet one way.
//!
//! The peer can take only as many messages as it has receives posted. Each message carries the sender's running
//! count of receives it posted again; two are kept back so that a bare [`Message::Credit`] can always be said.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

use crate::message::{Message, NoRoom};

/// Bytes sealing adds to a message.
pub const TAG_BYTES: usize = 16;

/// Messages sealed under one key before both ends derive the next and erase it.
pub const RATCHET_MESSAGES: u64 = 1 << 20;

/// Receives left for bare credit messages.
const CREDIT_RESERVE: u32 = 2;

/// Which end of a pair this is; it picks the directions' keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end whose node name sorts first.
    First,
    /// The other end.
    Second,
}

/// What both ends know before any message: one secret for each pair of nodes.
pub type PairSecret = Zeroizing<[u8; 32]>;

/// What makes the keys of one life of a queue pair unlike those of any other: fresh randomness of both ends
/// (first end's first), both incarnation numbers, and the queue pair's index among those of the two nodes.
#[derive(Clone, Debug)]
pub struct Incarnation {
    /// 32 random bytes of each end, fresh at each connection.
    pub random: [[u8; 32]; 2],
    /// When each end's process started.
    pub incarnation: [u64; 2],
    /// Queue pair index.
    pub pair: u16,
}

/// A message that cannot have come from the peer in order: the queue pair has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// It does not open under the next counter: forged, replayed or reordered.
    #[error("a lease message is forged, replayed or out of order")]
    Forged,
    /// It opens but is not well-formed.
    #[error("a lease message is malformed")]
    Malformed,
    /// It gives back receives that were never used.
    #[error("a lease message gives back more receives than were used")]
    Credit,
}

struct KeyLen;

impl KeyType for KeyLen {
    fn len(&self) -> usize {
        32
    }
}

/// One direction's ratchet: the secret that makes the next key, and the key in use.
struct Direction {
    secret: Zeroizing<[u8; 32]>,
    key: LessSafeKey,
    counter: u64,
}

fn expand(secret: &[u8; 32], label: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Prk::new_less_safe(HKDF_SHA256, secret)
        .expand(&[label], KeyLen)
        .and_then(|okm| okm.fill(&mut out[..]))
        .expect("32 bytes are within HKDF's range");
    out
}

impl Direction {
    fn new(secret: Zeroizing<[u8; 32]>) -> Direction {
        let key = expand(&secret, b"keyferry lease key");
        let key = UnboundKey::new(&AES_256_GCM, &key[..]).expect("AES-256 takes 32 bytes");
        Direction { secret, key: LessSafeKey::new(key), counter: 0 }
    }

    /// The nonce of the next message; moves to the next key when this one is used up.
    fn next_nonce(&mut self) -> Nonce {
        if self.counter == RATCHET_MESSAGES {
            *self = Direction::new(expand(&self.secret, b"keyferry lease ratchet"));
        }
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// One end of the sealed channel.
pub struct Channel {
    outgoing: Direction,
    incoming: Direction,
    receives: u32,
    /// Messages and doorbells sent, and how many of their receives the peer posted again (both wrap).
    sent: u32,
    peer_gave_back: u32,
    /// Receives posted again here, and how many of them the peer was told of (both wrap).
    gave_back: u32,
    told: u32,
}

impl Channel {
    /// The channel of one queue pair whose ends post `receives` receives each.
    pub fn new(secret: &PairSecret, life: &Incarnation, role: Role, receives: u32) -> Channel {
        let salt = [&life.random[0][..], &life.random[1][..]].concat();
        let prk = Salt::new(HKDF_SHA256, &salt).extract(&secret[..]);
        let direction = |from: &[u8]| {
            let mut secret = Zeroizing::new([0; 32]);
            let incarnations =
                [life.incarnation[0].to_be_bytes(), life.incarnation[1].to_be_bytes()].concat();
            let info = [b"keyferry lease v1 ", from, &life.pair.to_be_bytes(), &incarnations];
            prk.expand(&info, KeyLen)
                .and_then(|okm| okm.fill(&mut secret[..]))
                .expect("32 bytes are within HKDF's range");
            Direction::new(secret)
        };
        let (first, second) = (direction(b"first"), direction(b"second"));
        let (outgoing, incoming) = match role {
            Role::First => (first, second),
            Role::Second => (second, first),
        };
        Channel { outgoing, incoming, receives, sent: 0, peer_gave_back: 0, gave_back: 0, told: 0 }
    }

    /// Messages or doorbells that may be sent now without finding the peer's receives used up.
    pub fn room(&self) -> u32 {
        let used = self.sent.wrapping_sub(self.peer_gave_back);
        self.receives.saturating_sub(CREDIT_RESERVE).saturating_sub(used)
    }

    /// Whether the peer should hear of receives given back though there is nothing else to say.
    pub fn owes_credit(&self) -> bool {
        let untold = self.gave_back.wrapping_sub(self.told);
        let used = self.sent.wrapping_sub(self.peer_gave_back);
        untold >= self.receives / 4 && used < self.receives
    }

    /// A receive was posted again.
    pub fn gave_back(&mut self) {
        self.gave_back = self.gave_back.wrapping_add(1);
    }

    /// A doorbell (WRITE WITH IMMEDIATE) is being posted: it uses up a receive at the peer.
    pub fn rang(&mut self) {
        self.sent = self.sent.wrapping_add(1);
    }

    /// Seals a message for posting and returns its length. The caller has looked at [`room`](Channel::room).
    ///
    /// # Errors
    /// [`NoRoom`] if `out` is too short; nothing was counted then.
    pub fn seal(&mut self, message: &Message<'_>, out: &mut [u8]) -> Result<usize, NoRoom> {
        let len = message.encode(self.gave_back, out)?;
        if out.len() < len + TAG_BYTES {
            return Err(NoRoom);
        }
        let nonce = self.outgoing.next_nonce();
        let tag = self
            .outgoing
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut out[..len])
            .expect("lease messages are far below AES-GCM's length limit");
        out[len..len + TAG_BYTES].copy_from_slice(tag.as_ref());
        self.told = self.gave_back;
        self.sent = self.sent.wrapping_add(1);
        Ok(len + TAG_BYTES)
    }

    /// Opens the next message in place.
    ///
    /// # Errors
    /// [`Breach`]: the queue pair has to end; nothing of the message may be used.
    pub fn open<'a>(&mut self, bytes: &'a mut [u8]) -> Result<Message<'a>, Breach> {
        let nonce = self.incoming.next_nonce();
        let opened =
            self.incoming.key.open_in_place(nonce, Aad::empty(), bytes).map_err(|_| Breach::Forged)?;
        let (message, given_back) = Message::decode(opened).ok_or(Breach::Malformed)?;
        let used = self.sent.wrapping_sub(self.peer_gave_back);
        let back = given_back.wrapping_sub(self.peer_gave_back);
        if back > used {
            return Err(Breach::Credit);
        }
        self.peer_gave_back = given_back;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::LeaseId;

    fn pair(receives: u32) -> (Channel, Channel) {
        let secret = Zeroizing::new([7; 32]);
        let life = Incarnation { random: [[1; 32], [2; 32]], incarnation: [3, 4], pair: 0 };
        let first = Channel::new(&secret, &life, Role::First, receives);
        (first, Channel::new(&secret, &life, Role::Second, receives))
    }

    fn claim(index: u16) -> Message<'static> {
        Message::Claim { lease: LeaseId { index, generation: 1 }, records: 1 }
    }

    #[test]
    fn only_the_next_message_opens() {
        let (mut first, mut second) = pair(16);
        let (mut one, mut two) = ([0; 64], [0; 64]);
        let len_one = first.seal(&claim(1), &mut one).unwrap();
        let len_two = first.seal(&claim(2), &mut two).unwrap();
        let mut replay = one;
        assert_eq!(second.open(&mut one[..len_one]), Ok(claim(1)));
        assert_eq!(second.open(&mut replay[..len_one]), Err(Breach::Forged));
        let (mut first, mut second) = pair(16);
        first.seal(&claim(1), &mut [0; 64]).unwrap();
        let len = first.seal(&claim(2), &mut two).unwrap();
        assert_eq!(len, len_two);
        assert_eq!(second.open(&mut two[..len]), Err(Breach::Forged), "a message was skipped");
    }

    #[test]
    fn directions_pairs_and_lives_have_keys_of_their_own() {
        let (mut first, _) = pair(16);
        let mut wire = [0; 64];
        let len = first.seal(&claim(1), &mut wire).unwrap();
        let (mut reflected, _) = pair(16);
        assert_eq!(reflected.open(&mut { wire }[..len]), Err(Breach::Forged));
        let secret = Zeroizing::new([7; 32]);
        for life in [
            Incarnation { random: [[9; 32], [2; 32]], incarnation: [3, 4], pair: 0 },
            Incarnation { random: [[1; 32], [2; 32]], incarnation: [5, 4], pair: 0 },
            Incarnation { random: [[1; 32], [2; 32]], incarnation: [3, 4], pair: 1 },
        ] {
            let mut other = Channel::new(&secret, &life, Role::Second, 16);
            assert_eq!(other.open(&mut { wire }[..len]), Err(Breach::Forged));
        }
    }

    #[test]
    fn keys_ratchet_on_both_sides_alike() {
        let (mut first, mut second) = pair(u32::MAX);
        let old = first.outgoing.secret.clone();
        first.outgoing.counter = RATCHET_MESSAGES - 1;
        second.incoming.counter = RATCHET_MESSAGES - 1;
        for index in 0..4 {
            let mut wire = [0; 64];
            let len = first.seal(&claim(index), &mut wire).unwrap();
            assert_eq!(second.open(&mut wire[..len]), Ok(claim(index)));
        }
        assert_ne!(*old, *first.outgoing.secret, "the old secret is gone");
        assert_eq!(first.outgoing.counter, 3);
    }

    #[test]
    fn credit_never_lets_a_message_find_no_receive() {
        let (mut first, mut second) = pair(8);
        let mut wire = [0; 64];
        let mut in_flight = 0;
        while first.room() > 0 {
            let len = first.seal(&claim(0), &mut wire).unwrap();
            second.open(&mut wire[..len]).unwrap();
            in_flight += 1;
        }
        assert_eq!(in_flight, 8 - CREDIT_RESERVE);
        assert!(!second.owes_credit());
        for _ in 0..in_flight {
            second.gave_back();
        }
        assert!(second.owes_credit());
        let len = second.seal(&Message::Credit, &mut wire).unwrap();
        assert!(!second.owes_credit());
        first.open(&mut wire[..len]).unwrap();
        assert_eq!(first.room(), 8 - CREDIT_RESERVE);
    }

    #[test]
    fn receives_never_used_cannot_be_given_back() {
        let (mut first, mut second) = pair(8);
        second.gave_back();
        let mut wire = [0; 64];
        let len = second.seal(&claim(0), &mut wire).unwrap();
        assert_eq!(first.open(&mut wire[..len]), Err(Breach::Credit));
    }
}
