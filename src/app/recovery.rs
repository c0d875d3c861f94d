//! Recovery of a vault whose master key is lost, with shares that people keep.
//!
//! What the shares open lies beside the vault (`master.recovery`) and in each backup: the master key,
//! sealed to a public key. A vault that is recovered gets a new key file at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::master::{NewKey, Turn, key_file, key_in_file, like, new_key_file};
use super::open::Opened;
use super::restore::{Accept, Restored, restore_with};
use super::{Failure, Home};
use crate::audit::AuditLog;
use crate::config::Config;
use crate::files;
use crate::secret::Secret;
use crate::vault::{
    Backup, Fault, KeySource, MasterKey, RecoveryRecord, RecoverySet, Share, Vault,
};

/// The first line of the file.
const TITLE: &str = "locum recovery 1";

/// Two records at most: of the master key, and of the one that is about to follow it.
const LIMIT: usize = 8 * 1024;

/// Makes a set of shares, in the place of the one before. `hand_out` gets them once, and they are kept
/// nowhere; only when it has given them to somebody does the set take the place.
///
/// # Errors
/// When the vault does not open, the shares are not handed out, or the file beside the vault cannot be
/// written; with which set is in force.
pub fn make_recovery(
    home: &Home,
    threshold: u8,
    shares: u8,
    hand_out: impl FnOnce(&RecoverySet, &[Zeroizing<String>]) -> Result<(), Failure>,
) -> Result<RecoverySet, Failure> {
    home.require()?;
    let config = Config::load(&home.config(), home.path())?;
    // Or the key that is sealed for them is one that another command is about to replace.
    let turn = Turn::require(&config.vault.store)?;
    let mut opened = Opened::open_in_turn(home, Some(&turn))?;
    let before = match opened.vault.recovery()? {
        Some(set) => format!("set {} is in force, as before", set.set),
        None => "the vault has no shares, as before".to_owned(),
    };
    let made = opened.vault.make_recovery(threshold, shares);
    let (set, texts) = made.map_err(|error| match error.fault {
        Fault::BadShares => Failure::usage(error.to_string()),
        _ => error.into(),
    })?;
    let worthless = || format!("what was printed of set {} opens nothing; {before}", set.set);
    hand_out(&set, &texts).map_err(|failure| failure.help(worthless()))?;
    drop(texts);
    let put = opened.vault.put_in_force(&set);
    put.map_err(|error| Failure::from(error).help(worthless()))?;
    write_records(home, &opened.vault, &[&opened.master]).map_err(|failure| {
        failure.help(format!(
            "set {} is in force for backups and for the next key, but {} has the record of the one before: run it again",
            set.set,
            home.recovery().display()
        ))
    })?;
    opened.changed()?;
    Ok(set)
}

/// Seals master keys for recovery, beside the vault; does nothing where there are no shares.
pub(super) fn write_records(
    home: &Home,
    vault: &Vault,
    masters: &[&MasterKey],
) -> Result<(), Failure> {
    let mut text = format!("{TITLE}\n");
    for master in masters {
        let Some(record) = vault.recovery_record(master)? else { return Ok(()) };
        // Texts and numbers are JSON.
        text.push_str(&serde_json::to_string(&record).unwrap_or_default());
        text.push('\n');
    }
    Ok(files::replace_private(&home.recovery(), text.as_bytes())?)
}

fn read_records(home: &Home) -> Result<Vec<RecoveryRecord>, Failure> {
    let path = home.recovery();
    let text = files::read_private(&path, LIMIT)?;
    let text = std::str::from_utf8(&text).unwrap_or_default();
    let mut lines = text.lines();
    let records = (lines.next() == Some(TITLE))
        .then(|| lines.map(serde_json::from_str).collect::<Result<Vec<_>, _>>().ok())
        .flatten();
    records.filter(|all| !all.is_empty()).ok_or_else(|| {
        Failure::new(format!("{} is not what Locum has written", path.display()))
            .help("take it, or the vault, from a backup")
    })
}

/// What shares, or a key of before, have given back.
#[derive(Debug)]
pub struct Recovered {
    /// The vault, and what was put back.
    pub restored: Restored,
    /// Its new key file.
    pub key_file: PathBuf,
    /// The one that was there before, if one was.
    pub kept_key: Option<PathBuf>,
    /// The set whose shares were used, if shares were.
    pub set: Option<RecoverySet>,
}

