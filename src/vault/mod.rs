//! The vault: credentials, agents and tokens in an embedded database, of which every secret is
//! sealed for the one place that it belongs to.
//!
//! `docs/VAULT_FORMAT.md` describes the file to the last byte. In short:
//!
//! - the master key wraps one data key for each workspace and one for the vault itself, and from
//!   these every other key is derived ([`keys`](self));
//! - a secret is sealed under a key of its own, for its vault, workspace, credential, version,
//!   destinations, slots and stand-in: edited or moved, it does not open;
//! - one MAC covers every row and the schema, so that a row which was deleted, planted or put back
//!   from a backup is seen too;
//! - every change is one transaction that also writes its line of the journal and the next epoch,
//!   which the audit log keeps a copy of: an old copy of the file is seen by that.
//!
//! The proxy reads a [`Snapshot`], which holds ciphertext only and needs neither the database nor a
//! lock. Commands of other processes change the database meanwhile; [`Vault::change_mark`] tells.

mod administrators;
mod agents;
mod approvals;
mod archive;
mod bulk;
mod capture;
mod care;
mod check;
mod credentials;
mod crypto;
mod error;
mod exchanged;
mod harden;
mod items;
mod journal;
mod kept;
mod keys;
mod master;
mod recovery;
mod rotate;
mod runs;
mod schema;
mod sets;
mod settle;
mod shelf;
mod snapshot;
#[cfg(test)]
mod tests;
mod upgrade;
mod values;
mod versions;
mod workspaces;
mod wrapped;

use std::cell::RefCell;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::agent::default_workspace;
use crate::files::{FileError, Temporary, check_directory, directory_of};
use crate::reference::Name;
use crate::secret::Secret;

pub use administrators::{Administrator, PREFIX as ADMINISTRATOR_PREFIX, Role};
pub use agents::{AgentInfo, TokenInfo};
pub use approvals::Wanted;
pub use archive::Backup;
pub use care::Scheduled;
pub use check::{
    Invalid, MAX_SECRET, MIN_SECRET, SecretProblem, validate_secret, without_line_end,
};
pub use credentials::{
    CredentialInfo, Fingerprint, NewCredential, Tier, VersionInfo, VersionState,
};
pub use error::{Fault, Kind, Row, VaultError};
pub use harden::{Unhardened, harden_process};
pub use journal::{Action, AuditAnchor, JournalEntry};
pub use master::{KeyError, KeySource, MIN_PASSPHRASE, MasterKey, PassphraseParams};
pub use recovery::{MAX_SHARES, RecoveryRecord, RecoverySet, Share, ShareError};
pub use rotate::{OldRuns, Rotated};
pub use runs::{IssuedOnce, NewRunToken};
pub use sets::SetInfo;
pub use shelf::{Shelf, Shelved};
pub use snapshot::Snapshot;
pub use values::usual_variable;
pub use versions::Promotion;
pub use workspaces::{Contents, WorkspaceInfo};
pub use wrapped::{KeyFile, KmsLogin, WrappedKey, Wrapper};

use crypto::{DoesNotOpen, Encoder};
use keys::{DataKey, LockedKey, VaultId, WrappingKey};

/// The format that this version writes. A vault of an older one is brought to it when it is opened.
pub const FORMAT: i64 = 2;

/// The scope of the data key that is not a workspace's.
const VAULT_SCOPE: &str = "vault";

/// An open vault. Used by one thread at a time; other processes may have it open too.
pub struct Vault {
    path: Arc<Path>,
    db: Connection,
    wrapping: WrappingKey,
    workspace: Name,
    /// Those of the last look: another process may have put new ones in their place since.
    keys: RefCell<Keys>,
    by: String,
    /// In whose name each change is made, who must still be one in it.
    administrator: Option<Administrator>,
    file: FileId,
}

