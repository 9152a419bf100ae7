//! What happens in a run, all of it: the cluster, its clients and the faults. A plan follows from its seed, and can be
//! written down, cut and run again. Every number is explicit, so that taking one fault out leaves the others alone.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// One millisecond, in ns.
pub const MS: u64 = 1_000_000;

/// Nodes of a cluster at most.
pub const NODES_MAX: usize = 8;

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it follows from; also seeds keys, sequence numbers and which frames a fault hits.
    pub seed: u64,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// Queue pairs between them.
    pub links: Vec<LinkPlan>,
    /// The clients.
    pub clients: Vec<ClientPlan>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// When a node lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lending {
    /// Never.
    Never,
    /// Whatever can be lent.
    Always,
    /// By the difference of waiting work, in us.
    Threshold(u32),
    /// By the estimate, with the least cost of a move, in us.
    Estimate(u32),
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePlan {
    /// Workers, each with a queue of the port.
    pub workers: usize,
    /// When it lends.
    pub lending: Lending,
    /// The key goes with the grant.
    pub eager: bool,
    /// Leases at most on one queue pair.
    pub leases: usize,
    /// Slots one lease may hold.
    pub credits: usize,
    /// Grant to claim.
    pub claim_timeout_ms: u64,
    /// Silence of a helper after *go*.
    pub silence_timeout_ms: u64,
    /// How long a record stays in its reply slot while its client does not acknowledge it.
    #[serde(default = "usual_slot_patience_ms")]
    pub slot_patience_ms: u64,
    /// Sealed records, gathering buffers, requests, application chunks.
    pub pools: [usize; 4],
    /// Jobs the application takes.
    pub jobs: usize,
    /// Jobs it works on at a time; 0: all.
    #[serde(default)]
    pub slots: usize,
    /// Bytes of TCP's rings.
    pub tcp_bytes: usize,
    /// Packet buffers of each queue.
    pub packets: usize,
    /// The port fills in and checks checksums, and segments.
    pub offload: bool,
    /// The port spreads flows by the hash the workers expect.
    pub rss: bool,
    /// TLS sessions are kept here; else by the client, in tickets.
    pub session_table: bool,
}

/// A queue pair between a worker of one node and one of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPlan {
    /// Node and worker at each end.
    pub ends: [(usize, usize); 2],
    /// One way, in ns.
    pub latency_ns: u64,
    /// Reply slots at each end.
    pub slots: usize,
    /// Receives posted at each end.
    pub receives: usize,
}

/// A client: one connection after the other to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPlan {
    /// The node it speaks to.
    pub node: usize,
    /// When it begins.
    pub start_ns: u64,
    /// TLS 1.2 instead of 1.3.
    pub tls12: bool,
    /// Which cipher suite: AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.
    pub suite: usize,
    /// Requests it sends before it has the answer to the first of them.
    pub pipeline: usize,
    /// Requests on one connection before it opens the next, which resumes the session.
    pub per_connection: usize,
    /// The requests.
    pub requests: Vec<RequestPlan>,
    /// What is wrong with it.
    pub conduct: Conduct,
    /// How it goes from node to node; `None`: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roam: Option<Roam>,
}

/// How a client goes from node to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roam {
    /// The node of each connection; after the last the first again.
    pub nodes: Vec<usize>,
    /// Whose sessions it offers: clients of one wallet have the same.
    pub wallet: usize,
    /// It offers each PSK a second time if it can.
    pub twice: bool,
    /// It comes when the time is a multiple of this, as others of its wallet do.
    pub beat_ns: u64,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Conduct {
    /// As it should.
    Good,
    /// Reads so many bytes every millisecond.
    Slow(usize),
    /// RST after so many bytes of replies.
    Resets(usize),
    /// Neither sends nor reads any more after so many bytes of replies.
    Vanishes(usize),
    /// FIN behind its last request.
    HalfCloses,
    /// Sends its bytes a few at a time.
    Dribbles(usize),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestPlan {
    /// Its method is POST, which must not be run twice.
    pub post: bool,
    /// Body of the request.
    pub upload: usize,
    /// Body of the reply.
    pub bytes: usize,
    /// Time the application takes.
    pub cost_us: u64,
    /// Time it pauses after the first bytes of the body.
    pub pause_us: u64,
    /// The reply is chunked.
    pub chunked: bool,
    /// The application fails half-way.
    pub fails: bool,
    /// Time the client thinks before it.
    pub think_us: u64,
    /// The client asks for new keys before it (TLS 1.3).
    pub key_update: bool,
}

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FrameFate {
    /// Lost.
    Lost,
    /// Twice.
    Twice,
    /// So much later, in ns.
    Late(u64),
    /// With one bit changed.
    Corrupt,
}

/// What happens to a transfer between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferFate {
    /// So much later, in ns.
    Late(u64),
    /// Completed so much later, in ns.
    CompletedLate(u64),
    /// Completed twice.
    CompletedTwice,
    /// Lost, and the queue pair with it.
    Lost,
    /// Arrives, but the queue pair fails.
    AckLost,
    /// Repeated by a forger.
    Replayed,
    /// Changed by a forger.
    Forged(usize),
    /// A load word that is not written.
    Vanishes,
}

