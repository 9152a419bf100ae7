//! Faults put in the way: on the wires between nodes and clients, and on the fabric between nodes. Everything that
//! passes is shown to the checkers first.

use std::cell::Cell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyferry_fabric::sim::{Fate, Kind, Transfer};
use keyferry_nic::sim::{Arrivals, Wire};

use crate::plan::{Fault, FrameFate, Plan, TransferFate, TransferKind};
use crate::streams::Streams;

thread_local! {
    static TRACED: Cell<bool> = const { Cell::new(false) };
}

/// Prints every frame and transfer of the runs that this thread makes from now on.
pub fn trace() {
    TRACED.set(true);
}

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// One way, between a node and its clients.
const WIRE_NS: u64 = 20_000;

/// What the wires and the fabric have seen, and will do.
pub struct Path {
    seed: u64,
    faults: Vec<Fault>,
    /// What nodes sent.
    pub streams: Streams,
    /// Records that helpers wrote.
    pub written: Vec<Vec<u8>>,
    /// Link of each queue pair, in the order of their making.
    pub links: Vec<usize>,
    /// Transfers so far, by link, direction and kind.
    counts: Vec<[[u32; 3]; 2]>,
    /// Frames so far.
    frames: u64,
    /// The time.
    pub now_ns: u64,
    /// Prints what passes.
    traced: bool,
}

/// Shared by both ends and all wires of a run, on one thread.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Path>>);

impl Shared {
    /// The path of a run.
    pub fn new(plan: &Plan) -> Shared {
        Shared(Arc::new(Mutex::new(Path {
            seed: plan.seed,
            faults: plan.faults.clone(),
            streams: Streams::default(),
            written: Vec::new(),
            links: Vec::new(),
            counts: vec![[[0; 3]; 2]; plan.links.len()],
            frames: 0,
            now_ns: 0,
            traced: TRACED.get(),
        })))
    }

    /// Nobody else holds it: a run has one thread.
    pub fn lock(&self) -> MutexGuard<'_, Path> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One direction of a node's cable.
    pub fn wire(&self, node: usize, inbound: bool) -> Box<dyn Wire> {
        Box::new(Cable { shared: self.clone(), node, inbound })
    }
}

struct Cable {
    shared: Shared,
    node: usize,
    inbound: bool,
}

impl Wire for Cable {
    fn carry(&mut self, sent_ns: u64, frame: &mut [u8], arrivals: &mut Arrivals<'_>) {
        let mut path = self.shared.lock();
        if self.inbound {
            path.streams.heard(self.node, sent_ns, frame);
        } else {
            path.streams.sent(self.node, sent_ns, frame);
        }
        path.frames += 1;
        let frames = path.frames;
        path.tell(|| format!("{frames} {}", describe(frame)));
        let mut at_ns = sent_ns + WIRE_NS;
        let mut copies = 1;
        let mut corrupt = false;
        for index in 0..path.faults.len() {
            let Some(fate) = path.frame_fate(index, self.node, self.inbound, sent_ns) else { continue };
            path.tell(|| format!("{frames} {fate:?}"));
            match fate {
                FrameFate::Lost => return,
                FrameFate::Twice => copies += 1,
                FrameFate::Late(ns) => at_ns += ns,
                // One bit: TCP's sum does not see every pair.
                FrameFate::Corrupt if std::mem::replace(&mut corrupt, true) => {}
                // ARP has no sum of its own: its frame check sequence, which a port looks at, is all it has.
                FrameFate::Corrupt if frame[12..14] != [8, 0] => return,
                FrameFate::Corrupt => {
                    let bit = path.draw(index, 1) as usize % ((frame.len() - ETHERNET) * 8);
                    frame[ETHERNET + bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
        for _ in 0..copies {
            arrivals.at(at_ns, frame);
        }
    }
}

/// A frame in a line of a trace.
fn describe(frame: &[u8]) -> String {
    use smoltcp::wire::{EthernetFrame, PrettyPrinter};
    format!("{}", PrettyPrinter::<EthernetFrame<&[u8]>>::new("", &frame)).replace('\n', " ")
}

impl Path {
    /// Prints a line of the trace, if one is wanted.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        if self.traced {
            println!("{:>12.3} us  {}", self.now_ns as f64 / 1_000.0, line());
        }
    }

    /// A number drawn for this fault and this frame: no other fault changes it.
    fn draw(&self, fault: usize, salt: u64) -> u64 {
        let mut mixed = self.seed ^ (fault as u64) << 48 ^ salt << 40 ^ self.frames;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn frame_fate(&self, index: usize, of: usize, towards: bool, sent_ns: u64) -> Option<FrameFate> {
        match &self.faults[index] {
            Fault::Frames { node, inbound, from_ns, to_ns, permille, fate } => {
                let here = *node == of && *inbound == towards && (*from_ns..*to_ns).contains(&sent_ns);
                (here && self.draw(index, 0) % 1_000 < *permille).then_some(*fate)
            }
            Fault::Partition { node, from_ns, to_ns } => {
                (*node == of && (*from_ns..*to_ns).contains(&sent_ns)).then_some(FrameFate::Lost)
            }
            _ => None,
        }
    }

    /// A transfer between nodes.
    pub fn transfer(&mut self, transfer: &Transfer<'_>) -> Fate {
        let link = self.links[transfer.pair];
        let (kind, place) = match transfer.kind {
            Kind::Send => (TransferKind::Send, 0),
            Kind::Write | Kind::WriteImmediate => (TransferKind::Write, 1),
            Kind::Load => (TransferKind::Load, 2),
        };
        self.streams.note(link, self.now_ns, transfer.bytes);
        if kind == TransferKind::Write {
            self.written.push(transfer.bytes.to_vec());
        }
        let count = &mut self.counts[link][usize::from(transfer.backwards)][place];
        let number = *count;
        *count += 1;
        let hit = self.faults.iter().find_map(|fault| match fault {
            Fault::Transfers { link: at, backwards, kind: of, nth, count, fate }
                if (*at, *backwards, *of) == (link, transfer.backwards, kind)
                    && (*nth..nth + count).contains(&number) =>
            {
                Some(*fate)
            }
            _ => None,
        });
        let len = transfer.bytes.len();
        let backwards = transfer.backwards;
        if kind != TransferKind::Load || hit.is_some() {
            self.tell(|| {
                format!("link {link} backwards={backwards} {kind:?} {number}: {len} bytes, {hit:?}")
            });
        }
        match hit {
            None => Fate::Deliver,
            Some(TransferFate::Late(ns)) => Fate::Delay { ns },
            Some(TransferFate::CompletedLate(ns)) => Fate::DelayAck { ns },
            Some(TransferFate::CompletedTwice) => Fate::CompleteTwice,
            Some(TransferFate::Lost) => Fate::Drop,
            Some(TransferFate::AckLost) => Fate::DropAck,
            Some(TransferFate::Replayed) => Fate::Twice,
            Some(TransferFate::Forged(bit)) => Fate::Corrupt { bit },
            Some(TransferFate::Vanishes) => Fate::Vanish,
        }
    }
}
