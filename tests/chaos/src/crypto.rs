//! TLS whose randomness and clock belong to the run: the same seed gives the same bytes on the wire.
//!
//! aws-lc-rs takes no generator of ours, so what draws from one (random numbers, key shares) is replaced, and what is
//! signed is Ed25519, which draws nothing. Ciphers are the product's own. The generator belongs to the thread, as
//! each run does.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, Error, NamedGroup, PeerMisbehaved, SignatureScheme};
use x25519_dalek::{PublicKey, StaticSecret};

/// Calendar time at the start of every run, in seconds since 1970.
pub const START_UNIX_SECONDS: u64 = 1_800_000_000;

thread_local! {
    static RNG: RefCell<Rng> = const { RefCell::new(Rng::with_seed(0)) };
}

/// Starts the thread's generator anew.
pub fn seed(seed: u64) {
    RNG.with_borrow_mut(|rng| *rng = Rng::with_seed(seed));
}

/// Random bytes of the run.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    RNG.with_borrow_mut(|rng| rng.fill(&mut bytes));
    bytes
}

/// The generator as it is now.
pub fn saved() -> Rng {
    RNG.with_borrow(Rng::clone)
}

/// Does something with the generator as it was; afterwards it is as if nothing had been drawn.
pub fn replayed<T>(saved: Rng, work: impl FnOnce() -> T) -> T {
    let now = RNG.replace(saved);
    let result = work();
    RNG.set(now);
    result
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        RNG.with_borrow_mut(|rng| rng.fill(bytes));
        Ok(())
    }
}

#[derive(Debug)]
struct X25519;

struct Share {
    secret: StaticSecret,
    public: PublicKey,
}

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let secret = StaticSecret::from(random::<32>());
        let public = PublicKey::from(&secret);
        Ok(Box::new(Share { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for Share {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        Ok(SharedSecret::from(&self.secret.diffie_hellman(&PublicKey::from(peer)).as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// A provider that draws from the thread's generator.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![&X25519],
        secure_random: &Seeded,
        ..rustls::crypto::aws_lc_rs::default_provider()
    }
}

/// Virtual time, shared by everything in a run.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// Nanoseconds since the start of the run.
    pub fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the time.
    pub fn set_ns(&self, now_ns: u64) {
        self.0.store(now_ns, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = Duration::from_secs(START_UNIX_SECONDS) + Duration::from_nanos(self.now_ns());
        Some(UnixTime::since_unix_epoch(since))
    }
}

impl keyferry_app::Clock for Clock {
    fn now(&self) -> keyferry_time::Time {
        keyferry_time::Time(self.now_ns())
    }

    fn unix_seconds(&self) -> u64 {
        START_UNIX_SECONDS + self.now_ns() / 1_000_000_000
    }
}

/// A client that takes any certificate: who the server is does not matter here.
pub struct Anyone;

impl fmt::Debug for Anyone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Anyone")
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
