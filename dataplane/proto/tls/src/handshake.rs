//! The handshake: rustls, fed one record at a time until the keys are agreed, then taken apart.
//!
//! In: whole records; out: bytes to send, and at last an [`Opener`] and a [`Sealer`]. Owned by the worker that owns
//! the connection. rustls never sees a record behind Finished, so early requests stay ciphertext for the opener, and
//! nothing of rustls stays per connection. This is the one file that knows rustls' unbuffered interface.

use std::sync::Arc;

use rustls::ConnectionTrafficSecrets;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::alert::{Alert, Failure, FailureReason, OwnFault, PeerFault};
use crate::fault;
use crate::hooks::{Hooks, Secrets};
use crate::keys::TrafficKey;
use crate::offered::{Offered, Search, Sought};
use crate::open::Opener;
use crate::protect::Protector;
use crate::record::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, Fragment, HEADER_BYTES, PLAINTEXT_BYTES_MAX,
    RECORD_BYTES_MAX, RECORD13_BYTES_MAX, VERSION, record_len,
};
use crate::schedule;
use crate::seal::Sealer;
use crate::server::Server;
use crate::session::Session;
use crate::suite::{Suite, Version};

/// Bytes kept of records whose handshake message is not whole yet. A message has at most 64 KiB (rustls refuses
/// more); the rest is for the headers of its fragments.
pub const PENDING_BYTES_MAX: usize = 96 << 10;

/// Calls of rustls for one record: each brings a message out or a state forward, and a record holds only so many.
const STEPS_MAX: usize = RECORD_BYTES_MAX;

/// A key exchange group, by its number at IANA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(pub u16);

/// What was agreed: for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Protocol version.
    pub version: Version,
    /// Cipher suite.
    pub suite: Suite,
    /// An earlier session went on.
    pub resumed: bool,
    /// The client named a server.
    pub sni: bool,
    /// The client's first key share did not fit and it had to try again (TLS 1.3).
    pub retried: bool,
    /// Key exchange group; `None` where none was used.
    pub group: Option<Group>,
}

/// A connection whose keys are agreed.
pub struct Established {
    /// Client to server.
    pub opener: Opener,
    /// Server to client.
    pub sealer: Sealer,
    /// What was agreed.
    pub info: Info,
    /// Sessions made, for whoever is to keep them ([`Resumption::Shared`](crate::Resumption::Shared)).
    pub sessions: Vec<Session>,
}

/// How far a handshake is. `out` may have got bytes to send in each case.
pub enum Step {
    /// The client's next record is needed.
    Continue,
    /// The client offers sessions that are not here. Nothing goes on before [`Handshake::go_on`], which is to bring one
    /// of them if another node has it.
    Absent(Offered),
    /// Done: every later record is the opener's.
    Done(Box<Established>),
    /// Over. `out` ends with the alert, unless the client itself ended the handshake or no key for it is at hand.
    Failed(Failure),
}

/// A handshake under way.
pub struct Handshake {
    server: Server,
    connection: Option<UnbufferedServerConnection>,
    /// Until the ClientHello is whole.
    search: Option<Search>,
    /// The record that made it whole, while absent sessions are looked for.
    held: Option<Vec<u8>>,
    hooks: Arc<Hooks>,
    fragment: Fragment,
    /// Records that rustls has looked at but still needs: parts of a message that spans several.
    pending: Vec<u8>,
    /// Our change_cipher_spec of TLS 1.2 is out: what follows is sealed with keys that only rustls has.
    sealing12: bool,
    over: Option<Failure>,
}

/// What driving rustls over one record came to.
enum Driven {
    Blocked,
    Agreed,
    /// `alerted`: rustls has said why.
    Failed {
        failure: Failure,
        alerted: bool,
    },
}

impl Handshake {
    /// A handshake that waits for a ClientHello.
    pub fn new(server: &Server) -> Handshake {
        let (config, hooks) = server.handshake();
        Handshake {
            server: server.clone(),
            connection: UnbufferedServerConnection::new(config).ok(),
            search: server.search(),
            held: None,
            hooks,
            fragment: server.fragment(),
            pending: Vec::new(),
            sealing12: false,
            over: None,
        }
    }

