//! Where a log goes on: reads head and tail, cuts off what a crash left half written, and refuses to
//! go on silently over damage.
//!
//! What a crash can leave is known: `kill -9` at most one unfinished last line; a power failure, on
//! another boot of the machine, any loss after the last sync. All else is damage.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::chain::{Anchor, Keys, LogId, Sealed};
use super::files::{self, Lines, Mode, Next};
use super::head::{Head, Stored};
use super::verify::What;
use super::writer::{Current, FileStart, Writer};
use super::{AuditError, Options};
use crate::record::Event;

/// How much of the last file is read at first. Larger than any batch that the head can lag behind.
const TAIL: u64 = 1024 * 1024;

/// Opens the log in `dir` for writing.
pub(super) fn open(
    dir: &Path,
    keys: Keys,
    options: Options,
    anchor: Option<Anchor>,
    now: SystemTime,
) -> Result<Writer, AuditError> {
    files::secure_dir(dir)?;
    let lock = files::lock(dir)?;
    let accept = options.accept_damage;
    let found = Found::read(dir, &keys)?;
    let (plan, event) = match found.end(dir, &keys, anchor)? {
        Ok(end) => found.go_on(dir, &keys, &end)?,
        Err(damage) if accept => found.new_segment(dir, &keys, anchor, &damage)?,
        Err(damage) => return Err(damage.refuse()),
    };
    let mut writer = start(dir, keys, options, lock, plan)?;
    if let Some(event) = event {
        writer.write_own(&event, now).map_err(|cause| cause.into_error(dir))?;
    }
    Ok(writer)
}

/// What the writer starts with.
struct Plan {
    head: Head,
    firsts: Vec<u64>,
    current: Option<Current>,
}

fn start(
    dir: &Path,
    keys: Keys,
    options: Options,
    lock: File,
    plan: Plan,
) -> Result<Writer, AuditError> {
    let path = dir.join(files::HEAD);
    let head_file = plan.head.create(dir, &keys).map_err(AuditError::io("create", &path))?;
    files::sync_dir(dir).map_err(AuditError::io("sync", dir))?;
    let keys = Arc::new(keys);
    let mut writer = Writer::new(dir.to_owned(), keys, options, lock, plan.head, head_file);
    writer.current = plan.current;
    writer.firsts = plan.firsts;
    Ok(writer)
}

/// Where, and what, the damage is.
struct Damage {
    file: PathBuf,
    seq: u64,
    what: What,
}

impl Damage {
    fn refuse(self) -> AuditError {
        let Self { file, seq, what } = self;
        match what {
            What::WrongKey => AuditError::WrongKey { file },
            what => AuditError::Tampered { file, seq, what },
        }
    }
}

/// What lies in the directory.
struct Found {
    head: Stored,
    /// The files that the head asks for, oldest first.
    firsts: Vec<u64>,
}

/// Where a log without damage ends.
struct End {
    head: Head,
    last: Anchor,
    /// The last file that has a whole record, and where its last record ends.
    file: Option<(u64, u64)>,
    /// After that, something stands that a crash left.
    rest: bool,
}

impl Found {
    fn read(dir: &Path, keys: &Keys) -> Result<Self, AuditError> {
        let path = dir.join(files::HEAD);
        let head = Head::read(dir, keys).map_err(AuditError::io("read", &path))?;
        let mut firsts = files::list(dir).map_err(AuditError::io("list", dir))?;
        if let Stored::Valid(head) = &head {
            finish_retention(dir, &mut firsts, head);
        }
        Ok(Self { head, firsts })
    }

