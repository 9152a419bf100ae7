//! Reads one TOML table key by key and remembers what it was asked for.
//!
//! The keys a section is asked for are its schema: what is left when it is finished is unknown, and is reported with
//! the nearest key there is. A value that does not fit is reported and its default goes on, so that one run
//! reports everything. serde turns each value into its type.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use super::later;
use super::problem::Problem;

/// Tables of one kind, `[[peer]]` and the like, at most; sections with a smaller bound say so themselves.
const TABLES_MAX: usize = 1024;

/// What every section of one file shares: the text, and what was found so far.
pub(super) struct Context<'t> {
    text: &'t str,
    /// Where each line ends, in bytes: a file of errors asks for many lines.
    line_ends: Vec<usize>,
    folder: PathBuf,
    problems: RefCell<Vec<Problem>>,
    /// Every key that was asked for, `nic.mtu`; tables of one kind count as one.
    schema: RefCell<BTreeSet<String>>,
    /// The line of every key that is in the file, `listener[1].port`.
    lines: RefCell<BTreeMap<String, usize>>,
}

impl<'t> Context<'t> {
    pub(super) fn new(text: &'t str, file: &Path) -> Context<'t> {
        Context {
            text,
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            problems: RefCell::default(),
            schema: RefCell::default(),
            lines: RefCell::default(),
        }
    }

    /// The whole file as a section; `None` after syntax errors.
    pub(super) fn root(&self) -> Option<Section<'_, 't>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return Some(Section::new(self, String::new(), String::new(), table.into_inner()));
        }
        for error in errors {
            let line = error.span().map(|span| self.line_of(&span));
            self.add(
                line,
                String::new(),
                format!("this is not TOML: {}", error.message().replace('\n', ", ")),
            );
        }
        None
    }

    /// Reports a problem with the key at `path`, such as `listener[1].port`.
    pub(super) fn report(&self, path: &str, what: impl Into<String>) {
        let mut line = self.lines.borrow().get(path).copied();
        let (table, key) = path.rsplit_once('.').unwrap_or((path, ""));
        if line.is_none() {
            line = self.lines.borrow().get(table).copied();
        }
        let table = heading(table);
        let place = if key.is_empty() { table } else { format!("{table} {key}") };
        self.add(line, place, what.into());
    }

    /// Whether the file sets the key at `path`.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.lines.borrow().contains_key(path)
    }

    pub(super) fn into_parts(self) -> (Vec<Problem>, BTreeSet<String>) {
        (self.problems.into_inner(), self.schema.into_inner())
    }

    fn add(&self, line: Option<usize>, place: String, what: String) {
        self.problems.borrow_mut().push(Problem { line, place, what });
    }

    fn line_of(&self, span: &Range<usize>) -> usize {
        1 + self.line_ends.partition_point(|end| *end < span.start)
    }
}

/// `listener[1]` as the file writes it: `[[listener]]`.
fn heading(table: &str) -> String {
    match table.split_once('[') {
        Some((name, _)) => format!("[[{name}]]"),
        None => format!("[{table}]"),
    }
}

/// One table of the file; an absent one is empty.
pub(super) struct Section<'c, 't> {
    pub(super) context: &'c Context<'t>,
    path: String,
    schema: String,
    entries: Vec<Entry<'t>>,
    known: Vec<&'static str>,
}

struct Entry<'t> {
    key: String,
    line: usize,
    value: Spanned<DeValue<'t>>,
}

impl<'c, 't> Section<'c, 't> {
    fn new(context: &'c Context<'t>, path: String, schema: String, table: DeTable<'t>) -> Section<'c, 't> {
        let entry = |(key, value): (Spanned<DeString<'t>>, Spanned<DeValue<'t>>)| {
            let line = context.line_of(&key.span());
            Entry { key: key.into_inner().into_owned(), line, value }
        };
        Section { context, path, schema, entries: table.into_iter().map(entry).collect(), known: Vec::new() }
    }

    /// The path of a key in this section, as [`Context::report`] wants it.
    pub(super) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Reports a problem with a key of this section.
    pub(super) fn report(&self, key: &str, what: impl Into<String>) {
        self.context.report(&self.path(key), what);
    }

    fn entry(&mut self, key: &'static str) -> Option<Entry<'t>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.context.schema.borrow_mut().insert(join(&self.schema, key));
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        let entry = self.entries.swap_remove(index);
        self.context.lines.borrow_mut().insert(self.path(key), entry.line);
        Some(entry)
    }

    /// The value of a key, if it is there and fits; `wants` says what fits.
    pub(super) fn value<T: DeserializeOwned>(&mut self, key: &'static str, wants: &str) -> Option<T> {
        let entry = self.entry(key)?;
        let kind = kind_of(entry.value.get_ref());
        let value = T::deserialize(ValueDeserializer::from(entry.value));
        value.inspect_err(|_| self.report(key, format!("write {wants} instead of this {kind}"))).ok()
    }

    /// A value through a parser of its text.
    pub(super) fn parsed<T, E: ToString>(
        &mut self,
        key: &'static str,
        wants: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text: String = self.value(key, wants)?;
        parse(&text).inspect_err(|error| self.report(key, error.to_string())).ok()
    }

