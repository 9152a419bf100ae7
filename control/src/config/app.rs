//! `[app]`: what answers requests.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::reader::{Context, Section, nearest};

/// Largest cost or size a distribution may be given: above it is a slip of the pen.
const VALUE_MAX: f64 = 1e12;

/// Longest time for which a file may be believed to be what it was: an hour.
const CACHE_MS_MAX: u64 = 3_600_000;

/// Most requests an application thread works on at a time.
const SLOTS_MAX: u64 = 1 << 20;

/// What can answer requests.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    /// What does where no route says otherwise.
    pub default: Named,
    /// Replies of a given cost and size.
    pub synthetic: Synthetic,
    /// The files of a folder; there wherever something names them.
    pub files: Option<Files>,
}

/// An application by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Replies of a given cost and size.
    Synthetic,
    /// The files of a folder.
    Static,
    /// An upstream, by its place in the file.
    Upstream(usize),
    /// One of the executable's own, by its place among them.
    Own(usize),
}

/// The files of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The folder.
    pub root: PathBuf,
    /// Names that begin with a dot are served.
    pub dotfiles: bool,
    /// How long a short file is believed to be what it was.
    pub cache: Duration,
}

/// Replies of a given cost and size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Synthetic {
    /// Cost of a reply, in us.
    pub cost_us: Distribution,
    /// Size of a reply's body, in bytes.
    pub bytes: Distribution,
    /// The cost is burnt on the core; else only waited out.
    pub burn: bool,
}

/// Where values are drawn from. In the file a table with one key: `{ fixed = 1024 }`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// Always this value.
    Fixed(f64),
    /// Exponential, by its mean.
    Exponential(f64),
    /// Log-normal: median, and sigma of the logarithm.
    LogNormal(f64, f64),
    /// Pareto: least value, and alpha.
    Pareto(f64, f64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Synthetic,
    Static,
    Upstream,
    Own(usize),
}

const KINDS: &[(&str, Kind)] =
    &[("synthetic", Kind::Synthetic), ("static", Kind::Static), ("upstream", Kind::Upstream)];

/// Applications that come with keyferry, by their names.
const BUILTIN: [(&str, Named); 2] = [("synthetic", Named::Synthetic), ("static", Named::Static)];

/// Whether an application that comes with keyferry is called so.
pub(crate) fn is_builtin(name: &str) -> bool {
    KINDS.iter().any(|(known, _)| *known == name)
}

/// What `kind` may be, where the executable has these applications of its own.
fn kinds(own: &[String]) -> Vec<(&str, Kind)> {
    let own = own.iter().enumerate().map(|(place, name)| (name.as_str(), Kind::Own(place)));
    KINDS.iter().copied().chain(own).collect()
}

const WANTS: &str =
    "{ fixed = N }, { exponential = MEAN }, { lognormal = [MEDIAN, SIGMA] } or { pareto = [MIN, ALPHA] }";

/// `[app]` before what it names is known.
pub(super) struct Draft {
    kind: Kind,
    /// The upstream's name, if there are several.
    upstream: Option<String>,
    synthetic: Synthetic,
    root: Option<PathBuf>,
    dotfiles: bool,
    cache: Duration,
    /// How many requests a thread works on at a time; `None`: all it has.
    pub(super) slots: Option<NonZeroUsize>,
}

/// `wants_files`: a route goes to them. `own`: what the executable's own applications are called.
pub(super) fn read(mut section: Section<'_, '_>, wants_files: bool, own: &[String]) -> Draft {
    let kind = section.choice("kind", &kinds(own), Kind::Synthetic);
    let upstream = section.value("upstream", "the name of an [[upstream]] in quotes");
    let slots = NonZeroUsize::new(section.number("slots", 0, 0..=SLOTS_MAX));
    let synthetic = read_synthetic(section.section("synthetic"));
    let wants_files = wants_files || kind == Kind::Static;
    let (root, dotfiles, cache) = read_static(section.section("static"), wants_files);
    section.finish();
    Draft { kind, upstream, synthetic, root: root.filter(|_| wants_files), dotfiles, cache, slots }
}

