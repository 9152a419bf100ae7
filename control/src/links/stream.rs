//! TLS on a link's socket, driven by hand, because descriptors have to travel beside its records. In: plaintext and
//! descriptors. Out: the same at the other end, in order. Control thread.
//!
//! A descriptor goes with the first byte of the record of its message. So at most one is here whose message is not
//! whole; one that nobody announced is closed and ends the link.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustls::Connection;
use tokio::time::timeout;
use zeroize::{Zeroize, Zeroizing};

use super::socket::Socket;
use super::trust::{self, PROTOCOL};

/// Bytes read at a time: a TLS record and a little more.
const CHUNK_BYTES: usize = 16 << 10;
/// Most plaintext of one read: what it brings and a record that was not whole before.
const PLAINTEXT_BYTES_MAX: usize = 3 * CHUNK_BYTES;
/// How long the other end has to take the last words.
const LINGER: Duration = Duration::from_secs(1);

/// Why nothing more can be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The socket failed.
    #[error("the connection failed ({0})")]
    Socket(#[from] io::Error),
    /// The peer closed the connection.
    #[error("it closed the connection")]
    Closed,
    /// TLS failed, here or there.
    #[error("{}", trust::sentence(.0))]
    Tls(#[from] rustls::Error),
    /// The other end speaks TLS, but not to links.
    #[error("it is no link of keyferry: check the address")]
    Protocol,
    /// A descriptor came that was not announced, or none where one was.
    #[error("the descriptors it passes are not those it announces")]
    Descriptor,
}

/// An end of a link.
pub(super) struct Stream {
    socket: Socket,
    tls: Connection,
    /// Opened and not yet asked for; never grows.
    plaintext: Zeroizing<Vec<u8>>,
    /// Records not yet sent.
    out: Vec<u8>,
    /// A descriptor that came and whose message is not whole yet.
    descriptor: Option<OwnedFd>,
    /// Descriptors are expected now.
    expects_descriptors: bool,
    chunk: Box<[u8; CHUNK_BYTES]>,
}

impl Stream {
    pub(super) fn new(socket: Socket, tls: Connection) -> Stream {
        Stream {
            socket,
            tls,
            plaintext: Zeroizing::new(Vec::with_capacity(PLAINTEXT_BYTES_MAX)),
            out: Vec::new(),
            descriptor: None,
            expects_descriptors: false,
            chunk: Box::new([0; CHUNK_BYTES]),
        }
    }

    pub(super) fn tls(&self) -> &Connection {
        &self.tls
    }

    pub(super) fn passes_descriptors(&self) -> bool {
        self.socket.passes_descriptors()
    }

    /// From here on a message may bring a descriptor, which may be here before its message is asked for.
    pub(super) fn expect_descriptors(&mut self) {
        self.expects_descriptors = self.socket.passes_descriptors();
    }

    /// From here on none may.
    ///
    /// # Errors
    /// One is here that no message has announced.
    pub(super) fn end_descriptors(&mut self) -> Result<(), StreamError> {
        self.expects_descriptors = false;
        match self.descriptor.take() {
            None => Ok(()),
            Some(_) => Err(StreamError::Descriptor),
        }
    }

    /// Shakes hands.
    pub(super) async fn handshake(&mut self) -> Result<(), StreamError> {
        while self.tls.is_handshaking() {
            self.flush(None).await?;
            if self.tls.is_handshaking() && self.tls.wants_read() {
                self.fill().await?;
            }
        }
        self.flush(None).await?;
        match self.tls.alpn_protocol() {
            Some(PROTOCOL) => Ok(()),
            _ => Err(StreamError::Protocol),
        }
    }

    /// Sends plaintext that fits one record, with a descriptor on its first byte.
    pub(super) async fn send(
        &mut self,
        bytes: &[u8],
        descriptor: Option<&OwnedFd>,
    ) -> Result<(), StreamError> {
        let sent = async {
            self.flush(None).await?;
            self.tls.writer().write_all(bytes)?;
            self.flush(descriptor.map(AsFd::as_fd)).await
        };
        match sent.await {
            Err(error @ StreamError::Socket(_)) => Err(self.last_words().await.unwrap_or(error)),
            other => other,
        }
    }

    /// Why the peer took no more: what it said before it closed, an alert perhaps, may still be here.
    async fn last_words(&mut self) -> Option<StreamError> {
        let heard = async {
            loop {
                match self.fill().await {
                    Ok(()) => {}
                    Err(error) => return error,
                }
            }
        };
        match timeout(LINGER, heard).await {
            Ok(error @ StreamError::Tls(_)) => Some(error),
            _ => None,
        }
    }

    /// Waits for plaintext, at least a byte of it. Dropped while it waits, it loses nothing.
    pub(super) async fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, StreamError> {
        while self.plaintext.is_empty() {
            self.flush(None).await?;
            self.fill().await?;
        }
        let plaintext = Zeroizing::new(self.plaintext.to_vec());
        self.plaintext.zeroize();
        Ok(plaintext)
    }

    /// The descriptor that came with the message just taken.
    pub(super) fn take_descriptor(&mut self) -> Result<OwnedFd, StreamError> {
        self.descriptor.take().ok_or(StreamError::Descriptor)
    }

    /// Ends in order, so that the peer can still read what was said last: an unread byte left behind would turn it into
    /// a reset. Bounded by [`LINGER`].
    pub(super) async fn close(mut self) {
        let farewell = async {
            self.tls.send_close_notify();
            if self.flush(None).await.is_err() {
                return;
            }
            self.socket.shut();
            while let Ok((1.., _)) = self.socket.receive(&mut self.chunk[..]).await {}
        };
        let _ = timeout(LINGER, farewell).await;
    }

    /// Reads once from the socket and opens what came.
    async fn fill(&mut self) -> Result<(), StreamError> {
        let (len, descriptor) = self.socket.receive(&mut self.chunk[..]).await?;
        if let Some(descriptor) = descriptor {
            if self.descriptor.is_some() || !self.expects_descriptors {
                return Err(StreamError::Descriptor);
            }
            self.descriptor = Some(descriptor);
        }
        if len == 0 {
            return Err(StreamError::Closed);
        }
        let mut rest = &self.chunk[..len];
        let mut closed = false;
        while !rest.is_empty() && !closed {
            closed = self.tls.read_tls(&mut rest)? == 0;
            let state = self.tls.process_new_packets()?;
            closed |= state.peer_has_closed();
            let had = self.plaintext.len();
            self.plaintext.resize(had + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut self.plaintext[had..])?;
        }
        if closed && self.plaintext.is_empty() { Err(StreamError::Closed) } else { Ok(()) }
    }

    /// Sends every record there is, `descriptor` with the first byte.
    async fn flush(&mut self, mut descriptor: Option<BorrowedFd<'_>>) -> Result<(), StreamError> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.out)?;
        }
        while !self.out.is_empty() {
            let sent = self.socket.send(&self.out, descriptor.take()).await?;
            self.out.drain(..sent);
        }
        Ok(())
    }
}
