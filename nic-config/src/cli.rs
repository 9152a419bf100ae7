//! `keyferry-nic-config`: arguments in, tables or JSON out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::{
    ARGUMENTS_FILE, BOOT, Host, Live, Plan, Reboot, Severity, State, Wanted, apply, check, plan, show,
    suggest, undo,
};

/// Exit codes.
const PROBLEM: u8 = 1;
const USAGE: u8 = 2;

/// Sets a host up for keyferry: ports, hugepages, cores, kernel arguments.
///
/// Exit codes: 0 done, or nothing to do; 1 a finding that blocks, a refused plan, or something that failed (said on standard
/// error, with what to do); 2 wrong usage, or a file that cannot be read.
#[derive(Parser)]
#[command(name = "keyferry-nic-config", version)]
struct Arguments {
    /// Where sysfs and procfs are looked for, such as a copy of another machine's; only / can be changed.
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What this host has: ports and whose they are, RDMA ports, NUMA nodes, cores, hugepages. Changes nothing.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What blocks or slows traffic, worst first, and the command that mends it. Changes nothing.
    ///
    /// Exit code 1 if something blocks.
    Check {
        #[command(flatten)]
        map: Map,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What apply would do, and what it leaves to you. Changes nothing.
    ///
    /// Exit code 1 if the plan is refused.
    Plan {
        #[command(flatten)]
        map: Map,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Does what the plan says. Run again it does what is still to be done.
    ///
    /// Refuses a port that carries the default route, an SSH session, a control link or a network of the kernel's.
    Apply {
        #[command(flatten)]
        map: Map,
        #[command(flatten)]
        state: StateFile,
        /// Only says what it would do.
        #[arg(long)]
        dry_run: bool,
    },
    /// Puts back all that apply changed. End the node first.
    Undo {
        #[command(flatten)]
        state: StateFile,
        /// Only says what it would do.
        #[arg(long)]
        dry_run: bool,
    },
    /// Writes a core map for this machine: a port, and cores near it.
    Suggest {
        /// Workers at most.
        #[arg(long, value_name = "N")]
        workers: Option<usize>,
    },
}

/// What is wanted.
#[derive(Args)]
struct Map {
    /// The node's or distributor's configuration: its [cores], [nic], [fabric] and addresses of links.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The driver a PCI port is to have; without it one that is fit, or vfio-pci.
    #[arg(long, value_parser = ["vfio-pci", "uio_pci_generic", "igb_uio"])]
    driver: Option<String>,
}

#[derive(Args)]
struct StateFile {
    /// Where it is written down what was there before.
    #[arg(long, value_name = "FILE", default_value = "/var/lib/keyferry/nic-config.json")]
    state: PathBuf,
}

/// What ends the program early.
struct Failure {
    code: u8,
    what: String,
}

/// What its arguments may be, for its manual.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the process's arguments and does what they say.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match carry_out(&arguments, &mut io::stdout().lock()) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("keyferry-nic-config: {}", failure.what);
            ExitCode::from(failure.code)
        }
    }
}

fn carry_out(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    let root = arguments.root.as_path();
    let (text, code) = match &arguments.command {
        Command::List { json } => {
            let listing = show::Listing::new(&Host::read(root));
            (if *json { as_json(&listing) } else { listing.to_string() }, 0)
        }
        Command::Check { map, json } => {
            let findings = check(&Host::read(root), &map.read()?);
            let blocks = findings.iter().any(|finding| finding.severity == Severity::Blocks);
            let text = if *json { as_json(&findings) } else { show::findings(&findings) };
            (text, if blocks { PROBLEM } else { 0 })
        }
        Command::Plan { map, json } => {
            let plan = plan(&Host::read(root), &map.read()?);
            let text = if *json { as_json(&plan) } else { show::plan(&plan) };
            (text, if plan.refusals.is_empty() { 0 } else { PROBLEM })
        }
        Command::Apply { map, state, dry_run } => {
            let host = Host::read(root);
            let plan = plan(&host, &map.read()?);
            if *dry_run {
                (show::plan(&plan), if plan.refusals.is_empty() { 0 } else { PROBLEM })
            } else {
                (make(root, &host, &plan, &state.state, out)?, 0)
            }
        }
        Command::Undo { state, dry_run } => (unmake(root, &state.state, *dry_run, out)?, 0),
        Command::Suggest { workers } => (suggest(&Host::read(root), *workers).toml(), 0),
    };
    // A reader that has seen enough is no failure.
    let _ = out.write_all(text.as_bytes());
    Ok(code)
}

