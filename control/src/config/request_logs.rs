//! `[access_log]` and `[slow_log]`: which requests are told of, and in which files.

use std::path::PathBuf;
use std::time::Duration;

use super::changes::Ledger;
use super::reader::{Context, Section};

/// Files of one log that are kept besides the one being written, at most.
pub const KEPT_MAX: u32 = 1000;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// The file being written.
    pub path: PathBuf,
    /// It is put aside before it would be longer.
    pub bytes_max: u64,
    /// So many that were put aside are kept: `FILE.1` is the youngest.
    pub kept: u32,
}

/// Requests drawn at random.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    /// Where they are told of.
    pub file: LogFile,
    /// Which part of all requests, above 0 up to 1.
    pub sample: f64,
}

/// Requests that took long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowLog {
    /// Where they are told of.
    pub file: LogFile,
    /// Longer than that, from their first byte until their reply was acknowledged.
    pub over: Duration,
}

impl LogFile {
    fn compare(&self, new: &LogFile, table: &'static str, ledger: &mut Ledger) {
        let LogFile { path, bytes_max, kept } = self;
        ledger.fixed(table, "file", path, &new.path);
        ledger.fixed(table, "bytes_max", bytes_max, &new.bytes_max);
        ledger.fixed(table, "files_kept", kept, &new.kept);
    }
}

/// Goes by other tables of the file: what is picked can change, where it is written waits for a restart.
pub(super) fn take_over(
    (access, slow): (&mut Option<AccessLog>, &mut Option<SlowLog>),
    (new_access, new_slow): (&Option<AccessLog>, &Option<SlowLog>),
    ledger: &mut Ledger,
) {
    match (access, new_access) {
        (Some(AccessLog { file, sample }), Some(new)) => {
            file.compare(&new.file, "[access_log]", ledger);
            ledger.live("[access_log]", "sample", sample, &new.sample);
        }
        (now, new) => ledger.fixed("[access_log]", "", &now.is_some(), &new.is_some()),
    }
    match (slow, new_slow) {
        (Some(SlowLog { file, over }), Some(new)) => {
            file.compare(&new.file, "[slow_log]", ledger);
            ledger.live("[slow_log]", "over_ms", over, &new.over);
        }
        (now, new) => ledger.fixed("[slow_log]", "", &now.is_some(), &new.is_some()),
    }
}

pub(super) fn read_access(mut section: Section<'_, '_>) -> Option<AccessLog> {
    let file = read_file(&mut section);
    let sample = section.value("sample", "a number above 0 up to 1").unwrap_or(0.01);
    if !(sample > 0.0 && sample <= 1.0) {
        let what = format!("{sample} is out of range: write a number above 0 up to 1, 1 for all requests");
        section.report("sample", what);
    }
    section.finish();
    Some(AccessLog { file: file?, sample })
}

pub(super) fn read_slow(mut section: Section<'_, '_>) -> Option<SlowLog> {
    let file = read_file(&mut section);
    let over = section.millis("over_ms", 1000, 1..=3_600_000);
    section.finish();
    Some(SlowLog { file: file?, over })
}

fn read_file(section: &mut Section<'_, '_>) -> Option<LogFile> {
    let file = section.file("file");
    let path = if section.is_there() {
        section.required("file", file, "the path of the file its lines go to")
    } else {
        file
    };
    let bytes_max = section.number("bytes_max", 256 << 20, 64 << 10..=1 << 40);
    let kept = section.number("files_kept", 8, 0..=KEPT_MAX.into());
    Some(LogFile { path: path?, bytes_max, kept })
}

/// Lines of one log in the midst of another's would be read as its own.
pub(super) fn check(context: &Context<'_>, access: Option<&AccessLog>, slow: Option<&SlowLog>) {
    if let (Some(access), Some(slow)) = (access, slow)
        && access.file.path == slow.file.path
    {
        context.report("slow_log.file", "this is also the file of [access_log]: give each its own");
    }
    for (path, file) in
        [("access_log.file", access.map(|log| &log.file)), ("slow_log.file", slow.map(|log| &log.file))]
    {
        if let Some(file) = file.filter(|file| file.path.is_dir()) {
            context.report(path, format!("{} is a folder: name a file in it", file.path.display()));
        }
    }
}
