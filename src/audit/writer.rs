//! The one writer of a log: seals lines, appends them in one call, keeps the head, rotates, retains,
//! and mends what can be mended.
//!
//! Everything here runs under the writer's lock. An append is a `write` into the page cache: a
//! blocking call, but bounded (about a microsecond); only `Fsync::Always` waits for the disk.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::chain::{Anchor, Keys, LineMac, Sealed};
use super::fields::Fields;
use super::files::{self, Identity, Mode};
use super::head::Head;
use super::line::{self, Kind};
use super::{AuditError, Counters, Fsync, Lost, Options, SOON};
use crate::record::Event;

/// Lines that wait to be sealed and written together.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    length: usize,
    mac: LineMac,
    kind: Kind,
}

impl Batch {
    pub(super) fn push(&mut self, body: &[u8], mac: LineMac, kind: Kind) {
        self.bytes.extend_from_slice(body);
        self.entries.push(Entry { length: body.len(), mac, kind });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it should not wait for others any more.
    pub(super) fn is_long(&self) -> bool {
        self.bytes.len() >= LONG_BATCH
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }
}

/// The longest batch that waits for somebody to write it: some hundred outcomes.
const LONG_BATCH: usize = 64 * 1024;

/// Why records cannot be written now.
#[derive(Debug)]
pub(super) enum Cause {
    /// The operating system said so.
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// A file of ours is no longer at its place.
    Moved { path: PathBuf },
    /// The file has another length than what was written to it.
    Changed { path: PathBuf, expected: u64, found: u64 },
    /// The directory was replaced, and mending failed.
    Setup(AuditError),
    /// A record does not serialise.
    Record(serde_json::Error),
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            Self::Moved { path } => write!(f, "{} was removed or replaced", path.display()),
            Self::Changed { path, expected, found } => {
                let path = path.display();
                write!(f, "{path} was changed by another: {found} bytes, not {expected}")
            }
            Self::Setup(error) => error.fmt(f),
            Self::Record(error) => write!(f, "a record cannot be written as JSON: {error}"),
        }
    }
}

impl Cause {
    /// The same for the caller of `open`.
    pub(super) fn into_error(self, dir: &Path) -> AuditError {
        match self {
            Self::Io { action, path, source } => AuditError::Io { action, path, source },
            Self::Setup(error) => error,
            Self::Moved { .. } | Self::Changed { .. } | Self::Record(_) => {
                AuditError::Unwritable { dir: dir.to_owned() }
            }
        }
    }

    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// The file that records go to.
pub(super) struct Current {
    first: u64,
    path: PathBuf,
    file: Arc<File>,
    identity: Identity,
    /// How long it is, as we wrote it.
    size: u64,
    /// When its first record was written.
    opened: SystemTime,
    /// A part of a record stands after `size`.
    partial: bool,
}

impl Current {
    /// Goes on with a file that ends, in order, after `size` bytes.
    pub(super) fn resume(
        dir: &Path,
        first: u64,
        size: u64,
        opened: SystemTime,
    ) -> Result<Self, AuditError> {
        let path = files::path_of(dir, first);
        let file = files::open_own(&path, Mode::Append)?;
        Self::new(path, file, first, size, opened)
    }

    fn create(dir: &Path, first: u64, now: SystemTime) -> Result<Self, AuditError> {
        let path = files::path_of(dir, first);
        let file = files::create(&path, Mode::Append).map_err(AuditError::io("create", &path))?;
        Self::new(path, file, first, 0, now)
    }

    fn new(
        path: PathBuf,
        file: File,
        first: u64,
        size: u64,
        opened: SystemTime,
    ) -> Result<Self, AuditError> {
        let meta = file.metadata().map_err(AuditError::io("look at", &path))?;
        let identity = Identity::from(&meta);
        let file = Arc::new(file);
        Ok(Self { first, path, file, identity, size, opened, partial: false })
    }

    /// Finds out whether the file is still the one we wrote: linked, and as long as we left it.
    fn inspect(&self) -> Result<(), Cause> {
        let meta = self.file.metadata().map_err(Cause::io("look at", &self.path))?;
        if meta.nlink() == 0 {
            return Err(Cause::Moved { path: self.path.clone() });
        }
        if meta.size() == self.size {
            return Ok(());
        }
        let (expected, found) = (self.size, meta.size());
        Err(Cause::Changed { path: self.path.clone(), expected, found })
    }

