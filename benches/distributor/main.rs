//! The forwarding rate of a distributor against that of DPDK's testpmd in its `macswap` mode: the same driver, the same
//! frames, the same core, in turns.
//!
//! A forwarder has a core for itself and is a process of its own: `keyferry distributor` with a million open flows in its
//! table, or testpmd. On the other core is the generator, clients and nodes at once. Between them is vhost (virtio-user
//! on the generator's side), a packet socket on veth, or memif. All forwarders of a driver run, and stand still but for
//! the one whose turn it is; a round gives each a moment with every kind of traffic, each in its turn. What comes back is
//! counted, if it is where it belongs: with the distributor every frame at its flow's node.
//!
//! Whether the generator was the limit is in the table: it waited for the forwarder for a share of the time, and `io`,
//! which touches no packet, shows what driver and generator can do. The last line is `bench distributor: vs_macswap=..
//! vs_macswap_DRIVER=.. flows_1m=.. mpps=.. macswap_mpps=..`; vs_macswap is the lowest ratio of all drivers and frame
//! sizes at 100,000 flows, flows_1m that at 1,000,000, mpps of the first driver with 64 B.

mod forwarder;
mod generator;
mod ground;
#[path = "../harness/mod.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use forwarder::{Forwarder, GENERATOR_CORE, Kind};
use generator::{Expect, Figures, Generator};
use harness::traffic::Template;
use harness::{median, traffic};
use keyferry_nic::dpdk::{Eal, EalOptions, Hugepages, register_worker_thread};

/// The program compared with.
const TESTPMD: &str = "dpdk-testpmd";
/// Frames, in bytes from the Ethernet header on.
const FRAMES: [usize; 2] = [64, 1500];
/// Flows whose packets come in turn, of those in the table.
const FLOWS: [u32; 3] = [1_000, 100_000, 1_000_000];
/// Of which what is quoted.
const FLOWS_QUOTED: u32 = 100_000;
/// Flows in the distributor's table.
const FLOWS_MAX: u32 = FLOWS[2];
/// Before a figure is taken.
const WARM_UP: Duration = Duration::from_millis(40);
/// Packet memory of the generator, in MiB.
const MEMORY_MIB: u32 = 192;
/// Starting, or introducing a million flows, takes longer only if something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is between forwarder and generator.
struct Driver {
    name: &'static str,
    /// Packets on their way at most.
    window: usize,
}

/// `window` is below what the rings take in either direction: 256 descriptors of virtio, frames of a packet socket's
/// ring, 1,024 of memif's.
const DRIVERS: [Driver; 3] = [
    Driver { name: "vhost", window: 192 },
    Driver { name: "af_packet", window: 512 },
    Driver { name: "memif", window: 512 },
];

impl Driver {
    /// The devices of a forwarder and of the generator.
    fn devices(&self, number: usize, folder: &Path) -> [String; 2] {
        let socket = socket(number, folder);
        let socket = socket.display();
        match self.name {
            "vhost" => {
                [format!("net_vhost0,iface={socket}"), format!("net_virtio_user{number},path={socket}")]
            }
            "af_packet" => {
                let [ours, theirs] = [format!("kf{number}"), format!("kg{number}")];
                ground::veth(&ours, &theirs);
                [
                    format!("net_af_packet0,iface={ours},framecnt=2048"),
                    format!("net_af_packet{number},iface={theirs},framecnt=2048"),
                ]
            }
            _ => [
                format!("net_memif0,role=server,socket-abstract=no,socket={socket}"),
                format!("net_memif{number},role=client,socket-abstract=no,socket={socket}"),
            ],
        }
    }
}

/// Where a forwarder listens for its generator, if they have a socket between them.
fn socket(number: usize, folder: &Path) -> PathBuf {
    folder.join(format!("{number}.sock"))
}

#[derive(Parser)]
struct Args {
    /// Rounds; each gives every forwarder a moment with every kind of traffic.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of such a moment.
    #[arg(long, default_value_t = 200)]
    moment_ms: u64,
    /// Only this driver: vhost, af_packet or memif; again for more.
    #[arg(long)]
    driver: Vec<String>,
    /// Only frames of so many bytes, 64 or 1500: to profile one case.
    #[arg(long)]
    frame: Option<usize>,
    /// Only so many flows in turn: 1000, 100000 or 1000000.
    #[arg(long)]
    flows: Option<u32>,
    /// Another build of keyferry, to compare it with.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_keyferry"))]
    keyferry: PathBuf,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
    #[arg(long, hide = true)]
    inside: bool,
}

