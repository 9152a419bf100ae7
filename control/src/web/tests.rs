//! What is answered to whom, and what browsers are told of it.

use std::io::{Read, Write};
use std::net::TcpStream as StdStream;

use super::*;
use crate::counters::Registry;
use crate::runtime::Control;
use crate::top::sample::{Life, Role};

fn site() -> Site {
    let registry = Arc::new(Registry::new());
    let names: &[&str] = &["requests", "flows"];
    registry.block(names, "worker 0".to_owned()).publish(&[7, 2]);
    let (life, counted) = (Life::begin(), Arc::clone(&registry));
    let sample = move || {
        let about = life.about(Role::Node, "</script>", "0.1.0", Some("bf"), "serving");
        Sample::new(about, &[3], &counted.snapshot(), Vec::new(), &[])
    };
    Site::new(Metrics::new(registry, Vec::new, Vec::new), sample)
}

fn asked(method: Method, path: &str, hosts: &[&str]) -> Response<Full<Bytes>> {
    let mut headers = HeaderMap::new();
    for host in hosts {
        headers.append(header::HOST, host.parse().unwrap());
    }
    answer(&method, path, &headers, &site())
}

fn status(host: &str) -> StatusCode {
    asked(Method::GET, "/state.json", &[host]).status()
}

#[test]
fn only_who_asks_for_this_host_is_answered() {
    let own =
        ["localhost", "LOCALHOST:9464", "127.0.0.1", "127.0.0.1:9464", "127.9.9.9:1", "[::1]", "[::1]:9464"];
    for host in own {
        assert_eq!(status(host), StatusCode::OK, "{host}");
    }
    let other = [
        "keyferry.example",
        "localhost.example:9464",
        "127.0.0.1.example",
        "10.0.0.1",
        "0.0.0.0:9464",
        "[::ffff:8.8.8.8]",
        "127.0.0.1@rebound.example",
        "a b",
        "",
    ];
    for host in other {
        assert_eq!(status(host), StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
    for hosts in [&[][..], &["localhost", "localhost"], &["localhost", "rebound.example"]] {
        for path in ["/", "/metrics", "/state.json", "/page.js"] {
            let status = asked(Method::GET, path, hosts).status();
            assert_eq!(status, StatusCode::MISDIRECTED_REQUEST, "{path} {hosts:?}");
        }
    }
}

#[test]
fn nothing_is_there_but_to_be_read() {
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::TRACE] {
        for path in ["/", "/state.json", "/metrics", "/none"] {
            let response = asked(method.clone(), path, &["localhost"]);
            assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(response.headers()[header::ALLOW], "GET, HEAD");
        }
    }
    assert_eq!(asked(Method::GET, "/ctl", &["localhost"]).status(), StatusCode::NOT_FOUND);
    assert_eq!(asked(Method::HEAD, "/", &["localhost"]).status(), StatusCode::OK);
}

#[test]
fn every_answer_guards_itself_in_a_browser() {
    for (path, host) in [("/", "localhost"), ("/state.json", "localhost"), ("/none", "localhost"), ("/", "x")]
    {
        let response = asked(Method::GET, path, &[host]);
        let headers = response.headers();
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers["cross-origin-resource-policy"], "same-origin");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert!(headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    }
}

/// The policy allows nothing that stands in the page itself, and nothing of elsewhere.
#[test]
fn the_page_needs_nothing_but_what_is_here() {
    for text in [PAGE, STYLE, SCRIPT] {
        for outside in
            ["https:", "//cdn", "@import", "url(", "innerHTML", "insertAdjacentHTML", "eval(", "style="]
        {
            assert!(!text.contains(outside), "{outside}");
        }
    }
    assert_eq!(SCRIPT.matches("http:").count(), 1, "the name of SVG, which nobody asks for");
    assert!(!PAGE.contains("<style") && PAGE.matches("<script").count() == 1);
    for on in ["onclick", "onload", "onerror", "javascript:"] {
        assert!(!PAGE.contains(on), "{on}");
    }
}

#[test]
fn answers_over_http_and_refuses_what_it_does_not_have() {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Control::start().unwrap().run(async |_| {
        let web = Web::start(address).unwrap();
        let at = web.0.local_addr().unwrap();
        assert!(Web::start(at).err().unwrap().to_string().contains("a port that is free"));
        let client = tokio::task::spawn_blocking(move || {
            let mut stream = StdStream::connect(at).unwrap();
            let ask = |what: &str, host: &str| format!("{what} HTTP/1.1\r\nHost: {host}\r\n");
            let asked = [
                ask("GET /metrics", "localhost"),
                ask("GET /state.json", "127.0.0.1"),
                ask("HEAD /", "localhost"),
                ask("GET /none", "localhost"),
                ask("GET /metrics", "rebound.example"),
                ask("POST /metrics", "localhost") + "Connection: close\r\n",
            ];
            stream.write_all((asked.join("\r\n") + "\r\n").as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        tokio::select! {
            () = web.serve(site()) => unreachable!("it serves for ever"),
            text = client => {
                let text = text.unwrap();
                let heads = text.split("HTTP/1.1 ").skip(1).map(|head| &head[..3]);
                assert_eq!(heads.collect::<Vec<_>>(), ["200", "200", "200", "404", "421", "405"], "{text}");
                assert!(text.contains("\nkeyferry_requests_total{worker=\"0\"} 7\n"), "{text}");
                assert!(text.contains(r#""requests":7"#) && !text.contains("<!doctype"), "{text}");
            }
        }
    });
}

#[test]
fn a_head_without_end_is_not_read_for_ever() {
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Control::start().unwrap().run(async |_| {
        let web = Web::start(address).unwrap();
        let at = web.0.local_addr().unwrap();
        let client = tokio::task::spawn_blocking(move || {
            let mut stream = StdStream::connect(at).unwrap();
            // It may hang up while this is still being written.
            let _ = stream
                .write_all(&[b"GET / HTTP/1.1\r\nHost: ".as_slice(), &[b'x'; 8 * HEAD_BYTES_MAX]].concat());
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        tokio::select! {
            () = web.serve(site()) => unreachable!("it serves for ever"),
            text = client => {
                let text = text.unwrap();
                assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
            }
        }
    });
}