/// The data keys of one generation.
#[derive(Clone)]
struct Keys {
    /// Counts the changes of the data keys.
    generation: i64,
    /// The data key that is not a workspace's.
    own: Arc<DataKey>,
    /// The workspace's that is being worked in.
    workspace: Arc<DataKey>,
    /// What the audit log's MACs are made with, in every generation.
    audit: Arc<LockedKey>,
}

impl Keys {
    fn unwrap(
        db: &Connection,
        wrapping: &WrappingKey,
        workspace: &Name,
        generation: i64,
    ) -> Result<Self, Fault> {
        let own = unwrap_data_key(db, wrapping, VAULT_SCOPE)?;
        let workspace = unwrap_data_key(db, wrapping, &scope_of(workspace))?;
        let audit = LockedKey::new(&kept::audit_key(db, &own)?);
        Ok(Self {
            generation,
            own: Arc::new(own),
            workspace: Arc::new(workspace),
            audit: Arc::new(audit),
        })
    }
}

/// Which file it is, whatever its name: a file that was replaced has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// Looks different after anyone has written to the vault, or put another file in its place. Cheap:
/// one `stat` and one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeMark {
    data_version: i64,
    file: Option<FileId>,
}

impl Vault {
    /// Makes a new vault with the workspace `default` in it, and opens it. The file is there whole
    /// or not at all.
    ///
    /// # Errors
    /// [`FileError::Exists`] when there is a file; others when the directory is loose or cannot be
    /// written.
    pub fn create(path: &Path, master: &MasterKey) -> Result<Self, VaultError> {
        let at: Arc<Path> = path.into();
        Self::create_file(path, master).map_err(|fault| fault.at(&at))?;
        Self::open(path, master)
    }

    fn create_file(path: &Path, master: &MasterKey) -> Result<(), Fault> {
        check_directory(directory_of(path))?;
        if path.symlink_metadata().is_ok() {
            return Err(FileError::Exists(path.to_owned()).into());
        }
        let temporary = Temporary::beside(&schema::resolve(path)?)?;
        let mut db = schema::connect(temporary.path())?;
        schema::use_wal(&db)?;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        schema::initialise(&tx)?;
        first_rows(&tx, master)?;
        tx.commit()?;
        db.close().map_err(|(_, error)| error)?;
        Ok(temporary.publish_as_new(path)?)
    }

    /// Opens a vault, and checks all that can be checked without opening every secret.
    ///
    /// # Errors
    /// [`VaultError`] saying which of file, mode, format, key or row is wrong, and what to do.
    pub fn open(path: &Path, master: &MasterKey) -> Result<Self, VaultError> {
        let at: Arc<Path> = path.into();
        let open = || {
            let mut vault = Self::open_unchecked(&at, master)?;
            vault.upgrade(upgrade::State::Checked)?;
            // One transaction: another writer between two statements would look like an intruder.
            let tx = vault.db.unchecked_transaction()?;
            vault.check_state(&tx)?;
            drop(tx);
            Ok(vault)
        };
        open().map_err(|fault: Fault| fault.at(&at))
    }

    /// Opens a vault whose state was changed behind Locum's back, and takes the state as it is: for a
    /// backup that was put back knowingly. The journal says so. Rows that do not open still do not. The
    /// caller writes a new anchor after it.
    ///
    /// # Errors
    /// As [`Vault::open`], but for [`Fault::Changed`].
    pub fn accept(path: &Path, master: &MasterKey, by: &str) -> Result<Self, VaultError> {
        let at: Arc<Path> = path.into();
        let accept = || {
            let mut vault = Self::open_unchecked(&at, master)?.acting_as(by);
            let tx = vault.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let entry = (Action::StateAccepted, "vault", by);
            journal::append(&tx, &vault.keys.get_mut().own, entry)?;
            tx.commit()?;
            vault.upgrade(upgrade::State::Accepted)?;
            Ok(vault)
        };
        accept().map_err(|fault: Fault| fault.at(&at))
    }

