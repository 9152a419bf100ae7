//! The record layer against OpenSSL: what it costs to seal and open one record, and to make a key.
//!
//! Both sides work in short batches, one after the other in one run, so that a busy machine hits both alike; quoted are
//! medians, and as ratio the median of the batches' ratios. OpenSSL is used as its own TLS does: one context for each
//! key, and for each record nonce, additional data, the plaintext with its content type in one piece, the tag. What
//! its TLS also does, copying the plaintext into its buffer, is left out.
//! The last line is `bench record: seal_16k_vs_openssl=.. ...`.

mod harness;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use harness::keys;
use keyferry_tls::{
    CertificatePem, Handshake, LentSealer, Opener, PLAINTEXT_BYTES_MAX, Resumption, SEALED_BYTES_MAX, Server,
    ServerOptions, Step, Suite, record_len,
};
use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Batches of each side.
const ROUNDS: usize = 301;

/// Bytes sealed in a batch, about.
const BATCH_BYTES: usize = 1 << 20;

/// Records in a batch at most.
const BATCH_RECORDS_MAX: usize = 512;

const SIZES: [(&str, usize); 4] = [("16k", PLAINTEXT_BYTES_MAX), ("4k", 4096), ("1400", 1400), ("256", 256)];

const TAG_BYTES: usize = 16;

/// A plaintext and the sealed record's header, tag and type.
const OPENSSL_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 1 + TAG_BYTES;

const SUITES: [(&str, Suite); 3] = [
    ("aes128", Suite::Aes128GcmSha256),
    ("aes256", Suite::Aes256GcmSha384),
    ("chacha", Suite::Chacha20Poly1305Sha256),
];

fn main() {
    println!("{}", openssl::version::version());
    println!("{:24} {:>10} {:>8} {:>12} {:>8} {:>7}", "", "ours ns", "GB/s", "openssl ns", "GB/s", "ratio");
    let mut summary = Vec::new();
    for (name, suite) in SUITES {
        for (size_name, bytes) in SIZES {
            let pair = seal(suite, bytes);
            pair.print(&format!("seal {name} {size_name}"), bytes);
            let key = if name == "aes128" { String::new() } else { format!("_{name}") };
            summary.push(format!("seal{key}_{size_name}_vs_openssl={:.2}", pair.ratio));
            if size_name == "16k" {
                summary.push(format!("seal{key}_{size_name}_ns={:.0}", pair.ours_ns));
            }
        }
    }
    for (name, suite) in SUITES {
        for (size_name, bytes) in SIZES {
            let pair = open(suite, bytes);
            pair.print(&format!("open {name} {size_name}"), bytes);
            if name == "aes128" {
                summary.push(format!("open_{size_name}_vs_openssl={:.2}", pair.ratio));
            }
        }
    }
    for (name, suite) in SUITES {
        let pair = make_key(suite);
        pair.print(&format!("key {name}"), 0);
        summary.push(format!("key_{name}_ns={:.0}", pair.ours_ns));
    }
    println!("bench record: {}", summary.join(" "));
}

/// Medians of both sides.
struct Pair {
    ours_ns: f64,
    openssl_ns: f64,
    ratio: f64,
}

impl Pair {
    fn print(&self, name: &str, bytes: usize) {
        let rate = |ns: f64| if bytes > 0 { format!("{:.2}", bytes as f64 / ns) } else { "-".to_owned() };
        let (ours, openssl) = (rate(self.ours_ns), rate(self.openssl_ns));
        let (ours_ns, openssl_ns, ratio) = (self.ours_ns, self.openssl_ns, self.ratio);
        println!("{name:24} {ours_ns:10.0} {ours:>8} {openssl_ns:12.0} {openssl:>8} {ratio:6.2}x");
    }
}

