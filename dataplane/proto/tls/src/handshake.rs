//! The handshake: rustls, fed one record at a time, until it would carry application data; then its secrets are
//! taken out and nothing of it stays.
//!
//! One record at a time matters: a client may send its first request right behind Finished, and rustls would open
//! it; so those bytes stay ciphertext until our own opener takes over.

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, InsufficientSizeError, UnbufferedStatus};
use rustls::{ConnectionTrafficSecrets, HandshakeKind, ProtocolVersion};

use crate::alert::{Alert, Failure, FailureReason};
use crate::capture::{Captured, during};
use crate::lend::Secret;
use crate::open::Opener;
use crate::seal::Sealer;
use crate::server::Server;
use crate::suite::{Suite, Version};

/// Bytes of handshake that rustls may hold back for the next record: a client's largest flight.
const HELD_BYTES_MAX: usize = 128 * 1024;

/// States rustls may go through for one record.
const STATES_MAX: usize = 64;

/// What a record led to.
pub enum Step {
    /// Send what there is and go on.
    Continue,
    /// The record layer takes over.
    Done(Box<Established>),
    /// It failed; the bytes to send hold the alert.
    Failed(Failure),
}

/// A connection after its handshake.
pub struct Established {
    /// Client to server.
    pub opener: Opener,
    /// Server to client.
    pub sealer: Sealer,
    /// What was agreed.
    pub info: Info,
}

/// What was agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Version.
    pub version: Version,
    /// AEAD.
    pub suite: Suite,
    /// IANA number of the cipher suite.
    pub cipher_suite: u16,
    /// No certificate and no key exchange with it were needed.
    pub resumed: bool,
}

/// A handshake under way.
pub struct Handshake {
    connection: Option<UnbufferedServerConnection>,
    incoming: Vec<u8>,
    captured: Captured,
}

enum Turn {
    More,
    Blocked,
    Ready,
    Failed(Failure),
}

impl Handshake {
    /// A handshake before its first byte.
    pub fn new(server: &Server) -> Handshake {
        Handshake { connection: server.connection(), incoming: Vec::new(), captured: Captured::default() }
    }

    /// Takes exactly one record; appends bytes to send to `out`.
    pub fn advance(&mut self, record: &mut [u8], out: &mut Vec<u8>) -> Step {
        let Some(mut connection) = self.connection.take() else { return Step::Failed(Failure::internal()) };
        if self.incoming.len() + record.len() > HELD_BYTES_MAX {
            return Step::Failed(Failure::record(Alert::RECORD_OVERFLOW));
        }
        self.incoming.extend_from_slice(record);
        let incoming = &mut self.incoming;
        let turn = during(&mut self.captured, || run(&mut connection, incoming, out));
        match turn {
            Turn::More | Turn::Blocked => {
                self.connection = Some(connection);
                Step::Continue
            }
            Turn::Failed(failure) => Step::Failed(failure),
            // Bytes behind Finished in its own record would cross a change of keys (RFC 8446 section 5.1).
            Turn::Ready if !self.incoming.is_empty() => {
                Step::Failed(Failure::message(Alert::UNEXPECTED_MESSAGE))
            }
            Turn::Ready => match self.take_over(connection) {
                Some(established) => Step::Done(Box::new(established)),
                None => Step::Failed(Failure::internal()),
            },
        }
    }

    fn take_over(&mut self, connection: UnbufferedServerConnection) -> Option<Established> {
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let (secrets, kernel) = connection.dangerous_into_kernel_connection().ok()?;
        let version = match kernel.protocol_version() {
            ProtocolVersion::TLSv1_3 => Version::Tls13,
            _ => Version::Tls12,
        };
        let cipher_suite = u16::from(kernel.negotiated_cipher_suite().suite());
        let (received, sent) = (secrets.rx.0, secrets.tx.0);
        let (suite, client) = split(&secrets.rx.1)?;
        let (_, server) = split(&secrets.tx.1)?;
        let captured = std::mem::take(&mut self.captured);
        if version == Version::Tls13 && (captured.client.is_none() || captured.server.is_none()) {
            return None;
        }
        Some(Established {
            opener: Opener::new(version, suite, &client, received, captured.client),
            sealer: Sealer::new(version, suite, server, sent, captured.server),
            info: Info { version, suite, cipher_suite, resumed },
        })
    }
}

fn split(secrets: &ConnectionTrafficSecrets) -> Option<(Suite, Secret)> {
    let (suite, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
        _ => return None,
    };
    let mut secret = Secret::default();
    secret.key.get_mut(..key.as_ref().len())?.copy_from_slice(key.as_ref());
    secret.iv.copy_from_slice(iv.as_ref());
    Some((suite, secret))
}

fn run(connection: &mut UnbufferedServerConnection, incoming: &mut Vec<u8>, out: &mut Vec<u8>) -> Turn {
    for _ in 0..STATES_MAX {
        let (discard, turn) = step(connection, incoming, out);
        incoming.drain(..discard);
        if !matches!(turn, Turn::More) {
            return turn;
        }
    }
    Turn::Failed(Failure::internal())
}

fn step(
    connection: &mut UnbufferedServerConnection,
    incoming: &mut [u8],
    out: &mut Vec<u8>,
) -> (usize, Turn) {
    let UnbufferedStatus { discard, state, .. } = connection.process_tls_records(incoming);
    let turn = match state {
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            encode(out, |room| data.encode(room)).map_or(Turn::Failed(Failure::internal()), |()| Turn::More)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Turn::More
        }
        Ok(ConnectionState::BlockedHandshake) => Turn::Blocked,
        Ok(ConnectionState::WriteTraffic(_)) => Turn::Ready,
        // The client closed during the handshake.
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
            let reason = FailureReason::PeerAlert(Alert::CLOSE_NOTIFY);
            Turn::Failed(Failure::new(Alert::CLOSE_NOTIFY, reason))
        }
        Ok(_) => Turn::Failed(Failure::message(Alert::UNEXPECTED_MESSAGE)),
        Err(error) => {
            let failure = failure(&error);
            last_words(connection, out);
            Turn::Failed(failure)
        }
    };
    (discard, turn)
}

/// After an error rustls still has its alert to say; every other state of it is dead.
fn last_words(connection: &mut UnbufferedServerConnection, out: &mut Vec<u8>) {
    for _ in 0..STATES_MAX {
        match connection.process_tls_records(&mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                if encode(out, |room| data.encode(room)).is_none() {
                    return;
                }
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            _ => return,
        }
    }
}

/// Appends what rustls encodes, growing by what it says it needs.
fn encode(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) -> Option<()> {
    let start = out.len();
    out.resize(start + 1024, 0);
    loop {
        match encode(&mut out[start..]) {
            Ok(len) => {
                out.truncate(start + len);
                return Some(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                out.resize(start + required_size, 0);
            }
            Err(EncodeError::AlreadyEncoded) => {
                out.truncate(start);
                return None;
            }
        }
    }
}

fn failure(error: &rustls::Error) -> Failure {
    let reason = match error {
        rustls::Error::AlertReceived(alert) => FailureReason::PeerAlert(Alert(u8::from(*alert))),
        rustls::Error::DecryptError => FailureReason::PeerMac,
        rustls::Error::InvalidMessage(_) => FailureReason::PeerMessage,
        _ => FailureReason::Handshake,
    };
    // rustls has written the alert itself; this one is for the log.
    Failure::new(Alert::HANDSHAKE_FAILURE, reason)
}
