//! TLS of one connection: rustls does the handshake and keeps the traffic secrets, [`crate::record`] the records after
//! it. Bytes from the socket go in; plaintext, and bytes for the socket, come out. Owned by a connection.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};

use crate::record::{Broken, Half, Kind, RECORDS_MAX};

/// Most bytes of a handshake that may wait for more: certificate chains are a few kilobytes.
pub const WAITING_BYTES_MAX: usize = 64 * 1024;
/// Longest handshake message after the handshake (RFC 8446 section 4.6.1: a ticket and its extensions).
const MESSAGE_BYTES_MAX: usize = 1 << 17;
/// Steps rustls may take after a failure until its alert is out.
const ALERT_STEPS_MAX: usize = 4;

/// Handshake messages that come after the handshake (RFC 8446 section 4).
const HELLO_REQUEST: u8 = 0;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Alerts (RFC 8446 section 6).
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// TLS failed.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The handshake did, or a message after it.
    #[error("{0}")]
    Handshake(#[from] rustls::Error),
    /// A record did.
    #[error("{0}")]
    Record(#[from] Broken),
    /// The server said so.
    #[error("the server sent TLS alert {0}")]
    Alert(u8),
    /// A message that has no place where it came.
    #[error("an unexpected TLS message")]
    Unexpected,
    /// Too much that says nothing.
    #[error("the server's handshake messages are too long")]
    TooLong,
}

/// A handshake under way.
pub struct Handshake {
    tls: UnbufferedClientConnection,
    /// Received and not yet understood.
    waiting: Vec<u8>,
}

/// The outcome of a handshake.
pub struct Established {
    /// Records from now on.
    pub secure: Secure,
    /// Whether it resumed a session.
    pub is_resumed: bool,
    /// Bytes received behind the handshake.
    pub rest: Vec<u8>,
}

impl Handshake {
    /// A handshake that has sent nothing yet.
    ///
    /// # Errors
    /// Settings that exclude each other.
    pub fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Handshake, TlsError> {
        Ok(Handshake { tls: UnbufferedClientConnection::new(config, name)?, waiting: Vec::new() })
    }

    /// Goes on with what was received; true: the handshake is done, once `out` is sent.
    ///
    /// # Errors
    /// The handshake failed; `out` may hold the alert to be sent.
    pub fn advance(&mut self, received: &[u8], out: &mut Vec<u8>) -> Result<bool, TlsError> {
        if self.waiting.len() + received.len() > WAITING_BYTES_MAX {
            return Err(TlsError::TooLong);
        }
        self.waiting.extend_from_slice(received);
        loop {
            match self.step(out) {
                Ok(None) => {}
                Ok(Some(done)) => return Ok(done),
                Err(error) => {
                    // rustls must not see a second time what it has refused.
                    self.waiting.clear();
                    for _ in 0..ALERT_STEPS_MAX {
                        if !matches!(self.step(out), Ok(None)) {
                            break;
                        }
                    }
                    return Err(error);
                }
            }
        }
    }

    /// One step of rustls; `None`: there is another.
    fn step(&mut self, out: &mut Vec<u8>) -> Result<Option<bool>, TlsError> {
        let UnbufferedStatus { discard, state, .. } = self.tls.process_tls_records(&mut self.waiting);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                let start = out.len();
                let required = match message.encode(&mut []) {
                    Err(EncodeError::InsufficientSize(size)) => size.required_size,
                    _ => 0,
                };
                out.resize(start + required, 0);
                let encoded = message.encode(&mut out[start..]);
                out.truncate(start + encoded.unwrap_or(0));
                Ok(None)
            }
            Ok(ConnectionState::TransmitTlsData(message)) => {
                message.done();
                Ok(None)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Some(false)),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(true)),
            Ok(_) => Err(TlsError::Unexpected),
            Err(error) => Err(TlsError::Handshake(error)),
        };
        self.waiting.drain(..discard);
        step
    }

    /// Takes the keys out of a handshake that is done.
    ///
    /// # Errors
    /// A handshake that is not.
    pub fn finish(self) -> Result<Established, TlsError> {
        let is_resumed = self.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let (secrets, kernel) = self.tls.dangerous_into_kernel_connection()?;
        let version = kernel.protocol_version();
        let secure = Secure {
            tx: Half::new(version, secrets.tx)?,
            rx: Half::new(version, secrets.rx)?,
            kernel,
            message: Vec::new(),
        };
        Ok(Established { secure, is_resumed, rest: self.waiting })
    }
}

