//! One client connection: where its TLS, its request and its reply stand.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use keyferry_app::{CHUNKS_PER_JOB, Chunk, JobId};
use keyferry_http::{Reader, Request};
use keyferry_lease::LeaseId;
use keyferry_tcp::ConnId;
use keyferry_time::Time;
use keyferry_tls::{Alert, Fragment, Handshake, Opener, Sealer};

use crate::access::TraceId;
use crate::peer::PeerId;
use crate::pool::Gather;
use crate::segment::Outgoing;
use crate::upload::Upload;

/// Chunks of one reply that wait to be sealed: as many as the application is given at once.
pub const PARTS_MAX: usize = CHUNKS_PER_JOB;

/// Records that may wait for TCP before nothing more of the client is opened.
pub const BACKLOG_MAX: usize = 16;

/// Records of one reply that are sealed whether they can be sent now or not, so that a reply of a usual size is out of the
/// application's hands though its client reads slowly: as many as TCP takes of any connection.
pub const AHEAD_MAX: u8 = keyferry_tcp::SEGMENTS_MAX as u8;

/// What a listener's port does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// TLS, then the application.
    Https,
    /// Plain HTTP, answered with a redirect to this port.
    Redirect {
        /// The port of the HTTPS listener.
        https_port: u16,
    },
}

/// How far TLS is.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all connections are open, and have their record layer with them"
)]
pub enum Tls {
    /// Plain HTTP listener.
    None,
    /// Not a whole record has come: there is no handshake yet that could cost anything.
    Silent,
    /// Handshake under way.
    Handshake(Box<Handshake>),
    /// Records flow.
    Open(Session),
    /// Nothing is sealed or opened any more.
    Over,
}

/// The record layer of an established connection.
pub struct Session {
    /// Client to server.
    pub opener: Opener,
    /// Server to client.
    pub sealer: Sealer,
}

/// Who makes the reply under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No request is being answered.
    None,
    /// The application here.
    Local(JobId),
    /// A helper; before go the request is kept for the case that it has to run here.
    Lent {
        /// The queue pair.
        peer: PeerId,
        /// The lease.
        lease: LeaseId,
        /// The key is out: nothing is sealed or opened here until the return.
        gone: bool,
    },
}

/// A chunk of a local reply, waiting to be sealed.
pub struct Plain {
    /// The bytes.
    pub chunk: Chunk,
    /// Bytes of it that are sealed: a chunk is as long as records may be, the connection's may have to be shorter.
    pub sealed: u32,
    /// The reply's last chunk.
    pub last: bool,
}

impl Plain {
    /// A chunk of which nothing is sealed.
    pub fn new(chunk: Chunk, last: bool) -> Plain {
        Plain { chunk, sealed: 0, last }
    }

    /// The bytes of the next record.
    pub fn next(&self, fragment: Fragment) -> &[u8] {
        let left = &self.chunk.bytes()[self.sealed as usize..];
        &left[..left.len().min(fragment.bytes())]
    }

    /// Notes that a record of so many bytes was sealed.
    pub fn advance(&mut self, bytes: usize) {
        // A chunk has fewer bytes than 32 bits count.
        self.sealed += bytes as u32;
    }

    /// Whether the last record of it was sealed; asked behind the first one, since an empty chunk is a record too.
    pub fn is_sealed(&self) -> bool {
        self.sealed as usize >= self.chunk.bytes().len()
    }
}

/// Whether a TLS handshake waits for a session of another node.
pub enum Seek {
    /// It does not.
    None,
    /// It does, under this token.
    Waits(u32),
    /// It has waited, and goes on with what was found as soon as there is a buffer for what it has to say.
    Over(Option<Box<keyferry_tls::Session>>),
}

/// Records that TCP had no room for. Few connections ever have any, so there is memory only while there are some.
#[derive(Default)]
#[allow(clippy::box_collection, reason = "one word in each connection in place of four")]
pub struct Backlog(Option<Box<VecDeque<Outgoing>>>);

impl Backlog {
    /// Records in it.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |records| records.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds a record behind all others.
    pub fn push_back(&mut self, record: Outgoing) {
        self.0.get_or_insert_default().push_back(record);
    }

    /// All of them, first to last.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Outgoing> {
        self.0.iter_mut().flat_map(|records| records.iter_mut())
    }

    /// Puts back the one that was first.
    pub fn push_front(&mut self, record: Outgoing) {
        self.0.get_or_insert_default().push_front(record);
    }

    /// Takes the first one.
    pub fn pop_front(&mut self) -> Option<Outgoing> {
        let records = self.0.as_mut()?;
        let first = records.pop_front();
        if records.is_empty() {
            self.0 = None;
        }
        first
    }
}

