//! One connection between Linux and us, with its two applications, its two lanes of the relay, and what is known of its
//! two ends.
//!
//! In: packets seen by the relay, events, the time. Out: whether it is over, and whether it went as it must.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_tcp::{CloseReason, ConnId, Event, Tcp};
use keyferry_time::Time;
use mio::Registry;

use super::app::{App, Piece};
use super::linux::Linux;
use super::patience::Patience;
use super::plan::{Kind, Plan};
use super::relay::{Fate, Lane, Way};
use super::segment::Seen;

/// Packets of a connection that a failure's message shows.
const NOTES: usize = 100;

/// A packet that the relay took in, or handed over (without a fate).
pub struct Note {
    pub at: Time,
    pub way: Way,
    pub seen: Seen,
    pub fate: Option<Fate>,
}

pub struct Line {
    pub plan: Plan,
    pub linux: Option<Linux>,
    pub id: Option<ConnId>,
    ours: App,
    open: bool,
    readable: bool,
    closed: Option<CloseReason>,
    /// By where packets go; what is known of the two ends: of Linux, of us.
    pub lanes: [Lane; 2],
    ends: [Patience; 2],
    shifts: [Option<u8>; 2],
    notes: VecDeque<Note>,
    pub failed: Option<String>,
    moved: Time,
    pub writable: bool,
    pub awake: bool,
}

/// What the two ends send, so that no place holds the same byte in both.
const SALT: [u64; 2] = [0x1111_2222, 0x7777_8888_9999];

impl Line {
    pub fn new(plan: Plan) -> Line {
        let [linux, ours] = SALT.map(|salt| salt ^ (plan.seed << 20));
        Line {
            ours: App::new(plan.ours, ours, linux),
            lanes: [0, 1].map(|way| Lane::new(plan.faults[way], 2 * plan.seed + way as u64)),
            plan,
            linux: None,
            id: None,
            open: false,
            readable: false,
            closed: None,
            ends: [Patience::of_linux(), Patience::default()],
            shifts: [None; 2],
            notes: VecDeque::new(),
            failed: None,
            moved: Time::ZERO,
            writable: false,
            awake: false,
        }
    }

    /// Linux's end comes into being.
    pub fn begin(
        &mut self,
        now: Time,
        congestion: &str,
        linux: SocketAddr,
        ours: SocketAddr,
        registry: &Registry,
        token: usize,
    ) {
        let app = App::new(self.plan.linux, self.ours_expects(), self.ours.salt);
        self.moved = now;
        match Linux::new(&self.plan, app, congestion, linux, ours, registry, token) {
            Ok(end) => self.linux = Some(end),
            Err(error) => self.failed = Some(format!("no socket: {error}")),
        }
    }

    fn ours_expects(&self) -> u64 {
        SALT[0] ^ (self.plan.seed << 20)
    }

    pub fn is_over(&self) -> bool {
        let gone = self.linux.as_ref().is_some_and(Linux::is_gone);
        self.failed.is_some() || (gone && self.closed.is_some())
    }

    pub fn failure(&self) -> Option<String> {
        let failed = self.failed.as_ref()?;
        let mut text = format!("seed {}: {failed}\n  {:?}\n", self.plan.seed, self.plan);
        for (end, name) in self.ends.iter().zip(["linux", "we"]) {
            let _ = writeln!(text, "  {name}: {end}");
        }
        if let Some(linux) = &self.linux {
            let _ = writeln!(text, "  linux has sent {} and got {}", linux.app.sent, linux.app.got);
        }
        let _ = writeln!(text, "  we have sent {} and got {}", self.ours.sent, self.ours.got);
        for Note { at, way, seen, fate } in &self.notes {
            let (from, to) = if *way == Way::ToUs { ("linux", "us") } else { ("we", "linux") };
            let seconds = at.0 as f64 / 1e9;
            let _ = match fate {
                Some(fate) => writeln!(text, "  {seconds:.4} {from:>6} send {seen} {fate:?}"),
                None => writeln!(text, "  {seconds:.4} {to:>6} hear {seen}"),
            };
        }
        Some(text)
    }

    pub fn note(&mut self, note: Note) {
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        if self.failed.is_none() {
            self.notes.push_back(note);
        }
    }

    fn fail(&mut self, what: impl Into<String>) {
        if !self.is_over() {
            self.failed = Some(what.into());
        }
    }

    /// An end sends a segment: that of whom it does not go to.
    pub fn says(&mut self, now: Time, way: Way, seen: &Seen) {
        let from = 1 - way.index();
        if self.failed.is_some() {
            return;
        }
        self.moved = now;
        if seen.syn {
            self.shifts[from] = seen.shift;
        }
        // Of what is over at one end the other may have packets on the way, which are answered so (RFC 9293 section 3.10.7.1).
        let ended = self.closed.is_some() || self.linux.as_ref().is_some_and(Linux::is_gone);
        if seen.rst && !ended {
            let who = ["Linux", "we"][from];
            self.fail(format!("a reset: {who} end what is not over"));
        }
        self.ends[from].speaks(now, seen);
    }

