//! DPDK's environment abstraction layer: started once a process, never ended.
//!
//! In: [`EalOptions`] from the configuration. Out: [`Eal`], the proof that ports can be opened, or a sentence that
//! says what to do. Control thread, before any worker.

use std::ffi::{CString, c_char, c_int};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use dpdk_sys as sys;

use super::log;

/// Whether packet memory is in hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Where enough of them are free.
    #[default]
    Auto,
    /// Always: starting fails without them.
    Require,
    /// Never.
    Never,
}

/// How to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalOptions {
    /// Whether packet memory is in hugepages.
    pub hugepages: Hugepages,
    /// Packet memory, in MiB.
    pub memory_mib: u32,
    /// Further arguments of the EAL, appended as they are.
    pub extra: Vec<String>,
    /// Only virtual devices will be opened: the PCI bus is not scanned.
    pub virtual_only: bool,
}

/// Why DPDK did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The EAL starts once a process.
    #[error("DPDK was started before in this process and cannot start twice: restart the process")]
    Again,
    /// Too few free hugepages.
    #[error(
        "{wanted_mib} MiB of packet memory do not fit the {free_mib} MiB of free hugepages: reserve more, for \
         example with `sysctl vm.nr_hugepages={pages}`, or set hugepages = \"never\""
    )]
    NoHugepages {
        /// Memory asked for.
        wanted_mib: u32,
        /// Memory in free hugepages.
        free_mib: u64,
        /// Pages of 2 MiB that would do.
        pages: u32,
    },
    /// The memory could not be had.
    #[error(
        "{wanted_mib} MiB of packet memory cannot be had: lower memory_mib or free some memory (DPDK: {said})"
    )]
    Memory {
        /// Memory asked for.
        wanted_mib: u32,
        /// DPDK's log.
        said: String,
    },
    /// Not allowed.
    #[error(
        "DPDK may not start here: run as root, or with CAP_NET_RAW, CAP_IPC_LOCK and /run writable (DPDK: {said})"
    )]
    Permission {
        /// DPDK's log.
        said: String,
    },
    /// An argument from [`EalOptions::extra`] was refused.
    #[error("DPDK refuses its arguments: correct {arguments:?} (DPDK: {said})")]
    Arguments {
        /// The further arguments.
        arguments: Vec<String>,
        /// DPDK's log.
        said: String,
    },
    /// Anything else.
    #[error(
        "DPDK did not start: correct what it names (error {errno}; its arguments were {arguments:?}; DPDK: {said})"
    )]
    Other {
        /// `rte_errno`.
        errno: i32,
        /// DPDK's log.
        said: String,
        /// All arguments.
        arguments: Vec<String>,
    },
}

/// DPDK has started. It stays so until the process ends: it cannot be started again, and cleaning up at exit would
/// pull memory from under packets still held.
#[derive(Debug)]
pub struct Eal {
    hugepages: bool,
}

/// Someone has tried to start the EAL.
static TRIED: AtomicBool = AtomicBool::new(false);
/// The EAL runs.
static RUNS: AtomicBool = AtomicBool::new(false);

/// Whether the EAL runs.
pub(super) fn runs() -> bool {
    RUNS.load(Ordering::SeqCst)
}

impl Eal {
    /// Starts DPDK on the calling thread, whose affinity stays what it is.
    ///
    /// # Errors
    /// Each sentence says what to do.
    pub fn start(options: &EalOptions) -> Result<Eal, StartError> {
        let hugepages = pages(options)?;
        let arguments = arguments(options, hugepages);
        // An argument with a NUL inside would reach DPDK cut short.
        let refused =
            |said: &str| StartError::Arguments { arguments: options.extra.clone(), said: said.into() };
        let help = |argument: &String| matches!(argument.as_str(), "-h" | "--help" | "-v" | "--version");
        if options.extra.iter().any(help) {
            return Err(refused("the process would print its usage and go on or exit"));
        }
        let strings: Result<Vec<CString>, _> = arguments.iter().map(|it| CString::new(it.as_str())).collect();
        let strings = strings.map_err(|_| refused("an argument holds a NUL byte"))?;
        if TRIED.swap(true, Ordering::SeqCst) {
            return Err(StartError::Again);
        }
        // The EAL keeps pointers into its arguments, so they live as long as the process.
        let argv: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
        let argv = Vec::leak(argv);
        // SAFETY: `argv` holds as many C strings as said, writable and never freed, and the EAL was not started.
        let (result, said) =
            log::captured(|| unsafe { sys::rte_eal_init(argv.len() as c_int, argv.as_mut_ptr()) });
        if result >= 0 {
            RUNS.store(true, Ordering::SeqCst);
            return Ok(Eal { hugepages });
        }
        // SAFETY: reads this thread's error number.
        let errno = unsafe { sys::kf_errno() };
        Err(failure(options, errno, said, arguments))
    }

    /// Whether packet memory is in hugepages.
    pub fn hugepages(&self) -> bool {
        self.hugepages
    }
}

/// Decides between hugepages and ordinary memory beforehand, since the EAL cannot be asked twice.
fn pages(options: &EalOptions) -> Result<bool, StartError> {
    let free_mib = free_hugepages_mib();
    let enough = free_mib >= u64::from(options.memory_mib);
    match options.hugepages {
        Hugepages::Never => Ok(false),
        Hugepages::Auto => Ok(enough),
        Hugepages::Require if enough => Ok(true),
        Hugepages::Require => Err(StartError::NoHugepages {
            wanted_mib: options.memory_mib,
            free_mib,
            pages: options.memory_mib.div_ceil(2),
        }),
    }
}

