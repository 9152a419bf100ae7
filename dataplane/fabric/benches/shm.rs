//! Latency and rate of shm queue pairs between two spinning threads, each on a core of its own where there are two.
//! In: nothing. Out: one line `bench fabric_shm: key=value ...`. Two processes differ in nothing: the memory is the
//! same and no system call is made.

use std::hint::black_box;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrayvec::ArrayVec;
use core_affinity::CoreId;
use keyferry_fabric::{BURST, Completion, Limits, QueuePair, Received, WrId, shm};

const LIMITS: Limits = Limits {
    message_bytes_max: 8192,
    receives: 512,
    posted_max: 1024,
    slots_bytes: 4 << 20,
    staging_bytes: 4 << 20,
};
/// A sealed TLS record of the largest size.
const RECORD_BYTES: usize = 16_640;
const SAMPLES: usize = 20_000;
const ROUND_TRIPS_A_SAMPLE: u64 = 16;
const WRITES: usize = 2_000;
const BATCHES: usize = 100;
const IDLE_POLLS: u32 = 100_000;
/// Rates are the best of so many runs: on a shared machine others take the core away.
const RUNS: usize = 50;

/// One of the two threads' view of its queue pair.
struct End {
    queue_pair: shm::QueuePair,
    completions: ArrayVec<Completion, BURST>,
}

impl End {
    /// Polls once and reposts what arrived; returns how many messages that were.
    fn turn(&mut self) -> usize {
        self.queue_pair.poll(&mut self.completions);
        let mut arrived = 0;
        for completion in self.completions.drain(..) {
            match completion {
                Completion::Message(received) | Completion::Immediate(received, _) => {
                    arrived += 1;
                    let received: Received = received;
                    black_box(self.queue_pair.message(&received));
                    self.queue_pair.repost(received);
                }
                Completion::Posted(_) => {}
                Completion::Flushed(wr) => panic!("{wr:?} was flushed"),
            }
        }
        arrived
    }

    fn wait(&mut self) {
        while self.turn() == 0 {
            std::hint::spin_loop();
        }
    }
}

fn main() {
    pin(0);
    let line_ns = line();
    let (mut end, other) = ends();
    let there = std::thread::spawn(move || {
        pin(1);
        echo(other);
    });

    let idle_ns = idle(&mut end);
    let message_48 = round_trips(&mut end, |end| {
        end.queue_pair.send(WrId(0), black_box(&[1; 48])).expect("sent");
    });
    let message_64 = round_trips(&mut end, |end| {
        end.queue_pair.send(WrId(0), black_box(&[1; 64])).expect("sent");
    });
    let message_1k = round_trips(&mut end, |end| {
        end.queue_pair.send(WrId(0), black_box(&[1; 1024])).expect("sent");
    });
    let record = round_trips(&mut end, |end| {
        end.queue_pair.write(WrId(0), 0..RECORD_BYTES, 0, Some(1)).expect("written");
    });
    let sends_per_us = send_rate(&mut end);
    let write_gb_s = write_rate(&mut end);
    end.queue_pair.send(WrId(0), &[]).expect("sent");
    there.join().expect("the echo ends");
    println!(
        "bench fabric_shm: oneway_cache_line_ns_p50={line_ns} oneway_48b_ns_p50={} oneway_64b_ns_p50={} oneway_64b_ns_min={} oneway_1k_ns_p50={} \
         record_and_doorbell_there_64b_back_ns_p50={} idle_poll_ns={idle_ns:.1} sends_64b_per_us={sends_per_us:.1} \
         write_16640b_gb_s={write_gb_s:.1}",
        message_48.0 / 2,
        message_64.0 / 2,
        message_64.1 / 2,
        message_1k.0 / 2,
        record.0,
    );
}

/// Moves this thread to one of the cores the process started with.
fn pin(core: usize) {
    // Asked once, by the first thread: a thread made by a pinned one sees that one's core only.
    static CORES: OnceLock<Vec<CoreId>> = OnceLock::new();
    let cores = CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default());
    if !cores.is_empty() {
        core_affinity::set_for_current(cores[core % cores.len()]);
    }
}

/// Two connected ends.
fn ends() -> (End, End) {
    let ((a, a_memory), (b, b_memory)) =
        (shm::prepare(LIMITS).expect("memory"), shm::prepare(LIMITS).expect("memory"));
    let end = |endpoint: shm::Endpoint, memory| End {
        queue_pair: endpoint.connect(memory).expect("connected").0,
        completions: ArrayVec::new(),
    };
    (end(a, b_memory), end(b, a_memory))
}

