//! A queue pair that counts what passes and strikes where the script says. In: what a worker posts and polls. Out:
//! the same, or not. Owned by the worker.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use keyferry_fabric::{
    BURST, Completion, LOAD_BYTES, Limits, PostError, QueuePair, Received, Slots, State, WrId,
};
use rustix::process::{Signal, getpid, kill_process};

use signal_hook::consts::SIGCONT;

use super::script::{self, Fault, Line, Point};
use super::{ARMED, cutter};

/// What all queue pairs of this process go by.
static ORDERS: Mutex<Orders> = Mutex::new(Orders { lines: Vec::new(), lives: 0 });
/// Goes up with each new script.
static SCRIPTS: AtomicU32 = AtomicU32::new(0);
/// The first message sent in the first life.
static FIRST: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Orders {
    lines: Vec<Line>,
    /// Of the link, since the script was read.
    lives: u32,
}

impl Orders {
    fn of(&self, life: u32) -> Vec<Line> {
        self.lines.iter().filter(|line| line.life == life).copied().collect()
    }
}

fn orders() -> MutexGuard<'static, Orders> {
    ORDERS.lock().expect("never poisoned")
}

/// From here on the script is this one. What lives of the link now is its first life.
pub fn arm(text: &str) {
    *orders() = Orders { lines: script::read(text), lives: 1 };
    SCRIPTS.fetch_add(1, Ordering::Release);
}

/// A post the worker knows nothing of.
const OURS: WrId = WrId(u64::MAX);

/// Puts the script between a worker and its queue pair.
pub fn wrap(inner: Box<dyn QueuePair>) -> Box<dyn QueuePair> {
    let mut orders = orders();
    orders.lives += 1;
    Box::new(Faulty {
        inner,
        scripts: SCRIPTS.load(Ordering::Acquire),
        life: orders.lives,
        lines: orders.of(orders.lives),
        passed: [0; 4],
        load_at_death: None,
        posts: VecDeque::new(),
        arrivals: VecDeque::new(),
        held_until: None,
        forged: None,
    })
}

struct Faulty {
    inner: Box<dyn QueuePair>,
    /// As many as [`SCRIPTS`] when `lines` were taken.
    scripts: u32,
    life: u32,
    lines: Vec<Line>,
    /// How many of each kind.
    passed: [u32; 4],
    /// The link is dead since this was the peer's load word.
    load_at_death: Option<[u8; LOAD_BYTES]>,
    /// Completions not yet delivered.
    posts: VecDeque<Completion>,
    arrivals: VecDeque<Completion>,
    held_until: Option<Instant>,
    /// The receive buffer whose message is to be another.
    forged: Option<u16>,
}

impl Faulty {
    /// Follows a new script, if there is one and the link is up.
    fn follow(&mut self) {
        let scripts = SCRIPTS.load(Ordering::Acquire);
        if scripts == self.scripts || self.inner.state() != State::Ready {
            return;
        }
        let orders = orders();
        (self.scripts, self.life) = (scripts, orders.lives);
        (self.lines, self.passed) = (orders.of(self.life), [0; 4]);
        eprintln!("{ARMED}");
    }

    /// Counts one more of a kind and says what is to happen at it. Deaths happen here.
    fn strike(&mut self, point: Point) -> Option<Fault> {
        self.passed[point as usize] += 1;
        let number = self.passed[point as usize];
        let line = self.lines.iter().find(|line| (line.point, line.number) == (point, number))?;
        eprintln!("faulty: {line:?}");
        match line.fault {
            Fault::Kill => signal(Signal::KILL),
            Fault::Stop => stop(),
            Fault::Dead => self.load_at_death = Some(self.inner.read_load()),
            Fault::Cut => cutter::cut(),
            _ => {}
        }
        Some(line.fault)
    }

    fn is_dead(&self) -> bool {
        self.load_at_death.is_some()
    }

    fn arrived(&mut self, completion: Completion) {
        let fault = self.strike(Point::Receive);
        if let (Some(Fault::Forge), Completion::Message(received)) = (fault, &completion) {
            self.forged = Some(received.buffer);
        }
        if let Some(Fault::Late(by)) = fault {
            self.held_until = Some(Instant::now() + by);
        }
        match completion {
            Completion::Message(received) | Completion::Immediate(received, _) if self.is_dead() => {
                self.inner.repost(received);
            }
            completion => self.arrivals.push_back(completion),
        }
    }

