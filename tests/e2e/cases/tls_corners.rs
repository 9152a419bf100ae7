//! Corners of TLS on real nodes: messages in pieces, the two ways a stream ends, short records, key updates without
//! end, and the key log, which tshark has to be able to use.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::client::{Tls, output_of, reset};
use crate::harness::{A4, Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(
    hellos_in_pieces,
    closed_and_truncated,
    short_records,
    key_updates_without_end,
    key_updates_nobody_reads,
    key_log
);

const VERSIONS: [&str; 2] = ["1.2", "1.3"];

fn wire(cluster: &Cluster, version: &str, command: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/client/tls_wire.py");
    let mut python = cluster.client("python3");
    output_of(python.arg(&script).args([A4, NAME]).arg(cluster.ca()).arg(version).args(command));
}

fn lending(workers: usize) -> Options {
    Options::new(workers).decide(Decide::Always)
}

fn hellos_in_pieces(workers: usize) {
    let cluster = Cluster::start(&lending(workers));
    for version in VERSIONS {
        wire(&cluster, version, &["pieces"]);
    }
    cluster.expect_counts("no handshake failed", |a, _| a.total("handshakes_failed") == 0);
    cluster.finish();
}

fn closed_and_truncated(workers: usize) {
    let cluster = Cluster::start(&lending(workers));
    for version in VERSIONS {
        wire(&cluster, version, &["ends"]);
    }
    cluster.expect_counts("each end under its name", |a, _| {
        let ends = ["ended_by_close_notify", "ended_truncated", "alerts_received_close_notify", "closed_tls"];
        ends.map(|name| a.total(name)) == [2, 2, 2, 0]
    });
    cluster.finish();
}

fn short_records(workers: usize) {
    // Plaintext, and what each version adds: type and tag, or explicit nonce and tag.
    const MOST: [&str; 2] = ["536", "529"];
    let cluster = Cluster::start(&lending(workers).line("tls", "max_fragment = 512"));
    for (version, most) in VERSIONS.into_iter().zip(MOST) {
        wire(&cluster, version, &["records", most]);
    }
    cluster.expect_replies(10, 10);
    cluster.finish();
}

fn key_updates_without_end(workers: usize) {
    let cluster = Cluster::start(&lending(workers));
    cluster.clients().enter(|| {
        let mut client = Tls::connect(cluster.ca());
        client.key_updates(1000);
        client.expect_alert(rustls::AlertDescription::UnexpectedMessage);
    });
    cluster.expect_counts("the flood is told apart", |a, _| {
        let names = ["closed_tls_too_many_key_updates", "alerts_sent_unexpected_message"];
        names.map(|name| a.total(name)) == [1, 1]
    });
    cluster.finish();
}

fn key_updates_nobody_reads(workers: usize) {
    // Several times more answers than TCP takes, and more than the client keeps: it takes its window back.
    const COUNT: usize = 7000;
    let cluster = Cluster::start(&lending(workers).line("limits", "send_buffer = 4096"));
    cluster.clients().enter(|| {
        let mut client = Tls::connect(cluster.ca());
        client.narrow();
        client.send(b"GET / HTTP/1.1\r\nHost: kf.test\r\nX-Long: ");
        client.send_with_key_updates(&[b'a'; COUNT]);
        let taken = "every one is taken, the connection lives, answers TCP does not take have no buffers";
        cluster.a().wait_for(taken, Duration::from_secs(30), |a| {
            a.total("key_updates") == COUNT as u64 && a.total("flows") == 1 && a.total("records_out") < 16
        });
        reset(client.into_tcp());
    });
    cluster.finish();
}

fn key_log(workers: usize) {
    // Without the line there is no log, whatever the environment says: harness and nodes never set it.
    let file = std::env::temp_dir().join(format!("kf-keys-{}-{workers}", std::process::id()));
    let _gone = Gone(&file);
    let line = format!("key_log = {file:?}");
    let cluster = Cluster::start(&lending(workers).line("tls", line));
    assert!(cluster.a().log().contains("secrets of every connection"), "{}", cluster.a().log());
    assert_eq!(fs::metadata(&file).expect("the node has made it").mode() & 0o777, 0o600);
    for version in VERSIONS {
        let capture = cluster.directory().join(format!("{version}.pcap"));
        wire(&cluster, version, &["capture", capture.to_str().expect("the test's paths are text")]);
        wait_for_lines(&file, version);
        let keys = format!("tls.keylog_file:{}", file.display());
        let mut tshark = Command::new("tshark");
        tshark.arg("-r").arg(&capture).args(["-o", &keys, "-Y", "http.response", "-T", "fields"]);
        let seen = output_of(tshark.args(["-e", "http.response.code", "-e", "http.content_length"]));
        let replies: Vec<_> = seen.lines().collect();
        assert_eq!(replies, ["200\t100", "200\t40000", "200\t300", "200\t20000"], "TLS {version}");
    }
    cluster.finish();
}

/// Lines are written a little after the handshake.
fn wait_for_lines(file: &Path, version: &str) {
    let label = if version == "1.2" { "CLIENT_RANDOM " } else { "SERVER_TRAFFIC_SECRET_0 " };
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !fs::read_to_string(file).expect("it is ours").contains(label) {
        assert!(std::time::Instant::now() < deadline, "no {label} in the key log");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Secrets do not stay behind a test.
struct Gone<'a>(&'a Path);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}
