//! The database file: how it is made, how it is opened, and the MAC over all that is in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hmac::Mac as _;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::crypto;
use super::error::Fault;
use super::keys::DataKey;
use super::{Encoder, FORMAT};
use crate::files::{self, FileError};

/// `LCUM`: what `file` and SQLite's own tools show.
pub(super) const APPLICATION_ID: i64 = 0x4c43_554d;

/// The first format that there was. All from it on are read, and brought to this one.
const OLDEST: i64 = 1;

/// The tables.
pub(super) const SCHEMA: &str = include_str!("schema.sql");

/// How long a writer waits for another: longer than any write of ours takes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens an existing file that has been checked. SQLite is given no chance to make one, or to
/// follow a link.
pub(super) fn connect(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX // One connection is used by one thread at a time.
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = match still(path) {
        Some(uri) => {
            let read = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(uri, flags | read)?
        }
        None => Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)?,
    };
    db.busy_timeout(BUSY_TIMEOUT)?;
    // The file may have been prepared by somebody else: it must not make SQLite do things.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    // A statement is planned once, and not anew for each value that is bound to it.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "cell_size_check", true)?;
    // Freed pages are overwritten with zeros.
    db.pragma_update(None, "secure_delete", true)?;
    // No spill to files with names and modes of SQLite's choice.
    db.pragma_update(None, "temp_store", "MEMORY")?;
    // A commit is on the disk when it returns.
    db.pragma_update(None, "synchronous", "FULL")?;
    Ok(db)
}

/// How SQLite is to open a vault in a directory that cannot be written, such as a copy on a medium that is read-only:
/// it cannot keep there what readers and writers share. None for one that can be written, or that somebody has open.
fn still(path: &Path) -> Option<String> {
    let writable =
        rustix::fs::access(files::directory_of(path), rustix::fs::Access::WRITE_OK).is_ok();
    if writable || beside(path, "-wal").exists() {
        return None;
    }
    // The characters that mean something in a URI's path.
    let path = path.to_str()?.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    Some(format!("file:{path}?immutable=1"))
}

/// Makes the tables, in a file that is empty.
pub(super) fn initialise(db: &Connection) -> Result<(), Fault> {
    db.pragma_update(None, "application_id", APPLICATION_ID)?;
    db.pragma_update(None, "user_version", FORMAT)?;
    db.execute_batch(SCHEMA)?;
    Ok(())
}

/// Whether it is a vault, of a format that is known here.
pub(super) fn check_format(db: &Connection) -> Result<(), Fault> {
    let id: i64 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if id != APPLICATION_ID {
        return Err(Fault::NotAVault);
    }
    match format(db)? {
        OLDEST..=FORMAT => Ok(()),
        newer if newer > FORMAT => Err(Fault::NewerFormat(newer)),
        _ => Err(Fault::NotAVault),
    }
}

/// Which format the file says it has.
pub(super) fn format(db: &Connection) -> Result<i64, Fault> {
    Ok(db.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Turns the write-ahead log on. Says so in the file, so that it is done once.
pub(super) fn use_wal(db: &Connection) -> Result<(), Fault> {
    if db.is_readonly("main")? {
        return Ok(());
    }
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode == "wal" {
        Ok(())
    } else {
        // A file system without shared memory, such as some network mounts.
        Err(Fault::Storage(rusqlite::ffi::SQLITE_IOERR_SHMOPEN))
    }
}

/// Checks the file, its directory, and what SQLite keeps beside it. Returns the path with its
/// directory resolved: SQLite refuses links anywhere in a path, and a link above the home is no harm.
pub(super) fn check_files(path: &Path) -> Result<PathBuf, FileError> {
    let directory = files::directory_of(path);
    files::check_directory(directory)?;
    files::check_private(path)?;
    for suffix in ["-wal", "-shm", "-journal"] {
        match files::check_private(&beside(path, suffix)) {
            Ok(()) | Err(FileError::Missing(_)) => {}
            Err(other) => return Err(other),
        }
    }
    resolve(path)
}

/// The path with its directory resolved.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, FileError> {
    let directory = files::directory_of(path);
    let resolved = directory.canonicalize().map_err(|e| FileError::Io(directory.to_owned(), e))?;
    Ok(resolved.join(path.file_name().unwrap_or_default()))
}

/// `vault.db-wal` and the like.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What the state's MAC is over: each query in this order. The schema comes first, so that a
/// planted index, view or trigger is as visible as a planted row.
const STATE: [(&str, &str); 10] = [
    ("sqlite_schema", "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"),
    ("vault", "SELECT * FROM vault ORDER BY one"),
    ("keys", "SELECT * FROM keys ORDER BY scope"),
    ("credentials", "SELECT * FROM credentials ORDER BY id"),
    ("versions", "SELECT * FROM versions ORDER BY credential, version"),
    ("sets", "SELECT * FROM sets ORDER BY workspace, name"),
    ("set_members", "SELECT * FROM set_members ORDER BY workspace, set_name, member"),
    ("agents", "SELECT * FROM agents ORDER BY workspace, name"),
    ("tokens", "SELECT * FROM tokens ORDER BY id"),
    ("items", "SELECT * FROM items ORDER BY name"),
];

/// The MAC over the vault's whole state: the head of its journal, its schema, and every row.
///
/// Sealed rows are each bound to their place, but that alone would not show a row that was deleted,
/// put back from a backup, or that is not sealed at all, such as the members of a set.
pub(super) fn state_mac(db: &Connection, key: &DataKey, head: &Head) -> Result<[u8; 32], Fault> {
    let state_key = key.derive(&Encoder::new("locum/vault/1/key/state"));
    let mut mac = crypto::mac_stream(&state_key);
    let start =
        Encoder::new("locum/vault/1/state").bytes(key.vault_id()).int(head.epoch).bytes(&head.mac);
    mac.update(&start.finish());
    for (table, query) in STATE {
        mac.update(&Encoder::new(table).finish());
        let mut statement = db.prepare_cached(query)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let mut line = Encoder::row();
            // Of the row: a statement in the cache can be older than its table.
            for column in 0..row.as_ref().column_count() {
                line = line.value(row.get_ref(column)?);
            }
            mac.update(&line.finish());
        }
        mac.update(&Encoder::end_of_rows().finish());
    }
    Ok(mac.finalize().into_bytes().into())
}

/// The last row of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The vault's epoch.
    pub(super) epoch: i64,
    /// The row's MAC, which covers the MAC of the row before it.
    pub(super) mac: [u8; 32],
}

impl Encoder {
    /// Each value with SQLite's number for its type before it.
    fn value(self, value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Integer(number) => self.byte(1).int(number),
            // No column of ours has this type; were there one, it would be this.
            ValueRef::Real(number) => self.byte(2).int(number.to_bits().cast_signed()),
            ValueRef::Text(text) => self.byte(3).bytes(text),
            ValueRef::Blob(blob) => self.byte(4).bytes(blob),
            ValueRef::Null => self.byte(5),
        }
    }
}
