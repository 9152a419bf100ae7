//! `keyferry ctl`: an operator's commands to a running process, and its answers as text or JSON.
//!
//! In: the process's configuration, which names its socket, and a command. Out: the answer on standard output. Blocking, in
//! a process of its own. The text is made from the JSON whatever it holds: single values as lines, lists as tables.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use crate::admin::Line;
use crate::config::Config;

/// How long a reload may take: it reads files, whose disk may be busy with others, or be behind a network, and waits for threads.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);

/// One command to a running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Its counters.
    Status,
    /// Its peers.
    Peers,
    /// Its sessions.
    Sessions,
    /// Another configuration.
    Reload,
    /// Its end in order, within this time.
    Drain(Duration),
}

/// Connects to the process of a configuration file.
///
/// # Errors
/// What keeps it from it, and what to do.
pub fn connect(file: &Path) -> anyhow::Result<Line> {
    let socket = Config::admin_socket(file)?;
    Line::connect(&socket).map_err(|error| nobody(&socket, &error))
}

pub(crate) fn nobody(socket: &Path, error: &io::Error) -> anyhow::Error {
    let what = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "it is not running: start it with `keyferry node --config FILE`, or name the file it was started with"
        }
        io::ErrorKind::PermissionDenied => "only its own user and root may ask: use sudo, or that user",
        _ => "is it running, and may you connect?",
    };
    anyhow::anyhow!("no node answers at {} ({error}): {what}", socket.display())
}

/// What came of a command that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It was carried out.
    Whole,
    /// In part: the rest waits for a restart.
    Partly,
}

/// Carries a command out and prints what is answered.
///
/// # Errors
/// There was no answer, or it is that the command was not carried out.
pub fn run(file: &Path, command: Command, json: bool) -> anyhow::Result<Done> {
    let mut line = connect(file)?;
    let word = match command {
        Command::Status => "status",
        Command::Peers => "peers",
        Command::Sessions => "sessions",
        Command::Reload => {
            line.wait(RELOAD_PATIENCE)?;
            "reload"
        }
        Command::Drain(deadline) => return drain(line, deadline, json).map(|()| Done::Whole),
    };
    let answer = ask(&mut line, word)?;
    print(&if json { answer.to_string() + "\n" } else { text(&answer) });
    refused(&answer)?;
    Ok(if answer["outcome"] == "partly" { Done::Partly } else { Done::Whole })
}

pub(crate) fn ask(line: &mut Line, command: &str) -> anyhow::Result<Value> {
    let answer = line.ask(command).context("the node did not answer: its log may say why")?;
    serde_json::from_str(&answer).context("the answer is no JSON: use the same release as the node's")
}

/// Standard output may be a pipe whose reader has seen enough.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

pub(crate) fn refused(answer: &Value) -> anyhow::Result<()> {
    match answer["error"].as_str() {
        Some(error) => bail!("{error}"),
        None => Ok(()),
    }
}

/// Begins the end and stays until it is over, a line for each sign of it.
fn drain(mut line: Line, deadline: Duration, json: bool) -> anyhow::Result<()> {
    let mut answer = ask(&mut line, &format!("drain {}", deadline.as_millis()))?;
    loop {
        refused(&answer)?;
        print(&if json { answer.to_string() + "\n" } else { progress(&answer) });
        if answer["phase"] == "drained" {
            break;
        }
        answer = ask(&mut line, "progress").context(
            "the connection ended before the node said that it was drained; if it does not run any more its log \
             says how it ended",
        )?;
    }
    line.wait_closed();
    Ok(())
}

fn progress(answer: &Value) -> String {
    let number = |name: &str| answer[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "{}: {} connections, {} requests and {} leases left; {} closed, {} reset",
        answer["phase"].as_str().unwrap_or("?"),
        number("connections"),
        number("requests"),
        number("leases"),
        number("closed"),
        number("reset"),
    );
    if let Some(millis) = answer["deadline_ms"].as_u64() {
        let _ = write!(text, "; at most {:.1} s more", millis as f64 / 1000.0);
    }
    text + "\n"
}