/// Which transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransferKind {
    /// Messages.
    Send,
    /// Records.
    Write,
    /// Load words.
    Load,
}

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Frames between a node and its clients.
    Frames {
        /// The node.
        node: usize,
        /// Frames to the node; else from it.
        inbound: bool,
        /// From when.
        from_ns: u64,
        /// Until when.
        to_ns: u64,
        /// Of a thousand frames, how many.
        permille: u64,
        /// What happens to them.
        fate: FrameFate,
    },
    /// Nothing passes between a node and its clients.
    Partition {
        /// The node.
        node: usize,
        /// From when.
        from_ns: u64,
        /// Until when.
        to_ns: u64,
    },
    /// Transfers on a queue pair, counted over all its lives.
    Transfers {
        /// The link.
        link: usize,
        /// From the second end to the first.
        backwards: bool,
        /// Which.
        kind: TransferKind,
        /// The first, from 0.
        nth: u32,
        /// How many.
        count: u32,
        /// What happens to them.
        fate: TransferFate,
    },
    /// The control thread finds a peer gone.
    LinkDown {
        /// The link.
        link: usize,
        /// When.
        at_ns: u64,
    },
    /// A node dies at once; a new process takes its place.
    Kill {
        /// The node.
        node: usize,
        /// When.
        at_ns: u64,
        /// How long it is gone; `None`: for good.
        down_ns: Option<u64>,
    },
    /// A node stands still.
    Freeze {
        /// The node.
        node: usize,
        /// When.
        at_ns: u64,
        /// How long.
        for_ns: u64,
    },
    /// A node is told who the members are, which others may not be told, or later.
    Members {
        /// The node.
        node: usize,
        /// When.
        at_ns: u64,
        /// All but these.
        without: Vec<usize>,
    },
    /// A node takes no new work.
    Drain {
        /// The node.
        node: usize,
        /// When.
        at_ns: u64,
    },
}

/// How hard a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// Nothing goes wrong.
    Calm,
    /// What a good stack hides: every request has to be answered.
    Rough,
    /// Anything.
    Storm,
}

impl Plan {
    /// The plan of a seed.
    pub fn from_seed(seed: u64) -> Plan {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6b65_7966);
        let weather = match rng.u8(..10) {
            0 => Weather::Calm,
            1..=3 => Weather::Rough,
            _ => Weather::Storm,
        };
        let count = match rng.u8(..20) {
            0 => 1,
            1..=12 => 2,
            13..=17 => 3,
            18 => rng.usize(4..=5),
            _ => rng.usize(6..=NODES_MAX),
        };
        let nodes: Vec<NodePlan> = (0..count).map(|_| node(&mut rng, weather)).collect();
        let links = links(&mut rng, &nodes);
        let clients = (0..rng.usize(1..=6)).map(|_| client(&mut rng, count, weather)).collect();
        let faults = faults(&mut rng, weather, count, links.len());
        let mut plan = Plan { seed, nodes, links, clients, faults };
        patience(&mut plan);
        roamers(&mut plan, weather);
        memberships(&mut plan, weather);
        plan
    }

    /// Whether every request of a client that behaves has to be answered whole.
    pub fn is_gentle(&self) -> bool {
        let patient = self.nodes.iter().all(|node| node.claim_timeout_ms >= PATIENT_MS);
        let roomy = self.nodes.iter().all(NodePlan::is_roomy);
        let sound = self.clients.iter().all(|client| client.requests.iter().all(|request| !request.fails));
        sound && patient && roomy && self.faults.iter().all(Fault::is_gentle)
    }
}

impl NodePlan {
    /// Whether nothing runs out.
    pub fn is_roomy(&self) -> bool {
        self.pools.iter().all(|size| *size >= ROOMY) && self.jobs >= ROOMY
    }
}