/// Answers a message by one of its length, an immediate by 64 bytes; the first byte 9 asks for no answer; an empty
/// message ends.
fn echo(mut end: End) {
    let answer = [1; LIMITS.message_bytes_max];
    loop {
        end.queue_pair.poll(&mut end.completions);
        for completion in end.completions.drain(..) {
            match completion {
                Completion::Message(received) if received.len == 0 => return,
                Completion::Message(received) => {
                    let message = end.queue_pair.message(&received);
                    let (len, answered) = (message.len(), message[0] != 9);
                    end.queue_pair.repost(received);
                    if answered {
                        end.queue_pair.send(WrId(0), &answer[..len]).expect("sent");
                    }
                }
                Completion::Immediate(received, _) => {
                    end.queue_pair.repost(received);
                    end.queue_pair.send(WrId(0), &answer[..64]).expect("sent");
                }
                Completion::Posted(_) => {}
                Completion::Flushed(_) => return,
            }
        }
    }
}

/// Median and minimum of a round trip begun by `post`, in ns. A sample is the mean of a few in a row, or reading the
/// clock would be a good part of it.
fn round_trips(end: &mut End, mut post: impl FnMut(&mut End)) -> (u64, u64) {
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let start = Instant::now();
        for _ in 0..ROUND_TRIPS_A_SAMPLE {
            post(end);
            end.wait();
        }
        samples.push(start.elapsed().as_nanos() as u64 / ROUND_TRIPS_A_SAMPLE);
    }
    samples.sort_unstable();
    (samples[samples.len() / 2], samples[0])
}

/// Median one-way latency of a cache line between two cores, in ns: the floor under every figure here.
fn line() -> u64 {
    static LINE: AtomicU64 = AtomicU64::new(0);
    const LAST: u64 = SAMPLES as u64 * ROUND_TRIPS_A_SAMPLE;
    let there = std::thread::spawn(|| {
        pin(1);
        for i in 1..=LAST {
            while LINE.load(Ordering::Acquire) != 2 * i - 1 {}
            LINE.store(2 * i, Ordering::Release);
        }
    });
    let mut samples = Vec::with_capacity(SAMPLES);
    for sample in 0..SAMPLES as u64 {
        let start = Instant::now();
        for i in 1..=ROUND_TRIPS_A_SAMPLE {
            let i = sample * ROUND_TRIPS_A_SAMPLE + i;
            LINE.store(2 * i - 1, Ordering::Release);
            while LINE.load(Ordering::Acquire) != 2 * i {}
        }
        samples.push(start.elapsed().as_nanos() as u64 / ROUND_TRIPS_A_SAMPLE / 2);
    }
    there.join().expect("the other thread ends");
    samples.sort_unstable();
    samples[samples.len() / 2]
}

/// Shortest of [`RUNS`] runs, in ns.
fn best(mut run: impl FnMut()) -> f64 {
    let timed = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_nanos() as f64
    };
    (0..RUNS).map(timed).fold(f64::INFINITY, f64::min)
}

/// ns of a poll that finds nothing.
fn idle(end: &mut End) -> f64 {
    let ns = best(|| {
        for _ in 0..IDLE_POLLS {
            black_box(&mut end.queue_pair).poll(&mut end.completions);
        }
    });
    ns / f64::from(IDLE_POLLS)
}

/// Messages of 64 bytes a microsecond, in batches as large as half the posted receives, each acknowledged.
fn send_rate(end: &mut End) -> f64 {
    let batch = LIMITS.receives / 2;
    let ns = best(|| {
        for _ in 0..BATCHES {
            for i in 0..batch {
                let message = [if i + 1 == batch { 1 } else { 9 }; 64];
                end.queue_pair.send(WrId(0), &message).expect("sent");
                if i % (BURST / 2) == 0 {
                    end.turn();
                }
            }
            end.wait();
        }
    });
    (BATCHES * batch) as f64 / ns * 1e3
}

/// GB/s of WRITEs of whole records, spread over the slots.
fn write_rate(end: &mut End) -> f64 {
    let slots = LIMITS.slots_bytes / RECORD_BYTES;
    let ns = best(|| {
        for i in 0..WRITES {
            let at = i % slots * RECORD_BYTES;
            end.queue_pair.write(WrId(0), at..at + RECORD_BYTES, at, None).expect("written");
            end.turn();
        }
    });
    (WRITES * RECORD_BYTES) as f64 / ns
}
