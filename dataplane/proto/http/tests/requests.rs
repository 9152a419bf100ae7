//! Fragmentation, smuggling forms, and the replies, end to end through the public API.

use keyferry_http::{
    ERROR_BYTES_MAX, Limits, Method, Progress, REDIRECT_BYTES_MAX, Reader, ReplyHead, Request, Seen, error,
    redirect, write_head,
};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<Request, u16> {
    let mut request = Request::default();
    match Reader::new().feed(bytes, &mut request, &Limits::default()) {
        Ok((_, Progress::Complete)) => Ok(request),
        Ok(_) => Err(0),
        Err(refusal) => Err(refusal.status),
    }
}

#[test]
fn a_request_is_read_whole() {
    let request =
        read(b"POST /a/b?c=d HTTP/1.1\r\nHost: x.test:444\r\nContent-Length: 3\r\nX-A:  v \r\n\r\nabc")
            .unwrap();
    assert_eq!(request.method(), Method::Post);
    assert_eq!((request.path(), request.query()), (&b"/a/b"[..], &b"c=d"[..]));
    assert_eq!(request.header("x-a"), Some(&b"v"[..]));
    assert_eq!(request.body(), b"abc");
    assert!(request.keep_alive() && !request.is_safe());
    let mut lent = Request::default();
    let (head, body) = request.wire();
    lent.read_wire(head, body, &Limits::default()).unwrap();
    assert_eq!(lent.wire(), request.wire());
    assert!(lent.read_wire(&head[..head.len() - 1], body, &Limits::default()).is_err());
}

#[test]
fn persistence_follows_version_and_connection() {
    let keeps = |head: &str| read(head.as_bytes()).unwrap().keep_alive();
    assert!(keeps("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let corpus: &[(&[u8], u16)] = &[
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/3.7\r\nHost: x\r\n\r\n", 505),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET http:///a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: magic\r\n\r\n", 417),
    ];
    for (bytes, status) in corpus {
        assert_eq!(read(bytes).err(), Some(*status), "{}", String::from_utf8_lossy(bytes));
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(5000));
    assert_eq!(read(long.as_bytes()).err(), Some(414));
    let wide = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(9000));
    assert_eq!(read(wide.as_bytes()).err(), Some(431));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(80));
    assert_eq!(read(many.as_bytes()).err(), Some(431));
}

#[test]
fn a_client_that_waits_is_told_to_go_on() {
    let (mut reader, mut request) = (Reader::new(), Request::default());
    let head = b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let fed = reader.feed(head, &mut request, &Limits::default());
    assert_eq!(fed, Ok((head.len(), Progress::Continue100)));
    assert_eq!(reader.feed(b"ok", &mut request, &Limits::default()), Ok((2, Progress::Complete)));
}

#[test]
fn heads_are_framed_for_who_asked() {
    let mut out = [0; 2048];
    let mut head = ReplyHead::new(200, 5, "text/plain");
    head.header("X-A", b"b").unwrap();
    assert!(head.header("X A", b"b").is_err() && head.header("X-A", b"b\r\nc").is_err());
    let seen = Seen { head_only: false, keep_alive: true, minor: 1 };
    let len = write_head(&head, seen, "", &mut out).unwrap();
    let text = "HTTP/1.1 200 OK\r\nServer: keyferry\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nX-A: b\r\n\r\n";
    assert_eq!(std::str::from_utf8(&out[..len]), Ok(text));
    assert!(write_head(&head, seen, "", &mut out[..40]).is_err());
    let mut small = [0; ERROR_BYTES_MAX];
    let len = error(431, &mut small);
    assert!(small[..len].starts_with(b"HTTP/1.1 431 "));
    let mut place = [0; REDIRECT_BYTES_MAX];
    let request = read(b"GET /a?b HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").unwrap();
    let len = redirect(&request, 8443, &mut place);
    assert!(String::from_utf8_lossy(&place[..len]).contains("Location: https://[::1]:8443/a?b\r\n"));
}

/// Feeds `stream` cut at `cuts`; the requests as (head, body).
fn read_all(stream: &[u8], cuts: &[usize]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let limits = Limits::default();
    let (mut reader, mut request) = (Reader::new(), Request::default());
    let mut found = Vec::new();
    let mut cuts: Vec<usize> =
        cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([0, stream.len()]).collect();
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let mut piece = &stream[pair[0]..pair[1]];
        while !piece.is_empty() {
            let (used, progress) = reader.feed(piece, &mut request, &limits).unwrap();
            piece = &piece[used..];
            if progress == Progress::Complete {
                found.push((request.wire().0.to_vec(), request.body().to_vec()));
                request.clear();
            } else {
                assert!(piece.is_empty() || progress == Progress::Continue100);
            }
        }
    }
    found
}

proptest! {
    #[test]
    fn any_fragmentation_gives_the_same_requests(
        bodies in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300)), 1..6),
        cuts in proptest::collection::vec(any::<usize>(), 0..40),
        chunk in 1usize..50,
    ) {
        let mut stream = Vec::new();
        for (chunked, body) in &bodies {
            if *chunked {
                stream.extend(b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(chunk) {
                    stream.extend(format!("{:x};ext=1\r\n", piece.len()).bytes());
                    stream.extend(piece);
                    stream.extend(b"\r\n");
                }
                stream.extend(b"0\r\nTrailer: x\r\n\r\n");
            } else {
                stream.extend(format!("POST /l HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).bytes());
                stream.extend(body);
            }
        }
        let found = read_all(&stream, &cuts);
        prop_assert_eq!(found.len(), bodies.len());
        for ((_, found), (_, sent)) in found.iter().zip(&bodies) {
            prop_assert_eq!(found, sent);
        }
        prop_assert_eq!(found, read_all(&stream, &[]));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = read(&bytes);
        let mut head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        head.extend(&bytes);
        let _ = read(&head);
    }
}
