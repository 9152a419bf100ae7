//! The files of a directory: GET and HEAD, conditional requests, ranges (RFC 9110 13, 14).
//!
//! Paths are resolved by the kernel beneath the directory's descriptor (openat2(2), RESOLVE_BENEATH and
//! RESOLVE_NO_MAGICLINKS), so neither `..` nor a symbolic link leads out of it. In: requests. Out: heads, and file
//! bytes read straight into reply chunks. Short files may be kept in memory for a while. Reading blocks while a file is not
//! in the page cache: run it on app threads.

mod cache;
mod condition;
mod content;
mod path;
mod range;

use std::fmt::Write as _;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use arrayvec::ArrayString;
use keyferry_http::{HeadTooLong, Method, ReplyHead, Request};
use keyferry_time::Time;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use crate::{App, Body, Shared};
use cache::{Cache, Held};
use condition::{Validators, Verdict};
use content::{Content, Parts, Source, State};
use range::Asked;

/// How often a path is looked up again when directories are renamed meanwhile (EAGAIN in openat2(2)).
const LOOKUPS_MAX: usize = 4;

/// What a directory is answered with.
const INDEX: &[u8] = b"index.html";

/// Methods that are served.
const ALLOW: &[u8] = b"GET, HEAD, OPTIONS";

/// Serves the files of one directory. Clones share the directory's descriptor, and each keeps files of its own.
pub struct Static {
    root: Arc<OwnedFd>,
    dotfiles: bool,
    fresh: Duration,
    cache: Cache,
}

impl Clone for Static {
    fn clone(&self) -> Static {
        Static { root: Arc::clone(&self.root), cache: Cache::new(self.fresh), ..*self }
    }
}

/// One reply.
pub struct Task {
    head: Head,
    content: Content,
}

/// What a reply begins with.
enum Head {
    /// Made for this request; boxed, since it would be most of the task.
    Made(Box<ReplyHead>),
    /// That of a whole file in memory.
    Kept(Arc<Held>),
}

impl Task {
    fn new(head: ReplyHead, content: Content) -> Task {
        Task { head: Head::Made(Box::new(head)), content }
    }
}

/// A status instead of a file.
struct Refused(u16);

impl From<HeadTooLong> for Refused {
    /// Only a Location can be too long: that of a path near its own limit.
    fn from(_: HeadTooLong) -> Refused {
        Refused(414)
    }
}

impl Static {
    /// Opens the directory. Files and directories whose names begin with a dot are not served.
    ///
    /// # Errors
    /// As open(2); ENOSYS on a kernel before Linux 5.6, which has no openat2.
    pub fn open(root: &std::path::Path) -> io::Result<Static> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Arc::new(openat(CWD, root, flags, Mode::empty())?);
        let fresh = Duration::ZERO;
        let files = Static { root, dotfiles: false, fresh, cache: Cache::new(fresh) };
        // Said at start rather than by each request. The directory itself need not be readable.
        match files.file(b".") {
            Err(Errno::NOSYS) => Err(Errno::NOSYS.into()),
            _ => Ok(files),
        }
    }

    /// Serves names that begin with a dot, or does not.
    pub fn with_dotfiles(self, dotfiles: bool) -> Static {
        Static { dotfiles, ..self }
    }

    /// Believes a short file to be what it was for so long before it is looked for again; without this, for no time.
    pub fn with_cache(self, fresh: Duration) -> Static {
        Static { fresh, cache: Cache::new(fresh), ..self }
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

    fn find(&mut self, request: &Request, now: Time) -> Result<Task, Refused> {
        match request.method() {
            Method::Get | Method::Head => {}
            Method::Options => return options(),
            // Not known at all, rather than not allowed here (RFC 9110 9.1).
            Method::Other => return Err(Refused(501)),
            _ => return Err(Refused(405)),
        }
        let mut path = path::decode(request.path(), self.dotfiles).map_err(Refused)?;
        let names_directory = path.is_empty() || path.ends_with(b"/");
        if names_directory {
            path.try_extend_from_slice(INDEX).map_err(|_| Refused(400))?;
        }
        if let Some(held) = self.cache.find(&path, now) {
            if condition::is_plain(request) {
                return Ok(whole(held));
            }
            let content_type = held.content_type;
            return reply(request, Source::Memory(held), &content_type);
        }
        let file = self.file(&path).map_err(refused_by)?;
        let stat = fstat(&file).map_err(refused_by)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            // Links in its index are relative to it, so its name has to end in a slash.
            FileType::Directory if !names_directory => return moved(request),
            _ => return Err(Refused(404)),
        }
        let (source, content_type) = (Source::File(file, State::of(&stat)), media_type(&path));
        self.cache.keep(&path, &source, &content_type, now);
        reply(request, source, &content_type)
    }
}

/// The reply to a request that asks for a file in memory and nothing else.
fn whole(held: Arc<Held>) -> Task {
    let content = Content::File(Source::Memory(Arc::clone(&held)), 0..held.state.length);
    Task { head: Head::Kept(held), content }
}

