//! Putting a copy of the vault back in its place.
//!
//! The copy is checked before anything changes, and takes the vault's place by one rename; the file
//! that was there is kept under another name. A copy that is older than what has been seen brings
//! back what was revoked since, so it takes an explicit word.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::master::{Turn, key_file, unlock, unlock_from};
use super::open::{
    Opened, anchor_file, announce_restore, drained, next_anchor_file, operator, read_anchor,
    set_drained,
};
use super::{Failure, Home};
use crate::audit::AuditLog;
use crate::config::{self, Config};
use crate::files::{self, FileError, Temporary};
use crate::vault::{Backup, Fault, KeySource, MasterKey, Vault, VaultError};

/// What is accepted of a copy, beyond one that is the newest state, as Locum left it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accept {
    /// An older state, or one of another history.
    pub rollback: bool,
    /// Rows that something other than Locum changed.
    pub changes: bool,
}

/// A vault that was put back, and is open.
#[derive(Debug)]
pub struct Restored {
    /// The home with it.
    pub opened: Opened,
    /// The file that was there before.
    pub kept: Option<PathBuf>,
    /// Whether something had to be accepted for it.
    pub accepted: bool,
    /// Why the audit log does not have it, if it has not: with the machine the log may be gone, too.
    pub unrecorded: Option<Failure>,
}

impl Restored {
    /// Brings what was done on record. It is done in any case.
    pub(super) fn record(&mut self) {
        self.unrecorded = self.opened.changed().err();
    }
}

/// Puts the copy `from` in the vault's place.
///
/// # Errors
/// When a proxy serves the home, the copy does not open with the home's key, or it is not the newest
/// state and that was not accepted. Nothing is changed then.
pub fn restore(home: &Home, from: &Path, accept: Accept) -> Result<Restored, Failure> {
    files::check_directory(home.path())?;
    home.require_closed()?;
    let config = Config::load(&home.config(), home.path())?;
    if AuditLog::is_locked(&config.audit.dir) {
        return Err(Failure::new("a proxy serves this home, and has its vault open")
            .help("stop it, restore, and start it again"));
    }
    let turn = Turn::require(&config.vault.store)?;
    restore_with(home, from, accept, &turn, None)
}

/// The same in this process's turn, with a master key that is known.
pub(super) fn restore_with(
    home: &Home,
    from: &Path,
    accept: Accept,
    turn: &Turn,
    known: Option<MasterKey>,
) -> Result<Restored, Failure> {
    let config = Config::load(&home.config(), home.path())?;
    let store = &config.vault.store;
    settle(store)?;
    files::sweep_temporaries(store);
    let copy = match &known {
        Some(master) => copy_with(from, store, master)?,
        None => copy_of(home, &config, from, turn)?,
    };
    let (copy, master) = copy;
    let again = known.as_ref().map(MasterKey::again);
    let master = master.or(known);
    let judge = Judge { home, config: &config, from, copy: copy.path(), turn, master };
    let judged = judge.judge(accept)?;
    if drained(&config) > judged.epoch {
        // Or the audit log would take what happens from here on for what it has already.
        set_drained(&config, judged.epoch)?;
    }
    let kept = keep(store)?;
    announce_restore(&config, &judged.anchor)?;
    copy.publish_over(store)?;
    let open = || {
        files::rename_private(&next_anchor_file(&config), &anchor_file(&config))?;
        match again {
            // The home may have no key that opens it.
            Some(master) => Opened::open_by(home, master),
            None => Opened::open_in_turn(home, Some(turn)),
        }
    };
    let opened = open().map_err(|failure| failure.within(IN_PLACE))?;
    let mut restored = Restored { opened, kept, accepted: judged.accepted, unrecorded: None };
    restored.record();
    restored.opened.write_certificates().map_err(|failure| failure.within(IN_PLACE))?;
    Ok(restored)
}

/// The copy as a database beside the vault, and the key that opened it if it was sealed as a whole.
fn copy_of(
    home: &Home,
    config: &Config,
    from: &Path,
    turn: &Turn,
) -> Result<(Temporary, Option<MasterKey>), Failure> {
    let store = &config.vault.store;
    let Some(backup) = Backup::at(from)? else {
        return Ok((Temporary::copy_of(from, store)?, None));
    };
    let key = Fit { home, config, from, source: backup.key_source()?, misfits: Cell::new(false) };
    let open = |master: &MasterKey| key.tried(backup.unseal(master, store));
    let unlocked = unlock_from(home, config, (key.source.clone(), store), Some(turn), open);
    let unlocked = unlocked.map_err(|failure| key.explained(failure, &backup.vault_id()));
    let (copy, master) = unlocked?;
    Ok((copy, Some(master)))
}

