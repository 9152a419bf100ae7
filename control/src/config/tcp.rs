//! `[tcp]`: how connections make use of their paths, and the memory they may have for it.

use std::time::Duration;

use keyferry_tcp::{ACK_DELAY_MAX, Algorithm, INITIAL_SEGMENTS_MAX, KeepAlive, Tuning};

use super::changes::Ledger;
use super::limits::{BUFFER_BYTES_MAX, BUFFER_BYTES_MIN, Limits};
use super::reader::{Context, Section};

/// Most memory for the buffers of a worker, in MiB: a TiB.
const MEMORY_MIB_MAX: u64 = 1 << 20;
/// Longest time between two probes, in seconds: a day.
const PROBE_S_MAX: u64 = 86_400;
/// Longest user time-out, in ms: a day.
const USER_TIMEOUT_MS_MAX: u64 = 86_400_000;

/// How connections make use of their paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// How much may be under way.
    pub congestion: Algorithm,
    /// Sending is spread over a round trip.
    pub pacing: bool,
    /// Explicit congestion notification with clients that ask for it.
    pub ecn: bool,
    /// Segments of the first window.
    pub initial_window: u8,
    /// How long an acknowledgement waits for data to ride on.
    pub ack_delay: Duration,
    /// When larger packets are tried on a path that was found to take small ones only; `None`: never.
    pub mtu_raise_after: Option<Duration>,
    /// What the receive buffer of a connection grows to, in bytes.
    pub receive_buffer_max: usize,
    /// Memory of all receive buffers of a worker, in MiB; `None`: as connections may need, and some to grow.
    pub receive_memory_mib: Option<usize>,
    /// Bytes queued, in MiB, beyond which no connection of a worker queues more than its send buffer.
    pub send_memory_mib: usize,
    /// Probes of silent clients.
    pub keep_alive: Option<KeepAlive>,
    /// How long data of ours may go unacknowledged; `None`: as long as a connection may be idle.
    pub user_timeout: Option<Duration>,
    /// Connections a worker has not looked at yet.
    pub accept_queue: u32,
    /// Flows of a worker in TIME-WAIT; `None`: as many as connections.
    pub time_wait: Option<u32>,
}

const CONGESTION: &[(&str, Algorithm)] =
    &[("cubic", Algorithm::Cubic), ("bbr", Algorithm::Bbr), ("reno", Algorithm::Reno)];

pub(super) fn read(mut section: Section<'_, '_>) -> Tcp {
    let buffer = BUFFER_BYTES_MIN as u64..=BUFFER_BYTES_MAX as u64;
    let tcp = Tcp {
        congestion: section.choice("congestion", CONGESTION, Algorithm::Cubic),
        pacing: section.flag("pacing", true),
        ecn: section.flag("ecn", true),
        initial_window: section.number("initial_window", 10, 1..=u64::from(INITIAL_SEGMENTS_MAX)),
        ack_delay: section.millis("ack_delay_ms", 10, 0..=ACK_DELAY_MAX.as_millis() as u64),
        mtu_raise_after: unless_zero(section.number("mtu_raise_after_s", 600, 0..=PROBE_S_MAX))
            .map(|seconds| Duration::from_secs(seconds as u64)),
        receive_buffer_max: section.number("receive_buffer_max", 4 << 20, buffer),
        receive_memory_mib: unless_zero(section.number("receive_memory_mib", 0, 0..=MEMORY_MIB_MAX)),
        send_memory_mib: section.number("send_memory_mib", 256, 1..=MEMORY_MIB_MAX),
        keep_alive: read_keep_alive(&mut section),
        user_timeout: unless_zero(section.number("user_timeout_ms", 0, 0..=USER_TIMEOUT_MS_MAX))
            .map(|ms| Duration::from_millis(ms as u64)),
        accept_queue: section.number("accept_queue", 4096, 1..=1 << 20),
        time_wait: unless_zero(section.number("time_wait", 0, 0..=1 << 24)).map(|flows| flows as u32),
    };
    section.finish();
    tcp
}

fn unless_zero(number: usize) -> Option<usize> {
    (number > 0).then_some(number)
}

