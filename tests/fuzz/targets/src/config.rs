//! The configuration file, as text of any content.
//!
//! Input: the text, as far as it is UTF-8: reading the file refuses anything else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use keyferry_control::config::{self, CERTIFICATES_MAX, Config, LISTENERS_MAX, PEERS_MAX, Problems};

use crate::folders::made_once;
use crate::{Seed, Target};

/// Bytes of text at most: what a parser does with more it does with these.
const TEXT_BYTES_MAX: usize = 16 << 10;

pub(crate) static TARGET: Target = Target { name: "config", heap_bytes_max: 32 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    };
    let cores = BTreeSet::from([0, 1, 2, 3]);
    match config::read_text(text, file(), &cores) {
        Ok(config) => accepted(text, &config, &cores),
        Err(problems) => refused(text, &problems),
    }
}

fn accepted(text: &str, config: &Config, cores: &BTreeSet<usize>) {
    assert_eq!(
        config::read_text(text, file(), cores).as_ref(),
        Ok(config),
        "the same text, the same meaning"
    );
    assert!(!config.cores.workers.is_empty(), "somebody has to work");
    assert!(config.cores.workers.iter().all(|core| cores.contains(&core.0)), "on cores there are");
    assert!(config.https_ports().count() > 0, "somebody has to be served");
    assert!((1..=CERTIFICATES_MAX).contains(&config.certificates.len()));
    assert!((1..=LISTENERS_MAX).contains(&config.listeners.len()));
    assert!(config.peers.len() <= PEERS_MAX);
    assert!(config.peers.iter().all(|peer| peer.name != config.node.name), "no node is its own peer");
    let limits = &config.limits;
    assert!(limits.half_open <= limits.connections && limits.handshakes <= limits.connections);
}

fn refused(text: &str, problems: &Problems) {
    let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
    assert!(!problems.list().is_empty(), "a refusal says why");
    for problem in problems.list() {
        assert!(!problem.what.is_empty(), "and what to do");
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "and where");
    }
    assert!(!problems.to_string().is_empty());
}

/// A file name beside the files that seeds name.
fn file() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| made_once("keyferry-fuzz-config-1", make).join("keyferry.toml"))
}

fn make(folder: &Path) {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("the folder is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    };
    fs::create_dir(folder.join("www")).expect("the folder is writable");
    let made = rcgen::generate_simple_self_signed(["example.net".to_owned()]).expect("a certificate");
    write("cert.pem", made.cert.pem().as_bytes());
    write("key.pem", made.signing_key.serialize_pem().as_bytes());
    write("pair.key", &[7; 32]);
}

/// The example, and smaller files.
fn seeds() -> Vec<Seed> {
    const EXAMPLE: &str = include_str!("../../../../docs/examples/keyferry.toml");
    const LEAST: &str = r#"[node]
name = "a"
[nic]
device = "net_af_packet0,iface=kf0"
addresses = ["192.0.2.10/24", "2001:db8::10/64"]
[[certificate]]
chain = "cert.pem"
key = "key.pem"
"#;
    let example = EXAMPLE.replace("/etc/keyferry/", "").replace("/var/www", "www");
    vec![
        ("example".into(), example.into_bytes()),
        ("least".into(), LEAST.into()),
        (
            "peers".into(),
            format!("{LEAST}[[peer]]\nname = \"b\"\nsocket = \"b.sock\"\nkey = \"pair.key\"\n").into(),
        ),
        ("unknown".into(), format!("{LEAST}[limit]\nconnection = 5\n[nic.mtu]\n[http2]\nx=1\n").into()),
        ("syntax".into(), b"[node\nname = 'a\n[[x]]\ny = {a = [1, 0x7f, 1e9, 1979-05-27]}".to_vec()),
    ]
}
