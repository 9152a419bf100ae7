//! `keyferry init`: the first configuration of a machine, and a certificate to try it with. In: a folder, a host name, and
//! the address the node is to have on a port of this machine. Without an address the node is reached over a cable inside the
//! machine, for a first look. Out: files, and what to do next. Nothing is overwritten.

use std::fmt::Write;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use keyferry_link::Cidr;
use keyferry_nic_config::{Host, Suggestion, suggest};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::ca::{CLOCKS_DIFFER, refuse_existing, write};

/// The node's end of the cable, and the machine's.
const NODE_END: &str = "kf0";
const OWN_END: &str = "kf1";
/// The node's address on the cable, and the machine's: of documentation's network (RFC 5737), which nobody has.
const NODE_ADDRESS: &str = "192.0.2.10";
const OWN_ADDRESS: &str = "192.0.2.1";
/// How long a certificate to try it with lasts.
const TRIAL: Duration = Duration::days(90);
/// The folder of a machine's one node, which its unit expects.
pub const FOLDER: &str = "/etc/keyferry";

/// What the first page says.
const PAGE: &str = "<!doctype html>\n<title>keyferry</title>\n<p>This page came through keyferry: no packet of it passed the kernel of its server.\n";

/// Makes `keyferry.toml`, a self-signed certificate with its key, and a page to serve in `folder`. Returns what to say about it.
///
/// # Errors
/// A file exists already or cannot be written, the machine has no port for the address, or the cable cannot be laid.
pub fn init(folder: &Path, host: &str, address: Option<Cidr>) -> anyhow::Result<String> {
    let file = |name: &str| folder.join(name);
    let (config, chain, key, page) =
        (file("keyferry.toml"), file("cert.pem"), file("key.pem"), file("www/index.html"));
    refuse_existing(&[&config, &chain, &key, &page])?;
    let machine = Host::read(Path::new("/"));
    let suggestion = suggest(&machine, None);
    let nic = match address {
        None => cable_toml(&suggestion),
        Some(address) => port_toml(&suggestion, &address)?,
    };
    let (certificate, secret) = certificate(host)?;
    let www = file("www");
    DirBuilder::new().mode(0o755).recursive(true).create(&www).with_context(|| {
        format!("{} cannot be made: be root, or name another folder with --dir", www.display())
    })?;
    if address.is_none() {
        lay_cable(&machine)?;
    }
    // The folder's group may be that of the service, which reads its key as no root.
    write(&key, &secret, 0o640)?;
    write(&chain, &certificate, 0o644)?;
    write(&page, PAGE, 0o644)?;
    write(&config, &toml(&nic), 0o644)?;
    Ok(said(folder, host, address))
}

fn said(folder: &Path, host: &str, address: Option<Cidr>) -> String {
    let folder = folder.display();
    let node = address.map_or(NODE_ADDRESS.to_owned(), |address| address.address().to_string());
    let mut said = format!(
        "made {folder}/keyferry.toml, a certificate for {host} to try it with, and a page to serve\n"
    );
    let mut line = |text: String| writeln!(said, "{text}").expect("a String takes all");
    match address {
        None => line(format!(
            "the node is on {NODE_END}, one end of a cable inside this machine, which it has until it is started anew: for a first \
             look. keyferry init --address IP/PREFIX takes a port instead"
        )),
        Some(_) => {
            line(format!("before it is started: keyferry-nic-config apply --config {folder}/keyferry.toml"))
        }
    }
    line("next: systemctl enable --now keyferry".to_owned());
    let from = if address.is_some() { ", from another machine" } else { "" };
    let port = if node.contains(':') { format!("[{node}]") } else { node };
    line(format!("then{from}: curl --cacert {folder}/cert.pem --resolve {host}:443:{port} https://{host}/"));
    said
}

/// The file, but for its cores and port.
fn toml(nic: &str) -> String {
    format!(
        "# Written by keyferry init. The example beside the documentation, keyferry.toml, describes every key; keyferry check\n\
         # --config FILE says whether it will start.\n\
         \n\
         [node]\n\
         name = \"a\"\n\
         \n\
         {nic}\n\
         [[listener]]\n\
         port = 443\n\
         \n\
         [[listener]]\n\
         port = 80\n\
         protocol = \"redirect\"\n\
         \n\
         [[certificate]]  # replace it by one that your clients trust\n\
         chain = \"cert.pem\"\n\
         key = \"key.pem\"\n\
         \n\
         [app]\n\
         kind = \"static\"\n\
         \n\
         [app.static]\n\
         root = \"www\"\n"
    )
}

