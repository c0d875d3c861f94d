//! What the request path needs of the vault, at one epoch: descriptions, tokens, and secrets as
//! ciphertext. Needs neither the database nor a lock, and is replaced as a whole.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::credentials::{CredentialRow, Sealed};
use super::crypto::DoesNotOpen;
use super::error::{Fault, Kind, Row, VaultError};
use super::kept::{self, Purpose};
use super::keys::{self, DataKey};
use super::{
    Vault, agents, approvals, capture, credentials, journal, runs, sets, values, workspaces,
};
use crate::agent::{Labels, TokenRecord};
use crate::approval::Decision;
use crate::credential::{Credential, CredentialIndex, ELSEWHERE};
use crate::inject::Watch;
use crate::reference::Name;
use crate::secret::Secret;
use crate::token::TokenKey;
use crate::token::run::RunTokens;

/// A workspace of the vault at one epoch.
pub struct Snapshot {
    /// The vault's epoch when this was read.
    pub epoch: u64,
    /// Which workspace it is.
    pub workspace: Name,
    /// The credentials and sets, without secrets.
    pub credentials: Arc<CredentialIndex>,
    /// The unrevoked tokens of live agents, by id. Expired ones among them: the clock decides later.
    pub tokens: Arc<HashMap<Arc<str>, TokenRecord>>,
    /// What tokens are checked with.
    pub token_key: Arc<TokenKey>,
    /// What secrets of the vault are known by, in what agents send.
    pub watch: Watch,
    /// What run tokens are checked with.
    pub runs: Arc<RunTokens>,
    /// When the first grace of a version is over; none when there is none.
    pub grace_ends: Option<i64>,
    /// The versions whose streams are to be broken off.
    pub cut: HashSet<(Name, u32)>,
    /// The agents that were revoked, whoever else may vouch for them.
    pub revoked_agents: Arc<HashSet<Name>>,
    /// What people decided on requests, by question.
    pub approvals: Arc<HashMap<String, Decision>>,
    /// What the live agents are labelled with, as far as they are.
    pub labels: Arc<HashMap<Name, Labels>>,
    sealed: HashMap<Name, Sealed>,
    /// Versions in their grace.
    older: HashMap<Name, Vec<Sealed>>,
    key: Arc<DataKey>,
    path: Arc<Path>,
}

impl Vault {
    /// Reads all that the proxy needs, in one read transaction, and checks that nothing was changed
    /// behind Locum's back.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] naming the row, or [`Fault::Changed`].
    pub fn snapshot(&self) -> Result<Snapshot, VaultError> {
        let read = || {
            // Rolled back on drop, which ends a read.
            let tx = self.db.unchecked_transaction()?;
            let keys = self.check_state(&tx)?;
            self.read_snapshot(&tx, &keys.own, (&self.workspace, &keys.workspace))
        };
        read().map_err(|fault| self.fault(fault))
    }

