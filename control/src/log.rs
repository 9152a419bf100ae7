//! What happens off the packet path is told on standard error, a line each. In: how much of it, which may change, and how it is
//! written. Any thread but workers.
//!
//! Each place in the code that tells something has a budget of lines, so that what goes wrong a thousand times a second fills
//! no disk. What is left out is counted, and the next line of that place says how much it was.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt as lines, reload};

use crate::config::{Admin, LogFormat, LogLevel};
use crate::counters::{Block, Registry as Counters};

/// Lines of one place in the code within [`WINDOW`]; more are left out.
const LINES_MAX: u32 = 50;
/// How long a budget is for.
const WINDOW: Duration = Duration::from_secs(10);

/// What is counted.
const NAMES: &[&str] = &["log_left_out"];

/// The counters, each with what it counts.
pub(crate) fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    let help = "Lines of this process's log that were left out: the same was told too often.";
    NAMES.iter().copied().zip([help])
}

/// The level of this process, once it logs.
static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();
/// And what it leaves out.
static BUDGETS: OnceLock<Arc<Budgets>> = OnceLock::new();

/// Begins to log.
pub(crate) fn start(admin: &Admin) {
    let (filter, handle) = reload::Layer::new(of(admin.log));
    let budgets = Arc::new(Budgets::default());
    let lines = layer(admin.log_format, &budgets, std::io::stderr);
    let limited = tracing_subscriber::registry().with(filter).with(Limit(Arc::clone(&budgets))).with(lines);
    // Refused only if an embedder has set up its own.
    if limited.try_init().is_ok() {
        let _ = LEVEL.set(handle);
        let _ = BUDGETS.set(budgets);
    }
}

/// Logs so much from here on.
pub(crate) fn set(level: LogLevel) {
    if let Some(handle) = LEVEL.get() {
        // It fails only when the subscriber is gone, and then nothing is logged.
        let _ = handle.reload(of(level));
    }
}

/// Counts among these from here on.
pub(crate) fn count(counters: &Counters) {
    if let Some(budgets) = BUDGETS.get() {
        budgets.lock().block = Some(counters.block(NAMES, "log".to_owned()));
    }
}

fn of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    }
}

/// Lines as they are wanted, into `writer`.
fn layer<S, W>(format: LogFormat, budgets: &Arc<Budgets>, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let budgets = Arc::clone(budgets);
    let layer = lines::layer().with_writer(writer).with_ansi(false);
    let plain = Format::default().with_target(false);
    match format {
        LogFormat::Text => layer.event_format(Told { budgets, format, plain }).boxed(),
        LogFormat::Json => {
            let plain = plain.json().flatten_event(true);
            layer.fmt_fields(JsonFields::new()).event_format(Told { budgets, format, plain }).boxed()
        }
    }
}

/// What each place in the code may still tell.
#[derive(Default)]
struct Budgets(Mutex<Places>);

#[derive(Default)]
struct Places {
    places: HashMap<Identifier, Place>,
    left_out: u64,
    block: Option<Arc<Block>>,
}

struct Place {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl Budgets {
    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this place may tell one more line at `now`.
    fn spend(&self, place: Identifier, now: Instant) -> bool {
        let mut all = self.lock();
        let may = match all.places.entry(place) {
            Entry::Vacant(vacant) => {
                vacant.insert(Place { since: now, lines: 1, left_out: 0 });
                true
            }
            Entry::Occupied(occupied) => {
                let place = occupied.into_mut();
                if now.duration_since(place.since) >= WINDOW {
                    (place.since, place.lines) = (now, 0);
                }
                let may = place.lines < LINES_MAX;
                place.lines += u32::from(may);
                place.left_out += u64::from(!may);
                may
            }
        };
        if !may {
            all.left_out += 1;
            if let Some(block) = &all.block {
                block.publish(&[all.left_out]);
            }
        }
        may
    }

