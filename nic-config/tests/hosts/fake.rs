//! A kernel that is none: settings of a host's tree change as a kernel's would, and a fuse stops it before any change.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use keyferry_nic_config::{Live, System};

use super::tree::{Tree, folder};

/// What the kernel takes from a function's folder with its driver, and brings back with it.
const INTERFACES: &str = "net";

pub struct Fake<'t> {
    tree: &'t Tree,
    live: Live,
    /// Interfaces of functions whose driver is gone, by function.
    away: tempfile::TempDir,
    /// Drivers there were at first, by function: what probing finds without a preference.
    native: BTreeMap<String, String>,
    /// Changes it still makes.
    fuse: Cell<Option<usize>>,
    /// Hugepages the machine has room for.
    pub pages_max: u64,
    /// Interrupts the kernel does not let go.
    pub managed: Vec<&'static str>,
    /// Changes made.
    pub changes: usize,
    /// It has stopped once.
    pub has_stopped: bool,
}

impl<'t> Fake<'t> {
    pub fn new(tree: &'t Tree) -> Fake<'t> {
        let live = Live::new(tree.root());
        let functions = fs::read_dir(tree.path("sys/bus/pci/devices")).unwrap();
        let functions = functions.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let native =
            functions.filter_map(|address| Some((address.clone(), live.driver(&address)?))).collect();
        Fake {
            tree,
            live,
            away: folder(),
            native,
            fuse: Cell::new(None),
            pages_max: 1 << 20,
            managed: Vec::new(),
            changes: 0,
            has_stopped: false,
        }
    }

    /// Stops before the change after so many more.
    pub fn stop_after(&mut self, changes: Option<usize>) {
        self.fuse.set(changes);
    }

    fn change(&mut self) -> io::Result<()> {
        match self.fuse.get() {
            Some(0) => {
                self.has_stopped = true;
                return Err(io::Error::other("stopped"));
            }
            Some(left) => self.fuse.set(Some(left - 1)),
            None => {}
        }
        self.changes += 1;
        Ok(())
    }

    fn put(&self, path: &str, value: &str) -> io::Result<()> {
        fs::write(self.tree.path(path), format!("{value}\n"))
    }

    fn bind(&self, address: &str, driver: &str) -> io::Result<()> {
        let folder = self.tree.path("sys/bus/pci/devices").join(address);
        symlink(format!("../../../bus/pci/drivers/{driver}"), folder.join("driver"))?;
        let away = self.away.path().join(address);
        if self.native.get(address).is_some_and(|native| native == driver) && away.exists() {
            fs::rename(away, folder.join(INTERFACES))?;
        }
        Ok(())
    }

    fn unbind(&self, address: &str) -> io::Result<()> {
        let folder = self.tree.path("sys/bus/pci/devices").join(address);
        fs::remove_file(folder.join("driver"))?;
        if folder.join(INTERFACES).exists() {
            fs::rename(folder.join(INTERFACES), self.away.path().join(address))?;
        }
        Ok(())
    }

    fn has_driver(&self, driver: &str) -> bool {
        self.native.values().any(|native| native == driver) || self.live.is_loaded(driver)
    }
}

impl System for Fake<'_> {
    fn read(&self, path: &str) -> io::Result<String> {
        self.live.read(path)
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        self.change()?;
        if let Some(address) =
            path.strip_prefix("sys/bus/pci/devices/").and_then(|p| p.strip_suffix("/driver/unbind"))
        {
            return self.unbind(address);
        }
        if path == "sys/bus/pci/drivers_probe" {
            let preferred = self.read(&format!("sys/bus/pci/devices/{value}/driver_override"))?;
            let driver = match preferred.trim() {
                "(null)" => self.native.get(value).cloned(),
                driver => Some(driver.to_owned()),
            };
            // A function that has a driver keeps it, and probing for one that is not there finds none.
            return match driver.filter(|driver| self.live.driver(value).is_none() && self.has_driver(driver))
            {
                Some(driver) => self.bind(value, &driver),
                None => Ok(()),
            };
        }
        if let Some(driver) = path.strip_prefix("sys/bus/pci/drivers/").and_then(|p| p.strip_suffix("/bind"))
        {
            return self.bind(value, driver);
        }
        if !self.tree.path(path).exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        if path.ends_with("/driver_override") {
            return self.put(path, if value == "\n" { "(null)" } else { value });
        }
        if path.ends_with("/nr_hugepages") {
            let number = |text: String| text.trim().parse::<u64>().unwrap();
            let before = number(self.read(path)?);
            let free = path.replace("nr_hugepages", "free_hugepages");
            let now = value.parse::<u64>().unwrap().min(self.pages_max);
            self.put(&free, &(number(self.read(&free)?) + now - before).to_string())?;
            return self.put(path, &now.to_string());
        }
        if path.ends_with("transparent_hugepage/enabled") {
            let all = ["always", "madvise", "never"];
            let all = all.map(|one| if one == value { format!("[{one}]") } else { one.to_owned() });
            return self.put(path, &all.join(" "));
        }
        if self.managed.iter().any(|number| path == format!("proc/irq/{number}/smp_affinity_list")) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.put(path, value)
    }

    fn create(&mut self, path: &str, text: &str) -> io::Result<()> {
        self.change()?;
        self.live.create(path, text)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.change()?;
        self.live.remove(path)
    }

    fn load(&mut self, module: &str) -> io::Result<()> {
        self.change()?;
        fs::create_dir_all(self.tree.path("sys/module").join(module.replace('-', "_")))?;
        if module == "vfio-pci" {
            self.tree.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
        }
        Ok(())
    }

    fn unload(&mut self, module: &str) -> io::Result<()> {
        self.change()?;
        fs::remove_dir_all(self.tree.path("sys/module").join(module.replace('-', "_")))?;
        if module == "vfio-pci" {
            fs::remove_dir_all(self.tree.path("sys/module/vfio"))?;
        }
        Ok(())
    }

    fn is_loaded(&self, module: &str) -> bool {
        self.live.is_loaded(module)
    }

    fn driver(&self, address: &str) -> Option<String> {
        self.live.driver(address)
    }
}

/// The tree is what it was; else what differs.
#[track_caller]
pub fn assert_same(tree: &Tree, before: &BTreeMap<String, String>) {
    let now = snapshot(tree);
    let names = now.keys().chain(before.keys());
    let differ: BTreeMap<_, _> = names
        .filter(|name| now.get(*name) != before.get(*name))
        .map(|name| (name, (before.get(name), now.get(name))))
        .collect();
    assert!(differ.is_empty(), "before and now: {differ:#?}");
}

/// Every file and link of a tree, and the folders of modules and interfaces, which are there or not.
pub fn snapshot(tree: &Tree) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    walk(tree.root(), tree.root(), &mut all);
    all
}

fn walk(root: &Path, folder: &Path, all: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if path.is_symlink() {
            all.insert(name, fs::read_link(&path).unwrap().to_str().unwrap().to_owned());
        } else if path.is_dir() {
            walk(root, &path, all);
            // Others of our own making may stay, empty.
            if ["sys/module", INTERFACES]
                .iter()
                .any(|parent| name.rsplit_once('/').unwrap_or_default().0.ends_with(parent))
            {
                all.insert(name, String::new());
            }
        } else {
            all.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
        }
    }
}