/// An answer as an operator reads it.
fn text(answer: &Value) -> String {
    let Value::Object(answer) = answer else { return format!("{answer}\n") };
    // Why it was refused is told on standard error.
    let single =
        |key: &str, value: &Value| key != "error" && !matches!(value, Value::Object(_) | Value::Array(_));
    let lines = || answer.iter().filter(|(key, value)| single(key, value));
    let width = lines().map(|(key, _)| key.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in lines() {
        let _ = writeln!(text, "{key:width$}  {}", cell(value));
    }
    for (key, value) in answer {
        match (key.as_str(), value) {
            ("threads", Value::Array(threads)) => {
                let total = answer.get("total").and_then(Value::as_object);
                text += &counters(threads, total.unwrap_or(&Map::new()));
            }
            ("total", _) => {}
            (key, Value::Array(rows)) => text += &list(key, rows),
            (key, Value::Object(map)) => text += &list(key, &[Value::Object(map.clone())]),
            _ => {}
        }
    }
    text
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Rows under their heading: objects as a table, other values one a line.
fn list(key: &str, rows: &[Value]) -> String {
    let Some(Value::Object(first)) = rows.first() else {
        let none = if rows.is_empty() { " none" } else { "" };
        return rows.iter().fold(format!("{key}:{none}\n"), |text, row| text + "  " + &cell(row) + "\n");
    };
    let heads: Vec<String> = first.keys().cloned().collect();
    let of = |row: &Value| heads.iter().map(|head| cell(&row[head])).collect();
    format!("{key}:\n") + &table(&heads, rows.iter().map(of).collect())
}

/// What was counted, by thread: a row a counter, without those that are zero.
fn counters(threads: &[Value], total: &Map<String, Value>) -> String {
    let label = |thread: &Value| cell(&thread["label"]);
    let heads: Vec<_> =
        ["counter".to_owned(), "total".to_owned()].into_iter().chain(threads.iter().map(label)).collect();
    let row = |(name, sum): (&String, &Value)| {
        let of = |thread: &Value| cell(&thread[name]);
        [name.clone(), cell(sum)].into_iter().chain(threads.iter().map(of)).collect()
    };
    table(&heads, total.iter().filter(|(_, sum)| sum.as_u64() != Some(0)).map(row).collect())
}

/// Columns as wide as they have to be.
fn table(heads: &[String], rows: Vec<Vec<String>>) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([heads[column].chars().count()]).max()
    };
    let widths: Vec<_> = (0..heads.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in std::iter::once(heads).chain(rows.iter().map(Vec::as_slice)) {
        let cells: Vec<_> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_answer_has_a_text() {
        let peers = json!({"node": "a", "peers": [
            {"name": "b", "link": "up", "since_s": 7}, {"name": "long", "link": "down", "since_s": null},
        ]});
        assert_eq!(
            text(&peers),
            "node  a\npeers:\n  link  name  since_s\n  up    b     7\n  down  long  -\n"
        );
        assert_eq!(text(&json!({"node": "a", "peers": []})), "node  a\npeers: none\n");
        assert_eq!(text(&json!({"warnings": ["one", "two"]})), "warnings:\n  one\n  two\n");
        let changes = json!({"outcome": "partly", "needs_restart": [{"table": "[nic]", "key": "mtu"}]});
        assert_eq!(text(&changes), "outcome  partly\nneeds_restart:\n  key  table\n  mtu  [nic]\n");
        let status = json!({
            "node": "a", "phase": "serving",
            "threads": [{"label": "worker 0", "flows": 2}, {"label": "links", "links_up": 1}],
            "total": {"flows": 2, "links_up": 1, "requests": 0},
        });
        assert_eq!(
            text(&status),
            "node   a\nphase  serving\n  counter   total  worker 0  links\n  flows     2      2         -\n  \
             links_up  1      -         1\n"
        );
    }

    #[test]
    fn progress_is_a_line() {
        let answer = json!({"phase": "draining", "deadline_ms": 1500, "connections": 2, "requests": 1});
        let line =
            "draining: 2 connections, 1 requests and 0 leases left; 0 closed, 0 reset; at most 1.5 s more\n";
        assert_eq!(progress(&answer), line);
    }

    #[test]
    fn a_refusal_is_an_error() {
        assert_eq!(refused(&json!({"error": "no"})).unwrap_err().to_string(), "no");
        assert!(refused(&json!({"node": "a"})).is_ok());
    }

    #[test]
    fn who_does_not_answer_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "[admin]\nsocket = \"a.ctl\"\n").unwrap();
        let error = connect(&file).err().unwrap().to_string();
        assert!(error.contains("a.ctl") && error.contains("keyferry node --config"), "{error}");
        for (kind, what) in [
            (
                io::ErrorKind::ConnectionRefused,
                "it is not running: start it with `keyferry node --config FILE`",
            ),
            (io::ErrorKind::PermissionDenied, "only its own user and root may ask: use sudo, or that user"),
            (io::ErrorKind::TimedOut, "is it running, and may you connect?"),
        ] {
            let error = nobody(Path::new("/run/a.ctl"), &kind.into()).to_string();
            assert!(error.starts_with("no node answers at /run/a.ctl (") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn answers_that_are_none_are_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "[admin]\nsocket = \"a.ctl\"\n").unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("a.ctl")).unwrap();
        let cases = [
            (Command::Status, "", "the node did not answer: its log may say why"),
            (Command::Peers, "?\n", "the answer is no JSON: use the same release as the node's"),
            (Command::Sessions, "{\"error\":\"it has none\"}\n", "it has none"),
            (
                Command::Drain(Duration::from_secs(1)),
                "{\"phase\":\"draining\"}\n",
                "the connection ended before the node said that it was drained",
            ),
        ];
        for (command, answer, sentence) in cases {
            let done = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().unwrap();
                    io::BufRead::read_line(&mut io::BufReader::new(&stream), &mut String::new()).unwrap();
                    stream.write_all(answer.as_bytes()).unwrap();
                });
                run(&file, command, true)
            });
            let error = done.unwrap_err().to_string();
            assert!(error.starts_with(sentence), "{command:?}: {error}");
        }
    }
}