    /// Where the vault's master key comes from: read before there is a key, to know what to ask for.
    ///
    /// # Errors
    /// [`VaultError`] when the file is not a vault that can be read.
    pub fn key_source(path: &Path) -> Result<KeySource, VaultError> {
        let at: Arc<Path> = path.into();
        let read = || {
            let db = schema::connect(&schema::check_files(path)?)?;
            schema::check_format(&db)?;
            let row = VaultRow::read(&db)?;
            Ok(row.passphrase.map_or(KeySource::File, KeySource::Passphrase))
        };
        read().map_err(|fault: Fault| fault.at(&at))
    }

    /// Which vault this is, in hex, without opening it: the same for all copies of it, whatever their keys.
    ///
    /// # Errors
    /// When the file is no vault, or cannot be read.
    pub fn id_of(path: &Path) -> Result<String, VaultError> {
        let at: Arc<Path> = path.into();
        let read = || {
            let db = schema::connect(&schema::check_files(path)?)?;
            schema::check_format(&db)?;
            Ok(data_encoding::HEXLOWER.encode(&VaultRow::read(&db)?.vault_id))
        };
        read().map_err(|fault: Fault| fault.at(&at))
    }

    fn open_unchecked(path: &Arc<Path>, master: &MasterKey) -> Result<Self, Fault> {
        let resolved = schema::check_files(path)?;
        let file = FileId::of(&resolved).ok_or_else(|| FileError::Missing(path.to_path_buf()))?;
        let db = schema::connect(&resolved)?;
        schema::check_format(&db)?;
        schema::use_wal(&db)?;
        // All of one state: another process may be changing the keys.
        let tx = db.unchecked_transaction()?;
        let row = VaultRow::read(&tx)?;
        if row.passphrase.is_some() != master.passphrase.is_some() {
            return Err(Fault::OtherKeySource);
        }
        let wrapping = WrappingKey::derive(row.vault_id, &master.key);
        let key_fits = crypto::same(wrapping.check(), &row.key_check);
        match unwrap_data_key(&tx, &wrapping, VAULT_SCOPE) {
            Ok(_) if !key_fits => return Err(Fault::Corrupt(Row::Vault)),
            Err(Fault::Corrupt(_)) if !key_fits => return Err(Fault::WrongKey),
            other => drop(other?),
        }
        let workspace = default_workspace();
        let keys = Keys::unwrap(&tx, &wrapping, &workspace, generation(&tx)?)?;
        drop(tx);
        Ok(Self {
            path: Arc::clone(path),
            db,
            wrapping,
            workspace,
            keys: RefCell::new(keys),
            by: format!("uid {}", rustix::process::getuid().as_raw()),
            administrator: None,
            file,
        })
    }

    fn upgrade(&mut self, state: upgrade::State) -> Result<(), Fault> {
        let own = Arc::clone(&self.keys.get_mut().own);
        upgrade::upgrade(&mut self.db, &own, state, &self.by)
    }

    /// The same vault, with the journal saying that `by` did what follows. Without this it names
    /// the process's user by number.
    #[must_use]
    pub fn acting_as(mut self, by: &str) -> Self {
        // What a journal and a log line can hold.
        self.by = by.chars().filter(|c| !c.is_control()).take(200).collect();
        self
    }

    /// Does something in an administrator's name and workspace, with the journal saying so. Within the
    /// transaction of each change it is looked up whether it still is one.
    ///
    /// # Errors
    /// Those of what is done; [`Fault::Revoked`] of a [`Kind::Administrator`] when it is none any more.
    pub fn on_behalf_of<T>(
        &mut self,
        who: &Administrator,
        act: impl FnOnce(&mut Self) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let by = std::mem::replace(&mut self.by, who.signature());
        self.administrator = Some(who.clone());
        let done = self.within(&who.workspace, act);
        (self.by, self.administrator) = (by, None);
        done
    }

