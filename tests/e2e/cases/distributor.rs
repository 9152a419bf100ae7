//! A distributor in front of nodes: what clients get, where they are sent, and what happens when nodes come and go.

use std::path::PathBuf;

use keyferry_cluster::certificates::NAME;
use keyferry_cluster::{Cluster, Description, Model, SERVICE4, SERVICE6};

use crate::harness::keyferry;

fn started(nodes: usize, model: Model) -> Cluster {
    Cluster::start(&keyferry(), &Description { nodes, model, ..Description::default() })
}

/// Bytes of a reply by curl, from a client address, to the service.
fn curl(cluster: &Cluster, from: &str, service: &str, path: &str) -> Result<Vec<u8>, String> {
    let resolve = format!("{NAME}:443:{service}");
    let ca: PathBuf = cluster.ca().to_owned();
    let mut curl = cluster.client("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--interface", from, "--resolve"]);
    let output = curl.arg(resolve).arg("--cacert").arg(ca).arg(format!("https://{NAME}{path}")).output();
    let output = output.expect("curl starts (package curl)");
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn curl_gets_whole_replies_by_either_family() {
    let mut cluster = started(2, Model::Rr);
    let clients = cluster.client_addresses();
    for (from, service) in
        [(clients[0].as_str(), SERVICE4), (clients[3].as_str(), SERVICE4), ("eth0", SERVICE6)]
    {
        for bytes in [0, 100_000] {
            let body = curl(&cluster, from, service, &format!("/?bytes={bytes}&seed=3")).expect("a reply");
            let mut expected = vec![0; bytes];
            keyferry_app::synthetic::fill(3, 0, &mut expected);
            assert!(body == expected, "{bytes} bytes from {from}");
        }
    }
    let replies = ["n1", "n2"].map(|node| {
        cluster.process(node).wait_for("half of the requests", std::time::Duration::from_secs(5), |status| {
            status.total("replies_local") == 3
        })
    });
    assert_eq!(replies.map(|status| status.total("handshakes_full")), [3, 3], "connections in turn");
    cluster.stop();
}
