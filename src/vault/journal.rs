//! The journal: one line for each change, written in the change's own transaction, each chained to
//! the one before by its MAC. The audit log drains it; its last line is the vault's head, which an
//! anchor outside the vault names.

use std::borrow::Cow;
use std::fmt;

use data_encoding::HEXLOWER;
use rusqlite::{
    Connection, OptionalExtension as _, Row as SqlRow, Transaction, TransactionBehavior,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::crypto::{self, Encoder, Key};
use super::error::{Fault, Row, VaultError};
use super::kept::{self, Purpose};
use super::keys::{DataKey, VaultId};
use super::schema::{self, Head};
use super::{VAULT_SCOPE, Vault, now};
use crate::agent::{default_workspace, qualified};
use crate::reference::Name;

macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $variant:ident $text:literal;)+) => {
        /// What was done to the vault. The list is closed and its texts are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action { $($(#[doc = $doc])+ $variant,)+ }

        impl Action {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable text, as journal and audit log have it.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)+ } }
        }
    };
}

actions! {
    /// The vault was made.
    VaultCreated "vault-created";
    /// The file was brought to a newer format.
    Upgraded "vault-upgraded";
    /// The data keys were wrapped with another master key.
    Rekeyed "vault-rekeyed";
    /// New data keys took the place of the old, and everything was sealed anew.
    DataKeysRotated "vault-data-keys-rotated";
    /// A state that was changed behind Locum's back was accepted.
    StateAccepted "vault-state-accepted";
    /// A workspace was added.
    WorkspaceAdded "workspace-added";
    /// A workspace was removed, with all that was in it.
    WorkspaceRemoved "workspace-removed";
    /// A credential was added.
    CredentialAdded "credential-added";
    /// A credential got a new version.
    CredentialRotated "credential-rotated";
    /// A credential got a version that waits to be promoted.
    VersionStaged "credential-version-staged";
    /// The version that waited is the current one.
    VersionPromoted "credential-version-promoted";
    /// A version is tried at its provider, by a call of Locum's own.
    VersionTried "credential-version-tried";
    /// What is said of a credential was changed.
    CredentialChanged "credential-changed";
    /// A version got what its own use had made of its secret: a refresh token that was exchanged.
    CredentialRenewed "credential-renewed";
    /// A credential got a version that an origin minted for an agent.
    CredentialCaptured "credential-captured";
    /// All versions of a credential were revoked.
    CredentialRevoked "credential-revoked";
    /// One version of a credential was revoked.
    VersionRevoked "credential-version-revoked";
    /// A credential was removed.
    CredentialRemoved "credential-removed";
    /// A set was made, or got members.
    SetExtended "set-extended";
    /// A set lost members.
    SetReduced "set-reduced";
    /// A set was removed.
    SetRemoved "set-removed";
    /// An agent was added.
    AgentAdded "agent-added";
    /// The labels of an agent were changed.
    AgentLabelled "agent-labelled";
    /// An agent and all its tokens were revoked.
    AgentRevoked "agent-revoked";
    /// A token was added.
    TokenAdded "token-added";
    /// A token was revoked.
    TokenRevoked "token-revoked";
    /// Run tokens of an agent were revoked.
    RunsRevoked "runs-revoked";
    /// A certificate was issued to an agent.
    CertificateIssued "certificate-issued";
    /// Expired tokens were deleted.
    TokensPurged "tokens-purged";
    /// A person approved a request.
    ApprovalGranted "approval-granted";
    /// A person refused one.
    ApprovalDenied "approval-denied";
    /// An environment value was set.
    ValueSet "value-set";
    /// An environment value was removed.
    ValueRemoved "value-removed";
    /// Somebody may administer a workspace.
    AdministratorAdded "administrator-added";
    /// Somebody may not administer a workspace any more.
    AdministratorRevoked "administrator-revoked";
    /// An item, such as the CA's key, was stored.
    ItemSealed "item-sealed";
}

