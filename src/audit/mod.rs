//! The audit log: JSON lines under a keyed MAC chain, written before the call they are about.
//!
//! What is written, and what `verify` proves, is in `docs/AUDIT_FORMAT.md`. Records are formatted and
//! hashed by the thread that brings them; whichever of them gets the writer's lock first writes for
//! all that wait, in one call. So many cores do not wait for one another's system calls, and
//! [`Fsync::Always`] shares its waits for the disk. Nobody waits for an outcome: it goes with the next
//! access record.

mod chain;
mod fields;
mod files;
mod head;
mod line;
mod query;
mod resume;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use crate::record::{Access, AuditSink, Commit, Event, Outcome, Unrecorded};
use crate::secret::Secret;
use chain::Keys;
use fields::Fields;
use writer::{Batch, Writer};

pub use chain::{Anchor, AnchorError, KEY_LENGTH};
pub use line::{CUT, Kind, MAX_LINE};
pub use query::{Entry, Filter, Follow, Query, query, tail};
pub use verify::{Finding, Progress, Report, What, verify};

/// When records are brought to the disk itself. `kill -9` loses nothing under any of them; this is
/// about power failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before each record counts as written. A call then waits for the disk.
    Always,
    /// In the background, this often, when there is something new.
    Interval(Duration),
    /// When the system likes, and at the end.
    Never,
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// When records are brought to the disk.
    pub fsync: Fsync,
    /// A file that would grow past this is followed by a new one.
    pub max_file_bytes: u64,
    /// Records older than this may be deleted, file by file; none keeps all.
    pub retain: Option<Duration>,
    /// Go on over damage, in a new chain that says so. The damage stays visible to [`verify`].
    pub accept_damage: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            fsync: Fsync::Interval(Duration::from_secs(1)),
            max_file_bytes: 256 * 1024 * 1024,
            retain: None,
            accept_damage: false,
        }
    }
}

impl Options {
    /// The longest time that one file may span: files are deleted whole, so a record lives this much
    /// longer than asked for, at most.
    fn longest_file(&self) -> Option<Duration> {
        const DAY: Duration = Duration::from_hours(24);
        self.retain.map(|retain| (retain / 4).min(DAY))
    }
}

/// Why a log cannot be opened, read or closed.
#[derive(Debug)]
pub enum AuditError {
    /// The key has not [`KEY_LENGTH`] bytes.
    KeyLength {
        /// How many it has.
        found: usize,
    },
    /// The system gives no random numbers.
    NoRandomness,
    /// Another process writes this log.
    Locked {
        /// The log's directory.
        dir: PathBuf,
    },
    /// A file or the directory belongs to another user, or others may use it.
    NotPrivate {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Something else stands where the directory should be.
    NotADirectory {
        /// Where.
        path: PathBuf,
    },
    /// The log was made with another key.
    WrongKey {
        /// What does not verify.
        file: PathBuf,
    },
    /// The log is not as it was left.
    Tampered {
        /// In which file.
        file: PathBuf,
        /// At which record.
        seq: u64,
        /// In which way.
        what: What,
    },
    /// A line is no record.
    NotARecord {
        /// In which file.
        path: PathBuf,
        /// On which line, from 1.
        line: u64,
    },
    /// The log cannot be written; its cause was logged.
    Unwritable {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The operating system said no.
    Io {
        /// To what.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// In its own words.
        source: io::Error,
    },
}

impl AuditError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyLength { found } => {
                write!(f, "the audit key has {found} bytes, not {KEY_LENGTH}")
            }
            Self::NoRandomness => f.write_str("the system gives no random numbers"),
            Self::Locked { dir } => write!(
                f,
                "another process writes the audit log in {}; stop it, or use its own commands",
                dir.display()
            ),
            Self::NotPrivate { path, mode } => write!(
                f,
                "{} must be yours alone, and has mode {mode:04o}; check who changed it, then chown \
                 it to the proxy's user and chmod it to 0700 (directory) or 0600 (file)",
                path.display()
            ),
            Self::NotADirectory { path } => write!(
                f,
                "{} is a link or a file, and must be a directory; move it away or set audit.dir",
                path.display()
            ),
            Self::WrongKey { file } => write!(
                f,
                "{} was not made with this vault's key; give the home its own vault back, or move \
                 the audit directory away",
                file.display()
            ),
            Self::Tampered { file, seq, what } => write!(
                f,
                "the audit log is damaged at record {seq} ({}): {what}; keep a copy, run `locum \
                 audit verify`, and start with --accept-audit-damage to go on in a new chain",
                file.display()
            ),
            Self::NotARecord { path, line } => {
                write!(f, "{}:{line} is no audit record; run `locum audit verify`", path.display())
            }
            Self::Unwritable { dir } => write!(
                f,
                "the audit log in {} cannot be written; the log line before this names the cause",
                dir.display()
            ),
            Self::Io { action, path, .. } => {
                write!(f, "cannot {action} {}; check its disk and mode", path.display())
            }
        }
    }
}

