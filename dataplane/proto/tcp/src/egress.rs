//! Packets out, and time-outs.
//!
//! In: the list of connections that changed, the timer wheel, the time. Out: packets through the [`Egress`], each
//! connection's next deadline. Part of a worker's TCP.

use keyferry_time::Time;

use crate::config::EGRESS_PER_VISIT_MAX;
use crate::connection::Stage;
use crate::counters::CloseReason;
use crate::seam::{Egress, Segment, Tcp};
use crate::transmit::Step;

/// Connections whose timers are due that are asked for before the first of them is looked at: as many as a processor's first
/// cache has room for.
const DUE_AT_ONCE: usize = 32;

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
    pub fn emit(&mut self, now: Time, out: &mut impl Egress<S>) {
        self.shared.now = now;
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
    pub fn timers(&mut self, now: Time, out: &mut impl Egress<S>) {
        self.shared.now = now;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, |index| due.push(index));
        // Nobody has looked at them since their timers were set: a few are waited for together.
        for some in due.chunks(DUE_AT_ONCE) {
            for index in some {
                self.slots.ahead(*index as usize, self.ahead);
                self.dirty.ahead(*index, self.ahead);
            }
            some.iter().for_each(|index| self.expire(now, *index));
        }
        due.clear();
        self.due = due;
        self.half_open_timers(now, out);
        self.time_wait.expire(now);
        self.shared.counters.time_wait = self.time_wait.live();
        self.emit(now, out);
    }

    fn expire(&mut self, now: Time, index: u32) {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        connection.armed = Time::NEVER;
        if std::mem::take(&mut connection.touched) {
            connection.active = now;
        }
        match connection.deadline(&self.shared.config, &self.shared.tuning) {
            Some((at, reason)) if at.is_due(now) => {
                match connection.stage {
                    // Nobody has answered, so there is nobody to tell.
                    Stage::Connecting => self.die(index, reason),
                    _ => self.abort_for(index, reason),
                }
            }
            _ => self.dirty.push_back(index),
        }
    }

    /// Lets one connection send, and finds out when it wants to be asked again.
    fn visit(&mut self, now: Time, index: u32, out: &mut impl Egress<S>) -> Next {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return Next::Dead;
        };
        if let Some(reason) = connection.fire(now, &mut self.shared) {
            self.abort_for(index, reason);
            return Next::Again;
        }
        for _ in 0..EGRESS_PER_VISIT_MAX {
            match connection.transmit(now, &mut self.shared, out) {
                Step::Packet if out.room() => {}
                Step::Packet => return Next::Again,
                Step::Nothing(at) => return self.settle(now, index, at),
                Step::Over(reason) => {
                    self.die(index, reason);
                    return Next::Dead;
                }
            }
        }
        Next::Again
    }

    /// Nothing to send before `at`: leaves the connection behind if it only waits out TIME-WAIT.
    fn settle(&mut self, now: Time, index: u32, at: Time) -> Next {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return Next::Dead;
        };
        if connection.is_time_wait() {
            let (flow, hash, mark) = (connection.flow, connection.hash, connection.mark());
            self.die(index, CloseReason::Finished);
            self.time_wait.insert(now, &flow, hash, mark);
            self.shared.counters.time_wait = self.time_wait.live();
            return Next::Dead;
        }
        if std::mem::take(&mut connection.touched) {
            connection.active = now;
        }
        connection.rest(&mut self.shared);
        let deadline = connection.deadline(&self.shared.config, &self.shared.tuning);
        let deadline = deadline.map_or(Time::NEVER, |(at, _)| at);
        Next::At(at.min(deadline).min(connection.next_timer()))
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
