//! A plain rustls server on kernel sockets: the yardstick of `tools/conformance`.
//!
//! In: an address, certificate chains with their keys. Out: a 200 for every request. One thread a connection, rustls'
//! buffered interface, its stock provider, session table and limits: nothing here is keyferry's.

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Parser;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Bytes of a reply's body.
const BODY_BYTES: usize = 64;

/// Longest silence of a client.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Longest request head; a longer one is answered in pieces, which is all the same to a TLS test.
const HEAD_BYTES_MAX: usize = 1 << 16;

/// A plain rustls server on kernel sockets.
#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// A chain in PEM; again for another one. The first whose key fits what a client can check is used.
    #[arg(long, required = true)]
    chain: Vec<PathBuf>,
    /// Its key in PEM, in the same order.
    #[arg(long, required = true)]
    key: Vec<PathBuf>,
}

#[derive(Debug)]
struct Keys(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(fits).or_else(|| self.0.first()).cloned()
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut keys = Vec::new();
    for (chain, key) in args.chain.iter().zip(&args.key) {
        let chain = CertificateDer::pem_file_iter(chain)?.collect::<Result<Vec<_>, _>>()?;
        keys.push(Arc::new(CertifiedKey::from_der(chain, PrivateKeyDer::from_pem_file(key)?, &provider)?));
    }
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Keys(keys)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let config = Arc::new(config);
    let listener = TcpListener::bind(args.listen)?;
    eprintln!("stock: listening on {}", args.listen);
    for stream in listener.incoming() {
        let (stream, config) = (stream?, Arc::clone(&config));
        // What goes wrong on one connection has been told to its client.
        thread::spawn(move || serve(stream, config).ok());
    }
    Ok(())
}

/// Serves a connection to its end, in order: the alert or close_notify, FIN, and then whatever the client still sends is
/// read and dropped, so that no RST overtakes our last words.
fn serve(mut stream: TcpStream, config: Arc<ServerConfig>) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_nodelay(true)?;
    let mut connection = ServerConnection::new(config)?;
    let outcome = exchange(&mut stream, &mut connection);
    if outcome.is_ok() {
        connection.send_close_notify();
    }
    while connection.wants_write() {
        connection.write_tls(&mut stream)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut dropped = [0; 4096];
    while stream.read(&mut dropped)? > 0 {}
    outcome
}

/// Answers requests until the client says that it is done.
fn exchange(stream: &mut TcpStream, connection: &mut ServerConnection) -> anyhow::Result<()> {
    let mut head = Vec::new();
    loop {
        while connection.wants_write() {
            connection.write_tls(stream)?;
        }
        if connection.read_tls(stream)? == 0 {
            return Ok(());
        }
        let state = connection.process_new_packets()?;
        let at = head.len();
        head.resize(at + state.plaintext_bytes_to_read(), 0);
        match connection.reader().read_exact(&mut head[at..]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => head.truncate(at),
            Err(error) => return Err(error.into()),
        }
        while let Some(end) = end_of_head(&head) {
            head.drain(..end);
            // One write, so one record: most scripts expect exactly that.
            let body = "a".repeat(BODY_BYTES);
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n{body}");
            connection.writer().write_all(reply.as_bytes())?;
        }
        if state.peer_has_closed() {
            return Ok(());
        }
    }
}

fn end_of_head(head: &[u8]) -> Option<usize> {
    let blank = |mark: &[u8]| head.windows(mark.len()).position(|it| it == mark).map(|at| at + mark.len());
    blank(b"\r\n\r\n").or_else(|| blank(b"\n\n")).or((head.len() > HEAD_BYTES_MAX).then_some(head.len()))
}
