//! Change without loss: what a process does when its file, or one that the file names, has become another one.
//!
//! In: an operator's word, SIGHUP, or that a certificate's file has changed. Everything is read and checked first; then all of it
//! that can change while clients are served is taken over at once, or nothing is. Out: what was taken over, what waits for a
//! restart, or every reason why nothing was. Control thread; files are read on threads of their own.
//!
//! - [`node`], [`distributor`]: what of their configurations may change, and who has to hear of it
//! - `trust`: what links rest on
//! - [`watch`]: files that change by themselves
//! - [`expiry`]: certificates that are about to end

pub(crate) mod distributor;
pub(crate) mod expiry;
pub(crate) mod node;
mod trust;
pub(crate) mod watch;

use std::cell::Cell;
use std::sync::Arc;

use keyferry_tls::CertificateFacts;
use serde::Serialize;
use tracing::{error, info, warn};

use self::expiry::date;
use self::watch::Found;
use crate::admin::document;
use crate::config::{Change, Problem, Problems};
use crate::counters::{Block, Registry};

/// What is counted.
const NAMES: &[&str] = &[
    "reloads_applied",
    "reloads_partly",
    "reloads_unchanged",
    "reloads_refused",
    "certificate_changes_taken",
    "certificate_changes_refused",
    "certificates_retired",
];

/// What each of [`NAMES`] counts.
const HELP: [&str; NAMES.len()] = [
    "Reloads of which all was taken over.",
    "Reloads of which some keys wait for a restart.",
    "Reloads that found everything as it was.",
    "Reloads refused, with what is wrong in the log.",
    "Certificates taken over because their files changed.",
    "Changes of certificates' files that were not taken over: the log says why.",
    "Sets of certificates that were replaced and that handshakes under way still use.",
];

/// The counters, each with what it counts.
pub(crate) fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES.iter().copied().zip(HELP)
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// What could be was taken over.
    Taken {
        /// What is in effect now and was not before.
        applied: Vec<Change>,
        /// What was read and is not in effect.
        needs_restart: Vec<Change>,
        /// What is no error but will be noticed.
        warnings: Vec<String>,
    },
    /// Nothing was.
    Refused {
        /// In a sentence.
        error: String,
        /// What is wrong, each with its place.
        problems: Vec<Problem>,
    },
}

/// An outcome as operators are answered.
#[derive(Serialize)]
struct Answer<'a> {
    node: &'a str,
    outcome: &'static str,
    applied: &'a [Change],
    needs_restart: &'a [Change],
    warnings: &'a [String],
    note: &'static str,
}

/// One that was refused.
#[derive(Serialize)]
struct RefusedAnswer<'a> {
    node: &'a str,
    outcome: &'static str,
    error: &'a str,
    problems: &'a [Problem],
}

impl Outcome {
    /// Refused for what is wrong with the file or with files it names.
    pub(crate) fn wrong(problems: &Problems) -> Outcome {
        let error = "nothing was applied: correct the file, or the files it names".to_owned();
        Outcome::Refused { error, problems: problems.list().to_vec() }
    }

    /// Refused for one reason, that is none of the file's.
    pub(crate) fn refused(error: impl Into<String>) -> Outcome {
        Outcome::Refused { error: error.into(), problems: Vec::new() }
    }

    /// With more that will be noticed; of one that was refused the log says it.
    pub(crate) fn with_warnings(mut self, more: Vec<String>) -> Outcome {
        match &mut self {
            Outcome::Taken { warnings, .. } => warnings.extend(more),
            Outcome::Refused { .. } => more.iter().for_each(|warning| warn!("{warning}")),
        }
        self
    }

    /// In a word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Outcome::Refused { .. } => "refused",
            Outcome::Taken { needs_restart, .. } if !needs_restart.is_empty() => "partly",
            Outcome::Taken { applied, .. } if applied.is_empty() => "unchanged",
            Outcome::Taken { .. } => "applied",
        }
    }

    /// For an operator: one JSON document.
    pub(crate) fn answer(&self, node: &str) -> String {
        let outcome = self.word();
        match self {
            Outcome::Refused { error, problems } => {
                document(&RefusedAnswer { node, outcome, error, problems })
            }
            Outcome::Taken { applied, needs_restart, warnings } => {
                let note = match outcome {
                    "partly" => "what needs a restart is as it was: drain and start again to take it over",
                    "unchanged" => "the file, and the certificates it names, are as they were",
                    _ => "everything in the file is in effect",
                };
                document(&Answer { node, outcome, applied, needs_restart, warnings, note })
            }
        }
    }

    /// For the log; `asked` is who wanted it.
    pub(crate) fn log(&self, asked: &str) {
        match self {
            Outcome::Refused { error, problems } => {
                error!("reload ({asked}) refused: {error}");
                for problem in problems {
                    error!("reload ({asked}) refused: {problem}");
                }
            }
            Outcome::Taken { applied, needs_restart, warnings } => {
                if !applied.is_empty() {
                    info!("reload ({asked}): taken over: {}", list(applied));
                }
                if !needs_restart.is_empty() {
                    warn!("reload ({asked}): waiting for a restart: {}", list(needs_restart));
                }
                if applied.is_empty() && needs_restart.is_empty() {
                    info!("reload ({asked}): everything is as it was");
                }
                for warning in warnings {
                    warn!("{warning}");
                }
            }
        }
    }
}

