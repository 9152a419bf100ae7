//! Whom to ask: address, TLS server name and the fixed parts of every request, worked out once at the start.

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, bail, ensure};
use rustls::pki_types::ServerName;

use crate::args::Resolve;

/// The port of `https` (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// A resolved target.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// The name the certificate is checked against, sent as SNI.
    pub name: ServerName<'static>,
    /// `GET /path?query&` up to where a request's own query parts start.
    prefix: String,
    /// From the end of the target to the end of the head.
    suffix: String,
}

impl Target {
    /// Takes the URL apart and looks the host up, unless `resolve` names its address.
    ///
    /// # Errors
    /// A URL that is not `https://`, or a host without an address.
    pub fn new(url: &http::Uri, resolve: Option<&Resolve>) -> anyhow::Result<Target> {
        ensure!(url.scheme_str() == Some("https"), "the URL must start with https://");
        let Some(authority) = url.authority() else { bail!("the URL names no host") };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(HTTPS_PORT);
        let address = match resolve {
            Some(resolve) if resolve.host == host => SocketAddr::new(resolve.address, port),
            Some(resolve) => bail!("--resolve names {}, the URL {host}", resolve.host),
            None => (host, port)
                .to_socket_addrs()
                .with_context(|| format!("{host} does not resolve"))?
                .next()
                .with_context(|| format!("{host} has no address"))?,
        };
        let name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("{host} is neither a DNS name nor an IP address"))?;
        let joint = if url.query().is_some() { '&' } else { '?' };
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target {
            address,
            name,
            prefix: format!("GET {path}{joint}"),
            suffix: format!(" HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: keyferry-load\r\n\r\n"),
        })
    }

    /// Writes the head of one request into `out`, which is emptied first.
    pub fn write_request(&self, bytes: u64, seed: u64, extra: Option<&str>, out: &mut String) {
        out.clear();
        out.push_str(&self.prefix);
        // Writing to a String cannot fail.
        let _ = write!(out, "bytes={bytes}&seed={seed}");
        if let Some(extra) = extra {
            out.push('&');
            out.push_str(extra);
        }
        out.push_str(&self.suffix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str, resolve: &str) -> anyhow::Result<Target> {
        Target::new(&url.parse().unwrap(), Some(&resolve.parse().unwrap()))
    }

    #[test]
    fn requests_extend_path_and_query() {
        let mut out = String::new();
        let plain = target("https://a.test:8443", "a.test:10.0.0.1").unwrap();
        assert_eq!(plain.address, "10.0.0.1:8443".parse().unwrap());
        plain.write_request(5, 7, None, &mut out);
        assert_eq!(
            out,
            "GET /?bytes=5&seed=7 HTTP/1.1\r\nHost: a.test:8443\r\nUser-Agent: keyferry-load\r\n\r\n"
        );
        let query = target("https://a.test/x?cost_us=3", "a.test:fd00::1").unwrap();
        assert_eq!(query.address, "[fd00::1]:443".parse().unwrap());
        query.write_request(0, 1, Some("lend=0"), &mut out);
        assert!(
            out.starts_with("GET /x?cost_us=3&bytes=0&seed=1&lend=0 HTTP/1.1\r\nHost: a.test\r\n"),
            "{out}"
        );
    }

    #[test]
    fn other_schemes_and_names_are_refused() {
        assert!(target("http://a.test/", "a.test:10.0.0.1").is_err());
        assert!(target("https://b.test/", "a.test:10.0.0.1").is_err());
    }
}
