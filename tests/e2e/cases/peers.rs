//! Other people's clients: Python's ssl module and wrk. (curl and openssl are all over the other tests.)

use std::path::Path;

use crate::client::output_of;
use crate::harness::{A4, Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(python, wrk);

fn python(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/client/python_ssl.py");
    for version in ["1.2", "1.3"] {
        output_of(cluster.client("python3").arg(&script).args([A4, NAME]).arg(cluster.ca()).arg(version));
    }
    // Two versions: 16 requests in turn, 30 pipelined in turn, an upload and one after resumption, both lent.
    cluster.expect_replies(2 * (8 + 15), 2 * (8 + 15 + 2));
    cluster.expect_counts("resumed", |a, _| a.total("handshakes_resumed") == 2);
    cluster.finish();
}

/// wrk leaves with requests under way, which is half of the test.
fn wrk(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for query in ["?bytes=100", "?bytes=100&lend=0", "?bytes=50000"] {
        let url = format!("https://{A4}/{query}");
        let text = output_of(cluster.client("wrk").args(["-t1", "-c32", "-d2s", "--timeout", "20s", &url]));
        assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
        let requests =
            text.lines().find_map(|line| line.trim().split_once(" requests in ")).map(|(count, _)| count);
        assert!(
            requests.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 100),
            "{text}"
        );
    }
    cluster.finish();
}
