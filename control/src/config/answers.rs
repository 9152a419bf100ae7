//! What of another configuration's answers is taken over: `[app]`, `[[route]]` and `[[upstream]]` name each other, so they go together
//! or wait together.
//!
//! In: what is in effect, and what the file has now. Out: what is in effect then, and each key that differs.

use keyferry_upstream::Options;

use super::app::{App, Files, Named, Synthetic};
use super::changes::Ledger;
use super::{Config, Route};

/// The place of an upstream that is in the file no more.
const GONE: Named = Named::Upstream(usize::MAX);

/// Takes over what can be: all of it, but for routes to an upstream where none can be reached.
pub(super) fn take_over(
    (app, routes, upstreams): (&mut App, &mut Vec<Route>, &mut Vec<Options>),
    new: &Config,
    can: bool,
    ledger: &mut Ledger,
) {
    // Upstreams are named by their places, and may have others now.
    let moved = |named: Named| match named {
        Named::Upstream(place) => {
            let is_it = |it: &Options| it.name == upstreams[place].name;
            new.upstreams.iter().position(is_it).map_or(GONE, Named::Upstream)
        }
        named => named,
    };
    let before = moved(app.default);
    let mut listed: Vec<_> =
        routes.iter().map(|route| Route { app: moved(route.app), ..route.clone() }).collect();
    if before != new.app.default {
        let both = matches!((before, new.app.default), (Named::Upstream(_), Named::Upstream(_)));
        ledger.differs(can, "[app]", if both { "upstream" } else { "kind" });
    }
    take_over_synthetic(&mut app.synthetic, &new.app.synthetic, ledger);
    take_over_files(&mut app.files, new.app.files.as_ref(), can, ledger);
    ledger.list(can, "[[route]]", &mut listed, &new.routes, Route::name);
    ledger.list(can, "[[upstream]]", upstreams, &new.upstreams, |upstream| upstream.name.clone());
    if can {
        (app.default, *routes) = (new.app.default, listed);
    }
}

fn take_over_synthetic(now: &mut Synthetic, new: &Synthetic, ledger: &mut Ledger) {
    let Synthetic { cost_us, bytes, burn } = now;
    ledger.live("[app.synthetic]", "cost_us", cost_us, &new.cost_us);
    ledger.live("[app.synthetic]", "bytes", bytes, &new.bytes);
    ledger.live("[app.synthetic]", "burn", burn, &new.burn);
}

/// A folder is there wherever something names it: where that is new, it is what differs.
fn take_over_files(now: &mut Option<Files>, new: Option<&Files>, can: bool, ledger: &mut Ledger) {
    match (now, new) {
        (Some(Files { root, dotfiles, cache }), Some(new)) => {
            ledger.live("[app.static]", "root", root, &new.root);
            ledger.live("[app.static]", "dotfiles", dotfiles, &new.dotfiles);
            ledger.live("[app.static]", "cache_ms", cache, &new.cache);
        }
        (now, new) if can => *now = new.cloned(),
        _ => {}
    }
}