impl std::error::Error for AuditError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The log's own numbers, for metrics. Counted since the log was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Access records written.
    pub accesses: u64,
    /// Outcome records written.
    pub outcomes: u64,
    /// Events written, with the log's own.
    pub events: u64,
    /// Access records that were not written; their calls were refused.
    pub refused_accesses: u64,
    /// Outcome records that were not written.
    pub lost_outcomes: u64,
    /// Events that were not written.
    pub lost_events: u64,
    /// How often the log became unwritable.
    pub failures: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How long the last sync took.
    pub last_sync: Option<Duration>,
    /// How long ago it ended.
    pub last_sync_age: Option<Duration>,
}

/// Counts what was written.
#[derive(Default)]
struct Counters {
    written: [AtomicU64; 3],
    failures: AtomicU64,
    bytes: AtomicU64,
    last_sync: Mutex<Option<(Duration, Instant)>>,
}

impl Counters {
    fn written(&self, kind: Kind) {
        if let Some(counter) = self.written.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn bytes(&self, n: usize) {
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
    }

    fn synced(&self, started: Instant) {
        let now = Instant::now();
        *self.last_sync.lock() = Some((now - started, now));
    }
}

/// Counts what was not, by kind: in all, and up to the last `audit-resumed` event.
#[derive(Default)]
struct Lost {
    all: [AtomicU64; 3],
    told: [AtomicU64; 3],
}

impl Lost {
    fn count(&self, kind: Kind) {
        if let Some(counter) = self.all.get(kind as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the next event has to tell.
    fn peek(&self) -> [u64; 3] {
        let pairs = self.all.each_ref().map(|n| n.load(Ordering::Relaxed));
        let told = self.told.each_ref().map(|n| n.load(Ordering::Relaxed));
        std::array::from_fn(|kind| pairs[kind].saturating_sub(told[kind]))
    }

    /// It was told.
    fn settle(&self, counts: [u64; 3]) {
        for (told, n) in self.told.iter().zip(counts) {
            told.fetch_add(n, Ordering::Relaxed);
        }
    }
}

/// An open audit log: the only writer of its directory.
pub struct AuditLog {
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// A clock that nobody can set, from whenever it began.
type Steady = Arc<dyn Fn() -> Duration + Send + Sync>;

struct Shared {
    keys: Arc<Keys>,
    clock: Clock,
    steady: Steady,
    /// Whether records are accepted. Follows the writer's state.
    healthy: AtomicBool,
    /// Whether the background looks after what waits every [`SOON`].
    soon: AtomicBool,
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    counters: Arc<Counters>,
    lost: Lost,
    background: (Mutex<Background>, Condvar),
}

/// What the background thread is told.
#[derive(Default)]
struct Background {
    stop: bool,
    /// Something waits that nobody else may come to write.
    soon: bool,
}

/// Lines that wait for the writer, and the commit that all who brought one hold.
#[derive(Default)]
struct Queue {
    batch: Batch,
    commit: Arc<Commit>,
}

impl AuditLog {
    /// Opens the log in `dir`, makes it if there is none, and goes on where it ends. `key` is the
    /// vault's key for this log; `anchor` is the position that was stored outside it.
    ///
    /// # Errors
    /// [`AuditError::Tampered`] and [`AuditError::WrongKey`] when the log is not as it was left,
    /// unless `options` accept damage; [`AuditError::Locked`] when another process writes it.
    pub fn open(
        dir: &Path,
        key: &Secret,
        options: Options,
        anchor: Option<Anchor>,
    ) -> Result<Self, AuditError> {
        let start = Instant::now();
        let steady = Arc::new(move || start.elapsed());
        Self::open_by(dir, key, options, anchor, (Arc::new(SystemTime::now), steady))
    }

    /// By a clock that is never set.
    #[cfg(test)]
    fn open_at(
        dir: &Path,
        key: &Secret,
        options: Options,
        anchor: Option<Anchor>,
        clock: Clock,
    ) -> Result<Self, AuditError> {
        let same = Arc::clone(&clock);
        let since = move || same().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::open_by(dir, key, options, anchor, (clock, Arc::new(since)))
    }

    fn open_by(
        dir: &Path,
        key: &Secret,
        options: Options,
        anchor: Option<Anchor>,
        (clock, steady): (Clock, Steady),
    ) -> Result<Self, AuditError> {
        let interval = match options.fsync {
            Fsync::Interval(interval) => Some(interval),
            Fsync::Always | Fsync::Never => None,
        };
        let mut writer = resume::open(dir, Keys::new(key)?, options, anchor, clock())?;
        writer.begin_at(clock(), steady());
        let shared = Arc::new(Shared {
            keys: Arc::clone(&writer.keys),
            clock,
            steady,
            healthy: AtomicBool::new(true),
            queue: Mutex::default(),
            counters: Arc::clone(&writer.counters),
            writer: Mutex::new(writer),
            lost: Lost::default(),
            soon: AtomicBool::new(false),
            background: (Mutex::default(), Condvar::new()),
        });
        let keeper = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("locum-audit".to_owned())
                .stack_size(KEEPER_STACK)
                .spawn(move || shared.keep(interval))
                .map_err(AuditError::io("start a thread for", dir))?
        };
        Ok(Self { shared, keeper: Mutex::new(Some(keeper)) })
    }

    /// Whether a process writes the log in `dir`: a proxy serves this home.
    #[must_use]
    pub fn is_locked(dir: &Path) -> bool {
        files::is_locked(dir)
    }

    /// Whether records are written. When not, every access is refused, and the log mends itself as
    /// soon as it can.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Acquire)
    }

    /// Why it is not healthy, for a person.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.with_writer(|writer| writer.trouble())
    }

