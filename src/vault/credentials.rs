//! Credentials and their versions: added, rotated, revoked, removed, and listed without a secret.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension as _, Row as SqlRow, Transaction};

use super::crypto::{self, DoesNotOpen, Encoder};
use super::error::{Fault, Kind, Row, VaultError};
use super::keys::{DataKey, VaultId};
use super::versions::Others;
use super::{Action, Change, Vault, check, exchanged, values};
pub use crate::credential::Tier;
use crate::credential::{self, Credential, Properties, Slot};
use crate::host::Destination;
use crate::inject::Digest;
use crate::reference::Name;
use crate::secret::Secret;

/// A credential to be added.
#[derive(Clone, Debug)]
pub struct NewCredential {
    /// Its name. No other credential and no set has it.
    pub name: Name,
    /// The catalogue's id, when it comes from there.
    pub provider: Option<String>,
    /// Whose it is.
    pub tier: Tier,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Where it may go: over TLS, and to hosts that one party decides about.
    pub destinations: Vec<Destination>,
    /// How it enters a request, in order of preference.
    pub slots: Vec<Slot>,
    /// A reference in the shape of the provider's keys.
    pub stand_in: Option<String>,
    /// What else there is to say of it.
    pub properties: Properties,
}

/// A credential as lists show it.
#[derive(Clone, Debug)]
pub struct CredentialInfo {
    /// Its name.
    pub name: Name,
    /// The catalogue's id.
    pub provider: Option<String>,
    /// Whose it is.
    pub tier: Tier,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Where it may go.
    pub destinations: Vec<Destination>,
    /// How it enters a request.
    pub slots: Vec<Slot>,
    /// What agents hold in place of a bare reference.
    pub stand_in: Option<String>,
    /// What else there is to say of it.
    pub properties: Properties,
    /// When it was added, in seconds since the Unix epoch.
    pub created: i64,
    /// Its versions, oldest first. Never empty.
    pub versions: Vec<VersionInfo>,
}

impl CredentialInfo {
    /// The version that a request gets now; none when it is revoked.
    #[must_use]
    pub fn current(&self) -> Option<&VersionInfo> {
        self.versions.iter().find(|v| v.state == VersionState::Current)
    }

    /// When it last got a new secret, in seconds since the Unix epoch.
    #[must_use]
    pub fn last_rotation(&self) -> i64 {
        self.versions.last().map_or(self.created, |v| v.created)
    }
}

/// A version of a credential as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// Counts from 1, and is never used twice.
    pub version: u32,
    /// What has become of it.
    pub state: VersionState,
    /// When it was added, in seconds since the Unix epoch.
    pub created: i64,
    /// When it was retired or revoked.
    pub ended: Option<i64>,
    /// The last second in which what began with it may still use it, for one that was retired.
    pub grace_until: Option<i64>,
    /// Tells secrets apart without showing them.
    pub fingerprint: Fingerprint,
}

/// What has become of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// It waits to be promoted, and no request gets it.
    Staged,
    /// Requests get it.
    Current,
    /// A newer one took its place. It is still sealed in the vault, and what began with it may use it
    /// until its grace is over.
    Retired,
    /// Its ciphertext is gone.
    Revoked,
}

impl VersionState {
    /// `staged`, `current`, `retired` or `revoked`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Current => "current",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Staged, Self::Current, Self::Retired, Self::Revoked];
        all.into_iter().find(|s| s.as_str() == text)
    }
}

