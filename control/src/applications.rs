//! What answers a node's requests: the applications its configuration names, as one, on app threads or inside the workers.
//!
//! In: a validated configuration, and the applications an executable has of its own. Out: each worker's way to them, and what
//! reloads change them by. Control thread.
//!
//! - [`live`]: makes them, and changes those that run
//! - `places`: where each is behind the routes

pub(crate) mod live;
mod places;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Poll, Waker};
use std::thread::JoinHandle;

use anyhow::{Context, ensure};
use keyferry_app::routes::{Routes, Streams};
use keyferry_app::{Body, Builtin, Port, Runner, Shared, SystemClock, builtin, threads};
use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;
use keyferry_upstream::{self as upstream, Beside, Tally, Upstream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::live::{Live, Makers};
use crate::config::{self, Config};
use crate::counters::Registry;

/// Applications that an executable has of its own, by the names that `[app] kind` and `[[route]] app` have for them.
///
/// Each app thread, or each worker where there are none, has a value of its own of each that its node's configuration names.
/// Several are of one type: an enum, if they differ. `docs/EMBEDDING.md` says how an executable is made of them.
pub struct Own<A> {
    names: Vec<String>,
    makers: Vec<Box<dyn FnMut() -> A>>,
}

impl Own<Nothing> {
    /// None: those that come with keyferry are all there are.
    pub fn none() -> Own<Nothing> {
        Own { names: Vec::new(), makers: Vec::new() }
    }
}

impl<A: keyferry_app::App> Own<A> {
    /// One. `make` is called on the control thread, for each thread that is to run it: at start, or when a reload first names it.
    ///
    /// # Panics
    /// If the name is one of keyferry's own: a mistake of the caller.
    pub fn named(name: &str, make: impl FnMut() -> A + 'static) -> Own<A> {
        Own { names: Vec::new(), makers: Vec::new() }.and(name, make)
    }

    /// And another one.
    ///
    /// # Panics
    /// As [`named`](Own::named), and if two have the same name.
    #[must_use]
    pub fn and(mut self, name: &str, make: impl FnMut() -> A + 'static) -> Own<A> {
        let is_free = !config::is_builtin_app(name) && !self.names.iter().any(|known| known == name);
        assert!(is_free, "an application is called {name} already: give this one another name");
        self.names.push(name.to_owned());
        self.makers.push(Box::new(make));
        self
    }
}

impl<A> Own<A> {
    /// What they are called: [`Config::load_with`] reads a file that may name them.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl<A> fmt::Debug for Own<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Own").field(&self.names).finish()
    }
}

/// What answers, as the executable knows it.
pub type App<A> = Routes<One<A>>;

/// One application.
pub enum One<A> {
    /// Of those that come with keyferry.
    Builtin(Builtin),
    /// Origin servers.
    Upstream(Upstream),
    /// Of the executable's own.
    Own(A),
}

impl<A> One<A> {
    /// The origin servers, if it is those.
    fn upstream(&self) -> Option<&Upstream> {
        match self {
            One::Upstream(upstream) => Some(upstream),
            One::Builtin(_) | One::Own(_) => None,
        }
    }
}

/// One reply of it.
#[allow(
    clippy::large_enum_variant,
    reason = "it lies in a slot that is made at start, and most are of upstreams where any are"
)]
pub enum Task<T> {
    /// Of [`One::Builtin`].
    Builtin(builtin::Task),
    /// Of [`One::Upstream`].
    Upstream(upstream::Task),
    /// Of [`One::Own`].
    Own(T),
}

impl<A: keyferry_app::App> keyferry_app::App for One<A> {
    type Task = Task<A::Task>;

    fn begin(&mut self, request: &Request, now: Time) -> Task<A::Task> {
        match self {
            One::Builtin(app) => Task::Builtin(app.begin(request, now)),
            One::Upstream(app) => Task::Upstream(app.begin(request, now)),
            One::Own(app) => Task::Own(app.begin(request, now)),
        }
    }