fn as_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("it is plain data") + "\n"
}

impl Map {
    fn read(&self) -> Result<Wanted, Failure> {
        let failure =
            |what: String| Failure { code: USAGE, what: format!("{}: {what}", self.config.display()) };
        let text = fs::read_to_string(&self.config).map_err(|error| {
            failure(format!("it cannot be read ({error}): name the node's file with --config"))
        })?;
        let wanted = Wanted::read(&text).map_err(|error| failure(error.to_string()))?;
        Ok(Wanted { driver: self.driver.clone(), ..wanted })
    }
}

/// Applies; what is left to the operator is the text.
fn make(
    root: &Path,
    host: &Host,
    plan: &Plan,
    state: &Path,
    out: &mut impl Write,
) -> Result<String, Failure> {
    if !plan.refusals.is_empty() {
        let _ = out.write_all(show::plan(plan).as_bytes());
        return Err(problem("the plan is refused, and nothing was changed"));
    }
    live(root)?;
    if !host.rights.root {
        return Err(problem("only root can change this: run it with sudo"));
    }
    let lock = lock(state)?;
    let mut state = open(state)?;
    let mut left_alone = 0;
    let result = apply(plan, &mut Live::new(root), &mut state, |operation, made| {
        left_alone += usize::from(!made);
        let _ = writeln!(out, "{}{operation}", if made { "" } else { "the kernel refuses: " });
    });
    drop(lock);
    result.map_err(|error| problem(&format!("{error}; keyferry-nic-config undo puts back what was done")))?;
    let mut text = String::new();
    if plan.steps.is_empty() {
        text += "nothing has to be done\n";
    }
    if left_alone > 0 {
        text += &format!(
            "{left_alone} interrupts stay where the kernel keeps them: that is no harm where they are rare\n"
        );
    }
    for step in &plan.steps {
        if let Some(by_hand) = &step.by_hand {
            text += &format!("left to you, for {}: {by_hand}\n", step.what);
        }
    }
    if plan.steps.iter().any(|step| step.reboot == Reboot::Before) {
        text += "after the reboot run apply again: some steps wait for it\n";
    }
    Ok(text)
}

fn unmake(root: &Path, file: &Path, dry_run: bool, out: &mut impl Write) -> Result<String, Failure> {
    let lock = if dry_run { None } else { Some(lock(file)?) };
    let mut state = open(file)?;
    let steps: Vec<_> = state.undoes().map(ToString::to_string).collect();
    if steps.is_empty() {
        return Ok("nothing has to be undone\n".to_owned());
    }
    if dry_run {
        return Ok(steps.join("\n") + "\n");
    }
    live(root)?;
    let mut is_kernel = false;
    let result = undo(&mut Live::new(root), &mut state, |before| {
        is_kernel |= before.subject() == ARGUMENTS_FILE;
        let _ = writeln!(out, "{before}");
    });
    drop(lock);
    result.map_err(|error| problem(&error.to_string()))?;
    Ok(if is_kernel { "left to you: update-grub; reboot\n".to_owned() } else { String::new() })
}

fn open(state: &Path) -> Result<State, Failure> {
    let boot = fs::read_to_string(Path::new("/").join(BOOT)).unwrap_or_default();
    State::open(state, boot.trim()).map_err(|error| problem(&error.to_string()))
}