/// Eight bytes of a keyed hash of a secret. Useless for guessing without the vault's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 8]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Vault {
    /// Adds a credential, and its secret as version 1.
    ///
    /// # Errors
    /// [`Fault::Exists`], [`Fault::Invalid`] or [`Fault::Secret`] saying what cannot be stored.
    pub fn add_credential(
        &mut self,
        new: &NewCredential,
        secret: &Secret,
    ) -> Result<(), VaultError> {
        check_new(new, secret).map_err(|fault| self.fault(fault))?;
        self.change(Action::CredentialAdded, new.name.as_str(), |tx, change| {
            insert_credential(tx, change, new, secret)
        })
    }

    /// Whether a credential like this could be added: asked before something is done that is not undone, as a person's
    /// consent elsewhere.
    ///
    /// # Errors
    /// [`Fault::Exists`].
    pub fn check_is_free(&self, new: &NewCredential) -> Result<(), VaultError> {
        refuse_taken_names(&self.db, &self.workspace, new).map_err(|fault| self.fault(fault))
    }

    /// Changes what is said of a credential. All of its secrets are sealed anew, for what they are now.
    ///
    /// # Errors
    /// [`Fault::Unknown`], or [`Fault::Corrupt`] when a version does not open as it stands.
    pub fn set_properties(
        &mut self,
        name: &Name,
        edit: impl FnOnce(&mut Properties),
    ) -> Result<(), VaultError> {
        self.change(Action::CredentialChanged, name.as_str(), |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            let mut properties = row.properties()?;
            edit(&mut properties);
            row.set_properties(tx, change, &properties)
        })?;
        self.wipe_log();
        Ok(())
    }

    /// Replaces the secret of one version by what its own use has made of it: a refresh token that the
    /// authorization server has exchanged. The version keeps its number, because nobody decided
    /// anything anew; it may be retired meanwhile, and keeps that too.
    ///
    /// # Errors
    /// [`Fault::Unknown`], or [`Fault::NoSuchVersion`] when it is not there or revoked.
    pub fn renew(&mut self, name: &Name, version: u32, secret: &Secret) -> Result<(), VaultError> {
        check_secret(secret).map_err(|fault| self.fault(fault))?;
        self.change(Action::CredentialRenewed, name.as_str(), |tx, change| {
            let row = CredentialRow::find(tx, change.workspace, name)?;
            let key = change.key.record_key(row.id, version);
            let place = row.place(change.key.vault_id(), version);
            let sealed = secret.expose(|bytes| crypto::seal(&key, &place, bytes))?;
            let renewed = tx.execute(
                "UPDATE versions SET sealed = ?3, fingerprint = ?4 \
                 WHERE credential = ?1 AND version = ?2 AND state <> 'revoked'",
                (row.id, version, sealed, change.key.fingerprint(secret)),
            )?;
            if renewed == 0 { Err(Fault::NoSuchVersion(name.clone(), version)) } else { Ok(()) }
        })
    }

    /// Removes a credential and all its versions, from its sets too. The journal keeps the name.
    ///
    /// # Errors
    /// [`Fault::Unknown`].
    pub fn remove(&mut self, name: &Name) -> Result<(), VaultError> {
        self.change(Action::CredentialRemoved, name.as_str(), |tx, change| {
            exchanged::forget(tx, change.workspace, name)?;
            // Without reading the row: one that cannot be read can still be removed.
            let removed = tx.execute(
                "DELETE FROM credentials WHERE workspace = ?1 AND name = ?2",
                (change.workspace.as_str(), name.as_str()),
            )?;
            match removed {
                0 => Err(Fault::unknown(Kind::Credential, name)),
                _ => Ok(()),
            }
        })?;
        self.wipe_log();
        Ok(())
    }

    /// The fingerprint that the secret has, or would have, in this workspace.
    #[must_use]
    pub fn fingerprint(&self, secret: &Secret) -> Fingerprint {
        Fingerprint(self.keys.borrow().workspace.fingerprint(secret))
    }

    /// All credentials of the workspace, by name.
    ///
    /// # Errors
    /// [`VaultError`] when they cannot be read.
    pub fn credentials(&self) -> Result<Vec<CredentialInfo>, VaultError> {
        let read = || {
            let rows = CredentialRow::all(&self.db, self.workspace.as_str())?;
            let infos = rows.iter().map(|row| row.info(&self.db));
            infos.collect::<Result<Vec<_>, Fault>>()
        };
        read().map_err(|fault| self.fault(fault))
    }

    /// One credential.
    ///
    /// # Errors
    /// [`Fault::Unknown`].
    pub fn credential(&self, name: &Name) -> Result<CredentialInfo, VaultError> {
        let read = || CredentialRow::find(&self.db, &self.workspace, name)?.info(&self.db);
        read().map_err(|fault: Fault| self.fault(fault))
    }
}

