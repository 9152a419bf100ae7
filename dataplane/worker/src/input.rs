//! Bytes from the client: TCP slices into records, records into plaintext, plaintext into requests.
//!
//! Everything is done in the memory TCP lends. Copied is only what cannot stay there: a record that arrives in
//! pieces is gathered, because AEAD wants it contiguous; plaintext behind a complete request waits for its turn,
//! because TCP's memory is given back.

use std::ops::Range;

use keyferry_app::routes::Streams;
use keyferry_http::{Limits, Progress, Refusal, Request};
use keyferry_tls::{Established, Failure, Handshake, Offered, Opened, Server, Step};

use crate::conn::{Conn, Reply, Seek, Session, Tls};
use crate::pool::Pools;

/// What taking in some bytes led to. Each record makes one, so what is large in it and seldom is beside it.
pub enum Taken {
    /// Everything there was is taken in; more has to come.
    Wait,
    /// Something was taken in; look again.
    More,
    /// The handshake has something to send (in the flight buffer).
    Flight,
    /// The client offers sessions that are not here: nothing goes on before [`go_on`].
    Absent(Box<Offered>),
    /// The handshake is done; the flight buffer may hold its last words.
    Established {
        /// It was resumed.
        resumed: bool,
        /// Sessions it made.
        made: Vec<keyferry_tls::Session>,
    },
    /// A whole request is in `conn.request`.
    Request,
    /// A request is in `conn.request` whose body is still to come, and which is to run meanwhile.
    Streams,
    /// More of such a body is in `conn.upload`.
    Upload,
    /// The client waits for 100 (Continue) before it sends the body.
    Expects100,
    /// The request cannot be served.
    Refused(Refusal),
    /// The client moved to new keys; a reply in kind is wanted or not.
    KeyUpdate {
        /// It asked us to do the same.
        reply: bool,
    },
    /// The client will send nothing more.
    CloseNotify,
    /// A TLS 1.2 client asked to renegotiate.
    NoRenegotiation,
    /// The connection has to end with an alert.
    Failed(Failure),
    /// No buffer: look again when one comes back.
    Starved,
}

/// A `Taken` is handed up through a few functions for each record.
const TAKEN_BYTES_MAX: usize = 32;
const _: () = assert!(size_of::<Taken>() <= TAKEN_BYTES_MAX);

/// What input needs of the worker.
pub struct Inputs<'a> {
    /// Buffers.
    pub pools: &'a mut Pools,
    /// Bounds of a request.
    pub limits: &'a Limits,
    /// Whose requests run before their bodies are whole.
    pub streams: &'a Streams,
    /// What the handshake wants sent.
    pub flight: &'a mut Vec<u8>,
    /// What handshakes begin with.
    pub tls: &'a Server,
}

/// Takes in bytes TCP lends. Returns how many it used.
pub fn take(conn: &mut Conn, bytes: &mut [u8], with: &mut Inputs<'_>) -> (usize, Taken) {
    if conn.partial.is_some() {
        return gather(conn, bytes, with);
    }
    if bytes.is_empty() {
        return (0, Taken::Wait);
    }
    if matches!(conn.tls, Tls::None) {
        // What is not used stays with TCP.
        return request_bytes(conn, bytes, with);
    }
    match keyferry_tls::record_len(bytes) {
        Err(failure) => (bytes.len(), refused(conn, failure, with)),
        Ok(Some(len)) if len <= bytes.len() => whole(conn, &mut bytes[..len], with),
        Ok(_) if !with.pools.gathers.has_for(conn.served) => (0, Taken::Starved),
        Ok(_) => match with.pools.gathers.take() {
            None => (0, Taken::Starved),
            Some(gather_into) => {
                conn.partial = Some(gather_into);
                gather(conn, bytes, with)
            }
        },
    }
}