    /// One `write` of whole lines. What it wrote in part is taken back.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = loop {
            match (&*self.file).write(lines) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if written == lines.len() {
            self.size += written as u64;
            return Ok(());
        }
        self.partial = written > 0;
        self.take_back()?;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn take_back(&mut self) -> io::Result<()> {
        if self.partial {
            self.file.set_len(self.size)?;
            self.partial = false;
        }
        Ok(())
    }

    /// Whether the last line on the disk is the one that the chain goes on from.
    fn ends_with(&self, last: &Anchor) -> io::Result<bool> {
        // `"mac":"`, 64 digits, `"}` and the newline.
        let expected = format!("\"mac\":\"{}\"}}\n", last.mac_hex());
        let mut found = vec![0; expected.len()];
        let Some(start) = self.size.checked_sub(expected.len() as u64) else {
            return Ok(self.size == 0);
        };
        self.file.read_exact_at(&mut found, start)?;
        Ok(found == expected.as_bytes())
    }
}

/// What happened since the log became unwritable.
struct Outage {
    cause: Cause,
    tried: Instant,
}

/// How often a log that cannot be written is tried again, at most.
const RETRY: Duration = Duration::from_millis(100);
/// How often the file is looked at: seldom against requests in a flood, and nearly each time otherwise.
const INSPECT: Duration = Duration::from_millis(1);
/// How often the names in the directory are compared with the files that are open.
const INSPECT_NAMES: Duration = Duration::from_millis(100);
/// How often files are looked at for their age.
const RETAIN: Duration = Duration::from_mins(1);

/// How long the system's clock must have gone as one that nobody can set before files are deleted for
/// their age: a clock that is set far ahead, or is so at the start, makes everything old, and what it
/// deletes is gone when it is set right.
const TRUST: Duration = Duration::from_hours(1);
/// Between two looks clocks that agree are apart by less: adjustments of a running clock are slow.
const APART: Duration = Duration::from_mins(5);

/// Two clocks, as they were seen together.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    wall: SystemTime,
    steady: Duration,
    /// Since when, by the steady one, they agree.
    agree: Duration,
}

impl Clocks {
    /// Looks at both again.
    fn seen(last: Option<Self>, wall: SystemTime, steady: Duration) -> Self {
        let Some(last) = last else { return Self { wall, steady, agree: steady } };
        let expected = last.wall + steady.saturating_sub(last.steady);
        let apart = wall.duration_since(expected).unwrap_or_else(|behind| behind.duration());
        let agree = if apart > APART { steady } else { last.agree };
        Self { wall, steady, agree }
    }

    fn is_trusted(self) -> bool {
        self.steady.saturating_sub(self.agree) >= TRUST
    }
}

/// Holds the log's files and the end of the chain.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) keys: Arc<Keys>,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    pub(super) lock: File,
    pub(super) head: Head,
    pub(super) head_file: Arc<File>,
    /// None before the first record and after damage: the next record starts a file.
    pub(super) current: Option<Current>,
    /// All files by their first record, oldest first.
    pub(super) firsts: Vec<u64>,
    /// Files that were rotated away and are not yet synced.
    pub(super) unsynced: Vec<Arc<File>>,
    /// The batch that is being written; kept for its memory.
    pub(super) batch: Batch,
    outage: Option<Outage>,
    closed: bool,
    lines: Vec<u8>,
    inspected: Instant,
    names_seen: Instant,
    /// When the head was last written, and whether the log went on since.
    head_written: Instant,
    head_lags: bool,
    /// When files were last looked at for their age.
    retained: SystemTime,
    /// Whether the clock can be trusted with it.
    clocks: Option<Clocks>,
    #[cfg(test)]
    pub(super) faults: std::collections::VecDeque<tests::Fault>,
}

/// What the sync outside the lock needs.
pub(super) struct ToSync {
    files: Vec<Arc<File>>,
    head_file: Arc<File>,
    upto: Anchor,
}

impl ToSync {
    /// Waits for the disk.
    pub(super) fn run(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync_data())
    }
}