impl Action {
    /// Whether it is done to the vault as a whole, and not within a workspace.
    fn is_of_the_vault(self) -> bool {
        matches!(
            self,
            Self::VaultCreated
                | Self::Upgraded
                | Self::Rekeyed
                | Self::DataKeysRotated
                | Self::StateAccepted
                | Self::WorkspaceAdded
                | Self::WorkspaceRemoved
                | Self::ItemSealed
        )
    }
}

/// The subject as a line has it. Of another workspace than the default one, that stands before it: no
/// name has a slash, and every subject begins with a name or an id.
pub(super) fn placed<'s>(action: Action, workspace: &Name, subject: &'s str) -> Cow<'s, str> {
    if action.is_of_the_vault() {
        Cow::Borrowed(subject)
    } else {
        qualified(workspace.as_str(), subject)
    }
}

/// Workspace and subject of a line; no workspace for what is done to the vault as a whole.
fn place_of(action: Action, subject: String) -> (Option<Name>, String) {
    if action.is_of_the_vault() {
        return (None, subject);
    }
    let placed = subject.split_once('/');
    let placed = placed.and_then(|(name, rest)| Some((name.parse().ok()?, rest.to_owned())));
    match placed {
        Some((workspace, rest)) => (Some(workspace), rest),
        None => (Some(default_workspace()), subject),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One change of the vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// The vault's epoch after it.
    pub epoch: u64,
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// What was done.
    pub action: Action,
    /// In which workspace; none for what is done to the vault as a whole.
    pub workspace: Option<Name>,
    /// What it was done to.
    pub subject: String,
    /// Who did it.
    pub by: String,
}

/// Where the audit log was when it was last anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditAnchor {
    /// The last record's sequence number.
    pub sequence: u64,
    /// The last record's MAC.
    pub mac: [u8; 32],
}

/// The anchor's text: JSON, one line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Anchor {
    vault_id: String,
    epoch: u64,
    head: String,
    mac: String,
}

impl Vault {
    /// Counts the changes of the vault: one more with each.
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be read.
    pub fn epoch(&self) -> Result<u64, VaultError> {
        let head = head(&self.db).map_err(|fault| self.fault(fault))?;
        Ok(head.epoch.cast_unsigned())
    }

    /// The changes after `epoch`, in order. Each is checked, and that none is missing.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] naming the first that is missing, or not what was written.
    pub fn journal_since(&self, epoch: u64) -> Result<Vec<JournalEntry>, VaultError> {
        let mut entries = Vec::new();
        self.walk_journal(epoch, |entry| entries.push(entry)).map_err(|fault| self.fault(fault))?;
        Ok(entries)
    }

    fn walk_journal(&self, since: u64, take: impl FnMut(JournalEntry)) -> Result<(), Fault> {
        let tx = self.db.unchecked_transaction()?;
        walk(&tx, &self.keys(&tx)?.own, since, take)
    }

    /// What to keep outside the vault, so that an old copy of the vault is known for one: written
    /// after each change, and compared by [`Vault::check_anchor`] when the vault is opened.
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be read.
    pub fn anchor_text(&self) -> Result<String, VaultError> {
        let text = || {
            let tx = self.db.unchecked_transaction()?;
            let (head, keys) = (head(&tx)?, self.keys(&tx)?);
            let key = Purpose::Anchor.derive(&keys.own);
            let anchor = Anchor {
                vault_id: self.id(),
                epoch: head.epoch.cast_unsigned(),
                head: HEXLOWER.encode(&head.mac),
                mac: HEXLOWER.encode(&anchor_mac(&key, keys.own.vault_id(), &head)),
            };
            Ok(format!("{}\n", json!(anchor)))
        };
        text().map_err(|fault| self.fault(fault))
    }

    /// Whether the vault is what the anchor has seen, or came from that by changes of its own.
    ///
    /// # Errors
    /// [`Fault::RolledBack`], [`Fault::Forked`] or [`Fault::BadAnchor`].
    pub fn check_anchor(&self, text: &str) -> Result<(), VaultError> {
        self.compare_anchor(text).map_err(|fault| self.fault(fault))
    }

