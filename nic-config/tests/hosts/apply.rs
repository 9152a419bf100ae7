//! Plans that are done and undone, on a kernel that stops anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use keyferry_nic_config::{
    ARGUMENTS_FILE, ApplyError, Operation, OperationError, Plan, State, Wanted, apply, plan, undo,
};
use proptest::prelude::*;

use super::{host, wanted};
use crate::fake::{Fake, assert_same, snapshot};
use crate::tree::{Tree, folder};

/// A host that has all there is to change, and can be changed without a reboot.
fn server() -> Tree {
    let tree = Tree::of("e810");
    fs::create_dir_all(tree.path("sys/kernel/iommu_groups/0")).unwrap();
    tree
}

fn everything() -> Wanted {
    Wanted { spin: true, workers: BTreeSet::from([1, 2]), apps: BTreeSet::from([3]), ..wanted("18:00.0") }
}

/// The kernel's start these tests are of.
const BOOT: &str = "5a3f";

/// Where a state is, beside the tree.
fn state_file() -> (tempfile::TempDir, PathBuf) {
    let folder = folder();
    let file = folder.path().join("lib/nic-config.json");
    (folder, file)
}

/// Each of these is a process of its own: the state is read from its file.
fn apply_once(fake: &mut Fake<'_>, plan: &Plan, file: &Path) -> Result<(), ApplyError> {
    apply(plan, fake, &mut State::open(file, BOOT).unwrap(), |_, _| {})
}

fn undo_once(fake: &mut Fake<'_>, file: &Path) -> Result<(), ApplyError> {
    undo(fake, &mut State::open(file, BOOT).unwrap(), |_| {})
}

#[test]
fn a_host_is_as_planned_after_apply_and_as_before_after_undo() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let mut fake = Fake::new(&tree);
    apply_once(&mut fake, &plan(&host(&tree), &everything()), &file).unwrap();

    let now = host(&tree);
    let nic = now.network.pci.iter().find(|nic| nic.address.to_string() == "0000:18:00.0").unwrap();
    assert_eq!((nic.driver.as_deref(), nic.interfaces.len()), (Some("vfio-pci"), 0));
    assert_eq!(now.memory.huge_free_mib_of(0), 256);
    assert_eq!(
        (now.cores.governors[&3].as_str(), now.cores.governors[&4].as_str()),
        ("performance", "schedutil")
    );
    assert!(now.interrupts.iter().all(|interrupt| interrupt.cores.is_disjoint(&(1..=3).collect())));
    assert_eq!(now.kernel.transparent_hugepages, "madvise");
    assert!(now.kernel.arguments_file.unwrap().contains("nohz_full=1-3"));

    undo_once(&mut fake, &file).unwrap();
    assert_same(&tree, &before);
    assert!(!file.exists());
    undo_once(&mut fake, &file).unwrap();
}

#[test]
fn to_apply_twice_is_to_apply_once() {
    let tree = server();
    let (_folder, file) = state_file();
    let mut fake = Fake::new(&tree);
    apply_once(&mut fake, &plan(&host(&tree), &everything()), &file).unwrap();
    let (once, changes, state) = (snapshot(&tree), fake.changes, fs::read(&file).unwrap());
    let again = plan(&host(&tree), &everything());
    assert_eq!(again.operations(), 0, "{again:#?}");
    apply_once(&mut fake, &again, &file).unwrap();
    assert_eq!((snapshot(&tree), fake.changes, fs::read(&file).unwrap()), (once, changes, state));
}

#[test]
fn what_was_there_first_is_what_undo_brings_back() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let mut fake = Fake::new(&tree);
    for workers in [[1, 2], [4, 5]] {
        let wanted = Wanted { workers: workers.into(), memory_mib: 128 * workers[0] as u64, ..everything() };
        apply_once(&mut fake, &plan(&host(&tree), &wanted), &file).unwrap();
    }
    assert_eq!(host(&tree).memory.huge_free_mib_of(0), 512);
    undo_once(&mut fake, &file).unwrap();
    assert_same(&tree, &before);
}

#[test]
fn a_refused_plan_changes_nothing() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let refused = plan(&host(&tree), &Wanted { spin: true, ..wanted("02:00.0") });
    assert!(refused.operations() > 0);
    let error = apply_once(&mut Fake::new(&tree), &refused, &file).unwrap_err();
    assert!(matches!(error, ApplyError::Refused(3)), "{error}");
    assert!(error.to_string().contains("3 of the plan's findings forbid it: do what they say"), "{error}");
    assert_same(&tree, &before);
    assert!(!file.exists());
}

