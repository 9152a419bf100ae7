//! An executable with an application of its own: its replies sealed here and, by a node of the same executable, there.

use crate::client::Curl;
use crate::harness::{Cluster, Decide, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(inside_workers, on_app_threads, behind_a_route);

/// Bytes sent, and sent back: several records.
const BODY: usize = 50_000;

fn greets(cluster: &Cluster, path: &str) {
    let body = vec![b'x'; BODY];
    let file = cluster.directory().join("body");
    std::fs::write(&file, &body).expect("the test's directory is writable");
    let data = format!("@{}", file.display());
    for query in ["?lend=1", "?lend=0"] {
        let target = format!("{path}Ada{query}");
        let fetched = Curl::new(cluster).option("--include").get(&target).run();
        let text = String::from_utf8_lossy(&fetched[0].body).into_owned();
        assert!(fetched[0].status == 200 && text.contains("text/plain; charset=utf-8"), "{text}");
        assert!(text.ends_with(&format!("\r\n\r\nHello, {}Ada!\n", &path[1..])), "{text}");
        let fetched = Curl::new(cluster).option("--data-binary").option(&data).get(&target).run();
        let expected = [format!("Hello, {}Ada!\n", &path[1..]).as_bytes(), &body].concat();
        assert!(fetched[0].status == 200 && fetched[0].body == expected, "{} bytes", fetched[0].body.len());
    }
}

fn inside_workers(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).embedded().decide(Decide::Always));
    greets(&cluster, "/");
    // The larger ones do not fit a grant.
    cluster.expect_replies(3, 1);
    cluster.finish();
}

fn on_app_threads(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).embedded().apps(1).decide(Decide::Always));
    greets(&cluster, "/");
    cluster.expect_replies(3, 1);
    cluster.finish();
}

fn behind_a_route(workers: usize) {
    let route = "[[route]]\npath_prefix = \"/greet\"\napp = \"hello\"\n";
    let options = Options { kind: Some("synthetic"), ..Options::new(workers).embedded().upstream(route) };
    let cluster = Cluster::start(&options.decide(Decide::Always));
    greets(&cluster, "/greet/");
    let others = Curl::new(&cluster).get("/?bytes=1000&seed=7").run();
    let mut expected = vec![0; 1000];
    keyferry_app::synthetic::fill(7, 0, &mut expected);
    assert_eq!(others[0].body, expected);
    cluster.finish();
}
