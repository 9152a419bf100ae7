//! What carries connections: the kernel's sockets ([`socket`](crate::socket)), or a port of this process' own
//! ([`stack`](crate::stack)). One a load thread; everything else of the generator is the same above both.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Something happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the connection was opened with.
    pub token: u64,
    /// The peer sends no more, or the connection is lost.
    pub is_hung_up: bool,
}

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// At most; zero: only a look.
    pub time: Duration,
    /// Moments matter: not a millisecond longer.
    pub is_exact: bool,
}

/// TCP, as a load thread needs it. Nothing blocks but [`wait`](Transport::wait).
pub trait Transport {
    /// One connection.
    type Stream;

    /// Starts connecting. An event with `token` follows when there is something to do.
    ///
    /// # Errors
    /// What is refused at once; the text says what to do about it.
    fn open(
        &mut self,
        target: SocketAddr,
        source: Option<IpAddr>,
        token: u64,
    ) -> Result<Self::Stream, String>;

    /// Whether the connection stands by now.
    ///
    /// # Errors
    /// Why it never will.
    fn is_connected(&mut self, stream: &Self::Stream) -> io::Result<bool>;

    /// Reads what has arrived; 0: the peer has ended.
    ///
    /// # Errors
    /// `WouldBlock` where nothing has; else the connection is lost.
    fn read(&mut self, stream: &mut Self::Stream, to: &mut [u8]) -> io::Result<usize>;

    /// Takes bytes to send, some at least.
    ///
    /// # Errors
    /// `WouldBlock` where it takes none now; else the connection is lost.
    fn write(&mut self, stream: &mut Self::Stream, bytes: &[u8]) -> io::Result<usize>;

    /// Ends a connection: what was written is still sent.
    fn close(&mut self, stream: Self::Stream);

    /// Appends what happened; waits for it if nothing has.
    ///
    /// # Errors
    /// When waiting itself fails.
    fn wait(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()>;

    /// Processor time spent on looking for something to do, and finding nothing.
    fn idle(&self) -> Duration;

    /// Lets what was closed come to its end on the wire. A kernel does that by itself.
    fn finish(&mut self) {}
}
