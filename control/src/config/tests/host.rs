//! What a file asks of the host, read here and, of the same file, by `keyferry-nic-config`.

use super::super::distributor;
use super::*;

const DISTRIBUTOR: &str = include_str!("../../../../docs/examples/distributor.toml");

/// What this crate asks for, whatever else is wrong with the file, and what that one does.
fn both(text: &str) -> (Wanted, Wanted) {
    let (file, cores) = (Path::new("/etc/keyferry/a.toml"), (0..64).collect());
    let here = match distributor::is_one(text) {
        true => distributor::parse(text, file, &cores).1,
        false => parse(text, file, &cores, &[]).1,
    };
    (here, Wanted::read(text).expect("a valid file"))
}

#[test]
fn both_readings_of_the_examples_are_one() {
    for text in [EXAMPLE, LEAST, DISTRIBUTOR] {
        let (here, there) = both(text);
        assert!(here.device.is_some());
        assert_eq!(here, there, "{text}");
    }
}

#[test]
fn both_readings_of_every_key_are_one() {
    let edits = [
        ("control = 0", "control = 3"),
        ("workers = [1]", "workers = [2, 5]"),
        ("apps = []", "apps = [6, 7]"),
        ("idle = \"spin\"", "idle = \"sleep\""),
        ("device = \"net_af_packet0,iface=kf0\"", "device = \"3b:00.0\""),
        ("mtu = 1500", "mtu = 9000"),
        ("hugepages = \"auto\"", "hugepages = \"require\""),
        ("memory_mib = 256", "memory_mib = 1024"),
        ("driver = \"shm\"", "driver = \"verbs\"\naddress = \"mlx5_0:1\""),
        ("driver = \"shm\"", "driver = \"verbs\"\naddress = \"10.0.0.1\""),
        (
            "listen = [\"unix:/run/keyferry/a.sock\"]",
            "listen = [\"10.0.0.1:7411\", \"127.0.0.1:7411\", \"[::]:7411\"]",
        ),
        ("address = \"unix:/run/keyferry/b.sock\"", "address = \"[2001:db8::7]:7411\""),
    ];
    let (plain, _) = both(EXAMPLE);
    for (from, to) in edits {
        assert!(EXAMPLE.contains(from), "{from}");
        let (here, there) = both(&EXAMPLE.replacen(from, to, 1));
        assert_eq!(here, there, "{to}");
        assert_ne!(here, plain, "{to} asks for something");
    }
}
