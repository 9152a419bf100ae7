//! Linux's end: a socket that does not block, driven by an [`App`].
//!
//! In: readiness, the time. Out: bytes through the kernel's TCP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use keyferry_time::Time;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::app::{App, fill};
use super::plan::{End, Plan};

enum Socket {
    Listens(TcpListener),
    Connects(TcpStream),
    Is(TcpStream),
    Gone,
}

pub struct Linux {
    socket: Socket,
    pub app: App,
    /// The kernel took all that it was offered last.
    blocked: bool,
}

/// A socket bound to `local`, with the plan's buffers.
fn socket(plan: &Plan, congestion: &str, local: SocketAddr) -> io::Result<OwnedFd> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = net::socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(bytes) = plan.receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    if let Some(bytes) = plan.send_buffer {
        sockopt::set_socket_send_buffer_size(&socket, bytes)?;
    }
    sockopt::set_tcp_nodelay(&socket, plan.no_delay)?;
    sockopt::set_tcp_congestion(&socket, congestion)?;
    net::bind(&socket, &local)?;
    Ok(socket)
}

fn register(registry: &Registry, socket: &impl AsFd, token: usize) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    registry.register(&mut SourceFd(&descriptor), Token(token), Interest::READABLE | Interest::WRITABLE)
}

impl Linux {
    /// Begins a connection, or waits for one.
    pub fn new(
        plan: &Plan,
        app: App,
        congestion: &str,
        local: SocketAddr,
        ours: SocketAddr,
        registry: &Registry,
        token: usize,
    ) -> io::Result<Linux> {
        let socket = socket(plan, congestion, local)?;
        register(registry, &socket, token)?;
        let socket = if plan.linux_connects {
            match net::connect(&socket, &ours) {
                Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Socket::Connects(socket.into()),
                Err(error) => return Err(error.into()),
            }
        } else {
            net::listen(&socket, 4)?;
            Socket::Listens(socket.into())
        };
        Ok(Linux { socket, app, blocked: false })
    }

    /// Whether it has closed, and nothing is to be read from it.
    pub fn is_gone(&self) -> bool {
        matches!(self.socket, Socket::Gone)
    }

    /// Does what can be done. `writable`: the kernel says that it takes more, or may.
    pub fn step(
        &mut self,
        now: Time,
        writable: bool,
        registry: &Registry,
        token: usize,
    ) -> Result<(), String> {
        self.blocked &= !writable;
        self.open(writable, registry, token).map_err(|error| format!("Linux connects: {error}"))?;
        let Socket::Is(stream) = &mut self.socket else { return Ok(()) };
        let app = &mut self.app;
        let mut buffer = vec![0; 65_536];
        loop {
            let mut moved = false;
            let most = app.may_send().min(buffer.len());
            if most > 0 && !self.blocked {
                fill(app.salt, app.sent, &mut buffer[..most]);
                match stream.write(&buffer[..most]) {
                    Ok(bytes) => (app.sent, moved) = (app.sent + bytes as u64, true),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                    Err(error) => return Err(format!("Linux writes byte {}: {error}", app.sent)),
                }
            }
            let most = if app.eof { 0 } else { app.may_read(now).min(buffer.len()) };
            if most > 0 {
                match stream.read(&mut buffer[..most]) {
                    Ok(0) => app.ends().map_err(|error| format!("Linux reads: {error}"))?,
                    Ok(bytes) => {
                        app.read(now, &buffer[..bytes]).map_err(|error| format!("Linux reads: {error}"))?;
                        moved = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(format!("Linux reads byte {}: {error}", app.got)),
                }
            }
            if !moved {
                break;
            }
        }
        if app.is_to_end() {
            app.ended = true;
            if app.side.end == End::Sent {
                stream.shutdown(Shutdown::Write).map_err(|error| format!("Linux half-closes: {error}"))?;
            }
        }
        if app.ended && (app.side.end != End::Sent || app.eof) {
            self.socket = Socket::Gone;
        }
        Ok(())
    }

    fn open(&mut self, writable: bool, registry: &Registry, token: usize) -> io::Result<()> {
        match std::mem::replace(&mut self.socket, Socket::Gone) {
            Socket::Listens(listener) => match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    registry.deregister(&mut SourceFd(&listener.as_raw_fd()))?;
                    register(registry, &stream, token)?;
                    self.socket = Socket::Is(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.socket = Socket::Listens(listener)
                }
                Err(error) => return Err(error),
            },
            Socket::Connects(stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                let open = writable && stream.peer_addr().is_ok();
                self.socket = if open { Socket::Is(stream) } else { Socket::Connects(stream) };
            }
            other => self.socket = other,
        }
        Ok(())
    }
}
