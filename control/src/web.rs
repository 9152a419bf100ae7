//! The HTTP port of an operator's own host: counters for Prometheus, and a page that shows what the process does.
//!
//! In: requests on a loopback address. Out: text made when it is asked for. Nothing can be changed here: there is GET and
//! HEAD, no body is read, and there is a limit to connections, their requests' size and their time. A browser on this host
//! runs other people's pages too: none of them may read what is here. So it is only told to who asks by a loopback name,
//! which a page whose name was bound to this address afterwards does not (DNS rebinding), and pages of other origins may not
//! embed it. The page loads its own script and style and nothing else. Control thread; no thread of its own.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::admin::document;
use crate::metrics::Metrics;
use crate::top::sample::Sample;

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may say nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a connection may last.
const CONNECTION_MAX: Duration = Duration::from_secs(3600);
/// Bytes of a request's head, and of what is read ahead.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Pause after a failed accept: with no descriptor free the next would fail at once as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What there is to read.
const PATHS: &str =
    "the page is at /, what it shows at /state.json, the counters for Prometheus at /metrics\n";

/// The page, its style and its script.
const PAGE: &str = include_str!("web/page.html");
const STYLE: &str = include_str!("web/page.css");
const SCRIPT: &str = include_str!("web/page.js");

/// Content types.
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const CSS: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");
const JAVASCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What every answer says to a browser: nothing is kept, guessed, embedded elsewhere or loaded from elsewhere.
const GUARDS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// What is handed out.
pub(crate) struct Site {
    metrics: Metrics,
    sample: Box<dyn Fn() -> Sample>,
}

impl Site {
    /// Counters, and what the page shows.
    pub fn new(metrics: Metrics, sample: impl Fn() -> Sample + 'static) -> Site {
        Site { metrics, sample: Box::new(sample) }
    }
}

/// An address that is asked at, listened on.
pub(crate) struct Web(TcpListener);

impl Web {
    /// Listens. Within the control thread's runtime.
    ///
    /// # Errors
    /// The address cannot be listened on; the sentence says what to do.
    pub fn start(address: SocketAddr) -> anyhow::Result<Web> {
        let what = || format!("[admin] metrics {address} cannot be listened on: write a port that is free");
        let listener = StdListener::bind(address).with_context(what)?;
        listener.set_nonblocking(true)?;
        Ok(Web(TcpListener::from_std(listener)?))
    }

    /// Answers for ever. Within a [`tokio::task::LocalSet`].
    async fn serve(&self, site: Site) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let site = Rc::new(site);
        loop {
            let permit =
                Arc::clone(&connections).acquire_owned().await.expect("the semaphore is never closed");
            match self.0.accept().await {
                Ok((stream, _)) => {
                    let site = Rc::clone(&site);
                    tokio::task::spawn_local(async move {
                        converse(stream, site).await;
                        drop(permit);
                    });
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}

/// Answers whoever asks, where the operator wanted that.
pub(crate) async fn serve(web: Option<Web>, site: Site) {
    match web {
        Some(web) => web.serve(site).await,
        None => std::future::pending().await,
    }
}

async fn converse(stream: TcpStream, site: Rc<Site>) {
    let answer = |request: Request<Incoming>| {
        let site = Rc::clone(&site);
        async move {
            let (method, path) = (request.method(), request.uri().path());
            Ok::<_, Infallible>(answer(method, path, request.headers(), &site))
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // A client that goes away or says nothing is its own affair.
    let _ = timeout(CONNECTION_MAX, connection).await;
}

fn answer(method: &Method, path: &str, headers: &HeaderMap, site: &Site) -> Response<Full<Bytes>> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let fixed = |kind, text: &'static str| (StatusCode::OK, kind, Bytes::from_static(text.as_bytes()));
    let refused = |status, text: &'static str| (status, TEXT, Bytes::from_static(text.as_bytes()));
    let (status, kind, body) = match path {
        _ if !is_read => {
            refused(StatusCode::METHOD_NOT_ALLOWED, "ask with GET: nothing can be changed here\n")
        }
        _ if !is_loopback(headers) => refused(
            StatusCode::MISDIRECTED_REQUEST,
            "ask by localhost or a loopback address, such as http://127.0.0.1:9464/\n",
        ),
        "/" => fixed(HTML, PAGE),
        "/page.css" => fixed(CSS, STYLE),
        "/page.js" => fixed(JAVASCRIPT, SCRIPT),
        "/state.json" => (StatusCode::OK, JSON, document(&(site.sample)()).into()),
        "/metrics" => (StatusCode::OK, METRICS, site.metrics.render().into()),
        _ => refused(StatusCode::NOT_FOUND, PATHS),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    headers.extend(GUARDS);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Whether this host was asked for as itself: a page of elsewhere whose name leads here is asked for by that name.
fn is_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Some(host) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests;