    fn compare_anchor(&self, text: &str) -> Result<(), Fault> {
        let tx = self.db.unchecked_transaction()?;
        let seen = self.parse_anchor(&tx, text)?.ok_or(Fault::BadAnchor)?;
        let (vault, anchor) = (head(&tx)?.epoch, seen.epoch);
        if vault < anchor {
            let (vault, anchor) = (vault.cast_unsigned(), anchor.cast_unsigned());
            return Err(Fault::RolledBack { vault, anchor });
        }
        match mac_at(&tx, anchor)? {
            Some(mac) if mac == seen.mac => Ok(()),
            _ => Err(Fault::Forked { anchor: anchor.cast_unsigned() }),
        }
    }

    /// The anchor's head, if this vault's key made it; or the key before, for an anchor that was
    /// written before the data keys changed.
    fn parse_anchor(&self, tx: &Connection, text: &str) -> Result<Option<Head>, Fault> {
        let Some((anchor, head, mac)) = read_anchor(text).filter(|(a, ..)| a.vault_id == self.id())
        else {
            return Ok(None);
        };
        let own = self.keys(tx)?.own;
        let made_by = |key: &Key| crypto::same(&anchor_mac(key, own.vault_id(), &head), &mac);
        let genuine = made_by(&Purpose::Anchor.derive(&own))
            || kept::all(tx, &own, VAULT_SCOPE, Purpose::Anchor)?
                .iter()
                .any(|kept| anchor.epoch <= kept.until.cast_unsigned() && made_by(&kept.key));
        Ok(genuine.then_some(head))
    }

    /// Remembers where the audit log is, so that its tail cannot be cut off unseen. No change of the
    /// vault: the epoch stays. Cheap enough for once a second: it does not wait for the disk, and after
    /// a power cut the anchor may be the one before, which is as good.
    ///
    /// # Errors
    /// [`VaultError`] when the database cannot be written.
    pub fn set_audit_anchor(&mut self, sequence: u64, mac: &[u8; 32]) -> Result<(), VaultError> {
        let anchor = AuditAnchor { sequence, mac: *mac };
        let write = || {
            // Of the keys that the vault has now, and not of those that it had at the last look.
            let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            write_audit_anchor(&tx, &self.keys(&tx)?.own, &anchor)?;
            Ok(tx.commit()?)
        };
        let write = || {
            self.db.pragma_update(None, "synchronous", "NORMAL")?;
            let written = write();
            self.db.pragma_update(None, "synchronous", "FULL")?;
            written
        };
        write().map_err(|fault: Fault| self.fault(fault))
    }

    /// Where the audit log was; none before it was first anchored.
    ///
    /// # Errors
    /// [`Fault::Corrupt`] when somebody else wrote it, or took it away.
    pub fn audit_anchor(&self) -> Result<Option<AuditAnchor>, VaultError> {
        let read = || {
            let tx = self.db.unchecked_transaction()?;
            read_audit_anchor(&tx, &self.keys(&tx)?.own)
        };
        read().map_err(|fault| self.fault(fault))
    }
}

/// An anchor's text, its head and its MAC, whoever made it.
fn read_anchor(text: &str) -> Option<(Anchor, Head, [u8; 32])> {
    let anchor: Anchor = serde_json::from_str(text).ok()?;
    let bytes =
        |hex: &str| -> Option<[u8; 32]> { HEXLOWER.decode(hex.as_bytes()).ok()?.try_into().ok() };
    let head = Head { epoch: anchor.epoch.try_into().ok()?, mac: bytes(&anchor.head)? };
    let mac = bytes(&anchor.mac)?;
    Some((anchor, head, mac))
}

fn anchor_mac(key: &Key, vault_id: &VaultId, head: &Head) -> [u8; 32] {
    let message =
        Encoder::new("locum/vault/1/anchor").bytes(vault_id).int(head.epoch).bytes(&head.mac);
    crypto::mac(key, &message)
}

impl AuditAnchor {
    /// What a new vault has: a row that is always there cannot be deleted unseen.
    pub(super) const NONE: Self = Self { sequence: 0, mac: [0; 32] };