#[test]
fn what_waits_for_a_reboot_waits() {
    let tree = Tree::of("e810");
    let (_folder, file) = state_file();
    apply_once(&mut Fake::new(&tree), &plan(&host(&tree), &everything()), &file).unwrap();
    let nic = host(&tree).network.pci[2].clone();
    assert_eq!((nic.address.to_string().as_str(), nic.driver.as_deref()), ("0000:18:00.0", Some("ice")));
}

/// The port is the kernel's again and interrupts have other numbers; only the file of arguments is still there.
#[test]
fn after_a_reboot_only_files_are_undone() {
    let tree = server();
    let (_folder, file) = state_file();
    apply_once(&mut Fake::new(&tree), &plan(&host(&tree), &everything()), &file).unwrap();
    let written = fs::read(&file).unwrap();

    let rebooted = server();
    rebooted.file(ARGUMENTS_FILE, "theirs");
    rebooted.file("proc/irq/30/smp_affinity_list", "7\n");
    let mut state = State::open(&file, "another").unwrap();
    let undone: Vec<_> = state.undoes().map(ToString::to_string).collect();
    assert_eq!(undone, [format!("remove /{ARGUMENTS_FILE}")]);
    assert_eq!(fs::read(&file).unwrap(), written, "reading it changes nothing");
    undo(&mut Fake::new(&rebooted), &mut state, |_| {}).unwrap();
    assert!(!rebooted.path(ARGUMENTS_FILE).exists() && !file.exists());
    assert_eq!(fs::read_to_string(rebooted.path("proc/irq/30/smp_affinity_list")).unwrap(), "7\n");
}

#[test]
fn nothing_changes_that_cannot_be_written_down() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let mut state = State::open(&file, BOOT).unwrap();
    fs::write(file.parent().unwrap(), "in the way of the folder").unwrap();
    let error = apply(&plan(&host(&tree), &everything()), &mut Fake::new(&tree), &mut state, |_, _| {});
    assert!(matches!(error, Err(ApplyError::Unwritable(..))), "{error:?}");
    assert_same(&tree, &before);
}

#[test]
fn a_state_that_is_not_understood_is_not_written_over() {
    let (folder, _) = state_file();
    let file = folder.path().join("state");
    for (text, why) in [("{", "EOF"), ("{\"version\":2,\"boot\":\"\",\"before\":[]}", "its version is 2")] {
        fs::write(&file, text).unwrap();
        let error = State::open(&file, BOOT).unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("move it away only if"), "{error}");
    }
}

#[test]
fn too_few_hugepages_are_told() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let mut fake = Fake::new(&tree);
    fake.pages_max = 100;
    let error = apply_once(&mut fake, &plan(&host(&tree), &everything()), &file).unwrap_err();
    let ApplyError::Operation(OperationError::Differs { wanted, is, .. }) = &error else { panic!("{error}") };
    assert_eq!((wanted.as_str(), is.as_str()), ("128", "100"));
    let sentence = "nr_hugepages was set to 128 and is 100: memory is in too many pieces: free some";
    assert!(error.to_string().contains(sentence), "{error}");
    undo_once(&mut fake, &file).unwrap();
    assert_same(&tree, &before);
}

#[test]
fn a_setting_that_the_kernel_takes_otherwise_is_told() {
    let tree = server();
    let path = "sys/kernel/mm/transparent_hugepage/enabled".to_owned();
    let setting = Operation::Set { path, value: "sometimes".to_owned() };
    let error = setting.make(&mut Fake::new(&tree)).unwrap_err().to_string();
    let sentence =
        "enabled was set to sometimes and is always madvise never: the kernel rounds or refuses it";
    assert!(error.contains(sentence), "{error}");
}

#[test]
fn a_driver_that_does_not_take_the_port_is_told() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let mut fake = Fake::new(&tree);
    let mut plan = plan(&host(&tree), &everything());
    plan.steps.retain(|step| !step.what.starts_with("module"));
    let error = apply_once(&mut fake, &plan, &file).unwrap_err().to_string();
    assert!(error.starts_with("0000:18:00.0 was given to vfio-pci and has none"), "{error}");
    undo_once(&mut fake, &file).unwrap();
    assert_same(&tree, &before);
}