    /// Takes in exactly one record; appends to `out` what is to be sent. None may come while sessions are looked for.
    pub fn advance(&mut self, record: &mut [u8], out: &mut Vec<u8>) -> Step {
        if let Some(failure) = self.over {
            return Step::Failed(failure);
        }
        if record_len(record) != Ok(Some(record.len())) {
            return self.fail(Failure::ours(OwnFault::NotOneRecord), false, out);
        }
        if is_too_long(record) {
            let failure = Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::RecordTooLong);
            return self.fail(failure, false, out);
        }
        if self.pending.len() + record.len() > PENDING_BYTES_MAX {
            let failure = Failure::peer(Alert::DECODE_ERROR, PeerFault::HandshakeTooLong);
            return self.fail(failure, false, out);
        }
        if self.held.is_some() {
            return self.fail(Failure::ours(OwnFault::Internal), false, out);
        }
        if let Some(absent) = self.seek(record) {
            self.held = Some(record.to_vec());
            return Step::Absent(absent);
        }
        self.step(record, out)
    }

    /// Goes on after [`Step::Absent`], with the session that was found.
    pub fn go_on(&mut self, found: Option<Session>, out: &mut Vec<u8>) -> Step {
        if let Some(failure) = self.over {
            return Step::Failed(failure);
        }
        if let Some(session) = found {
            self.hooks.bring(session);
        }
        match self.held.take() {
            Some(mut record) => self.step(&mut record, out),
            None => Step::Continue,
        }
    }

    /// Looks for sessions that are not here; `None`: there is nothing to wait for.
    fn seek(&mut self, record: &[u8]) -> Option<Offered> {
        let sought = self.search.as_mut()?.take_in(record, self.server.has_tls13());
        let absent = match sought {
            Sought::More => return None,
            Sought::Whole(offered) => self.server.absent(offered),
            Sought::Nothing => Offered::new(),
        };
        self.search = None;
        (!absent.is_empty()).then_some(absent)
    }

    fn step(&mut self, record: &mut [u8], out: &mut Vec<u8>) -> Step {
        match self.take_in(record, out) {
            Driven::Blocked => Step::Continue,
            Driven::Agreed => match self.take_over() {
                Ok(established) => {
                    self.over = Some(Failure::ours(OwnFault::HandshakeOver));
                    Step::Done(established)
                }
                Err(failure) => self.fail(failure, false, out),
            },
            Driven::Failed { failure, alerted } => self.fail(failure, alerted, out),
        }
    }

    /// Ends the handshake for a reason of the caller's, such as a record that [`record_len`] refuses; appends the
    /// alert to `out`, sealed if the client expects that by now.
    pub fn refuse(&mut self, failure: Failure, out: &mut Vec<u8>) {
        if self.over.is_none() {
            self.fail(failure, false, out);
        }
    }

    fn take_in(&mut self, record: &mut [u8], out: &mut Vec<u8>) -> Driven {
        let Some(connection) = self.connection.as_mut() else {
            return Driven::Failed { failure: Failure::ours(OwnFault::Internal), alerted: false };
        };
        let at = out.len();
        let (used, driven) = if self.pending.is_empty() {
            let (used, driven) = drive(connection, record, out);
            // Copied: a part of a message has to outlive the caller's memory until its message is whole.
            self.pending.extend_from_slice(&record[used..]);
            (0, driven)
        } else {
            self.pending.extend_from_slice(record);
            drive(connection, &mut self.pending, out)
        };
        self.pending.drain(..used);
        if connection.protocol_version() == Some(ProtocolVersion::TLSv1_2) {
            self.sealing12 |= has_change_cipher_spec(&out[at..]);
        }
        driven
    }

    /// Ends the handshake. `alerted`: the client knows why.
    fn fail(&mut self, failure: Failure, alerted: bool, out: &mut Vec<u8>) -> Step {
        self.over = Some(failure);
        self.pending = Vec::new();
        self.held = None;
        if !alerted && !matches!(failure.reason, FailureReason::PeerAlert(_)) {
            self.append_alert(failure.alert, out);
        }
        self.connection = None;
        Step::Failed(failure)
    }

    /// Appends an alert of our own: rustls sends none for some faults.
    ///
    /// In TLS 1.3 our flight ends with Finished, and what follows is sealed under the first application secret, of
    /// which nothing has been used yet (RFC 8446 7.1). In TLS 1.2 only a resumed handshake has sealed anything before
    /// the client's Finished; then no key is at hand and the end of the connection has to say it.
    fn append_alert(&mut self, alert: Alert, out: &mut Vec<u8>) {
        if self.sealing12 {
            return;
        }
        let message = alert.message();
        let suite = self.connection.as_ref().and_then(agreed_suite);
        match (self.hooks.take_secrets().server, suite) {
            (Some(secret), Some(suite)) => {
                let mut key = TrafficKey::empty(suite);
                schedule::traffic_key(&secret, &mut key);
                let at = out.len();
                out.resize(at + Protector::sealed_len(suite, message.len()), 0);
                let sealed = Protector::new(&key).seal(0, ALERT, &message, &mut out[at..]);
                out.truncate(at + sealed.unwrap_or(0));
            }
            _ => {
                out.extend_from_slice(&[ALERT, VERSION[0], VERSION[1], 0, message.len() as u8]);
                out.extend_from_slice(&message);
            }
        }
    }

    /// Takes keys and sequence numbers out of rustls, which is gone afterwards.
    fn take_over(&mut self) -> Result<Box<Established>, Failure> {
        const INTERNAL: Failure = Failure::ours(OwnFault::Internal);
        // Bytes behind the last message of the handshake would be lost here; rustls refuses them before.
        let connection = self.connection.take().filter(|_| self.pending.is_empty()).ok_or(INTERNAL)?;
        let suite = agreed_suite(&connection).ok_or(INTERNAL)?;
        let kind = connection.handshake_kind();
        let group = connection.negotiated_key_exchange_group().map(|it| Group(u16::from(it.name())));
        let info = Info {
            version: suite.version(),
            suite,
            resumed: kind == Some(HandshakeKind::Resumed),
            sni: self.hooks.has_sni(),
            retried: kind == Some(HandshakeKind::FullWithHelloRetryRequest),
            group,
        };
        let mut sessions = self.hooks.take_made();
        sessions.iter_mut().for_each(|session| session.once = suite.version() == Version::Tls13);
        let Secrets { client, server } = self.hooks.take_secrets();
        if suite.version() == Version::Tls13 && (client.is_none() || server.is_none()) {
            return Err(INTERNAL);
        }
        // What rustls would keep for later is dropped at once: key updates are ours.
        let (extracted, _) = connection.dangerous_into_kernel_connection().map_err(|_| INTERNAL)?;
        let (rx, tx) = (extracted.rx, extracted.tx);
        let rx_key = traffic_key(suite, &rx.1).ok_or(INTERNAL)?;
        let tx_key = traffic_key(suite, &tx.1).ok_or(INTERNAL)?;
        let opener = Opener::new(&rx_key, client, rx.0);
        let sealer = Sealer::new(&tx_key, server, tx.0, self.fragment);
        Ok(Box::new(Established { opener, sealer, info, sessions }))
    }
}

