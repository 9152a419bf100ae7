//! A flood of requests: connections that ask again as soon as they are answered, of clients that do all else as they should.
//!
//! In: how many. Out: what they were answered. The load generator in a closed loop, on a thread of its own in the clients'
//! namespace, until it is stopped or its time is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use keyferry_load::args::Args;
use keyferry_load::report::Report;

use super::Sent;
use crate::Cluster;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Requests {
    /// Connections, spread over the addresses clients have.
    pub connections: usize,
    /// They ask for no longer than that.
    pub time_max: Duration,
}

/// Those who ask.
pub struct Asking {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<Report>>>,
}

impl Requests {
    /// Begins; `seed` tells the requests of one flood from those of another.
    ///
    /// # Errors
    /// More connections than the generator has.
    pub fn start(self, cluster: &Cluster, seed: u64) -> anyhow::Result<Asking> {
        let mut text = super::ask(cluster);
        text.extend([
            format!("--connections={}", self.connections),
            format!("--duration={}", self.time_max.as_secs_f64()),
            format!("--seed={seed}"),
            "--bytes-mix=1024".to_owned(),
        ]);
        let args = Args::try_parse_from(text).context("these values are not the generator's")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (clients, stopping) = (cluster.clients().clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || clients.enter(move || keyferry_load::run(&args, &stopping)));
        Ok(Asking { stop, thread: Some(thread) })
    }
}

impl Asking {
    /// Ends it.
    ///
    /// # Errors
    /// It could not be begun, nobody was answered, or a byte of a reply was wrong.
    ///
    /// # Panics
    /// If its thread has.
    pub fn stop(mut self) -> anyhow::Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        let report = thread.join().expect("a load does not panic")?;
        ensure!(report.mismatches == 0, "{} replies to the flood were wrong", report.mismatches);
        ensure!(report.requests > 0, "nobody of the flood was answered: {report}");
        let time = Duration::from_secs_f64(report.seconds);
        Ok(Sent { count: report.requests, failed: report.failures(), time })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
