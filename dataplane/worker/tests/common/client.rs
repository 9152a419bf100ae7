//! A client that writes its own packets: a small TCP with go-back-N, rustls on top, and a habit.

use std::collections::VecDeque;
use std::fmt;
use std::io::{Cursor, Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use super::frame::{ACK, ETHERNET, FIN, IP, PSH, RST, SYN, Segment};
use super::hoard::Hoard;

/// Bytes of one segment.
const SEGMENT_BYTES: usize = 1400;
/// Unacknowledged bytes at a time.
const FLIGHT_BYTES: usize = 8192;
/// Nothing acknowledged for this long: all is sent again.
const RETRY_NS: u64 = 100_000_000;
/// Bytes of a piece: less than any record a client sends here.
const PIECE_BYTES: usize = 30;

/// Bytes of a record of what it is told to say.
const PIECE_TOLD_BYTES: usize = 5_000;

/// What a client does once connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Asks for 1 KiB, reads the reply, asks again.
    Asks,
    /// As `Asks`, each byte of a request in a record of its own.
    TinyRecords,
    /// As `Asks`, each byte on the wire in a segment of its own.
    TinySegments,
    /// As `Asks`, a small segment a step, so that each record arrives in pieces.
    Pieces,
    /// One request, then nothing.
    Idles,
    /// Connects and says nothing.
    Silent,
    /// Connects and sends this many bytes of its ClientHello.
    HalfHello(usize),
    /// A request of which a byte comes with every hundredth step.
    SlowHead,
    /// A whole head, then a body that comes so.
    SlowBody,
    /// A large body, most of it at once, never the end.
    LargeBody(usize),
    /// Asks for much and takes what this window admits.
    SlowReader {
        window: u16,
        /// It never acknowledges any of it.
        deaf: bool,
    },
    /// Asks for so many bytes, and takes none of the reply.
    Deaf(usize),
    /// Says what it is [told](Client::tell).
    Told,
}

pub struct Client {
    pub from: (Ipv4Addr, u16),
    pub habit: Habit,
    pub answered: u64,
    pub reset: bool,
    pub closed: bool,
    /// The status of a reply that was not 200.
    pub refused: Option<u16>,
    /// The body of the last reply.
    pub last: Vec<u8>,
    connected: bool,
    gone: bool,
    started: bool,
    tls: ClientConnection,
    /// The first byte of `unsent` that is not acknowledged, and how many behind it are on the wire.
    sequence: u32,
    flight: usize,
    /// What the node would take.
    window: usize,
    unsent: VecDeque<u8>,
    sent_at: u64,
    acknowledged: u32,
    owes_ack: bool,
    text: Vec<u8>,
    waiting: bool,
    polls: u64,
    refusal: Option<u32>,
    trickle: VecDeque<u8>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.text[..self.text.len().min(200)]).into_owned();
        f.debug_struct("Client")
            .field("from", &self.from)
            .field("habit", &self.habit)
            .field("answered", &self.answered)
            .field("connected", &self.connected)
            .field("reset", &self.reset)
            .field("closed", &self.closed)
            .field("unsent", &self.unsent.len())
            .field("flight", &self.flight)
            .field("handshaking", &self.tls.is_handshaking())
            .field("text", &text)
            .finish_non_exhaustive()
    }
}

/// A configuration all clients share: TLS 1.3, AES-128-GCM, X25519, any certificate.
pub fn config() -> Arc<ClientConfig> {
    Arc::new(config_of())
}

/// The same, with the sessions of all in one place.
pub fn config_with(hoard: &Arc<Hoard>) -> Arc<ClientConfig> {
    let mut config = config_of();
    config.resumption = Resumption::store(Arc::clone(hoard) as _);
    Arc::new(config)
}

fn config_of() -> ClientConfig {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth()
}

impl Client {
    pub fn new(
        address: Ipv4Addr,
        port: u16,
        sequence: u32,
        habit: Habit,
        config: &Arc<ClientConfig>,
    ) -> Client {
        let name = ServerName::try_from("flood.test").expect("a name");
        Client {
            from: (address, port),
            habit,
            answered: 0,
            reset: false,
            closed: false,
            refused: None,
            last: Vec::new(),
            connected: false,
            gone: false,
            started: false,
            tls: ClientConnection::new(Arc::clone(config), name).expect("a client"),
            sequence,
            flight: 0,
            window: 0,
            unsent: VecDeque::new(),
            sent_at: 0,
            acknowledged: 0,
            owes_ack: false,
            text: Vec::new(),
            waiting: false,
            polls: 0,
            refusal: None,
            trickle: VecDeque::new(),
        }
    }

    /// What it sends next.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Its ClientHello is on the wire.
    pub fn has_said_hello(&self) -> bool {
        self.connected && self.flight > 0
    }

