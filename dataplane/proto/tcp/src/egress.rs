//! Packets out, and time-outs.
//!
//! In: the list of connections that changed, the timer wheel, the time. Out: packets through the [`Egress`], each
//! connection's next deadline. Part of a worker's TCP.

use keyferry_time::Time;
use smoltcp::iface::PollResult;
use smoltcp::socket::tcp::State;

use crate::config::{ACK_DELAY, EGRESS_PER_VISIT_MAX, STUCK_RETRY};
use crate::connection::Stage;
use crate::counters::{CloseReason, DropReason};
use crate::ingress::instant;
use crate::seam::{Egress, Segment, Tcp};
use crate::wire::Wire;

/// What a connection asked for at the end of its visit.
enum Next {
    /// It has more to send.
    Again,
    /// Nothing before this time.
    At(Time),
    /// It ended.
    Dead,
}

impl<S: Segment> Tcp<S> {
    /// Sends what changed, a connection after the other, as far as `out` has room. What finds none keeps its
    /// place in the line; a connection with much to send goes to the end of it after a fair share.
    pub fn emit(&mut self, now: Time, out: &mut impl Egress) {
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.front() else {
                return;
            };
            if !out.room() {
                return;
            }
            match self.visit(now, index, out) {
                Next::Again => {
                    self.dirty.remove(index);
                    self.dirty.push_back(index);
                }
                Next::At(at) => {
                    self.dirty.remove(index);
                    self.arm(index, at);
                }
                Next::Dead => {}
            }
        }
    }

    /// Ends connections whose time is over, wakes those whose timer is due, and sends what they want to send.
    pub fn timers(&mut self, now: Time, out: &mut impl Egress) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, |index| due.push(index));
        for index in due.drain(..) {
            self.expire(now, index);
        }
        self.due = due;
        self.half_open_timers(now, out);
        self.time_wait.expire(now);
        self.counters.time_wait = self.time_wait.live();
        self.emit(now, out);
    }

    fn expire(&mut self, now: Time, index: u32) {
        let (half_open, idle) = (self.config.half_open_timeout, self.config.idle_timeout);
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        connection.armed = Time::NEVER;
        if std::mem::take(&mut connection.touched) {
            connection.active = now;
        }
        match connection.deadline(half_open, idle) {
            Some((at, reason)) if at.is_due(now) => {
                match connection.stage {
                    Stage::HalfOpen => {
                        self.die(index, reason);
                        self.counters.drop(DropReason::HalfOpenTimeout);
                    }
                    // Nobody has answered, so there is nobody to tell.
                    Stage::Connecting => self.die(index, reason),
                    _ => self.abort_for(index, reason),
                }
            }
            _ => self.dirty.push_back(index),
        }
    }

    /// Lets one connection send, and finds out when it wants to be asked again.
    fn visit(&mut self, now: Time, index: u32, out: &mut impl Egress) -> Next {
        for _ in 0..EGRESS_PER_VISIT_MAX {
            let Some(connection) = self.slots[index as usize].connection.as_mut() else {
                return Next::Dead;
            };
            let Some(sockets) = connection.sockets.as_mut() else {
                return Next::Dead;
            };
            let mut wire = Wire {
                packet: None,
                out: &mut *out,
                caps: &self.caps,
                counters: &mut self.counters,
                mark: &mut connection.mark,
                offer: Some(connection.offer),
            };
            let sent = self.interface.poll_egress(instant(now), &mut wire, sockets);
            let poll_at = self.interface.poll_at(instant(now), sockets);
            let poll_at =
                poll_at.map(|at| Time(u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1_000)));
            if !self.review(now, index, false) {
                return Next::Dead;
            }
            match poll_at {
                // smoltcp leaves the timer of its window probes running when a peer without window acknowledges all
                // and our FIN, and sends an acknowledgement for each look at it. There is nothing to probe for.
                Some(at) if at.is_due(now) && self.awaits_fin(index) => {
                    return self.settle(now, index, Time::NEVER);
                }
                Some(at) if at.is_due(now) => {
                    if sent == PollResult::None {
                        return Next::At(now + STUCK_RETRY);
                    }
                    if !out.room() {
                        return Next::Again;
                    }
                }
                at => return self.settle(now, index, at.unwrap_or(Time::NEVER)),
            }
        }
        Next::Again
    }

    /// Whether all of ours is acknowledged, the end included, and only the peer's is missing.
    fn awaits_fin(&self, index: u32) -> bool {
        let connection = self.slots[index as usize].connection.as_ref();
        let socket = connection.and_then(|connection| connection.socket());
        socket.is_some_and(|socket| socket.state() == State::FinWait2)
    }

    /// Nothing to send before `at`: leaves the socket behind if it only waits out TIME-WAIT.
    fn settle(&mut self, now: Time, index: u32, at: Time) -> Next {
        let (half_open, idle) = (self.config.half_open_timeout, self.config.idle_timeout);
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return Next::Dead;
        };
        // A wait longer than a delayed acknowledgement is the one of TIME-WAIT itself: our last ACK is out.
        if connection.socket().is_some_and(|socket| socket.state() == State::TimeWait) && at > now + ACK_DELAY
        {
            let (flow, hash, mark) = (connection.flow, connection.hash, connection.mark);
            self.die(index, CloseReason::Finished);
            if let Some(mark) = mark {
                self.time_wait.insert(now, flow, hash, mark);
            }
            self.counters.time_wait = self.time_wait.live();
            return Next::Dead;
        }
        if at == Time::NEVER && connection.probe() {
            return Next::Again;
        }
        if std::mem::take(&mut connection.touched) {
            connection.active = now;
        }
        let deadline = connection.deadline(half_open, idle).map_or(Time::NEVER, |(at, _)| at);
        Next::At(at.min(deadline))
    }

    /// Moves a connection's timer forward if it must; a later deadline is found out when the timer fires, which
    /// spares setting it anew for each packet.
    fn arm(&mut self, index: u32, at: Time) {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        if at < connection.armed {
            connection.armed = at;
            self.wheel.set(index, at);
        }
    }
}
