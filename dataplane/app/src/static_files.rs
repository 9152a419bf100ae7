//! The files of a directory.
//!
//! Paths are resolved by the kernel beneath the directory's descriptor (openat2(2), RESOLVE_BENEATH and
//! RESOLVE_NO_MAGICLINKS), so neither `..` nor a symbolic link leads out of it. In: requests. Out: heads, and file
//! bytes read straight into reply chunks. Reading blocks while a file is not in the page cache: run it on app threads.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use keyferry_http::{Method, ReplyHead, Request};
use keyferry_time::Time;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::{Errno, pread, retry_on_intr};

use crate::{App, Body};

/// Longest decoded path, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// How often a path is looked up again when directories are renamed meanwhile (EAGAIN in openat2(2)).
const LOOKUPS_MAX: usize = 4;

/// What a directory is answered with.
const INDEX: &[u8] = b"index.html";

/// Serves the files of one directory. Clones share the directory's descriptor.
#[derive(Clone)]
pub struct Static {
    root: Arc<OwnedFd>,
}

/// One reply.
pub struct Task {
    file: Option<OwnedFd>,
    head: ReplyHead,
    /// A short body instead of a file.
    text: &'static str,
    sent: u64,
    length: u64,
}

impl Static {
    /// Opens the directory.
    ///
    /// # Errors
    /// As open(2); ENOSYS on a kernel before Linux 5.6, which has no openat2.
    pub fn open(root: &Path) -> io::Result<Static> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let files = Static { root: Arc::new(openat(CWD, root, flags, Mode::empty())?) };
        // Said at start rather than by each request. The directory itself need not be readable.
        match files.file(b".") {
            Err(Errno::NOSYS) => Err(Errno::NOSYS.into()),
            _ => Ok(files),
        }
    }

    fn file(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // NONBLOCK: opening a FIFO must not hang the thread; it is refused as no regular file.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let mut found = Err(Errno::AGAIN);
        for _ in 0..LOOKUPS_MAX {
            found = openat2(&*self.root, path, flags, Mode::empty(), resolve);
            if !matches!(found, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        found
    }

    fn find(&self, request: &Request) -> Result<Task, u16> {
        if !matches!(request.method(), Method::Get | Method::Head) {
            return Err(405);
        }
        let mut path = [0; PATH_BYTES_MAX + INDEX.len()];
        let len = decode(request.path(), &mut path[..PATH_BYTES_MAX]).ok_or(400u16)?;
        let end = if len == 0 || path[len - 1] == b'/' {
            path[len..len + INDEX.len()].copy_from_slice(INDEX);
            len + INDEX.len()
        } else {
            len
        };
        let path = &path[..end];
        let file = self.file(path).map_err(status_of)?;
        let stat = fstat(&file).map_err(status_of)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            // Links in its index are relative to it, so its name has to end in a slash.
            FileType::Directory if end == len => return moved(request),
            _ => return Err(404),
        }
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let mut head = ReplyHead::new(200, length, content_type(path));
        let modified = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        let tag = format!("\"{:x}-{:x}-{:x}.{:x}\"", stat.st_ino, length, stat.st_mtime, stat.st_mtime_nsec);
        for (name, value) in [("Last-Modified", httpdate::fmt_http_date(modified)), ("ETag", tag)] {
            head.header(name, value.as_bytes()).map_err(|_| 500u16)?;
        }
        Ok(Task { file: Some(file), head, text: "", sent: 0, length })
    }
}

/// What the client hears of an error: that there is no such file, or whose fault it is.
fn status_of(error: Errno) -> u16 {
    match error {
        Errno::ACCESS | Errno::PERM => 403,
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::XDEV
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::INVAL
        | Errno::NXIO => 404,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => 503,
        _ => 500,
    }
}

/// Sends the client to the directory's name with a slash. The path was found beneath the root, so it does not start
/// with two slashes, which would name another host.
fn moved(request: &Request) -> Result<Task, u16> {
    let query = request.query();
    let mark: &[u8] = if query.is_empty() { b"" } else { b"?" };
    let location = [request.path(), b"/", mark, query].concat();
    let mut head = ReplyHead::new(301, 0, "");
    head.header("Location", &location).map_err(|_| 404u16)?;
    Ok(Task { file: None, head, text: "", sent: 0, length: 0 })
}

/// Percent-decodes a path into one relative to the root. `None`: not a path a file can have.
fn decode(path: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut rest = path.strip_prefix(b"/")?.iter();
    let mut len = 0;
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digit = |byte: Option<&u8>| (*byte? as char).to_digit(16);
                (digit(rest.next())? << 4 | digit(rest.next())?) as u8
            }
            byte => *byte,
        };
        if byte == 0 {
            return None;
        }
        *out.get_mut(len)? = byte;
        len += 1;
    }
    Some(len)
}

fn content_type(path: &[u8]) -> &'static str {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let extension = name.iter().rposition(|byte| *byte == b'.').map_or(&[][..], |at| &name[at + 1..]);
    match extension.to_ascii_lowercase().as_slice() {
        b"html" | b"htm" => "text/html; charset=utf-8",
        b"css" => "text/css; charset=utf-8",
        b"js" | b"mjs" => "text/javascript; charset=utf-8",
        b"json" => "application/json",
        b"txt" | b"md" => "text/plain; charset=utf-8",
        b"svg" => "image/svg+xml",
        b"png" => "image/png",
        b"jpg" | b"jpeg" => "image/jpeg",
        b"gif" => "image/gif",
        b"webp" => "image/webp",
        b"ico" => "image/x-icon",
        b"pdf" => "application/pdf",
        b"wasm" => "application/wasm",
        b"xml" => "application/xml",
        b"woff2" => "font/woff2",
        b"mp4" => "video/mp4",
        _ => "application/octet-stream",
    }
}

fn refusal(status: u16) -> Task {
    let text = match status {
        400 => "The path is not a valid one.\n",
        403 => "Not for you.\n",
        404 => "Not found.\n",
        405 => "Only GET and HEAD are served here.\n",
        503 => "Too busy.\n",
        _ => "The file cannot be read.\n",
    };
    let mut head = ReplyHead::new(status, text.len() as u64, "text/plain");
    if status == 405 {
        let _ = head.header("Allow", b"GET, HEAD");
    }
    Task { file: None, head, text, sent: 0, length: text.len() as u64 }
}

impl App for Static {
    type Task = Task;

    fn begin(&mut self, request: &Request, _: Time) -> Task {
        self.find(request).unwrap_or_else(refusal)
    }

    fn head(&mut self, task: &mut Task, _: &Request, _: Time) -> Poll<ReplyHead> {
        Poll::Ready(task.head.clone())
    }

    fn body(&mut self, task: &mut Task, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        let left = usize::try_from(task.length - task.sent).unwrap_or(usize::MAX);
        let want = out.len().min(left);
        let bytes = match &task.file {
            Some(file) => match retry_on_intr(|| pread(file, &mut out[..want], task.sent)) {
                Ok(bytes) if bytes > 0 => bytes,
                // Truncated meanwhile, or unreadable: the promised length cannot be kept.
                _ => return Poll::Ready(Body::FAILED),
            },
            None => {
                let from = task.sent as usize;
                out[..want].copy_from_slice(&task.text.as_bytes()[from..from + want]);
                want
            }
        };
        task.sent += bytes as u64;
        Poll::Ready(Body { bytes, end: task.sent == task.length })
    }
}