impl Writer {
    pub(super) fn new(
        dir: PathBuf,
        keys: Arc<Keys>,
        options: Options,
        lock: File,
        head: Head,
        head_file: File,
    ) -> Self {
        Self {
            dir,
            keys,
            options,
            counters: Arc::default(),
            lock,
            head,
            head_file: Arc::new(head_file),
            current: None,
            firsts: Vec::new(),
            unsynced: Vec::new(),
            batch: Batch::default(),
            outage: None,
            closed: false,
            lines: Vec::new(),
            inspected: Instant::now(),
            names_seen: Instant::now(),
            head_written: Instant::now(),
            head_lags: false,
            retained: SystemTime::UNIX_EPOCH,
            clocks: None,
            #[cfg(test)]
            faults: std::collections::VecDeque::new(),
        }
    }

    /// Writes `self.batch`: all of it, or none.
    pub(super) fn commit(&mut self, now: SystemTime, lost: &Lost) -> bool {
        let empty = self.batch.is_empty();
        let done = self.is_healthy() && (empty || self.try_commit(now));
        for entry in &self.batch.entries {
            if done {
                self.counters.written(entry.kind);
            } else {
                lost.count(entry.kind);
            }
        }
        self.batch.clear();
        done
    }

    fn try_commit(&mut self, now: SystemTime) -> bool {
        let written = self.inspect().and_then(|()| self.write_batch(now));
        written.map_err(|cause| self.fail(cause)).is_ok()
    }

    /// From here on nothing is accepted, until [`Self::mend`] succeeds.
    fn fail(&mut self, cause: Cause) {
        tracing::error!(
            cause = %cause,
            "the audit log cannot be written; requests are refused until it can"
        );
        self.counters.failed();
        self.outage = Some(Outage { cause, tried: Instant::now() });
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.outage.is_none() && !self.closed
    }

    /// Why not, for a person.
    pub(super) fn trouble(&self) -> Option<String> {
        self.outage.as_ref().map(|outage| outage.cause.to_string())
    }

    /// A line of the log's own, as a batch of its own.
    pub(super) fn write_own(&mut self, record: &Event, now: SystemTime) -> Result<(), Cause> {
        let mut body = Vec::new();
        line::body(&mut body, Kind::Event, now, record).map_err(Cause::Record)?;
        self.batch.clear();
        self.batch.push(&body, self.keys.begin(&body), Kind::Event);
        let written = self.write_batch(now);
        self.batch.clear();
        written?;
        self.counters.written(Kind::Event);
        Ok(())
    }

    fn write_batch(&mut self, now: SystemTime) -> Result<(), Cause> {
        self.lines.clear();
        if self.must_rotate(now) {
            self.rotate();
        }
        let mut at = self.head.last;
        if self.current.is_none() {
            self.start_file(now)?;
        }
        if self.current.as_ref().is_some_and(|c| c.size == 0) {
            at = self.seal_opening(at, now)?;
        }
        at = self.seal_batch(at);
        self.append(at)?;
        self.sync_now()?;
        self.head_lags = true;
        if self.head_written.elapsed() < SOON { Ok(()) } else { self.write_head() }
    }

    /// Brings the head up to the last record. True when there was something to do.
    pub(super) fn settle_head(&mut self) -> bool {
        let due = self.head_lags && self.is_healthy();
        if due && let Err(cause) = self.write_head() {
            self.fail(cause);
        }
        due
    }

    fn must_rotate(&self, now: SystemTime) -> bool {
        let Some(current) = self.current.as_ref().filter(|c| c.size > 0) else { return false };
        let room = self.options.max_file_bytes.saturating_sub(current.size);
        let age = now.duration_since(current.opened).unwrap_or_default();
        let too_old = self.options.longest_file().is_some_and(|longest| age > longest);
        too_old || (self.batch.bytes.len() as u64) > room
    }

    fn rotate(&mut self) {
        if let Some(current) = self.current.take() {
            self.unsynced.push(current.file);
        }
    }

    fn start_file(&mut self, now: SystemTime) -> Result<(), Cause> {
        let first = self.head.last.seq.saturating_add(1);
        let current = Current::create(&self.dir, first, now).map_err(Cause::Setup)?;
        self.current = Some(current);
        self.firsts.push(first);
        if self.options.fsync != Fsync::Never {
            // Rare and bounded: without it the file's name could be lost in a power failure.
            files::sync_dir(&self.dir).map_err(Cause::io("sync", &self.dir))?;
        }
        Ok(())
    }