pub(super) fn insert_credential(
    tx: &Transaction<'_>,
    change: &Change<'_>,
    new: &NewCredential,
    secret: &Secret,
) -> Result<(), Fault> {
    refuse_taken_names(tx, change.workspace, new)?;
    // Rules that name the value would grant the credential.
    if values::all(tx, change.own, change.workspace)?.contains_key(&new.name) {
        return Err(Fault::Exists(Kind::Value, new.name.to_string()));
    }
    let row = CredentialRow::insert(tx, change, new)?;
    row.insert_version(tx, change, (1, VersionState::Current), secret)
}

pub(super) fn check_new(new: &NewCredential, secret: &Secret) -> Result<(), Fault> {
    check_secret(secret)?;
    check::destinations(&new.destinations)?;
    // A signature says nothing of the key that it was made with, and each bucket of AWS is a host.
    if !matches!(new.properties.kind, Some(credential::Kind::Aws(_))) {
        check::owned(&new.destinations)?;
    }
    check::slots(&new.slots)?;
    if let Some(stand_in) = &new.stand_in {
        check::stand_in(stand_in, &new.name)?;
    }
    if let Some(provider) = &new.provider {
        check::text("the provider", provider)?;
    }
    for tag in &new.tags {
        check::text("a tag", tag)?;
    }
    Ok(())
}

/// What no header can carry is never stored. Whether a short one is meant is the CLI's question.
pub(super) fn check_secret(secret: &Secret) -> Result<(), Fault> {
    Ok(secret.expose(|bytes| check::validate_secret(bytes, true))?)
}

fn refuse_taken_names(db: &Connection, workspace: &Name, new: &NewCredential) -> Result<(), Fault> {
    let workspace = workspace.as_str();
    let taken = db
        .prepare_cached(
            "SELECT 1 FROM credentials WHERE workspace = ?1 AND name = ?2 \
             UNION ALL SELECT 1 FROM sets WHERE workspace = ?1 AND name = ?2",
        )?
        .exists((workspace, new.name.as_str()))?;
    if taken {
        return Err(Fault::Exists(Kind::CredentialOrSet, new.name.to_string()));
    }
    let Some(stand_in) = &new.stand_in else {
        return Ok(());
    };
    let taken = db
        .prepare_cached("SELECT 1 FROM credentials WHERE workspace = ?1 AND stand_in = ?2")?
        .exists((workspace, stand_in))?;
    if taken {
        return Err(Fault::Exists(Kind::StandIn, stand_in.clone()));
    }
    Ok(())
}

/// A credential's row, read but for the meaning of its texts: the seal is over the texts.
pub(super) struct CredentialRow {
    pub(super) id: i64,
    workspace: String,
    pub(super) name: String,
    provider: Option<String>,
    tier: String,
    tags: Vec<String>,
    destinations: Vec<String>,
    slots: Vec<String>,
    stand_in: Option<String>,
    properties: Option<String>,
    created: i64,
}

const COLUMNS: &str = "id, workspace, name, provider, tier, tags, destinations, slots, stand_in, \
                       created, properties";

