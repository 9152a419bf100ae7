//! What has to be true of a run when it is over.

use keyferry_worker::Counters;
use keyferry_worker::counters::SUMS;

use crate::app;
use crate::client::{Answer, Client, End};
use crate::plan::{Conduct, Fault, TransferFate, TransferKind};
use crate::seals::{self, Sealed};
use crate::world::{Report, World};

/// Everything a worker still holds, by name.
pub fn held(counters: &Counters) -> Vec<(&'static str, u64)> {
    const GAUGES: &[&str] = &[
        "leases_open",
        "leases_serving",
        "handshakes_open",
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
    counts(world)?;
    let mut report = Report {
        trace: world.shared.lock().streams.trace(),
        ns: world.clock.now_ns(),
        steps: world.steps(),
        ..Report::default()
    };
    for client in &world.clients {
        report.replies += client.answers.iter().filter(|answer| **answer != Answer::Lost).count() as u64;
    }
    for (_, counters) in world.counters() {
        report.lent += counters.replies_lent;
        report.broken += counters.leases_broken;
        report.failed += counters.leases_failed;
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
            let streams = path.streams.all.get(&(client.node(), connection.port));
            for stream in streams.into_iter().flatten() {
                let plan = client.plan();
                let secrets = &connection.secrets;
                connections.push(Sealed { tls12: plan.tls12, suite: plan.suite, stream, secrets });
            }
        }
    }
    seals::check(&connections, &path.written, spoiled(world))
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
    let replies = sum.replies_local + sum.replies_lent + sum.replies_own;
    let whole =
        |client: &Client| client.answers.iter().filter(|answer| **answer != Answer::Lost).count() as u64;
    let seen: u64 = world.clients.iter().map(whole).sum();
    let cut = world.clients.iter().flat_map(|client| &client.connections).any(|it| it.end != Some(End::Done));
    if seen > replies || (!cut && seen != replies) {
        return Err(format!("clients saw {seen} replies, nodes made {replies}: {sum:?}"));
    }
    Ok(())
}
