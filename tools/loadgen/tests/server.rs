//! The whole load generator against a small rustls server that can be told to misbehave.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use keyferry_app::synthetic::fill;
use keyferry_load::args::Args;
use keyferry_load::report::Report;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What the server does with request `n` (from 0, over all connections).
type Misdeed = fn(n: u64) -> Deed;

#[derive(Clone, Copy)]
enum Deed {
    Right,
    RightChunked,
    RightThenClose,
    WrongByte,
    OtherSeed,
    OneByteShort,
    CutShort,
    Unavailable,
}

fn serve(misdeed: Misdeed) -> SocketAddr {
    let key = rcgen::generate_simple_self_signed(["load.test".to_owned()]).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicU64::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, requests) = (Arc::clone(&config), Arc::clone(&requests));
            // Head and body are written apart: the second must not wait for the first one's acknowledgement.
            stream.as_ref().unwrap().set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let tls = ServerConnection::new(config).unwrap();
                connection(StreamOwned::new(tls, stream.unwrap()), &requests, misdeed)
            });
        }
    });
    address
}

fn connection(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    requests: &AtomicU64,
    misdeed: Misdeed,
) -> Option<()> {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let mut fields = text.split([' ', '?', '&', '=']);
        fields.find(|&field| field == "bytes")?;
        let bytes: usize = fields.next()?.parse().unwrap();
        fields.find(|&field| field == "seed")?;
        let seed: u64 = fields.next()?.parse().unwrap();

        let deed = misdeed(requests.fetch_add(1, Ordering::Relaxed));
        let mut body = vec![0; bytes];
        fill(if matches!(deed, Deed::OtherSeed) { seed ^ 1 } else { seed }, 0, &mut body);
        let mut fields = format!("Content-Length: {bytes}");
        let mut status = "200 OK";
        match deed {
            Deed::Right | Deed::OtherSeed => {}
            Deed::RightChunked => {
                fields = "Transfer-Encoding: chunked".into();
                let mut chunked = Vec::new();
                for part in body.chunks(777) {
                    write!(chunked, "{:x}\r\n", part.len()).unwrap();
                    chunked.extend_from_slice(part);
                    chunked.extend_from_slice(b"\r\n");
                }
                chunked.extend_from_slice(b"0\r\n\r\n");
                body = chunked;
            }
            Deed::RightThenClose => fields.push_str("\r\nConnection: close"),
            Deed::WrongByte => *body.last_mut().unwrap() ^= 1,
            Deed::OneByteShort => {
                body.pop();
                fields = format!("Content-Length: {}", body.len());
            }
            Deed::CutShort => body.truncate(bytes / 2),
            Deed::Unavailable => status = "503 Service Unavailable",
        }
        write!(stream, "HTTP/1.1 {status}\r\n{fields}\r\n\r\n").ok()?;
        stream.write_all(&body).ok()?;
        stream.flush().ok()?;
        if matches!(deed, Deed::RightThenClose | Deed::CutShort) {
            stream.conn.send_close_notify();
            stream.flush().ok()?;
            return None;
        }
    }
}

fn load(address: SocketAddr, options: &[&str]) -> Report {
    let url = format!("https://load.test:{}/", address.port());
    let resolve = format!("load.test:{}", address.ip());
    let fixed = ["keyferry-load", &url, "--resolve", &resolve, "--insecure", "--synthetic"];
    keyferry_load::run(&Args::parse_from(fixed.iter().chain(options)), &Arc::default()).unwrap()
}

#[test]
fn right_replies_are_counted_and_nothing_else() {
    let address = serve(|n| match n % 3 {
        0 => Deed::RightChunked,
        _ => Deed::Right,
    });
    for version in ["1.2", "1.3"] {
        let mix = ["--tls", version, "--bytes-mix", "0,1,1024,16383,65536,1000000"];
        let shape = ["-c", "5", "-t", "2", "-n", "203", "--pipeline", "3", "--key-update-every", "7"];
        let report = load(address, &[mix.as_slice(), &shape].concat());
        assert_eq!((report.requests, report.mismatches), (203, 0), "{report}");
        assert_eq!(report.first_error, None, "{report}");
        assert_eq!(report.connections, 5, "{report}");
    }
}

#[test]
fn sessions_are_resumed_unless_told_not_to() {
    let address = serve(|_| Deed::Right);
    let shape = ["-c", "1", "-n", "20", "--requests-per-connection", "2"];
    let report = load(address, &shape);
    assert_eq!((report.requests, report.connections), (20, 10), "{report}");
    assert_eq!((report.handshakes.full, report.handshakes.resumed), (1, 9), "{report}");
    let report = load(address, &[shape.as_slice(), &["--no-resumption"]].concat());
    assert_eq!((report.handshakes.full, report.handshakes.resumed), (10, 0), "{report}");
}

