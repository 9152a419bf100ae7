//! The applications that come with keyferry, through a port.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::*;
use keyferry_app::static_files::Static;
use keyferry_app::synthetic::{Distribution, Options, Synthetic, fill, fnv1a};
use keyferry_app::{Builtin, CHUNK_BYTES};
use keyferry_time::Time;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn synthetic(burn: bool) -> Builtin {
    let (cost_us, bytes) = (Distribution::Fixed(20.0), Distribution::Fixed(1000.0));
    Builtin::Synthetic(Synthetic::new(Options { cost_us, bytes, burn, seed: 1 }))
}

#[test]
fn synthetic_replies_are_the_published_pattern() {
    for burn in [false, true] {
        let (mut port, clock) = inline(synthetic(burn), 1);
        for (query, seed, bytes) in [
            ("", 0, 1000),
            ("?bytes=0", 0, 0),
            ("?bytes=100000&seed=9", 9, 100_000),
            ("?seed=18446744073709551615&bytes=70001&chunked=1", u64::MAX, 70_001),
            ("?lend=0&bytes=5&cost_us=300", 0, 5),
            ("?bytes=x&seed=-1", 0, 1000),
        ] {
            let before = clock_of(&clock);
            let outcome = run(&mut port, &clock, get(&format!("/{query}")), 2);
            let reply = parse(&outcome.bytes, false);
            let mut expected = vec![0; bytes];
            fill(seed, 0, &mut expected);
            assert!(reply.body == expected && reply.status == 200, "{query}");
            assert_eq!(reply.field("transfer-encoding").is_some(), query.contains("chunked"));
            let waited_us = (clock_of(&clock) - before).as_micros();
            assert_eq!(
                waited_us,
                if burn {
                    0
                } else if query.contains("300") {
                    300
                } else {
                    20
                },
                "{query}"
            );
            assert_eq!(outcome.chunks > 2, bytes > CHUNK_BYTES);
        }
        let reply = parse(&run(&mut port, &clock, get("/?status=404&bytes=3"), 1).bytes, false);
        assert_eq!((reply.status, reply.body.len()), (404, 3));
        let head = request(b"HEAD /?bytes=70000 HTTP/1.1\r\nHost: x\r\n\r\n");
        let reply = parse(&run(&mut port, &clock, head, 1).bytes, true);
        assert_eq!((reply.field("content-length"), reply.body.len()), (Some("70000"), 0));
    }
}

fn clock_of(clock: &TestClock) -> Time {
    keyferry_app::Clock::now(clock)
}

#[test]
fn uploads_are_acknowledged_by_length_and_hash() {
    let (mut port, clock) = inline(synthetic(false), 1);
    for body in [&b""[..], b"a", b"foobar"] {
        let mut post =
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        post.extend(body);
        let reply = parse(&run(&mut port, &clock, request(&post), 1).bytes, false);
        assert_eq!(reply.field("x-body-bytes"), Some(body.len().to_string().as_str()));
        assert_eq!(reply.field("x-body-hash"), Some(format!("{:016x}", fnv1a(body)).as_str()));
    }
    // From the reference vectors of FNV's authors.
    assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
}

struct Site {
    directory: tempfile::TempDir,
    port: keyferry_app::Port<Builtin>,
    clock: TestClock,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("sub")).expect("a directory");
        fs::write(directory.path().join("secret"), "secret").expect("a file");
        fs::write(root.join("index.html"), "<p>home</p>").expect("a file");
        fs::write(root.join("sub/index.html"), "<p>sub</p>").expect("a file");
        fs::write(root.join("sub/a b.TXT"), "words").expect("a file");
        fs::write(root.join("empty"), "").expect("a file");
        fs::write(root.join("big"), vec![7; 100_000]).expect("a file");
        symlink("../secret", root.join("out")).expect("a link");
        symlink("/etc/passwd", root.join("absolute")).expect("a link");
        symlink("sub/a b.TXT", root.join("inside")).expect("a link");
        mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a fifo");
        let app = Builtin::Static(Static::open(&root).expect("the root opens"));
        let (port, clock) = inline(app, 1);
        Site { directory, port, clock }
    }

    fn reply(&mut self, line: &str) -> Reply {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
        let outcome = run(&mut self.port, &self.clock, request(head.as_bytes()), 2);
        assert!(matches!(outcome.ended, Ended::Whole { .. }), "{line}: {outcome:?}");
        parse(&outcome.bytes, line.starts_with("HEAD"))
    }
}

