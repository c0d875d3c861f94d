//! The audit directory: names, modes, the lock, and reading lines.
//!
//! Nothing here follows a link or blocks on a pipe: the directory is private, and whatever else
//! stands in a file's place is an error.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use super::{AuditError, line};

pub(super) const LOCK: &str = ".lock";
pub(super) const HEAD: &str = "head";
pub(super) const HEAD_NEW: &str = "head.new";

/// The name of the file whose first record has this number.
pub(super) fn name_of(first: u64) -> String {
    format!("audit-{first:020}.jsonl")
}

fn first_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    (number.len() == 20 && number.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    number.parse().ok().filter(|first| *first > 0)
}

/// The files of the log by the number of their first record, oldest first. What has such a name
/// and is no plain file is none: the file is missing.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut firsts = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let first = entry.file_name().to_str().and_then(first_of);
        if first.is_some() && entry.file_type()?.is_file() {
            firsts.extend(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// How a new file is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// At its end, always.
    Append,
    /// Anywhere.
    InPlace,
}

/// Makes a file of mode 0600 that was not there.
pub(super) fn create(path: &Path, mode: Mode) -> io::Result<File> {
    let mut options = options();
    options.create_new(true).mode(0o600);
    match mode {
        Mode::Append => options.append(true).open(path),
        Mode::InPlace => options.write(true).open(path),
    }
}

/// Opens a plain file for reading.
pub(super) fn open_plain(path: &Path) -> io::Result<File> {
    plain(options().open(path)?)
}

/// Opens a plain file to write on, and finds that nobody else may.
pub(super) fn open_own(path: &Path, mode: Mode) -> Result<File, AuditError> {
    let mut options = options();
    let options = match mode {
        Mode::Append => options.append(true),
        Mode::InPlace => options.write(true),
    };
    let open = options.open(path).and_then(plain);
    let file = open.map_err(AuditError::io("open", path))?;
    let meta = file.metadata().map_err(AuditError::io("look at", path))?;
    private(path, &meta, 0o077)?;
    Ok(file)
}

/// `O_NOFOLLOW`: a link is an error. `O_NONBLOCK`: a pipe does not hang; without effect on files.
fn options() -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    // Invariant: the flags' bits are those of a C int.
    options.read(true).custom_flags(flags.bits().cast_signed());
    options
}

fn plain(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"))
    }
}

/// Makes the directory, mode 0700, or finds it so.
pub(super) fn secure_dir(dir: &Path) -> Result<(), AuditError> {
    let meta = match std::fs::symlink_metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return make_dir(dir),
        other => other.map_err(AuditError::io("look at", dir))?,
    };
    if !meta.is_dir() {
        return Err(AuditError::NotADirectory { path: dir.to_owned() });
    }
    // Others may see that there are files, but not put any there, nor read them.
    private(dir, &meta, 0o022)
}

fn make_dir(dir: &Path) -> Result<(), AuditError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(AuditError::io("create", dir))?;
    if let Some(parent) = dir.parent() {
        sync_dir(parent).map_err(AuditError::io("sync", parent))?;
    }
    Ok(())
}

fn private(path: &Path, meta: &Metadata, forbidden: u32) -> Result<(), AuditError> {
    let mode = meta.mode() & 0o7777;
    // Root can read and replace whatever it likes anyway.
    let ours = [0, rustix::process::geteuid().as_raw()].contains(&meta.uid());
    if ours && mode & forbidden == 0 {
        Ok(())
    } else {
        Err(AuditError::NotPrivate { path: path.to_owned(), mode })
    }
}

/// Makes the names in a directory survive a power failure.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Takes the directory's lock, which lives as long as the file. `is_locked` holds it for an
/// instant, hence a few tries.
pub(super) fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join(LOCK);
    let file = match create(&path, Mode::InPlace) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => open_own(&path, Mode::InPlace)?,
        other => other.map_err(AuditError::io("create", &path))?,
    };
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(e) => return Err(AuditError::io("lock", &path)(e.into())),
        }
    }
    Err(AuditError::Locked { dir: dir.to_owned() })
}

const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Whether a process holds the directory's lock.
pub(super) fn is_locked(dir: &Path) -> bool {
    let Ok(file) = open_plain(&dir.join(LOCK)) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

/// Which file: the same for every name and handle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl From<&Metadata> for Identity {
    fn from(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino())
    }
}