/// Puts the copy `from` in the vault's place that another key file opens, such as the one of before a `rekey`; and gives it
/// a new key file, because the home's own does not open it.
///
/// # Errors
/// When the key does not open the copy, a proxy serves the home, or as `restore` fails.
pub fn restore_by_key(
    home: &Home,
    from: &Path,
    key: &Path,
    accept: Accept,
) -> Result<Recovered, Failure> {
    home.require_closed()?;
    let (config, turn) = at_rest(home, "stop it, restore, and start it again")?;
    let master = key_in_file(&config, key)?;
    let restored = restore_with(home, from, accept, &turn, Some(master))?;
    let own = key_file(home, &config);
    with_new_key(home, restored, &like(&own), None)
}

/// The home's config, and the turn to change its vault: no proxy has it open.
fn at_rest(home: &Home, help: &str) -> Result<(Config, Turn), Failure> {
    files::check_directory(home.path())?;
    let config = Config::load(&home.config(), home.path())?;
    if AuditLog::is_locked(&config.audit.dir) {
        return Err(Failure::new("a proxy serves this home, and has its vault open").help(help));
    }
    let turn = Turn::require(&config.vault.store)?;
    Ok((config, turn))
}

fn with_new_key(
    home: &Home,
    mut restored: Restored,
    choice: &NewKey,
    set: Option<RecoverySet>,
) -> Result<Recovered, Failure> {
    let path = key_file(home, &restored.opened.config);
    let kept_key = set_aside(&path)?;
    new_key_file(&mut restored.opened, &path, choice)?;
    restored.record();
    Ok(Recovered { restored, key_file: path, kept_key, set })
}

/// Opens the vault of the home, or the copy `from`, which then takes its place, with shares; and gives it
/// a new key file. `next` is asked for each share: which it is, and of how many.
///
/// # Errors
/// When a share is none of those that are wanted, a proxy serves the home, or as `restore` fails.
pub fn recover(
    home: &Home,
    from: Option<&Path>,
    accept: Accept,
    mut next: impl FnMut(usize, u8) -> Result<Secret, Failure>,
) -> Result<Recovered, Failure> {
    let help = "while it runs, the key is not lost: take a backup of what it has; then stop it";
    let (config, turn) = at_rest(home, help)?;
    let backup = from.map(Backup::at).transpose()?.flatten();
    let records = match backup.as_ref().and_then(Backup::recovery) {
        Some(record) => vec![record.clone()],
        None => read_records(home)?,
    };
    let source = match (&backup, from) {
        (Some(backup), _) => backup.key_source()?,
        (None, Some(copy)) => Vault::key_source(copy)?,
        (None, None) => Vault::key_source(&config.vault.store)?,
    };
    let (master, set) =
        with_shares(&records, &source, &mut next, |master| match (&backup, from) {
            (Some(backup), _) => backup.fits(master),
            (None, Some(copy)) => fits(copy, master),
            (None, None) => fits(&config.vault.store, master),
        })?;
    let restored = if let Some(from) = from {
        restore_with(home, from, accept, &turn, Some(master))?
    } else {
        let opened = Opened::open_by(home, master)?;
        Restored { opened, kept: None, accepted: false, unrecorded: None }
    };
    with_new_key(home, restored, &NewKey::File, Some(set))
}

fn fits(vault: &Path, master: &MasterKey) -> bool {
    // What else is wrong with it is said where it is put in its place.
    let opened = Vault::open(vault, master);
    !opened.is_err_and(|e| matches!(e.fault, Fault::WrongKey | Fault::OtherKeySource))
}

/// Asks for shares until there are enough, and opens the record that they fit.
fn with_shares(
    records: &[RecoveryRecord],
    source: &KeySource,
    next: &mut impl FnMut(usize, u8) -> Result<Secret, Failure>,
    is_it: impl Fn(&MasterKey) -> bool,
) -> Result<(MasterKey, RecoverySet), Failure> {
    let first = records.first().ok_or_else(|| Failure::new("there is no recovery record"))?;
    let mut shares: Vec<Share> = Vec::new();
    while shares.len() < usize::from(first.set.threshold) {
        let share = Share::read(&next(shares.len() + 1, first.set.threshold)?);
        let share = share.map_err(|error| Failure::usage(error.to_string()))?;
        first.takes(&share, &shares).map_err(|error| Failure::usage(error.to_string()))?;
        shares.push(share);
    }
    for record in records {
        if let Some(master) = record.open(&shares, source)
            && is_it(&master)
        {
            return Ok((master, record.set.clone()));
        }
    }
    Err(Failure::new("the shares give a key that does not open this vault")
        .help("the vault was given another key since the record was made; restore a backup with --recovery"))
}

/// A key file that does not open the vault may open a backup: it is kept.
fn set_aside(path: &Path) -> Result<Option<PathBuf>, Failure> {
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut kept = path.as_os_str().to_owned();
    kept.push(format!(".replaced-{}", since.as_millis()));
    let kept = PathBuf::from(kept);
    fs::rename(path, &kept).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
    Ok(Some(kept))
}
