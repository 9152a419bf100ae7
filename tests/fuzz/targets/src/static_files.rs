//! Requests for files: paths, ranges and conditions of any content, to a directory beside which lies a secret.
//!
//! Input: the request line's target, then header fields, as a client sends them behind `GET `.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use keyferry_app::App;
use keyferry_app::static_files::Static;
use keyferry_http::{Limits, Request, Seen, reply_head_bytes_max, write_head};
use keyferry_time::Time;

use crate::folders::made_once;
use crate::http_head::converse;
use crate::{Seed, Target};

/// Bytes of a file.
const FILE_BYTES: usize = 1000;
/// No byte of it is in any file that is served.
const SECRET: &[u8] = b"\xff\xfe\xfd\xfc";
/// Calls for one body at most: each brings a byte or the end.
const PIECES_MAX: usize = 4096;

pub(crate) static TARGET: Target = Target { name: "static_files", heap_bytes_max: 1 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let wire = [b"GET ", bytes].concat();
    let outcome = converse(std::iter::once(&wire[..]), &Limits::default());
    for request in outcome.requests.iter().take(4) {
        serve(request);
    }
}

fn serve(request: &Request) {
    let mut files = files().clone();
    let mut task = files.begin(request, Time::ZERO);
    let Poll::Ready(head) = files.head(&mut task, request, Time::ZERO) else {
        panic!("a file is there or is not")
    };
    let known = [200, 206, 301, 304, 308, 400, 403, 404, 405, 412, 414, 416, 501];
    assert!(known.contains(&head.status), "{}", head.status);
    let mut text = vec![0; reply_head_bytes_max()];
    let len = write_head(&head, Seen::of(request), "", &mut text).expect("room for any head");
    let length = head.length.expect("its length is known");
    let mut body = Vec::new();
    let bodiless = request.method() == keyferry_http::Method::Head || head.status == 304 || length == 0;
    for _ in 0..PIECES_MAX {
        if bodiless {
            break;
        }
        let mut out = [0; 97];
        let Poll::Ready(piece) = files.body(&mut task, request, Time::ZERO, &mut out) else {
            panic!("no waiting")
        };
        assert!(piece.bytes <= out.len(), "the file can be read");
        body.extend_from_slice(&out[..piece.bytes]);
        if piece.end {
            break;
        }
        assert!(piece.bytes > 0, "a piece is something, or the end");
    }
    assert!(bodiless || body.len() as u64 == length, "{} bytes of {length}", body.len());
    assert!(!body.windows(SECRET.len()).any(|it| it == SECRET), "what is beside the directory");
    judge(&text[..len], &body, bodiless);
}

/// The head is one head, and a part is the part it says it is.
fn judge(text: &[u8], body: &[u8], bodiless: bool) {
    let mut fields = [httparse::EMPTY_HEADER; 24];
    let mut parsed = httparse::Response::new(&mut fields);
    assert_eq!(parsed.parse(text).ok(), Some(httparse::Status::Complete(text.len())), "one head");
    let field = |name: &str| {
        let found = parsed.headers.iter().find(|it| it.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let Some((range, length)) =
        field("content-range").and_then(|it| it.strip_prefix("bytes ")?.split_once('/'))
    else {
        return;
    };
    let number = |text: &str| text.parse::<usize>().expect("a number");
    match range.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (number(first), number(last));
            assert!(first <= last && last < number(length), "within the file");
            assert!(bodiless || body == &content()[first..=last], "other bytes than it says");
        }
        None => assert_eq!((range, parsed.code), ("*", Some(416))),
    }
}

fn content() -> Vec<u8> {
    (0..FILE_BYTES).map(|at| b'a' + (at % 23) as u8).collect()
}

fn files() -> &'static Static {
    static FILES: OnceLock<Static> = OnceLock::new();
    FILES.get_or_init(|| {
        let folder = made_once("keyferry-fuzz-static-1", make);
        Static::open(&folder.join("www")).expect("a directory")
    })
}

fn make(folder: &Path) {
    let root = folder.join("www");
    fs::create_dir_all(root.join("d")).expect("the folder is writable");
    let write = |path: PathBuf, bytes: &[u8]| {
        fs::write(&path, bytes).expect("a file");
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let file = fs::File::options().write(true).open(path);
        file.and_then(|it| it.set_modified(modified)).expect("its time");
    };
    write(folder.join("secret.txt"), &SECRET.repeat(100));
    write(root.join("index.html"), &content());
    write(root.join("d/a b.css"), &content());
    write(root.join("empty.txt"), b"");
    write(root.join(".hidden"), SECRET);
    for (to, name) in [("../secret.txt", "out"), ("..", "up"), ("index.html", "in"), ("/etc/passwd", "far")] {
        symlink(to, root.join(name)).expect("a link");
    }
}

fn seeds() -> Vec<Seed> {
    let requests = [
        ("index", "/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("escaped", "/d/a%20b.css?v=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("up", "/../secret.txt HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("link", "/out HTTP/1.1\r\nHost: a\r\n\r\nGET /up/secret.txt HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("inside", "/in HTTP/1.1\r\nHost: a\r\n\r\nGET /far HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("directory", "/d HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("range", "/index.html HTTP/1.1\r\nHost: a\r\nRange: bytes=5-99\r\n\r\n"),
        ("ranges", "/index.html HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0, 10-19,-5\r\n\r\n"),
        ("beyond", "/index.html HTTP/1.1\r\nHost: a\r\nRange: bytes=1000-\r\n\r\n"),
        (
            "since",
            "/index.html HTTP/1.1\r\nHost: a\r\nIf-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n",
        ),
        ("match", "/index.html HTTP/1.1\r\nHost: a\r\nIf-None-Match: W/\"x\", *\r\nIf-Match: \"y\"\r\n\r\n"),
        ("if-range", "/index.html HTTP/1.1\r\nHost: a\r\nIf-Range: \"z\"\r\nRange: bytes=1-2\r\n\r\n"),
        ("hidden", "/%2ehidden HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    requests.into_iter().map(|(name, wire)| (name.to_owned(), wire.as_bytes().to_vec())).collect()
}
