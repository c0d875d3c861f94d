//! Reading the log for people: a filter over all of it, its end, and what is added to it.
//!
//! Nothing here needs the key, and nothing here proves anything: that is what `verify` is for.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use memchr::memmem::Finder;
use serde_json::Value;

use super::AuditError;
use super::files::{self, Lines, Next};
use super::line::{self, Kind};
use super::writer::FileStart;
use crate::agent::DEFAULT_WORKSPACE;
use crate::record::Decision;

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    line: String,
    value: Value,
}

impl Entry {
    /// None when the line is no JSON object.
    fn parse(line: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(line).ok()?;
        let line = str::from_utf8(line).ok()?.to_owned();
        value.is_object().then_some(Self { line, value })
    }

    /// A line of a log that lies elsewhere; none when it is no JSON object.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        Self::parse(line.as_bytes())
    }

    /// The line as it stands in the log, without its newline.
    #[must_use]
    pub fn line(&self) -> &str {
        &self.line
    }

    /// The line's fields.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// A field that is a text.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.value.get(field)?.as_str()
    }

    /// A field that is a number.
    #[must_use]
    pub fn number(&self, field: &str) -> Option<u64> {
        self.value.get(field)?.as_u64()
    }

    /// The record's number.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.number("seq")
    }

    /// When it was written: RFC 3339, UTC, microseconds.
    #[must_use]
    pub fn time(&self) -> Option<&str> {
        self.text("time")
    }

    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        let word = self.text("kind")?;
        Kind::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Which request it is about.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.text("request_id")
    }

    /// The host of its destination.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        let (_, authority) = self.text("destination")?.split_once("://")?;
        if let Some((host, _)) = authority.strip_prefix('[').and_then(|a| a.split_once(']')) {
            return Some(host);
        }
        Some(authority.split_once(':').map_or(authority, |(host, _)| host))
    }

    /// The credentials of its request: nearly always none or one.
    pub fn credentials(&self) -> impl Iterator<Item = &str> {
        let more = self.value.get("more_credentials").and_then(Value::as_array);
        let more = more.into_iter().flatten().filter_map(|one| one.get("credential")?.as_str());
        self.text("credential").into_iter().chain(more)
    }
}

/// Which records to show. What is `None` does not matter. Outcomes name only their request, and are
/// shown when its access record was.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this workspace.
    pub workspace: Option<String>,
    /// Of this agent.
    pub agent: Option<String>,
    /// With this credential.
    pub credential: Option<String>,
    /// To this host, in its canonical form.
    pub host: Option<String>,
    /// Of this run.
    pub run: Option<String>,
    /// Decided so.
    pub decision: Option<Decision>,
    /// Only access records, outcomes, or events.
    pub kind: Option<Kind>,
    /// At this time or later.
    pub since: Option<SystemTime>,
    /// Before this time.
    pub until: Option<SystemTime>,
    /// Of this request: 32 hex digits.
    pub request_id: Option<String>,
    /// The newest so many.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether it asks for something that only access records say.
    fn is_about_access(&self) -> bool {
        let texts = [&self.agent, &self.credential, &self.host, &self.run];
        texts.iter().any(|text| text.is_some()) || self.decision.is_some()
    }

    /// Whether an outcome, which names its request alone, depends on what its access record says.
    fn narrows(&self) -> bool {
        self.is_about_access() || self.workspace.is_some()
    }
}

/// Decides line by line; remembers the requests whose outcome is still to come.
struct Matcher {
    filter: Filter,
    /// Texts that an access record must have in it: a quick look before it is parsed.
    needles: Vec<Finder<'static>>,
    since: Option<String>,
    until: Option<String>,
    open: HashSet<Box<str>>,
}

