//! A server of Debian's etcd-server for one cluster: started, killed, stopped where it is, started again with its data or
//! without.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::Netns;

/// Longest start.
const START_MAX: Duration = Duration::from_secs(30);
/// Seconds after which a node that is silent towards etcd has left.
pub const TTL_S: u64 = 3;

/// Authority, certificate, key.
const TLS_FILES: [&str; 3] = ["ca.pem", "etcd.pem", "etcd.key"];

/// A server of one member, in some namespace.
pub struct Etcd {
    netns: Netns,
    address: Ipv4Addr,
    data: PathBuf,
    log: PathBuf,
    ports: [u16; 2],
    /// Where the files of TLS are, if it speaks TLS, with certificates of clients.
    tls: Option<PathBuf>,
    child: Option<Child>,
}

impl Etcd {
    /// Starts one that is reached at `address`, which `netns` has, and keeps its files in `directory`.
    ///
    /// # Panics
    /// If it does not start; with its log.
    pub fn start(netns: &Netns, address: Ipv4Addr, directory: &Path, secure: bool) -> Etcd {
        let ports = netns.enter(|| {
            // Held together, so that they differ; free again before etcd takes them.
            let held = [0; 2].map(|_| TcpListener::bind((address, 0)).expect("there are free ports"));
            held.each_ref().map(|listener| listener.local_addr().expect("it is bound").port())
        });
        let (data, log) = (directory.join("etcd"), directory.join("etcd.log"));
        let tls = secure.then(|| certify(directory, address));
        let mut etcd = Etcd { netns: netns.clone(), address, data, log, ports, tls, child: None };
        etcd.run();
        etcd
    }

    /// `[cluster.etcd]` of a process that is to follow it, with room for so many other nodes.
    pub fn table(&self, nodes_max: usize) -> String {
        let mut table =
            format!("endpoints = [{:?}]\nttl_s = {TTL_S}\nnodes_max = {nodes_max}", self.endpoint());
        for (key, file) in ["ca", "certificate", "key"].iter().zip(TLS_FILES) {
            if let Some(tls) = &self.tls {
                table += &format!("\n{key} = {:?}", tls.join(file));
            }
        }
        table
    }

    /// Starts it again, after [`kill`](Etcd::kill).
    pub fn run(&mut self) {
        let (client, peer) = (self.endpoint(), format!("http://{}:{}", self.address, self.ports[1]));
        let log = fs::File::create(&self.log).expect("the cluster's directory is writable");
        // It ends with this process, however that ends.
        let mut command = self.netns.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "etcd", "--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--data-dir"])
            .arg(&self.data);
        for (option, file) in ["--trusted-ca-file", "--cert-file", "--key-file"].iter().zip(TLS_FILES) {
            if let Some(tls) = &self.tls {
                command.arg(option).arg(tls.join(file));
            }
        }
        if self.tls.is_some() {
            command.arg("--client-cert-auth");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.expect("setpriv starts (package util-linux)"));
        let deadline = Instant::now() + START_MAX;
        while !self.etcdctl(&["endpoint", "health"]).status.success() {
            assert!(Instant::now() < deadline, "etcd (package etcd-server): {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills it; its data stay.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("etcd is our child");
        child.wait().expect("etcd is our child");
    }

    /// Removes its data.
    pub fn lose_data(&self) {
        assert!(self.child.is_none(), "it has them open");
        fs::remove_dir_all(&self.data).expect("it has had data");
    }

    /// Stops it where it is: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The names of the members it lists.
    pub fn members(&self) -> Vec<String> {
        let listed = self.etcdctl(&["get", "--prefix", "--keys-only", "/keyferry/nodes/"]);
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        text.lines().filter_map(|line| line.strip_prefix("/keyferry/nodes/")).map(ToOwned::to_owned).collect()
    }

    /// Writes what somebody has to say of a member.
    pub fn put(&self, member: &str, value: &str) {
        let key = format!("/keyferry/nodes/{member}");
        assert!(self.etcdctl(&["put", &key, value]).status.success());
    }

    /// Takes a member off the list.
    pub fn delete(&self, member: &str) {
        assert!(self.etcdctl(&["del", &format!("/keyferry/nodes/{member}")]).status.success());
    }

    /// Forgets everything before the newest revision.
    pub fn compact(&self) {
        let status = self.etcdctl(&["endpoint", "status", "--write-out", "fields"]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        let revision = text.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        let revision = revision.unwrap_or_else(|| panic!("no revision in {text}"));
        assert!(self.etcdctl(&["compact", revision]).status.success());
    }

    fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.address, self.ports[0])
    }

    fn etcdctl(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = self.netns.command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint()]).args(arguments);
        for (option, file) in ["--cacert", "--cert", "--key"].iter().zip(TLS_FILES) {
            if let Some(tls) = &self.tls {
                command.arg(option).arg(tls.join(file));
            }
        }
        command.output().expect("etcdctl starts (package etcd-client)")
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("etcd is our child and not yet waited for");
    }
}

/// An authority, and one certificate that server and clients both use. Returns their folder.
fn certify(directory: &Path, address: Ipv4Addr) -> PathBuf {
    let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
    params.distinguished_name.push(DnType::CommonName, "authority of etcd");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"))
        .expect("the authority signs itself");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([address.to_string()]).expect("an address");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &authority).expect("the authority signs");
    let folder = directory.join("etcd-tls");
    fs::create_dir(&folder).expect("the cluster's directory is writable");
    for (name, text) in TLS_FILES.iter().zip([authority.pem(), certificate.pem(), key.serialize_pem()]) {
        let file = folder.join(name);
        fs::write(&file, text).expect("the cluster's directory is writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    }
    folder
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- etcd:\n{}", self.log());
        }
    }
}
