//! The blocks of a capture file: pcapng (draft-ietf-opsawg-pcapng), in little-endian order, one section.
//!
//! In: packets and what is known of them. Out: whole blocks, so that a file that ends behind any of them can be read; and of
//! such bytes, which blocks are whole and what they say. Pure. Our own because the crate's release has no secrets and none of the
//! options that matter here.

use keyferry_worker::capture::Direction;

/// Kinds of blocks.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
const SECRETS: u32 = 0x0a;

/// Options; their numbers mean something else in each kind of block.
const END: u16 = 0;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_BEGIN: u16 = 2;
const STATISTICS_END: u16 = 3;
const STATISTICS_DROPPED: u16 = 5;
const STATISTICS_WANTED: u16 = 6;
const STATISTICS_DELIVERED: u16 = 8;

/// Ethernet (LINKTYPE_ETHERNET).
const ETHERNET: u16 = 1;
/// Times are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;
/// A key log in the format of NSS.
const TLS_KEY_LOG: u32 = 0x544c_534b;

/// Longest block taken for one.
const BLOCK_BYTES_MAX: usize = 16 << 20;

/// What a block has around it: kind, and length twice.
const AROUND_BYTES: usize = 12;

/// A block being written.
struct Block<'a> {
    out: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Block<'a> {
    fn new(out: &'a mut Vec<u8>, kind: u32) -> Block<'a> {
        let begin = out.len();
        let mut block = Block { out, begin };
        block.u32(kind);
        // The length, until it is known.
        block.u32(0);
        block
    }

    fn u32(&mut self, number: u32) {
        self.out.extend(number.to_le_bytes());
    }

    /// A time, or a count as some options have it: the upper half first.
    fn halves(&mut self, number: u64) {
        self.u32((number >> 32) as u32);
        self.u32(number as u32);
    }

    /// Bytes, filled up to four.
    fn padded(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        // Of the block: what is before it may be of any length.
        let len = (self.out.len() - self.begin).next_multiple_of(4);
        self.out.resize(self.begin + len, 0);
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        self.out.extend(code.to_le_bytes());
        self.out.extend((value.len() as u16).to_le_bytes());
        self.padded(value);
    }

    fn count(&mut self, code: u16, number: u64) {
        self.option(code, &number.to_le_bytes());
    }

    fn time(&mut self, code: u16, at_ns: u64) {
        let halves = [((at_ns >> 32) as u32).to_le_bytes(), (at_ns as u32).to_le_bytes()];
        self.option(code, halves.as_flattened());
    }

    fn end(mut self) {
        let len = (self.out.len() + 4 - self.begin) as u32;
        self.u32(len);
        self.out[self.begin + 4..self.begin + 8].copy_from_slice(&len.to_le_bytes());
    }
}

/// Begins the file.
pub(super) fn section(out: &mut Vec<u8>, application: &str) {
    let mut block = Block::new(out, SECTION);
    block.u32(0x1a2b_3c4d);
    // Version 1.0.
    block.u32(1);
    // Of unknown length.
    block.u32(u32::MAX);
    block.u32(u32::MAX);
    block.option(SECTION_APPLICATION, application.as_bytes());
    block.option(END, &[]);
    block.end();
}

/// The next interface: they are counted from 0.
pub(super) fn interface(out: &mut Vec<u8>, name: &str, snap_bytes: usize) {
    let mut block = Block::new(out, INTERFACE);
    block.u32(u32::from(ETHERNET));
    block.u32(snap_bytes as u32);
    block.option(INTERFACE_NAME, name.as_bytes());
    block.option(INTERFACE_RESOLUTION, &[NANOSECONDS]);
    block.option(END, &[]);
    block.end();
}

/// A packet of `whole_bytes`, of which `bytes` were kept, at a time since 1970.
pub(super) fn packet(
    out: &mut Vec<u8>,
    interface: usize,
    at_ns: u64,
    direction: Direction,
    whole_bytes: usize,
    bytes: &[u8],
) {
    let mut block = Block::new(out, PACKET);
    block.u32(interface as u32);
    block.halves(at_ns);
    block.u32(bytes.len() as u32);
    block.u32(whole_bytes as u32);
    block.padded(bytes);
    let flags: u32 = match direction {
        Direction::Received => 1,
        Direction::Sent => 2,
    };
    block.option(PACKET_FLAGS, &flags.to_le_bytes());
    block.option(END, &[]);
    block.end();
}

/// Bytes of the block of secrets around lines of a key log.
pub(super) const SECRETS_BYTES: usize = AROUND_BYTES + 8 + 3;

/// Lines of a key log, for the packets behind it.
pub(super) fn secrets(out: &mut Vec<u8>, lines: &[u8]) {
    let mut block = Block::new(out, SECRETS);
    block.u32(TLS_KEY_LOG);
    block.u32(lines.len() as u32);
    block.padded(lines);
    block.end();
}

/// What became of an interface's packets between two times.
pub(super) struct Statistics {
    /// The first time, in ns since 1970.
    pub begin_ns: u64,
    /// The last.
    pub end_ns: u64,
    /// Packets in the file.
    pub delivered: u64,
    /// Packets that were wanted and are not.
    pub dropped: u64,
}

