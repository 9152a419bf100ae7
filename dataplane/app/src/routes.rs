//! Several applications as one: a request goes to one of them by its host and by how its path begins.
//!
//! In: rules, and requests. Out: what the application of the rule that fits best says. Owned by the thread that runs them.

use std::borrow::Cow;
use std::task::{Poll, Waker};

use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;

use crate::{App, Body, Shared};

/// Which requests go to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Of this host, without its port; in any case. `None`: of every host.
    pub host: Option<String>,
    /// Whose path is this one or lies below it: `/a` takes `/a` and `/a/b`, not `/ab`.
    pub path_prefix: String,
    /// The application's place among all.
    pub app: usize,
}

/// The rules that choose between applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The best first: those of a host before those of all, then by the length of their paths.
    rules: Vec<Rule>,
    /// Where requests go that no rule fits.
    default: usize,
}

/// Applications and the rules that choose between them.
pub struct Routes<A> {
    apps: Vec<A>,
    rules: Rules,
}

/// One reply of one of them.
pub struct Task<T> {
    app: usize,
    task: T,
}

/// Whose requests run before their bodies are whole: what a worker knows of the applications. Where there are several, as while
/// applications change, those of which each says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams(Vec<(Rules, Vec<bool>)>);

impl Streams {
    /// Those of the applications that take [input](App::input), by their places.
    ///
    /// # Panics
    /// If a rule names none of them: a mistake of the caller.
    pub fn new(rules: Rules, take_input: Vec<bool>) -> Streams {
        assert!(rules.are_within(take_input.len()), "a rule names an application");
        Streams(if take_input.contains(&true) { vec![(rules, take_input)] } else { Vec::new() })
    }

    /// Those of which both say so. A request that is whole suits every application, so that these suit both.
    #[must_use]
    pub fn and(&self, other: &Streams) -> Streams {
        let neither_is_empty = !self.0.is_empty() && !other.0.is_empty();
        Streams(if neither_is_empty { [&self.0[..], &other.0[..]].concat() } else { Vec::new() })
    }

    /// Whether the application of a request takes its body as it comes.
    pub fn takes(&self, request: &Request) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(rules, take_input)| take_input[rules.of(request)])
    }
}

impl Rules {
    /// Requests go where the rules say, else to `default`.
    pub fn new(mut rules: Vec<Rule>, default: usize) -> Rules {
        rules.sort_by_key(|rule| (rule.host.is_none(), usize::MAX - rule.path_prefix.len()));
        Rules { rules, default }
    }

    /// Whether there are applications for all of them among so many.
    fn are_within(&self, apps: usize) -> bool {
        self.default < apps && self.rules.iter().all(|rule| rule.app < apps)
    }

    /// The application of a request.
    fn of(&self, request: &Request) -> usize {
        if self.rules.is_empty() {
            return self.default;
        }
        let (host, path) = (name_of(request.host()), settled(request.path()));
        let fits = |rule: &&Rule| {
            rule.host.as_ref().is_none_or(|name| name.as_bytes().eq_ignore_ascii_case(host))
                && lies_below(&path, rule.path_prefix.as_bytes())
        };
        self.rules.iter().find(fits).map_or(self.default, |rule| rule.app)
    }
}

impl<A: App> Routes<A> {
    /// All requests go to one.
    pub fn to(app: A) -> Routes<A> {
        Routes::new(vec![app], Rules::new(Vec::new(), 0))
    }

    /// Requests go where the rules say.
    ///
    /// # Panics
    /// If there is no such application: a mistake of the caller.
    pub fn new(apps: Vec<A>, rules: Rules) -> Routes<A> {
        assert!(rules.are_within(apps.len()), "a rule names an application");
        Routes { apps, rules }
    }

    /// The applications, each at its place.
    pub fn apps(&self) -> &[A] {
        &self.apps
    }

