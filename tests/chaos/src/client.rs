//! A client of a run: rustls over a socket of its [`Hub`], doing what its plan says, good or bad. It tells what became
//! of each request; what the outcome may be is judged elsewhere.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, KeyLog};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State as TcpState};

use crate::app;
use crate::crypto::{self, Anyone, Clock};
use crate::hub::Hub;
use crate::plan::{ClientPlan, Conduct, MS, RequestPlan};
use crate::replies::{Expected, Replies, Whole};
use crate::wallet::{Purse, Wallet};

/// Ports of one client's connections.
const PORTS_PER_CLIENT: u16 = 64;

/// A secret that rustls told: its label, the connection's client random, itself.
pub type Secret = (String, Vec<u8>, Vec<u8>);

/// The secrets of a client's connections, in order.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<Vec<Secret>>);

impl Secrets {
    /// Those told since the last time.
    fn take(&self) -> Vec<Secret> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((label.to_owned(), client_random.to_vec(), secret.to_vec()));
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client ended it when it had all it wanted.
    Done,
    /// The client ended it badly, as its plan says.
    Own,
    /// The node ended it in order, with close_notify.
    Closed,
    /// FIN without close_notify.
    Truncated,
    /// RST, or nobody answered.
    Cut,
    /// TLS failed.
    Tls(String),
}

/// What became of one connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The node it is to.
    pub node: usize,
    /// Its port at the client.
    pub port: u16,
    /// Its secrets.
    pub secrets: Vec<Secret>,
    /// How it ended; `None`: not yet.
    pub end: Option<End>,
    /// In the middle of a reply.
    pub mid_reply: bool,
    /// It was resumed.
    pub resumed: bool,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A whole reply.
    Whole {
        /// Its status.
        status: u16,
    },
    /// Its connection ended first.
    Lost,
}

struct Open {
    handle: SocketHandle,
    tls: ClientConnection,
    /// Hears what this one hears and says nothing, to get its sessions a second time.
    twin: Option<Box<ClientConnection>>,
    replies: Replies,
    /// Sealed bytes on their way to TCP.
    out: Vec<u8>,
    /// Requests sent and answered on this connection.
    sent: usize,
    answered: usize,
    /// The next request is sent then.
    ask_at: u64,
    /// Plaintext bytes read, sealed bytes written.
    read: usize,
    written: usize,
    opened_ns: u64,
    half_closed: bool,
    closing: bool,
}

enum State {
    Waiting(u64),
    Open(Box<Open>),
    Ended,
}

/// A client.
pub struct Client {
    number: usize,
    plan: ClientPlan,
    config: Arc<ClientConfig>,
    /// Its sessions, if it roams; else the configuration has them.
    wallet: Option<Arc<Wallet>>,
    secrets: Arc<Secrets>,
    state: State,
    /// What became of the requests so far.
    pub answers: Vec<Answer>,
    /// Connections so far.
    pub connections: Vec<Connection>,
}

impl Client {
    /// A client that has not begun. `wallets`: those of the clients before it, by number.
    pub fn new(
        number: usize,
        plan: &ClientPlan,
        clock: &Clock,
        wallets: &mut BTreeMap<usize, Arc<Wallet>>,
    ) -> Client {
        let secrets = Arc::new(Secrets::default());
        let wallet = plan.roam.as_ref().map(|roam| {
            let wallet = wallets.entry(roam.wallet).or_insert_with(|| Wallet::new(config(plan, clock)));
            Arc::clone(wallet)
        });
        let mut config = match &wallet {
            Some(wallet) => wallet.config.clone(),
            None => config(plan, clock),
        };
        config.key_log = Arc::clone(&secrets) as _;
        Client {
            number,
            plan: plan.clone(),
            config: Arc::new(config),
            wallet,
            secrets,
            state: State::Waiting(plan.start_ns),
            answers: Vec::new(),
            connections: Vec::new(),
        }
    }

    /// The node it speaks to, or will next.
    pub fn node(&self) -> usize {
        match (&self.state, &self.plan.roam) {
            (State::Waiting(_), Some(roam)) => roam.nodes[self.connections.len() % roam.nodes.len()],
            (_, _) => self.connections.last().map_or(self.plan.node, |connection| connection.node),
        }
    }

    /// Its plan.
    pub fn plan(&self) -> &ClientPlan {
        &self.plan
    }