/// A record that lies whole in TCP's memory. What its request does not use needs a buffer, which has to be there before
/// the record is opened.
fn whole(conn: &mut Conn, bytes: &mut [u8], with: &mut Inputs<'_>) -> (usize, Taken) {
    let opens = matches!(conn.tls, Tls::Open(_));
    if !may_feed(conn, with.pools) || opens && with.pools.gathers.is_empty() {
        return (0, Taken::Starved);
    }
    let (taken, rest) = record(conn, bytes, with);
    if !rest.is_empty() {
        let Some(mut kept) = with.pools.gathers.take() else {
            unreachable!("a buffer was there before the record was opened");
        };
        (kept.start, kept.end) = (0, rest.len());
        kept.filled().copy_from_slice(&bytes[rest]);
        conn.waiting = Some(kept);
    }
    (bytes.len(), taken)
}

/// Whether there is a request, or a chunk, to feed with what a record may hold: once opened it cannot be opened again.
fn may_feed(conn: &Conn, pools: &Pools) -> bool {
    if conn.reply != Reply::None {
        return conn.upload.as_ref().is_none_or(|upload| upload.may_take(pools));
    }
    let feeds = matches!(conn.tls, Tls::Open(_)) && conn.request.is_none();
    !feeds || pools.requests.has_for(conn.served)
}

/// Adds bytes to a record that arrives in pieces, and takes it in once whole.
fn gather(conn: &mut Conn, bytes: &[u8], with: &mut Inputs<'_>) -> (usize, Taken) {
    let Some(mut partial) = conn.partial.take() else { return (0, Taken::More) };
    let mut used = 0;
    loop {
        let want = match keyferry_tls::record_len(partial.filled()) {
            Err(failure) => {
                with.pools.give_gather(partial);
                return (used, refused(conn, failure, with));
            }
            Ok(None) => keyferry_tls::HEADER_BYTES,
            Ok(Some(len)) => len,
        };
        if partial.end == want && want > keyferry_tls::HEADER_BYTES {
            // What the request does not use stays where it is: who holds a buffer must not need another, or all who
            // hold one may wait for each other.
            let (taken, rest) = record(conn, partial.filled(), with);
            if rest.is_empty() {
                with.pools.give_gather(partial);
            } else {
                (partial.start, partial.end) = (rest.start, rest.end);
                conn.waiting = Some(partial);
            }
            return (used, taken);
        }
        let more = (want - partial.end).min(bytes.len() - used);
        if more == 0 {
            conn.partial = Some(partial);
            return (used, Taken::Wait);
        }
        // The last bytes stay with TCP until the record may be opened: they are what brings the connection back here.
        if partial.end + more == want && want > keyferry_tls::HEADER_BYTES && !may_feed(conn, with.pools) {
            conn.partial = Some(partial);
            return (used, Taken::Starved);
        }
        partial.bytes[partial.end..partial.end + more].copy_from_slice(&bytes[used..used + more]);
        partial.end += more;
        used += more;
    }
}

/// The first record makes a handshake of a silent connection.
fn begin(conn: &mut Conn, with: &Inputs<'_>) {
    if matches!(conn.tls, Tls::Silent) {
        conn.tls = Tls::Handshake(Box::new(Handshake::new(with.tls)));
    }
}

/// A record that cannot be: during the handshake its alert has to come from rustls' keys.
fn refused(conn: &mut Conn, failure: Failure, with: &mut Inputs<'_>) -> Taken {
    begin(conn, with);
    if let Tls::Handshake(handshake) = &mut conn.tls {
        handshake.refuse(failure, with.flight);
    }
    Taken::Failed(failure)
}

/// Takes in one whole record. Also returns which of its bytes, now plaintext, wait until the reply under way is done.
fn record(conn: &mut Conn, record: &mut [u8], with: &mut Inputs<'_>) -> (Taken, Range<usize>) {
    begin(conn, with);
    let begin = record.as_ptr().addr();
    let taken = match &mut conn.tls {
        Tls::None | Tls::Silent | Tls::Over => Taken::More,
        Tls::Handshake(handshake) => {
            let step = handshake.advance(record, with.flight);
            stepped(conn, step)
        }
        Tls::Open(session) => match session.opener.open(record) {
            Err(failure) => Taken::Failed(failure),
            Ok(Opened::Data(data)) => {
                // `data` lies in TCP's or the gathering buffer, not in the connection.
                let at = data.as_ptr().addr() - begin;
                let end = at + data.len();
                let (used, taken) = request_bytes(conn, data, with);
                return (taken, at + used..end);
            }
            Ok(Opened::KeyUpdate { reply }) => Taken::KeyUpdate { reply },
            Ok(Opened::CloseNotify) => Taken::CloseNotify,
            Ok(Opened::NoRenegotiation) => Taken::NoRenegotiation,
            Ok(Opened::Nothing) => Taken::More,
        },
    };
    (taken, 0..0)
}

