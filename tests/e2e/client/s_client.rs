//! `openssl s_client`, fed and read step by step.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::body::{assert_is_pattern, wire_request};
use crate::harness::{A4, Cluster, NAME};

/// Longest wait for anything it prints.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A running s_client. Standard output has nothing but what the server sent.
pub struct SClient {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Collected>,
    stderr: Arc<Collected>,
    /// Bytes of standard output already taken.
    taken: usize,
}

/// What a pipe has brought so far.
#[derive(Default)]
struct Collected {
    bytes: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl SClient {
    /// Connects to node A with `options`.
    pub fn connect(cluster: &Cluster, options: &[&str]) -> SClient {
        SClient::connect_to(A4, cluster, options)
    }

    /// Connects to the node of this address with `options`.
    pub fn connect_to(node: &str, cluster: &Cluster, options: &[&str]) -> SClient {
        let mut command = cluster.client("openssl");
        command.args([
            "s_client",
            "-brief",
            "-connect",
            &format!("{node}:443"),
            "-verify_return_error",
            "-CAfile",
        ]);
        command.arg(cluster.ca());
        if !options.contains(&"-servername") {
            command.args(["-servername", NAME, "-verify_hostname", NAME]);
        }
        let mut child = command
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl starts");
        let stdout = Collected::from(child.stdout.take().expect("stdout is piped"));
        let stderr = Collected::from(child.stderr.take().expect("stderr is piped"));
        let client = SClient { stdin: child.stdin.take(), child, stdout, stderr, taken: 0 };
        client.stderr.wait("the handshake", |text, _| {
            let suite = find(text, b"Ciphersuite: ")?;
            find(&text[suite..], b"\n")
        });
        client
    }

    /// What it says about the connection.
    pub fn notes(&self) -> String {
        String::from_utf8_lossy(&self.stderr.bytes.lock().expect("never poisoned").0).into_owned()
    }

    /// Writes to the server. A first letter of K, k, R, Q would be a command.
    pub fn send(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("not yet ended");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("s_client reads");
    }

    /// Sends a KeyUpdate, with or without asking for one back; it leaves with the next bytes sent. Everything sent
    /// before has to be answered, at least in part: s_client takes a letter for a command only where a read of its
    /// input begins.
    pub fn key_update(&mut self, is_requested: bool) {
        let said = count(&self.stderr, b"KEYUPDATE");
        self.send(if is_requested { "K\n" } else { "k\n" });
        self.stderr.wait("KEYUPDATE", |text, _| (occurrences(text, b"KEYUPDATE") > said).then_some(()));
    }

    /// Asks for `bytes` bytes and checks them.
    pub fn get(&mut self, query: &str, seed: u64, bytes: usize) {
        self.send(&wire_request(&format!("/?bytes={bytes}&seed={seed}{query}")));
        self.expect_pattern(seed, bytes);
    }

    /// Waits for the first bytes of the next reply.
    pub fn expect_begin(&self) {
        self.stdout.wait("the next reply", |text, _| (text.len() > self.taken).then_some(()));
    }

    /// Takes the next reply, which has to be the pattern.
    pub fn expect_pattern(&mut self, seed: u64, bytes: usize) {
        let from = self.taken;
        let what = format!("reply of {bytes} bytes");
        let (end, body) = self.stdout.wait(&what, |text, is_end| {
            let text = &text[from..];
            let head = find(text, b"\r\n\r\n");
            assert!(
                !is_end || head.is_some_and(|head| text.len() >= head + 4 + bytes),
                "{what}: closed before"
            );
            let body = head? + 4;
            assert!(text.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&text[..body]));
            let end = body + bytes;
            (text.len() >= end).then(|| (from + end, text[body..end].to_vec()))
        });
        assert_is_pattern(&body, seed, bytes, &what);
        self.taken = end;
    }

    /// Ends its input, so that it says close_notify, and waits for its end.
    pub fn finish(mut self) -> String {
        drop(self.stdin.take());
        let status = self.child.wait().expect("s_client is our child");
        let rest = self.stdout.wait("the end", |text, is_end| is_end.then(|| text[self.taken..].to_vec()));
        let notes = self
            .stderr
            .wait("the end", |text, is_end| is_end.then(|| String::from_utf8_lossy(text).into_owned()));
        assert!(status.success(), "s_client ended with {status}: {notes}");
        assert!(rest.is_empty(), "left over: {}", String::from_utf8_lossy(&rest));
        notes
    }
}

impl Drop for SClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collected {
    fn from(mut pipe: impl Read + Send + 'static) -> Arc<Collected> {
        let collected = Arc::new(Collected::default());
        let filled = Arc::clone(&collected);
        std::thread::spawn(move || {
            let mut part = vec![0; 64 * 1024];
            loop {
                let bytes = pipe.read(&mut part).unwrap_or(0);
                let mut guard = filled.bytes.lock().expect("never poisoned");
                guard.0.extend_from_slice(&part[..bytes]);
                guard.1 = bytes == 0;
                filled.changed.notify_all();
                if bytes == 0 {
                    return;
                }
            }
        });
        collected
    }

    /// Waits until `found` finds something in what came; it is also told whether more can come.
    fn wait<T>(&self, what: &str, found: impl Fn(&[u8], bool) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT_MAX;
        let mut guard = self.bytes.lock().expect("never poisoned");
        loop {
            if let Some(value) = found(&guard.0, guard.1) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !guard.1,
                "s_client: {what} did not come; it said {}",
                String::from_utf8_lossy(&guard.0[guard.0.len().saturating_sub(2000)..])
            );
            guard = self.changed.wait_timeout(guard, left).expect("never poisoned").0;
        }
    }
}

fn count(collected: &Collected, needle: &[u8]) -> usize {
    occurrences(&collected.bytes.lock().expect("never poisoned").0, needle)
}

fn occurrences(text: &[u8], needle: &[u8]) -> usize {
    text.windows(needle.len()).filter(|window| window == &needle).count()
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}
