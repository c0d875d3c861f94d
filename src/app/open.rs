//! Opening a home: config, master key, vault, audit log, and the checks that tie them together.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::master::{Turn, unlock};
use super::{Failure, Home};
use crate::audit::{self, AuditError, AuditLog};
use crate::config::{self, Config, Passphrase};
use crate::files;
use crate::record::{AuditSink as _, Event};
use crate::secret::Secret;
use crate::tls::CertificateAuthority;
use crate::vault::{Fault, KeySource, MasterKey, Vault, VaultError, without_line_end};

/// The sealed item that holds the CA's private key.
pub const CA_KEY_ITEM: &str = "ca-key";

/// The sealed item that holds the CA's certificate, so that `ca.pem` can be put back.
pub const CA_CERTIFICATE_ITEM: &str = "ca-certificate";

/// How often it is looked whether a change is in force: far less than the time that it takes.
const IN_FORCE_STEP: Duration = Duration::from_millis(5);

/// How long the audit log of another process of this home is waited for: a command has it for an
/// instant, and a private proxy whose last run is over as long as its last requests may take.
const LOG_FREE_WITHIN: Duration = Duration::from_secs(15);

/// How often that is looked at.
const LOG_STEP: Duration = Duration::from_millis(10);

/// A change is in force.
#[derive(Clone, Copy, Debug)]
pub struct InForce {
    /// How long that took.
    pub after: Duration,
}

/// The longest passphrase file or credential that is read, in bytes.
const PASSPHRASE_LIMIT: usize = 4096;

/// A home with its vault open.
pub struct Opened {
    /// Where.
    pub home: Home,
    /// Its process config.
    pub config: Config,
    /// Its vault.
    pub vault: Vault,
    /// What opened it; opens it anew when its file was replaced.
    pub(super) master: MasterKey,
}

impl Opened {
    /// Opens the home's vault, and checks it against the anchor that the audit directory keeps.
    ///
    /// # Errors
    /// When it is no home, its config is wrong, there is no master key, or the vault is not what it
    /// was.
    pub fn open(home: &Home) -> Result<Self, Failure> {
        Self::open_in_turn(home, None)
    }

    /// The same for a process that may change the vault's key.
    pub(super) fn open_in_turn(home: &Home, turn: Option<&Turn>) -> Result<Self, Failure> {
        home.require()?;
        let config = Config::load(&home.config(), home.path())?;
        let path = config.vault.store.clone();
        let open = |master: &MasterKey| Vault::open(&path, master);
        let (vault, master) = unlock(home, &config, &path, turn, open)?;
        let mut vault = vault.acting_as(&operator());
        check_anchor(&vault, &config)?;
        if vault.workspace() != home.workspace() {
            vault.use_workspace(home.workspace()).map_err(unknown_workspace)?;
        }
        Ok(Self { home: home.clone(), config, vault, master })
    }

    /// The same with a key that is at hand.
    pub(super) fn open_by(home: &Home, master: MasterKey) -> Result<Self, Failure> {
        home.require()?;
        let config = Config::load(&home.config(), home.path())?;
        let vault = Vault::open(&config.vault.store, &master)?.acting_as(&operator());
        check_anchor(&vault, &config)?;
        Ok(Self { home: home.clone(), config, vault, master })
    }

    /// What a backup of today has for those who keep shares.
    ///
    /// # Errors
    /// When the vault cannot be read.
    pub fn recovery_record(&self) -> Result<Option<crate::vault::RecoveryRecord>, Failure> {
        Ok(self.vault.recovery_record(&self.master)?)
    }

    /// Whether there is an anchor beside the audit log. If so, the vault agrees with it: otherwise
    /// it would not be open.
    #[must_use]
    pub fn is_anchored(&self) -> bool {
        anchor_file(&self.config).exists()
    }

    /// Whether the operating system keeps all keys out of the swap.
    #[must_use]
    pub fn is_locked_in_memory(&self) -> bool {
        self.master.is_locked_in_memory() && self.vault.is_locked_in_memory()
    }

