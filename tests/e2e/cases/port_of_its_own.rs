//! The load generator on a DPDK port of its own instead of the kernel's sockets: over veth against a node and against
//! nginx, which we did not write, and over vhost, where no kernel is on the way at all.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use keyferry_load::report::Report;

use crate::harness::{A4, Cluster, Decide, NAME, Options};

/// An address that no kernel has.
const OWN: &str = "10.77.1.77/24";
/// Where nginx listens, beside the clients' interface towards A.
const NGINX: &str = "10.77.1.1";
/// Longest start of nginx.
const START_MAX: Duration = Duration::from_secs(20);

/// `--nic` and what belongs to it, on the clients' end of A's link.
fn on_veth<'a>(device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["--nic", device, "--nic-address", OWN, "--nic-hugepages", "never", "--timeout", "60"];
    [&fixed[..], more].concat()
}

fn expect_whole(report: &Report, requests: u64) {
    let errors = &report.errors;
    let lost = errors.connect + errors.tls + errors.reset + errors.closed + errors.http + errors.timeout;
    assert_eq!((report.requests, report.mismatches, lost, errors.status), (requests, 0, 0, 0), "{report}");
}

#[test]
fn a_node_over_veth() {
    let cluster = Cluster::start(&Options::new(1).decide(Decide::Always));
    let sizes = ["-c", "8", "-n", "600", "--bytes-mix", "0,100,4000,100000", "--requests-per-connection", "20"];
    let report = cluster.load(&on_veth("net_af_packet0,iface=to-a,framecnt=1024", &sizes));
    expect_whole(&report, 600);
    assert!(report.handshakes.full > 0 && report.handshakes.resumed > 0, "{report}");
    cluster.expect_replies(0, 600);
    cluster.finish();
}

#[test]
fn a_node_over_vhost() {
    let cluster = Cluster::start(&Options::new(1).vhost());
    let device = format!("net_virtio_user0,path={}", cluster.vhost_socket("a").display());
    let sizes = ["-c", "8", "-n", "3000", "--bytes-mix", "0,100,4000,100000", "--requests-per-connection", "50"];
    let report = cluster.load(&on_veth(&device, &sizes));
    expect_whole(&report, 3000);
    assert!(report.handshakes.full > 0 && report.handshakes.resumed > 0, "{report}");
    cluster.expect_replies(3000, 0);
    cluster.finish();
}

/// nginx listens where the clients live, so that the generator's packets cross a wire to it: from the node's end.
#[test]
fn nginx_over_veth() {
    let cluster = Cluster::start(&Options::new(1));
    let nginx = Nginx::start(&cluster);
    let body = "--expect-sha256";
    let sum = "2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6";
    let report = cluster.load_from_a(
        &format!("https://{NAME}:8443/c"),
        &["--resolve", &format!("{NAME}:{NGINX}"), body, sum, "-c", "8", "-n", "500"],
    );
    drop(nginx);
    expect_whole(&report, 500);
    let _ = A4;
    cluster.finish();
}

struct Nginx(Child);

impl Nginx {
    fn start(cluster: &Cluster) -> Nginx {
        let at = cluster.directory().display();
        fs::write(cluster.directory().join("c"), "c").expect("the test's directory is writable");
        let _ = (at, START_MAX, Instant::now(), Command::new("nginx"));
        unimplemented!("to be written")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