    /// The first record of every file names the log and the MAC before it, so that a file that is
    /// kept alone can be verified alone.
    fn seal_opening(&mut self, before: Anchor, now: SystemTime) -> Result<Anchor, Cause> {
        let opening = Opening {
            event: OPENING,
            log: data_encoding::HEXLOWER.encode(&self.head.log),
            previous: before.mac_hex(),
        };
        let mut body = Vec::new();
        line::body(&mut body, Kind::Event, now, &opening).map_err(Cause::Record)?;
        Ok(self.keys.begin(&body).seal(&body, before, &mut self.lines))
    }

    fn seal_batch(&mut self, mut at: Anchor) -> Anchor {
        let mut rest = self.batch.bytes.as_slice();
        for entry in &self.batch.entries {
            // Invariant: `push` adds as many bytes as it notes.
            let (body, after) = rest.split_at(entry.length);
            at = entry.mac.clone().seal(body, at, &mut self.lines);
            rest = after;
        }
        at
    }

    /// The append itself. After it the chain ends at `at`.
    fn append(&mut self, at: Anchor) -> Result<(), Cause> {
        #[cfg(test)]
        let injected = self.faults.pop_front();
        let Some(current) = self.current.as_mut() else { return Ok(()) };
        #[cfg(test)]
        let applied = tests::Fault::apply(injected, current, &self.lines);
        #[cfg(not(test))]
        let applied = Ok(());
        let appended = applied.and_then(|()| current.append(&self.lines));
        appended.map_err(|source| Cause::io("write to", &current.path)(source))?;
        self.counters.bytes(self.lines.len());
        self.head.last = at;
        Ok(())
    }

    fn sync_now(&mut self) -> Result<(), Cause> {
        if self.options.fsync != Fsync::Always {
            return Ok(());
        }
        let (started, work) = (Instant::now(), self.to_sync());
        work.run().map_err(Cause::io("sync", &self.dir))?;
        self.counters.synced(started);
        self.unsynced.clear();
        self.head.synced = self.head.last;
        Ok(())
    }

    fn write_head(&mut self) -> Result<(), Cause> {
        let bytes = self.head.encode(&self.keys);
        let written = self.head_file.write_all_at(&bytes, 0);
        written.map_err(|source| Cause::io("write", &self.dir.join(files::HEAD))(source))?;
        (self.head_written, self.head_lags) = (Instant::now(), false);
        Ok(())
    }

    /// Looks at the open file and, less often, at the names.
    fn inspect(&mut self) -> Result<(), Cause> {
        let now = Instant::now();
        if now.duration_since(self.inspected) < INSPECT {
            return Ok(());
        }
        self.inspected = now;
        if let Some(current) = &self.current {
            current.inspect()?;
        }
        if now.duration_since(self.names_seen) < INSPECT_NAMES {
            return Ok(());
        }
        self.inspect_names()
    }

    /// Finds out whether our names still lead to our files.
    fn inspect_names(&mut self) -> Result<(), Cause> {
        self.names_seen = Instant::now();
        let of = |file: &File| file.metadata().map(|meta| Identity::from(&meta));
        let head = of(&self.head_file).map_err(Cause::io("look at", &self.dir))?;
        let lock = of(&self.lock).map_err(Cause::io("look at", &self.dir))?;
        let current = self.current.as_ref().map(|c| (c.path.clone(), c.identity));
        let names = [(self.dir.join(files::HEAD), head), (self.dir.join(files::LOCK), lock)];
        for (path, ours) in names.into_iter().chain(current) {
            if files::identity_at(&path).map_err(Cause::io("look at", &path))? != Some(ours) {
                return Err(Cause::Moved { path });
            }
        }
        Ok(())
    }

    /// What the clocks show at the start.
    pub(super) fn begin_at(&mut self, now: SystemTime, steady: Duration) {
        self.clocks = Some(Clocks::seen(None, now, steady));
    }

