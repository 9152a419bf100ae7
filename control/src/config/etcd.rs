//! `[cluster.etcd]`: where the members are listed, in place of every `[[peer]]`, and of a distributor's `[[node]]` with a
//! link. Nodes and distributors have the same keys.

use std::path::PathBuf;
use std::time::Duration;

use super::changes::Ledger;
use super::cluster::{self, LISTEN_MAX};
use super::files::{self, FileError};
use super::lending::{Driver, PEERS_MAX};
use super::reader::{Context, Section};
use crate::links::Address;
use crate::members::MEMBERS_MAX;

/// Endpoints of an etcd cluster, at most.
pub const ENDPOINTS_MAX: usize = 16;
/// Other nodes at most, and as many unless the file says otherwise. Of a node: it makes buffers for so many.
pub(super) const OF_A_NODE: (u64, u64) = (PEERS_MAX as u64, 8);
/// Of a distributor, for which a node is a few bytes: as many as there may be members.
pub(super) const OF_A_DISTRIBUTOR: (u64, u64) = (MEMBERS_MAX as u64, 64);
/// Longest prefix, in bytes.
const PREFIX_BYTES_MAX: usize = 255;

/// How members are found in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Where it is reached: all `http://` or all `https://`.
    pub endpoints: Vec<String>,
    /// What the keys of this cluster begin with.
    pub prefix: String,
    /// Silence towards etcd after which a member has left.
    pub ttl: Duration,
    /// Other nodes at most.
    pub nodes_max: usize,
    /// Where others reach this process.
    pub advertise: Vec<Address>,
    /// Whom it believes, with `https://`.
    pub tls: Option<EtcdTls>,
    /// User, and the file of the password.
    pub user: Option<(String, PathBuf)>,
}

/// Files of TLS with etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificates of the authority that certifies etcd.
    pub ca: PathBuf,
    /// This process's certificate chain and key, if etcd wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The table, if the file has it. `listen`: where this process listens for others; `nodes`: the most there may be, and the
/// default.
pub(super) fn read(
    mut section: Section<'_, '_>,
    is_there: bool,
    listen: &[Address],
    nodes: (u64, u64),
) -> Option<Etcd> {
    let wants = "a list such as [\"http://192.0.2.5:2379\", \"http://192.0.2.6:2379\"]";
    let endpoints = section.parsed_list("endpoints", wants, 1..=ENDPOINTS_MAX, endpoint);
    let endpoints = if is_there { section.required("endpoints", endpoints, wants) } else { endpoints };
    let wants = "the beginning of this cluster's keys, such as \"/keyferry\"";
    let prefix = section.parsed("prefix", wants, prefix).unwrap_or_else(|| "/keyferry".to_owned());
    let ttl = Duration::from_secs(section.number("ttl_s", 10, 2..=3600));
    let nodes_max = section.number("nodes_max", nodes.1 as usize, 1..=nodes.0);
    let wants = "a list such as [\"192.0.2.10:7411\"]: what others find in etcd";
    let folder = section.folder().to_owned();
    let advertise =
        section.parsed_list("advertise", wants, 1..=LISTEN_MAX, |text| cluster::address(text, &folder));
    let (ca, certificate, key) = (section.file("ca"), section.file("certificate"), section.file("key"));
    let user = section.parsed("user", "the user's name in etcd", |name| match name {
        "" => Err("this name is empty: leave the key out where etcd has no users"),
        name => Ok(name.to_owned()),
    });
    let password = section.file("password_file");
    for (one, (other, key)) in [
        (certificate.is_some(), (key.is_some(), "key")),
        (key.is_some(), (certificate.is_some(), "certificate")),
        (user.is_some(), (password.is_some(), "password_file")),
        (password.is_some(), (user.is_some(), "user")),
    ] {
        if one && !other && !section.context.is_set(&section.path(key)) {
            section.report(key, "this key is required: it goes with the other one of its pair");
        }
    }
    section.finish();
    Some(Etcd {
        endpoints: endpoints?,
        prefix,
        ttl,
        nodes_max,
        advertise: advertise.unwrap_or_else(|| listen.to_owned()),
        tls: ca.map(|ca| EtcdTls { ca, identity: certificate.zip(key) }),
        user: user.zip(password),
    })
}