    /// Finds the end, or the damage.
    fn end(
        &self,
        dir: &Path,
        keys: &Keys,
        anchor: Option<Anchor>,
    ) -> Result<Result<End, Damage>, AuditError> {
        let file = dir.join(files::HEAD);
        let oldest = self.firsts.first().copied();
        match (&self.head, oldest) {
            (Stored::Valid(head), _) => self.end_after(head, dir, keys, anchor),
            (Stored::Absent, None) if anchor.is_none_or(|a| a.seq == 0) => Ok(Ok(fresh(keys)?)),
            (Stored::Absent, None) => {
                Ok(Err(Damage { file: dir.to_owned(), seq: 1, what: What::Gone }))
            }
            (Stored::Absent, Some(seq)) => Ok(Err(Damage { file, seq, what: What::HeadMissing })),
            (Stored::Invalid, _) => {
                let ours = self.firsts.iter().any(|first| verified_start(dir, *first, keys));
                let what = if ours { What::HeadEdited } else { What::WrongKey };
                Ok(Err(Damage { file, seq: oldest.unwrap_or(0), what }))
            }
        }
    }

    fn end_after(
        &self,
        head: &Head,
        dir: &Path,
        keys: &Keys,
        anchor: Option<Anchor>,
    ) -> Result<Result<End, Damage>, AuditError> {
        let mut walk = Walk::new(dir, keys, head, anchor);
        // The file that has the last certain record, and all after it.
        let after = self.firsts.partition_point(|first| *first <= walk.certain.seq.max(1));
        let firsts = self.firsts.get(after.saturating_sub(1)..).unwrap_or_default();
        for (n, first) in firsts.iter().enumerate() {
            walk.file(*first, n + 1 == firsts.len())?;
            if walk.stopped() {
                break;
            }
        }
        Ok(walk.judge())
    }

    /// Cuts off what a crash left and goes on where the log ends.
    fn go_on(
        &self,
        dir: &Path,
        keys: &Keys,
        end: &End,
    ) -> Result<(Plan, Option<Event>), AuditError> {
        let mut firsts = self.firsts.clone();
        let cut = if end.rest { Some(set_aside(dir, end, &firsts)?) } else { None };
        // What is after the last file with a record is empty, and is made anew when it is needed.
        remove_later(dir, &mut firsts, end.last.seq)?;
        let current = match end.file {
            Some((first, size)) => Some(resume_file(dir, first, size)?),
            None => None,
        };
        let lost = end.head.last.seq.saturating_sub(end.last.seq);
        let event =
            (cut.is_some() || lost > 0).then(|| recovered(end.last.seq, lost, cut.as_deref()));
        let mut head = Head { boot: Head::new(keys, end.head.log).boot, ..end.head };
        (head.last, head.closed) = (end.last, false);
        if head.synced.seq > head.last.seq {
            head.synced = head.last;
        }
        Ok((Plan { head, firsts, current }, event))
    }

    /// Goes on after damage, in a new file under a number that no record ever had. The break in the
    /// chain stays for `verify` to find.
    fn new_segment(
        &self,
        dir: &Path,
        keys: &Keys,
        anchor: Option<Anchor>,
        damage: &Damage,
    ) -> Result<(Plan, Option<Event>), AuditError> {
        let known = match &self.head {
            Stored::Valid(head) => Some(*head),
            Stored::Absent | Stored::Invalid => None,
        };
        let mut head = match known {
            Some(head) => head,
            None => self.rebuilt_head(dir, keys)?,
        };
        let seen = self.highest_seen(dir).max(head.last.seq).max(anchor.map_or(0, |a| a.seq));
        head.last = Anchor { seq: seen, mac: keys.segment(&head.log, seen) };
        (head.synced, head.closed) = (head.last, false);
        head.boot = Head::new(keys, head.log).boot;
        let event = accepted(damage, seen);
        Ok((Plan { head, firsts: self.firsts.clone(), current: None }, Some(event)))
    }

    /// A head from what the oldest genuine file says of itself.
    fn rebuilt_head(&self, dir: &Path, keys: &Keys) -> Result<Head, AuditError> {
        for first in &self.firsts {
            let mut line = Vec::new();
            let path = files::path_of(dir, *first);
            let read = Lines::open(&path).and_then(|mut lines| lines.next(&mut line));
            let Some(start) = read.ok().and_then(|_| FileStart::verified(&line, keys)) else {
                continue;
            };
            let mut head = Head::new(keys, start.log);
            head.base = Anchor { seq: first.saturating_sub(1), mac: start.previous };
            return Ok(head);
        }
        Ok(fresh(keys)?.head)
    }

