//! `keyferry check`: what would fail at start, and what to do about it.
//!
//! The configuration's problems and the host's findings come together in one [`Report`], printed as text or JSON.

use std::fmt;
use std::path::{Path, PathBuf};

use keyferry_nic_config::{Finding, Host, Severity, check};
use serde::Serialize;

use crate::config::{self, Admin, Config, Kind, Problem, files};
use crate::privileges;

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
    /// Checks a configuration file against the host below `root` (`/`); `own`: what the executable's own applications are
    /// called.
    pub fn new(file: &Path, root: &Path, own: &[String]) -> Report {
        let host = Host::read(root);
        let (config, wanted) = config::examine(file, host.cores.usable(), own);
        let mut findings = check(&host, &wanted);
        let (problems, mut text) = match &config {
            Ok(Kind::Node(config)) => {
                findings.extend(exposed_keys(config));
                findings.extend(missing_user(&config.admin));
                (Vec::new(), String::new())
            }
            Ok(Kind::Distributor(config)) => {
                findings.extend(missing_user(&config.admin));
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
        let end = if self.ok { "ok" } else { "it would not serve" };
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

/// A process that is to become nobody there is does not start.
fn missing_user(admin: &Admin) -> Option<Finding> {
    let name = admin.user.as_deref().filter(|name| !privileges::is_user(name))?;
    Some(Finding {
        severity: Severity::Blocks,
        what: format!("admin.user: there is no user {name}"),
        fix: format!("adduser --system --group --no-create-home {name}"),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A host with two cores and one interface, and a node's files; returns the folder.
    fn host(interface: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("sys/devices/system/cpu/online", "0-1");
        file("sys/devices/system/cpu/isolated", "1");
        file("proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n");
        file("proc/meminfo", "MemAvailable: 4000000 kB\n");
        file("proc/cpuinfo", "flags: aes pclmulqdq vaes vpclmulqdq avx512f avx512bw avx512vl avx512dq\n");
        file("proc/net/dev", &format!("-\n-\n{interface}: 0\n"));
        let made = rcgen::generate_simple_self_signed(["example.net".to_owned()]).unwrap();
        file("cert.pem", &made.cert.pem());
        file("key.pem", &made.signing_key.serialize_pem());
        fs::set_permissions(folder.path().join("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        let nic =
            "device = \"net_af_packet0,iface=kf0\"\naddresses = [\"192.0.2.10/24\"]\nhugepages = \"never\"";
        let certificate = "[[certificate]]\nchain = \"cert.pem\"\nkey = \"key.pem\"";
        file("a.toml", &format!("[node]\nname = \"a\"\n[nic]\n{nic}\n{certificate}\n"));
        folder
    }

    fn report(folder: &Path) -> Report {
        Report::new(&folder.join("a.toml"), folder, &[])
    }

    #[test]
    fn a_host_that_has_what_the_file_names_is_ok() {
        let folder = host("kf0");
        let report = report(folder.path());
        assert!(report.is_ok(), "{report}");
        assert_eq!(report.to_string(), format!("{}/a.toml: ok", folder.path().display()));
    }

    #[test]
    fn what_the_host_lacks_blocks() {
        let report = report(host("eth0").path());
        assert!(!report.is_ok());
        assert!(
            report.to_string().contains("blocks: net_af_packet0,iface=kf0: this network namespace has no")
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["ok"], &json["findings"][0]["severity"]), (&false.into(), &"blocks".into()));
    }

    #[test]
    fn a_bad_file_still_says_what_the_host_lacks() {
        let folder = host("eth0");
        let file = folder.path().join("a.toml");
        let text = fs::read_to_string(&file).unwrap() + "[limits]\nconnection = 1\n";
        fs::write(&file, text).unwrap();
        let text = report(folder.path()).to_string();
        assert!(text.contains("did you mean connections?") && text.contains("no interface kf0"), "{text}");
        assert_eq!(Config::admin_socket(&file).unwrap(), Path::new("/run/keyferry/a.ctl"));
    }

    #[test]
    fn a_user_that_is_not_there_blocks() {
        let folder = host("kf0");
        let file = folder.path().join("a.toml");
        for (user, is_ok) in [("root", true), ("no-such-user-here", false)] {
            let text = fs::read_to_string(&file).unwrap();
            fs::write(&file, format!("{text}[admin]\nuser = \"{user}\"\n")).unwrap();
            let report = report(folder.path());
            assert_eq!(
                (report.is_ok(), report.to_string().contains("there is no user no-such-user-here")),
                (is_ok, !is_ok)
            );
            fs::write(&file, text).unwrap();
        }
    }

    #[test]
    fn a_key_everybody_reads_is_noted() {
        let folder = host("kf0");
        fs::set_permissions(folder.path().join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap();
        let report = report(folder.path());
        assert!(report.is_ok() && report.to_string().contains("note: the private key"), "{report}");
    }
}