impl Matcher {
    fn new(filter: Filter) -> Self {
        // Calls of Locum's own did not always say their workspace, when there was one.
        let workspace = filter.workspace.clone().filter(|name| name != DEFAULT_WORKSPACE);
        let quoted = [&workspace, &filter.agent, &filter.credential, &filter.run];
        let quoted = quoted.into_iter().flatten().map(|text| format!("\"{text}\""));
        let needles = quoted.map(|text| Finder::new(&text).into_owned()).collect();
        let since = filter.since.map(line::time_text);
        let until = filter.until.map(line::time_text);
        Self { filter, needles, since, until, open: HashSet::new() }
    }

    fn check(&mut self, line: &[u8]) -> Option<Result<Entry, ()>> {
        if self.can_be_skipped(line) {
            return None;
        }
        let Some(entry) = Entry::parse(line) else { return Some(Err(())) };
        self.matches(&entry).then_some(Ok(entry))
    }

    /// Looks at the line's fixed beginning only, and for the texts it must have.
    fn can_be_skipped(&self, line: &[u8]) -> bool {
        let Some(kind) = line.get(KIND_AT..) else { return false };
        // Events are few, and stand for themselves: the lines between are not parsed.
        if self.filter.kind == Some(Kind::Event) && !kind.starts_with(b"event") {
            return true;
        }
        let access = kind.starts_with(b"access");
        access && self.needles.iter().any(|needle| needle.find(line).is_none())
    }

    fn matches(&mut self, entry: &Entry) -> bool {
        let filter = &self.filter;
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| Some(wanted) == found)
        };
        if !self.in_time(entry) || !is(&filter.request_id, entry.request_id()) {
            return false;
        }
        let about = match entry.kind() {
            Some(Kind::Access) => {
                let decision = filter.decision.map(|decision| match decision {
                    Decision::Permit => "permit".to_owned(),
                    Decision::Refuse => "refuse".to_owned(),
                });
                let credential = filter.credential.as_deref();
                let all = is(&filter.workspace, workspace_of(entry))
                    && is(&filter.agent, entry.text("agent"))
                    && is(&filter.run, entry.text("run"))
                    && is(&filter.host, entry.host())
                    && is(&decision, entry.text("decision"))
                    && credential.is_none_or(|wanted| entry.credentials().any(|c| c == wanted));
                all && self.remember(entry)
            }
            Some(Kind::Outcome) => {
                let shown = entry.request_id().is_some_and(|id| self.open.remove(id));
                shown || !self.filter.narrows()
            }
            Some(Kind::Event) | None => {
                !filter.is_about_access() && is(&filter.workspace, entry.text("workspace"))
            }
        };
        about && self.filter.kind.is_none_or(|kind| Some(kind) == entry.kind())
    }

    fn remember(&mut self, entry: &Entry) -> bool {
        let wanted = self.filter.narrows() && self.filter.kind != Some(Kind::Access);
        if let Some(id) = entry.request_id().filter(|_| wanted) {
            self.open.insert(id.into());
        }
        true
    }

    fn in_time(&self, entry: &Entry) -> bool {
        let time = entry.time().unwrap_or_default();
        let late_enough = self.since.as_deref().is_none_or(|since| time >= since);
        late_enough && self.until.as_deref().is_none_or(|until| time < until)
    }
}

/// The workspace of an access record. One that names a credential and no workspace was written when
/// there was only one.
fn workspace_of(entry: &Entry) -> Option<&str> {
    let only = entry.text("credential").map(|_| DEFAULT_WORKSPACE);
    entry.text("workspace").or(only)
}

/// Where the kind stands in every line: `{"time":"`, 27 characters, `","kind":"`.
const KIND_AT: usize = 9 + 27 + 10;

/// The records of the log in `dir` that match, oldest first. With a limit, the newest that match.
///
/// # Errors
/// When the directory cannot be listed. A line that cannot be read is an item of the iterator.
pub fn query(dir: &Path, filter: Filter) -> Result<Query, AuditError> {
    let firsts = files::list(dir).map_err(AuditError::io("list", dir))?;
    let files = in_time(dir, firsts, &filter);
    let limit = filter.limit;
    let matcher = Matcher::new(filter);
    let scan = Scan { dir: dir.to_owned(), files, lines: None, matcher, number: 0 };
    Ok(Query(match limit {
        None => Source::Scan(Box::new(scan)),
        Some(limit) => Source::Newest(newest(scan, limit).into_iter()),
    }))
}

