//! Proves a log whole, or names the first record that is not.
//!
//! Reads every line once, in constant memory, and may run while the proxy writes: the head is read
//! first, and what was added since is verified as far as it got.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::AuditError;
use super::chain::{Anchor, Keys, Sealed, Tag};
use super::files::{self, Lines, Next};
use super::head::{Head, Stored};
use super::writer::FileStart;
use crate::secret::Secret;

/// What is wrong at a place in the log. A closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The record, or the MAC of the one before it as it stands there, is not what was written.
    Edited,
    /// A line that does not belong there: a copy of another record, or a forged one.
    Inserted,
    /// The record stands in another place than it was written to.
    OutOfOrder,
    /// Records are gone from inside a file, up to this one.
    Missing {
        /// The last that is missing.
        through: u64,
    },
    /// Records are gone between two files, up to this one: files were deleted, or the end of one.
    FileMissing {
        /// The last that is missing.
        through: u64,
    },
    /// The log ends too early: head or anchor know of a later record.
    TruncatedTail {
        /// The last record that is known to have been written.
        expected_seq: u64,
    },
    /// A line ends without its newline.
    Torn,
    /// A line that is no record at all.
    NotARecord,
    /// Nothing in the log was made with this vault's key: another log was put in its place.
    WrongKey,
    /// The head file is gone.
    HeadMissing,
    /// The head file is not what was written.
    HeadEdited,
    /// A genuine record, but another one stood here when head or anchor were taken: the log was put
    /// back to an earlier state and went on from there.
    Diverged,
    /// A new chain starts here, after damage that the operator accepted.
    NewSegment,
    /// There is no log, and there was one.
    Gone,
}

impl What {
    /// A stable word for it, for machines.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Inserted => "inserted",
            Self::OutOfOrder => "out-of-order",
            Self::Missing { .. } => "missing",
            Self::FileMissing { .. } => "file-missing",
            Self::TruncatedTail { .. } => "truncated-tail",
            Self::Torn => "torn",
            Self::NotARecord => "not-a-record",
            Self::WrongKey => "wrong-key",
            Self::HeadMissing => "head-missing",
            Self::HeadEdited => "head-edited",
            Self::Diverged => "diverged",
            Self::NewSegment => "new-segment",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edited => f.write_str("the record was changed"),
            Self::Inserted => f.write_str("a line was inserted"),
            Self::OutOfOrder => f.write_str("records were reordered"),
            Self::Missing { through } => write!(f, "records up to {through} are missing"),
            Self::FileMissing { through } => {
                write!(f, "records up to {through} are missing; a file, or its end, is gone")
            }
            Self::TruncatedTail { expected_seq } => {
                write!(f, "the end is missing; the log went on to record {expected_seq} at least")
            }
            Self::Torn => f.write_str("the line is cut off"),
            Self::NotARecord => f.write_str("the line is no audit record"),
            Self::WrongKey => f.write_str("the log was not made with this vault's key"),
            Self::HeadMissing => f.write_str("the head file is missing"),
            Self::HeadEdited => f.write_str("the head file was changed"),
            Self::Diverged => f.write_str("another record stood here before"),
            Self::NewSegment => f.write_str("the chain starts anew, after accepted damage"),
            Self::Gone => f.write_str("the whole log is missing"),
        }
    }
}

/// One place where the log is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In which file; for what is missing, the file after or before the gap.
    pub file: PathBuf,
    /// On which line of it, from 1; 0 when it is not about a line.
    pub line: u64,
    /// Which record should stand there.
    pub seq: u64,
    /// What is wrong.
    pub what: What,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, seq, what } = self;
        write!(f, "{}:{line}: record {seq}: {what}", file.display())
    }
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Records that are genuine and in their place.
    pub records: u64,
    /// Files that were read.
    pub files: u64,
    /// The first record that is kept: 1, or a later one after retention.
    pub first_seq: u64,
    /// The last record, and its MAC: what to anchor outside.
    pub last: Option<Anchor>,
    /// The first place where the log is not whole.
    pub first_bad: Option<Finding>,
    /// How many such places were met. What follows damage is judged as well as it can be.
    pub findings: u64,
    /// Whether the anchor that was given was compared with a record. False without an anchor, and
    /// when retention deleted its record.
    pub anchor_checked: bool,
    /// After the last record stands an unfinished line: a crash left it, or it is being written.
    pub unfinished_line: bool,
    /// The log is whole.
    pub ok: bool,
}