    /// The highest number that any file's name or any line of the last file claims.
    fn highest_seen(&self, dir: &Path) -> u64 {
        let Some(last) = self.firsts.last().copied() else { return 0 };
        let mut highest = last;
        let mut line = Vec::new();
        let Ok(mut lines) = Lines::open(&files::path_of(dir, last)) else { return highest };
        while let Ok(next) = lines.next(&mut line) {
            match next {
                Next::Line => {
                    let claim = Sealed::parse(&line).map_or(0, |sealed| sealed.claim.seq);
                    // A forged number may not use up the numbers there are.
                    highest = highest.max(claim.min(highest.saturating_add(LEAP)));
                }
                Next::TooLong => {}
                Next::Torn | Next::End => break,
            }
        }
        highest
    }
}

/// The largest step of a claimed number that is believed, after damage.
const LEAP: u64 = 1 << 32;

fn fresh(keys: &Keys) -> Result<End, AuditError> {
    let mut log: LogId = [0; 16];
    getrandom::fill(&mut log).map_err(|_| AuditError::NoRandomness)?;
    let head = Head::new(keys, log);
    Ok(End { head, last: head.last, file: None, rest: false })
}

/// Deletes the files that the head no longer asks for: a retention that was cut short.
fn finish_retention(dir: &Path, firsts: &mut Vec<u64>, head: &Head) {
    firsts.retain(|first| {
        let keep = *first > head.base.seq;
        if !keep {
            // Left lying it does no harm: nothing asks for it.
            let _ = std::fs::remove_file(files::path_of(dir, *first));
        }
        keep
    });
}

fn verified_start(dir: &Path, first: u64, keys: &Keys) -> bool {
    let mut line = Vec::new();
    let read = Lines::open(&files::path_of(dir, first)).and_then(|mut l| l.next(&mut line));
    read.is_ok() && FileStart::verified(&line, keys).is_some()
}

/// Follows the chain from the head's record to the end of the last file.
struct Walk<'a> {
    dir: &'a Path,
    keys: &'a Keys,
    head: &'a Head,
    anchor: Option<Anchor>,
    /// The machine went down under the log.
    crashed: bool,
    /// The last record that no crash can have taken.
    certain: Anchor,
    /// The last good record; none before the first.
    last: Option<Anchor>,
    /// The last file with a good record, and where that ends.
    file: Option<(u64, u64)>,
    /// The first that is not good.
    bad: Option<Bad>,
}

struct Bad {
    file: PathBuf,
    what: What,
    /// It is one unfinished line at the very end.
    unfinished: bool,
}

impl<'a> Walk<'a> {
    fn new(dir: &'a Path, keys: &'a Keys, head: &'a Head, anchor: Option<Anchor>) -> Self {
        let crashed = head.machine_crashed();
        let certain = if crashed { head.synced } else { head.last };
        // Nothing of it is in a file: the chain starts at the base.
        let last = (certain.seq <= head.base.seq).then_some(head.base);
        Self { dir, keys, head, anchor, crashed, certain, last, file: None, bad: None }
    }

    fn stopped(&self) -> bool {
        self.bad.is_some()
    }

    fn file(&mut self, first: u64, is_last: bool) -> Result<(), AuditError> {
        let path = files::path_of(self.dir, first);
        if is_last && self.last.is_none() && self.tail(first, &path)? {
            return Ok(());
        }
        let lines = Lines::open(&path).map_err(AuditError::io("read", &path))?;
        self.lines(first, &path, lines, is_last)
    }

