//! Below TLS: both address families, ICMP, names and their certificates.

use crate::client::{Curl, assert_is_pattern, output_of};
use crate::harness::{A4, A6, B4, Cluster, Decide, NAME, NAME_OTHER, NAME_RSA, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(both_families, ping, certificates_by_name, helper_has_clients_of_its_own);

fn both_families(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for address in [A4, &format!("[{A6}]")] {
        for lend in ["lend=0", "lend=1"] {
            let fetched = Curl::new(&cluster)
                .to(address)
                .get(&format!("/?bytes=300000&seed=1&{lend}"))
                .get(&format!("/?bytes=5&seed=2&{lend}"))
                .run();
            assert_is_pattern(&fetched[0].body, 1, 300_000, address);
            assert_is_pattern(&fetched[1].body, 2, 5, address);
        }
    }
    cluster.finish();
}

fn ping(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers));
    for address in [A4, A6] {
        for bytes in ["0", "56", "1400"] {
            let text = output_of(
                cluster.client("ping").args(["-c", "5", "-i", "0.01", "-W", "5", "-s", bytes, address]),
            );
            assert!(text.contains(" 0% packet loss"), "{text}");
        }
    }
    cluster.finish();
}

/// curl checks the name against the certificate, so each transfer proves that its name got its certificate.
fn certificates_by_name(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers));
    for name in [NAME, NAME_RSA, NAME_OTHER] {
        for version in ["1.2", "1.3"] {
            let fetched = Curl::new(&cluster)
                .option("--tls-max")
                .option(version)
                .url(&format!("https://{name}/?bytes=10&seed=4"))
                .run();
            assert_is_pattern(&fetched[0].body, 4, 10, name);
        }
    }
    // Without a name the first certificate answers, which curl then finds to be another's.
    let mut command = cluster.client("curl");
    command.args(["--silent", "--show-error", "--cacert"]).arg(cluster.ca()).arg(format!("https://{A4}/"));
    let output = command.output().expect("curl starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no alternative certificate subject name matches"), "{said}");
    output_of(cluster.client("curl").args([
        "--silent",
        "--insecure",
        "--fail",
        "--output",
        "/dev/null",
        &format!("https://{A4}/"),
    ]));
    cluster.finish();
}

/// B serves its own clients while it helps A, and lends to A in turn.
fn helper_has_clients_of_its_own(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for address in [B4, A4, B4] {
        let fetched = Curl::new(&cluster).to(address).get("/?bytes=200000&seed=9").run();
        assert_is_pattern(&fetched[0].body, 9, 200_000, address);
    }
    cluster.expect_counts("replies of both sealed by the other", |a, b| {
        (a.total("replies_lent"), b.total("replies_lent")) == (1, 2)
            && (a.total("leases_served"), b.total("leases_served")) == (2, 1)
    });
    cluster.finish();
}
