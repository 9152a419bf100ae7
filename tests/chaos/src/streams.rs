//! What nodes send, read off the wire before any fault: each connection's bytes by sequence number. A byte sent again
//! has to be the byte sent before, whoever sealed it and whatever memory it comes from.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

/// Where TCP starts in a frame without VLAN and IP options.
const TCP: usize = 34;
const SYN: u8 = 2;

/// The bytes of one connection.
#[derive(Debug)]
pub struct Stream {
    first: u32,
    /// From the first byte behind the SYN.
    pub bytes: Vec<u8>,
}

/// All connections of a run, by node and the client's port.
#[derive(Default)]
pub struct Streams {
    /// In the order in which they were opened; a port opens a second one only if the node was started anew.
    pub all: BTreeMap<(usize, u16), Vec<Stream>>,
    /// Names the run: all frames and transfers so far.
    trace: DefaultHasher,
    /// The first thing found wrong.
    pub wrong: Option<String>,
}

impl Streams {
    /// A frame that a node sends.
    pub fn sent(&mut self, node: usize, now_ns: u64, frame: &[u8]) {
        self.note(node, now_ns, frame);
        if let Err(what) = self.segment(node, frame)
            && self.wrong.is_none()
        {
            self.wrong = Some(what);
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

    fn segment(&mut self, node: usize, frame: &[u8]) -> Result<(), String> {
        if frame.len() < TCP + 20 || frame[12..14] != [8, 0] || frame[23] != 6 {
            return Ok(());
        }
        let port = u16::from_be_bytes([frame[TCP + 2], frame[TCP + 3]]);
        let sequence = u32::from_be_bytes([frame[TCP + 4], frame[TCP + 5], frame[TCP + 6], frame[TCP + 7]]);
        let header = usize::from(frame[TCP + 12] >> 4) * 4;
        let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let payload = frame.get(TCP + header..end).ok_or("a packet shorter than it says")?;
        let streams = self.all.entry((node, port)).or_default();
        if frame[TCP + 13] & SYN != 0 {
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
}