    /// An end is handed a segment.
    pub fn hears(&mut self, now: Time, way: Way, seen: &Seen) {
        if self.failed.is_some() {
            return;
        }
        // A shift counts where both have offered one (RFC 7323 section 2.2).
        let both = self.shifts[0].zip(self.shifts[1]);
        let shift = both.map_or(0, |(linux, ours)| if way == Way::ToLinux { ours } else { linux });
        self.ends[way.index()].hears(now, seen, shift);
        self.moved = now;
        self.awake = true;
    }

    /// Our TCP says something of it.
    pub fn takes(&mut self, event: Event) {
        self.awake = true;
        match event {
            Event::Opened(_) => self.open = true,
            Event::Readable(_) => self.readable = true,
            Event::Writable(_) => {}
            Event::Eof(_) => self.ours.eof = true,
            Event::Closed(_, reason) => {
                if reason != CloseReason::Finished {
                    self.fail(format!("closed: {reason:?}"));
                }
                if !self.ours.ended {
                    self.fail("closed before we closed it");
                }
                self.closed = Some(reason);
            }
        }
    }

    pub fn is_awake(&self, now: Time) -> bool {
        self.awake || self.next(now).is_none_or(|at| at.is_due(now)) || self.linux_due(now)
    }

    fn linux_due(&self, now: Time) -> bool {
        let reads = self.linux.as_ref().and_then(|linux| linux.app.reads_at(Time::ZERO));
        reads.is_some_and(|at| at.is_due(now))
            || self.ours.reads_at(Time::ZERO).is_some_and(|at| at.is_due(now))
    }

    /// When an application reads on.
    pub fn next(&self, now: Time) -> Option<Time> {
        let linux = self.linux.as_ref().and_then(|linux| linux.app.reads_at(now));
        [linux, self.ours.reads_at(now)].into_iter().flatten().min()
    }

    /// Both applications do what they can.
    pub fn step(&mut self, now: Time, tcp: &mut Tcp<Piece>, registry: &Registry, token: usize) {
        self.awake = false;
        let writable = std::mem::take(&mut self.writable);
        if let Some(linux) = &mut self.linux
            && let Err(what) = linux.step(now, writable, registry, token)
        {
            self.fail(what);
        }
        let Some(id) = self.id.filter(|_| self.open && self.closed.is_none()) else { return };
        self.read(now, tcp, id);
        while let len @ 1.. = self.ours.may_send() {
            if self.ours.ended {
                break;
            }
            let piece = Piece { salt: self.ours.salt, start: self.ours.sent, len };
            if tcp.send(id, piece).is_err() {
                break;
            }
            self.ours.sent += len as u64;
        }
        if self.ours.is_to_end() {
            self.ours.ended = true;
            tcp.close(id);
        }
    }

    fn read(&mut self, now: Time, tcp: &mut Tcp<Piece>, id: ConnId) {
        while self.readable && !self.ours.ended {
            let most = self.ours.may_read(now);
            if most == 0 {
                return;
            }
            let ours = &mut self.ours;
            let read = tcp.receive(id, |bytes| {
                let len = bytes.len().min(most);
                (len, ours.read(now, &bytes[..len]))
            });
            match read {
                None => self.readable = false,
                Some(Ok(())) => {}
                Some(Err(what)) => return self.fail(format!("we read: {what}")),
            }
        }
        if self.ours.eof
            && tcp.readable(id) == 0
            && self.ours.got < self.ours.side.receives
            && !self.ours.ended
        {
            self.fail(format!("end of file after {} of {}", self.ours.got, self.ours.side.receives));
        }
    }

    /// Whether anybody has been silent for too long.
    pub fn judge(&mut self, now: Time, slack: Duration, rest: Duration, end: Time, kind: Kind) {
        let Some(linux) = &self.linux else { return };
        if self.is_over() {
            return;
        }
        let wants = [linux.app.wants(), self.ours.wants()];
        let reads_on = self.next(now).is_some();
        let mut owed = false;
        let mut found = None;
        for (at, who) in ["Linux", "we"].into_iter().enumerate() {
            let end = &mut self.ends[at];
            // A handshake that our end keeps nothing of is not its to go on with.
            let forgotten = at == 1 && kind.linux_first && end.heard == 0;
            let due = end.due(now, wants[at]).filter(|_| !forgotten);
            owed |= due.is_some();
            if due.is_some_and(|due| (due + slack).is_due(now)) {
                found = Some(format!("{who} stall: {} of {} acknowledged", end.heard, wants[at]));
            }
            if end.answer_due().is_some_and(|due| (due + slack).is_due(now)) {
                found = Some(format!("{who} do not acknowledge"));
            }
        }
        if !owed && !reads_on && (self.moved + rest + slack).is_due(now) {
            found = Some("nobody owes anything, and it is not over".into());
        }
        if (end + self.plan.starts).is_due(now) {
            found = Some("it takes too long".into());
        }
        if let Some(found) = found {
            self.fail(found);
        }
    }
}
