//! What nodes send, read off the wire before any fault: each connection's bytes by sequence number. A byte sent again
//! has to be the byte sent before, whoever sealed it and whatever memory it comes from. Of what clients send, the
//! ClientHello, when the node had it, and when it answered.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

/// Where TCP starts in a frame without VLAN and IP options.
const TCP: usize = 34;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Bytes of a TLS record's header.
const RECORD_HEADER: usize = 5;

/// A client sends fewer on one connection.
const BYTES_MAX: usize = 1 << 24;

/// The bytes of one connection.
#[derive(Debug)]
pub struct Stream {
    first: u32,
    /// From the first byte behind the SYN.
    pub bytes: Vec<u8>,
}

/// What a client says first.
#[derive(Debug, Default)]
pub struct Hello {
    first: u32,
    /// Its first record, as far as it is sent.
    pub bytes: Vec<u8>,
    /// The node acknowledged all of it then.
    pub taken_ns: Option<u64>,
    /// The node sent the first byte, or a reset, then.
    pub answered_ns: Option<u64>,
}

impl Hello {
    /// Bytes of the record; `None` before its header is sent.
    fn len(&self) -> Option<usize> {
        let header = self.bytes.get(..RECORD_HEADER)?;
        Some(RECORD_HEADER + usize::from(u16::from_be_bytes([header[3], header[4]])))
    }

    /// Whether all of it is sent.
    pub fn is_whole(&self) -> bool {
        self.len().is_some_and(|len| self.bytes.len() >= len)
    }
}

/// A TCP segment over IPv4.
struct Segment<'a> {
    from: u16,
    to: u16,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    payload: &'a [u8],
}

impl Segment<'_> {
    /// `None`: the frame is something else.
    fn read(frame: &[u8]) -> Option<Result<Segment<'_>, String>> {
        if frame.len() < TCP + 20 || frame[12..14] != [8, 0] || frame[23] != 6 {
            return None;
        }
        let number16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let number32 = |at: usize| u32::from(number16(at)) << 16 | u32::from(number16(at + 2));
        let header = usize::from(frame[TCP + 12] >> 4) * 4;
        let end = 14 + usize::from(number16(16));
        let Some(payload) = frame.get(TCP + header..end) else {
            return Some(Err("a packet shorter than it says".to_owned()));
        };
        Some(Ok(Segment {
            from: number16(TCP),
            to: number16(TCP + 2),
            sequence: number32(TCP + 4),
            acknowledged: number32(TCP + 8),
            flags: frame[TCP + 13],
            payload,
        }))
    }
}

/// All connections of a run, by node and the client's port.
#[derive(Default)]
pub struct Streams {
    /// In the order in which they were opened; a port opens a second one only if the node was started anew.
    pub all: BTreeMap<(usize, u16), Vec<Stream>>,
    /// What the client of each said first.
    pub hellos: BTreeMap<(usize, u16), Hello>,
    /// Names the run: all frames and transfers so far.
    trace: DefaultHasher,
    /// The first thing found wrong.
    pub wrong: Option<String>,
}

impl Streams {
    /// A frame that a node sends.
    pub fn sent(&mut self, node: usize, now_ns: u64, frame: &[u8]) {
        self.note(node, now_ns, frame);
        if let Err(what) = self.segment(node, now_ns, frame)
            && self.wrong.is_none()
        {
            self.wrong = Some(what);
        }
    }

    /// A frame that a client sends.
    pub fn heard(&mut self, node: usize, now_ns: u64, frame: &[u8]) {
        self.note(node, now_ns, frame);
        let Some(Ok(segment)) = Segment::read(frame) else { return };
        let hello = self.hellos.entry((node, segment.from)).or_default();
        if segment.flags & SYN != 0 {
            hello.first = segment.sequence.wrapping_add(1);
            return;
        }
        // A client sends the first time in order.
        let at = segment.sequence.wrapping_sub(hello.first) as usize;
        if let Some(known) = hello.bytes.len().checked_sub(at).filter(|_| !hello.is_whole()) {
            hello.bytes.extend_from_slice(segment.payload.get(known..).unwrap_or_default());
        }
    }

    /// Adds to the run's name.
    pub fn note(&mut self, node: usize, now_ns: u64, bytes: &[u8]) {
        self.trace.write_usize(node);
        self.trace.write_u64(now_ns);
        self.trace.write(bytes);
    }

    /// The run's name: equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    fn segment(&mut self, node: usize, now_ns: u64, frame: &[u8]) -> Result<(), String> {
        let Some(segment) = Segment::read(frame) else { return Ok(()) };
        let segment = segment?;
        self.note_answer(node, now_ns, &segment);
        let Segment { to: port, sequence, flags, payload, .. } = segment;
        let streams = self.all.entry((node, port)).or_default();
        if flags & SYN != 0 {
            let first = sequence.wrapping_add(1);
            if streams.last().is_none_or(|stream| stream.first != first) {
                streams.push(Stream { first, bytes: Vec::new() });
            }
            return Ok(());
        }
        let Some(stream) = streams.last_mut().filter(|_| !payload.is_empty()) else { return Ok(()) };
        let at = sequence.wrapping_sub(stream.first) as usize;
        let known = stream.bytes.len().checked_sub(at).ok_or_else(|| {
            format!("node {node} sent byte {at} to port {port} before byte {}", stream.bytes.len())
        })?;
        let known = known.min(payload.len());
        if stream.bytes[at..at + known] != payload[..known] {
            return Err(format!("node {node} sent other bytes again at {at} to port {port}"));
        }
        stream.bytes.extend_from_slice(&payload[known..]);
        Ok(())
    }

    /// When a node had a ClientHello, and when it said something.
    fn note_answer(&mut self, node: usize, now_ns: u64, segment: &Segment<'_>) {
        let Some(hello) = self.hellos.get_mut(&(node, segment.to)) else { return };
        let Some(len) = hello.len() else { return };
        let acknowledged = segment.acknowledged.wrapping_sub(hello.first) as usize;
        if segment.flags & ACK != 0 && hello.is_whole() && (len..=BYTES_MAX).contains(&acknowledged) {
            hello.taken_ns.get_or_insert(now_ns);
        }
        if segment.flags & RST != 0 || !segment.payload.is_empty() {
            hello.answered_ns.get_or_insert(now_ns);
        }
    }
}