/// Memory in free hugepages of all sizes, in MiB; what cannot be read counts as none.
fn free_hugepages_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let mib = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free: u64 = fs::read_to_string(entry.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
        Some(kib * free / 1024)
    };
    sizes.filter_map(Result::ok).filter_map(mib).sum()
}

/// The first two are the program's name and the one logical core DPDK knows of: this thread, on every core it may
/// run on now. Without it the EAL would start a thread of its own on each core and pin this one.
fn arguments(options: &EalOptions, hugepages: bool) -> Vec<String> {
    let memory = options.memory_mib.to_string();
    let cores = rustix::thread::sched_getaffinity(None).map_or(vec![0], |set| {
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect::<Vec<_>>()
    });
    let cores = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut arguments = ["keyferry", "--lcores", &format!("0@({cores})"), "--no-telemetry", "-m", &memory]
        .map(String::from)
        .to_vec();
    // One process a node: nothing is shared through files, so that several nodes live on one machine and nothing
    // stays behind. `--in-memory` means that, but not together with `--no-huge`.
    let private: &[&str] = if hugepages { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
    // Devices are opened one by one. An allow list that matches none (the host bridge) keeps the EAL from taking
    // every device bound to a driver of its own, those of other nodes too.
    let chosen = |it: &String| matches!(it.as_str(), "-a" | "--allow" | "-b" | "--block");
    let bus: &[&str] = match () {
        () if options.virtual_only => &["--no-pci"],
        () if options.extra.iter().any(chosen) => &[],
        () => &["-a", "0000:00:00.0"],
    };
    arguments.extend(private.iter().chain(bus).map(ToString::to_string));
    arguments.extend(options.extra.iter().cloned());
    arguments
}

fn failure(options: &EalOptions, errno: i32, said: String, arguments: Vec<String>) -> StartError {
    let wanted_mib = options.memory_mib;
    match rustix::io::Errno::from_raw_os_error(errno) {
        rustix::io::Errno::ALREADY => StartError::Again,
        rustix::io::Errno::NOMEM => StartError::Memory { wanted_mib, said },
        rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => StartError::Permission { said },
        rustix::io::Errno::INVAL if !options.extra.is_empty() => {
            StartError::Arguments { arguments: options.extra.clone(), said }
        }
        _ => StartError::Other { errno, said, arguments },
    }
}

#[cfg(test)]
mod tests {
    use super::{Eal, EalOptions, Hugepages, StartError, arguments, failure, pages};

    fn options() -> EalOptions {
        EalOptions {
            hugepages: Hugepages::Never,
            memory_mib: 64,
            extra: vec!["--x".into()],
            virtual_only: true,
        }
    }

    #[test]
    fn memory_without_hugepages_is_not_asked_to_be_in_memory() {
        let arguments = arguments(&options(), false);
        assert!(arguments.contains(&"--no-huge".into()) && !arguments.contains(&"--in-memory".into()));
        assert_eq!(arguments.last().map(String::as_str), Some("--x"), "further arguments come last");
    }

    #[test]
    fn more_hugepages_than_any_machine_has_are_refused_with_a_number() {
        let greedy = EalOptions { hugepages: Hugepages::Require, memory_mib: u32::MAX, ..options() };
        let Err(StartError::NoHugepages { pages: wanted, .. }) = pages(&greedy) else {
            panic!("not refused")
        };
        assert_eq!(wanted, u32::MAX.div_ceil(2));
        assert_eq!(pages(&EalOptions { hugepages: Hugepages::Auto, ..greedy }), Ok(false));
    }

    #[test]
    fn arguments_that_would_end_or_cut_the_start_are_refused() {
        for (extra, said) in [("--version", "would print its usage"), ("a\0b", "holds a NUL byte")] {
            let refused = Eal::start(&EalOptions { extra: vec![extra.into()], ..options() });
            let error = refused.expect_err("it started").to_string();
            assert!(error.starts_with("DPDK refuses its arguments: correct [") && error.contains(said));
        }
    }

    #[test]
    fn what_keeps_dpdk_from_starting_says_what_to_do() {
        use rustix::io::Errno;
        let own = EalOptions { extra: Vec::new(), ..options() };
        let said = |options: &EalOptions, errno: Errno| {
            failure(options, errno.raw_os_error(), "its log".into(), vec!["-m".into()]).to_string()
        };
        for (options, errno, sentence) in [
            (&own, Errno::ALREADY, "DPDK was started before in this process"),
            (&own, Errno::NOMEM, "64 MiB of packet memory cannot be had: lower memory_mib"),
            (&own, Errno::ACCESS, "DPDK may not start here: run as root"),
            (&own, Errno::PERM, "DPDK may not start here: run as root"),
            (&options(), Errno::INVAL, "DPDK refuses its arguments: correct [\"--x\"]"),
            (&own, Errno::INVAL, "DPDK did not start: correct what it names (error 22"),
        ] {
            let error = said(options, errno);
            assert!(error.starts_with(sentence), "{errno}: {error}");
            assert!(errno == Errno::ALREADY || error.contains("its log"), "{errno}: {error}");
        }
    }
}
