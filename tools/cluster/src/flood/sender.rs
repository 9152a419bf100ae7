//! Sends a flood at a rate. In: what to send, where, how fast. Out: packets on a raw socket, in batches; how many there
//! were. A thread of its own in the clients' namespace, until it is stopped.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, ipproto, sendmmsg,
};

use super::packets::{self, Kind, PACKET_BYTES_MAX};
use crate::Netns;

/// Packets of one system call: a burst as a port has them.
const BATCH: usize = 32;
/// How far behind its rate a flood may be and still catch up: what a machine could not send in time it never does.
const BEHIND_MAX: Duration = Duration::from_millis(10);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Packets of this kind.
    pub kind: Kind,
    /// From so many addresses, at most [`SOURCES_MAX`](packets::SOURCES_MAX).
    pub sources: u32,
    /// To this address and port.
    pub service: SocketAddrV4,
    /// Packets a second.
    pub rate: f64,
}

/// A flood that is under way.
pub struct Sending {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<anyhow::Result<Sent>>>,
}

/// What became of a flood.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Packets the kernel took, or requests that were answered.
    pub count: u64,
    /// Requests that were not: refused, or cut off.
    pub failed: u64,
    /// For how long.
    pub time: Duration,
}

impl Sent {
    /// So many a second.
    pub fn per_s(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl Flood {
    /// Begins, with packet `first`.
    pub fn start(self, clients: &Netns, first: u64) -> Sending {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (clients, stopping, counted) = (clients.clone(), Arc::clone(&stop), Arc::clone(&sent));
        let thread =
            std::thread::spawn(move || clients.enter(move || send(&self, first, &stopping, &counted)));
        Sending { stop, sent, thread: Some(thread) }
    }
}

impl Sending {
    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// It could not be sent: no right to raw sockets, no route to the service.
    ///
    /// # Panics
    /// If its thread has.
    pub fn stop(mut self) -> anyhow::Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("a flood does not panic")
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send(flood: &Flood, first: u64, stop: &AtomicBool, sent: &AtomicU64) -> anyhow::Result<Sent> {
    let socket = raw_socket(*flood.service.ip())?;
    let began = Instant::now();
    // From here on the rate is counted: later than `began` where the machine could not keep up.
    let (mut from, mut since) = (began, 0u64);
    let mut packets = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = from + Duration::from_secs_f64(since as f64 / flood.rate);
        let now = Instant::now();
        if now < due {
            std::thread::sleep(due - now);
        } else if now - due > BEHIND_MAX {
            (from, since) = (now, 0);
        }
        let taken = send_batch(&socket, flood, first + packets)?;
        packets += taken;
        since += BATCH as u64;
        sent.store(packets, Ordering::Relaxed);
    }
    Ok(Sent { count: packets, failed: 0, time: began.elapsed() })
}

/// A socket whose packets bring their own headers, towards `service` by the namespace's routes.
fn raw_socket(service: Ipv4Addr) -> anyhow::Result<OwnedFd> {
    let raw = Some(ipproto::RAW);
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, raw);
    let socket = socket.context("no raw socket: run it as root")?;
    rustix::net::connect(&socket, &SocketAddrV4::new(service, 0)).context("no route to the service")?;
    Ok(socket)
}

/// Sends packets from number `first` on, and answers how many went.
fn send_batch(socket: &OwnedFd, flood: &Flood, first: u64) -> anyhow::Result<u64> {
    let mut bytes = [[0; PACKET_BYTES_MAX]; BATCH];
    let mut lengths = [0; BATCH];
    for ((packet, len), number) in bytes.iter_mut().zip(&mut lengths).zip(first..) {
        *len = packets::write(flood.kind, number, flood.sources, flood.service, packet);
    }
    let slices: [[IoSlice<'_>; 1]; BATCH] =
        std::array::from_fn(|at| [IoSlice::new(&bytes[at][..lengths[at]])]);
    let mut ancillary: [SendAncillaryBuffer<'_, '_, '_>; BATCH] = Default::default();
    let mut messages =
        slices.iter().zip(&mut ancillary).map(|(slice, ancillary)| MMsgHdr::new(slice, ancillary));
    let mut messages: [MMsgHdr<'_>; BATCH] =
        std::array::from_fn(|_| messages.next().expect("a message for each packet"));
    match sendmmsg(socket, &mut messages, SendFlags::empty()) {
        Ok(taken) => Ok(taken as u64),
        // Queues of the kernel are full: these packets are lost, as on any wire.
        Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error).context("a flood's packet cannot be sent"),
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    #[test]
    fn without_the_right_to_raw_sockets_it_says_what_to_do() {
        // Of a thread, which is over then: others keep theirs.
        let refused = std::thread::spawn(|| {
            let mut mine = capabilities(None).expect("known");
            mine.effective.remove(CapabilitySet::NET_RAW);
            set_capabilities(None, mine).expect("given up");
            raw_socket(Ipv4Addr::LOCALHOST).expect_err("it has no right to it").to_string()
        });
        assert_eq!(refused.join().expect("a sentence"), "no raw socket: run it as root");
    }
}