    /// Whether it has nothing more to do.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// When it has something to do though nothing arrives.
    pub fn next_at(&self, now_ns: u64) -> Option<u64> {
        match &self.state {
            State::Waiting(at) => Some(*at),
            State::Ended => None,
            State::Open(open) => match self.plan.conduct {
                Conduct::Slow(_) | Conduct::Dribbles(_) => Some(now_ns + MS),
                _ => (open.ask_at > now_ns).then_some(open.ask_at),
            },
        }
    }

    /// Does what can be done now. Returns whether it did anything.
    ///
    /// # Errors
    /// A sentence: something arrived that must not.
    pub fn act(&mut self, now_ns: u64, hub: &mut Hub) -> Result<bool, String> {
        let node = self.node();
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => Ok(false),
            State::Waiting(at) if at > now_ns => {
                self.state = State::Waiting(at);
                Ok(false)
            }
            State::Waiting(_) => {
                self.open(now_ns, node, hub);
                Ok(true)
            }
            State::Open(mut open) => {
                let before = (open.read, open.written, open.sent, open.answered);
                let end = self.go_on(now_ns, &mut open, hub)?;
                let busy = before != (open.read, open.written, open.sent, open.answered) || end.is_some();
                match end {
                    Some(end) => self.over(end, &open, now_ns, hub)?,
                    None => self.state = State::Open(open),
                }
                Ok(busy)
            }
        }
    }

    fn open(&mut self, now_ns: u64, node: usize, hub: &mut Hub) {
        let port = 10_000 + self.number as u16 * PORTS_PER_CLIENT + self.connections.len() as u16;
        let (tls, twin) = self.connection();
        let open = Open {
            handle: hub.connect(port),
            tls,
            twin,
            replies: Replies::default(),
            out: Vec::new(),
            sent: 0,
            answered: 0,
            ask_at: now_ns,
            read: 0,
            written: 0,
            opened_ns: now_ns,
            half_closed: false,
            closing: false,
        };
        let connection =
            Connection { node, port, secrets: Vec::new(), end: None, mid_reply: false, resumed: false };
        self.connections.push(connection);
        self.state = State::Open(Box::new(open));
    }

    /// A connection that has sent nothing, and its twin if it has one.
    fn connection(&self) -> (ClientConnection, Option<Box<ClientConnection>>) {
        let Some(wallet) = &self.wallet else { return (begin(&self.config), None) };
        let with = |purse: Purse| {
            let mut config = ClientConfig::clone(&self.config);
            config.resumption = Resumption::store(Arc::new(purse));
            config
        };
        let twice = self.plan.roam.as_ref().is_some_and(|roam| roam.twice) && !self.plan.tls12;
        let (purse, second) = wallet.open(twice);
        let saved = crypto::saved();
        let tls = begin(&Arc::new(with(purse)));
        let twin = second.map(|purse| {
            let mut config = with(purse);
            config.key_log = Arc::new(Secrets::default());
            Box::new(crypto::replayed(saved, || begin(&Arc::new(config))))
        });
        (tls, twin)
    }

    /// Requests this connection carries.
    fn share(&self, open: &Open) -> usize {
        (self.plan.requests.len() - (self.answers.len() - open.answered)).min(self.plan.per_connection)
    }

    fn go_on(&mut self, now_ns: u64, open: &mut Open, hub: &mut Hub) -> Result<Option<End>, String> {
        let port = self.connections.last().map_or(0, |connection| connection.port);
        match self.plan.conduct {
            Conduct::Resets(after) if open.read >= after && open.sent > 0 => {
                hub.sockets.get_mut::<Socket<'_>>(open.handle).abort();
                return Ok(Some(End::Own));
            }
            Conduct::Vanishes(after) if open.read >= after && open.sent > 0 => {
                hub.silent.insert(port);
                hub.sockets.remove(open.handle);
                return Ok(Some(End::Own));
            }
            _ => {}
        }
        let socket = hub.sockets.get_mut::<Socket<'_>>(open.handle);
        if let Some(end) = self.receive(now_ns, open, socket)? {
            return Ok(Some(end));
        }
        self.ask(now_ns, open);
        self.send(now_ns, open, socket);
        let state = socket.state();
        if open.closing {
            let gone = matches!(state, TcpState::Closed | TcpState::TimeWait);
            return Ok(gone.then_some(End::Done));
        }
        Ok((state == TcpState::Closed).then_some(End::Cut))
    }

    /// Reads replies.
    fn receive(
        &mut self,
        now_ns: u64,
        open: &mut Open,
        socket: &mut Socket<'_>,
    ) -> Result<Option<End>, String> {
        let most = self.reads(now_ns, open);
        let mut plaintext = Vec::new();
        let mut closed = false;
        let mut took = 0;
        while socket.can_recv() && took < most {
            let limit = most - took;
            let read = socket.recv(|bytes| {
                let mut some = &bytes[..bytes.len().min(limit)];
                let read = open.tls.read_tls(&mut some);
                let taken = read.as_ref().copied().unwrap_or(0);
                if open.twin.as_mut().is_some_and(|twin| !overhear(twin, &bytes[..taken])) {
                    open.twin = None;
                }
                (taken, read)
            });
            took += read.map_err(|error| format!("{error:?}"))?.map_err(|error| error.to_string())?;
            let state = match open.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => return Ok(Some(End::Tls(error.to_string()))),
            };
            let from = plaintext.len();
            plaintext.resize(from + state.plaintext_bytes_to_read(), 0);
            // rustls says so at a close_notify; what came before it is still there.
            open.tls.reader().read_exact(&mut plaintext[from..]).map_err(|error| error.to_string())?;
            closed |= state.peer_has_closed();
        }
        open.read += took;
        open.replies.take(&plaintext);
        while let Some(whole) = open.replies.next_whole()? {
            self.answered(now_ns, open, whole)?;
        }
        if closed && open.replies.is_partial() {
            return Err("close_notify in the middle of a reply".into());
        }
        if closed && !open.closing {
            // The answer to the client's FIN, once it has all it asked for.
            let wanted = open.half_closed && open.answered == self.share(open);
            return Ok(Some(if wanted { End::Done } else { End::Closed }));
        }
        let fin = !socket.may_recv() && !socket.can_recv();
        let fin =
            fin && matches!(socket.state(), TcpState::CloseWait | TcpState::LastAck | TcpState::TimeWait);
        Ok((fin && !open.closing).then_some(End::Truncated))
    }

    /// Sealed bytes it reads now.
    fn reads(&self, now_ns: u64, open: &Open) -> usize {
        match self.plan.conduct {
            Conduct::Slow(rate) => allowed(rate, now_ns, open).saturating_sub(open.read),
            _ => usize::MAX,
        }
    }

    fn answered(&mut self, now_ns: u64, open: &mut Open, whole: Whole) -> Result<(), String> {
        let request = &self.plan.requests[self.answers.len()];
        let possible = match whole.status {
            // An empty body is over before it can fail.
            200 => !request.fails || request.bytes == 0,
            500 => request.fails,
            502 => request.post,
            // Buffers run short: the request is not taken, or a slow one is let go.
            408 | 503 => true,
            _ => false,
        };
        if !possible {
            return Err(format!("status {} for {request:?}", whole.status));
        }
        self.answers.push(Answer::Whole { status: whole.status });
        open.answered += 1;
        if let Some(next) = self.plan.requests.get(self.answers.len()) {
            open.ask_at = now_ns + next.think_us * 1_000;
        }
        Ok(())
    }

    /// Sends the next requests, or the end.
    fn ask(&mut self, now_ns: u64, open: &mut Open) {
        let share = self.share(open);
        while open.sent < share && open.sent - open.answered < self.plan.pipeline && open.ask_at <= now_ns {
            let number = self.answers.len() - open.answered + open.sent;
            let request = &self.plan.requests[number];
            if request.key_update && !self.plan.tls12 && !open.tls.is_handshaking() {
                // What rustls cannot do now it does with the next request.
                let _ = open.tls.refresh_traffic_keys();
            }
            let (bytes, expected) = write(self.number, number, request);
            open.tls.writer().write_all(&bytes).expect("rustls takes all it is given");
            open.replies.expect(expected);
            open.sent += 1;
        }
        let all_sent = open.sent == share;
        if all_sent && self.plan.conduct == Conduct::HalfCloses {
            open.half_closed = true;
        }
        if open.answered == share && !open.closing && !open.tls.is_handshaking() {
            open.tls.send_close_notify();
            open.closing = true;
        }
    }

    fn send(&mut self, now_ns: u64, open: &mut Open, socket: &mut Socket<'_>) {
        while open.tls.wants_write() {
            open.tls.write_tls(&mut open.out).expect("memory can be written");
        }
        let most = match self.plan.conduct {
            Conduct::Dribbles(rate) => allowed(rate, now_ns, open).saturating_sub(open.written),
            _ => usize::MAX,
        };
        let some = &open.out[..open.out.len().min(most)];
        if !some.is_empty() && socket.can_send() {
            let sent = socket.send_slice(some).unwrap_or(0);
            open.written += sent;
            open.out.drain(..sent);
        }
        let empty = open.out.is_empty() && !open.tls.is_handshaking();
        if empty && (open.closing || open.half_closed) && socket.may_send() {
            socket.close();
        }
    }

    fn over(&mut self, end: End, open: &Open, now_ns: u64, hub: &mut Hub) -> Result<(), String> {
        let connection = self.connections.last_mut().expect("the connection that ended");
        connection.secrets = self.secrets.take();
        connection.mid_reply = open.replies.is_partial();
        connection.resumed = open.tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        connection.end = Some(end.clone());
        let vanished = matches!(self.plan.conduct, Conduct::Vanishes(_)) && end == End::Own;
        if !vanished {
            if matches!(end, End::Closed | End::Truncated) {
                hub.sockets.get_mut::<Socket<'_>>(open.handle).close();
            } else if end != End::Done {
                hub.sockets.get_mut::<Socket<'_>>(open.handle).abort();
            }
        }
        // What was sent and not answered is lost; a client does not ask again for what may have been done.
        let lost = if end == End::Done {
            0
        } else {
            (open.sent - open.answered).max(usize::from(open.answered == 0))
        };
        for _ in 0..lost.min(self.plan.requests.len() - self.answers.len()) {
            self.answers.push(Answer::Lost);
        }
        let more = self.answers.len() < self.plan.requests.len();
        let again =
            more && !matches!(end, End::Own) && self.connections.len() < usize::from(PORTS_PER_CLIENT);
        let next_ns = match &self.plan.roam {
            Some(roam) => (now_ns + 1).next_multiple_of(roam.beat_ns.max(1)),
            None => now_ns + MS,
        };
        self.state = if again { State::Waiting(next_ns) } else { State::Ended };
        Ok(())
    }
}

