//! The admin socket: an operator's questions to a running node.
//!
//! A line protocol over a Unix stream socket: a command and a line feed come in, one JSON document on one line
//! goes out; any number of commands a connection. Commands: `status`. Runs on the control thread (tokio,
//! current-thread); [`ask`] is the other end, blocking, for
//! `keyferry status`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::counters::{Registry, Snapshot};

/// Connections served at once; more wait.
pub const CONNECTIONS_MAX: usize = 16;
/// Longest command, its line feed included.
const COMMAND_BYTES_MAX: u64 = 256;
/// Longest answer [`ask`] takes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How long a connection may be idle, or an answer take to be written.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failed accept: with no descriptor free the next would fail at once as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What `status` answers.
#[derive(Serialize)]
struct Status<'a> {
    node: &'a str,
    #[serde(flatten)]
    counters: Snapshot,
}

#[derive(Serialize)]
struct Refused<'a> {
    error: &'a str,
}

/// A node's admin socket, listened on.
pub struct Admin {
    listener: UnixListener,
    socket: PathBuf,
}

impl Admin {
    /// Listens on `socket`. Within the control thread's runtime.
    ///
    /// # Errors
    /// The socket cannot be listened on; the sentence says what to do.
    pub fn start(socket: &Path) -> anyhow::Result<Admin> {
        let listener = crate::socket::listen(socket)?;
        listener.set_nonblocking(true)?;
        Ok(Admin { listener: UnixListener::from_std(listener)?, socket: socket.to_owned() })
    }

    /// Answers operators for ever. Within a [`tokio::task::LocalSet`].
    pub async fn serve(&self, node: &str, registry: &Arc<Registry>) {
        serve(&self.listener, node, registry).await;
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // A file left behind would be replaced by the next start anyway.
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn serve(listener: &UnixListener, node: &str, registry: &Arc<Registry>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let node: Rc<str> = node.into();
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (node, registry) = (Rc::clone(&node), Arc::clone(registry));
                tokio::task::spawn_local(async move {
                    // A client that goes away or says nothing is its own affair.
                    let _ = converse(stream, &node, &registry).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn converse(stream: UnixStream, node: &str, registry: &Registry) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = AsyncBufReader::new(read);
    while let Some(command) = timeout(PATIENCE, command(&mut read)).await?? {
        let mut answer = answer(&command, node, registry)?;
        answer.push(b'\n');
        timeout(PATIENCE, write.write_all(&answer)).await??;
    }
    Ok(())
}

/// The next command, or `None` at the end of the stream.
async fn command(read: &mut AsyncBufReader<OwnedReadHalf>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    read.take(COMMAND_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Ok(None); // the end, or a line too long to be a command
    }
    Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()))
}

fn answer(command: &str, node: &str, registry: &Registry) -> io::Result<Vec<u8>> {
    match command {
        "status" => Ok(serde_json::to_vec(&Status { node, counters: registry.snapshot() })?),
        _ => Ok(serde_json::to_vec(&Refused { error: "unknown command: send status" })?),
    }
}

/// Sends one command to the node behind `socket` and returns its answer, without the line feed.
pub fn ask(socket: &Path, command: &str) -> io::Result<String> {
    let mut stream = StdStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
    match answer.strip_suffix('\n') {
        Some(answer) => Ok(answer.to_owned()),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Control;

    /// Runs `client` on a thread of its own against a served registry.
    fn with_node<T: Send + 'static>(client: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ctl");
        let registry = Arc::new(Registry::new());
        registry.block(&["requests"], "worker 0".into()).publish(&[7]);
        registry.block(&["requests"], "worker 1".into()).publish(&[5]);
        let mut answer = None;
        Control::start().unwrap().run(async |_| {
            let admin = Admin::start(&path).unwrap();
            let client = tokio::task::spawn_blocking(move || client(&path));
            tokio::select! {
                () = admin.serve("a", &registry) => unreachable!("it serves for ever"),
                result = client => answer = Some(result.unwrap()),
            }
        });
        answer.unwrap()
    }

    #[test]
    fn answers_status_with_one_document() {
        let answer = with_node(|path| ask(path, "status").unwrap());
        let json: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(json["node"], "a");
        assert_eq!(json["threads"][1]["requests"], 5);
        assert_eq!(json["total"]["requests"], 12);
    }

    #[test]
    fn answers_several_commands_on_one_connection_and_refuses_what_it_does_not_know() {
        let answers = with_node(|path| {
            let mut stream = StdStream::connect(path).unwrap();
            stream.write_all(b"reboot\nstatus\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let lines: Vec<_> = answers.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("error") && lines[1].contains("total"));
    }

    #[test]
    fn hangs_up_on_a_line_without_end() {
        let text = with_node(|path| {
            let mut stream = StdStream::connect(path).unwrap();
            // The node may hang up while this is still being written.
            let _ = stream.write_all(&[b'x'; 4096]);
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text);
            text
        });
        assert_eq!(text, b"");
    }

    #[test]
    fn serves_more_clients_than_at_once() {
        let answers = with_node(|path| {
            let ask = |_| {
                let path = path.to_owned();
                std::thread::spawn(move || ask(&path, "status").is_ok())
            };
            let clients: Vec<_> = (0..3 * CONNECTIONS_MAX).map(ask).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(answers.iter().all(|answer| *answer));
    }

    #[test]
    fn a_signal_ends_it_and_takes_the_socket_along() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ctl");
        let control = Control::start().unwrap();
        let admin = control.within(|| Admin::start(&path)).unwrap();
        assert!(control.within(|| Admin::start(&path)).is_err(), "a second node on the same socket");
        let asking = path.clone();
        let client = std::thread::spawn(move || {
            let answer = ask(&asking, "status");
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
            answer.unwrap()
        });
        let registry = Arc::new(Registry::new());
        control.run(async |mut signals| {
            tokio::select! {
                () = admin.serve("a", &registry) => unreachable!("it serves for ever"),
                () = signals.end() => {}
            }
            drop(admin);
        });
        assert!(client.join().unwrap().contains("total"));
        assert!(!path.exists());
    }
}
