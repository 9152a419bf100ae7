//! The load generator on a DPDK port of its own instead of the kernel's sockets: over veth against a node and against
//! nginx, which we did not write, and over vhost, where no kernel is on the way at all.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use keyferry_load::report::Report;

use crate::harness::{Cluster, Decide, NAME, Options};

/// An address in the network of A's link that no kernel has.
const OWN: &str = "10.77.1.77/24";
/// The clients' end of that link, and where nginx listens.
const NGINX: &str = "10.77.1.1";
const NGINX_PORT: u16 = 8443;
/// Longest start of nginx.
const START_MAX: Duration = Duration::from_secs(20);
/// More clients of the same network.
const SOURCES: &str = "10.77.1.70-10.77.1.79";
const SIZES: &str = "0,100,4000,100000";

/// `--nic` and what belongs to it.
fn on<'a>(device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
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
    let load = ["-c", "8", "-n", "600", "--bytes-mix", SIZES, "--requests-per-connection", "20"];
    let report = cluster.load(&on("net_af_packet0,iface=to-a,framecnt=1024", &load));
    expect_whole(&report, 600);
    assert!(report.handshakes.full > 0 && report.handshakes.resumed > 0, "{report}");
    cluster.expect_replies(0, 600);
    cluster.finish();
}

#[test]
fn a_node_over_vhost() {
    let cluster = Cluster::start(&Options::new(1).vhost());
    let device = format!("net_virtio_user0,path={}", cluster.vhost_socket("a").display());
    let load = [
        "-c",
        "8",
        "-n",
        "3000",
        "--bytes-mix",
        SIZES,
        "--requests-per-connection",
        "50",
        "--source",
        SOURCES,
    ];
    let report = cluster.load(&on(&device, &load));
    expect_whole(&report, 3000);
    assert!(report.handshakes.full > 0 && report.handshakes.resumed > 0, "{report}");
    cluster.expect_replies(3000, 0);
    cluster.finish();
}

/// nginx is at the clients' end of A's link, so the generator takes the place of A at the other.
#[test]
fn nginx_over_veth() {
    let mut cluster = Cluster::start(&Options::new(1));
    let interface = cluster.interface_of_a().to_owned();
    cluster.take_a().stop();
    let nginx = Nginx::start(&cluster);
    let url = format!("https://{NAME}:{NGINX_PORT}/file");
    let device = format!("net_af_packet0,iface={interface},framecnt=1024");
    let sha256 = "27dd1f61b867b6a0f6e9d8a41c43231de52107e53ae424de8f847b821db4b711";
    let load = ["--expect-sha256", sha256, "-c", "8", "-n", "500", "--requests-per-connection", "20"];
    let report = cluster.load_as_a(&url, NGINX, &on(&device, &load));
    expect_whole(&report, 500);
    assert!(report.handshakes.full > 0 && report.handshakes.resumed > 0, "{report}");
    drop(nginx);
}

/// nginx with one process, where the clients are.
struct Nginx(Child);

impl Nginx {
    /// Serves `/file`, which is ten thousand times the letter a.
    fn start(cluster: &Cluster) -> Nginx {
        let at = cluster.directory().display();
        let key = cluster.private_key();
        let chain = key.with_extension("pem");
        fs::write(cluster.directory().join("file"), "a".repeat(10_000))
            .expect("the test's directory is writable");
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{ worker_connections 1024; }}
             http {{
                 access_log off; keepalive_requests 100000;
                 client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3;
                 uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;
                 server {{
                     listen {NGINX}:{NGINX_PORT} ssl; root {at};
                     ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3;
                 }}
             }}",
            chain.display(),
            key.display(),
        );
        let file = cluster.directory().join("nginx.conf");
        fs::write(&file, text).expect("the test's directory is writable");
        let mut command = cluster.client("nginx");
        command.arg("-e").arg(cluster.directory().join("error.log")).arg("-c").arg(file);
        let nginx = Nginx(command.stderr(Stdio::null()).spawn().expect("nginx is installed"));
        let deadline = Instant::now() + START_MAX;
        while cluster.clients().enter(|| TcpStream::connect((NGINX, NGINX_PORT))).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
