//! What is shown of a sample below its heading, as tables: cores, peers, drops, certificates. In: a sample and rates. Out:
//! cells, each with what it is sorted by. Pure; [`super::view`] puts them on a screen.

use super::rates::{CoreRates, Rates};
use super::sample::{Certificate, Core, Peer, Role, Sample};

/// A certificate that ends sooner is pointed at: as long as the default of `expiry_warning_days`.
const ENDS_SOON_S: i64 = 21 * 86_400;
/// A core that needs more than this is pointed at.
const BUSY: f64 = 0.85;
/// Width of the bar of a core that needs all of it.
const BAR: usize = 10;

/// Tables there are.
pub const TABLES: usize = 4;

/// How a cell is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// All is well.
    Well,
    /// Soon somebody should look.
    Warning,
    /// Somebody should look now.
    Alarm,
}

/// One cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What is shown.
    pub text: String,
    /// What it is sorted by, if not its text; what is not known is less than anything.
    pub number: Option<f64>,
    /// How it is to be taken.
    pub tone: Tone,
}

/// A column's heading, and whether it holds numbers.
pub type Head = (&'static str, bool);

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What it is of.
    pub title: &'static str,
    /// The columns.
    pub heads: Vec<Head>,
    /// The rows, each with a cell a column.
    pub rows: Vec<Vec<Cell>>,
    /// What is said if there is none.
    pub none: &'static str,
}

impl Cell {
    fn text(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), number: None, tone: Tone::Plain }
    }

    fn number(number: Option<f64>, show: impl Fn(f64) -> String) -> Cell {
        let text = number.map_or_else(|| "-".to_owned(), show);
        Cell { text, number: number.or(Some(-1.0)), tone: Tone::Plain }
    }

    fn toned(self, tone: Tone) -> Cell {
        Cell { tone, ..self }
    }
}

impl Table {
    /// Sorts the rows by a column; those that are alike stay in their order.
    pub fn sort(&mut self, column: usize, descending: bool) {
        let order = |a: &Vec<Cell>, b: &Vec<Cell>| {
            let (a, b) = (&a[column], &b[column]);
            let order = match (a.number, b.number) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => a.text.cmp(&b.text),
            };
            if descending { order.reverse() } else { order }
        };
        if column < self.heads.len() {
            self.rows.sort_by(order);
        }
    }
}

/// All tables of a sample.
pub fn tables(sample: &Sample, rates: Option<&Rates>) -> [Table; TABLES] {
    [cores(sample, rates), peers(sample, rates), drops(sample, rates), certificates(sample)]
}

fn cores(sample: &Sample, rates: Option<&Rates>) -> Table {
    let is_node = sample.about.role == Role::Node;
    let mut heads = vec![("core", true), ("worker", true), ("busy", false), ("", true)];
    if is_node {
        heads.extend([("requests/s", true), ("in app", true)]);
    }
    heads.extend([("connections", true), ("new/s", true)]);
    if is_node {
        heads.extend([("full/s", true), ("resumed/s", true)]);
    }
    heads.extend([("packets in/s", true), ("out/s", true)]);
    let row = |(place, core): (usize, &Core)| {
        let of = rates.and_then(|rates| rates.cores.get(place));
        let rate = |what: fn(&CoreRates) -> f64| Cell::number(of.map(what), short);
        let mut row = vec![
            Cell::number(core.core.map(|it| it as f64), whole),
            Cell::number(Some(core.worker as f64), whole),
        ];
        row.extend(busy(of.map(|of| of.busy)));
        if is_node {
            row.extend([rate(|of| of.requests), Cell::number(Some(core.in_app as f64), short)]);
        }
        row.extend([Cell::number(Some(core.connections as f64), short), rate(|of| of.begun)]);
        if is_node {
            row.extend([rate(|of| of.handshakes_full), rate(|of| of.handshakes_resumed)]);
        }
        row.extend([rate(|of| of.packets_in), rate(|of| of.packets_out)]);
        row
    };
    Table {
        title: "cores",
        heads,
        rows: sample.cores.iter().enumerate().map(row).collect(),
        none: "no worker has started",
    }
}

/// A bar, and its figure.
fn busy(share: Option<f64>) -> [Cell; 2] {
    let tone = match share {
        Some(share) if share > BUSY => Tone::Warning,
        _ => Tone::Well,
    };
    let filled = |share: f64| ((share * BAR as f64).round() as usize).min(BAR);
    let bar = |share: f64| "█".repeat(filled(share)) + &"░".repeat(BAR - filled(share));
    let cell = |show: &dyn Fn(f64) -> String| Cell::number(share, show).toned(tone);
    [cell(&bar), cell(&percent)]
}

fn peers(sample: &Sample, rates: Option<&Rates>) -> Table {
    match sample.about.role {
        Role::Node => peers_of_node(&sample.peers, rates),
        Role::Distributor => peers_of_distributor(&sample.peers),
    }
}

fn state(peer: &Peer) -> Cell {
    let tone = match peer.state.as_str() {
        "up" => Tone::Well,
        "draining" | "copying" => Tone::Warning,
        _ => Tone::Alarm,
    };
    Cell::text(&peer.state).toned(tone)
}