/// Chromium finds the figures and each curve, and nothing to complain of.
#[test]
fn a_browser_draws_the_page() {
    let report = load(serve(|_| Deed::Right), &["-c", "2", "-d", "2", "--rate", "200", "--bytes-mix", "100"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    fs::write(&file, keyferry_load::html::page(&report, "keyferry-load ...")).unwrap();
    let flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"];
    let profile = format!("--user-data-dir={}", folder.path().join("profile").display());
    let url = format!("file://{}", file.display());
    let chromium = Command::new("chromium").args(flags).args([&profile, &url]).output();
    let Output { status, stdout, stderr } = chromium.expect("chromium is there; tools/test installs it");
    let (dom, log) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && !log.contains("CONSOLE"), "{log}");
    assert!(dom.contains(&format!("{} in 2.00 s", report.requests)), "{dom}");
    let curves: Vec<_> = dom.split("<polyline").skip(1).collect();
    assert_eq!(curves.len(), 7, "{dom}");
    for curve in curves {
        let points = curve.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
        assert!(points.split_whitespace().count() >= 2, "{curve}");
    }
}

#[test]
fn every_wrong_body_is_found() {
    for (misdeed, found) in [
        ((|n| if n == 5 { Deed::WrongByte } else { Deed::Right }) as Misdeed, "byte 4999"),
        (|n| if n == 5 { Deed::OtherSeed } else { Deed::Right }, "byte 0"),
        (|n| if n == 5 { Deed::OneByteShort } else { Deed::Right }, "4999 bytes"),
    ] {
        let report = load(serve(misdeed), &["-c", "2", "-n", "30", "--bytes-mix", "5000"]);
        assert_eq!((report.requests, report.mismatches), (29, 1), "{report}");
        assert!(report.first_mismatch.as_ref().unwrap().contains(found), "{report}");
        assert!(!report.is_right());
    }
}

#[test]
fn failures_are_sorted_and_survived() {
    let report = load(
        serve(|n| match n {
            3 => Deed::CutShort,
            6 => Deed::Unavailable,
            9 | 12 => Deed::RightThenClose,
            _ => Deed::Right,
        }),
        &["-c", "1", "-n", "20"],
    );
    assert_eq!((report.requests, report.mismatches), (18, 0), "{report}");
    assert_eq!((report.errors.closed, report.errors.status), (1, 1), "{report}");
    assert_eq!(report.connections, 4, "{report}");
}

#[test]
fn a_server_that_is_not_there_is_a_connect_error() {
    // Bound, so that nobody else has the port, and nothing listens on it.
    let held = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&held, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address: SocketAddr = getsockname(&held).unwrap().try_into().unwrap();
    let report = load(address, &["-c", "1", "-d", "0.1"]);
    assert_eq!(report.requests, 0);
    assert!(report.errors.connect > 0, "{report}");
    assert!(!report.is_right());
}

/// What the path of a request allocates shows in the difference between two runs that differ in nothing but their number
/// of requests: threads, connections and histograms are the same.
#[test]
fn requests_allocate_nothing() {
    use keyferry_load::plan::{Plan, Scheme};
    use keyferry_load::{settings, socket::Sockets, tls, worker::Worker};

    let address = serve(|_| Deed::Right);
    let allocations = |requests: &str| {
        let url = format!("https://{address}/");
        let shape = ["keyferry-load", &url, "--insecure", "--synthetic", "-c", "2", "-n", requests];
        let args = Args::parse_from(shape.iter().chain(&["--rate", "100000", "--bytes-mix", "100,3000"]));
        let (started, (slices, counted)) = (std::time::Instant::now(), std::sync::mpsc::channel());
        let process = keyferry_load::process(&args).unwrap();
        let plan = Plan::new(Arc::new(Scheme::new(&args, process).unwrap()), 0, started);
        let config = Arc::new(tls::client_config(&args).unwrap());
        let settings = settings(&args, 0, started);
        let sockets = Sockets::new().unwrap();
        let mut worker = Worker::new(settings, plan, config, Arc::default(), slices, sockets);
        let info = allocation_counter::measure(|| worker.run().unwrap());
        drop(worker);
        let slices: Vec<_> = counted.iter().collect();
        let answered: u64 = slices.iter().map(|slice| slice.tally.requests).sum();
        assert_eq!(answered.to_string(), requests);
        // Each second has new histograms; what else a second costs is small.
        (info.count_total, slices.len() as u64)
    };
    let ((few, few_slices), (many, many_slices)) = (allocations("500"), allocations("3500"));
    let of_slices = 100 * (few_slices + many_slices);
    assert!(many < few + of_slices + 200, "{few} for 500 requests, {many} for 3500");
}