    fn fetch(&mut self) {
        self.follow();
        let mut fetched = ArrayVec::<Completion, BURST>::new();
        self.inner.poll(&mut fetched);
        for completion in fetched {
            match completion {
                Completion::Posted(OURS) | Completion::Flushed(OURS) => {}
                Completion::Posted(_) | Completion::Flushed(_) => self.posts.push_back(completion),
                Completion::Message(_) | Completion::Immediate(..) => self.arrived(completion),
            }
        }
    }
}

/// To this very process.
fn signal(signal: Signal) {
    kill_process(getpid(), signal).expect("a process may signal itself");
}

/// Stops this process, and this thread until the process goes on: the kernel lets threads run a little further that it
/// did not choose to take the signal.
fn stop() {
    let goes_on = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGCONT, Arc::clone(&goes_on)).expect("SIGCONT can be handled");
    signal(Signal::STOP);
    while !goes_on.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl QueuePair for Faulty {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn state(&self) -> State {
        self.inner.state()
    }

    fn fail(&mut self) {
        self.inner.fail();
    }

    fn staging(&mut self) -> &mut [u8] {
        self.inner.staging()
    }

    fn slots(&self) -> Arc<dyn Slots> {
        self.inner.slots()
    }

    fn send(&mut self, wr: WrId, message: &[u8]) -> Result<(), PostError> {
        if self.life == 1 && self.passed[Point::Send as usize] == 0 {
            *FIRST.lock().expect("never poisoned") = message.to_vec();
        }
        let fault = self.strike(Point::Send);
        if self.is_dead() {
            self.posts.push_back(Completion::Posted(wr));
            return Ok(());
        }
        match fault {
            Some(Fault::Forge) => {
                let mut forged = message.to_vec();
                *forged.last_mut().expect("a message has a tag") ^= 1;
                self.inner.send(wr, &forged)
            }
            Some(Fault::Old) => self.inner.send(wr, &FIRST.lock().expect("never poisoned")),
            Some(Fault::Replay) => {
                self.inner.send(wr, message)?;
                self.inner.send(OURS, message)
            }
            Some(Fault::KillAfter) => {
                self.inner.send(wr, message)?;
                signal(Signal::KILL);
                Ok(())
            }
            _ => self.inner.send(wr, message),
        }
    }

    fn write(
        &mut self,
        wr: WrId,
        from: Range<usize>,
        to: usize,
        immediate: Option<u32>,
    ) -> Result<(), PostError> {
        let fault = self.strike(Point::Write);
        if self.is_dead() {
            self.posts.push_back(Completion::Posted(wr));
            return Ok(());
        }
        match fault {
            Some(Fault::Forge) => self.inner.staging()[from.end - 1] ^= 1,
            Some(Fault::ForgeHeader) => self.inner.staging()[from.start] ^= 1,
            _ => {}
        }
        self.inner.write(wr, from, to, immediate)?;
        if fault == Some(Fault::KillAfter) {
            signal(Signal::KILL);
        }
        Ok(())
    }

    fn write_load(&mut self, word: &[u8; LOAD_BYTES]) -> Result<(), PostError> {
        let fault = self.strike(Point::Load);
        if self.is_dead() {
            return Ok(());
        }
        let mut word = *word;
        if fault == Some(Fault::Forge) {
            word[LOAD_BYTES - 1] ^= 1;
        }
        self.inner.write_load(&word)
    }

    fn read_load(&self) -> [u8; LOAD_BYTES] {
        self.load_at_death.unwrap_or_else(|| self.inner.read_load())
    }

    fn poll(&mut self, completions: &mut ArrayVec<Completion, BURST>) {
        self.fetch();
        while !completions.is_full()
            && let Some(completion) = self.posts.pop_front()
        {
            completions.push(completion);
        }
        if self.held_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        while !completions.is_full()
            && let Some(completion) = self.arrivals.pop_front()
        {
            completions.push(completion);
        }
    }

    fn message(&mut self, received: &Received) -> &mut [u8] {
        let is_forged = self.forged == Some(received.buffer);
        let message = self.inner.message(received);
        if is_forged {
            self.forged = None;
            *message.last_mut().expect("a message has a tag") ^= 1;
        }
        message
    }

    fn repost(&mut self, received: Received) {
        self.inner.repost(received);
    }
}
