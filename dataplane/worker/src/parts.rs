//! Parts of replies from the application, to whom they belong: a connection here, or a lease served here.

use keyferry_app::{App, Part};
use keyferry_nic::Nic;

use crate::job::Owner;
use crate::turn::Worker;

impl<N: Nic, A: App> Worker<N, A> {
    /// Takes one part.
    pub(crate) fn take_part(&mut self, part: Part) {
        match part {
            Part::Reply { id, chunk, end: None } => match Owner::of(id) {
                Owner::Conn { index, .. } => self.local_part(id, index, chunk, None),
                Owner::Served(peer, lease) => self.lent_part(peer, lease, chunk, None),
            },
            Part::Reply { id, chunk, end: Some(end) } => {
                // How long one took whose body came meanwhile says how fast its client is.
                if end.request.is_whole() {
                    self.load.served(end.service_ns);
                    self.counters.app_busy_ns += end.service_ns;
                }
                self.pools.give_request(end.request);
                match Owner::of(id) {
                    Owner::Conn { index, .. } => {
                        self.local_end(id, index, end.status, end.service_ns);
                        self.local_part(id, index, chunk, Some(end.keep_alive));
                    }
                    Owner::Served(peer, lease) => {
                        self.lent_part(peer, lease, chunk, Some((end.status, end.keep_alive)));
                    }
                }
            }
            Part::Failed { id, started, request } => {
                self.pools.give_request(request);
                match Owner::of(id) {
                    Owner::Conn { index, .. } => self.local_failed(id, index, started),
                    Owner::Served(peer, lease) => self.lent_failed(peer, lease),
                }
            }
            Part::Switched { id } => {
                // What is lent asks for no other protocol.
                if let Owner::Conn { index, .. } = Owner::of(id) {
                    self.switched(id, index);
                }
            }
            Part::Took { id, chunk } => match Owner::of(id) {
                Owner::Conn { index, .. } => self.took(id, index, chunk),
                // What is lent is whole.
                Owner::Served(..) => self.pools.give_chunk(chunk),
            },
            Part::Cancelled(request) => self.pools.give_request(request),
            Part::Spare(chunk) => self.pools.give_chunk(chunk),
        }
    }
}
