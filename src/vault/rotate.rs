//! New data keys: every secret and every item is sealed anew, in one transaction. What was made with the
//! old ones and cannot be made anew is checked with keys that are [kept](super::kept) for it.
//!
//! Readers go on meanwhile: a proxy has a snapshot in memory, and takes the new keys with its next look.

use rusqlite::Transaction;

use super::credentials;
use super::error::{Fault, Row, VaultError};
use super::journal::{self, Action, AuditAnchor};
use super::kept::{self, Purpose};
use super::keys::{DataKey, WrappingKey};
use super::{Keys, VAULT_SCOPE, Vault, all_data_keys, check_wrapping, items, now, unwrap_data_key};
use crate::token::run::MAX_TTL;

/// How many generations an anchor may be behind. It is written after each change: one command that was
/// killed leaves it one behind, and a few may be at work at once.
const ANCHORS: usize = 8;

/// What becomes of run tokens that were signed with the old key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRuns {
    /// They are good until they expire.
    Stand,
    /// They end now: whoever may have the old key could sign some.
    End,
}

/// What a rotation of the data keys did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// How many generations of data keys there have been.
    pub generation: u64,
    /// Versions of credentials that were sealed anew.
    pub secrets: u64,
    /// Items that were.
    pub items: u64,
}

impl Vault {
    /// Puts new data keys in the place of the old, and seals everything anew. Agents' tokens stay
    /// good, and so does the audit log's key. After `kill -9` the vault has all of the old keys or all
    /// of the new.
    ///
    /// # Errors
    /// [`Fault::WrongKey`] when the vault got another master key since it was opened here,
    /// [`Fault::Corrupt`] naming what does not open; nothing is changed then.
    pub fn rotate_data_keys(&mut self, runs: OldRuns) -> Result<Rotated, VaultError> {
        let rotated = self.put_new_keys(runs).map_err(|fault| self.fault(fault))?;
        self.wipe_log();
        Ok(rotated)
    }

    /// The same for the key of the workspace that is worked in, and for what is sealed under it: the
    /// others, and the vault's own items, stay as they are.
    ///
    /// # Errors
    /// As [`Vault::rotate_data_keys`].
    pub fn rotate_workspace_key(&mut self, runs: OldRuns) -> Result<Rotated, VaultError> {
        let rotated = self.put_new_key(runs).map_err(|fault| self.fault(fault))?;
        self.wipe_log();
        Ok(rotated)
    }

    fn put_new_key(&self, runs: OldRuns) -> Result<Rotated, Fault> {
        let (tx, old) = self.begin()?;
        check_wrapping(&tx, &self.wrapping)?;
        let turn = Turn { tx: &tx, now: now(), old: &old, runs };
        let generation = old.generation + 1;
        let scope = super::scope_of(&self.workspace);
        let (before, after) = turn.put_one(&self.wrapping, &scope, generation)?;
        let secrets = credentials::seal_all_anew(&tx, self.workspace.as_str(), &before, &after)?;
        turn.keep_of_workspace(&old.own, &scope, &before)?;
        // By this one row every process sees that keys have changed.
        tx.execute("UPDATE keys SET generation = ?1 WHERE scope = 'vault'", [generation])?;
        journal::append(&tx, &old.own, (Action::DataKeysRotated, &scope, &self.by))?;
        let new = Keys::unwrap(&tx, &self.wrapping, &self.workspace, generation)?;
        tx.commit()?;
        *self.keys.borrow_mut() = new;
        Ok(Rotated { generation: generation.cast_unsigned(), secrets, items: 0 })
    }

    fn put_new_keys(&self, runs: OldRuns) -> Result<Rotated, Fault> {
        let (tx, old) = self.begin()?;
        check_wrapping(&tx, &self.wrapping)?;
        let turn = Turn { tx: &tx, now: now(), old: &old, runs };
        let generation = old.generation + 1;
        let mut secrets = 0;
        let (mut kept, mut own) = (Vec::new(), None);
        for (scope, _) in all_data_keys(&tx)? {
            let (before, after) = turn.put_one(&self.wrapping, &scope, generation)?;
            if let Some(workspace) = scope.strip_prefix("workspace/") {
                secrets += credentials::seal_all_anew(&tx, workspace, &before, &after)?;
                kept.push((scope, before));
            } else {
                own = Some(after);
            }
        }
        let own = own.ok_or_else(|| Fault::Corrupt(Row::DataKey(VAULT_SCOPE.to_owned())))?;
        let anchor = journal::read_audit_anchor(&tx, &old.own)?;
        let items = items::seal_all_anew(&tx, &old.own, &own)?;
        for (scope, before) in &kept {
            turn.keep_of_workspace(&own, scope, before)?;
        }
        turn.keep_of_vault(&own)?;
        journal::write_audit_anchor(&tx, &own, &anchor.unwrap_or(AuditAnchor::NONE))?;
        journal::append(&tx, &own, (Action::DataKeysRotated, "vault", &self.by))?;
        let new = Keys::unwrap(&tx, &self.wrapping, &self.workspace, generation)?;
        tx.commit()?;
        *self.keys.borrow_mut() = new;
        Ok(Rotated { generation: generation.cast_unsigned(), secrets, items })
    }
}