/// Whether a key fits a copy; and if not, why that may be.
struct Fit<'a> {
    home: &'a Home,
    config: &'a Config,
    from: &'a Path,
    /// What opens the copy.
    source: KeySource,
    misfits: Cell<bool>,
}

impl Fit<'_> {
    fn tried<T>(&self, opened: Result<T, VaultError>) -> Result<T, VaultError> {
        opened.inspect_err(|error| {
            self.misfits.set(matches!(error.fault, Fault::WrongKey | Fault::OtherKeySource));
        })
    }

    /// A copy of this very vault that the key of today does not open is one of before a `rekey`.
    fn explained(&self, failure: Failure, id: &str) -> Failure {
        let config = self.config;
        let asks_a_program = matches!(config.vault.key, config::KeySource::Command(_));
        let has_none = matches!(self.source, KeySource::File)
            && !asks_a_program
            && !key_file(self.home, config).exists();
        let is_this_vault = Vault::id_of(&config.vault.store).is_ok_and(|own| own == id);
        if !is_this_vault || !(self.misfits.get() || has_none) {
            return failure.within(UNUSABLE);
        }
        let help = match self.source {
            KeySource::File => {
                "name the key file of that time with --key-file FILE; or take shares, with --recovery"
            }
            KeySource::Passphrase(_) => {
                "give the passphrase of that time; or take shares, with --recovery"
            }
        };
        Failure::new(format!(
            "{UNUSABLE}: {} is of this vault, and from before its master key was changed: it opens with the key of that time",
            self.from.display()
        ))
        .help(help)
    }
}

/// The same with the key that is known.
fn copy_with(
    from: &Path,
    store: &Path,
    master: &MasterKey,
) -> Result<(Temporary, Option<MasterKey>), Failure> {
    match Backup::at(from)? {
        Some(backup) => Ok((backup.unseal(master, store)?, None)),
        None => Ok((Temporary::copy_of(from, store)?, None)),
    }
}

