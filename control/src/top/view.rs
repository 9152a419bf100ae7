//! The screen of `keyferry top`: what is shown, and what keys do to it. In: samples, sentences about what keeps them from
//! coming, keys. Out: cells of a terminal, or the same as text. No clock, no terminal and no socket in it.

use std::collections::VecDeque;

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Sparkline, Widget};

use super::rates::Rates;
use super::sample::{Role, Sample};
use super::tables::{self, Cell, TABLES, Table, Tone, percent, short, span, time};

/// Looks that the curve remembers: more than columns of any screen.
const HISTORY_MAX: usize = 512;
/// Lines of the curve.
const CURVE: u16 = 3;
/// Screens this wide have drops and certificates side by side.
const WIDE: u16 = 110;
/// Between columns.
const GAP: u16 = 2;
/// Lines of a table's title and of its heads.
const TITLE_AND_HEADS: u16 = 2;
/// Of a table at least, so that each is seen to be there.
const TABLE_MIN: u16 = TITLE_AND_HEADS + 1;

const KEYS: &str = " q quit   space hold   tab next table   ← → sort by   r reverse   ↑ ↓ rows";

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// To go on.
    Go,
    /// The end.
    Quit,
}

/// What is on the screen.
#[derive(Default)]
pub struct View {
    shown: Option<(Sample, Option<Rates>)>,
    /// The last sample, shown or not.
    last: Option<Sample>,
    /// Requests a second, or packets of a distributor, by look.
    curve: VecDeque<u64>,
    /// Why there is no news.
    trouble: Option<String>,
    held: bool,
    focus: usize,
    sorts: [Option<(usize, bool)>; TABLES],
    scrolled: [usize; TABLES],
}

impl View {
    /// There is news.
    pub fn take(&mut self, sample: Sample) {
        let rates = self.last.as_ref().and_then(|last| Rates::between(last, &sample));
        self.trouble = None;
        self.last = Some(sample.clone());
        if self.held && self.shown.is_some() {
            return;
        }
        if let Some(rates) = &rates {
            let of = match sample.about.role {
                Role::Node => rates.total.requests,
                Role::Distributor => rates.total.packets_in,
            };
            self.curve.push_front(of as u64);
            self.curve.truncate(HISTORY_MAX);
        }
        self.shown = Some((sample, rates));
    }

    /// There is no news, and why.
    pub fn miss(&mut self, sentence: String) {
        self.trouble = Some(sentence);
    }