    fn seal(&self, vault_key: &DataKey) -> [u8; 32] {
        let key = vault_key.derive(&Encoder::new("locum/vault/1/key/audit-anchor"));
        let message = Encoder::new("locum/vault/1/audit-anchor")
            .bytes(vault_key.vault_id())
            .int(self.sequence.cast_signed())
            .bytes(&self.mac);
        crypto::mac(&key, &message)
    }
}

/// Puts the anchor in the place of the one before.
pub(super) fn write_audit_anchor(
    db: &Connection,
    vault_key: &DataKey,
    anchor: &AuditAnchor,
) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO audit_anchor (one, sequence, mac, seal) VALUES (1, ?1, ?2, ?3) \
         ON CONFLICT (one) DO UPDATE SET \
         sequence = excluded.sequence, mac = excluded.mac, seal = excluded.seal",
    )?
    .execute((anchor.sequence.cast_signed(), anchor.mac, anchor.seal(vault_key)))?;
    Ok(())
}

/// Where the audit log was; none before it was first anchored.
pub(super) fn read_audit_anchor(
    db: &Connection,
    vault_key: &DataKey,
) -> Result<Option<AuditAnchor>, Fault> {
    let query = "SELECT sequence, mac, seal FROM audit_anchor WHERE one = 1";
    let read = |row: &SqlRow<'_>| {
        let sequence: i64 = row.get(0)?;
        let anchor = AuditAnchor { sequence: sequence.cast_unsigned(), mac: row.get(1)? };
        Ok((anchor, row.get::<_, [u8; 32]>(2)?))
    };
    match db.query_row(query, [], read).optional()? {
        Some((anchor, seal)) if crypto::same(&seal, &anchor.seal(vault_key)) => {
            Ok((anchor != AuditAnchor::NONE).then_some(anchor))
        }
        _ => Err(Fault::Corrupt(Row::AuditAnchor)),
    }
}

/// The journal's last line.
pub(super) fn head(db: &Connection) -> Result<Head, Fault> {
    let query = "SELECT epoch, mac FROM journal ORDER BY epoch DESC LIMIT 1";
    let head = db
        .prepare_cached(query)?
        .query_row([], |row| Ok(Head { epoch: row.get(0)?, mac: row.get(1)? }))
        .optional()?;
    head.ok_or(Fault::Changed)
}

/// Whether the vault was ever taken as it was, by somebody who put an older one back.
pub(super) fn was_put_back(db: &Connection) -> Result<bool, Fault> {
    let query = "SELECT EXISTS (SELECT 1 FROM journal WHERE action = ?1)";
    let accepted = Action::StateAccepted.as_str();
    Ok(db.prepare_cached(query)?.query_row([accepted], |row| row.get(0))?)
}

/// Writes the next line, and the MAC over the state that the change has left.
pub(super) fn append(
    tx: &Transaction<'_>,
    vault_key: &DataKey,
    what: (Action, &str, &str),
) -> Result<(), Fault> {
    let head = write_line(tx, vault_key, what)?;
    sign(tx, vault_key, &head)
}

