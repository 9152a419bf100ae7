//! One reply's bytes: HTTP head and framing around the application's body, in the chunks it was given.
//!
//! In: a head, body bytes written where [`Writer::room`] says. Out: full chunks. Owned by the thread that runs the
//! application; knows nothing of it.

use arrayvec::ArrayVec;
use keyferry_http::{
    CHUNK_OVERHEAD_BYTES, ChunkWriter, ReplyHead, Seen, is_bodiless, reply_head_bytes_max, write_head,
};

use crate::Body;
use crate::chunk::{CHUNK_BYTES, Chunk, Shared};
use crate::job::CHUNKS_PER_JOB;

/// Room a chunk must have left for a piece of body to be worth it, unless the body's rest is shorter.
const PIECE_MIN: usize = 64;

/// A shorter rest of a body is copied: that costs less than to count who reads it.
const SHARED_BYTES_MIN: u64 = 1024;

/// Framing of one HTTP chunk, with the end of the body kept free behind it.
const FRAMED_OVERHEAD: usize = CHUNK_OVERHEAD_BYTES + ChunkWriter::END.len();

const _: () = assert!(reply_head_bytes_max() + FRAMED_OVERHEAD + PIECE_MIN < CHUNK_BYTES);

/// The application broke its contract: a mistake of the application, the reply cannot be made whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault;

/// Where the body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No head yet.
    Head,
    /// Bytes still to come. With none, the application still has to say that this is the end.
    Length(u64),
    /// In HTTP chunks.
    Chunked,
    /// Up to the end of the connection: HTTP/1.0 and no length, or another protocol.
    UntilClose,
    /// All is written.
    Whole,
}

/// Where the next body bytes go.
pub(crate) enum Room<'a> {
    /// Here; then [`Writer::took`].
    Here(&'a mut [u8]),
    /// The first chunk has to be given out before.
    Full,
    /// There is no chunk.
    Starved,
    /// Nothing follows.
    Whole,
}

/// Writes one reply.
pub(crate) struct Writer {
    chunks: ArrayVec<Chunk, CHUNKS_PER_JOB>,
    stage: Stage,
    /// Bytes [`room`](Writer::room) offered last.
    offered: usize,
    /// Takes what a body longer than its length would write.
    beyond: [u8; 1],
}

impl Writer {
    /// A writer before its head.
    pub(crate) fn new(mut chunk: Chunk) -> Writer {
        chunk.clear();
        Writer { chunks: ArrayVec::from_iter([chunk]), stage: Stage::Head, offered: 0, beyond: [0] }
    }

    /// Takes another chunk, or gives it back if there are enough.
    pub(crate) fn more(&mut self, mut chunk: Chunk) -> Result<(), Chunk> {
        chunk.clear();
        self.chunks.try_push(chunk).map_err(|full| full.element())
    }

    /// Whether the head is written.
    pub(crate) fn has_head(&self) -> bool {
        self.stage != Stage::Head
    }

