//! Files as curl and Python fetch them, sealed here and sealed by another node.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::client::{Curl, Reply, Tls, output_of, wire_request};
use crate::harness::{A4, Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(by_curl, by_python, by_raw_paths, changed_while_sent);

/// `python_static.py` knows these files too.
fn site() -> tempfile::TempDir {
    let site = tempfile::tempdir().expect("the temporary directory is writable");
    let root = site.path().join("root");
    fs::create_dir_all(root.join("sub")).expect("a directory");
    fs::write(site.path().join("secret"), "secret").expect("a file");
    fs::write(root.join("index.html"), "<p>home</p>").expect("a file");
    fs::write(root.join("sub/index.html"), "<p>sub</p>").expect("a file");
    fs::write(root.join(".hidden"), "hidden").expect("a file");
    fs::write(root.join("big.bin"), big()).expect("a file");
    symlink("../secret", root.join("out")).expect("a link");
    symlink("..", root.join("outside")).expect("a link");
    site
}

fn big() -> Vec<u8> {
    (0..100_000u32).map(|index| (index % 251) as u8).collect()
}

fn cluster(workers: usize, site: &Path) -> Cluster {
    Cluster::start(&Options::new(workers).decide(Decide::Always).root(&site.join("root")))
}

fn by_curl(workers: usize) {
    let site = site();
    let cluster = cluster(workers, site.path());
    for query in ["", "?lend=0"] {
        let target = format!("/big.bin{query}");
        let whole = Curl::new(&cluster).get(&target).run();
        assert_eq!((whole[0].status, &whole[0].body), (200, &big()));
        let part = Curl::new(&cluster).option("--range").option("99000-").get(&target).run();
        assert_eq!((part[0].status, &part[0].body[..]), (206, &big()[99_000..]));
        // A download broken off goes on where it was.
        let file = cluster.directory().join("download");
        fs::write(&file, &big()[..12_345]).expect("the test's directory is writable");
        let address = format!("{NAME}:443:{A4}");
        let mut curl = cluster.client("curl");
        curl.args(["--silent", "--show-error", "--fail", "--resolve", &address, "--cacert"])
            .arg(cluster.ca());
        curl.args(["--continue-at", "-", "--output"]).arg(&file).arg(format!("https://{NAME}{target}"));
        output_of(&mut curl);
        assert!(fs::read(&file).expect("curl wrote it") == big());
        // A cached copy is asked for by tag, whoever answered before.
        let tags = cluster.directory().join("tag");
        let tags = tags.to_str().expect("the test's paths are text");
        let cached = |option: &str, query: &str| {
            let target = format!("/big.bin{query}");
            Curl::new(&cluster).option(option).option(tags).get(&target).run()[0].status
        };
        assert_eq!(cached("--etag-save", query), 200);
        assert_eq!(cached("--etag-compare", ""), 304);
        assert_eq!(cached("--etag-compare", "?lend=0"), 304);
    }
    cluster.expect_counts("both sealed", |a, _| {
        a.total("replies_local") > 0 && a.total("replies_lent") > 0 && a.total("replies_own") == 0
    });
    cluster.finish();
}

fn by_python(workers: usize) {
    let site = site();
    let cluster = cluster(workers, site.path());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/client/python_static.py");
    for query in ["?lend=1", "?lend=0"] {
        let mut python = cluster.client("python3");
        output_of(python.arg(script).args([A4, NAME]).arg(cluster.ca()).arg(query));
    }
    cluster.expect_counts("each as often", |a, _| {
        a.total("replies_local") == a.total("replies_lent") && a.total("replies_own") == 0
    });
    cluster.finish();
}

/// Paths no well-behaved client sends.
fn by_raw_paths(workers: usize) {
    let site = site();
    let cluster = cluster(workers, site.path());
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        for path in [
            "/../secret",
            "/sub/../../secret",
            "/sub/..\\..\\secret",
            "/./../secret",
            "//etc/passwd",
            "/%2fetc/passwd",
            "/%5c..%5csecret",
            "/..%c0%afsecret",
            "/.%00./secret",
            "/outside/secret",
            "/index.html/../../secret",
            "/https:/../secret",
        ] {
            for query in ["", "?lend=0"] {
                tls.send(wire_request(&format!("{path}{query}")).as_bytes());
                let reply = Reply::read(&mut tls, false);
                assert!(matches!(reply.status, 400 | 404), "{path}: {reply:?}");
                let text = String::from_utf8_lossy(&reply.body);
                assert!(!text.contains("secret") && !text.contains("root:"), "{path}: {text}");
            }
        }
    });
    cluster.finish();
}

/// A file that changes while it is sent: the client sees a broken connection, never a whole reply of another length.
fn changed_while_sent(workers: usize) {
    const BYTES: u64 = 64 << 20;
    let site = site();
    let cluster = cluster(workers, site.path());
    let ca = cluster.ca().to_owned();
    let file = site.path().join("root/growing");
    for (query, after) in [("", BYTES / 2), ("", BYTES + 1), ("?lend=0", BYTES / 2), ("?lend=0", BYTES + 1)] {
        let growing = fs::File::create(&file).expect("a file");
        growing.set_len(BYTES).expect("a sparse file");
        cluster.clients().enter(|| {
            let mut tls = Tls::connect(&ca);
            tls.send(wire_request(&format!("/growing{query}")).as_bytes());
            let head = tls.head();
            assert!(head.contains(&format!("Content-Length: {BYTES}\r\n")), "{head}");
            // Far less than the whole can be under way now: TCP's windows are full.
            growing.set_len(after).expect("another length");
            let read = tls.read_broken();
            assert!(read < BYTES, "{read} bytes of a file that changed");
        });
    }
    cluster.finish();
}
