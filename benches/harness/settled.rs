//! A client whose handshake is over, in as few bytes as it needs to go on: a million of them are to be held beside what is
//! measured.
//!
//! In: requests, frames of the node. Out: frames, plaintext. TLS 1.3 with AES-128-GCM; a key is made for each record and
//! gone behind it.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use super::client::{self, Client, End};

const HEADER_BYTES: usize = 5;
const DATA: u8 = 23;

/// One direction's key, IV and next record.
#[derive(Clone, Copy, Default)]
struct Half {
    key: [u8; 16],
    iv: [u8; 12],
    record: u32,
}

impl Half {
    fn of((record, secrets): (u64, ConnectionTrafficSecrets)) -> Half {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            unreachable!("the one suite that clients offer in TLS 1.3")
        };
        Half {
            key: key.as_ref().try_into().expect("16 bytes"),
            iv: iv.as_ref().try_into().expect("12 bytes"),
            record: record as u32,
        }
    }

    /// The key, and the nonce of the next record (RFC 8446 5.3).
    fn next(&mut self) -> (LessSafeKey, Nonce) {
        let mut nonce = self.iv;
        for (byte, count) in nonce[8..].iter_mut().zip(self.record.to_be_bytes()) {
            *byte ^= count;
        }
        self.record += 1;
        let key = UnboundKey::new(&AES_128_GCM, &self.key).expect("a key of 16 bytes");
        (LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce))
    }
}

/// One client.
#[derive(Clone, Copy)]
pub struct Settled {
    end: End,
    tx: Half,
    rx: Half,
}

impl Settled {
    /// A place for one.
    pub const NOBODY: Settled = Settled {
        end: End { number: 0, sequence: 0, acknowledged: 0 },
        tx: Half { key: [0; 16], iv: [0; 12], record: 0 },
        rx: Half { key: [0; 16], iv: [0; 12], record: 0 },
    };

    /// A client that has shaken hands.
    pub fn of(client: Client) -> Settled {
        let (end, secrets) = client.settle();
        Settled { end, tx: Half::of(secrets.tx), rx: Half::of(secrets.rx) }
    }

    /// The frame of a request.
    pub fn request(&mut self, request: &[u8]) -> Vec<u8> {
        let mut record = vec![0; HEADER_BYTES];
        record.extend(request);
        record.push(DATA);
        let body = (record.len() - HEADER_BYTES + AES_128_GCM.tag_len()) as u16;
        let [high, low] = body.to_be_bytes();
        let header = [DATA, 3, 3, high, low];
        record[..HEADER_BYTES].copy_from_slice(&header);
        let (key, nonce) = self.tx.next();
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut record[HEADER_BYTES..]);
        record.extend(tag.expect("a short record").as_ref());
        self.end.send(&record)
    }

    /// Takes a frame from the node: whole records. Appends plaintext; answers whether there was any.
    pub fn take(&mut self, frame: &[u8], plaintext: &mut Vec<u8>) -> bool {
        let Some(bytes) = self.stream(frame) else { return false };
        assert_eq!(self.open(bytes, plaintext), bytes.len(), "a frame holds whole records");
        true
    }

    /// Takes the next bytes of the stream out of a frame from the node, if it brings any.
    pub fn stream<'a>(&mut self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let (sequence, bytes) = client::stream(frame);
        (!bytes.is_empty() && self.end.takes(sequence, bytes)).then_some(bytes)
    }

    /// Opens the whole records these bytes begin with and appends their plaintext; answers how many bytes they are.
    pub fn open(&mut self, bytes: &[u8], plaintext: &mut Vec<u8>) -> usize {
        let mut rest = bytes;
        while let Some((header, body)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if body.len() < len {
                break;
            }
            let mut body = body[..len].to_vec();
            let (key, nonce) = self.rx.next();
            let opened =
                key.open_in_place(nonce, Aad::from(*header), &mut body).expect("a record that opens");
            // Content type behind it, and no padding.
            plaintext.extend(&opened[..opened.len() - 1]);
            rest = &rest[HEADER_BYTES + len..];
        }
        bytes.len() - rest.len()
    }

    /// Goes on behind so many records that are not opened.
    pub fn skip(&mut self, records: u32) {
        self.rx.record += records;
    }

    /// The frame that acknowledges all that came.
    pub fn acknowledge(&self) -> Vec<u8> {
        self.end.acknowledge()
    }
}