/// Goes on with a handshake that has waited for a session; `None` if there is none.
pub fn go_on(conn: &mut Conn, flight: &mut Vec<u8>) -> Option<Taken> {
    let (Tls::Handshake(handshake), Seek::Over(found)) = (&mut conn.tls, &mut conn.seek) else { return None };
    let step = handshake.go_on(found.take().map(|found| *found), flight);
    conn.seek = Seek::None;
    Some(stepped(conn, step))
}

/// What a step of the handshake led to.
fn stepped(conn: &mut Conn, step: Step) -> Taken {
    match step {
        Step::Continue => Taken::Flight,
        Step::Failed(failure) => Taken::Failed(failure),
        Step::Absent(offered) => Taken::Absent(Box::new(offered)),
        Step::Done(established) => {
            let Established { opener, sealer, info, sessions } = *established;
            conn.tls = Tls::Open(Session { opener, sealer });
            Taken::Established { resumed: info.resumed, made: sessions }
        }
    }
}

/// Feeds plaintext to the request being read, or to the body of the one that runs. Returns how much it used.
fn request_bytes(conn: &mut Conn, data: &[u8], with: &mut Inputs<'_>) -> (usize, Taken) {
    if conn.reply != Reply::None {
        return upload_bytes(conn, data, with);
    }
    if conn.request.is_none() && with.pools.requests.has_for(conn.served) {
        conn.request = with.pools.requests.take();
    }
    let Some(request) = conn.request.as_deref_mut() else { return (0, Taken::Starved) };
    let before = request.body().len();
    let (is_open, streams) = (matches!(conn.tls, Tls::Open(_)), with.streams);
    let streams = |request: &Request| is_open && streams.takes(request);
    let fed = feed(&mut conn.reader, request, data, with.limits, streams);
    let grown = request.body().len().saturating_sub(before);
    // Bodies are bounded far below what 32 bits count.
    conn.body_bytes += grown as u32;
    with.pools.body_bytes += grown;
    fed
}

fn feed(
    reader: &mut keyferry_http::Reader,
    request: &mut Request,
    data: &[u8],
    limits: &Limits,
    streams: impl Fn(&Request) -> bool,
) -> (usize, Taken) {
    match reader.feed_or_stream(data, request, limits, streams) {
        Ok((used, Progress::NeedMore)) => (used, Taken::More),
        Ok((used, Progress::Continue100)) => (used, Taken::Expects100),
        Ok((used, Progress::Streams)) => (used, Taken::Streams),
        Ok((used, Progress::Complete)) => (used, Taken::Request),
        Err(refusal) => (data.len(), Taken::Refused(refusal)),
    }
}

/// Plaintext behind a request that runs: of its body, or of the next request.
fn upload_bytes(conn: &mut Conn, data: &[u8], with: &mut Inputs<'_>) -> (usize, Taken) {
    let Some(upload) = conn.upload.as_deref_mut() else { return (0, Taken::More) };
    match upload.take(data, with.pools, with.limits) {
        (used, Taken::Refused(refusal)) => {
            (used, Taken::Refused(Refusal { head_only: conn.head_only, ..refusal }))
        }
        taken => taken,
    }
}

/// Feeds plaintext that waited behind a reply.
pub fn take_waiting(conn: &mut Conn, with: &mut Inputs<'_>) -> Taken {
    let Some(mut waiting) = conn.waiting.take() else { return Taken::Wait };
    let (used, taken) = request_bytes(conn, waiting.filled(), with);
    waiting.start += used;
    if waiting.start == waiting.end {
        with.pools.give_gather(waiting);
    } else {
        conn.waiting = Some(waiting);
    }
    taken
}