impl Draft {
    /// With what it names among `upstreams`; what is not there is reported.
    pub(super) fn finish(self, context: &Context<'_>, upstreams: &[&str]) -> Option<App> {
        let named = self.upstream.as_deref().map(|name| (name, upstreams.iter().position(|it| *it == name)));
        if let Some((name, None)) = named {
            context.report("app.upstream", unknown(name, upstreams, &[]));
        }
        let default = match (self.kind, named, upstreams) {
            (Kind::Synthetic, ..) => Named::Synthetic,
            (Kind::Static, ..) => Named::Static,
            (Kind::Own(place), ..) => Named::Own(place),
            (Kind::Upstream, Some((_, place)), _) => Named::Upstream(place?),
            (Kind::Upstream, None, [_]) => Named::Upstream(0),
            (Kind::Upstream, None, []) => {
                let what = "there is no upstream: add an [[upstream]] with its name and servers";
                context.report("app.kind", what);
                return None;
            }
            (Kind::Upstream, None, [_, ..]) => {
                context
                    .report("app.kind", "there are several upstreams: write which one, upstream = \"NAME\"");
                return None;
            }
        };
        let (dotfiles, cache) = (self.dotfiles, self.cache);
        let files = self.root.map(|root| Files { root, dotfiles, cache });
        Some(App { default, synthetic: self.synthetic, files })
    }
}

/// The application of that name; what is not there is reported at `path`.
pub(super) fn named(
    context: &Context<'_>,
    path: &str,
    name: &str,
    upstreams: &[&str],
    own: &[String],
) -> Option<Named> {
    let builtin = BUILTIN.iter().find(|(known, _)| *known == name).map(|(_, named)| *named);
    let own_one = || own.iter().position(|known| known == name).map(Named::Own);
    let upstream = || upstreams.iter().position(|known| *known == name).map(Named::Upstream);
    let found = builtin.or_else(own_one).or_else(upstream);
    if found.is_none() {
        let builtin = BUILTIN.iter().map(|(name, _)| *name).chain(own.iter().map(String::as_str));
        context.report(path, unknown(name, upstreams, &builtin.collect::<Vec<_>>()));
    }
    found
}

fn unknown(name: &str, upstreams: &[&str], builtin: &[&str]) -> String {
    let known = || builtin.iter().chain(upstreams).copied();
    match nearest(name, known()) {
        Some(near) => format!("there is no \"{name}\", did you mean \"{near}\"?"),
        None if known().next().is_none() => {
            format!("there is no \"{name}\": add an [[upstream]] of that name")
        }
        None => {
            let all = known().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            format!("there is no \"{name}\": write one of {all}, or add an [[upstream]] of that name")
        }
    }
}

fn read_synthetic(mut section: Section<'_, '_>) -> Synthetic {
    let cost_us = distribution(&mut section, "cost_us", 0.0);
    let bytes = distribution(&mut section, "bytes", 1024.0);
    let burn = section.flag("burn", true);
    section.finish();
    Synthetic { cost_us, bytes, burn }
}

fn read_static(mut section: Section<'_, '_>, wanted: bool) -> (Option<PathBuf>, bool, Duration) {
    let mut root = section.file("root");
    if wanted {
        root = section.required("root", root, "the folder to serve");
    }
    let dotfiles = section.flag("dotfiles", false);
    let cache = section.millis("cache_ms", 1_000, 0..=CACHE_MS_MAX);
    section.finish();
    (root, dotfiles, cache)
}

fn distribution(section: &mut Section<'_, '_>, key: &'static str, default: f64) -> Distribution {
    let Some(distribution) = section.value(key, WANTS) else { return Distribution::Fixed(default) };
    let value = |value: f64| (0.0..=VALUE_MAX).contains(&value);
    let shape = |shape: f64| shape > 0.0 && shape <= 100.0;
    let fits = match distribution {
        Distribution::Fixed(at) | Distribution::Exponential(at) => value(at),
        Distribution::LogNormal(median, sigma) => value(median) && (sigma == 0.0 || shape(sigma)),
        Distribution::Pareto(min, alpha) => value(min) && shape(alpha),
    };
    if !fits {
        let bounds = "values from 0 to 1e12, SIGMA from 0 to 100, ALPHA above 0 and up to 100";
        section.report(key, format!("a number is out of range: write {WANTS} with {bounds}"));
    }
    distribution
}

/// Whether the folder to serve is one.
pub(super) fn check(context: &Context<'_>, draft: &Draft) {
    let Some(root) = &draft.root else { return };
    if let Err(error) = std::fs::read_dir(root) {
        let what = format!("{} is not a folder this user can read ({error})", root.display());
        context.report("app.static.root", format!("{what}: create it, or name the right one"));
    }
}
