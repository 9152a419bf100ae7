//! Frames of any content at the filters of captures; and texts of any content as filters.
//!
//! Input: a byte that says whether a frame follows, and how it begins, or a text.

use keyferry_filter::{Filter, Frame, Network};

use crate::input::Input;
use crate::{Seed, Target};

pub(crate) static TARGET: Target =
    Target { name: "capture_filter", heap_bytes_max: 256 << 10, execute, seeds };

/// Filters that have to agree with what was read of the frame.
const KINDS: [&str; 7] = ["tcp", "udp", "icmp", "icmp6", "arp", "ip", "ip6"];

/// How frames begin, so that a fuzzer need not find that out.
const BEGINS: [&[u8]; 5] =
    [&[8, 0, 0x45], &[0x86, 0xdd, 0x60], &[8, 6, 0, 1, 8, 0, 6, 4], &[0x81, 0, 0, 7, 8, 0, 0x46], &[]];

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = usize::from(input.u8());
    match BEGINS.get(choice) {
        Some(begin) => frame(&[&[2; 12][..], begin, input.rest()].concat()),
        None => text(&String::from_utf8_lossy(input.rest())),
    }
}

fn frame(bytes: &[u8]) {
    let frame = Frame::read(bytes);
    let is = |text: &str| text.parse::<Filter>().expect("a filter").wants(bytes);
    for kind in KINDS {
        assert_ne!(is(kind), is(&format!("not {kind}")), "{kind}");
    }
    let networks = [Network::Ip, Network::Ip6, Network::Arp].map(|it| frame.network == Some(it));
    assert_eq!(["ip", "ip6", "arp"].map(is), networks, "one of them, or none");
    assert!(!is("tcp or udp or icmp or icmp6") || is("ip or ip6"), "transport is carried by IP");
    assert!(is("ip and icmp") == is("icmp") && is("ip6 and icmp6") == is("icmp6"));
    if let Some((source, destination)) = frame.ends {
        assert!(is(&format!("src {source} and dst {destination} and host {source} and host {destination}")));
        let all = if source.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
        assert!(is(&format!("src net {all} and dst net {all}")));
    }
    if let Some((source, destination)) = frame.ports {
        assert!(is("tcp or udp"), "only these have ports");
        assert!(is(&format!("src port {source} and dst port {destination} and port {destination}")));
    }
    let cut = Frame::read(&bytes[..bytes.len() / 2]);
    assert!(cut.ends.is_none() || cut.ends == frame.ends, "what is cut off is not seen");
    assert!(cut.ports.is_none() || cut.ports == frame.ports, "what is cut off is not seen");
}

fn text(text: &str) {
    let Ok(filter) = text.parse::<Filter>() else { return };
    let printed = filter.to_string();
    // Printed it may be longer than what is read: "tcp port 1" has an "and".
    if printed.len() <= keyferry_filter::TEXT_BYTES_MAX {
        assert_eq!(printed.parse::<Filter>().as_ref(), Ok(&filter), "{printed}");
    }
}

fn seeds() -> Vec<Seed> {
    let framed = |choice: u8, rest: &[u8]| [&[choice][..], rest].concat();
    let four = [0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 1, 187, 156, 64];
    let mut six = vec![0, 0, 0, 0, 8, 17, 64];
    six.extend([0xfd; 32]);
    six.extend([0, 53, 156, 64]);
    let mut extended = vec![0, 0, 0, 0, 16, 0, 64];
    extended.extend([0xfd; 32]);
    extended.extend([44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 1, 1, 187, 156, 64]);
    let arp = [0, 1, 2, 2, 2, 2, 2, 2, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2];
    let mut options = vec![0, 0, 44, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    options.extend([1, 1, 1, 1, 0, 53, 156, 64]);
    let filter = b"tcp port 443 and not (src net 10.0.0.0/8 or host ::1 or arp)";
    vec![
        ("four".into(), framed(0, &four)),
        ("six".into(), framed(1, &six)),
        ("extended".into(), framed(1, &extended)),
        ("arp".into(), framed(2, &arp)),
        ("tagged".into(), framed(3, &options)),
        ("anything".into(), framed(4, &[0x88, 0xcc, 2, 7])),
        ("text".into(), framed(5, filter)),
        ("misspelled".into(), framed(5, b"tpc prot 443 adn host x")),
    ]
}
