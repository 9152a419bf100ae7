//! What of a worker's configuration may change while it runs. In: control's word, whole. Out: nothing; what comes next goes
//! by it. Each value is a plain one or one behind a count, taken between two turns, so that no request meets a lock or half a
//! change. Owned by a worker.
//!
//! What is under way goes on as it began: a handshake with its certificate, a deadline that is set already with its time.

use std::time::Duration;

use keyferry_app::routes::Streams;
use keyferry_app::{App, Change};
use keyferry_decide::Policy;
use keyferry_nic::Nic;
use keyferry_tcp::Times;
use keyferry_tls::Server;

use crate::access::Rules;
use crate::config::Rate;
use crate::turn::Worker;

/// What may change; as in [`Config`](crate::Config), where it is described.
pub struct Settings {
    /// Certificates, for handshakes that begin from now on.
    pub tls: Server,
    /// Handshakes under way at most.
    pub handshakes: u64,
    /// SYN to the end of the handshake.
    pub handshake_timeout: Duration,
    /// First byte of a request's head to its last.
    pub header_timeout: Duration,
    /// First byte of a request's body to its last.
    pub body_timeout: Duration,
    /// The slowest a long body may come.
    pub body_rate: Rate,
    /// Longest pause without progress between requests.
    pub idle_timeout: Duration,
    /// Bounds of a request.
    pub http: keyferry_http::Limits,
    /// Whose requests run before their bodies are whole.
    pub streams: Streams,
    /// What becomes of an application that this worker runs itself; one on threads is changed there.
    pub app: Option<Change>,
    /// Requests the application works on at a time.
    pub app_slots: u32,
    /// Bytes of all bodies being read, at most ([`PoolSizes::body_bytes`](crate::pool::PoolSizes::body_bytes)).
    pub body_bytes: usize,
    /// When requests are lent.
    pub policy: Policy,
    /// The key goes with the grant.
    pub eager: bool,
    /// Slots one lease may hold.
    pub credits: usize,
    /// Grant to claim.
    pub claim_timeout: Duration,
    /// Silence of a helper that may write.
    pub silence_timeout: Duration,
    /// How long a record stays in its slot while the client does not acknowledge it.
    pub slot_patience: Duration,
    /// How long a handshake waits for a session that another node keeps.
    pub session_wait: Duration,
    /// Time-outs of TCP.
    pub tcp: Times,
    /// Which requests are told of, if any are.
    pub access: Rules,
}

impl<N: Nic, A: App> Worker<N, A> {
    /// Goes by these from now on.
    pub(crate) fn take_settings(&mut self, settings: Settings) {
        // Taken apart, so that none can be forgotten.
        let Settings {
            tls,
            handshakes,
            handshake_timeout,
            header_timeout,
            body_timeout,
            body_rate,
            idle_timeout,
            http,
            streams,
            app,
            app_slots,
            body_bytes,
            policy,
            eager,
            credits,
            claim_timeout,
            silence_timeout,
            slot_patience,
            session_wait,
            tcp,
            access,
        } = settings;
        self.tls = tls;
        if let Some(change) = app {
            self.app.change(change);
        }
        self.load.set_slots(app_slots);
        self.pools.body_bytes_max = body_bytes;
        self.tcp.set_times(tcp);
        self.access.set_rules(access);
        let config = &mut self.config;
        (config.handshakes, config.handshake_timeout) = (handshakes, handshake_timeout);
        (config.header_timeout, config.idle_timeout) = (header_timeout, idle_timeout);
        (config.body_timeout, config.body_rate) = (body_timeout, body_rate);
        (config.http, config.session_wait) = (http, session_wait);
        (config.streams, config.app_slots) = (streams, app_slots);
        (config.policy, config.eager) = (policy, eager);
        config.leases.credits = credits;
        config.leases.claim_timeout = claim_timeout;
        config.leases.silence_timeout = silence_timeout;
        config.leases.slot_patience = slot_patience;
        for peer in self.peers.iter_mut().flatten() {
            peer.lender.set_times(credits, claim_timeout, silence_timeout);
        }
        self.counters.settings_taken += 1;
    }
}
