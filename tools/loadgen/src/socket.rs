//! Kernel sockets: connections started without waiting and watched by epoll, room for many of them, and what a person can
//! do about each error. Used by load threads.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::Timespec;

use crate::transport::{Event, Transport, Wait};

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Not to wait at all.
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Open files a run needs beside its connections.
const OTHER_FILES: u64 = 64;

/// The kernel's sockets of one thread.
pub struct Sockets {
    epoll: OwnedFd,
    /// In looks that found nothing.
    idle: Duration,
}

impl Sockets {
    /// None yet.
    ///
    /// # Errors
    /// When the kernel has no poll set left.
    pub fn new() -> io::Result<Sockets> {
        Ok(Sockets { epoll: epoll::create(CreateFlags::CLOEXEC)?, idle: Duration::ZERO })
    }
}

impl Transport for Sockets {
    type Stream = TcpStream;

    fn open(&mut self, target: SocketAddr, source: Option<IpAddr>, token: u64) -> Result<TcpStream, String> {
        let stream = open(target, source)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &stream, EventData::new_u64(token), flags)
            .map_err(|error| explain(error.into(), target, source))?;
        Ok(stream)
    }

    fn is_connected(&mut self, stream: &TcpStream) -> io::Result<bool> {
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, stream: &mut TcpStream, to: &mut [u8]) -> io::Result<usize> {
        stream.read(to)
    }

    fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        stream.write(bytes)
    }

    fn close(&mut self, stream: TcpStream) {
        drop(stream);
    }

    fn wait(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        let exactly = timespec(wait.time);
        let mut room = [MaybeUninit::uninit(); EVENTS];
        let wait_here = if wait.is_exact { NOW } else { exactly };
        let asked = wait.time.is_zero().then(Instant::now);
        let ready = match epoll::wait(&self.epoll, &mut room, Some(&wait_here)) {
            Ok((ready, _)) => &*ready,
            Err(Errno::INTR) => &[],
            Err(error) => return Err(error.into()),
        };
        if wait.is_exact && ready.is_empty() && !wait.time.is_zero() {
            // epoll rounds up to milliseconds (epoll_pwait2 does not, but is not everywhere); poll waits exactly, and
            // what it saw is fetched the next time.
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&exactly)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let (Some(asked), true) = (asked, ready.is_empty()) {
            self.idle += asked.elapsed();
        }
        let over = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        events.extend(ready.iter().map(|event| {
            let (data, flags) = (event.data, event.flags);
            Event { token: data.u64(), is_hung_up: flags.intersects(over) }
        }));
        Ok(())
    }

    fn idle(&self) -> Duration {
        self.idle
    }
}

fn timespec(time: Duration) -> Timespec {
    // Waits are shorter than a second: between two ticks.
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

/// Starts connecting to `target`, from `source` if there is one.
///
/// # Errors
/// What the kernel refuses at once; the text says what to do about it.
fn open(target: SocketAddr, source: Option<IpAddr>) -> Result<TcpStream, String> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(family, SocketType::STREAM, flags, None)
        .map_err(|error| explain(error.into(), target, source))?;
    // A request is written whole, so waiting for more to send would only add latency.
    sockopt::set_tcp_nodelay(&stream, true).map_err(|error| explain(error.into(), target, source))?;
    if let Some(source) = source {
        // Ports of connections closed a moment ago may be used again towards the same server.
        let bound = sockopt::set_socket_reuseaddr(&stream, true)
            .and_then(|()| bind(&stream, &SocketAddr::new(source, 0)));
        bound.map_err(|error| match error {
            Errno::ADDRNOTAVAIL => {
                format!("{source} is no address of this host; add it: ip address add {source}/32 dev DEVICE")
            }
            _ => explain(error.into(), target, Some(source)),
        })?;
    }
    match connect(&stream, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(stream)),
        Err(error) => Err(explain(error.into(), target, source)),
    }
}

/// An error of connecting, with what to do about it.
pub fn explain(error: io::Error, target: SocketAddr, source: Option<IpAddr>) -> String {
    let remedy = match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED) => format!("is a server listening on {target}?"),
        Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => format!(
            "no free port towards {target}{}: give more addresses by --source, or widen \
             sysctl net.ipv4.ip_local_port_range",
            source.map(|source| format!(" from {source}")).unwrap_or_default()
        ),
        Some(Errno::MFILE) => "raise the limit of this process: ulimit -n NUMBER".to_owned(),
        Some(Errno::NFILE) => "raise the limit of this machine: sysctl fs.file-max".to_owned(),
        Some(Errno::HOSTUNREACH | Errno::NETUNREACH) => {
            format!("check the route: ip route get {}", target.ip())
        }
        Some(Errno::TIMEDOUT) => format!("{target} does not answer; is it filtered, or overloaded?"),
        Some(Errno::INVAL | Errno::AFNOSUPPORT) => {
            format!("{target} and the source address are of different kinds")
        }
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}

/// Makes room for `connections` open sockets.
///
/// # Errors
/// When the hard limit of open files is lower.
pub fn make_room(connections: usize) -> anyhow::Result<()> {
    let needed = connections as u64 + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    // Root may raise the hard limit too, up to the machine's own.
    let maximum = limit.maximum.map(|maximum| maximum.max(needed));
    let raised = Rlimit { current: Some(needed), maximum };
    anyhow::ensure!(
        setrlimit(Resource::Nofile, raised).is_ok(),
        "{connections} connections need {needed} open files, and the limit is {}; as root: ulimit -n {needed}",
        limit.maximum.unwrap_or(u64::MAX)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let target = "127.0.0.1:9".parse().unwrap();
        for (errno, remedy) in [
            (Errno::CONNREFUSED, "listening on 127.0.0.1:9"),
            (Errno::ADDRNOTAVAIL, "--source"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::NETUNREACH, "ip route get 127.0.0.1"),
        ] {
            let text = explain(errno.into(), target, None);
            assert!(text.contains(remedy), "{text}");
        }
        // 192.0.2.0/24 is for documentation (RFC 5737): hardly a host has one of it, and none all.
        let mut documentation = (1..255).map(|last| IpAddr::from([192, 0, 2, last]));
        let absent = documentation.find(|&ip| std::net::UdpSocket::bind((ip, 0)).is_err()).unwrap();
        let text = open(target, Some(absent)).unwrap_err();
        assert!(text.contains(&format!("ip address add {absent}/32")), "{text}");
    }

    #[test]
    fn more_files_than_the_hard_limit_are_told() {
        if getrlimit(Resource::Nofile).maximum.is_some() {
            let text = make_room(usize::MAX >> 8).unwrap_err().to_string();
            assert!(text.contains("ulimit -n"), "{text}");
        }
        make_room(1).unwrap();
    }
}