    /// A list of values, each through a parser of its text; `bounds` is how many there may be. `None` if the key is
    /// absent.
    pub(super) fn parsed_list<T, E: ToString>(
        &mut self,
        key: &'static str,
        wants: &str,
        bounds: RangeInclusive<usize>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let texts: Vec<String> = self.value(key, wants)?;
        if texts.len() < *bounds.start() {
            self.report(key, format!("this list is empty: write {wants}"));
        }
        if texts.len() > *bounds.end() {
            self.report(key, format!("{} entries are too many: write at most {}", texts.len(), bounds.end()));
        }
        let parsed =
            |text: &String| parse(text).inspect_err(|error| self.report(key, error.to_string())).ok();
        Some(texts.iter().filter_map(parsed).collect())
    }

    /// Whether this table is in the file.
    pub(super) fn is_there(&self) -> bool {
        self.context.is_set(&self.path)
    }

    /// Whether the key is written, be its value good or not.
    pub(super) fn is_set(&self, key: &'static str) -> bool {
        self.context.is_set(&self.path(key))
    }

    /// Says that a key without a default is missing, unless its value was there and refused.
    pub(super) fn required<T>(&self, key: &'static str, value: Option<T>, wants: &str) -> Option<T> {
        if value.is_none() && !self.is_set(key) {
            self.report(key, format!("this key is required: write {wants}"));
        }
        value
    }

    /// A whole number within bounds.
    pub(super) fn number<T>(&mut self, key: &'static str, default: T, bounds: RangeInclusive<u64>) -> T
    where
        T: TryFrom<u64> + Copy,
    {
        let wants = format!("a whole number from {} to {}", bounds.start(), bounds.end());
        let Some(number) = self.value::<i64>(key, &wants) else { return default };
        let fits = u64::try_from(number).ok().filter(|number| bounds.contains(number));
        match fits.and_then(|number| T::try_from(number).ok()) {
            Some(number) => number,
            None => {
                self.report(key, format!("{number} is out of range: write {wants}"));
                default
            }
        }
    }

    /// A duration in milliseconds.
    pub(super) fn millis(
        &mut self,
        key: &'static str,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.number(key, default, bounds))
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key, "true or false").unwrap_or(default)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)], default: T) -> T {
        let all = || words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let Some(text) = self.value::<String>(key, &format!("one of {}", all())) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let what = match (later::feature(&text), nearest(&text, words.iter().map(|(word, _)| *word))) {
            (Some(feature), _) => format!("{feature}: write one of {}", all()),
            (None, Some(word)) => {
                format!("there is no \"{text}\", did you mean \"{word}\"? Write one of {}", all())
            }
            (None, None) => format!("there is no \"{text}\": write one of {}", all()),
        };
        self.report(key, what);
        default
    }

    /// A path; a relative one is relative to the configuration file's folder.
    pub(super) fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let path: String = self.value(key, "a path in quotes")?;
        if path.is_empty() || path.contains('\0') {
            self.report(key, "this path is empty or holds a NUL: write where the file is");
            return None;
        }
        Some(self.context.folder.join(path))
    }

    /// What relative paths are relative to.
    pub(super) fn folder(&self) -> &'c Path {
        &self.context.folder
    }

    /// A table of this section.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'c, 't> {
        let (path, schema) = (self.path(key), join(&self.schema, key));
        let entry = self.entry(key);
        let table = match entry.map(|entry| entry.value.into_inner()) {
            Some(DeValue::Table(table)) => table,
            Some(other) => {
                self.report(key, format!("write a table, [{path}], instead of this {}", kind_of(&other)));
                DeTable::new()
            }
            None => DeTable::new(),
        };
        Section::new(self.context, path, schema, table)
    }

    /// The tables of one kind, `[[key]]`.
    pub(super) fn sections(&mut self, key: &'static str, max: usize) -> Vec<Section<'c, 't>> {
        let schema = join(&self.schema, key);
        let values = match self.entry(key).map(|entry| entry.value.into_inner()) {
            Some(DeValue::Array(values)) => values.into_iter().collect(),
            Some(_) => {
                self.report(key, format!("write a table for each, [[{key}]], in double brackets"));
                Vec::new()
            }
            None => Vec::new(),
        };
        if values.len() > max.min(TABLES_MAX) {
            self.report(key, format!("{} of them are too many: write at most {max}", values.len()));
        }
        let mut sections = Vec::new();
        for (index, value) in values.into_iter().take(max).enumerate() {
            let path = format!("{}[{index}]", self.path(key));
            let line = self.context.line_of(&value.span());
            self.context.lines.borrow_mut().insert(path.clone(), line);
            match value.into_inner() {
                DeValue::Table(table) => {
                    sections.push(Section::new(self.context, path, schema.clone(), table));
                }
                _ => self.report(key, format!("write a table for each, [[{key}]], in double brackets")),
            }
        }
        sections
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self) {
        for entry in &self.entries {
            let place = if self.path.is_empty() { String::new() } else { heading(&self.path) };
            let what = match (later::feature(&entry.key), nearest(&entry.key, self.known.iter().copied())) {
                (Some(feature), _) => format!("{feature}: remove {}", entry.key),
                (None, Some(key)) => format!("there is no key {}: did you mean {key}?", entry.key),
                (None, None) => {
                    format!("there is no key {}: the keys here are {}", entry.key, self.known.join(", "))
                }
            };
            self.context.add(Some(entry.line), place, what);
        }
    }
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// The word most like `text`, if one is much like it.
pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    words
        .map(|word| (strsim::jaro_winkler(&text.to_lowercase(), word), word))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, word)| word)
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "whole number",
        DeValue::Float(_) => "number",
        DeValue::Boolean(_) => "yes or no",
        DeValue::Datetime(_) => "date",
        DeValue::Array(_) => "list",
        DeValue::Table(_) => "table",
    }
}
