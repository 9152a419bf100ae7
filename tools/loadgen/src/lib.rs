//! Load generation over kernel sockets: one thread a core, each with its own connections, nothing shared.
//!
//! [`args`] says what to do, [`arrivals`] when (without knowing of sockets or clocks), [`slo`] judges the report, [`target`] resolves whom to ask, [`plan`] draws the requests, [`connection`] carries
//! one TCP and TLS connection through them, [`reply`] reads HTTP, [`check`] compares every body byte with the
//! pattern the synthetic application publishes, [`worker`] is one thread's loop, [`report`] what comes out.

#![forbid(unsafe_code)]

pub mod args;
pub mod arrivals;
pub mod check;
pub mod connection;
pub mod plan;
pub mod reply;
pub mod report;
pub mod slo;
pub mod target;
pub mod tls;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;

/// Runs the load `args` describes, or until `stop`, and returns what it saw, all threads together.
///
/// # Errors
/// When the load cannot start: the target does not resolve, a certificate file is unreadable, a thread fails.
pub fn run(args: &args::Args, stop: &Arc<AtomicBool>) -> anyhow::Result<report::Report> {
    let target = Arc::new(target::Target::new(&args.url, args.resolve.as_ref())?);
    let config = tls::client_config(args)?;
    let process = match (args.rate, &args.trace) {
        (_, Some(file)) => Some(arrivals::Process::Trace(arrivals::read_trace(file)?)),
        (Some(per_s), None) => Some(arrivals::Process::Law { law: args.arrivals, per_s }),
        (None, None) => None,
    };
    let connections = args.connections.get();
    let started = Instant::now();
    let plans = plan::Plan::split(args, &target, process.as_ref(), started);

    let mut threads = Vec::with_capacity(plans.len());
    for (index, plan) in plans.into_iter().enumerate() {
        let share = share(connections, args.threads.get(), index);
        let settings = worker::Settings {
            connections: share,
            pipeline: args.pipeline.get(),
            requests_per_connection: args.requests_per_connection,
            key_update_every: args.key_update_every,
            deadline: args.duration().map(|duration| started + duration),
            measured_from: started + args.warm_up(),
            timeout: args.timeout(),
            core: args.cores.get(index).copied(),
        };
        let mut worker =
            worker::Worker::new(settings, plan, Arc::clone(&target), Arc::clone(&config), Arc::clone(stop))?;
        let thread = std::thread::Builder::new().name(format!("load-{index}"));
        threads.push(thread.spawn(move || worker.run()).context("cannot start a load thread")?);
    }

    let mut total = report::Tally::new();
    for thread in threads {
        let tally = thread.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))?;
        total.add(&tally.context("a load thread gave up")?);
    }
    Ok(report::Report::new(&total, started.elapsed().saturating_sub(args.warm_up())))
}

/// The part of `whole` that thread `index` of `threads` takes: as even as whole numbers allow.
fn share(whole: usize, threads: usize, index: usize) -> usize {
    whole / threads + usize::from(index < whole % threads)
}

#[cfg(test)]
mod tests {
    use super::share;

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
