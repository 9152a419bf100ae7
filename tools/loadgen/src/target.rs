//! Whom to ask: address, TLS server name and the fixed parts of every request, worked out once at the start.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::Context;
use rustls::pki_types::ServerName;

use crate::args::{Args, Resolve};

/// The port of `https` (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;

/// A resolved target.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// The name the certificate is checked against, sent as SNI.
    pub name: ServerName<'static>,
    /// `GET /path?query`, up to where a request's own query parts start.
    prefix: Vec<u8>,
    /// What joins them to the query of the URL.
    joint: u8,
    /// From the end of the target to the end of the request.
    suffix: Vec<u8>,
}

/// Query parts the synthetic application takes.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Size of the body.
    pub bytes: u64,
    /// Its content.
    pub seed: u64,
    /// What making it costs, in microseconds.
    pub cost_us: Option<u64>,
    /// Another part, as it is.
    pub extra: Option<&'a str>,
}

impl Target {
    /// Takes the URL apart and looks the host up, unless one of `--resolve` names its address.
    ///
    /// # Errors
    /// A URL that is not `https://`, a host without an address, a header or body that cannot be sent.
    pub fn new(url: &http::Uri, args: &Args) -> anyhow::Result<Target> {
        let authority = url.authority().filter(|_| url.scheme_str() == Some("https"));
        let authority =
            authority.with_context(|| format!("{url}: the URL must start with https:// and a host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(HTTPS_PORT);
        let address = match args.resolve.iter().find(|resolve| resolve.host == host) {
            Some(Resolve { address, .. }) => SocketAddr::new(*address, port),
            None => (host, port)
                .to_socket_addrs()
                .and_then(|mut all| all.next().ok_or(io::ErrorKind::AddrNotAvailable.into()))
                .with_context(|| {
                    format!("{host} does not resolve; name its address by --resolve {host}:IP")
                })?,
        };
        let name = ServerName::try_from(host.to_owned())
            .with_context(|| format!("{host} is neither a DNS name nor an IP address"))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target {
            address,
            name,
            prefix: format!("{} {path}", args.method).into_bytes(),
            joint: if url.query().is_some() { b'&' } else { b'?' },
            suffix: suffix(authority.as_str(), args)?,
        })
    }

    /// Appends one request to `out`; without a wish, that of the URL as it is.
    pub fn write_request(&self, wish: Option<&Wish<'_>>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        if let Some(wish) = wish {
            out.push(self.joint);
            out.extend_from_slice(b"bytes=");
            write_number(wish.bytes, out);
            out.extend_from_slice(b"&seed=");
            write_number(wish.seed, out);
            if let Some(cost_us) = wish.cost_us {
                out.extend_from_slice(b"&cost_us=");
                write_number(cost_us, out);
            }
            if let Some(extra) = wish.extra {
                out.push(b'&');
                out.extend_from_slice(extra.as_bytes());
            }
        }
        out.extend_from_slice(&self.suffix);
    }
}

/// What follows a request's target: version, headers, body.
fn suffix(authority: &str, args: &Args) -> anyhow::Result<Vec<u8>> {
    let mut text = format!(" HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: keyferry-load\r\n");
    for header in &args.header {
        let (name, value) = header.split_once(':').context("write a header as NAME: VALUE")?;
        http::HeaderName::try_from(name).with_context(|| format!("{name:?} is no header name"))?;
        http::HeaderValue::try_from(value.trim()).with_context(|| format!("{value:?} is no header value"))?;
        text.push_str(&format!("{name}: {}\r\n", value.trim()));
    }
    let body = match &args.body {
        Some(file) => {
            let body = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
            body
        }
        None => Vec::new(),
    };
    text.push_str("\r\n");
    Ok([text.into_bytes(), body].concat())
}

/// Appends decimal digits: `write!` costs more than the rest of a request.
fn write_number(mut number: u64, out: &mut Vec<u8>) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [0; DIGITS_MAX];
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;

    fn target(url: &str, options: &[&str]) -> anyhow::Result<Target> {
        let args = ["keyferry-load", url, "-n", "1", "--insecure"];
        let args = Args::parse_from(args.iter().chain(options));
        Target::new(&args.urls[0], &args)
    }

    fn request(target: &Target, wish: Option<Wish<'_>>) -> String {
        let mut out = Vec::new();
        target.write_request(wish.as_ref(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_extend_path_and_query() {
        let plain = target("https://a.test:8443", &["--resolve", "a.test:10.0.0.1"]).unwrap();
        assert_eq!(plain.address, "10.0.0.1:8443".parse().unwrap());
        let wish = Wish { bytes: 5, seed: 7, cost_us: None, extra: None };
        let rest = " HTTP/1.1\r\nHost: a.test:8443\r\nUser-Agent: keyferry-load\r\n\r\n";
        assert_eq!(request(&plain, Some(wish)), format!("GET /?bytes=5&seed=7{rest}"));
        assert_eq!(request(&plain, None), format!("GET /{rest}"));
        let query = target("https://a.test/x?a=3", &["--resolve", "a.test:fd00::1"]).unwrap();
        assert_eq!(query.address, "[fd00::1]:443".parse().unwrap());
        let wish = Wish { bytes: 0, seed: 1, cost_us: Some(9), extra: Some("lend=0") };
        let text = request(&query, Some(wish));
        assert!(text.starts_with("GET /x?a=3&bytes=0&seed=1&cost_us=9&lend=0 HTTP/1.1\r\nHost: a.test\r\n"));
    }

    #[test]
    fn methods_headers_and_bodies_are_sent() {
        let body = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(body.path(), "hello").unwrap();
        let options = ["--method", "POST", "--header", "X-A: b", "--body", body.path().to_str().unwrap()];
        let text = request(&target("https://127.0.0.1/", &options).unwrap(), None);
        assert!(text.starts_with("POST / HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("X-A: b\r\nContent-Length: 5\r\n\r\nhello"), "{text}");
        assert!(target("https://127.0.0.1/", &["--header", "X A: b"]).is_err());
        assert!(target("https://127.0.0.1/", &["--header", "X-A: b\r\nX-B: c"]).is_err());
    }

    #[test]
    fn other_schemes_are_refused() {
        assert!(target("http://127.0.0.1/", &[]).is_err());
    }

    proptest! {
        #[test]
        fn numbers_are_decimal(number: u64) {
            let mut out = Vec::new();
            write_number(number, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
