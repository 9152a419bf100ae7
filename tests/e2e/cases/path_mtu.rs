//! A router between a client and A takes smaller packets than both ends: it says so, or says nothing.

use std::time::Duration;

use keyferry_cluster::{Guard, Netns};

use crate::client::{Curl, assert_is_pattern, output_of};
use crate::harness::{A4, A6, Cluster, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(a_router_says_so, a_router_says_nothing, the_path_gets_wider);

/// The router's way to the client beyond it, and back.
const BEYOND: [&str; 2] = ["10.77.9.2", "fd77:9::2"];
const ROUTER: [&str; 2] = ["10.77.9.1", "fd77:9::1"];
/// What it takes of each family.
const MTUS: [&str; 2] = ["1000", "1280"];
/// Until counters show what happened on a path.
const NOTICED: Duration = Duration::from_secs(20);

/// Nodes, and a client behind a router; the clients' namespace is that router.
struct Far {
    client: Netns,
    cluster: Cluster,
    _guard: Guard,
}

impl Far {
    fn new(options: &Options) -> Far {
        let mut cluster = Cluster::start(options);
        cluster.edit_config("a", |text| {
            text.replacen("[nic]\n", "[nic]\ngateways = [\"10.77.1.1\", \"fd77:1::1\"]\n", 1)
        });
        cluster.take_a().stop();
        cluster.start_a();
        cluster.wait_linked(options.workers);
        let router = cluster.clients();
        let name = format!("{}-beyond", router.name().expect("clients have a namespace of their own"));
        let guard = Guard::new(&cluster.directory().join("beyond"), &[&name]);
        let client = Netns::new(name.clone());
        router.ip(&["link", "add", "beyond", "type", "veth", "peer", "name", "back", "netns", &name]);
        for (netns, interface, addresses) in [(router, "beyond", ROUTER), (&client, "back", BEYOND)] {
            output_of(
                netns.command("ethtool").args(["-K", interface, "tx", "off", "gso", "off", "tso", "off"]),
            );
            netns.ip(&["link", "set", interface, "up"]);
            netns.ip(&["address", "add", &format!("{}/24", addresses[0]), "dev", interface]);
            netns.ip(&["address", "add", &format!("{}/64", addresses[1]), "dev", interface, "nodad"]);
        }
        ROUTER.iter().for_each(|via| client.ip(&["route", "add", "default", "via", via]));
        for forwards in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            output_of(router.command("sysctl").args(["-qw", forwards]));
        }
        let far = Far { client, cluster, _guard: guard };
        far.narrow(true);
        far
    }

    /// Whether the way to the client takes less than both ends would send.
    fn narrow(&self, narrow: bool) {
        for (to, mtu) in BEYOND.into_iter().zip(MTUS) {
            let lock: &[&str] = if narrow { &["mtu", "lock", mtu] } else { &[] };
            self.cluster.clients().ip(&[&["route", "replace", to, "dev", "beyond"][..], lock].concat());
        }
    }

    /// Fetches more than a window over either family.
    fn fetch(&self) {
        for address in [A4, &format!("[{A6}]")] {
            let fetched = self.curl().to(address).get("/?bytes=300000&seed=3").run();
            assert_is_pattern(&fetched[0].body, 3, 300_000, address);
        }
    }

    fn curl(&self) -> Curl<'_> {
        Curl::new(&self.cluster).inside(&self.client)
    }
}

/// RFC 1191, RFC 8201: its word reaches the worker of the connection, wherever the port brought it.
fn a_router_says_so(workers: usize) {
    let far = Far::new(&Options::new(workers));
    far.fetch();
    let status = far.cluster.a().wait_for("both words", NOTICED, |status| status.total("path_mtu_told") >= 2);
    assert_eq!(status.total("path_mtu_suspected"), 0, "{status}");
    far.cluster.finish();
}

/// RFC 8899 section 4.3: what is too large vanishes, and smaller segments are tried.
fn a_router_says_nothing(workers: usize) {
    let far = Far::new(&Options::new(workers));
    // Of its own the router has nothing to say to A; what it hands on is another matter.
    for to in [A4, A6] {
        let family = if to == A6 { "-6" } else { "-4" };
        far.cluster.clients().ip(&[family, "rule", "add", "to", to, "iif", "lo", "blackhole"]);
    }
    // A base of 1,200 bytes is more than the router takes of IPv4.
    far.cluster.clients().ip(&["route", "replace", BEYOND[0], "dev", "beyond", "mtu", "lock", "1200"]);
    far.fetch();
    let suspects = |status: &crate::harness::Status| status.total("path_mtu_suspected") >= 2;
    let status = far.cluster.a().wait_for("both suspicions", NOTICED, suspects);
    assert_eq!(status.total("path_mtu_told"), 0, "{status}");
    far.cluster.finish();
}

/// RFC 4821 section 7: after the time that `[tcp]` says a larger segment is tried, and arrives.
fn the_path_gets_wider(workers: usize) {
    let far = Far::new(&Options::new(workers).line("tcp", "mtu_raise_after_s = 1"));
    std::thread::scope(|scope| {
        // Three requests of one connection, each two seconds behind the one before.
        let fetch = scope.spawn(|| {
            let get = "/?bytes=100000&seed=5";
            far.curl().option("--rate").option("30/m").get(get).get(get).get(get).run()
        });
        far.cluster.a().wait_for("the router's word", NOTICED, |status| status.total("path_mtu_told") >= 1);
        far.narrow(false);
        for fetched in fetch.join().expect("curl runs") {
            assert_is_pattern(&fetched.body, 5, 100_000, "while the path changes");
        }
    });
    far.cluster.a().wait_for("larger segments", NOTICED, |status| status.total("path_mtu_raised") >= 1);
    far.cluster.finish();
}
