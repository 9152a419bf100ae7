//! The files of a directory, through a port.

mod common;

use std::fs::{self, FileTimes};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use common::*;
use keyferry_app::Builtin;
use keyferry_app::static_files::Static;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// When the files of a test were modified: RFC 9110's example date.
const MODIFIED: u64 = 784_111_777;

struct Site {
    directory: tempfile::TempDir,
    port: keyferry_app::Port<Builtin>,
    clock: TestClock,
}

impl Site {
    fn new() -> Site {
        Site::with(|app| app)
    }

    fn with(change: impl FnOnce(Static) -> Static) -> Site {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("sub")).expect("a directory");
        fs::write(directory.path().join("secret"), "secret").expect("a file");
        fs::write(root.join("index.html"), "<p>home</p>").expect("a file");
        fs::write(root.join("sub/index.html"), "<p>sub</p>").expect("a file");
        fs::write(root.join("sub/a b.TXT"), "words").expect("a file");
        fs::write(root.join("empty"), "").expect("a file");
        fs::write(root.join("digits.bin"), "0123456789").expect("a file");
        fs::write(root.join(".hidden"), "hidden").expect("a file");
        fs::create_dir(root.join(".well-known")).expect("a directory");
        fs::write(root.join(".well-known/token"), "token").expect("a file");
        fs::write(root.join("big"), vec![7; 100_000]).expect("a file");
        symlink("../secret", root.join("out")).expect("a link");
        symlink("/etc/passwd", root.join("absolute")).expect("a link");
        symlink("sub/a b.TXT", root.join("inside")).expect("a link");
        symlink("..", root.join("up")).expect("a link");
        symlink("/", root.join("all")).expect("a link");
        symlink("loop", root.join("loop")).expect("a link");
        mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("a fifo");
        for file in ["digits.bin", "empty", "big"] {
            touch(&root.join(file), MODIFIED);
        }
        let app = Builtin::Static(change(Static::open(&root).expect("the root opens")));
        let (port, clock) = inline(app, 1);
        Site { directory, port, clock }
    }

    fn reply(&mut self, line: &str) -> Reply {
        self.ask(line, "")
    }

    fn ask(&mut self, line: &str, fields: &str) -> Reply {
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let outcome = run(&mut self.port, &self.clock, request(head.as_bytes()), 2);
        assert!(matches!(outcome.ended, Ended::Whole { .. }), "{line}: {outcome:?}");
        parse(&outcome.bytes, line.starts_with("HEAD"))
    }

    /// The reply to a request for all ten digits.
    fn digits(&mut self, fields: &str) -> Reply {
        self.ask("GET /digits.bin", fields)
    }
}

fn touch(file: &std::path::Path, seconds: u64) {
    let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(seconds));
    fs::File::options()
        .append(true)
        .open(file)
        .and_then(|file| file.set_times(times))
        .expect("times are ours");
}