    /// Whether there is a chunk to write to.
    pub(crate) fn has_chunk(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// Writes the head. Returns whether the connection may go on after this reply.
    pub(crate) fn start(&mut self, head: &ReplyHead, seen: Seen, date: &str) -> Result<bool, Fault> {
        // An interim reply is not a reply, and other numbers are not a status (RFC 9110 15).
        if !(200..600).contains(&head.status) {
            return Err(Fault);
        }
        let chunk = self.chunks.first_mut().ok_or(Fault)?;
        let len = write_head(head, seen, date, chunk.room()).map_err(|_| Fault)?;
        chunk.grow(len);
        self.stage = match head.length {
            _ if seen.head_only || is_bodiless(head.status) => Stage::Whole,
            Some(0) => Stage::Whole,
            Some(length) => Stage::Length(length),
            None if seen.minor == 0 => Stage::UntilClose,
            None => Stage::Chunked,
        };
        Ok(seen.keep_alive && !head.close && !seen.needs_close(head))
    }

    /// Writes the head behind which the protocol is another one: the body is what the client gets, without framing.
    pub(crate) fn switch(&mut self, head: &ReplyHead) -> Result<(), Fault> {
        let chunk = self.chunks.first_mut().ok_or(Fault)?;
        let seen = Seen { head_only: false, keep_alive: false, minor: 1 };
        let len = write_head(head, seen, "", chunk.room()).map_err(|_| Fault)?;
        chunk.grow(len);
        self.stage = Stage::UntilClose;
        Ok(())
    }

    /// Where the next body bytes go.
    pub(crate) fn room(&mut self) -> Room<'_> {
        let Some(chunk) = self.chunks.first_mut() else { return Room::Starved };
        let left = chunk.left();
        let (overhead, wanted) = match self.stage {
            Stage::Whole => return Room::Whole,
            Stage::Length(0) => {
                self.offered = 1;
                return Room::Here(&mut self.beyond);
            }
            Stage::Length(rest) => (0, usize::try_from(rest).unwrap_or(usize::MAX)),
            Stage::Chunked => (FRAMED_OVERHEAD, usize::MAX),
            Stage::Head | Stage::UntilClose => (0, usize::MAX),
        };
        if left < overhead + PIECE_MIN.min(wanted) {
            return Room::Full;
        }
        self.offered = wanted.min(left - overhead);
        let from = if self.stage == Stage::Chunked { ChunkWriter::SIZE_LINE_BYTES } else { 0 };
        Room::Here(&mut chunk.room()[from..from + self.offered])
    }

    /// Bytes of the body that may come from where they lie, at most; `None`: the next ones are copied.
    pub(crate) fn room_to_share(&self) -> Option<usize> {
        let Stage::Length(rest @ SHARED_BYTES_MIN..) = self.stage else { return None };
        let is_empty = self.chunks.first()?.bytes().is_empty();
        is_empty.then(|| usize::try_from(rest).unwrap_or(usize::MAX).min(CHUNK_BYTES))
    }

    /// The application has shared bytes.
    pub(crate) fn took_shared(&mut self, shared: Shared) -> Result<(), Fault> {
        let (most, bytes) = (self.room_to_share().ok_or(Fault)?, shared.bytes().len());
        if !(1..=most).contains(&bytes) {
            return Err(Fault);
        }
        if let Stage::Length(rest) = &mut self.stage {
            *rest -= bytes as u64;
        }
        self.chunks.first_mut().ok_or(Fault)?.share(shared);
        Ok(())
    }

    /// The application has written to the room.
    pub(crate) fn took(&mut self, Body { bytes, end }: Body) -> Result<(), Fault> {
        let chunk = self.chunks.first_mut().ok_or(Fault)?;
        // Neither bytes nor an end would be asked for ever.
        if bytes > self.offered || (bytes == 0 && !end) {
            return Err(Fault);
        }
        match self.stage {
            Stage::Head | Stage::Whole => return Err(Fault),
            Stage::Length(rest) => {
                let rest = rest.checked_sub(bytes as u64).ok_or(Fault)?;
                if end && rest > 0 {
                    return Err(Fault);
                }
                chunk.grow(bytes);
                self.stage = Stage::Length(rest);
            }
            Stage::UntilClose => chunk.grow(bytes),
            Stage::Chunked => {
                if bytes > 0 {
                    let framed = ChunkWriter::finish(chunk.room(), bytes);
                    chunk.grow(framed);
                }
                if end {
                    chunk.room()[..ChunkWriter::END.len()].copy_from_slice(ChunkWriter::END);
                    chunk.grow(ChunkWriter::END.len());
                }
            }
        }
        if end {
            self.stage = Stage::Whole;
        }
        Ok(())
    }

    /// Takes the chunk written to last.
    pub(crate) fn give(&mut self) -> Option<Chunk> {
        self.chunks.pop_at(0)
    }

    /// As [`give`](Writer::give), while the rest of the body is awaited: not without bytes, and not the last ones,
    /// which go with the end.
    pub(crate) fn give_early(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.first()?;
        if chunk.bytes().is_empty() || matches!(self.stage, Stage::Length(0) | Stage::Whole) {
            return None;
        }
        self.give()
    }

    /// The chunks that are left.
    pub(crate) fn into_chunks(self) -> ArrayVec<Chunk, CHUNKS_PER_JOB> {
        self.chunks
    }
}