/// The reply for a file, as the request's conditions and ranges have it.
fn reply(request: &Request, source: Source, content_type: &str) -> Result<Task, Refused> {
    let state = source.state();
    let tag = state.tag();
    let validators = Validators { tag: tag.as_bytes(), modified: state.modified };
    let ranges = match condition::evaluate(request, validators) {
        Verdict::Failed => return Err(Refused(412)),
        Verdict::NotModified => {
            let mut head = ReplyHead::new(304, 0, "");
            validate(&mut head, &state)?;
            return Ok(Task::new(head, Content::Text("")));
        }
        Verdict::Serve { ranges } => ranges,
    };
    // Ranges are defined for GET alone (RFC 9110 14.2).
    let asked = match range_field(request) {
        Some(value) if ranges && request.method() == Method::Get => range::parse(value, state.length),
        _ => Asked::Whole,
    };
    let (mut head, content) = match asked {
        Asked::Nothing => return not_satisfiable(state.length),
        Asked::Whole => {
            let content = Content::File(source, 0..state.length);
            return Ok(Task::new(whole_head(&state, content_type)?, content));
        }
        Asked::Parts(ranges) => match &ranges[..] {
            [range] => {
                let mut head = ReplyHead::new(206, range.end - range.start, content_type);
                let value = content::content_range(range, state.length);
                head.header("Content-Range", value.as_bytes())?;
                (head, Content::File(source, range.clone()))
            }
            _ => {
                let parts = Parts::new(source, content_type, ranges);
                let content_type = parts.content_type();
                let content = Content::Parts(Box::new(parts));
                (ReplyHead::new(206, content.left(), &content_type), content)
            }
        },
    };
    head.header("Accept-Ranges", b"bytes")?;
    validate(&mut head, &state)?;
    Ok(Task::new(head, content))
}

/// The head of a whole file's reply.
fn whole_head(state: &State, content_type: &str) -> Result<ReplyHead, HeadTooLong> {
    let mut head = ReplyHead::new(200, state.length, content_type);
    head.header("Accept-Ranges", b"bytes")?;
    validate(&mut head, state)?;
    Ok(head)
}

/// The one Range field; several are none that a client means.
fn range_field(request: &Request) -> Option<&[u8]> {
    let mut values = request.values("range");
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        _ => None,
    }
}

/// Adds what tells one state of a file from another.
fn validate(head: &mut ReplyHead, state: &State) -> Result<(), HeadTooLong> {
    let mut modified = ArrayString::<32>::new();
    // Its length is fixed, so it fits.
    let _ = write!(modified, "{}", condition::last_modified(state.modified, SystemTime::now()));
    head.header("Last-Modified", modified.as_bytes())?;
    head.header("ETag", state.tag().as_bytes())
}

/// 416, and how long the file is (RFC 9110 15.5.17).
fn not_satisfiable(length: u64) -> Result<Task, Refused> {
    let (mut head, text) = refused_head(416);
    let mut value = ArrayString::<32>::new();
    // It fits: one number of 20 digits.
    let _ = write!(value, "bytes */{length}");
    head.header("Content-Range", value.as_bytes())?;
    Ok(Task::new(head, Content::Text(text)))
}

/// What may be asked of any file, and of the server as a whole (RFC 9110 9.3.7).
fn options() -> Result<Task, Refused> {
    let mut head = ReplyHead::new(204, 0, "");
    head.header("Allow", ALLOW)?;
    Ok(Task::new(head, Content::Text("")))
}

/// What the client hears of an error: that there is no such file, or whose fault it is.
fn refused_by(error: Errno) -> Refused {
    Refused(match error {
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
    })
}

/// Sends the client to the directory's name with a slash. The path was found beneath the root, so it does not start
/// with two slashes, which would name another host.
fn moved(request: &Request) -> Result<Task, Refused> {
    let query = request.query();
    let mark: &[u8] = if query.is_empty() { b"" } else { b"?" };
    let location = [request.path(), b"/", mark, query].concat();
    let mut head = ReplyHead::new(301, 0, "");
    head.header("Location", &location)?;
    Ok(Task::new(head, Content::Text("")))
}

/// By the name's extension (IANA's registry of media types). Text is UTF-8, as nearly all of it is.
fn media_type(path: &[u8]) -> ArrayString<96> {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let extension = name.iter().rposition(|byte| *byte == b'.').and_then(|at| name.get(at + 1..));
    let known = extension
        .and_then(|extension| std::str::from_utf8(extension).ok())
        .and_then(|extension| mime_guess::from_ext(extension).first_raw());
    let essence = known.unwrap_or("application/octet-stream");
    let mut text = ArrayString::new();
    // One that does not fit is left out, and the client guesses.
    let _ = text.try_push_str(essence);
    if essence.starts_with("text/") {
        let _ = text.try_push_str("; charset=utf-8");
    }
    text
}

fn refusal(Refused(status): Refused) -> Task {
    let (head, text) = refused_head(status);
    Task::new(head, Content::Text(text))
}

/// A reply's head and body that say why there is no file.
fn refused_head(status: u16) -> (ReplyHead, &'static str) {
    let text = match status {
        400 => "The path is not a valid one.\n",
        403 => "Not for you.\n",
        404 => "Not found.\n",
        405 => "Only GET, HEAD and OPTIONS are served here.\n",
        412 => "The file is not what you want it to be.\n",
        414 => "The path is too long.\n",
        416 => "The file has no such part.\n",
        501 => "There is no such method here.\n",
        503 => "Too busy.\n",
        _ => "The file cannot be read.\n",
    };
    let mut head = ReplyHead::new(status, text.len() as u64, "text/plain");
    if status == 405 {
        let _ = head.header("Allow", ALLOW);
    }
    (head, text)
}

impl App for Static {
    type Task = Task;

    fn begin(&mut self, request: &Request, now: Time) -> Task {
        self.find(request, now).unwrap_or_else(refusal)
    }

    fn head(&mut self, task: &mut Task, _: &Request, _: Time) -> Poll<ReplyHead> {
        Poll::Ready(match &task.head {
            Head::Made(head) => ReplyHead::clone(head),
            Head::Kept(held) => held.head.clone(),
        })
    }

    fn body(&mut self, task: &mut Task, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        Poll::Ready(task.content.write(out))
    }

    fn share(&mut self, task: &mut Task, _: &Request, bytes_max: usize) -> Option<Shared> {
        task.content.share(bytes_max)
    }
}