    /// Where the vault is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The vault's id: 32 hex digits.
    #[must_use]
    pub fn id(&self) -> String {
        data_encoding::HEXLOWER.encode(self.keys.borrow().own.vault_id())
    }

    /// Wraps the data keys with another master key, in one transaction: after `kill -9` the vault
    /// opens with the old key or with the new one. The data keys stay, so that tokens and the audit
    /// log's MACs do: whoever had the old master key *and* an old copy of the file keeps what he had.
    ///
    /// # Errors
    /// [`VaultError`] when the vault could not be written.
    pub fn rekey(&mut self, master: &MasterKey) -> Result<(), VaultError> {
        let vault_id = *self.keys.borrow().own.vault_id();
        let new = WrappingKey::derive(vault_id, &master.key);
        self.change(Action::Rekeyed, "vault", |tx, change| {
            let old = change.wrapping;
            check_wrapping(tx, old)?;
            for (scope, sealed) in all_data_keys(tx)? {
                let sealed = old.rewrap(&new, &scope, &sealed)?;
                tx.execute("UPDATE keys SET sealed = ?2 WHERE scope = ?1", (&scope, &sealed))?;
            }
            VaultRow::write_key(tx, &new, master.passphrase.as_ref())
        })?;
        self.wrapping = new;
        self.wipe_log();
        Ok(())
    }

    /// The key of the audit log's MACs. It is derived from the vault's first data key, and outlives
    /// a change of the master key and of the data keys: one log has one key.
    #[must_use]
    pub fn audit_key(&self) -> Secret {
        Secret::new(self.keys.borrow().audit.bytes().to_vec())
    }

    /// What to compare with what it was a moment ago, to see whether the vault may have changed. If
    /// so, compare [`Vault::epoch`], and open the vault anew when [`Vault::was_replaced`].
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be read.
    pub fn change_mark(&self) -> Result<ChangeMark, VaultError> {
        let data_version = self
            .db
            .pragma_query_value(None, "data_version", |row| row.get(0))
            .map_err(|error| self.fault(error.into()))?;
        Ok(ChangeMark { data_version, file: FileId::of(&self.path) })
    }

    /// Whether the file of the vault's name is no longer the one that is open here.
    #[must_use]
    pub fn was_replaced(&self) -> bool {
        FileId::of(&self.path) != Some(self.file)
    }

    /// Whether the operating system keeps the vault's keys out of the swap.
    #[must_use]
    pub fn is_locked_in_memory(&self) -> bool {
        let keys = self.keys.borrow();
        keys.own.is_locked() && keys.workspace.is_locked()
    }

    /// Opens every sealed row of every workspace, and checks the whole journal. Slow, and for
    /// `doctor` and `vault status`.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] naming the first row that does not open.
    pub fn verify(&self) -> Result<(), VaultError> {
        let verify = || {
            let tx = self.db.unchecked_transaction()?;
            let keys = self.check_state(&tx)?;
            self.find_corrupt_row(&tx)?;
            journal::verify(&self.db, &keys.own)
        };
        verify().map_err(|fault| self.fault(fault))
    }

    fn fault(&self, fault: Fault) -> VaultError {
        fault.at(&self.path)
    }

    /// Makes one change, in one transaction with its line of the journal.
    fn change<T>(
        &mut self,
        action: Action,
        subject: &str,
        make: impl FnOnce(&Transaction<'_>, &Change<'_>) -> Result<T, Fault>,
    ) -> Result<T, VaultError> {
        let done = || {
            let (tx, keys) = self.begin()?;
            let result = make(&tx, &self.change_with(&keys))?;
            let subject = journal::placed(action, &self.workspace, subject);
            journal::append(&tx, &keys.own, (action, &subject, &self.by))?;
            tx.commit()?;
            Ok(result)
        };
        done().map_err(|fault: Fault| fault.at(&self.path))
    }