#[test]
fn what_the_kernel_refuses_is_told_and_what_cannot_be_undone_is_kept() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let mut fake = Fake::new(&tree);
    let plan = plan(&host(&tree), &everything());
    fake.stop_after(Some(1));
    let error = apply_once(&mut fake, &plan, &file).unwrap_err().to_string();
    assert!(error.ends_with("stopped: look at the end of dmesg, and whether you are root"), "{error}");
    fake.stop_after(Some(0));
    let error = undo_once(&mut fake, &file).unwrap_err();
    assert!(matches!(&error, ApplyError::Left(left, kept) if !left.is_empty() && *kept == file), "{error}");
    let stay = format!("of the changes could not be undone and stay in {}: ", file.display());
    assert!(error.to_string().contains(&stay), "{error}");
    fake.stop_after(None);
    undo_once(&mut fake, &file).unwrap();
    assert_same(&tree, &before);
}

#[test]
fn interrupts_the_kernel_keeps_stay() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let mut fake = Fake::new(&tree);
    fake.managed = vec!["31"];
    let mut left = Vec::new();
    let mut state = State::open(&file, BOOT).unwrap();
    apply(&plan(&host(&tree), &everything()), &mut fake, &mut state, |operation, made| {
        left.extend((!made).then(|| operation.to_string()));
    })
    .unwrap();
    assert_eq!(left, ["echo 0,4-15 > /proc/irq/31/smp_affinity_list"]);
    undo_once(&mut fake, &file).unwrap();
    assert_same(&tree, &before);
}

/// After each change there is: apply stops, and what was there is brought back, by an undo that stops as well.
#[test]
fn a_crash_anywhere_is_undone() {
    let tree = server();
    let before = snapshot(&tree);
    let (_folder, file) = state_file();
    let plan = plan(&host(&tree), &everything());
    let mut stops = 0;
    for stop in 0.. {
        let mut fake = Fake::new(&tree);
        fake.stop_after(Some(stop));
        let applied = apply_once(&mut fake, &plan, &file);
        let stopped = fake.has_stopped;
        fake.stop_after(Some(stop / 2));
        let _ = undo_once(&mut fake, &file);
        fake.stop_after(None);
        undo_once(&mut fake, &file).unwrap();
        assert_same(&tree, &before);
        assert!(!file.exists());
        if applied.is_ok() && !stopped {
            break;
        }
        stops += 1;
    }
    assert!(stops > 15, "{stops} places to stop at");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Any core map, on hosts with and without an IOMMU: apply stops anywhere, is run again, stops anywhere, and so on;
    /// then undo.
    #[test]
    fn crashes_and_repeats_are_undone(
        name in proptest::sample::select(vec!["e810", "virtual", "connectx"]),
        device in proptest::sample::select(vec!["18:00.0", "00:05.0", "00:04.0", "net_null0"]),
        driver in proptest::option::of(proptest::sample::select(vec!["vfio-pci", "uio_pci_generic"])),
        maps in proptest::collection::vec(
            (proptest::collection::btree_set(0usize..16, 1..5), any::<bool>(), 1u64..600, proptest::option::of(0usize..20)),
            1..4,
        ),
        undo_stop in 0usize..20,
    ) {
        let tree = if name == "e810" { server() } else { Tree::of(name) };
        let before = snapshot(&tree);
        let (_folder, file) = state_file();
        let mut fake = Fake::new(&tree);
        for (workers, spin, memory_mib, stop) in maps {
            let driver = driver.map(str::to_owned);
            let wanted = Wanted { workers, spin, memory_mib, driver, ..wanted(device) };
            let plan = plan(&host(&tree), &wanted);
            fake.stop_after(stop);
            let applied = apply_once(&mut fake, &plan, &file);
            fake.stop_after(None);
            // An interrupt whose change is refused ends nothing, so a stop may go unseen.
            let stopped = std::mem::take(&mut fake.has_stopped);
            if applied.is_ok() && !stopped {
                let again = keyferry_nic_config::plan(&host(&tree), &wanted);
                prop_assert_eq!(again.operations(), 0, "{:#?}", again);
            }
        }
        fake.stop_after(Some(undo_stop));
        let _ = undo_once(&mut fake, &file);
        fake.stop_after(None);
        undo_once(&mut fake, &file).unwrap();
        assert_same(&tree, &before);
    }
}
