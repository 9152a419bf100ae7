//! Packets of a running process, for an operator: `keyferry capture`.
//!
//! In: what an operator asks for, over the admin socket ([`request`]). Out, over the same connection: a line that says what is
//! captured, then a capture file as it grows (`pcapng`), until either end has enough. [`command`] is the operator's end, here is
//! the process's: it gives each worker a tap ([`keyferry_worker::capture`]), reads the copies that come out, and takes the taps
//! away again. One capture at a time: its buffers are made when it begins. Control thread.
//!
//! Secrets of TLS are only to be had where the operator of the process has asked for a key log (`[tls] key_log`), of handshakes
//! while the capture is on, and if the capture asks for them. They are written before the packets they open: packets are held back
//! until the workers have had their turns at them, and secrets come first.

pub mod command;
mod pcapng;
pub mod request;

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keyferry_tls::key_log::{KeyLog, LINE_BYTES_MAX};
use keyferry_worker::Clock;
use keyferry_worker::capture::{Captured, Copies, Direction, Tap};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use zeroize::Zeroizing;

use self::pcapng::Statistics;
use self::request::Request;
use crate::admin::{Answer, PATIENCE, document, refusal};

/// Between looks at the workers' copies, unless there are more than fit one.
const LOOK: Duration = Duration::from_millis(2);

/// Copies taken in one look, of all workers.
const COPIES_A_LOOK: usize = 4096;

/// How long a worker may take to begin or to end.
const TURN_MAX: Duration = Duration::from_secs(5);
/// Between looks at whether it has.
const TURN_LOOK: Duration = Duration::from_millis(1);

/// Lines of the key log in one block.
const SECRETS_A_BLOCK: usize = 64;

/// Gives a worker a tap, or takes it away; `false`: it has no room for news.
pub type Tell = Box<dyn Fn(Option<Box<Tap>>) -> bool>;

/// The line before a capture.
#[derive(Serialize, Deserialize)]
struct Begun {
    /// The node's or distributor's name.
    node: String,
    /// The filter as it was understood.
    filter: String,
}

/// What captures of a process have in common.
pub struct Captures {
    /// The node's or distributor's name.
    pub name: String,
    /// The release that runs.
    pub version: &'static str,
    /// The workers' clock.
    pub clock: Clock,
    /// By worker.
    pub workers: Vec<Tell>,
    /// Where secrets are, if the process keeps a log of them.
    pub key_log: Option<Arc<KeyLog>>,
    /// One is under way.
    pub is_on: Cell<bool>,
}

impl Captures {
    /// The answer to a request: packets, or why not.
    pub async fn answer(self: &Rc<Captures>, request: &str) -> Answer {
        match self.begin(request).await {
            Ok(stream) => Answer::Packets(Box::new(stream)),
            Err(why) => Answer::Document(refusal(why)),
        }
    }

    async fn begin(self: &Rc<Captures>, request: &str) -> Result<Stream, String> {
        let request: Request = serde_json::from_str(request).map_err(|error| {
            format!("what to capture is not understood ({error}): use keyferry capture of the same release")
        })?;
        let filter = request.check(self.workers.len())?;
        if request.keys && self.key_log.is_none() {
            return Err("--keys: secrets are only to be had of a node that was started with [tls] key_log: write that \
                        and restart it, or capture without"
                .to_owned());
        }
        if self.is_on.replace(true) {
            return Err("another capture is under way: end that one, or wait for its end".to_owned());
        }
        // From here on its drop puts all back.
        let mut stream = Stream::new(Rc::clone(self), request, filter.to_string());
        stream.begin(&filter).await?;
        Ok(stream)
    }
}

/// Copies of one worker, and how many of them were written.
struct Ring {
    worker: usize,
    copies: Arc<Copies>,
    written: [u64; 2],
}

/// A capture under way; dropped, it is over.
pub struct Stream {
    captures: Rc<Captures>,
    request: Request,
    filter: String,
    rings: Vec<Ring>,
    /// What the workers' clock began at, in ns since 1970.
    zero_ns: u64,
    begin_ns: u64,
    /// Taken from the workers, by ring, and not written yet.
    waiting: Vec<(usize, Box<Captured>)>,
    /// Packets to come, at most.
    left: u64,
    deadline: Option<Instant>,
}

