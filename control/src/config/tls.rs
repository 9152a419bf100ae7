//! `[[certificate]]` and `[tls]`: who the node proves to be, and what it negotiates.

use std::path::PathBuf;
use std::time::Duration;

use keyferry_tls::{CertificatePem, ConfigError, Fragment};

use super::changes::Ledger;
use super::files::{self, FileError};
use super::reader::{Context, Section};

/// Certificates of a node, at most.
pub const CERTIFICATES_MAX: usize = 1024;
/// Longest life of a session: RFC 8446 section 4.6.1 allows seven days.
const SESSION_LIFETIME_S_MAX: u64 = 604_800;

/// Longest time before its end that a certificate is warned of, in days: longer than any is valid for the public.
const EXPIRY_WARNING_DAYS_MAX: u64 = 3650;

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
    /// Certificates are taken over when their files change.
    pub watch: bool,
    /// How long before its end a certificate is warned of.
    pub expiry_warning: Duration,
}

impl Tls {
    /// Goes by another table of the file. Sessions and ticket keys are the same throughout.
    pub(super) fn take_over(&mut self, new: &Tls, ledger: &mut Ledger) {
        let Tls {
            tls12,
            tls13,
            resumption,
            sessions_shared,
            session_wait,
            max_fragment,
            key_log,
            watch,
            expiry_warning,
        } = self;
        let (mut now, versions) = ((*tls12, *tls13), (new.tls12, new.tls13));
        ledger.live("[tls]", "versions", &mut now, &versions);
        (*tls12, *tls13) = now;
        resumption.compare(new.resumption, ledger);
        ledger.fixed("[tls]", "sessions_shared", sessions_shared, &new.sessions_shared);
        ledger.live("[tls]", "session_wait_ms", session_wait, &new.session_wait);
        ledger.live("[tls]", "max_fragment", max_fragment, &new.max_fragment);
        ledger.fixed("[tls]", "key_log", key_log, &new.key_log);
        ledger.live("[tls]", "watch", watch, &new.watch);
        ledger.live("[tls]", "expiry_warning_days", expiry_warning, &new.expiry_warning);
    }
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

impl Resumption {
    fn compare(self, new: Resumption, ledger: &mut Ledger) {
        match (self, new) {
            (
                Resumption::Table { sessions, lifetime },
                Resumption::Table { sessions: new_sessions, lifetime: new_lifetime },
            ) => {
                ledger.fixed("[tls]", "sessions", &sessions, &new_sessions);
                ledger.fixed("[tls]", "session_lifetime_s", &lifetime, &new_lifetime);
            }
            (Resumption::Tickets { lifetime }, Resumption::Tickets { lifetime: new }) => {
                ledger.fixed("[tls]", "session_lifetime_s", &lifetime, &new);
            }
            (Resumption::Off, Resumption::Off) => {}
            _ => ledger.needs_restart("[tls]", "resumption"),
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
    let watch = section.flag("watch", true);
    let days = section.number("expiry_warning_days", 21, 0..=EXPIRY_WARNING_DAYS_MAX);
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
        watch,
        expiry_warning: Duration::from_secs(days * 24 * 3600),
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
        match (files::certificate_chain(&certificate.chain), files::private_key(&certificate.key)) {
            (Ok(chain), Ok(key)) => {
                let source = certificate.chain.display().to_string();
                check_pair(context, *index, &CertificatePem { chain, key, source });
            }
            (chain, key) => {
                report(context, index, "chain", chain.err());
                report(context, index, "key", key.err());
            }
        }
    }
}

/// Whether they are of use together.
fn check_pair(context: &Context<'_>, index: usize, pair: &CertificatePem) {
    let Err(error) = pair.check() else { return };
    let key = match &error {
        ConfigError::NoKey { .. }
        | ConfigError::EncryptedKey { .. }
        | ConfigError::UnusableKey { .. }
        | ConfigError::WrongKey { .. } => "key",
        _ => "chain",
    };
    context.report(&format!("certificate[{index}].{key}"), error.to_string());
}

fn report(context: &Context<'_>, index: &usize, key: &str, error: Option<FileError>) {
    if let Some(error) = error {
        context.report(&format!("certificate[{index}].{key}"), error.to_string());
    }
}