    /// What the background does now and then, with or without traffic.
    pub(super) fn keep_house(&mut self, now: SystemTime, steady: Duration) {
        let clocks = *self.clocks.insert(Clocks::seen(self.clocks, now, steady));
        if !self.is_healthy() {
            return;
        }
        let inspected = self.inspect_names();
        // In either direction: a clock that was set back is no reason to look never again.
        let since = now.duration_since(self.retained).unwrap_or(RETAIN);
        let due = since >= RETAIN && clocks.is_trusted();
        let kept = inspected.and_then(|()| if due { self.retain(now) } else { Ok(()) });
        if let Err(cause) = kept {
            self.fail(cause);
        }
    }
}

/// The first record of a file.
#[derive(Serialize)]
pub(super) struct Opening {
    event: &'static str,
    log: String,
    previous: String,
}

impl Fields for Opening {
    fn write(&self, line: &mut line::Line<'_>) -> serde_json::Result<()> {
        line.object(self)
    }
}

pub(super) const OPENING: &str = "audit-file-opened";

/// Syncing.
impl Writer {
    /// What is not known to be on the disk; none when all is.
    pub(super) fn dirty(&self) -> bool {
        self.head.synced != self.head.last || !self.unsynced.is_empty()
    }

    pub(super) fn to_sync(&self) -> ToSync {
        let current = self.current.as_ref().map(|c| Arc::clone(&c.file));
        ToSync {
            files: self.unsynced.iter().cloned().chain(current).collect(),
            head_file: Arc::clone(&self.head_file),
            upto: self.head.last,
        }
    }

    /// Notes in the head what `work` brought to the disk. The caller syncs the head after.
    pub(super) fn synced(&mut self, work: &ToSync) -> Option<Arc<File>> {
        self.unsynced.retain(|file| !work.files.iter().any(|done| Arc::ptr_eq(done, file)));
        self.head.synced = work.upto;
        if let Err(cause) = self.write_head() {
            self.fail(cause);
            return None;
        }
        Some(Arc::clone(&work.head_file))
    }

    /// After a failed sync the kernel may have dropped what it could not write.
    pub(super) fn sync_failed(&mut self, error: io::Error) {
        let cause = Cause::io("sync", &self.dir)(error);
        self.fail(cause);
    }

    /// The last record that a power failure cannot take back.
    pub(super) fn anchor(&self) -> Anchor {
        self.head.synced
    }

    /// Syncs all, marks the log as closed in order, and lets the next writer in. Nothing is written
    /// after.
    pub(super) fn close(&mut self) -> Result<Anchor, AuditError> {
        if self.closed {
            return Ok(self.anchor());
        }
        let end = self.end();
        self.closed = true;
        // A lock that cannot be let go goes with its file.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
        end
    }

    fn end(&mut self) -> Result<Anchor, AuditError> {
        if self.outage.is_some() {
            // The head keeps its last good word, and the next start looks closely.
            return Err(AuditError::Unwritable { dir: self.dir.clone() });
        }
        let work = self.to_sync();
        let done = work.run().and_then(|()| self.close_head(&work));
        done.map_err(AuditError::io("sync", &self.dir))?;
        Ok(self.anchor())
    }

    fn close_head(&mut self, work: &ToSync) -> io::Result<()> {
        self.head.synced = work.upto;
        self.head.closed = true;
        self.head_file.write_all_at(&self.head.encode(&self.keys), 0)?;
        self.head_file.sync_all()
    }
}

/// Retention.
impl Writer {
    /// Deletes the files whose records are all older than the limit. A file that is gone or cannot
    /// be read is no reason to stop recording: it is said, and `verify` tells the rest.
    fn retain(&mut self, now: SystemTime) -> Result<(), Cause> {
        self.retained = now;
        let Some(limit) = self.options.retain.and_then(|keep| now.checked_sub(keep)) else {
            return Ok(());
        };
        let limit = line::time_text(limit);
        while let [oldest, next, ..] = self.firsts[..] {
            let path = files::path_of(&self.dir, next);
            let start = FileStart::read(&path).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "cannot read an audit file");
                None
            });
            let Some(start) = start.filter(|start| start.time < limit) else { return Ok(()) };
            self.forget(oldest, next, &start, now)?;
        }
        Ok(())
    }

    /// The order makes it safe to die anywhere: the record, then the head, which no longer asks for
    /// the file, then the file.
    fn forget(
        &mut self,
        oldest: u64,
        next: u64,
        start: &FileStart,
        now: SystemTime,
    ) -> Result<(), Cause> {
        let last = next.saturating_sub(1);
        let event = Event {
            event: "audit-retention",
            workspace: None,
            subject: Some(files::name_of(oldest)),
            detail: Some(format!("records {oldest} to {last} deleted by age")),
            by: None,
            vault_epoch: None,
        };
        self.write_own(&event, now)?;
        self.head.base = Anchor { seq: last, mac: start.previous };
        self.write_head()?;
        self.firsts.retain(|first| *first != oldest);
        let path = files::path_of(&self.dir, oldest);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot delete an old audit file");
        }
        Ok(())
    }
}

