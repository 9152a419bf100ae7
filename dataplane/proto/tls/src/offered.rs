//! The sessions a ClientHello offers to go on with, found before rustls looks at it: rustls asks for a session and wants
//! it at once, and one that another node keeps has to be fetched first.
//!
//! In: the records up to a whole ClientHello (RFC 8446 4.1.2, RFC 5246 7.4.1.2). Out: identities that can be of the
//! table. Says nothing of what is wrong: rustls reads the same bytes and gives the alert.

use arrayvec::ArrayVec;

use crate::record::{HANDSHAKE, HEADER_BYTES};
use crate::session::SessionId;

/// Identities looked at in one ClientHello. Clients offer one; who offers more gets a full handshake for them.
pub const OFFERED_MAX: usize = 4;

/// Handshake type, and three bytes of length (RFC 8446 4).
const MESSAGE_HEADER_BYTES: usize = 4;

const CLIENT_HELLO: u8 = 1;

/// Longest ClientHello looked at. One with post-quantum key shares has 2 KiB; a longer one is rustls' alone.
const CLIENT_HELLO_BYTES_MAX: usize = 16 << 10;

const SUPPORTED_VERSIONS: u16 = 43;
const PRE_SHARED_KEY: u16 = 41;
const TLS13: u16 = 0x0304;

/// Sessions offered, the preferred first.
pub type Offered = ArrayVec<SessionId, OFFERED_MAX>;

/// A search under way.
#[derive(Default)]
pub(crate) struct Search {
    message: Vec<u8>,
}

/// How far it is.
pub(crate) enum Sought {
    /// The ClientHello goes on in the next record.
    More,
    /// The ClientHello ended with this record.
    Whole(Offered),
    /// It is none that can be read.
    Nothing,
}

impl Search {
    /// Takes in the next record. `tls13`: the server offers TLS 1.3, and so picks it if the client does.
    pub(crate) fn take_in(&mut self, record: &[u8], tls13: bool) -> Sought {
        let Some((header, payload)) = record.split_at_checked(HEADER_BYTES) else { return Sought::Nothing };
        if header[0] != HANDSHAKE || self.message.len() + payload.len() > CLIENT_HELLO_BYTES_MAX {
            return Sought::Nothing;
        }
        self.message.extend_from_slice(payload);
        let Some((header, body)) = self.message.split_at_checked(MESSAGE_HEADER_BYTES) else {
            return Sought::More;
        };
        if header[0] != CLIENT_HELLO {
            return Sought::Nothing;
        }
        let len = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        match body.get(..len) {
            Some(body) => Sought::Whole(offered(body, tls13).unwrap_or_default()),
            None => Sought::More,
        }
    }
}

/// The identities in the body of a ClientHello; `None` if it is not well-formed.
fn offered(body: &[u8], tls13: bool) -> Option<Offered> {
    let mut hello = Reader(body);
    // Version and random.
    hello.take(2 + 32)?;
    let session_id = hello.vector8()?;
    // Cipher suites and compression methods.
    hello.vector16()?;
    hello.vector8()?;
    let mut extensions = Reader(if hello.0.is_empty() { &[] } else { hello.vector16()? });
    let (mut picks13, mut identities) = (false, Offered::new());
    while !extensions.0.is_empty() {
        let (kind, mut extension) = (extensions.number16()?, Reader(extensions.vector16()?));
        match kind {
            SUPPORTED_VERSIONS => {
                let versions = extension.vector8()?;
                picks13 = tls13 && versions.chunks_exact(2).any(|it| it == TLS13.to_be_bytes());
            }
            PRE_SHARED_KEY => identities = psks(extension.vector16()?)?,
            _ => {}
        }
    }
    if !picks13 {
        // With TLS 1.3 it is a filler, drawn at random (RFC 8446 appendix D.4).
        identities = session_id.try_into().into_iter().collect();
    }
    Some(identities)
}

/// The identities of a pre_shared_key extension that can be ours (RFC 8446 4.2.11).
fn psks(list: &[u8]) -> Option<Offered> {
    let (mut list, mut identities) = (Reader(list), Offered::new());
    while !list.0.is_empty() && !identities.is_full() {
        let identity = list.vector16()?;
        // Obfuscated age of the ticket.
        list.take(4)?;
        identities.extend(SessionId::try_from(identity));
    }
    Some(identities)
}