    /// Reads only the end of a long file. False when that is not enough.
    fn tail(&mut self, first: u64, path: &Path) -> Result<bool, AuditError> {
        let read = AuditError::io("read", path);
        let file = files::open_plain(path);
        let opened = file.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.map_err(read)?;
        let Some(start) = size.checked_sub(TAIL) else { return Ok(false) };
        let mut lines = Lines::at(file, start).map_err(AuditError::io("read", path))?;
        let mut line = Vec::new();
        // The first line is cut; the second gives the MAC to go on from, and must not be past the
        // certain record, or that would go unseen.
        for _ in 0..2 {
            lines.next(&mut line).map_err(AuditError::io("read", path))?;
        }
        let Some(sealed) = Sealed::parse(&line) else { return Ok(false) };
        if sealed.claim.seq > self.certain.seq {
            return Ok(false);
        }
        self.last = Some(sealed.claim);
        self.pinned(path, sealed.claim);
        self.lines(first, path, lines, true)?;
        Ok(true)
    }

    fn lines(
        &mut self,
        first: u64,
        path: &Path,
        mut lines: Lines,
        is_last: bool,
    ) -> Result<(), AuditError> {
        let mut line = Vec::new();
        while self.bad.is_none() {
            let start = lines.offset;
            let next = lines.next(&mut line).map_err(AuditError::io("read", path))?;
            let (what, unfinished) = match next {
                Next::End => return Ok(()),
                Next::Torn => (What::Torn, is_last),
                Next::TooLong => (What::NotARecord, false),
                Next::Line => match self.line(first, start, &line) {
                    Ok(at) => {
                        self.last = Some(at);
                        self.file = Some((first, lines.offset));
                        self.pinned(path, at);
                        continue;
                    }
                    Err(what) => (what, false),
                },
            };
            self.bad = Some(Bad { file: path.to_owned(), what, unfinished });
        }
        Ok(())
    }

    fn line(&self, first: u64, start: u64, line: &[u8]) -> Result<Anchor, What> {
        let sealed = Sealed::parse(line).ok_or(What::NotARecord)?;
        let before = self.last.or_else(|| {
            let mac = FileStart::parse(line)?.previous;
            Some(Anchor { seq: first.saturating_sub(1), mac })
        });
        let before = before.ok_or(What::NotARecord)?;
        let next = before.seq.saturating_add(1);
        let named = start > 0 || sealed.claim.seq == first;
        if sealed.claim.seq != next || !named {
            return Err(What::Missing { through: sealed.claim.seq.saturating_sub(1) });
        }
        let genuine = sealed.follows(self.keys, &before.mac);
        genuine.then_some(sealed.claim).ok_or(What::Edited)
    }

    /// Compares a record with what head and anchor know of it.
    fn pinned(&mut self, path: &Path, at: Anchor) {
        let head = [Some(self.head.last), Some(self.certain)];
        for known in head.into_iter().chain([self.anchor]).flatten() {
            if known.seq == at.seq && known != at {
                let what = What::Diverged;
                self.bad = Some(Bad { file: path.to_owned(), what, unfinished: false });
            }
        }
    }

    /// Whether what was found is a whole log, or one that a crash explains.
    fn judge(self) -> Result<End, Damage> {
        let last = self.last.unwrap_or(self.head.base);
        let seq = last.seq.saturating_add(1);
        let fallback = files::path_of(self.dir, self.file.map_or(seq, |(first, _)| first));
        let diverged = self.bad.as_ref().is_some_and(|bad| bad.what == What::Diverged);
        if let Some(bad) = &self.bad
            && (diverged || !(bad.unfinished || self.crashed))
        {
            let seq = if diverged { last.seq } else { seq };
            return Err(Damage { file: bad.file.clone(), seq, what: bad.what });
        }
        let floor = self.certain.seq.max(self.anchor.map_or(0, |a| a.seq));
        if last.seq < floor {
            let what = What::TruncatedTail { expected_seq: floor };
            return Err(Damage { file: fallback, seq, what });
        }
        Ok(End { head: *self.head, last, file: self.file, rest: self.bad.is_some() })
    }
}