    /// The same of every workspace, the default one first: all of one epoch.
    ///
    /// # Errors
    /// As [`Vault::snapshot`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, VaultError> {
        let read = || -> Result<Vec<Snapshot>, Fault> {
            let tx = self.db.unchecked_transaction()?;
            let keys = self.check_state(&tx)?;
            let one = |name: Name| {
                let key = if name == self.workspace {
                    Arc::clone(&keys.workspace)
                } else {
                    super::check_wrapping(&tx, &self.wrapping)?;
                    let scope = super::scope_of(&name);
                    Arc::new(super::unwrap_data_key(&tx, &self.wrapping, &scope)?)
                };
                self.read_snapshot(&tx, &keys.own, (&name, &key))
            };
            workspaces::names(&tx)?.into_iter().map(one).collect()
        };
        read().map_err(|fault| self.fault(fault))
    }

    fn read_snapshot(
        &self,
        tx: &Connection,
        own: &DataKey,
        (workspace, key): (&Name, &Arc<DataKey>),
    ) -> Result<Snapshot, Fault> {
        let scope = super::scope_of(workspace);
        let kept = |purpose| kept::all(tx, own, &scope, purpose);
        let (mut sealed, mut older, mut cut) = (HashMap::new(), HashMap::new(), HashSet::new());
        let (mut credentials, mut grace_ends) = (Vec::<Credential>::new(), None::<i64>);
        CredentialRow::all_current(tx, workspace.as_str(), key, |row, current, others| {
            let credential = row.credential(current.as_ref().map(|s| s.version), &others)?;
            let name = &credential.name;
            sealed.extend(current.map(|s| (name.clone(), s)));
            cut.extend(others.cut.iter().map(|version| (name.clone(), *version)));
            if !credential.older.is_empty() {
                let ends = credential.older.iter().map(|older| older.until);
                grace_ends = ends.chain(grace_ends).min();
                older.insert(name.clone(), others.sealed(&row, key));
            }
            credentials.push(credential);
            Ok(())
        })?;
        credentials.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut digest_keys = vec![key.digest_key()];
        let revoked_before = kept(Purpose::Fingerprint)?;
        digest_keys.extend(revoked_before.iter().map(|kept| keys::digest_key(&kept.key)));
        let mut known = credentials::digests(tx, workspace)?;
        for nobodys in [ELSEWHERE, capture::NOTHING] {
            for key in &digest_keys {
                known.remove(&key.digest(nobodys));
            }
        }
        let watch = Watch::new(digest_keys, known, &credentials);
        let sets = sets::all(tx, workspace)?.into_iter().collect();
        let index = CredentialIndex::new(credentials, sets);
        let index = index.with_values(workspace, &values::all(tx, own, workspace)?);
        Ok(Snapshot {
            epoch: journal::head(tx)?.epoch.cast_unsigned(),
            workspace: workspace.clone(),
            credentials: Arc::new(index),
            tokens: Arc::new(agents::live_tokens(tx, workspace)?),
            token_key: Arc::new(
                key.token_key().or_older(kept(Purpose::Token)?.into_iter().map(|k| k.key)),
            ),
            watch,
            runs: Arc::new(runs::all(tx, own, (workspace, key))?),
            grace_ends,
            cut,
            revoked_agents: Arc::new(agents::revoked(tx, workspace)?),
            approvals: Arc::new(approvals::all(tx, own, workspace)?),
            labels: Arc::new(agents::labels(tx, workspace)?),
            sealed,
            older,
            key: Arc::clone(key),
            path: Arc::clone(&self.path),
        })
    }
}

impl Snapshot {
    /// Opens the secret of a credential's current version, or of one in its grace. A few microseconds,
    /// no I/O, no lock.
    ///
    /// # Errors
    /// [`Fault::Unknown`], [`Fault::NoSuchVersion`] when `version` is none that may be used here, or
    /// [`Fault::Corrupt`].
    pub fn open(&self, name: &Name, version: u32) -> Result<Secret, VaultError> {
        self.open_sealed(name, version).map_err(|fault| fault.at(&self.path))
    }

    /// Tells a credential from another of the same name, before or after it: no two ever have the same.
    #[must_use]
    pub fn identity(&self, name: &Name) -> Option<i64> {
        self.sealed.get(name).map(Sealed::identity)
    }

    /// The current version, also of what no request gets.
    #[must_use]
    pub fn current(&self, name: &Name) -> Option<u32> {
        self.sealed.get(name).map(|sealed| sealed.version)
    }

    fn open_sealed(&self, name: &Name, version: u32) -> Result<Secret, Fault> {
        let Some(sealed) = self.sealed.get(name) else {
            return Err(match self.credentials.get(name.as_str()) {
                Some(_) => Fault::Revoked(Kind::Credential, name.to_string()),
                None => Fault::unknown(Kind::Credential, name),
            });
        };
        if sealed.version == version {
            return sealed.open_or_fault(name, &self.key);
        }
        let mut older = self.older.get(name).into_iter().flatten();
        let sealed = older.find(|sealed| sealed.version == version);
        let sealed = sealed.ok_or_else(|| Fault::NoSuchVersion(name.clone(), version))?;
        sealed.open_or_fault(name, &self.key)
    }
}

impl Sealed {
    /// The secret; where it does not open, the fault of the row.
    pub(super) fn open_or_fault(&self, name: &Name, key: &DataKey) -> Result<Secret, Fault> {
        self.open(key)
            .map_err(|DoesNotOpen| Fault::Corrupt(Row::Version(name.to_string(), self.version)))
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("epoch", &self.epoch)
            .field("workspace", &self.workspace)
            .field("credentials", &self.credentials.len())
            .field("tokens", &self.tokens.len())
            .finish_non_exhaustive()
    }
}
