//! What the machine did meanwhile: time a hypervisor took, time and memory this process used. Read from `/proc`, a few
//! times a run; what is not there counts as nothing.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time of the machine since it started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineTime {
    all: u64,
    stolen: u64,
}

impl MachineTime {
    /// Now.
    pub fn now() -> MachineTime {
        fs::read_to_string("/proc/stat").ok().and_then(|text| MachineTime::parse(&text)).unwrap_or_default()
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time (proc(5)).
    fn parse(text: &str) -> Option<MachineTime> {
        let fields: Vec<u64> = text
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .map_while(|field| field.parse().ok())
            .take(8)
            .collect();
        Some(MachineTime { all: fields.iter().sum(), stolen: *fields.get(7)? })
    }

    /// The share stolen between `earlier` and this.
    pub fn steal_share_since(&self, earlier: MachineTime) -> f64 {
        let all = self.all.saturating_sub(earlier.all);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all.max(1) as f64
    }
}

/// Processor time of the calling thread (proc(5): its first field, in nanoseconds). From here and not from the clock,
/// because rustix reads clocks through the vDSO, which Valgrind hides: the generator has to run under callgrind.
pub fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ns = text.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(ns.unwrap_or(0))
}

/// Processor time of the calling thread so far, by the clock: cheaper than [`thread_cpu`], for threads that poll.
pub fn thread_clock() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Largest resident memory of this process so far, in bytes.
pub fn rss_bytes_max() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&text, "VmHWM:").unwrap_or(0) * 1024
}

fn kilobytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn steal_is_a_share_of_all() {
        let time = |text| MachineTime::parse(text).unwrap();
        let before = time("cpu  100 0 100 700 0 0 0 100 50 0\ncpu0 1\n");
        let after = time("cpu  150 0 150 750 0 0 0 150 90 0\n");
        assert!((after.steal_share_since(before) - 0.25).abs() < 1e-9);
        assert_eq!(MachineTime::parse("intr 5"), None);
        assert_eq!(kilobytes("VmPeak:\t 9 kB\nVmHWM:\t    1234 kB\n", "VmHWM:"), Some(1234));
        assert!(rss_bytes_max() > 0);
        // The kernel brings it up to date at its own ticks.
        let limit = Instant::now() + Duration::from_secs(20);
        while thread_cpu() == Duration::ZERO {
            assert!(Instant::now() < limit);
        }
    }
}
