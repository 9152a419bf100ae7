//! Certificates by server name: exact, then one label of wildcard (RFC 6125 section 6.4.3), else the first.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Picks a certificate for the name the client asks for.
#[derive(Debug)]
pub(crate) struct ByName {
    /// Lower-case names; a wildcard without its star, `.example.org`.
    names: HashMap<String, Arc<CertifiedKey>>,
    default: Arc<CertifiedKey>,
}

impl ByName {
    pub(crate) fn new(default: Arc<CertifiedKey>) -> ByName {
        ByName { names: HashMap::new(), default }
    }

    /// Adds a name of a certificate; the first certificate with a name keeps it.
    pub(crate) fn add(&mut self, name: &str, key: &Arc<CertifiedKey>) {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix('*').unwrap_or(&name).to_owned();
        self.names.entry(name).or_insert_with(|| Arc::clone(key));
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.names.get(name).or_else(|| self.names.get(&name[name.find('.')?..]))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let key = name.as_deref().and_then(|name| self.find(name)).unwrap_or(&self.default);
        Some(Arc::clone(key))
    }
}
