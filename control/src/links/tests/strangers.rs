//! What is said of those who connect and are no link, and of certificates that are of no use.

use std::io::Write;
use std::os::unix::net::UnixStream as StdStream;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::version::{TLS12, TLS13};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, RootCertStore,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration as Days, OffsetDateTime};

use super::trust::PROTOCOL;
use super::*;

/// What `b` says of a stranger that does this with its end of the connection.
fn said_of(folder: &Folder, stranger: impl FnOnce(StdStream) + Send) -> String {
    let (ours, theirs) = StdStream::pair().unwrap();
    let mut said = String::new();
    std::thread::scope(|scope| {
        scope.spawn(|| stranger(ours));
        run(async {
            theirs.set_nonblocking(true).unwrap();
            let socket = Socket::Unix(UnixStream::from_std(theirs).unwrap());
            said = folder.end("b", 1).greet(socket).await.err().expect("it is no link").to_string();
        });
    });
    said
}

/// A certificate for `a` of the folder's authority, as `change` has it.
pub(super) fn certificate(
    folder: &Folder,
    change: impl FnOnce(&mut CertificateParams),
) -> (Vec<u8>, Vec<u8>) {
    let read = |name: &str| std::fs::read_to_string(folder.file(name)).unwrap();
    let issuer =
        Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName("a".try_into().unwrap())];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let pair = KeyPair::generate().unwrap();
    let made = params.signed_by(&pair, &issuer).unwrap();
    (made.pem().into_bytes(), pair.serialize_pem().into_bytes())
}

fn one_server_only(params: &mut CertificateParams) {
    params.extended_key_usages.truncate(1);
}

fn over(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::now_utc() - Days::days(2);
    params.not_after = OffsetDateTime::now_utc() - Days::days(1);
}

fn to_come(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::now_utc() + Days::days(1);
    params.not_after = OffsetDateTime::now_utc() + Days::days(2);
}

/// What `b` says of a client of TLS with this certificate.
fn said_of_client(
    folder: &Folder,
    version: &'static SupportedProtocolVersion,
    alpn: &[u8],
    certificate: Option<(Vec<u8>, Vec<u8>)>,
) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.file("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key).unwrap()).unwrap()
        }
    };
    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }
    let mut client = ClientConnection::new(Arc::new(config), "b".try_into().unwrap()).unwrap();
    said_of(folder, move |mut stream| {
        // Until the other end has enough.
        while client.complete_io(&mut stream).is_ok_and(|(read, written)| read + written > 0) {}
    })
}

#[test]
fn who_speaks_no_tls_is_told_apart() {
    let folder = Folder::new();
    let said = said_of(&folder, drop);
    assert_eq!(said, "it closed the connection");
    let said = said_of(&folder, |mut stream| drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")));
    assert!(
        said.starts_with("it does not speak TLS as a link does") && said.ends_with("check the address"),
        "{said}"
    );
    // A ClientHello whose answer nobody takes.
    let trust = folder.end("a", 1).trust;
    let mut hello = Vec::new();
    trust.connect(&trust::dns_name("b").unwrap()).unwrap().write_tls(&mut hello).unwrap();
    let said = said_of(&folder, move |mut stream| stream.write_all(&hello).unwrap());
    assert!(said.starts_with("the connection failed ("), "{said}");
}

#[test]
fn who_speaks_tls_and_is_no_link_is_told_apart() {
    let folder = Folder::new();
    let good = || Some(certificate(&folder, |_| ()));
    let other = Folder::new();
    for (said, sentence) in [
        (said_of_client(&folder, &TLS13, b"", good()), "it is no link of keyferry: check the address"),
        (said_of_client(&folder, &TLS12, PROTOCOL, good()), "it does not speak TLS 1.3 as a link does ("),
        (said_of_client(&folder, &TLS13, PROTOCOL, None), "it presented no certificate"),
        (
            said_of_client(&folder, &TLS13, PROTOCOL, Some(certificate(&other, |_| ()))),
            "its certificate is not signed by the cluster's CA: both nodes need certificates of the one",
        ),
        (
            said_of_client(&folder, &TLS13, PROTOCOL, Some(certificate(&folder, over))),
            "its certificate has expired: issue a new one, and check the clocks",
        ),
        (
            said_of_client(&folder, &TLS13, PROTOCOL, Some(certificate(&folder, to_come))),
            "its certificate is not valid yet: check the clocks",
        ),
        (
            said_of_client(&folder, &TLS13, PROTOCOL, Some(certificate(&folder, one_server_only))),
            "its certificate is not for both servers and clients: it needs both extended key usages",
        ),
    ] {
        assert!(said.starts_with(sentence), "{said}");
    }
}

/// What a node that is refused is told of its own certificate.
#[test]
fn refusals_say_what_the_other_end_lacks() {
    for (alert, why) in [
        (AlertDescription::UnknownCA, "it is not signed by the peer's [cluster] ca"),
        (AlertDescription::DecryptError, "it is not signed by the peer's [cluster] ca"),
        (AlertDescription::CertificateExpired, "it has expired or is not valid yet: issue a new one"),
        (AlertDescription::BadCertificate, "it is not for the name the peer has for this node"),
        (AlertDescription::UnsupportedCertificate, "it lacks an extended key usage, server or client"),
        (AlertDescription::CertificateRequired, "there was none"),
    ] {
        let said = trust::sentence(&rustls::Error::AlertReceived(alert));
        assert!(said.starts_with(&format!("it refused this node's certificate: {why}")), "{said}");
    }
    let said = trust::sentence(&rustls::Error::AlertReceived(AlertDescription::InternalError));
    assert_eq!(said, "it ended the TLS handshake with the alert InternalError");
    let said = trust::sentence(&rustls::Error::InvalidCertificate(CertificateError::Revoked));
    assert!(said.starts_with("its certificate cannot be used: "), "{said}");
    assert!(trust::sentence(&rustls::Error::DecryptError).starts_with("TLS failed: "));
}

/// What a node says of its own files before any peer does.
#[test]
fn files_that_peers_would_refuse_are_told() {
    let folder = Folder::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.file(name);
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    };
    let load = |(chain, key): (Vec<u8>, Vec<u8>)| {
        let (chain, key) = (write("its.pem", &chain), write("its.key", &key));
        Trust::load(&folder.file("ca.pem"), &chain, &key, "a")
    };
    assert_eq!(load(certificate(&folder, |_| ())).unwrap().warning(), None);
    assert!(load(certificate(&folder, over)).unwrap().warning().unwrap().starts_with("has expired"));
    assert!(load(certificate(&folder, to_come)).unwrap().warning().unwrap().starts_with("is not valid yet"));
    for (made, sentence) in [
        (certificate(&folder, one_server_only), "it is not for both servers and clients"),
        (certificate(&Folder::new(), |_| ()), "it is not signed by the cluster's CA"),
        (
            certificate(&folder, |params| {
                params.subject_alt_names = vec![SanType::DnsName("c".try_into().unwrap())]
            }),
            "it is for c and not for a: check names and addresses",
        ),
    ] {
        let error = load(made).err().unwrap().to_string();
        assert!(error.starts_with("peers would refuse ") && error.contains(sentence), "{error}");
    }
    let none = write("none.pem", b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n");
    let error =
        Trust::load(&none, &folder.file("a.pem"), &folder.file("a.key"), "a").err().unwrap().to_string();
    assert!(
        error.contains("none.pem holds no usable CA certificate (") && error.contains("keyferry ca init"),
        "{error}"
    );
}
