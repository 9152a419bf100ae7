//! What a flood of SYNs costs those who are established, and who still gets in.
//!
//! First alone: what a request, a SYN that is taken and a SYN that is dropped cost a worker. Then besieged
//! (`harness/siege.rs`): 64 keep-alive connections are asked 100,000 times a second, at times that do not wait for replies,
//! while SYNs of spoofed sources come at a rate, or as many as the port's queue holds; latency is from when a request was to
//! reach the port until its reply was out of it. Rounds without a flood and with one take turns. Last newcomers, who come amid
//! both, shake hands, ask once, and send again what is lost.
//!
//! The last line is `bench flood: syns_per_s=.. p99_ratio=.. new_clients=../.. by_cookie=.. ns_a_syn=.. ns_a_dropped_syn=..
//! allocs_a_syn=..`: the highest rate of those below at which the port's queue had room for all, and what is true at that one.

mod harness;

use harness::median;
use harness::siege::{Flood, QUEUE, Siege};
use keyferry_worker::Counters;
use keyferry_worker::syns::SYNS_A_TURN;

/// SYNs in a second. The last is 10-gigabit Ethernet's, of the shortest frames.
const RATES: [f64; 7] = [1e5, 1e6, 2e6, 3e6, 5e6, 1e7, 14_880_952.0];
/// Rounds with a flood and without; medians are quoted.
const ROUNDS: usize = 5;
/// How long one is: 10,000 requests.
const ROUND_NS: u64 = 100_000_000;
/// Before each, so that nothing is left of the one before, and what the flood fills is full.
const SETTLE_NS: u64 = 5_000_000;
/// How long replies are waited for when no more requests come; then the flood ends, and they are waited for as long again.
const LATE_NS: u64 = 1_000_000_000;
/// Clients that come during a flood, how long one after the other, and how long they are waited for: a SYN is sent
/// at 0, 1, 3 and 7 s.
const NEWCOMERS: u32 = 64;
const NEWCOMER_EVERY_NS: u64 = 2_000_000;
const NEWCOMERS_NS: u64 = 8_000_000_000;
/// How much later the median reply may be for a flood that the port's queue has room for. What a tail is like is for the
/// machine to say, which disturbs a worker now and then.
const MEDIAN_RATIO_MAX: f64 = 3.0;
/// Turns timed for a cost; medians are quoted.
const TURNS: usize = 2_000;

/// One round.
struct Round {
    /// Of replies: p50, p90, p99.
    latency_ns: [f64; 3],
    /// Of turns that had something to do: p50, p99.
    turn_ns: [f64; 2],
    seconds: f64,
    /// SYNs of the flood that came.
    syns: f64,
    /// SYNs the worker dropped, packets the port had no room for.
    dropped: f64,
    missed: f64,
    /// Requests sent again.
    again: f64,
}

/// Medians of rounds with a flood, and of those without beside them.
struct Row {
    flood: Flood,
    quiet: Vec<Round>,
    flooded: Vec<Round>,
}

impl Row {
    fn name(&self) -> String {
        match self.flood {
            Flood::None => "none".into(),
            Flood::Rate(rate) => format!("{rate:.0}"),
            Flood::Full => "full queue".into(),
        }
    }

    fn quiet(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(&mut self.quiet.iter().map(of).collect::<Vec<_>>())
    }

    fn flooded(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(&mut self.flooded.iter().map(of).collect::<Vec<_>>())
    }

    fn ratio(&self, of: impl Fn(&Round) -> f64) -> f64 {
        let pairs = self.flooded.iter().zip(&self.quiet);
        median(&mut pairs.map(|(flooded, quiet)| of(flooded) / of(quiet)).collect::<Vec<_>>())
    }

    /// Whether the port's queue had room for all.
    fn is_whole(&self) -> bool {
        self.flooded(|round| round.missed) == 0.0
    }
}

/// A round, and its drops.
fn round(siege: &mut Siege, flood: Flood) -> Round {
    siege.flood(flood);
    siege.run(SETTLE_NS, |_| false);
    siege.latencies.clear();
    siege.turns.clear();
    let before = (siege.node.worker.snapshot(), siege.now_ns(), siege.syns, siege.again);
    siege.ask(true);
    siege.run(ROUND_NS, |_| false);
    siege.ask(false);
    let after: Counters = siege.node.worker.snapshot();
    let turn_ns = [0.50, 0.99].map(|share| siege.turns.value_at_quantile(share) as f64);
    let (seconds, syns) = ((siege.now_ns() - before.1) as f64 / 1e9, siege.syns - before.2);
    siege.run(LATE_NS, |siege| siege.unanswered() == 0);
    siege.flood(Flood::None);
    siege.run(LATE_NS, |siege| siege.unanswered() == 0);
    assert_eq!(siege.unanswered(), 0, "every request is answered: {:?}", siege.node.worker.snapshot());
    siege.run(SETTLE_NS, |_| false);
    Round {
        latency_ns: [0.50, 0.90, 0.99].map(|share| siege.latencies.value_at_quantile(share) as f64),
        turn_ns,
        seconds,
        syns: syns as f64,
        dropped: (after.drop_syns - before.0.drop_syns) as f64,
        missed: (after.drop_missed - before.0.drop_missed) as f64,
        again: (siege.again - before.3) as f64,
    }
}

/// Who gets in, and how.
struct Entries {
    served: usize,
    by_cookie: u64,
    /// SYNs each sent, on average.
    syns: f64,
    /// Until half of those who were served had their reply, in ms.
    p50_ms: f64,
}

