//! A script, played: our TCP and a peer that sends what the script says, in virtual time.
//!
//! In: a case. Out: whether everything was as it says, or the first line that was not.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_tcp::{
    Algorithm, Config, ConnId, Egress, Event, KeepAlive, Outbound, RxChecksum, Segment, Stretch, Tcp, Tuning,
};
use keyferry_time::Time;

use super::segment::{ACK, CLIENT, CLIENT_PORT, FIN, PORT, SERVER, SYN, Said, byte, matches, read, write};
use super::{Case, Step, duration, number};

/// The peer's first number: close to where numbers wrap.
const THEIRS: u32 = u32::MAX - 2_000;

/// What the peer's clock of timestamps says when a case begins.
const PEER_CLOCK: u32 = 100_000;

#[derive(Default)]
struct Out(VecDeque<Vec<u8>>);

impl<S: Segment> Egress<S> for Out {
    fn room(&mut self) -> bool {
        true
    }

    fn packet(&mut self, outbound: &Outbound<'_, S>) {
        let mut packet = vec![0xee; outbound.len()];
        outbound.write(&mut packet);
        self.0.push_back(packet);
    }
}

struct Play {
    tcp: Tcp<Vec<u8>>,
    out: Out,
    start: Time,
    now: Time,
    ours: u32,
    /// Whether timestamps are used, our last one, and those with a name.
    stamps: bool,
    last_stamp: u32,
    names: BTreeMap<String, u32>,
    events: VecDeque<Event>,
    id: Option<ConnId>,
    /// Bytes the caller has sent and read.
    sent: u32,
    received: u32,
    released: u64,
    port: u16,
    /// Our last packet.
    last: Vec<u8>,
}

/// Plays a case.
pub fn play(case: &Case) -> Result<(), String> {
    let (mut config, mut tuning) = (config(), Tuning { pacing: false, ..Tuning::default() });
    for (line, step) in &case.steps {
        if let Step::Set(name, value) = step {
            set(&mut config, &mut tuning, name, value).map_err(|why| format!("line {line}: {why}"))?;
        }
    }
    let start = Time::from_us(10_000_000);
    let mut play = Play {
        tcp: Tcp::tuned(config, tuning),
        out: Out::default(),
        start,
        now: start,
        ours: 0,
        stamps: false,
        last_stamp: 0,
        names: BTreeMap::new(),
        events: VecDeque::new(),
        id: None,
        sent: 1,
        received: 1,
        released: 0,
        port: CLIENT_PORT,
        last: Vec::new(),
    };
    for (line, step) in &case.steps {
        play.step(step).map_err(|why| format!("line {line}: {why}"))?;
    }
    Ok(())
}

fn config() -> Config {
    Config {
        addresses: vec![IpAddr::V4(SERVER)],
        ports: vec![PORT],
        mtu: 1500,
        connections: 4,
        half_open: 4,
        half_open_timeout: Duration::from_secs(30),
        idle_timeout: Duration::from_secs(4_000_000),
        receive_bytes: 32_768,
        send_bytes: 1 << 20,
        rx_checksum: RxChecksum::Verify,
        tx_checksum_offload: false,
        stretch: Stretch::SEGMENT,
        seed: 1,
    }
}

fn set(config: &mut Config, tuning: &mut Tuning, name: &str, value: &str) -> Result<(), String> {
    let on = value == "on";
    match name {
        "congestion" => {
            tuning.congestion = match value {
                "cubic" => Algorithm::Cubic,
                "bbr" => Algorithm::Bbr,
                "reno" => Algorithm::Reno,
                _ => return Err("no algorithm".into()),
            }
        }
        "pacing" => tuning.pacing = on,
        "ecn" => tuning.ecn = on,
        "mtu" => config.mtu = number(value)? as u16,
        "receive" => config.receive_bytes = number(value)? as usize,
        "receive_max" => tuning.receive_bytes_max = number(value)? as usize,
        "receive_budget" => tuning.receive_budget_bytes = Some(number(value)? as usize),
        "half_open" => config.half_open = number(value)? as u32,
        "connections" => config.connections = number(value)? as u32,
        "idle" => config.idle_timeout = duration(value)?,
        "user_timeout" => tuning.user_timeout = Some(duration(value)?),
        "mtu_raise_after" => tuning.mtu_raise_after = Some(duration(value)?),
        "initial_window" => tuning.initial_segments = number(value)? as u8,
        "ack_delay" => tuning.ack_delay = duration(value)?,
        "keep_alive" => {
            let after = duration(value)?;
            tuning.keep_alive = Some(KeepAlive { after, every: after / 10, probes: 3 });
        }
        other => return Err(format!("what is {other:?}")),
    }
    Ok(())
}