/// Writes the next line. The transaction is not whole before [`sign`].
pub(super) fn write_line(
    tx: &Transaction<'_>,
    vault_key: &DataKey,
    (action, subject, by): (Action, &str, &str),
) -> Result<Head, Fault> {
    let before = match head(tx) {
        // Only the vault's first line has none before it.
        Err(Fault::Changed) => Head { epoch: 0, mac: [0; 32] },
        other => other?,
    };
    let line = Line { epoch: before.epoch + 1, at: now(), action: action.as_str(), subject, by };
    let mac = line.mac(&Purpose::Journal.derive(vault_key), vault_key.vault_id(), &before.mac);
    tx.prepare_cached(
        "INSERT INTO journal (epoch, at, action, subject, by, mac) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((line.epoch, line.at, line.action, line.subject, line.by, mac))?;
    Ok(Head { epoch: line.epoch, mac })
}

/// Writes the MAC over the state whose last line this is.
pub(super) fn sign(tx: &Transaction<'_>, vault_key: &DataKey, head: &Head) -> Result<(), Fault> {
    let state = schema::state_mac(tx, vault_key, head)?;
    tx.execute(
        "INSERT INTO state (one, mac) VALUES (1, ?1) \
         ON CONFLICT (one) DO UPDATE SET mac = excluded.mac",
        [state],
    )?;
    Ok(())
}

/// Checks every line.
pub(super) fn verify(db: &Connection, vault_key: &DataKey) -> Result<(), Fault> {
    walk(db, vault_key, 0, |_| {})
}

fn walk(
    db: &Connection,
    vault_key: &DataKey,
    since: u64,
    mut take: impl FnMut(JournalEntry),
) -> Result<(), Fault> {
    let since = i64::try_from(since).unwrap_or(i64::MAX);
    let mut before = match since {
        0 => [0; 32],
        _ => mac_at(db, since)?.unwrap_or_default(),
    };
    let mut expected = since;
    let keys = LineKeys::read(db, vault_key)?;
    let mut statement = db.prepare_cached(
        "SELECT epoch, at, action, subject, by, mac FROM journal WHERE epoch > ?1 ORDER BY epoch",
    )?;
    let mut rows = statement.query([since])?;
    while let Some(row) = rows.next()? {
        expected += 1;
        let (entry, mac) = read_line(row, &keys, &before, expected)?;
        take(entry);
        before = mac;
    }
    Ok(())
}

/// One line, if it is the one that was written there.
fn read_line(
    row: &SqlRow<'_>,
    keys: &LineKeys,
    before: &[u8; 32],
    expected: i64,
) -> Result<(JournalEntry, [u8; 32]), Fault> {
    let corrupt = || Fault::Corrupt(Row::Journal(expected.cast_unsigned()));
    let (action, subject, by): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
    let mac: [u8; 32] = row.get(5)?;
    let line =
        Line { epoch: row.get(0)?, at: row.get(1)?, action: &action, subject: &subject, by: &by };
    if line.epoch != expected
        || !crypto::same(&mac, &line.mac(keys.of(expected), &keys.vault_id, before))
    {
        return Err(corrupt());
    }
    let known = Action::ALL.iter().find(|a| a.as_str() == action);
    let (epoch, at, known) = (line.epoch.cast_unsigned(), line.at, *known.ok_or_else(corrupt)?);
    let (workspace, subject) = place_of(known, subject);
    let entry = JournalEntry { epoch, at, action: known, workspace, subject, by };
    Ok((entry, mac))
}

fn mac_at(db: &Connection, epoch: i64) -> Result<Option<[u8; 32]>, Fault> {
    Ok(db
        .prepare_cached("SELECT mac FROM journal WHERE epoch = ?1")?
        .query_row([epoch], |row| row.get(0))
        .optional()?)
}

/// What the lines' MACs are made with.
struct LineKeys {
    vault_id: VaultId,
    current: Key,
    /// Those of earlier generations, with the last epoch of each.
    kept: Vec<(i64, Key)>,
}

impl LineKeys {
    fn read(db: &Connection, vault_key: &DataKey) -> Result<Self, Fault> {
        let kept = kept::all(db, vault_key, VAULT_SCOPE, Purpose::Journal)?;
        let mut kept: Vec<_> = kept.into_iter().map(|kept| (kept.until, kept.key)).collect();
        kept.sort_unstable_by_key(|(until, _)| *until);
        let current = Purpose::Journal.derive(vault_key);
        Ok(Self { vault_id: *vault_key.vault_id(), current, kept })
    }

    /// The key of the generation in which the line was written.
    fn of(&self, epoch: i64) -> &Key {
        let kept = self.kept.iter().find(|(until, _)| epoch <= *until);
        kept.map_or(&self.current, |(_, key)| key)
    }
}

struct Line<'a> {
    epoch: i64,
    at: i64,
    action: &'a str,
    subject: &'a str,
    by: &'a str,
}

impl Line<'_> {
    fn mac(&self, key: &Key, vault_id: &VaultId, before: &[u8; 32]) -> [u8; 32] {
        let message = Encoder::new("locum/vault/1/journal")
            .bytes(vault_id)
            .bytes(before)
            .int(self.epoch)
            .int(self.at)
            .text(self.action)
            .text(self.subject)
            .text(self.by);
        crypto::mac(key, &message)
    }
}
