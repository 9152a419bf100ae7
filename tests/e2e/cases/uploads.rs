//! Request bodies arrive whole, with and without a length, here and there.

use std::fs;

use crate::client::{Curl, fnv1a, pattern};
use crate::harness::{Cluster, Decide, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(every_size_and_framing, too_large);

/// From nothing over what fits a grant (8 KiB) to the limit of the configuration.
const SIZES: [usize; 7] = [0, 1, 1_000, 4_000, 20_000, 300_000, 1 << 20];

fn every_size_and_framing(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for (seed, bytes) in (0..).zip(SIZES) {
        let body = pattern(seed, bytes);
        let file = cluster.directory().join("upload");
        fs::write(&file, &body).expect("the test's directory is writable");
        let data = format!("@{}", file.display());
        for framing in ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"] {
            for lend in ["lend=0", "lend=1"] {
                // curl takes an empty upload for none, and would GET.
                let fetched = Curl::new(&cluster)
                    .option("--request")
                    .option("POST")
                    .option("--data-binary")
                    .option(&data)
                    .option("--header")
                    .option(framing)
                    .option("--include")
                    .get(&format!("/?bytes=10&{lend}"))
                    .run();
                let reply = String::from_utf8_lossy(&fetched[0].body).to_ascii_lowercase();
                let (count, hash) =
                    (format!("x-body-bytes: {bytes}\r\n"), format!("x-body-hash: {:016x}\r\n", fnv1a(&body)));
                assert!(
                    reply.contains(&count) && reply.contains(&hash),
                    "{bytes} bytes, {framing}, {lend}: {reply}"
                );
            }
        }
    }
    cluster.expect_counts("what fits a grant was lent", |a, _| a.total("replies_lent") >= 4 * 3);
    cluster.finish();
}

fn too_large(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let file = cluster.directory().join("upload");
    fs::write(&file, pattern(1, (1 << 20) + 1)).expect("the test's directory is writable");
    let data = format!("@{}", file.display());
    let fetched = Curl::new(&cluster).option("--data-binary").option(&data).get("/").run();
    assert_eq!(fetched[0].status, 413);
    cluster.finish();
}
