//! Screens as an operator sees them, and what keys make of them.

use std::collections::BTreeMap;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::sample::tests::about;
use super::super::sample::{Certificate, Core, Latency, Moves, Peer};
use super::*;

fn peer(name: &str, state: &str, problem: Option<&str>) -> Peer {
    Peer {
        name: name.to_owned(),
        role: None,
        state: state.to_owned(),
        since_s: Some(75),
        address: Some(format!("unix:/run/{name}.sock")),
        queue_pairs: Some(2),
        lent: None,
        borrowed: None,
        heard_ms: Some(12),
        connections: None,
        requests: None,
        sessions: None,
        problem: problem.map(str::to_owned),
    }
}

/// A node at this second of its life: 1,000 requests a second, a tenth of them lent.
fn node(at_s: u64) -> Sample {
    let core = |worker: usize, share: u64| Core {
        worker,
        core: Some(2 + worker),
        busy_us: at_s * share * 10_000,
        packets_in: at_s * 3_000,
        packets_out: at_s * 4_000,
        requests: at_s * 500,
        begun: at_s * 10,
        connections: 100 * (worker as u64 + 1),
        in_app: 3,
        handshakes_full: at_s,
        handshakes_resumed: at_s * 9,
    };
    let certificate = |file: &str, days: i64| Certificate {
        not_after: 1_700_000_000 + days * 86_400,
        name: format!("{file}.test"),
        file: format!("/etc/keyferry/{file}.pem"),
        serial: "0a1b".to_owned(),
    };
    Sample {
        about: about(Role::Node, at_s),
        cores: vec![core(0, 30), core(1, 90)],
        moves: Some(Moves {
            lent: at_s * 100,
            returned: at_s * 100,
            borrowed: at_s * 20,
            served: at_s * 20,
            lending: 4,
            helping: 1,
        }),
        latency: Some(Latency {
            sum_us: at_s * 300_000,
            below_ns: vec![256_000, 512_000],
            counts: vec![at_s * 500, at_s * 500, 0],
        }),
        peers: vec![
            Peer { lent: Some(at_s * 70), borrowed: Some(at_s * 20), ..peer("b", "up", None) },
            peer("c", "down", Some("nobody listens: is it running?")),
        ],
        drops: BTreeMap::from([("drop_syns".to_owned(), at_s * 2), ("refused_host".to_owned(), 7)]),
        certificates: vec![certificate("soon", 3), certificate("later", 80)],
    }
}

fn distributor(at_s: u64) -> Sample {
    let mut sample = node(at_s);
    let of = |name: &str, role, state: &str, connections| Peer {
        role: Some(role),
        connections: Some(connections),
        requests: Some(5),
        sessions: Some(9),
        ..peer(name, state, None)
    };
    sample.about = about(Role::Distributor, at_s);
    (sample.moves, sample.latency) = (None, None);
    sample.peers = vec![of("n1", Role::Node, "up", 12_345), of("d2", Role::Distributor, "copying", 3)];
    sample
}

fn view(samples: &[Sample]) -> View {
    let mut view = View::default();
    samples.iter().for_each(|sample| view.take(sample.clone()));
    view
}

/// What a terminal of this size shows, by line.
fn screen(view: &View, columns: u16, lines: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| frame.render_widget(view, frame.area())).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..lines).map(|y| line(y).trim_end().to_owned()).collect()
}

fn press(view: &mut View, keys: &[KeyCode]) {
    for key in keys {
        assert_eq!(view.press(KeyEvent::new(*key, KeyModifiers::NONE)), Then::Go);
    }
}

/// The line that has this in it.
fn line<'a>(lines: &'a [String], with: &str) -> &'a str {
    lines.iter().find(|line| line.contains(with)).unwrap_or_else(|| panic!("{with}: {lines:#?}"))
}

/// Its words, without what is between.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn a_node_at_work() {
    let lines = screen(&view(&[node(10), node(11)]), 120, 40);
    assert!(lines[0].starts_with(" a  node · model bf · serving · up 11 s · 0.1.0  "), "{}", lines[0]);
    assert!(lines[0].ends_with("  live"), "{}", lines[0]);
    assert_eq!(
        lines[1],
        " requests 1000/s  connections 300  new 20/s  handshakes 20/s (90 % resumed)  packets in 6000/s  out 8000/s  busiest 90 %"
    );
    assert_eq!(
        lines[2],
        " latency mean 300 us  p50 256 us  p99 507 us  lent 100/s (4 now)  borrowed 20/s (1 now)"
    );
    assert_eq!(
        words(line(&lines, "█████████░")),
        ["3", "1", "█████████░", "90", "%", "500", "3", "200", "10", "1", "9", "3000", "4000"]
    );
    assert_eq!(
        words(line(&lines, "unix:/run/b.sock")),
        ["b", "up", "1", "min", "15", "s", "70", "20", "2", "12.00", "ms", "ago", "unix:/run/b.sock"]
    );
    assert!(line(&lines, "unix:/run/c.sock").ends_with("nobody listens: is it running?"));
    assert!(line(&lines, "drop_syns").contains(" 2 "), "a second");
    assert!(line(&lines, "2 d 23 h").contains("/etc/keyferry/soon.pem"), "the certificate that ends first");
    assert!(lines[39].contains("q quit"));
}

#[test]
fn before_the_second_look_no_rate_is_known() {
    let lines = screen(&view(&[node(10)]), 120, 40);
    assert!(lines[1].contains("requests -  connections 300  new -  handshakes -"), "{}", lines[1]);
    assert!(lines[2].contains("latency mean -  p50 -"), "{}", lines[2]);
    let waiting = screen(&View::default(), 120, 40);
    assert!(waiting[1].contains("waiting for the first answer"), "{waiting:#?}");
}