/// Times batches of `records` records of both sides by turns; each side tells what its batch took, in ns.
fn compare(records: usize, mut ours: impl FnMut(usize) -> f64, mut theirs: impl FnMut(usize) -> f64) -> Pair {
    let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first tenth warms up.
    for round in 0..ROUNDS + ROUNDS / 10 {
        // Who is first alternates.
        let (ours_ns, theirs_ns) = if round % 2 == 0 {
            let ours_ns = ours(records);
            (ours_ns, theirs(records))
        } else {
            let theirs_ns = theirs(records);
            (ours(records), theirs_ns)
        };
        if round >= ROUNDS / 10 {
            a.push(ours_ns / records as f64);
            b.push(theirs_ns / records as f64);
            ratios.push(theirs_ns / ours_ns);
        }
    }
    Pair { ours_ns: median(a), openssl_ns: median(b), ratio: median(ratios) }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64
}

fn batch(bytes: usize) -> usize {
    (BATCH_BYTES / bytes).min(BATCH_RECORDS_MAX)
}

fn sealer(suite: Suite) -> LentSealer {
    keys::sealer(&keys::wire(suite, cipher(suite).key_length()))
}

fn cipher(suite: Suite) -> &'static CipherRef {
    match suite {
        Suite::Aes128GcmSha256 => Cipher::aes_128_gcm(),
        Suite::Aes256GcmSha384 => Cipher::aes_256_gcm(),
        _ => Cipher::chacha20_poly1305(),
    }
}

fn seal(suite: Suite, bytes: usize) -> Pair {
    let plaintext = vec![b'x'; bytes + 1];
    let mut out = vec![0; SEALED_BYTES_MAX];
    let mut sealer = sealer(suite);
    let ours = |records| {
        timed(|| {
            for _ in 0..records {
                let sealed = sealer.seal_data(black_box(&plaintext[..bytes]), &mut out);
                black_box(sealed.expect("it seals"));
            }
        })
    };
    let mut openssl = OpenSsl::new(suite, true);
    let mut theirs_out = vec![0; OPENSSL_BYTES_MAX];
    let theirs = |records| {
        timed(|| {
            for _ in 0..records {
                black_box(openssl.seal(black_box(&plaintext), &mut theirs_out));
            }
        })
    };
    compare(batch(bytes), ours, theirs)
}

fn open(suite: Suite, bytes: usize) -> Pair {
    let (mut client, mut opener) = connection(suite);
    let plaintext = vec![b'x'; bytes + 1];
    let ours = |records| {
        let mut wire = client_records(&mut client, &plaintext[..bytes], records);
        timed(|| open_all(&mut opener, &mut wire))
    };
    let mut sealed = vec![0; OPENSSL_BYTES_MAX];
    OpenSsl::new(suite, true).seal(&plaintext, &mut sealed);
    let mut openssl = OpenSsl::new(suite, false);
    let mut out = vec![0; OPENSSL_BYTES_MAX];
    let theirs = |records| {
        // Fresh memory for each record, as a network card would fill it.
        let records = vec![sealed[..bytes + 1 + TAG_BYTES].to_vec(); records];
        timed(|| {
            for record in &records {
                // Always the first record: the nonce has to be that of sealing.
                openssl.seq = 0;
                openssl.open(black_box(record), &mut out);
            }
        })
    };
    compare(batch(bytes), ours, theirs)
}

fn open_all(opener: &mut Opener, mut wire: &mut [u8]) {
    while let Ok(Some(len)) = record_len(wire) {
        let (record, rest) = wire.split_at_mut(len);
        black_box(opener.open(record).expect("it opens"));
        wire = rest;
    }
}

fn make_key(suite: Suite) -> Pair {
    let wire = keys::wire(suite, cipher(suite).key_length());
    let ours = |keys| {
        timed(|| {
            for _ in 0..keys {
                black_box(keys::sealer(black_box(&wire)));
            }
        })
    };
    let theirs = |keys| {
        timed(|| {
            for _ in 0..keys {
                black_box(OpenSsl::new(suite, true));
            }
        })
    };
    compare(BATCH_RECORDS_MAX, ours, theirs)
}

