//! `keyferry-manual DIR`: man pages into `DIR/man`, completions into `DIR/bash`, `DIR/zsh` and `DIR/fish`, made of what the
//! executables say of their arguments themselves. `tools/package` runs it.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;

/// Writes man pages and shell completions.
#[derive(Parser)]
#[command(name = "keyferry-manual")]
struct Arguments {
    /// Where to; made if it is missing.
    dir: PathBuf,
}

fn main() -> anyhow::Result<()> {
    write(&Arguments::parse().dir)
}

/// Every command that is installed, with its section of the manual.
fn commands() -> [(Command, &'static str); 3] {
    [
        (keyferry_control::cli::command(), "8"),
        (keyferry_nic_config::cli::command(), "8"),
        (keyferry_load::args::Args::command(), "1"),
    ]
}

fn write(dir: &Path) -> anyhow::Result<()> {
    let folder = |name: &str| {
        let folder = dir.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        anyhow::Ok(folder)
    };
    let man = folder("man")?;
    for (command, section) in commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let name = command.get_name().to_owned();
            let folder = folder(&shell.to_string())?;
            clap_complete::generate_to(shell, &mut command.clone(), name, &folder)
                .with_context(|| format!("completions cannot be written to {}", folder.display()))?;
        }
        pages(command, section, &man)?;
    }
    Ok(())
}

/// A page of a command, and one of each of its subcommands: `keyferry-ctl-drain(8)`.
fn pages(command: Command, section: &str, folder: &Path) -> anyhow::Result<()> {
    // Names the subcommands after their parents, as the pages are.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        pages(subcommand.clone(), section, folder)?;
    }
    let file = folder.join(format!("{name}.{section}"));
    let page = clap_mangen::Man::new(command).section(section).manual("keyferry");
    let written = File::create(&file).and_then(|mut file| page.render(&mut file));
    written.with_context(|| format!("{} cannot be written", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_its_page_and_its_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        for page in [
            "keyferry.8",
            "keyferry-top.8",
            "keyferry-ctl-drain.8",
            "keyferry-nic-config-apply.8",
            "keyferry-load.1",
        ] {
            let text = fs::read_to_string(folder.path().join("man").join(page)).unwrap();
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}: {text}");
        }
        for file in ["bash/keyferry.bash", "zsh/_keyferry", "fish/keyferry-nic-config.fish"] {
            assert!(fs::metadata(folder.path().join(file)).unwrap().len() > 1_000, "{file}");
        }
    }
}