fn take_over_keep_alive(now: &mut Option<KeepAlive>, new: &Option<KeepAlive>, ledger: &mut Ledger) {
    match (now, new) {
        (Some(now), Some(new)) => {
            let KeepAlive { after, every, probes } = now;
            ledger.live("[tcp]", "keep_alive_s", after, &new.after);
            ledger.live("[tcp]", "keep_alive_every_s", every, &new.every);
            ledger.live("[tcp]", "keep_alive_probes", probes, &new.probes);
        }
        (now, new) => ledger.live("[tcp]", "keep_alive_s", now, new),
    }
}

fn read_keep_alive(section: &mut Section<'_, '_>) -> Option<KeepAlive> {
    let after = Duration::from_secs(section.number("keep_alive_s", 0, 0..=PROBE_S_MAX));
    let every = Duration::from_secs(section.number("keep_alive_every_s", 15, 1..=PROBE_S_MAX));
    let probes = section.number("keep_alive_probes", 4, 1..=255);
    (!after.is_zero()).then_some(KeepAlive { after, every, probes })
}

/// Whether what connections grow to fits what they begin with, and the memory there is.
pub(super) fn check(context: &Context<'_>, tcp: &Tcp, limits: &Limits) {
    let most = tcp.receive_buffer_max;
    if most < limits.receive_buffer {
        let what = format!("{most} is less than the {} bytes a buffer begins with", limits.receive_buffer);
        context
            .report("tcp.receive_buffer_max", format!("{what}: raise it or lower [limits] receive_buffer"));
    }
    if tcp.receive_memory_mib.is_some_and(|mib| mib << 20 < most) {
        let what = format!("a buffer of receive_buffer_max ({most} bytes) does not fit");
        context
            .report("tcp.receive_memory_mib", format!("{what}: write at least {}", most.div_ceil(1 << 20)));
    }
    if tcp.user_timeout.is_some_and(|timeout| timeout > limits.idle_timeout) {
        let ms = limits.idle_timeout.as_millis();
        let what = format!("[limits] idle_timeout_ms ends the connection after {ms}, before this does");
        context.report("tcp.user_timeout_ms", format!("{what}: write less, or 0 for as long"));
    }
}

impl Tcp {
    /// Goes by another table of the file.
    pub(super) fn take_over(&mut self, new: &Tcp, ledger: &mut Ledger) {
        let Tcp {
            congestion,
            pacing,
            ecn,
            initial_window,
            ack_delay,
            mtu_raise_after,
            receive_buffer_max,
            receive_memory_mib,
            send_memory_mib,
            keep_alive,
            user_timeout,
            accept_queue,
            time_wait,
        } = self;
        ledger.fixed("[tcp]", "congestion", congestion, &new.congestion);
        ledger.fixed("[tcp]", "pacing", pacing, &new.pacing);
        ledger.fixed("[tcp]", "ecn", ecn, &new.ecn);
        ledger.fixed("[tcp]", "initial_window", initial_window, &new.initial_window);
        ledger.fixed("[tcp]", "ack_delay_ms", ack_delay, &new.ack_delay);
        ledger.fixed("[tcp]", "mtu_raise_after_s", mtu_raise_after, &new.mtu_raise_after);
        ledger.fixed("[tcp]", "receive_buffer_max", receive_buffer_max, &new.receive_buffer_max);
        ledger.fixed("[tcp]", "receive_memory_mib", receive_memory_mib, &new.receive_memory_mib);
        ledger.fixed("[tcp]", "send_memory_mib", send_memory_mib, &new.send_memory_mib);
        take_over_keep_alive(keep_alive, &new.keep_alive, ledger);
        ledger.live("[tcp]", "user_timeout_ms", user_timeout, &new.user_timeout);
        ledger.fixed("[tcp]", "accept_queue", accept_queue, &new.accept_queue);
        ledger.fixed("[tcp]", "time_wait", time_wait, &new.time_wait);
    }

    /// As TCP takes it.
    pub fn tuning(&self) -> Tuning {
        Tuning {
            congestion: self.congestion,
            pacing: self.pacing,
            ecn: self.ecn,
            initial_segments: self.initial_window,
            ack_delay: self.ack_delay,
            mtu_raise_after: self.mtu_raise_after,
            receive_bytes_max: self.receive_buffer_max,
            receive_budget_bytes: self.receive_memory_mib.map(|mib| mib << 20),
            send_budget_bytes: self.send_memory_mib << 20,
            keep_alive: self.keep_alive,
            user_timeout: self.user_timeout,
            accept_queue: self.accept_queue,
            time_wait: self.time_wait,
        }
    }
}
