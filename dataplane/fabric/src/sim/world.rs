//! What is under way between the queue pairs of one net. In: posts, failures, the clock. Out: arrived messages,
//! written memory, completions. Behind the net's lock.
//!
//! Each direction of a pair is a queue in which nothing overtakes, whatever the faults: RC is ordered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{LOAD_BYTES, Limits, PostError, Slots, State, WrId};

/// A transfer about to leave, as a fault function sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Number of the pair in its net, from 0.
    pub pair: usize,
    /// From the second end to the first.
    pub backwards: bool,
    /// What it is.
    pub kind: Kind,
    /// What it carries.
    pub bytes: &'a [u8],
}

/// What a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A SEND.
    Send,
    /// A WRITE.
    Write,
    /// A WRITE WITH IMMEDIATE.
    WriteImmediate,
    /// The load word.
    Load,
}

/// What becomes of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after the pair's latency.
    Deliver,
    /// It, and with it everything behind it, arrives so much later.
    Delay {
        /// By how much.
        ns: u64,
    },
    /// It never arrives, nor does anything behind it: retries are exceeded, the pair fails.
    Drop,
    /// It arrives, its acknowledgement does not: as `Drop`, but the peer has it.
    DropAck,
    /// It arrives; its acknowledgement, and all behind that, comes so much later.
    DelayAck {
        /// By how much.
        ns: u64,
    },
    /// It arrives and is completed twice, as some adapters do: the second completion is a phantom.
    CompleteTwice,
    /// It arrives twice, which only a forger between the nodes can bring about: RC itself delivers once.
    Twice,
    /// It arrives with this bit changed (counted from its first byte, modulo its length), by a forger's hand: RC
    /// checks what it carries.
    Corrupt {
        /// Which bit.
        bit: usize,
    },
    /// It never arrives, and nobody learns of it: a load word that is not written. As `Drop` for anything else.
    Vanish,
}

