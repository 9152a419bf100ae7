//! rustls over the kernel's TCP, blocking: for a client that goes away when a test wants it to. To be used on a
//! thread inside the clients' namespace.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::{A4, NAME};

/// Longest wait for bytes.
const READ_MAX: Duration = Duration::from_secs(60);

/// A connected TCP socket to node A.
pub fn tcp() -> TcpStream {
    let stream = TcpStream::connect((A4, 443)).expect("node A accepts");
    stream.set_read_timeout(Some(READ_MAX)).expect("a socket has a time-out");
    stream.set_nodelay(true).expect("TCP has nodelay");
    stream
}

/// Closes with RST instead of FIN.
pub fn reset(stream: TcpStream) {
    set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket has a linger time");
}

/// A TLS connection to node A.
pub struct Tls(StreamOwned<ClientConnection, TcpStream>);

impl Tls {
    /// The first flight of a handshake, unsent, and what will go on with it.
    pub fn start(ca: &Path) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).expect("the authority's file") {
            roots.add(certificate.expect("PEM")).expect("a certificate");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(NAME).expect("a DNS name");
        ClientConnection::new(Arc::new(config), name).expect("the configuration is valid")
    }

    /// Connects and finishes the handshake.
    pub fn connect(ca: &Path) -> Tls {
        let mut stream = StreamOwned::new(Tls::start(ca), tcp());
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).expect("the handshake succeeds");
        }
        Tls(stream)
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).expect("the connection takes bytes");
    }

    /// Reads exactly `bytes` bytes.
    pub fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.0.read_exact(&mut read).expect("the server sends");
        read
    }

    /// Reads to the end of a head; returns it, end included.
    pub fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.read(1));
        }
        String::from_utf8(head).expect("a head is text")
    }

    /// Sends bytes a server that has had enough may not take any more.
    pub fn offer(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes).and_then(|()| self.0.flush());
    }

    /// Reads to the server's end of the connection, which has to be in order, with close_notify.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("the server ends in order");
        rest
    }

    /// Reads to a sudden end of the connection; returns how many bytes came. An end in order fails the test.
    pub fn read_broken(&mut self) -> u64 {
        let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => panic!("the server ended in order after {read} bytes"),
                Ok(bytes) => read += bytes as u64,
                Err(_) => return read,
            }
        }
    }

    /// Sends FIN, without close_notify: the application is gone, the kernel is not.
    pub fn half_close(&self) {
        self.0.sock.shutdown(std::net::Shutdown::Write).expect("the socket is connected");
    }

    /// Waits for the server's end of the connection, with close_notify.
    pub fn expect_close(&mut self) {
        let bytes = self.0.read(&mut [0; 1]).expect("the server ends in order");
        assert_eq!(bytes, 0, "nothing follows");
    }

    /// Sends so many KeyUpdates, each in a record of its own, as far as the server takes them.
    pub fn key_updates(&mut self, count: usize) {
        let mut wire = Vec::new();
        for _ in 0..count {
            self.0.conn.refresh_traffic_keys().expect("TLS 1.3 has key updates");
            while self.0.conn.wants_write() {
                self.0.conn.write_tls(&mut wire).expect("memory takes bytes");
            }
        }
        let _ = self.0.sock.write_all(&wire);
    }

    /// Sends bytes one by one, behind each a KeyUpdate that asks for one in return, without reading any.
    pub fn send_with_key_updates(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(100) {
            let mut wire = Vec::new();
            for byte in part {
                self.0.conn.writer().write_all(&[*byte]).expect("memory takes bytes");
                self.0.conn.refresh_traffic_keys().expect("TLS 1.3 has key updates");
                while self.0.conn.wants_write() {
                    self.0.conn.write_tls(&mut wire).expect("memory takes bytes");
                }
            }
            self.0.sock.write_all(&wire).expect("the server takes bytes");
        }
    }

    /// Takes as few bytes as the kernel lets it before the client reads them.
    pub fn narrow(&self) {
        set_socket_recv_buffer_size(&self.0.sock, 1).expect("a socket has a buffer");
    }

    /// Waits for the server's fatal alert.
    pub fn expect_alert(&mut self, alert: rustls::AlertDescription) {
        let error = self.0.read(&mut [0; 1]).expect_err("an alert, no data");
        let told = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        assert_eq!(told, Some(&rustls::Error::AlertReceived(alert)), "{error}");
    }

    /// What is below TLS, for leaving.
    pub fn into_tcp(self) -> TcpStream {
        self.0.into_parts().1
    }
}
