//! What has to be true of a run when it is over.

use keyferry_worker::Counters;
use keyferry_worker::counters::SUMS;

use crate::app;
use crate::client::{Answer, Client, Connection, End};
use crate::node::SESSION_WAIT;
use crate::plan::{Conduct, Fault, MS, TransferFate, TransferKind};
use crate::resumptions;
use crate::seals::{self, Sealed};
use crate::world::{Report, World};

/// What a handshake takes beside waiting: turns, and the limit looked at in one.
const ANSWER_NS: u64 = 10 * MS;

/// Everything a worker still holds, by name.
pub fn held(counters: &Counters) -> Vec<(&'static str, u64)> {
    const GAUGES: &[&str] = &[
        "leases_open",
        "leases_serving",
        "handshakes_open",
        "handshakes_waiting",
        "sessions_moving",
        "flows",
        "packets_in_use",
        "chunks_out",
        "requests_out",
        "records_out",
        "gathers_out",
        "requests_in_app",
        "slots_out",
    ];
    let all = Counters::NAMES.iter().copied().zip(counters.values());
    all.filter(|(name, value)| *value > 0 && GAUGES.contains(name)).collect()
}

/// Why a run did not end.
pub(crate) fn unfinished(world: &World) -> String {
    let clients = world.clients.iter().filter(|client| !client.is_over()).count();
    let held: Vec<_> = world.counters().map(|(node, counters)| (node, held(&counters))).collect();
    format!("it does not end: {clients} clients are not over; nodes hold {held:?}")
}

/// Judges a run that is over.
///
/// # Errors
/// A sentence.
pub(crate) fn judge(world: &World) -> Result<Report, String> {
    clients(world)?;
    if let Some(path) = app::begun_twice() {
        return Err(format!("a POST of {path} was run twice (RFC 9110 9.2.1)"));
    }
    seals(world)?;
    let offered_again = resumptions(world)?;
    counts(world)?;
    let mut report = Report {
        trace: world.shared.lock().streams.trace(),
        ns: world.clock.now_ns(),
        steps: world.steps(),
        offered_again,
        ..Report::default()
    };
    for client in &world.clients {
        report.replies += client.answers.iter().filter(|answer| **answer != Answer::Lost).count() as u64;
    }
    for (_, counters) in world.counters() {
        report.taken += counters.takes_found;
        report.moved += counters.sessions_moved;
        report.lent += counters.replies_lent;
        report.sooner += counters.moved_sooner;
        report.broken += counters.leases_broken;
        report.failed += counters.leases_failed;
        report.copied_late += counters.slots_copied_late;
        report.copied_short += counters.slots_copied_short;
    }
    Ok(report)
}

/// A forger changed records: clients find that out by themselves.
fn spoiled(world: &World) -> bool {
    world.plan.faults.iter().any(|fault| {
        matches!(
            fault,
            Fault::Transfers {
                kind: TransferKind::Write,
                fate: TransferFate::Forged(_) | TransferFate::Replayed,
                ..
            }
        )
    })
}

fn clients(world: &World) -> Result<(), String> {
    let gentle = world.plan.is_gentle();
    let spoiled = spoiled(world);
    for (number, client) in world.clients.iter().enumerate() {
        for connection in &client.connections {
            let end = connection.end.as_ref().ok_or("a connection without an end")?;
            match end {
                End::Tls(what) if !spoiled => {
                    return Err(format!("client {number}, port {}: TLS failed: {what}", connection.port));
                }
                End::Truncated => {
                    return Err(format!(
                        "client {number}, port {}: FIN without close_notify",
                        connection.port
                    ));
                }
                _ => {}
            }
            let good = !matches!(client.plan().conduct, Conduct::Resets(_) | Conduct::Vanishes(_));
            if gentle && good && *end != End::Done {
                return Err(format!("client {number}, port {}: ended as {end:?}", connection.port));
            }
        }
        if gentle && !matches!(client.plan().conduct, Conduct::Resets(_) | Conduct::Vanishes(_)) {
            all_answered(number, client)?;
        }
    }
    Ok(())
}

fn all_answered(number: usize, client: &Client) -> Result<(), String> {
    let wrong = client.answers.iter().position(|answer| *answer != Answer::Whole { status: 200 });
    match wrong {
        Some(request) => Err(format!("client {number}, request {request}: {:?}", client.answers[request])),
        None if client.answers.len() < client.plan().requests.len() => {
            Err(format!("client {number}: {} of its requests have an answer", client.answers.len()))
        }
        None => Ok(()),
    }
}

fn seals(world: &World) -> Result<(), String> {
    let path = world.shared.lock();
    let mut connections = Vec::new();
    for client in &world.clients {
        for connection in &client.connections {
            let streams = path.streams.all.get(&(connection.node, connection.port));
            for stream in streams.into_iter().flatten() {
                let plan = client.plan();
                let secrets = &connection.secrets;
                connections.push(Sealed { tls12: plan.tls12, suite: plan.suite, stream, secrets });
            }
        }
    }
    seals::check(&connections, &path.written, spoiled(world))
}