/// One client connection. It costs no more than this, its keys, its place in a few tables and TCP's own state, while its
/// client has nothing to say.
pub struct Conn {
    /// TCP's name for it.
    pub id: ConnId,
    /// What its port does.
    pub service: Service,
    /// How far TLS is.
    pub tls: Tls,
    /// A record that arrives in pieces.
    pub partial: Option<Box<Gather>>,
    /// Opened bytes behind the request under way: pipelined requests.
    pub waiting: Option<Box<Gather>>,
    /// The request being read.
    pub reader: Reader,
    /// The request being read or answered.
    pub request: Option<Box<Request>>,
    /// Who makes the reply.
    pub reply: Reply,
    /// When the request was whole whose reply is not over; [`Time::NEVER`]: there is none.
    pub asked_at: Time,
    /// Chunks of a local reply that wait to be sealed.
    pub parts: ArrayVec<Plain, PARTS_MAX>,
    /// Chunks the application has for it.
    pub in_app: u8,
    /// Records of the reply under way that were sealed ahead of need, up to [`AHEAD_MAX`].
    pub ahead: u8,
    /// Records TCP had no room for, in order.
    pub backlog: Backlog,
    /// The request being answered is a HEAD.
    pub head_only: bool,
    /// When the body being read began to be awaited; [`Time::NEVER`] before.
    pub body_since: Time,
    /// The body of the request under way, while it comes and the request runs.
    pub upload: Option<Box<Upload>>,
    /// What is to be told of the request being read or answered.
    pub trace: TraceId,
    /// Its TLS handshake was resumed.
    pub resumed: bool,
    /// The connection ends after the reply under way.
    pub close_after: bool,
    /// Its last reply has said so because this node ends.
    pub drained: bool,
    /// The client has sent its FIN, or close_notify.
    pub eof: bool,
    /// The client has sent close_notify: what it sent is whole.
    pub notified: bool,
    /// The client asked for our new keys and has no answer yet.
    pub key_update_due: bool,
    /// Our side is over: what still comes in is discarded.
    pub closing: bool,
    /// The last alert, while it waits for a buffer: FIN alone would look like truncation (RFC 8446 6.1).
    pub farewell: Option<Alert>,
    /// Its TLS handshake is not over.
    pub handshaking: bool,
    /// Whether its TLS handshake waits for a session of another node.
    pub seek: Seek,
    /// A request of it has been answered whole: it may use what is kept in reserve.
    pub served: bool,
    /// Records of lent replies were copied out of their slots, and its client has not acknowledged all it was sent since.
    pub copied: bool,
    /// Since when it holds buffers while its client is waited for, if it is known to.
    pub held_since: Time,
    /// Bytes of a body being read that count against all bodies being read.
    pub body_bytes: u32,
    /// When the handshake, or the request being read, is too late.
    pub deadline: Time,
    /// It is looked after until it [rests](crate::rest), and was last looked at then.
    pub awake: bool,
    /// It has stirred since.
    pub stirred: bool,
    /// See `awake`.
    pub looked_at: Time,
}

/// What a connection costs the worker besides TCP's state, the 12 bytes of IV each way included: its keys (RFC 8446 has 32
/// bytes of secret and 16 of key each way in the most usual suite) are beside it.
const CONN_BYTES_MAX: usize = 360;
const _: () = assert!(size_of::<Option<Conn>>() <= CONN_BYTES_MAX);

impl Conn {
    /// A connection just opened.
    pub fn new(id: ConnId, service: Service, tls: Tls) -> Conn {
        Conn {
            id,
            service,
            tls,
            partial: None,
            waiting: None,
            reader: Reader::new(),
            request: None,
            reply: Reply::None,
            asked_at: Time::NEVER,
            parts: ArrayVec::new(),
            in_app: 0,
            ahead: 0,
            backlog: Backlog::default(),
            head_only: false,
            body_since: Time::NEVER,
            upload: None,
            trace: TraceId::default(),
            resumed: false,
            close_after: false,
            drained: false,
            eof: false,
            notified: false,
            key_update_due: false,
            closing: false,
            farewell: None,
            handshaking: false,
            seek: Seek::None,
            served: false,
            copied: false,
            held_since: crate::shed::NOT_HELD,
            body_bytes: 0,
            deadline: Time::NEVER,
            awake: false,
            stirred: false,
            looked_at: Time::ZERO,
        }
    }

    /// Its reply is over, or will not come: when its request was whole, if there was one.
    pub fn take_asked(&mut self) -> Option<Time> {
        let asked_at = std::mem::replace(&mut self.asked_at, Time::NEVER);
        (asked_at != Time::NEVER).then_some(asked_at)
    }

    /// Whether the key is out: from go to return nothing is sealed or opened here (RFC 8446 4.6.3 wants a
    /// KeyUpdate answered before the next application data, and only the helper can seal now).
    pub fn is_lent_out(&self) -> bool {
        matches!(self.reply, Reply::Lent { gone: true, .. })
    }

    /// Whether another record may be taken from TCP: not while the key is out, nor while opened bytes wait, nor while
    /// the client does not take what its records make us answer, nor while the application does not take what they hold.
    pub fn may_open(&self) -> bool {
        self.backlog.len() < BACKLOG_MAX
            && !self.closing
            && !self.is_lent_out()
            && self.waiting.is_none()
            && self.upload.as_ref().is_none_or(|upload| !upload.is_blocked())
            && !matches!(self.tls, Tls::Over)
    }

    /// Whether part of a request, or of a record, has come and none is being answered.
    pub fn is_amid_request(&self) -> bool {
        self.reply == Reply::None && (self.reader.head_started() || self.partial.is_some())
    }

    /// Whether the application may have one more chunk.
    pub fn has_app_room(&self) -> bool {
        self.parts.len() + usize::from(self.in_app) < PARTS_MAX
    }
}