/// Whether a record is longer than any of a handshake may be. Application data is what protects those of TLS 1.3; all
/// others are plaintext, or a Finished of TLS 1.2, which is short.
fn is_too_long(record: &[u8]) -> bool {
    match record.first() {
        Some(&APPLICATION_DATA) => record.len() > RECORD13_BYTES_MAX,
        _ => record.len() > HEADER_BYTES + PLAINTEXT_BYTES_MAX,
    }
}

/// Lets rustls work through `bytes` until it needs more. Returns how many of them it is done with.
fn drive(
    connection: &mut UnbufferedServerConnection,
    bytes: &mut [u8],
    out: &mut Vec<u8>,
) -> (usize, Driven) {
    let mut used = 0;
    for _ in 0..STEPS_MAX {
        let UnbufferedStatus { discard, state } = connection.process_tls_records(&mut bytes[used..]);
        let driven = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, out);
                None
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                None
            }
            Ok(ConnectionState::BlockedHandshake) => Some(Driven::Blocked),
            Ok(ConnectionState::WriteTraffic(_)) => Some(Driven::Agreed),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                Some(Driven::Failed { failure: Failure::ended_by(Alert::CLOSE_NOTIFY), alerted: false })
            }
            Err(error) => {
                let alerted = flush(connection, out);
                Some(Driven::Failed { failure: fault::failure(&error), alerted })
            }
            // Early data is never accepted, and application data never fed.
            Ok(_) => Some(Driven::Failed { failure: Failure::ours(OwnFault::Internal), alerted: false }),
        };
        used += discard;
        if let Some(driven) = driven {
            return (used, driven);
        }
    }
    (used, Driven::Failed { failure: Failure::ours(OwnFault::Internal), alerted: false })
}

/// Appends what waits behind an error: the alert, mostly. rustls must not see the bad record a second time, nor ask for
/// more input, so it is called exactly as often as it has something.
fn flush(connection: &mut UnbufferedServerConnection, out: &mut Vec<u8>) -> bool {
    let at = out.len();
    while connection.wants_write() {
        match connection.process_tls_records(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
            _ => break,
        }
    }
    out.len() > at
}

/// Appends what rustls wants sent.
fn encode<Data>(mut data: EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    let at = out.len();
    // It says how much it has only by refusing too little room.
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        out.resize(at + needed.required_size, 0);
        let written = data.encode(&mut out[at..]).unwrap_or(0);
        out.truncate(at + written);
    }
}

/// Whether a change_cipher_spec is among the records of ours in `bytes`.
fn has_change_cipher_spec(mut bytes: &[u8]) -> bool {
    while let Ok(Some(len)) = record_len(bytes) {
        if bytes[0] == CHANGE_CIPHER_SPEC {
            return true;
        }
        bytes = bytes.get(len..).unwrap_or_default();
    }
    false
}

fn agreed_suite(connection: &UnbufferedServerConnection) -> Option<Suite> {
    Suite::from_wire(u16::from(connection.negotiated_cipher_suite()?.suite()))
}

/// Copies a record key out of rustls' types, which erase theirs.
fn traffic_key(suite: Suite, secrets: &ConnectionTrafficSecrets) -> Option<TrafficKey> {
    let (key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key.as_ref(), iv.as_ref()),
        _ => return None,
    };
    let mut copy = TrafficKey::empty(suite);
    if key.len() != copy.key().len() || iv.len() != copy.iv.len() {
        return None;
    }
    copy.key_mut().copy_from_slice(key);
    copy.iv.copy_from_slice(iv);
    Some(copy)
}