impl CredentialRow {
    fn insert(
        tx: &Transaction<'_>,
        change: &Change<'_>,
        new: &NewCredential,
    ) -> Result<Self, Fault> {
        tx.execute(
            "INSERT INTO credentials \
             (workspace, name, provider, tier, tags, destinations, slots, stand_in, properties, \
             created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            (
                change.workspace.as_str(),
                new.name.as_str(),
                &new.provider,
                new.tier.as_str(),
                json_list(&new.tags),
                json_list(&new.destinations),
                json_list(&new.slots),
                &new.stand_in,
                new.properties.to_text(),
                change.now,
            ),
        )?;
        Self::find(tx, change.workspace, &new.name)
    }

    pub(super) fn find(db: &Connection, workspace: &Name, name: &Name) -> Result<Self, Fault> {
        let query = format!("SELECT {COLUMNS} FROM credentials WHERE workspace = ?1 AND name = ?2");
        let row = db
            .prepare_cached(&query)?
            .query_row((workspace.as_str(), name.as_str()), |row| Ok(Self::read(row)))
            .optional()?;
        row.ok_or_else(|| Fault::unknown(Kind::Credential, name))?
    }

    /// All of a workspace, by name.
    pub(super) fn all(db: &Connection, workspace: &str) -> Result<Vec<Self>, Fault> {
        let query = format!("SELECT {COLUMNS} FROM credentials WHERE workspace = ?1 ORDER BY name");
        let mut statement = db.prepare_cached(&query)?;
        let mut rows = statement.query([workspace])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(Self::read(row)?);
        }
        Ok(all)
    }

    /// All of a workspace, each with its current version as a snapshot holds it, in one query; and what
    /// is to be known of its others.
    pub(super) fn all_current(
        db: &Connection,
        workspace: &str,
        key: &DataKey,
        mut take: impl FnMut(Self, Option<Sealed>, Others) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut others = Others::all(db, workspace)?;
        let query = format!(
            "SELECT {COLUMNS}, current.version, current.sealed, \
             (SELECT max(version) FROM versions WHERE credential = id AND state <> 'staged') AS newest \
             FROM credentials \
             LEFT JOIN (SELECT credential, version, sealed FROM versions WHERE state = 'current') \
             AS current ON current.credential = id WHERE workspace = ?1"
        );
        let mut statement = db.prepare_cached(&query)?;
        let mut rows = statement.query([workspace])?;
        while let Some(row) = rows.next()? {
            let credential = Self::read(row)?;
            let (version, ciphertext): (Option<u32>, Option<Vec<u8>>) =
                (row.get("version")?, row.get("sealed")?);
            let sealed = version.zip(ciphertext).map(|(version, ciphertext)| Sealed {
                credential: credential.id,
                version,
                place: credential.place(key.vault_id(), version).into(),
                ciphertext: ciphertext.into(),
            });
            let mut others = others.remove(&credential.id).unwrap_or_default();
            others.newest = row.get::<_, Option<u32>>("newest")?.unwrap_or_default();
            take(credential, sealed, others)?;
        }
        Ok(())
    }

    fn read(row: &SqlRow<'_>) -> Result<Self, Fault> {
        let name: String = row.get(2)?;
        let list = |column: usize| -> Result<Vec<String>, Fault> {
            let json: String = row.get(column)?;
            serde_json::from_str(&json).map_err(|_| Fault::Corrupt(Row::Credential(name.clone())))
        };
        Ok(Self {
            id: row.get(0)?,
            workspace: row.get(1)?,
            provider: row.get(3)?,
            tier: row.get(4)?,
            tags: list(5)?,
            destinations: list(6)?,
            slots: list(7)?,
            stand_in: row.get(8)?,
            created: row.get(9)?,
            properties: row.get(10)?,
            name,
        })
    }

    /// The place that a version's secret is sealed for. If any of this changes, it does not open.
    pub(super) fn place(&self, vault_id: &VaultId, version: u32) -> Vec<u8> {
        let place = Encoder::new("locum/vault/1/secret")
            .bytes(vault_id)
            .text(&self.workspace)
            .int(self.id)
            .text(&self.name)
            .int(version.into())
            .text(&self.tier)
            .list(&self.destinations)
            .list(&self.slots)
            .option(self.stand_in.as_deref());
        // Without properties the place is what it was in format 1, whose seals stay as they are.
        let place = match &self.properties {
            Some(properties) => place.text(properties),
            None => place,
        };
        place.finish()
    }

    pub(super) fn next_version(&self, db: &Connection) -> Result<u32, Fault> {
        let query = "SELECT coalesce(max(version), 0) + 1 FROM versions WHERE credential = ?1";
        Ok(db.query_row(query, [self.id], |row| row.get(0))?)
    }

    pub(super) fn insert_version(
        &self,
        tx: &Transaction<'_>,
        change: &Change<'_>,
        (version, state): (u32, VersionState),
        secret: &Secret,
    ) -> Result<(), Fault> {
        let sealed = self.seal(change.key, version, secret)?;
        tx.execute(
            "INSERT INTO versions (credential, version, state, created, fingerprint, sealed) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (self.id, version, state.as_str(), change.now, change.key.fingerprint(secret), sealed),
        )?;
        Ok(())
    }

    /// A secret that takes the place of another is another: not the one that is current or staged, whose age would begin
    /// anew, and none that was revoked. One that was retired comes back where a new one turned out not to work.
    pub(super) fn check_is_new(
        &self,
        tx: &Transaction<'_>,
        change: &Change<'_>,
        secret: &Secret,
    ) -> Result<(), Fault> {
        let own = change.key.fingerprint(secret);
        let versions = self.versions(tx)?.into_iter().map(|version| version.info);
        let mut same = versions
            .filter(|info| info.fingerprint.0 == own && info.state != VersionState::Retired);
        match same.next() {
            Some(info) => Err(Fault::SameSecret(self.parse(&self.name)?, info.version, info.state)),
            None => Ok(()),
        }
    }

    /// A column's text as what it means; one that means nothing was edited.
    pub(super) fn parse<T: FromStr>(&self, text: &str) -> Result<T, Fault> {
        let corrupt = |_| Fault::Corrupt(Row::Credential(self.name.clone()));
        text.parse().map_err(corrupt)
    }

    fn parse_all<T: FromStr, C: FromIterator<T>>(&self, texts: &[String]) -> Result<C, Fault> {
        texts.iter().map(|text| self.parse(text)).collect()
    }

    fn info(&self, db: &Connection) -> Result<CredentialInfo, Fault> {
        Ok(CredentialInfo {
            name: self.parse(&self.name)?,
            provider: self.provider.clone(),
            tier: self.parse(&self.tier)?,
            tags: self.tags.clone(),
            destinations: self.parse_all(&self.destinations)?,
            slots: self.parse_all(&self.slots)?,
            stand_in: self.stand_in.clone(),
            properties: self.properties()?,
            created: self.created,
            versions: self.versions(db)?.into_iter().map(|version| version.info).collect(),
        })
    }

    /// What a request sees of it.
    pub(super) fn credential(
        &self,
        version: Option<u32>,
        others: &Others,
    ) -> Result<Credential, Fault> {
        let properties = self.properties()?;
        Ok(Credential {
            workspace: self.parse(&self.workspace)?,
            name: self.parse(&self.name)?,
            provider: self.provider.as_deref().map(Into::into),
            tier: self.parse(&self.tier)?,
            destinations: self.parse_all(&self.destinations)?,
            slots: self.parse_all(&self.slots)?,
            stand_in: self.stand_in.as_deref().map(Into::into),
            // No request gets one, whatever any rule says.
            version: version.filter(|_| !properties.honeytoken && !properties.for_sources),
            older: others.older(),
            revoked: others.revoked.as_slice().into(),
            newest: others.newest,
            properties,
            part: crate::credential::Part::default(),
        })
    }

    pub(super) fn properties(&self) -> Result<Properties, Fault> {
        Properties::from_text(self.properties.as_deref())
            .map_err(|_| Fault::Corrupt(Row::Credential(self.name.clone())))
    }

    /// Writes other properties, and seals every version anew in the place that this makes of it.
    fn set_properties(
        mut self,
        tx: &Transaction<'_>,
        change: &Change<'_>,
        properties: &Properties,
    ) -> Result<(), Fault> {
        let mut opened = Vec::new();
        for version in self.versions(tx)? {
            if let Some(sealed) = self.sealed(change.key, version) {
                opened.push((sealed.version, self.open(&sealed, change.key)?));
            }
        }
        self.properties = properties.to_text();
        tx.execute(
            "UPDATE credentials SET properties = ?2 WHERE id = ?1",
            (self.id, &self.properties),
        )?;
        for (version, secret) in opened {
            tx.execute(
                "UPDATE versions SET sealed = ?3 WHERE credential = ?1 AND version = ?2",
                (self.id, version, self.seal(change.key, version, &secret)?),
            )?;
        }
        Ok(())
    }

    fn open(&self, sealed: &Sealed, key: &DataKey) -> Result<Secret, Fault> {
        let corrupt = |DoesNotOpen| Fault::Corrupt(Row::Version(self.name.clone(), sealed.version));
        sealed.open(key).map_err(corrupt)
    }

    fn seal(&self, key: &DataKey, version: u32, secret: &Secret) -> Result<Vec<u8>, Fault> {
        let place = self.place(key.vault_id(), version);
        let key = key.record_key(self.id, version);
        secret.expose(|bytes| crypto::seal(&key, &place, bytes))
    }

    /// All versions, oldest first.
    pub(super) fn versions(&self, db: &Connection) -> Result<Vec<Version>, Fault> {
        let mut statement = db.prepare_cached(
            "SELECT version, state, created, ended, grace_until, fingerprint, sealed FROM versions \
             WHERE credential = ?1 ORDER BY version",
        )?;
        let mut rows = statement.query([self.id])?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let version = row.get(0)?;
            let state: String = row.get(1)?;
            let corrupt = || Fault::Corrupt(Row::Version(self.name.clone(), version));
            let info = VersionInfo {
                version,
                state: VersionState::parse(&state).ok_or_else(corrupt)?,
                created: row.get(2)?,
                ended: row.get(3)?,
                grace_until: row.get(4)?,
                fingerprint: Fingerprint(row.get(5)?),
            };
            all.push(Version { info, sealed: row.get(6)? });
        }
        Ok(all)
    }

    /// The version's ciphertext with its place; none when it is revoked.
    fn sealed(&self, key: &DataKey, version: Version) -> Option<Sealed> {
        let number = version.info.version;
        Some(Sealed {
            credential: self.id,
            version: number,
            place: self.place(key.vault_id(), number).into(),
            ciphertext: version.sealed?.into(),
        })
    }
}

