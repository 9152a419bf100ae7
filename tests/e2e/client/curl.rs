//! curl, several URLs to one invocation, which uses one connection as long as the server keeps it.

use std::fs;
use std::path::PathBuf;

use keyferry_cluster::Netns;

use super::output_of;
use crate::harness::{A4, Cluster, NAME, NAME_OTHER, NAME_RSA};

/// Longest transfer, in seconds: the 64 MiB ones on a busy machine.
const SECONDS_MAX: &str = "120";
/// What curl says of each transfer, on one line.
const WRITE_OUT: &str = "%{response_code} %{num_connects} %{http_version} %{size_download}\n";

/// One invocation being put together.
pub struct Curl<'a> {
    cluster: &'a Cluster,
    options: Vec<String>,
    address: String,
    /// Where it runs, if not where the clients are.
    netns: Option<Netns>,
    transfers: Vec<(String, PathBuf)>,
}

/// One finished transfer.
pub struct Fetched {
    /// Status code.
    pub status: u16,
    /// Connections curl opened for it: 0 where it used one it had.
    pub connects: u32,
    /// The body.
    pub body: Vec<u8>,
}

impl<'a> Curl<'a> {
    /// To node A over IPv4, trusting the test's authority.
    pub fn new(cluster: &'a Cluster) -> Curl<'a> {
        Curl { cluster, options: Vec::new(), address: A4.to_owned(), netns: None, transfers: Vec::new() }
    }

    /// To this address instead.
    pub fn to(mut self, address: &str) -> Curl<'a> {
        self.address = address.to_owned();
        self
    }

    /// From this namespace instead.
    pub fn inside(self, netns: &Netns) -> Curl<'a> {
        Curl { netns: Some(netns.clone()), ..self }
    }

    /// One more option for all transfers.
    pub fn option(mut self, option: &str) -> Curl<'a> {
        self.options.push(option.to_owned());
        self
    }

    /// One more transfer, of `target` at the default name.
    pub fn get(self, target: &str) -> Curl<'a> {
        let url = format!("https://{NAME}{target}");
        self.url(&url)
    }

    /// One more transfer.
    pub fn url(mut self, url: &str) -> Curl<'a> {
        let file = self.cluster.directory().join(format!("curl-{}.body", self.transfers.len()));
        self.transfers.push((url.to_owned(), file));
        self
    }

    /// Runs curl; it fails the test if any transfer fails below HTTP.
    pub fn run(self) -> Vec<Fetched> {
        let mut command = self.netns.as_ref().unwrap_or(self.cluster.clients()).command("curl");
        command.args(["--silent", "--show-error", "--globoff", "--max-time", SECONDS_MAX, "--cacert"]);
        command.arg(self.cluster.ca());
        for name in [NAME, NAME_RSA, NAME_OTHER] {
            for port in [80, 443] {
                command.args(["--resolve", &format!("{name}:{port}:{}", self.address)]);
            }
        }
        command.args(["--write-out", WRITE_OUT]).args(&self.options);
        for (url, file) in &self.transfers {
            command.arg(url).arg("--output").arg(file);
        }
        let lines = output_of(&mut command);
        let fetched: Vec<_> =
            lines.lines().zip(&self.transfers).map(|(line, (_, file))| fetched(line, file)).collect();
        assert_eq!(fetched.len(), self.transfers.len(), "{command:?} said {lines}");
        fetched
    }
}

fn fetched(line: &str, file: &PathBuf) -> Fetched {
    let fields: Vec<_> = line.split(' ').collect();
    let [status, connects, version, bytes] = fields[..] else { panic!("curl said {line:?}") };
    assert_eq!(version, "1.1");
    // curl makes no file for a body of no bytes.
    let body = fs::read(file).unwrap_or_default();
    let _ = fs::remove_file(file);
    // With --include the file also has the head.
    assert!(bytes.parse().is_ok_and(|bytes: usize| bytes <= body.len()), "curl said {line:?}");
    Fetched {
        status: status.parse().expect("curl prints the status"),
        connects: connects.parse().expect("curl prints connects"),
        body,
    }
}