/// Moves what follows the last good record out of the log, into files beside it.
fn set_aside(dir: &Path, end: &End, firsts: &[u64]) -> Result<PathBuf, AuditError> {
    let (keep, size) = end.file.unwrap_or((0, 0));
    let mut aside = None;
    for first in firsts.iter().filter(|first| **first >= keep) {
        let path = files::path_of(dir, *first);
        let from = if *first == keep { size } else { 0 };
        let moved = move_tail(&path, from, &free_name(dir, *first, end.last.seq + 1));
        let moved = moved.map_err(AuditError::io("set aside the end of", &path))?;
        aside = aside.or(moved);
    }
    Ok(aside.unwrap_or_else(|| dir.to_owned()))
}

/// A name that no file has: `torn-<seq>.txt`, then with a number.
fn free_name(dir: &Path, first: u64, seq: u64) -> PathBuf {
    let seq = seq.max(first);
    let names = (0..).map(|n| match n {
        0 => format!("torn-{seq:020}.txt"),
        n => format!("torn-{seq:020}.{n}.txt"),
    });
    let mut paths = names.map(|name| dir.join(name));
    // Invariant: the names do not end.
    paths.find(|path| !path.exists()).unwrap_or_default()
}

/// Copies what follows `from` to `aside`, and only then cuts it off.
fn move_tail(path: &Path, from: u64, aside: &Path) -> io::Result<Option<PathBuf>> {
    use std::io::{Seek, SeekFrom};
    let mut file = files::open_plain(path)?;
    if file.metadata()?.len() <= from {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(from))?;
    let mut copy = files::create(aside, Mode::Append)?;
    io::copy(&mut file, &mut copy)?;
    copy.sync_all()?;
    let file = File::options().write(true).open(path)?;
    file.set_len(from)?;
    file.sync_all()?;
    Ok(Some(aside.to_owned()))
}

fn resume_file(dir: &Path, first: u64, size: u64) -> Result<Current, AuditError> {
    let path = files::path_of(dir, first);
    let start = FileStart::read(&path).map_err(AuditError::io("read", &path))?;
    let opened = start.and_then(|start| start.time.parse::<jiff::Timestamp>().ok());
    let opened = opened.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
    Current::resume(dir, first, size, opened)
}

/// Deletes the files after the last record: a rotation made them and did not get to their first.
fn remove_later(dir: &Path, firsts: &mut Vec<u64>, last: u64) -> Result<(), AuditError> {
    for first in firsts.iter().filter(|first| **first > last) {
        remove_empty(&files::path_of(dir, *first))?;
    }
    firsts.retain(|first| *first <= last);
    Ok(())
}

/// Deletes a file that has nothing in it, and no other.
fn remove_empty(path: &Path) -> Result<(), AuditError> {
    let length = std::fs::symlink_metadata(path).map(|meta| meta.len());
    let removed = length.and_then(|length| match length {
        0 => std::fs::remove_file(path),
        _ => Err(io::ErrorKind::DirectoryNotEmpty.into()),
    });
    removed.map_err(AuditError::io("delete, as empty,", path))
}

fn recovered(after: u64, lost: u64, aside: Option<&Path>) -> Event {
    let aside = aside.and_then(Path::file_name);
    let detail = match lost {
        0 => format!("an unfinished line after record {after} was set aside"),
        n => format!("{n} records after record {after} were lost when the machine went down"),
    };
    Event {
        event: "audit-recovered",
        workspace: None,
        subject: aside.map(|name| name.to_string_lossy().into_owned()),
        detail: Some(detail),
        by: None,
        vault_epoch: None,
    }
}

fn accepted(damage: &Damage, seen: u64) -> Event {
    let Damage { file, seq, what } = damage;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Event {
        event: "audit-damage-accepted",
        workspace: None,
        subject: Some(name),
        detail: Some(format!("at record {seq}: {what}; a new chain starts after {seen}")),
        by: None,
        vault_epoch: None,
    }
}