    /// The last record that even a power failure cannot take back. Kept outside the log (the vault
    /// keeps it), it shows when the log is put back to an earlier state. Under [`Fsync::Never`] it
    /// moves only when the log is opened and closed.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        self.shared.with_writer(|writer| writer.anchor())
    }

    /// The last record, on the disk or not.
    #[must_use]
    pub fn last(&self) -> Anchor {
        self.shared.with_writer(|writer| writer.head.last)
    }

    /// The log's numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let Shared { counters, lost, .. } = &*self.shared;
        let [accesses, outcomes, events] = counters.written.each_ref().map(read);
        let [refused_accesses, lost_outcomes, lost_events] = lost.all.each_ref().map(read);
        let last_sync = *counters.last_sync.lock();
        Stats {
            accesses,
            outcomes,
            events,
            refused_accesses,
            lost_outcomes,
            lost_events,
            failures: read(&counters.failures),
            bytes: read(&counters.bytes),
            last_sync: last_sync.map(|(took, _)| took),
            last_sync_age: last_sync.map(|(_, at)| at.elapsed()),
        }
    }

    /// Brings everything to the disk, and marks the log as closed in order. Later records are
    /// refused. Returns the final position.
    ///
    /// # Errors
    /// When the log could not be written or synced; then it is as `kill -9` would have left it.
    pub fn close(&self) -> Result<Anchor, AuditError> {
        self.stop_keeper();
        // Who is past this check still gets written, or is refused by the closed writer.
        self.shared.healthy.store(false, Ordering::Release);
        self.shared.with_writer(|writer| {
            self.shared.write_queue(writer);
            let closed = writer.close();
            self.shared.healthy.store(false, Ordering::Release);
            closed
        })
    }

    fn stop_keeper(&self) {
        let (background, wake) = &self.shared.background;
        background.lock().stop = true;
        wake.notify_all();
        if let Some(keeper) = self.keeper.lock().take() {
            // It has no result, and a panic of it has been reported.
            let _ = keeper.join();
        }
    }
}

#[cfg(test)]
impl AuditLog {
    /// Does what the background does within [`SOON`].
    fn settle(&self) {
        self.shared.with_writer(|writer| {
            self.shared.write_queue(writer);
            writer.settle_head()
        });
    }

