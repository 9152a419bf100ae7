//! The admin socket: an operator's questions to a running process.
//!
//! A line protocol over a Unix stream socket: a command and a line feed come in, one JSON document on one line
//! goes out; any number of commands a connection, unless packets are asked for, which fill the rest of it. What the
//! commands are is up to the process: a node's are in `crate::desk`. Runs on the control thread (tokio,
//! current-thread); [`Line`] is the other end, blocking.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::capture::Stream;

/// Connections served at once; more wait.
pub const CONNECTIONS_MAX: usize = 16;
/// Longest command, its line feed included: a capture with the longest filter.
const COMMAND_BYTES_MAX: u64 = 2 * keyferry_filter::TEXT_BYTES_MAX as u64 + 256;
/// Longest answer [`Line`] takes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How long a connection may be idle, or an answer take to be written.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failed accept: with no descriptor free the next would fail at once as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers under way are waited for when the process ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// An answer to a command.
pub enum Answer {
    /// One JSON document.
    Document(String),
    /// Packets, until the end of the connection.
    Packets(Box<Stream>),
}

impl From<String> for Answer {
    fn from(document: String) -> Answer {
        Answer::Document(document)
    }
}

/// What is answered to a command that is not carried out.
#[derive(Serialize, Deserialize)]
pub struct Refused {
    /// Why, and what to do.
    pub error: String,
}

/// An answer: one JSON document.
pub fn document(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("answers are plain data")
}

/// The answer to a command that is not carried out.
pub fn refusal(error: impl Into<String>) -> String {
    document(&Refused { error: error.into() })
}

/// An admin socket, listened on.
pub struct Admin {
    listener: UnixListener,
    socket: PathBuf,
    /// Commands whose answers are not written yet.
    under_way: Rc<Cell<usize>>,
}

impl Admin {
    /// Listens on `socket`. Within the control thread's runtime.
    ///
    /// # Errors
    /// The socket cannot be listened on; the sentence says what to do.
    pub fn start(socket: &Path) -> anyhow::Result<Admin> {
        let listener = crate::socket::listen(socket)?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(Admin { listener, socket: socket.to_owned(), under_way: Rc::default() })
    }