    /// Has other rules, and other applications at some places; those behind the last one in their order. What is under way goes on
    /// at its place, so that whatever comes there has to know how to go on with it.
    ///
    /// # Panics
    /// If a place is too far behind the last one, or a rule names none: mistakes of the caller.
    pub fn change(&mut self, apps: Vec<(usize, A)>, rules: Rules) {
        for (place, app) in apps {
            match self.apps.get_mut(place) {
                Some(before) => *before = app,
                None => {
                    assert_eq!(place, self.apps.len(), "places have no gap");
                    self.apps.push(app);
                }
            }
        }
        assert!(rules.are_within(self.apps.len()), "a rule names an application");
        self.rules = rules;
    }
}

impl<A: App> App for Routes<A> {
    type Task = Task<A::Task>;

    fn begin(&mut self, request: &Request, now: Time) -> Task<A::Task> {
        let app = self.rules.of(request);
        Task { app, task: self.apps[app].begin(request, now) }
    }

    fn wake_by(&mut self, task: &mut Task<A::Task>, waker: &Waker) {
        self.apps[task.app].wake_by(&mut task.task, waker);
    }

    fn input(&mut self, task: &mut Task<A::Task>, request: &Request, bytes: &[u8], end: bool) -> bool {
        self.apps[task.app].input(&mut task.task, request, bytes, end)
    }

    fn head(&mut self, task: &mut Task<A::Task>, request: &Request, now: Time) -> Poll<ReplyHead> {
        self.apps[task.app].head(&mut task.task, request, now)
    }

    fn body(&mut self, task: &mut Task<A::Task>, request: &Request, now: Time, out: &mut [u8]) -> Poll<Body> {
        self.apps[task.app].body(&mut task.task, request, now, out)
    }

    fn share(&mut self, task: &mut Task<A::Task>, request: &Request, bytes_max: usize) -> Option<Shared> {
        self.apps[task.app].share(&mut task.task, request, bytes_max)
    }

    fn deadline(&self, task: &Task<A::Task>) -> Option<Time> {
        self.apps[task.app].deadline(&task.task)
    }
}

/// A host without its port.
fn name_of(host: &[u8]) -> &[u8] {
    let literal_end = host.iter().rposition(|byte| *byte == b']').map_or(0, |at| at + 1);
    let colon = host[literal_end..].iter().position(|byte| *byte == b':');
    colon.map_or(host, |colon| &host[..literal_end + colon])
}

fn lies_below(path: &[u8], prefix: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    rest.is_empty() || prefix.ends_with(b"/") || rest.starts_with(b"/")
}

/// The path as whoever resolves it would have it: `.` and `..` gone, unreserved characters not encoded, no slash twice (RFC
/// 3986 6.2.2). Rules look at this one, so that none is got round by another way to write the same path.
fn settled(path: &[u8]) -> Cow<'_, [u8]> {
    let is_plain = !path.contains(&b'%') && !path.windows(2).any(|pair| matches!(pair, b"/." | b"//"));
    if is_plain {
        return Cow::Borrowed(path);
    }
    let decoded = decoded(path);
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut ends_in_slash = false;
    for segment in decoded.split(|byte| *byte == b'/') {
        ends_in_slash = matches!(segment, b"" | b"." | b"..");
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut out = Vec::with_capacity(decoded.len());
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if ends_in_slash || out.is_empty() {
        out.push(b'/');
    }
    Cow::Owned(out)
}

