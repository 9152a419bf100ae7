//! The smallest changes `apply` makes. Each knows what it is about to change, so that what was there before is written down
//! first, and can be put back from any point in between.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use crate::kernel::chosen;
use crate::system::System;

/// A change. Paths are relative to the root folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Writes a setting of the kernel's, and reads it back.
    Set {
        /// Its file in sysfs or procfs.
        path: String,
        /// The value.
        value: String,
    },
    /// Likewise, where the kernel may have its reasons to refuse: that is told, and ends nothing.
    Try {
        /// Its file in sysfs or procfs.
        path: String,
        /// The value.
        value: String,
    },
    /// Writes a file of ours.
    Write {
        /// The file.
        path: String,
        /// All that is in it.
        text: String,
    },
    /// Loads a module with what it needs.
    Load {
        /// The module.
        module: String,
    },
    /// Takes a PCI function from its driver and gives it to another.
    Bind {
        /// The function, as sysfs names it.
        address: String,
        /// The driver it is to have.
        driver: String,
    },
}

/// What was there before a change; what undoes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// The value of a setting.
    Set {
        /// Its file.
        path: String,
        /// The value.
        value: String,
    },
    /// A file of ours.
    Written {
        /// The file.
        path: String,
        /// What was in it; `None`: it was not there.
        text: Option<String>,
    },
    /// A module that was not loaded.
    NotLoaded {
        /// The module.
        module: String,
    },
    /// The driver of a PCI function.
    Bound {
        /// The function.
        address: String,
        /// Its driver.
        driver: Option<String>,
        /// The driver it was told to have, whatever others fit; empty: none.
        preferred: String,
    },
}

/// What kept a change from being made; the sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The kernel would not take it.
    #[error("{0}: {1}: look at the end of dmesg, and whether you are root")]
    Refused(String, io::Error),
    /// It took something else.
    #[error("{path} was set to {wanted} and is {is}: {fix}")]
    Differs {
        /// The file.
        path: String,
        /// The value.
        wanted: String,
        /// What it is.
        is: String,
        /// What to do.
        fix: &'static str,
    },
    /// A function did not get its driver.
    #[error("{address} was given to {driver} and has {has}: look at the end of dmesg for what {driver} says")]
    Unbound {
        /// The function.
        address: String,
        /// The driver.
        driver: String,
        /// What it has instead.
        has: String,
    },
}

impl Operation {
    /// What is there before it is made; `None`: there is nothing to undo.
    ///
    /// # Errors
    /// It cannot be read: then it must not be changed either.
    pub fn before(&self, system: &impl System) -> Result<Option<Before>, OperationError> {
        Ok(Some(match self {
            Operation::Set { path, .. } | Operation::Try { path, .. } => match system.read(path) {
                Ok(text) => Before::Set { path: path.clone(), value: chosen(&text) },
                // Interrupts of a port go with its driver.
                Err(_) if matches!(self, Operation::Try { .. }) => return Ok(None),
                Err(error) => return Err(OperationError::Refused(path.clone(), error)),
            },
            Operation::Write { path, .. } => {
                Before::Written { path: path.clone(), text: system.read(path).ok() }
            }
            Operation::Load { module } => match system.is_loaded(module) {
                true => return Ok(None),
                false => Before::NotLoaded { module: module.clone() },
            },
            Operation::Bind { address, .. } => Before::Bound {
                address: address.clone(),
                driver: system.driver(address),
                preferred: preferred(system, address),
            },
        }))
    }

    /// Makes the change; whether it was made.
    ///
    /// # Errors
    /// It was not, or not all of it.
    pub fn make(&self, system: &mut impl System) -> Result<bool, OperationError> {
        match self {
            Operation::Set { path, value } => set(system, path, value)?,
            Operation::Try { path, value } => return Ok(system.write(path, value).is_ok()),
            Operation::Write { path, text } => {
                system.create(path, text).map_err(|error| OperationError::Refused(path.clone(), error))?;
            }
            Operation::Load { module } => system
                .load(module)
                .map_err(|error| OperationError::Refused(format!("modprobe {module}"), error))?,
            Operation::Bind { address, driver } => bind(system, address, driver)?,
        }
        Ok(true)
    }
}

impl Before {
    /// What it is of: of two records of the same thing the first counts.
    pub fn subject(&self) -> &str {
        match self {
            Before::Set { path, .. } | Before::Written { path, .. } => path,
            Before::NotLoaded { module } => module,
            Before::Bound { address, .. } => address,
        }
    }

