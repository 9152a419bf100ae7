//! Sessions kept for resumption: bounded, with a lifetime, each TLS 1.3 one taken once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

/// Sessions of one node. Touched by handshakes only, never by records.
pub(crate) struct Table {
    sessions: usize,
    lifetime: Duration,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: HashMap<Vec<u8>, (Instant, Zeroizing<Vec<u8>>)>,
    /// Oldest first; an entry whose session is gone, or newer, is skipped.
    order: VecDeque<(Instant, Vec<u8>)>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn new(sessions: usize, lifetime: Duration) -> Table {
        Table { sessions, lifetime, inner: Mutex::default() }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inner {
    /// Drops what is too old, and the oldest while there are too many.
    fn evict(&mut self, now: Instant, sessions: usize, lifetime: Duration) {
        while let Some((at, _)) = self.order.front() {
            let old = now.duration_since(*at) > lifetime;
            if !old && self.by_id.len() < sessions && self.order.len() < 2 * sessions {
                return;
            }
            let Some((at, id)) = self.order.pop_front() else { return };
            if self.by_id.get(&id).is_some_and(|(stored, _)| *stored == at) {
                self.by_id.remove(&id);
            }
        }
    }
}

impl StoresServerSessions for Table {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        let now = Instant::now();
        self.with(|inner| {
            inner.evict(now, self.sessions, self.lifetime);
            inner.order.push_back((now, id.clone()));
            inner.by_id.insert(id, (now, Zeroizing::new(value)));
        });
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.with(|inner| {
            let (at, value) = inner.by_id.get(id)?;
            (at.elapsed() <= self.lifetime).then(|| value.to_vec())
        })
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.with(|inner| {
            let (at, value) = inner.by_id.remove(id)?;
            (at.elapsed() <= self.lifetime).then(|| value.to_vec())
        })
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_taken_ones_are_gone() {
        let table = Table::new(2, Duration::from_secs(60));
        for id in 1..=3u8 {
            table.put(vec![id], vec![id; 3]);
        }
        assert_eq!(table.get(&[1]), None);
        assert_eq!(table.take(&[2]), Some(vec![2; 3]));
        assert_eq!(table.take(&[2]), None);
        assert_eq!(table.get(&[3]), Some(vec![3; 3]));
        let expired = Table::new(2, Duration::ZERO);
        expired.put(vec![1], vec![1]);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(expired.get(&[1]), None);
    }
}