/// What another table of the file would change.
pub(super) fn compare(now: Option<&Etcd>, new: Option<&Etcd>, ledger: &mut Ledger) {
    let table = "[cluster.etcd]";
    let (Some(now), Some(new)) = (now, new) else {
        return ledger.fixed(table, "", &now.is_some(), &new.is_some());
    };
    let Etcd { endpoints, prefix, ttl, nodes_max, advertise, tls, user } = now;
    ledger.fixed(table, "endpoints", endpoints, &new.endpoints);
    ledger.fixed(table, "prefix", prefix, &new.prefix);
    ledger.fixed(table, "ttl_s", ttl, &new.ttl);
    ledger.fixed(table, "nodes_max", nodes_max, &new.nodes_max);
    ledger.fixed(table, "advertise", advertise, &new.advertise);
    let ca = |tls: &Option<EtcdTls>| tls.as_ref().map(|tls| tls.ca.clone());
    ledger.fixed(table, "ca", &ca(tls), &ca(&new.tls));
    type Files = Option<(PathBuf, PathBuf)>;
    let identity = |tls: &Option<EtcdTls>| -> Files { tls.as_ref().and_then(|tls| tls.identity.clone()) };
    let certificate = |files: &Files| files.as_ref().map(|(certificate, _)| certificate.clone());
    let key = |files: &Files| files.as_ref().map(|(_, key)| key.clone());
    let (before, after) = (identity(tls), identity(&new.tls));
    ledger.fixed(table, "certificate", &certificate(&before), &certificate(&after));
    ledger.fixed(table, "key", &key(&before), &key(&after));
    let name = |user: &Option<(String, PathBuf)>| user.as_ref().map(|(name, _)| name.clone());
    let password = |user: &Option<(String, PathBuf)>| user.as_ref().map(|(_, file)| file.clone());
    ledger.fixed(table, "user", &name(user), &name(&new.user));
    ledger.fixed(table, "password_file", &password(user), &password(&new.user));
}

fn endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest.map(str::parse::<http::uri::Authority>) {
        Some(Ok(authority)) if authority.port().is_some() => Ok(text.to_owned()),
        _ => Err(format!("\"{text}\" is no endpoint: write \"http://HOST:PORT\" or \"https://HOST:PORT\"")),
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    match plain && (1..=PREFIX_BYTES_MAX).contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "\"{text}\" is no prefix: write up to {PREFIX_BYTES_MAX} printable characters without spaces, such as \
             \"/keyferry\""
        )),
    }
}

/// Whether it is of use with the rest of the file; `driver`: what queue pairs are made on, if any are.
pub(super) fn check(context: &Context<'_>, etcd: &Etcd, driver: Option<Driver>, has_peers: bool) {
    let report = |key: &str, what: String| context.report(&format!("cluster.etcd.{key}"), what);
    if has_peers {
        let what = "members come from etcd or from this file: remove this table, or every [[peer]]";
        context.report("cluster.etcd", what);
    }
    let secure = etcd.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    if secure != 0 && secure != etcd.endpoints.len() {
        report(
            "endpoints",
            "some have TLS and some have not: write https:// for all, or for none".to_owned(),
        );
    }
    match (&etcd.tls, secure > 0) {
        (None, true) => {
            report("ca", "https endpoints need it: write the path of the authority's certificate".to_owned());
        }
        (Some(_), false) => {
            report("ca", "http endpoints have no TLS: write https://, or leave this out".to_owned());
        }
        (None, false) | (Some(_), true) => {}
    }
    if let Some(tls) = &etcd.tls {
        check_file(&report, "ca", files::certificate_chain(&tls.ca).err());
        if let Some((certificate, key)) = &tls.identity {
            check_file(&report, "certificate", files::certificate_chain(certificate).err());
            check_file(&report, "key", files::private_key(key).err().or_else(|| exposed(key)));
        }
    }
    if let Some((_, password)) = &etcd.user {
        check_file(&report, "password_file", files::password(password).err());
    }
    for address in &etcd.advertise {
        if let Address::Tcp(address) = address
            && address.ip().is_unspecified()
        {
            report("advertise", format!("nobody reaches {address}: write this machine's own address"));
        }
    }
    // Distributors may be on other machines, so other addresses are of use besides.
    let is_local = |address: &Address| matches!(address, Address::Unix(_));
    if driver == Some(Driver::Shm) && !etcd.advertise.iter().any(is_local) {
        let what = "[fabric] driver \"shm\" passes memory to peers: write a \"unix:PATH\" too";
        report("advertise", what.to_owned());
    }
}

fn exposed(key: &std::path::Path) -> Option<FileError> {
    files::is_exposed(key).then(|| FileError::Exposed(key.to_owned()))
}

fn check_file(report: &impl Fn(&str, String), key: &str, error: Option<FileError>) {
    if let Some(error) = error {
        report(key, error.to_string());
    }
}
