//! What answers while a node runs: the applications of each of its threads, and what a reload makes of them. In: configurations, and
//! the applications an executable has of its own. Out: applications, and changes for those that run. Control thread.

use std::sync::Arc;

use anyhow::Context;
use keyferry_app::routes::Routes;
use keyferry_app::static_files::Static;
use keyferry_app::synthetic::{self, Synthetic};
use keyferry_app::threads::Changer;
use keyferry_app::{Builtin, Change};
use keyferry_upstream::{Options, Tally, Upstream};

use super::places::{Held, Places};
use super::{App, One, Own};
use crate::config::{self, Config, Files};

/// Makes applications, for each thread the same.
pub(super) struct Makers<A> {
    own: Own<A>,
    places: Places,
    /// The folder as it was opened last.
    files: Option<Static>,
    threads: usize,
    /// What each thread counts; none where no upstream can be reached.
    tallies: Vec<Arc<Tally>>,
}

impl<A: keyferry_app::App> Makers<A> {
    /// For so many threads, each with its tally if it can reach upstreams.
    pub(super) fn new(own: Own<A>, threads: usize, tallies: Vec<Arc<Tally>>) -> Makers<A> {
        Makers { own, places: Places::default(), files: None, threads, tallies }
    }

    /// What each thread answers by at first.
    pub(super) fn first(&mut self, config: &Config, files: Option<Static>) -> Vec<App<A>> {
        self.files = files;
        let settled = self.places.settle(config, !self.tallies.is_empty());
        let threads = 0..self.threads;
        let routes = |thread| {
            let apps = settled.new.iter().map(|(_, held)| self.make(held, thread)).collect();
            Routes::new(apps, settled.rules.clone())
        };
        threads.map(routes).collect()
    }

    /// What becomes of that when `config` is in effect, where `files` are others if there are any.
    fn changes(&mut self, config: &Config, files: Option<Static>) -> Vec<Change> {
        self.files = files.or(self.files.take());
        let settled = self.places.settle(config, !self.tallies.is_empty());
        let threads = 0..self.threads;
        let change = |thread| {
            let make = |(place, held): &(usize, Held)| (*place, self.make(held, thread));
            let apps: Vec<_> = settled.new.iter().map(make).collect();
            let (gone, rules) = (settled.gone.clone(), settled.rules.clone());
            Change::of(move |routes: &mut App<A>| {
                let gone = gone.into_iter().filter_map(|place| routes.apps()[place].upstream());
                gone.for_each(Upstream::retire);
                apps.iter().filter_map(|(_, app)| app.upstream()).for_each(Upstream::start);
                routes.change(apps, rules);
            })
        };
        threads.map(change).collect()
    }

    fn make(&mut self, held: &Held, thread: usize) -> One<A> {
        match held {
            Held::Synthetic(options) => {
                One::Builtin(Builtin::Synthetic(Synthetic::new(synthetic(options, thread as u64 + 1))))
            }
            Held::Static(_) => {
                One::Builtin(Builtin::Static(self.files.clone().expect("a folder that is named is open")))
            }
            Held::Own(place) => One::Own((self.own.makers[*place])()),
            Held::Upstream(options) => {
                let tally = Arc::clone(&self.tallies[thread]);
                One::Upstream(Upstream::new(Options::clone(options), tally))
            }
            Held::Gone => unreachable!("nothing new is gone"),
        }
    }
}

/// What becomes of applications by a configuration: a change for each thread.
type Changes = dyn FnMut(&Config, Option<Static>) -> Vec<Change>;

/// The applications of a node that runs, as reloads have them.
pub(crate) struct Live {
    changes: Box<Changes>,
    /// `None`: they run inside the workers.
    threads: Option<Changer>,
    may_reach_upstreams: bool,
}

impl Live {
    /// Those that `makers` made first.
    pub(super) fn new<A: keyferry_app::App>(mut makers: Makers<A>, threads: Option<Changer>) -> Live {
        Live {
            may_reach_upstreams: !makers.tallies.is_empty(),
            changes: Box::new(move |config, files| makers.changes(config, files)),
            threads,
        }
    }

    /// Whether they can reach upstreams, if the configuration has any.
    pub(crate) fn may_reach_upstreams(&self) -> bool {
        self.may_reach_upstreams
    }

    /// What becomes of them when `config` is in effect: a change for each thread, or each worker where there are none.
    pub(crate) fn changes(&mut self, config: &Config, files: Option<Static>) -> Vec<Change> {
        (self.changes)(config, files)
    }

    /// How threads are told, where there are any.
    pub(crate) fn threads(&mut self) -> Option<&mut Changer> {
        self.threads.as_mut()
    }
}

/// Opens the folder to serve.
pub(crate) fn open(files: &Files) -> anyhow::Result<Static> {
    let Files { root, dotfiles, cache } = files;
    let what = || format!("{} cannot be opened: check [app.static] root", root.display());
    Ok(Static::open(root).with_context(what)?.with_dotfiles(*dotfiles).with_cache(*cache))
}

fn synthetic(options: &config::Synthetic, seed: u64) -> synthetic::Options {
    synthetic::Options {
        cost_us: distribution(options.cost_us),
        bytes: distribution(options.bytes),
        burn: options.burn,
        seed,
    }
}

fn distribution(from: config::Distribution) -> synthetic::Distribution {
    match from {
        config::Distribution::Fixed(value) => synthetic::Distribution::Fixed(value),
        config::Distribution::Exponential(mean) => synthetic::Distribution::Exponential(mean),
        config::Distribution::LogNormal(median, sigma) => synthetic::Distribution::LogNormal(median, sigma),
        config::Distribution::Pareto(least, alpha) => synthetic::Distribution::Pareto(least, alpha),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::places::tests::config;
    use super::*;
    use crate::config::Named;

    /// What it remembers is worth more than a reload.
    #[test]
    fn an_application_of_ones_own_is_made_once() {
        let options = |config: &Config| synthetic(&config.app.synthetic, 1);
        let (theirs, made) = (config("", &[]), Rc::new(Cell::new(0)));
        let mut own = theirs.clone();
        own.app.default = Named::Own(0);
        let (count, options) = (Rc::clone(&made), synthetic::Options { burn: false, ..options(&theirs) });
        let maker = move || {
            count.set(count.get() + 1);
            Synthetic::new(options)
        };
        let mut makers = Makers::new(Own::named("hello", maker), 2, Vec::new());
        assert_eq!(makers.first(&theirs, None).len(), 2);
        assert_eq!(made.get(), 0, "nobody has named it");
        for config in [&own, &own, &theirs, &own] {
            assert_eq!(makers.changes(config, None).len(), 2);
            assert_eq!(made.get(), 2, "one for each thread");
        }
    }
}
