//! What DPDK logs while it starts or opens a port, kept so that an error can quote the reason.
//!
//! DPDK's functions answer little more than -1; the reason is in its log. In: a call. Out: its result and the lines
//! logged meanwhile; at other times DPDK logs where it always does. Control thread only.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, IntoRawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use dpdk_sys as sys;

/// Lines quoted in an error, the last ones.
const LINES_MAX: usize = 3;
/// Stands for an empty log, so that a quotation is never empty.
const NOTHING: &str = "no reason given";
/// Bytes of the log read for a quotation.
const BYTES_MAX: u64 = 64 * 1024;

/// An unlinked file with a C stream on it. One a process, never closed: another thread may be about to log into it.
struct Sink {
    file: File,
    stream: *mut sys::FILE,
}

// SAFETY: the C library locks its streams; `file` is only used under the mutex around the sink.
unsafe impl Send for Sink {}

static SINK: OnceLock<Option<Mutex<Sink>>> = OnceLock::new();

impl Sink {
    fn open() -> io::Result<Sink> {
        let memory = rustix::fs::memfd_create(c"dpdk-log", rustix::fs::MemfdFlags::CLOEXEC)?;
        let for_stream = memory.as_fd().try_clone_to_owned()?;
        const APPEND: &CStr = c"a";
        // SAFETY: the descriptor is open and given away to the stream; the mode is a C string.
        let stream = unsafe { sys::fdopen(for_stream.into_raw_fd(), APPEND.as_ptr()) };
        if stream.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(Sink { file: File::from(memory), stream })
    }

    /// The last lines, and an empty file again.
    fn take(&mut self) -> io::Result<String> {
        let len = self.file.seek(SeekFrom::End(0))?;
        self.file.seek(SeekFrom::Start(len.saturating_sub(BYTES_MAX)))?;
        let mut bytes = Vec::new();
        self.file.by_ref().take(BYTES_MAX).read_to_end(&mut bytes)?;
        self.file.set_len(0)?;
        let text = String::from_utf8_lossy(&bytes);
        let telling = |line: &&str| !line.is_empty() && !line.starts_with("EAL: Detected");
        let lines: Vec<&str> = text.lines().map(str::trim).filter(telling).collect();
        Ok(lines[lines.len().saturating_sub(LINES_MAX)..].join("; "))
    }
}

/// Calls `call` and returns with its result what DPDK logged during it; nothing if it cannot be caught.
pub(super) fn captured<R>(call: impl FnOnce() -> R) -> (R, String) {
    let Some(sink) = SINK.get_or_init(|| Sink::open().ok().map(Mutex::new)) else {
        return (call(), NOTHING.into());
    };
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the stream is open and stays so for the life of the process.
    unsafe { sys::rte_openlog_stream(sink.stream) };
    let result = call();
    // SAFETY: null stands for DPDK's default.
    unsafe { sys::rte_openlog_stream(std::ptr::null_mut()) };
    let said = sink.take().unwrap_or_default();
    (result, if said.is_empty() { NOTHING.into() } else { said })
}
