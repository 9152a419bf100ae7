//! What the worker hands to TCP: sealed records in its own memory, or in a reply slot a helper wrote.

use std::sync::Arc;

use arrayvec::ArrayVec;
use keyferry_fabric::Slots;
use keyferry_nic::Buffer;
use keyferry_tcp::Segment;

use crate::peer::PeerId;
use crate::pool::{Pools, Record};

/// A record a helper wrote into one of our reply slots.
pub struct SlotRecord {
    /// The slot memory of its queue pair.
    pub slots: Arc<dyn Slots>,
    /// The queue pair, in the life it had when the record came.
    pub peer: PeerId,
    /// The slot.
    pub slot: u16,
    /// Its offset in the slot memory.
    pub at: usize,
    /// Bytes of the record as checked when it came; slot memory is not asked again.
    pub len: usize,
}

/// Longest record that is kept beside TCP's own state: KeyUpdates, alerts and the like.
const SHORT_BYTES_MAX: usize = 64;

/// A segment owned by TCP until it is released.
pub enum Outgoing {
    /// A short one, in itself.
    Short(ArrayVec<u8, SHORT_BYTES_MAX>),
    /// In the worker's own memory.
    Sealed(Record),
    /// In a reply slot.
    Slot(SlotRecord),
}

impl Outgoing {
    /// A short record, which is copied: whoever asks for many and acknowledges none would hold a buffer for a whole record
    /// with each. `None`: it is not short.
    fn short(record: &[u8]) -> Option<Outgoing> {
        ArrayVec::try_from(record).ok().map(Outgoing::Short)
    }

    /// A record of the worker's own. One that is short is copied, and its buffer is back.
    pub(crate) fn sealed(record: Record, pools: &mut Pools) -> Outgoing {
        match Outgoing::short(record.bytes()) {
            Some(short) => {
                pools.records.give(record);
                short
            }
            None => Outgoing::Sealed(record),
        }
    }
}

/// A segment that may lie where a port can read it.
pub trait Placed: Segment {
    /// The buffer it lies in from the start on, if packets may be sent from that.
    fn buffer(&self) -> Option<&Buffer> {
        None
    }
}

impl Placed for Outgoing {
    fn buffer(&self) -> Option<&Buffer> {
        match self {
            Outgoing::Sealed(record) => Some(&record.buffer),
            Outgoing::Short(_) | Outgoing::Slot(_) => None,
        }
    }
}

impl Segment for Outgoing {
    fn len(&self) -> usize {
        match self {
            Outgoing::Short(record) => record.len(),
            Outgoing::Sealed(record) => record.len,
            Outgoing::Slot(record) => record.len,
        }
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        match self {
            Outgoing::Short(record) => to.copy_from_slice(&record[at..at + to.len()]),
            Outgoing::Sealed(record) => to.copy_from_slice(&record.bytes()[at..at + to.len()]),
            Outgoing::Slot(record) => record.slots.read(record.at + at, to),
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Outgoing::Short(record) => Some(record),
            Outgoing::Sealed(record) => Some(record.bytes()),
            Outgoing::Slot(_) => None,
        }
    }
}