/// How far a verification got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub bytes: u64,
    /// Bytes there were at the start.
    pub total: u64,
    /// Records read.
    pub records: u64,
}

/// Verifies the log in `dir`. `anchor` is a position that was kept outside it; `progress` is called
/// every few thousand records.
///
/// # Errors
/// Only when the log cannot be read. What is wrong with it is in the [`Report`].
pub fn verify(
    dir: &Path,
    key: &Secret,
    anchor: Option<Anchor>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, AuditError> {
    let keys = Keys::new(key)?;
    for _ in 0..PASSES {
        let Some(start) = Start::read(dir, &keys)? else { continue };
        match Pass::new(dir, &keys, &start, anchor, progress).run() {
            // Retention deleted a file under our hands: begin again with what there is now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(AuditError::io("read", dir)),
        }
    }
    Err(AuditError::Io {
        action: "read",
        path: dir.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    })
}

/// How often a verification starts again when files vanish.
const PASSES: u32 = 5;

/// Records between two calls of `progress`.
const PROGRESS: u64 = 8192;

/// Head and files at one moment.
struct Start {
    head: Stored,
    firsts: Vec<u64>,
}

impl Start {
    /// None when retention moved on in between.
    fn read(dir: &Path, keys: &Keys) -> Result<Option<Self>, AuditError> {
        let path = dir.join(files::HEAD);
        let read = || Head::read(dir, keys).map_err(AuditError::io("read", &path));
        let head = read()?;
        let mut firsts = files::list(dir).map_err(AuditError::io("list", dir))?;
        let base = |head: &Stored| match head {
            Stored::Valid(head) => Some(head.base),
            Stored::Absent | Stored::Invalid => None,
        };
        let before = base(&head);
        if before != base(&read()?) {
            return Ok(None);
        }
        firsts.retain(|first| before.is_none_or(|base| *first > base.seq));
        Ok(Some(Self { head, firsts }))
    }
}

/// One reading of the whole log.
struct Pass<'a> {
    dir: &'a Path,
    keys: &'a Keys,
    start: &'a Start,
    anchor: Option<Anchor>,
    progress: &'a mut dyn FnMut(Progress),
    done: Progress,
    /// The number that comes next.
    expected: u64,
    /// The MAC before it; none after a line that has none.
    before: Option<Tag>,
    report: Report,
}

impl<'a> Pass<'a> {
    fn new(
        dir: &'a Path,
        keys: &'a Keys,
        start: &'a Start,
        anchor: Option<Anchor>,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let size = |first: &u64| std::fs::metadata(files::path_of(dir, *first)).map(|m| m.len());
        let total = start.firsts.iter().filter_map(|first| size(first).ok()).sum();
        let (expected, before) = match &start.head {
            Stored::Valid(head) => (head.base.seq.saturating_add(1), Some(head.base.mac)),
            // Without a head the oldest file is believed about where it starts.
            Stored::Absent | Stored::Invalid => (start.firsts.first().map_or(1, |f| *f), None),
        };
        let report = Report {
            records: 0,
            files: 0,
            first_seq: expected,
            last: None,
            first_bad: None,
            findings: 0,
            anchor_checked: false,
            unfinished_line: false,
            ok: false,
        };
        let done = Progress { bytes: 0, total, records: 0 };
        Self { dir, keys, start, anchor, progress, done, expected, before, report }
    }