    /// Ends as `kill -9` would.
    fn kill(self) {
        self.stop_keeper();
        self.shared.writer.lock().abandon();
    }

    /// What the disk does at the next appends. Also stops the background, so that nothing mends.
    fn inject(&self, fault: writer::tests::Fault) {
        self.stop_keeper();
        self.shared.writer.lock().faults.push_back(fault);
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the audit log was not closed in order");
        }
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("healthy", &self.healthy()).finish_non_exhaustive()
    }
}

impl AuditSink for AuditLog {
    fn access(&self, record: &Access<'_>) -> Result<(), Unrecorded> {
        self.shared.record(Kind::Access, record)
    }

    fn take(&self, record: &Access<'_>) -> Result<Option<Arc<Commit>>, Unrecorded> {
        self.shared.enqueue(Kind::Access, record).map(Some)
    }

    fn written(&self, commit: &Commit) -> Result<(), Unrecorded> {
        self.shared.written(commit)
    }

    fn outcome(&self, record: &Outcome) {
        // Counted where it is lost; the call has been made, and nobody can take it back.
        self.shared.record_soon(Kind::Outcome, record);
    }

    fn event(&self, record: &Event) -> Result<(), Unrecorded> {
        self.shared.record(Kind::Event, record)
    }
}

impl Shared {
    /// Writes a record, and waits until it is written.
    fn record(&self, kind: Kind, record: &impl Fields) -> Result<(), Unrecorded> {
        let commit = self.enqueue(kind, record)?;
        self.written(&commit)
    }

    /// Waits until the batch of this commit is written.
    fn written(&self, commit: &Commit) -> Result<(), Unrecorded> {
        if !self.wait_a_little(commit) {
            self.with_writer(|writer| self.settle(writer, commit));
        }
        commit.is_written().then_some(()).ok_or(Unrecorded)
    }

    /// Writes a record that nobody waits for: with the next that somebody does wait for, or within
    /// [`SOON`], so that two records cost one system call.
    fn record_soon(&self, kind: Kind, record: &impl Fields) {
        let Ok(commit) = self.enqueue(kind, record) else { return };
        if !commit.is_waiting() {
            return;
        }
        if self.queue.lock().batch.is_long() {
            return self.flush();
        }
        if !self.soon.swap(true, Ordering::AcqRel) {
            let (background, wake) = &self.background;
            background.lock().soon = true;
            wake.notify_all();
        }
    }

