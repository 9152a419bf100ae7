//! What lender and helper say to each other, and what nodes say about sessions; its wire form before sealing.
//!
//! Fixed little-endian layout: a 12-byte header (kind, lease, receives given back), then the kind's fields.
//! Decoding checks every length; it never panics on a peer's bytes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use arrayvec::ArrayVec;

use crate::CREDITS_MAX;

/// Bytes before the kind's own fields.
pub const HEADER_BYTES: usize = 12;

/// Bytes of an address and port; an IPv4 one is mapped (RFC 4291 2.5.5.2).
const SOCKET_BYTES: usize = 16 + 2;

/// Bytes of a grant besides the request itself.
pub const GRANT_BYTES: usize = HEADER_BYTES + 2 * SOCKET_BYTES + 4;

/// Largest encoded record key a *go* carries, in bytes.
pub const KEY_BYTES_MAX: usize = 96;

/// Largest session a *put* or *taken* carries, in bytes.
pub const SESSION_BYTES_MAX: usize = 1024;

/// A session's name: an ID of TLS 1.2, a PSK identity of TLS 1.3.
pub type SessionName = [u8; 32];

/// Slots named in one message, in the order they are to be filled.
pub type SlotList = ArrayVec<u16, CREDITS_MAX>;

/// One lease of a queue pair: the lender's table index and how often that entry was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    /// Index in the lender's table.
    pub index: u16,
    /// Tells an entry's uses apart, so that a late message of an old lease is recognised.
    pub generation: u32,
}

impl LeaseId {
    /// The immediate of a doorbell: which lease has a new record. It moves no sequence number.
    pub fn doorbell(self) -> u32 {
        u32::from(self.index) | (self.generation << 16)
    }
}

/// Why a helper did not take, or did not finish, a request. Nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Declined {
    /// Its application queue or its table is full.
    Busy = 1,
    /// It is draining.
    Draining = 2,
    /// The request did not parse there.
    Malformed = 3,
    /// The application failed before it produced a byte.
    Failed = 4,
}

/// How a lease ended after *go*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    /// Records sealed and written, all of them visible before this message.
    pub records: u32,
    /// Ciphertext bytes of these records, headers included.
    pub bytes: u64,
    /// HTTP status of the reply.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// The reply is whole. If not, the connection has to end.
    pub complete: bool,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A -> B: run this request. No key in it.
    Grant {
        /// The new lease.
        lease: LeaseId,
        /// The client's end of its connection.
        client: SocketAddr,
        /// The lender's end of it.
        local: SocketAddr,
        /// Request line and header fields as received.
        head: &'a [u8],
        /// Decoded body.
        body: &'a [u8],
    },
    /// A -> B: seal with this key, into these slots.
    Go {
        /// The claimed lease.
        lease: LeaseId,
        /// Record key, IV and range of sequence numbers, in the record layer's wire form.
        key: &'a [u8],
        /// First slots, in order.
        slots: SlotList,
    },
    /// A -> B: more slots for a long reply.
    Slots {
        /// A lease after *go*.
        lease: LeaseId,
        /// Further slots, in order.
        slots: SlotList,
    },
    /// A -> B: stop, the connection is gone or waited too long.
    Revoke {
        /// The lease to end.
        lease: LeaseId,
    },
    /// B -> A: not taken.
    Decline {
        /// The lease, which is over.
        lease: LeaseId,
        /// Why.
        why: Declined,
    },
    /// B -> A: the reply is ready.
    Claim {
        /// The lease.
        lease: LeaseId,
        /// Records the whole reply takes, 0 if not known yet.
        records: u32,
    },
    /// B -> A: everything is written.
    Return {
        /// The lease, which is over.
        lease: LeaseId,
        /// What was written.
        outcome: Return,
    },
    /// B -> A: ended by your revoke; no write follows.
    Revoked {
        /// The lease, which is over.
        lease: LeaseId,
    },
    /// B -> A: your revoke came after the end of the lease.
    TooLate {
        /// The lease named in the revoke.
        lease: LeaseId,
    },
    /// B -> A: the key is here and nothing is ready to be sealed; the application takes its time.
    Alive {
        /// The lease.
        lease: LeaseId,
    },
    /// Either way: nothing but the header's count of receives given back.
    Credit,
    /// To the node a session lives at: keep this one. No answer.
    Put {
        /// Its name.
        name: SessionName,
        /// Seconds it is good for at most.
        lives_s: u32,
        /// It goes on once.
        once: bool,
        /// Its secrets.
        value: &'a [u8],
    },
    /// To the node a session lives at: a client wants to go on with it here.
    Take {
        /// The asker's own, given back in the answer.
        token: u32,
        /// Its name.
        name: SessionName,
    },
    /// The answer to *take*.
    Taken {
        /// As asked.
        token: u32,
        /// Whether it goes on once, and its secrets; `None`: it is not there.
        found: Option<(bool, &'a [u8])>,
    },
}

