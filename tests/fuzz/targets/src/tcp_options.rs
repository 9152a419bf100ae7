//! TCP options of any content, on the segments that open a connection and on those that follow.
//!
//! Input: the host; options of the SYN; then segments, each with its options, while the application writes.

use std::time::Duration;

use crate::input::Input;
use crate::net::{ACK, FIN, Net, PEERS, Peer, RST, SYN, Tcpish};
use crate::{Seed, Target};

/// Segments of one input at most.
const SEGMENTS_MAX: usize = 16;

pub(crate) static TARGET: Target = Target { name: "tcp_options", heap_bytes_max: 1 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut net = Net::new();
    let peer = Peer(input.below(PEERS));
    let window = input.u16();
    let options = options(&mut input);
    net.segment(peer, &Tcpish { flags: SYN, window, options, ..Tcpish::default() });
    net.segment(peer, &Tcpish { flags: ACK, seq: 1, window, ..Tcpish::default() });
    net.write(0, 1 + usize::from(input.u16()) % 4000);
    let mut seq = 1;
    for _ in 0..SEGMENTS_MAX {
        if input.is_empty() {
            break;
        }
        let choice = input.u8();
        let options = self::options(&mut input);
        let payload = usize::from(choice & 0x3f) * 16;
        let flags = match choice >> 6 {
            0 => SYN | ACK,
            1 if payload == 0 => FIN | ACK,
            2 if payload == 0 => RST,
            _ => ACK,
        };
        let window = u16::from(input.u8()) << 6;
        net.segment(peer, &Tcpish { flags, seq, ack: 0, window, options, payload });
        if flags == ACK {
            seq += payload as u32;
        }
        net.read(0, usize::MAX);
        net.wait(Duration::from_millis(u64::from(choice)));
    }
    net.wind_up();
}

fn options<'a>(input: &mut Input<'a>) -> &'a [u8] {
    let len = input.below(41);
    input.take(len)
}

fn seeds() -> Vec<Seed> {
    // Maximum segment size, SACK permitted, timestamps, window scale: what Linux sends.
    let linux: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    // A SACK block behind a timestamp.
    let sack: [u8; 24] = [1, 1, 8, 10, 0, 0, 0, 2, 0, 0, 0, 1, 1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 99];
    let input = |peer: u8, syn: &[u8], later: &[u8]| {
        let mut bytes = vec![peer, 0, 16, syn.len() as u8];
        bytes.extend(syn);
        bytes.extend([0, 8]);
        for choice in [0xc4, 0xc0, 0x40] {
            bytes.push(choice);
            bytes.push(later.len() as u8);
            bytes.extend(later);
            bytes.push(64);
        }
        bytes
    };
    vec![
        ("linux".into(), input(0, &linux, &sack)),
        ("six".into(), input(1, &linux, &sack)),
        ("none".into(), input(0, &[], &[])),
        ("small".into(), input(0, &[2, 4, 0, 48], &[])),
        ("zero".into(), input(1, &[2, 4, 0, 0, 3, 3, 255], &[])),
        ("cut".into(), input(0, &[1, 1, 1, 2], &[5])),
        ("long".into(), input(0, &[254, 40], &[8, 0])),
        ("end".into(), input(1, &[0, 2, 4, 0, 1], &[0, 0, 0, 0])),
    ]
}