fn list(changes: &[Change]) -> String {
    changes.iter().map(Change::to_string).collect::<Vec<_>>().join(", ")
}

/// Counts of reloads.
pub(crate) struct Counts {
    block: Arc<Block>,
    values: Cell<[u64; NAMES.len()]>,
}

impl Counts {
    pub(crate) fn new(registry: &Registry) -> Counts {
        Counts { block: registry.block(NAMES, "reload".to_owned()), values: Cell::default() }
    }

    fn change(&self, name: &str, change: impl FnOnce(u64) -> u64) {
        let mut values = self.values.get();
        let at = NAMES.iter().position(|known| *known == name).expect("one of the names");
        values[at] = change(values[at]);
        self.values.set(values);
        self.block.publish(&values);
    }

    /// A reload has come to an end.
    pub(crate) fn reloaded(&self, outcome: &Outcome) {
        self.change(&format!("reloads_{}", outcome.word()), |count| count + 1);
    }

    /// A certificate's files have changed, and were taken over or not.
    fn certificate_changed(&self, is_taken: bool) {
        let name = if is_taken { "certificate_changes_taken" } else { "certificate_changes_refused" };
        self.change(name, |count| count + 1);
    }

    /// Files have changed: what was taken over of them, and what not, also for the log.
    pub(crate) fn found(&self, found: &Found) {
        for facts in &found.taken {
            let CertificateFacts { source, name, serial, not_after, .. } = facts;
            info!(
                "certificate taken over: {source}, for {name}, serial {serial}, until {}",
                date(*not_after)
            );
            self.certificate_changed(true);
        }
        for sentence in &found.refused {
            warn!("certificate not taken over, the one before stays: {sentence}");
            self.certificate_changed(false);
        }
    }

    /// So many sets of certificates are replaced and still in use.
    pub(crate) fn retired(&self, sets: usize) {
        self.change("certificates_retired", |_| sets as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::{self, LogFormat};
    use crate::log::tests::told;

    fn change(key: &str) -> Change {
        Change { table: "[limits]", key: key.to_owned() }
    }

    fn taken(applied: &[&str], needs_restart: &[&str]) -> Outcome {
        let [applied, needs_restart] =
            [applied, needs_restart].map(|keys| keys.iter().map(|key| change(key)).collect());
        Outcome::Taken { applied, needs_restart, warnings: Vec::new() }
    }

    #[test]
    fn each_outcome_has_a_word_and_is_counted() {
        let registry = Registry::new();
        let counts = Counts::new(&registry);
        let outcomes = [
            (taken(&[], &[]), "unchanged"),
            (taken(&["headers"], &[]), "applied"),
            (taken(&["headers"], &["connections"]), "partly"),
            (taken(&[], &["connections"]), "partly"),
            (Outcome::refused("no"), "refused"),
        ];
        for (outcome, word) in &outcomes {
            assert_eq!(outcome.word(), *word);
            counts.reloaded(outcome);
            let answer: serde_json::Value = serde_json::from_str(&outcome.answer("a")).unwrap();
            assert_eq!((&answer["node"], &answer["outcome"]), (&"a".into(), &(*word).into()));
            assert_eq!(answer["error"].is_string(), *word == "refused");
        }
        counts.certificate_changed(true);
        counts.certificate_changed(false);
        counts.retired(3);
        let total = registry.snapshot().total;
        assert_eq!(NAMES.iter().map(|name| total[name]).collect::<Vec<_>>(), [1, 2, 1, 1, 1, 1, 3]);
    }

    #[test]
    fn a_refusal_is_logged_with_who_asked_and_each_problem() {
        let problems =
            config::read_text("[nodes]\n", Path::new("a.toml"), &BTreeSet::from([0, 1])).unwrap_err();
        let lines = told(LogFormat::Text, |_| Outcome::wrong(&problems).log("SIGHUP"));
        assert_eq!(lines.len(), 1 + problems.list().len(), "{lines:?}");
        assert!(
            lines[0].contains("reload (SIGHUP) refused: nothing was applied: correct the file"),
            "{lines:?}"
        );
        for (line, problem) in lines[1..].iter().zip(problems.list()) {
            assert!(line.contains(&format!("reload (SIGHUP) refused: {problem}")), "{line}");
        }
    }

    #[test]
    fn changes_are_named_by_table_and_key() {
        let answer = taken(&["headers"], &["connections"]).answer("a");
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["needs_restart"], serde_json::json!([{"table": "[limits]", "key": "connections"}]));
        assert_eq!(list(&[change("headers"), change("")]), "[limits] headers, [limits]");
    }
}
