//! `locum init`: everything a home needs, made once. What is there stays as it is.

use std::fs;
use std::path::PathBuf;

use super::master::{by_command, new_passphrase};
use super::open::{Opened, ca_certificate};
use super::shared::take_turn;
use super::{Failure, Home, authority};
use crate::config::{self, Config, Passphrase};
use crate::environment;
use crate::files::{self, FileError};
use crate::policy::{FIRST_POLICY, SCHEMA, STRICT_POLICY};
use crate::vault::{MasterKey, PassphraseParams, Vault};

/// The file of the first policy.
const FIRST: &str = "first.yaml";

/// What opens a new vault.
#[derive(Clone, Debug)]
pub enum KeyChoice {
    /// What the config says; a generated key file unless it says otherwise.
    Config,
    /// A passphrase from there, written to the new config.
    Passphrase(Passphrase),
}

/// What `init` did.
#[derive(Debug)]
pub struct Init {
    /// Where.
    pub home: Home,
    /// What was made, in order; empty when all was there.
    pub made: Vec<PathBuf>,
    /// The strict policy was asked for, and another was there.
    pub other_policy: bool,
}

/// Makes what is missing of a home. Safe to run twice, and after a run that was cut short.
///
/// # Errors
/// When a file or directory is loose, a link, or cannot be made; nothing that was there is changed.
pub fn init(home: &Home, strict: bool, key: &KeyChoice) -> Result<Init, Failure> {
    let mut made = Vec::new();
    let absent = home.path().symlink_metadata().is_err();
    files::create_directory(home.path())?;
    home.require_closed()?;
    // Of two at once, in start scripts, the second goes on with what the first has made.
    let _turn = take_turn(home)?;
    if absent && !home.exists() {
        made.push(home.path().to_owned());
    }
    write_new(&mut made, home.config(), config_text(key).as_bytes())?;
    let config = Config::load(&home.config(), home.path())?;
    make_policies(&mut made, home, strict)?;
    make_vault(&mut made, &config)?;
    files::create_directory(&config.audit.dir)?;
    let mut opened = Opened::open(home)?;
    if authority::make_missing(&mut opened.vault)? {
        made.push(home.ca());
    }
    opened.changed()?;
    let published = [home.ca(), home.bundle()];
    let missing = published.into_iter().filter(|path| path.symlink_metadata().is_err());
    let missing: Vec<PathBuf> = missing.filter(|path| !made.contains(path)).collect();
    write_certificates(&opened)?;
    made.extend(missing);
    Ok(Init { home: home.clone(), made, other_policy: strict && !is_strict(home) })
}

/// Whether the first policy is the strict one, as it was written.
fn is_strict(home: &Home) -> bool {
    fs::read(home.policies().join(FIRST)).is_ok_and(|text| text == STRICT_POLICY.as_bytes())
}

/// The commented defaults, with the passphrase's source in place of the key file if one was chosen.
fn config_text(key: &KeyChoice) -> String {
    let text = Config::default_text();
    match key {
        KeyChoice::Config => text.to_owned(),
        KeyChoice::Passphrase(source) => {
            format!("{text}\nvault:\n  key:\n    passphrase: {}\n", yaml(source))
        }
    }
}

pub(super) fn yaml(source: &Passphrase) -> String {
    // JSON strings are YAML strings, whatever is in them.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match source {
        Passphrase::Prompt => "prompt".to_owned(),
        Passphrase::File(path) => format!("{{file: {}}}", quoted(&path.to_string_lossy())),
        Passphrase::Credential(name) => format!("{{credential: {}}}", quoted(name)),
    }
}

fn make_policies(made: &mut Vec<PathBuf>, home: &Home, strict: bool) -> Result<(), Failure> {
    let directory = home.policies();
    let fresh = directory.symlink_metadata().is_err();
    files::create_directory(&directory)?;
    if !fresh {
        return Ok(()); // Whoever emptied it meant to.
    }
    let text = if strict { STRICT_POLICY } else { FIRST_POLICY };
    write_new(made, directory.join(FIRST), text.as_bytes())?;
    // For editors alone; the proxy does not read it.
    write_new(made, directory.join("schema.json"), SCHEMA.as_bytes())
}

fn make_vault(made: &mut Vec<PathBuf>, config: &Config) -> Result<(), Failure> {
    let store = &config.vault.store;
    if store.symlink_metadata().is_ok() {
        return Ok(());
    }
    let master = match &config.vault.key {
        config::KeySource::File(path) => key_file(made, path)?,
        config::KeySource::Passphrase(source) => {
            let text = new_passphrase(source)?;
            MasterKey::from_passphrase(&text, PassphraseParams::generate()?)?
        }
        config::KeySource::Command(words) => by_command(words)?,
    };
    match Vault::create(store, &master) {
        Ok(_) => made.push(store.clone()),
        // Another `init` was faster; this one goes on with its vault.
        Err(error) if store.symlink_metadata().is_ok() => {
            tracing::debug!(%error, "the vault is there already");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn key_file(made: &mut Vec<PathBuf>, path: &std::path::Path) -> Result<MasterKey, Failure> {
    if path.symlink_metadata().is_ok() {
        return Ok(MasterKey::load(path)?);
    }
    let master = MasterKey::generate()?;
    master.save_new(path)?;
    made.push(path.to_owned());
    Ok(master)
}

/// Writes `ca.pem` and `ca-bundle.pem` from what the vault and the system have now.
pub(super) fn write_certificates(opened: &Opened) -> Result<environment::Bundle, Failure> {
    let certificate = ca_certificate(&opened.vault)?;
    replace_if_other(&opened.home.ca(), certificate.as_bytes())?;
    let inherited = std::env::var_os("SSL_CERT_FILE");
    let roots = environment::system_roots(inherited.as_deref(), &opened.home.bundle());
    let bundle = environment::bundle(&roots, &certificate)
        .map_err(|e| Failure::new(format!("the CA bundle cannot be made: {e}")))?;
    replace_if_other(&opened.home.bundle(), bundle.pem().as_bytes())?;
    Ok(bundle)
}

/// A file that says the same is left alone: clients may be reading it.
fn replace_if_other(path: &std::path::Path, bytes: &[u8]) -> Result<(), FileError> {
    match files::check_private(path) {
        Ok(()) if fs::read(path).is_ok_and(|there| there == bytes) => Ok(()),
        Ok(()) | Err(FileError::Missing(_)) => files::replace_private(path, bytes),
        Err(error) => Err(error),
    }
}

fn write_new(made: &mut Vec<PathBuf>, path: PathBuf, bytes: &[u8]) -> Result<(), Failure> {
    if path.symlink_metadata().is_ok() {
        return Ok(files::check_private(&path)?);
    }
    files::create_private(&path, bytes)?;
    made.push(path);
    Ok(())
}