/// Decides what becomes of each transfer.
pub(super) type Faults = Box<dyn FnMut(&Transfer<'_>) -> Fate + Send>;

/// Names one end; ends of one pair differ in the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndId(usize);

impl EndId {
    fn peer(self) -> EndId {
        EndId(self.0 ^ 1)
    }
}

/// What is on its way to an end.
#[derive(Clone)]
pub(super) enum Work {
    Send(Vec<u8>),
    Write { to: usize, bytes: Vec<u8>, immediate: Option<u32> },
    Load([u8; LOAD_BYTES]),
}

impl Work {
    fn kind(&self) -> Kind {
        match self {
            Work::Send(_) => Kind::Send,
            Work::Write { immediate: None, .. } => Kind::Write,
            Work::Write { immediate: Some(_), .. } => Kind::WriteImmediate,
            Work::Load(_) => Kind::Load,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Work::Send(bytes) | Work::Write { bytes, .. } => bytes,
            Work::Load(word) => word,
        }
    }

    fn flip(&mut self, bit: usize) {
        let bytes = match self {
            Work::Send(bytes) | Work::Write { bytes, .. } => &mut bytes[..],
            Work::Load(word) => &mut word[..],
        };
        if !bytes.is_empty() {
            let at = bit / 8 % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
        }
    }
}

/// Whether the acknowledgement of a transfer comes back.
#[derive(Clone, Copy)]
enum Ack {
    Returns {
        late_ns: u64,
        twice: bool,
    },
    Lost,
    /// A forger's copy: the adapter that sent the original knows nothing of it.
    None,
}

impl Ack {
    const PROMPT: Ack = Ack::Returns { late_ns: 0, twice: false };
}

enum Event {
    Arrive {
        to: EndId,
        work: Work,
        ack: Ack,
    },
    /// A transfer, and all behind it, is lost on the way to this end.
    Lost {
        to: EndId,
    },
    Acknowledged {
        end: EndId,
        twice: bool,
    },
    /// The end learns that its peer failed, had no receive, or cannot be reached.
    Failed {
        end: EndId,
    },
}

/// A signalled post; `source` is the range of the staging memory it reads and what stood there.
pub(super) struct Posted {
    pub(super) wr: WrId,
    pub(super) source: Option<(usize, Vec<u8>)>,
}

/// An arrived message or immediate.
pub(super) struct Arrived {
    pub(super) bytes: Vec<u8>,
    pub(super) immediate: Option<u32>,
}

struct End {
    limits: Limits,
    latency_ns: u64,
    state: State,
    /// Nothing arrives here any more: something before it was lost.
    deaf: bool,
    receives: usize,
    arrived: VecDeque<Arrived>,
    unacknowledged: VecDeque<Posted>,
    /// To be polled; `true`: done, `false`: flushed.
    completed: VecDeque<(Posted, bool)>,
    slots: Arc<SlotMemory>,
    load: [u8; LOAD_BYTES],
    /// Nothing from this end arrives at its peer before this time.
    clear_ns: u64,
}

#[derive(Default)]
pub(super) struct World {
    now_ns: u64,
    /// By due time, then by order of cause.
    events: BTreeMap<(u64, u64), Event>,
    caused: u64,
    ends: Vec<End>,
    faults: Option<Faults>,
}

impl World {
    pub(super) fn connect(&mut self, limits: Limits, latency_ns: u64) -> (EndId, EndId) {
        let first = self.ends.len();
        for _ in 0..2 {
            self.ends.push(End {
                limits,
                latency_ns,
                state: State::Ready,
                deaf: false,
                receives: limits.receives,
                arrived: VecDeque::new(),
                unacknowledged: VecDeque::new(),
                completed: VecDeque::new(),
                slots: Arc::new(SlotMemory(Mutex::new(vec![0; limits.slots_bytes]))),
                load: [0; LOAD_BYTES],
                clear_ns: 0,
            });
        }
        (EndId(first), EndId(first + 1))
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        self.events.first_key_value().map(|((due_ns, _), _)| *due_ns)
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = Some(faults);
    }

    pub(super) fn advance(&mut self, now_ns: u64) {
        while let Some(first) = self.events.first_entry() {
            let due_ns = first.key().0;
            if due_ns > now_ns {
                break;
            }
            let event = first.remove();
            // What an event causes is timed from the event, however far the clock moves at once.
            self.now_ns = self.now_ns.max(due_ns);
            self.happen(event);
        }
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// Takes a post; `posted` is `None` for what is unsignalled.
    pub(super) fn post(
        &mut self,
        from: EndId,
        mut work: Work,
        posted: Option<Posted>,
    ) -> Result<(), PostError> {
        let end = &self.ends[from.0];
        if end.state == State::Error {
            return Err(PostError::Broken);
        }
        let waiting = end.unacknowledged.len() + end.completed.len();
        if posted.is_some() && waiting >= end.limits.posted_max {
            return Err(PostError::Full);
        }
        let transfer =
            Transfer { pair: from.0 / 2, backwards: from.0 % 2 == 1, kind: work.kind(), bytes: work.bytes() };
        let fate = self.faults.as_mut().map_or(Fate::Deliver, |faults| faults(&transfer));
        let to = from.peer();
        let (delay_ns, ack) = match fate {
            Fate::Deliver => (0, Ack::PROMPT),
            Fate::Delay { ns } => (ns, Ack::PROMPT),
            Fate::DropAck => (0, Ack::Lost),
            Fate::DelayAck { ns } => (0, Ack::Returns { late_ns: ns, twice: false }),
            Fate::CompleteTwice => (0, Ack::Returns { late_ns: 0, twice: true }),
            Fate::Twice => {
                self.travel(from, 0, Event::Arrive { to, work: work.clone(), ack: Ack::None });
                (0, Ack::PROMPT)
            }
            Fate::Corrupt { bit } => {
                work.flip(bit);
                (0, Ack::PROMPT)
            }
            Fate::Vanish if posted.is_none() => return Ok(()),
            Fate::Drop | Fate::Vanish => {
                self.travel(from, 0, Event::Lost { to });
                self.ends[from.0].unacknowledged.extend(posted);
                return Ok(());
            }
        };
        self.travel(from, delay_ns, Event::Arrive { to, work, ack });
        self.ends[from.0].unacknowledged.extend(posted);
        Ok(())
    }

    pub(super) fn state(&self, end: EndId) -> State {
        self.ends[end.0].state
    }

    pub(super) fn fail(&mut self, id: EndId) {
        let end = &mut self.ends[id.0];
        if end.state == State::Error {
            return;
        }
        end.state = State::Error;
        // Their acknowledgements, if any, come too late to prove anything.
        end.completed.extend(end.unacknowledged.drain(..).map(|posted| (posted, false)));
        self.travel(id, 0, Event::Failed { end: id.peer() });
    }

    /// A post to be reported done (`true`) or flushed.
    pub(super) fn completed(&mut self, end: EndId) -> Option<(Posted, bool)> {
        self.ends[end.0].completed.pop_front()
    }

    pub(super) fn arrived(&mut self, end: EndId) -> Option<Arrived> {
        self.ends[end.0].arrived.pop_front()
    }

    pub(super) fn post_receive(&mut self, end: EndId) {
        self.ends[end.0].receives += 1;
    }

    pub(super) fn load(&self, end: EndId) -> [u8; LOAD_BYTES] {
        self.ends[end.0].load
    }

    pub(super) fn slots(&self, end: EndId) -> Arc<dyn Slots> {
        Arc::clone(&self.ends[end.0].slots) as Arc<dyn Slots>
    }

    /// Lets an event set out from `from`, behind all that set out before.
    fn travel(&mut self, from: EndId, delay_ns: u64, event: Event) {
        let end = &mut self.ends[from.0];
        let due_ns = self.now_ns.saturating_add(end.latency_ns).saturating_add(delay_ns).max(end.clear_ns);
        end.clear_ns = due_ns;
        self.caused += 1;
        self.events.insert((due_ns, self.caused), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { to, work, ack } => self.arrive(to, work, ack),
            Event::Lost { to } => self.lose(to),
            Event::Acknowledged { end, twice } => {
                let end = &mut self.ends[end.0];
                // After a failure there is nothing unacknowledged left.
                let Some(posted) = end.unacknowledged.pop_front() else { return };
                // The phantom names no source: whoever believes the first may have used it again.
                let phantom = twice.then_some(Posted { wr: posted.wr, source: None });
                end.completed.push_back((posted, true));
                end.completed.extend(phantom.map(|phantom| (phantom, true)));
            }
            Event::Failed { end } => self.fail(end),
        }
    }

    fn arrive(&mut self, to: EndId, work: Work, ack: Ack) {
        let end = &mut self.ends[to.0];
        if end.deaf || end.state == State::Error {
            return;
        }
        let uses_receive = matches!(work.kind(), Kind::Send | Kind::WriteImmediate);
        if uses_receive && end.receives == 0 {
            return self.lose(to);
        }
        end.receives -= usize::from(uses_receive);
        let signalled = !matches!(work, Work::Load(_));
        match work {
            Work::Send(bytes) => end.arrived.push_back(Arrived { bytes, immediate: None }),
            Work::Write { to, bytes, immediate } => {
                end.slots.lock()[to..to + bytes.len()].copy_from_slice(&bytes);
                if immediate.is_some() {
                    end.arrived.push_back(Arrived { bytes: Vec::new(), immediate });
                }
            }
            Work::Load(word) => end.load = word,
        }
        match ack {
            Ack::Returns { late_ns, twice } if signalled => {
                self.travel(to, late_ns, Event::Acknowledged { end: to.peer(), twice });
            }
            Ack::Returns { .. } | Ack::None => {}
            Ack::Lost => self.lose(to),
        }
    }

    /// From here on nothing reaches `to`, and its peer learns of it.
    fn lose(&mut self, to: EndId) {
        if !std::mem::replace(&mut self.ends[to.0].deaf, true) {
            self.travel(to, 0, Event::Failed { end: to.peer() });
        }
    }
}

/// An end's slots.
struct SlotMemory(Mutex<Vec<u8>>);

impl SlotMemory {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots for SlotMemory {
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn read(&self, at: usize, to: &mut [u8]) {
        let bytes = self.lock();
        assert!(at <= bytes.len() && to.len() <= bytes.len() - at, "{} bytes at {at} of the slots", to.len());
        to.copy_from_slice(&bytes[at..at + to.len()]);
    }

    fn clear(&self, at: usize, bytes: usize) {
        let mut all = self.lock();
        assert!(at <= all.len() && bytes <= all.len() - at, "{bytes} bytes at {at} of the slots");
        all[at..at + bytes].fill(0);
    }
}
