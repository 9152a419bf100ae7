//! Bodies of every size come byte-exact, whoever seals them.

use crate::client::{Curl, assert_is_pattern};
use crate::harness::{Cluster, Decide, Options};
use crate::with_one_and_two_workers;

const KIB: usize = 1024;
/// Around the edges of records and of windows.
const SIZES: [usize; 8] = [0, 1, KIB, 16 * KIB - 1, 16 * KIB, 64 * KIB, KIB * KIB, 64 * KIB * KIB];

with_one_and_two_workers!(sealed_here, sealed_there, sealed_in_turn, sealed_there_by_app_threads, under_load);

fn sealed_here(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers));
    let requests = fetch_all(&cluster, |_| "");
    cluster.expect_replies(requests, 0);
    cluster.finish();
}

fn sealed_there(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let requests = fetch_all(&cluster, |_| "");
    cluster.expect_replies(0, requests);
    cluster.finish();
}

fn sealed_in_turn(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let requests = fetch_all(&cluster, |index| if index % 2 == 0 { "&lend=0" } else { "&lend=1" });
    cluster.expect_replies(requests / 2, requests / 2);
    cluster.finish();
}

fn sealed_there_by_app_threads(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).apps(2).decide(Decide::Always));
    let requests = fetch_all(&cluster, |_| "");
    cluster.expect_replies(0, requests);
    cluster.finish();
}

/// Many connections at once, pipelined, with key updates, in turn sealed here and there.
fn under_load(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for version in ["1.2", "1.3"] {
        let shape =
            ["-c", "24", "-t", "2", "-n", "4000", "--requests-per-connection", "100", "--tls", version];
        let mix = ["--bytes-mix", "0,1,100,1024,5000,16383,16384,16385,100000", "--rotate", "lend=0,lend=1"];
        let order = ["--pipeline", "4", "--key-update-every", "5"];
        let report = cluster.load(&[shape.as_slice(), &mix, &order].concat());
        assert_eq!((report.requests, report.mismatches), (4000, 0), "{report}");
        assert_eq!(report.first_error, None, "{report}");
    }
    cluster.expect_replies(4000, 4000);
    let each = cluster.a().status().workers("requests");
    assert!(each.iter().all(|&requests| requests > 1000), "every worker has its share: {each:?}");
    cluster.finish();
}

/// Every size with TLS 1.2 and 1.3, all of one version on one connection; returns how many requests.
fn fetch_all(cluster: &Cluster, query: fn(usize) -> &'static str) -> u64 {
    let mut requests = 0;
    for version in ["1.2", "1.3"] {
        let mut curl =
            Curl::new(cluster).option(&format!("--tlsv{version}")).option("--tls-max").option(version);
        // Twice, so that each size is once here and once there when they alternate.
        let sizes = || SIZES.iter().chain(SIZES[..7].iter().rev()).chain([&1]);
        for (index, bytes) in sizes().enumerate() {
            curl = curl.get(&format!("/?bytes={bytes}&seed={index}{}", query(index)));
        }
        let fetched = curl.run();
        requests += fetched.len() as u64;
        assert_eq!(fetched.iter().map(|one| one.connects).sum::<u32>(), 1, "one connection for all");
        for ((index, bytes), one) in sizes().enumerate().zip(&fetched) {
            assert_eq!(one.status, 200);
            assert_is_pattern(&one.body, index as u64, *bytes, &format!("TLS {version}, {bytes} bytes"));
        }
    }
    requests
}