fn newcomers(flood: Flood) -> Entries {
    let mut siege = Siege::new();
    siege.ask(true);
    siege.flood(flood);
    siege.run(4 * SETTLE_NS, |_| false);
    let before = siege.node.worker.snapshot();
    siege.come(NEWCOMERS, NEWCOMER_EVERY_NS);
    siege.run(NEWCOMERS_NS, |siege| siege.served() == NEWCOMERS as usize);
    let after = siege.node.worker.snapshot();
    let mut waits: Vec<f64> =
        siege.newcomers.iter().filter_map(|newcomer| newcomer.served_ns).map(|ns| ns as f64 / 1e6).collect();
    Entries {
        served: siege.served(),
        by_cookie: after.cookies - before.cookies,
        syns: siege.newcomers.iter().map(|newcomer| f64::from(newcomer.syns)).sum::<f64>()
            / f64::from(NEWCOMERS),
        p50_ms: median(&mut waits),
    }
}

/// What things cost a worker that has nothing else to do, in ns.
struct Costs {
    /// A request beside no SYN, 1, 10 and 100.
    requests: [f64; 4],
    taken: f64,
    dropped: f64,
    /// Allocations a SYN, taken or dropped.
    allocations: f64,
}

fn costs() -> Costs {
    let mut siege = Siege::new();
    let requests = [0, 1, 10, 100].map(|syns| siege.time(TURNS, syns, true));
    let turn = |siege: &mut Siege, syns| siege.time(TURNS, syns, false);
    let taken = (turn(&mut siege, SYNS_A_TURN) - turn(&mut siege, 0)) / SYNS_A_TURN as f64;
    // The first turns fill the line; from then on as many are dropped as come beyond a turn's.
    let few = turn(&mut siege, QUEUE / 4);
    let before = siege.node.worker.snapshot().drop_syns;
    let many = turn(&mut siege, QUEUE);
    let dropped = siege.node.worker.snapshot().drop_syns - before;
    assert_eq!(dropped, (TURNS * (QUEUE - SYNS_A_TURN)) as u64, "what there is no time for is dropped");
    let allocated = siege.allocations(100, QUEUE);
    Costs {
        requests,
        taken,
        dropped: (many - few) / (QUEUE - QUEUE / 4) as f64,
        allocations: allocated as f64 / (100 * QUEUE) as f64,
    }
}

/// The table's rows, and what is true of the highest rate that the port's queue has room for.
fn report(rows: &[Row]) -> Option<(f64, f64, Entries)> {
    println!(
        "| SYNs/s wanted | came | dropped | no room | turn p50, p99 us | p50, p90, p99 us | without | ratios \
         | sent again | new clients | SYNs each | ms |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    let mut best = None;
    for row in rows {
        let entries = newcomers(row.flood);
        let us = |ns: f64| format!("{:.1}", ns / 1_000.0);
        let share = |of: f64| format!("{:.2} %", of * 100.0);
        let each = |column: &dyn Fn(usize) -> String| [0, 1, 2].map(column).join(", ");
        let columns = [
            row.name(),
            format!("{:.0}", row.flooded(|round| round.syns / round.seconds)),
            share(row.flooded(|round| round.dropped / round.syns)),
            share(row.flooded(|round| round.missed / round.syns)),
            [0, 1].map(|at| us(row.flooded(|round| round.turn_ns[at]))).join(", "),
            each(&|at| us(row.flooded(|round| round.latency_ns[at]))),
            each(&|at| us(row.quiet(|round| round.latency_ns[at]))),
            each(&|at| format!("{:.2}", row.ratio(|round| round.latency_ns[at]))),
            format!("{:.0}", row.flooded(|round| round.again)),
            format!("{}, {} by cookie", entries.served, entries.by_cookie),
            format!("{:.2}", entries.syns),
            format!("{:.2}", entries.p50_ms),
        ];
        println!("| {} |", columns.join(" | "));
        assert!(entries.served as u64 <= entries.by_cookie, "the table of handshakes is full");
        if row.flooded(|round| round.dropped) == 0.0 {
            assert_eq!(entries.served, NEWCOMERS as usize, "whose SYN is not dropped gets in");
        }
        if let (Flood::Rate(rate), true) = (row.flood, row.is_whole()) {
            assert!(row.ratio(|round| round.latency_ns[0]) < MEDIAN_RATIO_MAX, "who is connected goes first");
            best = Some((rate, row.ratio(|round| round.latency_ns[2]), entries));
        }
    }
    best
}

fn main() {
    let costs = costs();
    for (syns, ns) in [0, 1, 10, 100].iter().zip(costs.requests) {
        println!("{syns:>4} SYNs a request: {ns:.0} ns a request");
    }
    println!("a SYN: taken {:.0} ns, dropped {:.0} ns", costs.taken, costs.dropped);
    assert_eq!(costs.allocations, 0.0, "a SYN allocates nothing");
    let floods = RATES.into_iter().map(Flood::Rate).chain([Flood::Full]);
    let mut rows: Vec<Row> =
        floods.map(|flood| Row { flood, quiet: Vec::new(), flooded: Vec::new() }).collect();
    let mut siege = Siege::new();
    for _ in 0..ROUNDS {
        for row in &mut rows {
            row.quiet.push(round(&mut siege, Flood::None));
            row.flooded.push(round(&mut siege, row.flood));
        }
    }
    let (rate, ratio, entries) = report(&rows).expect("a rate that the port's queue has room for");
    println!(
        "bench flood: syns_per_s={rate:.0} p99_ratio={ratio:.2} new_clients={}/{NEWCOMERS} by_cookie={} \
         ns_a_syn={:.0} ns_a_dropped_syn={:.0} allocs_a_syn={:.0}",
        entries.served, entries.by_cookie, costs.taken, costs.dropped, costs.allocations
    );
}
