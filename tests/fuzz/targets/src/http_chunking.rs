//! Chunked bodies: any bytes behind a head that announces chunks, whole and in pieces, against a decoder that reads
//! the grammar as it stands; and bodies framed by our own writer.
//!
//! Input: a byte that picks reading or writing, a byte for the cuts, then framing or body.

use keyferry_http::{ChunkWriter, Limits, Progress, Reader, Request, Upload};

use crate::http_head::{Outcome, converse, is_framing, judge};
use crate::input::{Input, cut};
use crate::{Seed, Target};

const HEAD: &[u8] = b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(crate) static TARGET: Target = Target { name: "http_chunking", heap_bytes_max: 4 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.u8();
    let limits = match choice >> 1 & 1 {
        0 => Limits::default(),
        _ => Limits { body_bytes: 64, chunk_line_bytes: 8, ..Limits::default() },
    };
    let seed = input.u8();
    if choice & 1 == 0 { read(input.rest(), seed, &limits) } else { written(input.rest(), seed) }
}

fn read(framing: &[u8], seed: u8, limits: &Limits) {
    let wire = [HEAD, framing].concat();
    let whole = converse(std::iter::once(&wire[..]), limits);
    let pieces = converse(cut(&wire, seed), limits);
    same(&whole, &pieces);
    streamed(&wire, seed, &whole, limits);
    let Some(request) = whole.requests.first() else {
        // Extensions and trailers may be refused for what is in them.
        if let Some(Decoded { body, plain: true }) = decoded(framing) {
            let refusal = whole.refusal.expect("the body is whole");
            assert!(is_framing(refusal), "{refusal:?} is not about framing");
            // What is well-formed is refused for its size alone.
            let lines = framing.len() - body.len();
            assert!(body.len() > limits.body_bytes || lines > limits.chunk_line_bytes, "{refusal:?}");
        }
        return;
    };
    judge(request, limits);
    let expected = decoded(framing).map(|decoded| decoded.body);
    assert_eq!(Some(request.body()), expected.as_deref(), "the grammar says otherwise");
}

/// A body that streams is the same, however it is cut and however little room there is for it.
fn streamed(wire: &[u8], seed: u8, whole: &Outcome, limits: &Limits) {
    let limits = Limits { streamed_bytes: limits.body_bytes, ..*limits };
    let (mut reader, mut request) = (Reader::new(), Request::default());
    let mut room = [0; 256];
    let room = &mut room[..1 + usize::from(seed)];
    let (mut body, mut upload) = (Vec::new(), None::<Upload>);
    let refused = |refusal| assert_eq!(whole.refusal, Some(refusal), "it streams, and is refused");
    for piece in cut(wire, seed) {
        let mut rest = piece;
        while !rest.is_empty() {
            let Some(upload) = &mut upload else {
                match reader.feed_or_stream(rest, &mut request, &limits, |_| true) {
                    Err(refusal) => return refused(refusal),
                    Ok((_, Progress::Complete)) => {
                        return assert_eq!(request.body(), whole.requests[0].body(), "it need not stream");
                    }
                    Ok((used, progress)) => {
                        rest = &rest[used..];
                        if progress == Progress::Streams {
                            assert!(!request.is_whole() && rest.is_empty());
                            body.extend_from_slice(request.body());
                            upload = Some(request.upload());
                        }
                    }
                }
                continue;
            };
            match upload.feed(rest, room, &limits) {
                Err(refusal) => return refused(refusal),
                Ok((used, written)) => {
                    assert!(used > 0 && written <= used);
                    rest = &rest[used..];
                    body.extend_from_slice(&room[..written]);
                }
            }
            assert!(body.len() <= limits.streamed_bytes, "within the limits");
            if upload.is_over() {
                return assert_eq!(body, whole.requests[0].body(), "it streams to the same end");
            }
        }
    }
    assert!(whole.requests.is_empty() && whole.refusal.is_none(), "it streams and has no end");
}

fn same(whole: &Outcome, pieces: &Outcome) {
    assert_eq!(whole.requests.len(), pieces.requests.len(), "as many requests");
    for (one, other) in whole.requests.iter().zip(&pieces.requests) {
        assert_eq!(one.wire(), other.wire(), "the same request");
    }
    if pieces.refusal.is_some() {
        assert!(whole.refusal.is_some());
    }
    if whole.requests.is_empty() {
        assert_eq!(whole.refusal, pieces.refusal, "framing is judged byte by byte");
    }
}

/// A body whose framing is as the grammar has it.
struct Decoded {
    body: Vec<u8>,
    /// Sizes and data alone.
    plain: bool,
}

/// RFC 9112 7.1, read as slowly as it is written: the body, or nothing if the framing is not that of one whole body.
fn decoded(mut rest: &[u8]) -> Option<Decoded> {
    let (mut body, mut plain) = (Vec::new(), true);
    loop {
        let line = line(&mut rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        // BWS may stand before an extension, which begins with a semicolon (RFC 9112 7.1.1).
        let blank = extension.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let extension = &extension[blank..];
        plain &= blank == 0 && extension.is_empty();
        let sound = (1..=16).contains(&digits) && (extension.is_empty() || extension[0] == b';');
        if !sound || line.contains(&0) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).ok()?;
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let trailer = line(&mut rest)?;
        if trailer.is_empty() {
            return Some(Decoded { body, plain });
        }
        plain = false;
        if trailer.contains(&0) {
            return None;
        }
    }
}

/// A line that ends in CR LF, without a bare one of either.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\r' || *byte == b'\n')?;
    let line = &rest[..end];
    *rest = rest[end..].strip_prefix(b"\r\n")?;
    Some(line)
}

/// What our writer frames our reader reads.
fn written(body: &[u8], seed: u8) {
    let mut wire = HEAD.to_vec();
    for piece in cut(body, seed) {
        let mut chunk = vec![0; piece.len() + 12];
        let room = ChunkWriter::body(&mut chunk).expect("there is room for a byte");
        assert_eq!(room.len(), piece.len());
        room.copy_from_slice(piece);
        let len = ChunkWriter::finish(&mut chunk, piece.len());
        wire.extend_from_slice(&chunk[..len]);
    }
    wire.extend_from_slice(ChunkWriter::END);
    let outcome = converse(cut(&wire, seed.wrapping_add(1)), &Limits::default());
    assert_eq!((outcome.requests.len(), outcome.refusal), (1, None), "one request");
    assert_eq!(outcome.requests[0].body(), body);
}

fn seeds() -> Vec<Seed> {
    let framings: [(&str, &str); 7] = [
        ("short", "5\r\nhello\r\n0\r\n\r\n"),
        ("two", "1\r\na\r\nA;name=value\r\n0123456789\r\n0\r\n\r\n"),
        ("trailers", "3\r\nabc\r\n0\r\nExpires: never\r\nX: y\r\n\r\n"),
        ("blank", "3 \t;q=\"z\"\r\nabc\r\n000\r\n\r\n"),
        ("large", "FFFFFFFFFFFFFFFF\r\n"),
        ("zeros", "0000000000000005\r\nhello\r\n0;last\r\n\r\n"),
        ("bare", "5\nhello\n0\n\n"),
    ];
    let input = |(name, wire): (&str, &str)| (name.to_owned(), [b"\x00\x02", wire.as_bytes()].concat());
    let mut seeds: Vec<Seed> = framings.into_iter().map(input).collect();
    seeds.push(("tight".into(), b"\x02\x015;x\r\nhello\r\n0\r\n\r\n".to_vec()));
    seeds.push(("written".into(), b"\x01\x02the body of a reply, cut into chunks".to_vec()));
    seeds
}
