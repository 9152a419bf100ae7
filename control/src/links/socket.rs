//! The sockets of links: where a peer is, bytes to and from it, and on a Unix socket descriptors beside them. In:
//! addresses as the configuration has them. Out: bytes and descriptors in order. Control thread, never blocking it.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown,
};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Where a node listens for its peers, or is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:PATH`, between nodes of one machine.
    Unix(PathBuf),
}

impl Address {
    /// The IP address of it, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Address::Tcp(address) => Some(address.ip()),
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that waits for peers.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens; a Unix socket left behind by a node that is gone is replaced. Within the control thread's runtime.
    pub(super) fn bind(address: &Address) -> anyhow::Result<Listener> {
        match address {
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address).map_err(|error| {
                    anyhow::anyhow!(
                        "{address} cannot be listened on ({error}): write another [cluster] listen, or stop who uses it"
                    )
                })?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(TcpListener::from_std(listener)?))
            }
            Address::Unix(path) => {
                let listener = crate::socket::listen(path)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(UnixListener::from_std(listener)?))
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, String)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // Without the port, which tells nothing and is another each time.
                Ok((Socket::Tcp(stream), from.ip().to_string()))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), "a process of this machine".to_owned()))
            }
        }
    }
}

/// A connected socket.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    pub(super) async fn connect(address: &Address) -> io::Result<Socket> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
        }
    }

    /// Whether descriptors can be passed.
    pub(super) fn passes_descriptors(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }

    /// Sends some of `bytes`, with a descriptor on the first of them.
    pub(super) async fn send(&self, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
        let send = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if let Some(descriptor) = &descriptor {
                let pushed = control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(descriptor)));
                assert!(pushed, "the space is for one descriptor");
            }
            Ok(rustix::net::sendmsg(self.fd(), &[IoSlice::new(bytes)], &mut control, flags)?)
        };
        match self {
            Socket::Tcp(stream) => stream.async_io(Interest::WRITABLE, send).await,
            Socket::Unix(stream) => stream.async_io(Interest::WRITABLE, send).await,
        }
    }

    /// Receives bytes, 0 at the end, and the descriptor that came with the last of them. The kernel ends a read behind
    /// a message that carries descriptors, so two of them never come at once.
    ///
    /// # Errors
    /// The connection failed, or more than one descriptor came; the kernel has closed the others.
    pub(super) async fn receive(&self, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
        let receive = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);
            let message =
                rustix::net::recvmsg(self.fd(), &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
            let (mut descriptor, mut more) = (None, message.flags.contains(ReturnFlags::CTRUNC));
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    // The space is aligned, and may take more than one; those before the last are closed as they are replaced.
                    descriptors.for_each(|one| more |= descriptor.replace(one).is_some());
                }
            }
            if more {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "more descriptors than one at a time",
                ));
            }
            Ok((message.bytes, descriptor))
        };
        match self {
            Socket::Tcp(stream) => stream.async_io(Interest::READABLE, receive).await,
            Socket::Unix(stream) => stream.async_io(Interest::READABLE, receive).await,
        }
    }

    /// Nothing more will be sent.
    pub(super) fn shut(&self) {
        // Refused when the connection has failed already.
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_told_with_what_to_do() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(other.local_addr().unwrap());
        let said = Listener::bind(&address).err().unwrap().to_string();
        assert!(said.starts_with(&format!("{address} cannot be listened on (")), "{said}");
        assert!(said.ends_with("): write another [cluster] listen, or stop who uses it"), "{said}");
    }
}
