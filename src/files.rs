//! Files that only their owner may touch: made so from the first byte, and refused when found
//! otherwise.
//!
//! A file is checked by the handle it was opened with, never by its name, and a link in its place
//! is never followed. There is no moment in which a file has a looser mode than the one it keeps.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// The longest path of a Unix socket that Linux takes (`sun_path` of unix(7)), in bytes.
const SOCKET_PATH: usize = 107;

/// A name by which a Unix socket can be bound and found however long its path is, as long as this lives: lend it,
/// because tokio lets go of a path that it is given before it connects.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    _directory: Option<File>,
}

impl SocketPath {
    /// The path itself, or one by way of its open directory.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let itself = || Self { path: path.to_owned(), _directory: None };
        if path.as_os_str().len() <= SOCKET_PATH || !cfg!(target_os = "linux") {
            return itself();
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return itself() };
        let flags = (OFlags::PATH | OFlags::DIRECTORY).bits();
        let opened = File::options().read(true).custom_flags(flags.cast_signed()).open(parent);
        // What is wrong with it, the socket says better.
        let Ok(directory) = opened else { return itself() };
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Self { path, _directory: Some(directory) }
    }

    /// To be bound or connected to while `self` is there. Never given away: some libraries drop an
    /// owned path before they use its name.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

/// Why a file or directory is not trusted, or could not be used.
#[derive(Debug)]
pub enum FileError {
    /// Nothing there.
    Missing(PathBuf),
    /// Something is there already.
    Exists(PathBuf),
    /// A symbolic link, a device, a directory where a file should be, or the reverse.
    NotPlain(PathBuf),
    /// Group or others may read or write the file.
    Loose(PathBuf, u32),
    /// Group or others may write to the directory.
    LooseDirectory(PathBuf, u32),
    /// It belongs to another user, whose number this is.
    Owner(PathBuf, u32),
    /// More bytes than such a file has.
    TooLarge(PathBuf),
    /// Somebody else wrote it between the reading and the writing.
    Changed(PathBuf),
    /// The operating system's own refusal.
    Io(PathBuf, io::Error),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} does not exist", path.display()),
            Self::Exists(path) => {
                write!(f, "{} exists already, and is left as it is", path.display())
            }
            Self::NotPlain(path) => write!(
                f,
                "{} is a link or a special file; put the file or directory itself there",
                path.display()
            ),
            Self::Loose(path, mode) => write!(
                f,
                "{0} is open to others (mode {mode:04o}); run: chmod 600 '{0}'",
                path.display()
            ),
            Self::LooseDirectory(path, mode) => write!(
                f,
                "others may write to {0} (mode {mode:04o}); run: chmod 700 '{0}'",
                path.display()
            ),
            Self::Owner(path, uid) => write!(
                f,
                "{0} belongs to user {uid}; run as that user, or run: chown {1} '{0}'",
                path.display(),
                rustix::process::geteuid().as_raw()
            ),
            Self::TooLarge(path) => {
                write!(f, "{} is far longer than it can be; is it another file?", path.display())
            }
            Self::Changed(path) => {
                write!(
                    f,
                    "{} was changed meanwhile, and is left as it is; run it again",
                    path.display()
                )
            }
            Self::Io(path, _) => write!(f, "{} could not be used", path.display()),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(_, cause) => Some(cause),
            _ => None,
        }
    }
}

impl FileError {
    fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        // `O_NOFOLLOW` on a link says ELOOP.
        if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return Self::NotPlain(path);
        }
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            io::ErrorKind::AlreadyExists => Self::Exists(path),
            _ => Self::Io(path, error),
        }
    }
}

/// Makes a directory of mode 0700, and those above it. One that exists is checked instead.
///
/// # Errors
/// [`FileError`] when it cannot be made, or is not [fit](check_directory).
pub fn create_directory(path: &Path) -> Result<(), FileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| FileError::io(path, e))?;
    check_directory(path)
}

/// Whether nobody but its owner can put a file into the directory, and the owner is this process's
/// user or root.
///
/// # Errors
/// [`FileError`] naming the directory and what to run.
pub fn check_directory(path: &Path) -> Result<(), FileError> {
    let metadata = fs::symlink_metadata(path).map_err(|e| FileError::io(path, e))?;
    if !metadata.is_dir() {
        return Err(FileError::NotPlain(path.to_owned()));
    }
    check_owner(path, &metadata)?;
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(FileError::LooseDirectory(path.to_owned(), mode));
    }
    Ok(())
}