fn newest(scan: Scan, limit: usize) -> VecDeque<Result<Entry, AuditError>> {
    let mut kept = VecDeque::new();
    for entry in scan {
        kept.push_back(entry);
        if kept.len() > limit {
            kept.pop_front();
        }
    }
    kept
}

/// Leaves out the files whose records are all too old or too new. Times are taken before a record's
/// place is, so that neighbours can be out of order by an instant.
pub(super) fn in_time(dir: &Path, firsts: Vec<u64>, filter: &Filter) -> VecDeque<u64> {
    const SLACK: Duration = Duration::from_mins(1);
    let since = filter.since.and_then(|since| since.checked_sub(SLACK)).map(line::time_text);
    let until = filter.until.and_then(|until| until.checked_add(SLACK)).map(line::time_text);
    if since.is_none() && until.is_none() {
        return firsts.into();
    }
    let start = |first: &u64| FileStart::read(&files::path_of(dir, *first)).ok().flatten();
    let starts: Vec<_> = firsts.iter().map(|first| start(first).map(|s| s.time)).collect();
    let next = starts.iter().skip(1).chain([&None]);
    let spans = firsts.iter().zip(starts.iter().zip(next));
    let wanted = spans.filter(|(_, (start, end))| {
        let too_old = since.as_ref().zip(end.as_ref()).is_some_and(|(since, end)| end < since);
        let too_new = until.as_ref().zip(start.as_ref()).is_some_and(|(until, s)| s > until);
        !too_old && !too_new
    });
    wanted.map(|(first, _)| *first).collect()
}

/// The records that [`query`] found.
pub struct Query(Source);

enum Source {
    Scan(Box<Scan>),
    Newest(std::collections::vec_deque::IntoIter<Result<Entry, AuditError>>),
}

impl Iterator for Query {
    type Item = Result<Entry, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Scan(scan) => scan.next(),
            Source::Newest(entries) => entries.next(),
        }
    }
}

struct Scan {
    dir: PathBuf,
    files: VecDeque<u64>,
    lines: Option<(PathBuf, Lines)>,
    matcher: Matcher,
    number: u64,
}