/// A row of the table of versions.
pub(super) struct Version {
    pub(super) info: VersionInfo,
    sealed: Option<Vec<u8>>,
}

/// The ciphertext of one version, with the place that it was sealed for.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) credential: i64,
    pub(super) version: u32,
    pub(super) place: Box<[u8]>,
    pub(super) ciphertext: Box<[u8]>,
}

impl Sealed {
    /// The row of the credential, whose number is never used twice.
    pub(super) fn identity(&self) -> i64 {
        self.credential
    }

    /// The secret, if this is what was sealed, and here.
    pub(super) fn open(&self, key: &DataKey) -> Result<Secret, DoesNotOpen> {
        let record_key = key.record_key(self.credential, self.version);
        crypto::open(&record_key, &self.place, &self.ciphertext)
    }
}

/// What each version of a workspace's credentials is known by, revoked ones too.
pub(super) fn digests(
    db: &Connection,
    workspace: &Name,
) -> Result<HashMap<Digest, (Name, u32)>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT name, version, fingerprint FROM credentials JOIN versions ON credential = id \
         WHERE workspace = ?1",
    )?;
    let mut rows = statement.query([workspace.as_str()])?;
    let mut all = HashMap::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let parsed = name.parse().map_err(|_| Fault::Corrupt(Row::Credential(name)))?;
        all.insert(row.get(2)?, (parsed, row.get(1)?));
    }
    Ok(all)
}