impl Args {
    fn cases(&self) -> Vec<Case> {
        let all = FRAMES.iter().flat_map(|bytes| FLOWS.iter().map(|flows| (*bytes, *flows)));
        let is_wanted = |(bytes, flows): &Case| {
            self.frame.is_none_or(|it| it == *bytes) && self.flows.is_none_or(|it| it == *flows)
        };
        all.filter(is_wanted).collect()
    }
}

/// Frame size and number of flows.
type Case = (usize, u32);

/// The figures of one driver, by case and forwarder, a round each.
struct Outcome {
    driver: &'static str,
    cases: Vec<(Case, [Vec<Figures>; Kind::ALL.len()])>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !ground::is_inside() {
        return ground::enter();
    }
    let options = EalOptions {
        hugepages: Hugepages::Require,
        memory_mib: MEMORY_MIB,
        // virtio-user passes its memory to the other side as files, of which it has room for a few.
        extra: vec!["--single-file-segments".to_owned()],
        virtual_only: true,
    };
    let eal = Eal::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let wanted = |driver: &&Driver| args.driver.is_empty() || args.driver.iter().any(|it| it == driver.name);
    let outcomes: Vec<_> = DRIVERS.iter().filter(wanted).map(|driver| compare(&eal, driver, &args)).collect();
    outcomes.iter().for_each(table);
    if args.frame.is_none() && args.flows.is_none() {
        summary(&outcomes);
    }
    ExitCode::SUCCESS
}

/// Forwarders of one driver, in turns.
fn compare(eal: &Eal, driver: &Driver, args: &Args) -> Outcome {
    let folder = tempfile::tempdir().expect("a folder");
    let devices: Vec<_> = (0..Kind::ALL.len()).map(|number| driver.devices(number, folder.path())).collect();
    let start = |(kind, [device, _]): (&Kind, &[String; 2])| {
        Forwarder::start(*kind, device, &args.keyferry, folder.path())
    };
    let mut forwarders: Vec<_> = Kind::ALL.iter().zip(&devices).map(start).collect();
    // A thread of its own, since children inherit the core of who starts them.
    std::thread::scope(|scope| {
        let generate = || {
            core_affinity::set_for_current(core_affinity::CoreId { id: GENERATOR_CORE });
            let _registered = register_worker_thread();
            await_all(&forwarders, driver, folder.path());
            let generators = devices.iter().map(|[_, device]| Generator::open(eal, device, driver.window));
            let mut stage = Stage::set(&mut forwarders, generators.collect());
            let cases = args.cases().into_iter().map(|case| (case, Default::default()));
            let mut outcome = Outcome { driver: driver.name, cases: cases.collect() };
            for _ in 0..args.rounds {
                for (case, figures) in &mut outcome.cases {
                    for (number, kind) in Kind::ALL.iter().enumerate() {
                        let time = Duration::from_millis(args.moment_ms);
                        figures[number].push(stage.turn(*kind, number, *case, time));
                    }
                }
            }
            outcome
        };
        scope.spawn(generate).join().expect("the generator's thread")
    })
}

/// Forwarders make the sockets that the generator connects to.
fn await_all(forwarders: &[Forwarder], driver: &Driver, folder: &Path) {
    let until = std::time::Instant::now() + PATIENCE;
    let listens = |number: usize| driver.name == "af_packet" || socket(number, folder).exists();
    let is_ready = |(number, forwarder): (usize, &Forwarder)| forwarder.is_ready() && listens(number);
    while !forwarders.iter().enumerate().all(is_ready) {
        assert!(std::time::Instant::now() < until, "a forwarder does not start: see its log in {folder:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Forwarders and the generator's ports to them, all standing still.
struct Stage<'a> {
    forwarders: &'a mut [Forwarder],
    generators: Vec<Generator>,
    distributor_mac: [u8; 6],
    /// Each flow's node.
    nodes: Vec<u8>,
}

impl<'a> Stage<'a> {
    /// Waits until all forward, and has the distributor know all flows.
    fn set(forwarders: &'a mut [Forwarder], generators: Vec<Generator>) -> Stage<'a> {
        let mut stage = Stage { forwarders, generators, distributor_mac: [0; 6], nodes: Vec::new() };
        stage.forwarders.iter().for_each(Forwarder::freeze);
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            stage.forwarders[number].thaw();
            let generator = &mut stage.generators[number];
            match kind {
                Kind::Distributor => {
                    let mac = generator.ask(PATIENCE);
                    generator.introduce(&Template::syn(mac), FLOWS_MAX, PATIENCE);
                    stage.nodes = generator.introduce(&Template::ack(mac), FLOWS_MAX, PATIENCE);
                    stage.distributor_mac = mac;
                }
                _ => {
                    let expect = expect(kind, traffic::NOBODY_MAC, &[]);
                    generator.knock(&Template::data(traffic::NOBODY_MAC, FRAMES[0]), expect, PATIENCE);
                }
            }
            stage.forwarders[number].freeze();
        }
        stage
    }

    /// One forwarder's moment with one kind of traffic.
    fn turn(&mut self, kind: Kind, number: usize, (bytes, flows): Case, time: Duration) -> Figures {
        let to = if kind == Kind::Distributor { self.distributor_mac } else { traffic::NOBODY_MAC };
        let (template, expect) = (Template::data(to, bytes), expect(kind, to, &self.nodes));
        let (forwarder, generator) = (&mut self.forwarders[number], &mut self.generators[number]);
        forwarder.thaw();
        generator.run(&template, flows, expect, WARM_UP);
        let figures = generator.run(&template, flows, expect, time);
        forwarder.freeze();
        assert!(!forwarder.has_ended(), "{} has ended: its log has the reason", kind.name());
        figures
    }
}

impl Drop for Stage<'_> {
    /// A port of virtio-user says to the other side that it closes, and waits for the answer.
    fn drop(&mut self) {
        self.forwarders.iter().for_each(Forwarder::thaw);
    }
}

fn expect(kind: Kind, to: [u8; 6], nodes: &[u8]) -> Expect<'_> {
    match kind {
        Kind::Io => Expect::Sent(to),
        Kind::Macswap => Expect::Swapped,
        Kind::Distributor => Expect::Nodes(nodes),
    }
}