#[test]
fn files_are_served_and_nothing_outside() {
    let mut site = Site::new();
    for (target, status, body) in [
        ("/", 200, "<p>home</p>"),
        ("/index.html?x=1", 200, "<p>home</p>"),
        ("/sub/", 200, "<p>sub</p>"),
        ("/sub/a%20b.TXT", 200, "words"),
        ("/sub/../index.html", 200, "<p>home</p>"),
        ("/inside", 200, "words"),
        ("/empty", 200, ""),
        ("/none", 404, "Not found.\n"),
        ("/empty/x", 404, "Not found.\n"),
        ("/../secret", 404, "Not found.\n"),
        ("/%2e%2e/secret", 404, "Not found.\n"),
        ("/sub/..%2f../secret", 404, "Not found.\n"),
        ("//etc/passwd", 404, "Not found.\n"),
        ("/%2fetc/passwd", 404, "Not found.\n"),
        ("/out", 404, "Not found.\n"),
        ("/absolute", 404, "Not found.\n"),
        ("/fifo", 404, "Not found.\n"),
        ("/a%00b", 400, "The path is not a valid one.\n"),
        ("/%zz", 400, "The path is not a valid one.\n"),
        ("/%4", 400, "The path is not a valid one.\n"),
    ] {
        let reply = site.reply(&format!("GET {target}"));
        assert_eq!((reply.status, String::from_utf8_lossy(&reply.body).as_ref()), (status, body), "{target}");
        assert_eq!(reply.field("etag").is_some(), status == 200, "{target}");
        let head = site.reply(&format!("HEAD {target}"));
        assert_eq!((head.status, head.body.len()), (status, 0));
        assert_eq!(head.field("content-length"), reply.field("content-length"));
    }
    assert_eq!(site.reply("GET /big").body, [7; 100_000]);
    assert_eq!(site.reply("GET /sub/a%20b.TXT").field("content-type"), Some("text/plain; charset=utf-8"));
    let moved = site.reply("GET /sub?a=b");
    assert_eq!((moved.status, moved.field("location")), (301, Some("/sub/?a=b")));
    let refused = site.reply("DELETE /index.html");
    assert_eq!((refused.status, refused.field("allow")), (405, Some("GET, HEAD")));
    let long = site.reply(&format!("GET /{}", "a".repeat(2000)));
    assert_eq!(long.status, 400);
}

#[test]
fn a_file_cut_short_ends_the_reply_broken() {
    let mut site = Site::new();
    let big = site.directory.path().join("root/big");
    assert!(site.port.submit(job(7, get("/big"))).is_ok());
    let mut parts = arrayvec::ArrayVec::new();
    site.port.poll(&mut parts);
    assert_eq!(parts.len(), 1);
    fs::write(&big, "short").expect("a file");
    site.port.more(keyferry_app::JobId(7), keyferry_app::Chunk::new());
    parts.clear();
    site.port.poll(&mut parts);
    assert!(parts.iter().any(|part| matches!(part, keyferry_app::Part::Failed { started: true, .. })));
}

#[test]
fn what_may_not_be_read_is_forbidden() {
    let mut site = Site::new();
    let file = site.directory.path().join("root/empty");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("permissions");
    // Root reads everything, so there the file is served.
    let readable = fs::read(&file).is_ok();
    assert_eq!(site.reply("GET /empty").status, if readable { 200 } else { 403 });
}

proptest! {
    #[test]
    fn no_path_leads_out(parts in proptest::collection::vec(
        prop_oneof![Just(".."), Just("%2e%2e"), Just("sub"), Just("."), Just(""), Just("out"), Just("secret"), Just("%2f"), Just("absolute")],
        0..6,
    )) {
        let mut site = Site::new();
        let reply = site.reply(&format!("GET /{}", parts.join("/")));
        prop_assert!(!reply.body.windows(6).any(|part| part == b"secret"));
        prop_assert!(!reply.body.windows(5).any(|part| part == b"root:"));
    }
}
