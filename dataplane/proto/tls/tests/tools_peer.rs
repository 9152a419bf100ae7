//! Real clients over loopback: `openssl s_client` for each suite of both versions, and Python's `ssl`. They talk to a
//! small blocking server made of this crate and a TCP socket, which lends every second reply.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::*;
use keyferry_tls::*;

/// One reply: longer than a record, and not the same everywhere.
fn body() -> Vec<u8> {
    (0..40_000u32).map(|it| b'a' + (it % 23) as u8).collect()
}

/// What the server saw of one connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    info: Option<Info>,
    failure: Option<Failure>,
    requests: usize,
    key_updates: usize,
    renegotiations: usize,
    close_notify: bool,
}

/// Reads one record; `None` at the end of the stream.
fn read_record(tcp: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; HEADER_BYTES];
    tcp.read_exact(&mut record).ok()?;
    record.resize(record_len(&record).ok()??, 0);
    tcp.read_exact(&mut record[HEADER_BYTES..]).ok()?;
    Some(record)
}

fn serve(server: &Server, tcp: &mut TcpStream) -> Seen {
    let mut seen = Seen::default();
    let mut handshake = Handshake::new(server);
    let mut established = loop {
        let Some(mut record) = read_record(tcp) else { return seen };
        let mut out = Vec::new();
        let step = handshake.advance(&mut record, &mut out);
        tcp.write_all(&out).unwrap();
        match step {
            Step::Continue => {}
            Step::Absent(_) => panic!("sessions are kept here"),
            Step::Done(established) => break established,
            Step::Failed(failure) => return Seen { failure: Some(failure), ..seen },
        }
    };
    seen.info = Some(established.info);
    let mut request = Vec::new();
    let mut out = vec![0; SEALED_BYTES_MAX];
    while let Some(mut record) = read_record(tcp) {
        match established.opener.open(&mut record) {
            Ok(Opened::Data(data)) => request.extend_from_slice(data),
            Ok(Opened::KeyUpdate { reply }) => {
                seen.key_updates += 1;
                if reply {
                    let len = established.sealer.key_update(false, &mut out).unwrap();
                    tcp.write_all(&out[..len]).unwrap();
                }
            }
            Ok(Opened::NoRenegotiation) => {
                seen.renegotiations += 1;
                let len = established.sealer.alert(Alert::NO_RENEGOTIATION, &mut out).unwrap();
                tcp.write_all(&out[..len]).unwrap();
            }
            Ok(Opened::CloseNotify) => {
                seen.close_notify = true;
                let len = established.sealer.close_notify(&mut out).unwrap();
                tcp.write_all(&out[..len]).unwrap();
                break;
            }
            Ok(Opened::Nothing) => {}
            Err(failure) => {
                let len = established.sealer.alert(failure.alert, &mut out).unwrap();
                let _ = tcp.write_all(&out[..len]);
                return Seen { failure: Some(failure), ..seen };
            }
        }
        while let Some(at) = request.windows(2).position(|it| it == b"!\n") {
            request.drain(..at + 2);
            seen.requests += 1;
            reply(&mut established.sealer, seen.requests.is_multiple_of(2), tcp);
        }
    }
    seen
}

fn reply(sealer: &mut Sealer, lent: bool, tcp: &mut TcpStream) {
    let mut out = vec![0; SEALED_BYTES_MAX];
    let mut borrower = lent.then(|| LentSealer::new(sealer.lend(100).unwrap()));
    for chunk in body().chunks(PLAINTEXT_BYTES_MAX) {
        let len = match &mut borrower {
            Some(borrower) => borrower.seal_data(chunk, &mut out),
            None => sealer.seal(Content::Data, chunk, &mut out),
        };
        tcp.write_all(&out[..len.unwrap()]).unwrap();
    }
    if let Some(borrower) = borrower {
        sealer.reclaim(borrower.used()).unwrap();
    }
}

