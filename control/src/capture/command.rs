//! `keyferry capture`: the operator's end of a capture.
//!
//! In: a configuration, which names the socket, what to capture and where to. Out: the file, which is whole behind every block
//! however this ends, and on standard error what is captured and how many packets it was. Ends with what it was told to capture,
//! with SIGINT, SIGTERM or SIGHUP, with the process it asks, or with the reader of its output. A process of its own.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::time::{sleep, timeout};

use super::Begun;
use super::pcapng::Seen;
use super::request::Request;
use crate::admin::{PATIENCE, Refused};
use crate::config::Config;
use crate::ctl::nobody;
use crate::private;
use crate::runtime::{Control, Signals};

/// Stands for standard output.
pub const STANDARD_OUTPUT: &str = "-";

/// Longest first line of an answer.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Bytes asked for at once.
const READ_BYTES: usize = 256 << 10;

/// How long the process may be silent before the end, once it is asked for that.
const END_MAX: Duration = Duration::from_secs(10);

/// Captures from the process of `config` into `to`.
///
/// # Errors
/// What keeps it from it, or cut it short; each sentence says what to do.
pub fn run(config: &Path, to: &Path, request: &Request) -> anyhow::Result<()> {
    let socket = Config::admin_socket(config)?;
    let mut output = Output::open(to)?;
    let mut outcome = Ok(());
    Control::start()?.run(async |signals| {
        outcome = capture(&socket, &mut output, request, signals).await;
    });
    outcome
}

async fn capture(
    socket: &Path,
    output: &mut Output,
    request: &Request,
    mut signals: Signals,
) -> anyhow::Result<()> {
    let stream = UnixStream::connect(socket).await.map_err(|error| nobody(socket, &error))?;
    let (read, mut write) = stream.into_split();
    let request = serde_json::to_string(request).context("a request is plain data")?;
    write.write_all(format!("capture {request}\n").as_bytes()).await?;
    let mut read = BufReader::with_capacity(READ_BYTES, read);
    let begun = begun(&mut read).await?;
    let filter = if begun.filter.is_empty() { "every packet" } else { begun.filter.as_str() };
    eprintln!("keyferry: capturing from {}: {filter}; Ctrl-C ends it", begun.node);
    output.begin()?;
    let mut blocks = Blocks::default();
    let (mut is_ending, mut outcome) = (false, Ok(()));
    while outcome.is_ok() {
        let signal = async {
            tokio::select! {
                () = signals.ends.next() => {}
                () = signals.hangups.next() => {}
            }
        };
        blocks.bytes.reserve(READ_BYTES);
        tokio::select! {
            biased;
            // Said twice, or too late: what there is has to do.
            () = signal => match is_ending {
                true => break,
                false => is_ending = true,
            },
            () = sleep(END_MAX), if is_ending => break,
            read = read.read_buf(&mut blocks.bytes) => match read {
                Ok(0) => break,
                Ok(_) => {
                    outcome = blocks.write(output);
                    continue;
                }
                Err(error) => {
                    outcome = Err(error).with_context(|| {
                        format!(
                            "the connection to {} broke: see its log; what came until then is whole",
                            begun.node
                        )
                    });
                    continue;
                }
            }
        }
        // A process that is gone will say so by itself.
        let _ = write.shutdown().await;
    }
    let Seen { packets, dropped, is_ended } = blocks.seen;
    eprintln!("keyferry: {packets} packets captured, {dropped} dropped");
    // The reader of a pipe has seen enough.
    if output.is_closed {
        return Ok(());
    }
    outcome?;
    if !is_ended && !is_ending {
        bail!(
            "{} closed the connection before the end: see its log; what came until then is whole",
            begun.node
        );
    }
    Ok(())
}