#[test]
fn files_are_served_and_nothing_outside() {
    let mut site = Site::new();
    for (target, status, body) in [
        ("/", 200, "<p>home</p>"),
        ("/index.html?x=1", 200, "<p>home</p>"),
        ("/sub/", 200, "<p>sub</p>"),
        ("/sub/a%20b.TXT", 200, "words"),
        ("/sub/../index.html", 404, "Not found.\n"),
        ("/sub//../../secret", 404, "Not found.\n"),
        ("/sub/%2e%2e/%2e%2e/secret", 404, "Not found.\n"),
        ("/sub/%252e%252e/%252e%252e/secret", 404, "Not found.\n"),
        ("/sub/..%5c..%5csecret", 404, "Not found.\n"),
        ("/sub/..\\..\\secret", 404, "Not found.\n"),
        ("/sub%2findex.html", 404, "Not found.\n"),
        ("/index.html.", 404, "Not found.\n"),
        ("/index.html/", 404, "Not found.\n"),
        ("/sub/./index.html", 404, "Not found.\n"),
        ("/up/secret", 404, "Not found.\n"),
        ("/all/etc/passwd", 404, "Not found.\n"),
        ("/loop", 404, "Not found.\n"),
        ("/.hidden", 404, "Not found.\n"),
        ("/%2ehidden", 404, "Not found.\n"),
        ("/.well-known/token", 200, "token"),
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
    assert_eq!((refused.status, refused.field("allow")), (405, Some("GET, HEAD, OPTIONS")));
    assert_eq!(site.reply("BREW /index.html").status, 501);
    for target in ["/index.html", "*"] {
        let options = site.reply(&format!("OPTIONS {target}"));
        assert_eq!((options.status, options.field("allow")), (204, Some("GET, HEAD, OPTIONS")));
    }
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
fn a_file_that_changes_ends_the_reply_broken() {
    for change in ["longer", "other bytes of the same length"] {
        let mut site = Site::new();
        let big = site.directory.path().join("root/big");
        assert!(site.port.submit(job(7, get("/big"))).is_ok());
        let mut parts = arrayvec::ArrayVec::new();
        site.port.poll(&mut parts);
        fs::write(&big, vec![8; if change == "longer" { 100_001 } else { 100_000 }]).expect("a file");
        site.port.more(keyferry_app::JobId(7), keyferry_app::Chunk::new());
        parts.clear();
        site.port.poll(&mut parts);
        let broken =
            |part: &keyferry_app::Part| matches!(part, keyferry_app::Part::Failed { started: true, .. });
        assert!(parts.iter().any(broken), "{change}");
    }
}

#[test]
fn a_file_in_memory_is_like_the_one_on_disk() {
    let mut disk = Site::new();
    let mut memory = Site::with(|app| app.with_cache(Duration::from_secs(1)));
    let fields = ["", "Range: bytes=2-4\r\n", "Range: bytes=0-1,5-\r\n", "Range: bytes=10-\r\n"];
    for line in ["GET /digits.bin", "HEAD /digits.bin", "GET /empty", "GET /big"] {
        for fields in fields {
            let wanted = disk.ask(line, fields);
            for time in 0..2 {
                let reply = memory.ask(line, fields);
                assert_eq!(reply, wanted, "{line} {fields} {time}");
            }
        }
    }
    // It is believed for a second, whatever becomes of it.
    fs::remove_file(memory.directory.path().join("root/digits.bin")).expect("it is there");
    assert_eq!(memory.digits("").body, b"0123456789");
    memory.clock.advance_us(1_000_000);
    assert_eq!(memory.digits("").status, 404);
}

#[test]
fn dotfiles_are_served_if_wanted() {
    let site = Site::new();
    let root = site.directory.path().join("root");
    let app = Static::open(&root).expect("the root opens").with_dotfiles(true);
    let (mut port, clock) = inline(Builtin::Static(app), 1);
    for (target, status) in [("/.hidden", 200), ("/./.hidden", 404), ("/../secret", 404)] {
        assert_eq!(parse(&run(&mut port, &clock, get(target), 1).bytes, false).status, status, "{target}");
    }
}

#[test]
fn types_follow_the_extension() {
    let mut site = Site::new();
    let root = site.directory.path().join("root");
    for (name, expected) in [
        ("a.html", "text/html; charset=utf-8"),
        ("a.CSS", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.wasm", "application/wasm"),
        ("a.tar.woff2", "font/woff2"),
        ("a.", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("a.no-such-type", "application/octet-stream"),
    ] {
        fs::write(root.join(name), "x").expect("a file");
        assert_eq!(site.reply(&format!("GET /{name}")).field("content-type"), Some(expected), "{name}");
    }
}

#[test]
fn validators_belong_to_the_state_of_a_file() {
    let mut site = Site::new();
    let file = site.directory.path().join("root/digits.bin");
    let first = site.digits("");
    assert_eq!(first.field("last-modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(first.field("accept-ranges"), Some("bytes"));
    let tag = first.field("etag").expect("a tag").to_owned();
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag} is strong");
    assert_eq!(site.digits("").field("etag"), Some(tag.as_str()), "it stays");
    // A copy elsewhere, on another node, has the same.
    let copy = site.directory.path().join("root/copy");
    fs::copy(&file, &copy).expect("a copy");
    touch(&copy, MODIFIED);
    assert_eq!(site.reply("GET /copy").field("etag"), Some(tag.as_str()));
    touch(&file, MODIFIED + 1);
    assert_ne!(site.digits("").field("etag"), Some(tag.as_str()), "modified");
    fs::write(&file, "012345678").expect("a file");
    touch(&file, MODIFIED);
    assert_ne!(site.digits("").field("etag"), Some(tag.as_str()), "of another length");
}

#[test]
fn conditions_are_answered() {
    let mut site = Site::new();
    let tag = site.digits("").field("etag").expect("a tag").to_owned();
    let same = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (fields, status) in [
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-Modified-Since: {same}\r\n"), 304),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {same}\r\n"), 200),
        (format!("If-Match: {tag}\r\n"), 200),
        ("If-Match: \"x\"\r\n".to_owned(), 412),
        (format!("If-Unmodified-Since: {same}\r\n"), 200),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n".to_owned(), 412),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = site.ask(&format!("{method} /digits.bin"), &fields);
            assert_eq!(reply.status, status, "{method} {fields}");
            let body = match (status, method) {
                (200, "GET") => "0123456789",
                (412, "GET") => "The file is not what you want it to be.\n",
                _ => "",
            };
            assert_eq!(String::from_utf8_lossy(&reply.body), body, "{method} {fields}");
            // What a cache updates its copy with (RFC 9110 15.4.5).
            assert_eq!(reply.field("etag"), (status != 412).then_some(tag.as_str()), "{method} {fields}");
        }
    }
    // Without the file there is nothing to be modified or not.
    assert_eq!(site.ask("GET /none", "If-None-Match: *\r\n").status, 404);
}

#[test]
fn ranges_are_answered() {
    let mut site = Site::new();
    for (range, status, content_range, body) in [
        ("bytes=2-4", 206, Some("bytes 2-4/10"), "234"),
        ("bytes=7-", 206, Some("bytes 7-9/10"), "789"),
        ("bytes=-2", 206, Some("bytes 8-9/10"), "89"),
        ("bytes=0-99", 206, Some("bytes 0-9/10"), "0123456789"),
        ("bytes=3-3,50-", 206, Some("bytes 3-3/10"), "3"),
        ("bytes=10-", 416, Some("bytes */10"), "The file has no such part.\n"),
        ("bytes=5-2", 200, None, "0123456789"),
        ("pages=1-2", 200, None, "0123456789"),
        ("bytes=0-5,3-8", 200, None, "0123456789"),
    ] {
        let reply = site.digits(&format!("Range: {range}\r\n"));
        let found = (reply.status, reply.field("content-range"), String::from_utf8_lossy(&reply.body));
        assert_eq!(found, (status, content_range, body.into()), "{range}");
        // HEAD has no ranges.
        let head = site.ask("HEAD /digits.bin", &format!("Range: {range}\r\n"));
        assert_eq!((head.status, head.field("content-length")), (200, Some("10")), "{range}");
    }
    let twice = site.digits("Range: bytes=0-1\r\nRange: bytes=0-1\r\n");
    assert_eq!(twice.status, 200);
    assert_eq!(site.ask("GET /empty", "Range: bytes=0-\r\n").field("content-range"), Some("bytes */0"));
    let big = site.ask("GET /big", "Range: bytes=1-99998\r\n");
    assert_eq!((big.status, big.body), (206, vec![7; 99_998]));
    let tag = site.digits("").field("etag").expect("a tag").to_owned();
    for (validator, status) in [
        (tag.as_str(), 206),
        ("\"x\"", 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 206),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 200),
    ] {
        let reply = site.digits(&format!("Range: bytes=0-1\r\nIf-Range: {validator}\r\n"));
        assert_eq!(reply.status, status, "{validator}");
    }
    // A condition comes before the range.
    assert_eq!(site.digits(&format!("Range: bytes=0-1\r\nIf-None-Match: {tag}\r\n")).status, 304);
}

/// Reads a multipart body by its own rules: (Content-Range, bytes) of each part.
fn multipart(reply: &Reply) -> Vec<(String, Vec<u8>)> {
    let boundary =
        reply.field("content-type").and_then(|it| it.strip_prefix("multipart/byteranges; boundary="));
    let delimiter = format!("\r\n--{}", boundary.expect("a boundary"));
    let text = String::from_utf8(reply.body.clone()).expect("these files are text");
    let mut pieces = text.split(delimiter.as_str());
    assert_eq!(pieces.next(), Some(""), "no preamble");
    let mut parts = Vec::new();
    for piece in pieces {
        if piece == "--\r\n" {
            return parts;
        }
        let (head, body) = piece.split_once("\r\n\r\n").expect("a part has a head");
        assert!(head.contains("\r\nContent-Type: application/octet-stream"), "{head}");
        let range = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Range: "));
        parts.push((range.expect("which part").to_owned(), body.as_bytes().to_vec()));
    }
    panic!("no end in {text}");
}

#[test]
fn several_ranges_come_in_parts() {
    let mut site = Site::new();
    let reply = site.digits("Range: bytes=8-,0-0, 3-5\r\n");
    assert_eq!((reply.status, reply.field("content-range")), (206, None));
    let expected = [("bytes 8-9/10", "89"), ("bytes 0-0/10", "0"), ("bytes 3-5/10", "345")];
    let expected = expected.map(|(range, bytes)| (range.to_owned(), bytes.as_bytes().to_vec()));
    assert_eq!(multipart(&reply), expected);
    let big = site.ask("GET /big", "Range: bytes=0-39999,50000-99999,40000-40000\r\n");
    let lengths: Vec<usize> = multipart(&big).iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [40_000, 50_000, 1]);
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
