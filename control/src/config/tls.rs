//! `[[certificate]]` and `[tls]`: who the node proves to be, and what it negotiates.

use std::path::PathBuf;
use std::time::Duration;

use keyferry_tls::Fragment;

use super::files::{self, FileError};
use super::reader::{Context, Section};

/// Certificates of a node, at most.
pub const CERTIFICATES_MAX: usize = 1024;
/// Longest life of a session: RFC 8446 section 4.6.1 allows seven days.
const SESSION_LIFETIME_S_MAX: u64 = 604_800;

/// A certificate and its key; read them with [`files`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The chain in PEM, leaf first.
    pub chain: PathBuf,
    /// The private key in PEM.
    pub key: PathBuf,
}

/// What is negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// TLS 1.2 is offered.
    pub tls12: bool,
    /// TLS 1.3 is offered.
    pub tls13: bool,
    /// How sessions resume.
    pub resumption: Resumption,
    /// Clients resume at any node; else only at the one they met.
    pub sessions_shared: bool,
    /// How long a handshake waits for a session that another node keeps.
    pub session_wait: Duration,
    /// Most plaintext of a record sent.
    pub max_fragment: Fragment,
    /// Where the secrets of connections are logged, if at all.
    pub key_log: Option<PathBuf>,
}

/// How sessions resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// Session IDs and PSKs, kept here.
    Table {
        /// Sessions of all workers together.
        sessions: usize,
        /// How long one is kept.
        lifetime: Duration,
    },
    /// Sealed tickets, kept by the client.
    Tickets {
        /// How long one is taken.
        lifetime: Duration,
    },
    /// Every handshake is full.
    Off,
}

impl Resumption {
    /// How long a session can be resumed, if it can be.
    pub fn lifetime(self) -> Option<Duration> {
        match self {
            Resumption::Table { lifetime, .. } | Resumption::Tickets { lifetime } => Some(lifetime),
            Resumption::Off => None,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Table,
    Tickets,
    Off,
}

const KINDS: &[(&str, Kind)] = &[("table", Kind::Table), ("tickets", Kind::Tickets), ("off", Kind::Off)];

pub(super) fn read_certificate(mut section: Section<'_, '_>) -> Option<Certificate> {
    let chain = section.file("chain");
    let chain = section.required("chain", chain, "the PEM file of the certificate chain");
    let key = section.file("key");
    let key = section.required("key", key, "the PEM file of the private key");
    section.finish();
    Some(Certificate { chain: chain?, key: key? })
}

pub(super) fn read(mut section: Section<'_, '_>) -> Tls {
    let wants = "a list of versions, such as [\"1.3\", \"1.2\"]";
    let version = |text: &str| match text {
        "1.3" => Ok(true),
        "1.2" => Ok(false),
        _ => Err(format!("there is no version \"{text}\" here: write \"1.3\", \"1.2\" or both")),
    };
    let versions =
        section.parsed_list("versions", wants, 1..=2, version).unwrap_or_else(|| vec![true, false]);
    let kind = section.choice("resumption", KINDS, Kind::Table);
    let sessions = section.number("sessions", 65_536, 1..=1 << 26);
    let lifetime =
        Duration::from_secs(section.number("session_lifetime_s", 7200, 1..=SESSION_LIFETIME_S_MAX));
    let sessions_shared = section.flag("sessions_shared", true);
    let session_wait = Duration::from_millis(section.number("session_wait_ms", 20, 1..=10_000));
    let fragment = section.number(
        "max_fragment",
        Fragment::MAX.bytes(),
        Fragment::BYTES_MIN as u64..=Fragment::MAX.bytes() as u64,
    );
    let key_log = section.file("key_log");
    section.finish();
    Tls {
        tls12: versions.contains(&false),
        tls13: versions.contains(&true),
        resumption: match kind {
            Kind::Table => Resumption::Table { sessions, lifetime },
            Kind::Tickets => Resumption::Tickets { lifetime },
            Kind::Off => Resumption::Off,
        },
        sessions_shared,
        session_wait,
        max_fragment: Fragment::new(fragment).unwrap_or(Fragment::MAX),
        key_log,
    }
}

/// Whether there is a certificate and the files hold what they should.
pub(super) fn check(context: &Context<'_>, certificates: &[(usize, Certificate)], declared: usize) {
    if declared == 0 {
        context.report(
            "certificate[0]",
            "https needs a certificate: add a [[certificate]] with its chain and key",
        );
    }
    for (index, certificate) in certificates {
        report(context, index, "chain", files::certificate_chain(&certificate.chain).err());
        report(context, index, "key", files::private_key(&certificate.key).err());
    }
}

fn report(context: &Context<'_>, index: &usize, key: &str, error: Option<FileError>) {
    if let Some(error) = error {
        context.report(&format!("certificate[{index}].{key}"), error.to_string());
    }
}
