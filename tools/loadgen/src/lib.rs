//! Load generation over kernel sockets, or a port of its own: one thread a core, each with its own connections, nothing
//! shared.
//!
//! What is asked for, when, and by whom: [`args`], [`arrivals`], [`mix`], [`clients`], [`target`], joined in [`plan`].
//! None of it knows of sockets. How: [`worker`] is one thread's loop over [`connection`]s, which join a [`transport`]
//! ([`socket`], or `stack` on a port that `nic` opens), [`secure`] (rustls's handshake, [`sessions`], [`tls`]), [`record`], [`reply`] and [`check`]. What came of it: [`tally`]
//! counts, [`collect`] adds threads and seconds up, [`report`] says it in numbers with units, [`html`] with [`plot`]s;
//! [`slo`] judges it, [`compare`] two and [`search`] many.

#![forbid(unsafe_code)]

pub mod args;
pub mod arrivals;
pub mod check;
pub mod clients;
pub mod collect;
pub mod compare;
pub mod connection;
pub mod due;
pub mod host;
pub mod html;
pub mod mix;
#[cfg(feature = "nic")]
pub mod nic;
pub mod plan;
pub mod plot;
pub mod record;
pub mod reply;
pub mod report;
pub mod search;
pub mod secure;
pub mod sessions;
pub mod slo;
pub mod socket;
#[cfg(feature = "nic")]
pub mod stack;
pub mod tally;
pub mod target;
pub mod tls;
pub mod transport;
pub mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::arrivals::Process;
use crate::collect::{Collected, Outputs};
use crate::report::{Measured, Report};
use crate::transport::Transport;

/// Runs the load `args` describes, or until `stop`, and returns what it saw, all threads together.
///
/// # Errors
/// When the load cannot start: a target does not resolve, a certificate file is unreadable, a thread fails.
pub fn run(args: &args::Args, stop: &Arc<AtomicBool>) -> anyhow::Result<Report> {
    run_with(args, stop, Outputs { hdr: args.hdr.as_deref(), progress: args.progress })
}

/// As [`run`], with other outputs than those of the arguments.
///
/// # Errors
/// As [`run`].
pub fn run_with(args: &args::Args, stop: &Arc<AtomicBool>, outputs: Outputs<'_>) -> anyhow::Result<Report> {
    args.validate()?;
    match &args.nic.nic {
        None => {
            socket::make_room(args.connections.get())?;
            let sockets = (0..args.threads.get()).map(|_| socket::Sockets::new());
            let sockets = sockets.collect::<Result<_, _>>().context("no epoll set")?;
            drive(args, stop, outputs, sockets, || ())
        }
        #[cfg(feature = "nic")]
        Some(device) => {
            let nic::Opened { stack, port } = nic::open(args, device)?;
            let report = drive(args, stop, outputs, vec![stack], keyferry_nic::dpdk::register_worker_thread);
            drop(port);
            report
        }
        #[cfg(not(feature = "nic"))]
        Some(_) => anyhow::bail!("this keyferry-load was built without ports: build it with --features nic"),
    }
}

/// Runs one thread on each transport. What `enter` returns lives as long as its thread.
fn drive<T: Transport + Send + 'static, G>(
    args: &args::Args,
    stop: &Arc<AtomicBool>,
    outputs: Outputs<'_>,
    transports: Vec<T>,
    enter: fn() -> G,
) -> anyhow::Result<Report>
where
    G: 'static,
{
    let process = process(args)?;
    let intended_per_s = process.as_ref().map(Process::per_s);
    let scheme = Arc::new(plan::Scheme::new(args, process)?);
    let config = Arc::new(tls::client_config(args)?);

    let machine = host::MachineTime::now();
    let started = Instant::now();
    let threads = transports.len();
    let (slices, collected) = mpsc::channel();
    let mut handles = Vec::with_capacity(threads);
    for (index, transport) in transports.into_iter().enumerate() {
        let settings = settings(args, index, started);
        let plan = plan::Plan::new(Arc::clone(&scheme), index, started);
        let (config, stop, slices) = (Arc::clone(&config), Arc::clone(stop), slices.clone());
        let thread = std::thread::Builder::new().name(format!("load-{index}"));
        let work = move || {
            let _entered = enter();
            worker::Worker::new(settings, plan, config, stop, slices, transport).run()
        };
        handles.push(thread.spawn(work).context("cannot start a load thread")?);
    }
    drop(slices);

    let measured = (args.warm_up(), args.duration());
    let collected = collect::collect(&collected, threads, started, measured, outputs);
    if collected.is_err() {
        // Nobody takes what the threads count.
        stop.store(true, Ordering::Relaxed);
    }
    for handle in handles {
        let outcome = handle.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))?;
        outcome.context("a load thread gave up")?;
    }
    let Collected { total, intervals, cpu_share, cpu_s } = collected?;
    let measured = Measured {
        seconds: measured_time(args, started, stop, &total).as_secs_f64(),
        intended_per_s,
        wanted_share: if args.no_resumption { 0.0 } else { args.resume },
        cpu_share,
        cpu_s,
        steal_share: host::MachineTime::now().steal_share_since(machine),
        rss_bytes_max: host::rss_bytes_max(),
        threads,
    };
    Ok(Report::new(&total, &measured, intervals))
}

