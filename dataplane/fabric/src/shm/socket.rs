//! Bytes and descriptors over a Unix stream socket until a deadline. In: what to send, how much to expect. Out:
//! exactly that, or why not. Control thread; the only calls of this crate that block.

use std::io::IoSlice;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::ShmError;

/// Without SIGPIPE, and never waiting inside the call: [`Socket::wait`] does, and knows the deadline.
const SEND: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
const RECEIVE: RecvFlags = RecvFlags::DONTWAIT.union(RecvFlags::CMSG_CLOEXEC);

pub(super) struct Socket<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl<'a> Socket<'a> {
    pub(super) fn new(stream: &'a UnixStream, until: Instant) -> Socket<'a> {
        Socket { stream, until }
    }

    pub(super) fn send(&self, mut bytes: &[u8]) -> Result<(), ShmError> {
        while !bytes.is_empty() {
            let sent = self.retry(PollFlags::OUT, || rustix::net::send(self.stream, bytes, SEND))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Fills `bytes`. Descriptors the peer sends along are closed by the kernel.
    pub(super) fn receive(&self, bytes: &mut [u8]) -> Result<(), ShmError> {
        let mut filled = 0;
        while filled < bytes.len() {
            let rest = &mut bytes[filled..];
            let (received, _) =
                self.retry(PollFlags::IN, || rustix::net::recv(self.stream, &mut *rest, RECEIVE))?;
            if received == 0 {
                return Err(ShmError::Closed);
            }
            filled += received;
        }
        Ok(())
    }

    /// Sends `bytes` (never empty) with one descriptor on the first of them.
    pub(super) fn send_with(&self, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<(), ShmError> {
        let fds = [fd];
        let sent = self.retry(PollFlags::OUT, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let pushed = control.push(SendAncillaryMessage::ScmRights(&fds));
            debug_assert!(pushed, "the space is for one descriptor");
            rustix::net::sendmsg(self.stream, &[IoSlice::new(bytes)], &mut control, SEND)
        })?;
        self.send(&bytes[sent..])
    }

    /// Fills `bytes` (never empty) and takes the one descriptor that must come with the first of them.
    pub(super) fn receive_with(&self, bytes: &mut [u8]) -> Result<OwnedFd, ShmError> {
        let (received, fd) = self.retry(PollFlags::IN, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let message =
                rustix::net::recvmsg(self.stream, &mut [IoSliceMut::new(bytes)], &mut control, RECEIVE)?;
            // Those not taken are closed when the iterator is dropped.
            let mut fds = control.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            });
            let fd = fds.next().and_then(|mut fds| fds.next());
            Ok((message.bytes, fd))
        })?;
        if received == 0 {
            return Err(ShmError::Closed);
        }
        let fd = fd.ok_or(ShmError::Descriptor)?;
        self.receive(&mut bytes[received..])?;
        Ok(fd)
    }

    /// Calls until it neither would block nor was interrupted, or the deadline has passed.
    fn retry<T>(
        &self,
        ready: PollFlags,
        mut call: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<T, ShmError> {
        loop {
            // Looked at before every call: a peer that sends byte by byte gets no more time than one that is silent.
            let left = self.until.checked_duration_since(Instant::now()).ok_or(ShmError::Timeout)?;
            match call() {
                Ok(value) => return Ok(value),
                Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ShmError::Closed),
                Err(error) => return Err(ShmError::Socket(error)),
            }
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
            match rustix::event::poll(
                &mut [PollFd::from_borrowed_fd(self.stream.as_fd(), ready)],
                Some(&timeout),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(ShmError::Socket(error)),
            }
        }
    }
}