impl Play {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Set(..) => Ok(()),
            Step::Established(options) => self.establish(options),
            Step::Peer(said) => {
                self.peer(said);
                Ok(())
            }
            Step::Expect(said, None) => self.expect(said),
            Step::Expect(said, Some((least, most))) => self.expect_later(said, *least, *most),
            Step::None(time) => self.expect_none(*time),
            Step::Wait(time) => {
                self.pass(*time);
                self.out.0.clear();
                Ok(())
            }
            Step::Do(what, number) => self.act(what, *number),
            Step::Event(wanted) => self.event(wanted),
            Step::Is(what, value) => self.figure(what, *value),
        }
    }

    fn establish(&mut self, options: &[String]) -> Result<(), String> {
        let words: Vec<&str> = ["S", "0"].into_iter().chain(options.iter().map(String::as_str)).collect();
        let ecn = words.contains(&"ecn");
        let rtt = words.iter().position(|word| *word == "rtt").and_then(|at| words.get(at + 1).copied());
        let is_own = |word: &&str| *word != "ecn" && *word != "rtt" && Some(*word) != rtt;
        let words: Vec<&str> = words.iter().copied().filter(is_own).collect();
        let mut syn = super::segment::parse(&words)?;
        syn.flags |= if ecn { super::segment::ECE | super::segment::CWR } else { 0 };
        self.peer(&syn);
        let packet = self.out.0.pop_front().ok_or("no SYN-ACK")?;
        self.learn(&packet);
        self.last_stamp = read(&packet, THEIRS, self.ours)?.0.stamp.unwrap_or_default();
        self.pass(rtt.map_or(Ok(Duration::ZERO), duration)?);
        let third = Said { flags: ACK, seq: 1, ack: Some(1), window: syn.window, ..Said::default() };
        self.peer(&Said { stamp: syn.stamp, ..third });
        self.event("opened")
    }

    /// Takes our first number from a SYN.
    fn learn(&mut self, packet: &[u8]) {
        if packet[33] & SYN != 0 {
            self.ours = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
        }
    }

    fn peer(&mut self, said: &Said) {
        let mut said = said.clone();
        if said.flags & SYN != 0 {
            self.stamps = said.has_stamps == Some(true);
        } else if self.stamps && said.has_stamps.is_none() && said.flags & super::segment::RST == 0 {
            said.has_stamps = Some(true);
        }
        let elapsed_ms = (self.now.ns_since(self.start) / 1_000_000) as u32;
        said.stamp.get_or_insert(PEER_CLOCK + elapsed_ms);
        let named = said.echoes.as_ref().and_then(|name| self.names.get(name).copied());
        said.echo.get_or_insert(named.unwrap_or(self.last_stamp));
        let mut packet = write(&said, self.port, THEIRS, self.ours);
        self.tcp.ingest(self.now, &mut packet, false, &mut self.out);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..4 {
            self.tcp.timers(self.now, &mut self.out);
            while self.tcp.released().is_some() {
                self.released += 1;
            }
            while let Some(event) = self.tcp.poll_event() {
                if let Event::Opened(id) = event {
                    self.id = Some(id);
                }
                self.events.push_back(event);
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.tcp.poll_at().filter(|at| at.is_due(end)) {
            self.now = self.now.max(at);
            self.settle();
            if self.tcp.poll_at().is_some_and(|at| at.is_due(self.now)) {
                self.now += Duration::from_micros(10);
            }
        }
        self.now = self.now.max(end);
        self.settle();
    }

    fn expect(&mut self, said: &Said) -> Result<(), String> {
        let packet = self.out.0.pop_front().ok_or("nothing was sent")?;
        self.learn(&packet);
        self.last.clone_from(&packet);
        let (found, _) = read(&packet, THEIRS, self.ours)?;
        if let Some(stamp) = found.stamp {
            self.last_stamp = stamp;
            if let Some(name) = &said.named {
                self.names.insert(name.clone(), stamp);
            }
        }
        matches(said, &found).map_err(|why| format!("{why}; sent was {}", brief(&found)))
    }

    fn expect_later(&mut self, said: &Said, least: Duration, most: Duration) -> Result<(), String> {
        if !least.is_zero() {
            self.expect_none(least)?;
        }
        let end = self.now + (most - least);
        while self.out.0.is_empty() && !end.is_due(self.now) {
            let next = self.tcp.poll_at().map_or(end, |at| at.max(self.now + Duration::from_micros(10)));
            let next = next.min(end);
            self.pass(next - self.now);
        }
        self.expect(said)
    }

    fn expect_none(&mut self, time: Duration) -> Result<(), String> {
        if let Some(packet) = self.out.0.front() {
            return Err(format!("{} was sent", brief(&read(packet, THEIRS, self.ours)?.0)));
        }
        let before = self.now;
        // A tick less, for what is due right then.
        self.pass(time.saturating_sub(Duration::from_micros(200)));
        if let Some(packet) = self.out.0.front() {
            let ms = self.now.ns_since(before) / 1_000_000;
            return Err(format!("{} was sent within {ms} ms", brief(&read(packet, THEIRS, self.ours)?.0)));
        }
        Ok(())
    }

    fn act(&mut self, what: &str, number: usize) -> Result<(), String> {
        if what == "connect" {
            let ends = (SocketAddr::new(SERVER.into(), PORT), SocketAddr::new(CLIENT.into(), CLIENT_PORT));
            let id = self.tcp.connect(self.now, ends.0, ends.1).map_err(|why| format!("{why:?}"))?;
            self.id = Some(id);
            self.settle();
            return Ok(());
        }
        if what == "toobig" {
            // What a router returns of our last packet: its headers.
            let quoted = self.last.get(..28).ok_or("nothing was sent")?.to_vec();
            self.tcp.too_big(self.now, &quoted, number as u32);
            self.settle();
            return Ok(());
        }
        let id = self.id.ok_or("no connection")?;
        match what {
            "send" => {
                let bytes: Vec<u8> = (self.sent..self.sent + number as u32).map(byte).collect();
                self.sent += number as u32;
                self.tcp.send(id, bytes).map_err(|_| "it was refused")?;
            }
            "read" => self.read(id, number)?,
            "close" => self.tcp.close(id),
            "idle" => self.tcp.set_idle_timeout(id, Some(Duration::from_secs(number as u64))),
            _ => self.tcp.abort(id),
        }
        self.settle();
        Ok(())
    }

    fn read(&mut self, id: ConnId, number: usize) -> Result<(), String> {
        let mut left = number;
        while left > 0 {
            let (received, most) = (self.received, left);
            let taken = self.tcp.receive(id, |bytes| {
                let bytes = &bytes[..bytes.len().min(most)];
                let right = bytes.iter().enumerate().all(|(at, found)| *found == byte(received + at as u32));
                (bytes.len(), (bytes.len(), right))
            });
            let (taken, right) = taken.ok_or(format!("{left} bytes less can be read"))?;
            if !right {
                return Err("other bytes than were sent".into());
            }
            left -= taken;
            self.received += taken as u32;
        }
        Ok(())
    }

    fn event(&mut self, wanted: &str) -> Result<(), String> {
        let found = self.events.pop_front().map(|event| match event {
            Event::Opened(_) => "opened".to_owned(),
            Event::Readable(_) => "readable".to_owned(),
            Event::Writable(_) => "writable".to_owned(),
            Event::Eof(_) => "eof".to_owned(),
            Event::Closed(_, reason) => format!("closed {}", reason.name()),
        });
        let found = found.unwrap_or_else(|| "none".to_owned());
        if found == wanted { Ok(()) } else { Err(format!("event {found}")) }
    }

    fn figure(&mut self, what: &str, value: u64) -> Result<(), String> {
        let counters = self.tcp.counters();
        let found = match (what, self.id) {
            ("released", _) => self.released,
            ("connections", _) => self.tcp.connections() as u64,
            ("half_open", _) => counters.half_open,
            ("time_wait", _) => counters.time_wait,
            ("reneged", _) => counters.reneged,
            ("told", _) => counters.path_mtu_told,
            ("ignored", _) => counters.path_mtu_ignored,
            ("suspected", _) => counters.path_mtu_suspected,
            ("raised", _) => counters.path_mtu_raised,
            ("readable", Some(id)) => self.tcp.readable(id) as u64,
            ("unacknowledged", Some(id)) => self.tcp.unacknowledged(id) as u64,
            (other, _) => return Err(format!("what is {other:?}")),
        };
        if found == value { Ok(()) } else { Err(format!("{what} is {found}")) }
    }
}

/// A segment as a script would say it.
fn brief(found: &Said) -> String {
    let letters: String = [('F', FIN), ('S', SYN), ('R', 4), ('P', 8), ('A', ACK), ('E', 64), ('C', 128)]
        .iter()
        .filter(|(_, flag)| found.flags & flag != 0)
        .map(|(letter, _)| *letter)
        .collect();
    let end = found.seq.wrapping_add(found.len.unwrap_or(0));
    let mut text = format!("{letters} {}:{end}", found.seq);
    if let Some(ack) = found.ack {
        text += &format!(" ack {ack}");
    }
    text += &format!(" win {}", found.window.unwrap_or(0));
    if let Some(blocks) = found.sack.as_ref().filter(|blocks| !blocks.is_empty()) {
        text += &format!(" sack {blocks:?}");
    }
    text
}
