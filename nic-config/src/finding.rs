//! What a check found: how bad it is, what is the case, and what to do about it.

use std::fmt;

use serde::Serialize;

/// How much a finding matters, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The node cannot start, or cannot serve.
    Blocks,
    /// It serves, slower than this hardware could.
    Slows,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Blocks => "blocks",
            Severity::Slows => "slows",
            Severity::Note => "note",
        })
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What is the case; one sentence without its full stop.
    pub what: String,
    /// What to do about it; one sentence without its full stop.
    pub fix: String,
}

impl Finding {
    pub(crate) fn blocks(what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { severity: Severity::Blocks, what: what.into(), fix: fix.into() }
    }

    pub(crate) fn slows(what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { severity: Severity::Slows, what: what.into(), fix: fix.into() }
    }

    pub(crate) fn note(what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { severity: Severity::Note, what: what.into(), fix: fix.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.what, self.fix)
    }
}
