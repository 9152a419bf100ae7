//! Clients that write their own packets: the least TCP that speaks to a perfect network, and rustls on top.
//!
//! Nothing is lost or reordered on the wire of a bench, so a client only counts sequence numbers.

use std::io::{Cursor, Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ExtractedSecrets, SignatureScheme,
    SupportedProtocolVersion,
};

use super::node::{ADDRESS, MAC, PORT};
use super::wallet::Wallet;

/// A request of usual length; the server may lend it.
pub const REQUEST: &[u8] =
    b"GET /?bytes=1024 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
/// The same, which the server runs itself.
pub const REQUEST_LOCAL: &[u8] =
    b"GET /?bytes=1024&lend=0 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const PSH: u8 = 8;

/// Connections from one address.
pub const PORTS_PER_ADDRESS: u32 = 50_000;

/// One client connection.
pub struct Client {
    end: End,
    tls: ClientConnection,
}

/// A client's end of its TCP connection: where it is, and how far each side has counted.
#[derive(Clone, Copy)]
pub struct End {
    /// The client's number, which its address and port follow from.
    pub number: u32,
    /// The next number it sends.
    pub sequence: u32,
    /// The next number it expects.
    pub acknowledged: u32,
}

/// The address of the client with this number.
pub fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + number / PORTS_PER_ADDRESS)
}

/// The number of the client a frame is for.
pub fn number(frame: &[u8]) -> Option<u32> {
    let to = u32::from_be_bytes(frame.get(30..34)?.try_into().ok()?);
    let port = u16::from_be_bytes(frame.get(36..38)?.try_into().ok()?);
    let address = to.checked_sub(Ipv4Addr::new(10, 1, 0, 0).to_bits())?;
    Some(address * PORTS_PER_ADDRESS + u32::from(port) - 10_000)
}

/// An ARP request from a client's address, so that the node knows where it is (RFC 826).
pub fn arp(number: u32) -> Vec<u8> {
    arp_frame(1, address(number).octets(), [0; 6])
}

/// The answer to the node's ARP request, which it sends again from time to time.
pub fn arp_reply(frame: &[u8]) -> Option<Vec<u8>> {
    let is_request = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 1];
    let target = frame.get(38..42)?.try_into().ok()?;
    is_request.then(|| arp_frame(2, target, MAC))
}

fn arp_frame(operation: u8, sender: [u8; 4], target: [u8; 6]) -> Vec<u8> {
    let mut frame = if operation == 1 { Vec::from([0xff; 6]) } else { Vec::from(MAC) };
    frame.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 2]);
    frame.extend(sender);
    frame.extend(target);
    frame.extend(ADDRESS.octets());
    frame
}

/// Whether a frame for a client carries bytes of its connection.
pub fn has_payload(frame: &[u8]) -> bool {
    frame.len() > ETHERNET + IP && frame[12..14] == [8, 0] && !payload(frame).is_empty()
}

/// The sequence number of a frame from the node, and the bytes of the stream it carries.
pub fn stream(frame: &[u8]) -> (u32, &[u8]) {
    let at = ETHERNET + IP + 4;
    (u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]), payload(frame))
}

/// The sequence number behind a client's frame, if there is anything in it that is to be acknowledged.
pub fn end(frame: &[u8]) -> Option<u32> {
    let (sequence, bytes) = stream(frame);
    let len = bytes.len() as u32 + u32::from(is_syn(frame));
    (len > 0).then(|| sequence.wrapping_add(len))
}

/// Whether a frame is of a handshake of TCP.
pub fn is_syn(frame: &[u8]) -> bool {
    flags(frame) & SYN != 0
}

/// Whether a frame ends its connection at once.
pub fn is_reset(frame: &[u8]) -> bool {
    flags(frame) & RST != 0
}

/// What a frame acknowledges.
pub fn acknowledged(frame: &[u8]) -> Option<u32> {
    let at = ETHERNET + IP + 8;
    let number = u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    (flags(frame) & ACK != 0).then_some(number)
}

fn flags(frame: &[u8]) -> u8 {
    frame[ETHERNET + IP + 13]
}

fn payload(frame: &[u8]) -> &[u8] {
    let tcp = ETHERNET + IP;
    let header = usize::from(frame[tcp + 12] >> 4) * 4;
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    &frame[tcp + header..ETHERNET + total]
}

/// A configuration all clients share: TLS 1.3, AES-128-GCM, X25519, any certificate.
pub fn config() -> Arc<ClientConfig> {
    Arc::new(config_of(&rustls::version::TLS13))
}

/// The same for clients that come back, with this version and the sessions in a wallet.
pub fn config_with(version: &'static SupportedProtocolVersion, wallet: &Arc<Wallet>) -> Arc<ClientConfig> {
    let mut config = config_of(version);
    config.resumption = Resumption::store(Arc::clone(wallet) as _);
    Arc::new(config)
}

fn config_of(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let provider = CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .expect("a version with a suite")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config
}

