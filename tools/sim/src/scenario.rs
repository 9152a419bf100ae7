//! What is simulated: a cluster, the load on it, and by which model they meet. Plain values; a run takes one of each.

use std::sync::Arc;

use keyferry_decide::{Policy, word_interval};

use crate::costs::Costs;
use crate::draw::{Mix, Skew};

/// How clients and requests are spread, by the names of the paper, and what they are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Connections in turn, no session known; every request stays.
    Rr,
    /// A client goes back to its node; every request stays.
    Session,
    /// The same, and nodes lend each other requests by this policy.
    Bf(Policy),
    /// A client goes back to its node; each request runs where fewest are, known at once and moved for nothing.
    ShortestQueue,
    /// A client goes back to its node; all slots of the cluster serve one queue. No policy can do better with what
    /// requests cost unknown.
    Central,
}

/// What the product does unless told otherwise.
pub const OURS: Model = Model::Bf(Policy::Estimate { move_cost_us: 50 });

impl Model {
    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Model::Rr => "rr",
            Model::Session => "session",
            Model::Bf(Policy::Estimate { .. }) => "bf",
            Model::Bf(Policy::Threshold { .. }) => "threshold",
            Model::Bf(Policy::Always) => "always",
            Model::Bf(Policy::Never) => "never",
            Model::ShortestQueue => "jsq",
            Model::Central => "central",
        }
    }
}

/// A node that fails, and when; at `back_ns` it is there again and empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub node: usize,
    /// When.
    pub at_ns: u64,
    /// When it is back; `None`: not in this run.
    pub back_ns: Option<u64>,
}

/// The nodes and what joins them.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Nodes.
    pub nodes: usize,
    /// Worker cores of a node.
    pub workers: usize,
    /// Slots of a node's application; not used where the application works on the core.
    pub slots: usize,
    /// Processes of each core that the application works on: so many requests share it, others wait.
    pub processes: usize,
    /// Nodes that take so many times as long for everything.
    pub slow: Vec<(usize, f64)>,
    /// Helpers a node chooses at most.
    pub helpers: usize,
    /// Leases from one worker to one peer.
    pub leases: u32,
    /// How often load words are written, and read.
    pub word_ns: u64,
    /// Words are that much older when they are read, besides.
    pub word_delay_ns: u64,
    /// Sessions can be resumed at every node; otherwise where they were made.
    pub sessions_shared: bool,
    /// How long a client is sent back to its node, and its session can be resumed.
    pub lifetime_ns: u64,
    /// Each handshake begins that time again, not only a full one.
    pub lifetime_restarts: bool,
    /// Nodes that fail.
    pub failures: Vec<Failure>,
    /// From a failure until others know.
    pub notice_ns: u64,
}

/// How often the nodes of such a cluster write their words, in ns. Beyond 33 nodes not all are peers, but enough for the longest
/// interval.
pub fn word_ns(nodes: usize) -> u64 {
    word_interval(nodes.saturating_sub(1)).as_nanos() as u64
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            nodes: 4,
            workers: 1,
            slots: 2,
            // What Apache has unless told otherwise.
            processes: 256,
            slow: Vec::new(),
            helpers: 32,
            leases: 256,
            word_ns: word_ns(4),
            word_delay_ns: 0,
            sessions_shared: false,
            lifetime_ns: 600_000_000_000,
            lifetime_restarts: true,
            failures: Vec::new(),
            notice_ns: 750_000_000,
        }
    }
}

/// The law of gaps between arrivals.
#[derive(Clone, Debug, PartialEq)]
pub enum Gaps {
    /// Exponential.
    Poisson,
    /// Pareto of this shape, up to so many times the shortest.
    Pareto {
        /// Below 2 bursts are seen at many time scales.
        shape: f64,
        /// Without a bound a run would miss its rate.
        span: f64,
    },
    /// Lognormal; the deviation of the logarithm.
    Lognormal(f64),
    /// Moments of a trace, in ns, one after the other; their rate is their own.
    Trace(Arc<[u64]>),
    /// As the load generator draws them from this seed, with clients and costs: the same requests at the same moments.
    Generator(u64),
}

/// Bytes of a reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    /// By weight.
    Mix(Mix),
    /// A lognormal body below a bound and a Pareto tail above it, as web servers' files have.
    Web(Web),
}

/// Sizes of a web server's files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Web {
    /// Median of the body, in bytes.
    pub median: f64,
    /// Deviation of its logarithm.
    pub sigma: f64,
    /// Where the tail begins.
    pub body_max: f64,
    /// Share of the tail.
    pub tail: f64,
    /// Its shape.
    pub shape: f64,
    /// Nothing is larger.
    pub max: f64,
}

impl Default for Web {
    fn default() -> Web {
        Web { median: 2_500.0, sigma: 1.3, body_max: 10_240.0, tail: 0.07, shape: 1.1, max: 1_048_576.0 }
    }
}

/// What the application works on a request, in ns.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// In us, by weight.
    Mix(Mix),
    /// Exponential, of this mean.
    Exponential(f64),
    /// Lognormal, of this mean, and the deviation of its logarithm.
    Lognormal(f64, f64),
    /// By the size of the reply, and for some a multiple of that.
    Content(Content),
}

/// Static content and dynamic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Content {
    /// A static reply whatever its size.
    pub fixed: f64,
    /// A KB of it.
    pub per_kb: f64,
    /// Share of dynamic requests.
    pub dynamic: f64,
    /// Times static, at least and at most; uniform between them.
    pub factor: (f64, f64),
}

/// Sessions: requests one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sessions {
    /// Their number, on average; geometric.
    pub requests: f64,
    /// Between a reply and the next request, on average; exponential.
    pub think_ns: f64,
}

/// Connections that clients keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Each client's.
    pub connections: usize,
    /// Requests before one is replaced.
    pub requests: u32,
}

/// What clients want.
#[derive(Clone, Debug)]
pub struct Load {
    /// Arrivals a second; not used for a trace.
    pub rate: f64,
    /// Their gaps.
    pub gaps: Gaps,
    /// Clients.
    pub clients: usize,
    /// Whose they are.
    pub skew: Skew,
    /// What arrives is a session; otherwise a request.
    pub sessions: Option<Sessions>,
    /// Requests wait for their client's own connections; otherwise each has a new one.
    pub kept: Option<Kept>,
    /// Sizes of replies.
    pub sizes: Sizes,
    /// Work of the application.
    pub work: Work,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where.
    pub cluster: Cluster,
    /// What.
    pub load: Load,
    /// At which cost.
    pub costs: Arc<Costs>,
    /// By which model.
    pub model: Model,
    /// Requests that come before any is measured.
    pub warm_up: u64,
    /// Requests measured.
    pub requests: u64,
    /// All random numbers follow from it.
    pub seed: u64,
}
