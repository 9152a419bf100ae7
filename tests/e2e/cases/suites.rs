//! Every AEAD suite of TLS 1.2 and 1.3, with `openssl s_client`, sealed here and there.

use crate::client::SClient;
use crate::harness::{Cluster, Decide, NAME, NAME_RSA, Options};
use crate::with_one_and_two_workers;

/// Suites of TLS 1.3 in OpenSSL's names.
const TLS13: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];
/// Suites of TLS 1.2, and the name whose certificate they need.
const TLS12: [(&str, &str); 6] = [
    ("ECDHE-ECDSA-AES128-GCM-SHA256", NAME),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", NAME),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", NAME),
    ("ECDHE-RSA-AES128-GCM-SHA256", NAME_RSA),
    ("ECDHE-RSA-AES256-GCM-SHA384", NAME_RSA),
    ("ECDHE-RSA-CHACHA20-POLY1305", NAME_RSA),
];
/// One record, several records, and less than one again.
const SIZES: [usize; 4] = [1, 20_000, 300_000, 0];

with_one_and_two_workers!(every_suite);

fn every_suite(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for suite in TLS13 {
        for name in [NAME, NAME_RSA] {
            exchange(&cluster, suite, &["-tls1_3", "-ciphersuites", suite, "-servername", name]);
        }
    }
    for (suite, name) in TLS12 {
        exchange(&cluster, suite, &["-tls1_2", "-cipher", suite, "-servername", name]);
    }
    let connections = (TLS13.len() * 2 + TLS12.len()) as u64;
    let replies = connections * SIZES.len() as u64;
    cluster.expect_replies(replies, replies);
    cluster.expect_counts("handshakes", |a, _| a.total("handshakes_full") == connections);
    cluster.finish();
}

/// Every size sealed here and there on one connection with `suite`.
fn exchange(cluster: &Cluster, suite: &str, options: &[&str]) {
    let mut client = SClient::connect(cluster, options);
    assert!(client.notes().contains(suite), "{}", client.notes());
    for (seed, bytes) in (0..).zip(SIZES) {
        for query in ["&lend=0", "&lend=1"] {
            client.get(query, seed, bytes);
        }
    }
    client.finish();
}