impl Iterator for Scan {
    type Item = Result<Entry, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        loop {
            let Some((path, lines)) = &mut self.lines else {
                match self.open_next()? {
                    Ok(()) => continue,
                    Err(error) => return Some(Err(error)),
                }
            };
            self.number += 1;
            let bad = AuditError::NotARecord { path: path.clone(), line: self.number };
            match lines.next(&mut line) {
                Ok(Next::Line) => {
                    if let Some(found) = self.matcher.check(&line) {
                        return Some(found.map_err(|()| bad));
                    }
                }
                Ok(Next::TooLong) => return Some(Err(bad)),
                // An unfinished line is being written, or was never acknowledged.
                Ok(Next::Torn | Next::End) => self.lines = None,
                Err(error) => {
                    let error = AuditError::io("read", path)(error);
                    self.lines = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Scan {
    fn open_next(&mut self) -> Option<Result<(), AuditError>> {
        let path = files::path_of(&self.dir, self.files.pop_front()?);
        self.number = 0;
        match Lines::open(&path) {
            Ok(lines) => self.lines = Some((path, lines)),
            // Retention was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Some(Err(AuditError::io("read", &path)(e))),
        }
        Some(Ok(()))
    }
}

/// The last `n` records of the log in `dir`, oldest first. Reads no more than it has to.
///
/// # Errors
/// When the log cannot be read. A line that is no record is left out.
pub fn tail(dir: &Path, n: usize) -> Result<Vec<Entry>, AuditError> {
    let firsts = files::list(dir).map_err(AuditError::io("list", dir))?;
    let mut entries = Vec::new();
    for first in firsts.iter().rev() {
        let missing = n - entries.len();
        if missing == 0 {
            break;
        }
        let path = files::path_of(dir, *first);
        let mut older = last_of(&path, missing).map_err(AuditError::io("read", &path))?;
        older.append(&mut entries);
        entries = older;
    }
    Ok(entries)
}

fn last_of(path: &Path, n: usize) -> io::Result<Vec<Entry>> {
    let file = files::open_plain(path)?;
    let start = start_of_last(&file, n)?;
    let mut lines = Lines::at(file, start)?;
    let (mut line, mut entries) = (Vec::new(), Vec::new());
    loop {
        match lines.next(&mut line)? {
            Next::Line => entries.extend(Entry::parse(&line)),
            Next::TooLong => {}
            Next::Torn | Next::End => break,
        }
    }
    let surplus = entries.len().saturating_sub(n);
    Ok(entries.split_off(surplus))
}

/// Where the last `n` whole lines of a file start, found from its end.
fn start_of_last(file: &File, n: usize) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut end = file.metadata()?.len();
    // The newline that ends the last line is one more.
    let mut wanted = n.saturating_add(1);
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        // Invariant: a block is far smaller than any usize.
        block.resize(usize::try_from(end - start).unwrap_or(0), 0);
        file.read_exact_at(&mut block, start)?;
        for at in memchr::memrchr_iter(b'\n', &block) {
            wanted -= 1;
            if wanted == 0 {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// Follows a log as it grows, across its files.
pub struct Follow {
    dir: PathBuf,
    matcher: Matcher,
    /// The file that is read, and how far.
    at: Option<(u64, u64)>,
}

impl Follow {
    /// Starts at the end of the log in `dir`: shows what comes after this call. The filter's limit
    /// does not matter here.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn new(dir: &Path, filter: Filter) -> Result<Self, AuditError> {
        let firsts = files::list(dir).map_err(AuditError::io("list", dir))?;
        let matcher = Matcher::new(filter);
        let at = match firsts.last() {
            None => None,
            Some(first) => Some((*first, end_of_lines(&files::path_of(dir, *first))?)),
        };
        Ok(Self { dir: dir.to_owned(), matcher, at })
    }

    /// What was added since the last call. Never waits.
    ///
    /// # Errors
    /// When the log cannot be read; the next call tries again.
    pub fn poll(&mut self) -> Result<Vec<Entry>, AuditError> {
        let firsts = files::list(&self.dir).map_err(AuditError::io("list", &self.dir))?;
        let mut entries = Vec::new();
        let reached = self.at.map_or(0, |(first, _)| first);
        for first in firsts.into_iter().filter(|first| *first >= reached) {
            let from = self.at.filter(|(at, _)| *at == first).map_or(0, |(_, offset)| offset);
            let end = self.read(first, from, &mut entries)?;
            self.at = Some((first, end));
        }
        Ok(entries)
    }

    /// Reads the whole lines of a file from an offset, and returns where they end.
    fn read(&mut self, first: u64, from: u64, into: &mut Vec<Entry>) -> Result<u64, AuditError> {
        let path = files::path_of(&self.dir, first);
        let open = files::open_plain(&path).and_then(|file| Lines::at(file, from));
        let mut lines = open.map_err(AuditError::io("read", &path))?;
        let mut line = Vec::new();
        loop {
            let end = lines.offset;
            match lines.next(&mut line).map_err(AuditError::io("read", &path))? {
                Next::Line => into.extend(self.matcher.check(&line).and_then(Result::ok)),
                Next::TooLong => {}
                Next::Torn | Next::End => return Ok(end),
            }
        }
    }
}

/// Where the last whole line of a file ends.
fn end_of_lines(path: &Path) -> Result<u64, AuditError> {
    let open = files::open_plain(path).and_then(|file| start_of_last(&file, 0));
    open.map_err(AuditError::io("read", path))
}
