//! A node with an application of its own: `[app] kind = "hello"`, or `[[route]] app = "hello"`. See docs/EMBEDDING.md.

use std::process::ExitCode;
use std::task::Poll;

use keyferry_app::{App, Body, ReplyHead, Request, Time};
use keyferry_control::applications::Own;

/// Greets whom the path names, and says what it was sent.
pub struct Hello;

/// A reply under way: its text, and how much of it is written.
pub struct Greeting(Vec<u8>, usize);

impl App for Hello {
    type Task = Greeting;

    fn begin(&mut self, request: &Request, _: Time) -> Greeting {
        let whom = String::from_utf8_lossy(request.path()).trim_start_matches('/').to_owned();
        Greeting([format!("Hello, {whom}!\n").as_bytes(), request.body()].concat(), 0)
    }

    fn head(&mut self, Greeting(text, _): &mut Greeting, _: &Request, _: Time) -> Poll<ReplyHead> {
        Poll::Ready(ReplyHead::new(200, text.len() as u64, "text/plain; charset=utf-8"))
    }

    fn body(
        &mut self,
        Greeting(text, at): &mut Greeting,
        _: &Request,
        _: Time,
        out: &mut [u8],
    ) -> Poll<Body> {
        let bytes = out.len().min(text.len() - *at);
        out[..bytes].copy_from_slice(&text[*at..][..bytes]);
        *at += bytes;
        Poll::Ready(Body { bytes, end: *at == text.len() })
    }
}

/// What configurations may name.
pub fn own() -> Own<Hello> {
    Own::named("hello", || Hello)
}

fn main() -> ExitCode {
    keyferry_control::cli::run_with("hello 1.0", own())
}