/// PSKs are used once, and no handshake waits for longer than a session may take to come.
fn resumptions(world: &World) -> Result<u64, String> {
    let path = world.shared.lock();
    let offered_again = resumptions::used_once(&path.streams)?;
    for client in &world.clients {
        for connection in client.connections.iter().filter(|connection| connection.end != Some(End::Own)) {
            let node = connection.node;
            let Some(stood_still_ns) = undisturbed_but_for(world, node) else { continue };
            let Some(hello) = path.streams.hellos.get(&(node, connection.port)) else { continue };
            let limit_ns = SESSION_WAIT.as_nanos() as u64 + stood_still_ns + ANSWER_NS;
            resumptions::answered_within(hello, limit_ns)
                .map_err(|what| format!("node {node}, port {}: {what}", connection.port))?;
        }
    }
    Ok(offered_again)
}

/// How long a node stood still, all together; `None`: it died, or ran short of buffers.
fn undisturbed_but_for(world: &World, node: usize) -> Option<u64> {
    let of = |fault: &Fault| match fault {
        Fault::Kill { node: at, .. } if *at == node => None,
        Fault::Freeze { node: at, for_ns, .. } if *at == node => Some(*for_ns),
        _ => Some(0),
    };
    let stood_still_ns = world.plan.faults.iter().map(of).sum::<Option<u64>>()?;
    let starved = world.counters().any(|(of, counters)| of == node && counters.starved > 0);
    (!starved && world.plan.nodes[node].is_roomy()).then_some(stood_still_ns)
}

/// Counters that have to agree, on each worker and between them.
fn counts(world: &World) -> Result<(), String> {
    let mut sum = Counters::default();
    for (node, it) in world.counters() {
        let values = it.values();
        let value = |name: &&str| {
            let place = Counters::NAMES.iter().position(|known| known == name);
            values[place.expect("sums are of counters")]
        };
        for (total, parts) in SUMS {
            let sum: u64 = parts.iter().map(value).sum();
            if value(total) != sum {
                return Err(format!("node {node}: {total} is not {sum}, the sum of its parts: {it:?}"));
            }
        }
        sum.leases_granted += it.leases_granted;
        sum.leases_taken += it.leases_taken;
        sum.leases_served += it.leases_served;
        sum.replies_lent += it.replies_lent;
        sum.peers_lost += it.peers_lost;
        sum.sessions_put += it.sessions_put;
        sum.sessions_kept += it.sessions_kept;
        sum.sessions_given += it.sessions_given;
        sum.takes += it.takes;
        sum.takes_found += it.takes_found;
        sum.takes_missed += it.takes_missed;
        sum.handshakes_resumed += it.handshakes_resumed;
        sum.replies_local += it.replies_local;
        sum.replies_own += it.replies_own;
    }
    let undisturbed = world.lives.iter().all(|life| *life == 1) && world.nodes.iter().all(Option::is_some);
    if !undisturbed {
        return Ok(());
    }
    if sum.leases_taken > sum.leases_granted || sum.replies_lent > sum.leases_served {
        return Err(format!("helpers count other leases than lenders: {sum:?}"));
    }
    if sum.peers_lost == 0 && sum.leases_taken != sum.leases_granted {
        return Err(format!("a lease was lost on the way: {sum:?}"));
    }
    sessions(&sum)?;
    // A client that is cut off may have the server's Finished while its own is on the way.
    let resumed = |it: &&Connection| it.resumed && it.end == Some(End::Done);
    let resumed = world.clients.iter().flat_map(|client| &client.connections).filter(resumed).count();
    if resumed as u64 > sum.handshakes_resumed {
        return Err(format!("clients resumed more often than nodes: {sum:?}"));
    }
    let replies = sum.replies_local + sum.replies_lent + sum.replies_own;
    let whole =
        |client: &Client| client.answers.iter().filter(|answer| **answer != Answer::Lost).count() as u64;
    let seen: u64 = world.clients.iter().map(whole).sum();
    let cut = world.clients.iter().flat_map(|client| &client.connections).any(|it| it.end != Some(End::Done));
    if !cut && sum.takes_found > sum.handshakes_resumed {
        return Err(format!("a session that came was not used: {sum:?}"));
    }
    if seen > replies || (!cut && seen != replies) {
        return Err(format!("clients saw {seen} replies, nodes made {replies}: {sum:?}"));
    }
    Ok(())
}

/// What became of sessions between nodes, of a cluster none of whose nodes ended.
fn sessions(sum: &Counters) -> Result<(), String> {
    let lost = sum.peers_lost > 0;
    let outcome = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {sum:?}")) };
    outcome(sum.sessions_kept <= sum.sessions_put, "more sessions arrived than were sent")?;
    outcome(lost || sum.sessions_kept == sum.sessions_put, "a session was lost on the way")?;
    outcome(sum.takes_found <= sum.sessions_given, "more sessions came than were given")?;
    // What was given and did not come found a handshake that was over.
    outcome(sum.sessions_given + sum.takes_missed <= sum.takes, "more was answered than was asked")
}
