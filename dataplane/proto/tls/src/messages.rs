//! Handshake messages behind the handshake, put together from the records they may be spread over.
//!
//! Only two may come: KeyUpdate (TLS 1.3) and a ClientHello that asks to renegotiate (TLS 1.2). Neither is kept: of a
//! message of any length a few bytes of state stay.

use crate::alert::{Alert, Failure, PeerFault};

/// Handshake type, and three bytes of length (RFC 8446 4).
const HEADER_BYTES: usize = 4;

const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;

/// Longest ClientHello that is skipped while asking to renegotiate.
const CLIENT_HELLO_BYTES_MAX: u32 = 1 << 16;

/// A handshake message that may be under way.
#[derive(Default)]
pub(crate) struct Messages {
    header: [u8; HEADER_BYTES],
    have: u8,
    body_left: u32,
}

impl Messages {
    /// Whether a message has begun and not ended: nothing else may come now (RFC 8446 5.1).
    pub(crate) fn is_partial(&self) -> bool {
        self.have > 0
    }

    /// Takes in a handshake record of TLS 1.3. `Some(reply)`: the peer has moved to new keys, and asks for the same.
    pub(crate) fn key_update(&mut self, mut data: &[u8]) -> Result<Option<bool>, Failure> {
        self.header(&mut data, KEY_UPDATE)?;
        if usize::from(self.have) < HEADER_BYTES {
            return Ok(None);
        }
        let (request, behind) = match data {
            // The length is looked at first: a KeyUpdate without a request is malformed although no byte is missing.
            // A wrong length is a decode error (RFC 8446 6.2), a wrong request an illegal parameter (4.6.3).
            _ if self.header[1..] != [0, 0, 1] => {
                return Err(Failure::peer(Alert::DECODE_ERROR, PeerFault::Malformed));
            }
            [] => return Ok(None),
            [request, behind @ ..] => (*request, behind),
        };
        *self = Messages::default();
        if request > 1 {
            return Err(Failure::peer(Alert::ILLEGAL_PARAMETER, PeerFault::KeyUpdateRequest));
        }
        if !behind.is_empty() {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::Unaligned));
        }
        Ok(Some(request == 1))
    }

    /// Takes in a handshake record of TLS 1.2. `true`: a ClientHello has ended with it.
    pub(crate) fn renegotiation(&mut self, mut data: &[u8]) -> Result<bool, Failure> {
        if usize::from(self.have) < HEADER_BYTES {
            self.header(&mut data, CLIENT_HELLO)?;
            if usize::from(self.have) < HEADER_BYTES {
                return Ok(false);
            }
            let [_, high, middle, low] = self.header;
            self.body_left = u32::from_be_bytes([0, high, middle, low]);
            if self.body_left > CLIENT_HELLO_BYTES_MAX {
                return Err(Failure::peer(Alert::DECODE_ERROR, PeerFault::Malformed));
            }
        }
        let skipped = data.len().min(self.body_left as usize);
        // A record has fewer bytes than 32 bits count.
        self.body_left -= skipped as u32;
        if self.body_left > 0 {
            return Ok(false);
        }
        *self = Messages::default();
        if skipped < data.len() {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::UnexpectedMessage));
        }
        Ok(true)
    }

    /// Moves header bytes out of `data`; the type is judged as soon as it is there.
    fn header(&mut self, data: &mut &[u8], kind: u8) -> Result<(), Failure> {
        let have = usize::from(self.have);
        let more = data.len().min(HEADER_BYTES - have);
        let (head, rest) = data.split_at(more);
        self.header[have..have + more].copy_from_slice(head);
        self.have += more as u8;
        *data = rest;
        if self.have > 0 && self.header[0] != kind {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::UnexpectedMessage));
        }
        Ok(())
    }
}