    fn wake_by(&mut self, task: &mut Task<A::Task>, waker: &Waker) {
        match (self, task) {
            (One::Own(app), Task::Own(task)) => app.wake_by(task, waker),
            (One::Upstream(app), Task::Upstream(task)) => app.wake_by(task, waker),
            (One::Builtin(app), Task::Builtin(task)) => app.wake_by(task, waker),
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }

    fn input(&mut self, task: &mut Task<A::Task>, request: &Request, bytes: &[u8], end: bool) -> bool {
        match (self, task) {
            (One::Own(app), Task::Own(task)) => app.input(task, request, bytes, end),
            (One::Upstream(app), Task::Upstream(task)) => app.input(task, request, bytes, end),
            (One::Builtin(app), Task::Builtin(task)) => app.input(task, request, bytes, end),
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }

    fn head(&mut self, task: &mut Task<A::Task>, request: &Request, now: Time) -> Poll<ReplyHead> {
        match (self, task) {
            (One::Own(app), Task::Own(task)) => app.head(task, request, now),
            (One::Builtin(app), Task::Builtin(task)) => app.head(task, request, now),
            (One::Upstream(app), Task::Upstream(task)) => app.head(task, request, now),
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }

    fn body(&mut self, task: &mut Task<A::Task>, request: &Request, now: Time, out: &mut [u8]) -> Poll<Body> {
        match (self, task) {
            (One::Own(app), Task::Own(task)) => app.body(task, request, now, out),
            (One::Builtin(app), Task::Builtin(task)) => app.body(task, request, now, out),
            (One::Upstream(app), Task::Upstream(task)) => app.body(task, request, now, out),
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }

    fn share(&mut self, task: &mut Task<A::Task>, request: &Request, bytes_max: usize) -> Option<Shared> {
        match (self, task) {
            (One::Builtin(app), Task::Builtin(task)) => app.share(task, request, bytes_max),
            (One::Own(app), Task::Own(task)) => app.share(task, request, bytes_max),
            _ => None,
        }
    }

    fn deadline(&self, task: &Task<A::Task>) -> Option<Time> {
        match (self, task) {
            (One::Own(app), Task::Own(task)) => app.deadline(task),
            (One::Builtin(app), Task::Builtin(task)) => app.deadline(task),
            (One::Upstream(app), Task::Upstream(task)) => app.deadline(task),
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }
}

/// The application of executables that have none of their own: there is no value of it.
pub enum Nothing {}

impl keyferry_app::App for Nothing {
    type Task = Nothing;

    fn begin(&mut self, _: &Request, _: Time) -> Nothing {
        match *self {}
    }

    fn head(&mut self, task: &mut Nothing, _: &Request, _: Time) -> Poll<ReplyHead> {
        match *task {}
    }

    fn body(&mut self, task: &mut Nothing, _: &Request, _: Time, _: &mut [u8]) -> Poll<Body> {
        match *task {}
    }
}

/// Requests the applications of a node work on at a time, as the decision where a request runs has it. One that goes on to an
/// upstream waits for others than this node's processors: as many as there may be pass it by.
pub(crate) fn slots(config: &Config) -> u32 {
    let unbounded = if config.reaches_upstreams() { config.limits.requests_in_app } else { 1 };
    let each = config.slots.map_or(unbounded, NonZeroUsize::get);
    u32::try_from(config.cores.apps.len().max(1) * each).unwrap_or(u32::MAX)
}

/// The applications of a node, started.
pub(crate) struct Started<A: keyferry_app::App> {
    /// Each worker's way to them.
    pub ports: Vec<Port<App<A>>>,
    /// Their threads, where they have any.
    pub threads: Vec<JoinHandle<()>>,
    /// For reloads.
    pub live: Live,
}

/// Starts the applications: on app threads where cores are set aside for them, else inside the workers. Threads of a file with an
/// upstream can reach one from then on, whether or not a request can now.
pub(crate) fn start<A: keyferry_app::App>(
    config: &Config,
    own: Own<A>,
    registry: &Registry,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Started<A>> {
    ensure!(
        config.own == own.names,
        "the configuration was read for other applications than {:?}: read it with Config::load_with",
        own.names
    );
    let (workers, apps) = (config.cores.workers.len(), config.cores.apps.len());
    let jobs = config.limits.requests_in_app;
    let files = config.app.files.as_ref().map(live::open).transpose()?;
    if apps == 0 {
        let mut makers = Makers::new(own, workers, Vec::new());
        let runner = |app| Runner::new(app, jobs, Box::new(SystemClock::default())).with_slots(config.slots);
        let ports = makers.first(config, files).into_iter().map(|app| Port::inline(runner(app))).collect();
        return Ok(Started { ports, threads: Vec::new(), live: Live::new(makers, None) });
    }
    let plan = threads::Plan {
        cores: config.cores.apps.iter().map(|core| Some(core.0)).collect(),
        workers,
        jobs_per_worker: jobs,
        slots: config.slots,
        idle: match config.cores.idle {
            config::Idle::Spin => threads::Idle::Spin,
            config::Idle::Yield => threads::Idle::Yield,
            config::Idle::Sleep => threads::Idle::Sleep,
        },
    };
    let upstreams = !config.upstreams.is_empty();
    let tallies: Vec<_> = (0..if upstreams { apps } else { 0 }).map(|_| Arc::new(Tally::default())).collect();
    let mut makers = Makers::new(own, apps, tallies.clone());
    let mut made = makers.first(config, files).into_iter();
    let mut next = || made.next().expect("one for each thread");
    let (ports, threads) = if upstreams {
        raise_open_files();
        let mut tallies = tallies.into_iter().enumerate();
        let with_upstreams = || {
            let (app, (number, tally)) = (next(), tallies.next().expect("one for each thread"));
            let block = registry.block(upstream::tally::NAMES, format!("app {number}"));
            let upstreams: Vec<_> = app.apps().iter().filter_map(One::upstream).cloned().collect();
            let beside = Beside::new(&upstreams, tally);
            (app, move |turns: threads::Turns<App<A>>| {
                upstream::run(turns, beside, move |values| block.publish(values))
            })
        };
        threads::start_on(&plan, with_upstreams, stop)
    } else {
        threads::start(&plan, next, stop)
    }
    .context("cannot start the application's threads")?;
    let changer = ports.first().and_then(Port::changer);
    Ok(Started { ports, threads, live: Live::new(makers, changer) })
}

/// Every connection to an origin is an open file, of which a process has few unless it asks for as many as it may have.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Refused: what is opened beyond the limit fails, and is counted.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Whose requests run before their bodies are whole: those of upstreams.
pub(crate) fn streams(config: &Config) -> Streams {
    places::streams(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never() -> Nothing {
        unreachable!("nobody starts it")
    }

    #[test]
    fn each_application_has_a_name_of_its_own() {
        assert_eq!(Own::named("hello", never).and("time", never).names(), ["hello", "time"]);
        for taken in ["hello", "static", "synthetic", "upstream"] {
            let named = std::panic::catch_unwind(|| drop(Own::named("hello", never).and(taken, never)));
            assert!(named.is_err(), "{taken}");
        }
    }
}