/// The end of an interface.
pub(super) fn statistics(out: &mut Vec<u8>, interface: usize, of: &Statistics) {
    let mut block = Block::new(out, STATISTICS);
    block.u32(interface as u32);
    block.halves(of.end_ns);
    block.time(STATISTICS_BEGIN, of.begin_ns);
    block.time(STATISTICS_END, of.end_ns);
    block.count(STATISTICS_DROPPED, of.dropped);
    block.count(STATISTICS_WANTED, of.delivered + of.dropped);
    block.count(STATISTICS_DELIVERED, of.delivered);
    block.option(END, &[]);
    block.end();
}

/// What blocks say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    /// Packets.
    pub packets: u64,
    /// Packets that are missing, as the statistics have it.
    pub dropped: u64,
    /// There were statistics, which come last.
    pub is_ended: bool,
}

/// No bytes of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("what came is no capture: use the same release as the node's")]
pub(super) struct Strange;

impl Seen {
    /// Notes the whole blocks at the begin of `bytes`, and answers how long they are together.
    pub fn note(&mut self, bytes: &[u8]) -> Result<usize, Strange> {
        let mut at = 0;
        while let Some(kind) = u32_at(bytes, at)
            && let Some(len) = u32_at(bytes, at + 4)
        {
            let len = len as usize;
            if !(AROUND_BYTES..=BLOCK_BYTES_MAX).contains(&len) || !len.is_multiple_of(4) {
                return Err(Strange);
            }
            let Some(block) = bytes.get(at..at + len) else { break };
            match kind {
                PACKET => self.packets += 1,
                STATISTICS => {
                    self.dropped += dropped(block).unwrap_or(0);
                    self.is_ended = true;
                }
                _ => {}
            }
            at += len;
        }
        Ok(at)
    }
}

/// What an interface's statistics say of packets that are missing.
fn dropped(block: &[u8]) -> Option<u64> {
    // Behind kind, length, interface and time.
    let mut at = 20;
    loop {
        let [code, len] =
            [at, at + 2].map(|at| block.get(at..)?.first_chunk::<2>().map(|it| u16::from_le_bytes(*it)));
        if code? == STATISTICS_DROPPED {
            return block.get(at + 4..)?.first_chunk::<8>().map(|it| u64::from_le_bytes(*it));
        }
        at += 4 + usize::from(len?).next_multiple_of(4);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().map(|it| u32::from_le_bytes(*it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        section(&mut out, "keyferry 1");
        interface(&mut out, "worker 0 received", 64);
        interface(&mut out, "worker 0 sent", 64);
        secrets(&mut out, b"CLIENT_RANDOM 00 11\n");
        let arp = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[0; 21]].concat();
        packet(&mut out, 0, 1_700_000_000_123_456_789, Direction::Received, 1000, &arp);
        packet(&mut out, 1, 1_700_000_001_000_000_001, Direction::Sent, arp.len(), &arp);
        let of = Statistics { begin_ns: 1, end_ns: 1_700_000_002_000_000_000, delivered: 1, dropped: 7 };
        statistics(&mut out, 0, &of);
        statistics(&mut out, 1, &Statistics { dropped: 2, ..of });
        out
    }

    #[test]
    fn blocks_are_whole_wherever_they_are_cut() {
        let all = sample();
        let expected = Seen { packets: 2, dropped: 9, is_ended: true };
        for pieces in 1..all.len() {
            let (mut seen, mut kept) = (Seen::default(), Vec::new());
            for piece in all.chunks(pieces) {
                kept.extend_from_slice(piece);
                let whole = seen.note(&kept).unwrap();
                kept.drain(..whole);
            }
            assert_eq!((seen, kept.len()), (expected, 0), "{pieces}");
        }
        for strange in [[0; 12], [0xff; 12], [6, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(Seen::default().note(&strange), Err(Strange));
        }
    }

    #[test]
    fn blocks_are_the_same_behind_anything() {
        let (mut alone, mut behind) = (Vec::new(), b"{}\n".to_vec());
        for out in [&mut alone, &mut behind] {
            section(out, "keyferry");
            interface(out, "x", 64);
        }
        assert_eq!(behind[3..], alone);
    }

    /// Other people's reader: tshark, where it is installed.
    #[test]
    fn tshark_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.pcapng");
        std::fs::write(&file, sample()).unwrap();
        let mut tshark = std::process::Command::new("tshark");
        tshark.arg("-r").arg(&file).args(["-T", "fields"]);
        for field in [
            "frame.time_epoch",
            "frame.interface_name",
            "frame.packet_flags_direction",
            "frame.len",
            "frame.cap_len",
        ] {
            tshark.args(["-e", field]);
        }
        let Ok(output) = tshark.output() else { return };
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<Vec<&str>> = lines.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines.len(), 2, "{errors}");
        let directions: Vec<u32> = lines.iter().map(|line| number(line[2])).collect();
        assert_eq!(directions, [1, 2]);
        assert_eq!(lines[0][..2], ["1700000000.123456789", "worker 0 received"]);
        assert_eq!(lines[0][3..], ["1000", "43"]);
        assert_eq!(lines[1][..2], ["1700000001.000000001", "worker 0 sent"]);
    }

    fn number(text: &str) -> u32 {
        let digits = text.strip_prefix("0x");
        u32::from_str_radix(digits.unwrap_or(text), if digits.is_some() { 16 } else { 10 }).unwrap()
    }
}
