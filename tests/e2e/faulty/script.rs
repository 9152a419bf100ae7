//! The script of a faulty node: what happens at which message. In: text of the test. Out: faults to strike.
//!
//! `LIFE WHAT N FAULT [MS]`, several separated by commas: in the LIFE-th life of the link, of which the one that lives
//! when the script comes is the first, at the N-th message of that kind since. All counts start at 1. Tests with a script have one worker a node and one request at a time, so that
//! the kinds of sealed messages follow from their numbers: A sends grant, go, slots and revoke, B claim and return.

use std::time::Duration;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// SENDs posted here.
    Send,
    /// WRITEs posted here.
    Write,
    /// Load words written here.
    Load,
    /// Messages and immediates that arrive here.
    Receive,
}

/// What happens then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to this process, before the message is posted or seen.
    Kill,
    /// SIGKILL to this process once the message is posted.
    KillAfter,
    /// SIGSTOP to this process, before the message is posted or seen.
    Stop,
    /// From here on nothing passes either way, and everything posted seems to be done.
    Dead,
    /// The wire between the RDMA devices is cut, before the message is posted or seen.
    Cut,
    /// The last byte is another: of the seal, of a record's tag, or of the load word.
    Forge,
    /// The first byte is another: of a record's header.
    ForgeHeader,
    /// The message is sent twice.
    Replay,
    /// Instead of the message the first of the link's first life.
    Old,
    /// It and what follows is seen so much later.
    Late(Duration),
}

/// One line.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub life: u32,
    pub point: Point,
    pub number: u32,
    pub fault: Fault,
}

/// Reads a script. A mistake in it is one of the test.
pub fn read(text: &str) -> Vec<Line> {
    text.split(',').filter(|line| !line.trim().is_empty()).map(line).collect()
}

fn line(text: &str) -> Line {
    let words: Vec<_> = text.split_whitespace().collect();
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("no number in the script's {text:?}"));
    let [life, point, at, fault, rest @ ..] = &words[..] else {
        panic!("the script's {text:?} is too short")
    };
    let point = match *point {
        "send" => Point::Send,
        "write" => Point::Write,
        "load" => Point::Load,
        "receive" => Point::Receive,
        _ => panic!("what to count in the script's {text:?}?"),
    };
    let fault = match *fault {
        "kill" => Fault::Kill,
        "kill-after" => Fault::KillAfter,
        "stop" => Fault::Stop,
        "dead" => Fault::Dead,
        "cut" => Fault::Cut,
        "forge" => Fault::Forge,
        "forge-header" => Fault::ForgeHeader,
        "replay" => Fault::Replay,
        "old" => Fault::Old,
        "late" => Fault::Late(Duration::from_millis(rest.first().map_or(0, |ms| number(ms)).into())),
        _ => panic!("what to do in the script's {text:?}?"),
    };
    Line { life: number(life), point, number: number(at), fault }
}
