//! What a connection costs that nobody speaks on: real TLS 1.3 connections to one worker over the simulated port, each with
//! a full handshake (X25519, ECDSA P-256), asked for 1 KiB once and answered, then left alone.
//!
//! Memory is the process's: resident and hugepages, as `/proc/self/smaps_rollup` has it, shared memory that it touched
//! included. Clients are a table of fixed size, filled before anything is measured. What the worker takes at start, and what
//! of it is for each place, is measured in processes of their own that open nothing; the rest is the slope between 10,000
//! and 100,000 connections of a worker with places for a million. At last a million are held, and some of them asked.
//!
//! The last line is `bench idle: bytes_per_conn=.. pool_bytes_per_slot=.. bytes_with_slot=.. bytes_per_conn_kept=..
//! bytes_per_conn_1m=.. held=.. ...`.

mod harness;

use std::process::Command;
use std::time::{Duration, Instant};

use harness::crowd::Crowd;
use harness::node;
use keyferry_decide::Policy;

/// Places of the worker: of a million connections a table of flows is half full.
const PLACES: u32 = 1 << 20;
/// Places of a worker that is small.
const FEW: u32 = 1 << 10;
/// Connections held at last.
const HELD: u32 = 1_000_000;
/// How long a connection may be idle before it gives back what it can make again.
const REST_AFTER: Duration = Duration::from_secs(1);
/// Between two lots of new connections: so slow that those before have their rest meanwhile.
const PAUSE_NS: u64 = 100_000_000;
/// Connections opened before those are asked.
const STEP: u32 = 2_560;
/// Connections asked at last.
const ASKED: u32 = 10_000;
/// Connections asked at once.
const LOT: usize = 32;

/// Bytes of this process in memory.
fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").expect("Linux 4.14 or later");
    let kib = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0)
    };
    // Hugepages of hugetlbfs are not resident by its count; shared memory that was touched is.
    1024.0 * (kib("Rss:") + kib("Shared_Hugetlb:") + kib("Private_Hugetlb:"))
}

/// Bytes that a worker with so many places takes at start, in a process of its own.
fn at_start(places: u32) -> f64 {
    let this = std::env::current_exe().expect("this program");
    let output = Command::new(this).args(["start", &places.to_string()]).output().expect("it runs again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim()
        .parse()
        .unwrap_or_else(|_| panic!("bytes: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

/// Makes a worker and says what that took.
fn start(places: u32) {
    let before = memory();
    let node = node::node(places, Policy::Never);
    println!("{}", memory() - before);
    drop(node);
}

/// Has these connections ask, one request each, and looks at every byte of the replies.
fn serve(crowd: &mut Crowd, numbers: impl Iterator<Item = u32>) {
    let numbers: Vec<u32> = numbers.collect();
    for lot in numbers.chunks(LOT) {
        crowd.ask(lot.iter().copied());
        let now = crowd.now();
        crowd.node.worker.turn(now);
        crowd.check(lot.len());
        crowd.acknowledge(lot.iter().copied());
    }
}

/// Opens connections, and has each be answered once.
fn open(crowd: &mut Crowd, connections: u32) {
    while crowd.opened() < connections {
        let first = crowd.opened();
        crowd.open(connections.min(first + STEP), PAUSE_NS);
        crowd.meet();
        serve(crowd, first..crowd.opened());
    }
}

fn main() {
    keyferry_control::memory::heap_in_hugepages();
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "start") {
        return start(arguments[at + 1].parse().expect("places"));
    }
    let (few, many) = (at_start(FEW), at_start(PLACES));
    let slot = (many - few) / f64::from(PLACES - FEW);
    println!(
        "at start: {:.1} MiB, and {slot:.0} bytes for each place",
        (few - slot * f64::from(FEW)) / 1048576.0
    );

    // Kept: a worker whose connections never rest, and few enough to be done quickly.
    let per_kept = {
        let mut crowd = Crowd::new(PLACES, 100_000, Duration::from_secs(86_400));
        open(&mut crowd, 10_000);
        let before = memory();
        open(&mut crowd, 30_000);
        (memory() - before) / 20_000.0
    };
    println!("with its AEAD contexts: {per_kept:.0} bytes a connection");

    let began = Instant::now();
    let mut crowd = Crowd::new(PLACES, HELD, REST_AFTER);
    let mut at = |connections: u32| {
        open(&mut crowd, connections);
        crowd.rest(REST_AFTER);
        let memory = memory();
        println!(
            "{connections:>8} connections: {:.1} MiB, {:.0} s",
            memory / 1048576.0,
            began.elapsed().as_secs_f64()
        );
        memory
    };
    let (ten_k, hundred_k) = (at(10_000), at(100_000));
    let per_conn = (hundred_k - ten_k) / 90_000.0;
    let million = at(HELD);
    let per_conn_million = (million - hundred_k) / f64::from(HELD - 100_000);
    let counters = crowd.node.worker.snapshot();
    assert_eq!(counters.awake, 0, "all rest");
    assert_eq!(counters.flows, u64::from(HELD), "all are held: {counters:?}");
    crowd.meet();
    serve(&mut crowd, (0..ASKED).map(|at| at * (HELD / ASKED - 1) % HELD));
    println!(
        "bench idle: bytes_per_conn={per_conn:.0} pool_bytes_per_slot={slot:.0} bytes_with_slot={:.0} \
         bytes_per_conn_kept={per_kept:.0} bytes_per_conn_1m={per_conn_million:.0} held={} asked={ASKED}",
        per_conn + slot,
        counters.flows,
    );
}