/// When requests are meant to be sent; `None` in a closed loop.
///
/// # Errors
/// A trace that cannot be read.
pub fn process(args: &args::Args) -> anyhow::Result<Option<Process>> {
    Ok(match (args.rate, &args.trace) {
        (_, Some(file)) => Some(Process::Trace(arrivals::read_trace(file)?)),
        (Some(per_s), None) => Some(Process::Law { law: args.arrivals, per_s }),
        (None, None) => None,
    })
}

/// What one thread has to do.
pub fn settings(args: &args::Args, index: usize, started: Instant) -> worker::Settings {
    worker::Settings {
        index,
        connections: share(args.connections.get(), args.threads.get(), index),
        bounds: connection::Bounds {
            pipeline: args.pipeline.get(),
            requests_max: args.requests_per_connection,
            key_update_every: args.key_update_every,
            timeout: args.timeout(),
            measured_from: started + args.warm_up(),
            deadline: args.duration().map(|duration| started + duration),
        },
        started,
        sources: args.source.iter().flat_map(|sources| sources.0.iter().copied()).collect(),
        resume: args.resume,
        session_ids: args.session_ids,
        no_resumption: args.no_resumption,
        core: args.cores.get(index).copied(),
        spin: args.spin,
        drain: args.drain.map_or(args.timeout(), Duration::from_secs_f64),
    }
}

/// The time in which the replies of the rate came: to the end of the run's time or, where it ended otherwise, to the
/// last reply.
fn measured_time(args: &args::Args, started: Instant, stop: &AtomicBool, total: &tally::Tally) -> Duration {
    let last_reply = total.last_reply.map_or_else(|| started.elapsed(), |last| last - started);
    let end = match args.duration() {
        Some(duration) if args.requests.is_none() && !stop.load(Ordering::Relaxed) => duration,
        Some(duration) => duration.min(last_reply),
        None => last_reply,
    };
    end.saturating_sub(args.warm_up())
}

/// The part of `whole` that thread `index` of `threads` takes: as even as whole numbers allow.
fn share(whole: usize, threads: usize, index: usize) -> usize {
    whole / threads + usize::from(index < whole % threads)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use clap::Parser;

    use super::*;
    use crate::transport::{Event, Wait};

    type Waits = fn() -> io::Result<()>;

    /// Connects to nobody, and waits as it is told.
    struct Broken(Waits);

    impl Transport for Broken {
        type Stream = ();

        fn open(&mut self, _: SocketAddr, _: Option<IpAddr>, _: u64) -> Result<(), String> {
            Err("there is nobody".to_owned())
        }

        fn is_connected(&mut self, _: &()) -> io::Result<bool> {
            Ok(false)
        }

        fn read(&mut self, _: &mut (), _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }

        fn write(&mut self, _: &mut (), bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn close(&mut self, _: ()) {}

        fn wait(&mut self, _: Wait, _: &mut Vec<Event>) -> io::Result<()> {
            (self.0)()
        }

        fn idle(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn a_thread_that_ends_early_is_told() {
        let args = args::Args::parse_from(["keyferry-load", "https://127.0.0.1:9/", "-d", "1", "--insecure"]);
        let broken: [(Waits, &str); 2] = [
            (|| Err(io::ErrorKind::Unsupported.into()), "a load thread gave up"),
            (|| panic!("as it is meant to"), "a load thread panicked"),
        ];
        for (wait, sentence) in broken {
            let run = drive(&args, &Arc::default(), Outputs::default(), vec![Broken(wait)], || ());
            assert_eq!(run.expect_err("it has failed").to_string(), sentence);
        }
    }

    #[test]
    fn shares_add_up_and_differ_by_one_at_most() {
        for whole in 0..40 {
            for threads in 1..9 {
                let shares: Vec<_> = (0..threads).map(|index| share(whole, threads, index)).collect();
                assert_eq!(shares.iter().sum::<usize>(), whole);
                assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            }
        }
    }
}