/// Where the writer's buffer ends too early: a limit of ours was set wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message does not fit its buffer")]
pub struct NoRoom;

struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), NoRoom> {
        let end = self.at + bytes.len();
        self.bytes.get_mut(self.at..end).ok_or(NoRoom)?.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    fn header(&mut self, kind: u8, lease: LeaseId, given_back: u32) -> Result<(), NoRoom> {
        self.put(&[kind, 0])?;
        self.put(&lease.index.to_le_bytes())?;
        self.put(&lease.generation.to_le_bytes())?;
        self.put(&given_back.to_le_bytes())
    }

    fn session(&mut self, once: bool, value: &[u8]) -> Result<(), NoRoom> {
        if value.is_empty() || value.len() > SESSION_BYTES_MAX {
            return Err(NoRoom);
        }
        self.put(&[u8::from(once)])?;
        self.put(value)
    }

    fn socket(&mut self, socket: SocketAddr) -> Result<(), NoRoom> {
        let address = match socket.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        self.put(&address.octets())?;
        self.put(&socket.port().to_le_bytes())
    }

    fn slots(&mut self, slots: &SlotList) -> Result<(), NoRoom> {
        self.put(&[slots.len() as u8])?;
        slots.iter().try_for_each(|slot| self.put(&slot.to_le_bytes()))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    fn name(&mut self) -> Option<SessionName> {
        self.take(32).and_then(|bytes| bytes.try_into().ok())
    }

    /// What is left is a session.
    fn session(&mut self) -> Option<(bool, &'a [u8])> {
        let once = self.u8().filter(|flag| *flag <= 1)? == 1;
        let value = std::mem::take(&mut self.0);
        (1..=SESSION_BYTES_MAX).contains(&value.len()).then_some((once, value))
    }

    fn socket(&mut self) -> Option<SocketAddr> {
        let octets: [u8; 16] = self.take(16)?.try_into().ok()?;
        Some(SocketAddr::new(Ipv6Addr::from(octets).to_canonical(), self.u16()?))
    }

    fn slots(&mut self) -> Option<SlotList> {
        let count = usize::from(self.u8()?);
        let mut slots = SlotList::new();
        for _ in 0..count {
            slots.try_push(self.u16()?).ok()?;
        }
        Some(slots)
    }
}

const NO_LEASE: LeaseId = LeaseId { index: 0, generation: 0 };

impl<'a> Message<'a> {
    /// Writes the message; `given_back` is the sender's running count of receives it posted again.
    ///
    /// # Errors
    /// [`NoRoom`] if `out` is too short.
    pub fn encode(&self, given_back: u32, out: &mut [u8]) -> Result<usize, NoRoom> {
        let mut writer = Writer { bytes: out, at: 0 };
        match self {
            Message::Grant { lease, client, local, head, body } => {
                writer.header(1, *lease, given_back)?;
                writer.socket(*client)?;
                writer.socket(*local)?;
                writer.put(&u32::try_from(head.len()).map_err(|_| NoRoom)?.to_le_bytes())?;
                writer.put(head)?;
                writer.put(body)?;
            }
            Message::Go { lease, key, slots } => {
                writer.header(2, *lease, given_back)?;
                writer.slots(slots)?;
                writer.put(key)?;
            }
            Message::Slots { lease, slots } => {
                writer.header(3, *lease, given_back)?;
                writer.slots(slots)?;
            }
            Message::Revoke { lease } => writer.header(4, *lease, given_back)?,
            Message::Decline { lease, why } => {
                writer.header(5, *lease, given_back)?;
                writer.put(&[*why as u8])?;
            }
            Message::Claim { lease, records } => {
                writer.header(6, *lease, given_back)?;
                writer.put(&records.to_le_bytes())?;
            }
            Message::Return { lease, outcome } => {
                writer.header(7, *lease, given_back)?;
                writer.put(&outcome.records.to_le_bytes())?;
                writer.put(&outcome.bytes.to_le_bytes())?;
                writer.put(&outcome.status.to_le_bytes())?;
                writer.put(&[u8::from(outcome.keep_alive) | u8::from(outcome.complete) << 1])?;
            }
            Message::Revoked { lease } => writer.header(8, *lease, given_back)?,
            Message::TooLate { lease } => writer.header(9, *lease, given_back)?,
            Message::Credit => writer.header(10, NO_LEASE, given_back)?,
            Message::Alive { lease } => writer.header(11, *lease, given_back)?,
            Message::Put { name, lives_s, once, value } => {
                writer.header(12, NO_LEASE, given_back)?;
                writer.put(name)?;
                writer.put(&lives_s.to_le_bytes())?;
                writer.session(*once, value)?;
            }
            Message::Take { token, name } => {
                writer.header(13, NO_LEASE, given_back)?;
                writer.put(&token.to_le_bytes())?;
                writer.put(name)?;
            }
            Message::Taken { token, found } => {
                writer.header(14, NO_LEASE, given_back)?;
                writer.put(&token.to_le_bytes())?;
                if let Some((once, value)) = found {
                    writer.session(*once, value)?;
                }
            }
        }
        Ok(writer.at)
    }

    /// Reads a message and the sender's count of receives given back; `None` if it is not well-formed.
    pub fn decode(bytes: &'a [u8]) -> Option<(Message<'a>, u32)> {
        let mut reader = Reader(bytes);
        let kind = reader.u8()?;
        reader.u8()?;
        let lease = LeaseId { index: reader.u16()?, generation: reader.u32()? };
        let given_back = reader.u32()?;
        let message = match kind {
            1 => {
                let (client, local) = (reader.socket()?, reader.socket()?);
                let head = usize::try_from(reader.u32()?).ok()?;
                let (head, body) = (reader.take(head)?, std::mem::take(&mut reader.0));
                Message::Grant { lease, client, local, head, body }
            }
            2 => {
                let slots = reader.slots()?;
                let key = std::mem::take(&mut reader.0);
                (key.len() <= KEY_BYTES_MAX).then_some(Message::Go { lease, key, slots })?
            }
            3 => Message::Slots { lease, slots: reader.slots()? },
            4 => Message::Revoke { lease },
            5 => Message::Decline {
                lease,
                why: match reader.u8()? {
                    1 => Declined::Busy,
                    2 => Declined::Draining,
                    3 => Declined::Malformed,
                    4 => Declined::Failed,
                    _ => return None,
                },
            },
            6 => Message::Claim { lease, records: reader.u32()? },
            7 => {
                let (records, bytes, status) = (reader.u32()?, reader.u64()?, reader.u16()?);
                let flags = reader.u8()?;
                let (keep_alive, complete) = (flags & 1 != 0, flags & 2 != 0);
                (flags <= 3).then_some(Message::Return {
                    lease,
                    outcome: Return { records, bytes, status, keep_alive, complete },
                })?
            }
            8 => Message::Revoked { lease },
            9 => Message::TooLate { lease },
            10 => Message::Credit,
            11 => Message::Alive { lease },
            12 => {
                let (name, lives_s) = (reader.name()?, reader.u32()?);
                let (once, value) = reader.session()?;
                Message::Put { name, lives_s, once, value }
            }
            13 => Message::Take { token: reader.u32()?, name: reader.name()? },
            14 => {
                let token = reader.u32()?;
                let found = if reader.0.is_empty() { None } else { Some(reader.session()?) };
                Message::Taken { token, found }
            }
            _ => return None,
        };
        reader.0.is_empty().then_some((message, given_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_survives_the_wire() {
        let lease = LeaseId { index: 7, generation: 0x0102_0304 };
        let slots: SlotList = [3, 1, 2].into_iter().collect();
        let (client, local) = ("192.0.2.7:50000".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
        let outcome = Return { records: 9, bytes: 1 << 40, status: 206, keep_alive: true, complete: true };
        let messages = [
            Message::Grant { lease, client, local, head: b"GET / HTTP/1.1\r\n\r\n", body: b"body" },
            Message::Grant { lease, client: local, local: client, head: b"", body: b"" },
            Message::Go { lease, key: &[5; KEY_BYTES_MAX], slots: slots.clone() },
            Message::Slots { lease, slots },
            Message::Revoke { lease },
            Message::Decline { lease, why: Declined::Draining },
            Message::Claim { lease, records: 12 },
            Message::Return { lease, outcome },
            Message::Revoked { lease },
            Message::TooLate { lease },
            Message::Credit,
            Message::Alive { lease },
            Message::Put { name: [8; 32], lives_s: 7200, once: true, value: b"secrets" },
            Message::Take { token: 0x0102_0304, name: [9; 32] },
            Message::Taken { token: 5, found: None },
            Message::Taken { token: 6, found: Some((false, b"secrets")) },
        ];
        for message in messages {
            let mut wire = [0; 512];
            let len = message.encode(77, &mut wire).unwrap();
            assert_eq!(Message::decode(&wire[..len]), Some((message, 77)));
        }
    }

    #[test]
    fn a_short_buffer_is_refused() {
        let lease = LeaseId { index: 0, generation: 0 };
        let end = SocketAddr::from(([192, 0, 2, 1], 443));
        let grant = Message::Grant { lease, client: end, local: end, head: &[0; 10], body: &[] };
        assert_eq!(grant.encode(0, &mut [0; GRANT_BYTES]), Err(NoRoom));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_something_that_encodes_alike_or_to_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some((message, given_back)) = Message::decode(&bytes) {
                let mut again = [0; 256];
                let len = message.encode(given_back, &mut again).unwrap();
                let decoded = Message::decode(&again[..len]);
                prop_assert_eq!(decoded, Some((message, given_back)));
            }
        }
    }
}
