//! Requests in any fragmentation, and the replies, through the public API. What is refused: corpus.rs.

use keyferry_http::{
    CHUNK_OVERHEAD_BYTES, ChunkWriter, ERROR_BYTES_MAX, Limits, Method, Progress, REDIRECT_BYTES_MAX, Reader,
    Refusal, ReplyHead, Request, Seen, error, redirect, reply_head_bytes_max, write_head,
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
    assert!(lent.read_wire(head, &body[..2], &Limits::default()).is_err(), "a body unlike its length");
    let with_blank = [b"\r\n", head].concat();
    assert!(lent.read_wire(&with_blank, body, &Limits::default()).is_err());
    let small = Limits { body_bytes: 2, ..Limits::default() };
    assert_eq!(lent.read_wire(head, body, &small).unwrap_err().status, 413);
}

#[test]
fn absolute_targets_name_the_host() {
    let request = read(b"GET HTTPS://a.test:1/b?c HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((request.host(), request.target()), (&b"a.test:1"[..], &b"/b?c"[..]));
    let request = read(b"GET http://a HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((request.target(), request.path(), request.query()), (&b"/"[..], &b"/"[..], &b""[..]));
    for options in ["OPTIONS http://a HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"] {
        assert_eq!(read(options.as_bytes()).unwrap().target(), b"*");
    }
    let request = read(b"PROPFIND / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!((request.method(), request.method_name()), (Method::Other, &b"PROPFIND"[..]));
    assert!(!request.is_safe());
}

#[test]
fn upgrades_are_seen() {
    let upgrade = |fields: &str| {
        read(format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n").as_bytes()).unwrap().upgrade()
    };
    assert!(upgrade("Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"));
    assert!(!upgrade("Upgrade: websocket\r\n"));
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
fn a_client_that_waits_is_told_to_go_on() {
    let (mut reader, mut request) = (Reader::new(), Request::default());
    let head = b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let fed = reader.feed(head, &mut request, &Limits::default());
    assert_eq!(fed, Ok((head.len(), Progress::Continue100)));
    assert_eq!(reader.feed(b"ok", &mut request, &Limits::default()), Ok((2, Progress::Complete)));
}

/// A body is awaited if it is short, and streams if it is not, unless it is here.
#[test]
fn what_streams_and_what_is_awaited() {
    let limits = Limits { body_bytes: 100, streamed_bytes: 50_000, ..Limits::default() };
    let fed = |head: &str, body: &[u8], streams: bool| {
        let mut request = Request::default();
        let bytes = [format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n").as_bytes(), body].concat();
        let fed = Reader::new().feed_or_stream(&bytes, &mut request, &limits, |_| streams);
        (fed.map(|(used, progress)| (used == bytes.len(), progress)).map_err(|it| it.status), request)
    };
    let body = [b'x'; 200];
    let is = |head: &str, body: &[u8], streams| fed(head, body, streams).0;
    assert_eq!(is("Content-Length: 100", &[], true), Ok((true, Progress::NeedMore)));
    assert_eq!(is("Content-Length: 101", &[], true), Ok((true, Progress::Streams)));
    assert_eq!(is("Content-Length: 101", &[], false), Err(413));
    assert_eq!(is("Content-Length: 50001", &[], true), Err(413));
    assert_eq!(is("Content-Length: 200", &body, true), Ok((true, Progress::Complete)));
    assert_eq!(is("Transfer-Encoding: chunked", b"3\r\nabc", true), Ok((true, Progress::Streams)));
    assert_eq!(
        is("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n", true),
        Ok((true, Progress::Complete))
    );
    assert_eq!(is("Transfer-Encoding: chunked", b"ffff\r\n", true), Err(413));
    assert_eq!(
        is("Transfer-Encoding: chunked\r\nExpect: 100-continue", &[], false).unwrap().1,
        Progress::Continue100
    );
    let (_, request) = fed("Content-Length: 50000\r\nExpect: 100-continue", &[], true);
    assert!(!request.is_whole() && request.waits_to_go_on() && request.length() == Some(50_000));
    let (_, request) = fed("Content-Length: 50000\r\nExpect: 100-continue", &body, true);
    assert!(!request.waits_to_go_on() && request.body().len() == 200);
    let mut upload = request.upload();
    let mut out = [0; 64];
    assert_eq!(upload.feed(&[b'y'; 100], &mut out, &limits), Ok((64, 64)));
    assert_eq!(upload.feed(&[b'y'; 60_000], &mut [0; 60_000], &limits), Ok((49_736, 49_736)));
    assert!(upload.is_over());
}

#[test]
fn a_small_body_cannot_come_in_endless_extensions() {
    let limits = Limits::default();
    let (mut reader, mut request) = (Reader::new(), Request::default());
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    reader.feed(head, &mut request, &limits).unwrap();
    let chunk = format!("1;{}\r\na\r\n", "e".repeat(1000));
    let refused =
        (0..limits.body_bytes).find(|_| reader.feed(chunk.as_bytes(), &mut request, &limits).is_err());
    assert!(refused.is_some_and(|chunks| (10..100).contains(&chunks)), "{refused:?}");
    // Small chunks with usual framing are no offence.
    let (mut reader, mut request) = (Reader::new(), Request::default());
    reader.feed(head, &mut request, &limits).unwrap();
    for _ in 0..100_000 {
        reader.feed(b"1;a=b\r\na\r\n", &mut request, &limits).unwrap();
    }
    assert_eq!(reader.feed(b"0\r\n\r\n", &mut request, &limits), Ok((5, Progress::Complete)));
    assert_eq!(request.body().len(), 100_000);
}

#[test]
fn only_a_request_starts_the_clock() {
    let (mut reader, mut request) = (Reader::new(), Request::default());
    reader.feed(b"\r\n", &mut request, &Limits::default()).unwrap();
    assert!(!reader.head_started());
    reader.feed(b"G", &mut request, &Limits::default()).unwrap();
    assert!(reader.head_started());
    reader.feed(b"ET / HTTP/1.1\r\nHost: x\r\n\r\n", &mut request, &Limits::default()).unwrap();
    assert!(!reader.head_started());
}

#[test]
fn heads_are_framed_for_who_asked() {
    let mut out = [0; 2048];
    let mut head = ReplyHead::new(200, 5, "text/plain");
    head.header("X-A", b"b").unwrap();
    assert!(head.header("X A", b"b").is_err() && head.header("X-A", b"b\r\nc").is_err());
    assert!(
        head.header("content-Length", b"7").is_err() && head.header("Transfer-Encoding", b"chunked").is_err()
    );
    assert!(head.header("X-B", &[b'b'; 4096]).is_err());
    let seen = Seen { head_only: false, keep_alive: true, minor: 1 };
    let len = write_head(&head, seen, "", &mut out).unwrap();
    let text = "HTTP/1.1 200 OK\r\nServer: keyferry\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nX-A: b\r\n\r\n";
    assert_eq!(std::str::from_utf8(&out[..len]), Ok(text));
    assert!(write_head(&head, seen, "", &mut out[..40]).is_err());
    let text_of = |head: &ReplyHead, seen| {
        let mut out = [0; reply_head_bytes_max()];
        let len = write_head(head, seen, "Sun, 06 Nov 1994 08:49:37 GMT", &mut out).unwrap();
        String::from_utf8(out[..len].to_vec()).unwrap()
    };
    let chunked = ReplyHead::chunked(200, "a/b\r\nEvil: yes");
    assert_eq!(
        text_of(&chunked, seen),
        "HTTP/1.1 200 OK\r\nServer: keyferry\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let old = Seen { head_only: false, keep_alive: true, minor: 0 };
    assert!(old.needs_close(&chunked) && !old.needs_close(&head));
    assert!(text_of(&chunked, old).contains("\r\nConnection: close\r\n"));
    assert!(!text_of(&chunked, old).contains("chunked"));
    assert!(text_of(&head, old).contains("\r\nConnection: keep-alive\r\n"));
    let empty = text_of(&ReplyHead::new(204, 0, ""), seen);
    assert!(!empty.contains("Content-Length") && empty.starts_with("HTTP/1.1 204 No Content\r\n"));
    let mut full = ReplyHead::new(u16::MAX, u64::MAX, &"t".repeat(96));
    while full.header("A", b"b").is_ok() {}
    text_of(&full, Seen { keep_alive: false, ..seen });
    let mut small = [0; ERROR_BYTES_MAX];
    let len = error(431, false, &mut small);
    assert!(small[..len].starts_with(b"HTTP/1.1 431 "));
    let whole = len;
    let len = error(431, true, &mut small);
    assert!(len < whole && small[..len].ends_with(b"\r\nConnection: close\r\n\r\n"));
    let mut place = [0; REDIRECT_BYTES_MAX];
    let request = read(b"GET /a?b HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").unwrap();
    let len = redirect(&request, 8443, &mut place);
    assert!(String::from_utf8_lossy(&place[..len]).contains("Location: https://[::1]:8443/a?b\r\n"));
    let request = read(b"GET /a HTTP/1.0\r\n\r\n").unwrap();
    let len = redirect(&request, 443, &mut place);
    assert!(place[..len].starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn chunks_are_framed_in_place() {
    let mut out = [0; 300];
    assert_eq!(ChunkWriter::body(&mut out).unwrap().len(), out.len() - CHUNK_OVERHEAD_BYTES);
    ChunkWriter::body(&mut out).unwrap()[..255].fill(b'x');
    let len = ChunkWriter::finish(&mut out, 255);
    let mut stream = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    stream.extend(&out[..len]);
    stream.extend(ChunkWriter::END);
    assert_eq!(read(&stream).unwrap().body(), [b'x'; 255]);
    assert!(ChunkWriter::body(&mut out[..CHUNK_OVERHEAD_BYTES]).is_none());
}

/// A request's head and body.
type Read = (Vec<u8>, Vec<u8>);

/// Feeds `stream` cut at `cuts`; the requests as (head, body), and the refusal that ended it.
fn read_all(stream: &[u8], cuts: &[usize]) -> (Vec<Read>, Option<Refusal>) {
    let limits = Limits::default();
    let (mut reader, mut request) = (Reader::new(), Request::default());
    let mut found = Vec::new();
    let mut cuts: Vec<usize> =
        cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([0, stream.len()]).collect();
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let mut piece = &stream[pair[0]..pair[1]];
        while !piece.is_empty() {
            match reader.feed(piece, &mut request, &limits) {
                Err(refusal) => return (found, Some(refusal)),
                Ok((used, progress)) => {
                    piece = &piece[used..];
                    if progress == Progress::Complete {
                        found.push((request.wire().0.to_vec(), request.body().to_vec()));
                    } else {
                        assert!(piece.is_empty(), "bytes of a request were left with the caller");
                    }
                }
            }
        }
    }
    (found, None)
}

/// Pipelined requests: chunked or not, with so many empty lines before them, and a body.
type Sent = Vec<(bool, usize, Vec<u8>)>;

fn stream_of(requests: &Sent, chunk: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    for (chunked, blank, body) in requests {
        stream.extend(b"\r\n".repeat(*blank));
        if *chunked {
            stream.extend(b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(chunk) {
                stream.extend(format!("{:x};ext=1\r\n", piece.len()).bytes());
                stream.extend(piece);
                stream.extend(b"\r\n");
            }
            stream.extend(b"0\r\nTrailer: x\r\n\r\n");
        } else {
            let length = body.len();
            stream.extend(format!("POST /l HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").bytes());
            stream.extend(body);
        }
    }
    stream
}

fn sent() -> impl Strategy<Value = Sent> {
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    proptest::collection::vec((any::<bool>(), 0usize..3, body), 1..6)
}

proptest! {
    #[test]
    fn any_fragmentation_gives_the_same_requests(
        requests in sent(),
        cuts in proptest::collection::vec(any::<usize>(), 0..40),
        chunk in 1usize..50,
    ) {
        let stream = stream_of(&requests, chunk);
        let (found, refusal) = read_all(&stream, &cuts);
        prop_assert_eq!(refusal, None);
        prop_assert_eq!(found.len(), requests.len());
        for ((head, found), (_, _, sent)) in found.iter().zip(&requests) {
            prop_assert!(head.starts_with(b"POST "));
            prop_assert_eq!(found, sent);
        }
        prop_assert_eq!(found, read_all(&stream, &[]).0);
    }

    /// Whatever a damaged stream means, it means the same in pieces: else something could be smuggled.
    #[test]
    fn damage_reads_the_same_in_pieces(
        requests in sent(),
        cuts in proptest::collection::vec(any::<usize>(), 0..40),
        chunk in 1usize..50,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        const BYTES: &[u8] = b"\r\n\0 :;,0aG#/\x80\t";
        let mut stream = stream_of(&requests, chunk);
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = *byte.get(BYTES);
        }
        let (whole, whole_refusal) = read_all(&stream, &[]);
        let (pieces, pieces_refusal) = read_all(&stream, &cuts);
        prop_assert_eq!(whole, pieces);
        // A head that is wrong and not whole is only refused at once when it comes in one piece.
        if pieces_refusal.is_some() {
            prop_assert_eq!(whole_refusal.is_some(), true);
        }
    }

    /// Whatever name is asked for, in any case: all its values, and no other's.
    #[test]
    fn fields_are_found_by_name(
        fields in proptest::collection::vec(("[!-9;-~&&[!#$%&'*+.^_`|~a-dA-D0-9-]]{1,3}", "[a-c]{0,3}"), 0..9),
        name in "[a-dA-D*~2-]{1,3}",
    ) {
        let mut head = String::from("GET / HTTP/1.0\r\n");
        for (name, value) in &fields {
            head += &format!("{name}: {value} \r\n");
        }
        let request = read(format!("{head}\r\n").as_bytes()).expect("a request");
        for name in fields.iter().map(|(name, _)| name.to_ascii_uppercase()).chain([name]) {
            let same = fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(&name));
            let expected: Vec<_> = same.map(|(_, value)| value.as_bytes()).collect();
            prop_assert_eq!(request.values(&name).collect::<Vec<_>>(), expected);
        }
    }

    /// A body that streams is the one that was sent, however it is cut and however little room there is for it.
    #[test]
    fn what_streams_is_what_was_sent(
        body in proptest::collection::vec(any::<u8>(), 1..400),
        chunk in 1usize..60,
        piece in 1usize..90,
        room in 1usize..50,
    ) {
        let limits = Limits::default();
        let wire = stream_of(&vec![(true, 0, body.clone())], chunk);
        let (mut reader, mut request) = (Reader::new(), Request::default());
        let head = wire.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        let fed = reader.feed_or_stream(&wire[..head], &mut request, &limits, |_| true);
        prop_assert_eq!(fed, Ok((head, Progress::Streams)));
        let (mut upload, mut came, mut out) = (request.upload(), Vec::new(), vec![0; room]);
        for mut rest in wire[head..].chunks(piece) {
            while !rest.is_empty() {
                prop_assert!(!upload.is_over(), "it has ended before its end");
                let (used, written) = upload.feed(rest, &mut out, &limits).unwrap();
                prop_assert!(used > 0 && written <= used);
                came.extend_from_slice(&out[..written]);
                rest = &rest[used..];
            }
        }
        prop_assert!(upload.is_over());
        prop_assert_eq!(came, body);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = read(&bytes);
        let mut head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        head.extend(&bytes);
        let _ = read(&head);
        let _ = Request::default().read_wire(&bytes, b"", &Limits::default());
    }
}

#[test]
fn a_forwarded_reply_says_who_and_when_itself() {
    let seen = Seen { head_only: false, keep_alive: true, minor: 1 };
    let text_of = |head: &ReplyHead| {
        let mut out = [0; reply_head_bytes_max()];
        let len = write_head(head, seen, "Sun, 06 Nov 1994 08:49:37 GMT", &mut out).unwrap();
        String::from_utf8(out[..len].to_vec()).unwrap()
    };
    let mut head = ReplyHead::forwarded(200, Some(2));
    assert!(text_of(&head).contains("\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"));
    head.header("Date", b"Mon, 07 Nov 1994 08:49:37 GMT").unwrap();
    head.header("Server", b"o/1").unwrap();
    head.header("content-type", b"a/b").unwrap();
    for ours in ["Connection", "Content-Length", "Keep-Alive", "Transfer-Encoding", "Upgrade"] {
        assert!(head.header(ours, b"1").is_err(), "{ours}");
    }
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: Mon, 07 Nov 1994 08:49:37 GMT\r\nServer: o/1\r\ncontent-type: a/b\r\n\r\n";
    assert_eq!(text_of(&head), text);
    // Beyond what has room in place, in order, up to a bound.
    head.header("X-Long", &[b'l'; 600]).unwrap();
    head.header("X-Short", b"s").unwrap();
    let clone = text_of(&head.clone());
    assert!(clone.ends_with("lll\r\nX-Short: s\r\n\r\n") && clone == text_of(&head));
    assert!(head.header("X-Longer", &[b'l'; 12 * 1024]).is_err());
    while head.header("A", b"b").is_ok() {}
    assert!(text_of(&head).len() < reply_head_bytes_max());
}

#[test]
fn whoever_tells_of_a_request_has_its_line_though_it_is_refused() {
    let line = |pieces: &[&[u8]]| {
        let (mut reader, mut request) = (Reader::new(), Request::default());
        for piece in pieces {
            if reader.feed(piece, &mut request, &Limits::default()).is_err() {
                break;
            }
        }
        let (method, path) = request.request_line();
        (String::from_utf8_lossy(method).into_owned(), String::from_utf8_lossy(path).into_owned())
    };
    let expected = |method: &str, path: &str| (method.to_owned(), path.to_owned());
    let whole: &[u8] = b"GET /a?secret HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(line(&[whole]), expected("GET", "/a"));
    for at in 1..whole.len() - 1 {
        assert_eq!(line(&[&whole[..at], &whole[at..]]), expected("GET", "/a"));
    }
    // Refused: two of a kind, a bare line feed, no request at all; in one piece and in two.
    assert_eq!(line(&[b"GET /b?secret HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"]), expected("GET", "/b"));
    assert_eq!(line(&[b"PUT /c HTTP/1.1\nHost: x\n\n"]), expected("PUT", "/c"));
    assert_eq!(line(&[b"PUT /c HTT", b"P/1.1\nHost: x\n\n"]), expected("PUT", "/c"));
    assert_eq!(line(&[b"\x16\x03\x01"]), expected("\x16\x03\x01", ""));
    assert_eq!(line(&[b""]), expected("", ""));
    let long = [b"GET /", &[b'a'; 20_000][..]].concat();
    assert!(line(&[&long]).1.starts_with("/aaaa"));
}
