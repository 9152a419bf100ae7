//! Watches a cluster from its operators' side while something happens to it. In: a running cluster. Out: how long each
//! process took to answer, and how long its links were silent. A thread a process, in that process's namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyferry_control::admin;
use serde_json::Value;

use crate::Cluster;

/// How often each is asked.
const EVERY: Duration = Duration::from_millis(50);
/// Longest wait for Prometheus' answer: it is over long before an aim is met.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was seen, of all processes together: the longest of each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// From connecting to the admin socket to the whole answer.
    pub admin: Duration,
    /// The same for the counters Prometheus collects.
    pub metrics: Duration,
    /// Since a living link was last heard.
    pub silence: Duration,
    /// Questions that were answered.
    pub answers: u64,
    /// Links that were found down, and questions without an answer.
    pub failures: u64,
}

impl Seen {
    /// Of both.
    pub fn and(self, other: Seen) -> Seen {
        Seen {
            admin: self.admin.max(other.admin),
            metrics: self.metrics.max(other.metrics),
            silence: self.silence.max(other.silence),
            answers: self.answers + other.answers,
            failures: self.failures + other.failures,
        }
    }
}

/// A watch that goes on.
pub struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Watch {
    /// Watches every running member; each has its counters for Prometheus at `metrics`, in its own namespace.
    pub fn start(cluster: &Cluster, metrics: SocketAddr) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let members = cluster.names().into_iter().filter(|name| cluster.is_running(name));
        let threads = members.map(|name| {
            let netns = cluster.netns(&name).clone();
            let socket = cluster.config(&name).with_extension("ctl");
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || netns.enter(|| watch(&socket, metrics, &stop)))
        });
        let threads = threads.collect();
        Watch { stop, threads }
    }

    /// Ends it.
    ///
    /// # Panics
    /// If a thread of it has.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Seen>| thread.join().expect("a watch does not panic");
        self.threads.into_iter().map(join).fold(Seen::default(), Seen::and)
    }
}

fn watch(socket: &Path, metrics: SocketAddr, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        seen = seen.and(ask(socket)).and(collect(metrics));
        std::thread::sleep(EVERY.saturating_sub(began.elapsed()));
    }
    seen
}

/// Both questions to the admin socket, each over a connection of its own as `keyferry ctl` has one.
fn ask(socket: &Path) -> Seen {
    let of = |question| {
        let began = Instant::now();
        let Ok(answer) = admin::ask(socket, question) else { return Seen { failures: 1, ..Seen::default() } };
        let admin = began.elapsed();
        let (silence, down) = links(&answer);
        Seen { admin, silence, answers: 1, failures: down, ..Seen::default() }
    };
    of("status").and(of("peers"))
}

/// The longest silence of the links in an answer to `peers`, and how many are down; an answer to `status` has none.
fn links(answer: &str) -> (Duration, u64) {
    let answer: Value = serde_json::from_str(answer).unwrap_or(Value::Null);
    let rows = |key: &str| answer[key].as_array().into_iter().flatten().cloned().collect::<Vec<_>>();
    let peers = rows("peers");
    let silent = peers.iter().filter_map(|peer| peer["heard_ms"].as_u64()).max().unwrap_or(0);
    let down = peers.iter().filter(|peer| peer["link"] == "down").count();
    let nodes_down = rows("nodes").iter().filter(|node| node["state"] == "down").count();
    (Duration::from_millis(silent), (down + nodes_down) as u64)
}

/// One collection of Prometheus'.
fn collect(metrics: SocketAddr) -> Seen {
    let began = Instant::now();
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&metrics, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    match answer() {
        Ok(answer) if answer.starts_with(b"HTTP/1.1 200 ") => {
            Seen { metrics: began.elapsed(), answers: 1, ..Seen::default() }
        }
        _ => Seen { failures: 1, ..Seen::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_of_the_quietest_link() {
        let node =
            r#"{"peers":[{"name":"n2","link":"up","heard_ms":40},{"name":"d1","link":"up","heard_ms":90}]}"#;
        assert_eq!(links(node), (Duration::from_millis(90), 0));
        let distributor = r#"{"nodes":[{"node":"n1","state":"up"},{"node":"n2","state":"down"}]}"#;
        assert_eq!(links(distributor), (Duration::ZERO, 1));
        assert_eq!(links(r#"{"peers":[{"name":"n2","link":"down"}]}"#), (Duration::ZERO, 1));
        assert_eq!(links(r#"{"node":"n1","threads":[],"total":{}}"#), (Duration::ZERO, 0));
    }
}
