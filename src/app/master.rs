//! The master key of a vault: where it is found, and how another takes its place.
//!
//! A new key file is written beside the old one (`master.key.new`), then the vault is rekeyed in one
//! transaction, then the new file takes the old one's name. Killed in between, there are two files of
//! which one opens the vault: whoever opens it next finds out which, and finishes the work.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::open::{Opened, passphrase};
use super::recovery::write_records;
use super::{Failure, Home, program, wrapping};
use crate::config::{self, Config, Passphrase};
use crate::files::{self, FileError};
use crate::secret::Secret;
use crate::vault::{
    Fault, KeyError, KeyFile, KeySource, MasterKey, PassphraseParams, Vault, VaultError, Wrapper,
};

/// The right to change which key opens a vault, or which file the vault is: one process at a time.
/// It is the system's lock on the vault's directory, and ends with the process.
pub(super) struct Turn(#[expect(dead_code, reason = "held, not read")] File);

impl Turn {
    /// None when another process has it.
    pub(super) fn take(vault: &Path) -> Result<Option<Self>, Failure> {
        let directory = files::directory_of(vault);
        let failed = |e: io::Error| Failure::new(format!("{}: {e}", directory.display()));
        let file = File::open(directory).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// The same, for what cannot be done without it.
    pub(super) fn require(vault: &Path) -> Result<Self, Failure> {
        Self::take(vault)?.ok_or_else(|| {
            Failure::new("another command changes the vault's key or file").help("try again")
        })
    }
}

/// Opens a vault with its master key, from where vault and config say, and finishes a change of the
/// key file that was cut short. `turn` is this process's, if it has it already.
pub(super) fn unlock<T>(
    home: &Home,
    config: &Config,
    vault: &Path,
    turn: Option<&Turn>,
    open: impl Fn(&MasterKey) -> Result<T, VaultError>,
) -> Result<(T, MasterKey), Failure> {
    unlock_from(home, config, (key_source(vault)?, vault), turn, open)
}

/// By what a vault is opened that is to be there.
pub(super) fn key_source(vault: &Path) -> Result<KeySource, Failure> {
    Vault::key_source(vault).map_err(|error| match &error.fault {
        Fault::File(FileError::Missing(_)) => Failure::from(error).help(VAULT_GONE),
        _ => error.into(),
    })
}

/// The same, for what is opened by the key of the vault that is at `vault` or is to be there.
pub(super) fn unlock_from<T>(
    home: &Home,
    config: &Config,
    (source, vault): (KeySource, &Path),
    turn: Option<&Turn>,
    open: impl Fn(&MasterKey) -> Result<T, VaultError>,
) -> Result<(T, MasterKey), Failure> {
    match source {
        KeySource::Passphrase(params) => {
            let master = by_passphrase(config, params)?;
            Ok((open(&master)?, master))
        }
        KeySource::File => {
            if let config::KeySource::Command(words) = &config.vault.key {
                let master = by_command(words)?;
                return Ok((open(&master)?, master));
            }
            let path = key_file(home, config);
            by_file(config, &path, &open).or_else(|first| {
                if !first.may_be_a_change_cut_short(&path) {
                    return Err(first.into());
                }
                match finish_change(config, (vault, &path), turn, &open)? {
                    Some(done) => Ok(done),
                    // Whoever was changing the key may have finished between the two looks.
                    None => by_file(config, &path, &open).map_err(|_| first.into()),
                }
            })
        }
    }
}

fn by_passphrase(config: &Config, params: PassphraseParams) -> Result<MasterKey, Failure> {
    let from = match &config.vault.key {
        config::KeySource::Passphrase(from) => from,
        config::KeySource::File(_) | config::KeySource::Command(_) => &Passphrase::Prompt,
    };
    let text = passphrase(from, "Passphrase of the vault: ")?;
    opening_key(&text, params)
}

/// The key of a vault that is there. A passphrase that none is made of is no weak one, but a wrong one.
pub(super) fn opening_key(text: &Secret, params: PassphraseParams) -> Result<MasterKey, Failure> {
    MasterKey::from_passphrase(text, params).map_err(|error| match error {
        KeyError::WeakPassphrase => {
            Failure::new("the passphrase does not open this vault: it is shorter than any that does, or mistyped")
        }
        other => other.into(),
    })
}

/// How long a program may take that prints the master key: some ask a person, or a far server.
const COMMAND_TIME: Duration = Duration::from_mins(1);

/// The key that a program prints.
pub(super) fn by_command(words: &[String]) -> Result<MasterKey, Failure> {
    let printed = program::output(words, COMMAND_TIME)?;
    let name = words.first().map(String::as_str).unwrap_or_default();
    Ok(MasterKey::from_text(&printed, Path::new(name))?)
}

/// The key file's place: the config's, or the home's own for a vault that has a key file though the
/// config says otherwise.
pub(super) fn key_file(home: &Home, config: &Config) -> PathBuf {
    match &config.vault.key {
        config::KeySource::File(path) => path.clone(),
        config::KeySource::Passphrase(_) | config::KeySource::Command(_) => home.master_key(),
    }
}

/// `master.key.new`.
fn successor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// What to do without a vault.
const VAULT_GONE: &str = "put the vault back: `locum vault restore FILE` from a backup; the audit log and the policies are not in it, and stay";

/// What to do without its key.
const KEY_GONE: &str = "put the key file back from where a copy is kept, or use recovery shares, if there are any: `locum vault restore --recovery`; nothing else opens the vault";

/// Why a key file does not open a vault.
enum Unopened {
    Key(KeyError),
    /// Whoever has wrapped the key does not unwrap it.
    Wrapped(Failure),
    Vault(VaultError),
}

impl Unopened {
    fn may_be_a_change_cut_short(&self, path: &Path) -> bool {
        match self {
            Self::Key(error) => matches!(error, KeyError::File(FileError::Missing(_))),
            // The one that was to follow it may be another's to unwrap, or nobody's.
            Self::Wrapped(_) => successor(path).exists(),
            Self::Vault(error) => matches!(error.fault, Fault::WrongKey),
        }
    }
}

impl From<Unopened> for Failure {
    fn from(why: Unopened) -> Self {
        match why {
            Unopened::Key(error @ KeyError::File(FileError::Missing(_))) => {
                Self::from(error).help(KEY_GONE)
            }
            Unopened::Key(error) => error.into(),
            Unopened::Wrapped(failure) => failure,
            Unopened::Vault(error) => error.into(),
        }
    }
}

/// The key in a file, unwrapped where it is wrapped.
pub(super) fn key_in_file(config: &Config, path: &Path) -> Result<MasterKey, Failure> {
    read_key(config, path).map_err(Failure::from)
}

fn read_key(config: &Config, path: &Path) -> Result<MasterKey, Unopened> {
    match KeyFile::load(path).map_err(Unopened::Key)? {
        KeyFile::Plain(master) => Ok(master),
        KeyFile::Wrapped(wrapped) => wrapping::unwrap(config, &wrapped).map_err(Unopened::Wrapped),
    }
}

fn by_file<T>(
    config: &Config,
    path: &Path,
    open: impl Fn(&MasterKey) -> Result<T, VaultError>,
) -> Result<(T, MasterKey), Unopened> {
    let master = read_key(config, path)?;
    let opened = open(&master).map_err(Unopened::Vault)?;
    Ok((opened, master))
}

/// Tries the key that was to take the place of `path`. If it is the vault's, it takes that place now;
/// unless another process is just doing it.
fn finish_change<T>(
    config: &Config,
    (vault, path): (&Path, &Path),
    turn: Option<&Turn>,
    open: impl Fn(&MasterKey) -> Result<T, VaultError>,
) -> Result<Option<(T, MasterKey)>, Failure> {
    let taken = if turn.is_none() { Turn::take(vault)? } else { None };
    let new = successor(path);
    let found = match by_file(config, &new, &open) {
        Ok(found) => found,
        // It may be the one, and cannot be tried.
        Err(Unopened::Wrapped(failure)) => return Err(failure),
        // It may have got its place since the first look.
        Err(_) => return Ok(by_file(config, path, &open).ok()),
    };
    if turn.is_some() || taken.is_some() {
        files::rename_private(&new, path)?;
    }
    Ok(Some(found))
}

/// Who opens the vault, as people call it.
///
/// # Errors
/// When the vault cannot be read.
pub fn key_described(home: &Home, config: &Config, vault: &Path) -> Result<String, Failure> {
    Ok(match key_source(vault)? {
        KeySource::Passphrase(_) => "passphrase".to_owned(),
        KeySource::File if matches!(config.vault.key, config::KeySource::Command(_)) => {
            "command".to_owned()
        }
        KeySource::File => match KeyFile::load(&key_file(home, config)) {
            Ok(KeyFile::Wrapped(wrapped)) => wrapped.wrapper.to_string(),
            Ok(KeyFile::Plain(_)) | Err(_) => "key file".to_owned(),
        },
    })
}

/// What is to open a vault from now on.
#[derive(Clone, Debug)]
pub enum NewKey {
    /// A new key file.
    File,
    /// A passphrase from there.
    Passphrase(Passphrase),
    /// What this program prints, with these arguments.
    Command(Vec<String>),
    /// A new key in the key file, wrapped by somebody else's.
    Wrapped(Box<Wrapper>),
}

/// What a change of the key leaves to do.
#[derive(Debug)]
pub struct Rekeyed {
    /// The vault's epoch after it.
    pub epoch: u64,
    /// The new key file.
    pub key_file: Option<PathBuf>,
    /// What `locum.yaml` should say about `vault.key` from now on, if it says otherwise.
    pub config: Option<String>,
    /// An old key file that could not be removed.
    pub left: Option<PathBuf>,
}

/// Gives the vault another master key. Without a choice, a key file is followed by a new key file.
///
/// # Errors
/// When the vault does not open, or files cannot be written. The vault then has its old key; after
/// `kill -9` at any moment it has one of the two, and opens.
pub fn rekey(home: &Home, choice: Option<NewKey>) -> Result<Rekeyed, Failure> {
    home.require()?;
    let config = Config::load(&home.config(), home.path())?;
    let turn = Turn::require(&config.vault.store)?;
    let was_file = matches!(Vault::key_source(&config.vault.store)?, KeySource::File)
        && !matches!(config.vault.key, config::KeySource::Command(_));
    let choice = match choice {
        Some(choice) => choice,
        None if was_file => like(&key_file(home, &config)),
        None => {
            return Err(Failure::usage("this vault is not opened by a key file").help(
                "say by what from now on: --passphrase, --passphrase-file FILE, --key-file, --transit URL, --kms KEY, or -- PROGRAM",
            ));
        }
    };
    let mut opened = Opened::open_in_turn(home, Some(&turn))?;
    let path = key_file(home, &opened.config);
    let (mut key_path, mut left) = (None, None);
    let new = match &choice {
        NewKey::File | NewKey::Wrapped(_) => None,
        NewKey::Passphrase(from) => {
            let text = new_passphrase(from)?;
            Some(MasterKey::from_passphrase(&text, PassphraseParams::generate()?)?)
        }
        NewKey::Command(words) => Some(by_command(words)?),
    };
    match new {
        None => {
            to_key_file(&mut opened, &path, was_file, &choice)?;
            key_path = Some(path);
        }
        Some(master) => {
            write_records(home, &opened.vault, &[&opened.master, &master])?;
            opened.vault.rekey(&master)?;
            opened.master = master;
            if was_file {
                left = remove(&path).err().map(|_| path);
            }
        }
    }
    write_records(home, &opened.vault, &[&opened.master])?;
    opened.changed()?;
    let config = config_change(&opened.config.vault.key, &choice);
    Ok(Rekeyed { epoch: opened.vault.epoch()?, key_file: key_path, config, left })
}

/// Gives a vault that was recovered a new key file, where there is none.
pub(super) fn new_key_file(
    opened: &mut Opened,
    path: &Path,
    choice: &NewKey,
) -> Result<(), Failure> {
    to_key_file(opened, path, true, choice)?;
    write_records(&opened.home, &opened.vault, &[&opened.master])
}

/// What is there, anew: a wrapped key is followed by one that is wrapped by the same.
pub(super) fn like(path: &Path) -> NewKey {
    match KeyFile::load(path) {
        Ok(KeyFile::Wrapped(wrapped)) => NewKey::Wrapped(Box::new(wrapped.wrapper)),
        Ok(KeyFile::Plain(_)) | Err(_) => NewKey::File,
    }
}

fn to_key_file(
    opened: &mut Opened,
    path: &Path,
    was_file: bool,
    choice: &NewKey,
) -> Result<(), Failure> {
    if !was_file && path.symlink_metadata().is_ok() {
        return Err(Failure::new(format!("{} is there, and not this vault's key", path.display()))
            .help("move it away, or set vault.key in locum.yaml to another file"));
    }
    let new = successor(path);
    // What is there was to be the key once, and did not become it: the vault has just been opened
    // by another.
    remove(&new)?;
    let master = MasterKey::generate()?;
    match choice {
        NewKey::Wrapped(wrapper) => {
            let wrapped = wrapping::wrap(&opened.config, (**wrapper).clone(), &master)?;
            // Whoever wraps and does not unwrap would lose the vault.
            wrapping::unwrap(&opened.config, &wrapped)?
                .expose(|back| master.expose(|key| back == key))
                .then_some(())
                .ok_or_else(|| {
                    Failure::new(format!("{wrapper} unwraps another key than it wrapped"))
                })?;
            wrapped.save_new(&new)?;
        }
        _ => master.save_new(&new)?,
    }
    // Whichever of the two it is when this is cut short, shares give it back.
    write_records(&opened.home, &opened.vault, &[&opened.master, &master])?;
    opened.vault.rekey(&master)?;
    files::rename_private(&new, path)?;
    opened.master = master;
    Ok(())
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Failure::new(format!("{}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

/// A passphrase that is asked for is asked for twice: a typing mistake would lose the vault.
pub(super) fn new_passphrase(source: &Passphrase) -> Result<Secret, Failure> {
    let first = passphrase(source, "New passphrase for the vault: ")?;
    if matches!(source, Passphrase::Prompt) {
        let second = passphrase(source, "The same again: ")?;
        let same = first.expose(|a| second.expose(|b| a == b));
        if !same {
            return Err(Failure::usage("the two passphrases differ").help("run it again"));
        }
    }
    Ok(first)
}

/// What the config says, as against what is the case now.
fn config_change(says: &config::KeySource, now: &NewKey) -> Option<String> {
    match (says, now) {
        (config::KeySource::File(_), NewKey::File | NewKey::Wrapped(_)) => None,
        (config::KeySource::Passphrase(says), NewKey::Passphrase(now)) if says == now => None,
        (config::KeySource::Command(says), NewKey::Command(now)) if says == now => None,
        (config::KeySource::Command(_), NewKey::File | NewKey::Wrapped(_)) => {
            Some("remove vault.key.command".to_owned())
        }
        (_, NewKey::File | NewKey::Wrapped(_)) => Some("remove vault.key.passphrase".to_owned()),
        (_, NewKey::Command(words)) => {
            // JSON is YAML.
            let words = serde_json::Value::from(words.as_slice());
            Some(format!("set vault.key to {{command: {words}}}"))
        }
        (_, NewKey::Passphrase(now)) => {
            Some(format!("set vault.key to {{passphrase: {}}}", super::init::yaml(now)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{KeyChoice, init};
    use super::*;

    struct Scratch {
        _directory: tempfile::TempDir,
        home: Home,
    }

    impl Scratch {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let home = Home::locate(Some(&directory.path().join("home"))).unwrap();
            init(&home, false, &KeyChoice::Config).unwrap();
            Self { _directory: directory, home }
        }

        fn key(&self) -> PathBuf {
            self.home.master_key()
        }

        fn opens(&self) -> bool {
            Opened::open(&self.home).is_ok()
        }
    }

    #[test]
    fn a_change_that_was_killed_before_the_vault_took_the_key_changes_nothing() {
        let scratch = Scratch::new();
        let before = fs::read(scratch.key()).unwrap();
        MasterKey::generate().unwrap().save_new(&successor(&scratch.key())).unwrap();
        assert!(scratch.opens());
        assert_eq!(fs::read(scratch.key()).unwrap(), before);
        // And the next change is not held up by what was left.
        rekey(&scratch.home, None).unwrap();
        assert_ne!(fs::read(scratch.key()).unwrap(), before);
        assert!(!successor(&scratch.key()).exists() && scratch.opens());
    }

    #[test]
    fn a_change_that_was_killed_after_the_vault_took_the_key_is_finished() {
        for old_is_there in [true, false] {
            let scratch = Scratch::new();
            let new = MasterKey::generate().unwrap();
            new.save_new(&successor(&scratch.key())).unwrap();
            Opened::open(&scratch.home).unwrap().vault.rekey(&new).unwrap();
            if !old_is_there {
                fs::remove_file(scratch.key()).unwrap();
            }
            let text = fs::read(successor(&scratch.key())).unwrap();
            assert!(scratch.opens());
            assert_eq!(fs::read(scratch.key()).unwrap(), text);
            assert!(!successor(&scratch.key()).exists() && scratch.opens());
        }
    }

    #[test]
    fn while_another_process_changes_the_key_its_file_is_used_and_left_alone() {
        let scratch = Scratch::new();
        let new = MasterKey::generate().unwrap();
        new.save_new(&successor(&scratch.key())).unwrap();
        Opened::open(&scratch.home).unwrap().vault.rekey(&new).unwrap();
        let turn = Turn::require(&scratch.home.vault()).unwrap();
        assert!(scratch.opens() && successor(&scratch.key()).exists());
        assert!(rekey(&scratch.home, None).is_err(), "one at a time");
        drop(turn);
        rekey(&scratch.home, None).unwrap();
        assert!(!successor(&scratch.key()).exists() && scratch.opens());
    }

    #[test]
    fn a_wrong_key_stays_a_wrong_key() {
        let scratch = Scratch::new();
        fs::remove_file(scratch.key()).unwrap();
        MasterKey::generate().unwrap().save_new(&scratch.key()).unwrap();
        let failure = Opened::open(&scratch.home).unwrap_err();
        assert!(failure.to_string().contains("does not open this vault"), "{failure}");
        MasterKey::generate().unwrap().save_new(&successor(&scratch.key())).unwrap();
        assert!(!scratch.opens() && successor(&scratch.key()).exists());
    }

    #[test]
    fn from_a_key_file_to_a_passphrase_and_back() {
        let scratch = Scratch::new();
        let file = scratch.home.path().join("passphrase");
        files::create_private(&file, b"correct horse battery staple\n").unwrap();
        let from = Passphrase::File(file.clone());
        let done = rekey(&scratch.home, Some(NewKey::Passphrase(from))).unwrap();
        assert!(!scratch.key().exists() && done.left.is_none());
        let says = done.config.unwrap();
        assert!(says.contains("passphrase: {file: "), "{says}");
        assert!(!scratch.opens(), "there is no terminal to ask on");

        let yaml = format!("vault:\n  key:\n    passphrase: {{file: '{}'}}\n", file.display());
        files::replace_private(&scratch.home.config(), yaml.as_bytes()).unwrap();
        assert!(scratch.opens());
        assert!(rekey(&scratch.home, None).is_err(), "which one is not said");
        let done = rekey(&scratch.home, Some(NewKey::File)).unwrap();
        assert_eq!(done.key_file, Some(scratch.key()));
        assert!(scratch.opens());
    }
}