impl Outcome {
    fn of<'a>(&'a self, kind: Kind, case: &Case) -> &'a [Figures] {
        let number = Kind::ALL.iter().position(|it| *it == kind).expect("all are there");
        let (_, figures) = self.cases.iter().find(|(it, _)| it == case).expect("all are there");
        &figures[number]
    }

    /// Median packets a second.
    fn rate(&self, kind: Kind, case: &Case) -> f64 {
        median(&mut self.of(kind, case).iter().map(|it| it.rate).collect::<Vec<_>>())
    }

    /// Median of the distributor's rate against macswap's of the same round.
    fn ratio(&self, case: &Case) -> f64 {
        let rounds = self.of(Kind::Distributor, case).iter().zip(self.of(Kind::Macswap, case));
        median(&mut rounds.map(|(ours, theirs)| ours.rate / theirs.rate).collect::<Vec<_>>())
    }

    /// The lowest ratio of all frame sizes.
    fn lowest(&self, flows: u32) -> f64 {
        FRAMES.iter().map(|bytes| self.ratio(&(*bytes, flows))).fold(f64::INFINITY, f64::min)
    }
}

fn table(outcome: &Outcome) {
    let rounds = outcome.cases.first().map_or(0, |(_, figures)| figures[0].len());
    println!(
        "\n{}, medians of {rounds} rounds; in brackets the share of time the generator waited",
        outcome.driver
    );
    println!("frame B    flows |        io Mpps |   macswap Mpps | distributor Mpps | ratio | lost");
    for (case, figures) in &outcome.cases {
        let mpps = |kind| {
            let waited = median(&mut outcome.of(kind, case).iter().map(|it| it.waited).collect::<Vec<_>>());
            format!("{:.3} ({:3.0} %)", outcome.rate(kind, case) / 1e6, waited * 100.0)
        };
        let lost: u64 = figures.iter().flatten().map(|it| it.lost).sum();
        println!(
            "{:>7} {:>8} | {:>14} | {:>14} | {:>16} | {:.3} | {lost}",
            case.0,
            case.1,
            mpps(Kind::Io),
            mpps(Kind::Macswap),
            mpps(Kind::Distributor),
            outcome.ratio(case),
        );
    }
}

fn summary(outcomes: &[Outcome]) {
    let lowest = |flows| outcomes.iter().map(|it| it.lowest(flows)).fold(f64::INFINITY, f64::min);
    let by_driver: String = outcomes
        .iter()
        .map(|it| format!(" vs_macswap_{}={:.3}", it.driver, it.lowest(FLOWS_QUOTED)))
        .collect();
    let Some(first) = outcomes.first() else { return };
    let case = (FRAMES[0], FLOWS_QUOTED);
    println!(
        "bench distributor: vs_macswap={:.3}{by_driver} flows_1m={:.3} mpps={:.2} macswap_mpps={:.2}",
        lowest(FLOWS_QUOTED),
        lowest(FLOWS_MAX),
        first.rate(Kind::Distributor, &case) / 1e6,
        first.rate(Kind::Macswap, &case) / 1e6,
    );
}