/// What stands at a path; none when nothing does.
pub(super) fn identity_at(path: &Path) -> io::Result<Option<Identity>> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(Identity::from(&meta))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Reads a file line by line in constant memory.
pub(super) struct Lines {
    reader: BufReader<File>,
    /// Where the next line starts.
    pub(super) offset: u64,
}

/// What [`Lines::next`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A line, in the buffer without its newline.
    Line,
    /// A line that no writer of ours made: it is too long, and only its start is in the buffer.
    TooLong,
    /// The last line lacks its newline.
    Torn,
    /// The end of the file.
    End,
}

/// Large enough that system calls do not count, small enough for many readers.
const BUFFER: usize = 256 * 1024;

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::at(open_plain(path)?, 0)
    }

    pub(super) fn at(mut file: File, offset: u64) -> io::Result<Self> {
        file.seek(SeekFrom::Start(offset))?;
        let reader = BufReader::with_capacity(BUFFER, file);
        Ok(Self { reader, offset })
    }

    /// Reads the next line into `line`.
    pub(super) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Next> {
        line.clear();
        let limit = line::MAX_LINE as u64 + 1;
        let read = (&mut self.reader).take(limit).read_until(b'\n', line)?;
        self.offset += read as u64;
        if line.pop_if(|b| *b == b'\n').is_some() {
            Ok(Next::Line)
        } else if line.is_empty() {
            Ok(Next::End)
        } else if (line.len() as u64) < limit {
            Ok(Next::Torn)
        } else {
            self.offset += self.reader.skip_until(b'\n')? as u64;
            Ok(Next::TooLong)
        }
    }
}

/// Where a file lies.
pub(super) fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(name_of(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names() {
        assert_eq!(first_of(&name_of(7)), Some(7));
        assert_eq!(first_of(&name_of(u64::MAX)), Some(u64::MAX));
        for no in ["audit-7.jsonl", "audit-0000000000000000000x.jsonl", "head", "torn-7.txt"] {
            assert_eq!(first_of(no), None, "{no}");
        }
        assert_eq!(first_of(&name_of(0)), None);
    }

    #[test]
    fn what_is_created_is_private_and_what_is_loose_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        secure_dir(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        let path = dir.join("file");
        create(&path, Mode::Append).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        open_own(&path, Mode::Append).unwrap();

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let loose = open_own(&path, Mode::Append);
        assert!(matches!(loose, Err(AuditError::NotPrivate { mode: 0o640, .. })));
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o770)).unwrap();
        assert!(matches!(secure_dir(&dir), Err(AuditError::NotPrivate { mode: 0o770, .. })));
    }

    #[test]
    fn links_pipes_and_directories_are_not_files() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        create(&at("file"), Mode::Append).unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        for name in ["link", "pipe", "."] {
            assert!(open_plain(&at(name)).is_err(), "{name}");
            assert!(open_own(&at(name), Mode::Append).is_err(), "{name}");
        }
        std::os::unix::fs::symlink(home.path(), at("dirlink")).unwrap();
        assert!(matches!(secure_dir(&at("dirlink")), Err(AuditError::NotADirectory { .. })));
        assert!(matches!(secure_dir(&at("file")), Err(AuditError::NotADirectory { .. })));
    }

    #[test]
    fn one_lock_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        assert!(!is_locked(home.path()));
        let held = lock(home.path()).unwrap();
        assert!(is_locked(home.path()));
        assert!(matches!(lock(home.path()), Err(AuditError::Locked { .. })));
        drop(held);
        assert!(!is_locked(home.path()));
        lock(home.path()).unwrap();
    }

    #[test]
    fn lines_of_every_kind() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        let long = "x".repeat(line::MAX_LINE + 1);
        let full = "y".repeat(line::MAX_LINE);
        std::fs::write(&path, format!("a\n\n{long}\n{full}\nend")).unwrap();
        let mut lines = Lines::open(&path).unwrap();
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        loop {
            let next = lines.next(&mut buffer).unwrap();
            seen.push((next, buffer.len()));
            if next == Next::End {
                break;
            }
        }
        let max = line::MAX_LINE;
        assert_eq!(
            seen,
            [
                (Next::Line, 1),
                (Next::Line, 0),
                (Next::TooLong, max + 1),
                (Next::Line, max),
                (Next::Torn, 3),
                (Next::End, 0),
            ]
        );
        assert_eq!(lines.offset, std::fs::metadata(&path).unwrap().len());
    }
}