/// One change of the data keys.
struct Turn<'t> {
    tx: &'t Transaction<'t>,
    now: i64,
    old: &'t Keys,
    runs: OldRuns,
}

impl Turn<'_> {
    /// Puts a new key in the place of one. Returns both.
    fn put_one(
        &self,
        wrapping: &WrappingKey,
        scope: &str,
        generation: i64,
    ) -> Result<(DataKey, DataKey), Fault> {
        let before = unwrap_data_key(self.tx, wrapping, scope)?;
        let sealed = wrapping.mint(scope)?;
        self.tx.execute(
            "UPDATE keys SET sealed = ?2, created = ?3, generation = ?4 WHERE scope = ?1",
            (scope, sealed, self.now, generation),
        )?;
        Ok((before, unwrap_data_key(self.tx, wrapping, scope)?))
    }

    fn keep(
        &self,
        own: &DataKey,
        (scope, purpose): (&str, Purpose),
        from: &DataKey,
        until: i64,
    ) -> Result<(), Fault> {
        let which = (scope, purpose, self.old.generation);
        kept::keep(self.tx, own, which, (&purpose.derive(from), until, self.now))
    }

    /// Keeps what tokens and revoked versions are checked with, and forgets what checks none any more.
    fn keep_of_workspace(&self, own: &DataKey, scope: &str, from: &DataKey) -> Result<(), Fault> {
        self.keep(own, (scope, Purpose::Token), from, self.now)?;
        self.keep(own, (scope, Purpose::Fingerprint), from, self.now)?;
        match self.runs {
            OldRuns::Stand => {
                self.keep(own, (scope, Purpose::RunToken), from, self.now + MAX_TTL)?;
            }
            OldRuns::End => self.forget(own, scope, Purpose::RunToken, |_| Ok(false))?,
        }
        let workspace = scope.strip_prefix("workspace/").unwrap_or(scope);
        let any = |query: &str, until: i64| {
            Ok(self.tx.prepare_cached(query)?.exists((workspace, until))?)
        };
        self.forget(own, scope, Purpose::RunToken, |until| Ok(until >= self.now))?;
        self.forget(own, scope, Purpose::Token, |until| {
            let query = "SELECT 1 FROM tokens \
                         WHERE workspace = ?1 AND mac IS NOT NULL AND created <= ?2";
            any(query, until)
        })?;
        self.forget(own, scope, Purpose::Fingerprint, |until| {
            let query = "SELECT 1 FROM versions JOIN credentials ON credential = id \
                         WHERE workspace = ?1 AND state = 'revoked' AND versions.ended <= ?2";
            any(query, until)
        })
    }

    /// Keeps what the journal's lines are checked with for as long as there are any, the keys of the
    /// anchor that is outside for some generations, and the first audit key for good.
    fn keep_of_vault(&self, own: &DataKey) -> Result<(), Fault> {
        let (scope, from) = (VAULT_SCOPE, &*self.old.own);
        let last = journal::head(self.tx)?.epoch;
        let mut known: Vec<i64> = kept::all(self.tx, own, scope, Purpose::Anchor)?
            .iter()
            .map(|kept| kept.until)
            .collect();
        known.sort_unstable();
        let oldest = known.iter().rev().nth(ANCHORS - 2).copied().unwrap_or(0);
        self.forget(own, scope, Purpose::Anchor, |until| Ok(until >= oldest))?;
        self.keep(own, (scope, Purpose::Anchor), from, last)?;
        self.keep(own, (scope, Purpose::Journal), from, last)?;
        if kept::all(self.tx, own, scope, Purpose::Audit)?.is_empty() {
            self.keep(own, (scope, Purpose::Audit), from, i64::MAX)?;
        }
        Ok(())
    }

    fn forget(
        &self,
        own: &DataKey,
        scope: &str,
        purpose: Purpose,
        needed: impl Fn(i64) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        for kept in kept::all(self.tx, own, scope, purpose)? {
            if !needed(kept.until)? {
                self.tx.execute("DELETE FROM items WHERE name = ?1", [kept.name])?;
            }
        }
        Ok(())
    }
}