/// Whether the file is a plain one that only its owner can read.
///
/// # Errors
/// [`FileError`] naming the file and what to run.
pub fn check_private(path: &Path) -> Result<(), FileError> {
    let metadata = fs::symlink_metadata(path).map_err(|e| FileError::io(path, e))?;
    check_metadata(path, &metadata)
}

fn check_metadata(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    if !metadata.is_file() {
        return Err(FileError::NotPlain(path.to_owned()));
    }
    check_owner(path, metadata)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(FileError::Loose(path.to_owned(), metadata.mode() & 0o7777));
    }
    Ok(())
}

/// Root may own it: root can read and replace whatever it likes anyway.
fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), FileError> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() == own || metadata.uid() == 0 {
        Ok(())
    } else {
        Err(FileError::Owner(path.to_owned(), metadata.uid()))
    }
}

/// Reads a private file of at most `limit` bytes, into one buffer that is wiped.
///
/// # Errors
/// [`FileError`] when it is missing, not private, or too long.
pub fn read_private(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_checked(path, limit, check_metadata)
}

/// Reads a file that the service manager lends to this process: a private one, or one of root's that
/// one group may read besides. systemd gives a service its credentials so (the mask of their ACL
/// shows as the group's mode), and Kubernetes a pod its secrets.
///
/// # Errors
/// [`FileError`] when it is missing, open to others than that, or too long.
pub fn read_lent(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_checked(path, limit, |path, metadata| {
        let lent = metadata.is_file() && metadata.uid() == 0 && metadata.mode() & 0o037 == 0;
        if lent { Ok(()) } else { check_metadata(path, metadata) }
    })
}

fn read_checked(
    path: &Path,
    limit: usize,
    check: impl FnOnce(&Path, &Metadata) -> Result<(), FileError>,
) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK; // A FIFO must not hang the open.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .map_err(|e| FileError::io(path, e))?;
    check(path, &file.metadata().map_err(|e| FileError::io(path, e))?)?;
    read_bounded(&file, limit)
        .map_err(|e| FileError::io(path, e))?
        .ok_or_else(|| FileError::TooLarge(path.to_owned()))
}

/// The buffer is as long as the file says it is, and a larger one takes what it has more: all of a buffer is wiped,
/// and what a file may have at the most is much more than files have.
fn read_bounded(file: &File, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let said = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(said.min(limit) + ROOM));
    loop {
        let room = u64::try_from(bytes.capacity() - bytes.len()).unwrap_or(u64::MAX);
        file.take(room).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            return Ok(None);
        }
        if bytes.len() < bytes.capacity() {
            return Ok(Some(bytes));
        }
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * bytes.len()));
        larger.extend_from_slice(&bytes);
        bytes = larger;
    }
}

/// What a buffer has more than a file: by less than 32 bytes the standard library reads by way of the stack, which
/// nobody wipes.
const ROOM: usize = 64;

/// Writes a new file of mode 0600. It is there whole or not at all, and never replaces another.
///
/// # Errors
/// [`FileError::Exists`] when something has the name; others when it cannot be written.
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = Temporary::beside(path)?;
    temporary.write(bytes)?;
    temporary.publish_as_new(path)
}

/// Writes a file of mode 0600 in the place of the one there, if there is one. After `kill -9` or a
/// power cut there is the old one or the new one.
///
/// # Errors
/// [`FileError`] when what is there is not a private file, or when it cannot be written.
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    match check_private(path) {
        Ok(()) | Err(FileError::Missing(_)) => {}
        Err(other) => return Err(other),
    }
    let temporary = Temporary::beside(path)?;
    temporary.write(bytes)?;
    temporary.publish_over(path)
}

/// As [`replace_private`], in a directory that is copied while it is written to: nothing comes and
/// goes in it that a copying tool could see and then miss. What becomes the file lies beside the
/// directory meanwhile, or in it where that cannot be: in a volume of its own.
///
/// # Errors
/// As [`replace_private`].
pub fn replace_among_copied(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    match check_private(path) {
        Ok(()) | Err(FileError::Missing(_)) => {}
        Err(other) => return Err(other),
    }
    let outside = Temporary::beside(directory_of(path)).and_then(|temporary| {
        temporary.write(bytes)?;
        temporary.publish_over(path)
    });
    outside.or_else(|_| replace_private(path, bytes))
}