    /// A key was pressed.
    pub fn press(&mut self, key: KeyEvent) -> Then {
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Then::Quit,
            KeyCode::Char(' ') => self.hold(),
            KeyCode::Tab => self.focus = (self.focus + 1) % TABLES,
            KeyCode::BackTab => self.focus = (self.focus + TABLES - 1) % TABLES,
            KeyCode::Left => self.sort(-1),
            KeyCode::Right => self.sort(1),
            KeyCode::Char('r') => self.reverse(),
            KeyCode::Up => self.scroll(-1),
            KeyCode::Down => self.scroll(1),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::PageDown => self.scroll(10),
            _ => {}
        }
        Then::Go
    }

    fn hold(&mut self) {
        self.held = !self.held;
    }

    fn tables(&self) -> Option<[Table; TABLES]> {
        let (sample, rates) = self.shown.as_ref()?;
        let mut tables = tables::tables(sample, rates.as_ref());
        for (table, sort) in tables.iter_mut().zip(self.sorts) {
            if let Some((column, descending)) = sort {
                table.sort(column, descending);
            }
        }
        Some(tables)
    }

    /// The next column of the chosen table, numbers from the largest on.
    fn sort(&mut self, step: isize) {
        let Some(tables) = self.tables() else { return };
        let heads = &tables[self.focus].heads;
        let column = match self.sorts[self.focus] {
            Some((column, _)) => (column as isize + step).rem_euclid(heads.len() as isize) as usize,
            None => 0,
        };
        self.sorts[self.focus] = Some((column, heads[column].1));
    }

    fn reverse(&mut self) {
        if let Some((_, descending)) = &mut self.sorts[self.focus] {
            *descending = !*descending;
        }
    }

    fn scroll(&mut self, step: isize) {
        let Some(tables) = self.tables() else { return };
        let last = tables[self.focus].rows.len().saturating_sub(1);
        let scrolled = &mut self.scrolled[self.focus];
        *scrolled = scrolled.saturating_add_signed(step).min(last);
    }

    /// All of it as text, however many lines it takes.
    pub fn text(&self, width: u16) -> String {
        let tables = self.tables();
        let lines = tables
            .iter()
            .flatten()
            .map(|table| table.rows.len().max(1) as u16 + TITLE_AND_HEADS)
            .sum::<u16>();
        let area = Rect::new(0, 0, width, HEADING + lines + 1);
        let mut buffer = Buffer::empty(area);
        self.draw(area, &mut buffer, false);
        let line =
            |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..area.height).map(line).collect::<Vec<_>>().join("\n").trim_end().to_owned() + "\n"
    }

    fn draw(&self, area: Rect, buffer: &mut Buffer, is_screen: bool) {
        let (curve, keys) = if is_screen { (CURVE, 1) } else { (0, 0) };
        let rows = [
            Constraint::Length(HEADING),
            Constraint::Length(curve),
            Constraint::Min(0),
            Constraint::Length(keys),
        ];
        let [heading, curve, rest, keys] = Layout::vertical(rows).areas(area);
        self.heading(heading, buffer);
        if is_screen {
            self.curve(curve, buffer);
            Paragraph::new(KEYS).style(dim()).render(keys, buffer);
        }
        if let Some(tables) = &self.tables() {
            self.all(tables, rest, buffer, is_screen && rest.width >= WIDE);
        }
    }

    fn heading(&self, area: Rect, buffer: &mut Buffer) {
        let [first, second, third] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
        let (word, tone) = match (&self.trouble, &self.shown) {
            (Some(_), _) => ("no answer", Tone::Alarm),
            (None, None) => ("asking", Tone::Plain),
            (None, Some(_)) if self.held => ("held", Tone::Warning),
            (None, Some(_)) => ("live", Tone::Well),
        };
        let word = Line::from(Span::styled(format!("{word} "), style(tone))).alignment(Alignment::Right);
        let Some((sample, rates)) = &self.shown else {
            word.render(first, buffer);
            let sentence = self.trouble.as_deref().unwrap_or("waiting for the first answer");
            return Paragraph::new(format!(" {sentence}")).render(second, buffer);
        };
        about(sample).render(first, buffer);
        word.render(first, buffer);
        match &self.trouble {
            Some(sentence) => {
                let text = Span::styled(format!(" {sentence}; trying again"), style(Tone::Alarm));
                let area = Rect { height: second.height + third.height, ..second };
                Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: false }).render(area, buffer);
            }
            None => {
                figures(&work(sample, rates.as_ref())).render(second, buffer);
                figures(&moved(sample, rates.as_ref())).render(third, buffer);
            }
        }
    }

    fn curve(&self, area: Rect, buffer: &mut Buffer) {
        let [label, curve] = Layout::horizontal([Constraint::Length(15), Constraint::Min(0)]).areas(area);
        let what = match self.shown.as_ref().map(|(sample, _)| sample.about.role) {
            Some(Role::Distributor) => " packets in/s",
            _ => " requests/s",
        };
        let most = self.curve.iter().take(usize::from(curve.width)).max().copied().unwrap_or(0);
        let text = vec![Line::from(what), Line::from(format!(" most {}", short(most as f64)))];
        Paragraph::new(text).style(dim()).render(label, buffer);
        // The newest is at the right.
        let points: Vec<u64> = self.curve.iter().take(usize::from(curve.width)).copied().collect();
        Sparkline::default()
            .data(&points)
            .direction(ratatui::widgets::RenderDirection::RightToLeft)
            .style(Style::new().fg(Color::Cyan))
            .render(curve, buffer);
    }

    fn all(&self, tables: &[Table; TABLES], area: Rect, buffer: &mut Buffer, is_wide: bool) {
        let wants = |table: &Table| table.rows.len().max(1) as u16 + TITLE_AND_HEADS;
        let mut heights: Vec<u16> = tables.iter().map(wants).collect();
        if is_wide {
            let last = heights.pop().unwrap_or(0);
            heights[2] = heights[2].max(last);
        }
        fit(&mut heights, area.height);
        let areas = Layout::vertical(heights.iter().map(|height| Constraint::Length(*height))).split(area);
        let mut areas = areas.to_vec();
        if is_wide {
            let halves =
                Layout::horizontal([Constraint::Percentage(40), Constraint::Percentage(60)]).spacing(GAP);
            let [left, right] = halves.areas(areas[2]);
            areas.truncate(2);
            areas.extend([left, right]);
        }
        for (place, (table, area)) in tables.iter().zip(areas).enumerate() {
            self.table(place, table, area, buffer);
        }
    }

    fn table(&self, place: usize, table: &Table, area: Rect, buffer: &mut Buffer) {
        let is_chosen = place == self.focus;
        let lines = usize::from(area.height.saturating_sub(TITLE_AND_HEADS));
        let from = self.scrolled[place].min(table.rows.len().saturating_sub(lines));
        let below = table.rows.len().saturating_sub(from + lines);
        let title = match (from, below) {
            (0, 0) => format!(" {} ", table.title),
            _ => format!(" {} ({from} above, {below} below) ", table.title),
        };
        let title = Span::styled(title, if is_chosen { bold().fg(Color::Cyan) } else { bold() });
        let block = Block::new().borders(Borders::TOP).border_style(dim()).title(title);
        let inner = block.inner(area);
        block.render(area, buffer);
        if inner.height == 0 {
            return;
        }
        if table.rows.is_empty() {
            buffer.set_stringn(inner.x + 1, inner.y, table.none, usize::from(inner.width), dim());
            return;
        }
        let sorted = self.sorts[place];
        let head = |column: usize| match sorted {
            Some((by, true)) if by == column => format!("{}▼", table.heads[column].0),
            Some((by, false)) if by == column => format!("{}▲", table.heads[column].0),
            _ => table.heads[column].0.to_owned(),
        };
        let heads: Vec<Cell> = (0..table.heads.len())
            .map(|column| Cell { text: head(column), number: None, tone: Tone::Plain })
            .collect();
        let shown = &table.rows[from..table.rows.len().min(from + lines)];
        // Of all rows, so that columns do not jump while they are scrolled.
        let width = |column: usize| {
            let cells = table.rows.iter().map(|row| &row[column]).chain([&heads[column]]);
            cells.map(|cell| cell.text.chars().count() as u16).max().unwrap_or(0)
        };
        let widths: Vec<u16> = (0..heads.len()).map(width).collect();
        line(&heads, table, &widths, Rect { height: 1, ..inner }, buffer, Some(dim()));
        for (y, row) in (inner.y + 1..).zip(shown) {
            line(row, table, &widths, Rect { y, height: 1, ..inner }, buffer, None);
        }
    }
}

