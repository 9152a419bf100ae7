//! Files in memory, so that what is asked for again and again costs no system call, and no copy: its records are sealed from
//! here. In: paths, files that were found. Out: their bytes, for as long as the configuration lets them be believed. One a
//! thread, nothing shared.
//!
//! Bounded by [`FILES_MAX`] files of [`BYTES_MAX`] bytes and [`KEPT_BYTES_MAX`] of all; who was asked for longest ago goes
//! first. Nothing is kept open: longer files are found and opened for each request, which their length makes up for.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayString;
use keyferry_http::ReplyHead;
use keyferry_time::Time;
use lru::LruCache;

use super::content::{Source, State};
use super::whole_head;

/// Files kept.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");
/// Bytes of one, at most.
pub(super) const BYTES_MAX: u64 = 1 << 20;
/// Bytes of all, at most; replies under way hold on to what has gone since they began.
const KEPT_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(BYTES_MAX <= KEPT_BYTES_MAX as u64);

/// A file as it was when it was read.
#[derive(Debug)]
pub(super) struct Held {
    /// All of it.
    pub bytes: Box<[u8]>,
    /// What it was.
    pub state: State,
    /// By its name.
    pub content_type: ArrayString<96>,
    /// That of a reply with all of it.
    pub head: ReplyHead,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// By path beneath the root; with when they were read.
type Files = LruCache<Box<[u8]>, (Arc<Held>, Time)>;

/// Files that were asked for lately.
pub(super) struct Cache {
    /// `None` where nothing is to be believed: its table takes memory though nothing is in it.
    files: Option<Files>,
    /// Bytes of all of them.
    bytes: usize,
    /// How long a file is believed to be what it was.
    fresh: Duration,
}

impl Cache {
    /// An empty one; with `fresh` of zero it stays so.
    pub(super) fn new(fresh: Duration) -> Cache {
        Cache { files: (!fresh.is_zero()).then(|| LruCache::new(FILES_MAX)), bytes: 0, fresh }
    }

    /// The file of this path, if it was read not too long ago.
    pub(super) fn find(&mut self, path: &[u8], now: Time) -> Option<Arc<Held>> {
        let files = self.files.as_mut()?;
        let (held, read_at) = files.get(path)?;
        if now - *read_at < self.fresh {
            return Some(Arc::clone(held));
        }
        if let Some((held, _)) = files.pop(path) {
            self.bytes -= held.bytes.len();
        }
        None
    }

    /// Keeps a file that was found, if it is short and does not change while it is read.
    pub(super) fn keep(&mut self, path: &[u8], source: &Source, content_type: &str, now: Time) {
        let (Some(files), state) = (self.files.as_mut(), source.state()) else { return };
        if state.length > BYTES_MAX {
            return;
        }
        let (Some(bytes), Ok(head)) = (source.whole(), whole_head(&state, content_type)) else { return };
        let Ok(content_type) = ArrayString::from(content_type) else { return };
        self.bytes += bytes.len();
        let held = Arc::new(Held { bytes, state, content_type, head });
        // Comes back: what it takes the place of, be it of the same path.
        if let Some((_, (held, _))) = files.push(path.into(), (held, now)) {
            self.bytes -= held.bytes.len();
        }
        while self.bytes > KEPT_BYTES_MAX
            && let Some((_, (held, _))) = files.pop_lru()
        {
            self.bytes -= held.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FRESH: Duration = Duration::from_secs(1);

    fn source(file: &std::path::Path) -> Source {
        let file = fs::File::open(file).unwrap();
        let state = State::of(&rustix::fs::fstat(&file).unwrap());
        Source::File(file.into(), state)
    }

    #[test]
    fn a_file_is_believed_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "bytes").unwrap();
        let mut cache = Cache::new(FRESH);
        cache.keep(b"file", &source(&file), "text/plain", Time(5));
        let held = cache.find(b"file", Time(4) + FRESH).expect("it is kept");
        assert_eq!((&*held.bytes, &*held.content_type), (&b"bytes"[..], "text/plain"));
        assert!(cache.find(b"other", Time(6)).is_none());
        assert!(cache.find(b"file", Time(5) + FRESH).is_none(), "not for longer");
        assert!(cache.find(b"file", Time(6)).is_none(), "and it is gone");
    }

    #[test]
    fn long_files_and_more_than_the_limit_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let mut cache = Cache::new(FRESH);
        for (length, kept) in [(0, true), (BYTES_MAX, true), (BYTES_MAX + 1, false)] {
            fs::write(&file, vec![7; length as usize]).unwrap();
            cache = Cache::new(FRESH);
            cache.keep(b"file", &source(&file), "", Time::ZERO);
            assert_eq!(cache.find(b"file", Time::ZERO).is_some(), kept, "{length} bytes");
        }
        fs::write(&file, "short").unwrap();
        for number in 0..=FILES_MAX.get() {
            cache.keep(&number.to_be_bytes(), &source(&file), "", Time::ZERO);
        }
        assert!(
            cache.find(&0usize.to_be_bytes(), Time::ZERO).is_none(),
            "the one asked for longest ago goes"
        );
        assert!(cache.find(&1usize.to_be_bytes(), Time::ZERO).is_some());
    }

    #[test]
    fn all_of_them_have_no_more_bytes_than_they_may() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, vec![7; BYTES_MAX as usize]).unwrap();
        let (mut cache, most) = (Cache::new(FRESH), KEPT_BYTES_MAX as u64 / BYTES_MAX);
        for number in 0..=most {
            cache.keep(&number.to_be_bytes(), &source(&file), "", Time::ZERO);
        }
        let kept = |cache: &mut Cache, number: u64| cache.find(&number.to_be_bytes(), Time::ZERO).is_some();
        assert!(!kept(&mut cache, 0) && (1..=most).all(|number| kept(&mut cache, number)));
        // The same once more, and what is believed no longer, are not counted twice.
        cache.keep(&1_u64.to_be_bytes(), &source(&file), "", Time::ZERO);
        assert_eq!(cache.bytes, KEPT_BYTES_MAX);
        assert!(cache.find(&1_u64.to_be_bytes(), Time(1) + FRESH).is_none());
        assert_eq!(cache.bytes as u64, (most - 1) * BYTES_MAX);
    }

    #[test]
    fn nothing_is_kept_for_no_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "bytes").unwrap();
        let mut cache = Cache::new(Duration::ZERO);
        cache.keep(b"file", &source(&file), "", Time::ZERO);
        assert!(cache.find(b"file", Time::ZERO).is_none());
    }
}