/// Cores, and the end of the cable. The machine goes on with its other work, so a worker sleeps when it has none.
fn cable_toml(suggestion: &Suggestion) -> String {
    let worker = suggestion.workers.first().copied().unwrap_or(suggestion.control);
    format!(
        "[cores]\n\
         control = {}\n\
         workers = [{worker}]\n\
         idle = \"sleep\"\n\
         \n\
         [nic]\n\
         device = \"net_af_packet0,iface={NODE_END}\"\n\
         addresses = [\"{NODE_ADDRESS}/24\"]\n",
        suggestion.control
    )
}

/// Cores and port, as `keyferry-nic-config suggest` has them.
fn port_toml(suggestion: &Suggestion, address: &Cidr) -> anyhow::Result<String> {
    ensure!(
        !suggestion.device.starts_with("net_"),
        "no port of this machine can be taken from the kernel: keyferry-nic-config list says what each is used for. Free one, or \
         leave out --address for a first look without a port"
    );
    Ok(suggestion.toml_with(&address.to_string()))
}

/// A certificate that signs itself, and its key, in PEM.
fn certificate(host: &str) -> anyhow::Result<(String, Zeroizing<String>)> {
    let no_name = || format!("\"{host}\" is no DNS name: write one such as first.test");
    let mut params = CertificateParams::new([host.to_owned()]).with_context(no_name)?;
    params.distinguished_name.push(DnType::CommonName, host);
    // Without key usages: clients take it for its own authority.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - CLOCKS_DIFFER, now + TRIAL);
    let pair = KeyPair::generate().context("no key could be made")?;
    let made = params.self_signed(&pair).context("the certificate could not be made")?;
    Ok((made.pem(), Zeroizing::new(pair.serialize_pem())))
}

/// Lays a cable from the machine to the node, unless it lies there. What the kernel would leave to a port's hardware it does
/// itself on it, since packets on the node's end are taken as they are.
fn lay_cable(machine: &Host) -> anyhow::Result<()> {
    let has = |name: &str| machine.network.interface(name).is_some();
    match (has(NODE_END), has(OWN_END)) {
        (true, true) => return Ok(()),
        (true, false) | (false, true) => bail!(
            "an interface named {NODE_END} or {OWN_END} exists and is not the one this would make: rename it (ip link set), or use a \
             port with --address IP/PREFIX"
        ),
        (false, false) => {}
    }
    ensure!(machine.rights.root, "only root can make a cable: run it with sudo, or as root");
    let address = format!("{OWN_ADDRESS}/24");
    let steps: [&[&str]; 5] = [
        &["ip", "link", "add", NODE_END, "type", "veth", "peer", "name", OWN_END],
        &["ethtool", "-K", OWN_END, "tx", "off", "gso", "off", "tso", "off"],
        &["ip", "address", "add", &address, "dev", OWN_END],
        &["ip", "link", "set", NODE_END, "up"],
        &["ip", "link", "set", OWN_END, "up"],
    ];
    // The kernel keeps silent on the node's end.
    let quiet = || fs::write(format!("/proc/sys/net/ipv6/conf/{NODE_END}/disable_ipv6"), "1");
    for (number, step) in steps.iter().enumerate() {
        if let Err(error) = run(step) {
            if number > 0 {
                let _ = run(&["ip", "link", "delete", NODE_END]);
            }
            return Err(error);
        }
        if number == 0 && Path::new("/proc/sys/net/ipv6").exists() {
            quiet().context("IPv6 cannot be switched off on the node's end of the cable")?;
        }
    }
    Ok(())
}