/// Serves so many connections, one after the other, and tells what was seen of each.
fn listen(options: ServerOptions, connections: usize) -> (SocketAddr, mpsc::Receiver<Seen>) {
    let server = Server::new(&options).unwrap();
    server.warm_up();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..connections {
            let (mut tcp, _) = listener.accept().unwrap();
            tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let seen = serve(&server, &mut tcp);
            let _ = tell.send(seen);
        }
    });
    (address, told)
}

fn seen(told: &mpsc::Receiver<Seen>) -> Seen {
    told.recv_timeout(Duration::from_secs(30)).expect("the server saw the connection's end")
}

/// What `openssl s_client` printed, the replies cut out and counted.
struct Printed {
    replies: usize,
    text: String,
}

/// `openssl s_client`, fed `input` line by line: each when what the one before led to has been seen.
fn s_client(address: SocketAddr, arguments: &[&str], input: &[&str]) -> Printed {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-servername", "a.test", "-alpn", "http/1.1"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let (mut got, mut said) = (Vec::new(), Vec::new());
    let mut requests = 0;
    for line in input {
        if stdin.write_all(line.as_bytes()).is_err() {
            break;
        }
        if line.contains('!') {
            requests += 1;
            read_until(&mut stdout, &mut got, |got| count(got, &body()) >= requests);
        } else {
            // A command of its own, which it reads only from the start of what it finds on stdin.
            let done = |said: &[u8]| count(said, b"KEYUPDATE") + count(said, b"RENEGOTIATING") > 0;
            read_until(&mut stderr, &mut said, done);
        }
    }
    let _ = stdin.write_all(b"Q\n");
    drop(stdin);
    stdout.read_to_end(&mut got).unwrap();
    stderr.read_to_end(&mut said).unwrap();
    child.wait().unwrap();
    let replies = count(&got, &body());
    got.extend(said);
    let body = String::from_utf8(body()).unwrap();
    Printed { replies, text: String::from_utf8_lossy(&got).replace(&body, "(reply)") }
}

fn count(text: &[u8], part: &[u8]) -> usize {
    let mut found = 0;
    let mut at = 0;
    while at + part.len() <= text.len() {
        let here = text[at..].starts_with(part);
        found += usize::from(here);
        at += if here { part.len() } else { 1 };
    }
    found
}

fn read_until(from: &mut impl Read, got: &mut Vec<u8>, done: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while !done(got) {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => got.extend_from_slice(&buffer[..len]),
        }
    }
}

#[test]
fn s_client_with_each_suite() {
    let (ecdsa, rsa) = (Identity::new(Kind::Ecdsa, &["a.test"]), Identity::new(Kind::Rsa, &["a.test"]));
    let (address, told) = listen(options(&[&ecdsa, &rsa]), Suite::ALL.len());
    for suite in Suite::ALL {
        let name = openssl_name(suite);
        let arguments: [&str; 3] = match suite.version() {
            Version::Tls13 => ["-tls1_3", "-ciphersuites", &name],
            Version::Tls12 => ["-tls1_2", "-cipher", &name],
        };
        let output = s_client(address, &arguments, &["one!\n", "two!\n", "three!\n"]);
        let Printed { replies, text } = output;
        assert_eq!(replies, 3, "{name}: {text}");
        assert!(text.contains(&format!("Cipher is {name}")), "{name}: {text}");
        assert!(text.contains("ALPN protocol: http/1.1"), "{name}: {text}");
        let seen = seen(&told);
        assert_eq!(seen.info.map(|it| it.suite), Some(suite));
        assert_eq!((seen.requests, seen.failure, seen.close_notify), (3, None, true), "{name}");
    }
}

/// OpenSSL's name of a suite.
fn openssl_name(suite: Suite) -> String {
    match suite.version() {
        Version::Tls13 => suite.name().to_owned(),
        Version::Tls12 => suite
            .name()
            .replace("TLS_", "")
            .replace("_WITH", "")
            .replace("AES_", "AES")
            .replace("POLY1305_SHA256", "POLY1305")
            .replace('_', "-"),
    }
}

