//! How two nodes of one machine become connected. In: a connected Unix stream socket and this end's hello. Out: the
//! peer's hello and one queue pair for each pair of workers. Control thread, blocking, bounded by a deadline.
//!
//! Both ends do the same: send a hello, read one, then for each pair in turn send their own region and take the
//! peer's, and last say that all is mapped. One at a time each way, because more would fill the socket's buffers
//! at both ends and neither would read.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::hello::{BODY_BYTES_MAX, Hello, HelloError, PREFIX_BYTES};
use super::layout::Layout;
use super::queue_pair::QueuePair;
use super::region::Region;
use super::socket::Socket;
use super::{Exchange, Pair, ShmError};
use crate::{Fence, Limits};

/// Said by an end that has mapped everything.
const MAPPED: u8 = 0xA5;

/// Connects to the peer at the other end of `stream`, which calls this as well; `deadline` is for the whole of it.
///
/// Pair `k`, for `k` from 0 to the larger number of workers, joins worker `k % workers` here with worker
/// `k % workers` there. Each limit is the smaller of both offers. A pair whose other end is dropped, as when the
/// exchange fails there in its last step, is in error here. The stream says nothing more afterwards: keep it to
/// learn of the peer's end.
pub fn exchange(stream: &UnixStream, local: &Hello, deadline: Duration) -> Result<Exchange, ShmError> {
    local.check()?;
    local.limits.check()?;
    let until = Instant::now().checked_add(deadline).ok_or(ShmError::Timeout)?;
    let socket = Socket::new(stream, until);

    socket.send(&local.encode())?;
    let peer = receive_hello(&socket, local.version)?;
    let limits = local.limits.agree(peer.limits);
    limits.check()?;

    let count = local.workers.max(peer.workers);
    let mut pairs = Vec::with_capacity(usize::from(count));
    for index in 0..count {
        let queue_pair = exchange_pair(&socket, index, limits)?;
        let fence: Arc<dyn Fence> = queue_pair.fence();
        pairs.push(Pair {
            local_worker: index % local.workers,
            peer_worker: index % peer.workers,
            index,
            queue_pair,
            fence,
        });
    }

    socket.send(&[MAPPED])?;
    let mut mapped = [0];
    socket.receive(&mut mapped)?;
    if mapped != [MAPPED] {
        return Err(ShmError::Sequence);
    }
    Ok(Exchange { peer, pairs })
}

fn receive_hello(socket: &Socket<'_>, ours: u32) -> Result<Hello, ShmError> {
    let mut prefix = [0; PREFIX_BYTES];
    socket.receive(&mut prefix)?;
    let (theirs, len) = Hello::decode_prefix(&prefix)?;
    if theirs != ours {
        return Err(ShmError::Version { ours, theirs });
    }
    let mut body = [0; BODY_BYTES_MAX];
    let body = body.get_mut(..len as usize).ok_or(HelloError::Length)?;
    socket.receive(body)?;
    Ok(Hello::decode_body(theirs, body)?)
}

fn exchange_pair(socket: &Socket<'_>, index: u16, limits: Limits) -> Result<QueuePair, ShmError> {
    let bytes = Layout::new(&limits).bytes;
    let (fd, inbound) = Region::create(bytes)?;
    socket.send_with(&index.to_le_bytes(), fd.as_fd())?;
    let mut theirs = [0; 2];
    let fd = socket.receive_with(&mut theirs)?;
    if u16::from_le_bytes(theirs) != index {
        return Err(ShmError::Sequence);
    }
    Ok(QueuePair::new(limits, inbound, Region::map(&fd, bytes)?))
}
