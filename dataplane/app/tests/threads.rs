//! App threads under several workers: every byte right, everything comes back, whatever an idle thread does.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use common::*;
use keyferry_app::synthetic::{Distribution, Options, Synthetic, fill, splitmix64};
use keyferry_app::threads::{Idle, Plan, start};
use keyferry_app::{App, Chunk, Job, JobId, PARTS, Part, Port};

const JOBS: usize = 16;
const REQUESTS: u64 = 400;

/// One worker's life: submits, cancels some, checks every reply. Answers how many were whole and how many cancelled.
fn work<A: App>(mut port: Port<A>, worker: u64) -> (u64, u64) {
    let mut open: HashMap<u64, Vec<u8>> = HashMap::new();
    let (mut next, mut whole, mut cancelled, mut refused) = (0, 0, 0, 0u64);
    let (mut given, mut back) = (0u64, 0u64);
    while next < REQUESTS || port.outstanding() > 0 || back < given {
        // As many as it takes, so that the bound is met.
        while next < REQUESTS {
            let random = splitmix64(worker << 32 | next);
            let bytes = [0, 10, 5_000, 70_000][(random % 4) as usize];
            let target = format!(
                "/?bytes={bytes}&seed={next}&cost_us={}&chunked={}",
                random >> 8 & 63,
                random >> 14 & 1
            );
            given += 1;
            match port.submit(Job { id: JobId(next), request: get(&target), chunk: Chunk::new() }) {
                Ok(()) => {
                    if random >> 20 & 7 == 0 {
                        port.cancel(JobId(next));
                    } else {
                        open.insert(next, Vec::new());
                    }
                    next += 1;
                }
                Err(_) => {
                    back += 1;
                    refused += 1;
                    break;
                }
            }
        }
        port.flush();
        let mut parts = ArrayVec::<Part, PARTS>::new();
        port.poll(&mut parts);
        for part in parts {
            match part {
                Part::Spare(_) => back += 1,
                Part::Took { .. } | Part::Switched { .. } => unreachable!("nothing is fed"),
                Part::Cancelled(_) => cancelled += 1,
                Part::Failed { .. } => panic!("a reply failed"),
                Part::Reply { id: JobId(id), chunk, end } => {
                    back += 1;
                    let Some(bytes) = open.get_mut(&id) else {
                        cancelled += u64::from(end.is_some());
                        continue;
                    };
                    bytes.extend_from_slice(chunk.bytes());
                    if let Some(end) = end {
                        let query = String::from_utf8_lossy(end.request.query()).into_owned();
                        let reply = parse(&open.remove(&id).expect("open"), false);
                        let mut expected = vec![0; reply.body.len()];
                        fill(id, 0, &mut expected);
                        assert!(
                            query.starts_with(&format!("bytes={}&seed={id}&", reply.body.len())),
                            "{query}"
                        );
                        assert!(reply.body == expected, "{query}");
                        whole += 1;
                    } else {
                        given += 1;
                        port.more(JobId(id), chunk);
                    }
                }
            }
        }
        std::thread::yield_now();
    }
    assert!(refused > 0, "the bound was met");
    assert_eq!((open.len(), given), (0, back));
    (whole, cancelled)
}

#[test]
fn workers_and_threads_share_the_work() {
    for idle in [Idle::Yield, Idle::Sleep, Idle::Spin] {
        let stop = Arc::new(AtomicBool::new(false));
        let plan = Plan { cores: vec![None, Some(0)], workers: 2, jobs_per_worker: JOBS, slots: None, idle };
        let free = Distribution::Fixed(0.0);
        let mut seed = 0;
        let make = || {
            seed += 1;
            Synthetic::new(Options { cost_us: free, bytes: free, burn: seed == 1, seed })
        };
        let (ports, threads) = start(&plan, make, &stop).expect("threads start");
        let workers: Vec<_> = (0u64..)
            .zip(ports)
            .map(|(worker, port)| std::thread::spawn(move || work(port, worker)))
            .collect();
        for worker in workers {
            let (whole, cancelled) = worker.join().expect("a worker failed");
            assert_eq!(whole + cancelled, REQUESTS, "{idle:?}");
            assert!(whole > REQUESTS / 2 && cancelled > 0);
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("an app thread failed");
        }
    }
}

/// Single requests with pauses in which the thread may or may not fall asleep.
#[test]
fn sleeping_threads_serve() {
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan { cores: vec![None], workers: 1, jobs_per_worker: 1, slots: None, idle: Idle::Sleep };
    let free = Distribution::Fixed(0.0);
    let make = || Synthetic::new(Options { cost_us: free, bytes: free, burn: false, seed: 0 });
    let (mut ports, threads) = start(&plan, make, &stop).expect("threads start");
    let mut port = ports.pop().expect("one port");
    let (mut request, mut chunk) = (get("/?bytes=1"), Chunk::new());
    for round in 0..2_000u64 {
        for _ in 0..round % 400 {
            std::thread::yield_now();
        }
        assert!(port.submit(Job { id: JobId(1), request, chunk }).is_ok());
        port.flush();
        (request, chunk) = loop {
            let mut parts = ArrayVec::<Part, PARTS>::new();
            port.poll(&mut parts);
            match parts.pop() {
                Some(Part::Reply { chunk, end: Some(end), .. }) => break (end.request, chunk),
                Some(_) => panic!("a small reply is one part"),
                None => std::thread::yield_now(),
            }
        };
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("an app thread failed");
    }
}
