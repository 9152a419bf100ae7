//! Whom a job of the application belongs to, packed into the number that travels with it.

use keyferry_app::JobId;
use keyferry_lease::LeaseId;
use keyferry_tcp::ConnId;

use crate::peer::{PEERS_MAX, PeerId};

/// Set for jobs that serve a lease.
const SERVED: u64 = 1 << 63;

const _: () = assert!(PEERS_MAX <= 1 << 7, "a queue pair's index is 7 bits in a job's number");

/// Whom a job belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A connection here.
    Conn {
        /// Index at TCP, below 2^31.
        index: usize,
        /// Generation of that index.
        generation: u32,
    },
    /// A lease served here.
    Served(PeerId, LeaseId),
}

impl Owner {
    /// A connection as owner.
    pub fn conn(id: ConnId) -> Owner {
        Owner::Conn { index: id.index(), generation: id.generation() }
    }

    /// The number that travels with the job: 31 bits of index and 32 of generation for a connection; 7 bits of
    /// index, 8 of life, 16 of lease index and 32 of lease generation for a lease.
    pub fn job(self) -> JobId {
        JobId(match self {
            Owner::Conn { index, generation } => u64::from(generation) << 31 | (index as u64 & 0x7fff_ffff),
            Owner::Served(peer, lease) => {
                SERVED
                    | u64::from(peer.index & 0x7f) << 56
                    | u64::from(peer.life) << 48
                    | u64::from(lease.index) << 32
                    | u64::from(lease.generation)
            }
        })
    }

    /// The owner of a job that came back.
    pub fn of(job: JobId) -> Owner {
        let JobId(number) = job;
        if number & SERVED == 0 {
            let index = (number & 0x7fff_ffff) as usize;
            return Owner::Conn { index, generation: (number >> 31) as u32 };
        }
        let peer = PeerId { index: (number >> 56) as u16 & 0x7f, life: (number >> 48) as u8 };
        Owner::Served(peer, LeaseId { index: (number >> 32) as u16, generation: number as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_survives_its_number() {
        let peer = PeerId { index: 127, life: 255 };
        let lease = LeaseId { index: u16::MAX, generation: u32::MAX };
        let conn = Owner::Conn { index: 0x7fff_fffe, generation: u32::MAX };
        for owner in [conn, Owner::Served(peer, lease), Owner::Served(PeerId { index: 0, life: 0 }, lease)] {
            assert_eq!(Owner::of(owner.job()), owner);
        }
    }
}
