//! Keeps keys in memory: out of swap, and out of core dumps; and the heap in hugepages. In: what the configuration allows.
//! Called once by the control thread before anything secret is read; what it sets holds for every thread started later.
//!
//! Keys are everywhere a TLS stack computes: in aws-lc's contexts on the heap, on stacks, for an instant in
//! registers. So the process leaves no core dump at all (`RLIMIT_CORE`, `PR_SET_DUMPABLE`), and a debugger that writes
//! one on an operator's behalf, as gcore does, is told to leave memory out (`/proc/self/coredump_filter`, core(5)).

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Where a process says which memory belongs into its core dumps.
const FILTER: &str = "/proc/self/coredump_filter";

/// Only the first pages of ELF files, by which a debugger finds the executable: bit 4 (core(5)).
const HEADERS_ONLY: &str = "0x10";

/// What glibc's allocator is told at its start, the only time it listens: ask the kernel for hugepages (madvise(2)).
const TUNABLES: &str = "GLIBC_TUNABLES";
const HUGE_HEAP: &str = "glibc.malloc.hugetlb";
/// Says to the process that starts itself anew that it has.
const STARTED_ANEW: &str = "KEYFERRY_STARTED_ANEW";

/// Has the heap in hugepages where the kernel gives any (`transparent_hugepage` is not `never`): a connection's AEAD contexts
/// are there, and where small pages happen to share places of the processor's cache a request of one among a thousand takes
/// up to a third longer. The process starts itself anew for it, before it has done anything, with the same number and
/// arguments; not if its environment says what the allocator is to do, nor twice. Without it everything works.
pub fn heap_in_hugepages() {
    let told = env::var(TUNABLES).unwrap_or_default();
    // Of a process with more rights than its user glibc forgets what the environment tells it, so that is no sign.
    if told.contains(HUGE_HEAP) || env::var_os(STARTED_ANEW).is_some() {
        return;
    }
    let Ok(executable) = env::current_exe() else { return };
    let separator = if told.is_empty() { "" } else { ":" };
    let mut arguments = env::args_os();
    let mut command = Command::new(executable);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).env(TUNABLES, format!("{told}{separator}{HUGE_HEAP}=1")).env(STARTED_ANEW, "1");
    // It returns only if it fails.
    let _ = command.exec();
}

/// Locks memory, and keeps it out of core dumps unless they are wanted. Answers what could not be done, as sentences
/// for the log: a node serves without, and its operator should know.
pub fn protect(core_dumps: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    // On first touch: what DPDK reserves and does not use stays free.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(all) {
        let raise = if error == Errno::NOMEM || error == Errno::PERM {
            "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK=infinity)"
        } else {
            ""
        };
        warnings.push(format!("memory cannot be locked ({error}), so keys may be written to swap{raise}"));
    }
    if core_dumps {
        warnings.push("node.core_dumps is true: a core dump of this process holds every key".to_owned());
        return warnings;
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let outcomes = [
        std::fs::write(FILTER, HEADERS_ONLY).map_err(|error| error.to_string()),
        setrlimit(Resource::Core, none).map_err(|error| error.to_string()),
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| error.to_string()),
    ];
    let failed = outcomes.into_iter().filter_map(Result::err);
    warnings.extend(failed.map(|error| {
        format!("core dumps cannot be switched off ({error}): set kernel.core_pattern to nothing, or keys may be in them")
    }));
    warnings
}