/// What a record brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Bytes of the application.
    Data(&'a [u8]),
    /// Something of TLS's own, which is dealt with.
    Nothing,
    /// The server closes the connection in order.
    Closed,
}

/// Records after the handshake, both ways.
pub struct Secure {
    tx: Half,
    rx: Half,
    kernel: KernelConnection<ClientConnectionData>,
    /// A handshake message of which not all has come.
    message: Vec<u8>,
}

impl Secure {
    /// Whether TLS 1.3 is spoken.
    pub fn is_13(&self) -> bool {
        self.kernel.protocol_version() == ProtocolVersion::TLSv1_3
    }

    /// Whether the key has sealed as many records as it may.
    pub fn is_worn(&self) -> bool {
        self.tx.records() >= RECORDS_MAX
    }

    /// Appends `plain`, sealed, to `out`.
    ///
    /// # Errors
    /// The cipher's own.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        Ok(self.tx.seal(Kind::Data, plain, out)?)
    }

    /// Appends close_notify.
    ///
    /// # Errors
    /// The cipher's own.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        const WARNING: u8 = 1;
        Ok(self.tx.seal(Kind::Alert, &[WARNING, CLOSE_NOTIFY], out)?)
    }

    /// Appends a KeyUpdate and goes on with the next key (RFC 8446 section 4.6.3); `asks`: for one of the server too.
    ///
    /// # Errors
    /// The cipher's own.
    pub fn update_key(&mut self, asks: bool, out: &mut Vec<u8>) -> Result<(), TlsError> {
        self.tx.seal(Kind::Handshake, &[KEY_UPDATE, 0, 0, 1, u8::from(asks)], out)?;
        self.tx = Half::new(ProtocolVersion::TLSv1_3, self.kernel.update_tx_secret()?)?;
        Ok(())
    }

    /// Opens one whole record in place; answers that TLS owes are appended to `out`.
    ///
    /// # Errors
    /// A bad record, an alert, or a message out of place: the connection is lost.
    pub fn open<'a>(&mut self, record: &'a mut [u8], out: &mut Vec<u8>) -> Result<Opened<'a>, TlsError> {
        let (kind, plain) = self.rx.open(record)?;
        match kind {
            // A message of the handshake is not to be interrupted (RFC 8446 section 5.1).
            Kind::Data if self.message.is_empty() => Ok(Opened::Data(plain)),
            Kind::Alert => match *plain {
                [_, CLOSE_NOTIFY] => Ok(Opened::Closed),
                [_, USER_CANCELED] => Ok(Opened::Nothing),
                [_, alert] => Err(TlsError::Alert(alert)),
                _ => Err(TlsError::Unexpected),
            },
            Kind::Handshake => {
                if self.message.len() + plain.len() > MESSAGE_BYTES_MAX {
                    return Err(TlsError::TooLong);
                }
                self.message.extend_from_slice(plain);
                self.messages(out)?;
                Ok(Opened::Nothing)
            }
            Kind::Data => Err(TlsError::Unexpected),
        }
    }

    /// Acts on the handshake messages that are whole.
    fn messages(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut message = std::mem::take(&mut self.message);
        let mut rest = &message[..];
        while let [kind, a, b, c, tail @ ..] = rest {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some((body, tail)) = tail.split_at_checked(length) else { break };
            match (*kind, body) {
                (NEW_SESSION_TICKET, ticket) => self.kernel.handle_new_session_ticket(ticket)?,
                (KEY_UPDATE, [asks @ (0 | 1)]) if self.is_13() => {
                    // What follows in this record would be sealed with the key before (RFC 8446 section 5.1).
                    if !tail.is_empty() {
                        return Err(TlsError::Unexpected);
                    }
                    self.rx = Half::new(ProtocolVersion::TLSv1_3, self.kernel.update_rx_secret()?)?;
                    if *asks == 1 {
                        self.update_key(false, out)?;
                    }
                }
                // A client may ignore the wish for another handshake (RFC 5246 section 7.4.1.1).
                (HELLO_REQUEST, []) if !self.is_13() => {}
                _ => return Err(TlsError::Unexpected),
            }
            rest = tail;
        }
        let left = rest.len();
        let used = message.len() - left;
        if left > 0 {
            message.drain(..used);
            self.message = message;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection};

    use super::*;
    use crate::args::Args;
    use crate::record::HEADER_BYTES;
    use crate::tls::client_config;

    fn handshake(version: &str) -> Handshake {
        let args = ["keyferry-load", "https://a/", "-n", "1", "--insecure", "--tls", version];
        let config = client_config(&Args::parse_from(args)).unwrap();
        Handshake::new(Arc::new(config), "load.test".try_into().unwrap()).unwrap()
    }

    /// A client that has shaken hands, and what its server seals with.
    fn established(version: &str) -> (Secure, Half) {
        let key = rcgen::generate_simple_self_signed(["load.test".to_owned()]).unwrap();
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private)
            .unwrap();
        (config.enable_secret_extraction, config.send_tls13_tickets) = (true, 0);
        let mut server = ServerConnection::new(Arc::new(config)).unwrap();
        let (mut client, mut received) = (handshake(version), Vec::new());
        loop {
            let mut out = Vec::new();
            let is_done = client.advance(&received, &mut out).unwrap();
            let mut rest = &out[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            received.clear();
            while server.wants_write() {
                server.write_tls(&mut received).unwrap();
            }
            if is_done && received.is_empty() {
                break;
            }
        }
        let version = server.protocol_version().unwrap();
        let secrets = server.dangerous_extract_secrets().unwrap();
        (client.finish().unwrap().secure, Half::new(version, secrets.tx).unwrap())
    }

    /// Records, and what the first that is refused is refused with.
    type Case<'a> = (&'a [(Kind, &'a [u8])], &'static str);

    /// What a client makes of records the server seals, one after the other: of the first that is refused.
    fn refusal(version: &str, records: &[(Kind, &[u8])]) -> String {
        let (mut secure, mut server) = established(version);
        for (kind, plain) in records {
            let mut wire = Vec::new();
            server.seal(*kind, plain, &mut wire).unwrap();
            if let Err(error) = secure.open(&mut wire, &mut Vec::new()) {
                return error.to_string();
            }
        }
        panic!("all are taken");
    }

    #[test]
    fn what_a_server_may_not_say_is_named() {
        const UNEXPECTED: &str = "an unexpected TLS message";
        let long = [&[NEW_SESSION_TICKET, 0xff, 0xff, 0xff][..], &[0; 12_000]].concat();
        for version in ["1.2", "1.3"] {
            let cases: [Case<'_>; 7] = [
                (&[(Kind::Alert, &[2, 40])], "the server sent TLS alert 40"),
                (&[(Kind::Alert, &[2, 40, 0])], UNEXPECTED),
                (&[(Kind::Handshake, &[99, 0, 0, 0])], UNEXPECTED),
                (&[(Kind::Handshake, &[KEY_UPDATE, 0, 0, 1, 2])], UNEXPECTED),
                (&[(Kind::Handshake, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE])], UNEXPECTED),
                (&[(Kind::Handshake, &[NEW_SESSION_TICKET, 0, 0, 9]), (Kind::Data, b"between")], UNEXPECTED),
                (&[(Kind::Handshake, &long[..]); 12], "the server's handshake messages are too long"),
            ];
            for (records, sentence) in cases {
                assert_eq!(refusal(version, records), sentence, "{version}");
            }
            let (mut secure, mut server) = established(version);
            for (alert, opened) in [(USER_CANCELED, Opened::Nothing), (CLOSE_NOTIFY, Opened::Closed)] {
                let mut wire = Vec::new();
                server.seal(Kind::Alert, &[1, alert], &mut wire).unwrap();
                assert_eq!(secure.open(&mut wire, &mut Vec::new()).unwrap(), opened);
            }
        }
    }

    #[test]
    fn records_that_are_none_are_named() {
        let open = |change: fn(&mut Vec<u8>)| {
            let ((mut secure, mut server), mut wire) = (established("1.3"), Vec::new());
            server.seal(Kind::Data, b"data", &mut wire).unwrap();
            change(&mut wire);
            secure.open(&mut wire, &mut Vec::new()).unwrap_err().to_string()
        };
        assert_eq!(open(|wire| wire[HEADER_BYTES] ^= 1), "a TLS record does not authenticate");
        assert_eq!(open(|wire| wire[0] = 22), "a TLS record of type 22 where none belongs");
    }

    #[test]
    fn a_handshake_that_is_none_is_named() {
        let advance = |received: &[u8]| handshake("1.3").advance(received, &mut Vec::new()).unwrap_err();
        assert!(matches!(advance(b"HTTP/1.1 400 Bad Request\r\n\r\n"), TlsError::Handshake(_)));
        let long = advance(&vec![22; WAITING_BYTES_MAX + 1]);
        assert_eq!(long.to_string(), "the server's handshake messages are too long");
    }
}
