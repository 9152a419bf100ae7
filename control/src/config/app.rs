//! `[app]`: what answers requests.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::reader::{Context, Section};

/// Largest cost or size a distribution may be given: above it is a slip of the pen.
const VALUE_MAX: f64 = 1e12;

/// Longest time for which a file may be believed to be what it was: an hour.
const CACHE_MS_MAX: u64 = 3_600_000;

/// Most requests an application thread works on at a time.
const SLOTS_MAX: u64 = 1 << 20;

/// What answers requests.
#[derive(Clone, Debug, PartialEq)]
pub enum App {
    /// Replies of a given cost and size.
    Synthetic(Synthetic),
    /// The files of a folder.
    Static {
        /// The folder.
        root: PathBuf,
        /// Names that begin with a dot are served.
        dotfiles: bool,
        /// How long a short file is believed to be what it was.
        cache: Duration,
    },
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

#[derive(Clone, Copy)]
enum Kind {
    Synthetic,
    Static,
}

const KINDS: &[(&str, Kind)] = &[("synthetic", Kind::Synthetic), ("static", Kind::Static)];

const WANTS: &str =
    "{ fixed = N }, { exponential = MEAN }, { lognormal = [MEDIAN, SIGMA] } or { pareto = [MIN, ALPHA] }";

/// What answers, and how many requests a thread of it works on at a time; `None`: all it has.
pub(super) fn read(mut section: Section<'_, '_>) -> (Option<App>, Option<NonZeroUsize>) {
    let kind = section.choice("kind", KINDS, Kind::Synthetic);
    let slots = NonZeroUsize::new(section.number("slots", 0, 0..=SLOTS_MAX));
    let synthetic = read_synthetic(section.section("synthetic"));
    let (root, dotfiles, cache) = read_static(section.section("static"), matches!(kind, Kind::Static));
    section.finish();
    let app = match kind {
        Kind::Synthetic => Some(App::Synthetic(synthetic)),
        Kind::Static => root.map(|root| App::Static { root, dotfiles, cache }),
    };
    (app, slots)
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
pub(super) fn check(context: &Context<'_>, app: &App) {
    let App::Static { root, .. } = app else { return };
    if let Err(error) = std::fs::read_dir(root) {
        let what = format!("{} is not a folder this user can read ({error})", root.display());
        context.report("app.static.root", format!("{what}: create it, or name the right one"));
    }
}