fn begin(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("chaos.test").expect("a name");
    let mut tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
    tls.set_buffer_limit(None);
    tls
}

/// Lets a twin hear some bytes; `false` once it cannot follow. What it says is what the other has said already.
fn overhear(twin: &mut ClientConnection, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let taken = twin.read_tls(&mut bytes).unwrap_or(0);
        let Ok(state) = twin.process_new_packets() else { return false };
        let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
        if taken == 0 || twin.reader().read_exact(&mut plaintext).is_err() {
            return false;
        }
        while twin.wants_write() {
            twin.write_tls(&mut io::sink()).expect("nowhere has room");
        }
    }
    true
}

/// Bytes that so many each millisecond allow by now.
fn allowed(rate: usize, now_ns: u64, open: &Open) -> usize {
    rate * (1 + ((now_ns - open.opened_ns) / MS) as usize)
}

fn write(client: usize, number: usize, request: &RequestPlan) -> (Vec<u8>, Expected) {
    let RequestPlan { bytes, cost_us, pause_us, upload, .. } = request;
    let method = if request.post { "POST" } else { "GET" };
    let mut head = format!("{method} /{client}-{number}?bytes={bytes}&cost_us={cost_us}&pause_us={pause_us}");
    if request.chunked {
        head.push_str("&chunked");
    }
    if request.fails {
        head.push_str("&fail");
    }
    head.push_str(" HTTP/1.1\r\nHost: chaos.test\r\n");
    let mut body = vec![0; *upload];
    app::fill(number as u64, 0, &mut body);
    let uploaded = format!("{}-{:x}", body.len(), app::sum(&body));
    let mut all = head.into_bytes();
    if request.chunked && *upload > 0 {
        all.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(1_000) {
            all.extend(format!("{:x}\r\n", piece.len()).bytes());
            all.extend(piece);
            all.extend(b"\r\n");
        }
        all.extend(b"0\r\n\r\n");
    } else {
        if request.post {
            all.extend(format!("Content-Length: {upload}\r\n").bytes());
        }
        all.extend(b"\r\n");
        all.extend(body);
    }
    (all, Expected { bytes: *bytes, uploaded })
}

fn config(plan: &ClientPlan, clock: &Clock) -> ClientConfig {
    use rustls::crypto::aws_lc_rs::cipher_suite as suites;
    let tls12 = [
        suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let tls13 = [
        suites::TLS13_AES_128_GCM_SHA256,
        suites::TLS13_AES_256_GCM_SHA384,
        suites::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let (suite, version) = if plan.tls12 {
        (tls12[plan.suite], &rustls::version::TLS12)
    } else {
        (tls13[plan.suite], &rustls::version::TLS13)
    };
    let provider = rustls::crypto::CryptoProvider { cipher_suites: vec![suite], ..crypto::provider() };
    let builder = ClientConfig::builder_with_details(Arc::new(provider), Arc::new(clock.clone()));
    builder
        .with_protocol_versions(&[version])
        .expect("a version of the suite")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth()
}