/// The first record of a file, as far as others need it. Not verified.
pub(super) struct FileStart {
    pub(super) time: String,
    pub(super) log: super::chain::LogId,
    pub(super) previous: super::chain::Tag,
}

impl FileStart {
    /// None when the file has no whole first line of the right form.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut line = Vec::new();
        let next = files::Lines::open(path)?.next(&mut line)?;
        Ok((next == files::Next::Line).then(|| Self::parse(&line)).flatten())
    }

    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Document<'a> {
            time: &'a str,
            event: &'a str,
            log: &'a str,
            previous: &'a str,
        }
        let document: Document<'_> = serde_json::from_slice(line).ok()?;
        (document.event == OPENING).then_some(())?;
        let log = data_encoding::HEXLOWER.decode(document.log.as_bytes()).ok()?;
        Some(Self {
            time: document.time.to_owned(),
            log: log.try_into().ok()?,
            previous: super::chain::tag_from_hex(document.previous.as_bytes())?,
        })
    }

    /// The same, when the line is genuine by its own word.
    pub(super) fn verified(line: &[u8], keys: &Keys) -> Option<Self> {
        let start = Self::parse(line)?;
        Sealed::parse(line)?.follows(keys, &start.previous).then_some(start)
    }
}

/// Mending.
impl Writer {
    /// Tries to make the log writable again, at most every [`RETRY`], and records that it was not.
    pub(super) fn mend(&mut self, now: SystemTime, lost: &Lost) -> bool {
        if self.closed {
            return false;
        }
        let Some(outage) = &mut self.outage else { return true };
        if outage.tried.elapsed() < RETRY {
            return false;
        }
        outage.tried = Instant::now();
        let before = outage.cause.to_string();
        match self.try_mend(&before, now, lost) {
            Ok(()) => {
                tracing::info!(cause = %before, "the audit log can be written again");
                true
            }
            Err(cause) => {
                tracing::debug!(cause = %cause, "the audit log still cannot be written");
                self.outage = Some(Outage { cause, tried: Instant::now() });
                false
            }
        }
    }

    fn try_mend(&mut self, before: &str, now: SystemTime, lost: &Lost) -> Result<(), Cause> {
        files::secure_dir(&self.dir).map_err(Cause::Setup)?;
        self.mend_lock().map_err(Cause::Setup)?;
        self.mend_file(now)?;
        self.mend_head()?;
        self.to_sync().run().map_err(Cause::io("sync", &self.dir))?;
        let counts = lost.peek();
        self.write_own(&resumed(before, counts), now)?;
        lost.settle(counts);
        self.outage = None;
        Ok(())
    }

    fn mend_lock(&mut self) -> Result<(), AuditError> {
        let path = self.dir.join(files::LOCK);
        let look = AuditError::io("look at", &path);
        let ours = self.lock.metadata().map(|meta| Identity::from(&meta));
        if files::identity_at(&path).map_err(look)? != ours.ok() {
            self.lock = files::lock(&self.dir)?;
        }
        Ok(())
    }

    fn mend_head(&mut self) -> Result<(), Cause> {
        let path = self.dir.join(files::HEAD);
        let ours = self.head_file.metadata().map(|meta| Identity::from(&meta));
        if files::identity_at(&path).map_err(Cause::io("look at", &path))? != ours.ok() {
            let made = self.head.create(&self.dir, &self.keys);
            self.head_file = Arc::new(made.map_err(Cause::io("create", &path))?);
        }
        self.write_head()
    }