impl Client {
    /// A client, and its SYN.
    pub fn new(number: u32, config: &Arc<ClientConfig>) -> (Client, Vec<u8>) {
        let name = ServerName::try_from("bench.test").expect("a name");
        let mut client = Client {
            end: End { number, sequence: number, acknowledged: 0 },
            tls: ClientConnection::new(Arc::clone(config), name).expect("a client"),
        };
        let syn = client.end.frame(SYN, &[]);
        client.end.sequence += 1;
        (client, syn)
    }

    /// Takes a frame from the node; appends frames that answer it and plaintext that came.
    pub fn take(&mut self, frame: &[u8], out: &mut Vec<Vec<u8>>, plaintext: &mut Vec<u8>) {
        let tcp = ETHERNET + IP;
        let flags = frame[tcp + 13];
        let (sequence, payload) = stream(frame);
        if flags & SYN != 0 {
            self.end.acknowledged = sequence.wrapping_add(1);
            return self.flush(out);
        }
        if payload.is_empty() {
            return;
        }
        if !self.end.takes(sequence, payload) {
            return out.push(self.end.acknowledge());
        }
        let mut bytes = Cursor::new(payload);
        while (bytes.position() as usize) < payload.len() {
            self.tls.read_tls(&mut bytes).expect("memory can be read");
            let state = self.tls.process_new_packets().expect("the node speaks TLS");
            let from = plaintext.len();
            plaintext.resize(from + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut plaintext[from..]).expect("what is there");
        }
        self.flush(out);
    }

    /// The frame of a request.
    pub fn request(&mut self, request: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(request).expect("rustls takes it");
        let mut out = Vec::new();
        self.flush(&mut out);
        assert_eq!(out.len(), 1, "a request fits one packet");
        out.remove(0)
    }

    /// Whether the handshake is over and nothing waits to be sent.
    pub fn is_ready(&self) -> bool {
        !self.tls.is_handshaking() && !self.tls.wants_write()
    }

    /// The frame that ends the connection at once.
    pub fn reset(&self) -> Vec<u8> {
        self.end.frame(RST | ACK, &[])
    }

    /// The connection without rustls, its handshake being over: its end, and the keys of its records, ours first.
    pub fn settle(self) -> (End, ExtractedSecrets) {
        (
            self.end,
            self.tls.dangerous_extract_secrets().expect("the handshake is over, and extraction allowed"),
        )
    }

    fn flush(&mut self, out: &mut Vec<Vec<u8>>) {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("memory can be written");
        }
        for piece in bytes.chunks(1400) {
            out.push(self.end.send(piece));
        }
    }
}

impl End {
    /// The frame that carries the next bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        let frame = self.frame(ACK | PSH, bytes);
        self.sequence = self.sequence.wrapping_add(bytes.len() as u32);
        frame
    }

    /// The frame that acknowledges all that came.
    pub fn acknowledge(&self) -> Vec<u8> {
        self.frame(ACK, &[])
    }

    /// Takes bytes from the node, unless they have come before: a client acknowledges with its next request, and one
    /// that has none for long is sent the same again.
    pub fn takes(&mut self, sequence: u32, payload: &[u8]) -> bool {
        if sequence != self.acknowledged {
            let again = self.acknowledged.wrapping_sub(sequence);
            assert!(again as usize >= payload.len() && again < 1 << 20, "nothing is lost on this wire");
            return false;
        }
        self.acknowledged = sequence.wrapping_add(payload.len() as u32);
        true
    }

    /// An Ethernet frame; checksums are left to the port, which says that they are good.
    fn frame(&self, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mss: &[u8] = if flags & SYN != 0 { &[2, 4, 5, 0xb4] } else { &[] };
        let ip_len = (IP + TCP + mss.len() + payload.len()) as u16;
        let mut frame = Vec::with_capacity(ETHERNET + usize::from(ip_len));
        frame.extend(MAC);
        frame.extend([2, 0, 0, 0, 0, 2, 8, 0]);
        frame.extend([0x45, 0]);
        frame.extend(ip_len.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(address(self.number).octets());
        frame.extend(ADDRESS.octets());
        let checksum = checksum(&frame[ETHERNET..ETHERNET + IP], 0);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame.extend((10_000 + (self.number % PORTS_PER_ADDRESS) as u16).to_be_bytes());
        frame.extend(PORT.to_be_bytes());
        frame.extend(self.sequence.to_be_bytes());
        frame.extend(self.acknowledged.to_be_bytes());
        frame.extend([(((TCP + mss.len()) / 4) << 4) as u8, flags, 0xff, 0xff, 0, 0, 0, 0]);
        frame.extend(mss);
        frame.extend(payload);
        let tcp = ETHERNET + IP;
        let pseudo = pseudo_sum(&frame[26..34], frame.len() - tcp);
        let checksum = self::checksum(&frame[tcp..], pseudo);
        frame[tcp + 16..tcp + 18].copy_from_slice(&checksum.to_be_bytes());
        frame
    }
}

fn pseudo_sum(addresses: &[u8], len: usize) -> u32 {
    let words = addresses.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    words.sum::<u32>() + 6 + len as u32
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum = bytes.chunks(2).map(word).fold(start, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Takes any certificate: the clients of a bench have no authority to ask.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