    /// Puts back what was there, wherever the change got to.
    ///
    /// # Errors
    /// It could not be put back.
    pub fn restore(&self, system: &mut impl System) -> Result<(), OperationError> {
        let refused = |what: &str| {
            let what = what.to_owned();
            |error| OperationError::Refused(what, error)
        };
        match self {
            Before::Set { path, value } => match system.read(path) {
                // The interrupt, or the module whose setting it is, is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Ok(text) if chosen(&text) == *value => Ok(()),
                _ => system.write(path, value).map_err(refused(path)),
            },
            Before::Written { path, text: Some(text) } => system.create(path, text).map_err(refused(path)),
            Before::Written { path, text: None } => system.remove(path).map_err(refused(path)),
            // Where another one has come to need it, it stays written down, and is of no harm.
            Before::NotLoaded { module } => match system.is_loaded(module) {
                true => system.unload(module).map_err(refused(&format!("modprobe --remove {module}"))),
                false => Ok(()),
            },
            Before::Bound { address, driver, preferred } => {
                restore_driver(system, address, driver.as_deref(), preferred)
            }
        }
    }
}

fn set(system: &mut impl System, path: &str, value: &str) -> Result<(), OperationError> {
    let refused = |error| OperationError::Refused(path.to_owned(), error);
    system.write(path, value).map_err(refused)?;
    let is = chosen(&system.read(path).map_err(refused)?);
    if is == value {
        return Ok(());
    }
    let fix = match path.ends_with("nr_hugepages") {
        true => {
            "memory is in too many pieces: free some, or reserve them right after boot (docs/INSTALL.md, at every boot)"
        }
        false => "the kernel rounds or refuses it: look at the end of dmesg",
    };
    Err(OperationError::Differs { path: path.to_owned(), wanted: value.to_owned(), is, fix })
}

fn device(address: &str) -> String {
    format!("sys/bus/pci/devices/{address}")
}

/// `(null)` where nothing was said.
fn preferred(system: &impl System, address: &str) -> String {
    let text = system.read(&format!("{}/driver_override", device(address))).unwrap_or_default();
    match text.trim() {
        "(null)" => String::new(),
        driver => driver.to_owned(),
    }
}

fn prefer(system: &mut impl System, address: &str, driver: &str) -> Result<(), OperationError> {
    let path = format!("{}/driver_override", device(address));
    // A line feed takes the preference back.
    let text = if driver.is_empty() { "\n" } else { driver };
    system.write(&path, text).map_err(|error| OperationError::Refused(path, error))
}

fn unbind(system: &mut impl System, address: &str) -> Result<(), OperationError> {
    let path = format!("{}/driver/unbind", device(address));
    system.write(&path, address).map_err(|error| OperationError::Refused(path, error))
}

fn bind(system: &mut impl System, address: &str, driver: &str) -> Result<(), OperationError> {
    prefer(system, address, driver)?;
    let has = system.driver(address);
    if has.as_deref() == Some(driver) {
        return Ok(());
    }
    if has.is_some() {
        unbind(system, address)?;
    }
    let probe = "sys/bus/pci/drivers_probe";
    system.write(probe, address).map_err(|error| OperationError::Refused(probe.to_owned(), error))?;
    expect_driver(system, address, driver)
}

fn restore_driver(
    system: &mut impl System,
    address: &str,
    driver: Option<&str>,
    preferred: &str,
) -> Result<(), OperationError> {
    prefer(system, address, preferred)?;
    let has = system.driver(address);
    if has.as_deref() == driver {
        return Ok(());
    }
    if has.is_some() {
        unbind(system, address)?;
    }
    let Some(driver) = driver else { return Ok(()) };
    let path = format!("sys/bus/pci/drivers/{driver}/bind");
    system.write(&path, address).map_err(|error| OperationError::Refused(path, error))?;
    expect_driver(system, address, driver)
}

fn expect_driver(system: &impl System, address: &str, driver: &str) -> Result<(), OperationError> {
    let has = system.driver(address);
    match has.as_deref() == Some(driver) {
        true => Ok(()),
        false => Err(OperationError::Unbound {
            address: address.to_owned(),
            driver: driver.to_owned(),
            has: has.unwrap_or_else(|| "none".to_owned()),
        }),
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Set { path, value } | Operation::Try { path, value } => {
                write!(f, "echo {value} > /{path}")
            }
            Operation::Write { path, .. } => write!(f, "write /{path}"),
            Operation::Load { module } => write!(f, "modprobe {module}"),
            Operation::Bind { address, driver } => write!(f, "bind {address} to {driver}"),
        }
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Before::Set { path, value } => write!(f, "echo {value} > /{path}"),
            Before::Written { path, text: Some(_) } => write!(f, "put back /{path}"),
            Before::Written { path, text: None } => write!(f, "remove /{path}"),
            Before::NotLoaded { module } => write!(f, "modprobe --remove {module}"),
            Before::Bound { address, driver, .. } => {
                write!(f, "give {address} back to {}", driver.as_deref().unwrap_or("no driver"))
            }
        }
    }
}