    fn change_with<'v>(&'v self, keys: &'v Keys) -> Change<'v> {
        Change {
            now: now(),
            workspace: &self.workspace,
            key: &keys.workspace,
            own: &keys.own,
            wrapping: &self.wrapping,
        }
    }

    /// A transaction for a change, and the keys of it. A change on top of a tampered state would put
    /// our MAC on the tampering.
    fn begin(&self) -> Result<(Transaction<'_>, Keys), Fault> {
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
        let keys = self.keys(&tx)?;
        check_state(&tx, &keys.own)?;
        if let Some(who) = &self.administrator {
            administrators::require_live(&tx, &keys.own, who, now())?;
        }
        Ok((tx, keys))
    }

    /// The data keys as they are in this transaction.
    fn keys(&self, tx: &Connection) -> Result<Keys, Fault> {
        let mut keys = self.keys.borrow_mut();
        let generation = generation(tx)?;
        if generation != keys.generation {
            check_wrapping(tx, &self.wrapping)?;
            *keys = Keys::unwrap(tx, &self.wrapping, &self.workspace, generation)?;
        }
        Ok(keys.clone())
    }

    /// The state's MAC, or else the first row that is wrong by itself.
    fn check_state(&self, tx: &Connection) -> Result<Keys, Fault> {
        let keys = self.keys(tx)?;
        match check_state(tx, &keys.own) {
            Err(Fault::Changed) => {
                self.find_corrupt_row(tx)?;
                Err(Fault::Changed)
            }
            other => other.map(|()| keys),
        }
    }

    /// Opens every sealed row.
    fn find_corrupt_row(&self, db: &Connection) -> Result<(), Fault> {
        check_wrapping(db, &self.wrapping)?;
        for (scope, sealed) in all_data_keys(db)? {
            let key = self
                .wrapping
                .unwrap(&scope, &sealed)
                .map_err(|DoesNotOpen| Fault::Corrupt(Row::DataKey(scope.clone())))?;
            if let Some(workspace) = scope.strip_prefix("workspace/") {
                credentials::open_all(db, workspace, &key)?;
            }
        }
        items::open_all(db, &self.keys(db)?.own)
    }

    /// Empties the write-ahead log, so that what was deleted is overwritten there too. A reader in
    /// the middle of a transaction keeps it from happening now; it then happens later.
    fn wipe_log(&self) {
        let _ = self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("path", &self.path)
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

/// What a change knows of its place and time.
struct Change<'v> {
    /// Seconds since the Unix epoch.
    now: i64,
    workspace: &'v Name,
    /// The workspace's data key.
    key: &'v DataKey,
    /// The vault's own.
    own: &'v DataKey,
    wrapping: &'v WrappingKey,
}

fn check_state(db: &Connection, vault_key: &DataKey) -> Result<(), Fault> {
    let head = journal::head(db)?;
    let expected = schema::state_mac(db, vault_key, &head)?;
    let stored: Option<Vec<u8>> =
        db.query_row("SELECT mac FROM state WHERE one = 1", [], |row| row.get(0)).optional()?;
    match stored {
        Some(stored) if crypto::same(&stored, &expected) => Ok(()),
        _ => Err(Fault::Changed),
    }
}

/// Seconds since the Unix epoch; 0 for a clock before it.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn scope_of(workspace: &Name) -> String {
    format!("workspace/{workspace}")
}

fn first_rows(tx: &Transaction<'_>, master: &MasterKey) -> Result<(), Fault> {
    let vault_id: VaultId = *crypto::random()?;
    let wrapping = WrappingKey::derive(vault_id, &master.key);
    let now = now();
    tx.execute(
        "INSERT INTO vault (one, vault_id, created, key_check) VALUES (1, ?1, ?2, ?3)",
        (vault_id, now, wrapping.check()),
    )?;
    VaultRow::write_key(tx, &wrapping, master.passphrase.as_ref())?;
    for scope in [VAULT_SCOPE.to_owned(), scope_of(&default_workspace())] {
        tx.execute(
            "INSERT INTO keys (scope, sealed, created) VALUES (?1, ?2, ?3)",
            (&scope, wrapping.mint(&scope)?, now),
        )?;
    }
    let vault_key = unwrap_data_key(tx, &wrapping, VAULT_SCOPE)?;
    journal::write_audit_anchor(tx, &vault_key, &AuditAnchor::NONE)?;
    let by = format!("uid {}", rustix::process::getuid().as_raw());
    journal::append(tx, &vault_key, (Action::VaultCreated, "vault", &by))
}