/// Empties the vault's write-ahead log, unless there is no vault, or none that can be read: that may
/// be why it is to be replaced.
fn settle(store: &Path) -> Result<(), Failure> {
    match Vault::settle(store) {
        Err(error) if matches!(error.fault, Fault::Busy) => {
            Err(Failure::new("another command has the vault open").help("try again"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What is known of a copy that may take the vault's place.
struct Judged {
    /// Its epoch as it was found.
    epoch: u64,
    /// The anchor that it will agree with.
    anchor: String,
    accepted: bool,
}

/// Looks at a copy before it takes the vault's place.
struct Judge<'a> {
    home: &'a Home,
    config: &'a Config,
    /// What the user calls it.
    from: &'a Path,
    copy: &'a Path,
    turn: &'a Turn,
    /// What opens it, if that is known.
    master: Option<MasterKey>,
}

impl Judge<'_> {
    /// Opens the copy, and closes it again: its file is then the whole of it.
    fn judge(mut self, accept: Accept) -> Result<Judged, Failure> {
        let (vault, accepted) = self.open(accept)?;
        let (epoch, anchor) = (vault.epoch()?, vault.anchor_text()?);
        drop(vault);
        require_alone(self.copy)?;
        // Accepting is a change of its own, which the audit log is to have.
        Ok(Judged { epoch: epoch - u64::from(accepted), anchor, accepted })
    }

    fn open(&mut self, accept: Accept) -> Result<(Vault, bool), Failure> {
        let source = Vault::key_source(self.copy).map_err(|error| self.unusable(error))?;
        let Self { home, config, from, .. } = *self;
        let key = Fit { home, config, from, source, misfits: Cell::new(false) };
        let known = self.master.take();
        // What is wrong with the copy itself does not mean that the key does not fit.
        let open = |master: &MasterKey| match Vault::open(self.copy, master) {
            Err(error) if matches!(error.fault, Fault::WrongKey | Fault::OtherKeySource) => {
                key.tried(Err(self.named(error)))
            }
            other => Ok(other),
        };
        let unlocked = match known {
            Some(master) => open(&master).map(|opened| (opened, master)).map_err(Failure::from),
            None => unlock(self.home, self.config, self.copy, Some(self.turn), open),
        };
        let id = || Vault::id_of(self.copy).unwrap_or_default();
        let (opened, master) = unlocked.map_err(|failure| key.explained(failure, &id()))?;
        match opened {
            Ok(vault) => self.compare(vault, &master, accept),
            Err(error) if !matches!(error.fault, Fault::Changed) => Err(self.unusable(error)),
            Err(_) if accept.changes => self.accept(&master),
            Err(error) => Err(self
                .unusable(error)
                .help("take another copy; or, if you know what was changed, add --accept-changes")),
        }
    }

    /// Holds the copy against what was last seen of the vault.
    fn compare(
        &self,
        vault: Vault,
        master: &MasterKey,
        accept: Accept,
    ) -> Result<(Vault, bool), Failure> {
        let anchor = read_anchor(self.config)?;
        match anchor.and_then(|text| vault.check_anchor(&text).err()) {
            None => Ok((vault, false)),
            Some(_) if accept.rollback => {
                drop(vault);
                self.accept(master)
            }
            Some(error) => Err(Failure::from(self.named(error)).help(
                "what was revoked since would be valid again, and what was added be gone; if that is meant, add --accept-rollback",
            )),
        }
    }

    fn accept(&self, master: &MasterKey) -> Result<(Vault, bool), Failure> {
        let vault = Vault::accept(self.copy, master, &operator());
        Ok((vault.map_err(|error| self.unusable(error))?, true))
    }

    fn unusable(&self, error: VaultError) -> Failure {
        Failure::from(self.named(error)).within(UNUSABLE)
    }

    /// The error with the name that the user knows.
    fn named(&self, error: VaultError) -> VaultError {
        VaultError { path: self.from.into(), ..error }
    }
}

const UNUSABLE: &str = "the copy cannot be used";

const IN_PLACE: &str = "the copy is in the vault's place, but";

/// Whether the copy has no write-ahead log beside it.
fn require_alone(copy: &Path) -> Result<(), Failure> {
    let mut log = copy.as_os_str().to_owned();
    log.push("-wal");
    match fs::symlink_metadata(&log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(Failure::new("the copy could not be closed in order").help("try again")),
    }
}

/// Keeps the file that is there under another name too, until the copy has its own; and takes away
/// what a database that was not closed in order left beside it.
fn keep(store: &Path) -> Result<Option<PathBuf>, Failure> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let with = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let kept = with(store, &format!(".replaced-{}", since.as_millis()));
    match fs::hard_link(store, &kept) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::Io(kept, error).into()),
    }
    for suffix in ["-wal", "-shm", "-journal"] {
        match fs::rename(with(store, suffix), with(&kept, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::Io(with(store, suffix), error).into());
            }
            _ => {}
        }
    }
    Ok(Some(kept))
}

#[cfg(test)]
mod tests {
    use super::super::{KeyChoice, init};
    use super::*;
    use crate::reference::Name;

    struct Scratch {
        directory: tempfile::TempDir,
        home: Home,
    }

    impl Scratch {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let home = Home::locate(Some(&directory.path().join("home"))).unwrap();
            init(&home, false, &KeyChoice::Config).unwrap();
            Self { directory, home }
        }

        fn backup(&self) -> PathBuf {
            let path = self.directory.path().join("copy.db");
            Opened::open(&self.home).unwrap().vault.backup(&path).unwrap();
            path
        }

        fn add_agent(&self, name: &str) {
            let mut opened = Opened::open(&self.home).unwrap();
            opened.vault.agent_add(&name.parse::<Name>().unwrap()).unwrap();
            opened.changed().unwrap();
        }

        fn agents(&self) -> usize {
            Opened::open(&self.home).unwrap().vault.agents().unwrap().len()
        }