    /// Call it after each change of the vault: keeps the anchors in step, and writes the change to
    /// the audit log, unless a proxy serves the home and does so itself.
    ///
    /// # Errors
    /// When the audit directory cannot be written. The change of the vault stands.
    pub fn changed(&mut self) -> Result<(), Failure> {
        write_anchor(&self.vault, &self.config)?;
        if AuditLog::is_locked(&self.config.audit.dir) {
            return Ok(());
        }
        match self.audit() {
            Ok(log) => {
                drain_journal(&self.vault, &self.config, &log, u64::MAX)?;
                let end = log.close()?;
                Ok(self.vault.set_audit_anchor(end.seq, &end.mac)?)
            }
            // A proxy was faster, and will do it.
            Err(_) if AuditLog::is_locked(&self.config.audit.dir) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Waits until what was changed is in force: in the proxy that serves the home, if one does. That
    /// records a change when it acts on it, and not before.
    ///
    /// # Errors
    /// When it has not within `patience`.
    pub fn in_force(&self, patience: Duration) -> Result<InForce, Failure> {
        let (epoch, start) = (self.vault.epoch()?, Instant::now());
        loop {
            if drained(&self.config) >= epoch {
                return Ok(InForce { after: start.elapsed() });
            }
            if start.elapsed() > patience {
                let failure = Failure::new(format!(
                    "the change is in the vault, and the proxy of this home has not said within \
                     {patience:?} that it acts on it"
                ));
                return Err(failure.help(
                    "look at its log and at /readyz; to be sure, stop it: what it has open ends with it",
                ));
            }
            std::thread::sleep(IN_FORCE_STEP);
        }
    }

    /// Opens the audit log for writing, checked against the vault's anchor.
    ///
    /// # Errors
    /// When another process writes it, or it is not as it was left.
    pub fn audit(&self) -> Result<AuditLog, Failure> {
        self.audit_with(false)
    }

    /// The same; with `accept_damage`, the log goes on over damage, in a new chain that says so.
    ///
    /// # Errors
    /// As [`Opened::audit`].
    pub fn audit_with(&self, accept_damage: bool) -> Result<AuditLog, Failure> {
        let anchor = audit_anchor(&self.vault)?;
        let options = audit::Options { accept_damage, ..audit_options(&self.config) };
        Ok(AuditLog::open(&self.config.audit.dir, &self.vault.audit_key(), options, anchor)?)
    }

    /// The same for a proxy, which has it from here on. Another process of this home may have it for an
    /// instant; and where the next proxy is a `private` one, the one before it may just be ending.
    ///
    /// # Errors
    /// As [`Opened::audit`], with who has it.
    pub(super) async fn audit_when_free(
        &self,
        accept_damage: bool,
        private: bool,
    ) -> Result<AuditLog, Failure> {
        let start = Instant::now();
        loop {
            let anchor = audit_anchor(&self.vault)?;
            let options = audit::Options { accept_damage, ..audit_options(&self.config) };
            let key = self.vault.audit_key();
            let error = match AuditLog::open(&self.config.audit.dir, &key, options, anchor) {
                Err(error @ AuditError::Locked { .. }) => error,
                other => return Ok(other?),
            };
            if self.is_kept_by_another(private) || start.elapsed() > LOG_FREE_WITHIN {
                return Err(self.log_taken(error));
            }
            tokio::time::sleep(LOG_STEP).await;
        }
    }

    /// Whether somebody has the log for longer than an instant.
    fn is_kept_by_another(&self, private: bool) -> bool {
        super::shared::answering(self).is_some() || !private && super::shared::is_there(&self.home)
    }

    fn log_taken(&self, error: AuditError) -> Failure {
        if let Some(serving) = super::shared::answering(self) {
            let pid = serving.pid;
            return Failure::new(format!("process {pid} serves this home already")).help(
                "use that one, or stop it; `locum serve --take-over` takes its place while it serves",
            );
        }
        if super::shared::is_there(&self.home) {
            return Failure::new(
                "a `locum run` of this home is at work, and its private proxy writes the audit log",
            )
            .help("wait for its end, then start `locum serve`; runs that begin after that use it");
        }
        error.into()
    }

    /// Where the proxy of this home listens, if one runs.
    #[must_use]
    pub fn running(&self) -> Option<super::Serving> {
        let serves = AuditLog::is_locked(&self.config.audit.dir);
        serves.then(|| self.home.announced()).flatten()
    }

    /// Writes `ca.pem` and `ca-bundle.pem` anew where they are not what they should be.
    ///
    /// # Errors
    /// When the vault has no CA, or a file cannot be written.
    pub fn write_certificates(&self) -> Result<crate::environment::Bundle, Failure> {
        super::init::write_certificates(self)
    }

    /// Where the audit log must at least be, as the vault remembers it.
    ///
    /// # Errors
    /// When somebody else wrote it.
    pub fn audit_anchor(&self) -> Result<Option<audit::Anchor>, Failure> {
        Ok(audit_anchor(&self.vault)?)
    }

    /// The CA, from the vault.
    ///
    /// # Errors
    /// When the vault has none, or it cannot be used any more.
    pub fn authority(&self) -> Result<CertificateAuthority, Failure> {
        let key = self.vault.open_item(CA_KEY_ITEM)?;
        let certificate = ca_certificate(&self.vault)?;
        Ok(CertificateAuthority::load(&certificate, &key, SystemTime::now())?)
    }
}

/// What was typed is wrong, and not the vault.
fn unknown_workspace(error: VaultError) -> Failure {
    match error.fault {
        Fault::Unknown(..) => Failure::usage(error.to_string()),
        _ => error.into(),
    }
}

/// The CA's certificate as the vault has it.
pub(super) fn ca_certificate(vault: &Vault) -> Result<String, Failure> {
    let item = vault.open_item(CA_CERTIFICATE_ITEM)?;
    item.expose(|bytes| String::from_utf8(bytes.to_vec()))
        .map_err(|_| Failure::new("the CA certificate in the vault is not text"))
}

/// How the log is kept, as the config says.
fn audit_options(config: &Config) -> audit::Options {
    let settings = &config.audit;
    audit::Options {
        fsync: match settings.fsync {
            config::Fsync::Always => audit::Fsync::Always,
            config::Fsync::Never => audit::Fsync::Never,
            config::Fsync::Every(interval) => audit::Fsync::Interval(interval),
        },
        max_file_bytes: settings.max_file,
        retain: match settings.retain {
            config::Retain::Forever => None,
            config::Retain::For(time) => Some(time),
        },
        accept_damage: false,
    }
}

/// Where the audit log must at least be, as the vault remembers it.
pub(super) fn audit_anchor(vault: &Vault) -> Result<Option<audit::Anchor>, VaultError> {
    let anchor = vault.audit_anchor()?;
    Ok(anchor.map(|a| audit::Anchor { seq: a.sequence, mac: a.mac }))
}

/// Opens the vault and checks that it is no older than the anchor beside the audit log. None when it
/// has another master key.
pub(super) fn open_vault(
    path: &Path,
    master: &MasterKey,
    config: &Config,
) -> Result<Option<Vault>, Failure> {
    let vault = match Vault::open(path, master) {
        Err(error) if matches!(error.fault, Fault::WrongKey | Fault::OtherKeySource) => {
            return Ok(None);
        }
        other => other?.acting_as(&operator()),
    };
    check_anchor(&vault, config)?;
    Ok(Some(vault))
}

/// The same with the master key from where the config says, but never from a person.
pub(super) fn open_unasked(home: &Home, config: &Config) -> Result<(Vault, MasterKey), Failure> {
    let path = &config.vault.store;
    let asks = match &config.vault.key {
        config::KeySource::Passphrase(from) => matches!(from, Passphrase::Prompt),
        _ => matches!(super::master::key_source(path)?, KeySource::Passphrase(_)),
    };
    if asks {
        return Err(Failure::new("the vault is opened by another passphrase than at the start")
            .help("start the proxy again; it asks for the new one"));
    }
    let (vault, master) = unlock(home, config, path, None, |master| Vault::open(path, master))?;
    let vault = vault.acting_as(&operator());
    check_anchor(&vault, config)?;
    Ok((vault, master))
}

pub(super) fn check_anchor(vault: &Vault, config: &Config) -> Result<(), Failure> {
    let anchor = anchor_file(config);
    match read_anchor(config)? {
        Some(text) => match vault.check_anchor(&text) {
            Err(_) if finish_restore(vault, config)? => Ok(()),
            other => other.map_err(|error| {
                Failure::from(error).help(format!(
                    "put back the newest copy of the vault; the anchor is {}",
                    anchor.display()
                ))
            }),
        },
        // It is written before the first record is. Without it, an older vault could not be told.
        None if has_records(&config.audit.dir) => {
            let path = anchor.display();
            Err(Failure::new(format!("{path} is missing, and the audit log is there"))
                .help("put it back: without it, nothing tells whether the vault is an old copy"))
        }
        None => Ok(()),
    }
}

/// Notes which state of the vault is just being put in its place, so that who finds it there later knows
/// that it was accepted.
pub(super) fn announce_restore(config: &Config, anchor: &str) -> Result<(), Failure> {
    files::create_directory(&config.audit.dir)?;
    Ok(files::replace_private(&next_anchor_file(config), anchor.as_bytes())?)
}

/// Whether the vault is in the very state that was accepted by a `restore` which was cut short after
/// it had put it in its place. If so, that is finished.
fn finish_restore(vault: &Vault, config: &Config) -> Result<bool, Failure> {
    let next = next_anchor_file(config);
    let accepted = fs::read_to_string(&next).ok();
    if accepted.is_none_or(|text| vault.anchor_text().ok() != Some(text)) {
        return Ok(false);
    }
    match files::rename_private(&next, &anchor_file(config)) {
        // Another process has just done it.
        Ok(()) | Err(files::FileError::Missing(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// What a `restore` is about to bring.
pub(super) fn next_anchor_file(config: &Config) -> PathBuf {
    config.audit.dir.join("vault.head.next")
}

/// Whether there is anything of an audit log in the directory.
fn has_records(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|e| e == "jsonl"))
}

/// What was last seen of the vault.
pub(super) fn read_anchor(config: &Config) -> Result<Option<String>, Failure> {
    let anchor = anchor_file(config);
    match fs::read_to_string(&anchor) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(format!("{}: {error}", anchor.display()))),
    }
}

pub(super) fn anchor_file(config: &Config) -> PathBuf {
    config.audit.dir.join("vault.head")
}

/// Notes beside the audit log how far the vault has come.
pub(super) fn write_anchor(vault: &Vault, config: &Config) -> Result<(), Failure> {
    files::create_directory(&config.audit.dir)?;
    Ok(files::replace_among_copied(&anchor_file(config), vault.anchor_text()?.as_bytes())?)
}

/// Up to which epoch the audit log has the vault's changes.
pub(super) fn drained(config: &Config) -> u64 {
    let text = fs::read_to_string(drained_file(config)).ok();
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Notes up to which epoch the audit log has the vault's changes.
pub(super) fn set_drained(config: &Config, epoch: u64) -> Result<(), Failure> {
    Ok(files::replace_among_copied(&drained_file(config), format!("{epoch}\n").as_bytes())?)
}

fn drained_file(config: &Config) -> PathBuf {
    config.audit.dir.join("vault.drained")
}

/// Writes the vault's changes that the audit log does not have yet, up to an epoch. A crash between the
/// record and the note of it writes a change twice, and never loses one.
pub(super) fn drain_journal(
    vault: &Vault,
    config: &Config,
    log: &AuditLog,
    up_to: u64,
) -> Result<(), Failure> {
    let mut entries = vault.journal_since(drained(config))?;
    entries.retain(|entry| entry.epoch <= up_to);
    let Some(last) = entries.last().map(|entry| entry.epoch) else { return Ok(()) };
    for entry in entries {
        let event = Event {
            event: entry.action.as_str(),
            workspace: entry.workspace,
            subject: Some(entry.subject),
            detail: None,
            by: Some(entry.by),
            vault_epoch: Some(entry.epoch),
        };
        log.event(&event).map_err(|_| {
            let trouble = log.trouble().unwrap_or_default();
            Failure::new(format!("the audit log cannot be written: {trouble}"))
        })?;
    }
    set_drained(config, last)
}

/// Gets a passphrase: from a prompt without echo, a private file, or a service credential of
/// systemd. Never from the command line or the environment, where others could read it.
///
/// # Errors
/// When it cannot be had from there.
pub fn passphrase(from: &Passphrase, prompt: &str) -> Result<Secret, Failure> {
    match from {
        Passphrase::Prompt => {
            if !std::io::stdin().is_terminal() {
                return Err(Failure::usage(
                    "the vault wants a passphrase, and there is no terminal to ask on",
                )
                .help(
                    "set vault.key.passphrase in locum.yaml to {file: PATH} or {credential: NAME}",
                ));
            }
            let text = rpassword::prompt_password(prompt)
                .map_err(|e| Failure::new(format!("the passphrase could not be read: {e}")))?;
            Ok(Secret::new(text.into_bytes()))
        }
        Passphrase::File(path) => passphrase_file(path),
        Passphrase::Credential(name) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                Failure::usage("there is no CREDENTIALS_DIRECTORY in the environment").help(
                    "start the service by systemd with LoadCredential= or LoadCredentialEncrypted=",
                )
            })?;
            passphrase_file(&Path::new(&directory).join(name))
        }
    }
}

fn passphrase_file(path: &Path) -> Result<Secret, Failure> {
    let bytes = files::read_lent(path, PASSPHRASE_LIMIT)?;
    Ok(Secret::new(without_line_end(&bytes).to_vec()))
}

/// Who runs this command, for the journal.
pub(super) fn operator() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let uid = rustix::process::getuid().as_raw();
    if name.is_empty() { format!("uid {uid}") } else { format!("{name} (uid {uid})") }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("home", &self.home).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{KeyChoice, init};

    #[test]
    fn a_vault_whose_anchor_was_taken_away_is_not_opened() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(&directory.path().join("home"))).unwrap();
        init(&home, false, &KeyChoice::Config).unwrap();
        let opened = Opened::open(&home).unwrap();
        assert!(has_records(&opened.config.audit.dir), "init records what it made");
        let anchor = anchor_file(&opened.config);
        drop(opened);
        fs::remove_file(&anchor).unwrap();
        let failure = Opened::open(&home).unwrap_err();
        assert!(failure.to_string().contains("vault.head is missing"), "{failure}");
    }
}