impl Widget for &View {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        self.draw(area, buffer, true);
    }
}

/// Lines above the curve.
const HEADING: u16 = 3;

/// Who it is.
fn about(sample: &Sample) -> Line<'static> {
    let about = &sample.about;
    let role = match about.role {
        Role::Node => "node",
        Role::Distributor => "distributor",
    };
    let model = about.model.iter().map(|model| format!("model {model}"));
    let up = format!("up {}", span(about.at_us as f64 / 1e6));
    let rest: Vec<_> = [role.to_owned()]
        .into_iter()
        .chain(model)
        .chain([about.phase.clone(), up, about.version.clone()])
        .collect();
    let name = Span::styled(format!(" {}", about.name), bold().fg(Color::Cyan));
    Line::from(vec![name, Span::raw(format!("  {}", rest.join(" · ")))])
}

/// A name and a value.
type Figure = (&'static str, String);

/// What it does.
fn work(sample: &Sample, rates: Option<&Rates>) -> Vec<Figure> {
    let rate = |what: fn(&Rates) -> f64| rates.map_or("-".to_owned(), |rates| short(what(rates)) + "/s");
    let connections: u64 = sample.cores.iter().map(|core| core.connections).sum();
    let mut all = Vec::new();
    if sample.about.role == Role::Node {
        all.push(("requests", rate(|rates| rates.total.requests)));
    }
    all.push(("connections", short(connections as f64)));
    all.push(("new", rate(|rates| rates.total.begun)));
    if sample.about.role == Role::Node {
        all.push(("handshakes", handshakes(rates)));
    }
    all.push(("packets in", rate(|rates| rates.total.packets_in)));
    all.push(("out", rate(|rates| rates.total.packets_out)));
    all.push(("busiest", rates.map_or("-".to_owned(), |rates| percent(rates.total.busy))));
    all
}

fn handshakes(rates: Option<&Rates>) -> String {
    let Some(total) = rates.map(|rates| &rates.total) else { return "-".to_owned() };
    let all = total.handshakes_full + total.handshakes_resumed;
    let resumed = if all > 0.0 {
        format!(" ({} resumed)", percent(total.handshakes_resumed / all))
    } else {
        String::new()
    };
    short(all) + "/s" + &resumed
}

/// How long it takes, and what moves.
fn moved(sample: &Sample, rates: Option<&Rates>) -> Vec<Figure> {
    let mut all = Vec::new();
    if sample.latency.is_some() {
        let times = rates.and_then(|rates| rates.latency);
        let of = |us: Option<f64>| us.map_or("-".to_owned(), time);
        all.push(("latency mean", of(times.map(|it| it.mean))));
        all.push(("p50", of(times.map(|it| it.p50))));
        all.push(("p99", of(times.map(|it| it.p99))));
    }
    if let Some(moves) = &sample.moves {
        let rates = rates.and_then(|rates| rates.moves);
        let of = |rate: Option<f64>, now: u64| match rate {
            Some(rate) => format!("{}/s ({now} now)", short(rate)),
            None => format!("- ({now} now)"),
        };
        all.push(("lent", of(rates.map(|it| it.lent), moves.lending)));
        all.push(("borrowed", of(rates.map(|it| it.borrowed), moves.helping)));
    }
    all
}

fn figures(all: &[Figure]) -> Line<'static> {
    let spans = all.iter().flat_map(|(name, value)| {
        [Span::styled(format!(" {name} "), dim()), Span::styled(value.clone(), bold()), Span::raw(" ")]
    });
    Line::from(spans.collect::<Vec<_>>())
}