/// Buffers of each kind with which nothing runs out.
const ROOMY: usize = 48;

/// Bodies of clients that roam are shorter.
const ROAMER_BYTES: usize = 4_000;

/// The longest that gentle faults hold a transfer up together; lease limits of gentle runs are far above.
const GENTLE_LATE_NS: u64 = 2 * MS;

/// Shortest silence a lender takes for death: four signs of life and what gentle faults hold up fit in.
const SILENCE_MS_MIN: u64 = 32;

/// Loss that only costs time.
const GENTLE_LOSS_PERMILLE: u64 = 30;

/// As the product has it.
const SLOT_PATIENCE_MS: u64 = 100;

/// Lease limits that gentle faults never reach.
const PATIENT_MS: u64 = 2_000;

impl Fault {
    fn is_gentle(&self) -> bool {
        match self {
            Fault::Frames { permille, fate, .. } => {
                !matches!(fate, FrameFate::Lost | FrameFate::Corrupt) || *permille <= GENTLE_LOSS_PERMILLE
            }
            Fault::Transfers { fate, .. } => match fate {
                TransferFate::Late(ns) | TransferFate::CompletedLate(ns) => *ns <= GENTLE_LATE_NS,
                TransferFate::CompletedTwice | TransferFate::Vanishes => true,
                _ => false,
            },
            Fault::Freeze { for_ns, .. } => *for_ns <= GENTLE_LATE_NS,
            Fault::Members { .. } => true,
            Fault::Partition { .. } | Fault::LinkDown { .. } | Fault::Kill { .. } | Fault::Drain { .. } => {
                false
            }
        }
    }
}

fn node(rng: &mut Rng, weather: Weather) -> NodePlan {
    let tight = weather == Weather::Storm && rng.u8(..4) == 0;
    let impatient = weather == Weather::Storm && rng.bool();
    let size = |rng: &mut Rng| if tight { rng.usize(2..=8) } else { rng.usize(ROOMY..=ROOMY + 8) };
    let workers = if rng.u8(..5) == 0 { 2 } else { 1 };
    let lending = match rng.u8(..6) {
        0 => Lending::Never,
        1 => match rng.u32(..1000) {
            us @ ..300 => Lending::Threshold(us),
            us => Lending::Estimate((us - 300) / 4),
        },
        _ => Lending::Always,
    };
    NodePlan {
        workers,
        lending,
        // A line behind a slow client is a fault others notice: not where every request has to be answered.
        slots: match lending {
            Lending::Never | Lending::Estimate(_) if weather == Weather::Storm => 1,
            _ => 0,
        },
        eager: rng.u8(..8) == 0,
        leases: if tight { rng.usize(1..=3) } else { rng.usize(4..=16) },
        credits: rng.usize(1..=6),
        claim_timeout_ms: if impatient { rng.u64(2..=30) } else { PATIENT_MS },
        silence_timeout_ms: if impatient { rng.u64(SILENCE_MS_MIN..=60) } else { PATIENT_MS },
        slot_patience_ms: usual_slot_patience_ms(),
        pools: [size(rng), size(rng), size(rng), size(rng)],
        jobs: if tight { rng.usize(2..=4) } else { 64 },
        tcp_bytes: rng.usize(2048..=20_000),
        packets: if tight { rng.usize(24..=64) } else { 128 },
        offload: rng.bool(),
        rss: rng.bool(),
        session_table: rng.bool(),
    }
}

fn links(rng: &mut Rng, nodes: &[NodePlan]) -> Vec<LinkPlan> {
    let mut links = Vec::new();
    for a in 0..nodes.len() {
        for b in a + 1..nodes.len() {
            // A large cluster is a ring with chords: memory is the limit of one run, not of the product.
            let near = b == a + 1 || (a == 0 && b == nodes.len() - 1);
            if !near && (nodes.len() > 4 || rng.bool()) {
                continue;
            }
            for worker in 0..nodes[a].workers.max(nodes[b].workers) {
                links.push(LinkPlan {
                    ends: [(a, worker % nodes[a].workers), (b, worker % nodes[b].workers)],
                    latency_ns: rng.u64(500..20_000),
                    slots: rng.usize(1..=8),
                    receives: rng.usize(8..=48),
                });
            }
        }
    }
    links
}

