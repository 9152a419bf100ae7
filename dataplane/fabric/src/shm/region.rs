//! Memory shared with a process of this machine. In: a sealed memfd of a known length. Out: its mapping, reached as
//! `mapping.rs` allows: the process at the other end may write any byte at any time. Control thread, at set-up.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::mapping::Mapping;

/// `statfs` type of shmem, which backs a memfd of ordinary pages.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Without these a peer could cut the file under our feet (SIGBUS), or take the first two off again.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Why a peer's memory was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// Not a memfd, or not sealed against shrinking, growing and unsealing.
    #[error("the peer's memory is not a sealed memfd: run the same release on both")]
    Seals,
    /// A memfd of huge pages: a page punched out of it cannot always be had again, which ends in SIGBUS.
    #[error("the peer's memory is not of ordinary pages: run the same release on both")]
    Pages,
    /// Not the length both ends worked out.
    #[error("the peer's memory has {found} bytes, not {expected}: run the same release on both")]
    Length {
        /// Bytes agreed.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The kernel refused to create or map it.
    #[error("shared memory: {0} (is there enough memory, and may this process use memfd_create?)")]
    System(#[from] Errno),
}

/// One end's memory of a queue pair.
pub(super) type Region = Mapping;

impl Mapping {
    /// New zeroed memory of `len` bytes, sealed, all pages present; and the descriptor to pass to the peer.
    pub(super) fn create(len: usize) -> Result<(OwnedFd, Region), RegionError> {
        let fd = match rustix::fs::memfd_create(
            "keyferry",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL,
        ) {
            // Before Linux 6.3 the flag is unknown.
            Err(Errno::INVAL) => {
                rustix::fs::memfd_create("keyferry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?
            }
            made => made?,
        };
        rustix::fs::ftruncate(&fd, len as u64)?;
        // Memory is claimed here, where its lack is an error and not a signal.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        let region = Region::map(&fd, len)?;
        Ok((fd, region))
    }

    /// Maps a peer's memory after checking that it is what [`create`](Self::create) makes.
    pub(super) fn map(fd: impl AsFd, len: usize) -> Result<Region, RegionError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| RegionError::Seals)?;
        if !seals.contains(SEALS) {
            return Err(RegionError::Seals);
        }
        #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
        if rustix::fs::fstatfs(&fd)?.f_type as i64 != TMPFS_MAGIC {
            return Err(RegionError::Pages);
        }
        let found = u64::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        if found != len as u64 {
            return Err(RegionError::Length { expected: len as u64, found });
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours; its length is
        // the file's, which the seals keep.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                &fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        // SAFETY: it was just mapped for reading and writing, at an address nobody else knows.
        Ok(unsafe { Mapping::from_raw(base, len) })
    }
}
