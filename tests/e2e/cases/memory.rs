//! What a look into a node's memory finds: no lent key at the helper once the lease is over, and no key at all in a
//! core dump of the lender. gdb's gcore does the looking.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVersion};

use crate::client::secrets::{self, Secret};
use crate::client::{tcp, wire_request};
use crate::harness::{Cluster, Decide, NAME, Node, Options};

/// Version and suite of each client.
const CLIENTS: [(SslVersion, &str); 6] = [
    (SslVersion::TLS1_3, "TLS_AES_128_GCM_SHA256"),
    (SslVersion::TLS1_3, "TLS_AES_256_GCM_SHA384"),
    (SslVersion::TLS1_3, "TLS_CHACHA20_POLY1305_SHA256"),
    (SslVersion::TLS1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (SslVersion::TLS1_2, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (SslVersion::TLS1_2, "ECDHE-ECDSA-CHACHA20-POLY1305"),
];

/// Lent replies of each client; the last bytes of one are followed by those of the next.
const REPLIES: usize = 3;
const REPLY_BYTES: usize = 30_000;

/// Bytes that are looked for together: a run of so many is not there by chance.
const WINDOW: usize = 8;

#[test]
fn lent_keys_are_wiped_and_core_dumps_hold_none() {
    let cluster = Cluster::start(&Options::new(1).decide(Decide::Always));
    let clients: Vec<Client> =
        CLIENTS.iter().map(|(version, suite)| Client::connect(&cluster, *version, suite)).collect();
    cluster.expect_counts("all was lent, all leases are over", |a, b| {
        let all = (CLIENTS.len() * REPLIES) as u64;
        let counts = [a.total("replies_lent"), b.total("leases_served")];
        counts == [all, all] && a.total("leases_open") == 0 && b.total("leases_serving") == 0
    });
    let lent: Vec<Secret> = clients.iter().flat_map(Client::lent).collect();
    let mut all: Vec<Secret> = clients.iter().flat_map(Client::held).collect();
    all.extend(lent.iter().cloned());
    all.extend(secrets::of_key_file(cluster.private_key()));

    let directory = cluster.directory();
    let found = search(&dump(cluster.a(), Memory::All, directory), &all);
    for secret in lent.iter().filter(|secret| secret.name.ends_with("key")) {
        assert!(found.contains_key(&secret.name), "the search finds what is there, as {} at A", secret.name);
    }
    let found = search(&dump(cluster.b(), Memory::All, directory), &lent);
    assert!(found.is_empty(), "B has wiped all it was lent, but has {found:?}");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", cluster.a().pid())).expect("A runs");
    let core =
        limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit of the kernel's");
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "the kernel writes no core dump of A: {core}");
    let found = search(&dump(cluster.a(), Memory::AsCoreDump, directory), &all);
    assert!(found.is_empty(), "a core dump of A holds no key, but has {found:?}");
    drop(clients);
    cluster.finish();
}

/// A client that stays connected.
struct Client {
    name: String,
    stream: SslStream<TcpStream>,
    /// Lines of its key log: label, client random, secret.
    log: Arc<Mutex<Vec<String>>>,
}

impl Client {
    fn connect(cluster: &Cluster, version: SslVersion, suite: &str) -> Client {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL starts");
        connector.set_ca_file(cluster.ca()).expect("the authority's file");
        connector.set_min_proto_version(Some(version)).expect("OpenSSL has the version");
        connector.set_max_proto_version(Some(version)).expect("OpenSSL has the version");
        let chosen = if version == SslVersion::TLS1_3 {
            connector.set_ciphersuites(suite)
        } else {
            connector.set_cipher_list(suite)
        };
        chosen.expect("OpenSSL has the suite");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&log);
        connector.set_keylog_callback(move |_, line| lines.lock().expect("no panic").push(line.to_owned()));
        let stream = cluster.clients().enter(tcp);
        let stream = connector.build().connect(NAME, stream).expect("the handshake succeeds");
        let mut client = Client { name: suite.to_owned(), stream, log };
        for _ in 0..REPLIES {
            client.get();
        }
        client
    }

    fn get(&mut self) {
        let request = wire_request(&format!("/?bytes={REPLY_BYTES}&lend=1"));
        self.stream.write_all(request.as_bytes()).expect("the node reads");
        let mut reply = Vec::new();
        let mut some = [0; 16_384];
        while !is_whole(&reply) {
            let read = self.stream.read(&mut some).expect("the node answers");
            assert!(read > 0, "the reply is whole");
            reply.extend_from_slice(&some[..read]);
        }
    }

    /// What the helper was lent: key, IV, and what AES makes of the key.
    fn lent(&self) -> Vec<Secret> {
        let log = self.log.lock().expect("no panic");
        let mut randoms = [[0; 32]; 2];
        self.stream.ssl().client_random(&mut randoms[0]);
        self.stream.ssl().server_random(&mut randoms[1]);
        secrets::server_write(&self.name, &log, &randoms)
    }

    /// What only the lender has.
    fn held(&self) -> Vec<Secret> {
        secrets::of_log(&self.name, &self.log.lock().expect("no panic"))
    }
}

fn is_whole(reply: &[u8]) -> bool {
    let head = reply.windows(4).position(|end| end == b"\r\n\r\n");
    head.is_some_and(|head| reply.len() >= head + 4 + REPLY_BYTES)
}

#[derive(Clone, Copy)]
enum Memory {
    /// Everything that is mapped.
    All,
    /// What the process lets into a core dump.
    AsCoreDump,
}

/// Writes what a process has in memory, registers included, with gcore.
fn dump(node: &Node, memory: Memory, directory: &Path) -> File {
    let prefix = directory.join("core");
    let mut gcore = Command::new("gcore");
    if matches!(memory, Memory::All) {
        gcore.arg("-a");
    }
    let pid = node.pid().to_string();
    let output = gcore.arg("-o").arg(&prefix).arg(&pid).output().expect("gcore starts (package gdb)");
    let path = directory.join(format!("core.{pid}"));
    let file = File::open(&path).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    // Hundreds of megabytes: its name goes at once, its bytes when it has been read.
    std::fs::remove_file(path).expect("the directory is the test's");
    file
}

/// The secrets of which a run of bytes is in the dump, and how often.
fn search(dump: &File, secrets: &[Secret]) -> HashMap<String, usize> {
    let mut windows: HashMap<[u8; WINDOW], &str> = HashMap::new();
    let mut first = vec![false; 1 << 16];
    for secret in secrets {
        for window in secret.bytes.windows(WINDOW) {
            let window: [u8; WINDOW] = window.try_into().expect("windows are exact");
            first[usize::from(u16::from_le_bytes([window[0], window[1]]))] = true;
            windows.insert(window, &secret.name);
        }
    }
    let mut found = HashMap::new();
    let mut bytes = vec![0; 1 << 20];
    let mut kept = 0;
    let mut dump = dump;
    loop {
        let read = dump.read(&mut bytes[kept..]).expect("the dump reads");
        if read == 0 {
            return found;
        }
        let filled = kept + read;
        for window in bytes[..filled].windows(WINDOW) {
            if first[usize::from(u16::from_le_bytes([window[0], window[1]]))]
                && let Some(name) = windows.get(window)
            {
                *found.entry((*name).to_owned()).or_default() += 1;
            }
        }
        kept = filled.min(WINDOW - 1);
        bytes.copy_within(filled - kept..filled, 0);
    }
}
