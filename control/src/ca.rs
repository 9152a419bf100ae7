//! `keyferry ca`: a certificate authority of the cluster's own, for those who have none. In: a folder, and names of
//! nodes. Out: PEM files, and what to copy where. Keys can be read by their owner only, and nothing is overwritten.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::links::trust;

/// How long a CA lasts, in days, unless it is said otherwise.
pub const CA_DAYS: u16 = 3650;
/// How long a node's certificate lasts, in days, unless it is said otherwise.
pub const NODE_DAYS: u16 = 365;
/// Certificates are valid a little before they were made: clocks differ.
pub(crate) const CLOCKS_DIFFER: Duration = Duration::hours(1);
/// Largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Makes a CA: `ca.pem` and `ca.key` in `folder`, which is made if it is missing. Returns what to say about it.
///
/// # Errors
/// A file exists already or cannot be written.
pub fn init(folder: &Path, days: u16) -> anyhow::Result<String> {
    let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    refuse_existing(&[&certificate, &key])?;
    if !folder.is_dir() {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(folder)
            .with_context(|| format!("{} cannot be made: name another folder", folder.display()))?;
    }
    let pair = KeyPair::generate().context("no key could be made")?;
    let mut params = validity(days);
    params.distinguished_name.push(DnType::CommonName, "keyferry cluster CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = params.self_signed(&pair).context("the certificate could not be made")?;
    write(&key, &Zeroizing::new(pair.serialize_pem()), 0o600)?;
    write(&certificate, &made.pem(), 0o644)?;
    Ok(format!(
        "made {} and {}\n\
         copy {} to every node, where [cluster] ca names it; it is no secret\n\
         {} stays here: whoever has it can make itself a node\n\
         next: keyferry ca node {} NAME...",
        certificate.display(),
        key.display(),
        certificate.display(),
        key.display(),
        folder.display()
    ))
}

/// Makes `NAME.pem` and `NAME.key` for each node, signed by the CA in `folder`. Returns what to say about it.
///
/// # Errors
/// A name cannot stand in a certificate, there is no CA, or a file exists already; nothing is written for any name
/// then.
pub fn node(folder: &Path, names: &[String], days: u16) -> anyhow::Result<String> {
    let mut said = issue(folder, names, &validity(days))?;
    said.push_str(&format!(
        "they last {days} days: make new ones before, with files of these names out of the way"
    ));
    Ok(said)
}

/// Certificates for each name, with the validity of `template`.
pub(crate) fn issue(folder: &Path, names: &[String], template: &CertificateParams) -> anyhow::Result<String> {
    let mut files = Vec::new();
    for name in names {
        trust::dns_name(name)?;
        // A name that is the CA's own would write over it, were anything ever written over.
        anyhow::ensure!(
            name != "ca",
            "\"ca\" is the name of the authority's own files: name the node otherwise"
        );
        files.push((name, folder.join(format!("{name}.pem")), folder.join(format!("{name}.key"))));
    }
    let all: Vec<_> = files.iter().flat_map(|(_, certificate, key)| [certificate, key]).collect();
    refuse_existing(&all.iter().map(|path| path.as_path()).collect::<Vec<_>>())?;
    let issuer = issuer(folder)?;
    let mut said = String::new();
    for (name, certificate, key) in &files {
        let pair = KeyPair::generate().context("no key could be made")?;
        let mut params = template.clone();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let made = params.signed_by(&pair, &issuer).context("the certificate could not be made")?;
        write(key, &Zeroizing::new(pair.serialize_pem()), 0o600)?;
        write(certificate, &made.pem(), 0o644)?;
        said.push_str(&format!(
            "made {} and {}: move both to node {name}, where [cluster] certificate and key name them; the key is \
             its secret\n",
            certificate.display(),
            key.display()
        ));
    }
    Ok(said)
}

/// Valid from a little before now on.
fn validity(days: u16) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCKS_DIFFER;
    params.not_after = now + Duration::days(days.into());
    params
}

fn issuer(folder: &Path) -> anyhow::Result<Issuer<'static, KeyPair>> {
    let no_ca = || format!("there is no CA in {0}: make one with keyferry ca init {0}", folder.display());
    let certificate = read(&folder.join("ca.pem")).with_context(no_ca)?;
    let key = read(&folder.join("ca.key")).with_context(no_ca)?;
    let what = |name: &str, what: &str| {
        format!("{} is no {what}: put back what keyferry ca init made", folder.join(name).display())
    };
    let pair = KeyPair::from_pem(&key).with_context(|| what("ca.key", "key"))?;
    Issuer::from_ca_cert_pem(&certificate, pair).with_context(|| what("ca.pem", "certificate"))
}

pub(crate) fn refuse_existing(paths: &[&Path]) -> anyhow::Result<()> {
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => {
            anyhow::bail!("{} exists already and is left as it is: move it away first", path.display())
        }
        None => Ok(()),
    }
}