fn client(rng: &mut Rng, nodes: usize, weather: Weather) -> ClientPlan {
    let requests: Vec<RequestPlan> = (0..rng.usize(1..=6)).map(|_| request(rng, weather)).collect();
    let conduct = match (weather, rng.u8(..12)) {
        (_, 0) => Conduct::Slow(rng.usize(100..4_000)),
        (_, 1) => Conduct::Dribbles(rng.usize(20..200)),
        (_, 2) => Conduct::HalfCloses,
        (Weather::Storm, 3) => Conduct::Resets(rng.usize(0..40_000)),
        (Weather::Storm, 4) => Conduct::Vanishes(rng.usize(0..40_000)),
        _ => Conduct::Good,
    };
    ClientPlan {
        node: rng.usize(..nodes),
        start_ns: rng.u64(..20 * MS),
        tls12: rng.u8(..3) == 0,
        suite: rng.usize(..3),
        pipeline: if rng.bool() { 1 } else { rng.usize(2..=4) },
        per_connection: rng.usize(1..=8),
        requests,
        conduct,
        roam: None,
    }
}

/// What plans that do not say it have.
fn usual_slot_patience_ms() -> u64 {
    SLOT_PATIENCE_MS
}

/// Half of the nodes soon copy records out of reply slots. From a generator of their own: what else a seed gives does not
/// depend on it.
fn patience(plan: &mut Plan) {
    let mut rng = Rng::with_seed(plan.seed.wrapping_mul(0x94d0_49bb_1331_11eb) ^ 0x736c_6f74);
    for node in &mut plan.nodes {
        if rng.bool() {
            node.slot_patience_ms = rng.u64(1..=20);
        }
    }
}

/// Clients that go from node to node with their sessions, where nodes keep any. They have a generator of their own: what
/// else a seed gives does not depend on them.
fn roamers(plan: &mut Plan, weather: Weather) {
    let keepers = plan.nodes.iter().filter(|node| node.session_table).count();
    if keepers < 2 {
        return;
    }
    let mut rng = Rng::with_seed(plan.seed.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ 0x726f_616d);
    for _ in 0..rng.usize(1..=3) {
        let roamer = roamer(&mut rng, plan, weather);
        plan.clients.push(roamer);
    }
}

/// Nodes that join and leave where sessions are kept, as each of the others is told of it: now, later, or not at all. From
/// a generator of their own as well.
fn memberships(plan: &mut Plan, weather: Weather) {
    let keepers = plan.nodes.iter().filter(|node| node.session_table).count();
    let mut rng = Rng::with_seed(plan.seed.wrapping_mul(0xa24b_aed4_963e_e407) ^ 0x6d65_6d62);
    if keepers < 2 || weather == Weather::Calm || rng.bool() {
        return;
    }
    let count = plan.nodes.len();
    for _ in 0..rng.usize(1..=4) {
        let at_ns = rng.u64(..60 * MS);
        let without = (0..count).filter(|_| rng.u8(..3) == 0).collect::<Vec<_>>();
        for node in (0..count).filter(|_| rng.u8(..4) > 0).collect::<Vec<_>>() {
            let late_ns = if rng.bool() { rng.u64(..5 * MS) } else { 0 };
            plan.faults.push(Fault::Members { node, at_ns: at_ns + late_ns, without: without.clone() });
        }
    }
}

fn roamer(rng: &mut Rng, plan: &Plan, weather: Weather) -> ClientPlan {
    let nodes = plan.nodes.len();
    let mut client = client(rng, nodes, weather);
    client.per_connection = rng.usize(1..=2);
    client.requests = (0..rng.usize(3..=8)).map(|_| request(rng, weather)).collect();
    for request in &mut client.requests {
        // What matters is how often it comes, not what it asks for.
        request.bytes %= ROAMER_BYTES;
        request.upload %= ROAMER_BYTES;
    }
    let last = plan.clients.last().and_then(|client| Some((client, client.roam.as_ref()?)));
    if let Some((other, roam)) = last.filter(|_| rng.bool()) {
        // Comes with the sessions of the other at the same times, but to other nodes.
        client.start_ns = other.start_ns;
        client.tls12 = other.tls12;
        client.suite = other.suite;
        let nodes = roam.nodes.iter().map(|node| (node + 1) % nodes).collect();
        client.roam = Some(Roam { nodes, ..roam.clone() });
    } else {
        let visits = (0..rng.usize(1..=4)).map(|_| rng.usize(..nodes)).collect();
        let (twice, beat_ns) = (rng.bool(), rng.u64(MS..10 * MS));
        client.roam = Some(Roam { nodes: visits, wallet: plan.clients.len(), twice, beat_ns });
    }
    client
}