    /// Gives operators the answers `answer` has to their commands, for ever. Within a [`tokio::task::LocalSet`].
    pub async fn serve<A: Into<Answer> + 'static>(&self, answer: impl AsyncFn(&str) -> A + 'static) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let answer = Rc::new(answer);
        loop {
            let permit =
                Arc::clone(&connections).acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (answer, under_way) = (Rc::clone(&answer), Rc::clone(&self.under_way));
                    tokio::task::spawn_local(async move {
                        // A client that goes away or says nothing is its own affair.
                        let _ = converse(stream, &*answer, &under_way).await;
                        drop(permit);
                    });
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// Takes the socket away, and waits for answers under way: operators who wait for the end hear of it.
    pub async fn end(self) {
        const LOOK: Duration = Duration::from_millis(1);
        let start = Instant::now();
        while self.under_way.get() > 0 && start.elapsed() < FAREWELL {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // A file left behind would be replaced by the next start anyway.
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn converse<A: Into<Answer>>(
    stream: UnixStream,
    answer: &impl AsyncFn(&str) -> A,
    under_way: &Rc<Cell<usize>>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = AsyncBufReader::new(read);
    while let Some(command) = timeout(PATIENCE, command(&mut read)).await?? {
        let counted = Counted::new(under_way);
        let answer: Answer = answer(&command).await.into();
        match answer {
            Answer::Document(mut document) => {
                document.push('\n');
                timeout(PATIENCE, write.write_all(document.as_bytes())).await??;
                drop(counted);
            }
            Answer::Packets(stream) => {
                // It has no end to wait for.
                drop(counted);
                return stream.run(read, write).await;
            }
        }
    }
    Ok(())
}

/// A command under way.
struct Counted<'a>(&'a Cell<usize>);

impl Counted<'_> {
    fn new(count: &Cell<usize>) -> Counted<'_> {
        count.set(count.get() + 1);
        Counted(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
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

/// An operator's end of a connection.
pub struct Line(BufReader<StdStream>);

impl Line {
    /// Connects to the process behind `socket`.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not connect.
    pub fn connect(socket: &Path) -> io::Result<Line> {
        let stream = StdStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Line(BufReader::new(stream)))
    }

    /// Has answers take so long, and no longer; [`PATIENCE`] at first.
    ///
    /// # Errors
    /// The system refuses the time.
    pub fn wait(&self, patience: Duration) -> io::Result<()> {
        self.0.get_ref().set_read_timeout(Some(patience))
    }

    /// Sends one command and returns its answer, without the line feed.
    ///
    /// # Errors
    /// The process closed the connection, or does not answer.
    pub fn ask(&mut self, command: &str) -> io::Result<String> {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        (&mut self.0).take(ANSWER_BYTES_MAX).read_line(&mut answer)?;
        match answer.strip_suffix('\n') {
            Some(answer) => Ok(answer.to_owned()),
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")),
        }
    }

    /// Waits until the process closes the connection, which it does when it ends; not for long.
    pub fn wait_closed(mut self) {
        let _ = self.0.read(&mut [0]);
    }
}

/// Sends one command to the process behind `socket` and returns its answer, without the line feed.
///
/// # Errors
/// As those of [`Line`].
pub fn ask(socket: &Path, command: &str) -> io::Result<String> {
    Line::connect(socket)?.ask(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Control;

    /// The answers of some process.
    async fn answers(command: &str) -> String {
        match command {
            "status" => document(&serde_json::json!({"total": 12})),
            "wait" => {
                sleep(Duration::from_millis(50)).await;
                document(&"waited")
            }
            _ => refusal("unknown command: send status"),
        }
    }

    /// Runs `client` on a thread of its own against a served process.
    fn with_node<T: Send + 'static>(client: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ctl");
        let mut answer = None;
        Control::start().unwrap().run(async |_| {
            let admin = Admin::start(&path).unwrap();
            let client = tokio::task::spawn_blocking(move || client(&path));
            tokio::select! {
                () = admin.serve(answers) => unreachable!("it serves for ever"),
                result = client => answer = Some(result.unwrap()),
            }
        });
        answer.unwrap()
    }

    #[test]
    fn answers_are_waited_for_as_long_as_is_said() {
        let [late, in_time] = with_node(|path| {
            [Duration::from_millis(1), PATIENCE].map(|patience| {
                let mut line = Line::connect(path).unwrap();
                line.wait(patience).unwrap();
                line.ask("wait")
            })
        });
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(in_time.unwrap(), "\"waited\"");
    }

    #[test]
    fn answers_status_with_one_document() {
        let answer = with_node(|path| ask(path, "status").unwrap());
        let json: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(json["total"], 12);
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
        control.run(async |mut signals| {
            tokio::select! {
                () = admin.serve(answers) => unreachable!("it serves for ever"),
                () = signals.ends.next() => {}
            }
            admin.end().await;
        });
        assert!(client.join().unwrap().contains("total"));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_asked_before_the_end_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ctl");
        let mut answer = String::new();
        Control::start().unwrap().run(async |_| {
            let admin = Admin::start(&path).unwrap();
            let client = tokio::task::spawn_blocking(move || ask(&path, "wait").unwrap());
            let under_way = Rc::clone(&admin.under_way);
            tokio::select! {
                () = admin.serve(answers) => unreachable!("it serves for ever"),
                () = async { while under_way.get() == 0 { sleep(Duration::from_millis(1)).await } } => {}
            }
            admin.end().await;
            assert_eq!(under_way.get(), 0);
            answer = client.await.unwrap();
        });
        assert_eq!(answer, "\"waited\"");
    }
}