impl Stream {
    fn new(captures: Rc<Captures>, request: Request, filter: String) -> Stream {
        let begin_ns = wall_ns();
        Stream {
            zero_ns: begin_ns.saturating_sub(captures.clock.now().0),
            begin_ns,
            left: request.count.unwrap_or(u64::MAX),
            deadline: request.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.into())),
            rings: Vec::new(),
            waiting: Vec::new(),
            captures,
            request,
            filter,
        }
    }

    /// Gives the workers their taps, and waits until they have them.
    async fn begin(&mut self, filter: &keyferry_filter::Filter) -> Result<(), String> {
        if let Some(log) = self.captures.key_log.as_ref().filter(|_| self.request.keys) {
            log.copy(true);
            warn!(filter = self.filter, "an operator captures packets, and the secrets that open them");
        } else {
            info!(filter = self.filter, "an operator captures packets");
        }
        let busy = |worker: usize| format!("worker {worker} does not answer: try again, and see its busy_ns");
        for (worker, tell) in self.captures.workers.iter().enumerate() {
            if self.request.worker.is_some_and(|only| only != worker) {
                continue;
            }
            let copies = Copies::new(self.request.snap);
            let clock = self.captures.clock;
            let tap = Box::new(Tap::new(filter.clone(), Arc::clone(&copies), move || clock.now()));
            if !tell(Some(tap)) {
                return Err(busy(worker));
            }
            self.rings.push(Ring { worker, copies, written: [0; 2] });
        }
        let late =
            settled(|| self.rings.iter().find(|ring| !ring.copies.is_on()).map(|ring| ring.worker)).await;
        late.map_or(Ok(()), |worker| Err(busy(worker)))
    }

    /// Writes what comes, until one end has enough.
    ///
    /// # Errors
    /// The operator's end is gone, or takes nothing.
    pub async fn run(mut self, read: BufReader<OwnedReadHalf>, mut write: OwnedWriteHalf) -> io::Result<()> {
        let mut held = Held::default();
        let mut outcome = self.copy(read, &mut write, &mut held).await;
        self.let_go().await;
        while outcome.is_ok() && (self.take(&mut held.fresh) || held.has_any()) {
            outcome = self.put(&mut write, &mut held).await;
        }
        let [written, missed] = self.totals();
        let keys_lost = self.captures.key_log.as_ref().map_or(0, |log| log.copies_lost());
        info!(written, missed, keys_lost, "the capture is over");
        outcome?;
        let mut end = Vec::new();
        self.statistics(&mut end);
        timeout(PATIENCE, write.write_all(&end)).await??;
        write.shutdown().await
    }

    async fn copy(
        &mut self,
        mut read: BufReader<OwnedReadHalf>,
        write: &mut OwnedWriteHalf,
        held: &mut Held,
    ) -> io::Result<()> {
        timeout(PATIENCE, write.write_all(&self.head())).await??;
        // The operator says nothing more: it closes its end when it has enough.
        let mut enough = pin!(async move {
            let _ = read.read_u8().await;
        });
        loop {
            let turns: Vec<u64> = self.rings.iter().map(|ring| ring.copies.turns()).collect();
            let is_more = self.take(&mut held.fresh);
            self.put(write, held).await?;
            if self.left == 0 || self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
            let is_behind =
                || self.rings.iter().zip(&turns).any(|(ring, turns)| ring.copies.turns() < turns + 2);
            let pause = async {
                if !is_more {
                    sleep(LOOK).await;
                }
                settled(|| is_behind().then_some(())).await;
            };
            tokio::select! {
                biased;
                () = &mut enough => return Ok(()),
                () = pause => {}
            }
        }
    }

    /// What comes before packets: a line, and the begin of the file.
    fn head(&self) -> Vec<u8> {
        let begun = Begun { node: self.captures.name.clone(), filter: self.filter.clone() };
        let mut head = (document(&begun) + "\n").into_bytes();
        pcapng::section(&mut head, &format!("keyferry {}", self.captures.version));
        for (ring, direction) in self.interfaces() {
            let way = match direction {
                Direction::Received => "received",
                Direction::Sent => "sent",
            };
            pcapng::interface(&mut head, &format!("worker {} {way}", ring.worker), self.request.snap);
        }
        head
    }

    /// Takes the workers' copies and writes them in the order of their times. Answers whether there are more.
    fn take(&mut self, out: &mut Vec<u8>) -> bool {
        // What answers a copy that comes too late for this look is later than this, and waits for it.
        let mut until = self.captures.clock.now();
        let share = COPIES_A_LOOK / self.rings.len().max(1);
        let mut is_more = false;
        for (index, ring) in self.rings.iter().enumerate() {
            let before = self.waiting.len();
            let copies = std::iter::from_fn(|| ring.copies.take()).take(share);
            self.waiting.extend(copies.map(|copy| (index, copy)));
            if self.waiting.len() - before == share
                && let Some((_, last)) = self.waiting.last()
            {
                is_more = true;
                until = until.min(last.at);
            }
        }
        self.waiting.sort_by_key(|(_, copy)| copy.at);
        let ready = self.waiting.partition_point(|(_, copy)| copy.at <= until);
        for (index, copy) in self.waiting.drain(..ready) {
            let ring = &mut self.rings[index];
            if self.left > 0 {
                self.left -= 1;
                let direction = copy.direction;
                ring.written[direction as usize] += 1;
                let interface = index * Direction::ALL.len() + direction as usize;
                let at_ns = self.zero_ns + copy.at.0;
                pcapng::packet(out, interface, at_ns, direction, copy.whole_bytes, copy.bytes());
            }
            ring.copies.give_back(copy);
        }
        is_more || !self.waiting.is_empty()
    }

    /// Writes secrets, then the packets that were held back longest.
    async fn put(&self, write: &mut OwnedWriteHalf, held: &mut Held) -> io::Result<()> {
        if let Some(log) = self.captures.key_log.as_ref().filter(|_| self.request.keys) {
            while let Some(block) = secrets(log) {
                timeout(PATIENCE, write.write_all(&block)).await??;
            }
        }
        timeout(PATIENCE, write.write_all(&held.oldest)).await??;
        held.age();
        Ok(())
    }

    /// Takes the taps away, and waits until no worker has one: then all copies are there.
    async fn let_go(&self) {
        for ring in &self.rings {
            let tell = &self.captures.workers[ring.worker];
            settled(|| (!tell(None)).then_some(())).await;
        }
        settled(|| self.rings.iter().any(|ring| !ring.copies.is_over()).then_some(())).await;
    }

    fn statistics(&self, out: &mut Vec<u8>) {
        let end_ns = wall_ns();
        for (interface, (ring, direction)) in self.interfaces().enumerate() {
            let (delivered, dropped) = (ring.written[direction as usize], ring.copies.missed(direction));
            let of = Statistics { begin_ns: self.begin_ns, end_ns, delivered, dropped };
            pcapng::statistics(out, interface, &of);
        }
    }

    /// In the order of their numbers.
    fn interfaces(&self) -> impl Iterator<Item = (&Ring, Direction)> {
        self.rings.iter().flat_map(|ring| Direction::ALL.map(|direction| (ring, direction)))
    }

    /// Packets written and missed.
    fn totals(&self) -> [u64; 2] {
        self.interfaces().fold([0, 0], |[written, missed], (ring, direction)| {
            [written + ring.written[direction as usize], missed + ring.copies.missed(direction)]
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for ring in self.rings.iter().filter(|ring| !ring.copies.is_over()) {
            self.captures.workers[ring.worker](None);
        }
        if let Some(log) = &self.captures.key_log {
            log.copy(false);
        }
        self.captures.is_on.set(false);
    }
}

/// Packets that wait until the workers have had two turns and two more: one worker may have handed them to another, whose turn
/// it then is to derive a secret.
#[derive(Default)]
struct Held {
    oldest: Vec<u8>,
    older: Vec<u8>,
    fresh: Vec<u8>,
}

impl Held {
    fn has_any(&self) -> bool {
        [&self.oldest, &self.older, &self.fresh].into_iter().any(|it| !it.is_empty())
    }

    /// The oldest are written.
    fn age(&mut self) {
        self.oldest.clear();
        std::mem::swap(&mut self.oldest, &mut self.older);
        std::mem::swap(&mut self.older, &mut self.fresh);
    }
}

/// Some lines of the key log, as a block; of its full length from the start, so that nothing of it stays behind.
fn secrets(log: &KeyLog) -> Option<Zeroizing<Vec<u8>>> {
    let mut lines = Zeroizing::new(Vec::with_capacity(SECRETS_A_BLOCK * LINE_BYTES_MAX));
    for line in std::iter::from_fn(|| log.take_copy()).take(SECRETS_A_BLOCK) {
        lines.extend_from_slice(line.as_bytes());
    }
    if lines.is_empty() {
        return None;
    }
    let mut block = Zeroizing::new(Vec::with_capacity(lines.len() + pcapng::SECRETS_BYTES));
    pcapng::secrets(&mut block, &lines);
    Some(block)
}

/// Waits until `what` has nothing to say any more; what it says when that takes too long.
async fn settled<T>(mut what: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let left = what()?;
        if begun.elapsed() > TURN_MAX {
            return Some(left);
        }
        sleep(TURN_LOOK).await;
    }
}

fn wall_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}