fn live(root: &Path) -> Result<(), Failure> {
    match root == Path::new("/") {
        true => Ok(()),
        false => Err(problem("only the machine itself can be changed: leave out --root, or say --dry-run")),
    }
}

/// One at a time: two would each take the other's changes for what was there before.
fn lock(state: &Path) -> Result<File, Failure> {
    let folder = state.parent().unwrap_or(Path::new("/"));
    let path = state.with_extension("lock");
    let file = fs::create_dir_all(folder).and_then(|()| File::create(&path));
    let file = file.map_err(|error| {
        problem(&format!(
            "{} cannot be made ({error}): be root, or name another with --state",
            path.display()
        ))
    })?;
    file.try_lock().map_err(|_| problem("another keyferry-nic-config is at work: wait for it"))?;
    Ok(file)
}

fn problem(what: &str) -> Failure {
    Failure { code: PROBLEM, what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Arguments::command().debug_assert();
        let parse = |words: &[&str]| Arguments::try_parse_from([&["keyferry-nic-config"], words].concat());
        let plan = parse(&["plan", "--config", "a.toml", "--json", "--root", "/copy"]).unwrap();
        assert_eq!(plan.root, Path::new("/copy"));
        assert!(matches!(plan.command, Command::Plan { json: true, .. }));
        assert_eq!(parse(&["apply"]).err().unwrap().exit_code(), 2);
        assert!(parse(&["apply", "--config", "a", "--driver", "e1000"]).is_err());
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).into_os_string().into_string().unwrap();
        let with = |name: &str, text: &str| {
            fs::write(path(name), text).unwrap();
            path(name)
        };
        let (none, root, state) = (path("none"), path("root"), path("state"));
        let (port, cable) = (with("port", "[nic]\ndevice = \"3b:00.0\"\n"), with("cable", ""));
        let (workers, device) =
            (with("workers", "[cores]\nworkers = 3\n"), with("device", "[nic]\ndevice = \"eth0\"\n"));
        let (damaged, locked, below_a_file) = (with("damaged", "{"), path("locked"), path("port/state"));
        let lock = lock(Path::new(&locked)).ok().unwrap();
        let cases: [(&[&str], u8, &str); 8] = [
            (&["plan", "--config", &none], USAGE, "name the node's file with --config"),
            (&["check", "--config", &workers], USAGE, "keyferry check --config FILE says what to write"),
            (&["plan", "--config", &device], USAGE, "[nic] device: "),
            (
                &["apply", "--config", &port, "--state", &state],
                PROBLEM,
                "the plan is refused, and nothing was changed",
            ),
            (
                &["apply", "--config", &cable, "--state", &state],
                PROBLEM,
                "only the machine itself can be changed: leave out --root, or say --dry-run",
            ),
            (&["undo", "--state", &below_a_file], PROBLEM, "be root, or name another with --state"),
            (&["undo", "--state", &damaged], PROBLEM, "move it away only if nothing is to be undone"),
            (&["undo", "--state", &locked], PROBLEM, "another keyferry-nic-config is at work: wait for it"),
        ];
        for (words, code, what) in cases {
            let words = [&["keyferry-nic-config", "--root", &root], words].concat();
            let arguments = Arguments::try_parse_from(&words).unwrap();
            let failure = carry_out(&arguments, &mut Vec::new()).err().unwrap();
            assert!(failure.what.contains(what), "{words:?}: {}", failure.what);
            assert_eq!(failure.code, code, "{words:?}");
        }
        drop(lock);
    }

    #[test]
    fn only_root_changes_the_machine() {
        let (host, wanted) = (Host::default(), Wanted::default());
        let failure = make(Path::new("/"), &host, &plan(&host, &wanted), Path::new("/none"), &mut Vec::new());
        assert_eq!(failure.err().unwrap().what, "only root can change this: run it with sudo");
    }
}