    /// Lines of this place that were left out since this was last asked.
    fn take_left_out(&self, place: &Identifier) -> u64 {
        self.lock().places.get_mut(place).map_or(0, |place| std::mem::take(&mut place.left_out))
    }
}

/// Leaves out what is beyond the budget.
struct Limit(Arc<Budgets>);

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.spend(event.metadata().callsite(), Instant::now())
    }
}

/// Lines of which one says what was left out before it.
struct Told<F> {
    budgets: Arc<Budgets>,
    format: LogFormat,
    plain: F,
}

impl<S, N, F> FormatEvent<S, N> for Told<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let left_out = self.budgets.take_left_out(&event.metadata().callsite());
        if left_out == 0 {
            return self.plain.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.plain.format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end_matches('\n');
        match (self.format, line.strip_suffix('}')) {
            (LogFormat::Json, Some(fields)) => writeln!(writer, "{fields},\"left_out\":{left_out}}}"),
            _ => writeln!(writer, "{line} left_out={left_out}"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;

    use serde_json::Value;

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines of `tell`, called with what empties every budget's window.
    pub(crate) fn told(format: LogFormat, tell: impl FnOnce(&dyn Fn())) -> Vec<String> {
        let (kept, budgets) = (Kept::default(), Arc::new(Budgets::default()));
        let writer = kept.clone();
        let lines = layer(format, &budgets, move || writer.clone());
        let limited = tracing_subscriber::registry().with(Limit(Arc::clone(&budgets))).with(lines);
        let pass = || {
            for place in budgets.lock().places.values_mut() {
                place.since = Instant::now().checked_sub(WINDOW).unwrap();
            }
        };
        tracing::subscriber::with_default(limited, || tell(&pass));
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn complain(number: u64) {
        tracing::warn!(number, "a disk is full");
    }

    #[test]
    fn a_place_that_tells_too_much_is_cut_short_and_says_so_later() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = told(format, |pass| {
                (0..u64::from(LINES_MAX) + 17).for_each(complain);
                tracing::warn!("something else");
                pass();
                complain(1000);
                complain(1001);
            });
            assert_eq!(lines.len(), LINES_MAX as usize + 3, "{lines:?}");
            let with: Vec<_> = lines.iter().filter(|line| line.contains("left_out")).collect();
            assert_eq!(with, [&lines[LINES_MAX as usize + 1]]);
            let count = if format == LogFormat::Text { "left_out=17" } else { "\"left_out\":17" };
            assert!(with[0].contains(count) && with[0].contains("1000"), "{with:?}");
        }
    }

    #[test]
    fn json_lines_are_objects_whatever_they_tell() {
        let lines = told(LogFormat::Json, |_| {
            tracing::info!(node = "a\"b", "two\nlines");
        });
        let [line] = &lines[..] else { panic!("{lines:?}") };
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&value["level"], &value["message"], &value["node"]),
            (&"INFO".into(), &"two\nlines".into(), &"a\"b".into())
        );
        assert!(value["timestamp"].is_string(), "{value}");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let (budgets, counters) = (Budgets::default(), Counters::new());
        budgets.lock().block = Some(counters.block(NAMES, "log".to_owned()));
        let (now, lines) = (Instant::now(), told(LogFormat::Text, |_| complain(1)));
        assert_eq!(lines.len(), 1);
        let place = Identifier(&PLACE);
        let may = (0..LINES_MAX + 3).filter(|_| budgets.spend(place.clone(), now)).count();
        assert_eq!((may, counters.total("log_left_out")), (LINES_MAX as usize, 3));
        assert!(budgets.spend(place.clone(), now + WINDOW));
        assert_eq!([budgets.take_left_out(&place), budgets.take_left_out(&place)], [3, 0]);
    }

    /// A place in the code.
    struct Nowhere;
    static PLACE: Nowhere = Nowhere;

    impl tracing::callsite::Callsite for Nowhere {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &tracing::Metadata<'_> {
            unreachable!("nobody asks")
        }
    }
}