/// Makes tables lower until all fit, the highest first.
fn fit(heights: &mut [u16], available: u16) {
    while heights.iter().sum::<u16>() > available {
        match heights.iter_mut().max() {
            Some(highest) if *highest > TABLE_MIN => *highest -= 1,
            _ => break,
        }
    }
}

/// One row: numbers at the right of their columns, all else at the left.
fn line(cells: &[Cell], table: &Table, widths: &[u16], area: Rect, buffer: &mut Buffer, all: Option<Style>) {
    let mut x = area.x + 1;
    for ((cell, width), (_, is_number)) in cells.iter().zip(widths).zip(&table.heads) {
        let left = area.right().saturating_sub(x);
        if left == 0 {
            return;
        }
        let pad = width.saturating_sub(cell.text.chars().count() as u16);
        let at = if *is_number { x.saturating_add(pad) } else { x };
        let room = usize::from(area.right().saturating_sub(at));
        buffer.set_stringn(at.min(area.right()), area.y, &cell.text, room, all.unwrap_or(style(cell.tone)));
        x = x.saturating_add(width.saturating_add(GAP));
    }
}

/// Colours of the terminal's own, so that they fit its ground.
fn style(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Well => Style::new().fg(Color::Green),
        Tone::Warning => Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD),
        Tone::Alarm => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

#[cfg(test)]
mod tests;