pub(crate) fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let unwritable = || format!("{} cannot be written: let this user write its folder", path.display());
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(unwritable)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(unwritable)
}

/// A small file's text; the buffer never grows, so no copy of a key stays behind.
fn read(path: &PathBuf) -> io::Result<Zeroizing<String>> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    if len > FILE_BYTES_MAX {
        return Err(io::Error::other("the file is too large"));
    }
    let mut text = Zeroizing::new(String::with_capacity(len as usize + 1));
    file.take(len).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::links::{Trust, TrustError};

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_it_makes_is_what_links_take() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ca");
        assert!(node(&folder, &names(&["a"]), 1).unwrap_err().to_string().contains("keyferry ca init"));
        init(&folder, CA_DAYS).unwrap();
        node(&folder, &names(&["a", "node-b.example"]), NODE_DAYS).unwrap();
        let file = |name: &str| folder.join(name);
        let mode = |name: &str| file(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("a.key"), mode("node-b.example.key")), (0o600, 0o600, 0o600));
        let load = |node: &str, files: &str| {
            let (certificate, key) = (file(&format!("{files}.pem")), file(&format!("{files}.key")));
            Trust::load(&file("ca.pem"), &certificate, &key, node)
        };
        assert_eq!(load("a", "a").unwrap().warning(), None);
        assert_eq!(load("node-b.example", "node-b.example").unwrap().warning(), None);
        assert!(matches!(load("b", "a"), Err(TrustError::Certificate(..))));
        assert!(matches!(
            Trust::load(&file("ca.pem"), &file("a.pem"), &file("node-b.example.key"), "a"),
            Err(TrustError::Key(..))
        ));
    }

    #[test]
    fn nothing_is_overwritten_and_no_name_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        init(folder, 1).unwrap();
        let before = std::fs::read(folder.join("ca.key")).unwrap();
        assert!(init(folder, 1).is_err());
        node(folder, &names(&["a"]), 1).unwrap();
        assert!(node(folder, &names(&["b", "a"]), 1).unwrap_err().to_string().contains("a.pem exists"));
        assert!(!folder.join("b.pem").exists(), "nothing is written unless all can be");
        let error = node(folder, &names(&["ca"]), 1).unwrap_err().to_string();
        assert!(error.contains("the authority's own files: name the node otherwise"), "{error}");
        for bad in ["../a", "a b", "", "-a"] {
            let error = node(folder, &names(&[bad]), 1).unwrap_err().to_string();
            assert!(error.contains("cannot stand in a certificate"), "{bad}: {error}");
        }
        assert_eq!(std::fs::read(folder.join("ca.key")).unwrap(), before);
    }

    #[test]
    fn folders_and_files_that_are_of_no_use_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        std::fs::write(folder.join("file"), "").unwrap();
        let said = |error: anyhow::Error| format!("{error:#}");
        let error = said(init(&folder.join("file/ca"), 1).unwrap_err());
        assert!(error.contains("file/ca cannot be made: name another folder"), "{error}");
        let error = said(write(&folder.join("none/ca.key"), "", 0o600).unwrap_err());
        assert!(error.contains("none/ca.key cannot be written: let this user write its folder"), "{error}");

        init(folder, 1).unwrap();
        for (name, what) in [("ca.pem", "certificate"), ("ca.key", "key")] {
            let kept = std::fs::read(folder.join(name)).unwrap();
            std::fs::write(folder.join(name), "nothing of use").unwrap();
            let error = said(node(folder, &names(&["a"]), 1).unwrap_err());
            let sentence = format!("{name} is no {what}: put back what keyferry ca init made");
            assert!(error.contains(&sentence), "{error}");
            std::fs::write(folder.join(name), vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
            let error = said(node(folder, &names(&["a"]), 1).unwrap_err());
            assert!(error.ends_with("the file is too large"), "{error}");
            std::fs::write(folder.join(name), kept).unwrap();
        }
        node(folder, &names(&["a"]), 1).unwrap();
    }

    #[test]
    fn another_authority_and_an_old_certificate_are_told_apart() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &other] {
            init(folder.path(), 1).unwrap();
        }
        node(one.path(), &names(&["a"]), 1).unwrap();
        let mut past = validity(1);
        past.not_after = past.not_before + Duration::minutes(1);
        issue(one.path(), &names(&["old"]), &past).unwrap();
        let load = |ca: &Path, name: &str| {
            let file = |ending| one.path().join(format!("{name}.{ending}"));
            Trust::load(&ca.join("ca.pem"), &file("pem"), &file("key"), name)
        };
        let Err(TrustError::Certificate(_, what)) = load(other.path(), "a") else { panic!("another CA") };
        assert!(what.contains("not signed by the cluster's CA"), "{what}");
        assert!(load(one.path(), "old").unwrap().warning().unwrap().contains("expired"));
    }
}