    /// Brings the current file back, or gives it up: then the next record starts a new one, the
    /// chain goes on, and `verify` tells what is missing between.
    fn mend_file(&mut self, now: SystemTime) -> Result<(), Cause> {
        let Some(current) = &mut self.current else { return self.clear_the_way(now) };
        let look = Cause::io("look at", &current.path);
        let there = files::identity_at(&current.path).map_err(look)?;
        if there.is_none() {
            return self.put_back(now);
        }
        let path = current.path.clone();
        current.take_back().map_err(Cause::io("truncate", &path))?;
        let whole = there == Some(current.identity)
            && current.inspect().is_ok()
            && current.ends_with(&self.head.last).unwrap_or(false);
        if !whole {
            self.current = None;
            return self.clear_the_way(now);
        }
        Ok(())
    }

    /// The file's name is gone, its content is not: we hold it open. Copies it back.
    fn put_back(&mut self, now: SystemTime) -> Result<(), Cause> {
        let Some(lost) = self.current.take() else { return Ok(()) };
        match copy_back(&lost) {
            Ok(current) if current.ends_with(&self.head.last).unwrap_or(false) => {
                self.current = Some(current);
                Ok(())
            }
            Ok(_) => self.clear_the_way(now),
            Err(error) => {
                let cause = Cause::io("put back", &lost.path)(error);
                self.current = Some(lost);
                Err(cause)
            }
        }
    }

    /// Moves aside what has the name of the file that comes next.
    fn clear_the_way(&mut self, now: SystemTime) -> Result<(), Cause> {
        let first = self.head.last.seq.saturating_add(1);
        self.firsts.retain(|f| *f != first);
        let path = files::path_of(&self.dir, first);
        if files::identity_at(&path).map_err(Cause::io("look at", &path))?.is_some() {
            let stamp = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let aside = self.dir.join(format!("foreign-{first:020}-{}.txt", stamp.as_micros()));
            std::fs::rename(&path, aside).map_err(Cause::io("rename", &path))?;
        }
        Ok(())
    }
}

/// Makes the lost file again, under its own name, from the handle that is still open. Blocks for as
/// long as the copy of one file takes; requests are refused meanwhile, not held.
fn copy_back(lost: &Current) -> io::Result<Current> {
    use std::io::{Read, Seek, SeekFrom};
    let file = files::create(&lost.path, Mode::Append)?;
    let copy = || {
        (&*lost.file).seek(SeekFrom::Start(0))?;
        let copied = io::copy(&mut (&*lost.file).take(lost.size), &mut &file)?;
        file.sync_all()?;
        if copied == lost.size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    if let Err(error) = copy() {
        // A part of a copy would stand in the way of the next try.
        let _ = std::fs::remove_file(&lost.path);
        return Err(error);
    }
    let meta = file.metadata()?;
    Ok(Current {
        first: lost.first,
        path: lost.path.clone(),
        identity: Identity::from(&meta),
        file: Arc::new(file),
        size: lost.size,
        opened: lost.opened,
        partial: false,
    })
}

fn resumed(before: &str, lost: [u64; 3]) -> Event {
    let [access, outcome, event] = lost;
    let detail = format!(
        "{before}; refused for want of a record: {access} calls; lost: {outcome} outcomes, {event} events"
    );
    Event {
        event: "audit-resumed",
        workspace: None,
        subject: None,
        detail: Some(detail),
        by: None,
        vault_epoch: None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the disk does instead of the next append.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::audit) enum Fault {
        /// Says no.
        Error(rustix::io::Errno),
        /// Takes so many bytes, and then says no: a disk that fills up.
        Partial(usize),
        /// Takes so many bytes, and the process is killed.
        Killed(usize),
    }

    impl Writer {
        pub(in crate::audit) fn abandon(&mut self) {
            self.closed = true;
        }
    }

    impl Fault {
        pub(super) fn apply(
            fault: Option<Self>,
            current: &mut Current,
            lines: &[u8],
        ) -> io::Result<()> {
            match fault {
                None => Ok(()),
                Some(Self::Error(errno)) => Err(errno.into()),
                Some(Self::Partial(n)) => {
                    (&*current.file).write_all(&lines[..n])?;
                    current.partial = true;
                    current.take_back()?;
                    Err(io::ErrorKind::StorageFull.into())
                }
                Some(Self::Killed(n)) => {
                    (&*current.file).write_all(&lines[..n])?;
                    Err(io::ErrorKind::Other.into())
                }
            }
        }
    }
}
