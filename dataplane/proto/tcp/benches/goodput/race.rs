//! Flows at the same time, each from its sender through its own path to a receiver of Linux's.
//!
//! In: flows. Out: what each carried. A thread for each end of Linux's, one for the relay and our ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyferry_tcp::Algorithm;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::path::Link;
use crate::relay::{self, Ground, Links};

/// Whose TCP sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    Linux,
    Ours,
}

/// One sender, one path.
#[derive(Clone, Debug)]
pub struct Flow {
    pub stack: Stack,
    pub algorithm: Algorithm,
    pub link: Link,
    pub seed: u64,
}

/// Addresses of Linux's senders, of ours, of the receivers.
pub const LINUX: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);

/// How often an end that waits looks at the clock.
const LOOK: Duration = Duration::from_millis(50);

pub struct Outcome {
    pub megabits: Vec<f64>,
    /// The longest time that the relay was held up.
    pub late: Duration,
}

/// Runs them. The calling thread lives in the receivers' namespace.
pub fn run(ground: &Ground, links: &mut Links, flows: &[Flow]) -> Outcome {
    let first = ground.take_ports(flows.len());
    let left = AtomicUsize::new(flows.len());
    let listeners: Vec<TcpListener> = (first..)
        .take(flows.len())
        .map(|port| TcpListener::bind((RECEIVER, port)).expect("a port nobody has"))
        .collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receivers: Vec<_> = listeners
            .iter()
            .zip(flows)
            .map(|(listener, flow)| {
                let left = &left;
                scope.spawn(move || {
                    let megabits = receive(listener, &flow.link, start);
                    left.fetch_sub(1, Ordering::Relaxed);
                    megabits
                })
            })
            .collect();
        for (port, flow) in (first..).zip(flows) {
            let left = &left;
            if flow.stack == Stack::Linux {
                scope.spawn(move || {
                    ground.enter_senders();
                    send(SocketAddr::from((RECEIVER, port)), flow, left);
                });
            }
        }
        let late = relay::carry(links, flows, first, start, &left);
        let megabits = receivers.into_iter().map(|receiver| receiver.join().expect("a receiver")).collect();
        Outcome { megabits, late }
    })
}

/// Reads until the path's bytes or its time are over. Answers megabits a second.
fn receive(listener: &TcpListener, link: &Link, start: Instant) -> f64 {
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(LOOK)).expect("a time-out");
    let (mut got, mut buffer) = (0u64, vec![0; 1 << 18]);
    while got < link.bytes && start.elapsed() < link.time {
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the sender has ended after {got} bytes"),
            Ok(bytes) => got += bytes as u64,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("after {got} bytes: {error}"),
        }
    }
    got as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()
}

/// Writes until all receivers have had enough, as the others' senders are there until then.
fn send(to: SocketAddr, flow: &Flow, left: &AtomicUsize) {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let name = if flow.algorithm == Algorithm::Bbr { "bbr" } else { "cubic" };
    sockopt::set_tcp_congestion(&socket, name)
        .unwrap_or_else(|error| panic!("this kernel has no {name}: {error}"));
    // It ends at once, whatever is left to send.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).expect("an option");
    rustix::net::connect(&socket, &to).expect("a connection");
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(LOOK)).expect("a time-out");
    let bytes = vec![0x5a; 16_384];
    while left.load(Ordering::Relaxed) > 0 {
        match stream.write(&bytes) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
