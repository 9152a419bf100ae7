//! `keyferry top`: what a running process does, looked at once a second, on a terminal or once as text.
//!
//! In: the process's configuration, which names its admin socket, and keys. Out: screens; the process is asked and never
//! told. A thread of its own asks, so that keys are heard while the process is slow; when it goes away its end is said
//! and it is looked for again. [`sample`] is what is asked for, [`rates`] what two of them say, [`tables`] and [`view`] how
//! it looks.

pub mod rates;
pub mod sample;
mod tables;
mod view;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::terminal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::admin::Line;
use crate::ctl;
use sample::Sample;
use view::{Then, View};

/// Between looks.
const EVERY: Duration = Duration::from_secs(1);
/// Between looks at keys and signals.
const HEARD: Duration = Duration::from_millis(50);
/// Columns of a text that goes to no terminal.
const COLUMNS: u16 = 120;
/// Columns of any text, at least.
const COLUMNS_MIN: u16 = 80;

/// A look at the process, or why there is none.
type News = Result<Sample, String>;

/// Shows what the process of a configuration file does until a key or a signal ends it; `once`: one frame as text.
///
/// # Errors
/// Nobody answers at first, or there is no terminal; the sentence says what to do.
pub fn run(file: &Path, once: bool) -> anyhow::Result<()> {
    let mut line = ctl::connect(file)?;
    if once {
        print(&frame(&mut line)?);
        return Ok(());
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("this is no terminal: run it in one, or with --once for one frame as text");
    }
    let told = told()?;
    // One look waits at most: a screen that is not read, as of a stopped terminal, takes no memory.
    let (news, looks) = sync_channel(1);
    let file = file.to_owned();
    let asking = thread::Builder::new().name("looks".to_owned()).spawn(move || watch(&file, line, &news));
    asking.context("cannot start the thread that asks")?;
    Screen::open()?.show(&looks, &told)
}

/// One frame: two looks, a second apart.
fn frame(line: &mut Line) -> anyhow::Result<String> {
    let mut view = View::default();
    view.take(look(line)?);
    thread::sleep(EVERY);
    view.take(look(line)?);
    let columns = terminal::size().map_or(COLUMNS, |(columns, _)| columns);
    let columns = if io::stdout().is_terminal() { columns.max(COLUMNS_MIN) } else { COLUMNS };
    Ok(view.text(columns))
}

/// Standard output may be a pipe whose reader has seen enough.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn look(line: &mut Line) -> anyhow::Result<Sample> {
    const OTHER: &str = "use the release of keyferry that runs there";
    let answer = ctl::ask(line, "sample")?;
    ctl::refused(&answer).context(OTHER)?;
    serde_json::from_value(answer).context(OTHER)
}

/// Looks once a second, for as long as somebody wants to know.
fn watch(file: &Path, line: Line, news: &SyncSender<News>) {
    let mut line = Some(line);
    loop {
        let begun = Instant::now();
        let looked = look_again(file, &mut line).map_err(|error| format!("{error:#}"));
        if news.send(looked).is_err() {
            return;
        }
        thread::sleep(EVERY.saturating_sub(begun.elapsed()));
    }
}

/// A look, over a new connection if the old one is over: what ended it may be back already.
fn look_again(file: &Path, line: &mut Option<Line>) -> anyhow::Result<Sample> {
    if let Some(sample) = line.as_mut().and_then(|line| look(line).ok()) {
        return Ok(sample);
    }
    *line = None;
    look(line.insert(ctl::connect(file)?))
}

/// Whether a signal has asked for the end, from now on.
fn told() -> anyhow::Result<Arc<AtomicBool>> {
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&told)).context("signals cannot be caught")?;
    }
    Ok(told)
}

/// A terminal that is put back when this is dropped; after a panic before its message is written.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Screen> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Screen(terminal)),
            Err(error) => {
                ratatui::restore();
                Err(error).context("the terminal cannot be used: run it in another one, or with --once")
            }
        }
    }

    fn show(mut self, looks: &Receiver<News>, told: &AtomicBool) -> anyhow::Result<()> {
        let mut view = View::default();
        while !told.load(Ordering::Relaxed) {
            self.0.draw(|frame| frame.render_widget(&view, frame.area()))?;
            loop {
                match looks.try_recv() {
                    Ok(Ok(sample)) => view.take(sample),
                    Ok(Err(sentence)) => view.miss(sentence),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => bail!("the thread that asks has ended: run it again"),
                }
            }
            if event::poll(HEARD)?
                && let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && view.press(key) == Then::Quit
            {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