#[test]
fn s_client_updates_keys() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let (address, told) = listen(options(&[&identity]), 2);
    // k: an update, K: one that wants ours as well.
    for command in ["k\n", "K\n"] {
        let output = s_client(address, &["-tls1_3"], &["one!\n", command, "two!\n", "three!\n"]);
        assert_eq!(output.replies, 3, "{}", output.text);
        let seen = seen(&told);
        assert_eq!((seen.requests, seen.key_updates, seen.failure), (3, 1, None));
    }
}

#[test]
fn s_client_may_not_renegotiate() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let (address, told) = listen(options(&[&identity]), 1);
    let output = s_client(address, &["-tls1_2"], &["one!\n", "R\n"]);
    assert_eq!(output.replies, 1, "{}", output.text);
    let seen = seen(&told);
    assert_eq!((seen.requests, seen.renegotiations), (1, 1));
    // OpenSSL takes the refusal as the end, and says so.
    let reason = seen.failure.map(|it| it.reason);
    assert_eq!(reason, Some(FailureReason::PeerAlert(Alert::HANDSHAKE_FAILURE)));
}

#[test]
fn s_client_comes_back() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let lifetime = Duration::from_secs(600);
    let folder = tempfile::tempdir().unwrap();
    for (resumption, resumes) in [
        (Resumption::Off, false),
        (Resumption::Table { sessions: 10, lifetime }, true),
        (Resumption::Tickets { lifetime }, true),
    ] {
        let (address, told) = listen(ServerOptions { resumption, ..options(&[&identity]) }, 4);
        for version in ["-tls1_2", "-tls1_3"] {
            let file = folder.path().join(format!("session{version}"));
            let file = file.to_str().unwrap();
            let _ = std::fs::remove_file(file);
            let first = s_client(address, &[version, "-sess_out", file], &["one!\n"]);
            assert_eq!(first.replies, 1, "{}", first.text);
            assert_eq!(seen(&told).info.map(|it| it.resumed), Some(false));
            let known = std::path::Path::new(file).exists();
            assert!(known || !resumes);
            let session: &[&str] = if known { &[version, "-sess_in", file] } else { &[version] };
            let second = s_client(address, session, &["two!\n"]);
            assert_eq!(second.replies, 1, "{}", second.text);
            let resumed = seen(&told).info.map(|it| it.resumed);
            assert_eq!(resumed, Some(resumes), "{resumption:?} {version}");
        }
    }
}

#[test]
fn python_reads_every_byte() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let (address, told) = listen(options(&[&identity]), 2);
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, identity.certificate.pem()).unwrap();
    for version in ["TLSv1_2", "TLSv1_3"] {
        let program = r#"
import socket, ssl, sys
host, port, roots, version = sys.argv[1:]
context = ssl.create_default_context(cafile=roots)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
context.set_alpn_protocols(["http/1.1"])
with socket.create_connection((host, int(port))) as tcp:
    with context.wrap_socket(tcp, server_hostname="a.test") as tls:
        body = bytes(ord("a") + i % 23 for i in range(40000))
        for _ in range(5):
            tls.sendall(b"more!\n")
            got = b""
            while len(got) < len(body):
                part = tls.recv(1 << 16)
                assert part, "cut short"
                got += part
            assert got == body
        tls.sendall(b"x" * 100000)
        tls.unwrap()
print("ok")
"#;
        let output = Command::new("python3")
            .args(["-c", program, &address.ip().to_string(), &address.port().to_string()])
            .args([roots.to_str().unwrap(), version])
            .output()
            .expect("python3 is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok", "{version}: {errors}");
        let seen = seen(&told);
        assert_eq!((seen.requests, seen.close_notify, seen.failure), (5, true, None), "{version}");
    }
}