fn run(step: &[&str]) -> anyhow::Result<()> {
    let (program, arguments) = step.split_first().expect("a step names its program");
    let missing =
        || format!("{program} cannot be run: apt-get install iproute2 ethtool, then run this again");
    let output = Command::new(program).args(arguments).output().with_context(missing)?;
    let what = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", step.join(" "), what.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use keyferry_nic_config::Interface;

    use super::*;
    use crate::config::Config;

    fn suggestion(device: &str) -> Suggestion {
        let mut suggestion = suggest(&Host::read(Path::new("/")), Some(1));
        suggestion.device = device.to_owned();
        suggestion
    }

    /// The file as init writes it, read as a node reads it.
    fn read(nic: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate("first.test").unwrap();
        write(&folder.path().join("cert.pem"), &certificate, 0o644).unwrap();
        write(&folder.path().join("key.pem"), &key, 0o640).unwrap();
        fs::create_dir(folder.path().join("www")).unwrap();
        let file = folder.path().join("keyferry.toml");
        write(&file, &toml(nic), 0o644).unwrap();
        Config::load(&file).unwrap()
    }

    #[test]
    fn what_it_writes_is_what_a_node_reads() {
        let cable = read(&cable_toml(&suggestion("unused")));
        assert_eq!(cable.nic.device.to_string(), "net_af_packet0,iface=kf0");
        assert_eq!(cable.nic.addresses[0].address().to_string(), NODE_ADDRESS);
        let port =
            read(&port_toml(&suggestion("0000:3b:00.0"), &"198.51.100.7/25".parse().unwrap()).unwrap());
        assert_eq!(port.nic.device.to_string(), "0000:3b:00.0");
        assert_eq!(port.nic.addresses[0].to_string(), "198.51.100.7/25");
    }

    #[test]
    fn a_machine_without_a_port_is_told_what_to_do() {
        let address = "198.51.100.7/25".parse().unwrap();
        let error = port_toml(&suggestion("net_af_packet0,iface=kf0"), &address).unwrap_err().to_string();
        assert!(
            error.contains("keyferry-nic-config list") && error.contains("leave out --address"),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_overwritten_and_names_have_to_be_names() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cert.pem"), "mine").unwrap();
        let error = init(folder.path(), "first.test", None).unwrap_err().to_string();
        assert!(error.contains("cert.pem exists already"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = certificate("first test\u{fc}").unwrap_err().to_string();
        assert!(error.contains("is no DNS name"), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = init(&folder.path().join("file"), "first.test", None).unwrap_err().to_string();
        assert!(
            error.contains("file/www cannot be made: be root, or name another folder with --dir"),
            "{error}"
        );
    }

    #[test]
    fn a_cable_is_not_laid_over_what_is_there_nor_by_everybody() {
        let interface = |name: &str| Interface {
            name: name.to_owned(),
            up: None,
            mtu: None,
            carrier: None,
            rate_mbit: None,
            below: Vec::new(),
            queues: 1,
        };
        let mut machine = Host::default();
        let error = lay_cable(&machine).unwrap_err().to_string();
        assert!(error.contains("only root can make a cable: run it with sudo"), "{error}");
        machine.network.interfaces.push(interface(OWN_END));
        let error = lay_cable(&machine).unwrap_err().to_string();
        assert!(error.contains("kf1 exists and is not the one this would make: rename it"), "{error}");
        machine.network.interfaces.push(interface(NODE_END));
        lay_cable(&machine).unwrap();
    }

    #[test]
    fn a_step_that_fails_says_what_it_said() {
        let error = run(&["/nonexistent/ip", "link"]).unwrap_err().to_string();
        assert!(error.contains("cannot be run: apt-get install iproute2 ethtool"), "{error}");
        let error = run(&["ls", "/nonexistent"]).unwrap_err().to_string();
        assert!(error.starts_with("ls /nonexistent failed: ls: "), "{error}");
    }

    #[test]
    fn the_service_may_read_the_key_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key.pem");
        write(&key, "secret", 0o640).unwrap();
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o007, 0);
    }

    #[test]
    fn says_the_next_command() {
        let said = said(Path::new(FOLDER), "first.test", None);
        assert!(said.contains("\nnext: systemctl enable --now keyferry\n"), "{said}");
        let curl = "then: curl --cacert /etc/keyferry/cert.pem --resolve first.test:443:192.0.2.10 https://first.test/\n";
        assert!(said.ends_with(curl), "{said}");
    }
}