fn peers_of_node(peers: &[Peer], rates: Option<&Rates>) -> Table {
    let row = |peer: &Peer| {
        let moved = rates.and_then(|rates| rates.peers.get(&peer.name));
        vec![
            Cell::text(&peer.name),
            state(peer),
            Cell::number(peer.since_s.map(|it| it as f64), span),
            Cell::number(moved.map(|(lent, _)| *lent), short),
            Cell::number(moved.map(|(_, borrowed)| *borrowed), short),
            Cell::number(peer.queue_pairs.map(|it| it as f64), whole),
            Cell::number(peer.heard_ms.map(|it| it as f64 * 1e3), |us| time(us) + " ago"),
            Cell::text(peer.address.as_deref().unwrap_or("-")),
            Cell::text(peer.problem.as_deref().unwrap_or("")).toned(Tone::Alarm),
        ]
    };
    Table {
        title: "peers",
        heads: vec![
            ("peer", false),
            ("link", false),
            ("since", true),
            ("lent/s", true),
            ("borrowed/s", true),
            ("queue pairs", true),
            ("heard", true),
            ("address", false),
            ("problem", false),
        ],
        rows: peers.iter().map(row).collect(),
        none: "none: every request stays here",
    }
}

fn peers_of_distributor(peers: &[Peer]) -> Table {
    let row = |peer: &Peer| {
        let count = |count: Option<u64>| Cell::number(count.map(|it| it as f64), short);
        vec![
            Cell::text(&peer.name),
            Cell::text(match peer.role {
                Some(Role::Distributor) => "distributor",
                _ => "node",
            }),
            state(peer),
            Cell::number(peer.since_s.map(|it| it as f64), span),
            count(peer.connections),
            count(peer.requests),
            count(peer.sessions),
            Cell::text(peer.address.as_deref().unwrap_or("-")),
        ]
    };
    Table {
        title: "nodes and distributors",
        heads: vec![
            ("name", false),
            ("is", false),
            ("state", false),
            ("since", true),
            ("connections", true),
            ("requests", true),
            ("sessions", true),
            ("address", false),
        ],
        rows: peers.iter().map(row).collect(),
        none: "none: nobody takes connections",
    }
}

fn drops(sample: &Sample, rates: Option<&Rates>) -> Table {
    let row = |(name, count): (&String, &u64)| {
        let rate = rates.and_then(|rates| rates.drops.get(name)).copied();
        let tone = if rate.is_some_and(|rate| rate > 0.0) { Tone::Warning } else { Tone::Plain };
        vec![
            Cell::text(name).toned(tone),
            Cell::number(rate, short).toned(tone),
            Cell::number(Some(*count as f64), short),
        ]
    };
    let mut table = Table {
        title: "dropped and refused",
        heads: vec![("counter", false), ("/s", true), ("since start", true)],
        rows: sample.drops.iter().map(row).collect(),
        none: "nothing since the start",
    };
    // What happens now comes first, and of what does not, what happened most.
    table.sort(2, true);
    table.sort(1, true);
    table
}

fn certificates(sample: &Sample) -> Table {
    let row = |it: &Certificate| {
        let left = it.not_after - sample.about.clock_s;
        let tone = match left {
            ..0 => Tone::Alarm,
            _ if left < ENDS_SOON_S => Tone::Warning,
            _ => Tone::Well,
        };
        let text = if left < 0 { format!("{} ago", span(-left as f64)) } else { span(left as f64) };
        vec![
            Cell { text, number: Some(left as f64), tone },
            Cell::text(&it.name),
            Cell::text(&it.file),
            Cell::text(&it.serial),
        ]
    };
    Table {
        title: "certificates",
        heads: vec![("ends in", true), ("name", false), ("file", false), ("serial", false)],
        rows: sample.certificates.iter().map(row).collect(),
        none: "none",
    }
}

fn whole(number: f64) -> String {
    format!("{number:.0}")
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A number in at most five characters.
pub(super) fn short(number: f64) -> String {
    if number < 9.95 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    if number < 9_999.5 {
        return format!("{number:.0}");
    }
    let (mut scaled, mut unit) = (number / 1e3, "k");
    for next in ["M", "G", "T"] {
        if scaled >= 999.5 {
            (scaled, unit) = (scaled / 1e3, next);
        }
    }
    if scaled < 99.95 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// A time in us, as people say it.
pub(super) fn time(us: f64) -> String {
    match us {
        ..99.95 => format!("{us:.1} us"),
        ..999.5 => format!("{us:.0} us"),
        ..99_950.0 => format!("{:.2} ms", us / 1e3),
        ..999_500.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.1} s", us / 1e6),
    }
}

/// A longer time in seconds, in its two largest units.
pub(super) fn span(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.5, 7.0, 9.97, 999.6, 9_999.0, 10_000.0, 99_960.0, 1_234_567.0, 2e9];
        assert_eq!(all.map(short), ["0", "0.5", "7", "10", "1000", "9999", "10.0k", "100k", "1.2M", "2.0G"]);
        assert!(all.map(short).iter().all(|text| text.len() <= 5));
        assert_eq!([1.24, 999.4, 1_240.0, 2.1e6].map(time), ["1.2 us", "999 us", "1.24 ms", "2.1 s"]);
        assert_eq!([59.0, 61.0, 7_300.0, 90_000.0].map(span), ["59 s", "1 min 1 s", "2 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn what_is_not_known_is_less_than_anything() {
        let row = |number: Option<f64>| vec![Cell::number(number, short)];
        let mut table = Table {
            title: "",
            heads: vec![("x", true)],
            rows: vec![row(Some(2.0)), row(None), row(Some(10.0))],
            none: "",
        };
        let shown = |table: &Table| table.rows.iter().map(|row| row[0].text.clone()).collect::<Vec<_>>();
        table.sort(0, true);
        assert_eq!(shown(&table), ["10", "2", "-"]);
        table.sort(0, false);
        assert_eq!(shown(&table), ["-", "2", "10"]);
        table.sort(9, false);
        assert_eq!(shown(&table), ["-", "2", "10"], "there is no such column");
    }
}