/// Opens every version of a workspace that has a ciphertext.
pub(super) fn open_all(db: &Connection, workspace: &str, key: &DataKey) -> Result<(), Fault> {
    for row in CredentialRow::all(db, workspace)? {
        for version in row.versions(db)? {
            let Some(sealed) = row.sealed(key, version) else {
                continue;
            };
            row.open(&sealed, key)?;
        }
    }
    Ok(())
}

/// Seals every version of a workspace that has a ciphertext under another data key. Returns how many.
pub(super) fn seal_all_anew(
    tx: &Transaction<'_>,
    workspace: &str,
    before: &DataKey,
    after: &DataKey,
) -> Result<u64, Fault> {
    let mut count = 0;
    let mut update = tx.prepare_cached(
        "UPDATE versions SET sealed = ?3, fingerprint = ?4 WHERE credential = ?1 AND version = ?2",
    )?;
    for row in CredentialRow::all(tx, workspace)? {
        for version in row.versions(tx)? {
            let Some(sealed) = row.sealed(before, version) else { continue };
            let secret = row.open(&sealed, before)?;
            let anew = row.seal(after, sealed.version, &secret)?;
            update.execute((row.id, sealed.version, anew, after.fingerprint(&secret)))?;
            count += 1;
        }
    }
    Ok(count)
}

fn json_list(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    serde_json::to_string(&texts).expect("a list of strings is JSON")
}