/// With unreserved characters in place of their codes (RFC 3986 2.3).
fn decoded(path: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        if let (b'%', [high, low, behind @ ..]) = (byte, behind)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
            && let code = (16 * high + low) as u8
            && (code.is_ascii_alphanumeric() || b"-._~".contains(&code))
        {
            out.push(code);
            rest = behind;
        } else {
            out.push(*byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use keyferry_http::{Limits, Progress, Reader};
    use proptest::prelude::*;

    use super::*;

    /// Says nothing.
    struct Silent;

    impl App for Silent {
        type Task = ();

        fn begin(&mut self, _: &Request, _: Time) {}

        fn head(&mut self, (): &mut (), _: &Request, _: Time) -> Poll<ReplyHead> {
            Poll::Pending
        }

        fn body(&mut self, (): &mut (), _: &Request, _: Time, _: &mut [u8]) -> Poll<Body> {
            Poll::Pending
        }
    }

    fn request(host: &str, path: &str) -> Request {
        let mut request = Request::default();
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let fed = Reader::new().feed(bytes.as_bytes(), &mut request, &Limits::default());
        assert_eq!(fed, Ok((bytes.len(), Progress::Complete)), "{bytes}");
        request
    }

    #[test]
    fn the_best_rule_wins() {
        let rule = |host: Option<&str>, path_prefix: &str, app| Rule {
            host: host.map(str::to_owned),
            path_prefix: path_prefix.to_owned(),
            app,
        };
        let rules = vec![
            rule(None, "/", 1),
            rule(None, "/a", 2),
            rule(None, "/a/b/", 3),
            rule(Some("h.net"), "/", 4),
            rule(Some("h.net"), "/a", 5),
        ];
        let routes = Rules::new(rules, 0);
        for (host, path, app) in [
            ("x", "/", 1),
            ("x", "/ab", 1),
            ("x", "/a", 2),
            ("x", "/a?q", 2),
            ("x", "/a/b", 2),
            ("x", "/a/b/", 3),
            ("x", "/a/b/c", 3),
            ("x", "/%61//b/c", 3),
            ("x", "/c/../a/./b/x", 3),
            ("x", "/a/b/..", 2),
            ("x", "/a/%2E%2e/c", 1),
            ("H.net:443", "/a/b/c", 5),
            ("h.NET", "/c", 4),
            ("[::1]:443", "/c", 1),
        ] {
            assert_eq!(routes.of(&request(host, path)), app, "{host} {path}");
        }
        let only = Rules::new(vec![rule(Some("h"), "/a", 1)], 0);
        assert_eq!([only.of(&request("x", "/a")), only.of(&request("h", "/b"))], [0, 0]);
        assert_eq!(Routes::to(Silent).rules.of(&request("x", "/a")), 0);
        let streams = Streams::new(only, vec![false, true]);
        assert_eq!(
            [("h", "/a"), ("h", "/b")].map(|(host, path)| streams.takes(&request(host, path))),
            [true, false]
        );
    }

    /// Who suits both suits whichever of them there is.
    #[test]
    fn what_streams_while_applications_change_is_what_streams_in_either() {
        let of = |path: &str| Rule { host: None, path_prefix: path.to_owned(), app: 1 };
        let streams = |paths: &[&str]| {
            Streams::new(Rules::new(paths.iter().map(|path| of(path)).collect(), 0), vec![false, true])
        };
        let (old, new) = (streams(&["/a", "/b"]), streams(&["/b", "/c"]));
        let takes =
            |streams: &Streams| ["/a", "/b", "/c", "/d"].map(|path| streams.takes(&request("x", path)));
        assert_eq!(takes(&old.and(&new)), [false, true, false, false]);
        assert_eq!(takes(&new.and(&old)), takes(&old.and(&new)));
        assert_eq!(takes(&old.and(&Streams::default())), [false; 4]);
        assert_eq!(takes(&Streams::default().and(&new)), [false; 4]);
    }

    #[test]
    fn applications_come_to_their_places() {
        let rule = |app| Rule { host: None, path_prefix: "/a".to_owned(), app };
        let mut routes = Routes::new(vec![Silent], Rules::new(Vec::new(), 0));
        let begun =
            |routes: &mut Routes<Silent>, path: &str| routes.begin(&request("x", path), Time::ZERO).app;
        assert_eq!(begun(&mut routes, "/a"), 0);
        routes.change(vec![(1, Silent), (0, Silent), (2, Silent)], Rules::new(vec![rule(2)], 1));
        assert_eq!((begun(&mut routes, "/a"), begun(&mut routes, "/b"), routes.apps().len()), (2, 1, 3));
        let gap = std::panic::AssertUnwindSafe(|| routes.change(vec![(4, Silent)], Rules::new(vec![], 0)));
        assert!(std::panic::catch_unwind(gap).is_err());
    }

    proptest! {
        /// What is settled stays as it is, and nothing is above its root.
        #[test]
        fn settled_once_for_all(path in "/[a./%2E-]{0,24}") {
            let once = settled(path.as_bytes()).into_owned();
            prop_assert!(once.starts_with(b"/"));
            let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
            prop_assert!(!once.split(|byte| *byte == b'/').any(is_dots), "{}", String::from_utf8_lossy(&once));
        }
    }
}