/// The answer's first line.
async fn begun(read: &mut BufReader<OwnedReadHalf>) -> anyhow::Result<Begun> {
    let mut line = String::new();
    let mut bounded = read.take(LINE_BYTES_MAX);
    let answered = timeout(PATIENCE, bounded.read_line(&mut line)).await;
    answered.map_err(io::Error::from).flatten().context("the node did not answer: its log may say why")?;
    if let Ok(Refused { error }) = serde_json::from_str(&line) {
        bail!("{error}");
    }
    serde_json::from_str(&line).context("the answer is not understood: use the same release as the node's")
}

/// What has come and is not written: less than a block.
#[derive(Default)]
struct Blocks {
    bytes: Vec<u8>,
    seen: Seen,
}

impl Blocks {
    fn write(&mut self, output: &mut Output) -> anyhow::Result<()> {
        let whole = self.seen.note(&self.bytes)?;
        output.write(&self.bytes[..whole])?;
        self.bytes.drain(..whole);
        Ok(())
    }
}

/// Where blocks go.
struct Output {
    to: To,
    /// Bytes of whole blocks.
    written: u64,
    /// Nobody reads any more.
    is_closed: bool,
}

enum To {
    File(PathBuf, File),
    StandardOutput(io::Stdout),
}

impl Output {
    fn open(to: &Path) -> anyhow::Result<Output> {
        let to = if to == Path::new(STANDARD_OUTPUT) {
            let out = io::stdout();
            if out.is_terminal() {
                bail!(
                    "standard output is a terminal: pipe it to a program, such as tshark -r -, or name a file"
                );
            }
            To::StandardOutput(out)
        } else {
            To::File(to.to_owned(), private::open(to)?)
        };
        Ok(Output { to, written: 0, is_closed: false })
    }

    /// Forgets what the file held.
    fn begin(&self) -> anyhow::Result<()> {
        match &self.to {
            To::File(path, file) => {
                file.set_len(0).with_context(|| format!("{} cannot be written", path.display()))
            }
            To::StandardOutput(_) => Ok(()),
        }
    }

    fn write(&mut self, blocks: &[u8]) -> anyhow::Result<()> {
        match &mut self.to {
            To::File(path, file) => {
                let done = file.write_all(blocks);
                if done.is_err() {
                    // What is cut is not whole.
                    let _ = file.set_len(self.written);
                }
                done.with_context(|| format!("{} cannot be written: is there room?", path.display()))?;
            }
            To::StandardOutput(out) => {
                let done = out.write_all(blocks).and_then(|()| out.flush());
                self.is_closed = matches!(&done, Err(error) if error.kind() == io::ErrorKind::BrokenPipe);
                done.context("standard output cannot be written")?;
            }
        }
        self.written += blocks.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read};
    use std::os::unix::net::UnixListener;

    use super::*;

    const BEGUN: &str = "{\"node\":\"a\",\"filter\":\"\"}\n";

    #[test]
    fn answers_that_are_none_and_ends_too_soon_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.toml"), "[admin]\nsocket = \"a.ctl\"\n").unwrap();
        let listener = UnixListener::bind(at("a.ctl")).unwrap();
        let request = Request {
            filter: String::new(),
            snap: 128,
            count: None,
            seconds: None,
            worker: None,
            keys: false,
        };
        // What a process leaves unread turns its end into a reset.
        for (is_read, answer, sentence) in [
            (true, "{\"error\":\"it has none\"}\n", "it has none"),
            (true, "?\n", "the answer is not understood: use the same release as the node's"),
            (true, BEGUN, "a closed the connection before the end: see its log"),
            (false, BEGUN, "the connection to a broke: see its log; what came until then is whole"),
        ] {
            let done = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    let asked = match is_read {
                        true => io::BufReader::new(&stream).read_line(&mut String::new()).map(drop),
                        false => stream.read_exact(&mut [0]),
                    };
                    asked.unwrap();
                    stream.write_all(answer.as_bytes()).unwrap();
                });
                run(&at("a.toml"), &at("a.pcapng"), &request)
            });
            let error = done.unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{answer}: {error}");
        }
    }
}