/// Puts `bytes` in the place of what a file of the user's own was when it was read, `seen`. Mode and
/// owner stay, and so does a link that leads to it. After `kill -9` there is the old one or the new.
///
/// # Errors
/// [`FileError::Changed`] when it is another by now; others when it cannot be written.
pub fn replace_own(path: &Path, seen: &[u8], bytes: &[u8]) -> Result<(), FileError> {
    let failed = |e| FileError::io(path, e);
    let path = &path.canonicalize().map_err(failed)?;
    let metadata = fs::metadata(path).map_err(failed)?;
    let temporary = Temporary::beside(path)?;
    temporary.write(bytes)?;
    let made = fs::metadata(&temporary.0).map_err(failed)?;
    if (made.uid(), made.gid()) != (metadata.uid(), metadata.gid()) {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        std::os::unix::fs::chown(&temporary.0, Some(uid), Some(gid)).map_err(failed)?;
    }
    fs::set_permissions(&temporary.0, metadata.permissions()).map_err(failed)?;
    if Zeroizing::new(fs::read(path).map_err(failed)?).as_slice() != seen {
        return Err(FileError::Changed(path.clone()));
    }
    temporary.publish_over(path)
}

/// Gives a private file another name in the same directory, over what has that name. Durable when
/// this returns.
///
/// # Errors
/// [`FileError`] when it is missing or not private, or the directory cannot be written.
pub fn rename_private(from: &Path, to: &Path) -> Result<(), FileError> {
    check_private(from)?;
    fs::rename(from, to).map_err(|e| FileError::io(from, e))?;
    sync_directory_of(to)
}

/// A new file of mode 0600 under a name of its own, beside the one that it is to become. Removed
/// on drop, unless it was published.
#[derive(Debug)]
pub struct Temporary(PathBuf);

impl Temporary {
    /// Makes an empty one, in the directory of `path`.
    ///
    /// # Errors
    /// [`FileError`] when the directory is missing or cannot be written.
    pub fn beside(path: &Path) -> Result<Self, FileError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| FileError::io(path, io::Error::other(e)))?;
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
        let temporary = Self(path.with_file_name(name));
        fs::OpenOptions::new()
            .write(true)
            .create_new(true) // O_EXCL: neither follows nor opens what is there.
            .mode(0o600)
            .open(&temporary.0)
            .map_err(|e| match path.parent() {
                // The caller's own words: nobody knows the name beside it.
                Some(parent) if e.kind() == io::ErrorKind::NotFound => {
                    FileError::Missing(parent.to_owned())
                }
                _ => FileError::io(path, e),
            })?;
        Ok(temporary)
    }

    /// Makes a copy of a plain file, in the directory of `path`.
    ///
    /// # Errors
    /// [`FileError`] when the file cannot be read, or the directory cannot be written.
    pub fn copy_of(source: &Path, path: &Path) -> Result<Self, FileError> {
        let read = |e| FileError::io(source, e);
        if !fs::metadata(source).map_err(read)?.is_file() {
            return Err(FileError::NotPlain(source.to_owned()));
        }
        let mut from = File::open(source).map_err(read)?;
        let temporary = Self::beside(path)?;
        let copied = fs::OpenOptions::new()
            .write(true)
            .open(&temporary.0)
            .and_then(|mut to| io::copy(&mut from, &mut to));
        copied.map_err(|e| FileError::io(&temporary.0, e))?;
        Ok(temporary)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn write(&self, bytes: &[u8]) -> Result<(), FileError> {
        let written = fs::OpenOptions::new()
            .write(true)
            .open(&self.0)
            .and_then(|mut file| file.write_all(bytes));
        written.map_err(|e| FileError::io(&self.0, e))
    }

    /// Gives it its name, unless something has that name. Durable when this returns.
    ///
    /// # Errors
    /// [`FileError::Exists`], or the system's refusal.
    pub fn publish_as_new(self, path: &Path) -> Result<(), FileError> {
        self.sync()?;
        // A hard link fails where a rename would replace. The old name goes on drop.
        fs::hard_link(&self.0, path).map_err(|e| FileError::io(path, e))?;
        drop(self);
        sync_directory_of(path)
    }

    /// Gives it its name, over what has that name. Durable when this returns; after `kill -9` there is
    /// the one or the other.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn publish_over(self, path: &Path) -> Result<(), FileError> {
        self.sync()?;
        fs::rename(&self.0, path).map_err(|e| FileError::io(path, e))?;
        sync_directory_of(path)
    }

    fn sync(&self) -> Result<(), FileError> {
        let synced = File::open(&self.0).and_then(|file| file.sync_all());
        synced.map_err(|e| FileError::io(&self.0, e))
    }
}

/// How old a [`Temporary`] is when whoever made it has been killed: none is used for as long.
const ABANDONED: Duration = Duration::from_hours(1);