    /// Its handshakes are done, and its first request is answered if it waits for one.
    pub fn is_established(&self) -> bool {
        match self.habit {
            Habit::Asks | Habit::TinyRecords | Habit::TinySegments | Habit::Pieces | Habit::Idles => {
                self.answered > 0
            }
            Habit::Silent | Habit::HalfHello(_) => self.connected,
            _ => self.connected && !self.tls.is_handshaking(),
        }
    }

    /// It has begun to ask and has no whole answer.
    #[allow(dead_code, reason = "not every test file asks")]
    pub fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// It resets the connection and is not heard of again, but for resets.
    pub fn leave(&mut self) {
        self.gone = true;
    }

    /// It says nothing any more, not even a reset.
    pub fn vanish(&mut self) {
        self.gone = true;
        self.reset = true;
    }

    fn segment<'a>(&self, flags: u8, at: usize, payload: &'a [u8]) -> Segment<'a> {
        let window = match self.habit {
            Habit::SlowReader { window, .. } if self.waiting => window,
            _ => 0xffff,
        };
        let sequence = self.sequence.wrapping_add(at as u32);
        Segment { window, payload, ..Segment::new(self.from, flags, sequence, self.acknowledged) }
    }

    /// What it sends now.
    pub fn poll(&mut self, now_ns: u64, out: &mut Vec<Vec<u8>>) {
        self.polls += 1;
        if self.gone {
            if self.connected && !self.reset {
                self.reset = true;
                let reset = self.segment(RST | ACK, self.flight, &[]);
                out.push(reset.frame());
            }
            return;
        }
        if self.reset {
            return;
        }
        let late = now_ns >= self.sent_at + RETRY_NS;
        if let Some(sequence) = self.refusal.take() {
            out.push(Segment { sequence, acknowledged: 0, ..self.segment(RST, 0, &[]) }.frame());
        }
        if !self.connected {
            if !self.started || late {
                (self.started, self.sent_at) = (true, now_ns);
                out.push(Segment { acknowledged: 0, ..self.segment(SYN, 0, &[]) }.frame());
            }
            return;
        }
        self.act();
        self.pull();
        if late && self.flight > 0 {
            self.flight = 0;
        }
        let (segment_bytes, segments) = match self.habit {
            Habit::TinySegments => (1, usize::MAX),
            Habit::Pieces => (PIECE_BYTES, 1),
            _ => (SEGMENT_BYTES, usize::MAX),
        };
        let before = out.len();
        let end = self.unsent.len().min(FLIGHT_BYTES).min(self.window);
        while self.flight < end && out.len() - before < segments {
            let len = (end - self.flight).min(segment_bytes);
            let payload: Vec<u8> = self.unsent.range(self.flight..self.flight + len).copied().collect();
            out.push(self.segment(ACK | PSH, self.flight, &payload).frame());
            self.flight += len;
            self.sent_at = now_ns;
        }
        if self.owes_ack && out.len() == before {
            out.push(self.segment(ACK, self.flight, &[]).frame());
        }
        self.owes_ack = false;
    }

    /// Asks from now on, whatever it did before.
    pub fn wake(&mut self) {
        (self.habit, self.waiting) = (Habit::Asks, false);
    }

    /// Takes what it has not taken, and asks for nothing more.
    pub fn listen(&mut self) {
        self.habit = Habit::Idles;
    }

    /// Does what its habit is.
    fn act(&mut self) {
        if let Habit::HalfHello(_) | Habit::Silent = self.habit {
            return;
        }
        if self.tls.is_handshaking() || self.closed {
            return;
        }
        if self.polls.is_multiple_of(100)
            && let Some(byte) = self.trickle.pop_front()
        {
            self.say(&[byte]);
        }
        if self.waiting {
            return;
        }
        self.waiting = true;
        let get = |bytes: usize| format!("GET /?bytes={bytes} HTTP/1.1\r\nHost: flood.test\r\n\r\n");
        let post =
            |bytes: usize| format!("POST / HTTP/1.1\r\nHost: flood.test\r\nContent-Length: {bytes}\r\n\r\n");
        match self.habit {
            Habit::Asks | Habit::TinySegments | Habit::Pieces => self.say(get(1024).as_bytes()),
            Habit::Idles if self.answered > 0 => {}
            Habit::Idles => self.say(get(1024).as_bytes()),
            Habit::TinyRecords => get(1024).as_bytes().iter().for_each(|byte| self.say(&[*byte])),
            Habit::SlowHead => self.trickle.extend(get(1024).as_bytes()),
            Habit::SlowBody => {
                self.say(post(10_000).as_bytes());
                self.trickle.extend(vec![7; 10_000]);
            }
            Habit::LargeBody(bytes) => {
                self.say(post(bytes).as_bytes());
                (0..(bytes - 1) / 1_000).for_each(|_| self.say(&[7; 1_000]));
            }
            Habit::SlowReader { .. } => self.say(get(1_000_000).as_bytes()),
            Habit::Deaf(bytes) => self.say(get(bytes).as_bytes()),
            Habit::Silent | Habit::HalfHello(_) | Habit::Told => {}
        }
    }

    /// Says this.
    pub fn tell(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(PIECE_TOLD_BYTES) {
            self.say(piece);
        }
    }

    /// Puts bytes on the wire as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.unsent.extend(bytes);
    }

    /// Says close_notify.
    pub fn notify(&mut self) {
        self.tls.send_close_notify();
        self.pull();
    }

    /// What has come that is no whole reply.
    pub fn rest(&self) -> &[u8] {
        &self.text
    }

    /// All it has said has arrived.
    pub fn has_said_all(&self) -> bool {
        self.unsent.is_empty()
    }

    fn say(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).expect("rustls takes it");
        self.pull();
    }

    /// Moves what rustls has to say into the send buffer.
    fn pull(&mut self) {
        if self.habit == Habit::Silent {
            return;
        }
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("memory can be written");
        }
        if let Habit::HalfHello(len) = self.habit {
            bytes.truncate(len);
        }
        self.unsent.extend(bytes);
    }

    /// Takes a frame from the node.
    pub fn take(&mut self, frame: &[u8]) {
        let tcp = ETHERNET + IP;
        let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().expect("four bytes"));
        let (sequence, acknowledges, flags) = (word(tcp + 4), word(tcp + 8), frame[tcp + 13]);
        self.window = usize::from(u16::from_be_bytes([frame[tcp + 14], frame[tcp + 15]]));
        let header = usize::from(frame[tcp + 12] >> 4) * 4;
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let payload = &frame[tcp + header..ETHERNET + total];
        if self.gone {
            return;
        }
        if flags & RST != 0 {
            self.reset = true;
            return;
        }
        if !self.connected && flags & SYN == 0 {
            // The node answers for a connection this one took the place of (RFC 9293 section 3.5.1, figure 9).
            self.refusal = Some(acknowledges);
            return;
        }
        if flags & SYN != 0 {
            if !self.connected {
                self.connected = true;
                self.acknowledged = sequence.wrapping_add(1);
                self.sequence = self.sequence.wrapping_add(1);
            }
            self.owes_ack = true;
            return;
        }
        let newly = acknowledges.wrapping_sub(self.sequence) as usize;
        if newly > 0 && newly <= self.unsent.len() {
            self.unsent.drain(..newly);
            self.sequence = acknowledges;
            self.flight = self.flight.saturating_sub(newly);
        }
        if matches!(self.habit, Habit::SlowReader { deaf: true, .. } | Habit::Deaf(_)) && self.waiting {
            return;
        }
        self.owes_ack |= !payload.is_empty() || flags & FIN != 0;
        if sequence != self.acknowledged {
            return;
        }
        let window = match self.habit {
            Habit::SlowReader { window, .. } if self.waiting => usize::from(window),
            _ => usize::MAX,
        };
        if payload.len() > window {
            return;
        }
        self.acknowledged = self.acknowledged.wrapping_add(payload.len() as u32);
        if flags & FIN != 0 {
            self.acknowledged = self.acknowledged.wrapping_add(1);
            self.closed = true;
        }
        self.read(payload);
    }

    fn read(&mut self, payload: &[u8]) {
        if self.habit == Habit::Silent {
            // It speaks no TLS of its own: what comes is taken as it is.
            return self.text.extend_from_slice(payload);
        }
        let mut bytes = Cursor::new(payload);
        while (bytes.position() as usize) < payload.len() {
            self.tls.read_tls(&mut bytes).expect("memory can be read");
            let state = self.tls.process_new_packets().expect("the node speaks TLS");
            let from = self.text.len();
            self.text.resize(from + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut self.text[from..]).expect("what is there");
        }
        while let Some((status, body)) = take_reply(&mut self.text) {
            self.last = body;
            if status == 200 {
                self.answered += 1;
            } else {
                self.refused = Some(status);
            }
            self.waiting = self.habit == Habit::Idles;
        }
    }
}

/// Takes a whole reply from the front of `text`.
fn take_reply(text: &mut Vec<u8>) -> Option<(u16, Vec<u8>)> {
    let head = text.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let fields = std::str::from_utf8(&text[..head]).expect("a head of text");
    let status = fields.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
    let len = fields
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned))
        .map_or(0, |len| len.trim().parse::<usize>().expect("a length"));
    if text.len() < head + len {
        return None;
    }
    let reply: Vec<u8> = text.drain(..head + len).collect();
    Some((status, reply[head..].to_vec()))
}

/// Takes any certificate.
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