    /// Formats and hashes the line, and puts it where the next writer finds it. From then on it is
    /// the writer who counts it, as written or as lost.
    fn enqueue(&self, kind: Kind, record: &impl Fields) -> Result<Arc<Commit>, Unrecorded> {
        thread_local! {
            static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let refused = || {
            self.lost.count(kind);
            Unrecorded
        };
        if !self.is_or_gets_healthy() {
            return Err(refused());
        }
        BODY.with_borrow_mut(|body| {
            line::body(body, kind, (self.clock)(), record).map_err(|error| {
                tracing::error!(%error, "an audit record cannot be written as JSON");
                refused()
            })?;
            let mac = self.keys.begin(body);
            let mut queue = self.queue.lock();
            queue.batch.push(body, mac, kind);
            Ok(Arc::clone(&queue.commit))
        })
    }

    /// Waits for a short time without giving up the core: a write takes less time than to sleep and
    /// be woken. True when the batch was settled by another.
    fn wait_a_little(&self, commit: &Commit) -> bool {
        for _ in 0..SPINS {
            if !commit.is_waiting() {
                return true;
            }
            if !self.writer.is_locked() {
                return false;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Does something with the writer, and then writes what others left because the lock was taken.
    fn with_writer<R>(&self, act: impl FnOnce(&mut Writer) -> R) -> R {
        let done = act(&mut self.writer.lock());
        self.flush();
        done
    }

    /// Writes what waits, unless another thread holds the writer: then that thread comes here when
    /// it has let go of it, and finds what was put into the queue before.
    fn flush(&self) {
        while !self.queue.lock().batch.is_empty() {
            let Some(mut writer) = self.writer.try_lock() else { return };
            self.write_queue(&mut writer);
        }
    }

    /// Writes the batch of this commit, and what came since, unless somebody has.
    fn settle(&self, writer: &mut Writer, commit: &Commit) {
        if commit.is_waiting() {
            self.write_queue(writer);
        }
    }

    fn write_queue(&self, writer: &mut Writer) {
        let commit = {
            let mut queue = self.queue.lock();
            std::mem::swap(&mut queue.batch, &mut writer.batch);
            std::mem::take(&mut queue.commit)
        };
        let written = writer.commit((self.clock)(), &self.lost);
        if !written {
            self.healthy.store(false, Ordering::Release);
        }
        commit.settle(written);
    }

    fn is_or_gets_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire) || self.mend()
    }

    /// Tries to make an unwritable log writable, unless somebody is at it.
    fn mend(&self) -> bool {
        let mended = {
            let Some(mut writer) = self.writer.try_lock() else { return false };
            let mended = writer.mend((self.clock)(), &self.lost);
            self.healthy.store(mended, Ordering::Release);
            mended
        };
        self.flush();
        mended
    }

    /// The background: writes what nobody waits for, syncs, mends without traffic, deletes what is
    /// too old.
    fn keep(&self, interval: Option<Duration>) {
        let tick = interval.unwrap_or(LONGEST_TICK).clamp(SHORTEST_TICK, LONGEST_TICK);
        let (mut looked, mut synced) = (Instant::now(), Instant::now());
        while !self.stopped_within(tick) {
            let looked_after = self.look_after_the_rest();
            if looked_after && looked.elapsed() < tick {
                continue;
            }
            looked = Instant::now();
            if !self.is_or_gets_healthy() {
                continue;
            }
            if interval.is_some_and(|interval| synced.elapsed() >= interval) {
                self.sync();
                synced = Instant::now();
            }
            self.keep_house();
        }
    }

    /// Writes what waits. False when nothing came since the last look: then the next one can be late,
    /// and who brings something wakes this thread.
    fn look_after_the_rest(&self) -> bool {
        if !self.soon.load(Ordering::Acquire) {
            return false;
        }
        let waits = !self.queue.lock().batch.is_empty();
        let written = self.with_writer(|writer| {
            if waits {
                self.write_queue(writer);
            }
            writer.settle_head()
        });
        if !waits && !written {
            self.soon.store(false, Ordering::Release);
            // What was put into the queue before this was seen.
            if !self.queue.lock().batch.is_empty() {
                self.soon.store(true, Ordering::Release);
            }
        }
        true
    }

    fn stopped_within(&self, tick: Duration) -> bool {
        let (background, wake) = &self.background;
        let mut told = background.lock();
        if !told.stop && !told.soon {
            let tick = if self.soon.load(Ordering::Acquire) { SOON } else { tick };
            wake.wait_for(&mut told, tick);
        }
        // Woken for a record that was just brought: others may come to write it within this time.
        if !told.stop && std::mem::take(&mut told.soon) {
            wake.wait_for(&mut told, SOON);
        }
        told.stop
    }

    fn keep_house(&self) {
        self.with_writer(|writer| {
            writer.keep_house((self.clock)(), (self.steady)());
            self.healthy.store(writer.is_healthy(), Ordering::Release);
        });
    }

    /// Waits for the disk without the lock.
    fn sync(&self) {
        let work = self.with_writer(|writer| writer.dirty().then(|| writer.to_sync()));
        let Some(work) = work else { return };
        let started = Instant::now();
        let result = work.run();
        self.counters.synced(started);
        let result = result.and_then(|()| {
            let head = self.with_writer(|writer| writer.synced(&work));
            head.map_or(Ok(()), |head| head.sync_data())
        });
        if let Err(error) = result {
            self.with_writer(|writer| writer.sync_failed(error));
        }
    }
}

/// About as long as one write takes, some microseconds.
const SPINS: u32 = 100;

/// How long a record that nobody waits for may wait for one that somebody does, and how far the head
/// may lag behind. Short against a person's look at the log, and long against a request.
const SOON: Duration = Duration::from_millis(20);

/// The background looks after the log at least this often,
const LONGEST_TICK: Duration = Duration::from_secs(1);
/// and at most this often.
const SHORTEST_TICK: Duration = Duration::from_millis(10);
/// It needs a copy buffer and a few frames.
const KEEPER_STACK: usize = 512 * 1024;
