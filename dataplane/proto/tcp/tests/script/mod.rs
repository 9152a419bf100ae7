//! Conformance scripts: their lines, read. `README.md` beside the scripts describes the format.
//!
//! In: the text of a script. Out: cases of steps. Pure.

pub mod play;
pub mod segment;

use std::collections::BTreeMap;
use std::time::Duration;

use segment::Said;

/// One case: a name that says what must hold, and its steps with the number of their line.
pub struct Case {
    pub name: String,
    pub steps: Vec<(usize, Step)>,
}

/// One line.
#[derive(Debug)]
pub enum Step {
    /// Part of the configuration, before anything else.
    Set(String, String),
    /// The peer opens a connection with these options.
    Established(Vec<String>),
    /// The peer sends.
    Peer(Said),
    /// We send this next, at once or so long from now.
    Expect(Said, Option<(Duration, Duration)>),
    /// We send nothing for so long.
    None(Duration),
    /// Time passes, whatever we send.
    Wait(Duration),
    /// Something the caller does: a word and a number.
    Do(String, usize),
    /// What the caller is told next.
    Event(String),
    /// A figure: of the connection or of the counters.
    Is(String, u64),
}

/// Reads a script.
pub fn parse(text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_prefix("case ") {
            cases.push(Case { name: name.to_owned(), steps: Vec::new() });
            continue;
        }
        let step = step(line).map_err(|why| format!("line {}: {why}: {line}", number + 1))?;
        let case = cases.last_mut().ok_or("a step before the first case")?;
        case.steps.push((number + 1, step));
    }
    Ok(cases)
}

fn step(line: &str) -> Result<Step, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let word = |at: usize| words.get(at).copied().ok_or("a word is missing");
    Ok(match words[0] {
        "set" => Step::Set(word(1)?.to_owned(), word(2)?.to_owned()),
        "established" => Step::Established(words[1..].iter().map(|word| (*word).to_owned()).collect()),
        "<" => Step::Peer(segment::parse(&words[1..])?),
        ">" => Step::Expect(segment::parse(&words[1..])?, None),
        "after" => {
            let (least, most) = word(1)?.split_once("..").ok_or("a range of times")?;
            if word(2)? != ">" {
                return Err("a segment of ours follows".into());
            }
            Step::Expect(segment::parse(&words[3..])?, Some((duration(least)?, duration(most)?)))
        }
        "none" => Step::None(words.get(1).map_or(Ok(Duration::ZERO), |time| duration(time))?),
        "wait" => Step::Wait(duration(word(1)?)?),
        "event" => Step::Event(words[1..].join(" ")),
        "is" => Step::Is(word(1)?.to_owned(), number(word(2)?)?),
        "send" | "read" | "close" | "abort" | "connect" | "idle" | "toobig" => {
            Step::Do(words[0].to_owned(), words.get(1).map_or(Ok(0), |word| number(word))? as usize)
        }
        other => return Err(format!("what is {other:?}")),
    })
}

/// A number in decimal.
pub fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word:?} is no number"))
}

/// A time such as `20ms`, `1.5s` or `300us`.
pub fn duration(word: &str) -> Result<Duration, String> {
    let split = word.find(|letter: char| letter.is_ascii_alphabetic()).ok_or("a unit of time")?;
    let (digits, unit) = word.split_at(split);
    let value: f64 = digits.parse().map_err(|_| format!("{digits:?} is no number"))?;
    let units = BTreeMap::from([("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("h", 3_600.0)]);
    let seconds = units.get(unit).ok_or_else(|| format!("{unit:?} is no unit of time"))?;
    Ok(Duration::from_secs_f64(value * seconds))
}