fn request(rng: &mut Rng, weather: Weather) -> RequestPlan {
    let upload = match rng.u8(..8) {
        0 => rng.usize(..3_000),
        1 => rng.usize(..30_000),
        _ => 0,
    };
    let bytes = match rng.u8(..10) {
        0 => 0,
        1..=5 => rng.usize(..2_000),
        6..=8 => rng.usize(..20_000),
        _ => rng.usize(..120_000),
    };
    RequestPlan {
        post: upload > 0 || rng.u8(..6) == 0,
        upload,
        bytes,
        cost_us: if rng.bool() { 0 } else { rng.u64(..5_000) },
        pause_us: if rng.u8(..6) == 0 { rng.u64(..60_000) } else { 0 },
        chunked: rng.bool(),
        fails: weather == Weather::Storm && rng.u8(..24) == 0,
        think_us: if rng.bool() { 0 } else { rng.u64(..8_000) },
        key_update: rng.u8(..6) == 0,
    }
}

fn faults(rng: &mut Rng, weather: Weather, nodes: usize, links: usize) -> Vec<Fault> {
    let count = match weather {
        Weather::Calm => 0,
        Weather::Rough => rng.usize(1..=4),
        Weather::Storm => rng.usize(1..=7),
    };
    let gentle = weather == Weather::Rough;
    (0..count).map(|_| fault(rng, gentle, nodes, links)).collect()
}

fn fault(rng: &mut Rng, gentle: bool, nodes: usize, links: usize) -> Fault {
    let node = rng.usize(..nodes);
    let link = rng.usize(..links.max(1));
    let at_ns = rng.u64(..60 * MS);
    match rng.u8(..12) {
        0..=2 => frames(rng, gentle, node, at_ns),
        3..=7 if links > 0 => transfers(rng, gentle, link),
        8 if gentle => Fault::Freeze { node, at_ns, for_ns: rng.u64(..GENTLE_LATE_NS) },
        8 => Fault::Freeze { node, at_ns, for_ns: rng.u64(..80 * MS) },
        9 if !gentle => {
            let down_ns = (rng.u8(..4) > 0).then(|| rng.u64(MS..100 * MS));
            Fault::Kill { node, at_ns, down_ns }
        }
        10 if !gentle && links > 0 => Fault::LinkDown { link, at_ns },
        11 if !gentle && rng.bool() => Fault::Drain { node, at_ns },
        11 if !gentle => Fault::Partition { node, from_ns: at_ns, to_ns: at_ns + rng.u64(..3_000 * MS) },
        _ => frames(rng, gentle, node, at_ns),
    }
}

fn frames(rng: &mut Rng, gentle: bool, node: usize, from_ns: u64) -> Fault {
    let fate = match rng.u8(..4) {
        0 => FrameFate::Lost,
        1 => FrameFate::Twice,
        2 => FrameFate::Late(rng.u64(..3 * MS)),
        _ => FrameFate::Corrupt,
    };
    let spoils = matches!(fate, FrameFate::Lost | FrameFate::Corrupt);
    let permille = if gentle && spoils { rng.u64(1..=GENTLE_LOSS_PERMILLE) } else { rng.u64(1..=300) };
    let to_ns = from_ns + rng.u64(..100 * MS);
    Fault::Frames { node, inbound: rng.bool(), from_ns, to_ns, permille, fate }
}

fn transfers(rng: &mut Rng, gentle: bool, link: usize) -> Fault {
    let kind = match rng.u8(..8) {
        0 => TransferKind::Load,
        1..=2 => TransferKind::Write,
        _ => TransferKind::Send,
    };
    let late_ns = if gentle { GENTLE_LATE_NS } else { 50 * MS };
    let fate = match (gentle, rng.u8(..8)) {
        (_, 0) => TransferFate::Late(rng.u64(..late_ns)),
        (_, 1) => TransferFate::CompletedLate(rng.u64(..late_ns)),
        (_, 2) | (true, 3..) => TransferFate::CompletedTwice,
        (false, 3) => TransferFate::Lost,
        (false, 4) => TransferFate::AckLost,
        (false, 5) => TransferFate::Replayed,
        (false, 6) => TransferFate::Forged(rng.usize(..4096)),
        (false, _) => TransferFate::Late(rng.u64(..late_ns)),
    };
    let fate = if kind == TransferKind::Load && rng.bool() { TransferFate::Vanishes } else { fate };
    let count = if rng.bool() { 1 } else { rng.u32(1..=20) };
    Fault::Transfers { link, backwards: rng.bool(), kind, nth: rng.u32(..30), count, fate }
}