#[test]
fn a_distributor_has_nodes_and_no_requests() {
    let lines = screen(&view(&[distributor(10), distributor(11)]), 120, 40);
    assert!(lines[0].contains(" a  distributor · serving"), "{}", lines[0]);
    assert!(lines[1].starts_with(" connections 300  new 20/s  packets in 6000/s"), "{}", lines[1]);
    assert_eq!(lines[2], "", "neither latency nor leases");
    assert_eq!(
        words(line(&lines, "n1")),
        ["n1", "node", "up", "1", "min", "15", "s", "12.3k", "5", "9", "unix:/run/n1.sock"]
    );
    assert!(line(&lines, "d2").contains("copying"));
}

#[test]
fn what_keeps_it_from_looking_is_said_until_it_is_over() {
    let mut view = view(&[node(10), node(11)]);
    view.miss("no node answers at a.ctl: it is not running: start it".to_owned());
    let lines = screen(&view, 120, 40);
    assert!(lines[0].ends_with("no answer"), "{}", lines[0]);
    assert!(lines[1].contains("it is not running: start it; trying again"), "{}", lines[1]);
    assert!(line(&lines, "drop_syns").contains("22"), "what was seen last stays");
    // Back, in another life: counts that are less are no rates.
    let mut again = node(1);
    again.about.started_ms += 60_000;
    view.take(again.clone());
    let lines = screen(&view, 120, 40);
    assert!(lines[0].ends_with("live") && lines[1].contains("requests - "), "{lines:#?}");
    let mut next = node(2);
    next.about.started_ms = again.about.started_ms;
    view.take(next);
    assert!(screen(&view, 120, 40)[1].contains("requests 1000/s"));
}

#[test]
fn what_is_held_stays_and_goes_on_later() {
    let mut view = view(&[node(10), node(11)]);
    press(&mut view, &[KeyCode::Char(' ')]);
    view.take(node(12));
    let lines = screen(&view, 120, 40);
    assert!(lines[0].contains("up 11 s") && lines[0].ends_with("held"), "{}", lines[0]);
    press(&mut view, &[KeyCode::Char(' ')]);
    view.take(node(14));
    let lines = screen(&view, 120, 40);
    assert!(lines[0].contains("up 14 s") && lines[1].contains("requests 1000/s"), "{lines:#?}");
}

#[test]
fn arrows_sort_the_chosen_table() {
    let mut view = view(&[node(10), node(11)]);
    let first = |view: &View| {
        let lines = screen(view, 120, 40);
        let heads = lines.iter().position(|line| line.contains("worker") && line.contains("busy")).unwrap();
        words(&lines[heads + 1])[0].to_owned()
    };
    assert_eq!(first(&view), "2");
    press(&mut view, &[KeyCode::Right]);
    assert_eq!(first(&view), "3", "by core, the largest first");
    assert!(line(&screen(&view, 120, 40), "worker").contains("core▼"));
    press(&mut view, &[KeyCode::Char('r')]);
    assert_eq!(first(&view), "2");
    press(&mut view, &[KeyCode::Left]);
    assert!(line(&screen(&view, 120, 40), "worker").contains("out/s▼"), "round to the last column");
    // The next table; peers sort by their names, from the first on.
    press(&mut view, &[KeyCode::Tab, KeyCode::Right, KeyCode::Char('r')]);
    let lines = screen(&view, 120, 40);
    let place = |what: &str| lines.iter().position(|line| line.contains(what)).unwrap();
    assert!(place("c.sock") < place("b.sock"), "{lines:#?}");
    assert_eq!(view.press(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)), Then::Quit);
    assert_eq!(view.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
}

#[test]
fn what_has_no_room_is_counted_and_can_be_scrolled_to() {
    let mut many = node(11);
    many.cores = (0..50).map(|worker| Core { worker, core: Some(worker), ..Core::default() }).collect();
    let mut view = view(&[many]);
    let lines = screen(&view, 120, 40);
    assert!(line(&lines, "cores").contains("(0 above, 2"), "{lines:#?}");
    for table in ["peers", "dropped and refused", "certificates"] {
        line(&lines, table);
    }
    press(&mut view, &[KeyCode::PageDown, KeyCode::Down]);
    assert!(line(&screen(&view, 120, 40), "cores").contains("(11 above"));
    press(&mut view, &[KeyCode::PageUp, KeyCode::PageUp]);
    assert!(line(&screen(&view, 120, 40), "cores").contains("(0 above"));
}

#[test]
fn any_size_is_drawn() {
    let view = view(&[node(10), node(11)]);
    for (columns, lines) in [(1, 1), (10, 3), (40, 8), (80, 24), (110, 12), (300, 100)] {
        screen(&view, columns, lines);
        screen(&View::default(), columns, lines);
    }
}

#[test]
fn one_frame_as_text_has_every_row() {
    let mut many = node(11);
    let core = many.cores[0].clone();
    many.cores.extend((2..40).map(|worker| Core { worker, ..core.clone() }));
    let text = view(&[node(10), many]).text(120);
    assert!(text.starts_with(" a  node"), "{text}");
    assert!(!text.contains("above") && !text.contains("quit"), "{text}");
    assert!(text.contains('█'), "{text}");
    for row in ["/etc/keyferry/later.pem", "refused_host", "unix:/run/c.sock"] {
        assert!(text.contains(row), "{row}: {text}");
    }
    assert!(text.lines().any(|line| words(line).get(1) == Some(&"39")), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120 && line.trim_end() == line));
}