        fn restore(&self, from: &Path, rollback: bool) -> Result<Restored, Failure> {
            restore(&self.home, from, Accept { rollback, changes: false })
        }
    }

    #[test]
    fn the_newest_state_needs_no_word_and_an_older_one_does() {
        let scratch = Scratch::new();
        let copy = scratch.backup();
        let restored = scratch.restore(&copy, false).unwrap();
        assert!(!restored.accepted && restored.kept.as_ref().is_some_and(|kept| kept.exists()));
        drop(restored); // Its vault is open.
        scratch.add_agent("late");
        let failure = scratch.restore(&copy, false).unwrap_err();
        assert!(failure.to_string().contains("this is an old copy"), "{failure}");
        assert!(failure.advice().unwrap().contains("--accept-rollback"));
        assert_eq!(scratch.agents(), 1, "nothing changed");
        assert!(scratch.restore(&copy, true).unwrap().accepted);
        assert_eq!(scratch.agents(), 0);
    }

    #[test]
    fn what_happens_after_a_rollback_is_recorded() {
        let scratch = Scratch::new();
        let copy = scratch.backup();
        for name in ["one", "two", "three"] {
            scratch.add_agent(name);
        }
        scratch.restore(&copy, true).unwrap();
        scratch.add_agent("four");
        let log = fs::read_to_string(
            fs::read_dir(scratch.home.audit())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.extension().is_some_and(|e| e == "jsonl"))
                .unwrap(),
        )
        .unwrap();
        assert_eq!(log.matches("vault-state-accepted").count(), 1, "{log}");
        assert_eq!(log.matches(r#""subject":"four""#).count(), 1, "{log}");
        assert_eq!(log.matches(r#""subject":"one""#).count(), 1, "{log}");
    }

    #[test]
    fn a_restore_that_was_killed_before_the_anchor_followed_is_finished() {
        let scratch = Scratch::new();
        let copy = scratch.backup();
        scratch.add_agent("late");
        let config = Config::load(&scratch.home.config(), scratch.home.path()).unwrap();
        let newest = fs::read(anchor_file(&config)).unwrap();
        drop(scratch.restore(&copy, true).unwrap());
        // As it was between the two renames.
        let accepted = fs::read(anchor_file(&config)).unwrap();
        fs::rename(anchor_file(&config), next_anchor_file(&config)).unwrap();
        files::create_private(&anchor_file(&config), &newest).unwrap();
        assert_eq!(scratch.agents(), 0);
        assert_eq!(fs::read(anchor_file(&config)).unwrap(), accepted);
        assert!(!next_anchor_file(&config).exists());
        // An announcement of another state accepts nothing.
        files::replace_private(&anchor_file(&config), &newest).unwrap();
        files::create_private(&next_anchor_file(&config), &newest).unwrap();
        assert!(Opened::open(&scratch.home).is_err());
    }

    #[test]
    fn a_missing_or_a_broken_vault_is_replaced() {
        let scratch = Scratch::new();
        let copy = scratch.backup();
        fs::write(scratch.home.vault(), b"not a database at all").unwrap();
        scratch.restore(&copy, false).unwrap();
        fs::remove_file(scratch.home.vault()).unwrap();
        let restored = scratch.restore(&copy, false).unwrap();
        assert!(restored.kept.is_none() && scratch.agents() == 0);
    }

    #[test]
    fn the_vault_itself_can_be_accepted_in_its_place() {
        let scratch = Scratch::new();
        let copy = scratch.backup();
        scratch.add_agent("late");
        fs::copy(&copy, scratch.home.vault()).unwrap();
        assert!(Opened::open(&scratch.home).is_err());
        scratch.restore(&scratch.home.vault(), true).unwrap();
        assert_eq!(scratch.agents(), 0);
    }

    #[test]
    fn a_copy_of_another_vault_is_refused() {
        let (scratch, other) = (Scratch::new(), Scratch::new());
        let failure = scratch.restore(&other.backup(), true).unwrap_err();
        assert!(failure.to_string().contains("master key does not open"), "{failure}");
        let entries = fs::read_dir(scratch.home.path()).unwrap();
        let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("tmp")), "{left:?}");
    }

    #[test]
    fn rows_that_were_changed_take_a_word_of_their_own() {
        let scratch = Scratch::new();
        scratch.add_agent("one");
        let copy = scratch.directory.path().join("plain.db");
        Opened::open(&scratch.home).unwrap().vault.backup_plain(&copy).unwrap();
        let db = rusqlite::Connection::open(&copy).unwrap();
        db.execute("UPDATE agents SET name = 'two'", []).unwrap();
        drop(db);
        let failure = scratch.restore(&copy, true).unwrap_err();
        assert!(failure.advice().unwrap().contains("--accept-changes"), "{failure}");
        restore(&scratch.home, &copy, Accept { rollback: false, changes: true }).unwrap();
        assert_eq!(scratch.agents(), 1);
    }
}