/// Removes what [`Temporary`] files beside `path` were left by processes that were killed.
pub fn sweep_temporaries(path: &Path) {
    let mut start = OsString::from(".");
    start.push(path.file_name().unwrap_or_default());
    start.push(".");
    let entries = fs::read_dir(directory_of(path)).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(start.as_encoded_bytes());
        // A database among them has a log beside it.
        let random = rest.and_then(|rest| rest.split_first_chunk::<16>());
        let left = random.is_some_and(|(digits, end)| {
            digits.iter().all(u8::is_ascii_hexdigit) && end.starts_with(b".tmp")
        });
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if left && age.is_some_and(|age| age > ABANDONED) {
            // It is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is gone already when it was renamed; nothing to do about any other failure.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes a new name in the directory durable: syncing the file alone does not.
fn sync_directory_of(path: &Path) -> Result<(), FileError> {
    let directory = directory_of(path);
    let synced = File::open(directory).and_then(|d| d.sync_all());
    synced.map_err(|e| FileError::io(directory, e))
}

/// The directory that a path names its file in; `.` for a bare name.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_bound_and_found_however_long_its_path_is() {
        use std::os::unix::net::{UnixListener, UnixStream};

        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        for path in [directory.path().join("s"), deep.join("s")] {
            let listener = UnixListener::bind(SocketPath::of(&path).as_path()).unwrap();
            assert!(fs::symlink_metadata(&path).is_ok(), "it stands where it was asked for");
            UnixStream::connect(SocketPath::of(&path).as_path()).unwrap();
            drop(listener);
        }
        let missing = SocketPath::of(&deep.join("no").join("s"));
        assert!(UnixStream::connect(missing.as_path()).is_err());
    }

    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn names_in(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_new_file_is_private_and_whole_and_never_replaces_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        create_private(&path, b"one").unwrap();
        check_private(&path).unwrap();
        assert!(matches!(
            create_private(&path, b"two"),
            Err(FileError::Exists(p)) if p == path
        ));
        assert_eq!(**read_private(&path, 3).unwrap(), *b"one");
        assert_eq!(names_in(home.path()), ["key"], "nothing left behind");
    }

    #[test]
    fn what_a_killed_process_left_is_swept_away_after_an_hour() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("vault.db");
        let names = [
            ".vault.db.0123456789abcdef.tmp",
            ".vault.db.0123456789abcdef.tmp-wal",
            ".vault.db.notes.tmp",
            "vault.db",
        ];
        for name in names {
            create_private(&home.path().join(name), b"x").unwrap();
        }
        sweep_temporaries(&path);
        assert_eq!(names_in(home.path()).len(), 4, "they are new");
        let old = std::time::SystemTime::now() - ABANDONED * 2;
        for name in names {
            let file = fs::File::options().write(true).open(home.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
        }
        sweep_temporaries(&path);
        assert_eq!(names_in(home.path()), [".vault.db.notes.tmp", "vault.db"]);
    }

    #[test]
    fn what_root_lends_to_one_group_can_be_read_and_nothing_looser() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("passphrase");
        create_private(&path, b"from the service manager").unwrap();
        let is_root = rustix::process::geteuid().is_root();
        for (mode, lent) in [(0o400, true), (0o600, true), (0o440, is_root), (0o640, is_root)] {
            set_mode(&path, mode);
            assert_eq!(read_lent(&path, 64).is_ok(), lent, "{mode:o}");
            assert_eq!(read_private(&path, 64).is_ok(), mode & 0o077 == 0, "{mode:o}");
        }
        for mode in [0o444, 0o460, 0o450, 0o404] {
            set_mode(&path, mode);
            assert!(matches!(read_lent(&path, 64), Err(FileError::Loose(..))), "{mode:o}");
        }
    }

    #[test]
    fn replacing_keeps_the_mode_and_refuses_a_loose_or_linked_target() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("head");
        replace_private(&path, b"one").unwrap();
        replace_private(&path, b"two").unwrap();
        check_private(&path).unwrap();
        assert_eq!(**read_private(&path, 9).unwrap(), *b"two");

        set_mode(&path, 0o640);
        assert!(matches!(replace_private(&path, b"x"), Err(FileError::Loose(_, 0o640))));
        let link = home.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(replace_private(&link, b"x"), Err(FileError::NotPlain(_))));
        assert_eq!(names_in(home.path()), ["head", "link"]);
    }

    #[test]
    fn a_directory_that_is_copied_shows_nothing_but_what_stays() {
        let home = tempfile::tempdir().unwrap();
        let audit = home.path().join("audit");
        fs::create_dir(&audit).unwrap();
        let path = audit.join("head");
        replace_among_copied(&path, b"0").unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let order = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut looks = 0;
                while !is_over.load(order) {
                    assert_eq!(names_in(&audit), ["head"]);
                    looks += 1;
                }
                looks
            });
            for round in 1..100 {
                replace_among_copied(&path, round.to_string().as_bytes()).unwrap();
            }
            is_over.store(true, order);
            assert!(looking.join().unwrap() > 0);
        });
        assert_eq!(**read_private(&path, 9).unwrap(), *b"99");
        assert_eq!(names_in(home.path()), ["audit"]);
        set_mode(&path, 0o640);
        assert!(matches!(replace_among_copied(&path, b"x"), Err(FileError::Loose(_, 0o640))));

        // In a file system of its own, what is beside the directory cannot become a file in it.
        let Ok(volume) = tempfile::tempdir_in("/dev/shm") else { return };
        let linked = home.path().join("volume");
        symlink(volume.path(), &linked).unwrap();
        for text in [&b"one"[..], b"two"] {
            replace_among_copied(&linked.join("head"), text).unwrap();
            assert_eq!(**read_private(&linked.join("head"), 9).unwrap(), *text);
        }
        assert_eq!(names_in(volume.path()), ["head"]);
        assert_eq!(names_in(home.path()), ["audit", "volume"]);
    }

    #[test]
    fn every_loose_bit_is_refused_and_the_advice_can_be_pasted() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        create_private(&path, b"x").unwrap();
        for bit in [0o001, 0o002, 0o004, 0o010, 0o020, 0o040] {
            set_mode(&path, 0o600 | bit);
            let error = read_private(&path, 9).unwrap_err();
            let advice = format!("chmod 600 '{}'", path.display());
            assert!(error.to_string().contains(&advice), "{error}");
        }
        set_mode(&path, 0o400);
        read_private(&path, 9).unwrap();
        for bit in [0o002, 0o020] {
            set_mode(home.path(), 0o700 | bit);
            let error = check_directory(home.path()).unwrap_err();
            let advice = format!("chmod 700 '{}'", home.path().display());
            assert!(error.to_string().contains(&advice), "{error}");
        }
        set_mode(home.path(), 0o755);
        check_directory(home.path()).unwrap();
    }

    #[test]
    fn links_pipes_and_directories_are_not_files() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("f"), home.path().join("l"));
        create_private(&file, b"x").unwrap();
        symlink(&file, &link).unwrap();
        let pipe = home.path().join("p");
        let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [&link, &pipe, &home.path().to_owned()] {
            assert!(matches!(check_private(path), Err(FileError::NotPlain(_))), "{path:?}");
            assert!(matches!(read_private(path, 9), Err(FileError::NotPlain(_))), "{path:?}");
        }
        let linked = home.path().join("d");
        symlink(home.path(), &linked).unwrap();
        assert!(matches!(check_directory(&linked), Err(FileError::NotPlain(_))));
        let dangling = home.path().join("dangling");
        symlink(home.path().join("elsewhere"), &dangling).unwrap();
        assert!(matches!(create_private(&dangling, b"x"), Err(FileError::Exists(_))));
        assert!(!home.path().join("elsewhere").exists(), "a planted link was followed");
    }

    #[test]
    fn reading_stops_at_the_limit() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("f");
        create_private(&path, &[7; 100]).unwrap();
        assert!(matches!(read_private(&path, 99), Err(FileError::TooLarge(_))));
        assert_eq!(read_private(&path, 100).unwrap().len(), 100);
        // Of this one the system says no length.
        let growing = || File::open("/proc/self/status").unwrap();
        let status = read_bounded(&growing(), 1 << 20).unwrap().unwrap();
        assert!(status.len() > ROOM && status.ends_with(b"\n"), "{}", status.len());
        assert!(read_bounded(&growing(), ROOM).unwrap().is_none());
        assert!(read_private(&path, 256 << 20).unwrap().capacity() < 200, "all of it is wiped");
        assert!(matches!(read_private(&home.path().join("none"), 9), Err(FileError::Missing(_))));
    }

    #[test]
    fn a_users_own_file_keeps_its_mode_and_its_link_and_what_came_between() {
        let home = tempfile::tempdir().unwrap();
        let (path, link) = (home.path().join(".env"), home.path().join("link"));
        fs::write(&path, b"old").unwrap();
        set_mode(&path, 0o640);
        symlink(&path, &link).unwrap();
        assert!(matches!(replace_own(&link, b"other", b"new"), Err(FileError::Changed(_))));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace_own(&link, b"old", b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(names_in(home.path()), [".env", "link"], "nothing left behind");
    }

    #[test]
    fn directories_are_made_private() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        create_directory(&path).unwrap();
        create_directory(&path).unwrap();
        for made in [&path, &home.path().join("a")] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
        }
    }
}