/// OpenSSL's EVP interface, used as its TLS 1.3 uses it.
struct OpenSsl {
    context: CipherCtx,
    iv: [u8; 12],
    seq: u64,
}

impl OpenSsl {
    fn new(suite: Suite, seals: bool) -> OpenSsl {
        let mut context = CipherCtx::new().expect("a context");
        let cipher = cipher(suite);
        let key = vec![7; cipher.key_length()];
        if seals {
            context.encrypt_init(Some(cipher), Some(&key), None).expect("a key");
        } else {
            context.decrypt_init(Some(cipher), Some(&key), None).expect("a key");
        }
        OpenSsl { context, iv: [9; 12], seq: 0 }
    }

    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        self.seq += 1;
        nonce
    }

    fn aad(bytes: usize) -> [u8; 5] {
        let [high, low] = ((bytes + TAG_BYTES) as u16).to_be_bytes();
        [23, 3, 3, high, low]
    }

    fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> usize {
        let nonce = self.nonce();
        self.context.encrypt_init(None, None, Some(&nonce)).expect("a nonce");
        self.context.cipher_update(&OpenSsl::aad(plaintext.len()), None).expect("additional data");
        let len = self.context.cipher_update(plaintext, Some(out)).expect("it encrypts");
        self.context.cipher_final(&mut out[len..]).expect("it ends");
        self.context.tag(&mut out[len..len + TAG_BYTES]).expect("a tag");
        len + TAG_BYTES
    }

    fn open(&mut self, sealed: &[u8], out: &mut [u8]) {
        let (ciphertext, tag) = sealed.split_at(sealed.len() - TAG_BYTES);
        let nonce = self.nonce();
        self.context.decrypt_init(None, None, Some(&nonce)).expect("a nonce");
        self.context.set_tag(tag).expect("a tag");
        self.context.cipher_update(&OpenSsl::aad(ciphertext.len()), None).expect("additional data");
        let len = self.context.cipher_update(ciphertext, Some(out)).expect("it decrypts");
        self.context.cipher_final(&mut out[len..]).expect("the tag is right");
    }
}

/// A client of rustls, and our opener of what it sends.
fn connection(suite: Suite) -> (ClientConnection, Opener) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["bench.test".to_owned()]).expect("a certificate");
    let server = Server::new(&ServerOptions {
        certificates: vec![CertificatePem {
            chain: cert.pem().into_bytes(),
            key: signing_key.serialize_pem().into_bytes().into(),
            source: "bench".to_owned(),
        }],
        tls12: false,
        tls13: true,
        resumption: Resumption::Off,
        suites: Some(vec![suite.name().to_owned()]),
        fragment: keyferry_tls::Fragment::MAX,
        key_log: None,
    })
    .expect("a server");
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "bench.test".try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut handshake = Handshake::new(&server);
    loop {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
        let mut rest = &mut wire[..];
        let mut out = Vec::new();
        while let Ok(Some(len)) = record_len(rest) {
            let (record, behind) = rest.split_at_mut(len);
            rest = behind;
            match handshake.advance(record, &mut out) {
                Step::Continue => {}
                Step::Done(established) => return (client, established.opener),
                Step::Absent(_) => panic!("sessions are kept here"),
                Step::Failed(failure) => panic!("{failure}"),
            }
        }
        let mut out = &out[..];
        while !out.is_empty() {
            client.read_tls(&mut out).expect("memory");
            client.process_new_packets().expect("it agrees");
        }
    }
}

fn client_records(client: &mut ClientConnection, plaintext: &[u8], records: usize) -> Vec<u8> {
    use std::io::Write as _;
    let mut wire = Vec::new();
    client.set_buffer_limit(None);
    for _ in 0..records {
        client.writer().write_all(plaintext).expect("memory");
        while client.wants_write() {
            client.write_tls(&mut wire).expect("memory");
        }
    }
    wire
}