    fn head(&self) -> Option<&'a Head> {
        match &self.start.head {
            Stored::Valid(head) => Some(head),
            Stored::Absent | Stored::Invalid => None,
        }
    }

    fn run(mut self) -> io::Result<Report> {
        if let Some(base) = self.head().map(|head| head.base) {
            self.compare(&self.dir.join(files::HEAD), 0, base);
        }
        let firsts = &self.start.firsts;
        for (n, first) in firsts.iter().enumerate() {
            self.file(*first, n + 1 == firsts.len())?;
        }
        self.judge_end();
        self.judge_head();
        self.report.ok = self.report.findings == 0;
        (self.progress)(self.done);
        Ok(self.report)
    }

    fn find(&mut self, file: &Path, line: u64, seq: u64, what: What) {
        self.report.findings += 1;
        let finding = || Finding { file: file.to_owned(), line, seq, what };
        self.report.first_bad.get_or_insert_with(finding);
    }

    fn file(&mut self, first: u64, is_last: bool) -> io::Result<()> {
        let path = files::path_of(self.dir, first);
        let mut lines = Lines::open(&path)?;
        self.report.files += 1;
        self.join(&path, first);
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            let start = lines.offset;
            number += 1;
            match lines.next(&mut line)? {
                Next::End => return Ok(()),
                Next::Line => self.line(&path, number, lines.offset, &line)?,
                Next::TooLong => self.no_record(&path, number, What::NotARecord),
                Next::Torn if is_last && self.has_all_of_head() => {
                    self.report.unfinished_line = true;
                }
                Next::Torn => self.no_record(&path, number, What::Torn),
            }
            self.advance(lines.offset - start);
        }
    }

    /// Compares a file's name with where the one before ended.
    fn join(&mut self, path: &Path, first: u64) {
        let what = match first.cmp(&self.expected) {
            std::cmp::Ordering::Equal => return,
            std::cmp::Ordering::Greater => What::FileMissing { through: first - 1 },
            std::cmp::Ordering::Less => What::Inserted,
        };
        self.find(path, 0, self.expected, what);
        (self.expected, self.before) = (first, None);
    }

    fn advance(&mut self, bytes: u64) {
        self.done.bytes += bytes;
        self.done.records += 1;
        if self.done.records.is_multiple_of(PROGRESS) {
            (self.progress)(self.done);
        }
    }

    fn no_record(&mut self, path: &Path, number: u64, what: What) {
        self.find(path, number, self.expected, what);
        // It may have stood for one record; its MAC is unknown.
        (self.expected, self.before) = (self.expected.saturating_add(1), None);
    }

    fn line(&mut self, path: &Path, number: u64, end: u64, line: &[u8]) -> io::Result<()> {
        let Some(sealed) = Sealed::parse(line) else {
            let what = self.unreadable(path, end)?;
            if what == What::Inserted {
                self.find(path, number, self.expected, what);
            } else {
                self.no_record(path, number, what);
            }
            return Ok(());
        };
        let claim = sealed.claim;
        let genuine = self.before.is_some_and(|before| sealed.follows(self.keys, &before));
        if genuine && claim.seq == self.expected {
            self.report.records += 1;
            self.accept(path, number, claim);
            return Ok(());
        }
        match self.doubt(path, number, end, line, &sealed)? {
            Some(What::Inserted) => self.find(path, number, self.expected, What::Inserted),
            Some(what) => {
                self.find(path, number, self.expected, what);
                self.accept(path, number, claim);
            }
            None => self.accept(path, number, claim),
        }
        Ok(())
    }

    /// Goes on from a record, genuine or not.
    fn accept(&mut self, path: &Path, number: u64, at: Anchor) {
        (self.expected, self.before) = (at.seq.saturating_add(1), Some(at.mac));
        self.report.last = Some(at);
        self.compare(path, number, at);
    }

    /// Compares a record with what head and anchor know of it.
    fn compare(&mut self, path: &Path, number: u64, at: Anchor) {
        let anchor = self.anchor.filter(|anchor| anchor.seq == at.seq);
        self.report.anchor_checked |= anchor.is_some();
        let head = self.head().map(|head| head.last).filter(|last| last.seq == at.seq);
        if [anchor, head].into_iter().flatten().any(|known| known != at) {
            self.find(path, number, at.seq, What::Diverged);
        }
    }

    /// What is wrong with a line that does not follow the one before it; none when nothing can be
    /// said against it, because the one before was unreadable.
    fn doubt(
        &self,
        path: &Path,
        number: u64,
        end: u64,
        line: &[u8],
        sealed: &Sealed<'_>,
    ) -> io::Result<Option<What>> {
        let seq = sealed.claim.seq;
        if seq < self.expected {
            return Ok(Some(What::Inserted));
        }
        if seq > self.expected {
            let later = self.ahead(path, end, |other| other.claim.seq == self.expected)?;
            let missing = What::Missing { through: seq - 1 };
            return Ok(Some(if later { What::OutOfOrder } else { missing }));
        }
        let start = if number == 1 { FileStart::verified(line, self.keys) } else { None };
        Ok(match (self.before, start) {
            (None, Some(_)) => None,
            (Some(_), Some(_)) => Some(What::NewSegment),
            (None, None) if number > 1 => None,
            (_, None) if self.key_is_wrong() => Some(What::WrongKey),
            (before, None) => Some(self.edited_or_inserted(path, end, before)?),
        })
    }

    fn edited_or_inserted(&self, path: &Path, end: u64, before: Option<Tag>) -> io::Result<What> {
        let Some(before) = before else { return Ok(What::Edited) };
        let original = self.ahead(path, end, |other| {
            other.claim.seq == self.expected && other.follows(self.keys, &before)
        })?;
        Ok(if original { What::Inserted } else { What::Edited })
    }

    /// A line without the form of a record: put in, or made from one.
    fn unreadable(&self, path: &Path, end: u64) -> io::Result<What> {
        let Some(before) = self.before else { return Ok(What::NotARecord) };
        let what = self.edited_or_inserted(path, end, Some(before))?;
        Ok(if what == What::Inserted { what } else { What::NotARecord })
    }

    /// Whether a line further on in the file is the one. Only asked for the first finding, so that a
    /// log with much damage is still read in linear time.
    fn ahead(&self, path: &Path, from: u64, is: impl Fn(&Sealed<'_>) -> bool) -> io::Result<bool> {
        if self.report.first_bad.is_some() {
            return Ok(false);
        }
        let mut lines = Lines::at(files::open_plain(path)?, from)?;
        let mut line = Vec::new();
        loop {
            match lines.next(&mut line)? {
                Next::Line if Sealed::parse(&line).is_some_and(|other| is(&other)) => {
                    return Ok(true);
                }
                Next::Line | Next::TooLong => {}
                Next::Torn | Next::End => return Ok(false),
            }
        }
    }

    /// Neither the head nor the start of any file is genuine.
    fn key_is_wrong(&self) -> bool {
        let starts = || self.start.firsts.iter().map(|first| files::path_of(self.dir, *first));
        self.head().is_none() && !starts().any(|path| start_is_genuine(&path, self.keys))
    }

    fn has_all_of_head(&self) -> bool {
        self.head().is_some_and(|head| self.expected > head.last.seq)
    }

    fn judge_end(&mut self) {
        let head = self.head().map(|head| head.last.seq);
        let anchor = self.anchor.map(|anchor| anchor.seq);
        let known = head.max(anchor).unwrap_or(0);
        let nothing = self.start.firsts.is_empty() && self.head().is_none();
        if nothing && known > 0 {
            self.find(self.dir, 0, 1, What::Gone);
        } else if self.expected <= known {
            let first = self.start.firsts.last().copied().unwrap_or(self.expected);
            let what = What::TruncatedTail { expected_seq: known };
            self.find(&files::path_of(self.dir, first), 0, self.expected, what);
        }
    }

    fn judge_head(&mut self) {
        let path = self.dir.join(files::HEAD);
        let seq = self.expected.saturating_sub(1);
        match &self.start.head {
            Stored::Valid(_) => {}
            Stored::Absent if self.start.firsts.is_empty() => {}
            Stored::Absent => self.find(&path, 0, seq, What::HeadMissing),
            Stored::Invalid => {
                let what = if self.key_is_wrong() { What::WrongKey } else { What::HeadEdited };
                self.find(&path, 0, seq, what);
            }
        }
    }
}

fn start_is_genuine(path: &Path, keys: &Keys) -> bool {
    let mut line = Vec::new();
    let read = Lines::open(path).and_then(|mut lines| lines.next(&mut line));
    read.is_ok() && FileStart::verified(&line, keys).is_some()
}