/// Reads TLS presentation language (RFC 8446 3) from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn number8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = self.number8()?;
        self.take(usize::from(len))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.number16()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(body)].concat()
    }

    fn hello(session_id: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([0; 32]);
        body.push(session_id.len() as u8);
        body.extend(session_id);
        body.extend(vector16(&[0x13, 1]));
        body.extend([1, 0]);
        body.extend(vector16(&extensions.concat()));
        let len = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO, len[1], len[2], len[3]][..], &body].concat()
    }

    fn psk(identities: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = identities.iter().flat_map(|it| [&vector16(it)[..], &[9; 4]].concat()).collect();
        extension(PRE_SHARED_KEY, &[&vector16(&list)[..], &vector16(&[33; 33])].concat())
    }

    fn versions(list: &[u16]) -> Vec<u8> {
        let list: Vec<u8> = list.iter().flat_map(|it| it.to_be_bytes()).collect();
        extension(SUPPORTED_VERSIONS, &[&[list.len() as u8][..], &list].concat())
    }

    /// The search over a message cut into records of so many bytes; each record but the last wants more.
    fn seek(message: &[u8], record_bytes: usize, tls13: bool) -> Option<Vec<SessionId>> {
        let mut search = Search::default();
        let mut last = Sought::More;
        for part in message.chunks(record_bytes) {
            assert!(matches!(last, Sought::More), "it is whole at its end, and not before");
            last = search.take_in(&[&[HANDSHAKE, 3, 1][..], &vector16(part)].concat(), tls13);
        }
        match last {
            Sought::Whole(offered) => Some(offered.to_vec()),
            Sought::More | Sought::Nothing => None,
        }
    }

    #[test]
    fn what_is_offered_depends_on_the_version() {
        let (id, one, two) = ([1; 32], [2; 32], [3; 32]);
        let old = hello(&id, &[]);
        assert_eq!(seek(&old, 50, true), Some(vec![id]));
        let both = [versions(&[0x0a0a, 0x0304, 0x0303]), psk(&[&one, b"a ticket", &two])];
        assert_eq!(seek(&hello(&id, &both), 50, true), Some(vec![one, two]));
        assert_eq!(seek(&hello(&id, &both), 5000, false), Some(vec![id]), "only TLS 1.2 here");
        assert_eq!(seek(&hello(&id, &[versions(&[0x0303])]), 5000, true), Some(vec![id]));
        assert_eq!(seek(&hello(b"short", &[]), 5000, true), Some(vec![]));
    }

    #[test]
    fn so_many_identities_are_looked_at() {
        let many: Vec<[u8; 32]> = (0..20).map(|at| [at; 32]).collect();
        let list: Vec<&[u8]> = many.iter().map(|it| &it[..]).collect();
        let message = hello(&[], &[versions(&[0x0304]), psk(&list)]);
        assert_eq!(seek(&message, 5000, true), Some(many[..OFFERED_MAX].to_vec()));
    }

    #[test]
    fn what_is_no_client_hello_offers_nothing() {
        let message = hello(&[1; 32], &[]);
        let mut finished = message.clone();
        finished[0] = 20;
        assert_eq!(seek(&finished, 5000, true), None);
        for end in 40..message.len() {
            // Its own length is right, what is inside is not.
            let mut cut = message[..end].to_vec();
            cut[3] = (end - 4) as u8;
            let whole = end == message.len() - 2;
            assert_eq!(seek(&cut, 5000, true).unwrap().len(), usize::from(whole), "{end}");
        }
        let mut search = Search::default();
        let endless =
            [&[HANDSHAKE, 3, 1][..], &vector16(&[&[CLIENT_HELLO, 0, 255, 255][..], &[0; 9000]].concat())]
                .concat();
        assert!(matches!(search.take_in(&endless, true), Sought::More));
        assert!(matches!(search.take_in(&endless, true), Sought::Nothing), "longer than any sound one");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(message in prop::collection::vec(any::<u8>(), 1..200), cut in 1usize..50) {
            let mut search = Search::default();
            for part in message.chunks(cut) {
                search.take_in(&[&[HANDSHAKE, 3, 1][..], &vector16(part)].concat(), true);
            }
            let _ = offered(&message, true);
        }
    }
}
