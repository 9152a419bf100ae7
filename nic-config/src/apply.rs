//! Does what a plan says, and undoes it. What was there before a change is on the disk before the change is made, so that
//! [`undo`] restores it after any end of [`apply`], a crash included. One change at a time; nothing else runs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::operation::{Before, Operation, OperationError};
use crate::plan::{Plan, Reboot};
use crate::system::{System, replace};

/// Largest state file that is read, in bytes.
const STATE_BYTES_MAX: u64 = 16 << 20;
/// What the state file's form is called; another one is refused.
const VERSION: u32 = 1;

/// Where the kernel says which of its starts this is.
pub const BOOT: &str = "proc/sys/kernel/random/boot_id";

/// What was there before each change, oldest first; in a file.
#[derive(Debug)]
pub struct State {
    file: PathBuf,
    boot: String,
    before: Vec<Before>,
}

#[derive(Serialize, Deserialize)]
struct StateText {
    version: u32,
    /// The start of the kernel it is of.
    boot: String,
    before: Vec<Before>,
}

/// What ended an [`apply`] or [`undo`]; the sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan is refused.
    #[error("nothing was changed: {0} of the plan's findings forbid it: do what they say, then apply again")]
    Refused(usize),
    /// A change was not made.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The state file could not be written: then nothing may be changed.
    #[error("{0} cannot be written ({1}): free its disk, be root, or name another with --state")]
    Unwritable(PathBuf, io::Error),
    /// The state file is there and cannot be understood.
    #[error(
        "{0} cannot be read ({1}): it says what was there before; move it away only if nothing is to be undone"
    )]
    Unreadable(PathBuf, String),
    /// Some of it could not be undone, and stays in the state file.
    #[error("{} of the changes could not be undone and stay in {}: {}", .0.len(), .1.display(), .0.join("; "))]
    Left(Vec<String>, PathBuf),
}

impl State {
    /// Reads a state file; one that is not there is empty. Of an earlier start of the kernel than `boot` (what is in
    /// [`BOOT`]) only files count: a reboot has undone the rest, and interrupts may have other numbers now.
    ///
    /// # Errors
    /// It is there and cannot be understood.
    pub fn open(file: &Path, boot: &str) -> Result<State, ApplyError> {
        let unreadable = |why: String| ApplyError::Unreadable(file.to_owned(), why);
        let mut state = State { file: file.to_owned(), boot: boot.to_owned(), before: Vec::new() };
        match fs::metadata(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(state),
            Err(error) => return Err(unreadable(error.to_string())),
            Ok(data) if data.len() > STATE_BYTES_MAX => return Err(unreadable("it is too large".to_owned())),
            Ok(_) => {}
        }
        let text = fs::read(file).map_err(|error| unreadable(error.to_string()))?;
        let text: StateText = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
        if text.version != VERSION {
            return Err(unreadable(format!("its version is {}, and this program's {VERSION}", text.version)));
        }
        let is_same = text.boot == boot;
        let counts = |before: &Before| is_same || matches!(before, Before::Written { .. });
        state.before = text.before.into_iter().filter(counts).collect();
        Ok(state)
    }

    /// What undoing would do, in its order.
    pub fn undoes(&self) -> impl Iterator<Item = &Before> {
        self.before.iter().rev()
    }

    /// Remembers what was there, on the disk; what was there before an earlier change of the same thing stays.
    fn remember(&mut self, before: Before) -> Result<(), ApplyError> {
        if self.before.iter().any(|other| other.subject() == before.subject()) {
            return Ok(());
        }
        self.before.push(before);
        self.save()
    }

    fn save(&self) -> Result<(), ApplyError> {
        let unwritable = |error| ApplyError::Unwritable(self.file.clone(), error);
        if self.before.is_empty() {
            return match fs::remove_file(&self.file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(unwritable(error)),
                _ => Ok(()),
            };
        }
        let text = StateText { version: VERSION, boot: self.boot.clone(), before: self.before.clone() };
        let text = serde_json::to_string_pretty(&text).expect("it is plain data");
        replace(&self.file, &text).map_err(unwritable)
    }
}

/// Does a plan's operations in their order; `said` hears of each, and whether it was made.
///
/// # Errors
/// The plan is refused, or a change was not made: those before it stay made, and [`undo`] restores.
pub fn apply(
    plan: &Plan,
    system: &mut impl System,
    state: &mut State,
    mut said: impl FnMut(&Operation, bool),
) -> Result<(), ApplyError> {
    if !plan.refusals.is_empty() {
        return Err(ApplyError::Refused(plan.refusals.len()));
    }
    // What waits for a reboot is for the next time.
    let steps = plan.steps.iter().filter(|step| step.reboot != Reboot::Before);
    for operation in steps.flat_map(|step| &step.operations) {
        if let Some(before) = operation.before(system)? {
            state.remember(before)?;
        }
        let made = operation.make(system)?;
        said(operation, made);
    }
    Ok(())
}

/// Puts back everything, the last change first; `said` hears of each. What cannot be put back stays in the state.
///
/// # Errors
/// Something could not be put back, or the state file not be written.
pub fn undo(
    system: &mut impl System,
    state: &mut State,
    mut said: impl FnMut(&Before),
) -> Result<(), ApplyError> {
    let mut left = Vec::new();
    let mut kept = Vec::new();
    while let Some(before) = state.before.pop() {
        match before.restore(system) {
            Ok(()) => {
                said(&before);
                // Not before it is restored: a crash in between restores it once more, which changes nothing.
                let rest = State {
                    file: state.file.clone(),
                    boot: state.boot.clone(),
                    before: state.before.iter().chain(kept.iter().rev()).cloned().collect(),
                };
                rest.save()?;
            }
            Err(error) => {
                left.push(error.to_string());
                kept.push(before);
            }
        }
    }
    kept.reverse();
    state.before = kept;
    // One of an earlier start, with nothing left that counts, goes too.
    state.save()?;
    match left.is_empty() {
        true => Ok(()),
        false => Err(ApplyError::Left(left, state.file.clone())),
    }
}
