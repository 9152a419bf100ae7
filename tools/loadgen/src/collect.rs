//! Puts together what threads hand over: each second is summed up, written to the log and shown as soon as all threads
//! have given theirs. Slices come in; totals and intervals go out. Runs on the thread that started the load.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::report::Interval;
use crate::tally::Tally;
use crate::worker::Slice;

/// Nanoseconds of the unit in which the log gives maxima: a millisecond, as other tools do.
const LOG_UNIT_NS: f64 = 1e6;

/// What came of a run.
#[derive(Debug)]
pub struct Collected {
    /// All counts.
    pub total: Tally,
    /// Seconds that were measured whole.
    pub intervals: Vec<Interval>,
    /// Processor time of the busiest thread as a share of its time, from the end of the warm-up on.
    pub cpu_share: f64,
    /// Processor time of all threads, in seconds, from the start.
    pub cpu_s: f64,
}

/// Where seconds go as they are complete.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs<'a> {
    /// A log to write.
    pub hdr: Option<&'a Path>,
    /// Show a line of live rates on standard error.
    pub progress: bool,
}

/// One thread's processor time.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    from: (Instant, Duration),
    to: (Instant, Duration),
}

/// A second of which some threads' parts are there.
struct Part {
    tally: Tally,
    threads: usize,
    open: usize,
}

/// Takes slices until every thread has given its last one. `measured`: the part of the run that counts, from its start.
///
/// # Errors
/// When the log cannot be written.
pub fn collect(
    slices: &Receiver<Slice>,
    threads: usize,
    started: Instant,
    measured: (Duration, Option<Duration>),
    outputs: Outputs<'_>,
) -> anyhow::Result<Collected> {
    let mut serializer = V2DeflateSerializer::new();
    let mut file = match outputs.hdr {
        Some(path) => Some(BufWriter::new(
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
        )),
        None => None,
    };
    let mut log = match &mut file {
        Some(file) => Some(
            IntervalLogWriterBuilder::new()
                .add_comment("keyferry-load: latency in nanoseconds, maxima in milliseconds")
                .with_start_time(std::time::SystemTime::now())
                .with_max_value_divisor(LOG_UNIT_NS)
                .begin_log_with(file, &mut serializer)
                .context("cannot write the log")?,
        ),
        None => None,
    };
    let mut write = |second: u64, tag: &str, histogram: &Histogram<u64>| -> anyhow::Result<()> {
        if let Some(log) = &mut log {
            let (from, tag) = (Duration::from_secs(second), Tag::new(tag));
            log.write_histogram(histogram, from, Duration::from_secs(1), tag)
                .map_err(|error| anyhow::anyhow!("cannot write the log: {error:?}"))?;
        }
        Ok(())
    };

    let mut collected = Collected { total: Tally::new(), intervals: Vec::new(), cpu_share: 0.0, cpu_s: 0.0 };
    let mut cpus: Vec<Cpu> =
        vec![Cpu { from: (started, Duration::ZERO), to: (started, Duration::ZERO) }; threads];
    let mut parts: BTreeMap<u64, Part> = BTreeMap::new();
    let mut last_of: Vec<Option<u64>> = vec![None; threads];
    while let Ok(slice) = slices.recv() {
        let cpu = &mut cpus[slice.thread];
        if slice.at <= started + measured.0 {
            cpu.from = (slice.at, slice.cpu);
        }
        cpu.to = (slice.at, slice.cpu);
        if slice.is_last {
            last_of[slice.thread] = Some(slice.second);
        }
        let part =
            parts.entry(slice.second).or_insert_with(|| Part { tally: Tally::new(), threads: 0, open: 0 });
        part.tally.add(&slice.tally);
        part.threads += 1;
        part.open += slice.open;
        while let Some(entry) = parts.first_entry() {
            let second = *entry.key();
            let gone = last_of.iter().flatten().filter(|&&last| last < second).count();
            if entry.get().threads + gone < threads {
                break;
            }
            let Part { tally, open, .. } = entry.remove();
            write(second, "corrected", &tally.corrected_ns)?;
            write(second, "raw", &tally.raw_ns)?;
            if is_whole(second, measured, &last_of) {
                collected.intervals.push(Interval::new(second, &tally));
            }
            if outputs.progress {
                show(second, &tally, open);
            }
            collected.total.add(&tally);
        }
    }
    // Threads that gave up leave incomplete seconds behind.
    for part in parts.into_values() {
        collected.total.add(&part.tally);
    }
    for Cpu { from, to } in cpus {
        let share =
            to.1.saturating_sub(from.1).as_secs_f64() / (to.0 - from.0).as_secs_f64().max(f64::MIN_POSITIVE);
        collected.cpu_share = collected.cpu_share.max(share);
        collected.cpu_s += to.1.as_secs_f64();
    }
    if outputs.progress {
        eprintln!();
    }
    drop(log);
    if let Some(file) = &mut file {
        file.flush().context("cannot write the log")?;
    }
    Ok(collected)
}

/// Whether all of this second lies in the measured part, and no thread ended in it.
fn is_whole(second: u64, (from, to): (Duration, Option<Duration>), last_of: &[Option<u64>]) -> bool {
    let starts = Duration::from_secs(second);
    let is_before_end = to.is_none_or(|to| starts + Duration::from_secs(1) <= to);
    starts >= from && is_before_end && !last_of.iter().flatten().any(|&last| last <= second)
}

/// One line, over the one before.
fn show(second: u64, tally: &Tally, open: usize) {
    let quantile_ms = |quantile| tally.corrected_ns.value_at_quantile(quantile) as f64 / 1e6;
    eprint!(
        "\r{:>4} s  {:>8}/s  p50 {:.3} p99 {:.3} max {:.3} ms  {:.1} MB/s  handshakes {}  open {open}  errors {}   ",
        second + 1,
        tally.requests + tally.warm_up_requests,
        quantile_ms(0.5),
        quantile_ms(0.99),
        tally.corrected_ns.max() as f64 / 1e6,
        tally.bytes as f64 / 1e6,
        tally.handshakes_full + tally.handshakes_resumed + tally.warm_up_handshakes,
        tally.failures(),
    );
}
