//! Which application is at which place behind a node's routes: every one of its threads has the same, and a reload changes them all
//! alike. In: configurations. Out: where each application is, what is new there, and what is there no more. Control thread.

use keyferry_app::routes::{Rule, Rules, Streams};
use keyferry_upstream::Options;

use crate::config::{self, Config, Files, Named};

/// An application at its place, by all that makes it what it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Held {
    /// Replies of a given cost and size.
    Synthetic(config::Synthetic),
    /// The files of a folder.
    Static(Files),
    /// One of the executable's own, by its place among them. It is made once, for what it remembers.
    Own(usize),
    /// Origin servers.
    Upstream(Box<Options>),
    /// Origin servers that are in the configuration no more.
    Gone,
}

impl Held {
    fn of(config: &Config, named: Named) -> Held {
        match named {
            Named::Synthetic => Held::Synthetic(config.app.synthetic),
            Named::Static => Held::Static(config.app.files.clone().expect("a folder that is named is there")),
            Named::Own(place) => Held::Own(place),
            Named::Upstream(place) => Held::Upstream(Box::new(config.upstreams[place].clone())),
        }
    }

    /// Whether this one goes on with what `before` has begun: then it may be at its place.
    fn may_follow(&self, before: &Held) -> bool {
        matches!(
            (before, self),
            (Held::Synthetic(_), Held::Synthetic(_))
                | (Held::Static(_), Held::Static(_))
                | (Held::Gone, Held::Upstream(_))
        )
    }
}

/// What is at each place.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Held>);

/// What another configuration makes of it.
#[derive(Debug)]
pub(super) struct Settled {
    /// The rules that choose between places.
    pub rules: Rules,
    /// Places of upstreams that are no more, though another one may be there.
    pub gone: Vec<usize>,
    /// What is new, each at its place.
    pub new: Vec<(usize, Held)>,
}

/// Whose requests run before their bodies are whole: those of upstreams.
pub(super) fn streams(config: &Config) -> Streams {
    let mut places = Places::default();
    let rules = places.settle(config, false).rules;
    Streams::new(rules, places.0.iter().map(|held| matches!(held, Held::Upstream(_))).collect())
}

impl Places {
    /// Finds a place for all that is named, and for each upstream if any can be reached. Who is as before stays where it is.
    pub fn settle(&mut self, config: &Config, upstreams: bool) -> Settled {
        let mut wanted: Vec<Held> = Vec::new();
        let named = config.routes.iter().map(|route| route.app);
        let listed = (0..config.upstreams.len()).filter(|_| upstreams).map(Named::Upstream);
        for named in [config.app.default].into_iter().chain(named).chain(listed) {
            let held = Held::of(config, named);
            if !wanted.contains(&held) {
                wanted.push(held);
            }
        }
        let mut gone = Vec::new();
        for (place, held) in self.0.iter_mut().enumerate() {
            if matches!(held, Held::Upstream(_)) && !wanted.contains(held) {
                *held = Held::Gone;
                gone.push(place);
            }
        }
        wanted.retain(|held| !self.0.contains(held));
        let mut new = Vec::new();
        for held in wanted {
            let place = self.0.iter().position(|before| held.may_follow(before)).unwrap_or(self.0.len());
            match self.0.get_mut(place) {
                Some(before) => before.clone_from(&held),
                None => self.0.push(held.clone()),
            }
            new.push((place, held));
        }
        Settled { rules: self.rules(config), gone, new }
    }

    fn rules(&self, config: &Config) -> Rules {
        let place = |named: Named| {
            let held = Held::of(config, named);
            self.0.iter().position(|it| *it == held).expect("all that is named has a place")
        };
        let rule = |route: &config::Route| Rule {
            host: route.host.clone(),
            path_prefix: route.path_prefix.clone(),
            app: place(route.app),
        };
        Rules::new(config.routes.iter().map(rule).collect(), place(config.app.default))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// One with these tables, and an upstream for each name.
    pub fn config(tables: &str, upstreams: &[&str]) -> Config {
        let least = "[node]\nname = \"a\"\n[cores]\nidle = \"yield\"\napps = [1]\n[nic]\ndevice = \"net_af_packet0,iface=kf0\"\n\
            addresses = [\"192.0.2.10/24\"]\n[[certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n";
        let table = |name: &&str| {
            let (name, port) = name.split_once(':').unwrap();
            format!("[[upstream]]\nname = \"{name}\"\nservers = [\"192.0.2.1:{port}\"]\n")
        };
        let upstreams: String = upstreams.iter().map(table).collect();
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        std::fs::write(folder.path().join("a.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("a.key"), made.signing_key.serialize_pem()).unwrap();
        let text = format!("{least}{tables}{upstreams}");
        config::read_text(&text, &folder.path().join("a.toml"), &BTreeSet::from([0, 1])).unwrap()
    }

    fn route(path: &str, app: &str) -> String {
        format!("[[route]]\npath_prefix = \"{path}\"\napp = \"{app}\"\n")
    }

    fn new_places(settled: &Settled) -> Vec<usize> {
        settled.new.iter().map(|(place, _)| *place).collect()
    }

    #[test]
    fn who_is_as_before_stays_and_who_is_gone_makes_room() {
        let mut places = Places::default();
        let first = config(&route("/a", "one"), &["one:1", "two:2", "three:3"]);
        let settled = places.settle(&first, true);
        assert_eq!((new_places(&settled), settled.gone), (vec![0, 1, 2, 3], vec![]), "synthetic and three");
        // The same again, in another order and by other routes: nothing is new.
        let settled = places.settle(&config(&route("/b", "two"), &["three:3", "two:2", "one:1"]), true);
        assert_eq!((new_places(&settled), settled.gone), (vec![], vec![]));
        // Another definition is another upstream, also of the same name.
        let settled = places.settle(&config(&route("/b", "two"), &["two:9", "three:3"]), true);
        assert_eq!((new_places(&settled), settled.gone), (vec![1], vec![1, 2]));
        // Those that were here are not those that come back, whatever they are called.
        let settled = places.settle(&first, true);
        assert_eq!((new_places(&settled), settled.gone), (vec![1, 2], vec![1]));
        for port in 0..100 {
            let other = format!("one:{}", 100 + port);
            places.settle(&config(&route("/a", "one"), &[&other, "three:3"]), true);
        }
        assert_eq!(places.0.len(), 4, "places do not grow in number");
    }

    #[test]
    fn applications_follow_their_own_kind_alone() {
        let mut places = Places::default();
        places.settle(&config(&route("/a", "one"), &["one:1"]), true);
        let cost = "[app]\n[app.synthetic]\ncost_us = { fixed = 7 }\n";
        let settled = places.settle(&config(cost, &[]), true);
        assert_eq!((new_places(&settled), settled.gone), (vec![0], vec![1]));
        let folder = tempfile::tempdir().unwrap();
        let files = |path: &Path| format!("[app]\nkind = \"static\"\n[app.static]\nroot = {path:?}\n");
        let settled = places.settle(&config(&files(folder.path()), &[]), true);
        assert_eq!((new_places(&settled), settled.gone), (vec![2], vec![]), "not where an upstream was");
        let other = tempfile::tempdir().unwrap();
        let settled = places.settle(&config(&files(other.path()), &["one:1"]), true);
        assert_eq!((new_places(&settled), settled.gone), (vec![2, 1], vec![]));
        // Where none can be reached none is made.
        assert_eq!(new_places(&Places::default().settle(&config("", &["one:1"]), false)), [0]);
    }
}
