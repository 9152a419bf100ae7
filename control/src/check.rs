//! `keyferry check`: what would fail at start, and what to do about it.
//!
//! The configuration's problems and the host's findings come together in one [`Report`], printed as text or JSON.

use std::fmt;
use std::path::{Path, PathBuf};

use keyferry_nic_config::{Finding, Host, Severity, check};
use serde::Serialize;

use crate::config::{self, Config, Problem, files};

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The file that was checked.
    file: PathBuf,
    /// Nothing blocks: a node started now would serve.
    ok: bool,
    /// What is wrong with the file.
    problems: Vec<Problem>,
    /// What the host lacks.
    findings: Vec<Finding>,
    #[serde(skip)]
    text: String,
}

impl Report {
    /// Checks a configuration file against the host below `root` (`/`).
    pub fn new(file: &Path, root: &Path) -> Report {
        let host = Host::read(root);
        let (config, wanted) = config::examine(file, host.cores.usable());
        let mut findings = check(&host, &wanted);
        let (problems, mut text) = match &config {
            Ok(config) => {
                findings.extend(exposed_keys(config));
                (Vec::new(), String::new())
            }
            Err(problems) => (problems.list().to_vec(), format!("{problems}\n")),
        };
        for finding in &findings {
            text.push_str(&format!("{finding}\n"));
        }
        let blocks = findings.iter().any(|finding| finding.severity == Severity::Blocks);
        Report { file: file.to_owned(), ok: problems.is_empty() && !blocks, problems, findings, text }
    }

    /// Whether nothing blocks.
    pub fn is_ok(&self) -> bool {
        self.ok
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        let end = if self.ok { "ok" } else { "this node would not serve" };
        write!(f, "{}: {end}", self.file.display())
    }
}

/// A TLS key everybody can read works, so it is no problem of the file; it is still no secret.
fn exposed_keys(config: &Config) -> impl Iterator<Item = Finding> + '_ {
    let keys = config.certificates.iter().map(|certificate| certificate.key.as_path());
    keys.filter(|key| files::is_exposed(key)).map(|key| Finding {
        severity: Severity::Note,
        what: format!("the private key {} can be read by everybody on this machine", key.display()),
        fix: format!("chmod 600 {}", key.display()),
    })
}
