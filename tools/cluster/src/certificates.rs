//! Certificate authorities of one cluster, and what they issue: for clients ECDSA and RSA, for several names; for links.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// The default certificate's name; ECDSA.
pub const NAME: &str = "kf.test";
/// A name with an RSA certificate.
pub const NAME_RSA: &str = "rsa.kf.test";
/// A name with an ECDSA certificate of its own.
pub const NAME_OTHER: &str = "other.test";

/// Makes `executable` an authority for links in a folder, unless it is there, and issues certificates to `names`.
///
/// # Panics
/// If it cannot.
pub fn for_links(executable: &Path, folder: &Path, names: &[&str]) {
    let keyferry = |arguments: &[&str]| {
        let output = Command::new(executable).arg("ca").args(arguments).output().expect("keyferry starts");
        assert!(output.status.success(), "ca {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let path = folder.to_str().expect("the cluster's paths are text");
    if !folder.exists() {
        keyferry(&["init", path]);
    }
    keyferry(&[&["node", path], names].concat());
}

/// A certificate that is in no file yet.
pub struct Another {
    /// The chain, in PEM.
    pub chain: String,
    /// Its key, in PEM.
    pub key: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("a DNS name");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Certificate files for clients, and the authority that issues more.
pub struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    /// The authority all clients trust.
    pub ca: PathBuf,
    /// Chain and key of each name, the default first.
    pub leaves: Vec<(PathBuf, PathBuf)>,
}

impl Certificates {
    /// Issues everything into `directory`.
    ///
    /// # Panics
    /// If it cannot be written to.
    pub fn issue(directory: &Path) -> Certificates {
        let mut own = CertificateParams::new(Vec::new()).expect("no names are valid names");
        // Issuer and subject must differ, or OpenSSL takes a leaf for self-signed.
        own.distinguished_name.push(DnType::CommonName, "keyferry test authority");
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(own, KeyPair::generate().expect("a key"))
            .expect("the authority signs itself");
        let ca = directory.join("ca.pem");
        fs::write(&ca, authority.pem()).expect("the cluster's directory is writable");

        let leaves = [
            (NAME, &PKCS_ECDSA_P256_SHA256),
            (NAME_RSA, &PKCS_RSA_SHA256),
            (NAME_OTHER, &PKCS_ECDSA_P256_SHA256),
        ]
        .map(|(name, algorithm)| {
            let key = KeyPair::generate_for(algorithm).expect("a key");
            let certificate = params(name).signed_by(&key, &authority).expect("the authority signs");
            let (chain_file, key_file) =
                (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
            fs::write(&chain_file, certificate.pem()).expect("the cluster's directory is writable");
            fs::write(&key_file, key.serialize_pem()).expect("the cluster's directory is writable");
            (chain_file, key_file)
        });
        Certificates { authority, ca, leaves: leaves.into() }
    }

    /// Issues another certificate for a name, for another key, valid until so many days from now: chain, key and serial, the
    /// texts in PEM and in hexadecimal digits.
    ///
    /// # Panics
    /// If it cannot.
    pub fn another(&self, name: &str, days: i64) -> Another {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(name);
        // Of the key, behind the byte that says how its point is written: no two have the same.
        let mut serial = key.public_key_raw()[1..17].to_vec();
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = OffsetDateTime::now_utc() - Duration::days(30);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
        let certificate = params.signed_by(&key, &self.authority).expect("the authority signs");
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        Another { chain: certificate.pem(), key: key.serialize_pem(), serial }
    }
}