/// Whether the vault still has the master key that it was opened with here: another process may have
/// given it a new one since.
fn check_wrapping(db: &Connection, wrapping: &WrappingKey) -> Result<(), Fault> {
    if crypto::same(&VaultRow::read(db)?.key_check, wrapping.check()) {
        Ok(())
    } else {
        Err(Fault::WrongKey)
    }
}

/// A row that is missing is as bad as one that does not open.
fn unwrap_data_key(db: &Connection, wrapping: &WrappingKey, scope: &str) -> Result<DataKey, Fault> {
    let query = "SELECT sealed FROM keys WHERE scope = ?1";
    let sealed: Option<Vec<u8>> = db.query_row(query, [scope], |row| row.get(0)).optional()?;
    sealed
        .and_then(|sealed| wrapping.unwrap(scope, &sealed).ok())
        .ok_or_else(|| Fault::Corrupt(Row::DataKey(scope.to_owned())))
}

/// How often data keys of the vault were changed: all of them, or those of one workspace.
fn generation(db: &Connection) -> Result<i64, Fault> {
    if schema::format(db)? < FORMAT {
        return Ok(1);
    }
    let query = "SELECT generation FROM keys WHERE scope = 'vault'";
    let generation = db.prepare_cached(query)?.query_row([], |row| row.get(0)).optional()?;
    generation.ok_or_else(|| Fault::Corrupt(Row::DataKey(VAULT_SCOPE.to_owned())))
}

fn all_data_keys(db: &Connection) -> Result<Vec<(String, Vec<u8>)>, Fault> {
    let mut statement = db.prepare_cached("SELECT scope, sealed FROM keys ORDER BY scope")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The one row that is read before there is a key.
struct VaultRow {
    vault_id: VaultId,
    key_check: Vec<u8>,
    passphrase: Option<PassphraseParams>,
}

impl VaultRow {
    fn read(db: &Connection) -> Result<Self, Fault> {
        let query = "SELECT vault_id, key_check, kdf_salt, kdf_memory_kib, kdf_passes, kdf_lanes \
                     FROM vault WHERE one = 1";
        let row = db
            .query_row(query, [], |row| {
                let salt: Option<[u8; 16]> = row.get(2)?;
                let passphrase = match salt {
                    None => None,
                    Some(salt) => Some(PassphraseParams {
                        salt,
                        memory_kib: row.get(3)?,
                        passes: row.get(4)?,
                        lanes: row.get(5)?,
                    }),
                };
                Ok(Self { vault_id: row.get(0)?, key_check: row.get(1)?, passphrase })
            })
            .optional()?;
        row.ok_or(Fault::Corrupt(Row::Vault))
    }

    fn write_key(
        tx: &Transaction<'_>,
        wrapping: &WrappingKey,
        passphrase: Option<&PassphraseParams>,
    ) -> Result<(), Fault> {
        tx.execute(
            "UPDATE vault SET key_check = ?1, kdf_salt = ?2, kdf_memory_kib = ?3, \
             kdf_passes = ?4, kdf_lanes = ?5 WHERE one = 1",
            (
                wrapping.check(),
                passphrase.map(|p| p.salt),
                passphrase.map(|p| p.memory_kib),
                passphrase.map(|p| p.passes),
                passphrase.map(|p| p.lanes),
            ),
        )?;
        Ok(())
    }
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.symlink_metadata().ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}
