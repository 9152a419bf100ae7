//! The links between nodes: who is refused and what both logs say about it, and links that end and come back.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::Curl;
use crate::harness::{Cluster, Decide, Node, Options};

/// Longest time until a node has logged what it is to log, or lends again.
const SOON: Duration = Duration::from_secs(30);

/// The first bytes of a link, and the version this release speaks.
const MAGIC: &[u8; 8] = b"kf-link\0";
const VERSION: u32 = 3;

fn wait_logged(node: &Node, sentence: &str) {
    let deadline = Instant::now() + SOON;
    while !node.log().contains(sentence) {
        assert!(Instant::now() < deadline, "not logged: {sentence}\n{}", node.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Both logs say why, each once though A has tried more often; then what is put right works.
fn refused(cluster: &mut Cluster, a_says: &str, b_says: &str) {
    wait_logged(cluster.a(), a_says);
    wait_logged(cluster.b(), b_says);
    let reply = Curl::new(cluster).get("/?bytes=100").run().remove(0);
    assert_eq!(reply.status, 200, "the nodes serve, each by itself");
    for node in [cluster.a(), cluster.b()] {
        let status = node.status();
        assert_eq!((status.total("peers_ready"), status.total("links_up")), (0, 0));
        assert!(status.total("links_failed") > 0, "{status}");
    }
    for (node, sentence) in [(cluster.a(), a_says), (cluster.b(), b_says)] {
        assert_eq!(node.log().matches(sentence).count(), 1, "{}", node.log());
    }
}

/// Restarts both nodes after their configurations were edited.
fn restart(cluster: &mut Cluster, edit: impl Fn(&str, String) -> String) {
    cluster.take_a().stop();
    cluster.take_b().stop();
    for name in ["a", "b"] {
        cluster.edit_config(name, |text| edit(name, text));
    }
    cluster.start_b();
    cluster.start_a();
}

fn started() -> Cluster {
    Cluster::start(&Options::new(1).decide(Decide::Always))
}

#[test]
fn another_authority() {
    let mut cluster = started();
    cluster.certify("other", &["b"]);
    restart(&mut cluster, |name, text| match name {
        "b" => text.replace("/cluster/", "/other/"),
        _ => text,
    });
    refused(
        &mut cluster,
        "its certificate is not signed by the cluster's CA",
        "it refused this node's certificate: it is not signed by the peer's [cluster] ca",
    );
    restart(&mut cluster, |_, text| text.replace("/other/", "/cluster/"));
    cluster.wait_linked(1);
    cluster.finish();
}

#[test]
fn another_name() {
    let mut cluster = started();
    restart(&mut cluster, |name, text| match name {
        "a" => text.replace("[[peer]]\nname = \"b\"", "[[peer]]\nname = \"c\""),
        _ => text,
    });
    refused(
        &mut cluster,
        "its certificate is for b and not for c",
        "it refused this node's certificate: it is not for the name the peer has for this node",
    );
    restart(&mut cluster, |_, text| text.replace("[[peer]]\nname = \"c\"", "[[peer]]\nname = \"b\""));
    cluster.wait_linked(1);
    cluster.finish();
}

#[test]
fn an_expired_certificate() {
    let mut cluster = started();
    expire(&cluster.directory().join("cluster"));
    restart(&mut cluster, |name, text| match name {
        "b" => text.replace("/cluster/b.", "/cluster/old."),
        _ => text,
    });
    refused(
        &mut cluster,
        "its certificate has expired",
        "it refused this node's certificate: it has expired or is not valid yet",
    );
    assert!(cluster.b().log().contains("peers will refuse"), "it is told at start already");
    restart(&mut cluster, |_, text| text.replace("/cluster/old.", "/cluster/b."));
    cluster.wait_linked(1);
    cluster.finish();
}

/// `old.pem` and `old.key` for B, over since 2021.
fn expire(folder: &Path) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("the authority's files");
    let key = KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("an authority");
    let mut params = CertificateParams::new(["b".to_owned()]).expect("a DNS name");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2021, 1, 1);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let pair = KeyPair::generate().expect("a key");
    let old = params.signed_by(&pair, &issuer).expect("signed");
    fs::write(folder.join("old.pem"), old.pem()).expect("the test's directory is writable");
    // With the permissions of a key: written over one.
    fs::copy(folder.join("b.key"), folder.join("old.key")).expect("the test's directory is writable");
    fs::write(folder.join("old.key"), pair.serialize_pem()).expect("the test's directory is writable");
}

/// A TLS connection to B's listener with A's certificate, as A would make it.
fn as_a(cluster: &Cluster) -> StreamOwned<ClientConnection, UnixStream> {
    let file = |name: &str| cluster.directory().join("cluster").join(name);
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(file("ca.pem")).expect("the authority's certificate");
    roots.add(ca).expect("the authority's certificate");
    let chain = vec![CertificateDer::from_pem_file(file("a.pem")).expect("A's certificate")];
    let key = PrivateKeyDer::from_pem_file(file("a.key")).expect("A's key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("key and certificate fit");
    config.alpn_protocols = vec![b"keyferry-link".to_vec()];
    let name = ServerName::try_from("b").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a connection");
    StreamOwned::new(tls, UnixStream::connect(cluster.link_socket("b")).expect("B listens"))
}

/// A hello of A with one worker and small limits; `docs/PROTOCOL.md` has its fields.
fn hello_of_a(version: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(1u64.to_le_bytes());
    body.extend([7; 32]);
    body.push(1);
    body.extend(1u16.to_le_bytes());
    body.push(1);
    for limit in [8192u64, 512, 768, 1 << 20, 1 << 20] {
        body.extend(limit.to_le_bytes());
    }
    body.extend([1, b'a']);
    let mut hello = MAGIC.to_vec();
    hello.extend(version.to_le_bytes());
    hello.extend((body.len() as u32).to_le_bytes());
    hello.extend(body);
    hello
}

#[test]
fn another_version() {
    let mut cluster = started();
    cluster.take_a().stop();
    let mut stream = as_a(&cluster);
    stream.write_all(&hello_of_a(VERSION + 6)).expect("said");
    let mut prefix = [0; 16];
    stream.read_exact(&mut prefix).expect("B says its version to whoever it is");
    assert_eq!((&prefix[..8], &prefix[8..12]), (&MAGIC[..], &VERSION.to_le_bytes()[..]));
    wait_logged(cluster.b(), "it speaks link version 9, this node 3");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("B closes in order");
    cluster.start_a();
    cluster.wait_linked(1);
    cluster.finish();
}

/// Nobody without a certificate gets as far as a hello, and nobody with an older TLS.
#[test]
fn openssl_without_a_certificate() {
    let cluster = started();
    let socket = cluster.link_socket("b");
    for (options, answer, logged) in [
        (&["-tls1_3"][..], "certificate required", "it presented no certificate"),
        (&["-tls1_2"], "protocol version", "it does not speak TLS 1.3 as a link does"),
    ] {
        let mut child = Command::new("openssl")
            .args(["s_client", "-alpn", "keyferry-link", "-servername", "b", "-unix"])
            .arg(&socket)
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl starts");
        // Kept open: s_client leaves at the end of its input, and is to hear the alert first.
        let input = child.stdin.take();
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        child.wait().expect("openssl ends");
        drop(input);
        assert!(said.contains(answer), "{said}");
        wait_logged(cluster.b(), logged);
    }
    let reply = Curl::new(&cluster).get("/?bytes=100").run().remove(0);
    assert_eq!(reply.status, 200);
    cluster.expect_replies(0, 1);
    cluster.finish();
}

/// A descriptor nobody announced ends the link it comes on, and is closed.
#[test]
fn an_unannounced_descriptor() {
    let mut cluster = started();
    cluster.take_a().stop();
    let open = || fs::read_dir(format!("/proc/{}/fd", cluster.b().pid())).expect("B runs").count();
    let before = open();
    // Room for one is room for two, and for three if it lies well.
    for count in [2, 3, 2, 3] {
        let mut stream = as_a(&cluster);
        stream.write_all(&hello_of_a(VERSION)).expect("said");
        pass_descriptors(&stream.sock, count);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    wait_logged(cluster.b(), "descriptors");
    let deadline = Instant::now() + SOON;
    while open() > before {
        assert!(Instant::now() < deadline, "B keeps descriptors");
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.start_a();
    cluster.wait_linked(1);
    cluster.finish();
}

fn pass_descriptors(stream: &UnixStream, count: usize) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let fds = vec![stream.as_fd(); count];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(stream, &[std::io::IoSlice::new(&[0x17])], &mut control, SendFlags::empty()).expect("passed");
}

/// A peer that starts anew is another incarnation, and gets other keys.
#[test]
fn a_peer_restarts() {
    let mut cluster = Cluster::start(&Options::new(2).decide(Decide::Always));
    for life in 1..=3 {
        let logged = incarnations(cluster.a());
        assert_eq!(logged.len(), life, "{}", cluster.a().log());
        assert!(logged.windows(2).all(|pair| pair[0] < pair[1]), "each life is a later one: {logged:?}");
        let before = cluster.a().status().total("replies_lent");
        let reply = Curl::new(&cluster).get("/?bytes=5000").run().remove(0);
        assert_eq!(reply.status, 200);
        cluster.a().wait_for("lent", SOON, |status| status.total("replies_lent") == before + 1);
        cluster.take_b().stop();
        wait_logged(cluster.a(), "it is ending");
        cluster.start_b();
        cluster.wait_linked(2);
    }
    cluster.finish();
}

fn incarnations(node: &Node) -> Vec<u64> {
    let log = node.log();
    let of = |line: &str| line.split_once("incarnation=")?.1.split(' ').next()?.parse().ok();
    log.lines().filter(|line| line.contains("connected")).filter_map(of).collect()
}

/// The link ends under load though both nodes live: whoever else has A's certificate takes its place at B. Leases end
/// by their rules, the link comes back by itself.
#[test]
fn the_link_is_cut_under_load() {
    const CUTS: usize = 4;
    let cluster = Cluster::start(&Options::new(2).decide(Decide::Always));
    let load = cluster.loader(&["-c", "8", "-d", "100", "--bytes-mix", "10,20000,500000", "--timeout", "15"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    for cut in 0..CUTS {
        let lent = cluster.a().status().total("replies_lent");
        cluster.a().wait_for("lending", SOON, |status| status.total("replies_lent") >= lent + 100);
        let mut stream = as_a(&cluster);
        stream.write_all(&hello_of_a(VERSION)).expect("said");
        stream.flush().expect("said");
        let lost = (cut as u64 + 1) * 2;
        cluster.a().wait_for("the loss of each pair", SOON, |status| status.total("peers_lost") >= lost);
    }
    let lent = cluster.a().status().total("replies_lent");
    cluster.a().wait_for("lending again", SOON, |status| status.total("replies_lent") >= lent + 100);
    stop.store(true, Ordering::Relaxed);
    let report = load.join().expect("the load ends in order");
    let errors = &report.errors;
    assert_eq!(report.mismatches, 0, "{report}");
    assert_eq!(
        (errors.connect, errors.tls, errors.http, errors.status, errors.timeout),
        (0, 0, 0, 0, 0),
        "{report}"
    );
    assert!(errors.reset + errors.closed <= (8 * CUTS) as u64, "{report}");
    cluster.finish();
}

/// A process that is stopped closes nothing: only its silence tells.
#[test]
fn a_peer_freezes() {
    let options = Options::new(1).decide(Decide::Always).heartbeat_timeout_ms(1000);
    let cluster = Cluster::start(&options);
    cluster.b().freeze();
    wait_logged(cluster.a(), "no sign of life for 1000 ms");
    cluster.a().wait_for("the loss of its peer", SOON, |status| status.total("peers_ready") == 0);
    let reply = Curl::new(&cluster).get("/?bytes=100").run().remove(0);
    assert_eq!(reply.status, 200);
    cluster.b().resume();
    cluster.wait_linked(1);
    let lent = cluster.a().status().total("replies_lent");
    let reply = Curl::new(&cluster).get("/?bytes=100").run().remove(0);
    assert_eq!(reply.status, 200);
    cluster.a().wait_for("lending again", SOON, |status| status.total("replies_lent") == lent + 1);
    cluster.finish();
}
